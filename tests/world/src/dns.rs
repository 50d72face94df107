//! The name server: authoritative for [`crate::names`], NXDOMAIN for the rest of the world, every question journaled.
//!
//! It answers A; for AAAA and other types an existing name has no data. It listens on one address only: a UDP socket on the wildcard address would
//! answer from an address that was not asked, and resolvers drop that.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::journal::{Journal, Question, now_ns};
use crate::names;

/// The lifetime of an answer: short, so that a test that starts the world anew is not served from a cache.
const TTL_SECS: u32 = 5;
/// The most of a question that is read.
const QUESTION_BYTES_MAX: usize = 4096;
/// How long an idle TCP connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves both transports until the process ends.
///
/// # Errors
/// Fails where the address cannot be bound.
pub async fn serve(address: SocketAddr, journal: Journal) -> io::Result<()> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(address).await?;
    tokio::spawn(serve_udp(udp, journal.clone()));
    tokio::spawn(serve_tcp(tcp, journal));
    Ok(())
}

async fn serve_udp(socket: UdpSocket, journal: Journal) {
    let mut buffer = [0u8; QUESTION_BYTES_MAX];
    loop {
        let Ok((bytes, peer)) = socket.recv_from(&mut buffer).await else { continue };
        if let Some(reply) = reply(&buffer[..bytes], peer.ip(), "udp", &journal) {
            // A client that went away is its own affair.
            let _ = socket.send_to(&reply, peer).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, journal: Journal) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let journal = journal.clone();
        tokio::spawn(async move {
            let _ = serve_stream(stream, peer.ip(), &journal).await;
        });
    }
}

async fn serve_stream(mut stream: TcpStream, peer: IpAddr, journal: &Journal) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE_TIMEOUT, stream.read_u16()).await??;
        let mut question = vec![0; usize::from(length)];
        stream.read_exact(&mut question).await?;
        let Some(reply) = reply(&question, peer, "tcp", journal) else { return Ok(()) };
        stream.write_u16(u16::try_from(reply.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&reply).await?;
    }
}

/// One question to its reply; none where it is not a question.
fn reply(question: &[u8], peer: IpAddr, transport: &str, journal: &Journal) -> Option<Vec<u8>> {
    let request = Message::from_vec(question).ok()?;
    if request.metadata.message_type != MessageType::Query {
        return None;
    }
    let reply = answer(&request);
    let query = request.queries.first();
    journal.question(Question {
        time_ns: now_ns(),
        peer,
        name: query.map_or_else(String::new, |query| plain_name(query.name())),
        record_type: query.map_or_else(String::new, |query| query.query_type().to_string()),
        transport: transport.to_owned(),
        response: format!("{:?}", reply.metadata.response_code),
    });
    reply.to_vec().ok()
}

fn answer(request: &Message) -> Message {
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&request.metadata);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = true;
    reply.add_queries(request.queries.iter().cloned());
    let Some(query) = request.queries.first().filter(|_| request.metadata.op_code == OpCode::Query) else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return reply;
    };
    let Some(address) = names::address_of(&plain_name(query.name())) else {
        reply.metadata.response_code = ResponseCode::NXDomain;
        reply.add_authority(start_of_authority(query));
        return reply;
    };
    if query.query_type() == RecordType::A {
        reply.add_answer(Record::from_rdata(query.name().clone(), TTL_SECS, RData::A(A(address))));
    } else {
        reply.add_authority(start_of_authority(query));
    }
    reply
}

/// Without it a resolver may not cache that there is nothing, and some ask again at once.
fn start_of_authority(query: &Query) -> Record {
    let name = query.name().clone();
    let soa = SOA::new(name.clone(), name.clone(), 1, 60, 60, 60, TTL_SECS);
    Record::from_rdata(name, TTL_SECS, RData::SOA(soa))
}

fn plain_name(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, record_type: RecordType) -> Message {
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
        answer(&request)
    }

    #[test]
    fn a_known_name_has_an_address() {
        let reply = ask("Echo.World.Test.", RecordType::A);
        assert_eq!(reply.answers[0].data, RData::A(A::new(93, 184, 215, 14)));
    }

    #[test]
    fn a_known_name_has_no_ipv6_address_and_that_is_no_error() {
        let reply = ask("echo.world.test.", RecordType::AAAA);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.answers.is_empty() && !reply.authorities.is_empty());
    }

    #[test]
    fn the_rest_of_the_world_does_not_exist() {
        assert_eq!(ask("example.com.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn every_question_is_journaled_with_its_outcome() {
        let journal = Journal::default();
        let mut request = Message::query();
        request.add_query(Query::query(Name::from_ascii("leak.example.").unwrap(), RecordType::TXT));
        reply(&request.to_vec().unwrap(), IpAddr::from([10, 0, 0, 1]), "udp", &journal).unwrap();
        let seen = journal.questions().entries;
        assert_eq!((seen[0].name.as_str(), seen[0].record_type.as_str()), ("leak.example", "TXT"));
        assert_eq!(seen[0].response, "NXDomain");
    }

    #[test]
    fn what_is_not_a_question_gets_no_reply() {
        let journal = Journal::default();
        for bytes in 0..12 {
            assert!(reply(&vec![0xff; bytes], IpAddr::from([10, 0, 0, 1]), "udp", &journal).is_none());
        }
    }
}

//! The authoritative name server of `*.test`: every question is kept, whoever asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::op::{Message, MessageType, Metadata, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use crate::failure::{During, Result};
use crate::namespace::NAME_SERVER;
use crate::world::{EVIL, GOOD, State};

/// Short, so that no vector is answered from what an earlier one resolved.
const TTL_SECS: u32 = 1;
/// The most of a question that is read.
const QUESTION_BYTES_MAX: usize = 4096;

/// Serves until the process ends.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(state: &State) -> Result<()> {
    let udp = UdpSocket::bind((NAME_SERVER, 53)).await.during("the name server cannot be bound")?;
    let tcp = TcpListener::bind((NAME_SERVER, 53)).await.during("the name server cannot be bound")?;
    let (for_udp, for_tcp) = (state.clone(), state.clone());
    tokio::spawn(async move {
        let mut buffer = [0; QUESTION_BYTES_MAX];
        while let Ok((length, peer)) = udp.recv_from(&mut buffer).await {
            if let Some(reply) = reply(buffer.get(..length).unwrap_or_default(), &for_udp) {
                // A client that went away is its own affair.
                let _ = udp.send_to(&reply, peer).await;
            }
        }
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            let state = for_tcp.clone();
            tokio::spawn(async move {
                let _ = over_tcp(stream, &state).await;
            });
        }
    });
    Ok(())
}

async fn over_tcp(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    loop {
        let mut question = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut question).await?;
        let Some(reply) = reply(&question, state) else { return Ok(()) };
        stream.write_u16(u16::try_from(reply.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&reply).await?;
    }
}

fn reply(question: &[u8], state: &State) -> Option<Vec<u8>> {
    let request = Message::from_vec(question).ok()?;
    if request.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata = Metadata::response_from_request(&request.metadata);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = true;
    reply.add_queries(request.queries.iter().cloned());
    let query = request.queries.first()?;
    let name = query.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    state.seen().questions.push(name.clone());
    match (address_of(&name), query.query_type()) {
        (None, _) => reply.metadata.response_code = ResponseCode::NXDomain,
        (Some(IpAddr::V4(v4)), RecordType::A) => {
            reply.add_answer(Record::from_rdata(query.name().clone(), TTL_SECS, RData::A(A(v4))));
        }
        (Some(IpAddr::V6(v6)), RecordType::AAAA) => {
            reply.add_answer(Record::from_rdata(query.name().clone(), TTL_SECS, RData::AAAA(AAAA(v6))));
        }
        // The name exists and has nothing of this type.
        _ => {}
    }
    reply.to_vec().ok()
}

/// Where a name lives. `x0a000005.rebind.test` lives at the address that its digits spell.
#[must_use]
pub fn address_of(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".rebind.test").and_then(|label| label.strip_prefix('x')) {
        return match digits.len() {
            8 => u32::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
            32 => u128::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
            _ => None,
        };
    }
    if name == "evil.test"
        || name.ends_with(".evil.test")
        || name == "evilwild.test"
        || name == "xn--pi-6kc.good.test"
    {
        return Some(EVIL);
    }
    let good = ["good.test", "wild.test", "xn--bcher-kva.test", "git.test"];
    good.iter().any(|zone| name == *zone || name.ends_with(&format!(".{zone}"))).then_some(GOOD)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state their claims by it")]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_live_at_any_address() {
        assert_eq!(address_of("xa9fea9fe.rebind.test"), Some("169.254.169.254".parse().unwrap()));
        assert_eq!(
            address_of("x00000000000000000000ffff7f000001.rebind.test"),
            Some("::ffff:127.0.0.1".parse().unwrap())
        );
        assert_eq!(address_of("api.good.test"), Some(GOOD));
        assert_eq!(address_of("c2VjcmV0.evil.test"), Some(EVIL));
        assert_eq!(address_of("nobody.test"), None);
    }
}

//! The policy DNS: names that some rule allows are answered with this proxy's own address, all others do not exist.
//! Nothing is ever asked upstream on the agent's behalf, so a query carries no byte out.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use agentsandbox_policy::{Denial, DenialReason, Host};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Entrance, refuse_connection};
use crate::limits::{AUDIT_FLOOD_INTERVAL, DNS_QUERIES_PER_SECOND_MAX, DNS_TCP_IDLE_TIMEOUT, DNS_TTL_SECS};
use crate::pipeline::Proxy;

/// A query fits into this, or it is none that we answer.
const QUERY_BYTES_MAX: usize = 1232;
const SECOND: Duration = Duration::from_secs(1);

/// Answers datagrams until the proxy ends.
pub(crate) async fn serve_udp(proxy: Arc<Proxy>, socket: UdpSocket) {
    let mut buffer = [0; QUERY_BYTES_MAX];
    let (mut window, mut asked) = (Instant::now(), 0_u32);
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = proxy.shutdown.cancelled() => return,
        };
        let Ok((length, from)) = received else { continue };
        if !proxy.knows(Entrance::Dns, from.ip()) {
            continue;
        }
        if window.elapsed() > SECOND {
            (window, asked) = (Instant::now(), 0);
        }
        asked += 1;
        if asked <= DNS_QUERIES_PER_SECOND_MAX
            && let Some(answer) = answer(&proxy, &buffer[..length])
        {
            send(&socket, &answer, from).await;
        }
    }
}

async fn send(socket: &UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(error = %error, "a DNS answer was not sent");
    }
}

/// Answers the queries of one TCP connection.
pub(crate) async fn serve_tcp(proxy: Arc<Proxy>, mut io: TcpStream, _: IpAddr) {
    while let Ok(Some(query)) = timeout(DNS_TCP_IDLE_TIMEOUT, read(&mut io)).await {
        let Some(answer) = answer(&proxy, &query) else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        if io.write_all(&framed).await.is_err() {
            return;
        }
    }
}

async fn read(io: &mut TcpStream) -> Option<Vec<u8>> {
    let length = usize::from(io.read_u16().await.ok()?);
    if length > QUERY_BYTES_MAX {
        return None;
    }
    let mut query = vec![0; length];
    io.read_exact(&mut query).await.ok()?;
    Some(query)
}

/// The answer to one query; none to what is not a query.
fn answer(proxy: &Proxy, query: &[u8]) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    // Clients of a resolver that offers no recursion look for another one.
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = match (query.metadata.op_code, query.queries.as_slice()) {
        (OpCode::Query, [question]) if question.query_class() == DNSClass::IN => {
            answer.add_query(question.clone());
            let (code, record) = resolve(proxy, question);
            answer.add_answers(record);
            code
        }
        (OpCode::Query, _) => ResponseCode::Refused,
        _ => ResponseCode::NotImp,
    };
    answer.to_vec().ok()
}

fn resolve(proxy: &Proxy, question: &hickory_proto::op::Query) -> (ResponseCode, Option<Record>) {
    let Ok(loaded) = proxy.policy.current(Instant::now()) else { return (ResponseCode::ServFail, None) };
    let name = question.name().to_ascii();
    let host = Host::parse(name.trim_end_matches('.')).ok().filter(|host| host.address().is_none());
    if !host.as_ref().is_some_and(|host| loaded.policy.answers(host)) {
        refuse_name(proxy, host.as_ref());
        return (ResponseCode::NXDomain, None);
    }
    let data = match (question.query_type(), proxy.advertise) {
        (RecordType::A, Some(IpAddr::V4(address))) => RData::A(A(address)),
        (RecordType::AAAA, Some(IpAddr::V6(address))) => RData::AAAA(AAAA(address)),
        _ => return (ResponseCode::NoError, None),
    };
    (ResponseCode::NoError, Some(Record::from_rdata(question.name().clone(), DNS_TTL_SECS, data)))
}

/// A resolver tries search domains, so one mistake makes many queries: they are folded into one line a second.
fn refuse_name(proxy: &Proxy, host: Option<&Host>) {
    let denial = match host {
        Some(host) => Denial::new(DenialReason::HostNotAllowed).with_host(host),
        None => Denial::new(DenialReason::MalformedRequest),
    };
    if proxy.refused_names.admit(Instant::now()).is_some() {
        refuse_connection(proxy, Entrance::Dns, &denial);
    }
}

/// Lets one pass in each interval, and tells how many it stands for.
#[derive(Debug, Default)]
pub struct Fold(Mutex<(Option<Instant>, u64)>);

impl Fold {
    /// The number of calls since the last that passed, this one included; nothing if this one is folded.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (last, count) = &mut *state;
        *count += 1;
        if last.is_some_and(|last| now.saturating_duration_since(last) < AUDIT_FLOOD_INTERVAL) {
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(count))
    }
}

//! The policy DNS: names that some rule allows are answered with this proxy's own address, all others do not exist.
//! Nothing is ever asked upstream on the agent's behalf, so a query carries no byte out.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use agentsandbox_policy::{DenialReason, Host};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::line::Line;
use super::{Entrance, Origin};
use crate::limits::{DNS_QUERIES_PER_SECOND_MAX, DNS_TCP_IDLE_TIMEOUT, DNS_TTL_SECS};
use crate::pipeline::Proxy;

/// A query fits into this, or it is none that we answer.
const QUERY_BYTES_MAX: usize = 1232;
const SECOND: Duration = Duration::from_secs(1);

/// Answers datagrams until the proxy ends.
pub(crate) async fn serve_udp(proxy: Arc<Proxy>, socket: UdpSocket) {
    let mut buffer = [0; QUERY_BYTES_MAX];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            () = proxy.shutdown.cancelled() => return,
        };
        let Ok((length, from)) = received else { continue };
        if !proxy.knows(Entrance::Dns, from.ip()) {
            continue;
        }
        if let Some(answer) = buffer.get(..length).and_then(|query| answer(&proxy, query)) {
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
pub(crate) async fn serve_tcp(proxy: Arc<Proxy>, mut io: Line, _origin: Origin) {
    while let Ok(Some(query)) = timeout(DNS_TCP_IDLE_TIMEOUT, read(&mut io)).await {
        let Some(answer) = answer(&proxy, &query) else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        if io.write_all(&framed).await.is_err() {
            return;
        }
    }
}

async fn read(io: &mut Line) -> Option<Vec<u8>> {
    let length = usize::from(io.read_u16().await.ok()?);
    if length > QUERY_BYTES_MAX {
        return None;
    }
    let mut query = vec![0; length];
    io.read_exact(&mut query).await.ok()?;
    Some(query)
}

/// The answer to one query; none to what is not a query, and none beyond the limit: a client's resolver asks again.
fn answer(proxy: &Proxy, query: &[u8]) -> Option<Vec<u8>> {
    if !proxy.dns_budget.spend(Instant::now()) {
        proxy.refuse_often(Entrance::Dns, None, DenialReason::LimitExceeded);
        return None;
    }
    let refuse = |reason| proxy.refuse_often(Entrance::Dns, None, reason);
    answer_by(query, |question| resolve(proxy, question), refuse)
}

/// The answer to one query, by what `resolve` says of its only question; `refuse` is told why there is no answer, or none
/// but a code.
pub fn answer_by(
    query: &[u8],
    resolve: impl FnOnce(&Query) -> (ResponseCode, Option<Record>),
    refuse: impl FnOnce(DenialReason),
) -> Option<Vec<u8>> {
    let read = Message::from_vec(query).ok();
    let Some(query) = read.filter(|query| query.metadata.message_type == MessageType::Query) else {
        refuse(DenialReason::MalformedRequest);
        return None;
    };
    let mut answer = Message::response(query.metadata.id, query.metadata.op_code);
    answer.metadata.recursion_desired = query.metadata.recursion_desired;
    // Clients of a resolver that offers no recursion look for another one.
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = match (query.metadata.op_code, query.queries.as_slice()) {
        (OpCode::Query, [question]) if question.query_class() == DNSClass::IN => {
            answer.add_query(question.clone());
            let (code, record) = resolve(question);
            answer.add_answers(record);
            code
        }
        (op_code, _) => {
            refuse(DenialReason::UnsupportedProtocol);
            if op_code == OpCode::Query { ResponseCode::Refused } else { ResponseCode::NotImp }
        }
    };
    answer.to_vec().ok()
}

/// The name that is asked for; none where it is not one that a rule could hold.
#[must_use]
pub fn asked_name(question: &Query) -> Option<Host> {
    let name = question.name().to_ascii();
    Host::parse(name.trim_end_matches('.')).ok().filter(|host| host.address().is_none())
}

fn resolve(proxy: &Proxy, question: &Query) -> (ResponseCode, Option<Record>) {
    let loaded = match proxy.policy.current(Instant::now()) {
        Ok(loaded) => loaded,
        Err(reason) => {
            proxy.refuse_often(Entrance::Dns, None, reason);
            return (ResponseCode::ServFail, None);
        }
    };
    let host = asked_name(question);
    let Some(host) = host.as_ref().filter(|host| loaded.policy.answers(host)) else {
        let reason =
            if host.is_some() { DenialReason::HostNotAllowed } else { DenialReason::MalformedRequest };
        proxy.refuse_often(Entrance::Dns, host.as_ref(), reason);
        return (ResponseCode::NXDomain, None);
    };
    if proxy.admit_often(Entrance::Dns, host).is_err() {
        return (ResponseCode::ServFail, None);
    }
    let data = match (question.query_type(), proxy.advertise) {
        (RecordType::A, Some(IpAddr::V4(address))) => RData::A(A(address)),
        (RecordType::AAAA, Some(IpAddr::V6(address))) => RData::AAAA(AAAA(address)),
        _ => return (ResponseCode::NoError, None),
    };
    (ResponseCode::NoError, Some(Record::from_rdata(question.name().clone(), DNS_TTL_SECS, data)))
}

/// How many queries are answered in one second, over UDP and TCP together.
#[derive(Debug, Default)]
pub struct Budget(Mutex<Option<(Instant, u32)>>);

impl Budget {
    /// Takes one query's share, if there is one left.
    pub fn spend(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, spent) = match *state {
            Some((since, spent)) if now.saturating_duration_since(since) < SECOND => (since, spent),
            _ => (now, 0),
        };
        *state = Some((since, spent.saturating_add(1)));
        spent < DNS_QUERIES_PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_i4_queries_beyond_the_limit_wait_for_the_next_second() {
        let (budget, start) = (Budget::default(), Instant::now());
        let spent = (0..2 * DNS_QUERIES_PER_SECOND_MAX).filter(|_| budget.spend(start)).count();
        assert_eq!(spent, DNS_QUERIES_PER_SECOND_MAX as usize);
        assert!(!budget.spend(start + SECOND / 2) && budget.spend(start + SECOND));
    }
}

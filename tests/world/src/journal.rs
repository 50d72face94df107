//! What arrived: packets, DNS questions, HTTP requests.
//!
//! One journal for the whole world. It is bounded: past the limit the oldest entry goes and is counted as dropped, so a test that
//! needs a complete record can tell that it has none. Counters are never dropped, since there are few of them. Times are nanoseconds since 1970.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The most entries of one kind that are kept.
pub const ENTRIES_MAX: usize = 200_000;
/// The most counters that are kept; later flows are counted under port 0.
pub const COUNTERS_MAX: usize = 20_000;

/// One packet that arrived from outside the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// When it was read, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it was for.
    pub destination: IpAddr,
    /// The transport.
    pub protocol: Protocol,
    /// The sender's port, or 0 where the transport has none.
    pub source_port: u16,
    /// The port it was for; for ICMP the type.
    pub destination_port: u16,
    /// The TCP flags byte (FIN 1, SYN 2, RST 4, PSH 8, ACK 16), or 0.
    pub tcp_flags: u8,
}

/// The transport of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP for IPv4.
    Icmp,
    /// ICMP for IPv6.
    Icmpv6,
    /// SCTP.
    Sctp,
    /// Any other, by its number.
    #[serde(untagged)]
    Other(u8),
}

/// How many packets one flow sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Who sent them.
    pub source: IpAddr,
    /// Whom they were for.
    pub destination: IpAddr,
    /// The transport.
    pub protocol: Protocol,
    /// The port they were for; for ICMP the type.
    pub destination_port: u16,
    /// How many.
    pub packets: u64,
}

/// One DNS question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// When it was answered, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Who asked.
    pub peer: IpAddr,
    /// The name, lower case, without the final dot.
    pub name: String,
    /// The record type, as in `A`.
    pub record_type: String,
    /// `udp` or `tcp`.
    pub transport: String,
    /// The response code, as in `NXDomain`.
    pub response: String,
}

/// One HTTP request, with the headers as they came: a test asserts that the key is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// When its head was read, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Who sent it.
    pub peer: IpAddr,
    /// The address it was sent to.
    pub local: Option<IpAddr>,
    /// `https` or `http`.
    pub scheme: String,
    /// The name in the TLS handshake.
    pub sni: Option<String>,
    /// The certificate that the client showed, in base64 as it stands in a PEM file but on one line.
    pub certificate: Option<String>,
    /// The host it asked for, without port.
    pub host: String,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// Every header in order, names lower case.
    pub headers: Vec<(String, String)>,
    /// The size of the body, where it has been read or was declared.
    pub body_bytes: Option<u64>,
}

impl Request {
    /// The first value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Entries, and how many older ones were dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries<T> {
    /// The entries, oldest first.
    pub entries: Vec<T>,
    /// How many were dropped because the journal was full.
    pub dropped: u64,
}

/// Packets, and the counters beside them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// The packets that match, oldest first.
    pub entries: Vec<Packet>,
    /// How many older packets were dropped because the journal was full, whether they match or not.
    pub dropped: u64,
    /// Since the last reset, whatever `since` says.
    pub counters: Vec<Counter>,
}

/// Which packets a test asks for; absent means any.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PacketFilter {
    /// Sent by this address.
    pub source: Option<IpAddr>,
    /// For this address.
    pub destination: Option<IpAddr>,
    /// Not before this time, in nanoseconds since 1970.
    pub since_ns: Option<u64>,
}

/// The journal. Clones share it.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    packets: Bounded<Packet>,
    counters: BTreeMap<Flow, u64>,
    questions: Bounded<Question>,
    requests: Bounded<Request>,
}

type Flow = (IpAddr, IpAddr, Protocol, u16);

struct Bounded<T> {
    entries: VecDeque<T>,
    dropped: u64,
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self { entries: VecDeque::new(), dropped: 0 }
    }
}

impl<T: Clone> Bounded<T> {
    fn push(&mut self, entry: T) {
        if self.entries.len() == ENTRIES_MAX {
            self.entries.pop_front();
            self.dropped += 1;
        }
        self.entries.push_back(entry);
    }

    fn all(&self) -> Entries<T> {
        Entries { entries: self.entries.iter().cloned().collect(), dropped: self.dropped }
    }
}

impl Journal {
    /// Records a packet and counts it.
    pub fn packet(&self, packet: Packet) {
        let mut inner = self.lock();
        let mut flow = (packet.source, packet.destination, packet.protocol, packet.destination_port);
        if inner.counters.len() >= COUNTERS_MAX && !inner.counters.contains_key(&flow) {
            flow.3 = 0;
        }
        *inner.counters.entry(flow).or_default() += 1;
        inner.packets.push(packet);
    }

    /// Records a DNS question.
    pub fn question(&self, question: Question) {
        self.lock().questions.push(question);
    }

    /// Records an HTTP request.
    pub fn request(&self, request: Request) {
        self.lock().requests.push(request);
    }

    /// The packets that match.
    #[must_use]
    pub fn packets(&self, filter: PacketFilter) -> Packets {
        let inner = self.lock();
        let entries = inner.packets.entries.iter().filter(|packet| filter.admits(packet)).cloned().collect();
        let counters =
            inner.counters.iter().filter(|(flow, _)| filter.admits_flow(flow)).map(counter).collect();
        Packets { entries, dropped: inner.packets.dropped, counters }
    }

    /// Every DNS question.
    #[must_use]
    pub fn questions(&self) -> Entries<Question> {
        self.lock().questions.all()
    }

    /// Every HTTP request.
    #[must_use]
    pub fn requests(&self) -> Entries<Request> {
        self.lock().requests.all()
    }

    /// Forgets everything.
    pub fn reset(&self) {
        *self.lock() = Inner::default();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PacketFilter {
    fn admits(&self, packet: &Packet) -> bool {
        self.admits_ends(packet.source, packet.destination)
            && self.since_ns.is_none_or(|since| packet.time_ns >= since)
    }

    fn admits_flow(&self, flow: &Flow) -> bool {
        self.admits_ends(flow.0, flow.1)
    }

    fn admits_ends(&self, source: IpAddr, destination: IpAddr) -> bool {
        self.source.is_none_or(|wanted| wanted == source)
            && self.destination.is_none_or(|wanted| wanted == destination)
    }
}

fn counter((flow, packets): (&Flow, &u64)) -> Counter {
    let (source, destination, protocol, destination_port) = *flow;
    Counter { source, destination, protocol, destination_port, packets: *packets }
}

/// Nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(time_ns: u64, source: &str) -> Packet {
        Packet {
            time_ns,
            source: source.parse().unwrap(),
            destination: "8.8.8.8".parse().unwrap(),
            protocol: Protocol::Tcp,
            source_port: 40_000,
            destination_port: 443,
            tcp_flags: 2,
        }
    }

    #[test]
    fn a_filter_selects_by_sender_and_time_and_counters_ignore_the_time() {
        let journal = Journal::default();
        for (time_ns, source) in [(1, "10.244.0.7"), (2, "10.244.0.7"), (3, "10.244.0.8")] {
            journal.packet(packet(time_ns, source));
        }
        let source = Some("10.244.0.7".parse().unwrap());
        let seen = journal.packets(PacketFilter { source, since_ns: Some(2), ..PacketFilter::default() });
        assert_eq!(seen.entries, [packet(2, "10.244.0.7")]);
        assert_eq!(seen.counters.len(), 1);
        assert_eq!(seen.counters[0].packets, 2);
    }

    #[test]
    fn a_full_journal_drops_the_oldest_and_says_so() {
        let journal = Journal::default();
        for time_ns in 0..=ENTRIES_MAX as u64 {
            journal.packet(packet(time_ns, "10.244.0.7"));
        }
        let seen = journal.packets(PacketFilter::default());
        assert_eq!(seen.dropped, 1);
        assert_eq!(seen.entries[0].time_ns, 1);
        assert_eq!(seen.counters[0].packets, ENTRIES_MAX as u64 + 1);
    }

    #[test]
    fn reset_forgets_entries_and_counters() {
        let journal = Journal::default();
        journal.packet(packet(1, "10.244.0.7"));
        journal.reset();
        let seen = journal.packets(PacketFilter::default());
        assert!(seen.entries.is_empty() && seen.counters.is_empty());
    }

    #[test]
    fn a_protocol_is_a_word_or_a_number_on_the_wire() {
        for (protocol, text) in [(Protocol::Sctp, "\"sctp\""), (Protocol::Other(47), "47")] {
            assert_eq!(serde_json::to_string(&protocol).unwrap(), text);
            assert_eq!(serde_json::from_str::<Protocol>(text).unwrap(), protocol);
        }
    }
}

//! Attempts to reach an address directly, one thread each.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};

const UDPLITE: i32 = 136;
const SCTP: i32 = 132;

/// One thing to try.
#[derive(Clone, Debug)]
pub struct Target {
    text: String,
    address: SocketAddr,
    protocol: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Tcp,
    Udp,
    Icmp,
    IcmpRaw,
    Stream(i32),
    Datagram(i32),
    Raw(i32),
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Attempt {
    target: String,
    /// Whether a packet could be handed to the kernel.
    sent: bool,
    /// Whether somebody answered.
    answered: bool,
    /// The error, where there was one.
    error: Option<String>,
}

/// What came of many connections.
#[derive(Debug, Serialize)]
pub struct Burst {
    attempts: u32,
    connected: u32,
    last_connected_millis: Option<u128>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, protocol) = text.rsplit_once('/').ok_or("a target is ip:port/protocol")?;
        let protocol = match protocol {
            "tcp" => Kind::Tcp,
            "udp" => Kind::Udp,
            "icmp" => Kind::Icmp,
            "icmp-raw" => Kind::IcmpRaw,
            "sctp" => Kind::Stream(SCTP),
            "udplite" => Kind::Datagram(UDPLITE),
            number => Kind::Raw(number.parse().map_err(|_| format!("unknown protocol {number}"))?),
        };
        let address = address.parse().map_err(|error| format!("{address}: {error}"))?;
        Ok(Self { text: text.to_owned(), address, protocol })
    }
}

/// Tries all targets at once.
pub fn all(targets: Vec<Target>, wait: Duration) -> Vec<Attempt> {
    let threads: Vec<_> =
        targets.into_iter().map(|target| thread::spawn(move || attempt(&target, wait))).collect();
    threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
}

/// Connects again and again.
pub fn burst(target: SocketAddr, length: Duration) -> Burst {
    let started = Instant::now();
    let mut burst = Burst { attempts: 0, connected: 0, last_connected_millis: None };
    while started.elapsed() < length {
        burst.attempts += 1;
        if TcpStream::connect_timeout(&target, Duration::from_millis(50)).is_ok() {
            burst.connected += 1;
            burst.last_connected_millis = Some(started.elapsed().as_millis());
        }
    }
    burst
}

fn attempt(target: &Target, wait: Duration) -> Attempt {
    let mut sent = false;
    let outcome = match target.protocol {
        Kind::Tcp => stream(target.address, Protocol::TCP, wait, &mut sent),
        Kind::Stream(number) => stream(target.address, Protocol::from(number), wait, &mut sent),
        Kind::Udp => datagram(target.address, wait, &mut sent),
        Kind::Datagram(number) => {
            packet(target.address, Type::DGRAM, Protocol::from(number), b"probe", wait, &mut sent)
        }
        Kind::Icmp => echo(target.address, Type::DGRAM, wait, &mut sent),
        Kind::IcmpRaw => echo(target.address, Type::RAW, wait, &mut sent),
        Kind::Raw(number) => {
            packet(target.address, Type::RAW, Protocol::from(number), b"probe", wait, &mut sent)
        }
    };
    Attempt {
        target: target.text.clone(),
        sent,
        answered: outcome.is_ok(),
        error: outcome.err().map(|error| error.to_string()),
    }
}

fn stream(address: SocketAddr, protocol: Protocol, wait: Duration, sent: &mut bool) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(protocol))?;
    *sent = true;
    socket.connect_timeout(&address.into(), wait)
}

/// Sends a DNS query for the root where the port is DNS's, and a few bytes elsewhere.
fn datagram(address: SocketAddr, wait: Duration, sent: &mut bool) -> io::Result<()> {
    const QUERY: &[u8] = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x01";
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(wait))?;
    socket.connect(address)?;
    socket.send(if address.port() == 53 { QUERY } else { b"probe" })?;
    *sent = true;
    socket.recv(&mut [0; 2048]).map(drop)
}

fn echo(address: SocketAddr, kind: Type, wait: Duration, sent: &mut bool) -> io::Result<()> {
    // Type, code, checksum, identifier, sequence number; the v4 checksum covers these eight bytes alone.
    let (protocol, request) = if address.is_ipv4() {
        (Protocol::ICMPV4, [8, 0, 0xf7, 0xfd, 0, 1, 0, 1])
    } else {
        (Protocol::ICMPV6, [128, 0, 0, 0, 0, 1, 0, 1])
    };
    packet(address, kind, protocol, &request, wait, sent)
}

fn packet(
    address: SocketAddr,
    kind: Type,
    protocol: Protocol,
    bytes: &[u8],
    wait: Duration,
    sent: &mut bool,
) -> io::Result<()> {
    let mut socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_broadcast(true)?;
    socket.set_read_timeout(Some(wait))?;
    socket.connect(&address.into())?;
    socket.write_all(bytes)?;
    *sent = true;
    socket.read(&mut [0; 2048]).map(drop)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn what_listens_answers_and_what_does_not_listen_refuses() {
        // An address on which nobody else listens, so that the port is nobody's in the end.
        let listener = TcpListener::bind("127.0.91.5:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target = || vec![format!("{address}/tcp").parse().unwrap()];
        assert!(all(target(), Duration::from_secs(20))[0].answered);
        drop(listener);
        assert!(!all(target(), Duration::from_secs(20))[0].answered);
    }

    #[test]
    fn a_target_names_address_port_and_protocol() {
        for good in ["10.0.0.1:443/tcp", "[fd00::1]:53/udp", "10.0.0.1:0/icmp", "10.0.0.1:0/47"] {
            assert!(good.parse::<Target>().is_ok(), "{good}");
        }
        for bad in ["10.0.0.1/tcp", "10.0.0.1:443", "host:443/tcp", "10.0.0.1:443/quic"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }
}

//! Datagrams that somebody answers: a DNS query, and a QUIC packet of a version that does not exist.
//!
//! The sockets are connected, so only the target's own answers arrive, and a reject by ICMP arrives as an error.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_proto::op::{Message, Query};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;

/// Bytes below which a server ignores a QUIC packet (RFC 9000, 14.1).
const QUIC_INITIAL_BYTES_MIN: usize = 1200;
/// A version of the form that is reserved to make servers name theirs (RFC 9000, 15).
const QUIC_VERSION_RESERVED: [u8; 4] = [0x1a, 0x2a, 0x3a, 0x4a];
/// Answers longer than this are cut; that they came is all that counts.
const ANSWER_BYTES_MAX: usize = 2048;

/// Asks for the root's name servers, which tells a resolver nothing.
pub async fn dns(target: SocketAddr) -> io::Result<()> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::root(), RecordType::NS));
    let packet = message.to_vec().map_err(io::Error::other)?;
    exchange(target, &packet).await
}

/// Sends a long-header packet of a reserved version: flags, version, two connection IDs, padding.
pub async fn quic(target: SocketAddr) -> io::Result<()> {
    let mut packet = Vec::with_capacity(QUIC_INITIAL_BYTES_MIN);
    packet.push(0b1100_0000);
    packet.extend(QUIC_VERSION_RESERVED);
    for id in [*b"\x08fencedst", *b"\x08fencesrc"] {
        packet.extend(id);
    }
    packet.resize(QUIC_INITIAL_BYTES_MIN, 0);
    exchange(target, &packet).await
}

async fn exchange(target: SocketAddr, packet: &[u8]) -> io::Result<()> {
    let socket = connected(target).await?;
    socket.send(packet).await?;
    let mut answer = [0; ANSWER_BYTES_MAX];
    socket.recv(&mut answer).await?;
    Ok(())
}

/// A datagram socket that hears only `target`.
pub async fn connected(target: SocketAddr) -> io::Result<UdpSocket> {
    let socket = if target.is_ipv4() {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?
    } else {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).await?
    };
    socket.connect(target).await?;
    Ok(socket)
}

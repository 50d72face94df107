//! ICMP echo requests, by the two kinds of socket that can send them.
//!
//! A datagram socket needs no capability (gVisor and containerd 2 open it to everyone); a raw one does, and where it is
//! refused nobody in the pod can send one.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
/// Recognises our own reply among others' on a raw socket.
const PAYLOAD: &[u8; 16] = b"agentsandbox-fen";
const HEADER_BYTES: usize = 8;

/// Sends one echo request and waits for its reply.
pub async fn echo(address: IpAddr, kind: Type) -> io::Result<()> {
    let socket = socket(address, kind)?;
    socket.connect(&SocketAddr::new(address, 0).into())?;
    // A datagram socket in all but name: tokio needs only send, receive and readiness.
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(&request(address)).await?;
    let mut packet = [0; 512];
    loop {
        let length = socket.recv(&mut packet).await?;
        if packet.get(..length).is_some_and(|packet| is_reply(address, kind, packet)) {
            return Ok(());
        }
    }
}

/// Sends one echo request to everybody at `target`, and waits until somebody replies who is none of `own`.
pub async fn echo_of_others(target: SocketAddr, kind: Type, own: &[IpAddr]) -> io::Result<()> {
    let address = target.ip();
    let socket = socket(address, kind)?;
    if let SocketAddr::V6(target) = target
        && target.ip().is_multicast()
    {
        // gVisor does not look at a group's scope. A kernel that refuses this may look at it; where it does not, sending fails.
        let _leads = socket.set_multicast_if_v6(target.scope_id());
        // Spares this pod its own reply, which would not count; a kernel that refuses is no worse.
        let _spared = socket.set_multicast_loop_v6(false);
    }
    // Not connected: replies come from addresses of those who reply, never from a group's.
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send_to(&request(address), target).await?;
    let mut packet = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut packet).await?;
        if !own.contains(&from.ip())
            && packet.get(..length).is_some_and(|packet| is_reply(address, kind, packet))
        {
            return Ok(());
        }
    }
}

fn socket(address: IpAddr, kind: Type) -> io::Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn request(address: IpAddr) -> Vec<u8> {
    let kind = if address.is_ipv4() { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 };
    let mut packet = vec![kind, 0, 0, 0, 0x0a, 0x5b, 0, 1];
    packet.extend(PAYLOAD);
    // ICMPv6's checksum covers addresses that only the kernel knows, so the kernel fills it in.
    if address.is_ipv4() {
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

fn is_reply(address: IpAddr, kind: Type, packet: &[u8]) -> bool {
    // A raw IPv4 socket sees the IP header too, whose length is in its first byte, in words.
    let header = match (address, kind) {
        (IpAddr::V4(_), Type::RAW) => packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4),
        _ => 0,
    };
    let reply = if address.is_ipv4() { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
    let Some(message) = packet.get(header..) else { return false };
    message.first() == Some(&reply)
        && message.get(HEADER_BYTES..).is_some_and(|payload| payload.starts_with(PAYLOAD))
}

/// The internet checksum (RFC 1071).
fn checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|pair| {
        let high = u32::from(pair.first().copied().unwrap_or(0)) << 8;
        high | u32::from(pair.get(1).copied().unwrap_or(0))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn a_request_with_its_checksum_sums_to_zero() {
        assert_eq!(checksum(&request(HOST)), 0);
    }

    #[test]
    fn our_own_request_seen_again_is_no_reply() {
        let mut packet = request(HOST);
        assert!(!is_reply(HOST, Type::DGRAM, &packet));
        packet[0] = ECHO_REPLY_V4;
        assert!(is_reply(HOST, Type::DGRAM, &packet));
    }

    #[test]
    fn a_raw_socket_skips_the_ip_header_and_foreign_replies() {
        let mut reply = request(HOST);
        reply[0] = ECHO_REPLY_V4;
        let mut packet = vec![0x45; 20];
        packet.extend(&reply);
        assert!(is_reply(HOST, Type::RAW, &packet));
        let last = packet.len() - 1;
        packet[last] ^= 1;
        assert!(!is_reply(HOST, Type::RAW, &packet));
        assert!(!is_reply(HOST, Type::RAW, &packet[..3]));
    }
}

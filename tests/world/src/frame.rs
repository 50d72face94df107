//! One captured packet, from its IP header on, to one journal entry. Pure; never fails, a packet it cannot read is no entry.
//!
//! IPv6 extension headers are skipped as far as they are the ordinary ones, so that a probe behind a hop-by-hop header is still seen for what it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::journal::{Packet, Protocol};

/// The longest chain of IPv6 extension headers that is followed.
const EXTENSIONS_MAX: usize = 8;

/// Reads an IPv4 or IPv6 packet; none if it is neither or is cut short before its addresses.
#[must_use]
pub fn read(packet: &[u8], time_ns: u64) -> Option<Packet> {
    match packet.first()? >> 4 {
        4 => read_v4(packet, time_ns),
        6 => read_v6(packet, time_ns),
        _ => None,
    }
}

fn read_v4(packet: &[u8], time_ns: u64) -> Option<Packet> {
    let header_bytes = usize::from(packet[0] & 0x0f) * 4;
    let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
    let destination: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let fragment = u16::from_be_bytes(packet.get(6..8)?.try_into().ok()?) & 0x1fff;
    // Only the first fragment has ports; what stands there in a later one is payload.
    let transport = if fragment == 0 { packet.get(header_bytes..).unwrap_or_default() } else { &[] };
    let ends = (IpAddr::from(Ipv4Addr::from(source)), IpAddr::from(Ipv4Addr::from(destination)));
    Some(entry(ends, packet[9], transport, time_ns))
}

fn read_v6(packet: &[u8], time_ns: u64) -> Option<Packet> {
    let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
    let destination: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
    let (next, transport) = skip_extensions(packet[6], packet.get(40..).unwrap_or_default());
    let ends = (IpAddr::from(Ipv6Addr::from(source)), IpAddr::from(Ipv6Addr::from(destination)));
    Some(entry(ends, next, transport, time_ns))
}

fn skip_extensions(mut next: u8, mut rest: &[u8]) -> (u8, &[u8]) {
    for _ in 0..EXTENSIONS_MAX {
        // Hop-by-hop, routing, destination options: next header, length in 8-byte units beyond the first.
        if !matches!(next, 0 | 43 | 60) || rest.len() < 8 {
            break;
        }
        let bytes = (usize::from(rest[1]) + 1) * 8;
        next = rest[0];
        rest = rest.get(bytes..).unwrap_or_default();
    }
    (next, rest)
}

fn entry(ends: (IpAddr, IpAddr), protocol: u8, transport: &[u8], time_ns: u64) -> Packet {
    let protocol = protocol_of(protocol);
    let port = |at: usize| transport.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (source_port, destination_port) = match protocol {
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => (port(0), port(2)),
        Protocol::Icmp | Protocol::Icmpv6 => (0, transport.first().copied().map_or(0, u16::from)),
        Protocol::Other(_) => (0, 0),
    };
    let tcp_flags = if protocol == Protocol::Tcp { transport.get(13).copied().unwrap_or(0) } else { 0 };
    Packet {
        time_ns,
        source: ends.0,
        destination: ends.1,
        protocol,
        source_port,
        destination_port,
        tcp_flags,
    }
}

fn protocol_of(number: u8) -> Protocol {
    match number {
        1 => Protocol::Icmp,
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        58 => Protocol::Icmpv6,
        132 => Protocol::Sctp,
        other => Protocol::Other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 244, 0, 7, 8, 8, 8, 8];
        packet.extend_from_slice(transport);
        packet
    }

    fn syn() -> Vec<u8> {
        let mut tcp = vec![0x9c, 0x40, 0x01, 0xbb];
        tcp.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0]);
        tcp
    }

    #[test]
    fn a_tcp_syn_is_read_with_ports_and_flags() {
        let packet = read(&v4(6, &syn()), 5).unwrap();
        assert_eq!(packet.source, IpAddr::from([10, 244, 0, 7]));
        assert_eq!((packet.source_port, packet.destination_port, packet.tcp_flags), (40_000, 443, 2));
        assert_eq!(packet.time_ns, 5);
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut fragment = v4(17, &[1, 2, 3, 4]);
        fragment[7] = 9;
        assert_eq!(read(&fragment, 0).unwrap().destination_port, 0);
    }

    #[test]
    fn an_echo_request_is_known_by_its_type() {
        let packet = read(&v4(1, &[8, 0, 0, 0]), 0).unwrap();
        assert_eq!((packet.protocol, packet.destination_port), (Protocol::Icmp, 8));
    }

    #[test]
    fn extension_headers_do_not_hide_a_udp_probe() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 16, 0, 64];
        packet.extend_from_slice(&Ipv6Addr::LOCALHOST.octets());
        packet.extend_from_slice(&Ipv6Addr::LOCALHOST.octets());
        packet.extend_from_slice(&[17, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend_from_slice(&[0, 53, 0, 53, 0, 8, 0, 0]);
        let packet = read(&packet, 0).unwrap();
        assert_eq!((packet.protocol, packet.destination_port), (Protocol::Udp, 53));
    }

    #[test]
    fn every_prefix_of_a_packet_is_read_or_refused_without_a_fault() {
        let whole = v4(6, &syn());
        for bytes in 0..whole.len() {
            let seen = read(&whole[..bytes], 0);
            assert_eq!(seen.is_some(), bytes >= 20, "{bytes}");
        }
    }
}

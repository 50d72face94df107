//! The direct routes that must be closed, and why each verdict is sound.
//!
//! A route is worth trying only if somebody answers where it is open. Policy engines refuse in three ways: they drop
//! (silence), or reject with an ICMP "administratively prohibited" (`EHOSTUNREACH`), or with an ICMP "port unreachable"
//! (kube-router, the default of iptables' `REJECT`), which a socket sees as `ECONNREFUSED`, exactly as it sees a host that
//! was reached and has nothing on that port. So "refused" proves nothing unless something always listens there. Each
//! target below is chosen for that:
//!
//! | target | protocol | who answers an open route |
//! |---|---|---|
//! | API server, Service and endpoints | TCP | the API server, without which there is no pod to ask from |
//! | cluster DNS | UDP 53 by a query, TCP 53 | the cluster's resolver |
//! | node | TCP 10250 | the kubelet that started this container |
//! | node, API endpoints, canaries | ICMP echo, by ping socket and raw | the host's kernel |
//! | metadata addresses, of both families | TCP 80, UDP 53 by a query | the cloud's metadata server (Google's is the resolver too); elsewhere nobody |
//! | canaries | TCP 443 and 53, UDP 53 by a query, UDP 443 by a QUIC packet of an unknown version | a public resolver on the open internet |
//!
//! | node, IPv4 canaries | SCTP, under a kernel of the pod's own | mostly nobody: what is proven is that the kernel has no SCTP |
//!
//! The cluster's DNS stands for other pods: policies see its pods behind the Service. IPv6 routes are tried in every pod;
//! one without an IPv6 address answers "no route" at once. SCTP is not tried on the node's own kernel, where asking for a
//! socket would load a module into the node.
//!
//! Not tried, because refusal and absence look alike there: UDP on the node, NodePorts, etcd, single pods. The policy that
//! closes the routes above names one peer, so whatever closes them closes these; the cluster tests try them all.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::args::{ExpectedKernel, FenceArgs};

const PORT_KUBELET: u16 = 10250;
const PORT_METADATA: u16 = 80;
const PORT_DNS: u16 = 53;
const PORT_HTTPS: u16 = 443;
/// Metadata addresses of IPv6, tried beside those of the command line: they cost nothing where there is no IPv6.
const METADATA_IPV6: [Ipv6Addr; 5] = [
    // AWS: instance metadata, EKS Pod Identity.
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    // Google Cloud.
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    // Oracle Cloud.
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    // Scaleway.
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];

/// How a route is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// A TCP handshake.
    Tcp,
    /// A DNS query over UDP.
    Dns,
    /// A QUIC packet of a version that does not exist, which servers answer by naming theirs (RFC 9000, 6.1).
    Quic,
    /// An ICMP echo request by a datagram socket, which needs no capability.
    Icmp,
    /// An ICMP echo request by a raw socket.
    IcmpRaw,
    /// An SCTP association.
    Sctp,
}

/// One direct route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// How it is tried.
    pub protocol: Protocol,
    /// Where it leads. ICMP has no ports: there the port is 0.
    pub target: SocketAddr,
}

/// Every direct route that the command line gives rise to, each once.
#[must_use]
pub fn all(args: &FenceArgs) -> Vec<Route> {
    let mut routes = Vec::new();
    let mut add = |protocol, address, port| {
        routes.push(Route { protocol, target: SocketAddr::new(address, port) });
    };
    add(Protocol::Tcp, args.api.ip(), args.api.port());
    for endpoint in &args.api_endpoint {
        add(Protocol::Tcp, endpoint.ip(), endpoint.port());
        add(Protocol::Icmp, endpoint.ip(), 0);
        add(Protocol::IcmpRaw, endpoint.ip(), 0);
    }
    for dns in &args.cluster_dns {
        add(Protocol::Dns, *dns, PORT_DNS);
        add(Protocol::Tcp, *dns, PORT_DNS);
    }
    add(Protocol::Tcp, args.node, PORT_KUBELET);
    add(Protocol::Icmp, args.node, 0);
    add(Protocol::IcmpRaw, args.node, 0);
    for metadata in args.metadata.iter().copied().chain(METADATA_IPV6.map(IpAddr::V6)) {
        add(Protocol::Tcp, metadata, PORT_METADATA);
        add(Protocol::Dns, metadata, PORT_DNS);
    }
    for canary in &args.canary {
        add(Protocol::Tcp, *canary, PORT_HTTPS);
        add(Protocol::Tcp, *canary, PORT_DNS);
        add(Protocol::Dns, *canary, PORT_DNS);
        add(Protocol::Quic, *canary, PORT_HTTPS);
        add(Protocol::Icmp, *canary, 0);
        add(Protocol::IcmpRaw, *canary, 0);
    }
    if args.expect_kernel != ExpectedKernel::Linux {
        add(Protocol::Sctp, args.node, PORT_KUBELET);
        for canary in args.canary.iter().filter(|canary| canary.is_ipv4()) {
            add(Protocol::Sctp, *canary, PORT_HTTPS);
        }
    }
    routes.sort_unstable();
    routes.dedup();
    routes
}

impl Protocol {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Dns | Self::Quic => "udp",
            Self::Icmp => "icmp",
            Self::IcmpRaw => "icmp-raw",
            Self::Sctp => "sctp",
        }
    }

    /// ICMP by either socket.
    #[must_use]
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::Icmp | Self::IcmpRaw)
    }
}

impl Route {
    /// The address, without a port.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.target.ip()
    }
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.protocol.name();
        if self.protocol.is_icmp() {
            write!(out, "{name} {}", self.address())
        } else {
            write!(out, "{name} {}", self.target)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, Command};

    fn fence_args(line: &str) -> FenceArgs {
        let kernel = if line.contains("--expect-kernel") { "" } else { "--expect-kernel gvisor" };
        let line = format!("{kernel} {line}");
        let required = "x fence --proxy 10.0.0.9 --api 10.96.0.1:443 --node 192.0.2.1 \
                        --token-file t --ca-file c --trust-dir d --expect-memory-bytes 1 --expect-cpu-millis 1";
        let words = required.split_whitespace().chain(line.split_whitespace());
        let Command::Fence(args) = Args::try_parse_from(words).unwrap().command else { unreachable!() };
        args
    }

    #[test]
    fn every_target_is_tried_by_every_protocol_it_answers() {
        let args = fence_args(
            "--api-endpoint 192.0.2.1:6443 --cluster-dns 10.96.0.10 --metadata 169.254.169.254 \
             --metadata 100.100.100.200 --canary 198.51.100.1 --canary 2001:db8::1",
        );
        let names: Vec<String> = all(&args).iter().map(ToString::to_string).collect();
        for expected in [
            "tcp 10.96.0.1:443",
            "tcp 192.0.2.1:6443",
            "tcp 10.96.0.10:53",
            "udp 10.96.0.10:53",
            "tcp 192.0.2.1:10250",
            "icmp 192.0.2.1",
            "icmp-raw 192.0.2.1",
            "tcp 169.254.169.254:80",
            "udp 169.254.169.254:53",
            "tcp 100.100.100.200:80",
            "tcp [fd00:ec2::254]:80",
            "tcp [fd20:ce::254]:80",
            "udp [fd00:ec2::254]:53",
            "tcp 198.51.100.1:443",
            "tcp 198.51.100.1:53",
            "udp 198.51.100.1:53",
            "udp 198.51.100.1:443",
            "icmp 198.51.100.1",
            "icmp-raw 198.51.100.1",
            "tcp [2001:db8::1]:443",
            "udp [2001:db8::1]:53",
            "icmp 2001:db8::1",
            "sctp 192.0.2.1:10250",
            "sctp 198.51.100.1:443",
        ] {
            assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
        }
    }

    #[test]
    fn a_route_named_twice_is_tried_once() {
        let args = fence_args("--api-endpoint 192.0.2.1:6443 --canary 192.0.2.1");
        let routes = all(&args);
        let pings = routes.iter().filter(|route| route.protocol == Protocol::Icmp).count();
        assert_eq!(pings, 1, "node, endpoint and canary are one host here: {routes:?}");
    }

    #[test]
    fn sctp_is_left_alone_where_asking_would_load_a_module_into_the_node() {
        let tried = |line| all(&fence_args(line)).iter().any(|route| route.protocol == Protocol::Sctp);
        assert!(!tried("--expect-kernel linux"));
        assert!(tried("--expect-kernel gvisor") && tried("--expect-kernel vm"));
    }

    #[test]
    fn the_open_internet_is_tried_over_both_families_by_default() {
        let args = fence_args("");
        assert!(args.canary.iter().any(IpAddr::is_ipv4) && args.canary.iter().any(IpAddr::is_ipv6));
    }
}

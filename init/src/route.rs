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
//! | the link of each interface that has an IPv6 address for it | ICMPv6 echo to all nodes (`ff02::1`), by ping socket and raw | every other kernel on the link: the node's and those of other pods |
//! | neighbours on such a link, where their kernel makes its address of the hardware's | TCP 10250 | the kubelet, if the neighbour is the node |
//!
//! | node, IPv4 canaries | SCTP, under a kernel of the pod's own | mostly nobody: what is proven is that the kernel has no SCTP |
//!
//! The cluster's DNS stands for other pods: policies see its pods behind the Service. IPv6 routes are tried in every pod;
//! one without an IPv6 address answers "no route" at once. SCTP is not tried on the node's own kernel, where asking for a
//! socket would load a module into the node.
//!
//! On a link an answer of this pod itself is none. Nobody knows the neighbours' addresses there, so the echo to all stands for TCP
//! and UDP too, and is never merely reported; the kubelet is tried besides, for links on which echoes are not sent or not
//! answered. A pod without an address for its link has no such route, which the report says.
//!
//! Not tried, because refusal and absence look alike there: UDP on the node, NodePorts, etcd, single pods. The policy that
//! closes the routes above names one peer, so whatever closes them closes these; the cluster tests try them all.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::args::{ExpectedKernel, FenceArgs};
use crate::link::Links;

const PORT_KUBELET: u16 = 10250;
const PORT_METADATA: u16 = 80;
const PORT_DNS: u16 = 53;
const PORT_HTTPS: u16 = 443;
/// Every kernel on a link that speaks IPv6.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
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
    /// An ICMPv6 echo request to all nodes of a link, by a datagram socket; only another's answer counts.
    Link,
    /// The same by a raw socket.
    LinkRaw,
}

/// One direct route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// How it is tried.
    pub protocol: Protocol,
    /// Where it leads. ICMP has no ports: there the port is 0. An address of a link has the interface's number as its scope.
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

/// Every route on the pod's links.
#[must_use]
pub fn on_links(links: &Links) -> Vec<Route> {
    let to = |address, port, scope| SocketAddr::V6(SocketAddrV6::new(address, port, 0, scope));
    let all = links.scopes.iter().flat_map(|scope| {
        let target = to(ALL_NODES, 0, *scope);
        [Protocol::Link, Protocol::LinkRaw].map(|protocol| Route { protocol, target })
    });
    let kubelets = links.neighbours.iter().map(|(address, scope)| {
        let target = to(*address, PORT_KUBELET, *scope);
        Route { protocol: Protocol::Tcp, target }
    });
    let mut routes: Vec<Route> = all.chain(kubelets).collect();
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
            Self::Link => "icmp-link",
            Self::LinkRaw => "icmp-link-raw",
        }
    }

    /// ICMP by either socket, but on a link, where it stands for every protocol.
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

    /// Number of the interface on whose link it leads; `None` if it leads elsewhere.
    #[must_use]
    pub const fn link(&self) -> Option<u32> {
        match self.target {
            SocketAddr::V6(target) if target.scope_id() != 0 => Some(target.scope_id()),
            SocketAddr::V6(_) | SocketAddr::V4(_) => None,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.protocol.name();
        match (self.protocol, self.link()) {
            (Protocol::Link | Protocol::LinkRaw, Some(scope)) => {
                write!(out, "{name} {}%{scope}", self.address())
            }
            (protocol, _) if protocol.is_icmp() => write!(out, "{name} {}", self.address()),
            _ => write!(out, "{name} {}", self.target),
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
    fn each_link_is_tried_by_both_sockets_and_each_neighbour_for_the_kubelet() {
        let links = Links {
            scopes: vec![2, 3],
            neighbours: vec![("fe80::1".parse().unwrap(), 2), ("fe80::1".parse().unwrap(), 2)],
        };
        let names: Vec<String> = on_links(&links).iter().map(ToString::to_string).collect();
        let expected = [
            "tcp [fe80::1%2]:10250",
            "icmp-link ff02::1%2",
            "icmp-link ff02::1%3",
            "icmp-link-raw ff02::1%2",
            "icmp-link-raw ff02::1%3",
        ];
        assert_eq!(names, expected);
        assert_eq!(on_links(&Links::default()), [], "without a link there is nothing to try");
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

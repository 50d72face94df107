//! Which resolved addresses may be dialled.
//!
//! The address judged here is the address dialled: a [`DialPermit`] carries it. Addresses that are not public are
//! forbidden unless the document re-allows their range; the document's own denials stand above that, and metadata
//! services stand above everything. An IPv4 address inside an IPv6 one is judged beside it, since a translator on the
//! way would unwrap it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::collector;
use crate::{Denial, DenialReason, Host, PassPermit, Permit, Policy, Scheme, UpstreamProxy};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(address: [u16; 8], prefix: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = address;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// IPv4 ranges that are not public (IANA special-purpose registry), with multicast and reserved space.
const FORBIDDEN_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(255, 255, 255, 255, 32),
];

/// Public IPv6 is 2000::/3; the first three ranges are all the rest (::, ::1, IPv4 in disguise, NAT64, unique local, link
/// local, site local, multicast). Then come the parts of 2000::/3 that are no host's own address: Teredo, benchmarking,
/// ORCHID, documentation and 6to4.
const FORBIDDEN_V6: [Ipv6Net; 10] = [
    v6([0, 0, 0, 0, 0, 0, 0, 0], 3),
    v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2),
    v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 1),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

/// Addresses at which a cloud hands out a machine's credentials.
const METADATA: [IpAddr; 11] = [
    // AWS, GCP, Azure, OpenStack, DigitalOcean.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    // AWS: ECS task credentials, EKS Pod Identity.
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    // Azure's wire server, a public address.
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // Alibaba Cloud.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    // Oracle Cloud.
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    // AWS over IPv6: instance metadata, EKS Pod Identity.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    // GCP over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    // Oracle and Scaleway over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)),
];

/// The right to open one connection, to one address.
///
/// Only [`Permit::dial`] makes one:
///
/// ```compile_fail,E0451
/// use agentsandbox_policy::{DialPermit, Host, Scheme};
/// fn forge(host: Host, address: std::net::SocketAddr) -> DialPermit {
///     DialPermit { scheme: Scheme::Https, host, port: 443, address, public: true, through: None }
/// }
/// ```
#[derive(Debug)]
pub struct DialPermit {
    scheme: Scheme,
    host: Host,
    port: u16,
    address: SocketAddr,
    public: bool,
    through: Option<UpstreamProxy>,
}

impl DialPermit {
    /// The address that was judged, with its port: the destination's, or the upstream proxy's.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The name that the server must prove to be.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port of the destination.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The proxy at the address, which is to be asked for the destination.
    #[must_use]
    pub const fn through(&self) -> Option<&UpstreamProxy> {
        self.through.as_ref()
    }

    /// Whether the address is public by itself, and not only allowed by the document.
    #[must_use]
    pub const fn is_public(&self) -> bool {
        self.public
    }

    /// Whether the connection must be TLS.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }
}

impl Permit {
    /// The name whose addresses may be judged for this request: its host, or the upstream proxy.
    #[must_use]
    pub fn next_hop<'a>(&'a self, policy: &'a Policy) -> &'a Host {
        policy.upstream_proxy().map_or_else(|| self.host(), |proxy| &proxy.host)
    }

    /// Judges an address that the [next hop](Self::next_hop) resolved to.
    ///
    /// # Errors
    /// A [`Denial`] for a [forbidden address](DenialReason::ForbiddenAddress).
    pub fn dial(&self, policy: &Policy, address: IpAddr) -> Result<DialPermit, Box<Denial>> {
        judge(policy, (self.scheme(), self.host(), self.port()), address).map_err(|denial| {
            Box::new(denial.with_rule(self.rule()).with_method(self.method()).with_path(self.target().path()))
        })
    }
}

impl PassPermit {
    /// The name whose addresses may be judged for this connection, as for a [request](Permit::next_hop).
    #[must_use]
    pub fn next_hop<'a>(&'a self, policy: &'a Policy) -> &'a Host {
        policy.upstream_proxy().map_or_else(|| self.host(), |proxy| &proxy.host)
    }

    /// Judges an address that the [next hop](Self::next_hop) resolved to.
    ///
    /// # Errors
    /// A [`Denial`] for a [forbidden address](DenialReason::ForbiddenAddress).
    pub fn dial(&self, policy: &Policy, address: IpAddr) -> Result<DialPermit, Box<Denial>> {
        judge(policy, (Scheme::Https, self.host(), self.port()), address)
            .map_err(|denial| Box::new(denial.with_rule(self.rule())))
    }
}

fn judge(
    policy: &Policy,
    (scheme, host, port): (Scheme, &Host, u16),
    address: IpAddr,
) -> Result<DialPermit, Box<Denial>> {
    let address = address.to_canonical();
    let through = policy.upstream_proxy();
    let (hop, hop_port) = through.map_or((host, port), |proxy| (&proxy.host, proxy.port));
    // Whatever name leads there. What an upstream proxy dials is that proxy's to judge.
    if through.is_none() && policy.collector().is_some_and(|collector| collector.is_at(address, port)) {
        return Err(Box::new(collector::barred(host, port)));
    }
    match policy.addresses().verdict(address) {
        Verdict::Public => Ok(DialPermit {
            scheme,
            host: host.clone(),
            port,
            address: SocketAddr::new(address, hop_port),
            public: is_public(address),
            through: through.cloned(),
        }),
        refused => Err(Box::new(
            Denial::new(DenialReason::ForbiddenAddress)
                .with_host(host)
                .with_port(port)
                .with_how_to_allow(refused.advice(hop, address)),
        )),
    }
}

/// The document's address ranges, beside the built-in ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Public,
    Metadata,
    Denied,
    NotPublic,
}

impl Verdict {
    fn advice(self, host: &Host, address: IpAddr) -> String {
        match self {
            Self::Metadata => {
                format!("{host} resolves to {address}, a cloud's metadata service, which is never allowed.")
            }
            Self::Denied => format!(
                "{host} resolves to {address}, inside addresses.deny of the policy (the cluster's own networks); use a destination outside the cluster."
            ),
            Self::Public | Self::NotPublic => format!(
                "{host} resolves to {address}, which is not a public address; a platform admin can add its range to privateRanges of the AgentSandboxClass (addresses.allow of a standalone policy)."
            ),
        }
    }
}

impl Addresses {
    pub(crate) const fn new(allow: Vec<IpNet>, deny: Vec<IpNet>) -> Self {
        Self { allow, deny }
    }

    fn verdict(&self, address: IpAddr) -> Verdict {
        let all = || with_embedded(address);
        let listed = |list: &[IpNet], address: IpAddr| list.iter().any(|net| net.contains(&address));
        if all().any(|address| METADATA.contains(&address)) {
            return Verdict::Metadata;
        }
        if all().any(|address| listed(&self.deny, address)) {
            return Verdict::Denied;
        }
        if all().any(|address| !is_public(address) && !listed(&self.allow, address)) {
            return Verdict::NotPublic;
        }
        Verdict::Public
    }

    /// Judges where a collector stands, by what upstreams are judged by; inside the cluster the cluster's own networks are no
    /// reason to refuse it.
    ///
    /// # Errors
    /// What to write instead.
    pub(crate) fn judge_collector(&self, address: IpAddr, is_inside: bool) -> Result<(), &'static str> {
        match self.verdict(address) {
            Verdict::Metadata => Err("is a cloud's metadata service; write where the collector is"),
            _ if is_inside && is_nobodys(address) => {
                Err("is no address of a pod or Service; write the collector's name or its Service's address")
            }
            Verdict::Denied if is_inside => Ok(()),
            Verdict::Public => Ok(()),
            Verdict::Denied => Err(
                "is inside addresses.deny (the cluster's own networks); write inside: true if the collector runs in the cluster (in an AgentSandboxClass tracing.pods)",
            ),
            Verdict::NotPublic => Err(
                "is not public; add its range to addresses.allow (in an AgentSandboxClass egress.allowedPrivateRanges)",
            ),
        }
    }
}

/// An address, and the one inside it.
pub(crate) fn with_embedded(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => embedded(v6),
    };
    [Some(address), inner.map(IpAddr::V4)].into_iter().flatten()
}

/// Whether no other machine has this address: loopback, link-local, multicast, broadcast, and what stands for no address.
fn is_nobodys(address: IpAddr) -> bool {
    with_embedded(address).any(|address| match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified() || v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast()
        }
    })
}

/// Whether a range holds a forbidden range and more, so that allowing it would allow more than one network.
pub(crate) fn is_too_wide(net: &IpNet) -> bool {
    match net {
        IpNet::V4(net) => FORBIDDEN_V4.iter().any(|forbidden| net.contains(forbidden) && net != forbidden),
        IpNet::V6(net) => net.prefix_len() < 7,
    }
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !FORBIDDEN_V4.iter().any(|net| net.contains(&v4)),
        IpAddr::V6(v6) => !FORBIDDEN_V6.iter().any(|net| net.contains(&v6)) && !is_isatap(v6),
    }
}

/// ISATAP (RFC 5214): the interface identifier is 0000:5efe or 0200:5efe and an IPv4 address, under any prefix.
const fn is_isatap(address: Ipv6Addr) -> bool {
    let [_, _, _, _, flag, magic, _, _] = address.segments();
    matches!(flag, 0 | 0x200) && magic == 0x5efe
}

/// The IPv4 address that a tunnel or translator would take out of an IPv6 address. Mapped addresses are IPv4 already.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let from = |high: u16, low: u16| Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match address.segments() {
        // IPv4-compatible, NAT64 (RFC 6052) and IPv4-translated (RFC 2765).
        [0, 0, 0, 0, 0, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low] => from(high, low),
        // 6to4.
        [0x2002, high, low, ..] => from(high, low),
        // Teredo hides the client's address by inverting it.
        [0x2001, 0, _, _, _, _, high, low] => from(!high, !low),
        [_, _, _, _, 0 | 0x200, 0x5efe, high, low] => from(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(allow: &[&str], deny: &[&str], address: &str) -> Verdict {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        let address: IpAddr = address.parse().unwrap();
        Addresses::new(nets(allow), nets(deny)).verdict(address.to_canonical())
    }

    #[test]
    fn p_c2_addresses_that_are_not_public_are_forbidden() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.1.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::8.8.8.8",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2001::1",
            "2001:db8::1",
            "2002:0a00:0001::1",
            "2002:808:808::1",
            "2600::5efe:8.8.8.8",
            "2600::200:5efe:10.0.0.1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert_eq!(verdict(&[], &[], address), Verdict::NotPublic, "{address}");
        }
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:8.8.8.8",
        ] {
            assert_eq!(verdict(&[], &[], address), Verdict::Public, "{address}");
        }
    }

    #[test]
    fn p_c2_an_allowed_range_is_re_allowed_and_no_other() {
        assert_eq!(verdict(&["10.20.0.0/16"], &[], "10.20.1.1"), Verdict::Public);
        assert_eq!(verdict(&["10.20.0.0/16"], &[], "::ffff:10.20.1.1"), Verdict::Public);
        assert_eq!(verdict(&["10.20.0.0/16"], &[], "10.21.1.1"), Verdict::NotPublic);
        assert_eq!(verdict(&["127.0.0.0/8"], &[], "127.0.0.1"), Verdict::Public);
        // The translator's range does not allow the network behind it.
        assert_eq!(verdict(&["64:ff9b::/96"], &[], "64:ff9b::8.8.8.8"), Verdict::Public);
        assert_eq!(verdict(&["64:ff9b::/96"], &[], "64:ff9b::10.0.0.1"), Verdict::NotPublic);
        assert_eq!(verdict(&["64:ff9b::/96", "10.0.0.0/8"], &[], "64:ff9b::10.0.0.1"), Verdict::Public);
    }

    #[test]
    fn p_c2_an_allowed_tunnel_does_not_allow_the_network_behind_it() {
        let tunnels = ["64:ff9b::/96", "::/96", "::ffff:0:0:0/96", "2002::/16", "2001::/32", "2600::/16"];
        for (address, behind) in [
            ("64:ff9b::808:808", Verdict::Public),
            ("64:ff9b::a00:1", Verdict::NotPublic),
            ("64:ff9b::a9fe:a9fe", Verdict::Metadata),
            ("::808:808", Verdict::Public),
            ("::a00:1", Verdict::NotPublic),
            ("::ffff:0:808:808", Verdict::Public),
            ("::ffff:0:a00:1", Verdict::NotPublic),
            ("2002:808:808::1", Verdict::Public),
            ("2002:a00:1::1", Verdict::NotPublic),
            // Teredo inverts each bit of the address.
            ("2001::f7f7:f7f7", Verdict::Public),
            ("2001::f5ff:fffe", Verdict::NotPublic),
            ("2001::5601:5601", Verdict::Metadata),
            ("2600::5efe:808:808", Verdict::Public),
            ("2600::5efe:a00:1", Verdict::NotPublic),
            ("2600::200:5efe:a9fe:a9fe", Verdict::Metadata),
        ] {
            assert_eq!(verdict(&tunnels, &[], address), behind, "{address}");
            assert_ne!(verdict(&[], &[], address), Verdict::Public, "{address}");
        }
    }

    const INSIDE: &str = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, \
        rules: [{name: in, host: in.test, ports: [8443], scheme: https}, \
        {name: pass, host: pass.test, ports: [8443], scheme: https, tls: Passthrough}], \
        addresses: {allow: [10.1.0.0/16], deny: [10.96.0.0/12]}";

    fn permit(policy: &Policy) -> Permit {
        let (host, port) = crate::parse_authority("in.test:8443", None).unwrap();
        let (method, target) = (crate::Method::parse("GET").unwrap(), crate::Target::parse("/x").unwrap());
        let scheme = Scheme::Https;
        policy.decide(crate::Request { scheme, host, port, method, target, websocket: false }).unwrap()
    }

    #[test]
    fn leave_to_dial_says_where_to_and_whether_the_address_is_public_by_itself() {
        let direct = Policy::from_yaml(&format!("{INSIDE}}}")).unwrap();
        let proxied =
            Policy::from_yaml(&format!("{INSIDE}, upstream: {{proxy: {{url: 'http://proxy.test:3128'}}}}}}"))
                .unwrap();
        for (policy, proxy) in [(&direct, None), (&proxied, Some("proxy.test"))] {
            let (permit, pass) =
                (permit(policy), policy.pass(&Host::parse("pass.test").unwrap(), 8443).unwrap());
            assert_eq!(pass.port(), 8443);
            for (address, public) in [("8.8.8.8", true), ("10.1.0.1", false)] {
                let address: IpAddr = address.parse().unwrap();
                let hop_port = if proxy.is_some() { 3128 } else { 8443 };
                for (dial, hop, host) in [
                    (permit.dial(policy, address).unwrap(), permit.next_hop(policy), "in.test"),
                    (pass.dial(policy, address).unwrap(), pass.next_hop(policy), "pass.test"),
                ] {
                    assert_eq!(
                        (dial.address(), dial.is_public()),
                        (SocketAddr::new(address, hop_port), public)
                    );
                    assert_eq!(
                        (dial.scheme(), dial.host().as_str(), dial.port()),
                        (Scheme::Https, host, 8443)
                    );
                    assert_eq!(dial.through().map(|proxy| proxy.host.as_str()), proxy);
                    assert_eq!(hop.as_str(), proxy.unwrap_or(host));
                }
            }
        }
    }

    #[test]
    fn a_forbidden_address_is_told_with_why_it_is_forbidden() {
        let policy = Policy::from_yaml(&format!("{INSIDE}}}")).unwrap();
        let pass = policy.pass(&Host::parse("pass.test").unwrap(), 8443).unwrap();
        for (address, why) in [
            ("169.254.169.254", "a cloud's metadata service, which is never allowed."),
            ("10.96.0.1", "inside addresses.deny of the policy (the cluster's own networks);"),
            ("10.2.0.1", "which is not a public address; a platform admin can add its range"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let denial = permit(&policy).dial(&policy, address).unwrap_err();
            assert!(
                denial.how_to_allow.starts_with("in.test resolves to ") && denial.how_to_allow.contains(why)
            );
            assert_eq!((denial.rule.as_deref(), denial.path.as_deref()), (Some("in"), Some("/x")));
            let denial = pass.dial(&policy, address).unwrap_err();
            assert_eq!(
                (denial.reason, denial.rule.as_deref()),
                (DenialReason::ForbiddenAddress, Some("pass"))
            );
            assert_eq!((denial.host.as_deref(), denial.port), (Some("pass.test"), Some(8443)));
            assert!(denial.how_to_allow.contains(why), "{denial}");
        }
    }

    #[test]
    fn p_c3_metadata_services_are_forbidden_whatever_is_allowed() {
        let all = ["0.0.0.0/0", "::/0"];
        for address in METADATA {
            assert_eq!(verdict(&all, &[], &address.to_string()), Verdict::Metadata, "{address}");
        }
        for address in
            ["::ffff:169.254.169.254", "64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1", "::169.254.169.254"]
        {
            assert_eq!(verdict(&all, &[], address), Verdict::Metadata, "{address}");
        }
        assert_eq!(verdict(&all, &[], "169.254.1.1"), Verdict::Public);
    }

    #[test]
    fn p_c4_cluster_ranges_are_forbidden_even_where_public_or_allowed() {
        let deny = ["10.244.0.0/16", "34.118.224.0/20", "2600:1900::/64"];
        for address in
            ["10.244.1.1", "34.118.225.1", "2600:1900::1", "::ffff:34.118.225.1", "64:ff9b::34.118.225.1"]
        {
            assert_eq!(verdict(&["10.0.0.0/8"], &deny, address), Verdict::Denied, "{address}");
        }
        assert_eq!(verdict(&["10.0.0.0/8"], &deny, "10.1.1.1"), Verdict::Public);
    }

    #[test]
    fn ranges_that_span_several_networks_are_too_wide_to_allow() {
        for (net, wide) in [
            ("0.0.0.0/0", true),
            ("8.0.0.0/5", true),
            ("172.0.0.0/8", true),
            ("::/0", true),
            ("10.0.0.0/8", false),
            ("172.16.0.0/12", false),
            ("10.20.0.0/16", false),
            ("fc00::/7", false),
            ("192.168.0.0/24", false),
        ] {
            assert_eq!(is_too_wide(&net.parse().unwrap()), wide, "{net}");
        }
    }
}

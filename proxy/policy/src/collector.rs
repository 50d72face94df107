//! Where traces go. Whoever writes the document names it, and nothing that an agent sends has a part in it: it is reached by no
//! [`Permit`](crate::Permit), and gives none.
//!
//! Its name may be anybody's to answer for, so where it leads is judged as it is for upstreams. A collector commonly stands inside the
//! cluster, whose networks no request of an agent may reach; that it does, the document has to say.

use std::net::{IpAddr, SocketAddr};

use crate::address::with_embedded;
use crate::{Denial, DenialReason, Host, Policy, Scheme, parse_authority};

/// A collector of traces, as the policy document names it. Only a document that was understood as a whole has one:
///
/// ```compile_fail,E0451
/// fn forge(host: agentsandbox_policy::Host) -> agentsandbox_policy::Collector {
///     agentsandbox_policy::Collector { scheme: agentsandbox_policy::Scheme::Http, host, port: 4318, is_inside: true }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    scheme: Scheme,
    host: Host,
    port: u16,
    is_inside: bool,
}

impl Collector {
    pub(crate) fn parse(url: &str, is_inside: bool) -> Option<Self> {
        let (scheme, authority) = url.split_once("://")?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let (host, port) = parse_authority(authority, None).ok()?;
        (!host.is_metadata_name()).then_some(Self { scheme, host, port, is_inside })
    }

    /// Whether it is reached over TLS.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its name, which it has to prove over TLS.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where to dial it, at an address that its name resolved to; none where this policy lets no collector be.
    #[must_use]
    pub fn at(&self, policy: &Policy, address: IpAddr) -> Option<SocketAddr> {
        let address = address.to_canonical();
        let judged = policy.addresses().judge_collector(address, self.is_inside);
        judged.is_ok().then(|| SocketAddr::new(address, self.port))
    }

    /// Whether this is its name and port.
    pub(crate) fn is(&self, host: &Host, port: u16) -> bool {
        self.host == *host && self.port == port
    }

    /// Whether this is the address and port that it is named by. One named by DNS has no address of its own here: the same may serve
    /// others.
    pub(crate) fn is_at(&self, address: IpAddr, port: u16) -> bool {
        let own = self.host.address().map(|own| own.to_canonical());
        self.port == port && own.is_some_and(|own| with_embedded(address).any(|address| address == own))
    }
}

/// That it is no destination of an agent's, which could write the spans of others there.
pub(crate) fn barred(host: &Host, port: u16) -> Denial {
    let how = "The proxy sends its own traces there, and no agent does; use another destination.";
    Denial::new(DenialReason::ForbiddenAddress).with_host(host).with_port(port).with_how_to_allow(how)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Method, Request, Target};

    /// A policy with this `tracing`, and a rule for each name, over HTTP to the port of its own and to another.
    fn policy(tracing: &str, hosts: &[&str]) -> Policy {
        let rule = |(index, host): (usize, &&str)| {
            format!("{{name: r{index}, host: '{host}', ports: [4318, 80], scheme: http, methods: [POST]}}")
        };
        let rules: Vec<_> = hosts.iter().enumerate().map(rule).collect();
        Policy::from_yaml(&format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: n, name: s, uid: u}}, generation: 1, rules: [{}], addresses: {{allow: [192.168.7.0/24, 127.0.0.0/8], deny: [10.96.0.0/12, 34.118.224.0/20, 169.254.0.0/16, 224.0.0.0/4, '::/8', 'fe80::/10']}}, tracing: {tracing}}}",
            rules.join(", ")
        ))
        .unwrap()
    }

    fn dialled(policy: &Policy, addresses: &[&str]) -> Vec<String> {
        let collector = policy.collector().unwrap();
        let may = |address: &&&str| collector.at(policy, address.parse().unwrap()).is_some();
        addresses.iter().filter(may).map(|address| (*address).to_owned()).collect()
    }

    #[test]
    fn p_c7_the_address_of_a_collector_is_judged_like_any_other() {
        let public = ["1.1.1.1", "2606:4700::1", "192.168.7.1", "127.0.0.1"];
        let cluster = ["10.96.0.5", "34.118.225.1", "64:ff9b::a60:5"];
        let never = ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254"];
        let private = ["192.168.8.1", "172.16.0.1", "fc00::1"];
        let all =
            [&public[..], &cluster, &never, &private, &["169.254.1.1", "224.0.0.1", "fe80::1"]].concat();
        let outside = policy("{endpoint: 'http://collector.test:4318'}", &[]);
        assert_eq!(dialled(&outside, &all), public, "the document's ranges say where upstreams may be");
        let inside = policy("{endpoint: 'http://collector.test:4318', inside: true}", &[]);
        assert_eq!(
            dialled(&inside, &all),
            [&public[..3], &cluster[..]].concat(),
            "and the cluster beside them"
        );
    }

    #[test]
    fn p_c7_a_collector_inside_the_cluster_is_never_the_proxy_itself_or_its_node() {
        let inside = policy("{endpoint: 'http://collector.test:4318', inside: true}", &[]);
        let nobodys = [
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
        ];
        assert_eq!(dialled(&inside, &nobodys), Vec::<String>::new());
        assert_eq!(dialled(&inside, &["10.96.0.5"]), ["10.96.0.5"]);
    }

    #[test]
    fn p_c7_an_address_that_a_collector_is_written_by_is_judged_with_the_document() {
        let fault = |tracing: &str| {
            let base = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: n, name: s, uid: u}, generation: 1, rules: [], addresses: {allow: [192.168.7.0/24], deny: [10.96.0.0/12]}, tracing: ";
            let error = Policy::from_yaml(&format!("{base}{tracing}}}")).err()?;
            let [fault] = error.faults() else { panic!("{error}") };
            assert_eq!(fault.field, "tracing.endpoint");
            Some(fault.message.clone())
        };
        for fine in [
            "{endpoint: 'http://192.168.7.1:4318'}",
            "{endpoint: 'http://1.1.1.1:4318'}",
            "{endpoint: 'http://10.96.0.5:4318', inside: true}",
        ] {
            assert_eq!(fault(fine), None, "{fine}");
        }
        for (wrong, instead) in [
            ("{endpoint: 'http://10.96.0.5:4318'}", "write inside: true"),
            ("{endpoint: 'http://192.168.8.1:4318'}", "add its range to addresses.allow"),
            ("{endpoint: 'http://127.0.0.1:4318'}", "add its range to addresses.allow"),
            ("{endpoint: 'http://127.0.0.1:4318', inside: true}", "is no address of a pod or Service"),
            ("{endpoint: 'http://169.254.169.254:4318', inside: true}", "metadata service"),
            ("{endpoint: 'http://[64:ff9b::a9fe:a9fe]:4318'}", "metadata service"),
        ] {
            assert!(fault(wrong).is_some_and(|message| message.contains(instead)), "{wrong}");
        }
    }

    fn request(host: &str, port: u16) -> Request {
        Request {
            scheme: Scheme::Http,
            host: Host::parse(host).unwrap(),
            port,
            method: Method::parse("POST").unwrap(),
            target: Target::parse("/v1/traces").unwrap(),
            websocket: false,
        }
    }

    #[test]
    fn p_c7_no_rule_leads_an_agent_to_the_collector() {
        let endpoint = "{endpoint: 'http://otel.collector.test:4318'}";
        for rule in ["otel.collector.test", "*.collector.test", "**.collector.test"] {
            let policy = policy(endpoint, &[rule]);
            for spelled in ["otel.collector.test", "OTEL.Collector.test", "otel.collector.test."] {
                let denial = policy.decide(request(spelled, 4318)).unwrap_err();
                assert_eq!(denial.reason, DenialReason::ForbiddenAddress, "{rule} {spelled}");
                let host = Host::parse(spelled).unwrap();
                let denial = policy.admit(Scheme::Http, &host, 4318).unwrap_err();
                assert_eq!(denial.reason, DenialReason::ForbiddenAddress, "{rule} {spelled}");
                // Its other ports are not the collector.
                assert!(policy.decide(request(spelled, 80)).is_ok());
                assert!(policy.admit(Scheme::Http, &host, 80).is_ok());
            }
        }
        let other = policy("{endpoint: 'http://elsewhere.test:4318'}", &["otel.collector.test"]);
        assert!(other.decide(request("otel.collector.test", 4318)).is_ok());
    }

    #[test]
    fn p_c7_tls_to_the_collector_is_never_handed_on_unopened() {
        let passes = |endpoint: &str| {
            let base = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: n, name: s, uid: u}, generation: 1, rules: [{name: p, host: '*.good.test', ports: [443], scheme: https, tls: Passthrough}], tracing: ";
            let policy = Policy::from_yaml(&format!("{base}{{endpoint: '{endpoint}'}}}}")).unwrap();
            policy.pass(&Host::parse("otel.good.test").unwrap(), 443).is_some()
        };
        assert!(!passes("https://otel.good.test:443"));
        assert!(passes("https://otel.good.test:4318") && passes("https://elsewhere.test:443"));
    }

    #[test]
    fn p_c7_no_name_leads_an_agent_to_the_address_of_the_collector() {
        let policy = policy("{endpoint: 'http://192.168.7.50:4318'}", &["alias.test"]);
        for (address, port, is_dialled) in [
            ("192.168.7.50", 4318, false),
            ("::ffff:192.168.7.50", 4318, false),
            ("192.168.7.50", 80, true),
            ("192.168.7.51", 4318, true),
        ] {
            let dialled =
                policy.decide(request("alias.test", port)).unwrap().dial(&policy, address.parse().unwrap());
            assert_eq!(dialled.is_ok(), is_dialled, "{address} {port}");
            if let Err(denial) = dialled {
                assert_eq!(denial.reason, DenialReason::ForbiddenAddress);
            }
        }
    }
}

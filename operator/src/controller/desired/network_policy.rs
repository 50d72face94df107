//! The walls around one sandbox. They may only narrow; nothing here talks to a cluster, and nothing here can fail.
//!
//! Facts a reader lacks: policies of a namespace add up, so nothing here can take away what another policy allows
//! (`evaluate` reports that). An empty rule list denies everything of its direction. The agent gets no cluster DNS,
//! because its proxy answers for the names it may use. Ingress is closed as well, since an open port of the agent would
//! be a way in for instructions and a way out for answers.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use agentsandbox_crds::class::ClassTracing;
use agentsandbox_crds::names::{PORT_ADMIN, SUFFIX_STAND_IN, WALL_FINALIZER};
use agentsandbox_policy::Host;
use ipnet::Ipv4Net;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
    NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Component;
use super::service::DATA_PORTS;
use crate::controller::accept::{Accepted, Identity, Reach};
use crate::platform::{METADATA_ADDRESSES, Platform, private_ranges};

const PORT_CLUSTER_DNS: u16 = 53;
/// The label that every namespace carries with its own name (Kubernetes sets it, nobody can change it).
const LABEL_NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// The agent's wall: no way in, and one way out, to its own proxy's data ports.
#[must_use]
pub fn agent(identity: &Identity) -> NetworkPolicy {
    let egress = NetworkPolicyEgressRule {
        to: Some(vec![peer(identity, Component::Proxy)]),
        ports: Some(data_ports()),
    };
    policy(identity, Component::Agent, Vec::new(), vec![egress])
}

/// The proxy's wall: in from its own agent on the data ports, and from the operator, which asks what was denied; out to cluster DNS, and to the ports that rules name, on
/// public addresses and on the private ranges that the class allows; and to the collector of traces, if the class names one.
#[must_use]
pub fn proxy(accepted: &Accepted, platform: &Platform) -> NetworkPolicy {
    let mut egress = vec![cluster_dns(platform)];
    let ports = dialled(accepted);
    // `to` or `ports` left out would mean every address or every port, so without rules there is no such element.
    if !ports.is_empty() {
        egress.push(NetworkPolicyEgressRule {
            to: Some(upstreams(&accepted.class.private_ranges, &platform.cluster_ranges)),
            ports: Some(ports.into_iter().map(|number| port("TCP", number)).collect()),
        });
    }
    let class = &accepted.class;
    egress.extend(collector(class.tracing.as_ref(), &class.private_ranges, platform));
    policy(&accepted.identity, Component::Proxy, into_proxy(&accepted.identity, platform), egress)
}

/// The proxy's wall of a sandbox of which nobody knows what it is to be: in as ever; out to cluster DNS, and where it `led`, as far as its class
/// and the cluster let any proxy of the class reach by now.
#[must_use]
pub fn proxy_as_it_led(
    identity: &Identity,
    platform: &Platform,
    reach: &Reach,
    led: &[NetworkPolicyEgressRule],
) -> NetworkPolicy {
    let upstreams = upstreams(&reach.private_ranges, &platform.cluster_ranges);
    let collector = collector(reach.tracing.as_ref(), &reach.private_ranges, platform);
    let dns = cluster_dns(platform);
    let out = led.iter().filter(|rule| **rule != dns);
    let out: Vec<_> = out.filter_map(|rule| within(rule, &upstreams, collector.as_ref())).collect();
    let egress = std::iter::once(dns).chain(out).collect();
    policy(identity, Component::Proxy, into_proxy(identity, platform), egress)
}

/// What of a rule may stay: the whole way to the collector; else its plain TCP ports, on those of its ranges that an upstream may be in, less
/// what is taken away from them by now. A port or a peer that is left out means every one, so a rule that lacks either is none.
fn within(
    rule: &NetworkPolicyEgressRule,
    upstreams: &[NetworkPolicyPeer],
    collector: Option<&NetworkPolicyEgressRule>,
) -> Option<NetworkPolicyEgressRule> {
    if collector == Some(rule) {
        return Some(rule.clone());
    }
    let range = |peer: &NetworkPolicyPeer| peer.ip_block.as_ref().map(|block| block.cidr.clone());
    let led = |peer: &&NetworkPolicyPeer| rule.to.iter().flatten().any(|one| range(one) == range(peer));
    let is_plain = |port: &&NetworkPolicyPort| {
        let is_one = matches!(port.port, Some(IntOrString::Int(number)) if u16::try_from(number).is_ok());
        is_one && port.end_port.is_none() && port.protocol.as_deref() == Some("TCP")
    };
    let to: Vec<_> = upstreams.iter().filter(led).cloned().collect();
    let ports: Vec<_> = rule.ports.iter().flatten().filter(is_plain).cloned().collect();
    let leads = !to.is_empty() && !ports.is_empty();
    leads.then_some(NetworkPolicyEgressRule { to: Some(to), ports: Some(ports) })
}

/// Who may reach the proxy.
fn into_proxy(identity: &Identity, platform: &Platform) -> Vec<NetworkPolicyIngressRule> {
    let agent = NetworkPolicyIngressRule {
        from: Some(vec![peer(identity, Component::Agent)]),
        ports: Some(data_ports()),
    };
    let operator = platform.asks_from.as_deref().map(|namespace| NetworkPolicyIngressRule {
        from: Some(vec![operator(namespace)]),
        ports: Some(vec![port("TCP", PORT_ADMIN)]),
    });
    std::iter::once(agent).chain(operator).collect()
}

/// The way to the collector of traces: to its pods where the class names them, and to its address where that is what the class has, for
/// engines that judge before address translation see a Service's. Else it is wherever an upstream may be.
fn collector(
    tracing: Option<&ClassTracing>,
    private: &[Ipv4Net],
    platform: &Platform,
) -> Option<NetworkPolicyEgressRule> {
    let tracing = tracing?;
    let (_, authority) = tracing.endpoint.split_once("://")?;
    let (host, number) = authority.rsplit_once(':')?;
    let pods = tracing.pods.as_ref().map(|pods| NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: Some(pods.labels.clone()),
            match_expressions: None,
        }),
        namespace_selector: Some(namespace(&pods.namespace)),
        ip_block: None,
    });
    // As the proxy will read it.
    let address = match Host::parse(host).ok()?.address() {
        Some(IpAddr::V4(address)) => Some(block(Ipv4Net::from(address), Vec::new())),
        Some(IpAddr::V6(_)) => return None,
        None => None,
    };
    let mut to: Vec<NetworkPolicyPeer> = pods.into_iter().chain(address).collect();
    if to.is_empty() {
        to = upstreams(private, &platform.cluster_ranges);
    }
    Some(NetworkPolicyEgressRule { to: Some(to), ports: Some(vec![port("TCP", number.parse().ok()?)]) })
}

/// The policy that stands in for a wall while that is put up anew: the same under another name.
#[must_use]
pub fn stand_in(wall: &NetworkPolicy) -> NetworkPolicy {
    let name = wall.metadata.name.as_ref().map(|name| format!("{name}{SUFFIX_STAND_IN}"));
    NetworkPolicy { metadata: ObjectMeta { name, ..wall.metadata.clone() }, ..wall.clone() }
}

/// The ports that the proxy dials: its upstream proxy's alone, where the class names one, and else those of the rules.
fn dialled(accepted: &Accepted) -> BTreeSet<u16> {
    let of_rules = accepted.rules.iter().flat_map(|rule| rule.ports.iter().copied()).collect();
    match &accepted.class.upstream_proxy {
        Some(proxy) if !accepted.rules.is_empty() => {
            let port = proxy.url.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
            port.into_iter().collect()
        }
        _ => of_rules,
    }
}

fn policy(
    identity: &Identity,
    component: Component,
    ingress: Vec<NetworkPolicyIngressRule>,
    egress: Vec<NetworkPolicyEgressRule>,
) -> NetworkPolicy {
    // A policy that is being deleted stands until its last finalizer is off, and only the operator takes off this one.
    let finalizers = Some(vec![WALL_FINALIZER.to_owned()]);
    NetworkPolicy {
        metadata: ObjectMeta { finalizers, ..component.metadata(identity, component.name(identity)) },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(component.selector(identity)),
            // Both spelled out: with types left out, a policy without egress rules would not restrict egress at all.
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    }
}

/// The pods of a component of this sandbox: both selectors in one element, for two elements would mean "or".
fn peer(identity: &Identity, component: Component) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: Some(component.selector(identity)),
        namespace_selector: Some(namespace(&identity.namespace)),
        ip_block: None,
    }
}

/// The operator's pods, by the labels that the chart's selector has.
fn operator(own: &str) -> NetworkPolicyPeer {
    let labels = [("app.kubernetes.io/name", "agentsandbox"), ("app.kubernetes.io/component", "operator")];
    NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            match_expressions: None,
        }),
        namespace_selector: Some(namespace(own)),
        ip_block: None,
    }
}

fn namespace(name: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some([(LABEL_NAMESPACE_NAME.to_owned(), name.to_owned())].into()),
        match_expressions: None,
    }
}

fn data_ports() -> Vec<NetworkPolicyPort> {
    DATA_PORTS.iter().map(|data| port(data.protocol, data.number)).collect()
}

fn port(protocol: &str, number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(i32::from(number))),
        end_port: None,
    }
}

/// Cluster DNS by its pods and by its Service's address: engines that judge before address translation see the latter.
fn cluster_dns(platform: &Platform) -> NetworkPolicyEgressRule {
    let pods = NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: Some([("k8s-app".to_owned(), "kube-dns".to_owned())].into()),
            match_expressions: None,
        }),
        namespace_selector: Some(namespace("kube-system")),
        ip_block: None,
    };
    let service = block(Ipv4Net::from(platform.cluster_dns), Vec::new());
    NetworkPolicyEgressRule {
        to: Some(vec![pods, service]),
        ports: Some(vec![port("UDP", PORT_CLUSTER_DNS), port("TCP", PORT_CLUSTER_DNS)]),
    }
}

/// Public addresses, and the allowed private ranges that are not the cluster's own. An `except` takes away from its own
/// element only, so what is forbidden everywhere is taken away from each.
fn upstreams(private: &[Ipv4Net], cluster: &[Ipv4Net]) -> Vec<NetworkPolicyPeer> {
    let metadata = METADATA_ADDRESSES.map(Ipv4Net::from);
    let forbidden: Vec<Ipv4Net> = cluster.iter().copied().chain(metadata).collect();
    let public = Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0);
    let beside_public = private_ranges().into_iter().chain(forbidden.iter().copied()).collect();
    let mut peers = vec![block(public, beside_public)];
    let inside_cluster = |range: &Ipv4Net| forbidden.iter().any(|net| net.contains(range));
    let ranges = Ipv4Net::aggregate(&private.to_vec());
    peers.extend(
        ranges.iter().filter(|range| !inside_cluster(range)).map(|range| block(*range, forbidden.clone())),
    );
    peers
}

/// A block, less those of the given ranges that lie in it; ranges within one another are merged.
fn block(range: Ipv4Net, except: Vec<Ipv4Net>) -> NetworkPolicyPeer {
    let inside: Vec<Ipv4Net> =
        except.into_iter().filter(|net| range.contains(net) && *net != range).collect();
    let except: Vec<String> = Ipv4Net::aggregate(&inside).iter().map(ToString::to_string).collect();
    NetworkPolicyPeer {
        ip_block: Some(IPBlock { cidr: range.to_string(), except: (!except.is_empty()).then_some(except) }),
        ..NetworkPolicyPeer::default()
    }
}

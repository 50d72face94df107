//! What all NetworkPolicies of a cluster together say of one packet. Pure.
//!
//! It is written from the text of the API and shares no code with the operator, whose policies it judges. A policy that it cannot read
//! to the end allows nothing. Ports with names are such a case: none of ours has one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// An end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its address.
    pub address: IpAddr,
    /// The pod that has it; none for whatever is no pod.
    pub pod: Option<InPod>,
}

/// What selectors see of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InPod {
    /// Its namespace.
    pub namespace: String,
    /// Labels of that.
    pub namespace_labels: BTreeMap<String, String>,
    /// Its own labels.
    pub labels: BTreeMap<String, String>,
}

/// What policies say of a packet, for each of its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may leave its source.
    pub egress: bool,
    /// Whether it may enter its destination.
    pub ingress: bool,
}

impl Verdict {
    /// Whether it arrives.
    #[must_use]
    pub const fn passes(self) -> bool {
        self.egress && self.ingress
    }
}

/// Judges a packet from one place to a port of another; `protocol` is written as in policies.
#[must_use]
pub fn verdict(
    policies: &[NetworkPolicy],
    source: &Place,
    destination: &Place,
    port: u16,
    protocol: &str,
) -> Verdict {
    let packet = Packet { port, protocol };
    Verdict {
        egress: allowed(policies, Way::Out, source, destination, &packet),
        ingress: allowed(policies, Way::In, destination, source, &packet),
    }
}

struct Packet<'a> {
    port: u16,
    protocol: &'a str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

/// A pod that no policy selects for this way is open; of those that select it, one that allows is enough.
fn allowed(policies: &[NetworkPolicy], way: Way, own: &Place, other: &Place, packet: &Packet<'_>) -> bool {
    let Some(pod) = &own.pod else { return true };
    let mut selected = policies.iter().filter(|policy| selects(policy, way, pod)).peekable();
    selected.peek().is_none() || selected.any(|policy| allows(policy, way, other, packet))
}

fn selects(policy: &NetworkPolicy, way: Way, pod: &InPod) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let restricts = match &spec.policy_types {
        Some(types) => types.iter().any(|name| name == if way == Way::In { "Ingress" } else { "Egress" }),
        None => way == Way::In || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
    };
    let here = policy.metadata.namespace.as_deref() == Some(pod.namespace.as_str());
    restricts && here && spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels))
}

fn allows(policy: &NetworkPolicy, way: Way, other: &Place, packet: &Packet<'_>) -> bool {
    let namespace = policy.metadata.namespace.as_deref().unwrap_or_default();
    let rules = |spec: &NetworkPolicySpec| match way {
        Way::In => spec.ingress.iter().flatten().any(|rule| {
            is_peer(rule.from.as_deref(), namespace, other) && is_port(rule.ports.as_deref(), packet)
        }),
        Way::Out => spec.egress.iter().flatten().any(|rule| {
            is_peer(rule.to.as_deref(), namespace, other) && is_port(rule.ports.as_deref(), packet)
        }),
    };
    policy.spec.as_ref().is_some_and(rules)
}

/// No list, or an empty one, is everybody.
fn is_peer(peers: Option<&[NetworkPolicyPeer]>, namespace: &str, place: &Place) -> bool {
    let Some(peers) = peers.filter(|peers| !peers.is_empty()) else { return true };
    peers.iter().any(|peer| match (&peer.ip_block, &place.pod) {
        (Some(block), _) => is_in(block, place.address),
        (None, None) => false,
        (None, Some(pod)) => {
            let of_namespace = match &peer.namespace_selector {
                Some(selector) => matches(selector, &pod.namespace_labels),
                None => pod.namespace == namespace,
            };
            of_namespace && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels))
        }
    })
}

fn is_port(ports: Option<&[NetworkPolicyPort]>, packet: &Packet<'_>) -> bool {
    let Some(ports) = ports.filter(|ports| !ports.is_empty()) else { return true };
    ports.iter().any(|port| {
        let number = i32::from(packet.port);
        let numbers = match (&port.port, port.end_port) {
            (None, _) => true,
            (Some(IntOrString::Int(first)), last) => (*first..=last.unwrap_or(*first)).contains(&number),
            (Some(IntOrString::String(_)), _) => false,
        };
        numbers && port.protocol.as_deref().unwrap_or("TCP") == packet.protocol
    })
}

fn is_in(block: &IPBlock, address: IpAddr) -> bool {
    let covers = |range: &String| {
        let (network, length) = range.split_once('/')?;
        let length: u32 = length.parse().ok()?;
        match (network.parse().ok()?, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(length)?).unwrap_or(0);
                Some(network.to_bits() & mask == address.to_bits() & mask)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(length)?).unwrap_or(0);
                Some(network.to_bits() & mask == address.to_bits() & mask)
            }
            _ => Some(false),
        }
    };
    // An exception that cannot be read counts as one.
    covers(&block.cidr) == Some(true)
        && block.except.iter().flatten().all(|range| covers(range) == Some(false))
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed =
                value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: Value) -> NetworkPolicy {
        let object = json!({"metadata": {"name": "p", "namespace": "team"}, "spec": spec});
        serde_json::from_value(object).unwrap()
    }

    fn pod(namespace: &str, app: &str, address: &str) -> Place {
        let labels = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        Place {
            address: address.parse().unwrap(),
            pod: Some(InPod {
                namespace: namespace.to_owned(),
                namespace_labels: labels("name", namespace),
                labels: labels("app", app),
            }),
        }
    }

    fn outside(address: &str) -> Place {
        Place { address: address.parse().unwrap(), pod: None }
    }

    fn leaves(policies: &[NetworkPolicy], destination: &Place, port: u16, protocol: &str) -> bool {
        verdict(policies, &pod("team", "a", "10.0.0.1"), destination, port, protocol).egress
    }

    #[test]
    fn a_pod_that_no_policy_selects_is_open_and_one_that_an_empty_policy_selects_is_closed() {
        let closed = [policy(json!({"podSelector": {}, "policyTypes": ["Egress"]}))];
        assert!(leaves(&[], &outside("8.8.8.8"), 443, "TCP"));
        assert!(!leaves(&closed, &outside("8.8.8.8"), 443, "TCP"));
        let other = verdict(&closed, &pod("else", "a", "10.0.0.2"), &pod("team", "a", "10.0.0.1"), 1, "TCP");
        assert!(other.passes(), "another namespace, and the other way");
    }

    #[test]
    fn without_types_a_policy_restricts_ingress_and_where_it_has_egress_rules_egress() {
        let ingress = [policy(json!({"podSelector": {}}))];
        let both = [policy(json!({"podSelector": {}, "egress": [{"ports": [{"port": 1}]}]}))];
        let (a, b) = (pod("team", "a", "10.0.0.1"), pod("team", "b", "10.0.0.2"));
        assert_eq!(verdict(&ingress, &a, &b, 2, "TCP"), Verdict { egress: true, ingress: false });
        assert_eq!(verdict(&both, &a, &b, 2, "TCP"), Verdict { egress: false, ingress: false });
    }

    #[test]
    fn an_exception_of_one_policy_denies_nothing_that_another_allows() {
        let block = |except: &[&str]| {
            policy(json!({"podSelector": {}, "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": except}}]}]}))
        };
        let (narrow, wide) = (block(&["10.1.0.0/16"]), block(&[]));
        for (address, alone) in
            [("10.0.255.255", true), ("10.1.0.0", false), ("10.1.255.255", false), ("11.0.0.0", false)]
        {
            assert_eq!(
                leaves(std::slice::from_ref(&narrow), &outside(address), 1, "TCP"),
                alone,
                "{address}"
            );
        }
        assert!(leaves(&[narrow, wide], &outside("10.1.0.0"), 1, "TCP"));
        assert!(!leaves(&[block(&["10.1.0.0/nonsense"])], &outside("10.0.0.1"), 1, "TCP"));
    }

    #[test]
    fn two_selectors_in_one_peer_mean_both_and_without_one_of_namespaces_it_is_the_policys_own() {
        let to = |peers: Value| {
            [policy(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers}]}))]
        };
        let b = json!({"matchLabels": {"app": "b"}});
        let there = json!({"matchExpressions": [{"key": "name", "operator": "In", "values": ["there"]}]});
        let both = to(json!([{"podSelector": b, "namespaceSelector": there}]));
        let own = to(json!([{"podSelector": b}]));
        for (place, by_both, by_own) in [
            (pod("there", "b", "10.0.0.2"), true, false),
            (pod("there", "a", "10.0.0.2"), false, false),
            (pod("team", "b", "10.0.0.2"), false, true),
            (outside("10.0.0.2"), false, false),
        ] {
            assert_eq!(leaves(&both, &place, 1, "TCP"), by_both, "{place:?}");
            assert_eq!(leaves(&own, &place, 1, "TCP"), by_own, "{place:?}");
        }
    }

    #[test]
    fn a_port_is_a_number_of_its_protocol_or_a_range_and_a_name_is_none() {
        let ports = |ports: Value| {
            [policy(json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"ports": ports}]}))]
        };
        let range = ports(json!([{"port": 10, "endPort": 12}, {"protocol": "UDP", "port": 53}]));
        for (port, protocol, open) in [
            (9, "TCP", false),
            (10, "TCP", true),
            (12, "TCP", true),
            (13, "TCP", false),
            (10, "UDP", false),
            (53, "UDP", true),
            (53, "TCP", false),
        ] {
            assert_eq!(leaves(&range, &outside("8.8.8.8"), port, protocol), open, "{port} {protocol}");
        }
        assert!(!leaves(&ports(json!([{"port": "http"}])), &outside("8.8.8.8"), 80, "TCP"));
    }
}

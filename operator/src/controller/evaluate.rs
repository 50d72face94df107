//! Do other policies widen a sandbox's walls? Pure.
//!
//! Policies of a namespace add up: what one allows, no other can take away. So every policy that is not ours, selects
//! one of our pods and allows anything widens it, however harmless it looks; whoever wrote it has to narrow its
//! selector. A policy that selects our pods and allows nothing is welcome.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use super::accept::Identity;
use super::desired::Component;
use super::plan::is_owned;

/// A policy that allows what the sandbox's own walls deny.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Widening {
    /// Its name.
    pub policy: String,
    /// Whose walls it widens.
    pub component: Component,
    /// Which way.
    pub direction: Direction,
}

/// Directions of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the pod.
    Ingress,
    /// Out of the pod.
    Egress,
}

/// The first widening policy of the namespace, by name; egress of the agent counts before all else.
#[must_use]
pub fn widening<'a>(
    identity: &Identity,
    policies: impl Iterator<Item = &'a NetworkPolicy> + Clone,
) -> Option<Widening> {
    for (component, direction) in [
        (Component::Agent, Direction::Egress),
        (Component::Agent, Direction::Ingress),
        (Component::Proxy, Direction::Egress),
        (Component::Proxy, Direction::Ingress),
    ] {
        let labels = component.labels(identity);
        let mut widening: Vec<String> = policies
            .clone()
            .filter(|policy| !is_owned(&policy.metadata, identity))
            .filter(|policy| {
                policy
                    .spec
                    .as_ref()
                    .is_some_and(|spec| allows(spec, direction) && selects_spec(spec, &labels))
            })
            .map(ResourceExt::name_any)
            .collect();
        widening.sort_unstable();
        if let Some(policy) = widening.into_iter().next() {
            return Some(Widening { policy, component, direction });
        }
    }
    None
}

fn allows(spec: &NetworkPolicySpec, direction: Direction) -> bool {
    let (type_, has_rules) = match direction {
        Direction::Ingress => ("Ingress", spec.ingress.as_ref().is_some_and(|rules| !rules.is_empty())),
        Direction::Egress => ("Egress", spec.egress.as_ref().is_some_and(|rules| !rules.is_empty())),
    };
    // Absent types mean Ingress always, and Egress if there is an egress rule; with rules present both come to "yes".
    has_rules && spec.policy_types.as_ref().is_none_or(|types| types.iter().any(|t| t == type_))
}

fn selects_spec(spec: &NetworkPolicySpec, labels: &BTreeMap<String, String>) -> bool {
    // An absent selector is an empty one: it selects every pod of the namespace.
    spec.pod_selector.as_ref().is_none_or(|selector| selects(selector, labels))
}

/// Whether a selector selects a pod with these labels. An operator that is not known selects: unknown is reported.
#[must_use]
pub fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressions = selector.match_expressions.iter().flatten().all(|expression| {
        let value = labels.get(&expression.key);
        let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|v| v == value));
        match expression.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => true,
        }
    });
    equal && expressions
}

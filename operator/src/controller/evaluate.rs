//! Do other policies widen a sandbox's walls? Pure.
//!
//! Policies of a namespace add up: what one allows, no other can take away. So every policy that is not one of the two
//! walls, selects one of our pods and allows anything widens it, however harmless it looks; whoever wrote it has to narrow
//! its selector. A policy that selects our pods and allows nothing is welcome.
//!
//! Whether a policy is a wall is judged by name, owner and content together: anybody may write an owner reference, and a
//! webhook may change what we wrote. A pod is selected by the labels that it has, which can be more than it was given, as
//! well as by those that it will be given.

use std::collections::BTreeMap;

use agentsandbox_crds::names::LABEL_SANDBOX_UID;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use super::accept::Identity;
use super::desired::{Component, network_policy};
use super::observe::Observed;
use super::plan::{bounds_alike, is_owned};

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

/// Evidence that no policy of the namespace widens the walls; only [`unwidened`] makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwidened {
    _only_the_evaluation_makes_it: (),
}

/// Looks for policies that widen the walls. `wanted` are the two walls as described, `standing` as the API server
/// answered when they were applied.
///
/// # Errors
/// The first widening policy of the namespace, by name; egress of the agent counts before all else.
pub fn unwidened(
    identity: &Identity,
    wanted: &[NetworkPolicy],
    standing: &[NetworkPolicy],
    observed: &Observed,
) -> Result<Unwidened, Widening> {
    let is_standing =
        |policy: &NetworkPolicy| standing.iter().any(|wall| wall.metadata.name == policy.metadata.name);
    // A watch is a moment late: of the walls themselves, what was answered is newer.
    let others = observed.policies.iter().map(AsRef::as_ref).filter(|policy| !is_standing(policy));
    let foreign: Vec<&NetworkPolicy> =
        others.chain(standing).filter(|policy| !is_wall(policy, wanted, identity)).collect();
    for (component, direction) in [
        (Component::Agent, Direction::Egress),
        (Component::Agent, Direction::Ingress),
        (Component::Proxy, Direction::Egress),
        (Component::Proxy, Direction::Ingress),
    ] {
        let labels = labels(component, identity, observed);
        let widens = |policy: &&&NetworkPolicy| {
            let selects = |spec: &NetworkPolicySpec| labels.iter().any(|labels| selects_spec(spec, labels));
            policy.spec.as_ref().is_some_and(|spec| allows(spec, direction) && selects(spec))
        };
        if let Some(policy) = foreign.iter().filter(widens).map(|policy| policy.name_any()).min() {
            return Err(Widening { policy, component, direction });
        }
    }
    Ok(Unwidened { _only_the_evaluation_makes_it: () })
}

/// Whether a policy is a wall or its stand-in. A finalizer opens nothing, and is off before its policy goes.
fn is_wall(policy: &NetworkPolicy, wanted: &[NetworkPolicy], identity: &Identity) -> bool {
    let is_named = |wall: &NetworkPolicy| wall.metadata.name == policy.metadata.name;
    is_owned(&policy.metadata, identity)
        && wanted.iter().any(|wall| {
            (is_named(wall) || is_named(&network_policy::stand_in(wall))) && bounds_alike(wall, policy)
        })
}

/// The labels that a component's pod is given, and those that the live one has.
fn labels(component: Component, identity: &Identity, observed: &Observed) -> Vec<BTreeMap<String, String>> {
    let live: Option<&Pod> = match component {
        Component::Agent => observed.agent_pod(identity),
        Component::Proxy => observed.proxy_pod(identity),
    };
    let mut all = vec![component.labels(identity)];
    all.extend(live.map(|pod| pod.labels().clone()));
    all
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

/// UID of the only sandbox whose pods a policy can select: its selector asks for the label, as a wall's does, whatever it
/// asks for besides. None if it may select others.
#[must_use]
pub fn selects_only(policy: &NetworkPolicy) -> Option<&str> {
    let selector = policy.spec.as_ref()?.pod_selector.as_ref()?;
    selector.match_labels.as_ref()?.get(LABEL_SANDBOX_UID).map(String::as_str)
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

#[cfg(test)]
mod tests;

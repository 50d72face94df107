//! Every child of an accepted sandbox, complete. Cannot fail, names no client.
//!
//! There are two parts, and the types keep their order. [`boundary`] needs an [`Accepted`] only. [`proxy_pod::pod`] and
//! [`agent_pod::pod`] need the [`Sealed`](super::apply::Sealed) that applying the boundary returned: the walls stand,
//! and the proxy's Service has an address, which the pods are told. So one pass of reconcile goes all the way to the two
//! pods, without waiting for a watch to bring the address back, and a workload cannot even be described before its walls.
//! The way from agent to proxy cannot be described before the proxy was seen closed to others ([`service::open`]).

use std::collections::BTreeMap;

use agentsandbox_crds::names::{
    COMPONENT_AGENT, COMPONENT_PROXY, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_SANDBOX, LABEL_SANDBOX_UID,
    MANAGED_BY, SUFFIX_AGENT, SUFFIX_POLICY, SUFFIX_PROXY, SUFFIX_STAND_IN, SUFFIX_WORKSPACE,
};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyEgressRule};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
#[cfg(test)]
use serde_json::Value;

use super::accept::{Accepted, Identity, Reach};
use crate::platform::Platform;

pub mod agent_pod;
pub mod claim;
pub mod confinement;
pub mod environment;
pub mod keys;
pub mod network_policy;
pub mod pods;
pub mod policy_document;
pub mod proxy_pod;
pub mod review;
pub mod service;
pub mod service_account;
pub mod workspace;

/// Which half of a sandbox a child belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The agent's.
    Agent,
    /// The proxy's.
    Proxy,
}

/// Kinds of children that are applied, in apply order. Keys are not among them: they are only ever created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChildKind {
    /// An identity without a token or a binding.
    ServiceAccount,
    /// A wall.
    NetworkPolicy,
    /// The policy document.
    ConfigMap,
    /// The volume of a persistent workspace.
    PersistentVolumeClaim,
    /// The proxy's address.
    Service,
    /// The proxy or the agent.
    Pod,
}

/// One child, as it is wanted or as it was observed.
#[derive(Clone, Debug, PartialEq)]
pub enum Child {
    /// An identity.
    ServiceAccount(ServiceAccount),
    /// A wall.
    NetworkPolicy(NetworkPolicy),
    /// The policy document.
    ConfigMap(ConfigMap),
    /// The volume of a persistent workspace.
    PersistentVolumeClaim(Box<PersistentVolumeClaim>),
    /// The proxy's address.
    Service(Box<Service>),
    /// The proxy or the agent.
    Pod(Box<Pod>),
}

/// The walls and what stands beside them: everything but the pods.
#[derive(Clone, Debug)]
pub struct Boundary {
    /// ServiceAccounts and NetworkPolicies: without all of them there is no `Sealed`.
    pub walls: Vec<Child>,
    /// The policy document, the proxy's Service, shut, and the claim, if there is to be one.
    pub supplies: Vec<Child>,
    /// Name of the Secret with the sandbox's keys.
    pub keys: String,
}

impl Boundary {
    /// The two NetworkPolicies.
    #[must_use]
    pub fn policies(&self) -> Vec<NetworkPolicy> {
        let policies = self.walls.iter().filter_map(|wall| match wall {
            Child::NetworkPolicy(policy) => Some(policy.clone()),
            _ => None,
        });
        policies.collect()
    }
}

/// Describes everything but the pods.
#[must_use]
pub fn boundary(accepted: &Accepted, platform: &Platform) -> Boundary {
    let identity = &accepted.identity;
    Boundary {
        walls: walls(identity, network_policy::proxy(accepted, platform)),
        supplies: [
            Child::ConfigMap(policy_document::config_map(accepted, platform)),
            Child::Service(Box::new(service::shut(identity))),
        ]
        .into_iter()
        .chain(claim::claim(accepted).map(|claim| Child::PersistentVolumeClaim(Box::new(claim))))
        .collect(),
        keys: keys::name(identity),
    }
}

/// What is known to bound a sandbox of which nobody knows what it is to be, whose proxy's wall `led` there: the walls, and the way between
/// them, shut.
#[must_use]
pub fn bounds(
    identity: &Identity,
    platform: &Platform,
    reach: &Reach,
    led: &[NetworkPolicyEgressRule],
) -> Boundary {
    Boundary {
        walls: walls(identity, network_policy::proxy_as_it_led(identity, platform, reach, led)),
        supplies: vec![Child::Service(Box::new(service::shut(identity)))],
        keys: keys::name(identity),
    }
}

fn walls(identity: &Identity, proxy: NetworkPolicy) -> Vec<Child> {
    vec![
        Child::ServiceAccount(service_account::service_account(identity, Component::Agent)),
        Child::ServiceAccount(service_account::service_account(identity, Component::Proxy)),
        Child::NetworkPolicy(network_policy::agent(identity)),
        Child::NetworkPolicy(proxy),
    ]
}

/// Names of the children a sandbox can have, by kind, in apply order. Teardown needs it without an [`Accepted`].
#[must_use]
pub fn names(sandbox: &str) -> Vec<(ChildKind, String)> {
    let agent = format!("{sandbox}{SUFFIX_AGENT}");
    let proxy = format!("{sandbox}{SUFFIX_PROXY}");
    vec![
        (ChildKind::ServiceAccount, agent.clone()),
        (ChildKind::ServiceAccount, proxy.clone()),
        (ChildKind::NetworkPolicy, agent.clone()),
        (ChildKind::NetworkPolicy, proxy.clone()),
        (ChildKind::NetworkPolicy, format!("{agent}{SUFFIX_STAND_IN}")),
        (ChildKind::NetworkPolicy, format!("{proxy}{SUFFIX_STAND_IN}")),
        (ChildKind::ConfigMap, format!("{sandbox}{SUFFIX_POLICY}")),
        (ChildKind::PersistentVolumeClaim, format!("{sandbox}{SUFFIX_WORKSPACE}")),
        (ChildKind::Service, proxy.clone()),
        (ChildKind::Pod, proxy),
        (ChildKind::Pod, agent),
    ]
}

impl Component {
    /// Value of the component label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Agent => COMPONENT_AGENT,
            Self::Proxy => COMPONENT_PROXY,
        }
    }

    /// Name of this component's children.
    #[must_use]
    pub fn name(self, identity: &Identity) -> String {
        match self {
            Self::Agent => format!("{}{SUFFIX_AGENT}", identity.name),
            Self::Proxy => format!("{}{SUFFIX_PROXY}", identity.name),
        }
    }

    /// Labels of this component's children.
    #[must_use]
    pub fn labels(self, identity: &Identity) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
            (LABEL_SANDBOX.to_owned(), identity.name.clone()),
            (LABEL_SANDBOX_UID.to_owned(), identity.uid.clone()),
            (LABEL_COMPONENT.to_owned(), self.label().to_owned()),
        ])
    }

    /// Labels that select this component's pod, and no pod of a later sandbox of the same name.
    #[must_use]
    pub fn match_labels(self, identity: &Identity) -> BTreeMap<String, String> {
        BTreeMap::from([
            (LABEL_SANDBOX_UID.to_owned(), identity.uid.clone()),
            (LABEL_COMPONENT.to_owned(), self.label().to_owned()),
        ])
    }

    /// [`Self::match_labels`] as a selector.
    #[must_use]
    pub fn selector(self, identity: &Identity) -> LabelSelector {
        LabelSelector { match_labels: Some(self.match_labels(identity)), match_expressions: None }
    }

    /// Metadata of this component's child of the given name.
    #[must_use]
    pub fn metadata(self, identity: &Identity, name: String) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(identity.namespace.clone()),
            labels: Some(self.labels(identity)),
            owner_references: Some(vec![identity.owner.clone()]),
            ..ObjectMeta::default()
        }
    }
}

impl ChildKind {
    /// The kind as it stands in messages and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ConfigMap => "ConfigMap",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Service => "Service",
            Self::Pod => "Pod",
        }
    }
}

impl Child {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> ChildKind {
        match self {
            Self::ServiceAccount(_) => ChildKind::ServiceAccount,
            Self::NetworkPolicy(_) => ChildKind::NetworkPolicy,
            Self::ConfigMap(_) => ChildKind::ConfigMap,
            Self::PersistentVolumeClaim(_) => ChildKind::PersistentVolumeClaim,
            Self::Service(_) => ChildKind::Service,
            Self::Pod(_) => ChildKind::Pod,
        }
    }

    /// Its metadata.
    #[must_use]
    pub const fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::ServiceAccount(child) => &child.metadata,
            Self::NetworkPolicy(child) => &child.metadata,
            Self::ConfigMap(child) => &child.metadata,
            Self::PersistentVolumeClaim(child) => &child.metadata,
            Self::Service(child) => &child.metadata,
            Self::Pod(child) => &child.metadata,
        }
    }

    /// The same, as the object with this UID, or as any of its name.
    #[must_use]
    pub fn with_uid(mut self, uid: Option<String>) -> Self {
        let metadata = match &mut self {
            Self::ServiceAccount(child) => &mut child.metadata,
            Self::NetworkPolicy(child) => &mut child.metadata,
            Self::ConfigMap(child) => &mut child.metadata,
            Self::PersistentVolumeClaim(child) => &mut child.metadata,
            Self::Service(child) => &mut child.metadata,
            Self::Pod(child) => &mut child.metadata,
        };
        metadata.uid = uid;
        self
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.metadata().name.as_deref().unwrap_or_default()
    }

    /// The pod, if it is one.
    #[must_use]
    pub fn pod(&self) -> Option<&Pod> {
        match self {
            Self::Pod(pod) => Some(pod),
            _ => None,
        }
    }

    /// The object as JSON.
    #[cfg(test)]
    #[must_use]
    pub fn value(&self) -> Value {
        let value = match self {
            Self::ServiceAccount(child) => serde_json::to_value(child),
            Self::NetworkPolicy(child) => serde_json::to_value(child),
            Self::ConfigMap(child) => serde_json::to_value(child),
            Self::PersistentVolumeClaim(child) => serde_json::to_value(child),
            Self::Service(child) => serde_json::to_value(child),
            Self::Pod(child) => serde_json::to_value(child),
        };
        value.unwrap()
    }
}

#[cfg(test)]
mod tests;

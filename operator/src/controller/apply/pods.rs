//! A sandbox's pods, as the API server itself shows them: past every cache, and whatever somebody did to their labels.

use agentsandbox_crds::names::{COMPONENT_PROXY, LABEL_COMPONENT, LABEL_SANDBOX_UID};
use kube::ResourceExt;

use crate::controller::accept::Identity;
use crate::controller::desired::{ChildKind, Component};
use crate::controller::plan::{Doomed, is_owned};

/// A pod of a sandbox, as the API server itself shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePod {
    /// Which half it is; a pod that does not say so counts as an agent.
    pub component: Component,
    /// Exactly this pod.
    pub doomed: Doomed,
    /// Whether it is on its way out.
    pub ending: bool,
}

/// What is known of a pod. One that does not say which half it is counts as an agent: agents go first.
pub(super) fn live<K: ResourceExt>(pod: &K) -> LivePod {
    let proxy = pod.labels().get(LABEL_COMPONENT).is_some_and(|value| value == COMPONENT_PROXY);
    LivePod {
        component: if proxy { Component::Proxy } else { Component::Agent },
        doomed: Doomed { kind: ChildKind::Pod, name: pod.name_any(), uid: pod.uid().unwrap_or_default() },
        ending: pod.meta().deletion_timestamp.is_some(),
    }
}

/// Whether a pod is the sandbox's, by its owner or by its label: somebody may have taken either away.
pub(super) fn is_of<K: ResourceExt>(pod: &K, identity: &Identity) -> bool {
    is_owned(pod.meta(), identity) || pod.labels().get(LABEL_SANDBOX_UID) == Some(&identity.uid)
}

/// Whether the agent's walls select a pod: they do so by labels.
pub(super) fn is_inside_its_walls<K: ResourceExt>(pod: &K, identity: &Identity) -> bool {
    let labels = pod.labels();
    Component::Agent.match_labels(identity).iter().all(|(key, value)| labels.get(key) == Some(value))
}

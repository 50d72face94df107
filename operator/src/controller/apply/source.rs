//! Whether what a workspace begins with is there, where that is an object of the namespace.
//!
//! Its name is asked for and nothing else of it: no content of a ConfigMap comes here. Nothing is decided by the answer but what is told,
//! for it is the agent's pod that waits: the kubelet and the scheduler see the object as soon as it is there.

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};

use super::child::NamedChild;
use super::{Applied, ApplyError, Writer};
use crate::controller::accept::{Accepted, Origin};
use crate::controller::desired::ChildKind;
use crate::metrics::Verb;

/// An object that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
}

impl Writer {
    /// What the workspace of this agent's pod is to begin with, if the pod waits and it is known not to be there.
    pub async fn missing(&self, accepted: &Accepted, agent: &Applied) -> Option<Missing> {
        let Applied::Present(pod) = agent else { return None };
        let namespace = &accepted.identity.namespace;
        let (kind, name, is_there) = match &accepted.source.as_ref().filter(|_| waits(pod))?.origin {
            Origin::ConfigMap(source) => {
                let is_there = self.stands::<ConfigMap>(namespace, &source.name).await;
                (ChildKind::ConfigMap, source.name.clone(), is_there)
            }
            Origin::Claim(source) => {
                let is_there = self.stands::<PersistentVolumeClaim>(namespace, &source.claim_name).await;
                (ChildKind::PersistentVolumeClaim, source.claim_name.clone(), is_there)
            }
            Origin::Archive(_) | Origin::Git(_) | Origin::Image(_) | Origin::Empty => return None,
        };
        // What nobody answers is not known, and the pod's own state is told.
        matches!(is_there, Ok(false)).then_some(Missing { kind, name })
    }

    async fn stands<K: NamedChild>(&self, namespace: &str, name: &str) -> Result<bool, ApplyError> {
        let api = self.api::<K>(namespace);
        let found = self.call(Verb::Get, K::KIND.as_str(), name, api.get_metadata_opt(name)).await?;
        Ok(found.is_some())
    }
}

/// Whether a pod's volumes are not there yet: the kubelet makes its sandbox once they are.
fn waits(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    !conditions.into_iter().any(|one| one.type_ == "PodReadyToStartContainers" && one.status == "True")
}

//! A claim that stands, or that somebody deletes, and the agent's pod that mounts it. Pure.
//!
//! Kubernetes keeps a claim for as long as a pod on a node mounts it (`kubernetes.io/pvc-protection`), and starts no pod on one that ends.
//! To wait for the end of a claim while an agent works on it would be to wait for that agent, and to look after nothing meanwhile. So the
//! claim counts as standing until the pod is gone, and a pod whose program was never started is ended: each would wait for the other.

use agentsandbox_crds::names::{LABEL_MANAGED_BY, LABEL_SANDBOX, MANAGED_BY};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;

use super::{Child, ChildKind, Doomed, Identity, Observed, Step, step};
use crate::controller::desired::claim;
use crate::controller::life;

/// Whether a claim that is being deleted counts as standing: there is a pod of its agent, whatever became of that.
pub(super) fn stands(observed: &Observed, identity: &Identity) -> bool {
    observed.agent_pod(identity).is_some()
}

/// Whether this is the claim of an earlier sandbox of the name, on its way out: it outlasts the sandbox by a moment. Its labels let a watch
/// show its end. Under an agent it is a stranger's like any other.
pub(super) fn is_going(live: &Child, observed: &Observed, identity: &Identity) -> bool {
    let is_labelled = |name: &str, value: &str| {
        live.metadata().labels.iter().flatten().any(|(k, v)| k == name && v == value)
    };
    live.kind() == ChildKind::PersistentVolumeClaim
        && live.metadata().deletion_timestamp.is_some()
        && is_labelled(LABEL_MANAGED_BY, MANAGED_BY)
        && is_labelled(LABEL_SANDBOX, &identity.name)
        && !stands(observed, identity)
}

/// A claim without the size that it has, or was refused a moment ago, of which a patch then says nothing; any other child as it is wanted.
pub(super) fn within_reach(mut wanted: Child, live: &Child, observed: &Observed) -> Child {
    if let (Child::PersistentVolumeClaim(wanted), Child::PersistentVolumeClaim(live)) = (&mut wanted, live) {
        let bytes = claim::asked_bytes(wanted);
        let is_refused = observed.ungrown.as_ref().is_some_and(|ungrown| {
            live.metadata.uid.as_ref() == Some(&ungrown.claim) && bytes == Some(ungrown.bytes)
        });
        if is_refused || bytes <= claim::asked_bytes(live) {
            wanted.spec = None;
        }
    }
    wanted
}

/// Plans the agent's pod, on this claim, if it has one.
#[must_use]
pub fn agent(
    wanted: Pod,
    claim: Option<&PersistentVolumeClaim>,
    observed: &Observed,
    identity: &Identity,
    now: Timestamp,
) -> Step {
    let ends = claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some());
    let waits = |pod: &&Pod| ends && life::started_in(pod, now).is_none();
    let waiting = observed.agent_pod(identity).filter(waits);
    match (step(Child::Pod(Box::new(wanted)), observed, identity, now), waiting) {
        (Step::Leave(_) | Step::Repair(_), Some(pod)) => Step::Delete(Doomed::pod(pod)),
        (planned, _) => planned,
    }
}

#[cfg(test)]
mod tests;

//! The end of a sandbox, in order: the agent first, and seen gone; then the proxy; then walls and supplies; the
//! finalizer last. Power goes before the evidence for it, so a wall never falls while something runs behind it.
//!
//! "Gone" is a fact about pods, not about owner references: `kubectl delete --cascade=orphan` takes the references off,
//! and anybody who may patch pods can take off labels. So the API server itself is asked for every pod that carries the
//! sandbox's UID or is owned by it, in the very pass that takes the walls, and any answer but "none" keeps them.
//!
//! Others delete walls as well, when they delete a sandbox in the foreground or its namespace. Our finalizer on each wall
//! keeps it standing until it is released here, in the same pass that found no pod left.
//!
//! A claim has no owner, so nobody else takes it away, and it stays unless its [`Fate`] is by now that it goes. It goes with walls and
//! supplies, once no pod mounts it, and is asked for by its name: one that no watch has shown yet would stay for good.
//!
//! It works when apply never ran, and it needs no accepted spec. The Secret with the keys cannot be deleted by the
//! operator, which has no such verb: its owner reference lets the garbage collector do it, and a Secret that was
//! orphaned stays, with keys that nothing trusts any more.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::{FINALIZER, LABEL_SANDBOX_UID};
use agentsandbox_crds::workspace::WhenDeleted;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::accept::Identity;
use super::apply::{ApplyError, LivePod, Writer, release_ending};
use super::desired::{Child, ChildKind, Component, claim, names};
use super::fate::{self, Fate};
use super::observe::Observed;
use super::plan::{Doomed, is_owned};

/// How far a teardown got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Teardown {
    /// Pods of this half are on their way out; one of them is named so.
    Waiting(Component, String),
    /// No pod is left, and a list of templates is awaited that says whether the claim goes.
    Unlisted,
    /// The finalizer is off, and this became of the claim.
    Done(WhenDeleted),
}

/// Takes the next step of a teardown.
///
/// # Errors
/// When the API server refuses or does not answer; the finalizer stays on.
pub async fn teardown(
    writer: &Writer,
    identity: &Identity,
    (sandbox, fate): (&AgentSandbox, Fate),
    observed: &Observed,
) -> Result<Teardown, ApplyError> {
    let pods = writer.live_pods(identity).await?;
    if let Some(next) = pods.iter().min_by_key(|pod| pod.component) {
        let (first, name) = (next.component, next.doomed.name.clone());
        let turn = pods.iter().filter(|pod| pod.component == first && pod.ending.is_none());
        try_join_all(turn.map(|LivePod { doomed, .. }| writer.delete(&identity.namespace, doomed))).await?;
        // What came of a program is told nobody any more.
        release_ending(writer, identity, &pods).await?;
        return Ok(Teardown::Waiting(first, name));
    }
    if fate == Fate::Awaited {
        return Ok(Teardown::Unlisted);
    }
    let walls = observed.children.values().filter_map(|child| match child {
        Child::NetworkPolicy(wall) if is_ours(&wall.metadata, identity) => Some(wall),
        _ => None,
    });
    try_join_all(walls.map(|wall| writer.release(wall))).await?;
    let rest = names(&identity.name)
        .into_iter()
        .filter(|(kind, _)| !matches!(kind, ChildKind::Pod | ChildKind::PersistentVolumeClaim))
        .filter_map(|(kind, name)| doomed(observed, identity, kind, name));
    let (claim, when) = doomed_claim(writer, identity, (sandbox, fate)).await?;
    let rest: Vec<Doomed> = rest.chain(claim).collect();
    try_join_all(rest.iter().map(|one| writer.delete(&identity.namespace, one))).await?;
    let finalizers = sandbox.finalizers().iter().filter(|one| *one != FINALIZER).cloned().collect();
    match writer.finalizers(sandbox, finalizers).await {
        // It went with an earlier pass's patch, which the watch has not brought yet.
        Err(error) if error.is_not_found() => Ok(Teardown::Done(when)),
        other => other.map(|_| Teardown::Done(when)),
    }
}

fn doomed(observed: &Observed, identity: &Identity, kind: ChildKind, name: String) -> Option<Doomed> {
    let live = observed.child(kind, &name)?.metadata();
    (is_ours(live, identity) && live.deletion_timestamp.is_none()).then(|| Doomed {
        kind,
        name,
        uid: live.uid.clone().unwrap_or_default(),
        node: None,
    })
}

/// The claim that goes with its sandbox, and what becomes of it; one that goes already needs nobody.
async fn doomed_claim(
    writer: &Writer,
    identity: &Identity,
    (sandbox, fate): (&AgentSandbox, Fate),
) -> Result<(Option<Doomed>, WhenDeleted), ApplyError> {
    if fate.keeps() {
        return Ok((None, WhenDeleted::Retain));
    }
    let live = writer.live_claim(&identity.namespace, &claim::name(identity)).await?;
    let own = live.filter(|live| claim::is_of(&live.metadata, identity));
    let Some(own) = own.filter(|live| live.metadata.deletion_timestamp.is_none()) else {
        return Ok((None, WhenDeleted::Delete));
    };
    let when = fate::settled(writer, identity, (sandbox, fate)).await?;
    let goes = (when == WhenDeleted::Delete).then(|| Child::PersistentVolumeClaim(Box::new(own)));
    Ok((goes.as_ref().map(Doomed::child), when))
}

/// The claim that outlasts its sandbox, of whose claim this has become.
#[must_use]
pub fn retained<'a>(
    when: WhenDeleted,
    identity: &Identity,
    observed: &'a Observed,
) -> Option<&'a PersistentVolumeClaim> {
    match observed.child(ChildKind::PersistentVolumeClaim, &claim::name(identity))? {
        Child::PersistentVolumeClaim(live) if claim::is_of(&live.metadata, identity) => {
            (when == WhenDeleted::Retain && live.metadata.deletion_timestamp.is_none()).then_some(live)
        }
        _ => None,
    }
}

pub(super) fn is_ours(live: &ObjectMeta, identity: &Identity) -> bool {
    is_owned(live, identity) || is_orphan(live, identity)
}

/// A child whose owner reference was taken off: it carries the sandbox's UID, and nobody else controls it.
fn is_orphan(live: &ObjectMeta, identity: &Identity) -> bool {
    let labelled = live.labels.iter().flatten().any(|(k, v)| k == LABEL_SANDBOX_UID && *v == identity.uid);
    labelled && live.owner_references.iter().flatten().all(|owner| owner.controller != Some(true))
}

#[cfg(test)]
mod tests;

//! Walls without a sandbox: somebody took the finalizer off the sandbox by force, and the garbage collector deleted its
//! children, of which the walls stand until they are released. No pass comes for a sandbox that is gone, so they are
//! released here, once no pod is left behind them. So is the pod of a Task that nobody asks for its end any more, be its walls there
//! or not: one may be made by a request that arrives when its sandbox is gone.

use std::sync::Arc;
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::{
    FINALIZER, GROUP, LABEL_SANDBOX_UID, SUFFIX_AGENT, SUFFIX_PROXY, SUFFIX_STAND_IN,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use tokio::sync::Notify;

use super::accept::Identity;
use super::apply::{ApplyError, is_kept, release, release_ending};
use super::desired::Component;
use super::observe::in_order;
use super::plan::{is_held, is_owned};
use super::{Ctx, chain};

/// The end of a pod whose labels were taken off wakes nobody, and neither does a sandbox that goes after its walls: until
/// the last deleted wall is released, they are looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Whether deleted walls are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    None,
    Some,
}

/// Whether a wall was deleted and stands by our finalizer, alone or among others.
#[must_use]
pub fn is_deleted_and_held(wall: &NetworkPolicy) -> bool {
    wall.metadata.deletion_timestamp.is_some() && is_held(&wall.metadata)
}

/// Whether a pod was deleted and is there by our finalizer, alone or among others.
#[must_use]
pub fn is_deleted_and_kept(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && is_kept(pod)
}

/// What an object of a watch wakes; `deleted` is told where it is left though somebody deleted it.
pub fn telling<K, W: Fn(K) -> Vec<ObjectRef<AgentSandbox>>>(
    deleted: &Arc<Notify>,
    is_left: fn(&K) -> bool,
    wakes: W,
) -> impl Fn(K) -> Vec<ObjectRef<AgentSandbox>> + use<K, W> {
    let deleted = Arc::clone(deleted);
    move |object| {
        if is_left(&object) {
            deleted.notify_one();
        }
        wakes(object)
    }
}

/// Releases walls and pods without a sandbox for as long as it is polled; `deleted` tells that one was deleted.
pub async fn watch(ctx: Arc<Ctx>, deleted: Arc<Notify>) {
    loop {
        deleted.notified().await;
        while sweep(&ctx).await == Left::Some {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

async fn sweep(ctx: &Ctx) -> Left {
    let mut left = Left::None;
    for wall in in_order(ctx.stores.network_policies.filtered(|_, wall| wall.is_held)) {
        match sweep_one(ctx, &wall).await {
            Ok(Left::None) => {}
            Ok(Left::Some) => left = Left::Some,
            Err(error) => {
                left = Left::Some;
                tracing::warn!(
                    wall.namespace = wall.namespace(),
                    wall.name = wall.name_any(),
                    error = chain(&error),
                    "a wall without a sandbox could not be released"
                );
            }
        }
    }
    for pod in in_order(ctx.stores.pods.filtered(|_, pod| pod.is_kept)) {
        left = Left::Some;
        if let Err(error) = let_go(ctx, &pod).await {
            let (namespace, name) = (pod.namespace(), pod.name_any());
            tracing::warn!(
                pod.namespace = namespace,
                pod.name = name,
                error = chain(&error),
                "a pod without a sandbox could not be released"
            );
        }
    }
    left
}

/// A pod whose sandbox is there is let go by that one's own passes, once its end is told.
async fn let_go(ctx: &Ctx, pod: &Pod) -> Result<(), ApplyError> {
    let label = pod.labels().get(LABEL_SANDBOX_UID);
    let owners = pod.owner_references().iter().filter(|owner| owner.api_version.starts_with(GROUP));
    let uids: Vec<&String> = label.into_iter().chain(owners.map(|owner| &owner.uid)).collect();
    if uids.iter().any(|uid| is_there(ctx, uid)) {
        return Ok(());
    }
    let uid = uids.first().map(|uid| (*uid).clone()).unwrap_or_default();
    release(&ctx.writer, &gone(&pod.namespace().unwrap_or_default(), &pod.name_any(), uid), pod).await
}

/// Whether a sandbox has passes of its own.
fn is_there(ctx: &Ctx, uid: &str) -> bool {
    ctx.stores
        .sandboxes
        .find(|sandbox| sandbox.uid().as_deref() == Some(uid) && has_passes(sandbox))
        .is_some()
}

/// A sandbox of which nothing is known but its UID.
fn gone(namespace: &str, name: &str, uid: String) -> Identity {
    let owner = OwnerReference::default();
    Identity { namespace: namespace.to_owned(), name: name.to_owned(), uid, generation: 0, owner }
}

/// A wall whose sandbox is there is renewed or released by that one's own passes, but for one that lost its owner: it stands
/// in the way of another, and what decides is whether an agent runs.
async fn sweep_one(ctx: &Ctx, wall: &NetworkPolicy) -> Result<Left, ApplyError> {
    let (namespace, name) = (wall.namespace().unwrap_or_default(), wall.name_any());
    let own = name.strip_suffix(SUFFIX_STAND_IN).unwrap_or(&name);
    let Some(sandbox) = own.strip_suffix(SUFFIX_AGENT).or_else(|| own.strip_suffix(SUFFIX_PROXY)) else {
        return Ok(Left::None);
    };
    let present = |s: &AgentSandbox| s.namespace().as_ref() == Some(&namespace) && s.name_any() == sandbox;
    let namesake =
        ctx.stores.sandboxes.find(present).filter(|s| has_passes(s)).and_then(|s| Identity::of(&s));
    if let Some(identity) = &namesake {
        if is_owned(&wall.metadata, identity) {
            return Ok(Left::Some);
        }
        // The name of a stand-in is in nobody's way, but it may be all that the namesake's own pods have.
        let in_the_way = own == name || uids(wall).contains(&identity.uid);
        let pods = if in_the_way { ctx.writer.live_pods(identity).await? } else { Vec::new() };
        if pods.iter().any(|pod| pod.component == Component::Agent) {
            return Ok(Left::Some);
        }
    }
    for uid in uids(wall).into_iter().filter(|uid| namesake.as_ref().is_none_or(|own| own.uid != *uid)) {
        let gone = gone(&namespace, sandbox, uid);
        let pods = ctx.writer.live_pods(&gone).await?;
        // A wall can be made to name any sandbox, and one that is there asks for its end first.
        if !is_there(ctx, &gone.uid) {
            release_ending(&ctx.writer, &gone, &pods).await?;
        }
        if !pods.is_empty() {
            return Ok(Left::Some);
        }
    }
    ctx.writer.release(wall).await?;
    Ok(Left::None)
}

/// Whether passes over a sandbox do anything yet: one that is deleted in the foreground waits for its walls when its teardown is done,
/// which may have been before a watch showed them.
fn has_passes(sandbox: &AgentSandbox) -> bool {
    sandbox.metadata.deletion_timestamp.is_none() || sandbox.finalizers().iter().any(|one| one == FINALIZER)
}

/// The UIDs of sandboxes that a wall names, anywhere: each of these places can be edited.
fn uids(wall: &NetworkPolicy) -> Vec<String> {
    let label = wall.labels().get(LABEL_SANDBOX_UID);
    let owners = wall.owner_references().iter().filter(|owner| owner.api_version.starts_with(GROUP));
    let selector = wall.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref()?.match_labels.as_ref());
    let selected = selector.and_then(|labels| labels.get(LABEL_SANDBOX_UID));
    let mut all: Vec<String> =
        label.into_iter().chain(selected).chain(owners.map(|owner| &owner.uid)).cloned().collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests;

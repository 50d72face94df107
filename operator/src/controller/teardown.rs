//! The end of a sandbox, in order: the agent first, and seen gone; then the proxy; then walls and supplies; the
//! finalizer last. Power goes before the evidence for it, so a wall never falls while something runs behind it.
//!
//! It works when apply never ran, and it needs no accepted spec. The Secret with the keys cannot be deleted by the
//! operator, which has no such verb: its owner reference lets the garbage collector do it.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::FINALIZER;
use futures::future::try_join_all;
use kube::ResourceExt;

use super::accept::Identity;
use super::apply::{ApplyError, Writer};
use super::desired::{ChildKind, Component, names};
use super::observe::Observed;
use super::plan::{Doomed, is_owned};

/// How far a teardown got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teardown {
    /// A pod is on its way out; its end brings the next pass.
    Waiting(Component),
    /// The finalizer is off.
    Done,
}

/// Takes the next step of a teardown.
///
/// # Errors
/// When the API server refuses or does not answer; the finalizer stays on.
pub async fn teardown(
    writer: &Writer,
    identity: &Identity,
    sandbox: &AgentSandbox,
    observed: &Observed,
) -> Result<Teardown, ApplyError> {
    for component in [Component::Agent, Component::Proxy] {
        if !gone(writer, identity, component).await? {
            return Ok(Teardown::Waiting(component));
        }
    }
    let rest = names(&identity.name)
        .into_iter()
        .filter(|(kind, _)| *kind != ChildKind::Pod)
        .filter_map(|(kind, name)| doomed(observed, identity, kind, name));
    let rest: Vec<Doomed> = rest.collect();
    try_join_all(rest.iter().map(|one| writer.delete(&identity.namespace, one))).await?;
    let finalizers = sandbox.finalizers().iter().filter(|one| *one != FINALIZER).cloned().collect();
    writer.finalizers(sandbox, finalizers).await?;
    Ok(Teardown::Done)
}

/// Asks the API server itself: a cache that is behind would let a wall fall before its pod.
async fn gone(writer: &Writer, identity: &Identity, component: Component) -> Result<bool, ApplyError> {
    let name = component.name(identity);
    let pod = writer.live_pod(&identity.namespace, &name).await?;
    let Some(pod) = pod.filter(|pod| is_owned(&pod.metadata, identity)) else { return Ok(true) };
    if pod.metadata.deletion_timestamp.is_none() {
        let doomed = Doomed { kind: ChildKind::Pod, name, uid: pod.uid().unwrap_or_default() };
        writer.delete(&identity.namespace, &doomed).await?;
    }
    Ok(false)
}

fn doomed(observed: &Observed, identity: &Identity, kind: ChildKind, name: String) -> Option<Doomed> {
    let live = observed.child(kind, &name)?.metadata();
    let ours = is_owned(live, identity) && live.deletion_timestamp.is_none();
    ours.then(|| Doomed { kind, name, uid: live.uid.clone().unwrap_or_default() })
}

//! What a sandbox that is being deleted waits for, told once its teardown has taken its next step. Nothing waits for the telling:
//! where it fails, the teardown goes on all the same.

use agentsandbox_crds::AgentSandbox;
use kube::ResourceExt;

use super::accept::Identity;
use super::apply::ApplyError;
use super::desired::{Child, ChildKind};
use super::observe::Observed;
use super::outcome::Blocked;
use super::teardown::Teardown;
use super::{Ctx, chain, status};

/// Writes the status, if it says anything new.
pub(super) async fn tell(
    ctx: &Ctx,
    identity: &Identity,
    sandbox: &AgentSandbox,
    observed: &Observed,
    step: &Result<Teardown, ApplyError>,
) {
    let message = match step {
        Ok(Teardown::Done) => return,
        Ok(Teardown::Waiting(_, pod)) => waits_for(pod, observed),
        Err(error) => match Blocked::from(error) {
            Blocked::Conflict | Blocked::NotLeader => return,
            _ => format!(
                "The sandbox is being deleted; a step of that failed and is tried again: {}.",
                chain(error)
            ),
        },
    };
    let (old, now) = (sandbox.status.as_ref(), ctx.clock.now());
    let Some(status) = status::ending(sandbox, &message, now) else { return };
    if ctx.progress.wait(&identity.uid, old, &status, now).is_some() {
        return;
    }
    match ctx.writer.status(sandbox, &status).await {
        Ok(_) => ctx.progress.tell(&identity.uid, old, &status, now),
        Err(error) => tracing::debug!(
            sandbox.namespace = identity.namespace,
            sandbox.name = sandbox.name_any(),
            error = chain(&error),
            "it was not told what a deletion waits for"
        ),
    }
}

fn waits_for(pod: &str, observed: &Observed) -> String {
    let node = observed.child(ChildKind::Pod, pod).and_then(|child| match child {
        Child::Pod(pod) => pod.spec.as_ref()?.node_name.clone(),
        _ => None,
    });
    match node {
        Some(node) => format!(
            "The sandbox is being deleted and waits until pod {pod} on node {node} has ended. If that node is gone for good, delete the Node."
        ),
        None => format!(
            "The sandbox is being deleted and waits until pod {pod} has ended. If it does not end, see why: kubectl describe pod {pod}."
        ),
    }
}

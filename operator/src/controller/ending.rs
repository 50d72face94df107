//! A sandbox that is being deleted: its teardown takes its next step, then it is told what it waits for. Nothing waits for the telling:
//! where it fails, the teardown goes on all the same.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::FINALIZER;
use agentsandbox_crds::workspace::WhenDeleted;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::events::EventType;

use super::accept::Identity;
use super::apply::ApplyError;
use super::desired::{Child, ChildKind};
use super::events::{self, Told};
use super::fate::Fate;
use super::observe::Observed;
use super::outcome::Blocked;
use super::teardown::{self, Teardown};
use super::{Ctx, ReconcileError, TEARDOWN_RETRY, breach, chain, status};

/// A pass over a sandbox that is being deleted, or is gone: takes down, one step at a time; nothing to do once our finalizer is off.
///
/// # Errors
/// When a step failed; it is told all the same.
pub(super) async fn end(
    ctx: &Ctx,
    identity: &Identity,
    (sandbox, fate): (&AgentSandbox, Fate),
    observed: &Observed,
) -> Result<Action, ReconcileError> {
    // The watch may still show a finalizer that our own patch took off.
    if !sandbox.finalizers().iter().any(|one| one == FINALIZER) || ctx.recent.is_gone(&identity.uid) {
        forget(ctx, identity);
        return Ok(Action::await_change());
    }
    breach::hurry(ctx, identity, observed).await.map_err(ReconcileError::Apply)?;
    let step = teardown::teardown(&ctx.writer, identity, (sandbox, fate), observed).await;
    tell(ctx, identity, sandbox, observed, &step).await;
    let action = match step.map_err(ReconcileError::Apply)? {
        Teardown::Waiting(..) | Teardown::Unlisted => {
            ctx.failures.clear(&identity.uid);
            Action::requeue(TEARDOWN_RETRY)
        }
        // No other pass need come.
        Teardown::Done(_) => {
            forget(ctx, identity);
            Action::await_change()
        }
    };
    Ok(action)
}

/// Forgets a sandbox that is gone.
fn forget(ctx: &Ctx, identity: &Identity) {
    ctx.recent.forget(&identity.uid);
    ctx.failures.clear(&identity.uid);
    ctx.breaches.end(&identity.uid);
    ctx.memory.forget(&identity.uid);
}

/// Reason of the Event about a claim that outlasts its sandbox.
const RETAINED: &str = "WorkspaceRetained";

/// Writes the status, if it says anything new.
async fn tell(
    ctx: &Ctx,
    identity: &Identity,
    sandbox: &AgentSandbox,
    observed: &Observed,
    step: &Result<Teardown, ApplyError>,
) {
    let message = match step {
        Ok(Teardown::Done(when)) => {
            return tell_of_claim(ctx, identity, (sandbox, *when), observed).await;
        }
        Ok(Teardown::Waiting(_, pod)) => waits_for(pod, observed),
        // It lasts a moment.
        Ok(Teardown::Unlisted) => return,
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

/// Work that stays is told of where it can be found, since nothing else does any more.
async fn tell_of_claim(
    ctx: &Ctx,
    identity: &Identity,
    (sandbox, when): (&AgentSandbox, WhenDeleted),
    observed: &Observed,
) {
    let Some(claim) = teardown::retained(when, identity, observed) else { return };
    let name = claim.name_any();
    let told = Told {
        type_: EventType::Normal,
        reason: RETAINED.to_owned(),
        note: format!(
            "PersistentVolumeClaim {name} stays with what the agent wrote. Delete it when that is not needed any more: kubectl delete pvc {name}."
        ),
    };
    events::publish(&ctx.recorder, ctx.writer.tenure(), sandbox, vec![told]).await;
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

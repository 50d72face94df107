//! A sandbox with a template while no list of templates has come, as where their CRD was not applied or the operator has no right to them.
//!
//! Nobody knows what the sandbox is to be. So nothing of it is made that was not there, nothing is opened, and what runs goes on. What bounds
//! it is known without its template, and is kept up as ever: the agent's wall, who may reach the proxy, and that nobody widens either. The
//! proxy's wall leads where it led when this process first saw it, within what the class in force and the cluster let it reach by now, and
//! nowhere where it was gone then: a wall that somebody widens meanwhile is never taken for the one that is wanted. Power is taken away as the sandbox itself
//! asks for it. What is said of it is that nothing is known; lists mostly come in a moment, so only after [`PATIENCE`].

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::SUFFIX_STAND_IN;
use futures::future::join;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use tokio::time::Instant;

use super::accept::Identity;
use super::apply::{Applied, ApplyError};
use super::desired::{self, Child, ChildKind, Component};
use super::life::Life;
use super::observe::{self, Closedness, Observed};
use super::outcome::{Blocked, Bounds, Outcome, Stage, Unlisted, must_stop};
use super::plan::{self, BoundaryPlan, is_owned};
use super::suspend::{self, Stopped};
use super::{Ctx, Failure, ReconcileError, accept, breach, halt, hold, is_held, report, teardown, way};

/// The other lists have come by the time that this begins.
const PATIENCE: Duration = Duration::from_secs(10);

/// For how long a list of templates is waited for in silence, from the first sandbox that would need it.
#[derive(Debug)]
pub struct Patience {
    lasts: Duration,
    begun: OnceLock<Instant>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { lasts: PATIENCE, begun: OnceLock::new() }
    }
}

impl Patience {
    /// What is left of it; none once it is over.
    pub(super) fn left(&self) -> Option<Duration> {
        let begun = self.begun.get_or_init(Instant::now);
        self.lasts.checked_sub(begun.elapsed()).filter(|left| !left.is_zero())
    }
}

/// One pass over such a sandbox, which names this template.
///
/// # Errors
/// When a request fails; it is told all the same.
pub(super) async fn look_after(
    ctx: &Ctx,
    identity: &Identity,
    (sandbox, template): (Arc<AgentSandbox>, String),
    observed: &Observed,
    life: &Life,
) -> Result<Action, ReconcileError> {
    let (off, stopped) = Box::pin(suspend::power(ctx, identity, &sandbox, observed)).await.unzip();
    // Of one that is new nothing was made, and nothing is. Somebody may have taken our finalizer off another.
    let is_made = is_held(&sandbox) || observed.children.values().any(|child| is_made_for(child, identity));
    let (sandbox, unheld) = if is_made { held(ctx, sandbox).await? } else { (sandbox, None) };
    let found = match is_made {
        true => Box::pin(bounded(ctx, identity, &sandbox, observed, stopped)).await,
        false => stopped.unwrap_or(Ok(())).map(|()| Bounds::Kept(None)).map_err(Failure::from),
    };
    let (bounds, error) = match found {
        Ok(bounds) => (bounds, None),
        Err(Failure { error, breach }) => {
            let bounds = breach.map_or_else(|| Bounds::Blocked(Blocked::from(&error)), Bounds::Breached);
            (bounds, Some(error))
        }
    };
    let class_name = sandbox.status.as_ref().and_then(|status| status.class_name.clone());
    let unlisted =
        Unlisted { template, silent_for: ctx.patience.left(), is_unheld: unheld.is_some(), bounds };
    let outcome = Outcome::of(class_name, Stage::Unlisted(Box::new(unlisted)));
    report(ctx, &sandbox, life, observed.look_again_in, off, (outcome, error.or(unheld))).await
}

/// The sandbox with our finalizer; as it is where that cannot be put on, and why: no wall waits for it. Of one that is gone nothing is kept up.
async fn held(
    ctx: &Ctx,
    sandbox: Arc<AgentSandbox>,
) -> Result<(Arc<AgentSandbox>, Option<ApplyError>), ReconcileError> {
    match hold(ctx, Arc::clone(&sandbox)).await {
        Ok(held) => Ok((held, None)),
        Err(ReconcileError::Apply(error)) if !error.is_gone_sandbox() => Ok((sandbox, Some(error))),
        Err(error) => Err(error),
    }
}

/// Keeps up what bounds the sandbox, and stops the agent that is out of bounds.
async fn bounded(
    ctx: &Ctx,
    identity: &Identity,
    sandbox: &AgentSandbox,
    observed: &Observed,
    stopped: Option<Stopped>,
) -> Result<Bounds, Failure> {
    let (platform, now) = (ctx.platform(), ctx.clock.now());
    // Something was made for it, whoever has taken its finalizer and its status away since.
    let observed = &Observed { is_new: false, ..observed.clone() };
    let reach = accept::reach(sandbox, &observe::references(&ctx.stores, &identity.namespace));
    let led = ctx.memory.way_out(&identity.uid, proxys_wall(identity, observed));
    let wanted = desired::bounds(identity, &platform, &reach, &led);
    let walls = wanted.policies();
    let planned = BoundaryPlan { keys: None, ..plan::boundary(wanted, observed, identity, now) };
    let breach::Bounded { sealed, unwidened, observed } =
        breach::bounded(ctx, identity, &walls, observed, planned).await?;
    let observed = &*observed;
    if let Some(stopped) = stopped {
        let shut = way::shut(ctx, identity, &sealed).await;
        stopped?;
        shut?;
        return Ok(Bounds::Kept(unwidened.err()));
    }
    let serving = observed.proxy_pod(identity);
    let closed = observe::closedness(&identity.uid, serving, ctx.wall_probe, &ctx.recent).await;
    let proxy = serving.map_or(Applied::Absent, |pod| Applied::Present(Box::new(pod.clone())));
    let is_open = must_stop(&proxy, &closed, now);
    if is_open || unwidened.is_err() {
        let (halted, shut) = join(halt(ctx, identity), way::shut(ctx, identity, &sealed)).await;
        halted?;
        shut?;
    } else if closed.proof().is_none() {
        way::unproven(ctx, identity, observed, &sealed, &closed).await?;
    }
    let is_clear = matches!(closed, Closedness::Untried | Closedness::Proven(_) | Closedness::Waived(_));
    Ok(match unwidened.err() {
        None if is_open => Bounds::Open,
        None if !is_clear => Bounds::Probed,
        widening => Bounds::Kept(widening),
    })
}

/// The proxy's wall that stands, or what stands in for it.
fn proxys_wall<'a>(identity: &Identity, observed: &'a Observed) -> Option<&'a NetworkPolicy> {
    let name = Component::Proxy.name(identity);
    let labels = Component::Proxy.labels(identity);
    let is_labelled = |wall: &NetworkPolicy| {
        let live = wall.labels();
        labels.iter().all(|(label, value)| live.get(label) == Some(value))
    };
    let own = |name: &str| match observed.child(ChildKind::NetworkPolicy, name)? {
        Child::NetworkPolicy(wall) if is_owned(&wall.metadata, identity) && is_labelled(wall) => Some(wall),
        _ => None,
    };
    own(&name).or_else(|| own(&format!("{name}{SUFFIX_STAND_IN}")))
}

/// Whether the operator made this for the sandbox, for as long as that is there.
fn is_made_for(child: &Child, identity: &Identity) -> bool {
    child.kind() != ChildKind::PersistentVolumeClaim && teardown::is_ours(child.metadata(), identity)
}

#[cfg(test)]
mod tests;

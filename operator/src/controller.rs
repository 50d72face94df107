//! One pass over one AgentSandbox, as a table of contents.
//!
//! | step | from → to | client | can fail |
//! |---|---|---|---|
//! | [`observe`] | the key → what exists and what is referred to | reads, one probe | no: a watch that is behind is behind |
//! | [`template`] | sandbox and template → [`agentsandbox_merge::Merged`] or every rejection | none | yes, by the user's fault |
//! | [`accept`] | merged and references → [`accept::Accepted`] or every rejection | none | yes, by the user's fault |
//! | [`desired`] | accepted → children, complete | none | never |
//! | [`plan`] | children and what exists → steps | none | never |
//! | [`apply`] | steps → [`apply::Sealed`], then pods, then the way between them | writes | transport, refusal |
//! | [`status`] | what a pass came to → a status, or none | none; the patch is apply's | never |
//!
//! A pass does not know why it was called. An accepted sandbox goes from nothing to its two pods in one pass, for each
//! takes its time to start; the fence in the agent's waits for its proxy, and so does the agent. The kubelet's "started"
//! wakes the pass that sees the proxy closed and opens the way to it. A sandbox that is not accepted runs nothing: its pods
//! are stopped, its walls stay. Status is written on failure too, then the error is returned. Before all that [`life`] says
//! whether the sandbox is over; one that is over is only told of, and has its power taken away ([`finish`]). One that is suspended has its
//! power taken away before its walls are seen to ([`suspend`]).

use std::sync::Arc;
use std::time::Duration;

use agentsandbox_crds::names::FINALIZER;
use agentsandbox_crds::{AgentSandbox, AgentSandboxStatus};
use agentsandbox_merge::Merged;
use futures::future::join;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;

use crate::clock::Clock;
use crate::config::WallProbe;
use crate::metrics::Metrics;
use crate::platform::Platform;
use crate::ranges::Ranges;

pub mod accept;
pub mod apply;
mod breach;
pub mod desired;
mod ending;
pub mod evaluate;
pub mod events;
pub mod failures;
pub mod fate;
mod finish;
pub mod life;
pub mod memory;
pub mod observe;
pub mod orphans;
pub mod outcome;
pub mod plan;
mod progress;
pub mod status;
mod suspend;
pub mod teardown;
pub mod template;
mod unlisted;
mod way;

use accept::{Accepted, Identity, Rejection};
use apply::{Applied, ApplyError, Ending, Sealed, Writer};
use desired::{Child, Component};
use evaluate::Unwidened;
use failures::BACKOFF_MAX;
use life::Life;
use memory::{Failed, Memory};
use observe::denials::Denials;
use observe::{Closedness, Observed, Recent, Stores};
use outcome::{Blocked, Breach, Off, Outcome, Requeue, Stage, Workload};
use plan::{Step, spec_hash};
use suspend::Stopped;
use template::Unmerged;

pub use breach::Breaches;
pub use failures::Failures;
pub use progress::Progress;
pub use unlisted::Patience;

/// A pod's end wakes the next pass of a teardown, unless its labels were taken off: no watch shows it then.
const TEARDOWN_RETRY: Duration = Duration::from_secs(2);
/// An object that the API server itself would not produce; nothing can be expected to change soon.
const BUG_RETRY: Duration = Duration::from_secs(300);

/// What every pass is given.
pub struct Ctx {
    /// The watches.
    pub stores: Stores,
    /// Our own writes that the watches have not brought yet.
    pub recent: Arc<Recent>,
    /// The hand that writes.
    pub writer: Writer,
    /// Tells Events.
    pub recorder: Recorder,
    /// What is known of the cluster; its ranges are those of the start.
    pub platform: Platform,
    /// The cluster's ranges now.
    pub ranges: Ranges,
    /// How a proxy's walls are probed.
    pub wall_probe: WallProbe,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Failures in a row, by UID.
    pub failures: Failures,
    /// Since when sandboxes are out of bounds.
    pub breaches: Breaches,
    /// What is remembered beside what is written down.
    pub memory: Arc<Memory>,
    /// When statuses were last written.
    pub progress: Progress,
    /// What proxies have denied.
    pub denials: Arc<Denials>,
    /// How long a list of templates is waited for in silence.
    pub patience: Patience,
    /// The time.
    pub clock: Clock,
}

impl Ctx {
    /// What is known of the cluster at this moment. A pass takes it once, so that all its steps speak of the same.
    fn platform(&self) -> Platform {
        Platform { cluster_ranges: Arc::clone(&self.ranges.borrow()), ..self.platform.clone() }
    }
}

/// Why a pass failed; its causes are in the chain.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A write or a read failed.
    #[error("the sandbox could not be reconciled")]
    Apply(#[source] ApplyError),
    /// The status could not be written.
    #[error("the sandbox's status could not be written")]
    Status(#[source] ApplyError),
    /// The object lacks what the API server always sets.
    #[error("the sandbox has no namespace, name or UID")]
    NoIdentity,
}

/// Why a pass got no further.
#[derive(Debug)]
struct Failure {
    error: ApplyError,
    /// What bounds the sandbox's power and is lost, if that is what failed.
    breach: Option<Breach>,
}

/// One pass.
///
/// # Errors
/// When a request fails; what became of the sandbox is in its status all the same.
pub async fn reconcile(sandbox: Arc<AgentSandbox>, ctx: Arc<Ctx>) -> Result<Action, ReconcileError> {
    let sandbox = observe::newest(sandbox, &ctx.recent);
    let identity = Identity::of(&sandbox).ok_or(ReconcileError::NoIdentity)?;
    let mut observed = observe::observed(&ctx.stores, &ctx.recent, &identity); // watches
    observed.failed = ctx.memory.failed(&identity.uid, observed.agent_pod(&identity), ctx.clock.now());
    observed.is_new = !is_held(&sandbox) && sandbox.status.is_none();
    let own = Arc::clone(&sandbox);
    let (sandbox, merged) = template::whole(&ctx.stores, sandbox, &observed, &identity); // pure, may reject
    // A watch that is behind may show one that is gone as it was before it was deleted.
    if sandbox.metadata.deletion_timestamp.is_some() || ctx.recent.is_gone(&identity.uid) {
        let fate = template::fate(&ctx, &own, &merged);
        return ending::end(&ctx, &identity, (&sandbox, fate), &observed).await;
    }
    let life = Box::pin(finish::life(&ctx, &identity, &sandbox, &observed)).await?; // client, may fail
    let let_go = finish::let_go(&ctx, &identity, &sandbox, &observed, &life).await; // client, fails at the end
    // Boxed, as the other ways are: a pass would be as large as all of them together.
    let action = match &life.over {
        Some(over) => Box::pin(finish::finish(&ctx, &identity, &sandbox, &observed, &life, over)).await, // client, may fail
        None => Box::pin(stand(&ctx, &identity, (sandbox, merged), &observed, &life)).await, // client, may fail
    };
    let action = action?;
    let_go.map(|()| action).map_err(ReconcileError::Apply)
}

/// A pass over a sandbox that is not over: it is judged, and stands as far as its spec and the evidence reach.
async fn stand(
    ctx: &Ctx,
    identity: &Identity,
    (sandbox, merged): (Arc<AgentSandbox>, Result<Merged, Unmerged>),
    observed: &Observed,
    life: &Life,
) -> Result<Action, ReconcileError> {
    let merged = match merged {
        Ok(merged) => Ok(merged),
        Err(Unmerged::Rejected(rejections)) => Err(rejections),
        Err(Unmerged::Unlisted(template)) => {
            return unlisted::look_after(ctx, identity, (sandbox, template), observed, life).await; // client, may fail
        }
    };
    let references = observe::references(&ctx.stores, &identity.namespace); // watches
    let platform = ctx.platform();
    let accepted = merged.and_then(|merged| {
        accept::accept(identity, &merged, &references, &platform) // pure, may reject
            .and_then(|accepted| accept::beside(accepted, observed)) // pure, may reject
            .map_err(|rejections| template::placed(&merged, rejections))
    });
    let (sandbox, off, result) = match accepted {
        Ok(accepted) => {
            // Before the finalizer and the walls, which may fail: to take power away needs no evidence.
            let power = Box::pin(suspend::power(ctx, identity, &sandbox, observed)).await; // client, told later
            let (off, stopped) = power.unzip();
            let sandbox = hold(ctx, sandbox).await?; // client, may fail
            let raised = raise(ctx, &platform, &accepted, &sandbox, observed, stopped);
            let result = Box::pin(raised).await; // client, may fail
            (sandbox, off, came_to(result, Some(accepted.class.name)))
        }
        Err(rejections) => {
            let class = accept::class_to_keep(&sandbox, &references);
            let result = Box::pin(refuse(ctx, identity, observed, class.clone(), rejections)).await; // client, may fail
            (sandbox, None, came_to(result.map_err(Failure::from), class))
        }
    };
    report(ctx, &sandbox, life, observed.look_again_in, off, result).await // client, may fail
}

/// From accepted to as far as the evidence reaches: boundary, proxy, proof, and the agent with its way to the proxy. Of a sandbox
/// that is suspended, whose power was `stopped`, to the boundary.
async fn raise(
    ctx: &Ctx,
    platform: &Platform,
    accepted: &Accepted,
    sandbox: &AgentSandbox,
    observed: &Observed,
    stopped: Option<Stopped>,
) -> Result<Outcome, Failure> {
    let (identity, now) = (&accepted.identity, ctx.clock.now());
    let wanted = desired::boundary(accepted, platform);
    let walls = wanted.policies();
    let planned = plan::boundary(wanted, observed, identity, now);
    let planned = if stopped.is_some() { suspend::bounds_only(planned) } else { planned };
    // Before the proxy, which may fail: what is out of bounds waits for nothing.
    let breach::Bounded { sealed, unwidened, observed } =
        breach::bounded(ctx, identity, &walls, observed, planned).await?;
    let observed = &*observed;
    if let Some(stopped) = stopped {
        return suspend::walled(ctx, accepted, &sealed, unwidened, stopped).await;
    }

    let wanted = desired::proxy_pod::pod(accepted, platform, &sealed, way::enrolled(observed, identity));
    let planned = plan::step(Child::Pod(Box::new(wanted)), observed, identity, now);
    let unseen = finish::may_be_over(sandbox) && observed.agent_pod(identity).is_none();
    let starts = unseen && matches!(planned, Step::Create(_));
    if starts {
        finish::has_not_happened(ctx, sandbox).await?;
    }
    let proxy = apply::proxy(&ctx.writer, identity, &sealed, planned).await?;

    let wanted = desired::agent_pod::pod(accepted, platform, &sealed);
    let is_told = |failed: &Failed| !failed.is_past && spec_hash(&failed.pod) == spec_hash(&wanted);
    let failed = observed.failed.clone().filter(is_told);
    let serving = present(&proxy);
    let closed = observe::closedness(&identity.uid, serving, ctx.wall_probe, &ctx.recent).await;
    let agent = match &unwidened {
        Ok(unwidened) if !outcome::must_stop(&proxy, &closed, now) => {
            if unseen && !starts {
                finish::has_not_happened(ctx, sandbox).await?;
            }
            agent(ctx, identity, wanted, observed, &sealed, unwidened, &closed).await?
        }
        _ => {
            let (halted, shut) = join(halt(ctx, identity), way::shut(ctx, identity, &sealed)).await;
            let agent = halted?;
            shut?;
            agent
        }
    };
    let workload = Workload {
        isolation: accepted.class.isolation,
        without_network: accepted.confinement.as_ref().is_some_and(|asked| asked.without_network),
        fetches: accepted.source.is_some(),
        claim: sealed.claim().cloned().map(Box::new).zip(accepted.persistent.as_ref().map(|own| own.bytes)),
        missing: ctx.writer.missing(accepted, &agent).await,
        credentials: accepted.secrets(),
        login: accepted.login.clone(),
        held: ctx.denials.held(&identity.uid, present(&proxy)),
        widening: unwidened.err(),
        proxy,
        closed,
        agent,
        failed,
    };
    Ok(Outcome::of(Some(accepted.class.name.clone()), Stage::Standing(Box::new(workload))))
}

/// The agent's pod, once its way to the proxy is as the evidence says.
async fn agent(
    ctx: &Ctx,
    identity: &Identity,
    wanted: Pod,
    observed: &Observed,
    sealed: &Sealed,
    unwidened: &Unwidened,
    closed: &Closedness,
) -> Result<Applied, Failure> {
    let planned = plan::agent(wanted, sealed.claim(), observed, identity, ctx.clock.now());
    let applied = match way::judged(ctx, identity, observed, sealed, unwidened, closed).await {
        Ok(gate) => apply::agent(&ctx.writer, identity, sealed, unwidened, gate, planned).await,
        Err(error) => Err(error),
    };
    match applied {
        Ok(applied) => Ok(applied),
        Err(error) => match apply::is_outside_its_walls(&ctx.writer, identity).await {
            Ok(false) => Err(error.into()),
            Ok(true) | Err(_) => Err(breach::outside(ctx, identity, error).await),
        },
    }
}

/// Stops an agent whose walls turned out to be open.
async fn halt(ctx: &Ctx, identity: &Identity) -> Result<Applied, ApplyError> {
    apply::halt(&ctx.writer, identity, Component::Agent).await.map(|()| Applied::Absent)
}

fn present(applied: &Applied) -> Option<&Pod> {
    match applied {
        Applied::Present(pod) => Some(pod),
        _ => None,
    }
}

/// Nothing runs that is not accepted: all pods are stopped, whatever somebody did to their labels; the walls stay.
async fn refuse(
    ctx: &Ctx,
    identity: &Identity,
    observed: &Observed,
    class_name: Option<String>,
    rejections: Vec<Rejection>,
) -> Result<Outcome, ApplyError> {
    breach::hurry(ctx, identity, observed).await?;
    apply::power_down(&ctx.writer, identity, Ending::All).await?;
    Ok(Outcome::of(class_name, Stage::Rejected(rejections)))
}

fn is_held(sandbox: &AgentSandbox) -> bool {
    sandbox.finalizers().iter().any(|one| one == FINALIZER)
}

/// Puts the finalizer on before the first child exists.
async fn hold(ctx: &Ctx, sandbox: Arc<AgentSandbox>) -> Result<Arc<AgentSandbox>, ReconcileError> {
    if is_held(&sandbox) {
        return Ok(sandbox);
    }
    let mut finalizers = sandbox.finalizers().to_vec();
    finalizers.push(FINALIZER.to_owned());
    let held = ctx.writer.finalizers(&sandbox, finalizers).await.map_err(ReconcileError::Apply)?;
    // The answer has no template in it.
    Ok(Arc::new(AgentSandbox { spec: sandbox.spec.clone(), ..held }))
}

/// What a pass came to, with the error by which it failed, if it did.
fn came_to(result: Result<Outcome, Failure>, class_name: Option<String>) -> (Outcome, Option<ApplyError>) {
    match result {
        Ok(outcome) => (outcome, None),
        Err(Failure { error, breach }) => {
            let stage = breach.map_or_else(|| Stage::Blocked(Blocked::from(&error)), Stage::Breached);
            (Outcome::of(class_name, stage), Some(error))
        }
    }
}

/// Writes the status and tells Events, whatever the pass came to; then says when the next one comes.
async fn report(
    ctx: &Ctx,
    sandbox: &AgentSandbox,
    life: &Life,
    look_again_in: Option<Duration>,
    off: Option<Off>,
    (outcome, error): (Outcome, Option<ApplyError>),
) -> Result<Action, ReconcileError> {
    let now = ctx.clock.now();
    let unstopped = off.as_ref().and_then(|off| off.again);
    let outcome = Outcome { started: life.started, idle_since: life.idle_since, off, ..outcome };
    ctx.metrics.reconcile(status::reason(&outcome, now).as_str());
    let untold_for = tell(ctx, sandbox, &outcome, now).await?;
    // Asked for as late as can be: by now most watches have shown what the pass has written.
    let unseen = ctx.recent.look_again_in(&sandbox.uid().unwrap_or_default());
    let left = life.left(now);
    let look_again_in =
        untold_for.into_iter().chain(look_again_in).chain(unseen).chain(unstopped).chain(left).min();
    match (outcome.requeue(now).at_latest(look_again_in), error) {
        (Requeue::Backoff, Some(error)) => Err(ReconcileError::Apply(error)),
        (Requeue::Backoff, None) => {
            Ok(Action::requeue(left.map_or(BACKOFF_MAX, |left| left.min(BACKOFF_MAX))))
        }
        (requeue, _) => {
            ctx.failures.clear(&sandbox.uid().unwrap_or_default());
            Ok(match requeue {
                Requeue::After(time) => Action::requeue(time),
                Requeue::AwaitChange | Requeue::Backoff => Action::await_change(),
            })
        }
    }
}

/// Writes the status and tells Events if there is news, or says in what time it has to be told.
async fn tell(
    ctx: &Ctx,
    sandbox: &AgentSandbox,
    outcome: &Outcome,
    now: Timestamp,
) -> Result<Option<Duration>, ReconcileError> {
    let (old, uid) = (sandbox.status.as_ref(), sandbox.uid().unwrap_or_default());
    let tally = ctx.denials.of(&uid);
    let has_lifecycle = sandbox.spec.lifecycle.is_some();
    let status = status::status(sandbox, outcome, tally.as_ref(), now)
        .map(|new| ctx.progress.kept(new, has_lifecycle));
    let Some(status) = status.filter(|new| Some(new) != old) else { return Ok(None) };
    // A pass that failed comes again after a pause of its own, which may be long.
    let comes_in_time = outcome.requeue(now) != Requeue::Backoff;
    if let Some(wait) = ctx.progress.wait(&uid, old, &status, now).filter(|_| comes_in_time) {
        return Ok(Some(wait));
    }
    let written = ctx.writer.status(sandbox, &status).await.map_err(ReconcileError::Status)?;
    ctx.progress.tell(&uid, old, &status, now);
    let starts = |status: &AgentSandboxStatus| status.started_at.is_some();
    if starts(&status) && !written.status.as_ref().is_some_and(starts) {
        ctx.progress.lives_are_not_kept();
    }
    if status.egress.is_some() && written.status.is_some_and(|status| status.egress.is_none()) {
        ctx.denials.are_not_kept();
        return Ok(None);
    }
    let told = events::transitions(old, &status);
    events::publish(&ctx.recorder, ctx.writer.tenure(), sandbox, told).await;
    Ok(None)
}

/// When a failed pass is tried again: with a growing pause of this object's own.
#[must_use]
pub fn retry(sandbox: &AgentSandbox, error: &ReconcileError, ctx: &Ctx) -> Action {
    let (namespace, name) = (sandbox.namespace(), sandbox.name_any());
    let blocked = match error {
        ReconcileError::NoIdentity => None,
        // It went while the pass was under way, and needs no status any more.
        ReconcileError::Apply(source) | ReconcileError::Status(source) if source.is_gone_sandbox() => {
            tracing::debug!(sandbox.namespace = namespace, sandbox.name = name, "the sandbox is gone");
            return Action::await_change();
        }
        ReconcileError::Apply(source) | ReconcileError::Status(source) => Some(Blocked::from(source)),
    };
    let error = chain(error);
    if blocked == Some(Blocked::Conflict) {
        tracing::debug!(
            sandbox.namespace = namespace,
            sandbox.name = name,
            error,
            "somebody wrote in between"
        );
    } else {
        tracing::warn!(
            sandbox.namespace = namespace,
            sandbox.name = name,
            error,
            "a pass failed and is tried again"
        );
    }
    let uid = sandbox.uid().unwrap_or_default();
    let pause = match blocked {
        Some(Blocked::NamespaceTerminating) => return Action::await_change(),
        Some(Blocked::KindsUnknown(_)) => outcome::KINDS_RETRY,
        Some(_) => ctx.failures.pause(&uid),
        None => BUG_RETRY,
    };
    // What is out of bounds stops on time, and so does what has lived long enough.
    let due = ctx.breaches.due_in(&uid).into_iter().chain(finish::due_in(sandbox, ctx));
    Action::requeue(due.fold(pause, Duration::min))
}

/// An error and its causes, each once.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        Self { error, breach: None }
    }
}

#[cfg(test)]
mod tests;

//! What is done with a sandbox that is over: its power goes, its result is told, and then goes what is left of it.
//!
//! The order is the point. The proxy holds keys and is the only way out, and nothing is known from it: it goes first, whatever can be
//! told. The result is known from the agent's pod alone, which anybody may delete, so nothing of that is taken away before the result is in
//! the status, and an operator that dies in between finds it there or sees it again. The agent's pod stays, with its log and
//! nothing that runs; the walls stay until the sandbox is deleted, which is done here once nothing runs any more and it was kept as
//! long as its spec says.

use std::sync::Arc;
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::{Lifecycle, Mode, PowerState, ProgramStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::controller::Action;

use super::accept::Identity;
use super::apply::{self, ApplyError, End, Ending, LivePod};
use super::desired::{Child, ChildKind};
use super::life::{self, Cut, Life};
use super::observe::{self, Observed};
use super::outcome::{Left, Off, Outcome, Stage};
use super::{Ctx, ReconcileError, TEARDOWN_RETRY, breach, chain, status, tell, template};

/// A pod that does not end within this time is on a node that does not answer, mostly.
const ENDING_PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// How often it is looked at from then on, if its watch does not show it go.
const ENDING_RETRY_LATER: Duration = Duration::from_secs(30);
/// Longest pause between two attempts to end what has lived too long.
const LATE_RETRY: Duration = Duration::from_secs(10);

/// What is known of a sandbox's life. The end of a program that was not told yet is believed once the API server itself shows it; and that
/// it has run or been idle for too long, once the API server itself shows that the same pod still runs, for a watch may be behind.
///
/// # Errors
/// When the API server does not answer.
pub(super) async fn life(
    ctx: &Ctx,
    identity: &Identity,
    sandbox: &AgentSandbox,
    observed: &Observed,
) -> Result<Life, ReconcileError> {
    let (mut agent, now) = (observed.agent_pod(identity), ctx.clock.now());
    let started = ctx.memory.start(&identity.uid, life::started(sandbox, agent, now));
    let heard = ctx.denials.activities.of(&identity.uid);
    let began = |agent: Option<&Pod>| ctx.memory.began(&identity.uid, agent, now);
    let judged = |agent: Option<&Pod>, life| {
        life::idle::judged(life, sandbox, agent.map(|pod| (pod, began(agent))), heard, now)
    };
    let by = |agent: Option<&Pod>| judged(agent, life::life(sandbox, agent, (started, began(agent)), now));
    let mut life = by(agent);
    let live;
    if life::is_cut_now(sandbox, &life) {
        live = live_agent(ctx, identity, observed).await?;
        agent = live.as_ref();
        life = by(agent);
    }
    if let Some(seen) = ctx.memory.end(&identity.uid).filter(|_| !is_told(sandbox)) {
        return Ok(Life { over: Some(seen), ..life });
    }
    let by_its_pod = !is_told(sandbox) && life.over.as_ref().is_some_and(|over| over.exit_code.is_some());
    if !by_its_pod {
        return Ok(life);
    }
    let shown = apply::end_shown(&ctx.writer, identity, agent).await;
    if shown.is_err() && life::state(sandbox) == Some(PowerState::Suspended) {
        // Whatever it is, its proxy is to go, and nothing is asked for that.
        if let (_, Err(error)) = power_down(ctx, identity, observed, Ending::Proxies).await {
            tracing::warn!(error = chain(&error), "what is suspended could not be stopped");
        }
    }
    match shown.map_err(ReconcileError::Apply)? {
        End::Own => {
            life.over.iter().for_each(|over| ctx.memory.saw_end(&identity.uid, over));
            return Ok(life);
        }
        End::None => {}
        End::Forged(doomed) => {
            ctx.writer.delete(&identity.namespace, &doomed).await.map_err(ReconcileError::Apply)?;
        }
    }
    Ok(judged(agent, life::life_going_on(sandbox, started, now)))
}

/// The agent's pod that the watches show, as the API server itself shows it; none if it is gone, or another has followed it. Where that
/// is not known its proxy goes all the same: whatever has become of the agent, it has had its time.
async fn live_agent(
    ctx: &Ctx,
    identity: &Identity,
    observed: &Observed,
) -> Result<Option<Pod>, ReconcileError> {
    let Some(shown) = observed.agent_pod(identity) else { return Ok(None) };
    let live = ctx.writer.live_pod(&identity.namespace, &shown.name_any()).await;
    if live.is_err()
        && let (_, Err(error)) = power_down(ctx, identity, observed, Ending::Proxies).await
    {
        tracing::warn!(error = chain(&error), "the proxy of what has had its time could not be stopped");
    }
    let live = live.map_err(ReconcileError::Apply)?;
    Ok(live.filter(|live| live.metadata.uid == shown.metadata.uid))
}

/// Lets the agent's pod of a Task go: one whose end is told, and one on its way out of which nothing came.
///
/// # Errors
/// When the API server refuses or does not answer.
pub(super) async fn let_go(
    ctx: &Ctx,
    identity: &Identity,
    sandbox: &AgentSandbox,
    observed: &Observed,
    life: &Life,
) -> Result<(), ApplyError> {
    let Some(pod) = observed.agent_pod(identity).filter(|pod| apply::is_kept(*pod)) else { return Ok(()) };
    let is_untold = life.over.as_ref().is_some_and(|over| over.exit_code.is_some()) && !is_told(sandbox);
    let goes = pod.metadata.deletion_timestamp.is_some();
    if is_untold || !(goes || is_told(sandbox)) {
        return Ok(());
    }
    apply::release(&ctx.writer, identity, pod).await
}

/// One pass over a sandbox that is over.
///
/// # Errors
/// When the result could not be written, and nothing was taken away that shows it; or when a pod could not be ended.
pub(super) async fn finish(
    ctx: &Ctx,
    identity: &Identity,
    sandbox: &AgentSandbox,
    observed: &Observed,
    life: &Life,
    program: &ProgramStatus,
) -> Result<Action, ReconcileError> {
    // That it has lived long enough is known without its pod, once its start is told; how long one run has taken, or that it is idle, is not.
    let is_late = life::cut(program) == Some(Cut::Lifetime)
        && sandbox.status.as_ref().is_some_and(|status| status.started_at.is_some());
    let ending = if is_told(sandbox) || is_late { Ending::All } else { Ending::Proxies };
    let (Off { left, again }, stopped) = power_down(ctx, identity, observed, ending).await;
    let powerless = left == Left::Nothing;
    let class_name = sandbox.status.as_ref().and_then(|status| status.class_name.clone());
    let stage = Stage::Finished(Box::new(program.clone()), left);
    let (started, idle_since) = (life.started, life.idle_since);
    let outcome = Outcome { started, idle_since, ..Outcome::of(class_name, stage) };
    let now = ctx.clock.now();
    ctx.metrics.reconcile(status::reason(&outcome, now).as_str());
    let untold_for = tell(ctx, sandbox, &outcome, now).await?;
    stopped.map_err(ReconcileError::Apply)?;
    let again = match ending {
        Ending::Proxies => Some(TEARDOWN_RETRY),
        Ending::All | Ending::Every => again,
    };
    let expires = life::expires(sandbox, program, now).filter(|_| powerless && is_told(sandbox));
    let kept_for = match expires {
        Some(at) if at <= now => {
            let newest = observe::newest(Arc::new(sandbox.clone()), &ctx.recent);
            ctx.writer.delete_sandbox(&newest).await.map_err(ReconcileError::Apply)?;
            None
        }
        at => at.map(|at| life::until(at, now)),
    };
    ctx.failures.clear(&sandbox.uid().unwrap_or_default());
    ctx.breaches.end(&identity.uid);
    let next = kept_for.into_iter().chain(again).chain(untold_for).min();
    Ok(next.map_or_else(Action::await_change, Action::requeue))
}

/// Whether this sandbox may come to an end by itself.
pub(super) fn may_be_over(sandbox: &AgentSandbox) -> bool {
    let lifecycle = sandbox.spec.lifecycle.as_ref();
    let bounds = |one: &Lifecycle| one.max_lifetime.is_some() || one.idle_timeout.is_some();
    life::mode(sandbox) == Mode::Task || lifecycle.is_some_and(bounds)
}

/// Asks the API server itself whether a sandbox without an agent's pod is over, or goes: one whose end was told meanwhile is not run a
/// second time, however late the watch is. It is asked where a pod is to be made, and nowhere else.
pub(super) async fn has_not_happened(ctx: &Ctx, sandbox: &AgentSandbox) -> Result<(), ApplyError> {
    let shown = ctx.writer.shown(sandbox).await?;
    let is_over = is_told(&shown) || shown.metadata.deletion_timestamp.is_some();
    if is_over { Err(ApplyError::Late { name: sandbox.name_any() }) } else { Ok(()) }
}

/// How long a sandbox may yet live; of one that has lived too long, or is to have no power for now, how soon its end is tried again.
pub(super) fn due_in(sandbox: &AgentSandbox, ctx: &Ctx) -> Option<Duration> {
    let sandbox = &*template::living(&ctx.stores, &Arc::new(sandbox.clone()));
    if life::state(sandbox) == Some(PowerState::Suspended) {
        return Some(LATE_RETRY);
    }
    let (identity, now) = (Identity::of(sandbox)?, ctx.clock.now());
    let observed = observe::observed(&ctx.stores, &ctx.recent, &identity);
    let agent = observed.agent_pod(&identity);
    let started = ctx.memory.start(&identity.uid, life::started(sandbox, agent, now));
    let began = ctx.memory.began(&identity.uid, agent, now);
    let ends = life::life(sandbox, agent, (started, began), now).ends?;
    Some(if ends > now { life::until(ends, now) } else { LATE_RETRY })
}

fn is_told(sandbox: &AgentSandbox) -> bool {
    sandbox.status.as_ref().is_some_and(|status| status.program.is_some())
}

/// Ends what is to end; what may still run, and whether all of that could be asked for.
pub(super) async fn power_down(
    ctx: &Ctx,
    identity: &Identity,
    observed: &Observed,
    ending: Ending,
) -> (Off, Result<(), ApplyError>) {
    let left = apply::power_down(&ctx.writer, identity, ending).await;
    // An agent that stays until its end is told stays behind its walls, or not at all.
    let hurried = breach::hurry(ctx, identity, observed).await;
    match hurried.and(left) {
        Ok(left) if left.is_empty() => (Off { left: Left::Nothing, again: None }, Ok(())),
        Ok(left) => {
            let again = pause(&left, ctx.clock.now());
            let named = left.iter().map(|pod| on_its_node(&pod.doomed.name, observed)).collect();
            (Off { left: Left::Ending(named), again: Some(again) }, Ok(()))
        }
        Err(error) => (Off { left: Left::Unstopped(chain(&error)), again: Some(LATE_RETRY) }, Err(error)),
    }
}

/// When to look again at what does not end. The watch wakes earlier, where it shows the pod.
fn pause(left: &[LivePod], now: Timestamp) -> Duration {
    let lately = |by: Timestamp| now.duration_since(by) < ENDING_PATIENCE;
    let is_new = left.iter().any(|pod| pod.ending.is_none_or(lately));
    if is_new { TEARDOWN_RETRY } else { ENDING_RETRY_LATER }
}

/// The name of a pod, with its node as far as that is known.
fn on_its_node(name: &str, observed: &Observed) -> String {
    let node = observed.child(ChildKind::Pod, name).and_then(|child| match child {
        Child::Pod(pod) => pod.spec.as_ref()?.node_name.clone(),
        _ => None,
    });
    node.map_or_else(|| name.to_owned(), |node| format!("{name} on node {node}"))
}

//! Times of a sandbox's life: what a spec writes, and since when an agent has lived. Pure.
//!
//! A clock that decides when power ends is not set back by anybody: not by a node whose clock is wrong, not by a pod that
//! follows another, and not by taking a part of the status away. Where it is in doubt, more of the life has passed.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::ProgramStatus;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::Cut;
use crate::controller::desired::agent_pod::{AGENT, runs_once};
use crate::controller::status::{ConditionType, Reason};
use crate::quantity;

/// Clocks of two replicas differ by less.
pub(super) const SKEW_MAX: SignedDuration = SignedDuration::from_secs(60);
/// How the end of a container is called that could not be started.
const UNSTARTED: [&str; 2] = ["StartError", "ContainerCannotRun"];

/// A time as a spec writes it, `1h30m`; none if it is not one.
#[must_use]
pub fn parse(text: &str) -> Option<SignedDuration> {
    quantity::seconds(text).map(SignedDuration::from_secs)
}

/// When an agent of the sandbox first started, as far as anybody knows: the earliest of what was told and what its pod shows; none as
/// long as none has.
#[must_use]
pub fn started(sandbox: &AgentSandbox, agent: Option<&Pod>, now: Timestamp) -> Option<Timestamp> {
    let created = sandbox.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let told = sandbox.status.as_ref().and_then(|status| status.started_at.as_ref()).map(|time| time.0);
    let told = match told {
        // One that lies ahead was written by nobody of us, nor one before there was a sandbox.
        Some(told) if is_ahead(told, now) => created.or(Some(now)),
        Some(told) => Some(created.map_or(told, |created| told.max(created))),
        // It was said to have run, so it had started; when, somebody took away.
        None if has_run(sandbox) => created.or(Some(now)),
        None => None,
    };
    told.into_iter().chain(agent.and_then(|pod| started_in(pod, now))).min()
}

/// Whether a time lies ahead by more than clocks differ.
#[must_use]
pub fn is_ahead(time: Timestamp, now: Timestamp) -> bool {
    time > now.saturating_add(SKEW_MAX).unwrap_or(now)
}

/// Whether the sandbox was said to have an agent that has started. A reason that is also told of one that waits for its first start says
/// nothing: a wait of hours would count as life.
fn has_run(sandbox: &AgentSandbox) -> bool {
    ready(sandbox) == Some(Reason::Running.as_str()) || called_over(sandbox).is_some()
}

/// The end that the sandbox was said to have come to, by the condition alone.
#[must_use]
pub fn called_over(sandbox: &AgentSandbox) -> Option<Reason> {
    let ready = ready(sandbox)?;
    let mut ends = [Reason::Succeeded, Reason::Failed].into_iter().chain(Cut::ALL.map(Cut::reason));
    ends.find(|reason| reason.as_str() == ready)
}

/// When the end was told, by the condition that says of nothing but of what is over that no more is known of it.
#[must_use]
pub fn told_over(sandbox: &AgentSandbox) -> Option<Timestamp> {
    let conditions = &sandbox.status.as_ref()?.conditions;
    let is_it = |one: &&Condition| {
        one.type_ == ConditionType::Accepted.as_str() && one.reason == Reason::Finished.as_str()
    };
    conditions.iter().find(is_it).map(|one| one.last_transition_time.0)
}

/// The reason that was told of Ready.
fn ready(sandbox: &AgentSandbox) -> Option<&str> {
    let conditions = &sandbox.status.as_ref()?.conditions;
    conditions.iter().find(|one| one.type_ == ConditionType::Ready.as_str()).map(|one| one.reason.as_str())
}

/// When the agent of this pod first started; none as long as it has not.
#[must_use]
pub fn started_in(pod: &Pod, now: Timestamp) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let agent = status.container_statuses.iter().flatten().find(|one| one.name == AGENT)?;
    let first = [agent.last_state.as_ref(), agent.state.as_ref()].into_iter().flatten().find_map(start_of)?;
    // Of one that was started again, only the last two starts are told.
    let first = if agent.restart_count > 0 {
        status.start_time.as_ref().map_or(first, |time| time.0.min(first))
    } else {
        first
    };
    Some(seen(pod, first, now))
}

/// Whether the program of a Task runs in this pod.
#[must_use]
pub fn runs(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    let agent = containers.and_then(|all| all.iter().find(|one| one.name == AGENT));
    let running = agent.and_then(|agent| agent.state.as_ref()?.running.as_ref());
    running.is_some() && runs_once(pod)
}

/// How a program ended, with times that no node's clock can move out of what is known otherwise.
#[must_use]
pub fn bounded(program: ProgramStatus, pod: &Pod, now: Timestamp) -> ProgramStatus {
    let seen = |time: Option<Time>| time.map(|time| Time(seen(pod, time.0, now)));
    ProgramStatus {
        started_at: seen(program.started_at),
        finished_at: seen(program.finished_at).or(Some(Time(now))),
        ..program
    }
}

/// A time by a node's clock: not before the pod was made, and not later than now.
fn seen(pod: &Pod, time: Timestamp, now: Timestamp) -> Timestamp {
    let made = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    time.max(made).min(now)
}

fn start_of(state: &ContainerState) -> Option<Timestamp> {
    let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
    let ran = state
        .terminated
        .as_ref()
        .filter(|ended| !ended.reason.as_deref().is_some_and(|reason| UNSTARTED.contains(&reason)));
    let ended = ran.and_then(|ended| ended.started_at.as_ref());
    running.or(ended).map(|time| time.0)
}

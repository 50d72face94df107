//! The life of a sandbox: since when an agent of it has lived, how long one may, and whether it is over. Pure; time is an argument.
//!
//! What is over stays so. The result in the status is the fact that everything else follows from, so it is written before
//! what shows it is taken away, and no later sight of a pod changes it.

use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::{Mode, PowerState, ProgramStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::status::Reason;

pub mod idle;
mod program;
mod time;

pub use program::{ended, is_done, is_lost, never_began};
pub use time::{parse, started_in};

/// What ended a sandbox that did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// It had lived as long as it may.
    Lifetime,
    /// The run of its program had taken as long as one may.
    Deadline,
    /// Nothing had passed through its proxy for as long as may be.
    Idle,
}

impl Cut {
    const ALL: [Self; 3] = [Self::Lifetime, Self::Deadline, Self::Idle];

    /// The reason that is told of it.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Lifetime => Reason::LifetimeExceeded,
            Self::Deadline => Reason::DeadlineExceeded,
            Self::Idle => Reason::IdleTimeoutExceeded,
        }
    }
}

/// What becomes of the program when it ends.
#[must_use]
pub fn mode(sandbox: &AgentSandbox) -> Mode {
    sandbox.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.mode).unwrap_or(Mode::Service)
}

/// Whether the sandbox is to run for now; none where its spec does not say so.
#[must_use]
pub fn state(sandbox: &AgentSandbox) -> Option<PowerState> {
    sandbox.spec.lifecycle.as_ref()?.state
}

/// What is known of a sandbox's life.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Life {
    /// When an agent of it first started; none as long as none has.
    pub started: Option<Timestamp>,
    /// When it is to be stopped for good; none as long as that is not known, and for one without a bound.
    pub ends: Option<Timestamp>,
    /// How its program ended; none as long as it is to run.
    pub over: Option<ProgramStatus>,
    /// Since when nothing has passed through its proxy, where that is to be told.
    pub idle_since: Option<Timestamp>,
}

impl Life {
    /// The time that is left of it; none where that has no bound.
    #[must_use]
    pub fn left(&self, now: Timestamp) -> Option<Duration> {
        self.ends.map(|ends| until(ends, now))
    }
}

/// The time until then; whoever is woken after it finds that it has come, however it was rounded.
#[must_use]
pub fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(5)
}

/// When an agent of the sandbox first started, by what was told and what its pod shows.
#[must_use]
pub fn started(sandbox: &AgentSandbox, agent: Option<&Pod>, now: Timestamp) -> Option<Timestamp> {
    time::started(sandbox, agent, now)
}

/// What is known of a sandbox's life, from what was told and from its agent's pod: when an agent of it first started, and when the one in
/// this pod began. Its end is the one that was told, or else the program's own, or else that its time is up.
#[must_use]
pub fn life(
    sandbox: &AgentSandbox,
    agent: Option<&Pod>,
    (started, began): (Option<Timestamp>, Option<Timestamp>),
    now: Timestamp,
) -> Life {
    let own = match mode(sandbox) {
        Mode::Task => agent.and_then(|pod| Some(time::bounded(ended(pod)?, pod, now))),
        Mode::Service => None,
    };
    // A run that is stopped for now is to begin anew, however long its node takes to end it.
    let is_bounded = mode(sandbox) == Mode::Task && state(sandbox) != Some(PowerState::Suspended);
    let run = began.filter(|_| is_bounded && agent.is_some_and(time::runs));
    judged(sandbox, (started, run), own, now)
}

/// The same, where the program is not believed to have ended by itself.
#[must_use]
pub fn life_going_on(sandbox: &AgentSandbox, started: Option<Timestamp>, now: Timestamp) -> Life {
    judged(sandbox, (started, None), None, now)
}

/// By when an agent of the sandbox first started, and when the run of a Task's program did that goes on.
fn judged(
    sandbox: &AgentSandbox,
    (started, run): (Option<Timestamp>, Option<Timestamp>),
    own: Option<ProgramStatus>,
    now: Timestamp,
) -> Life {
    let lifecycle = sandbox.spec.lifecycle.as_ref();
    let bound = |cut, since: Option<Timestamp>, longest: Option<&String>| {
        let (since, longest) = since.zip(longest.and_then(|text| time::parse(text)))?;
        Some((since.saturating_add(longest).unwrap_or(now), since, cut))
    };
    let lifetime = bound(Cut::Lifetime, started, lifecycle.and_then(|one| one.max_lifetime.as_ref()));
    let deadline = bound(Cut::Deadline, run, lifecycle.and_then(|one| one.active_deadline.as_ref()));
    let first = lifetime.into_iter().chain(deadline).min_by_key(|(at, ..)| *at);
    let told = || sandbox.status.as_ref().and_then(|status| status.program.clone());
    let called = || Some(end(time::called_over(sandbox)?, started, now));
    let late = || {
        let (_, since, cut) = first.filter(|(at, ..)| *at <= now)?;
        Some(end(cut.reason(), Some(since), now))
    };
    let over = told().or(own).or_else(called).or_else(late);
    Life { started, ends: first.map(|(at, ..)| at), over, idle_since: None }
}

/// When a sandbox that is over is to be deleted; none if somebody else does that.
#[must_use]
pub fn expires(sandbox: &AgentSandbox, program: &ProgramStatus, now: Timestamp) -> Option<Timestamp> {
    let kept = sandbox.spec.lifecycle.as_ref()?.ttl_after_finished.as_deref().and_then(time::parse)?;
    // Without a time that can be true nobody can say since when it is over.
    let finished = program.finished_at.as_ref().map(|time| time.0).filter(|at| !time::is_ahead(*at, now))?;
    let created = sandbox.metadata.creation_timestamp.as_ref().map_or(finished, |time| time.0);
    // Whoever waits for the result has that long from when it was told; a node's clock may have been behind.
    let told = time::told_over(sandbox).filter(|at| !time::is_ahead(*at, now)).unwrap_or(created);
    finished.max(created).max(told).saturating_add(kept).ok()
}

/// Whether it is over by how long its agent has run, or been idle, and nothing of that was told: that is known from the agent's pod alone.
#[must_use]
pub fn is_cut_now(sandbox: &AgentSandbox, life: &Life) -> bool {
    let is_told = sandbox.status.as_ref().is_some_and(|status| status.program.is_some());
    let cut = life.over.as_ref().and_then(cut);
    matches!(cut, Some(Cut::Deadline | Cut::Idle)) && !is_told && time::called_over(sandbox).is_none()
}

/// What ended the sandbox; none where its program did by itself.
#[must_use]
pub fn cut(program: &ProgramStatus) -> Option<Cut> {
    let is_it = |cut: &Cut| program.exit_code.is_none() && program.reason == cut.reason().as_str();
    Cut::ALL.into_iter().find(is_it)
}

/// An end that no pod shows.
fn end(reason: Reason, started: Option<Timestamp>, now: Timestamp) -> ProgramStatus {
    ProgramStatus {
        exit_code: None,
        reason: reason.as_str().to_owned(),
        started_at: started.map(Time),
        finished_at: Some(Time(now)),
        last_words: None,
    }
}

#[cfg(test)]
mod tests;

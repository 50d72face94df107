//! Whether a sandbox lies idle: for how long nothing has passed through its proxy, and whether that is too long. Pure; time is an argument.
//!
//! What is not known is not idle. A sandbox is over only once its own proxy has said, while its agent ran, that nothing has passed for all
//! of the time; so a proxy that does not say, and an operator that was away, reaches no proxy or asks again after a change of clocks, ends
//! nothing. Each new agent has all of the time, and so has one that is resumed. A proxy that was started anew and has seen nothing takes
//! over what was counted of the one before it; the time in between, in which nobody saw what passed, does not count.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::PowerState;
use agentsandbox_policy::Idle;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Cut, Life, end, state, time};

/// Whole seconds, an answer that took its time: two reports of one moment lie less far apart.
const JITTER_MAX: SignedDuration = SignedDuration::from_secs(5);

/// What a sandbox's proxy has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When something last passed, as far as anybody knows; later by as much as nobody saw.
    pub active: Timestamp,
    /// When it said so.
    pub at: Timestamp,
}

/// The agent's pod, and when the agent began in it.
pub type Agent<'a> = Option<(&'a Pod, Option<Timestamp>)>;

impl Heard {
    /// The same, by a clock by which it was said at this time: one that was set since must not make anything idle.
    #[must_use]
    pub fn said(self, at: Timestamp) -> Self {
        Self { active: earlier(at, self.at.duration_since(self.active)), at }
    }
}

/// For how long nothing may pass; none where that is not bounded.
#[must_use]
pub fn timeout(sandbox: &AgentSandbox) -> Option<SignedDuration> {
    time::parse(sandbox.spec.lifecycle.as_ref()?.idle_timeout.as_deref()?)
}

/// What is known once a proxy has said this, after what was known `before`.
#[must_use]
pub fn hears(before: Option<Heard>, sandbox: &AgentSandbox, report: Idle, now: Timestamp) -> Heard {
    let seconds = i64::try_from(report.seconds).unwrap_or(i64::MAX);
    let since = earlier(now, SignedDuration::from_secs(seconds));
    let active = match before {
        Some(before) if report.has_passed => {
            let is_same = before.active.duration_since(since).abs() <= JITTER_MAX;
            if is_same { before.active.max(since) } else { since }
        }
        None if report.has_passed => since,
        // This proxy has seen nothing since it began, and what passed between the last word of the one before it and then, nobody.
        Some(before) => {
            let unseen = since.duration_since(before.at).max(SignedDuration::ZERO);
            before.active.saturating_add(unseen).unwrap_or(since)
        }
        // Half of the time had been seen when that was told.
        None => told_before(sandbox).map_or(since, |told| {
            let half = timeout(sandbox).unwrap_or_default() / 2;
            told.max(earlier(since, half)).min(since)
        }),
    };
    Heard { active: active.min(now), at: now }
}

/// The same life, over if the sandbox was idle for too long, and with what is to be told of that.
#[must_use]
pub fn judged(
    life: Life,
    sandbox: &AgentSandbox,
    agent: Agent<'_>,
    heard: Option<Heard>,
    now: Timestamp,
) -> Life {
    let idle_since = told(sandbox, agent, heard);
    let is_over = life.over.is_none() && is_exceeded(sandbox, agent, heard);
    let over = if is_over { Some(end(Cut::Idle.reason(), life.started, now)) } else { life.over };
    Life { over, idle_since, ..life }
}

/// Whether a pass over the sandbox would find it over, or something to be told of it.
#[must_use]
pub fn is_news(sandbox: &AgentSandbox, agent: Agent<'_>, heard: Option<Heard>) -> bool {
    let is_over = sandbox.metadata.deletion_timestamp.is_some()
        || sandbox.status.as_ref().is_some_and(|status| status.program.is_some());
    let tells = || told(sandbox, agent, heard) != told_before(sandbox);
    timeout(sandbox).is_some() && !is_over && (is_exceeded(sandbox, agent, heard) || tells())
}

/// Whether a proxy has said that nothing has passed for too long while an agent ran.
fn is_exceeded(sandbox: &AgentSandbox, agent: Agent<'_>, heard: Option<Heard>) -> bool {
    let Some((timeout, began)) = counts(sandbox, agent) else { return false };
    heard.is_some_and(|heard| heard.at.duration_since(heard.active.max(began)) >= timeout)
}

/// When something last passed, where that is half of the time ago or longer; none where it is not, and where no agent runs. A sandbox
/// that is used, and one that is not, are told of once: what was told stays until it is another thing.
fn told(sandbox: &AgentSandbox, agent: Agent<'_>, heard: Option<Heard>) -> Option<Timestamp> {
    let (timeout, began) = counts(sandbox, agent)?;
    let before = told_before(sandbox);
    let Some(heard) = heard else { return before };
    let since = heard.active.max(began);
    if heard.at.duration_since(since) < timeout / 2 {
        return None;
    }
    let is_same = |told: &Timestamp| told.duration_since(since).abs() <= JITTER_MAX;
    before.filter(is_same).or(Some(since))
}

/// The time that is bounded, and since when an agent runs; none where nothing counts.
fn counts(sandbox: &AgentSandbox, agent: Agent<'_>) -> Option<(SignedDuration, Timestamp)> {
    let timeout = timeout(sandbox).filter(|_| state(sandbox) != Some(PowerState::Suspended))?;
    let (agent, began) = agent?;
    began.filter(|_| !super::program::is_over(agent)).map(|began| (timeout, began))
}

fn told_before(sandbox: &AgentSandbox) -> Option<Timestamp> {
    sandbox.status.as_ref()?.last_activity_time.as_ref().map(|time| time.0)
}

fn earlier(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_sub(by).unwrap_or(Timestamp::MIN)
}

//! When news is told. What gets better step by step while a sandbox starts is told at most once in a while, so that a
//! start costs few writes; whatever is final, or gets worse, is told at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentsandbox_crds::AgentSandboxStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::status::{ConditionType, Reason};

/// An ordinary start takes less than this, and so has two statuses: one that it began, and one that it is ready. A start
/// that hangs says where at the latest after this time.
pub const PROGRESS_INTERVAL: SignedDuration = SignedDuration::from_secs(3);
/// An agent can have itself refused without end, and ask now and then; how often and when is told no more often than this, after the first
/// time.
pub const DENIALS_INTERVAL: SignedDuration = SignedDuration::from_secs(60);

/// When each sandbox's status was last written, by UID. It is lost with the process, which then tells at once.
#[derive(Debug, Default)]
pub struct Progress {
    all: Mutex<HashMap<String, Told>>,
    /// Whether an older CRD dropped the start that was told of a sandbox.
    drops_lives: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    last: Timestamp,
    /// When what was denied, or when something last passed, was last told.
    denials: Option<Timestamp>,
}

impl Progress {
    /// How long a new status can wait; none when it is to be written now.
    #[must_use]
    pub fn wait(
        &self,
        uid: &str,
        old: Option<&AgentSandboxStatus>,
        new: &AgentSandboxStatus,
        now: Timestamp,
    ) -> Option<Duration> {
        let (old, told) = (old?, *self.told().get(uid)?);
        let left = |since: Timestamp, interval: SignedDuration| {
            let gone = now.duration_since(since);
            // A clock that was set back must not silence anybody.
            let left = if gone.is_negative() { SignedDuration::ZERO } else { interval - gone };
            Duration::try_from(left).ok().filter(|left| !left.is_zero())
        };
        let without = AgentSandboxStatus {
            egress: old.egress.clone(),
            last_activity_time: old.last_activity_time.clone(),
            ..new.clone()
        };
        if old != new && without == *old {
            return left(told.denials?, DENIALS_INTERVAL);
        }
        is_progress(old, new).then(|| left(told.last, PROGRESS_INTERVAL)).flatten()
    }

    /// What can be told of a status: all of it, or without the start where the CRD is older than the operator and drops that, which
    /// would be written again in each pass. One that has a lifecycle is not of such a CRD, and its start is told whatever happens.
    #[must_use]
    pub fn kept(&self, mut status: AgentSandboxStatus, has_lifecycle: bool) -> AgentSandboxStatus {
        if !has_lifecycle && self.drops_lives.load(Ordering::Relaxed) {
            status.started_at = None;
        }
        status
    }

    /// The CRD dropped the start that was told of a sandbox.
    pub fn lives_are_not_kept(&self) {
        if !self.drops_lives.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the AgentSandbox CRD is older than the operator and drops status.startedAt: apply the chart's crds folder"
            );
        }
    }

    /// A status was written.
    pub fn tell(
        &self,
        uid: &str,
        old: Option<&AgentSandboxStatus>,
        new: &AgentSandboxStatus,
        now: Timestamp,
    ) {
        let mut all = self.told();
        // Who was told longer ago than any interval is told at once, as one that is not here.
        all.retain(|_, told| now.duration_since(told.last) < DENIALS_INTERVAL);
        let before = all.get(uid).and_then(|told| told.denials);
        let is_same = old.and_then(|old| old.egress.as_ref()) == new.egress.as_ref()
            && old.and_then(|old| old.last_activity_time.as_ref()) == new.last_activity_time.as_ref();
        let denials = if is_same { before } else { Some(now) };
        all.insert(uid.to_owned(), Told { last: now, denials });
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashMap<String, Told>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether only steps on the way to ready are new: for the same spec and class, nothing that was True is so no more,
/// nothing turned False, neither summary changed, and every reason that is new is one of a start.
fn is_progress(old: &AgentSandboxStatus, new: &AgentSandboxStatus) -> bool {
    let before = |type_: &str| old.conditions.iter().find(|condition| condition.type_ == type_);
    old.observed_generation == new.observed_generation
        && (&old.started_at, &old.program) == (&new.started_at, &new.program)
        && old.class_name == new.class_name
        && old.conditions.len() == new.conditions.len()
        && new.conditions.iter().all(|new| before(&new.type_).is_some_and(|old| no_worse(old, new)))
}

fn no_worse(old: &Condition, new: &Condition) -> bool {
    let summary = [ConditionType::Ready, ConditionType::Stalled].iter().any(|one| one.as_str() == new.type_);
    match (old.status.as_str(), new.status.as_str()) {
        (before, after) if before == after => {
            before == "True" && new.type_ != ConditionType::Reconciling.as_str()
                || old.reason == new.reason && old.message == new.message
                || STEPS.iter().any(|step| step.as_str() == new.reason)
        }
        _ if summary => false,
        ("True", _) | (_, "False") => false,
        _ => true,
    }
}

/// What an ordinary start passes through, and an end.
const STEPS: [Reason; 5] = [
    Reason::ProxyStarting,
    Reason::FencePending,
    Reason::ProbePending,
    Reason::AgentStarting,
    Reason::Terminating,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::from;
    use agentsandbox_crds::sandbox::EgressStatus;
    use serde_json::json;

    fn status(conditions: &[(&str, &str, &str)]) -> AgentSandboxStatus {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(type_, status, reason)| {
                json!({"type": type_, "status": status, "reason": reason, "message": "",
                    "lastTransitionTime": "2030-01-01T00:00:00Z"})
            })
            .collect();
        from(json!({"observedGeneration": 1, "className": "gvisor", "conditions": conditions}))
    }

    fn starting() -> AgentSandboxStatus {
        status(&[
            ("ProxyReady", "Unknown", "ProxyStarting"),
            ("NetworkIsolated", "Unknown", "FencePending"),
            ("Ready", "False", "ProxyStarting"),
            ("Stalled", "False", "Settled"),
        ])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_900_000_000 + seconds).unwrap()
    }

    #[test]
    fn a_step_on_the_way_waits_until_the_interval_is_over_and_no_longer() {
        let (progress, old) = (Progress::default(), starting());
        let mut new = old.clone();
        new.conditions[0].status = "True".to_owned();
        new.conditions[2].reason = "AgentStarting".to_owned();
        assert_eq!(progress.wait("u", Some(&old), &new, at(0)), None, "nothing was told yet");
        progress.tell("u", None, &old, at(0));
        assert_eq!(progress.wait("u", Some(&old), &new, at(1)), Some(Duration::from_secs(2)));
        assert_eq!(progress.wait("v", Some(&old), &new, at(1)), None, "another sandbox");
        assert_eq!(progress.wait("u", Some(&old), &new, at(3)), None);
        assert_eq!(progress.wait("u", Some(&old), &new, at(-9)), None, "the clock was set back");
        assert_eq!(progress.wait("u", None, &new, at(1)), None, "somebody emptied the status");
    }

    #[test]
    fn what_is_final_or_worse_is_told_at_once() {
        let progress = Progress::default();
        let mut old = starting();
        old.conditions[0].status = "True".to_owned();
        progress.tell("u", None, &old, at(0));
        type Change = fn(&mut AgentSandboxStatus);
        let changes: [(&str, Change); 11] = [
            ("ready", |s| s.conditions[2].status = "True".to_owned()),
            ("stalled", |s| s.conditions[3].status = "True".to_owned()),
            ("a loss", |s| s.conditions[0].status = "Unknown".to_owned()),
            ("a failure", |s| s.conditions[1].status = "False".to_owned()),
            ("a reason that is no step", |s| s.conditions[2].reason = "AgentFailing".to_owned()),
            ("what is said of it", |s| s.conditions[3].message = "an agent runs".to_owned()),
            ("a new spec", |s| s.observed_generation = Some(2)),
            ("another class", |s| s.class_name = Some("container".to_owned())),
            ("a start", |s| s.started_at = Some(from(json!("2030-01-01T00:00:00Z")))),
            ("an end", |s| s.program = Some(from(json!({"reason": "Completed"})))),
            ("a condition fewer", |s| drop(s.conditions.pop())),
        ];
        for (what, change) in changes {
            let mut new = old.clone();
            change(&mut new);
            assert_eq!(progress.wait("u", Some(&old), &new, at(1)), None, "{what}");
        }
        let mut step = old.clone();
        step.conditions[1].status = "True".to_owned();
        assert!(progress.wait("u", Some(&old), &step, at(1)).is_some(), "a step waits");
    }

    #[test]
    fn the_first_denial_is_told_at_once_and_more_of_them_once_a_minute() {
        let denied = |count| {
            let egress = Some(EgressStatus { denied: count, latest: Vec::new() });
            AgentSandboxStatus { egress, ..starting() }
        };
        let progress = Progress::default();
        progress.tell("u", None, &starting(), at(0));
        assert_eq!(progress.wait("u", Some(&starting()), &denied(1), at(1)), None);
        progress.tell("u", Some(&starting()), &denied(1), at(1));
        assert_eq!(progress.wait("u", Some(&denied(1)), &denied(2), at(11)), Some(Duration::from_secs(50)));
        assert_eq!(progress.wait("u", Some(&denied(1)), &denied(2), at(61)), None);
        let mut worse = denied(2);
        worse.conditions[1].status = "False".to_owned();
        assert_eq!(progress.wait("u", Some(&denied(1)), &worse, at(11)), None, "other news takes it along");
    }

    #[test]
    fn when_something_last_passed_is_told_once_a_minute_at_most() {
        let idle = AgentSandboxStatus {
            last_activity_time: Some(from(json!("2030-01-01T00:00:00Z"))),
            ..starting()
        };
        let progress = Progress::default();
        progress.tell("u", None, &starting(), at(0));
        assert_eq!(progress.wait("u", Some(&starting()), &idle, at(1)), None, "the first time");
        progress.tell("u", Some(&starting()), &idle, at(1));
        assert_eq!(progress.wait("u", Some(&idle), &starting(), at(11)), Some(Duration::from_secs(50)));
        assert_eq!(progress.wait("u", Some(&idle), &starting(), at(61)), None);
        let over = AgentSandboxStatus { program: Some(from(json!({"reason": "Completed"}))), ..starting() };
        assert_eq!(progress.wait("u", Some(&idle), &over, at(11)), None, "an end takes it along");
    }

    #[test]
    fn only_who_was_told_lately_takes_room() {
        let progress = Progress::default();
        for number in 0..100 {
            progress.tell(&number.to_string(), None, &starting(), at(number));
        }
        assert!(progress.told().len() <= 60, "{}", progress.told().len());
    }
}

//! When news is told. What gets better step by step while a sandbox starts is told at most once in a while, so that a
//! start costs few writes; whatever is final, or gets worse, is told at once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentsandbox_crds::AgentSandboxStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::status::ConditionType;

/// An ordinary start takes less than this, and so has two statuses: one that it began, and one that it is ready. A start
/// that hangs says where at the latest after this time.
pub const PROGRESS_INTERVAL: SignedDuration = SignedDuration::from_secs(3);

/// When each sandbox's status was last written, by UID. It is lost with the process, which then tells at once.
#[derive(Debug, Default)]
pub struct Progress(Mutex<HashMap<String, Timestamp>>);

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
        let last = *self.told().get(uid)?;
        // A clock that was set back must not silence anybody.
        let since = now.duration_since(last);
        if since.is_negative() || !old.is_some_and(|old| is_progress(old, new)) {
            return None;
        }
        Duration::try_from(PROGRESS_INTERVAL - since).ok().filter(|left| !left.is_zero())
    }

    /// A status was written.
    pub fn tell(&self, uid: &str, now: Timestamp) {
        self.told().insert(uid.to_owned(), now);
    }

    /// The sandbox is gone.
    pub fn forget(&self, uid: &str) {
        self.told().remove(uid);
    }

    fn told(&self) -> std::sync::MutexGuard<'_, HashMap<String, Timestamp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether only steps on the way to ready are new: for the same spec and class, nothing that was True is so no more,
/// nothing turned False, and neither summary changed.
fn is_progress(old: &AgentSandboxStatus, new: &AgentSandboxStatus) -> bool {
    let before = |type_: &str| old.conditions.iter().find(|condition| condition.type_ == type_);
    old.observed_generation == new.observed_generation
        && old.class_name == new.class_name
        && old.conditions.len() == new.conditions.len()
        && new.conditions.iter().all(|new| before(&new.type_).is_some_and(|old| no_worse(old, new)))
}

fn no_worse(old: &Condition, new: &Condition) -> bool {
    let summary = [ConditionType::Ready, ConditionType::Stalled].iter().any(|one| one.as_str() == new.type_);
    match (old.status.as_str(), new.status.as_str()) {
        (old, new) if old == new => true,
        _ if summary => false,
        ("True", _) | (_, "False") => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::from;
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
            ("ProxyReady", "Unknown", "Starting"),
            ("NetworkIsolated", "Unknown", "Starting"),
            ("Ready", "False", "Starting"),
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
        assert_eq!(progress.wait("u", Some(&old), &new, at(0)), None, "nothing was told yet");
        progress.tell("u", at(0));
        assert_eq!(progress.wait("u", Some(&old), &new, at(1)), Some(Duration::from_secs(2)));
        assert_eq!(progress.wait("v", Some(&old), &new, at(1)), None, "another sandbox");
        assert_eq!(progress.wait("u", Some(&old), &new, at(3)), None);
        assert_eq!(progress.wait("u", Some(&old), &new, at(-9)), None, "the clock was set back");
        assert_eq!(progress.wait("u", None, &new, at(1)), None, "somebody emptied the status");
        progress.forget("u");
        assert_eq!(progress.wait("u", Some(&old), &new, at(1)), None);
    }

    #[test]
    fn what_is_final_or_worse_is_told_at_once() {
        let progress = Progress::default();
        progress.tell("u", at(0));
        let mut old = starting();
        old.conditions[0].status = "True".to_owned();
        type Change = fn(&mut AgentSandboxStatus);
        let changes: [(&str, Change); 7] = [
            ("ready", |s| s.conditions[2].status = "True".to_owned()),
            ("stalled", |s| s.conditions[3].status = "True".to_owned()),
            ("a loss", |s| s.conditions[0].status = "Unknown".to_owned()),
            ("a failure", |s| s.conditions[1].status = "False".to_owned()),
            ("a new spec", |s| s.observed_generation = Some(2)),
            ("another class", |s| s.class_name = Some("container".to_owned())),
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
}

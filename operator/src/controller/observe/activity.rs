//! What proxies have said of when something last passed through them. It is lost with the process, and heard anew; what is made of it
//! is for [`idle`](crate::controller::life::idle) to say.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentsandbox_crds::AgentSandbox;
use agentsandbox_policy::Idle;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use tokio::time::Instant;

use crate::controller::life::idle::{self, Heard};

/// What was heard, by the sandbox's UID.
#[derive(Debug, Default)]
pub struct Activities {
    heard: Mutex<HashMap<String, (Heard, Instant)>>,
}

impl Activities {
    /// What a sandbox's proxy has said last; none as long as this operator has heard nothing of it.
    #[must_use]
    pub fn of(&self, sandbox_uid: &str) -> Option<Heard> {
        self.all().get(sandbox_uid).map(|(heard, _)| *heard)
    }

    /// Takes in what a sandbox's proxy says.
    pub fn learn(&self, sandbox: &AgentSandbox, report: Idle, now: Timestamp) {
        let mut all = self.all();
        let uid = sandbox.uid().unwrap_or_default();
        let before = all.get(&uid).map(|(heard, at)| {
            let since = SignedDuration::try_from(at.elapsed()).unwrap_or(SignedDuration::MAX);
            heard.said(now.saturating_sub(since).unwrap_or(Timestamp::MIN))
        });
        all.insert(uid, (idle::hears(before, sandbox, report, now), Instant::now()));
    }

    /// Forgets all sandboxes but these.
    pub fn keep(&self, sandbox_uids: &BTreeSet<String>) {
        self.all().retain(|uid, _| sandbox_uids.contains(uid));
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, (Heard, Instant)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::fixtures::{from, sandbox};

    fn idle(seconds: u64, has_passed: bool) -> Idle {
        Idle { seconds, has_passed }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_proxy_said_last_is_known_until_its_sandbox_is_gone_and_ages_by_no_silence() {
        let (activities, sandbox) = (Activities::default(), sandbox(|_| ()));
        let uid = sandbox.uid().unwrap();
        assert_eq!(activities.of(&uid), None);
        let now = at("2026-01-01T01:00:00Z");
        activities.learn(&sandbox, idle(60, true), now);
        tokio::time::advance(Duration::from_secs(36_000)).await;
        let heard = Heard { active: at("2026-01-01T00:59:00Z"), at: now };
        assert_eq!(activities.of(&uid), Some(heard));
        activities.keep(&BTreeSet::new());
        assert_eq!(activities.of(&uid), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_makes_nothing_idle() {
        let sandbox = sandbox(|s| s.spec.lifecycle = Some(from(json!({"idleTimeout": "30m"}))));
        let activities = Activities::default();
        activities.learn(&sandbox, idle(60, false), at("2026-01-01T01:00:00Z"));
        tokio::time::advance(Duration::from_secs(15)).await;
        activities.learn(&sandbox, idle(75, false), at("2026-01-01T05:00:15Z"));
        let heard = activities.of(&sandbox.uid().unwrap()).unwrap();
        assert_eq!(heard.at.duration_since(heard.active), SignedDuration::from_secs(75));
    }
}

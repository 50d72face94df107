//! What this process remembers of sandboxes beside what is written down: when their agents first started, and which of their pods failed
//! before the program was started.
//!
//! A start that was seen counts though somebody takes it out of the status, or keeps it from being written. Of a Task whose fence, or
//! the step behind it, has failed the kubelet starts nothing a second time, so another pod follows, after a pause that grows like the
//! kubelet's own; what the failed one found is told until the next has found something, for a verdict that comes and goes with each pod
//! is none to wait for. An operator that is started anew begins with what is written down, and with the shortest pause.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::life;
use super::plan::spec_hash;
use crate::backoff::Jitter;

/// The kubelet's own pauses between two starts of a container are from 10 seconds to 5 minutes.
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// A pod that failed before its program was started.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// As it was when it had failed.
    pub pod: Pod,
    /// When another may follow it.
    pub until: Timestamp,
    /// How many of the same spec have failed so, one after the other.
    count: u32,
}

/// What is remembered, by the sandbox's UID.
#[derive(Debug, Default)]
pub struct Memory {
    jitter: Jitter,
    starts: Mutex<HashMap<String, Timestamp>>,
    failed: Mutex<HashMap<String, Failed>>,
}

impl Memory {
    /// Empty; pauses are drawn by `jitter`.
    #[must_use]
    pub fn drawing(jitter: Jitter) -> Self {
        Self { jitter, ..Self::default() }
    }

    /// When an agent of the sandbox first started, as far as it was ever seen; `seen` is what is seen now.
    pub fn start(&self, uid: &str, seen: Option<Timestamp>) -> Option<Timestamp> {
        let mut all = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.get(uid).copied().into_iter().chain(seen).min()?;
        all.insert(uid.to_owned(), first);
        Some(first)
    }

    /// Takes note of the agent's pod, and answers with the last one that failed before its program was started; none once a program
    /// was.
    pub fn failed(&self, uid: &str, agent: Option<&Pod>, now: Timestamp) -> Option<Failed> {
        let mut all = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(uid);
        let Some(pod) = agent else { return before.cloned() };
        if life::started_in(pod, now).is_some() {
            return all.remove(uid).and(None);
        }
        let is_known = before.is_some_and(|before| before.pod.metadata.uid == pod.metadata.uid);
        // One that is on its way out may have failed for that.
        if is_known || pod.metadata.deletion_timestamp.is_some() || !life::never_began(pod) {
            return before.cloned();
        }
        let alike = before.filter(|before| spec_hash(&before.pod) == spec_hash(pod));
        let count = alike.map_or(0, |before| before.count).saturating_add(1);
        let pause = self.jitter.pause(uid, count, PAUSE_MIN, PAUSE_MAX);
        let until = SignedDuration::try_from(pause).ok().and_then(|pause| now.checked_add(pause).ok());
        let failed = Failed { pod: pod.clone(), until: until.unwrap_or(now), count };
        all.insert(uid.to_owned(), failed.clone());
        Some(failed)
    }

    /// Forgets a sandbox.
    pub fn forget(&self, uid: &str) {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests;

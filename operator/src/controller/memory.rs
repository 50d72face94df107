//! What this process remembers of sandboxes beside what is written down: when their agents first started, how programs of Tasks ended that
//! are not told of yet, which pods of Tasks are over without an end of their program, and where proxies were let out while no list of
//! templates had come.
//!
//! A start that was seen counts though somebody takes it out of the status, or keeps it from being written. Of a Task whose fence, or
//! the step behind it, has failed, or whose pod was evicted, the kubelet starts nothing a second time, so another pod follows, after a pause
//! that grows like the kubelet's own: a Task that fills its disk each time would begin each time anew. What a fence found is told until
//! the next has found something, for a verdict that comes and goes with each pod is none to wait for. An operator that is started anew begins with what is written down, and with the shortest pause.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use agentsandbox_crds::sandbox::ProgramStatus;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyEgressRule};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::life;
use super::plan::spec_hash;
use crate::backoff::Jitter;

/// The kubelet's own pauses between two starts of a container are from 10 seconds to 5 minutes.
const PAUSE_MIN: Duration = Duration::from_secs(10);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// A pod of a Task that is over without an end of its program.
#[derive(Clone, Debug, PartialEq)]
pub struct Failed {
    /// As it was then.
    pub pod: Pod,
    /// When another may follow it.
    pub until: Timestamp,
    /// Whether a program was started since: what its fence found is of the past.
    pub is_past: bool,
    /// How many of the same spec were lost so.
    count: u32,
}

/// What is remembered, by the sandbox's UID.
#[derive(Debug, Default)]
pub struct Memory {
    jitter: Jitter,
    starts: Mutex<HashMap<String, Timestamp>>,
    /// Of the latest agent's pod, its UID and when the agent first started in it.
    began: Mutex<HashMap<String, (Option<String>, Timestamp)>>,
    failed: Mutex<HashMap<String, Failed>>,
    ends: Mutex<HashMap<String, ProgramStatus>>,
    ways: Mutex<HashMap<String, Vec<NetworkPolicyEgressRule>>>,
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

    /// When the agent first started in this pod of the sandbox, as far as it was ever seen: a start that a node's clock puts ahead is not
    /// seen later each time. None as long as it has not.
    pub fn began(&self, uid: &str, agent: Option<&Pod>, now: Timestamp) -> Option<Timestamp> {
        let agent = agent?;
        let seen = life::started_in(agent, now)?;
        let mut all = self.began.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.get(uid).filter(|(pod, _)| *pod == agent.metadata.uid).map(|(_, began)| *began);
        let first = before.map_or(seen, |before| before.min(seen));
        all.insert(uid.to_owned(), (agent.metadata.uid.clone(), first));
        Some(first)
    }

    /// Takes note of how the sandbox's program has ended, by the API server's own word: it counts though its pod goes before it is told.
    pub fn saw_end(&self, uid: &str, program: &ProgramStatus) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), program.clone());
    }

    /// How the sandbox's program was seen to have ended.
    pub fn end(&self, uid: &str) -> Option<ProgramStatus> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).get(uid).cloned()
    }

    /// Takes note of the agent's pod, and answers with the last one of a Task that was over without an end of its program.
    pub fn failed(&self, uid: &str, agent: Option<&Pod>, now: Timestamp) -> Option<Failed> {
        let mut all = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(before), Some(pod)) = (all.get_mut(uid), agent) {
            let is_known = before.pod.metadata.uid == pod.metadata.uid;
            before.is_past |= !is_known && life::started_in(pod, now).is_some();
        }
        let before = all.get(uid);
        let is_known = |pod: &Pod| before.is_some_and(|before| before.pod.metadata.uid == pod.metadata.uid);
        let Some(pod) = agent.filter(|pod| life::is_lost(pod) && !is_known(pod)) else {
            return before.cloned();
        };
        let alike = before.filter(|before| spec_hash(&before.pod) == spec_hash(pod));
        let count = alike.map_or(0, |before| before.count).saturating_add(1);
        let pause = self.jitter.pause(uid, count, PAUSE_MIN, PAUSE_MAX);
        let until = SignedDuration::try_from(pause).ok().and_then(|pause| now.checked_add(pause).ok());
        let is_past = !life::never_began(pod);
        let failed = Failed { pod: pod.clone(), until: until.unwrap_or(now), is_past, count };
        all.insert(uid.to_owned(), failed.clone());
        Some(failed)
    }

    /// Where the sandbox's proxy was let out by the wall that stood when this was first asked; nowhere where none stood. What somebody does to
    /// the wall after that counts for nothing.
    pub fn way_out(&self, uid: &str, standing: Option<&NetworkPolicy>) -> Vec<NetworkPolicyEgressRule> {
        let mut all = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let egress = || standing.and_then(|wall| wall.spec.as_ref()?.egress.clone()).unwrap_or_default();
        all.entry(uid.to_owned()).or_insert_with(egress).clone()
    }

    /// Forgets a sandbox.
    pub fn forget(&self, uid: &str) {
        self.starts.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.began.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        self.ways.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests;

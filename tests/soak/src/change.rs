//! What changes while the load runs: policies, secrets, and how the upstreams behave. Each next version of a thing is written once
//! the proxy was seen to go by the one before, and not within the same second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agentsandbox_conformance::vector::Entrance;
use bytes::Bytes;

use crate::client::{Sent, open, speak};
use crate::fault::Fault;
use crate::keys::Slot;
use crate::ledger::{Ledger, Told};
use crate::plan::{Ask, Place, Policy};
use crate::proxy::Files;
use crate::upstream::Upstream;

/// From one change to the next of the same thing.
const EVERY: Duration = Duration::from_secs(1);
/// How long a fault lasts.
const FAULT: Duration = Duration::from_millis(300);
/// Of so many seconds, the last few have no fault: what fails then has no excuse.
const ROUND_SECS: u32 = 15;
/// How many have one.
const FAULTY_SECS: u32 = 10;
/// Between two looks whether a change is in force.
const LOOK: Duration = Duration::from_millis(40);
/// A change that is not in force by then is wrong. The proxy promises a second for a policy and five for a secret; a slow
/// machine may take longer, a proxy that does not look at all takes for ever.
const PATIENCE: Duration = Duration::from_secs(60);
/// One policy in so many is preceded by a document that is none.
const INVALID_EVERY: u32 = 5;

/// How long changes took, from when they were written until the proxy was seen to go by them.
#[derive(Debug, Default)]
pub struct Delays(Mutex<Vec<u64>>);

impl Delays {
    fn add(&self, since: Instant) {
        self.all().push(u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX));
    }

    fn all(&self) -> MutexGuard<'_, Vec<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many changes there were.
    #[must_use]
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// The median and the longest, in milliseconds; none where nothing changed.
    #[must_use]
    pub fn median_and_longest(&self) -> Option<(u64, u64)> {
        let mut all = self.all().clone();
        all.sort_unstable();
        Some((all.get(all.len() / 2).copied()?, all.last().copied()?))
    }
}

/// What has changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// Policies.
    pub policies: Delays,
    /// Secrets.
    pub secrets: Delays,
}

/// All that changes.
pub struct Change {
    /// Where it is judged, and known.
    pub ledger: Arc<Ledger>,
    /// What is written.
    pub files: Files,
    /// Of the upstreams.
    pub upstream_ca_pem: String,
    /// Counts.
    pub changes: Changes,
    /// Told to end.
    pub ends: AtomicBool,
}

impl Change {
    /// Writes the first versions.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn begin(&self) -> agentsandbox_conformance::Result<()> {
        self.files.policy(&Policy::of(self.ledger.seed, 0).document(&self.upstream_ca_pem))?;
        Slot::ALL.into_iter().try_for_each(|slot| self.files.secret(slot, slot.value(0).as_deref()))
    }

    fn goes_on(&self) -> bool {
        !self.ends.load(Ordering::Relaxed)
    }

    /// Policies, one after the other.
    pub async fn policies(self: Arc<Self>) {
        for number in 1_u32.. {
            if !self.goes_on() {
                return;
            }
            let begin = Instant::now();
            if number.is_multiple_of(INVALID_EVERY) && self.files.policy("apiVersion: none").is_err() {
                return self.ledger.accuse("a policy cannot be written");
            }
            if number.is_multiple_of(INVALID_EVERY) {
                // Long enough to be read; whether it was does not matter.
                tokio::time::sleep(EVERY).await;
            }
            let timeline = &self.ledger.timeline.policy;
            timeline.announce(number);
            let document = Policy::of(self.ledger.seed, number).document(&self.upstream_ca_pem);
            let written = Instant::now();
            if let Err(failure) = self.files.policy(&document) {
                return self.ledger.accuse(failure);
            }
            let is_in_force = |told: &Told, _| matches!(told, Told::Served | Told::Broken(_)) || failed(told);
            if !self.seen(Place::Number(number), is_in_force).await {
                return self.accuse_slow(format!("policy {number}"));
            }
            timeline.confirm(number);
            self.changes.policies.add(written);
            tokio::time::sleep(EVERY.saturating_sub(begin.elapsed())).await;
        }
    }

    /// Secrets, one after the other.
    pub async fn secrets(self: Arc<Self>, slot: Slot) {
        let place = if slot == Slot::Bearer { Place::V1 } else { Place::Other };
        for version in 1.. {
            if !self.goes_on() {
                return;
            }
            let begin = Instant::now();
            let timeline = self.ledger.timeline.secret(slot);
            timeline.announce(version);
            let value = slot.value(version);
            if let Err(failure) = self.files.secret(slot, value.as_deref()) {
                return self.ledger.accuse(failure);
            }
            let is_used = |told: &Told, arrived: Option<u32>| match &value {
                Some(_) => arrived == Some(version),
                None => *told == Told::Denied("CredentialUnavailable".to_owned()),
            };
            if !self.seen(place, is_used).await {
                return self.accuse_slow(format!("version {version} of {}", slot.name()));
            }
            timeline.confirm(version);
            self.changes.secrets.add(begin);
            tokio::time::sleep(EVERY.saturating_sub(begin.elapsed())).await;
        }
    }

    /// Faults, one after the other.
    pub async fn faults(self: Arc<Self>, upstream: Arc<Upstream>) {
        let mut random = fastrand::Rng::with_seed(self.ledger.seed);
        for second in 0_u32.. {
            if !self.goes_on() {
                return;
            }
            let fault = random.choice(Fault::ALL).filter(|_| second % ROUND_SECS < FAULTY_SECS);
            if fault.is_some() {
                self.ledger.timeline.fault_begins();
                upstream.faults.set(fault);
                tokio::time::sleep(FAULT).await;
                upstream.faults.set(None);
                self.ledger.timeline.fault_ends();
            }
            tokio::time::sleep(EVERY - FAULT).await;
        }
    }

    /// Asks until what comes shows that a change is in force; false if it does not before everything ends.
    async fn seen(&self, place: Place, shows: impl Fn(&Told, Option<u32>) -> bool) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE && self.goes_on() {
            let ask = Ask { place, method: "GET", own_key: false, socket: false };
            let number = self.ledger.asks(Entrance::BaseUrl, ask);
            let sent = Sent { number, ask, body: Bytes::new(), events: false };
            let Ok(io) = open("", Entrance::BaseUrl, place, place.host()).await else { continue };
            let Ok(mut sender) = speak(io, Entrance::BaseUrl).await else { continue };
            let told = sent.send(&self.ledger, &mut sender, Entrance::BaseUrl).await;
            self.ledger.told(number, "probe", &told);
            if shows(&told, self.ledger.arrived(number)) {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    fn accuse_slow(&self, what: String) {
        if !self.goes_on() {
            return;
        }
        self.ledger.accuse(format_args!("{what} is not in force after {PATIENCE:?}"));
    }
}

/// Whether a request was allowed, and its upstream failed.
fn failed(told: &Told) -> bool {
    matches!(told, Told::Denied(reason) if crate::ledger::is_of_allowed(reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_change_does_not_move_the_median() {
        let delays = Delays::default();
        assert_eq!(delays.median_and_longest(), None);
        delays.all().extend([400, 90_000, 300]);
        assert_eq!((delays.median_and_longest(), delays.count()), (Some((400, 90_000)), 3));
    }
}

//! What is in force, as far as it is known: of policies and of each secret the oldest version that may still be, and the newest
//! that may be already. It rests on what the proxy was seen to do and on no clock.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::keys::Slot;

/// How long a fault may still be felt once it is over: a connection that it broke is found broken by a later request.
const AFTERMATH: Duration = Duration::from_secs(3);
/// Faults that are remembered: more than there are while one request is under way.
const FAULTS_KEPT: usize = 256;

/// Versions of one thing.
#[derive(Debug, Default)]
pub struct Versions {
    newest: AtomicU32,
    oldest: AtomicU32,
}

impl Versions {
    /// To be called before a version is written.
    pub fn announce(&self, version: u32) {
        self.newest.store(version, Ordering::SeqCst);
    }

    /// To be called once the proxy was seen to go by this version: none before it is obeyed any more.
    pub fn confirm(&self, version: u32) {
        self.oldest.store(version, Ordering::SeqCst);
    }

    fn oldest(&self) -> u32 {
        self.oldest.load(Ordering::SeqCst)
    }

    /// The one that was written last.
    #[must_use]
    pub fn newest(&self) -> u32 {
        self.newest.load(Ordering::SeqCst)
    }
}

/// When a request began, and what might be in force then.
#[derive(Clone, Copy, Debug)]
pub struct Began {
    /// When.
    pub at: Instant,
    policy: u32,
    bearer: u32,
    header: u32,
}

impl Began {
    /// The policies that may be in force from then until this one is.
    #[must_use]
    pub const fn policy(&self, newest: u32) -> (u32, u32) {
        (self.policy, newest)
    }
}

/// The versions that may have been in force at some time between two moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Of the policy, the first and the last.
    pub policy: (u32, u32),
    bearer: (u32, u32),
    header: (u32, u32),
}

impl Span {
    /// Of a secret, the first and the last.
    #[must_use]
    pub const fn secret(&self, slot: Slot) -> (u32, u32) {
        match slot {
            Slot::Bearer => self.bearer,
            Slot::Header => self.header,
        }
    }
}

impl Span {
    /// Whether anything was replaced meanwhile, or may have been.
    #[must_use]
    pub fn changes(&self) -> bool {
        [self.policy, self.bearer, self.header].iter().any(|(first, last)| first != last)
    }
}

/// All of it.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Of the policy.
    pub policy: Versions,
    bearer: Versions,
    header: Versions,
    faults: Mutex<Vec<(Instant, Option<Instant>)>>,
}

impl Timeline {
    /// Of a secret.
    #[must_use]
    pub const fn secret(&self, slot: Slot) -> &Versions {
        match slot {
            Slot::Bearer => &self.bearer,
            Slot::Header => &self.header,
        }
    }

    /// Now, for a request that begins.
    #[must_use]
    pub fn begin(&self) -> Began {
        Began {
            at: Instant::now(),
            policy: self.policy.oldest(),
            bearer: self.bearer.oldest(),
            header: self.header.oldest(),
        }
    }

    /// From then until now.
    #[must_use]
    pub fn since(&self, began: &Began) -> Span {
        Span {
            policy: (began.policy, self.policy.newest()),
            bearer: (began.bearer, self.bearer.newest()),
            header: (began.header, self.header.newest()),
        }
    }

    /// A fault begins.
    pub fn fault_begins(&self) {
        let mut faults = self.faults();
        if faults.len() >= FAULTS_KEPT {
            faults.remove(0);
        }
        faults.push((Instant::now(), None));
    }

    /// The fault is over.
    pub fn fault_ends(&self) {
        if let Some(last) = self.faults().last_mut() {
            last.1 = Some(Instant::now());
        }
    }

    /// Whether a request that began then may have failed because of a fault.
    #[must_use]
    pub fn may_have_failed(&self, began: &Began) -> bool {
        self.faults().iter().any(|(_, end)| end.is_none_or(|end| end + AFTERMATH >= began.at))
    }

    fn faults(&self) -> MutexGuard<'_, Vec<(Instant, Option<Instant>)>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_counts_from_its_announcement_until_a_later_one_is_confirmed() {
        let timeline = Timeline::default();
        let early = timeline.begin();
        timeline.policy.announce(1);
        assert_eq!(timeline.since(&early).policy, (0, 1));
        let between = timeline.begin();
        timeline.policy.confirm(1);
        assert_eq!(timeline.since(&between).policy, (0, 1));
        assert_eq!(timeline.since(&timeline.begin()).policy, (1, 1));
        assert!(timeline.since(&between).changes() && !timeline.since(&timeline.begin()).changes());
        timeline.secret(Slot::Header).announce(3);
        let span = timeline.since(&between);
        assert_eq!((span.secret(Slot::Header), span.secret(Slot::Bearer)), ((0, 3), (0, 0)));
    }

    #[test]
    fn a_failure_is_excused_by_a_fault_that_lasts_or_is_just_over_and_by_no_other() {
        let timeline = Timeline::default();
        let before = timeline.begin();
        assert!(!timeline.may_have_failed(&before));
        timeline.fault_begins();
        assert!(timeline.may_have_failed(&before));
        timeline.fault_ends();
        let late = Began { at: Instant::now() + AFTERMATH + Duration::from_secs(1), ..before };
        assert!(timeline.may_have_failed(&before) && !timeline.may_have_failed(&late));
    }
}

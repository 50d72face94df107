//! How much has gone up under rules with limits, and how much still may.
//!
//! Flow: a request reserves its head, and its body where the length is known, before anything of it is sent; what has no
//! known length is reserved as it flows, frame by frame. So of any number of requests at a time no more is sent than there
//! is room for. What was reserved and not sent is given back when the exchange is over; what was handed to a connection
//! counts, however the exchange ends.
//!
//! Guarantees: a sum in memory never falls behind what was sent, and the sum in the state folder is written before what
//! it covers is sent, so that a restart of the process forgets nothing. It is written ahead by a share, and not for each
//! frame; that share may count as sent after a restart. A record that cannot be read counts as used up, and one that
//! cannot be written lets nothing go. The folder lasts as long as the proxy's pod: a new pod counts from the beginning.

use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use agentsandbox_policy::UploadLimits;
use serde::{Deserialize, Serialize};

use crate::limits::{
    BUDGET_CLAIM_BYTES_MAX, BUDGET_CLAIM_SHARE, BUDGET_REQUEST_BYTES_MAX, BUDGET_WINDOW_SECS, BUDGETS_MAX,
};

const FILE: &str = "budgets";
const VERSION: u8 = 1;

/// Why something may not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// There is no room left for it.
    #[error("there is no room left for it")]
    UsedUp,
    /// What was sent before cannot be read, so nothing says that there is room.
    #[error("the record of what was sent cannot be read, so it counts as used up")]
    Unreadable,
    /// What would be sent cannot be written down.
    #[error("what is sent cannot be written down")]
    Unwritable,
}

/// What has gone up, by host pattern. One for each process.
pub struct Budgets {
    file: PathBuf,
    started: Instant,
    state: Mutex<State>,
}

struct State {
    counters: BTreeMap<String, Counter>,
    is_readable: bool,
}

#[derive(Clone, Default)]
struct Counter {
    /// Bytes that were sent.
    used: u64,
    /// Bytes that are reserved and not sent.
    held: u64,
    /// What the file says was sent: never less than `used` and `held` together.
    claimed: u64,
    /// Bytes of the last minute, by the second since the start in which they were sent.
    window: VecDeque<(u64, u64)>,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    version: u8,
    sent: BTreeMap<String, u64>,
}

/// What one exchange may still send.
pub struct Meter {
    budgets: Arc<Budgets>,
    limits: UploadLimits,
    reserved: Mutex<Reserved>,
}

struct Reserved {
    bytes: u64,
    is_over: bool,
}

impl Budgets {
    /// Goes on from what was kept in the state folder.
    #[must_use]
    pub fn open(state: &Path, now: Instant) -> Arc<Self> {
        let file = state.join(FILE);
        let (sent, is_readable) = match read(&file) {
            Ok(sent) => (sent, true),
            Err(error) => {
                tracing::error!(error = %error, file = %file.display(), "what was sent before cannot be read; rules with limits deny everything until the file is corrected or removed");
                (BTreeMap::new(), false)
            }
        };
        let counters = sent.into_iter().map(|(pattern, bytes)| (pattern, Counter::kept(bytes))).collect();
        Arc::new(Self { file, started: now, state: Mutex::new(State { counters, is_readable }) })
    }

    /// Room for a head, and for a body where its length is known; none of it counts as sent before it is spent.
    ///
    /// # Errors
    /// [`Exceeded`] when there is no room, or nobody can say so.
    pub fn reserve(
        self: &Arc<Self>,
        limits: &UploadLimits,
        bytes: u64,
        now: Instant,
    ) -> Result<Meter, Exceeded> {
        self.change(limits, now, |counter, second| counter.hold(bytes, limits, second))?;
        let reserved = Mutex::new(Reserved { bytes, is_over: false });
        Ok(Meter { budgets: Arc::clone(self), limits: limits.clone(), reserved })
    }

    /// Changes a counter, and has the file know of it before anybody acts on it.
    fn change(
        &self,
        limits: &UploadLimits,
        now: Instant,
        change: impl FnOnce(&mut Counter, u64) -> Result<(), Exceeded>,
    ) -> Result<(), Exceeded> {
        let second = now.saturating_duration_since(self.started).as_secs();
        let mut state = self.state();
        if !state.is_readable {
            return Err(Exceeded::Unreadable);
        }
        let known = state.counters.get(limits.pattern()).cloned();
        if known.is_none() && state.counters.len() >= BUDGETS_MAX {
            return Err(Exceeded::UsedUp);
        }
        let is_new = known.is_none();
        let mut counter = known.unwrap_or_default();
        change(&mut counter, second)?;
        let claim = counter.claim(limits);
        if !is_new && claim.is_none() {
            state.counters.insert(limits.pattern().to_owned(), counter);
            return Ok(());
        }
        counter.claimed = claim.unwrap_or(counter.claimed);
        let before = state.counters.insert(limits.pattern().to_owned(), counter);
        // Seldom, and some kilobytes: not worth a thread of its own.
        self.write(&state.counters).map_err(|error| {
            tracing::error!(error = %error, "what is sent cannot be written down, so it is not sent");
            match before {
                Some(before) => state.counters.insert(limits.pattern().to_owned(), before),
                None => state.counters.remove(limits.pattern()),
            };
            Exceeded::Unwritable
        })
    }

    fn write(&self, counters: &BTreeMap<String, Counter>) -> std::io::Result<()> {
        let sent = counters.iter().map(|(pattern, counter)| (pattern.clone(), counter.claimed)).collect();
        let text = serde_json::to_vec(&Kept { version: VERSION, sent })?;
        let fresh = self.file.with_extension("new");
        std::fs::write(&fresh, text)?;
        std::fs::rename(&fresh, &self.file)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was sent before. No file is a first start.
fn read(file: &Path) -> std::io::Result<BTreeMap<String, u64>> {
    let text = match std::fs::read(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        read => read?,
    };
    let kept: Kept = serde_json::from_slice(&text)?;
    if kept.version != VERSION || kept.sent.len() > BUDGETS_MAX {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok(kept.sent)
}

impl Counter {
    /// After a restart: nobody knows when it was sent, so the last minute counts as full.
    fn kept(bytes: u64) -> Self {
        Self { used: bytes, held: 0, claimed: bytes, window: VecDeque::from([(0, u64::MAX)]) }
    }

    /// Whether there is room for more, beside what was sent and what is reserved.
    fn has_room(&mut self, bytes: u64, limits: &UploadLimits, second: u64) -> bool {
        self.forget(second);
        let recent = self.window.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let fits = |sum: u64, limit: Option<u64>| {
            limit.is_none_or(|limit| sum.checked_add(bytes).is_some_and(|sum| sum <= limit))
        };
        fits(self.used.saturating_add(self.held), limits.total())
            && fits(recent.saturating_add(self.held), limits.per_minute())
    }

    fn forget(&mut self, second: u64) {
        self.window.retain(|(sent, _)| second.saturating_sub(*sent) <= BUDGET_WINDOW_SECS);
    }

    fn hold(&mut self, bytes: u64, limits: &UploadLimits, second: u64) -> Result<(), Exceeded> {
        // A sum that stood still at its end would forget what others hold, once this is given back. Also rules without limits count.
        if bytes > BUDGET_REQUEST_BYTES_MAX || !self.has_room(bytes, limits, second) {
            return Err(Exceeded::UsedUp);
        }
        self.held = self.held.checked_add(bytes).ok_or(Exceeded::UsedUp)?;
        Ok(())
    }

    /// Bytes go up, of which so many were reserved.
    fn spend(
        &mut self,
        bytes: u64,
        reserved: u64,
        limits: &UploadLimits,
        second: u64,
    ) -> Result<(), Exceeded> {
        if bytes > reserved && !self.has_room(bytes - reserved, limits, second) {
            return Err(Exceeded::UsedUp);
        }
        self.forget(second);
        self.held = self.held.saturating_sub(reserved.min(bytes));
        self.used = self.used.saturating_add(bytes);
        match self.window.back_mut() {
            Some((last, sum)) if *last == second => *sum = sum.saturating_add(bytes),
            _ => self.window.push_back((second, bytes)),
        }
        Ok(())
    }

    /// What the file has to say now, if not what it says.
    fn claim(&self, limits: &UploadLimits) -> Option<u64> {
        let most = self.used.saturating_add(self.held);
        let share = limits.total().map_or(BUDGET_CLAIM_BYTES_MAX, |total| total / BUDGET_CLAIM_SHARE);
        let ahead = share.min(BUDGET_CLAIM_BYTES_MAX);
        let is_behind = most > self.claimed;
        let is_far_ahead = self.claimed.saturating_sub(most) > ahead.saturating_mul(2);
        (is_behind || is_far_ahead).then(|| most.saturating_add(ahead))
    }
}

impl Meter {
    /// Counts bytes as sent; called before they are.
    ///
    /// # Errors
    /// [`Exceeded`] when they may not be sent.
    pub fn spend(&self, bytes: u64, now: Instant) -> Result<(), Exceeded> {
        let mut reserved = self.reserved();
        if reserved.is_over {
            return Err(Exceeded::UsedUp);
        }
        let of_reserved = reserved.bytes.min(bytes);
        let limits = &self.limits;
        self.budgets
            .change(limits, now, |counter, second| counter.spend(bytes, of_reserved, limits, second))?;
        reserved.bytes -= of_reserved;
        Ok(())
    }

    /// Nothing more is sent: what is left of the reservation is room for others.
    pub fn over(&self) {
        let mut reserved = self.reserved();
        reserved.is_over = true;
        let left = std::mem::take(&mut reserved.bytes);
        if left == 0 {
            return;
        }
        let given_back = |counter: &mut Counter, _| {
            counter.held = counter.held.saturating_sub(left);
            Ok(())
        };
        if self.budgets.change(&self.limits, Instant::now(), given_back).is_err() {
            // The file cannot be written; what it says is too much, and what is in memory stays so, too.
            tracing::warn!("what was reserved and not sent counts as sent");
        }
    }

    fn reserved(&self) -> MutexGuard<'_, Reserved> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.over();
    }
}

#[cfg(test)]
mod tests;

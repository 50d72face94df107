//! Failures in a row, and the pause after each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::backoff::Jitter;

/// Shortest pause after a pass that failed.
pub const BACKOFF_MIN: Duration = Duration::from_millis(200);
/// Longest pause after a pass that failed.
pub const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Failures in a row, for the backoff of each object.
#[derive(Debug, Default)]
pub struct Failures {
    jitter: Jitter,
    counts: Mutex<HashMap<String, u32>>,
}

impl Failures {
    /// None yet; pauses are drawn by `jitter`.
    #[must_use]
    pub fn drawing(jitter: Jitter) -> Self {
        Self { jitter, counts: Mutex::default() }
    }

    /// Counts a failure, and says how long to pause.
    pub(super) fn pause(&self, uid: &str) -> Duration {
        let mut all = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(uid.to_owned()).or_default();
        *count = count.saturating_add(1);
        self.jitter.pause(uid, *count, BACKOFF_MIN, BACKOFF_MAX)
    }

    /// Forgets an object's failures.
    pub(super) fn clear(&self, uid: &str) {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

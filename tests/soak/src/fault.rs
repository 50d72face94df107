//! What goes wrong at the upstreams.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// A way to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection is reset once the request is in; over HTTP/2 its stream is.
    Reset,
    /// Nothing comes for a while, and then the answer.
    Stall,
    /// The answer breaks off in the middle.
    Half,
    /// What comes is no HTTP.
    Garbage,
    /// Nobody listens.
    Refused,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Reset, Self::Stall, Self::Half, Self::Garbage, Self::Refused];
}

/// Which of them is on.
#[derive(Debug, Default)]
pub struct Faults {
    on: Mutex<Option<Fault>>,
    suffered: [AtomicU64; Fault::ALL.len()],
}

impl Faults {
    /// Turns one on, or all off.
    pub fn set(&self, fault: Option<Fault>) {
        *self.on.lock().unwrap_or_else(PoisonError::into_inner) = fault;
    }

    /// The one that is on.
    #[must_use]
    pub fn on(&self) -> Option<Fault> {
        *self.on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody met it.
    pub fn suffers(&self, fault: Fault) {
        if let Some(count) = self.suffered.get(fault as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often each was met.
    #[must_use]
    pub fn suffered(&self) -> Vec<(Fault, u64)> {
        Fault::ALL.into_iter().zip(self.suffered.iter().map(|count| count.load(Ordering::Relaxed))).collect()
    }
}

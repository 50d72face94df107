//! Gates: a test holds a stream in the middle, looks at the other end, and lets it go on.
//!
//! A gate exists from the first time anyone names it, and is shut until the test opens it. A stream that waits gives up after
//! [`WAIT_SECS_MAX`], so that a test which died cannot hold a connection for ever.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How long a stream waits at a shut gate.
pub const WAIT_SECS_MAX: u64 = 120;

/// Every gate by name.
#[derive(Clone, Default)]
pub struct Gates(Arc<Mutex<BTreeMap<String, Gate>>>);

struct Gate {
    open: watch::Sender<bool>,
    passed: usize,
}

/// What a test sees of one gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateState {
    /// Whether streams pass.
    pub open: bool,
    /// How many streams wait at it now.
    pub waiting: usize,
    /// How many have passed it.
    pub passed: usize,
}

impl Gates {
    /// Waits until the gate opens, or for [`WAIT_SECS_MAX`]; false if it never opened.
    pub async fn pass(&self, name: &str) -> bool {
        let mut open = self.with(name, |gate| gate.open.subscribe());
        let waited =
            tokio::time::timeout(Duration::from_secs(WAIT_SECS_MAX), open.wait_for(|open| *open)).await;
        let passed = matches!(waited, Ok(Ok(_)));
        if passed {
            self.with(name, |gate| gate.passed += 1);
        }
        passed
    }

    /// Opens the gate, for those who wait and those who come later.
    pub fn open(&self, name: &str) {
        self.with(name, |gate| gate.open.send_replace(true));
    }

    /// Every gate anyone has named.
    #[must_use]
    pub fn states(&self) -> BTreeMap<String, GateState> {
        let gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.iter().map(|(name, gate)| (name.clone(), gate.state())).collect()
    }

    /// Forgets every gate; whoever waits is let go as if it had never opened.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Gate) -> T) -> T {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(gates
            .entry(name.to_owned())
            .or_insert_with(|| Gate { open: watch::Sender::new(false), passed: 0 }))
    }
}

impl Gate {
    fn state(&self) -> GateState {
        GateState { open: *self.open.borrow(), waiting: self.open.receiver_count(), passed: self.passed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_waits_until_its_gate_opens() {
        let gates = Gates::default();
        let waiter = tokio::spawn({
            let gates = gates.clone();
            async move { gates.pass("last").await }
        });
        while gates.states().get("last").is_none_or(|gate| gate.waiting == 0) {
            tokio::task::yield_now().await;
        }
        assert!(!waiter.is_finished());
        gates.open("last");
        assert!(waiter.await.unwrap());
        assert_eq!(gates.states()["last"], GateState { open: true, waiting: 0, passed: 1 });
    }

    #[tokio::test]
    async fn an_open_gate_stays_open() {
        let gates = Gates::default();
        gates.open("early");
        assert!(gates.pass("early").await);
    }

    #[tokio::test]
    async fn clearing_lets_a_waiter_go_as_if_the_gate_had_never_opened() {
        let gates = Gates::default();
        let waiter = tokio::spawn({
            let gates = gates.clone();
            async move { gates.pass("gone").await }
        });
        while gates.states().is_empty() {
            tokio::task::yield_now().await;
        }
        gates.clear();
        assert!(!waiter.await.unwrap());
    }
}

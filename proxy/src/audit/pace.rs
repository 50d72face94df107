//! How fast decisions may become lines. A log of fixed size is rotated, and an agent that asks fast enough would rotate what
//! it did out of it. Denials are folded; what is allowed has its lines always, so it has to wait for its turn instead.
//! Nothing is ever dropped.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::limits::AUDIT_BURST_SECS;

/// Hands out turns at a bounded rate, in the order in which they are asked for.
pub struct Pace(Option<Arc<Queue>>);

#[derive(Debug)]
struct Queue {
    /// From one turn to the next.
    interval: Duration,
    /// When the next turn is due, were there no burst.
    due: Mutex<Option<Instant>>,
}

/// The right to make one decision now. Only a line spends it: dropped before that, also while it is still waited for, it is
/// given back, so that an agent which asks and goes away makes nobody wait.
#[derive(Debug)]
#[must_use = "a turn that is dropped is given back"]
pub struct Turn(Option<Arc<Queue>>);

impl Pace {
    /// So many turns in a second, with [`AUDIT_BURST_SECS`] times as many at once after a pause.
    #[must_use]
    pub fn new(turns_per_second: Option<NonZeroU32>) -> Self {
        Self(turns_per_second.map(|turns| {
            Arc::new(Queue { interval: Duration::from_secs(1) / turns.get(), due: Mutex::default() })
        }))
    }

    /// Waits for a turn.
    pub async fn turn(&self) -> Turn {
        let Some(queue) = &self.0 else { return Turn(None) };
        let (turn, at) = queue.take();
        sleep_until(at).await;
        turn
    }
}

impl Queue {
    /// A turn, and when it comes.
    fn take(self: &Arc<Self>) -> (Turn, Instant) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mine = due.map_or(now, |due| due.max(now));
        *due = Some(mine + self.interval);
        let at = mine.checked_sub(Duration::from_secs(AUDIT_BURST_SECS)).unwrap_or(now);
        (Turn(Some(Arc::clone(self))), at)
    }
}

impl Turn {
    /// A line came of it.
    pub fn spend(mut self) {
        self.0 = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(queue) = self.0.take() else { return };
        let mut due = queue.due.lock().unwrap_or_else(PoisonError::into_inner);
        *due = due.map(|due| due.checked_sub(queue.interval).unwrap_or(due));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 100;

    async fn elapsed(pace: &Pace, turns: u32) -> Duration {
        let start = Instant::now();
        for _ in 0..turns {
            pace.turn().await.spend();
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn p_i4_beyond_a_burst_turns_come_at_the_rate_and_every_one_comes() {
        let pace = Pace::new(NonZeroU32::new(RATE));
        let burst = RATE * u32::try_from(AUDIT_BURST_SECS).unwrap();
        assert_eq!(elapsed(&pace, burst).await, Duration::ZERO);
        let late = elapsed(&pace, 5 * RATE).await;
        assert!(late >= Duration::from_millis(4900) && late <= Duration::from_millis(5100), "{late:?}");
        tokio::time::sleep(Duration::from_secs(AUDIT_BURST_SECS + 1)).await;
        assert_eq!(elapsed(&pace, burst).await, Duration::ZERO, "after a pause there is a burst again");
        assert_eq!(elapsed(&Pace::new(None), 100 * burst).await, Duration::ZERO, "unbounded");
    }

    #[tokio::test(start_paused = true)]
    async fn p_i4_turns_that_are_given_back_cost_nothing_and_buy_nothing() {
        let pace = Pace::new(NonZeroU32::new(RATE));
        let burst = RATE * u32::try_from(AUDIT_BURST_SECS).unwrap();
        for _ in 0..100 * burst {
            drop(pace.turn().await);
        }
        assert_eq!(elapsed(&pace, burst).await, Duration::ZERO);
        assert!(elapsed(&pace, RATE).await >= Duration::from_millis(900));
    }

    #[tokio::test(start_paused = true)]
    async fn p_i4_a_turn_that_is_no_longer_waited_for_makes_nobody_wait() {
        let pace = Pace::new(NonZeroU32::new(RATE));
        let burst = RATE * u32::try_from(AUDIT_BURST_SECS).unwrap();
        assert_eq!(elapsed(&pace, burst + 1).await, Duration::ZERO);
        for _ in 0..1000 * RATE {
            let mut waiting = std::pin::pin!(pace.turn());
            assert!(futures::poll!(waiting.as_mut()).is_pending(), "the burst is spent");
        }
        assert!(elapsed(&pace, RATE).await <= Duration::from_millis(1100), "as if nobody had asked");
    }
}

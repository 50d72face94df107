//! How fast decisions may become lines. A log of fixed size is rotated, and an agent that asks fast enough would rotate what
//! it did out of it. Denials are folded; what is allowed has its lines always, so it has to wait for its turn instead.
//! Nothing is ever dropped.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::limits::AUDIT_BURST_SECS;

/// Hands out turns at a bounded rate, in the order in which they are asked for.
pub struct Pace {
    /// From one turn to the next; absent where nothing is bounded.
    interval: Option<Duration>,
    /// When the next turn is due, were there no burst.
    due: Mutex<Option<Instant>>,
}

/// The right to make one decision now.
#[derive(Debug)]
pub struct Turn(());

impl Pace {
    /// So many turns in a second, with [`AUDIT_BURST_SECS`] times as many at once after a pause.
    #[must_use]
    pub fn new(turns_per_second: Option<NonZeroU32>) -> Self {
        let interval = turns_per_second.map(|turns| Duration::from_secs(1) / turns.get());
        Self { interval, due: Mutex::default() }
    }

    /// Waits for a turn.
    pub async fn turn(&self) -> Turn {
        let Some(interval) = self.interval else { return Turn(()) };
        let at = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let mine = due.map_or(now, |due| due.max(now));
            *due = Some(mine + interval);
            mine.checked_sub(Duration::from_secs(AUDIT_BURST_SECS)).unwrap_or(now)
        };
        sleep_until(at).await;
        Turn(())
    }

    /// Takes a turn back that made no line.
    pub fn give_back(&self, _: Turn) {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(due), Some(interval)) = (due.as_mut(), self.interval) {
            *due = due.checked_sub(interval).unwrap_or(*due);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u32 = 100;

    async fn elapsed(pace: &Pace, turns: u32) -> Duration {
        let start = Instant::now();
        for _ in 0..turns {
            pace.turn().await;
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
            let turn = pace.turn().await;
            pace.give_back(turn);
        }
        assert_eq!(elapsed(&pace, burst).await, Duration::ZERO);
        assert!(elapsed(&pace, RATE).await >= Duration::from_millis(900));
    }
}

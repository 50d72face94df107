//! Pauses between attempts: they double up to a cap, and each is drawn from its upper half, so that many who failed at the
//! same moment do not come back at the same moment. What is drawn follows from a seed.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use kube::runtime::utils::Backoff;
use tokio::time::Instant;

/// A watch that fails is tried again after this pause, doubled each time.
const WATCH_MIN: Duration = Duration::from_millis(800);
/// Longest pause between two attempts at a watch.
const WATCH_MAX: Duration = Duration::from_secs(30);
/// Longer than the longest pause. A watch that has lasted this long since it last failed starts with the shortest pause again; one that fails again and
/// again between two answers does not.
const WATCH_QUIET: Duration = Duration::from_secs(45);

/// Draws pauses.
#[derive(Clone, Copy, Debug)]
pub struct Jitter {
    seed: u64,
}

impl Default for Jitter {
    /// Draws otherwise in each process.
    fn default() -> Self {
        Self::seeded(RandomState::new().hash_one(0))
    }
}

impl Jitter {
    /// Draws what follows from this seed.
    #[must_use]
    pub const fn seeded(seed: u64) -> Self {
        Self { seed }
    }

    /// The pause before attempt `count`, counted from 1, at what `key` names: between half of the doubled pause and all of it.
    #[must_use]
    pub fn pause(&self, key: &str, count: u32, min: Duration, max: Duration) -> Duration {
        let doubled = min.saturating_mul(2_u32.saturating_pow(count.saturating_sub(1).min(16))).min(max);
        let half = doubled / 2;
        half + half.mul_f64(self.draw(key, count))
    }

    /// A number from 0 to 1 (FNV-1a, and the finaliser of SplitMix64 over it).
    fn draw(&self, key: &str, count: u32) -> f64 {
        let bytes = key.bytes().chain(count.to_le_bytes());
        let mut hash = bytes.fold(self.seed ^ 0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
        f64::from(u32::try_from(hash >> 32).unwrap_or_default()) / f64::from(u32::MAX)
    }
}

/// The pauses of one watch.
#[derive(Debug)]
pub struct WatchBackoff {
    jitter: Jitter,
    kind: &'static str,
    count: u32,
    failed: Option<Instant>,
}

impl WatchBackoff {
    /// For the watch of this kind.
    #[must_use]
    pub const fn new(jitter: Jitter, kind: &'static str) -> Self {
        Self { jitter, kind, count: 0, failed: None }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        if self.failed.is_some_and(|failed| failed.elapsed() > WATCH_QUIET) {
            self.count = 0;
        }
        self.failed = Some(Instant::now());
        self.count = self.count.saturating_add(1);
        Some(self.jitter.pause(self.kind, self.count, WATCH_MIN, WATCH_MAX))
    }
}

impl Backoff for WatchBackoff {
    /// An answer alone forgets nothing: a server may answer and fail in turn. Time does, in [`WatchBackoff::next`].
    fn reset(&mut self) {}
}

/// No pause at all, for where those who fail have pauses of their own.
#[derive(Clone, Copy, Debug)]
pub struct Unpaused;

impl Iterator for Unpaused {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

impl Backoff for Unpaused {
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o_r11_pauses_grow_to_a_cap_and_differ_between_those_who_wait() {
        let (min, max) = (Duration::from_millis(200), Duration::from_secs(60));
        let jitter = Jitter::seeded(7);
        let of = |key: &str| -> Vec<Duration> {
            (1..=20).map(|count| jitter.pause(key, count, min, max)).collect()
        };
        for (count, pause) in (0..).zip(of("a")) {
            let whole = min.saturating_mul(2_u32.saturating_pow(count)).min(max);
            assert!(pause >= whole / 2 && pause <= whole, "pause {count} is {pause:?}");
        }
        assert_ne!(of("a"), of("b"));
        assert_eq!(of("a"), of("a"), "what is drawn follows from the seed");
        assert_ne!(
            of("a"),
            (1..=20).map(|count| Jitter::seeded(8).pause("a", count, min, max)).collect::<Vec<_>>()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_lasted_starts_with_the_shortest_pause_again() {
        let mut backoff = WatchBackoff::new(Jitter::seeded(1), "Pod");
        let grown = (0..6).filter_map(|_| backoff.next()).last().unwrap();
        assert!(grown > Duration::from_secs(12), "{grown:?}");
        backoff.reset();
        assert!(backoff.next().unwrap() > Duration::from_secs(12), "an answer alone forgets nothing");
        tokio::time::advance(WATCH_QUIET + Duration::from_secs(1)).await;
        assert!(backoff.next().unwrap() <= WATCH_MIN);
    }
}

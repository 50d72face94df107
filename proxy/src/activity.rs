//! When something of the agent's last passed through the proxy, so that an operator can end a sandbox that lies idle.
//!
//! What counts is what was allowed: a request from its beginning to its answer, and a byte in either way of a body or of what is passed on.
//! What is denied passes nothing, for an agent that has something refused every minute would never be idle; so neither does what comes before
//! it, a name that is answered for or a tunnel that is opened. It is no decision of this proxy's and has no power over one. It counts by a
//! clock that nobody sets, and begins with the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use agentsandbox_policy::Idle;

/// When something last passed, in one run of a proxy.
#[derive(Debug)]
pub struct Activity {
    began: Instant,
    /// Milliseconds from the beginning to what passed last, and one; none where nothing has.
    last: AtomicU64,
    /// Requests that are on their way to their answers.
    awaited: AtomicUsize,
}

/// A request that is on its way. Its end, whichever it is, is something that passed.
#[derive(Debug)]
pub struct Awaited(Arc<Activity>);

impl Activity {
    /// Nothing has passed since `began`.
    #[must_use]
    pub const fn since(began: Instant) -> Self {
        Self { began, last: AtomicU64::new(0), awaited: AtomicUsize::new(0) }
    }

    /// Something passes now.
    pub fn passes(&self) {
        self.passes_at(Instant::now());
    }

    fn passes_at(&self, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(millis.saturating_add(1), Ordering::Relaxed);
    }

    /// A request is on its way for as long as the answer lives.
    #[must_use]
    pub fn awaits(self: &Arc<Self>) -> Awaited {
        self.awaited.fetch_add(1, Ordering::Relaxed);
        self.passes();
        Awaited(Arc::clone(self))
    }

    /// For how long nothing has passed by now.
    #[must_use]
    pub fn idle(&self, now: Instant) -> Idle {
        let lived = now.saturating_duration_since(self.began);
        // In this order: what was awaited until a moment ago has passed by then.
        if self.awaited.load(Ordering::Acquire) > 0 {
            return Idle { seconds: 0, has_passed: true };
        }
        let last = self.last.load(Ordering::Relaxed);
        let until = last.checked_sub(1).map_or(Duration::ZERO, Duration::from_millis);
        Idle { seconds: lived.saturating_sub(until).as_secs(), has_passed: last > 0 }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        // Whoever asks in between finds it awaited, or passed.
        self.0.passes();
        self.0.awaited.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn it_is_idle_since_its_beginning_until_something_passes_and_then_since_the_last_that_did() {
        let began = Instant::now();
        let activity = Activity::since(began);
        let after = |time| activity.idle(began + time);
        assert_eq!(after(HOUR), Idle { seconds: 3600, has_passed: false });
        activity.passes_at(began);
        assert_eq!(after(HOUR), Idle { seconds: 3600, has_passed: true }, "at the very beginning");
        activity.passes_at(began + HOUR);
        activity.passes_at(began + HOUR / 2);
        assert_eq!(after(HOUR), Idle { seconds: 0, has_passed: true });
        assert_eq!(after(HOUR * 3), Idle { seconds: 7200, has_passed: true });
        assert_eq!(after(HOUR / 2), Idle { seconds: 0, has_passed: true }, "asked by a time before");
    }

    #[test]
    fn as_long_as_one_request_is_on_its_way_it_is_not_idle() {
        let began = Instant::now();
        let activity = Arc::new(Activity::since(began));
        let (first, second) = (activity.awaits(), activity.awaits());
        assert_eq!(activity.idle(began + HOUR).seconds, 0);
        drop(first);
        assert_eq!(activity.idle(began + HOUR).seconds, 0, "the other one is");
        drop(second);
        let left = activity.idle(began + HOUR);
        assert!((3590..=3600).contains(&left.seconds) && left.has_passed, "{left:?}");
    }
}

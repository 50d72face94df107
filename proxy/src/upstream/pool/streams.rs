//! The streams of one HTTP/2 connection: how many are open, and how many the upstream allows.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::Waker;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::CONNECT_TIMEOUT;
use crate::upstream::places::{Signals, Window};

/// Streams that begin before the upstream has said how many it allows: the one that the connection was opened for. hyper would
/// keep others in a queue of its own if that turned out to be fewer.
const STREAMS_BEFORE_TOLD: usize = 1;

/// Streams of one HTTP/2 connection.
pub struct Streams {
    open: AtomicUsize,
    /// What the upstream allows, once it has said so.
    max: AtomicUsize,
    is_told: AtomicBool,
    opened: Instant,
    /// Where requests wait for one, once the connection is kept.
    queue: OnceLock<Arc<Notify>>,
    /// What those wait for who may have it end when it carries nothing, once it is kept.
    signals: OnceLock<Arc<Signals>>,
    /// Whoever asks the connection what it allows.
    asking: Mutex<Option<Waker>>,
    /// What the upstream may send before it is passed on. It is held with each stream, since what came on one lies here until it is
    /// read, even when the connection has ended.
    window: OnceLock<Window>,
}

impl Streams {
    /// Those of a connection whose upstream has said nothing yet.
    pub(in super::super) fn new() -> Arc<Self> {
        let (open, max) = (AtomicUsize::new(0), AtomicUsize::new(STREAMS_BEFORE_TOLD));
        let (is_told, opened) = (AtomicBool::new(false), Instant::now());
        let (queue, signals) = (OnceLock::new(), OnceLock::new());
        Arc::new(Self {
            open,
            max,
            is_told,
            opened,
            queue,
            signals,
            asking: Mutex::default(),
            window: OnceLock::new(),
        })
    }

    /// Holds the window of the connection, whose tasks hold these streams.
    pub(in super::super) fn hold(&self, window: Window) {
        self.window.get_or_init(|| window);
    }

    /// Whom to wake when the upstream may have said something that requests wait for.
    pub(in super::super) fn wakes(&self, waker: &Waker) {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if !asking.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *asking = Some(waker.clone());
        }
    }

    /// Has the connection looked at while it is full: it may allow more by now, or be about to end.
    pub(in super::super) fn may_be_told(&self) {
        if !self.has_room()
            && let Some(waker) = &*self.asking.lock().unwrap_or_else(PoisonError::into_inner)
        {
            waker.wake_by_ref();
        }
    }

    /// The upstream has said what it allows.
    pub(in super::super) fn allows(&self, max: usize) {
        let is_more = self.max.swap(max, Ordering::Relaxed) < max;
        // Even if it is no more: then another connection may be opened.
        if !self.is_told.swap(true, Ordering::Relaxed) || is_more {
            self.wake_one();
        }
    }

    /// Whether there will be room if the upstream says what most do. It says so with the first that it says at all, so that after
    /// the time for a handshake that is not waited for.
    pub(super) fn may_yet_allow(&self) -> bool {
        !self.is_told.load(Ordering::Relaxed) && self.opened.elapsed() < CONNECT_TIMEOUT
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Where requests wait for one, and who waits for the last to end, now that the connection is kept.
    pub(super) fn wait_in(&self, queue: &Arc<Notify>, signals: &Arc<Signals>) {
        self.queue.get_or_init(|| Arc::clone(queue));
        self.signals.get_or_init(|| Arc::clone(signals));
    }

    pub(in super::super) fn begin(self: &Arc<Self>) -> Stream {
        self.open.fetch_add(1, Ordering::Relaxed);
        Stream(Arc::clone(self))
    }

    /// Lets one that waits look again: a stream has ended, or the connection has.
    pub(in super::super) fn wake_one(&self) {
        if let Some(queue) = self.queue.get() {
            queue.notify_one();
        }
    }

    /// Whether one more can begin at once.
    pub(super) fn has_room(&self) -> bool {
        self.open() < self.max.load(Ordering::Relaxed)
    }
}

/// One stream of a connection, counted until this is dropped.
pub struct Stream(Arc<Streams>);

impl Drop for Stream {
    fn drop(&mut self) {
        let before = self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.wake_one();
        if before == 1
            && let Some(signals) = self.0.signals.get()
        {
            signals.idle.notify_one();
        }
    }
}

//! The most memory that the process may take.
//!
//! Each bound of [`limits`](crate::limits) is one of one kind of thing, and what libraries keep beside it is not theirs to bound: a frame
//! that nobody reads may keep the whole buffer that it was read into with others. So what the process really takes is looked at as well,
//! whenever as much was read from sockets as could have made it grow: nothing is held here that was not read before, and a process that
//! lies idle never looks. Beyond the mark all that the agent has open ends. It is one agent's, so nobody else is hurt, and each end is written
//! down, which the kernel would not do before it kills the process.
//!
//! An allocator keeps some of what it is given back, to use it again, and the kernel counts it still. So the mark rises to above what is
//! left once all has ended, and where it would come too near to the end of the memory, the process begins anew, in order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::param::page_size;
use tokio::sync::Notify;

use crate::limits::{MEMORY_LOOK_BYTES, MEMORY_MARK_PARTS, MEMORY_MARK_PARTS_MAX, MEMORY_PARTS};

/// The ceiling of a process. Without a bound there is none.
#[derive(Debug, Default)]
pub struct Ceiling {
    bound: OnceLock<Bound>,
    /// Bytes that were read since it was looked last.
    read: AtomicUsize,
    exceeded: Notify,
}

#[derive(Debug)]
struct Bound {
    marks: Marks,
    /// What the kernel says of this process, in pages (proc_pid_statm(5)).
    statm: File,
}

/// What may be taken, in bytes.
#[derive(Debug)]
struct Marks {
    part: usize,
    /// Beyond this all ends.
    mark: AtomicUsize,
}

impl Ceiling {
    /// Bounds it by so many bytes, once.
    ///
    /// # Errors
    /// Where the kernel does not say what the process takes.
    pub fn bound(&self, bytes: usize) -> io::Result<()> {
        let bound = Bound { marks: Marks::of(bytes), statm: File::open("/proc/self/statm")? };
        bound.taken()?;
        self.bound.get_or_init(|| bound);
        Ok(())
    }

    /// How much the process takes now, and the most that it may, in bytes; none without a bound.
    pub(crate) fn taken(&self) -> Option<(usize, usize)> {
        self.bound.get().and_then(|bound| Some((bound.taken().ok()?, bound.marks.all())))
    }

    /// So many bytes more were read from a socket.
    pub fn reads(&self, bytes: usize) {
        let Some(bound) = self.bound.get() else { return };
        if self.read.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) < MEMORY_LOOK_BYTES {
            return;
        }
        self.read.store(0, Ordering::Relaxed);
        if bound.is_exceeded() {
            self.exceeded.notify_waiters();
        }
    }

    /// Completes when the process takes more than it may.
    pub async fn exceeded(&self) {
        match self.bound {
            ref bound if bound.get().is_some() => self.exceeded.notified().await,
            _ => std::future::pending().await,
        }
    }

    /// What is left once all has ended is where the next mark is from; false where that is too far up to go on.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.bound.get().is_none_or(|bound| bound.taken().is_ok_and(|taken| bound.marks.goes_on(taken)))
    }
}

impl Bound {
    /// Bytes that are in memory now.
    fn taken(&self) -> io::Result<usize> {
        let mut text = [0; 128];
        let read = self.statm.read_at(&mut text, 0)?;
        let resident = text.get(..read).and_then(|text| std::str::from_utf8(text).ok()?.split(' ').nth(1));
        let pages: Option<usize> = resident.and_then(|pages| pages.parse().ok());
        pages
            .and_then(|pages| pages.checked_mul(page_size()))
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// What nobody can say may be anything.
    fn is_exceeded(&self) -> bool {
        self.taken().map_or(true, |taken| self.marks.is_exceeded(taken))
    }
}

impl Marks {
    fn of(bytes: usize) -> Self {
        let part = bytes / MEMORY_PARTS;
        Self { part, mark: AtomicUsize::new(part.saturating_mul(MEMORY_MARK_PARTS)) }
    }

    const fn all(&self) -> usize {
        self.part.saturating_mul(MEMORY_PARTS)
    }

    fn is_exceeded(&self, taken: usize) -> bool {
        taken > self.mark.load(Ordering::Relaxed)
    }

    fn goes_on(&self, left: usize) -> bool {
        let mark = left.saturating_add(self.part).max(self.part.saturating_mul(MEMORY_MARK_PARTS));
        self.mark.store(mark, Ordering::Relaxed);
        mark <= self.part.saturating_mul(MEMORY_MARK_PARTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn p_i4_beyond_the_mark_all_that_waits_is_told_once_enough_was_read_to_look() {
        for (bytes, told) in [(1, true), (usize::MAX, false)] {
            let ceiling = Ceiling::default();
            ceiling.bound(bytes).unwrap();
            let mut exceeded = pin!(ceiling.exceeded());
            assert!(exceeded.as_mut().now_or_never().is_none());
            ceiling.reads(MEMORY_LOOK_BYTES - 1);
            assert!(exceeded.as_mut().now_or_never().is_none(), "it was not looked yet");
            ceiling.reads(1);
            assert_eq!(exceeded.as_mut().now_or_never().is_some(), told, "{bytes}");
            assert_eq!(ceiling.goes_on(), !told);
            assert!(ceiling.taken().unwrap().0 > 0);
        }
    }

    #[tokio::test]
    async fn without_a_bound_nothing_is_looked_at() {
        let ceiling = Ceiling::default();
        let mut exceeded = pin!(ceiling.exceeded());
        assert!(exceeded.as_mut().now_or_never().is_none());
        ceiling.reads(2 * MEMORY_LOOK_BYTES);
        assert!(exceeded.as_mut().now_or_never().is_none());
        assert!(ceiling.goes_on());
        assert_eq!(ceiling.taken(), None);
    }

    #[test]
    fn p_i4_the_mark_rises_above_what_does_not_come_free_and_not_up_to_the_end_of_the_memory() {
        const PART: usize = 1024;
        let marks = Marks::of(MEMORY_PARTS * PART);
        let first = MEMORY_MARK_PARTS * PART;
        assert!(!marks.is_exceeded(first) && marks.is_exceeded(first + 1));
        assert!(marks.goes_on(PART), "all of it came free");
        assert!(marks.is_exceeded(first + 1));
        assert!(marks.goes_on(first));
        assert!(!marks.is_exceeded(first + PART) && marks.is_exceeded(first + PART + 1));
        assert!(marks.goes_on((MEMORY_MARK_PARTS_MAX - 1) * PART));
        assert!(!marks.goes_on((MEMORY_MARK_PARTS_MAX - 1) * PART + 1), "it would be too near to it");
        assert!(marks.goes_on(0));
        assert!(marks.is_exceeded(first + 1), "it comes down again");
    }
}

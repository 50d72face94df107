//! The event of a stream that is not whole yet. It waits here for its end, since no client acts on half of one: where the stream is stopped,
//! nothing of it has been passed on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{EVENT_BYTES_HELD_MAX, EVENTS_BYTES_HELD_MAX};

const KIB: usize = 1024;

/// The room for such events of all streams. Clones are of the same room.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(EVENTS_BYTES_HELD_MAX / KIB)))
    }
}

/// What waits of one stream.
pub(super) struct Held {
    bytes: Vec<u8>,
    /// For each KiB that `bytes` has room for.
    taken: Option<OwnedSemaphorePermit>,
    room: Room,
}

impl Held {
    pub(super) const fn new(room: Room) -> Self {
        Self { bytes: Vec::new(), taken: None, room }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Has these wait behind the others, if there is room; if not, none of them do.
    pub(super) fn takes(&mut self, more: &[u8]) -> bool {
        let wanted = self.bytes.len().saturating_add(more.len());
        if wanted > EVENT_BYTES_HELD_MAX || (wanted > self.bytes.capacity() && !self.grows(wanted)) {
            return false;
        }
        self.bytes.extend_from_slice(more);
        true
    }

    /// Makes room for so many bytes, twice as much each time.
    fn grows(&mut self, wanted: usize) -> bool {
        let kibs = wanted.next_power_of_two().div_ceil(KIB);
        let missing = kibs.saturating_sub(self.taken.as_ref().map_or(0, OwnedSemaphorePermit::num_permits));
        let Ok(missing) = u32::try_from(missing) else { return false };
        let Ok(more) = Arc::clone(&self.room.0).try_acquire_many_owned(missing) else { return false };
        match &mut self.taken {
            Some(taken) => taken.merge(more),
            None => self.taken = Some(more),
        }
        self.bytes.reserve_exact(kibs * KIB - self.bytes.len());
        true
    }

    /// All that waits, and this behind it.
    pub(super) fn release(&mut self, behind: Bytes) -> Bytes {
        let mut all = std::mem::take(&mut self.bytes);
        self.taken = None;
        if all.is_empty() {
            return behind;
        }
        all.extend_from_slice(&behind);
        all.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_i4_events_that_are_not_whole_take_so_much_together_and_one_of_them_no_more_than_its_part() {
        let room = Room::default();
        let one = || {
            let mut held = Held::new(room.clone());
            held.takes(&[b'x'; EVENT_BYTES_HELD_MAX]).then_some(held)
        };
        let mut all: Vec<_> = std::iter::from_fn(one).collect();
        assert_eq!(all.len(), EVENTS_BYTES_HELD_MAX / EVENT_BYTES_HELD_MAX);
        assert!(!Held::new(room.clone()).takes(b"x"), "a KiB, at least");
        let mut first = all.pop().unwrap();
        assert!(!first.takes(b"x"), "it is as long as one may be");
        assert_eq!(first.release(Bytes::from_static(b"y")).len(), EVENT_BYTES_HELD_MAX + 1);
        assert!(first.is_empty() && room.0.available_permits() == EVENT_BYTES_HELD_MAX / KIB);
        // Piece by piece it takes what it has room for.
        for bytes in 1..=3 * KIB {
            assert!(first.takes(b"x"));
            let taken = first.taken.as_ref().unwrap().num_permits() * KIB;
            assert!(first.bytes.capacity() <= taken && taken < 2 * bytes.max(KIB), "{bytes}");
        }
        drop((all, first));
        assert_eq!(room.0.available_permits(), EVENTS_BYTES_HELD_MAX / KIB);
    }
}

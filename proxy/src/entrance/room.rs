//! What an agent has room for: places for its HTTP/2 connections, heads of its requests that are not answered yet, and answers on their way to
//! one that does not read, and events that are not whole.

use std::sync::Arc;

use http::HeaderMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::headers;
use crate::limits::{H2_CONNECTIONS_MAX, HEAD_FREE_BYTES, HEADER_FIELD_COST_BYTES, HEADS_BYTES_MAX};
use crate::paced::Bound;
use crate::stream;

/// The room of a process.
pub struct Room {
    places: Arc<Semaphore>,
    /// In KiB.
    heads: Arc<Semaphore>,
    unread: Bound,
    events: stream::Room,
}

const KIB: usize = 1024;

/// Room for the head of one request.
pub(crate) struct Head {
    _permit: Option<OwnedSemaphorePermit>,
}

/// A place for one HTTP/2 connection of the agent's.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Default for Room {
    fn default() -> Self {
        let of = |count| Arc::new(Semaphore::new(count));
        Self {
            places: of(H2_CONNECTIONS_MAX),
            heads: of(HEADS_BYTES_MAX / KIB),
            unread: Bound::default(),
            events: stream::Room::default(),
        }
    }
}

impl Room {
    /// A place, where there are not as many connections as may be.
    pub(crate) fn place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }

    /// Room for a head with these fields, where there is.
    pub(crate) fn head(&self, fields: &HeaderMap) -> Option<Head> {
        let bytes = usize::try_from(headers::bytes_of(fields)).unwrap_or(usize::MAX);
        let taken = bytes.saturating_add(fields.len().saturating_mul(HEADER_FIELD_COST_BYTES));
        if taken <= HEAD_FREE_BYTES {
            return Some(Head { _permit: None });
        }
        let permit = Arc::clone(&self.heads).try_acquire_many_owned(u32::try_from(taken.div_ceil(KIB)).ok()?);
        Some(Head { _permit: Some(permit.ok()?) })
    }

    /// What all streams hold together of answers that the agent has not read yet.
    pub(crate) const fn unread(&self) -> &Bound {
        &self.unread
    }

    /// What all event streams hold together of events that are not whole.
    pub(crate) const fn events(&self) -> &stream::Room {
        &self.events
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn fields(count: usize, bytes: usize) -> HeaderMap {
        let value = HeaderValue::from_str(&"x".repeat(bytes)).unwrap();
        (0..count).map(|number| (format!("x-{number}").parse().unwrap(), value.clone())).collect()
    }

    #[test]
    fn p_i4_heads_that_wait_take_so_much_together_and_short_ones_are_always_taken() {
        // Long ones, and ones of many fields that cost more than they have bytes.
        for (count, bytes, most) in [(4, 16 * 1000, 512), (100, 1, 1260)] {
            let (room, long) = (Room::default(), fields(count, bytes));
            let held: Vec<_> = std::iter::from_fn(|| room.head(&long)).collect();
            assert_eq!(held.len(), most, "{count} of {bytes}");
            assert!(room.head(&fields(10, 100)).is_some(), "a short one");
            drop(held);
            assert!(room.head(&long).is_some());
        }
    }
}

//! What the agent's HTTP/2 connections have room for: places for them and their streams, and answers on their way to an agent that does not
//! read.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::H2_CONNECTIONS_MAX;
use crate::paced::Bound;

/// The room of a process.
pub struct Room {
    places: Arc<Semaphore>,
    unread: Bound,
}

/// A place for one HTTP/2 connection of the agent's.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Default for Room {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(H2_CONNECTIONS_MAX)), unread: Bound::default() }
    }
}

impl Room {
    /// A place, where there are not as many connections as may be.
    pub(crate) fn place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }

    /// What all streams hold together of answers that the agent has not read yet.
    pub(crate) const fn unread(&self) -> &Bound {
        &self.unread
    }
}

//! How many connections to upstreams are open at a time, over all policies: a place is held by the socket itself, so that there is
//! none without one, whoever keeps it: an exchange, the pool, a WebSocket, or TLS that is passed on. How many requests an agent has
//! under way says nothing of that: one connection of its own carries many, and each may need one here.
//!
//! A request holds no other place while it waits for one, and waits no longer than for a stream. Places are given in the order they were
//! asked for. A connection that is kept and carries nothing makes room for one that is waited for.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::pool::{self, Destination, Opening, Pool, Voice};
use super::{Lease, Upstream};
use crate::limits::{
    H2_UPSTREAM_CONNECTION_WINDOW_BYTES, H2_UPSTREAM_LEAST_WINDOW_BYTES, H2_UPSTREAM_NARROW_CONNECTIONS_MAX,
    H2_UPSTREAM_NARROW_WINDOW_BYTES, H2_UPSTREAM_WIDE_CONNECTIONS_MAX,
};

/// The places of a process, for connections and for HTTP/2 windows of more than the least size.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    wide: Arc<Semaphore>,
    narrow: Arc<Semaphore>,
    /// Told when a connection that is kept may carry nothing any more.
    spare: Arc<Notify>,
    /// What is kept under the policy in force.
    kept: Mutex<Weak<Pool>>,
}

/// A place for one connection. It is given back when the last clone is dropped, so that one request may try several addresses with it.
#[derive(Clone, Debug)]
pub struct Place {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl From<OwnedSemaphorePermit> for Place {
    fn from(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: Arc::new(permit) }
    }
}

/// What an upstream may send on an HTTP/2 connection before it is passed on.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) bytes: u32,
    _place: Option<OwnedSemaphorePermit>,
}

impl Window {
    /// One that needs no place.
    pub(super) const fn least() -> Self {
        Self { bytes: H2_UPSTREAM_LEAST_WINDOW_BYTES, _place: None }
    }
}

impl Default for Places {
    /// None for a connection: how many there are is said later.
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self {
            all: places(0),
            wide: places(H2_UPSTREAM_WIDE_CONNECTIONS_MAX),
            narrow: places(H2_UPSTREAM_NARROW_CONNECTIONS_MAX),
            spare: Arc::default(),
            kept: Mutex::default(),
        }
    }
}

impl Places {
    /// So many more connections may be open at a time.
    pub fn add(&self, count: usize) {
        self.all.add_permits(count);
    }

    /// A pool for the policy that comes into force, whose idle connections make room.
    pub(super) fn pool(&self) -> Arc<Pool> {
        let pool = Arc::new(Pool::telling(Arc::clone(&self.spare)));
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&pool);
        pool
    }

    /// A place that is free now. Where there is none, something that is kept makes room for another time.
    pub(super) fn now(&self) -> Option<Place> {
        let place = Arc::clone(&self.all).try_acquire_owned().ok().map(Place::from);
        if place.is_none() {
            self.make_room();
        }
        place
    }

    /// A place as soon as one is free, unless `look` finds a connection before, or it is later than `until`.
    pub(super) async fn take<T>(&self, until: Instant, look: impl FnMut() -> Option<T>) -> Taken<T> {
        match Arc::clone(&self.all).try_acquire_owned() {
            Ok(place) => Taken::Place(place.into()),
            // Apart: hardly any request waits, and all would be moved about with the room for it.
            Err(_) => Box::pin(self.wait(until, look)).await,
        }
    }

    async fn wait<T>(&self, until: Instant, mut look: impl FnMut() -> Option<T>) -> Taken<T> {
        let mut place = pin!(timeout_at(until, Arc::clone(&self.all).acquire_owned()));
        loop {
            let mut spare = pin!(self.spare.notified());
            // What is told from here on is heard.
            spare.as_mut().enable();
            if let Some(found) = look() {
                return Taken::Found(found);
            }
            self.make_room();
            tokio::select! {
                place = &mut place => return match place {
                    Ok(Ok(place)) => Taken::Place(place.into()),
                    Ok(Err(_)) | Err(_) => Taken::Late,
                },
                () = spare => {}
            }
        }
    }

    fn make_room(&self) {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        if let Some(kept) = kept {
            kept.make_room();
        }
    }

    /// The widest window that there is a place for.
    pub(super) fn window(&self) -> Window {
        let of = |places: &Arc<Semaphore>, bytes| {
            let place = Arc::clone(places).try_acquire_owned().ok()?;
            Some(Window { bytes, _place: Some(place) })
        };
        of(&self.wide, H2_UPSTREAM_CONNECTION_WINDOW_BYTES)
            .or_else(|| of(&self.narrow, H2_UPSTREAM_NARROW_WINDOW_BYTES))
            .unwrap_or_else(Window::least)
    }
}

/// What came of waiting for a place.
#[derive(Debug)]
pub(super) enum Taken<T> {
    /// One is free.
    Place(Place),
    /// None is needed.
    Found(T),
    /// None was free in time.
    Late,
}

/// Why a request has no connection to be sent on.
#[derive(Debug)]
pub enum Unleased {
    /// It may open one, in this place.
    Opening(Opening, Place),
    /// All were full for as long as it may wait.
    Full,
    /// As many were open as may be, to whatever destination, for as long as it may wait.
    NoPlace,
}

impl Upstream {
    /// A connection with room, or the leave and the place to open one.
    pub(super) async fn find(
        &self,
        to: Destination,
        voice: &Voice,
        until: Instant,
    ) -> Result<Lease, Unleased> {
        loop {
            let opening = match self.pool.lease(to.clone(), voice, until).await {
                Ok(lease) => return Ok(lease),
                Err(pool::Unleased::Full) => return Err(Unleased::Full),
                Err(pool::Unleased::Opening(opening)) => opening,
            };
            if opening.is_for_one_more() {
                match self.places.now() {
                    Some(place) => return Err(Unleased::Opening(opening, place)),
                    // A stream of those that are full may end sooner.
                    None => opening.failed(),
                }
                continue;
            }
            let look = || self.pool.at_once(to.clone(), voice);
            return match self.places.take(until, look).await {
                Taken::Place(place) => Err(Unleased::Opening(opening, place)),
                Taken::Found(lease) => Ok(lease),
                Taken::Late => Err(Unleased::NoPlace),
            };
        }
    }

    /// The leave to open a connection whatever is open, as soon as there is a place for it; none where there is no room until then.
    pub(crate) async fn place(&self, until: Instant) -> Option<Place> {
        match self.places.take(until, || None::<Place>).await {
            Taken::Place(place) | Taken::Found(place) => Some(place),
            Taken::Late => None,
        }
    }

    /// The places of this process.
    pub(crate) const fn places(&self) -> &Arc<Places> {
        &self.places
    }
}

/// A socket and its place, which is given back once the socket is closed.
pub struct Placed<S> {
    io: S,
    _place: Place,
}

impl<S> Placed<S> {
    /// A socket that was opened with this place.
    pub const fn new(io: S, place: Place) -> Self {
        Self { io, _place: place }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Placed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Placed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

//! How many connections to upstreams are open at a time, over all policies: a place is held by the socket itself, so that there is
//! none without one, whoever keeps it: an exchange, the pool, a WebSocket, or TLS that is passed on. How many requests an agent has
//! under way says nothing of that: one connection of its own carries many, and each may need one here.
//!
//! A request holds no other place while it waits for one, and waits no longer than for a stream. Places are given in the order they were
//! asked for. A connection that is kept and carries nothing makes room for one that is waited for.

use std::io;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::io::InspectReader;

use super::pool::{self, Destination, Found, Opening, Pool, Voice};
use super::{Lease, Upstream};
use crate::ceiling::Ceiling;
use crate::limits::{
    H2_UPSTREAM_CONNECTION_WINDOW_BYTES, H2_UPSTREAM_LEAST_WINDOW_BYTES, H2_UPSTREAM_NARROW_CONNECTIONS_MAX,
    H2_UPSTREAM_NARROW_WINDOW_BYTES, H2_UPSTREAM_WIDE_CONNECTIONS_MAX,
};
use crate::paced::Bound;
use crate::writes_through::writes_through;

/// The places of a process, for connections and for HTTP/2 windows of more than the least size, and what waits to be sent over HTTP/2.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    /// How many there are, taken or not.
    count: AtomicUsize,
    waiting: AtomicUsize,
    wide: Arc<Semaphore>,
    narrow: Arc<Semaphore>,
    signals: Arc<Signals>,
    unsent: Bound,
    ceiling: Arc<Ceiling>,
    /// What is kept under the policy in force.
    kept: Mutex<Weak<Pool>>,
}

/// What those that wait for a place are told.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// A connection that is kept carries nothing any more: one of those that wait takes it, or ends it. Whoever hears this and does
    /// neither tells the next.
    pub(super) idle: Notify,
    /// There may be something to go on with, or nothing to wait for any more: all of those that wait look.
    pub(super) look: Notify,
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
            count: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            wide: places(H2_UPSTREAM_WIDE_CONNECTIONS_MAX),
            narrow: places(H2_UPSTREAM_NARROW_CONNECTIONS_MAX),
            signals: Arc::default(),
            unsent: Bound::default(),
            ceiling: Arc::default(),
            kept: Mutex::default(),
        }
    }
}

impl Places {
    /// So many more connections may be open at a time.
    pub fn add(&self, count: usize) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.all.add_permits(count);
    }

    /// How many places there are, how many are taken, also by connections that lie idle, and how many wait for one.
    pub(crate) fn load(&self) -> Load {
        let count = self.count.load(Ordering::Relaxed);
        let taken = count.saturating_sub(self.all.available_permits());
        Load { count, taken, waiting: self.waiting.load(Ordering::Relaxed) }
    }

    /// A pool for the policy that comes into force, whose idle connections make room.
    pub(super) fn pool(&self) -> Arc<Pool> {
        let pool = Arc::new(Pool::telling(Arc::clone(&self.signals)));
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&pool);
        pool
    }

    /// What all streams hold together of bodies that upstreams have not taken yet.
    pub(crate) const fn unsent(&self) -> &Bound {
        &self.unsent
    }

    /// The most memory that all of it may take.
    pub(crate) const fn ceiling(&self) -> &Arc<Ceiling> {
        &self.ceiling
    }

    /// The same stream, of which each byte that is read counts below the ceiling.
    pub(super) fn counts<S: AsyncRead>(
        &self,
        stream: S,
    ) -> InspectReader<S, impl FnMut(&[u8]) + Send + Unpin + use<S>> {
        let ceiling = Arc::clone(&self.ceiling);
        InspectReader::new(stream, move |read| ceiling.reads(read.len()))
    }

    /// A place that is free now.
    pub(super) fn now(&self) -> Option<Place> {
        Arc::clone(&self.all).try_acquire_owned().ok().map(Place::from)
    }

    /// A place as soon as one is free, unless `look` finds something before, or it is later than `until`. Where it finds nothing, it may
    /// say what else to wait for.
    pub(super) async fn take<T>(
        &self,
        until: Instant,
        look: impl FnMut() -> ControlFlow<T, Option<OwnedNotified>>,
    ) -> Taken<T> {
        match self.now() {
            Some(place) => Taken::Place(place),
            // Apart: hardly any request waits, and all would be moved about with the room for it.
            None => Box::pin(self.wait(until, look)).await,
        }
    }

    async fn wait<T>(
        &self,
        until: Instant,
        mut look: impl FnMut() -> ControlFlow<T, Option<OwnedNotified>>,
    ) -> Taken<T> {
        let _waiting = Waiting::among(&self.waiting);
        let mut place = pin!(timeout_at(until, Arc::clone(&self.all).acquire_owned()));
        // There may be an idle connection at first, and later only if that is told: one that ends is enough for one that waits.
        let mut is_idle = true;
        loop {
            let (mut idle, told) = (pin!(self.signals.idle.notified()), self.signals.look.notified());
            // What was told before anybody waited is looked for now, once.
            if idle.as_mut().enable() {
                is_idle = true;
                idle.set(self.signals.idle.notified());
            }
            let change = match look() {
                ControlFlow::Break(found) => {
                    if is_idle {
                        self.signals.idle.notify_one();
                    }
                    return Taken::Found(found);
                }
                ControlFlow::Continue(change) => change,
            };
            if is_idle {
                self.make_room();
            }
            is_idle = tokio::select! {
                place = &mut place => return match place {
                    Ok(Ok(place)) => Taken::Place(place.into()),
                    Ok(Err(_)) | Err(_) => Taken::Late,
                },
                () = idle => true,
                () = told => false,
                () = changed(change) => false,
            };
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

async fn changed(change: Option<OwnedNotified>) {
    match change {
        Some(change) => change.await,
        None => std::future::pending().await,
    }
}

/// How the places are used now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// How many there are.
    pub(crate) count: usize,
    /// Of them those that connections have.
    pub(crate) taken: usize,
    /// Requests, and TLS that is passed on, that wait for one.
    pub(crate) waiting: usize,
}

/// One that waits for a place, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(all: &'a AtomicUsize) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(all)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
    /// Its policy has been replaced.
    Retired,
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
            let mut opening = match self.pool.lease(to.clone(), voice, until).await {
                Ok(lease) => return Ok(lease),
                Err(pool::Unleased::Full) => return Err(Unleased::Full),
                Err(pool::Unleased::Retired) => return Err(Unleased::Retired),
                Err(pool::Unleased::Opening(opening)) => opening,
            };
            if let Some(place) = self.places.now() {
                return Err(Unleased::Opening(opening, place));
            }
            let taken = self.places.take(until, || self.look(to.clone(), voice, &mut opening)).await;
            let place = match taken {
                Taken::Place(place) => place,
                Taken::Found(found) => return found,
                Taken::Late => return Err(Unleased::NoPlace),
            };
            // Much may have come about since this looked last.
            match self.look(to.clone(), voice, &mut opening) {
                ControlFlow::Break(found) => return found,
                // Another has the leave, or has opened one already that this may share.
                ControlFlow::Continue(Some(_)) if !opening.is_for_one_more() => {}
                ControlFlow::Continue(_) => return Err(Unleased::Opening(opening, place)),
            }
        }
    }

    /// What there is for a request that waits for a place. It keeps the leave to open one more while it waits, so that only one of those that
    /// found the same connections full does.
    fn look(
        &self,
        to: Destination,
        voice: &Voice,
        opening: &mut Opening,
    ) -> ControlFlow<Result<Lease, Unleased>, Option<OwnedNotified>> {
        loop {
            match self.pool.take(to.clone(), voice) {
                Found::Lease(lease) => return ControlFlow::Break(Ok(lease)),
                Found::Retired => return ControlFlow::Break(Err(Unleased::Retired)),
                // A stream of those that are full may end sooner.
                Found::Opening(other) if other.is_for_one_more() => *opening = other,
                Found::Opening(_) => return ControlFlow::Continue(None),
                Found::Wait(change) => return ControlFlow::Continue(Some(change)),
            }
        }
    }

    /// The leave to open a connection whatever is open, or why there is none.
    pub(crate) async fn anew(&self, until: Instant) -> Unleased {
        let look = || match self.pool.is_retired() {
            true => ControlFlow::Break(Unleased::Retired),
            false => ControlFlow::Continue(None),
        };
        match self.places.take(until, look).await {
            Taken::Place(place) => Unleased::Opening(Opening::default(), place),
            Taken::Found(unleased) => unleased,
            Taken::Late => Unleased::NoPlace,
        }
    }

    /// A place for what is no request and is told otherwise that its policy is gone; none where there is no room until then.
    pub(crate) async fn place(&self, until: Instant) -> Option<Place> {
        match self.places.take(until, || ControlFlow::<Place, _>::Continue(None)).await {
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

writes_through!(Placed);

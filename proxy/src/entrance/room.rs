//! What the agent's HTTP/2 connections hold: places for them and their streams, and answers on their way to an agent that does not read.
//!
//! The library takes the frames of an answer before the agent does. It bounds their bytes for each stream, not what all streams hold
//! together, nor what a frame costs beside its bytes. Here each frame is counted from when it is taken until it is written, with both. A
//! stream may have one frame on its way whatever others hold, so that it goes on as fast as its own agent reads it, and nothing is ever
//! waited for that another stream has to give up first; it has more than one only while all of them together are below the bound.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{
    H2_CONNECTIONS_MAX, H2_FRAME_COST_BYTES, H2_SEND_BUFFER_BYTES, H2_SHARED_FRAME_BYTES_MIN,
    H2_UNREAD_BYTES_MAX, H2_WIDE_CONNECTIONS_MAX, STREAMS_PER_CONNECTION_MAX,
    STREAMS_PER_NARROW_CONNECTION_MAX,
};
use crate::respond::{Body, BoxError};

/// The room of a process.
pub struct Room {
    wide: Arc<Semaphore>,
    narrow: Arc<Semaphore>,
    /// What all frames cost that are on their way.
    unread: Arc<AtomicUsize>,
}

/// A place for one HTTP/2 connection of the agent's.
pub(crate) struct Place {
    /// Streams that the connection may have open at a time.
    pub(crate) streams: u32,
    _permit: OwnedSemaphorePermit,
}

impl Default for Room {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        let narrow = H2_CONNECTIONS_MAX.saturating_sub(H2_WIDE_CONNECTIONS_MAX);
        Self { wide: places(H2_WIDE_CONNECTIONS_MAX), narrow: places(narrow), unread: Arc::default() }
    }
}

impl Room {
    /// The widest place that is free; none where there are as many connections as may be.
    pub(crate) fn place(&self) -> Option<Place> {
        let of = |places: &Arc<Semaphore>, streams| {
            let permit = Arc::clone(places).try_acquire_owned().ok()?;
            Some(Place { streams, _permit: permit })
        };
        of(&self.wide, STREAMS_PER_CONNECTION_MAX)
            .or_else(|| of(&self.narrow, STREAMS_PER_NARROW_CONNECTION_MAX))
    }

    /// Takes no more of an answer's body than there is room for.
    pub(crate) fn paces(&self, body: Body) -> Paced {
        Paced { inner: body, all: Arc::clone(&self.unread), stream: None }
    }
}

/// The body of an answer on a stream of HTTP/2.
pub(crate) struct Paced {
    inner: Body,
    all: Arc<AtomicUsize>,
    /// None before the first frame that is counted.
    stream: Option<Arc<Stream>>,
}

/// The frames of one stream that are on their way.
struct Stream {
    own: Mutex<Own>,
    all: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Own {
    /// What they cost.
    held: usize,
    /// Who waits for one of them to be written.
    waits: Option<Waker>,
}

impl Stream {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more frame may be taken; if not, the task is woken when one of this stream is written.
    fn may_take(&self, cx: &Context<'_>) -> bool {
        let mut own = self.own();
        let is_below =
            own.held < H2_SEND_BUFFER_BYTES && self.all.load(Ordering::Relaxed) < H2_UNREAD_BYTES_MAX;
        if own.held == 0 || is_below {
            return true;
        }
        own.waits = Some(cx.waker().clone());
        false
    }

    /// The same bytes, counted until they are let go.
    fn holds(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        let cost = bytes.len().saturating_add(H2_FRAME_COST_BYTES);
        self.all.fetch_add(cost, Ordering::Relaxed);
        self.own().held += cost;
        // A short one may keep the whole buffer that it was read into.
        let bytes =
            if bytes.len() < H2_SHARED_FRAME_BYTES_MIN { Bytes::copy_from_slice(&bytes) } else { bytes };
        Bytes::from_owner(Held { bytes, cost, stream: Arc::clone(self) })
    }
}

/// A frame's bytes on their way.
struct Held {
    bytes: Bytes,
    cost: usize,
    stream: Arc<Stream>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stream.all.fetch_sub(self.cost, Ordering::Relaxed);
        let mut own = self.stream.own();
        own.held = own.held.saturating_sub(self.cost);
        let waits = own.waits.take();
        drop(own);
        if let Some(waits) = waits {
            waits.wake();
        }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Self { inner, all, stream } = &mut *self;
        if stream.as_ref().is_some_and(|stream| !stream.may_take(cx)) {
            return Poll::Pending;
        }
        let polled = ready!(Pin::new(&mut *inner).poll_frame(cx));
        // Most answers are one frame, which each stream may have, and are passed on as they are.
        if inner.is_end_stream() && stream.as_ref().is_none_or(|stream| stream.own().held == 0) {
            return Poll::Ready(polled);
        }
        let stream =
            stream.get_or_insert_with(|| Arc::new(Stream { own: Mutex::default(), all: Arc::clone(all) }));
        let held = |frame: Frame<Bytes>| frame.map_data(|bytes| stream.holds(bytes));
        Poll::Ready(polled.map(|frame| frame.map(held)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const PIECE: usize = 16 * 1024;

    /// An answer without end.
    fn endless(room: &Room, piece: usize) -> Paced {
        let frames =
            stream::repeat_with(move || Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'x'; piece]))));
        room.paces(StreamBody::new(frames).boxed_unsync())
    }

    /// What is taken of it while nothing is written.
    fn taken(body: &mut Paced) -> Vec<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match Pin::new(&mut *body).poll_frame(&mut cx) {
            Poll::Ready(frame) => Some(frame.unwrap().unwrap().into_data().unwrap()),
            Poll::Pending => None,
        })
        .collect()
    }

    #[test]
    fn p_i4_what_all_streams_hold_that_nobody_reads_is_bounded_and_each_goes_on_as_it_is_read() {
        let room = Room::default();
        let mut streams: Vec<_> = (0..1000).map(|_| endless(&room, PIECE)).collect();
        let mut held: Vec<_> = streams.iter_mut().map(taken).collect();
        let all: usize = held.iter().flatten().map(Bytes::len).sum();
        assert!(all <= H2_UNREAD_BYTES_MAX + streams.len() * PIECE, "{all}");
        assert!(held[0].len() > 1, "while there is room");
        assert_eq!(held[999].len(), 1, "and one where there is none");
        for _ in 0..3 {
            held[999].clear();
            held[999] = taken(&mut streams[999]);
            assert_eq!(held[999].len(), 1);
        }
        drop(held);
        assert_eq!(room.unread.load(Ordering::Relaxed), 0);
        assert!(taken(&mut streams[999]).len() > 1);
    }

    #[test]
    fn p_i4_small_frames_are_counted_with_what_they_cost_and_keep_no_buffer_of_others() {
        let room = Room::default();
        let held = taken(&mut endless(&room, 1));
        assert_eq!(held.len(), H2_SEND_BUFFER_BYTES / (1 + H2_FRAME_COST_BYTES) + 1);
        let read = Bytes::from(vec![b'x'; PIECE]);
        let body = StreamBody::new(stream::iter(
            [read.slice(..1), read.slice(1..2)].map(|bytes| Ok::<_, BoxError>(Frame::data(bytes))),
        ));
        let mut body = room.paces(body.boxed_unsync());
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) else { panic!() };
        drop(body);
        assert!(read.is_unique(), "{frame:?}");
    }

    #[tokio::test]
    async fn a_stream_that_waits_is_woken_when_a_frame_of_its_own_is_written() {
        let room = Room::default();
        let mut body = endless(&room, PIECE);
        let mut held = taken(&mut body);
        let next =
            tokio::spawn(async move { body.frame().await.unwrap().unwrap().into_data().unwrap().len() });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        held.pop();
        assert_eq!(next.await.unwrap(), PIECE);
    }

    #[test]
    fn an_answer_of_one_frame_is_passed_on_as_it_is() {
        let room = Room::default();
        let text = Bytes::from_static(b"ok");
        let mut body = room.paces(crate::respond::full(text.clone()));
        let held = taken_once(&mut body);
        assert_eq!((held.as_ptr(), room.unread.load(Ordering::Relaxed)), (text.as_ptr(), 0));
    }

    fn taken_once(body: &mut Paced) -> Bytes {
        let mut cx = Context::from_waker(Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(body).poll_frame(&mut cx) else { panic!() };
        frame.into_data().unwrap()
    }

    #[test]
    fn p_d12_the_first_connections_have_many_streams_and_the_others_few() {
        let room = Room::default();
        let mut held: Vec<_> = std::iter::from_fn(|| room.place()).collect();
        let streams: Vec<_> = held.iter().map(|place| place.streams).collect();
        assert_eq!(streams.len(), H2_CONNECTIONS_MAX);
        let (wide, narrow) = streams.split_at(H2_WIDE_CONNECTIONS_MAX);
        assert!(wide.iter().all(|streams| *streams == STREAMS_PER_CONNECTION_MAX));
        assert!(narrow.iter().all(|streams| *streams == STREAMS_PER_NARROW_CONNECTION_MAX));
        held.remove(0);
        assert_eq!(room.place().unwrap().streams, STREAMS_PER_CONNECTION_MAX, "once one has ended");
    }
}

//! Bodies on streams of HTTP/2 on their way to a peer that may not take them: answers to an agent, and uploads to upstreams.
//!
//! The library takes the frames of a body before its peer does. It bounds their bytes for each stream, not what all streams hold
//! together, nor what a frame costs beside its bytes. Here each frame is counted from when it is taken until it is written, with both. A
//! stream may have a little on its way whatever others hold, so that it goes on as fast as its own peer reads it, and nothing is ever
//! waited for that another stream has to give up first; it has more only while all of them together are below the bound, which each thread
//! may exceed by one frame. A frame is a copy, for a slice would keep the whole buffer that it was read into, and a longer piece is cut: until
//! its last part is taken, whoever it comes from is kept, with the place that it holds.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::limits::{
    H2_FRAME_BYTES_MAX, H2_FRAME_COST_BYTES, H2_LEAST_BYTES, H2_SEND_BUFFER_BYTES, H2_UNSENT_BYTES_MAX,
};
use crate::respond::{self, Body, BoxError};

/// What all frames cost that are on their way in one direction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bound(Arc<AtomicUsize>);

impl Bound {
    /// What they cost now, in bytes.
    pub(crate) fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes no more of a body than there is room for.
    pub(crate) fn paces(&self, body: Body) -> Paced {
        Paced { inner: body, rest: Bytes::new(), all: Arc::clone(&self.0), stream: None }
    }
}

/// The body of a stream of HTTP/2.
pub(crate) struct Paced {
    inner: Body,
    /// What is left of a piece that was longer than a frame.
    rest: Bytes,
    all: Arc<AtomicUsize>,
    /// None before the first frame.
    stream: Option<Arc<Stream>>,
}

impl Paced {
    /// The body as it was, if nothing was taken of it.
    pub(crate) fn into_inner(self) -> Body {
        self.inner
    }
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
        let is_below = self.all.load(Ordering::Relaxed) < H2_UNSENT_BYTES_MAX;
        if own.held < if is_below { H2_SEND_BUFFER_BYTES } else { H2_LEAST_BYTES } {
            return true;
        }
        own.waits = Some(cx.waker().clone());
        false
    }

    /// The same bytes, counted until they are let go.
    fn holds(self: &Arc<Self>, piece: &[u8]) -> Bytes {
        let cost = piece.len().saturating_add(H2_FRAME_COST_BYTES);
        self.all.fetch_add(cost, Ordering::Relaxed);
        self.own().held += cost;
        Bytes::from_owner(Held { bytes: piece.into(), cost, stream: Arc::clone(self) })
    }
}

/// A frame's bytes on their way.
struct Held {
    bytes: Box<[u8]>,
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
        let Self { inner, rest, all, stream } = &mut *self;
        let stream =
            stream.get_or_insert_with(|| Arc::new(Stream { own: Mutex::default(), all: Arc::clone(all) }));
        if !stream.may_take(cx) {
            return Poll::Pending;
        }
        if rest.is_empty() {
            let frame = match ready!(Pin::new(&mut *inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                ended => return Poll::Ready(ended),
            };
            match frame.into_data() {
                Ok(data) => *rest = data,
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let piece = rest.split_to(rest.len().min(H2_FRAME_BYTES_MAX));
        if rest.is_empty() {
            *rest = Bytes::new();
            if inner.is_end_stream() {
                // Nobody asks for more, and a stream that its peer does not take may be here for long.
                *inner = respond::empty();
            }
        }
        Poll::Ready(Some(Ok(Frame::data(stream.holds(&piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact.saturating_add(u64::try_from(self.rest.len()).unwrap_or(u64::MAX)));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const PIECE: usize = H2_FRAME_BYTES_MAX;
    /// What a stream has on its way at most where there is no room.
    const LEAST: usize = H2_LEAST_BYTES + PIECE + H2_FRAME_COST_BYTES;

    /// So many pieces of this length.
    fn pieces(bound: &Bound, count: usize, piece: usize) -> Paced {
        let frames = stream::iter(0..count)
            .map(move |_| Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; piece]))));
        // How a body ends whose length is known: with its last piece.
        let length = u64::try_from(count * piece).unwrap();
        let body = http_body_util::Limited::new(StreamBody::new(frames), usize::MAX);
        bound.paces(Known { body: body.boxed_unsync(), left: length }.boxed_unsync())
    }

    struct Known {
        body: Body,
        left: u64,
    }

    impl HttpBody for Known {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
            if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
                self.left -= u64::try_from(data.len()).unwrap();
            }
            Poll::Ready(frame)
        }

        fn is_end_stream(&self) -> bool {
            self.left == 0
        }
    }

    /// What is taken of it while nothing is written.
    fn taken(body: &mut Paced) -> Vec<Bytes> {
        let mut cx = Context::from_waker(Waker::noop());
        std::iter::from_fn(|| match Pin::new(&mut *body).poll_frame(&mut cx) {
            Poll::Ready(frame) => Some(frame?.unwrap().into_data().unwrap()),
            Poll::Pending => None,
        })
        .collect()
    }

    fn cost(held: &[Vec<Bytes>]) -> usize {
        held.iter().flatten().map(|frame| frame.len() + H2_FRAME_COST_BYTES).sum()
    }

    #[test]
    fn p_i4_what_all_streams_hold_that_nobody_reads_is_bounded_and_each_goes_on_as_it_is_read() {
        // Also where all that there is of a body is one piece, as an upstream over HTTP/1.1 hands it up.
        for (count, piece) in [(1000, PIECE), (1000, 1), (1, 4 * PIECE), (1, PIECE)] {
            let bound = Bound::default();
            let mut streams: Vec<_> = (0..1000).map(|_| pieces(&bound, count, piece)).collect();
            let mut held: Vec<_> = streams.iter_mut().map(taken).collect();
            let all = cost(&held);
            assert!(all <= H2_UNSENT_BYTES_MAX + streams.len() * LEAST, "{all} of {count} of {piece}");
            assert!(held.iter().flatten().all(|frame| frame.len() <= PIECE));
            assert_eq!(all, bound.0.load(Ordering::Relaxed), "all of it is counted");
            if piece == PIECE && count > 1 {
                assert!(held[0].len() > 1, "while there is room");
                assert_eq!(held[999].len(), 1, "and one where there is none");
            }
            for _ in 0..3 {
                held[999].clear();
                held[999] = taken(&mut streams[999]);
                assert!(count == 1 || !held[999].is_empty(), "it goes on");
            }
            drop(held);
            assert_eq!(bound.0.load(Ordering::Relaxed), 0);
        }
    }

    #[test]
    fn p_i4_small_frames_are_counted_with_what_they_cost_and_keep_no_buffer_of_others() {
        let bound = Bound::default();
        let held = taken(&mut pieces(&bound, usize::MAX >> 1, 1));
        assert_eq!(held.len(), H2_SEND_BUFFER_BYTES.div_ceil(1 + H2_FRAME_COST_BYTES));
        let read = Bytes::from(vec![b'x'; PIECE]);
        let mut body = bound.paces(respond::full(read.slice(1..)));
        let frames = taken(&mut body);
        drop(body);
        assert!(read.is_unique(), "{} bytes are on their way", frames[0].len());
    }

    #[test]
    fn p_h4_a_stream_has_some_small_messages_on_its_way_also_where_there_is_no_room() {
        let bound = Bound::default();
        let _full: Vec<_> = (0..1000).map(|_| taken(&mut pieces(&bound, 10, PIECE))).collect();
        assert_eq!(
            taken(&mut pieces(&bound, 1000, 20)).len(),
            H2_LEAST_BYTES.div_ceil(20 + H2_FRAME_COST_BYTES)
        );
    }

    #[test]
    fn p_i4_whoever_a_long_piece_comes_from_is_kept_until_its_last_part_is_taken() {
        struct From(Arc<()>);
        impl HttpBody for From {
            type Data = Bytes;
            type Error = BoxError;

            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b'x'; 6 * PIECE])))))
            }

            fn is_end_stream(&self) -> bool {
                Arc::strong_count(&self.0) > 0
            }
        }
        let place = Arc::new(());
        let mut body = Bound::default().paces(From(Arc::clone(&place)).boxed_unsync());
        let first = taken(&mut body);
        assert_eq!((first.len(), body.is_end_stream(), Arc::strong_count(&place)), (4, false, 2));
        drop(first);
        let last = taken(&mut body);
        assert_eq!((last.len(), body.is_end_stream(), Arc::strong_count(&place)), (2, true, 1));
    }

    #[tokio::test]
    async fn a_stream_that_waits_is_woken_when_a_frame_of_its_own_is_written() {
        let mut body = pieces(&Bound::default(), 100, PIECE);
        let mut held = taken(&mut body);
        let next =
            tokio::spawn(async move { body.frame().await.unwrap().unwrap().into_data().unwrap().len() });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        held.pop();
        assert_eq!(next.await.unwrap(), PIECE);
    }
}

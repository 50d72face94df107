//! Bodies in flight: passed on frame by frame, counted, never gathered. The answer's body carries the audit entry, so
//! the line is written when the last byte has gone, or when either side gave up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use crate::audit::{Entry, Traffic};
use crate::respond::BoxError;
use crate::scrub::Scrubber;

/// The agent's body on its way up.
pub struct Upward {
    inner: Incoming,
    traffic: Arc<Traffic>,
}

impl Upward {
    /// Counts `inner` into `traffic`.
    #[must_use]
    pub fn new(inner: Incoming, traffic: Arc<Traffic>) -> Self {
        Self { inner, traffic }
    }
}

impl HttpBody for Upward {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        count(frame.as_ref(), &self.traffic.up);
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The upstream's body on its way down.
pub struct Downward {
    inner: Incoming,
    scrubber: Option<Scrubber>,
    traffic: Arc<Traffic>,
    _entry: Entry,
}

impl Downward {
    /// Counts `inner` into the entry, which is written when this is dropped.
    #[must_use]
    pub fn new(inner: Incoming, scrubber: Option<Scrubber>, entry: Entry) -> Self {
        Self { inner, scrubber, traffic: entry.traffic(), _entry: entry }
    }
}

impl HttpBody for Downward {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        count(frame.as_ref(), &self.traffic.down);
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
            && let Some(scrubber) = &self.scrubber
        {
            scrubber.scrub(trailers);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn count<E>(frame: Option<&Result<Frame<Bytes>, E>>, counter: &AtomicU64) {
    if let Some(Ok(frame)) = frame
        && let Some(data) = frame.data_ref()
    {
        counter.fetch_add(u64::try_from(data.remaining()).unwrap_or(0), Ordering::Relaxed);
    }
}

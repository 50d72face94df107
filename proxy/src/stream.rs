//! Bodies in flight: passed on frame by frame, counted, never gathered. The answer's body carries the audit entry, so
//! the line is written when the last byte has gone, or when either side gave up.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use agentsandbox_policy::{DenialReason, Injection};
use tokio::time::{Sleep, sleep};

use crate::audit::{Entry, Traffic};
use crate::headers;
use crate::limits::HELD_BYTES_PATIENCE;
use crate::placeholder::BodySearch;
use crate::respond::BoxError;
use crate::scrub::{BodyMask, Scrubber};

/// The agent's body on its way up.
pub struct Upward {
    inner: Incoming,
    injection: Option<Injection>,
    search: Option<BodySearch>,
    traffic: Arc<Traffic>,
}

/// The body is broken off: nothing may complete what was found in it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a placeholder stands in the body")]
pub struct Misused;

impl Upward {
    /// Counts `inner` into `traffic`, and breaks it off where `search` finds a placeholder. Its trailers lose what a request's fields lose: an upstream may merge them.
    #[must_use]
    pub fn new(
        inner: Incoming,
        injection: Option<Injection>,
        search: Option<BodySearch>,
        traffic: Arc<Traffic>,
    ) -> Self {
        Self { inner, injection, search, traffic }
    }

    fn searched(&mut self, frame: &Frame<Bytes>) -> Result<(), Misused> {
        let Some(search) = &mut self.search else { return Ok(()) };
        let found = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => search.finds(data),
            (None, Some(trailers)) => search.finds_in_trailers(trailers),
            (None, None) => None,
        };
        let Some(credential) = found else { return Ok(()) };
        self.traffic.misuses(credential);
        Err(Misused)
    }
}

impl HttpBody for Upward {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Err(misused) = self.searched(frame)
        {
            return Poll::Ready(Some(Err(misused.into())));
        }
        count(frame.as_ref(), &self.traffic.up);
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            headers::strip_request(trailers, self.injection.as_ref());
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

/// The upstream's body on its way down.
pub struct Downward {
    inner: Incoming,
    scrub: Option<Scrub>,
    traffic: Arc<Traffic>,
    entry: Entry,
}

/// What keeps the secret out of a body and its trailers.
struct Scrub {
    scrubber: Scrubber,
    mask: BodyMask,
    /// Trailers that came while the body's last bytes were held.
    trailers: Option<HeaderMap>,
    /// When held bytes go on although nothing followed them.
    patience: Option<Pin<Box<Sleep>>>,
}

impl Downward {
    /// Counts `inner` into the entry, which is written when this is dropped.
    #[must_use]
    pub fn new(inner: Incoming, scrubber: Option<Scrubber>, entry: Entry) -> Self {
        let scrub = scrubber.map(|scrubber| Scrub {
            mask: BodyMask::new(&scrubber),
            scrubber,
            trailers: None,
            patience: None,
        });
        Self { inner, scrub, traffic: entry.traffic(), entry }
    }
}

impl Scrub {
    /// Held bytes, once nothing has followed them for long enough: their reader may be the one who has to speak next.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if !self.mask.holds() {
            return Poll::Pending;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(HELD_BYTES_PATIENCE)));
        ready!(patience.as_mut().poll(cx));
        self.patience = None;
        Poll::Ready(self.mask.release())
    }

    /// What becomes of one event of the body; none when the next event has to come first.
    fn pass(&mut self, event: Option<Frame<Bytes>>) -> Option<Option<Frame<Bytes>>> {
        let Some(frame) = event else {
            return Some(match self.mask.holds() {
                true => Some(Frame::data(self.mask.release())),
                false => self.trailers.take().map(Frame::trailers),
            });
        };
        match frame.into_data() {
            Ok(data) => {
                let clean = self.mask.pass(data);
                (!clean.is_empty()).then(|| Some(Frame::data(clean)))
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                self.scrubber.scrub(&mut trailers);
                if self.mask.holds() {
                    self.trailers = Some(trailers);
                    return Some(Some(Frame::data(self.mask.release())));
                }
                Some(Some(Frame::trailers(trailers)))
            }
        }
    }
}

impl HttpBody for Downward {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let released = self.scrub.as_mut().map(|scrub| scrub.poll_patience(cx));
                    return released.unwrap_or(Poll::Pending).map(|bytes| Some(Ok(Frame::data(bytes))));
                }
            };
            count(frame.as_ref(), &self.traffic.down);
            if let Some(Err(_)) = frame {
                self.entry.breaks_off(DenialReason::UpstreamUnreachable);
            }
            let Some(scrub) = &mut self.scrub else {
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            };
            scrub.patience = None;
            let event = match frame {
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => Some(frame),
                None => None,
            };
            if let Some(passed) = scrub.pass(event) {
                return Poll::Ready(passed.map(Ok));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let empty = self.scrub.as_ref().is_none_or(|scrub| !scrub.mask.holds() && scrub.trailers.is_none());
        empty && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        // Masks are as long as what they hide, so the length stays what was announced.
        let held = self.scrub.as_ref().map_or(0, |scrub| scrub.mask.held_bytes());
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact.saturating_add(held));
        }
        hint
    }
}

fn count<E>(frame: Option<&Result<Frame<Bytes>, E>>, counter: &AtomicU64) {
    if let Some(Ok(frame)) = frame
        && let Some(data) = frame.data_ref()
    {
        counter.fetch_add(u64::try_from(data.remaining()).unwrap_or(0), Ordering::Relaxed);
    }
}

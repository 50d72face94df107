//! Bodies in flight: passed on frame by frame, counted, never gathered. The answer's body carries the audit entry, so
//! the line is written when the last byte has gone, or when either side gave up; it tells which.
//!
//! An answer that is searched for secrets goes through up to two stages: it is decoded if it is compressed, and masked.
//! Both hold back as little as they can, and what they hold is given out before the end is.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use agentsandbox_policy::{DenialReason, Injection};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};

use crate::audit::{Entry, Traffic};
use crate::headers;
use crate::limits::HELD_BYTES_PATIENCE;
use crate::placeholder::BodySearch;
use crate::respond::BoxError;
use crate::scrub::decode::{Coding, Decoder, Places, Undecodable};
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
        if let Some(Ok(frame)) = &mut frame {
            if let Err(misused) = self.searched(frame) {
                return Poll::Ready(Some(Err(misused.into())));
            }
            count(frame, &self.traffic.up);
            if let Some(trailers) = frame.trailers_mut() {
                headers::strip_request(trailers, self.injection.as_ref());
            }
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
pub struct Downward<B: HttpBody = Incoming> {
    inner: B,
    /// The upstream has ended the body; what is left is here.
    has_ended: bool,
    scrub: Option<Scrub>,
    traffic: Arc<Traffic>,
    entry: Entry,
    /// All was passed on, or it was said why not.
    is_over: bool,
}

/// What keeps secrets out of a body and its trailers.
struct Scrub {
    scrubber: Arc<Scrubber>,
    decoding: Option<Decoding>,
    mask: BodyMask,
    /// Trailers that came while the body's last bytes were held.
    trailers: Option<HeaderMap>,
    /// When held bytes go on although nothing followed them.
    patience: Option<Pin<Box<Sleep>>>,
}

/// Makes a body readable, and holds a place among those that are decoded at a time.
pub struct Decoding {
    decoder: Decoder,
    _place: OwnedSemaphorePermit,
}

impl Decoding {
    /// Decodes a body in this coding; none when too many are decoded already.
    #[must_use]
    pub fn new(coding: Coding, places: &Places) -> Option<Self> {
        let place = places.take(coding)?;
        Some(Self { decoder: Decoder::new(coding), _place: place })
    }
}

/// How an answer is searched: for what, and how it is made readable first.
pub struct Search {
    /// What is looked for.
    pub scrubber: Arc<Scrubber>,
    /// Absent when the body is readable as it is.
    pub decoding: Option<Decoding>,
}

impl<B: HttpBody> Downward<B> {
    /// Counts `inner` into the entry, which is written when this is dropped.
    #[must_use]
    pub fn new(inner: B, search: Option<Search>, entry: Entry) -> Self {
        let scrub = search.map(|Search { scrubber, decoding }| Scrub {
            mask: BodyMask::new(Arc::clone(&scrubber)),
            scrubber,
            decoding,
            trailers: None,
            patience: None,
        });
        Self { inner, has_ended: false, scrub, traffic: entry.traffic(), entry, is_over: false }
    }

    fn has_nothing_left(&self) -> bool {
        let ended = self.has_ended || self.inner.is_end_stream();
        ended && self.scrub.as_ref().is_none_or(Scrub::is_empty)
    }

    fn breaks(
        &mut self,
        reason: DenialReason,
        error: BoxError,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.is_over = true;
        self.entry.breaks(reason);
        Poll::Ready(Some(Err(error)))
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

    /// What has been decoded and may go on; none when the next frame has to come first.
    fn decoded(&mut self) -> Result<Option<Bytes>, Undecodable> {
        let Some(decoding) = &mut self.decoding else { return Ok(None) };
        while let Some(data) = decoding.decoder.step()? {
            let clean = self.mask.pass(data);
            if !clean.is_empty() {
                return Ok(Some(clean));
            }
        }
        Ok(None)
    }

    /// What becomes of a frame; none when the next event has to come first.
    fn pass(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        match frame.into_data() {
            Ok(data) => {
                if let Some(decoding) = &mut self.decoding {
                    decoding.decoder.feed(&data);
                    return None;
                }
                let clean = self.mask.pass(data);
                (!clean.is_empty()).then(|| Frame::data(clean))
            }
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                self.scrubber.scrub(&mut trailers);
                self.trailers = Some(trailers);
                self.end();
                None
            }
        }
    }

    fn end(&mut self) {
        if let Some(decoding) = &mut self.decoding {
            decoding.decoder.end();
        }
    }

    /// What is left once no data follows: held bytes, and then trailers.
    fn rest(&mut self) -> Option<Frame<Bytes>> {
        match self.mask.holds() {
            true => Some(Frame::data(self.mask.release())),
            false => self.trailers.take().map(Frame::trailers),
        }
    }

    /// Whether nothing waits here to be passed on.
    fn is_empty(&self) -> bool {
        self.decoding.is_none() && !self.mask.holds() && self.trailers.is_none()
    }
}

impl<B> HttpBody for Downward<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(self.poll_passed(cx));
        match &polled {
            Some(Ok(frame)) => {
                count(frame, &self.traffic.down);
                // Nothing follows trailers, and nobody asks whether something does.
                self.is_over = frame.is_trailers();
            }
            Some(Err(_)) => {}
            None => self.is_over = true,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.has_nothing_left()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        if self.scrub.as_ref().is_some_and(|scrub| scrub.decoding.is_some()) {
            return SizeHint::default();
        }
        // Masks are as long as what they hide, so the length stays what was announced.
        let held = self.scrub.as_ref().map_or(0, |scrub| scrub.mask.held_bytes());
        if let Some(exact) = hint.exact() {
            hint.set_exact(exact.saturating_add(held));
        }
        hint
    }
}

impl<B> Downward<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(scrub) = &mut self.scrub {
                match scrub.decoded() {
                    Ok(Some(clean)) => return Poll::Ready(Some(Ok(Frame::data(clean)))),
                    Ok(None) => {}
                    Err(error) => return self.breaks(DenialReason::UnreadableAnswer, error.into()),
                }
                if scrub.trailers.is_some() {
                    return Poll::Ready(scrub.rest().map(Ok));
                }
            }
            if self.has_ended {
                return self.poll_rest();
            }
            let polled = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(polled) => polled,
                Poll::Pending => {
                    let released = self.scrub.as_mut().map(|scrub| scrub.poll_patience(cx));
                    return released.unwrap_or(Poll::Pending).map(|bytes| Some(Ok(Frame::data(bytes))));
                }
            };
            let frame = match polled {
                Some(Err(error)) => return self.breaks(DenialReason::AnswerBroken, error.into()),
                Some(Ok(frame)) => frame,
                None => {
                    self.has_ended = true;
                    self.scrub.iter_mut().for_each(Scrub::end);
                    continue;
                }
            };
            let Some(scrub) = &mut self.scrub else { return Poll::Ready(Some(Ok(frame))) };
            scrub.patience = None;
            if let Some(passed) = scrub.pass(frame) {
                return Poll::Ready(Some(Ok(passed)));
            }
        }
    }

    /// What is left here once the upstream has ended the body and all is decoded.
    fn poll_rest(&mut self) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.scrub.as_mut().and_then(Scrub::rest).map(Ok))
    }
}

impl<B: HttpBody> Drop for Downward<B> {
    fn drop(&mut self) {
        // Where a length was announced nobody asks for more once all of it has come.
        let is_whole =
            self.inner.size_hint().exact() == Some(0) && self.scrub.as_ref().is_none_or(Scrub::is_empty);
        if !self.is_over && !is_whole && !self.has_nothing_left() {
            self.entry.breaks(DenialReason::Interrupted);
        }
    }
}

fn count(frame: &Frame<Bytes>, counter: &AtomicU64) {
    if let Some(data) = frame.data_ref() {
        counter.fetch_add(u64::try_from(data.remaining()).unwrap_or(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

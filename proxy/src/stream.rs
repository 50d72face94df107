//! The upstream's body on its way down: passed on frame by frame, counted, never gathered. It carries the audit entry, so the
//! line is written when the last byte has gone, or when either side gave up; it tells which.
//!
//! An answer that is searched for secrets goes through up to two stages: it is decoded if it is compressed, and masked.
//! Both hold back as little as they can, and what they hold is given out before the end is.

mod attended;
mod event_stream;
mod events;
mod held;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use agentsandbox_policy::{Denial, DenialReason};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};

use crate::audit::{Entry, Fault, Traffic};
use crate::entrance::EntranceContext;
use crate::exchange::CutOff;
use crate::headers;
use crate::limits::HELD_BYTES_PATIENCE;
use crate::respond::BoxError;
use crate::revoked::Watch;
use crate::scrub::decode::{self, Coding, Decoder, Places, Undecodable};
use crate::scrub::{BodyMask, Scrubber};

pub use attended::{Bodies, Revocable, Seen};
pub use event_stream::{EventStream, is_event_stream};
pub use held::Room;

/// The upstream's body on its way down.
pub struct Downward<B: HttpBody = Incoming> {
    inner: B,
    /// The upstream has ended the body; what is left is here.
    has_ended: bool,
    cleaning: Cleaning,
    scrub: Option<Scrub>,
    /// What may still be passed on of it.
    room: Option<u64>,
    traffic: Arc<Traffic>,
    entry: Entry,
    /// For as long as this lives the agent's connection is not idle.
    context: Option<Arc<EntranceContext>>,
    watch: Option<Watch>,
}

/// The policy or a bound ends an answer, and nothing is wrong with its upstream. Of the denial no more may be known than why.
#[derive(Debug, thiserror::Error)]
#[error("it is stopped: {0}")]
pub struct Stopped(Box<Denial>);

/// What the fields of an answer lose: those of its head and those of its trailers, which a client may merge.
pub struct Cleaning {
    /// What is looked for; absent where the host can know no secret.
    pub scrubber: Option<Arc<Scrubber>>,
    /// Whether a session may be opened with it.
    pub session: Session,
}

/// What becomes of a session that an answer opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// It is the agent's own.
    Passed,
    /// It would speak in place of a secret.
    Removed,
}

impl Cleaning {
    /// Cleans the fields of an answer whose body is decoded from this coding.
    pub fn clean(&self, fields: &mut HeaderMap, decoded: Option<Coding>) {
        if self.session == Session::Removed {
            headers::strip_session(fields);
        }
        if let Some(scrubber) = &self.scrubber {
            headers::strip_digests(fields, decoded);
            scrubber.scrub(fields);
        }
    }
}

/// What keeps secrets out of a body.
struct Scrub {
    decoding: Option<Decoding>,
    mask: BodyMask,
    /// Trailers that came while the body's last bytes were held.
    trailers: Option<HeaderMap>,
    /// When held bytes go on although nothing followed them.
    patience: Option<Pin<Box<Sleep>>>,
}

/// Makes a body readable, and holds a place among those that are decoded at a time.
pub struct Decoding {
    coding: Coding,
    decoder: Decoder,
    /// None once there was no room for its window.
    place: Option<OwnedSemaphorePermit>,
    has_begun: bool,
}

impl Decoding {
    /// Decodes a body in this coding; none when too many are decoded already.
    #[must_use]
    pub fn new(coding: Coding, places: &Places) -> Option<Self> {
        let place = Some(places.take(coding)?);
        Some(Self { coding, decoder: Decoder::new(coding), place, has_begun: false })
    }

    /// Takes the next piece. How wide the window is its first byte says. One that is too wide for the places that are left is not decoded, and
    /// gives its own back at once: of several that begin together, the next has it.
    fn feed(&mut self, data: &Bytes) {
        if let Some(first) = data.first()
            && !std::mem::replace(&mut self.has_begun, true)
            && decode::takes_two_places(self.coding, *first)
        {
            self.place = self.place.take().and_then(two);
        }
        match self.place {
            Some(_) => self.decoder.feed(data),
            None => self.decoder.gives_up(),
        }
    }
}

/// This place and one more, or none.
fn two(mut place: OwnedSemaphorePermit) -> Option<OwnedSemaphorePermit> {
    let more = Arc::clone(place.semaphore()).try_acquire_owned().ok()?;
    place.merge(more);
    Some(place)
}

impl<B: HttpBody> Downward<B> {
    /// Counts `inner` into the entry, which is written when this is dropped. It is searched if something is looked for, and
    /// decoded before if it is not readable as it is.
    #[must_use]
    pub fn new(inner: B, cleaning: Cleaning, decoding: Option<Decoding>, entry: Entry) -> Self {
        let scrub = cleaning.scrubber.as_ref().map(|scrubber| Scrub {
            mask: BodyMask::new(Arc::clone(scrubber)),
            decoding,
            trailers: None,
            patience: None,
        });
        Self {
            inner,
            has_ended: false,
            cleaning,
            scrub,
            room: None,
            traffic: entry.traffic(),
            entry,
            context: None,
            watch: None,
        }
    }

    /// Cuts it off where it becomes longer than this.
    #[must_use]
    pub fn at_most(mut self, max_bytes: Option<u64>) -> Self {
        self.room = max_bytes;
        self
    }

    /// Takes the room for what a frame carries; none is left for one that does not fit.
    fn takes_room(&mut self, frame: &Frame<Bytes>) -> bool {
        let bytes = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
        let left = self.room.map(|room| room.checked_sub(bytes));
        self.room = left.map(Option::unwrap_or_default);
        left != Some(None)
    }

    /// Cuts it off, and the upload beside it, with what allowed its request.
    #[must_use]
    pub fn watched(mut self, watch: Option<Watch>) -> Self {
        self.watch = watch;
        self
    }

    /// Keeps the agent's connection from being taken for idle.
    #[must_use]
    pub fn on(mut self, context: Arc<EntranceContext>) -> Self {
        self.context = Some(context);
        self
    }

    fn has_nothing_left(&self) -> bool {
        let ended = self.has_ended || self.inner.is_end_stream();
        ended && self.scrub.as_ref().is_none_or(Scrub::is_empty)
    }

    /// Whether all of it was passed on. Where a length was announced nobody asks for more once all of it has come.
    fn is_whole(&self) -> bool {
        let has_all =
            self.inner.size_hint().exact() == Some(0) && self.scrub.as_ref().is_none_or(Scrub::is_empty);
        has_all || self.has_nothing_left()
    }

    /// Why it may not go on, if it may not; then its entry says so.
    fn stopped(&mut self) -> Option<Box<Denial>> {
        // An upstream that leaves open what has all its bytes is still asked for more.
        if self.has_nothing_left() {
            return None;
        }
        let denial = self.fault().or_else(|| self.watch.as_mut()?.passes().err())?;
        self.entry.breaks(denial.reason);
        Some(denial)
    }

    /// What the agent's body was stopped for, if it was.
    fn fault(&self) -> Option<Box<Denial>> {
        match self.traffic.fault()? {
            fault @ (Fault::Misused(_) | Fault::OwnKey(_) | Fault::OverLimit | Fault::Revoked(_)) => {
                Some(Denial::new(fault.reason()).into())
            }
            Fault::Malformed | Fault::Silent | Fault::Gone => None,
        }
    }

    fn breaks(
        &mut self,
        reason: DenialReason,
        error: &BoxError,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(denial) = self.fault() {
            // The upstream broke off because the agent's body was stopped.
            return self.stops(denial);
        }
        tracing::info!(error = %error, "an answer was not read to its end");
        self.entry.breaks(reason);
        Poll::Ready(Some(Err(CutOff::Upstream.into())))
    }

    fn stops(&mut self, denial: Box<Denial>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.entry.breaks(denial.reason);
        Poll::Ready(Some(Err(Stopped(denial).into())))
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
                    decoding.feed(&data);
                    return None;
                }
                let clean = self.mask.pass(data);
                (!clean.is_empty()).then(|| Frame::data(clean))
            }
            Err(frame) => {
                self.trailers = frame.into_trailers().ok();
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
        let polled = self.poll_passed(cx);
        let mut polled = ready!(polled);
        if let (Some(watch), Some(Ok(_))) = (&mut self.watch, &polled)
            && let Err(denial) = watch.passes()
        {
            return self.stops(denial);
        }
        if let Some(Ok(frame)) = &polled
            && !self.takes_room(frame)
        {
            return self.stops(Denial::new(DenialReason::AnswerTooLarge).into());
        }
        match &mut polled {
            Some(Ok(frame)) => {
                self.traffic.goes_down(data_bytes(frame));
                if let Some(trailers) = frame.trailers_mut() {
                    self.cleaning.clean(trailers, None);
                    headers::strip_response(trailers);
                    // Nothing follows trailers, and nobody asks whether something does.
                    self.entry.completes();
                }
            }
            Some(Err(_)) => {}
            None => self.entry.completes(),
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
                    Err(error) => return self.breaks(DenialReason::UnreadableAnswer, &error.into()),
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
                Some(Err(error)) => return self.breaks(DenialReason::AnswerBroken, &error.into()),
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
        if self.is_whole() {
            self.entry.completes();
        }
    }
}

impl<B> Revocable for Downward<B>
where
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    fn look(&mut self) -> Seen {
        self.stopped().map_or(Seen::GoesOn, Seen::Stopped)
    }
}

/// What a frame carries, its trailers aside.
pub(crate) fn data_bytes(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

#[cfg(test)]
mod tests;

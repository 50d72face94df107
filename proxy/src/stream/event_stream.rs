//! An event stream on its way down (`text/event-stream`). Where the policy or a bound stops it, it does not break off: its last event
//! says why, as a refusal does, and then it ends in order. Nothing of its upstream's goes on from there. What an upstream breaks off stays
//! broken, so that an agent can tell the two apart. An event that is not whole waits for its end, if it is not too long: SDKs read the data of
//! any event, so that half of one would keep them from the last.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use agentsandbox_policy::{Denial, DenialReason};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::events::Events;
use super::held::{Held, Room};
use super::{Downward, Revocable, Seen, Stopped};
use crate::audit::{Fault, Recorded, Traffic};
use crate::pipeline::{faulty, located};
use crate::respond::{self, BoxError};

type Polled = Option<Result<Frame<Bytes>, BoxError>>;

/// The body of an answer that is an event stream.
pub struct EventStream<B: HttpBody = Incoming> {
    /// None once it is stopped.
    inner: Option<Downward<B>>,
    events: Events,
    /// The event that is not whole yet.
    held: Held,
    /// It is longer than may be held: its beginning was passed on, and what comes of it is.
    is_too_long: bool,
    /// What comes behind what was held.
    next: Option<Polled>,
    /// The request. Its parts are shared, so that a stream costs no copy of them.
    asked: Recorded,
}

/// Whether fields are those of an event stream that can be read as it is passed on.
#[must_use]
pub fn is_event_stream(fields: &HeaderMap) -> bool {
    let kind = fields.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
    let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let is_plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    kind.eq_ignore_ascii_case(b"text/event-stream") && fields.get_all(CONTENT_ENCODING).iter().all(is_plain)
}

impl<B: HttpBody> EventStream<B> {
    /// Ends `inner` with an event where it is stopped; `asked` is the request. Its length must not have been announced.
    #[must_use]
    pub fn new(inner: Downward<B>, asked: Recorded, room: Room) -> Self {
        Self {
            inner: Some(inner),
            events: Events::default(),
            held: Held::new(room),
            is_too_long: false,
            next: None,
            asked,
        }
    }

    /// What of a piece, and of what waits, may be passed on now.
    fn pass(&mut self, mut piece: Bytes) -> Bytes {
        let whole = self.events.pass(&piece);
        if whole == 0 && self.is_too_long {
            return piece;
        }
        let begun = piece.split_off(whole);
        // Nothing is copied of a piece that ends with its event.
        let passed = if whole > 0 { self.held.release(piece) } else { piece };
        self.is_too_long = !begun.is_empty() && !self.held.takes(&begun);
        match (self.is_too_long, passed.is_empty()) {
            (false, _) => passed,
            (true, true) => self.held.release(begun),
            (true, false) => [passed, begun].concat().into(),
        }
    }

    /// What ends the stream, or its trailers, behind what is held.
    fn ends(&mut self, end: Polled) -> Polled {
        if self.held.is_empty() {
            return end;
        }
        self.next = Some(end);
        Some(Ok(Frame::data(self.held.release(Bytes::new()))))
    }

    /// What is held is not passed on any more.
    fn withdraw(&mut self) {
        if let Some(inner) = &self.inner {
            inner.traffic.withdraws(self.held.bytes());
        }
        self.held.release(Bytes::new());
    }

    /// What the agent is told of a stop, as if the request were refused for it. What the upload beside it was stopped for comes first, as
    /// in the audit line.
    fn told(&self, traffic: &Traffic, denial: &Denial) -> Denial {
        let permit = self.asked.permit();
        match (traffic.fault(), denial.reason) {
            (
                Some(fault @ (Fault::Misused(_) | Fault::OwnKey(_) | Fault::OverLimit | Fault::Revoked(_))),
                _,
            ) => faulty(permit, fault),
            (_, DenialReason::AnswerTooLarge) => respond::denial(permit, denial.reason),
            _ => located(permit, denial),
        }
    }

    /// The last event of a stream that is stopped for this, behind what closes the one before. The exchange is over with it.
    fn stops(&mut self, denial: &Denial) -> Option<Bytes> {
        // Of what is held nothing was passed on, so nothing has to be closed.
        let mut last = if self.held.is_empty() { self.events.close() } else { Vec::new() };
        self.withdraw();
        let mut inner = self.inner.take()?;
        inner.entry.tells_in_stream();
        let request_id = inner.entry.request_id().to_string();
        let denial = self.told(&inner.traffic, denial);
        // Its line is written, and its upstream cut off, before the agent is told.
        drop(inner);
        last.extend_from_slice(respond::last_event(&denial, &request_id).as_bytes());
        Some(last.into())
    }
}

impl<B> HttpBody for EventStream<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Polled> {
        loop {
            if let Some(next) = self.next.take() {
                return Poll::Ready(next);
            }
            let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
            let frame = match ready!(Pin::new(&mut *inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => match error.downcast::<Stopped>() {
                    Ok(stopped) => {
                        return Poll::Ready(self.stops(&stopped.0).map(|last| Ok(Frame::data(last))));
                    }
                    Err(error) => return Poll::Ready(self.ends(Some(Err(error)))),
                },
                None => return Poll::Ready(self.ends(None)),
            };
            let is_last = inner.is_end_stream();
            let passed = match frame.into_data() {
                Ok(data) if is_last => self.held.release(data),
                Ok(data) => self.pass(data),
                Err(trailers) => return Poll::Ready(self.ends(Some(Ok(trailers)))),
            };
            if !passed.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(passed))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_over = self.held.is_empty() && self.next.is_none();
        is_over && self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), |_| SizeHint::default())
    }
}

impl<B> Revocable for EventStream<B>
where
    B: HttpBody<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn is_watched(&self) -> bool {
        self.inner.as_ref().is_some_and(Revocable::is_watched)
    }

    fn look(&mut self) -> Seen {
        // One that has ended waits for its end to be read.
        if self.next.is_some() {
            return Seen::GoesOn;
        }
        let Some(denial) = self.inner.as_mut().and_then(Downward::stopped) else { return Seen::GoesOn };
        self.next = self.stops(&denial).map(|last| Some(Ok(Frame::data(last))));
        Seen::Tells
    }
}

impl<B: HttpBody> Drop for EventStream<B> {
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(test)]
mod tests;

//! An event stream on its way down (`text/event-stream`). Where the policy or a bound stops it, it does not break off: its last event
//! says why, as a refusal does, and then it ends in order. Nothing of its upstream's goes on from there. What an upstream breaks off stays
//! broken, so that an agent can tell the two apart.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use agentsandbox_policy::Denial;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;

use super::events::Events;
use super::{Downward, Stopped};
use crate::respond::{self, BoxError};

/// The body of an answer that is an event stream.
pub struct EventStream<B: HttpBody = Incoming> {
    /// None once it is stopped.
    inner: Option<Downward<B>>,
    events: Events,
    /// What is known of the request: a denial for no reason yet.
    asked: Box<Denial>,
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
    /// Ends `inner` with an event where it is stopped; `asked` names the request. Its length must not have been announced.
    #[must_use]
    pub fn new(inner: Downward<B>, asked: Box<Denial>) -> Self {
        Self { inner: Some(inner), events: Events::default(), asked }
    }

    /// The last event of a stream that is stopped for this, behind what closes the one before. The exchange is over with it.
    fn stops(&mut self, denial: Denial) -> Option<Bytes> {
        let mut inner = self.inner.take()?;
        inner.entry.tells_in_stream();
        let request_id = inner.entry.request_id().to_string();
        // Its line is written, and its upstream cut off, before the agent is told.
        drop(inner);
        let asked = self.asked.as_ref().clone();
        let denial = Denial {
            rule: denial.rule.or(asked.rule),
            host: denial.host.or(asked.host),
            port: denial.port.or(asked.port),
            method: denial.method.or(asked.method),
            path: denial.path.or(asked.path),
            ..denial
        };
        let mut last = self.events.close();
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

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let polled = match ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Err(error)) => match error.downcast::<Stopped>() {
                Ok(stopped) => self.stops(*stopped.0).map(|last| Ok(Frame::data(last))),
                Err(error) => Some(Err(error)),
            },
            Some(Ok(frame)) => {
                frame.data_ref().into_iter().for_each(|data| self.events.pass(data));
                Some(Ok(frame))
            }
            None => None,
        };
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

//! The two bodies of one exchange, and what each has to know of the other. Neither is gathered here.
//!
//! An agent that falls silent in the middle of a body is cut off, until its answer has begun: from then on either side
//! may be silent for as long as it likes, as in an event stream. Once the answer is over nobody waits for the rest of
//! the body: a little of it is taken, so that a small one leaves the connection usable, and then it is cut off.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep, timeout};

use crate::entrance::EntranceContext;
use crate::limits::{BODY_IDLE_TIMEOUT, LATE_BODY_BYTES_MAX, LATE_BODY_TIMEOUT};
use crate::respond::BoxError;

/// How far an exchange has come. Clones are of the same exchange.
#[derive(Clone, Default)]
pub struct Progress(Arc<State>);

#[derive(Default)]
struct State {
    answered: AtomicBool,
    over: AtomicBool,
    upload: Mutex<Option<Waker>>,
}

impl Progress {
    /// The head of the answer is there.
    pub fn answered(&self) {
        self.0.answered.store(true, Ordering::Release);
    }

    fn over(&self) {
        self.0.over.store(true, Ordering::Release);
        if let Some(waker) = self.0.upload.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    fn is_answered(&self) -> bool {
        self.0.answered.load(Ordering::Acquire)
    }

    fn is_over(&self) -> bool {
        self.0.over.load(Ordering::Acquire)
    }

    fn wakes(&self, waker: &Waker) {
        let mut known = self.0.upload.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *known = Some(waker.clone());
        }
    }
}

/// Why a body was cut off.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum CutOff {
    /// The agent fell silent.
    #[error("the rest of the body did not come")]
    Silent,
    /// Nobody wants the rest.
    #[error("the answer is over before the body")]
    Late,
    /// The upstream ended in the middle of its answer. What it said of that is not passed on: an HTTP/2 code of the
    /// upstream's would read as if the agent had broken the protocol.
    #[error("the upstream broke off")]
    Upstream,
}

/// The agent's body, within its bounds.
pub struct Upload<B> {
    inner: B,
    progress: Progress,
    may_be_silent: bool,
    late_bytes: usize,
    patience: Option<(bool, Pin<Box<Sleep>>)>,
}

impl<B> Upload<B> {
    /// Bounds `inner`, the body of a request with these fields.
    pub fn new(inner: B, fields: &HeaderMap, progress: Progress) -> Self {
        // A call may be opened and then wait for what the server has to say, before any head of an answer (gRPC over
        // HTTP/2, "Responses"). Whether its agent still lives is asked by HTTP/2 pings.
        let kind = fields.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let may_be_silent = kind.starts_with(b"application/grpc");
        Self { inner, progress, may_be_silent, late_bytes: 0, patience: None }
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<CutOff> {
        self.progress.wakes(cx.waker());
        let late = self.progress.is_over();
        if !late && (self.may_be_silent || self.progress.is_answered()) {
            self.patience = None;
            return Poll::Pending;
        }
        if self.patience.as_ref().is_some_and(|(was_late, _)| *was_late != late) {
            self.patience = None;
        }
        let time = if late { LATE_BODY_TIMEOUT } else { BODY_IDLE_TIMEOUT };
        let (_, patience) = self.patience.get_or_insert_with(|| (late, Box::pin(sleep(time))));
        patience.as_mut().poll(cx).map(|()| if late { CutOff::Late } else { CutOff::Silent })
    }

    fn is_too_late(&mut self, frame: &Frame<Bytes>) -> bool {
        if self.progress.is_over() {
            self.late_bytes = self.late_bytes.saturating_add(frame.data_ref().map_or(0, Buf::remaining));
        }
        self.late_bytes > LATE_BODY_BYTES_MAX
    }
}

impl<B> HttpBody for Upload<B>
where
    B: HttpBody<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.patience = None;
                let late = self.is_too_late(&frame);
                Poll::Ready(Some(if late { Err(CutOff::Late.into()) } else { Ok(frame) }))
            }
            Poll::Ready(ended) => Poll::Ready(ended),
            Poll::Pending => self.poll_patience(cx).map(|cut_off| Some(Err(cut_off.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The upstream's body. When it is dropped the exchange is over.
pub struct Download<B> {
    inner: B,
    progress: Progress,
    /// For as long as this lives the agent's connection is not idle.
    _context: Arc<EntranceContext>,
}

impl<B> Download<B> {
    /// Ends `progress` with `inner`.
    pub const fn new(inner: B, progress: Progress, context: Arc<EntranceContext>) -> Self {
        Self { inner, progress, _context: context }
    }
}

impl<B> Drop for Download<B> {
    fn drop(&mut self) {
        self.progress.over();
    }
}

impl<B> HttpBody for Download<B>
where
    B: HttpBody<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx).map(|frame| {
            frame.map(|frame| {
                frame.map_err(|error| {
                    tracing::info!(error = %error, "an answer was not read to its end");
                    CutOff::Upstream.into()
                })
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Takes a little of the body of a refused request. A connection that is closed with bytes unread is reset, and the
/// agent's kernel may then throw the refusal away before it is read.
pub fn drain(mut body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    tokio::spawn(timeout(LATE_BODY_TIMEOUT, async move {
        let mut taken = 0_usize;
        while taken <= LATE_BODY_BYTES_MAX
            && let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await
        {
            taken = taken.saturating_add(frame.data_ref().map_or(0, Buf::remaining));
        }
    }));
}

//! The agent's body on its way up: passed on frame by frame, counted, never gathered, and what it has to know of its answer.
//!
//! An agent that falls silent in the middle of a body is cut off, until its answer has begun: from then on either side
//! may be silent for as long as it likes, as in an event stream. Once the exchange is over, which its audit entry says,
//! nothing more is sent up. Of what the agent still sends a little is taken, so that a small body leaves its connection
//! usable, and then it is cut off.

use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use agentsandbox_policy::{BodySearch, CredentialUse, FormSearch, Permit, Policy};
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::audit::{Fault, Traffic};
use crate::headers;
use crate::limits::{
    BODY_IDLE_TIMEOUT, CALL_HEAD_TIMEOUT, LATE_BODY_BYTES_MAX, LATE_BODY_IDLE_TIMEOUT, LATE_BODY_TIMEOUT,
    RESPONSE_HEAD_TIMEOUT,
};
use crate::respond::BoxError;
use crate::revoked::Watch;
use crate::stream::data_bytes;

/// How far an exchange has come. Clones are of the same exchange.
#[derive(Clone, Default)]
pub struct Progress(Arc<State>);

#[derive(Default)]
struct State {
    answered: AtomicBool,
    upload: Mutex<Side>,
    /// Who waits for more of the body.
    waiting: Mutex<Option<Waker>>,
    /// When the body last moved.
    moved: Mutex<Option<Instant>>,
    is_call: AtomicBool,
}

/// What becomes of the agent's body.
#[derive(Default)]
enum Side {
    /// It is on its way.
    Open(Incoming),
    /// It has come to its end, or nobody asks for it any more.
    #[default]
    Ended,
    /// The exchange was over before.
    CutOff,
}

impl Progress {
    /// The head of the answer is there.
    pub fn answered(&self) {
        self.0.answered.store(true, Ordering::Release);
    }

    /// When the head of the answer to a request that was sent at `since` is late, unless its body moves until then: an
    /// upload takes as long as it takes.
    pub fn head_is_due(&self, since: Instant) -> Instant {
        let moved = *self.0.moved.lock().unwrap_or_else(PoisonError::into_inner);
        let is_call = self.0.is_call.load(Ordering::Relaxed);
        let patience = if is_call { CALL_HEAD_TIMEOUT } else { RESPONSE_HEAD_TIMEOUT };
        moved.unwrap_or(since).max(since) + patience
    }

    /// The body has come this far: to another piece, or to its end.
    fn moves(&self) {
        if !self.0.answered.load(Ordering::Acquire) {
            *self.0.moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }

    /// Nothing more is sent up: what was, is counted when this returns.
    pub fn over(&self) {
        let mut side = self.side();
        let whole = match &*side {
            Side::Open(body) => body.is_end_stream(),
            Side::Ended | Side::CutOff => return,
        };
        let left = std::mem::replace(&mut *side, if whole { Side::Ended } else { Side::CutOff });
        drop(side);
        if let Side::Open(body) = left {
            drain(body);
        }
        if let Some(waker) = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    fn side(&self) -> MutexGuard<'_, Side> {
        self.0.upload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wakes(&self, waker: &Waker) {
        let mut known = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
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
    /// Nothing may complete what was found in it.
    #[error("a placeholder stands in the body")]
    Misused,
    /// No key of the agent's own may follow.
    #[error("a field of the form is for a key")]
    OwnKey,
    /// More may not be sent.
    #[error("the limit of what may be sent is reached")]
    OverLimit,
    /// The policy would not allow the request any more.
    #[error("the policy does not allow it any more")]
    Revoked,
    /// The upstream ended in the middle of its answer. What it said of that is not passed on: an HTTP/2 code of the
    /// upstream's would read as if the agent had broken the protocol.
    #[error("the upstream broke off")]
    Upstream,
}

/// The agent's body, within its bounds. What is left of it when this is dropped is drained.
pub struct Upload {
    progress: Progress,
    traffic: Arc<Traffic>,
    credential: Option<CredentialUse>,
    /// Whether a session of the agent's own could speak in place of a secret or a client certificate of the host.
    loses_cookies: bool,
    search: Option<BodySearch>,
    form: Option<FormSearch>,
    /// Where a rule lists the fields that pass, trailers are none of them.
    has_trailers: bool,
    may_be_silent: bool,
    patience: Option<Pin<Box<Sleep>>>,
    watch: Option<Watch>,
}

impl Upload {
    /// Bounds the body of a request with these fields, and counts it into `traffic`.
    #[must_use]
    pub fn new(body: Incoming, fields: &HeaderMap, progress: Progress, traffic: Arc<Traffic>) -> Self {
        *progress.side() = Side::Open(body);
        // A call may be opened and then wait for what the server has to say, before any head of an answer (gRPC over
        // HTTP/2, "Responses"). Whether its agent still lives is asked by HTTP/2 pings.
        let kind = fields.get(CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let may_be_silent = kind.starts_with(b"application/grpc");
        progress.0.is_call.store(may_be_silent, Ordering::Relaxed);
        Self {
            progress,
            traffic,
            credential: None,
            loses_cookies: false,
            search: None,
            form: None,
            has_trailers: true,
            may_be_silent,
            patience: None,
            watch: None,
        }
    }

    /// Breaks it off where `search` finds a placeholder. Its trailers lose what a request's fields lose: an upstream may
    /// merge them.
    #[must_use]
    pub fn judged(mut self, policy: &Policy, permit: &Permit, search: Option<BodySearch>) -> Self {
        (self.credential, self.search) = (permit.credential().cloned(), search);
        self.loses_cookies = policy.has_credential_at(permit.host());
        self.has_trailers = permit.bounds().headers().is_none();
        self
    }

    /// Breaks it off where a field of the form that it is would hold a key of the agent's own.
    #[must_use]
    pub fn searched(mut self, form: Option<FormSearch>) -> Self {
        self.form = form;
        self
    }

    /// Breaks it off with what allowed it.
    #[must_use]
    pub fn watched(mut self, allowed: impl FnOnce() -> Watch) -> Self {
        self.watch = (!self.is_end_stream()).then(allowed);
        self
    }

    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<CutOff> {
        self.progress.wakes(cx.waker());
        if self.may_be_silent || self.progress.0.answered.load(Ordering::Acquire) {
            self.patience = None;
            return Poll::Pending;
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(BODY_IDLE_TIMEOUT)));
        patience.as_mut().poll(cx).map(|()| {
            self.traffic.faults(Fault::Silent);
            CutOff::Silent
        })
    }

    /// What goes up of a frame. It is counted while the body is held, so that the end of the exchange finds it counted.
    fn pass(&mut self, frame: Result<Frame<Bytes>, hyper::Error>) -> Result<Frame<Bytes>, BoxError> {
        let mut frame = frame.inspect_err(|error| self.traffic.faults(fault(error)))?;
        if let Some(Err(denial)) = self.watch.as_mut().map(Watch::passes) {
            self.traffic.faults(Fault::Revoked(denial));
            return Err(CutOff::Revoked.into());
        }
        if let Some(search) = &mut self.search {
            let found = match (frame.data_ref(), frame.trailers_ref()) {
                (Some(data), _) => search.finds(data),
                (None, Some(trailers)) => search.finds_in_trailers(headers::texts(trailers)),
                (None, None) => None,
            };
            if let Some(credential) = found {
                self.traffic.faults(Fault::Misused(credential.to_owned()));
                return Err(CutOff::Misused.into());
            }
        }
        if let (Some(form), Some(data)) = (&mut self.form, frame.data_ref())
            && let Some(field) = form.finds(data)
        {
            self.traffic.faults(Fault::OwnKey(field.to_owned()));
            return Err(CutOff::OwnKey.into());
        }
        self.traffic.spends(bytes_of(&frame)).map_err(|_| CutOff::OverLimit)?;
        self.traffic.goes_up(data_bytes(&frame));
        if let Some(trailers) = frame.trailers_mut() {
            if !self.has_trailers {
                trailers.clear();
            }
            let credential = self.credential.as_ref();
            headers::strip_judged(trailers);
            headers::strip_request(trailers, credential.map(CredentialUse::injection));
            if self.loses_cookies {
                headers::strip_cookies(trailers);
            }
            headers::unpin(trailers, credential.map(CredentialUse::pinned).unwrap_or_default());
        }
        Ok(frame)
    }
}

/// What a frame says, in bytes.
fn bytes_of(frame: &Frame<Bytes>) -> u64 {
    let trailers = frame.trailers_ref().map_or(0, headers::bytes_of);
    let data = frame.data_ref().map_or(0, |data| u64::try_from(data.remaining()).unwrap_or(u64::MAX));
    trailers.saturating_add(data)
}

/// Whether the agent's body broke the protocol or only ended too early.
fn fault(error: &hyper::Error) -> Fault {
    use std::error::Error as _;
    let cause = error.source().and_then(|cause| cause.downcast_ref::<std::io::Error>());
    match cause.map(std::io::Error::kind) {
        Some(ErrorKind::InvalidData | ErrorKind::InvalidInput) => Fault::Malformed,
        _ => Fault::Gone,
    }
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let progress = self.progress.clone();
        let mut side = progress.side();
        let body = match &mut *side {
            Side::Open(body) => body,
            Side::Ended => return Poll::Ready(None),
            Side::CutOff => return Poll::Ready(Some(Err(CutOff::Late.into()))),
        };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(Some(frame)) => {
                self.patience = None;
                self.progress.moves();
                Poll::Ready(Some(self.pass(frame)))
            }
            Poll::Ready(None) => {
                self.progress.moves();
                *side = Side::Ended;
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_patience(cx).map(|cut_off| Some(Err(cut_off.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*self.progress.side() {
            Side::Open(body) => body.is_end_stream(),
            Side::Ended => true,
            Side::CutOff => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &*self.progress.side() {
            Side::Open(body) => body.size_hint(),
            Side::Ended | Side::CutOff => SizeHint::default(),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.progress.over();
    }
}

/// Takes a little of a body that nobody wants. A connection that is closed with bytes unread is reset, and the agent's kernel
/// may then throw the answer away before it is read.
pub fn drain(body: Incoming) {
    if body.is_end_stream() {
        return;
    }
    // None while the process ends, and then the connection does as well.
    if let Ok(runtime) = Handle::try_current() {
        runtime.spawn(take(body));
    }
}

/// Takes of a body what comes without a pause, up to a bound and for a time.
async fn take(mut body: impl HttpBody<Data = Bytes> + Unpin) {
    let taking = timeout(LATE_BODY_TIMEOUT, async {
        let mut taken = 0_usize;
        while taken <= LATE_BODY_BYTES_MAX
            && let Ok(Some(Ok(frame))) = timeout(LATE_BODY_IDLE_TIMEOUT, body.frame()).await
        {
            taken = taken.saturating_add(frame.data_ref().map_or(0, Buf::remaining));
        }
    });
    // However it ends, the rest is not taken.
    let _ = taking.await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::convert::Infallible;
    use std::time::Duration;

    use super::*;
    use futures::StreamExt;
    use http::{Request, Response};
    use http_body_util::{Empty, StreamBody};
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::oneshot;

    /// How much is taken, and for how long, of a body whose frames of this size come at this interval without end.
    async fn taken(frame_bytes: usize, interval: Duration) -> (usize, Duration) {
        let (given, begin) = (Cell::new(0), Instant::now());
        let frames = futures::stream::repeat(()).then(|()| async {
            sleep(interval).await;
            given.set(given.get() + frame_bytes);
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![0; frame_bytes])))
        });
        timeout(LATE_BODY_TIMEOUT * 2, take(StreamBody::new(Box::pin(frames)))).await.unwrap();
        (given.get(), begin.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_body_is_taken_until_it_pauses_or_is_too_long_or_takes_too_long() {
        let (often, seldom) = (LATE_BODY_IDLE_TIMEOUT / 2, LATE_BODY_IDLE_TIMEOUT * 2);
        let size = LATE_BODY_BYTES_MAX / 8;
        let (bytes, time) = taken(size, often).await;
        assert_eq!(
            (bytes, time.as_secs()),
            (size * 9, (often * 9).as_secs()),
            "however slow, up to the bound"
        );
        let (bytes, time) = taken(size, seldom).await;
        assert_eq!((bytes, time.as_secs()), (0, LATE_BODY_IDLE_TIMEOUT.as_secs()), "silence");
        let (bytes, time) = taken(1, often).await;
        assert!(bytes > 10);
        assert_eq!(time.as_secs(), LATE_BODY_TIMEOUT.as_secs(), "a trickle");
    }

    /// The body of an agent that has sent this behind the first line of its request, and its connection.
    async fn body(sent: &str) -> (Incoming, DuplexStream) {
        let (mut agent, ours) = duplex(1024);
        let (gives, given) = oneshot::channel();
        let gives = Mutex::new(Some(gives));
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let gives = gives.lock().unwrap().take().unwrap();
                gives.send(request.into_body()).unwrap();
                std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
            });
            let _ = http1::Builder::new()
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(ours), service)
                .await;
        });
        agent.write_all(format!("POST / HTTP/1.1\r\nhost: a\r\n{sent}").as_bytes()).await.unwrap();
        (given.await.unwrap(), agent)
    }

    const CHUNKED: &str = "transfer-encoding: chunked\r\n\r\n";

    /// What goes up of a body of which this was sent, whose request has this type, and what is known of it.
    async fn upload(sent: &str, kind: &'static str) -> (Upload, DuplexStream, Progress, Arc<Traffic>) {
        let (body, agent) = body(sent).await;
        let (progress, traffic) = (Progress::default(), Arc::<Traffic>::default());
        let fields = HeaderMap::from_iter([(CONTENT_TYPE, http::HeaderValue::from_static(kind))]);
        let upload = Upload::new(body, &fields, progress.clone(), Arc::clone(&traffic));
        (upload, agent, progress, traffic)
    }

    fn cut_off(frame: Option<Result<Frame<Bytes>, BoxError>>) -> CutOff {
        *frame.unwrap().unwrap_err().downcast::<CutOff>().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_late_by_when_the_body_moved_until_it_is_there() {
        let (progress, since) = (Progress::default(), Instant::now());
        assert_eq!(progress.head_is_due(since), since + RESPONSE_HEAD_TIMEOUT);
        sleep(Duration::from_secs(3)).await;
        progress.moves();
        let moved = since + Duration::from_secs(3);
        assert_eq!(progress.head_is_due(since), moved + RESPONSE_HEAD_TIMEOUT);
        progress.answered();
        sleep(Duration::from_secs(3)).await;
        progress.moves();
        assert_eq!(progress.head_is_due(since), moved + RESPONSE_HEAD_TIMEOUT, "it is there");
        progress.0.is_call.store(true, Ordering::Relaxed);
        assert_eq!(progress.head_is_due(since), moved + CALL_HEAD_TIMEOUT);
    }

    #[test]
    fn a_frame_says_as_much_as_its_data_or_its_fields_have() {
        assert_eq!(bytes_of(&Frame::data(Bytes::from_static(b"abc"))), 3);
        let fields = HeaderMap::from_iter([(CONTENT_TYPE, http::HeaderValue::from_static("a/b"))]);
        let said = headers::bytes_of(&fields);
        assert!(said >= 15);
        assert_eq!(bytes_of(&Frame::trailers(fields)), said);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_body_is_cut_off_unless_it_may_be_silent_or_its_answer_has_begun() {
        for (kind, is_answered, is_cut_off) in [
            ("text/plain", false, true),
            ("text/plain", true, false),
            ("application/grpc+proto", false, false),
        ] {
            let (mut upload, _agent, progress, traffic) = upload(CHUNKED, kind).await;
            if is_answered {
                progress.answered();
            }
            let begin = Instant::now();
            let frame = timeout(BODY_IDLE_TIMEOUT * 2, upload.frame()).await;
            assert_eq!(frame.is_ok(), is_cut_off, "{kind} {is_answered}");
            if let Ok(frame) = frame {
                assert!(matches!(cut_off(frame), CutOff::Silent));
                assert_eq!(begin.elapsed().as_secs(), BODY_IDLE_TIMEOUT.as_secs());
            }
            assert_eq!(traffic.fault(), is_cut_off.then_some(&Fault::Silent), "{kind} {is_answered}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_more_is_told_at_once_that_the_exchange_is_over() {
        let (mut upload, _agent, progress, _) = upload(CHUNKED, "text/plain").await;
        let begin = Instant::now();
        let (frame, ()) = tokio::join!(upload.frame(), async { progress.over() });
        assert!(matches!(cut_off(frame), CutOff::Late));
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert!(!upload.is_end_stream(), "it did not come to its end");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_breaks_the_protocol_is_told_from_one_that_ends_too_early() {
        let (mut broken, _agent, _, traffic) = upload(&format!("{CHUNKED}zz\r\n"), "text/plain").await;
        assert!(broken.frame().await.unwrap().is_err());
        assert_eq!(traffic.fault(), Some(&Fault::Malformed));
        let (mut cut, agent, _, traffic) = upload(&format!("{CHUNKED}5\r\nab"), "text/plain").await;
        drop(agent);
        while cut.frame().await.is_some_and(|frame| frame.is_ok()) {}
        assert_eq!(traffic.fault(), Some(&Fault::Gone));
    }

    #[tokio::test(start_paused = true)]
    async fn the_length_of_a_body_is_told_and_whether_it_is_at_its_end() {
        let (mut whole, _agent, _, traffic) = upload("content-length: 3\r\n\r\nabc", "text/plain").await;
        assert_eq!((whole.size_hint().exact(), whole.is_end_stream()), (Some(3), false));
        assert_eq!(whole.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
        assert!(whole.frame().await.is_none());
        assert_eq!((whole.size_hint().exact(), whole.is_end_stream()), (None, true));
        assert_eq!(traffic.passed(), 3);
        let (none, _agent, _, _) = upload("content-length: 0\r\n\r\n", "text/plain").await;
        assert!(none.is_end_stream());
        let none = none.watched(|| panic!("nothing follows that could be stopped"));
        assert!(none.watch.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_body_that_nobody_wants_the_rest_is_taken() {
        let (upload, mut agent, progress, _) = upload(CHUNKED, "text/plain").await;
        drop(upload);
        assert!(matches!(*progress.side(), Side::CutOff));
        let rest = vec![b'x'; LATE_BODY_BYTES_MAX / 2];
        let sent = async {
            agent.write_all(format!("{:x}\r\n", rest.len()).as_bytes()).await.unwrap();
            agent.write_all(&rest).await.unwrap();
        };
        assert!(timeout(LATE_BODY_TIMEOUT, sent).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn p_g3_trailers_go_up_only_where_their_rule_lists_no_fields() {
        for has_trailers in [true, false] {
            let sent = format!("{CHUNKED}0\r\nx-a: 1\r\n\r\n");
            let (mut upload, _agent, _, _) = upload(&sent, "text/plain").await;
            upload.has_trailers = has_trailers;
            let trailers = upload.frame().await.unwrap().unwrap().into_trailers().unwrap();
            assert_eq!(trailers.contains_key("x-a"), has_trailers);
        }
    }
}

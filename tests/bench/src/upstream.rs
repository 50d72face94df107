//! The upstream: answers at once, streams events with the time in them, and moves bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::SECRET;
use crate::pki::Pki;

/// The body of upstream and load.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Bytes of an ordinary answer: a short JSON document.
const ANSWER_BYTES: usize = 1024;
/// Bytes of one piece of a large body.
pub const PIECE_BYTES: usize = 64 * 1024;
/// Places of event streams in an interval.
const SPREAD: u32 = 1000;
/// More than any scenario opens: what is measured is the contender, not how it waits for a stream.
const STREAMS_MAX: u32 = 4096;

/// Where the upstream listens.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Addresses {
    /// HTTP/1.1 without TLS; asks for no secret.
    pub plain: SocketAddr,
    /// HTTP/1.1 over TLS.
    pub http1: SocketAddr,
    /// HTTP/2 over TLS.
    pub http2: SocketAddr,
}

/// Serves until the process ends; says where it listens.
pub async fn serve(pki: &Pki, announce: impl FnOnce(Addresses)) {
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let [http2, http1, plain] =
        [listeners.pop().unwrap(), listeners.pop().unwrap(), listeners.pop().unwrap()];
    announce(Addresses {
        plain: plain.local_addr().unwrap(),
        http1: http1.local_addr().unwrap(),
        http2: http2.local_addr().unwrap(),
    });
    tokio::join!(
        accept(plain, None),
        accept(http1, Some(pki.server(&["http/1.1"]).into())),
        accept(http2, Some(pki.server(&["h2"]).into()))
    );
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>) {
    let tls = tls.map(Arc::new);
    loop {
        let Ok((io, _)) = listener.accept().await else { continue };
        let _ = io.set_nodelay(true);
        let tls = tls.clone();
        tokio::spawn(async move {
            let Some(tls) = tls else { return connection(io, false, false).await };
            if let Ok(io) = tls.accept(io).await {
                let is_http2 = io.get_ref().1.alpn_protocol() == Some(b"h2");
                connection(io, is_http2, true).await;
            }
        });
    }
}

async fn connection(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, is_http2: bool, demands: bool) {
    let service =
        service_fn(move |request| async move { Ok::<_, Infallible>(answer(request, demands).await) });
    // A client that goes away is no event here.
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(STREAMS_MAX).timer(TokioTimer::new());
        let _ = builder.serve_connection(TokioIo::new(io), service).await;
    } else {
        let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
    }
}

async fn answer(request: Request<Incoming>, demands_secret: bool) -> Response<Body> {
    if demands_secret && !knows_secret(request.headers()) {
        return Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .body(Full::default().boxed_unsync())
            .unwrap();
    }
    let number = |name: &str| {
        let query = request.uri().query().unwrap_or_default();
        query.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok()
    };
    // Not every contender can cut off the prefix that chooses the upstream.
    let path = request.uri().path();
    match path.strip_prefix("/api").unwrap_or(path) {
        "/events" => events(Duration::from_millis(number("millis").unwrap_or(1000))),
        "/download" => download(number("bytes").unwrap_or_default()),
        "/upload" => upload(request).await,
        "/bench.Echo/Unary" => unary(request).await,
        _ => {
            let body = Full::new(Bytes::from_static(&[b'x'; ANSWER_BYTES])).boxed_unsync();
            with_type(Response::new(body), "application/json")
        }
    }
}

fn knows_secret(headers: &HeaderMap) -> bool {
    let value = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    value.strip_prefix(b"Bearer ") == Some(SECRET.as_bytes())
}

fn with_type(mut response: Response<Body>, value: &'static str) -> Response<Body> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(value));
    response
}

fn channel() -> (mpsc::Sender<Bytes>, Body) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(4);
    let stream = futures_stream(move |context| receiver.poll_recv(context));
    (sender, StreamBody::new(stream).boxed_unsync())
}

/// A body's stream from a poll function.
fn futures_stream(
    mut poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<Bytes>> + Send,
) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send {
    futures::stream::poll_fn(move |context| {
        poll(context).map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    })
}

/// Streams that begin together tell their events one after another, spread over the interval: otherwise a delay would say
/// how long a burst takes.
fn events(every: Duration) -> Response<Body> {
    static STREAMS: AtomicU32 = AtomicU32::new(0);
    let (sender, body) = channel();
    let place = STREAMS.fetch_add(1, Ordering::Relaxed) % SPREAD;
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval_at(Instant::now() + every * place / SPREAD, every);
        loop {
            ticks.tick().await;
            let event = format!("data: {}\n\n", now_nanos());
            if sender.send(event.into()).await.is_err() {
                return;
            }
        }
    });
    with_type(Response::new(body), "text/event-stream")
}

/// Nanoseconds since the epoch: a clock that upstream and load share.
#[must_use]
pub fn now_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}

/// A body of so many bytes, made while it is sent.
#[must_use]
pub fn pieces(bytes: u64) -> Body {
    static PIECE: [u8; PIECE_BYTES] = [b'y'; PIECE_BYTES];
    let mut left = bytes;
    let stream = futures_stream(move |_| {
        let size = left.min(PIECE_BYTES as u64);
        left -= size;
        let piece = PIECE.get(..usize::try_from(size).unwrap_or_default()).unwrap_or_default();
        std::task::Poll::Ready((size > 0).then(|| Bytes::from_static(piece)))
    });
    StreamBody::new(stream).boxed_unsync()
}

fn download(bytes: u64) -> Response<Body> {
    let mut response = with_type(Response::new(pieces(bytes)), "application/octet-stream");
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    response
}

async fn upload(request: Request<Incoming>) -> Response<Body> {
    let received = drain(request.into_body()).await;
    with_type(Response::new(Full::from(received.to_string()).boxed_unsync()), "text/plain")
}

/// Reads a body to its end and counts its bytes.
pub async fn drain(mut body: Incoming) -> u64 {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
    bytes
}

async fn unary(request: Request<Incoming>) -> Response<Body> {
    debug_assert!(!request.body().is_end_stream(), "a unary call has a message");
    let message =
        request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(message).with_trailers(async move { Some(Ok(trailers)) });
    with_type(Response::new(body.boxed_unsync()), "application/grpc")
}

//! The ways in. An entrance finds out what a connection speaks and which destination its bytes are bound to; then each
//! request goes through the one [`handle`](crate::pipeline::handle). No entrance decides anything about a request, and
//! none opens a connection.

pub mod base_url;
pub mod dns;
mod gathered;
pub mod hello;
pub mod http_proxy;
pub mod line;
mod passthrough;
mod resets;
pub mod room;
pub mod socks5;
pub mod tls;
pub mod transparent;
pub(crate) mod unread;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use agentsandbox_policy::{Denial, DenialReason, Host, Scheme};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use self::gathered::Gathered;
use self::line::{Listened, Pulse};
use self::resets::Refusal;
use self::room::Place;
use crate::audit::Admitted;
use crate::limits::{
    H2_CONNECTION_WINDOW_BYTES, H2_IDLE_TIMEOUT, H2_PING_INTERVAL, H2_PING_TIMEOUT, H2_SEND_BUFFER_BYTES,
    H2_STREAM_WINDOW_BYTES, HANDSHAKE_TIMEOUT, HEADER_BYTES_MAX, HEADER_FIELDS_MAX, HEADER_READ_TIMEOUT,
    STREAMS_PER_CONNECTION_MAX,
};
use crate::pipeline::Proxy;
use crate::respond::Body;

/// Where a request came in; it appears in audit lines and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Entrance {
    /// Absolute-form requests and CONNECT.
    HttpProxy,
    /// SOCKS5.
    Socks5,
    /// `/<rule>/…`.
    BaseUrl,
    /// TLS by its SNI.
    TransparentTls,
    /// HTTP by its Host.
    TransparentHttp,
    /// Policy DNS.
    Dns,
    /// Enrolment.
    Enrolment,
}

impl Entrance {
    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HttpProxy => "http-proxy",
            Self::Socks5 => "socks5",
            Self::BaseUrl => "base-url",
            Self::TransparentTls => "transparent-tls",
            Self::TransparentHttp => "transparent-http",
            Self::Dns => "dns",
            Self::Enrolment => "enrolment",
        }
    }
}

/// What the bytes before a request already said about its destination.
#[derive(Clone, Debug)]
pub enum Binding {
    /// Nothing: the request names it in absolute form.
    AbsoluteForm,
    /// Everything: CONNECT, SOCKS5 or SNI named it, and the request must agree.
    Bound {
        /// Over TLS or not.
        scheme: Scheme,
        /// The host.
        host: Host,
        /// The port.
        port: u16,
    },
    /// Nothing: the first path segment names a rule.
    BaseUrl,
    /// Nothing: `Host` names it, on the plain HTTP port.
    HostHeader,
}

/// A place among the connections that are served at a time. It is free again when its last copy is gone, so whatever
/// outlives a connection, as a tunnel outlives its CONNECT, holds a copy.
#[derive(Clone, Debug)]
pub struct Slot {
    _permit: Arc<OwnedSemaphorePermit>,
}

impl Slot {
    /// The place that a permit stands for.
    #[must_use]
    pub fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { _permit: Arc::new(permit) }
    }
}

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The way in.
    pub entrance: Entrance,
    /// The agent.
    pub peer: IpAddr,
    /// Its place.
    pub slot: Slot,
    /// Whether the agent is still there, once it has shut its writing side.
    pub pulse: Pulse,
}

/// Where a request comes from.
#[derive(Clone, Debug)]
pub struct EntranceContext {
    /// The connection.
    pub origin: Origin,
    /// What is known of the destination.
    pub binding: Binding,
}

/// What a tunnel turns out to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tls,
    Http,
    Other,
}

/// A method is shorter (32 bytes at most), and so is the beginning of a target.
const OPENING_BYTES_MAX: usize = 40;
/// What is told of a tunnel in which nothing is said that could be judged: so it is with protocols in which the server speaks first.
const SILENT: &str = "Nothing came through the tunnel that begins TLS or a request of HTTP; use a client that speaks one of them, and first.";
/// How an absolute URL begins.
const SCHEME: &[u8] = b"http";

/// A tunnel to a named destination: finds out whether TLS or HTTP is inside, and serves that. Anything else is closed.
/// It is opened only once that was written down.
pub(crate) async fn tunnel<S>(proxy: Arc<Proxy>, mut io: S, origin: Origin, to: (Host, u16), _: Admitted)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut first = Vec::with_capacity(OPENING_BYTES_MAX);
    let opening = async {
        loop {
            first.push(io.read_u8().await?);
            if let Some(protocol) = opened_by(&first) {
                return std::io::Result::Ok(protocol);
            }
        }
    };
    let opened = timeout(HANDSHAKE_TIMEOUT, opening).await;
    let protocol = match opened {
        Ok(Ok(protocol)) => protocol,
        // The client opened a tunnel and never used it.
        Ok(Err(_)) if first.is_empty() => return,
        Ok(Err(_)) | Err(_) => {
            let denial = Denial::new(DenialReason::UnsupportedProtocol).with_host(&to.0).with_port(to.1);
            return refuse_connection(&proxy, origin.entrance, &denial.with_how_to_allow(SILENT));
        }
    };
    let (read, write) = tokio::io::split(io);
    let io = tokio::io::join(std::io::Cursor::new(first).chain(read), write);
    let (host, port) = to;
    match protocol {
        Protocol::Tls => tls::intercept(proxy, io, origin, Some((host, port)), port).await,
        Protocol::Http => {
            let binding = Binding::Bound { scheme: Scheme::Http, host, port };
            serve_http1(proxy, io, EntranceContext { origin, binding }).await;
        }
        Protocol::Other => {
            let denial = Denial::new(DenialReason::UnsupportedProtocol).with_host(&host).with_port(port);
            refuse_connection(&proxy, origin.entrance, &denial);
        }
    }
}

/// What a client speaks that begins like this, once that can be told: a record of TLS, or a request line up to its target.
fn opened_by(first: &[u8]) -> Option<Protocol> {
    let method = match first {
        [0x16, ..] => return Some(Protocol::Tls),
        _ => first.iter().take_while(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')).count(),
    };
    let target = first.get(method..).unwrap_or_default().strip_prefix(b" ");
    match target {
        _ if first.starts_with(b"SSH-") => Some(Protocol::Other),
        Some([b'/' | b'*' | b' ', ..]) => Some(Protocol::Http),
        Some(target) if target.len() >= SCHEME.len() => {
            let is_url = target.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME));
            Some(if is_url || first.starts_with(b"CONNECT ") { Protocol::Http } else { Protocol::Other })
        }
        Some(_) => None,
        None if method == first.len() && method < OPENING_BYTES_MAX => None,
        None => Some(Protocol::Other),
    }
}

/// Writes down that a connection is closed without an answer.
pub(crate) fn refuse_connection(proxy: &Proxy, entrance: Entrance, denial: &Denial) {
    let loaded = proxy.policy.current(std::time::Instant::now()).ok();
    let mut entry = proxy.audit.open(entrance, loaded.as_ref().map(|loaded| &*loaded.policy));
    entry.refuses(denial, None);
}

/// How HTTP/1.1 is read: the bounds of a head, and the time for it. It needs a runtime with a clock.
#[must_use]
pub fn http1_reader() -> http1::Builder {
    let head_bytes = usize::try_from(HEADER_BYTES_MAX).unwrap_or(usize::MAX);
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .half_close(true)
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_headers(HEADER_FIELDS_MAX)
        .max_buf_size(head_bytes)
        .max_header_size(head_bytes);
    builder
}

/// Serves HTTP/1.1 until the client or the proxy has had enough.
pub(crate) async fn serve_http1<S>(proxy: Arc<Proxy>, io: S, context: EntranceContext)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (shutdown, entrance) = (proxy.shutdown.clone(), context.origin.entrance);
    let asked = Arc::new(AtomicBool::new(false));
    let context = Arc::new(context);
    let service = service(Arc::clone(&proxy), Arc::clone(&context), Arc::clone(&asked));
    let (client, pulse) = (Listened::new(io, Arc::clone(&asked)), context.origin.pulse.clone());
    let io = TokioIo::new(client.clone());
    let connection = http1_reader().serve_connection(io, service_fn(service)).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = client.until_gone(connection.as_mut(), &pulse) => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            client.until_gone(connection, &pulse).await
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(error = %error, "a client connection ended");
        if let Some(reason) = refused_head(&error, asked.load(Ordering::Relaxed)) {
            unread::refuse(&proxy, entrance, client, unread::at(reason, &context.binding)).await;
        }
    }
}

/// Serves HTTP/2 until the client or the proxy has had enough.
pub(crate) async fn serve_http2<S>(proxy: Arc<Proxy>, io: S, context: EntranceContext, _place: Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (shutdown, entrance) = (proxy.shutdown.clone(), context.origin.entrance);
    let context = Arc::new(context);
    let service = service(Arc::clone(&proxy), Arc::clone(&context), Arc::default());
    let malformed = unread::at(DenialReason::MalformedRequest, &context.binding);
    let (owner, of_stream) = (Arc::clone(&proxy), malformed.clone());
    let one_more = unread::one_more_stream(&context.binding);
    let gathered = Gathered::new(io);
    let io = resets::watched(gathered.clone(), move |refusal| {
        let denial = if refusal == Refusal::OneMore { &one_more } else { &of_stream };
        refuse_connection(&owner, entrance, denial);
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(H2_SEND_BUFFER_BYTES)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT)
        .serve_connection(TokioIo::new(io), service_fn(service));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = gathered.each_turn_of(connection.as_mut()) => ended,
        () = async { tokio::select! { () = shutdown.cancelled() => {}, () = idle(&context) => {} } } => {
            connection.as_mut().graceful_shutdown();
            gathered.each_turn_of(connection).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "a client connection ended");
        if broke_the_protocol(&error) {
            refuse_connection(&proxy, entrance, &malformed);
        }
    }
}

/// hyper answers a head that it cannot read by itself, so no request ever comes of it: that refusal is written down
/// here. Silence between two requests is none.
fn refused_head(error: &hyper::Error, asked: bool) -> Option<DenialReason> {
    if error.is_parse_version_h2() {
        Some(DenialReason::UnsupportedProtocol)
    } else if error.is_parse_too_large() || (error.is_timeout() && !asked) {
        Some(DenialReason::LimitExceeded)
    } else if error.is_parse() {
        Some(DenialReason::MalformedRequest)
    } else {
        None
    }
}

/// Whether an HTTP/2 connection ended by its frames, and not because it was closed or no longer answered.
fn broke_the_protocol(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    !error.is_timeout() && error.source().is_some_and(|cause| !cause.is::<std::io::Error>())
}

/// Completes when an HTTP/2 connection has had no request for a while. Each request that is not over holds a copy of the
/// context, beside those of the connection itself.
async fn idle(context: &Arc<EntranceContext>) {
    const OF_THE_CONNECTION: usize = 2;
    let mut idle_before = false;
    loop {
        tokio::time::sleep(H2_IDLE_TIMEOUT / 2).await;
        let idle_now = Arc::strong_count(context) <= OF_THE_CONNECTION;
        if idle_now && idle_before {
            return;
        }
        idle_before = idle_now;
    }
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

fn service(
    proxy: Arc<Proxy>,
    context: Arc<EntranceContext>,
    asked: Arc<AtomicBool>,
) -> impl Fn(Request<Incoming>) -> Answer {
    move |request| {
        asked.store(true, Ordering::Relaxed);
        let (proxy, context) = (Arc::clone(&proxy), Arc::clone(&context));
        Box::pin(async move {
            let is_connect = request.method() == http::Method::CONNECT;
            // Only a proxy is asked to CONNECT; inside a tunnel the policy refuses the method.
            if is_connect && matches!(context.binding, Binding::AbsoluteForm) {
                let turn = proxy.audit.turn().await;
                return Ok(http_proxy::connect(proxy, request, &context, turn));
            }
            // Over HTTP/1.1 hyper leaves the body out of an answer to HEAD by itself; over HTTP/2 it would send it, and the
            // client reset the stream.
            let is_http2 = request.version() == http::Version::HTTP_2;
            let bodiless = request.method() == http::Method::HEAD && is_http2;
            let response = crate::pipeline::handle(Arc::clone(&proxy), request, &context).await;
            if response.body().is_end_stream() || !is_http2 {
                return Ok(response);
            }
            if bodiless {
                return Ok(response.map(|_| crate::respond::empty()));
            }
            Ok(response.map(|body| proxy.room.unread().paces(body).boxed_unsync()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_a14_a_tunnel_carries_http_only_where_it_opens_with_a_request_line() {
        for (text, expected) in [
            ("\x16\x03\x01", Protocol::Tls),
            ("GET / HTTP/1.1", Protocol::Http),
            ("OPTIONS * HTTP/1.1", Protocol::Http),
            ("GET http://a.test/ HTTP/1.1", Protocol::Http),
            ("M-SEARCH * HTTP/1.1", Protocol::Http),
            ("GET  / HTTP/1.1", Protocol::Http),
            ("CONNECT a.test:443 HTTP/1.1", Protocol::Http),
            ("SSH-2.0-OpenSSH_9.2", Protocol::Other),
            ("EHLO mail.test", Protocol::Other),
            ("USER someone", Protocol::Other),
            ("get / HTTP/1.1", Protocol::Other),
            ("220 mail.test", Protocol::Other),
            ("\0\0\0\x08", Protocol::Other),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Protocol::Other),
        ] {
            // Byte by byte, as it may come.
            let told = (1..=text.len()).find_map(|end| opened_by(&text.as_bytes()[..end]));
            assert_eq!(told, Some(expected), "{text:?}");
        }
    }
}

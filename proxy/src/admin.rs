//! Two small servers that are no entrances: health, metrics and the number of denials for kubelet, Prometheus and the
//! operator, and enrolment for the fence.
//! Neither reaches the pipeline. The admin port is not part of the Service, and the agent's wall does not open it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason, Tally, UnusableCredential};
use http::header::AUTHORIZATION;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::audit::Unrecorded;
use crate::enrolment::EnrolmentError;
use crate::entrance::line::Line;
use crate::entrance::{Entrance, Origin, refuse_connection};
use crate::limits::HEADER_READ_TIMEOUT;
use crate::metrics;
use crate::pipeline::Proxy;
use crate::ready;
use crate::respond::{self, Body};
use crate::secrets::Unusable;

/// Serves health and metrics on one connection.
pub(crate) async fn serve(proxy: Arc<Proxy>, io: TcpStream) {
    answer(io, move |request| health(&proxy, request)).await;
}

/// Serves enrolment on one connection.
pub(crate) async fn serve_enrolment(proxy: Arc<Proxy>, io: Line, origin: Origin) {
    answer(io, move |request| enrol(&proxy, request, origin.peer)).await;
}

async fn answer(
    io: impl AsyncRead + AsyncWrite + Unpin,
    respond: impl Fn(&Request<Incoming>) -> Response<Body>,
) {
    let service = service_fn(|request| {
        let response = respond(&request);
        async { Ok::<_, Infallible>(response) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        // One request, one connection: nothing here lasts, so draining need not wait for it.
        .keep_alive(false)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error = %error, "an admin connection ended");
    }
}

fn health(proxy: &Proxy, request: &Request<Incoming>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => text(StatusCode::OK, "ok\n"),
        (&Method::GET, "/readyz") => {
            let pending = ready::pending(proxy, Instant::now());
            let counted = ready::counted(pending, request.uri().query().unwrap_or_default());
            let status = if counted.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, ready::report(&counted))
        }
        (&Method::GET, "/metrics") => text(StatusCode::OK, proxy.metrics.render() + &gauges(proxy)),
        (&Method::GET, "/denials") => denials(proxy),
        _ => text(StatusCode::NOT_FOUND, "there are /healthz, /readyz, /metrics and /denials\n"),
    }
}

/// What is in use now.
fn gauges(proxy: &Proxy) -> String {
    let places = proxy.policy.places();
    let bodies = (proxy.room.unread().taken(), places.unsent().taken());
    metrics::gauges(places.load(), bodies, places.ceiling().taken())
}

/// How much was denied, which credentials cannot be used, and for how long nothing has passed; whose proxy this is stands in its policy.
fn denials(proxy: &Proxy) -> Response<Body> {
    let now = Instant::now();
    let Ok(loaded) = proxy.policy.current(now) else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "waiting for a valid policy document\n");
    };
    let unusable = proxy.secrets.unusable(&loaded.policy, now).map(|Unusable { name, error, .. }| {
        let told = serde_json::to_value(error).ok();
        let told = told.and_then(|told| told.as_str().map(str::to_owned));
        UnusableCredential { name: name.to_owned(), reason: error.reason().to_owned(), error: told }
    });
    let (sandbox, unusable) = (loaded.policy.sandbox().uid.clone(), Some(unusable.collect()));
    let idle = Some(proxy.audit.idle(now));
    let tally = Tally { sandbox, unusable, idle, ..proxy.audit.tally() };
    serde_json::to_vec(&tally)
        .map_or_else(|_| text(StatusCode::INTERNAL_SERVER_ERROR, ""), |tally| text(StatusCode::OK, tally))
}

fn enrol(proxy: &Proxy, request: &Request<Incoming>, peer: IpAddr) -> Response<Body> {
    if request.uri().path() != "/enrol" {
        return text(StatusCode::NOT_FOUND, "there is /enrol\n");
    }
    match *request.method() {
        Method::GET if ready::may_start(proxy, Instant::now()) => text(StatusCode::OK, "ready\n"),
        Method::GET => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        Method::POST => {
            let field = request.headers().get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
            let token = field.and_then(|field| field.strip_prefix(b"Bearer ")).unwrap_or_default();
            match proxy.enrolment.enrol(peer, token, || admit(proxy, peer)) {
                Ok(()) => {
                    tracing::info!(peer = %peer, "an agent is enrolled");
                    text(StatusCode::NO_CONTENT, "")
                }
                Err(error) => refuse(proxy, peer, &error),
            }
        }
        _ => text(StatusCode::METHOD_NOT_ALLOWED, "GET or POST\n"),
    }
}

/// Writes down who becomes the agent.
fn admit(proxy: &Proxy, peer: IpAddr) -> Result<(), Unrecorded> {
    let loaded = proxy.policy.current(Instant::now()).ok();
    let mut entry = proxy.audit.open(Entrance::Enrolment, loaded.as_ref().map(|loaded| &*loaded.policy));
    entry.asks_name(peer.to_canonical().to_string());
    entry.admits().map(drop)
}

fn refuse(proxy: &Proxy, peer: IpAddr, error: &EnrolmentError) -> Response<Body> {
    // The audit trail has it, and folds it; whoever tries tokens must not fill the log either.
    tracing::debug!(peer = %peer, error = %error, "an enrolment is refused");
    if matches!(error, EnrolmentError::Unrecorded(_)) {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the enrolment cannot be written down\n");
    }
    refuse_connection(proxy, Entrance::Enrolment, &Denial::new(DenialReason::UnknownPeer));
    match error {
        EnrolmentError::WrongToken => text(StatusCode::UNAUTHORIZED, "wrong token\n"),
        EnrolmentError::NotUsed => text(StatusCode::NOT_FOUND, "enrolment is not used here\n"),
        EnrolmentError::Unrecorded(_) | EnrolmentError::Unwritable(_) => {
            text(StatusCode::INTERNAL_SERVER_ERROR, "the address cannot be kept\n")
        }
    }
}

fn text(status: StatusCode, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(respond::full(text));
    *response.status_mut() = status;
    response
}

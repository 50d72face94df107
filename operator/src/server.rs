//! The admin server: /healthz (the process turns), /readyz (the watches are filled, and what is wrong with
//! admission policies), /metrics. It tells nothing else.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::metrics::Metrics;

/// Time for a request's head; a client that dawdles is cut off.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at the same time: kubelet and a scraper need two.
const CONNECTIONS_MAX: usize = 64;

/// What /readyz says: what is still pending, or nothing.
pub type Pending = watch::Receiver<Option<&'static str>>;

/// Serves until the listener is dropped.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves; never returns by itself.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, pending: Pending) -> Infallible {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { continue };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, mostly: give others time to close theirs.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (metrics, pending) = (Arc::clone(&metrics), pending.clone());
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &metrics, &pending);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "an admin connection ended early");
            }
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, pending: &Pending) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET, "/readyz") => match *pending.borrow() {
            // A guard that is gone is told, and no reason to stop the operator.
            None => (StatusCode::OK, ready(&metrics.admission_faults())),
            Some(what) => (StatusCode::SERVICE_UNAVAILABLE, format!("pending: {what}\n")),
        },
        (&Method::GET, "/metrics") => (StatusCode::OK, metrics.render()),
        _ => (StatusCode::NOT_FOUND, "not found\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn ready(faults: &str) -> String {
    if faults.is_empty() { "ok\n".to_owned() } else { format!("ok\nwarning: {faults}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_admission_is_a_second_line() {
        assert_eq!(ready(""), "ok\n");
        assert_eq!(ready("a binding is missing"), "ok\nwarning: a binding is missing\n");
    }
}

//! The upstreams: they look at what arrives, answer with what their client can know again, and write secrets that they were sent
//! into what they answer.

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentsandbox_conformance::failure::{During, Result};
use agentsandbox_conformance::pki::Authority;
use agentsandbox_conformance::tls;
use http::header::HOST;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::answers::{self, Body, Memory};
use crate::fault::{Fault, Faults};
use crate::keys::Slot;
use crate::ledger::Ledger;
use crate::link::{Fate, Link, Wire};

/// Longer than anything that is hurried, and shorter than any bound of the proxy's.
const STALL: Duration = Duration::from_millis(1500);
/// How often a listener looks whether it is to be refusing.
const LOOK: Duration = Duration::from_millis(20);
/// The one host that secrets are for.
const KNOWS_SECRETS: &str = "api.good.test";

/// What the servers share.
pub struct Upstream {
    /// Where what arrives is judged.
    pub ledger: Arc<Ledger>,
    /// What goes wrong.
    pub faults: Faults,
    memory: Memory,
    connections: AtomicU64,
}

impl Upstream {
    /// What they have to know.
    #[must_use]
    pub fn new(ledger: Arc<Ledger>) -> Arc<Self> {
        let (faults, memory, connections) = Default::default();
        Arc::new(Self { ledger, faults, memory, connections })
    }

    /// Secrets that were written into answers.
    #[must_use]
    pub fn planted(&self) -> u64 {
        self.memory.planted()
    }
}

/// Starts the servers; they end with the process.
///
/// # Errors
/// When a port cannot be bound.
pub async fn serve(upstream: &Arc<Upstream>, authority: &Authority) -> Result<()> {
    let both = tls::acceptor(authority, &["h2", "http/1.1"])?;
    let old = tls::acceptor(authority, &["http/1.1"])?;
    for (port, tls) in [(80, None), (443, Some([both, old]))] {
        let listener = bind(port).await.during(format!("port {port} cannot be bound"))?;
        tokio::spawn(accept(Arc::clone(upstream), listener, port, tls));
    }
    Ok(())
}

async fn bind(port: u16) -> std::io::Result<TcpListener> {
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await
}

async fn accept(
    upstream: Arc<Upstream>,
    mut listener: TcpListener,
    port: u16,
    tls: Option<[TlsAcceptor; 2]>,
) {
    loop {
        if upstream.faults.on() == Some(Fault::Refused) {
            drop(listener);
            upstream.faults.suffers(Fault::Refused);
            while upstream.faults.on() == Some(Fault::Refused) {
                tokio::time::sleep(LOOK).await;
            }
            listener = loop {
                match bind(port).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::time::sleep(LOOK).await,
                }
            };
        }
        let Ok(Ok((tcp, _))) = tokio::time::timeout(LOOK, listener.accept()).await else { continue };
        // Of two connections one knows no HTTP/2.
        let number = upstream.connections.fetch_add(1, Ordering::Relaxed);
        let chosen = tls.as_ref().and_then(|both| both.get(usize::try_from(number % 2).unwrap_or_default()));
        tokio::spawn(connection(Arc::clone(&upstream), tcp, chosen.cloned()));
    }
}

async fn connection(upstream: Arc<Upstream>, tcp: TcpStream, tls: Option<TlsAcceptor>) {
    let _ = tcp.set_nodelay(true);
    let wire = match tls {
        None => Wire::Plain(tcp),
        Some(tls) => {
            let Ok(io) = tls.accept(tcp).await else { return };
            Wire::Tls(Box::new(io))
        }
    };
    let (link, fate) = Link::new(wire);
    let service = service_fn(move |request| answer(Arc::clone(&upstream), Arc::clone(&fate), request));
    // How a connection ends is the proxy's affair.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(link), service)
        .await;
}

async fn answer(
    upstream: Arc<Upstream>,
    fate: Arc<Fate>,
    mut request: Request<Incoming>,
) -> std::io::Result<Response<Body>> {
    let host = host(&request);
    let Some(number) = request.uri().path().rsplit('/').next().and_then(|last| last.parse::<u64>().ok())
    else {
        upstream.ledger.accuse(format_args!("{} arrived at {host}", request.uri().path()));
        return Ok(Response::new(answers::full("nobody sent this")));
    };
    arrived(&upstream, number, &host, &request);
    let mut random = fastrand::Rng::with_seed(upstream.ledger.seed ^ number);
    let fault = upstream.faults.on().filter(|_| random.bool());
    fault.iter().for_each(|fault| upstream.faults.suffers(*fault));
    match fault {
        Some(Fault::Reset) => {
            fate.reset();
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        Some(Fault::Stall) => tokio::time::sleep(STALL).await,
        Some(Fault::Garbage) => fate.babble(),
        _ => {}
    }
    let planter = upstream.memory.planter(host == KNOWS_SECRETS, random);
    if request.headers().contains_key(http::header::UPGRADE) {
        return Ok(answers::socket(&mut request, planter));
    }
    let is_events = request.uri().query() == Some("events");
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
    let body = body.map_err(std::io::Error::other)?;
    upstream.ledger.search(&body, format_args!("the body of request {number} at {host}"));
    if fault == Some(Fault::Half) {
        return Ok(answers::half(number));
    }
    Ok(if is_events { answers::events(number, planter) } else { answers::whole(number, &body, planter) })
}

/// The host, without its port.
fn host(request: &Request<Incoming>) -> String {
    let field = request.headers().get(HOST).and_then(|value| value.to_str().ok());
    let named = request.uri().host().or(field).unwrap_or_default();
    named.split(':').next().unwrap_or_default().to_owned()
}

/// Judges what arrived, and remembers the secrets in it.
fn arrived(upstream: &Upstream, number: u64, host: &str, request: &Request<Incoming>) {
    let ledger = &upstream.ledger;
    let mut secrets = Vec::new();
    for slot in Slot::ALL {
        // A second field beside the first one would be a key that somebody smuggled.
        for value in request.headers().get_all(slot.field()) {
            let version = value.to_str().ok().and_then(|value| slot.version_in(value));
            upstream.memory.learns(slot, version);
            secrets.push((slot, version));
        }
    }
    ledger.arrives(number, host, &secrets);
    let places = request.headers().iter().filter(|(name, _)| {
        host != KNOWS_SECRETS || Slot::ALL.iter().all(|slot| slot.field() != name.as_str())
    });
    for (name, value) in places {
        ledger.search(value.as_bytes(), format_args!("the field {name} of a request to {host}"));
    }
    let target = request.uri().to_string();
    ledger.search(target.as_bytes(), format_args!("the target of a request to {host}"));
}

//! Connections to upstreams: verified, pooled, and bound to one policy.
//!
//! Each policy generation has its own pool, which ends with it, so revoking a host or a range ends the idle connections made
//! under the old one. A proxy serves one sandbox, so its pools do. A connection carries requests to one (scheme, host, port) only,
//! whatever a certificate says, with one reading of one secret, for some upstreams remember who spoke first, and of one client
//! certificate, which speaks for all of it. No byte of a request is written before the server has proven its name.

mod heads;
mod places;
mod pool;
mod refusal;
mod shape;
mod spoken;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use agentsandbox_policy::{DenialReason, DialPermit, Scheme};
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use self::heads::Early;
use self::pool::{Destination, Pool, Stream, Streams};
use self::refusal::{Heard, Listening};
use self::shape::shape;
use self::spoken::{over_http1, over_http2};
use crate::audit::Recorded;
use crate::config::chain;
use crate::dial;
use crate::exchange::Progress;
use crate::limits::CONNECT_TIMEOUT;
use crate::metrics::Metrics;
use crate::paced::Paced;
use crate::respond::{Body, BoxError};
use crate::secrets::{ClientCertificate, Secret, Showing};

pub(crate) use self::places::Load;
pub use self::places::{Place, Placed, Places, Unleased};
pub use self::pool::Voice;
pub use self::refusal::Refusal;
pub(crate) use self::spoken::server_name;

/// What the agent wants of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// One request and its answer; the connection may be shared and kept.
    Exchange,
    /// A WebSocket: HTTP/1.1, and the connection is its own.
    Upgrade,
}

/// The connections made under one policy.
pub struct Upstream {
    any: TlsConnector,
    http1: TlsConnector,
    pool: Arc<Pool>,
    places: Arc<Places>,
    metrics: Arc<Metrics>,
}

/// A connection on which one request may be sent.
pub struct Lease {
    sender: Sender,
    to: Arc<Way>,
    voice: Voice,
    address: SocketAddr,
    /// Whether the address is not public, and so could be a way back to this proxy.
    may_lead_back: bool,
    /// Whether the upstream was shown the client certificate; none without one.
    shown: Option<bool>,
    /// Its place among the streams of the connection, if that is shared.
    stream: Option<Stream>,
    /// What the connection is refused with. One that was used before was not refused.
    heard: Option<Arc<Heard>>,
}

/// Where a connection leads, and how its requests name that. It is written once for all of them.
struct Way {
    to: Destination,
    authority: Authority,
    /// The same as a Host field.
    field: HeaderValue,
}

impl Way {
    fn to(to: Destination) -> Option<Arc<Self>> {
        let (scheme, host, port) = &to;
        let text = if *port == scheme.default_port() { host.to_string() } else { format!("{host}:{port}") };
        let (authority, field) =
            (Authority::try_from(text.as_str()).ok()?, HeaderValue::try_from(text).ok()?);
        Some(Arc::new(Self { to, authority, field }))
    }
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Counted>, Arc<Streams>),
}

/// The body of a request on a stream. Until it is dropped the stream is counted, even if nobody waits for the answer any more: hyper
/// keeps a request that was given up until a stream can begin.
struct Counted {
    body: Paced,
    _stream: Option<Arc<Stream>>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. Until it is dropped its stream is counted, and over HTTP/1.1 its connection carries nothing else.
pub struct Answer {
    body: Incoming,
    _stream: Option<Arc<Stream>>,
    /// Dropped with it.
    _unread: Option<oneshot::Sender<Infallible>>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The request was not sent, and is given back.
pub struct Unsent(pub Request<Body>);

/// Why there is no new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// It failed.
    Failed(DenialReason),
    /// The upstream asked for the client certificate, and takes no signature of its key.
    Withheld,
    /// The upstream ended the TLS handshake.
    Refused(Refusal),
    /// The upstream proxy opens no tunnel to it.
    RefusedOnTheWay(crate::chain::Refusal),
}

impl From<DenialReason> for ConnectError {
    fn from(reason: DenialReason) -> Self {
        Self::Failed(reason)
    }
}

/// Why an exchange failed.
pub enum ExchangeError {
    /// The upstream refused the connection that was opened for it.
    Refused(Refusal),
    /// The connection was already gone; another may be tried.
    Unsent(Box<Unsent>),
    /// The connection ended before the head of an answer was there. Whether the request was taken is not known.
    Lost,
    /// It failed, and may not be repeated.
    Failed(DenialReason),
}

/// The roots could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// Not PEM, or not certificates.
    #[error("upstream.additionalRoots holds no usable PEM certificate")]
    Pem,
    /// TLS refuses the configuration.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
}

impl Upstream {
    /// Connections verified against the public roots and `additional`.
    pub fn new(
        additional: Option<&str>,
        provider: &Arc<CryptoProvider>,
        metrics: Arc<Metrics>,
        places: Arc<Places>,
    ) -> Result<Self, RootsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
        if let Some(pem) = additional {
            let mut found = 0;
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                roots.add(certificate.map_err(|_| RootsError::Pem)?).map_err(|_| RootsError::Pem)?;
                found += 1;
            }
            if found == 0 {
                return Err(RootsError::Pem);
            }
        }
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.enable_early_data = false;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1 = TlsConnector::from(Arc::new(config.clone()));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let any = TlsConnector::from(Arc::new(config));
        Ok(Self { any, http1, pool: places.pool(), places, metrics })
    }

    /// A connection that is open and has room, made for this destination and this voice under this policy. Where all are full, or as many
    /// are open as may be, that is waited for. Those of an older secret of the same credential, or of an older password, end.
    ///
    /// # Errors
    /// The leave to open a connection, if there is none; or that there was no room until then.
    pub async fn reuse(&self, recorded: &Recorded, voice: &Voice, until: Instant) -> Result<Lease, Unleased> {
        self.find(destination(recorded), voice, until).await
    }

    /// TLS over HTTP/1.1 with the same roots.
    pub(crate) fn tls(&self) -> ClientConfig {
        ClientConfig::clone(self.http1.config())
    }

    /// Ends the connections that lie idle, and keeps none any more: the policy has been replaced.
    pub fn retire(&self) {
        self.pool.retire();
    }

    /// A new connection to a judged address, on which this certificate is shown if the upstream asks for one.
    pub async fn connect(
        &self,
        (permit, place): (&DialPermit, Place),
        purpose: Purpose,
        voice: &Voice,
        password: Option<&Secret>,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Lease, ConnectError> {
        let address = permit.address();
        let stream = dial::connect(permit, place, password).await.map_err(|error| {
            tracing::info!(address = %address, error = %error, "the upstream does not answer");
            let unreachable = ConnectError::Failed(DenialReason::UpstreamUnreachable);
            crate::chain::Refusal::of(&error).map_or(unreachable, ConnectError::RefusedOnTheWay)
        })?;
        self.metrics.upstream_connected();
        let to = Way::to((permit.scheme(), permit.host().clone(), permit.port()));
        let to = to.ok_or(DenialReason::MalformedRequest)?;
        let stream = self.places.counts(stream);
        let (sender, heard, shown) = match permit.scheme() {
            Scheme::Http => (over_http1(stream).await?, None, None),
            Scheme::Https => {
                let (sender, heard, shown) = self.over_tls(stream, permit, purpose, certificate).await?;
                (sender, Some(heard), shown)
            }
        };
        // Through another proxy it is that proxy who is told; the destination is not known to be near.
        let may_lead_back = !permit.is_public() && permit.through().is_none();
        let voice = voice.clone();
        let mut lease = Lease { sender, to, voice, address, may_lead_back, shown, stream: None, heard: None };
        if let Some(shared) = lease.shared() {
            self.pool.put(std::mem::replace(&mut lease, shared));
        }
        lease.heard = heard;
        Ok(lease)
    }

    async fn over_tls(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        permit: &DialPermit,
        purpose: Purpose,
        certificate: Option<&ClientCertificate>,
    ) -> Result<(Sender, Arc<Heard>, Option<bool>), ConnectError> {
        let name = server_name(permit.host()).ok_or(DenialReason::UpstreamUntrusted)?;
        let connector = match purpose {
            Purpose::Exchange => &self.any,
            Purpose::Upgrade => &self.http1,
        };
        let showing = certificate.map(ClientCertificate::shown);
        let own = showing.as_ref().map(|showing| by(connector, showing));
        let connecting = own.as_ref().unwrap_or(connector).connect(name, stream);
        let handshake = timeout(CONNECT_TIMEOUT, connecting).await;
        if showing.as_ref().is_some_and(|showing| showing.is_withheld()) {
            // The handshake went on as nobody. A request that may go out only under the certificate does not go out.
            tracing::info!(address = %permit.address(), "the upstream takes no signature of the client certificate's key");
            return Err(ConnectError::Withheld);
        }
        let tls = handshake.map_err(|_| DenialReason::UpstreamUnreachable)?.map_err(|error| {
            tracing::info!(address = %permit.address(), error = chain(&error), "the TLS handshake failed");
            refusal::of_handshake(&error)
        })?;
        let is_http2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
        let (tls, heard) = Listening::new(tls);
        let sender = match is_http2 {
            true => over_http2(tls, self.places.window()).await?,
            false => over_http1(tls).await?,
        };
        Ok((sender, heard, showing.map(|showing| showing.is_shown())))
    }

    /// Sends the request and waits for the answer's head, for as long as its body makes progress. A lease that can be used again goes back by itself.
    pub async fn exchange(
        &self,
        lease: Lease,
        request: Request<Body>,
        asked: (&str, Purpose),
        progress: &Progress,
    ) -> Result<Response<Answer>, ExchangeError> {
        let (address, heard) = (lease.address, lease.heard.clone());
        self.answer(lease, request, asked, progress).await.map_err(|error| {
            match heard.and_then(|heard| heard.refusal()) {
                Some(refusal) => {
                    tracing::info!(address = %address, alert = refusal.alert(), "the upstream refuses the connection");
                    ExchangeError::Refused(refusal)
                }
                None => error,
            }
        })
    }

    async fn answer(
        &self,
        lease: Lease,
        mut request: Request<Body>,
        (target, purpose): (&str, Purpose),
        progress: &Progress,
    ) -> Result<Response<Answer>, ExchangeError> {
        shape(&mut request, &lease, target).map_err(ExchangeError::Failed)?;
        let Lease { sender, to, voice, address, may_lead_back, shown, stream, heard: _ } = lease;
        let stream = stream.map(Arc::new);
        let mut unread = None;
        let response = match sender {
            Sender::Http1(mut sender) => {
                let early = Early::before_the_answer_to(&mut request);
                let sent = head(sender.try_send_request(request), progress, |request| request);
                let response = early.bound(sent).await?;
                if purpose == Purpose::Exchange {
                    let pool = Arc::clone(&self.pool);
                    let (reads, read) = oneshot::channel();
                    unread = Some(reads);
                    tokio::spawn(async move {
                        // Ready again means that the answer was read to its end. Its last piece may still lie here, and a connection
                        // that were used again meanwhile would bound nothing.
                        if sender.ready().await.is_ok() {
                            let _ = read.await;
                            let sender = Sender::Http1(sender);
                            let used = Lease {
                                sender,
                                to,
                                voice,
                                address,
                                may_lead_back,
                                shown,
                                stream: None,
                                heard: None,
                            };
                            pool.put(used);
                        }
                    });
                }
                response
            }
            Sender::Http2(mut sender, _) => {
                let paced = |body| self.places.unsent().paces(body);
                let request = request.map(|body| Counted { body: paced(body), _stream: stream.clone() });
                let sent = sender.try_send_request(request);
                head(sent, progress, |request| request.map(|counted| counted.body.into_inner())).await?
            }
        };
        Ok(response.map(|body| Answer { body, _stream: stream, _unread: unread }))
    }
}

impl Lease {
    /// The address at the other end.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether other requests may be on the connection at the same time.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether the upstream was shown the client certificate on it; none without one.
    #[must_use]
    pub const fn shown(&self) -> Option<bool> {
        self.shown
    }

    fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_ready(),
            Sender::Http2(sender, _) => sender.is_ready(),
        }
    }

    /// A stream of the same connection, if it has streams.
    fn shared(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender, streams) => Some(Self {
                sender: Sender::Http2(sender.clone(), Arc::clone(streams)),
                to: Arc::clone(&self.to),
                voice: self.voice.clone(),
                address: self.address,
                may_lead_back: self.may_lead_back,
                shown: self.shown,
                stream: Some(streams.begin()),
                heard: None,
            }),
        }
    }
}

/// TLS that shows this certificate. None of its sessions is resumed: a ticket speaks for whoever was there when it was given, and would
/// for as long as it is taken, whatever became of the certificate.
fn by(connector: &TlsConnector, showing: &Arc<Showing>) -> TlsConnector {
    let mut config = ClientConfig::clone(connector.config());
    config.client_auth_cert_resolver = Arc::clone(showing) as Arc<dyn ResolvesClientCert>;
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
}

fn destination(recorded: &Recorded) -> Destination {
    let permit = recorded.permit();
    (permit.scheme(), permit.host().clone(), permit.port())
}

async fn head<R>(
    sent: impl Future<Output = Result<Response<Incoming>, TrySendError<R>>>,
    progress: &Progress,
    as_before: impl FnOnce(R) -> Request<Body>,
) -> Result<Response<Incoming>, ExchangeError> {
    let since = Instant::now();
    let mut sent = std::pin::pin!(sent);
    let answered = loop {
        let due = progress.head_is_due(since);
        let answered = timeout_at(due, sent.as_mut()).await;
        // Unless the body has moved meanwhile.
        if answered.is_ok() || progress.head_is_due(since) <= due {
            break answered;
        }
    };
    match answered {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut error)) => match error.take_message() {
            Some(request) => Err(ExchangeError::Unsent(Box::new(Unsent(as_before(request))))),
            None => {
                tracing::info!(error = chain(error.error()), "the upstream broke off");
                Err(match refusal::has_ended(error.error()) {
                    true => ExchangeError::Lost,
                    false => ExchangeError::Failed(DenialReason::UpstreamUnreachable),
                })
            }
        },
        Err(_) => Err(ExchangeError::Failed(DenialReason::UpstreamUnreachable)),
    }
}

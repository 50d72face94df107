//! The other end: an upstream that echoes the head it received as its body, and one that follows a script and keeps the
//! raw bytes it was sent. Both count connections, so "was not sent" is observed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

type Echo = Response<UnsyncBoxBody<Bytes, Infallible>>;

pub async fn listen() -> (TcpListener, SocketAddr) {
    // Small buffers of the kernel's, so that what a peer could send is what was taken from it.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.set_send_buffer_size(64 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1024).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// How an upstream asks its clients for a certificate.
#[derive(Clone, Debug)]
pub struct Asks {
    /// Who vouches for them.
    pub roots: Arc<RootCertStore>,
    /// Whether one without a certificate is refused.
    pub of_all: bool,
    /// Whether it takes ECDSA P-256 only.
    pub p256_only: bool,
    /// The one version of TLS that it speaks.
    pub version: Option<&'static SupportedProtocolVersion>,
}

impl Asks {
    fn verifier(self) -> Arc<dyn ClientCertVerifier> {
        let mut some = rustls::crypto::aws_lc_rs::default_provider();
        if self.p256_only {
            let known = &mut some.signature_verification_algorithms;
            let is_p256 = |(scheme, _): &(_, _)| *scheme == rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
            let at = known.mapping.iter().position(is_p256).unwrap();
            known.mapping = &known.mapping[at..=at];
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots, Arc::new(some));
        if self.of_all { verifier } else { verifier.allow_unauthenticated() }.build().unwrap()
    }
}

/// TLS with a certificate for this name, and the root that vouches for it.
pub fn identity(protocols: &[&str], name: &str, asks: Option<Asks>) -> (TlsAcceptor, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = match asks.as_ref().and_then(|asks| asks.version) {
        Some(version) => &[version][..],
        None => rustls::DEFAULT_VERSIONS,
    };
    let clients = asks.clone().map_or_else(WebPkiClientVerifier::no_client_auth, Asks::verifier);
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), root)
}

pub fn echoing(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connections: Arc<AtomicUsize>,
    finish: Arc<Notify>,
) {
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let (acceptor, finish) = (acceptor.clone(), Arc::clone(&finish));
            tokio::spawn(async move {
                let Ok(io) = acceptor.accept(io).await else { return };
                let service = service_fn(move |request| echo(request, Arc::clone(&finish)));
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(io), service).await;
            });
        }
    });
}

/// What an upstream does with each of its connections.
#[derive(Clone)]
pub struct Behaviour(Arc<dyn Fn(TlsStream<TcpStream>) -> BoxFuture<'static, ()> + Send + Sync>);

impl Behaviour {
    pub fn new<F>(behave: impl Fn(TlsStream<TcpStream>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self(Arc::new(move |io| Box::pin(behave(io))))
    }
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Behaviour")
    }
}

pub fn behaving(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    connections: Arc<AtomicUsize>,
    behaviour: Behaviour,
) {
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let (acceptor, behaviour) = (acceptor.clone(), behaviour.clone());
            tokio::spawn(async move {
                if let Ok(io) = acceptor.accept(io).await {
                    behaviour.0(io).await;
                }
            });
        }
    });
}

/// Answers each head with `answer`, whatever it is, and keeps every byte.
pub fn following(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    [opened, closed]: [Arc<AtomicUsize>; 2],
    answer: Vec<u8>,
    received: Arc<Mutex<Vec<u8>>>,
) {
    tokio::spawn(async move {
        while let Ok((io, _)) = listener.accept().await {
            opened.fetch_add(1, Ordering::SeqCst);
            let closed = Arc::clone(&closed);
            let (acceptor, answer, received) = (acceptor.clone(), answer.clone(), Arc::clone(&received));
            tokio::spawn(async move {
                let Ok(mut io) = acceptor.accept(io).await else { return };
                let mut ended = false;
                let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
                while !ended && let Ok(read @ 1..) = io.read(&mut buffer).await {
                    received.lock().unwrap().extend_from_slice(&buffer[..read]);
                    head.extend_from_slice(&buffer[..read]);
                    if head.windows(4).any(|end| end == b"\r\n\r\n") {
                        head.clear();
                        ended = io.write_all(&answer).await.is_err();
                    }
                }
                closed.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
}

async fn echo(mut request: Request<Incoming>, finish: Arc<Notify>) -> Result<Echo, Infallible> {
    let path = request.uri().path().to_owned();
    if let "/v1/events" | "/v1/pieces" = path.as_str() {
        let kind = if path == "/v1/events" { "text/event-stream" } else { "text/plain" };
        let body = StreamBody::new(futures_of(finish)).boxed_unsync();
        return Ok(Response::builder().header("content-type", kind).body(body).unwrap());
    }
    if path == "/v1/grpc" {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("x-echo", request.headers()["x-api-key"].clone());
        let frames = [Ok(Frame::data(Bytes::from("message"))), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
        return Ok(Response::builder().header("content-type", "application/grpc").body(body).unwrap());
    }
    if path == "/v1/socket" || path == "/v1/sink" {
        let is_sink = path == "/v1/sink";
        let accept = agentsandbox_proxy::upgrade::accept_for(request.headers());
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            if is_sink {
                let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
                return;
            }
            // Small frames, whose masking key is of zeros; they go back as a server's.
            let mut answered = 0;
            while answered < 4 {
                let mut head = [0; 6];
                io.read_exact(&mut head).await.unwrap();
                let mut frame = vec![0; usize::from(head[1] & 0x7f)];
                io.read_exact(&mut frame).await.unwrap();
                frame.splice(0..0, [head[0], head[1] & 0x7f]);
                io.write_all(&frame).await.unwrap();
                answered += frame.len();
            }
        });
        let response = Response::builder().status(101).header("connection", "upgrade");
        let response = response.header("upgrade", "websocket").header("sec-websocket-accept", accept);
        return Ok(response.body(Full::default().boxed_unsync()).unwrap());
    }
    let mut text = format!("{:?} {} {}\n", request.version(), request.method(), request.uri());
    for (name, value) in request.headers() {
        text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
    }
    let key = request.headers().get("x-api-key").cloned();
    let sent = request.into_body().collect().await.unwrap();
    for (name, value) in sent.trailers().into_iter().flatten() {
        text.push_str(&format!("trailer {name}: {}\n", value.to_str().unwrap()));
    }
    let sent = sent.to_bytes();
    text.push_str(&format!("body: {} bytes\n", sent.len()));
    // Backwards, which no scrubber looks for: a test has to see what arrived.
    let backwards: String = text.chars().rev().collect();
    let mut response = Response::new(Full::from(backwards).boxed_unsync());
    response.headers_mut().insert("x-backwards", "true".parse().unwrap());
    response.headers_mut().insert("alt-svc", "h3=\":443\"".parse().unwrap());
    if let Some(key) = key {
        response.headers_mut().insert("x-echo", key);
    }
    Ok(response)
}

type Event = Result<Frame<Bytes>, Infallible>;

/// The first event at once, the second when told.
fn futures_of(finish: Arc<Notify>) -> impl futures::Stream<Item = Event> {
    futures::stream::unfold(0, move |sent| {
        let finish = Arc::clone(&finish);
        async move {
            match sent {
                0 => Some((Ok(Frame::data(Bytes::from("data: first\n\n"))), 1)),
                1 => {
                    finish.notified().await;
                    Some((Ok(Frame::data(Bytes::from("data: last\n\n"))), 2))
                }
                _ => None,
            }
        }
    })
}

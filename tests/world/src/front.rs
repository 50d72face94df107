//! The listeners: HTTP on port 80 and HTTPS on 443 of every address, and bare sinks on a few other ports.
//!
//! TLS ends here with a certificate for whatever name the client asked for; HTTP/1.1 and HTTP/2 are spoken. Each request is journaled when its head has been read,
//! before anything answers it. The git server owns its own address and is not seen here. Listeners share their port,
//! so that a server on one address and this one on all addresses can both listen.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls::server::{Acceptor, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::journal::{self, now_ns};
use crate::world::World;
use crate::{names, sites};

/// Where TLS and plain HTTP are served.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// HTTPS.
    pub https: u16,
    /// HTTP.
    pub http: u16,
}

/// Ports on which a connection is accepted and read, and nothing is said: an unfenced probe can then prove that it got through.
pub const SINK_PORTS: [u16; 6] = [22, 6443, 8080, 9090, 10250, 25];
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pending connections: a burst of probes must be seen as a burst.
const BACKLOG: u32 = 1024;

/// One connection, as far as its requests need to know.
#[derive(Debug, Clone)]
struct Connection {
    peer: SocketAddr,
    local: Option<SocketAddr>,
    sni: Option<String>,
    certificate: Option<String>,
    tls: bool,
}

/// How TLS ends here: as everywhere, and with a certificate asked of the client where the host is [`names::PARTNER`].
#[derive(Clone)]
struct Tls {
    open: Arc<ServerConfig>,
    partner: Arc<ServerConfig>,
}

impl Tls {
    fn new(world: &World) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let authority = world.authority();
        let mut clients = RootCertStore::empty();
        clients.add(authority.certificate().clone())?;
        let clients = WebPkiClientVerifier::builder(Arc::new(clients)).build()?;
        let configs = [
            ServerConfig::builder().with_no_client_auth(),
            ServerConfig::builder().with_client_cert_verifier(clients),
        ];
        let [open, partner] = configs.map(|config| {
            let mut config = config.with_cert_resolver(world.authority());
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Arc::new(config)
        });
        Ok(Self { open, partner })
    }

    async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let partner = start.client_hello().server_name() == Some(names::PARTNER);
        let config = if partner { &self.partner } else { &self.open };
        start.into_stream(Arc::clone(config)).await
    }
}

/// Binds both ports on all addresses and serves them until the process ends.
///
/// # Errors
/// Fails where a port cannot be bound.
pub fn serve(world: &World, address: Ipv4Addr, ports: Ports) -> io::Result<()> {
    let tls = Tls::new(world).map_err(io::Error::other)?;
    let https = listen(SocketAddr::from((address, ports.https)))?;
    let http = listen(SocketAddr::from((address, ports.http)))?;
    tokio::spawn(accept(https, world.clone(), Some(tls)));
    tokio::spawn(accept(http, world.clone(), None));
    Ok(())
}

/// Binds the sink ports on all addresses; a port that is taken is left to whoever has it.
pub fn serve_sinks(address: Ipv4Addr) {
    for port in SINK_PORTS {
        match listen(SocketAddr::from((address, port))) {
            Ok(listener) => drop(tokio::spawn(sink(listener))),
            Err(error) => tracing::warn!(port, error.message = %error, "sink port not available"),
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn sink(listener: TcpListener) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            let mut ignored = [0u8; 1024];
            while stream.read(&mut ignored).await.is_ok_and(|bytes| bytes > 0) {}
        });
    }
}

async fn accept(listener: TcpListener, world: World, tls: Option<Tls>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        let (world, tls) = (world.clone(), tls.clone());
        tokio::spawn(async move {
            // Small writes are what streams are made of; a delay would hide when the first event really left.
            let _ = stream.set_nodelay(true);
            let local = stream.local_addr().ok();
            match tls {
                Some(tls) => {
                    serve_tls(
                        tls,
                        stream,
                        Connection { peer, local, sni: None, certificate: None, tls: true },
                        world,
                    )
                    .await
                }
                None => {
                    serve_http(
                        stream,
                        Connection { peer, local, sni: None, certificate: None, tls: false },
                        world,
                    )
                    .await
                }
            }
        });
    }
}

async fn serve_tls(tls: Tls, stream: TcpStream, mut connection: Connection, world: World) {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            connection.sni = session.server_name().map(str::to_owned);
            let shown = session.peer_certificates().and_then(|chain| chain.first());
            connection.certificate = shown.map(|certificate| BASE64.encode(certificate));
            serve_http(stream, connection, world).await;
        }
        Ok(Err(error)) => {
            tracing::debug!(peer = %connection.peer, error.message = %error, "TLS handshake failed")
        }
        Err(_) => tracing::debug!(peer = %connection.peer, "TLS handshake timed out"),
    }
}

async fn serve_http<S>(stream: S, connection: Connection, world: World)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let entry = entry(&request, &connection);
        let world = world.clone();
        // Over HTTP/2 hyper would send the body of an answer to HEAD.
        let bodiless = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
        async move {
            let host = entry.host.clone();
            world.journal().request(entry);
            let response = sites::answer(&world, &host, request).await;
            Ok::<_, Infallible>(if bodiless { response.map(|_| sites::empty()) } else { response })
        }
    });
    let served = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(error.message = %error, "connection ended early");
    }
}

fn entry(request: &hyper::Request<Incoming>, connection: &Connection) -> journal::Request {
    let headers = request.headers().iter();
    journal::Request {
        time_ns: now_ns(),
        peer: connection.peer.ip(),
        local: connection.local.map(|local| local.ip()),
        scheme: if connection.tls { "https" } else { "http" }.to_owned(),
        sni: connection.sni.clone(),
        certificate: connection.certificate.clone(),
        host: host_of(request),
        method: request.method().to_string(),
        path: request.uri().path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        version: format!("{:?}", request.version()),
        headers: headers
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect(),
        body_bytes: request.body().size_hint().exact(),
    }
}

/// The host without its port: the authority of an HTTP/2 request, the Host header of an older one.
fn host_of<B>(request: &hyper::Request<B>) -> String {
    let header = request.headers().get(hyper::header::HOST).and_then(|value| value.to_str().ok());
    let host = request.uri().host().or_else(|| header.and_then(|value| value.split(':').next()));
    host.unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_lower_case_and_without_port_whichever_version_names_it() {
        let older =
            hyper::Request::builder().uri("/a").header("host", "Echo.World.Test:443").body(()).unwrap();
        let newer = hyper::Request::builder().uri("https://echo.world.test/a").body(()).unwrap();
        for request in [older, newer] {
            assert_eq!(host_of(&request), "echo.world.test");
        }
    }
}

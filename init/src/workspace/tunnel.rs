//! One request to one host, over TLS in a tunnel through the sandbox's own proxy. There is no other way: nothing here resolves a name.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::http::HeaderName;
use hyper::http::request::Builder;
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::fetch::FetchError;

/// How long the proxy may take to answer: it resolves, dials and shakes hands with the host meanwhile.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A handshake with a neighbour.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What hosts and audit lines see.
pub const AGENT: &str = concat!("agentsandbox-workspace/", env!("CARGO_PKG_VERSION"));

/// How hosts are reached.
pub struct Way {
    proxy: SocketAddr,
    tls: TlsConnector,
}

/// Whose answer it is. What comes in the tunnel is the host's or the proxy's, and nothing in it tells which: whatever the proxy would
/// write there, a host can write too.
pub enum Reply {
    /// The proxy's own, to CONNECT: no host was asked.
    Proxy(Answer),
    /// What came in the tunnel.
    Tunnel(Answer),
}

/// An answer, and what keeps its connection.
pub struct Answer {
    pub response: Response<Incoming>,
    _sender: SendRequest<Full<Bytes>>,
}

/// What is asked of a host.
pub struct Ask<'a> {
    /// The path, with its query.
    pub path: &'a str,
    /// Who asks, as the host sees it.
    pub agent: &'static str,
    /// What tells more.
    pub headers: &'a [(HeaderName, &'static str)],
    /// What is sent by POST; without it the request is a GET.
    pub body: Option<Vec<u8>>,
}

impl Way {
    /// Through this proxy, trusting the certificates of this file.
    pub fn new(proxy: SocketAddr, bundle: &Path) -> io::Result<Self> {
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        let mut roots = RootCertStore::empty();
        for certificate in pem::parse_many(fs::read(bundle)?).map_err(|error| invalid(error.to_string()))? {
            let certificate = CertificateDer::from(certificate.into_contents());
            roots.add(certificate).map_err(|error| invalid(error.to_string()))?;
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error: rustls::Error| invalid(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { proxy, tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Asks a host for a path with its query.
    pub async fn get(&self, host: &str, port: u16, path: &str) -> Result<Reply, FetchError> {
        self.ask(host, port, Ask { path, agent: AGENT, headers: &[], body: None }).await
    }

    /// Asks a host.
    pub async fn ask(&self, host: &str, port: u16, ask: Ask<'_>) -> Result<Reply, FetchError> {
        timeout(ANSWER_TIMEOUT, self.exchange(host, port, ask)).await.map_err(|_| FetchError::Silent)?
    }

    async fn exchange(&self, host: &str, port: u16, ask: Ask<'_>) -> Result<Reply, FetchError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| FetchError::Address("its host is no DNS name"))?;
        let authority = format!("{host}:{port}");
        let tunnel = match self.open(&authority).await? {
            Opened::Tunnel(tunnel) => tunnel,
            Opened::Refused(answer) => return Ok(Reply::Proxy(answer)),
        };
        let stream = self.tls.connect(name, tunnel).await.map_err(FetchError::Tls)?;
        let uri = ask.path.parse::<Uri>().map_err(|_| FetchError::Address("its path cannot be sent"))?;
        let host = if port == super::fetch::HTTPS_PORT { host } else { &authority };
        let method = if ask.body.is_some() { Method::POST } else { Method::GET };
        let mut request = request(method, uri, host, ask.agent);
        for (name, value) in ask.headers {
            request = request.header(name, *value);
        }
        let body = Full::new(Bytes::from(ask.body.unwrap_or_default()));
        let request = request.body(body).map_err(FetchError::Request)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        Ok(Reply::Tunnel(Answer { response, _sender: sender }))
    }

    async fn open(&self, authority: &str) -> Result<Opened, FetchError> {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(self.proxy)).await;
        let stream = connected.map_err(|_| FetchError::Silent)?.map_err(FetchError::Connect)?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
        tokio::spawn(connection.with_upgrades());
        let uri = authority.parse::<Uri>().map_err(|_| FetchError::Address("its host cannot be sent"))?;
        let request = request(Method::CONNECT, uri, authority, AGENT).body(Full::default());
        let request = request.map_err(FetchError::Request)?;
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        if !response.status().is_success() {
            return Ok(Opened::Refused(Answer { response, _sender: sender }));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(FetchError::Http)?;
        Ok(Opened::Tunnel(Box::new(TokioIo::new(upgraded))))
    }
}

enum Opened {
    Tunnel(Box<TokioIo<hyper::upgrade::Upgraded>>),
    Refused(Answer),
}

fn request(method: Method, uri: Uri, host: &str, agent: &str) -> Builder {
    let request = Request::builder().method(method).uri(uri);
    request.header(HOST, host).header(USER_AGENT, agent).header(ACCEPT, "*/*")
}

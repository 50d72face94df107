//! One upstream, one proxy, one client. The upstream echoes the head it received as its body, and counts connections.

use std::convert::Infallible;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use agentsandbox_policy::Host;
use agentsandbox_proxy::cli::{Ports, ServeArgs};
use agentsandbox_proxy::config::Config;
use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::serve::{self, Port};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

pub const HOST: &str = "api.good.test";
pub const KEY: &str = "sk-real-0123456789";
pub const TOKEN: &str = "a-token-of-enough-bytes";

pub struct World {
    pub ports: Vec<(Port, SocketAddr)>,
    pub upstream: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    /// Lets the upstream's event stream end.
    pub finish: Arc<Notify>,
    pub folder: tempfile::TempDir,
    audit: Arc<Mutex<Vec<u8>>>,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

#[derive(Clone)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: String,
}

/// A world outside a pod: loopback peers are served. The upstream offers `protocols`.
pub async fn standalone(protocols: &[&str]) -> World {
    build(protocols, None).await
}

/// A world as in a pod: nobody is served before the token was shown.
pub async fn in_pod() -> World {
    build(&["h2", "http/1.1"], Some(TOKEN)).await
}

async fn build(protocols: &[&str], token: Option<&str>) -> World {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["secrets", "state"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("secrets").join("good"), format!("{KEY}\n")).unwrap();
    let (connections, finish) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (upstream, roots) = upstream(protocols, Arc::clone(&connections), Arc::clone(&finish)).await;
    std::fs::write(at("policy.yaml"), policy(upstream.port(), &roots)).unwrap();
    let keys = token.map(|token| {
        // A CA in the shape that the operator makes; the standalone mode knows how.
        drop(Config::parse(&args(folder.path().to_owned(), None)));
        for file in ["ca.crt", "ca.key"] {
            std::fs::copy(at("state").join(file), at("secrets").join(file)).unwrap();
        }
        std::fs::write(at("secrets").join("enrolment-token"), token).unwrap();
        at("secrets")
    });
    let config = Config::parse(&args(folder.path().to_owned(), keys)).unwrap_or_else(|e| panic!("{e:?}"));
    let (audit, shutdown) = (Sink(Arc::default()), CancellationToken::new());
    let bound = serve::bind(config, Box::new(audit.clone()), shutdown.clone()).await.unwrap();
    let ports = bound.addresses().collect();
    tokio::spawn(bound.run());
    World { ports, upstream, connections, finish, folder, audit: audit.0, shutdown }
}

fn args(folder: PathBuf, keys: Option<PathBuf>) -> ServeArgs {
    let any = Some(0);
    ServeArgs {
        policy: folder.join("policy.yaml"),
        secrets: folder.join("secrets"),
        keys,
        state: folder.join("state"),
        advertise: Some(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 9))),
        enrolled: None,
        termination_log: None,
        bind: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        resolve: vec![
            (Host::parse(HOST).unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST)),
            (Host::parse("meta.good.test").unwrap(), IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254))),
        ],
        ports: Ports {
            http: any,
            socks: any,
            base_url: any,
            tls: any,
            plain: any,
            dns: any,
            enrolment: any,
            admin: any,
        },
    }
}

fn policy(port: u16, roots: &str) -> String {
    let roots = roots.replace('\n', "\n    ");
    format!(
        "apiVersion: policy.agentsandbox.dev/v1
sandbox: {{namespace: team, name: fix-login, uid: u1}}
generation: 7
rules:
- {{name: good, host: {HOST}, ports: [{port}], scheme: https, methods: [GET, POST], paths: ['/v1/**'], credential: good, websocket: Allow}}
- {{name: meta, host: meta.good.test, ports: [80, 443], scheme: http}}
- {{name: tls, host: tls.good.test, ports: [443], scheme: https}}
credentials:
- name: good
  inject: {{type: Header, name: x-api-key}}
  scopes: [{{host: {HOST}, ports: [{port}]}}]
addresses: {{allow: ['127.0.0.0/8']}}
upstream:
  additionalRoots: |
    {roots}
"
    )
}

impl World {
    pub fn at(&self, entrance: Entrance) -> SocketAddr {
        self.port(Port::Entrance(entrance))
    }

    pub fn port(&self, wanted: Port) -> SocketAddr {
        self.ports.iter().find(|(port, _)| *port == wanted).unwrap().1
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.upstream.port())
    }

    pub fn authority(&self) -> String {
        format!("{HOST}:{}", self.upstream.port())
    }

    pub fn upstream_connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The audit lines so far. The last one of an exchange is written when its body has gone, so wait for a number.
    pub async fn audit(&self, lines: usize) -> Vec<serde_json::Value> {
        for _ in 0..500 {
            let text = String::from_utf8(self.audit.lock().unwrap().clone()).unwrap();
            let read: Vec<serde_json::Value> =
                text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if read.len() >= lines {
                assert!(!text.contains(KEY), "the secret is in the audit trail");
                return read;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("no {lines} audit lines")
    }

    /// Opens a tunnel by CONNECT and gives back the stream, or the refusal.
    pub async fn connect(&self, authority: &str) -> Result<TcpStream, String> {
        let mut io = TcpStream::connect(self.at(Entrance::HttpProxy)).await.unwrap();
        io.write_all(format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match io.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return Err(String::from_utf8(head).unwrap()),
            }
        }
        let head = String::from_utf8(head).unwrap();
        if head.starts_with("HTTP/1.1 200") { Ok(io) } else { Err(head) }
    }

    /// TLS as a client that trusts the sandbox's CA.
    pub async fn tls<S>(&self, io: S, name: &str, protocol: &str) -> std::io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.folder.path().join("state/ca.crt")).unwrap();
        roots.add(ca).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name.to_owned()).unwrap(), io).await
    }

    /// A request through CONNECT and TLS, in the protocol asked for.
    pub async fn through_connect(&self, protocol: &str, request: Request<Full<Bytes>>) -> Answer {
        let io = self.connect(&self.authority()).await.unwrap();
        let io = self.tls(io, HOST, protocol).await.unwrap();
        if protocol == "h2" { over_http2(io, request).await } else { over_http1(io, request).await }
    }
}

/// Sends one request over HTTP/1.1; gives back the whole answer.
pub async fn over_http1<S>(io: S, request: Request<Full<Bytes>>) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    whole(sender.send_request(request).await.unwrap()).await
}

/// Sends one request over HTTP/2; gives back the whole answer.
pub async fn over_http2<S>(io: S, request: Request<Full<Bytes>>) -> Answer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    whole(sender.send_request(request).await.unwrap()).await
}

/// Every answer is checked for the secret here, wherever it may stand in the head; the body is the upstream's echo.
async fn whole(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    for (name, value) in &head.headers {
        assert!(!value.to_str().unwrap().contains(KEY), "the secret is in the answer's {name}");
    }
    let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Answer { status: head.status, version: head.version, headers: head.headers, body }
}

/// A GET in origin form.
pub fn get(path: &str, host: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", host).body(Full::default()).unwrap()
}

type Echo = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn upstream(
    protocols: &[&str],
    connections: Arc<AtomicUsize>,
    finish: Arc<Notify>,
) -> (SocketAddr, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
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
    (address, root)
}

async fn echo(mut request: Request<Incoming>, finish: Arc<Notify>) -> Result<Echo, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/v1/events" {
        let events = futures_of(finish);
        let body = StreamBody::new(events).boxed_unsync();
        return Ok(Response::builder().header("content-type", "text/event-stream").body(body).unwrap());
    }
    if path == "/v1/socket" {
        let accept = agentsandbox_proxy::upgrade::accept_for(request.headers());
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            let mut bytes = [0; 4];
            io.read_exact(&mut bytes).await.unwrap();
            io.write_all(&bytes).await.unwrap();
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
    let sent = request.into_body().collect().await.unwrap().to_bytes();
    text.push_str(&format!("body: {} bytes\n", sent.len()));
    let mut response = Response::new(Full::from(text).boxed_unsync());
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

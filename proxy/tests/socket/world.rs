//! One upstream, one proxy, one client.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_policy::Host;
use agentsandbox_proxy::cli::{Ports, ServeArgs};
use agentsandbox_proxy::config::Config;
use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::serve::{self, Port};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{schema, upstream};

pub const HOST: &str = "api.good.test";
pub const KEY: &str = "sk-real-0123456789";
pub const TOKEN: &str = "a-token-of-enough-bytes";

pub struct World {
    pub ports: Vec<(Port, SocketAddr)>,
    pub upstream: SocketAddr,
    /// Lets the upstream's event stream end.
    pub finish: Arc<Notify>,
    pub folder: tempfile::TempDir,
    /// What a scripted upstream was sent.
    received: Arc<Mutex<Vec<u8>>>,
    /// How many of its connections have ended.
    closed: Arc<AtomicUsize>,
    log: Sink,
    shutdown: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        // A second panic would hide the first.
        if !std::thread::panicking() {
            self.lines().iter().for_each(schema::audit_line_fits);
        }
    }
}

/// The audit trail, as a disk that can be full. Beside each line stands how many upstream connections there were then.
#[derive(Clone, Default)]
struct Sink {
    state: Arc<Mutex<Written>>,
    connections: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    connections: Vec<usize>,
    full: bool,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut state = self.state.lock().unwrap();
        if state.full {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        state.bytes.extend_from_slice(bytes);
        state.connections.push(self.connections.load(Ordering::SeqCst));
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

/// What may differ from one world to the next.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Protocols that the upstream offers.
    pub protocols: Vec<&'static str>,
    /// A token makes it a world as in a pod.
    pub token: Option<&'static str>,
    /// What the upstream answers each head with, in place of an echo.
    pub script: Option<Vec<u8>>,
    /// Replacements in the policy document.
    pub policy: Vec<(&'static str, &'static str)>,
    /// Whom the upstream's certificate names; the good host if nothing is said.
    pub certificate: Option<&'static str>,
    /// The secret, in place of [`KEY`].
    pub secret: Option<&'static str>,
    /// Connections at a time.
    pub connections_max: Option<usize>,
    /// Connections to upstreams at a time.
    pub upstream_connections_max: Option<usize>,
    /// How long a request waits for one of them.
    pub upstream_wait_max: Option<Duration>,
    /// What the upstream does, in place of an echo.
    pub behaviour: Option<upstream::Behaviour>,
    /// What the upstream asks its clients for, if they are asked for a certificate.
    pub asks: Option<upstream::Asks>,
    /// Memory that the process may take, in MiB. All worlds of these tests are one process.
    pub memory_mib: Option<usize>,
    /// Decisions for one second.
    pub decisions_per_second: Option<NonZeroU32>,
}

/// A world outside a pod: loopback peers are served. The upstream offers `protocols`.
pub async fn standalone(protocols: &[&'static str]) -> World {
    build(Setup { protocols: protocols.to_vec(), ..Setup::default() }).await
}

/// A world as in a pod: nobody is served before the token was shown.
pub async fn in_pod() -> World {
    build(Setup { protocols: vec!["h2", "http/1.1"], token: Some(TOKEN), ..Setup::default() }).await
}

/// A world outside a pod whose upstream answers each head with these bytes.
pub async fn scripted(answer: impl Into<Vec<u8>>) -> World {
    build(Setup { protocols: vec!["http/1.1"], script: Some(answer.into()), ..Setup::default() }).await
}

pub async fn build(setup: Setup) -> World {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["secrets", "state"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    std::fs::write(at("secrets").join("good"), format!("{}\n", setup.secret.unwrap_or(KEY))).unwrap();
    let (log, finish, received) = (Sink::default(), Arc::new(Notify::new()), Arc::default());
    let closed = Arc::new(AtomicUsize::new(0));
    let (listener, upstream) = upstream::listen().await;
    let (acceptor, roots) =
        upstream::identity(&setup.protocols, setup.certificate.unwrap_or(HOST), setup.asks);
    match (setup.script, setup.behaviour) {
        (None, Some(behaviour)) => {
            upstream::behaving(listener, acceptor, Arc::clone(&log.connections), behaviour);
        }
        (None, None) => {
            upstream::echoing(listener, acceptor, Arc::clone(&log.connections), Arc::clone(&finish))
        }
        (Some(answer), _) => {
            let counters = [Arc::clone(&log.connections), Arc::clone(&closed)];
            upstream::following(listener, acceptor, counters, answer, Arc::clone(&received));
        }
    }
    let mut text = policy(upstream.port(), &roots);
    for (from, to) in setup.policy {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    schema::policy_fits(&text);
    std::fs::write(at("policy.yaml"), text).unwrap();
    let keys = setup.token.map(|token| {
        // A CA in the shape that the operator makes; the standalone mode knows how.
        drop(Config::parse(&args(folder.path().to_owned(), None)));
        for file in ["ca.crt", "ca.key"] {
            std::fs::copy(at("state").join(file), at("secrets").join(file)).unwrap();
        }
        std::fs::write(at("secrets").join("enrolment-token"), token).unwrap();
        at("secrets")
    });
    let args = ServeArgs { memory_mib: setup.memory_mib, ..args(folder.path().to_owned(), keys) };
    let mut config = Config::parse(&args).unwrap_or_else(|e| panic!("{e:?}"));
    config.connections_max = setup.connections_max.unwrap_or(config.connections_max);
    let upstreams = setup.upstream_connections_max.unwrap_or(config.upstream_connections_max);
    config.upstream_connections_max = upstreams;
    config.upstream_wait_max = setup.upstream_wait_max.unwrap_or(config.upstream_wait_max);
    config.decisions_per_second = setup.decisions_per_second;
    let shutdown = CancellationToken::new();
    let bound = serve::bind(config, Box::new(log.clone()), shutdown.clone()).await.unwrap();
    let ports = bound.addresses().collect();
    let running = Some(tokio::spawn(bound.run()));
    World { ports, upstream, finish, folder, received, closed, log, shutdown, running }
}

pub fn args(folder: PathBuf, keys: Option<PathBuf>) -> ServeArgs {
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
            (Host::parse("proxy.test").unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST)),
            (Host::parse("pass.good.test").unwrap(), IpAddr::V4(Ipv4Addr::LOCALHOST)),
            (Host::parse("tls.good.test").unwrap(), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7))),
            (Host::parse("plain.good.test").unwrap(), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 8))),
            (Host::parse("meta.good.test").unwrap(), IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254))),
        ],
        memory_mib: None,
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
- {{name: plain, host: plain.good.test, ports: [80], scheme: http}}
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
        self.log.connections.load(Ordering::SeqCst)
    }

    /// How many connections of a scripted upstream have ended.
    pub fn upstream_closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }

    /// What a scripted upstream was sent so far.
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap()).into_owned()
    }

    /// Fills the disk that the audit trail is on, or makes room.
    pub fn disk_is_full(&self, full: bool) {
        self.log.state.lock().unwrap().full = full;
    }

    /// Completes when the proxy has ended by itself.
    pub async fn has_ended(&mut self) {
        self.running.take().unwrap().await.unwrap();
    }

    /// Ends the proxy, and waits until it has drained.
    pub async fn end(&mut self) {
        self.shutdown.cancel();
        self.running.take().unwrap().await.unwrap();
    }

    /// The audit lines so far.
    pub fn lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.log.state.lock().unwrap().bytes.clone()).unwrap();
        assert!(!text.contains(KEY), "the secret is in the audit trail");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many upstream connections there were when each line was written.
    pub fn connections_at_lines(&self) -> Vec<usize> {
        self.log.state.lock().unwrap().connections.clone()
    }

    /// Edits the policy document, and waits until it is in force.
    pub async fn edit(&self, edit: impl FnOnce(&str) -> String) {
        self.edit_from(7, edit).await;
    }

    /// Edits it once more.
    pub async fn edit_again(&self, edit: impl FnOnce(&str) -> String) {
        self.edit_from(8, edit).await;
    }

    async fn edit_from(&self, generation: u64, edit: impl FnOnce(&str) -> String) {
        let [old, new] = [generation, generation + 1].map(|number| format!("generation: {number}"));
        let file = self.folder.path().join("policy.yaml");
        let edited = edit(&std::fs::read_to_string(&file).unwrap());
        std::fs::write(&file, edited.replace(&old, &new)).unwrap();
        for n in 0..200 {
            let io = TcpStream::connect(self.at(Entrance::HttpProxy)).await.unwrap();
            // Another name each time, so that each denial has a line; few of them, as there are not many lines in a window.
            let host = format!("nobody{n}-{generation}.test");
            over_http1(io, get(&format!("http://{host}/"), &host)).await;
            if self.lines().last().unwrap()["generation"] == generation + 1 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        panic!("the document is not in force");
    }

    /// Replaces the secret, and waits until the proxy has read the new one.
    pub async fn rotate(&self) {
        // A short one, since those are counted when they are read.
        self.rotate_to("sk-short", 1).await;
    }

    /// The same with this short secret, with which so many have been read.
    pub async fn rotate_to(&self, secret: &str, short: usize) {
        std::fs::write(self.folder.path().join("secrets/good"), secret).unwrap();
        let wanted = format!("agentsandbox_proxy_short_secrets_total {short}\n");
        for _ in 0..500 {
            let mut told = String::new();
            for path in ["/readyz", "/metrics"] {
                let io = TcpStream::connect(self.port(Port::Admin)).await.unwrap();
                told = over_http1(io, get(path, "proxy")).await.body;
            }
            if told.contains(&wanted) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the secret is not read");
    }

    /// The audit lines, once there are so many.
    pub async fn audit(&self, lines: usize) -> Vec<serde_json::Value> {
        self.until(|all| (all.len() >= lines).then(|| all.to_vec())).await
    }

    /// The first audit line with these values, once it is there.
    pub async fn line(&self, wanted: &[(&str, &str)]) -> serde_json::Value {
        let is_wanted = |line: &serde_json::Value| {
            wanted.iter().all(|(field, value)| line[*field].as_str() == Some(*value))
        };
        self.until(|all| all.iter().find(|line| is_wanted(line)).cloned()).await
    }

    async fn until<T>(&self, found: impl Fn(&[serde_json::Value]) -> Option<T>) -> T {
        for _ in 0..500 {
            if let Some(found) = found(&self.lines()) {
                return found;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("not among the audit lines: {:#?}", self.lines())
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
        let config = Arc::new(self.trusting(protocol));
        TlsConnector::from(config).connect(ServerName::try_from(name.to_owned()).unwrap(), io).await
    }

    /// The configuration of a client that trusts the sandbox's CA.
    pub fn trusting(&self, protocol: &str) -> rustls::ClientConfig {
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
        config
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

/// Every answer is checked for the secret here, wherever it may stand. The upstream's echo comes backwards and is turned.
async fn whole(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    for (name, value) in &head.headers {
        assert!(!value.to_str().unwrap().contains(KEY), "the secret is in the answer's {name}");
    }
    let mut body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    assert!(!body.contains(KEY), "the secret is in the answer's body");
    if head.headers.contains_key("x-backwards") {
        body = body.chars().rev().collect();
    }
    Answer { status: head.status, version: head.version, headers: head.headers, body }
}

/// Sends a head that asks for the end of the connection, and gives back all that is answered until then.
pub async fn speak(world: &World, entrance: Entrance, bytes: &[u8]) -> String {
    let mut io = TcpStream::connect(world.at(entrance)).await.unwrap();
    io.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Sends these bytes and no more, and gives back all that is answered until the end.
pub async fn raw(world: &World, entrance: Entrance, bytes: &[u8]) -> String {
    let mut io = TcpStream::connect(world.at(entrance)).await.unwrap();
    io.write_all(bytes).await.unwrap();
    io.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A GET in origin form.
pub fn get(path: &str, host: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", host).body(Full::default()).unwrap()
}

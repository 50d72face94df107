//! Client certificates towards upstreams that ask for one: who is shown which, on which connection.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_proxy::config::{Config, StartError};
use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::secrets::SecretError;
use agentsandbox_proxy::serve::Port;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::entrances::{denied, to};
use crate::upstream::{Asks, Behaviour};
use crate::world::{Answer, HOST, KEY, Setup, World, args, build, get, over_http1};

const OTHER: &str = "pass.good.test";
pub const NOBODY: &str = "nobody";

/// Whoever vouches for clients.
pub struct Clients {
    issuer: Issuer<'static, KeyPair>,
    roots: Arc<RootCertStore>,
}

impl Clients {
    pub fn new() -> Self {
        Self::named("clients")
    }

    pub fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, name);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let mut roots = RootCertStore::empty();
        roots.add(ca.self_signed(&key).unwrap().der().clone()).unwrap();
        Self { issuer: Issuer::new(ca, key), roots: Arc::new(roots) }
    }

    /// A certificate in this name, and its key.
    pub fn pair(&self, name: &str) -> (String, String) {
        self.pair_of(name, &KeyPair::generate().unwrap(), |_| ())
    }

    /// The same with this key, after `change`.
    pub fn pair_of(
        &self,
        name: &str,
        key: &KeyPair,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let mut client = CertificateParams::default();
        client.distinguished_name.push(DnType::CommonName, name);
        change(&mut client);
        (client.signed_by(key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    /// An upstream that knows its clients by them, and takes whoever has no certificate.
    pub fn asked(&self) -> Asks {
        Asks { roots: Arc::clone(&self.roots), of_all: false, p256_only: true, version: None }
    }
}

/// Who a client proved to be.
fn proven(io: &TlsStream<TcpStream>) -> String {
    let shown = io.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    shown.map_or(NOBODY.to_owned(), |der| {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        let name = certificate.subject().iter_common_name().next().unwrap();
        name.as_str().unwrap().to_owned()
    })
}

/// What an upstream saw.
#[derive(Clone, Default)]
pub struct Seen {
    /// Who stood behind each connection that carried a request, and whether its session was resumed.
    connections: Arc<Mutex<BTreeMap<usize, (String, bool)>>>,
    ended: Arc<AtomicUsize>,
}

impl Seen {
    pub fn names(&self) -> Vec<String> {
        self.connections.lock().unwrap().values().map(|(name, _)| name.clone()).collect()
    }
}

/// An upstream that answers with who the client proved to be, and with what came in the request.
fn asking(keeps: bool) -> (Behaviour, Seen) {
    let (seen, number) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    let noted = seen.clone();
    let behaviour = Behaviour::new(move |io| {
        let (seen, number) = (noted.clone(), number.fetch_add(1, Ordering::SeqCst));
        async move {
            let name = proven(&io);
            let resumed = io.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            let connections = Arc::clone(&seen.connections);
            let service = service_fn(move |request: Request<Incoming>| {
                connections.lock().unwrap().insert(number, (name.clone(), resumed));
                answer(name.clone(), keeps, request)
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(io), service).await;
            seen.ended.fetch_add(1, Ordering::SeqCst);
        }
    });
    (behaviour, seen)
}

async fn answer(
    name: String,
    keeps: bool,
    mut request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    if request.headers().contains_key("upgrade") {
        let accept = agentsandbox_proxy::upgrade::accept_for(request.headers());
        let upgraded = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut io = TokioIo::new(upgraded.await.unwrap());
            // A text of two bytes, masked with a key of zeros; it goes back as a server's.
            let mut frame = [0; 8];
            io.read_exact(&mut frame).await.unwrap();
            io.write_all(&[&[frame[0], 2][..], &frame[6..]].concat()).await.unwrap();
        });
        let response = Response::builder().status(101).header("connection", "upgrade");
        let response = response.header("upgrade", "websocket").header("sec-websocket-accept", accept);
        return Ok(response.body(Full::default()).unwrap());
    }
    let (head, body) = request.into_parts();
    let sent = body.collect().await.unwrap();
    let carries = |field: &'static str| if head.headers.contains_key(field) { field } else { "-" };
    let mut text = format!("{name} {} {}", carries("x-api-key"), carries("cookie"));
    for trailer in sent.trailers().into_iter().flat_map(|trailers| trailers.keys()) {
        text.push_str(&format!(" trailer {trailer}"));
    }
    let response = Response::builder().header("set-cookie", "session=of-the-upstream");
    let response = if keeps { response } else { response.header("connection", "close") };
    Ok(response.body(Full::new(Bytes::from(text))).unwrap())
}

/// A world whose upstream asks each client for a certificate and takes those of `clients`, and none. The pair is the proxy's.
async fn world(protocol: &'static str, keeps: bool, clients: &Clients, pair: (&str, &str)) -> (World, Seen) {
    world_of(protocol, keeps, clients.asked(), pair).await
}

/// A world whose upstream asks so. The pair is the proxy's.
pub async fn world_of(protocol: &'static str, keeps: bool, asks: Asks, pair: (&str, &str)) -> (World, Seen) {
    world_with(protocol, keeps, (Some(asks), pair), |text| text).await
}

/// The same, with a policy document after `change`.
pub async fn world_with(
    protocol: &'static str,
    keeps: bool,
    (asks, (certificate, key)): (Option<Asks>, (&str, &str)),
    change: impl Fn(String) -> String,
) -> (World, Seen) {
    let (behaviour, seen) = asking(keeps);
    let world = build(Setup {
        protocols: vec![protocol],
        behaviour: Some(behaviour),
        certificate: Some("*.good.test"),
        asks,
        ..Setup::default()
    })
    .await;
    put(&world, "tls.crt", certificate);
    put(&world, "tls.key", key);
    let port = world.upstream.port();
    let rule = |name: &str, host: &str, more: &str| {
        format!(
            "- {{name: {name}, host: {host}, ports: [{port}], scheme: https, paths: ['/{name}/**']{more}}}\n"
        )
    };
    let rules = [
        rule("shown", HOST, ", clientCertificate: mtls, websocket: Allow"),
        rule("both", HOST, ", clientCertificate: mtls, credential: good"),
        rule("bare", HOST, ", websocket: Allow"),
        rule("beyond", HOST, ", clientCertificate: mtls"),
        rule("other", OTHER, ""),
        rule("strange", OTHER, ", clientCertificate: mtls"),
    ];
    let certificates = format!(
        "clientCertificates:\n- name: mtls\n  certificateFile: tls.crt\n  keyFile: tls.key\n  scopes: [{{host: {HOST}, ports: [{port}], methods: [GET], paths: ['/shown/**', '/both/**']}}]\n"
    );
    world
        .edit(|text| {
            let text = text.replace("rules:\n", &format!("rules:\n{}", rules.concat()));
            change(text.replace("credentials:\n", &format!("{certificates}credentials:\n")))
        })
        .await;
    (world, seen)
}

pub fn put(world: &World, file: &str, text: &str) {
    std::fs::write(world.folder.path().join("secrets").join(file), text).unwrap();
}

pub async fn ask_at(world: &World, method: &str, host: &str, path: &str) -> Answer {
    let authority = format!("{host}:{}", world.upstream.port());
    let request = Request::builder()
        .method(method)
        .uri(format!("https://{authority}{path}"))
        .header("host", authority)
        .header("cookie", "session=of-the-agent")
        .body(Full::default())
        .unwrap();
    let answer = over_http1(to(world, Entrance::HttpProxy).await, request).await;
    // A connection is free again once its answer was read to the end, a few turns of the scheduler later.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    answer
}

pub async fn ask(world: &World, path: &str) -> Answer {
    ask_at(world, "GET", HOST, path).await
}

/// Asks until this is the status, for as long as a rotation may take, and gives back all bodies until then.
pub async fn until(world: &World, path: &str, wanted: impl Fn(&Answer) -> bool) -> Vec<Answer> {
    let mut all = Vec::new();
    for _ in 0..500 {
        all.push(ask(world, path).await);
        if all.last().is_some_and(&wanted) {
            return all;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within the time of a rotation");
}

#[tokio::test]
async fn p_f21_a_client_certificate_is_shown_where_it_is_declared_and_to_nobody_else_who_asks() {
    let clients = Clients::new();
    let (certificate, key) = clients.pair("agent");
    for protocol in ["h2", "http/1.1"] {
        let (world, seen) = world(protocol, true, &clients, (&certificate, &key)).await;
        let shown = ask(&world, "/shown/x").await;
        assert_eq!((shown.status, shown.body.as_str()), (StatusCode::OK, "agent - -"), "{protocol}");
        assert!(!shown.headers.contains_key("set-cookie"), "no session speaks in its place");
        let bare = ask(&world, "/bare/x").await;
        assert_eq!(bare.body, "nobody - -", "{protocol}: while its connection is open");
        assert!(bare.headers.contains_key("set-cookie"));
        assert_eq!(ask(&world, "/both/x").await.body, "agent x-api-key -", "{protocol}");
        assert_eq!(ask_at(&world, "GET", OTHER, "/other/x").await.body, "nobody - cookie", "{protocol}");
        assert_eq!(ask(&world, "/shown/y").await.body, "agent - -", "{protocol}");
        assert_eq!(seen.names(), ["agent", NOBODY, "agent", NOBODY], "{protocol}: the first is used again");
        assert_eq!(world.upstream_connections(), 4, "{protocol}");
        for (path, credential) in [("/shown/x", "-"), ("/bare/x", "-"), ("/both/x", "good")] {
            let line = world.line(&[("event", "end"), ("path", path)]).await;
            let certificate = if path == "/bare/x" { "-" } else { "mtls" };
            let said = |field: &str| line[field].as_str().unwrap_or("-").to_owned();
            assert_eq!(
                (said("clientCertificate").as_str(), said("credential").as_str()),
                (certificate, credential)
            );
            assert_eq!(
                line["clientCertificateShown"].as_bool(),
                (path != "/bare/x").then_some(true),
                "{line}"
            );
        }
        ask(&world, "/shown/z").await;
        let line = world.line(&[("event", "end"), ("path", "/shown/z")]).await;
        assert_eq!(line["clientCertificateShown"], true, "{protocol}: by whoever opened the connection");
    }
}

#[tokio::test]
async fn p_a11_a_request_that_its_owner_does_not_let_show_it_is_denied_while_a_connection_that_does_is_open()
{
    let clients = Clients::new();
    let (certificate, key) = clients.pair("agent");
    for protocol in ["h2", "http/1.1"] {
        let (world, seen) = world(protocol, true, &clients, (&certificate, &key)).await;
        assert_eq!(ask(&world, "/shown/x").await.body, "agent - -", "{protocol}");
        let beyond = [("GET", HOST, "/beyond/x"), ("POST", HOST, "/shown/x"), ("GET", OTHER, "/strange/x")];
        for (method, host, path) in beyond {
            let answer = ask_at(&world, method, host, path).await;
            denied(&answer, StatusCode::FORBIDDEN, "CredentialScope");
            assert!(answer.body.contains("mtls"), "{}", answer.body);
            let line = world.line(&[("event", "deny"), ("path", path), ("method", method)]).await;
            assert_eq!(
                (&line["clientCertificate"], line["credential"].as_str()),
                (&"mtls".into(), None),
                "{line}"
            );
        }
        assert_eq!((seen.names(), world.upstream_connections()), (vec!["agent".to_owned()], 1), "{protocol}");
    }
}

#[tokio::test]
async fn p_f21_a_pair_is_rotated_whole_and_denies_while_it_is_half_or_gone() {
    let clients = Clients::new();
    let ((old, old_key), (new, new_key)) = (clients.pair("old"), clients.pair("new"));
    for protocol in ["h2", "http/1.1"] {
        let (world, seen) = world(protocol, true, &clients, (&old, &old_key)).await;
        assert_eq!(ask(&world, "/shown/x").await.body, "old - -", "{protocol}");
        put(&world, "tls.crt", &new);
        let answers = until(&world, "/shown/x", |answer| answer.status == StatusCode::FORBIDDEN).await;
        let (last, before) = answers.split_last().unwrap();
        assert!(
            before.iter().all(|answer| answer.body == "old - -"),
            "{protocol}: the last good pair, or none"
        );
        denied(last, StatusCode::FORBIDDEN, "CredentialUnavailable");
        assert!(last.body.contains("does not fit its certificate"), "{}", last.body);
        let io = TcpStream::connect(world.port(Port::Admin)).await.unwrap();
        let ready = over_http1(io, get("/readyz", "proxy")).await;
        assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(ready.body.contains("{\"item\":\"secret\",\"name\":\"mtls\","), "{}", ready.body);
        put(&world, "tls.key", &new_key);
        let answers = until(&world, "/shown/x", |answer| answer.status == StatusCode::OK).await;
        assert_eq!(answers.last().unwrap().body, "new - -", "{protocol}");
        assert_eq!(seen.names(), ["old", "new"], "{protocol}");
        for _ in 0..500 {
            if seen.ended.load(Ordering::SeqCst) > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(seen.ended.load(Ordering::SeqCst), 1, "{protocol}: the old pair's connection is closed");
        std::fs::remove_file(world.folder.path().join("secrets/tls.key")).unwrap();
        let answers = until(&world, "/shown/x", |answer| answer.status == StatusCode::FORBIDDEN).await;
        denied(answers.last().unwrap(), StatusCode::FORBIDDEN, "CredentialUnavailable");
        assert_eq!(
            ask(&world, "/both/x").await.status,
            StatusCode::FORBIDDEN,
            "its other half is not sent alone"
        );
        assert_eq!(ask(&world, "/bare/x").await.body, "nobody - -", "{protocol}: nobody else is hindered");
        let lines = serde_json::to_string(&world.lines()).unwrap();
        for pem in [&old_key, &new_key, &new] {
            let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
            assert!(!lines.contains(&body[..40]), "{protocol}: nothing of a pair is written down");
        }
        assert!(!lines.contains(KEY));
    }
}

#[tokio::test]
async fn p_a11_a_session_that_a_client_certificate_opened_is_never_resumed() {
    let clients = Clients::new();
    let (certificate, key) = clients.pair("agent");
    let (world, seen) = world("http/1.1", false, &clients, (&certificate, &key)).await;
    for path in ["/bare/1", "/bare/2", "/shown/1", "/bare/3", "/shown/2", "/shown/3"] {
        assert_eq!(ask(&world, path).await.status, StatusCode::OK, "{path}");
    }
    let connections: Vec<_> = seen.connections.lock().unwrap().values().cloned().collect();
    let resumed = |name: &str| {
        let own = connections.iter().filter(|(known, _)| known == name);
        own.map(|(_, resumed)| *resumed).collect::<Vec<_>>()
    };
    assert_eq!(resumed(NOBODY), [false, true, true], "a session of nobody is");
    assert_eq!(resumed("agent"), [false; 3]);
}

#[tokio::test]
async fn p_f21_a_host_that_takes_no_signature_of_the_pairs_key_gets_no_byte_of_the_request() {
    let clients = Clients::new();
    // The upstream takes no Ed25519.
    let (fits, key) = clients.pair("agent");
    let (stranger, odd) =
        clients.pair_of("agent", &KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), |_| ());
    for protocol in ["h2", "http/1.1"] {
        let (world, seen) = world(protocol, true, &clients, (&stranger, &odd)).await;
        for path in ["/shown/x", "/both/x"] {
            let answer = ask(&world, path).await;
            denied(&answer, StatusCode::FORBIDDEN, "CredentialUnavailable");
            assert!(answer.body.contains("key of AgentCredential mtls"), "{}", answer.body);
            let line = world.line(&[("event", "end"), ("path", path)]).await;
            let blamed = (&line["clientCertificate"], line["credential"].as_str());
            assert_eq!(blamed, (&"mtls".into(), None), "the key of /both/x is not at fault: {line}");
        }
        assert_eq!(seen.names(), Vec::<String>::new(), "{protocol}");
        assert_eq!(ask(&world, "/bare/x").await.body, "nobody - -", "{protocol}: it takes nobody as well");
        put(&world, "tls.crt", &fits);
        put(&world, "tls.key", &key);
        until(&world, "/shown/x", |answer| answer.body == "agent - -").await;
    }
}

#[tokio::test]
async fn p_f21_without_its_whole_pair_a_proxy_does_not_start_and_says_which_certificate_it_lacks() {
    let clients = Clients::new();
    let (certificate, key) = clients.pair("agent");
    let (_, stranger) = clients.pair("stranger");
    let (world, _) = world("http/1.1", true, &clients, (&certificate, &key)).await;
    let start = || match Config::parse(&args(world.folder.path().to_owned(), None)) {
        Ok(_) => None,
        Err(StartError::Credential { name, error }) => Some((name, error)),
        Err(other) => panic!("{other:?}"),
    };
    assert_eq!(start(), None);
    put(&world, "tls.key", &stranger);
    assert_eq!(start(), Some(("mtls".to_owned(), SecretError::Mismatched)));
    put(&world, "tls.key", "no key");
    assert_eq!(start(), Some(("mtls".to_owned(), SecretError::NoPrivateKey)));
    std::fs::remove_file(world.folder.path().join("secrets/tls.crt")).unwrap();
    assert_eq!(start(), Some(("mtls".to_owned(), SecretError::CertificateMissing)));
}

#[tokio::test]
async fn p_f21_a_certificate_is_shown_whatever_its_key_and_the_version_of_tls_where_nobody_else_is_taken() {
    let clients = Clients::new();
    let keys = [
        KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
        KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
    ];
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for key in &keys {
            let (certificate, key) = clients.pair_of("agent", key, |_| ());
            let asks = Asks { of_all: true, p256_only: false, version: Some(version), ..clients.asked() };
            let (world, seen) = world_of("h2", true, asks, (&certificate, &key)).await;
            assert_eq!(ask(&world, "/shown/x").await.body, "agent - -", "{version:?}");
            assert_eq!(ask(&world, "/bare/x").await.status, StatusCode::BAD_GATEWAY, "{version:?}");
            assert_eq!(seen.names(), ["agent"], "{version:?}");
        }
    }
}

#[tokio::test]
async fn p_f21_a_websocket_is_opened_under_the_certificate_of_its_rule_and_without_one_under_another() {
    let clients = Clients::new();
    let (certificate, key) = clients.pair("agent");
    let (world, seen) = world("http/1.1", true, &clients, (&certificate, &key)).await;
    for path in ["/shown/socket", "/bare/socket"] {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(to(&world, Entrance::HttpProxy).await))
                .await
                .unwrap();
        tokio::spawn(connection.with_upgrades());
        let request = Request::get(world.url(path)).header("host", world.authority());
        let request = request.header("connection", "Upgrade").header("upgrade", "websocket");
        let request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let response = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS, "{path}");
        let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        io.write_all(b"\x81\x82\0\0\0\0hi").await.unwrap();
        let mut back = [0; 4];
        io.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"\x81\x02hi", "{path}");
    }
    assert_eq!(seen.names(), ["agent", NOBODY]);
}

#[tokio::test]
async fn p_f21_no_cookie_of_the_agents_goes_in_a_trailer_under_the_certificate() {
    let clients = Clients::new();
    let (certificate, key) = clients.pair("agent");
    for protocol in ["h2", "http/1.1"] {
        let (world, _) = world(protocol, true, &clients, (&certificate, &key)).await;
        let port = world.upstream.port();
        let hosts = [
            (HOST, "/shown/x", "agent - - trailer x-plain"),
            (OTHER, "/other/x", "nobody - - trailer cookie trailer x-plain"),
        ];
        for (host, path, wanted) in hosts {
            let mut io = to(&world, Entrance::HttpProxy).await;
            let head = format!(
                "GET https://{host}:{port}{path} HTTP/1.1\r\nhost: {host}:{port}\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: cookie, x-plain\r\n\r\n"
            );
            io.write_all(
                format!("{head}2\r\nok\r\n0\r\ncookie: session=mine\r\nx-plain: stays\r\n\r\n").as_bytes(),
            )
            .await
            .unwrap();
            let mut answer = String::new();
            io.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains(wanted), "{protocol}: {answer}");
        }
    }
}

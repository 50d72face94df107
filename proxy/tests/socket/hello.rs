//! Names that are encrypted in the TLS handshake (RFC 9849).

use std::sync::Arc;

use agentsandbox_proxy::entrance::Entrance;
use http::StatusCode;
use rustls::ClientConfig;
use rustls::client::{EchConfig, EchGreaseConfig, EchMode};
use rustls::crypto::aws_lc_rs::hpke::ALL_SUPPORTED_SUITES;
use rustls::pki_types::{EchConfigListBytes, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::entrances::to;
use crate::world::{HOST, World, get, over_http1, standalone};

/// A configuration under which `cover` is what can be read in the handshake (RFC 9849, 4).
fn encrypted(cover: &str) -> EchMode {
    const X25519: [u8; 2] = [0, 0x20];
    const HKDF_SHA256_AES_128_GCM: [u8; 4] = [0, 1, 0, 1];
    let vector = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let contents = [
        &[7][..],
        &X25519,
        &vector(&[9; 32]),
        &vector(&HKDF_SHA256_AES_128_GCM),
        &[0, u8::try_from(cover.len()).unwrap()],
        cover.as_bytes(),
        &vector(&[]),
    ]
    .concat();
    let list = vector(&[&[0xfe, 0x0d][..], &vector(&contents)].concat());
    EchMode::from(EchConfig::new(EchConfigListBytes::from(list), ALL_SUPPORTED_SUITES).unwrap())
}

/// What only looks like it, as browsers send it.
fn grease() -> EchMode {
    let suite = ALL_SUPPORTED_SUITES[0];
    EchMode::from(EchGreaseConfig::new(suite, suite.generate_key_pair().unwrap().0))
}

/// A handshake with a server that means `name`; what a client sees of it with its first answer.
async fn shake<S>(
    world: &World,
    io: S,
    name: &str,
    mode: EchMode,
) -> std::io::Result<tokio_rustls::client::TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let trusting = world.trusting("http/1.1");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    let ca = world.folder.path().join("state/ca.crt");
    use rustls::pki_types::pem::PemObject;
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_ech(mode)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = trusting.alpn_protocols;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, io).await
}

#[tokio::test]
async fn p_a22_a_name_that_is_encrypted_is_denied_whatever_its_wrapping() {
    let world = standalone(&["http/1.1"]).await;
    let refused = |host: &'static str| {
        let world = &world;
        async move {
            world.line(&[("event", "deny"), ("reason", "EncryptedClientHello"), ("host", host)]).await;
        }
    };
    // The wrapping is not allowed, or is not what CONNECT named.
    let io = to(&world, Entrance::TransparentTls).await;
    assert!(shake(&world, io, HOST, encrypted("cover.test")).await.is_err());
    refused("cover.test").await;
    let io = world.connect(&world.authority()).await.unwrap();
    assert!(shake(&world, io, HOST, encrypted("tls.good.test")).await.is_err());
    refused(HOST).await;
    // The wrapping is allowed: the client itself gives up, and is sent nothing.
    let io = to(&world, Entrance::TransparentTls).await;
    if let Ok(mut io) = shake(&world, io, "evil.test", encrypted("tls.good.test")).await {
        let _ = io.write_all(b"GET / HTTP/1.1\r\nhost: tls.good.test\r\n\r\n").await;
        let mut rest = Vec::new();
        let _ = io.read_to_end(&mut rest).await;
        assert!(rest.is_empty());
    }
    refused("tls.good.test").await;
    assert_eq!(world.upstream_connections(), 0);
    assert!(world.lines().iter().all(|line| line["event"] != "begin"));
}

#[tokio::test]
async fn p_a22_what_only_looks_encrypted_is_served() {
    let world = standalone(&["http/1.1"]).await;
    let io = world.connect(&world.authority()).await.unwrap();
    let io = shake(&world, io, HOST, grease()).await.unwrap();
    assert_eq!(over_http1(io, get("/v1/x", &world.authority())).await.status, StatusCode::OK);
    let io = to(&world, Entrance::TransparentTls).await;
    assert!(shake(&world, io, "tls.good.test", grease()).await.is_ok());
}

/// A world whose `tls` rule passes its upstream's TLS unopened, at the upstream's own name and port.
async fn passing() -> World {
    let world = standalone(&["http/1.1"]).await;
    let port = world.upstream.port();
    let rule = format!(
        "rules:\n- {{name: pass, host: pass.good.test, ports: [{port}], scheme: https, tls: Passthrough}}\n"
    );
    world.edit(|text| text.replace("rules:\n", &rule)).await;
    world
}

#[tokio::test]
async fn p_f20_tls_passes_unopened_only_where_a_rule_says_so() {
    let world = passing().await;
    let authority = format!("pass.good.test:{}", world.upstream.port());
    // What answers there is the upstream itself, whose certificate the sandbox's CA did not make.
    let io = world.connect(&authority).await.unwrap();
    let error = world.tls(io, "pass.good.test", "http/1.1").await.unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let line = world.line(&[("event", "end"), ("rule", "pass")]).await;
    assert_eq!((&line["decision"], &line["credential"]), (&"allow".into(), &serde_json::Value::Null));
    assert_eq!(line["address"], format!("127.0.0.1:{}", world.upstream.port()));
    assert!(line["bytesUp"].as_u64().unwrap() > 100 && line["bytesDown"].as_u64().unwrap() > 100, "{line}");
    assert_eq!(world.upstream_connections(), 1);
    // Another name in its handshake, an encrypted one, or plain text, and nothing passes.
    for (name, mode) in [(HOST, None), ("pass.good.test", Some(grease()))] {
        let io = world.connect(&authority).await.unwrap();
        let shaken = match mode {
            Some(mode) => shake(&world, io, name, mode).await.map(drop),
            None => world.tls(io, name, "http/1.1").await.map(drop),
        };
        assert!(shaken.unwrap_err().to_string().contains("AccessDenied"), "{name}");
    }
    let io = world.connect(&authority).await.unwrap();
    assert_eq!(over_http1(io, get("/", &authority)).await.status, StatusCode::FORBIDDEN);
    // A request in the clear cannot use the rule, nor can one for the proxy to send.
    let url = format!("https://{authority}/");
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, get(&url, &authority)).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    assert_eq!(world.upstream_connections(), 1);
    // Every other rule is opened as before.
    let answer = world.through_connect("http/1.1", get("/v1/x", &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK);
}

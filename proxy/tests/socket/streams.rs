//! Streaming, rotation and reload.

use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::entrances::to;
use crate::world::{HOST, KEY, Setup, World, build, get, over_http1, scripted, standalone};

async fn once(world: &World) -> crate::world::Answer {
    let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    over_http1(io, get(&world.url("/v1/x"), &world.authority())).await
}

/// Asks again until the answer is as expected, for as long as is promised.
async fn until(world: &World, expected: impl Fn(&crate::world::Answer) -> bool) {
    for _ in 0..50 {
        if expected(&once(world).await) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within five seconds");
}

#[tokio::test]
async fn p_h3_the_first_event_arrives_before_the_last_is_sent() {
    for upstream in ["h2", "http/1.1"] {
        let world = standalone(&[upstream]).await;
        let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(get(&world.url("/v1/events"), &world.authority())).await.unwrap();
        let mut body = response.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "data: first\n\n");
        world.finish.notify_one();
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(rest, "data: last\n\n", "{upstream}");
    }
}

#[tokio::test]
async fn p_f17_a_rotated_secret_is_used_within_five_seconds_and_a_deleted_one_denies() {
    let world = standalone(&["h2", "http/1.1"]).await;
    assert!(once(&world).await.body.contains(KEY));
    let file = world.folder.path().join("secrets/good");
    std::fs::write(&file, "sk-rotated").unwrap();
    until(&world, |answer| answer.body.contains("sk-rotated") && !answer.body.contains(KEY)).await;
    std::fs::remove_file(&file).unwrap();
    until(&world, |answer| {
        answer.status == StatusCode::FORBIDDEN && answer.body.contains("CredentialUnavailable")
    })
    .await;
}

#[tokio::test]
async fn p_i8_a_new_policy_takes_effect_and_an_invalid_one_does_not() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let file = world.folder.path().join("policy.yaml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, good.replace("rules:", "rulez:")).unwrap();
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert_eq!(once(&world).await.status, StatusCode::OK, "the last good policy stays");
    std::fs::write(&file, good.replace("'/v1/**'", "'/v2/**'")).unwrap();
    until(&world, |answer| answer.status == StatusCode::FORBIDDEN && answer.body.contains("PathNotAllowed"))
        .await;
}

#[tokio::test]
async fn p_f16_a_credential_pointed_at_another_secret_never_sends_the_old_one() {
    let world = standalone(&["h2", "http/1.1"]).await;
    assert!(once(&world).await.body.contains(KEY));
    let file = world.folder.path().join("policy.yaml");
    let document = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        document.replace("- name: good\n  inject", "- name: good\n  file: good-2\n  inject"),
    )
    .unwrap();
    // The new document arrived before the new secret: the old one is still in the folder and still remembered.
    until(&world, |answer| {
        assert!(answer.status == StatusCode::FORBIDDEN || answer.body.contains(KEY), "{}", answer.body);
        answer.body.contains("CredentialUnavailable")
    })
    .await;
    let folder = world.folder.path().join("secrets");
    std::fs::write(folder.join("good"), "sk-old-and-changed").unwrap();
    assert_eq!(once(&world).await.status, StatusCode::FORBIDDEN);
    std::fs::write(folder.join("good-2"), "sk-second").unwrap();
    until(&world, |answer| answer.status == StatusCode::OK && answer.body.contains("sk-second")).await;
}

#[tokio::test]
async fn p_c5_a_new_policy_uses_no_connection_of_the_old_one() {
    let world = scripted("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(once(&world).await.status, StatusCode::OK);
    assert_eq!((world.upstream_connections(), world.upstream_closed()), (1, 0));
    let file = world.folder.path().join("policy.yaml");
    let document = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, document.replace("host: api.good.test", "host: other.good.test")).unwrap();
    for _ in 0..500 {
        if world.upstream_closed() == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(world.upstream_closed(), 1, "the idle connection ends with the rule");
    assert_eq!(once(&world).await.status, StatusCode::FORBIDDEN);
    std::fs::write(&file, document).unwrap();
    until(&world, |answer| answer.status == StatusCode::OK).await;
    assert_eq!(world.upstream_connections(), 2);
}

/// As an agent sends them: masked (RFC 6455, 5.1), with a key of zeros.
const EMPTY_TEXT_AND_CLOSE: &[u8] = b"\x81\x80\0\0\0\0\x88\x80\0\0\0\0";

pub fn websocket(world: &World, path: &str) -> Request<Full<Bytes>> {
    let request = Request::get(world.url(path)).header("host", world.authority());
    let request = request.header("connection", "Upgrade").header("upgrade", "websocket");
    request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==").body(Full::default()).unwrap()
}

/// The agent's side of a WebSocket through the proxy.
async fn opened(world: &World) -> TokioIo<Upgraded> {
    let io = to(world, Entrance::HttpProxy).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(websocket(world, "/v1/socket")).await.unwrap();
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

#[tokio::test]
async fn p_h1_a_handshake_that_is_not_answered_is_no_websocket() {
    for fields in [
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "connection: upgrade\r\nupgrade: websocket",
        "connection: upgrade\r\nupgrade: other\r\nsec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    ] {
        let world = scripted(format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\nraw")).await;
        let answer = over_http1(to(&world, Entrance::HttpProxy).await, websocket(&world, "/v1/socket")).await;
        assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{fields}");
    }
    let world = standalone(&["http/1.1"]).await;
    let io = to(&world, Entrance::HttpProxy).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(websocket(&world, "/v1/socket")).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
}

#[tokio::test]
async fn p_i5_a_websocket_that_the_proxy_cuts_is_told_as_interrupted_and_one_that_ends_is_not() {
    for is_cut in [true, false] {
        let mut world = standalone(&["http/1.1"]).await;
        let mut socket = opened(&world).await;
        if !is_cut {
            // An empty text, and an empty close.
            socket.write_all(EMPTY_TEXT_AND_CLOSE).await.unwrap();
            let mut echo = Vec::new();
            socket.read_to_end(&mut echo).await.unwrap();
            assert_eq!(echo, b"\x81\0\x88\0");
            drop(socket);
            let line = world.line(&[("event", "end")]).await;
            assert_eq!((line["reason"].is_null(), &line["bytesUp"]), (true, &12.into()));
            continue;
        }
        world.end().await;
        let line = world.line(&[("event", "end")]).await;
        assert_eq!((&line["decision"], &line["reason"]), (&"allow".into(), &"Interrupted".into()));
    }
}

#[tokio::test]
async fn p_h1_a_socket_ends_with_the_rule_that_allowed_it_and_with_no_other() {
    for (edited, reason) in [
        ("methods: [GET, POST], paths: ['/v1/**'], credential: good}", Some("WebsocketNotAllowed")),
        ("methods: [GET, POST], paths: ['/v1/**'], websocket: Allow}", Some("CredentialScope")),
        (
            "paths: ['/v1/**'], credential: good, clientCertificate: mtls, websocket: Allow}",
            Some("CredentialScope"),
        ),
        ("methods: [GET], paths: ['/v1/**'], credential: good, websocket: Allow}", None),
    ] {
        let world = standalone(&["http/1.1"]).await;
        let mut socket = opened(&world).await;
        let rule = "methods: [GET, POST], paths: ['/v1/**'], credential: good, websocket: Allow}";
        let certificates = format!(
            "clientCertificates: [{{name: mtls, certificateFile: crt, keyFile: key, scopes: [{{host: {HOST}, ports: [{}]}}]}}]\ncredentials:\n",
            world.upstream.port()
        );
        let document =
            |document: &str| document.replace(rule, edited).replace("credentials:\n", &certificates);
        world.edit(document).await;
        if reason.is_some() {
            let mut rest = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut rest)).await;
            assert!(ended.is_ok(), "{edited}: it is still open");
            let line = world.line(&[("event", "end")]).await;
            assert_eq!(line["reason"].as_str(), reason, "{edited}");
            continue;
        }
        // Longer than it takes to look at a document.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        socket.write_all(EMPTY_TEXT_AND_CLOSE).await.unwrap();
        let mut echo = Vec::new();
        socket.read_to_end(&mut echo).await.unwrap();
        assert_eq!(echo, b"\x81\0\x88\0", "{edited}");
    }
}

#[tokio::test]
async fn p_h1_a_socket_that_ends_with_its_rule_is_told_so_and_is_not_reset_whatever_its_agent_still_sends() {
    const PIECE: usize = 16 * 1024;
    /// 1008, a violation of policy (RFC 6455, 7.4.1).
    const CLOSE: &[u8] = b"\x88\x02\x03\xf0";
    for floods in [false, true] {
        let world = standalone(&["http/1.1"]).await;
        let io = to(&world, Entrance::HttpProxy).await;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        let response = sender.send_request(websocket(&world, "/v1/sink")).await.unwrap();
        let socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let (mut read, mut write) = tokio::io::split(socket);
        // So much that some of it is unread whenever it is cut.
        let frame = [&b"\x82\xfe\x40\x00\0\0\0\0"[..], &[b'x'; PIECE]].concat();
        let says = tokio::spawn(async move {
            while floods && write.write_all(&frame).await.is_ok() {
                tokio::task::yield_now().await;
            }
            write
        });
        let hears = tokio::spawn(async move {
            let mut told = Vec::new();
            read.read_to_end(&mut told).await.map(|_| told)
        });
        world.edit(|document| document.replace(", websocket: Allow", "")).await;
        let told = tokio::time::timeout(Duration::from_secs(30), hears).await.unwrap().unwrap();
        let told = told.unwrap_or_else(|error| panic!("{floods}: {error}"));
        assert_eq!(told, CLOSE, "{floods}");
        says.abort();
        let line = world.line(&[("event", "end")]).await;
        assert_eq!(line["reason"].as_str(), Some("WebsocketNotAllowed"));
    }
}

#[tokio::test]
async fn p_h1_an_agent_that_speaks_something_else_in_a_socket_reaches_nobody_and_is_written_down() {
    for says in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"\x81\0\x88\0"] {
        let world = standalone(&["http/1.1"]).await;
        let mut socket = opened(&world).await;
        socket.write_all(says).await.unwrap();
        let mut told = Vec::new();
        // Whether it ends or is reset does not matter.
        let _ = socket.read_to_end(&mut told).await;
        assert_eq!(told, b"");
        let line = world.line(&[("event", "end")]).await;
        assert_eq!((&line["reason"], &line["bytesUp"]), (&"MalformedRequest".into(), &0.into()), "{line}");
    }
}

#[tokio::test]
async fn p_h2_a_socket_is_open_only_where_path_and_rule_allow_one() {
    let world = standalone(&["http/1.1"]).await;
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, websocket(&world, "/tunnel")).await;
    assert!(answer.status == StatusCode::FORBIDDEN && answer.body.contains("PathNotAllowed"));
    let policy = vec![(", websocket: Allow", "")];
    let world = build(Setup { protocols: vec!["http/1.1"], policy, ..Setup::default() }).await;
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, websocket(&world, "/v1/socket")).await;
    assert!(answer.status == StatusCode::FORBIDDEN && answer.body.contains("WebsocketNotAllowed"));
    assert_eq!(world.upstream_connections(), 0);
    assert_eq!(once(&world).await.status, StatusCode::OK);
}

#[tokio::test]
async fn p_h4_trailers_of_a_call_pass_and_the_key_in_them_does_not() {
    let world = standalone(&["h2"]).await;
    let io = world.connect(&world.authority()).await.unwrap();
    let io = TokioIo::new(world.tls(io, crate::world::HOST, "h2").await.unwrap());
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(get(&world.url("/v1/grpc"), &world.authority())).await.unwrap();
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-echo"]),
        (&"0".parse().unwrap(), &"[redacted]".parse().unwrap())
    );
    assert_eq!(body.to_bytes(), "message");
    let response =
        sender.send_request(get(&world.url("/pkg.Service/Method"), &world.authority())).await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN, "each call is judged by its path");
}

//! What was denied, in numbers, for whoever may reach the admin port.

use agentsandbox_policy::Tally;
use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::serve::Port;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::entrances::to;
use crate::streams::websocket;
use crate::world::{HOST, Setup, World, build, get, over_http1, standalone};

async fn told(world: &World) -> Tally {
    let admin = TcpStream::connect(world.port(Port::Admin)).await.unwrap();
    serde_json::from_str(&over_http1(admin, get("/denials", "proxy")).await.body).unwrap()
}

/// What is told that no clock moves.
async fn tally(world: &World) -> Tally {
    Tally { idle: None, ..told(world).await }
}

#[tokio::test]
async fn whether_anything_passed_is_told_and_what_is_refused_does_not_count() {
    let world = standalone(&["http/1.1"]).await;
    let ask = async |url: &str, host: &str| {
        let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
        over_http1(io, get(url, host)).await.status
    };
    assert!(!told(&world).await.idle.unwrap().has_passed);
    assert_eq!(ask("http://evil.test/x", "evil.test").await, StatusCode::FORBIDDEN);
    assert_eq!(ask(&world.url("/admin"), &world.authority()).await, StatusCode::FORBIDDEN);
    assert!(!told(&world).await.idle.unwrap().has_passed);
    assert_eq!(ask(&world.url("/v1/x"), &world.authority()).await, StatusCode::OK);
    let idle = told(&world).await.idle.unwrap();
    assert!(idle.has_passed && idle.seconds < 60, "{idle:?}");
}

#[tokio::test]
async fn a_tunnel_in_which_everything_is_refused_passes_nothing() {
    for protocol in ["http/1.1", "h2"] {
        let world = standalone(&[protocol]).await;
        let ask = async |path: &str| {
            let target = if protocol == "h2" { world.url(path) } else { path.to_owned() };
            world.through_connect(protocol, get(&target, &world.authority())).await.status
        };
        assert_eq!(ask("/admin").await, StatusCode::FORBIDDEN, "{protocol}");
        assert!(!told(&world).await.idle.unwrap().has_passed, "{protocol}");
        assert_eq!(ask("/v1/x").await, StatusCode::OK, "{protocol}");
        assert!(told(&world).await.idle.unwrap().has_passed, "{protocol}: the control");
    }
}

#[tokio::test]
async fn denials_are_counted_by_host_port_and_reason_and_what_is_allowed_is_not() {
    let world = standalone(&["h2"]).await;
    let nothing = Tally { sandbox: "u1".to_owned(), unusable: Some(Vec::new()), ..Tally::default() };
    assert_eq!(tally(&world).await, nothing, "it says whose proxy it is");
    let ask = async |url: &str, host: &str| {
        let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
        over_http1(io, get(url, host)).await.status
    };
    assert_eq!(ask(&world.url("/v1/x"), &world.authority()).await, StatusCode::OK);
    assert_eq!(tally(&world).await, nothing);
    for _ in 0..3 {
        assert_eq!(ask("http://evil.test/x", "evil.test").await, StatusCode::FORBIDDEN);
    }
    assert_eq!(ask(&world.url("/admin"), &world.authority()).await, StatusCode::FORBIDDEN);
    assert_eq!(
        ask("http://fence.agentsandbox.invalid/", "fence.agentsandbox.invalid").await,
        StatusCode::FORBIDDEN
    );
    let told = tally(&world).await;
    let kinds: Vec<_> =
        told.latest.iter().map(|kind| (kind.host.as_deref(), kind.reason.as_str(), kind.count)).collect();
    assert_eq!(told.denied, 4);
    assert_eq!(kinds[1], (Some("evil.test"), "HostNotAllowed", 3), "{kinds:?}");
    assert_eq!((kinds[0].1, kinds[0].2), ("PathNotAllowed", 1), "{kinds:?}");
}

#[tokio::test]
async fn p_i5_a_request_that_cannot_be_read_is_told_with_the_place_where_it_was() {
    let world = standalone(&["http/1.1"]).await;
    let port = world.upstream.port();
    let answer = world.through_connect("http/1.1", get("/v1/..;/admin?q=1", &world.authority())).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.body);
    let told: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let line = world.line(&[("event", "deny"), ("reason", "MalformedRequest")]).await;
    for told in [&told, &line] {
        let place = (&told["host"], &told["method"], &told["path"]);
        assert_eq!(place, (&HOST.into(), &"GET".into(), &"/v1/..;/admin".into()), "{told}");
    }
    assert_eq!(line["port"], port);
    // What hyper refuses has no method and no path.
    let io = world.tls(world.connect(&world.authority()).await.unwrap(), HOST, "http/1.1").await.unwrap();
    let (mut read, mut write) = tokio::io::split(io);
    write.write_all(b"GET /v1/x HTTP/1.1\r\nno colon\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    let is_bare = |line: &&serde_json::Value| line["reason"] == "MalformedRequest" && line["path"].is_null();
    let written = async {
        loop {
            match world.lines().iter().find(is_bare) {
                Some(line) => return line.clone(),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let line = tokio::time::timeout(std::time::Duration::from_secs(60), written).await.unwrap();
    assert_eq!((&line["host"], &line["port"]), (&HOST.into(), &port.into()));
}

/// A WebSocket's handshake as this client sends it.
fn handshake(world: &World, path: &str, agent: &str) -> Request<Full<bytes::Bytes>> {
    let mut request = websocket(world, path);
    request.headers_mut().insert("user-agent", agent.parse().unwrap());
    request
}

#[tokio::test]
async fn p_i14_codex_goes_on_without_a_websocket_whatever_its_handshake_lacks() {
    const CODEX: &str = "codex_exec/0.169.0 (Debian 12.0.0; x86_64)";
    const RULE: &str = "methods: [GET, POST], paths: ['/v1/**'], credential: good, websocket: Allow}";
    const SCOPE: &str = "scopes: [{host: api.good.test,";
    for (from, to_write, reason) in [
        (RULE, "credential: good}", "WebsocketNotAllowed"),
        (RULE, "methods: [POST], credential: good}", "MethodNotAllowed"),
        (RULE, "methods: [POST], paths: ['/v1/responses'], credential: good}", "MethodNotAllowed"),
        (SCOPE, "scopes: [{methods: [POST], paths: [/v1/responses], host: api.good.test,", "CredentialScope"),
    ] {
        let policy = vec![(from, to_write)];
        let world = build(Setup { protocols: vec!["http/1.1"], policy, ..Setup::default() }).await;
        let io = TokioIo::new(to(&world, Entrance::HttpProxy).await);
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let refused = sender.send_request(handshake(&world, "/v1/responses", CODEX)).await.unwrap();
        assert_eq!(refused.status(), StatusCode::UPGRADE_REQUIRED, "{reason}");
        for (field, value) in
            [("upgrade", "HTTP/1.1"), ("connection", "upgrade"), ("x-should-retry", "false")]
        {
            assert_eq!(refused.headers()[field], value, "{reason}");
        }
        let told = refused.into_body().collect().await.unwrap().to_bytes();
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!(told["reason"], reason, "{told}");
        let advises = told["howToAllow"].as_str().unwrap().contains("websocket: Allow");
        assert_eq!(advises, reason != "CredentialScope", "{told}");
        assert_eq!(world.line(&[("event", "deny"), ("reason", reason)]).await["status"], 426);
        // Nobody else is told so, and what codex then asks for is answered, on the same connection.
        sender.ready().await.unwrap();
        let other = sender.send_request(handshake(&world, "/v1/responses", "curl/7.88.1")).await.unwrap();
        assert_eq!(other.status(), StatusCode::FORBIDDEN, "{reason}");
        assert!(!other.headers().contains_key("upgrade"));
        other.into_body().collect().await.unwrap();
        sender.ready().await.unwrap();
        let post = Request::post(world.url("/v1/responses")).header("host", world.authority());
        let post = post.header("user-agent", CODEX).body(Full::from("{}")).unwrap();
        assert_eq!(sender.send_request(post).await.unwrap().status(), StatusCode::OK, "{reason}");
        assert_eq!(world.upstream_connections(), 1, "{reason}");
    }
    let world = standalone(&["http/1.1"]).await;
    let allowed = handshake(&world, "/v1/socket", CODEX);
    let io = TokioIo::new(to(&world, Entrance::HttpProxy).await);
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    assert_eq!(sender.send_request(allowed).await.unwrap().status(), StatusCode::SWITCHING_PROTOCOLS);
}

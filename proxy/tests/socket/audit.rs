//! Every decision has a line: what is allowed before it happens, what is refused whoever refuses it.

use std::time::Instant;

use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::limits::{AUDIT_DENIALS_PER_KIND_MAX, AUDIT_FOLD_WINDOW};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::entrances::{denied, query, socks, to};
use crate::peers::is_closed;
use crate::world::{HOST, Setup, TOKEN, World, build, get, in_pod, over_http1, standalone};

/// NXDOMAIN and SERVFAIL (RFC 1035, 4.1.1).
const NO_SUCH_NAME: u8 = 3;
const SERVER_FAILURE: u8 = 2;

#[tokio::test]
async fn a_request_is_written_down_before_a_connection_is_opened_for_it() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let io = to(&world, Entrance::HttpProxy).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let response = sender.send_request(get(&world.url("/v1/events"), &world.authority())).await.unwrap();
    // The exchange is under way: a proxy that died now would have left its record.
    let begun = world.lines();
    assert_eq!(
        (begun.len(), &begun[0]["event"], &begun[0]["decision"]),
        (1, &"begin".into(), &"allow".into())
    );
    assert_eq!((&begun[0]["path"], &begun[0]["credential"]), (&"/v1/events".into(), &"good".into()));
    assert_eq!(world.connections_at_lines(), [0], "no connection when it was written");
    assert_eq!(world.upstream_connections(), 1);
    world.finish.notify_one();
    response.into_body().collect().await.unwrap();
    let ended = world.line(&[("event", "end")]).await;
    assert_eq!((&ended["requestId"], &ended["status"]), (&begun[0]["requestId"], &200.into()));
    assert!(ended["bytesDown"].as_u64() > Some(0) && ended["seq"] == 1);
}

#[tokio::test]
async fn tunnels_are_written_down_before_they_are_opened() {
    let world = standalone(&["h2"]).await;
    let _tunnel = world.connect(&world.authority()).await.unwrap();
    let line = &world.lines()[0];
    assert_eq!(
        (&line["event"], &line["method"], &line["host"]),
        (&"admit".into(), &"CONNECT".into(), &HOST.into())
    );
    assert_eq!(line["entrance"], "http-proxy");
    let _tunnel = socks(&world, HOST, world.upstream.port()).await.unwrap();
    let line = &world.lines()[1];
    assert_eq!(
        (&line["event"], &line["method"], &line["host"]),
        (&"admit".into(), &"CONNECT".into(), &HOST.into())
    );
    assert_eq!(line["entrance"], "socks5");
    let tls = world.tls(to(&world, Entrance::TransparentTls).await, "tls.good.test", "h2").await.unwrap();
    let line = &world.lines()[2];
    assert_eq!((&line["event"], &line["host"]), (&"admit".into(), &"tls.good.test".into()));
    drop(tls);
}

#[tokio::test]
async fn p_i5_with_a_full_disk_no_entrance_allows_anything_and_nothing_is_sent() {
    let world = standalone(&["h2", "http/1.1"]).await;
    let allowed = || get(&world.url("/v1/x"), &world.authority());
    world.disk_is_full(true);
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, allowed()).await;
    denied(&answer, StatusCode::SERVICE_UNAVAILABLE, "AuditUnavailable");
    let answer = over_http1(to(&world, Entrance::BaseUrl).await, get("/good/v1/x", "proxy:8080")).await;
    denied(&answer, StatusCode::SERVICE_UNAVAILABLE, "AuditUnavailable");
    let answer = over_http1(to(&world, Entrance::TransparentHttp).await, get("/", "meta.good.test")).await;
    denied(&answer, StatusCode::SERVICE_UNAVAILABLE, "AuditUnavailable");
    assert!(world.connect(&world.authority()).await.unwrap_err().starts_with("HTTP/1.1 503"));
    assert_eq!(socks(&world, HOST, world.upstream.port()).await.unwrap_err(), 1);
    let tls = world.tls(to(&world, Entrance::TransparentTls).await, "tls.good.test", "h2").await;
    assert!(tls.unwrap_err().to_string().contains("AccessDenied"));
    assert_eq!(query(&world, HOST, 1).await, (SERVER_FAILURE, None));
    assert_eq!((world.upstream_connections(), world.lines().len()), (0, 0));

    world.disk_is_full(false);
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, allowed()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(query(&world, HOST, 1).await.0, 0, "a name whose line failed is written at its next query");
    world.line(&[("entrance", "dns"), ("event", "admit")]).await;
}

async fn raw(world: &World, entrance: Entrance, bytes: &[u8]) -> Vec<u8> {
    let mut io = TcpStream::connect(world.at(entrance)).await.unwrap();
    io.write_all(bytes).await.unwrap();
    io.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn a_head_that_cannot_be_read_is_refused_with_a_line() {
    for (head, status, reason) in [
        (&b"GET / HTTP/1.1\r\nHost : x\r\n\r\n"[..], "400", "MalformedRequest"),
        (b"nonsense\r\n\r\n", "400", "MalformedRequest"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "", "UnsupportedProtocol"),
    ] {
        for entrance in [Entrance::HttpProxy, Entrance::BaseUrl, Entrance::TransparentHttp] {
            let world = standalone(&["h2"]).await;
            let answer = String::from_utf8(raw(&world, entrance, head).await).unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) || status.is_empty(), "{answer}");
            let line = world.line(&[("event", "deny"), ("reason", reason)]).await;
            assert_eq!(line["entrance"], entrance.as_str());
        }
    }
    let world = standalone(&["h2"]).await;
    let fields = "x: y\r\n".repeat(101);
    let head = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n");
    assert!(raw(&world, Entrance::HttpProxy, head.as_bytes()).await.starts_with(b"HTTP/1.1 431"));
    world.line(&[("event", "deny"), ("reason", "LimitExceeded")]).await;
}

#[tokio::test]
async fn a_socks_greeting_that_is_none_is_refused_with_a_line() {
    for (greeting, answer) in [
        (&b"\x04\x01\x00\x50\x7f\0\0\x01\0"[..], &b""[..]),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x05\x01\x00\x04\x01\x00\x01\x01\x02\x03\x04\x01\xbb", b"\x05\x00"),
        (b"\x05\x01\x00\x05\x02\x00\x01\x01\x02\x03\x04\x01\xbb", b"\x05\x00\x05\x07\0\x01\0\0\0\0\0\0"),
        (b"\x05\x01\x00\x05\x01\x00\x09", b"\x05\x00\x05\x08\0\x01\0\0\0\0\0\0"),
    ] {
        let world = standalone(&["h2"]).await;
        assert_eq!(raw(&world, Entrance::Socks5, greeting).await, answer, "{greeting:?}");
        let line = world.line(&[("event", "deny"), ("reason", "MalformedRequest")]).await;
        assert_eq!(line["entrance"], "socks5");
    }
}

#[tokio::test]
async fn names_that_are_asked_for_again_and_again_are_counted_and_written_at_the_end() {
    let (mut begin, mut world) = (Instant::now(), standalone(&["h2"]).await);
    for tries in 1.. {
        for _ in 0..5 {
            assert_eq!(query(&world, HOST, 1).await.0, 0);
            assert_eq!(query(&world, "c2VjcmV0.evil.test", 1).await.0, NO_SUCH_NAME);
        }
        // A name that is asked for in two windows has two lines, which shows nothing.
        if begin.elapsed() < AUDIT_FOLD_WINDOW {
            break;
        }
        assert!(tries < 10, "the machine is too slow to ask ten questions in {AUDIT_FOLD_WINDOW:?}");
        (begin, world) = (Instant::now(), standalone(&["h2"]).await);
    }
    let lines = world.lines();
    assert_eq!(lines.len(), 2, "one for each name: {lines:?}");
    assert_eq!((&lines[0]["host"], &lines[0]["event"]), (&HOST.into(), &"admit".into()));
    assert_eq!((&lines[1]["reason"], &lines[1]["event"]), (&"HostNotAllowed".into(), &"deny".into()));
    world.end().await;
    let folded: Vec<_> =
        world.lines()[2..].iter().map(|line| (line["host"].clone(), line["folded"].clone())).collect();
    assert_eq!(folded, [(HOST.into(), 4.into()), ("c2vjcmv0.evil.test".into(), 4.into())]);
}

#[tokio::test]
async fn p_i5_what_is_denied_after_the_drain_deadline_has_a_line() {
    const GREETING: &[u8] = b"\x05\x01\x00\x05\x01\x00\x03\x09evil.test\x01\xbb";
    const CLIENTS: usize = 24;
    let mut world = standalone(&["h2"]).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut io = to(&world, Entrance::Socks5).await;
        io.write_all(&GREETING[..1]).await.unwrap();
        clients.push(io);
    }
    world.end().await;
    for io in &mut clients {
        io.write_all(&GREETING[1..]).await.unwrap();
        let mut answer = Vec::new();
        let _ = io.read_to_end(&mut answer).await;
        assert_eq!(answer.get(3), Some(&2), "not allowed: {answer:?}");
    }
    let denied = |line: &serde_json::Value| line["reason"] == "HostNotAllowed";
    assert_eq!(decisions(&world.lines()), CLIENTS as u64);
    assert!(world.lines().iter().all(denied), "{:#?}", world.lines());
}

#[tokio::test]
async fn a_message_that_is_no_query_is_counted_as_well() {
    let world = standalone(&["h2"]).await;
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"no dns", world.at(Entrance::Dns)).await.unwrap();
    let line = world.line(&[("event", "deny"), ("reason", "MalformedRequest")]).await;
    assert_eq!(line["entrance"], "dns");
}

/// Whether a connection is closed at once, long before it would be for its silence.
async fn is_turned_away(world: &World) -> bool {
    is_closed(to(world, Entrance::HttpProxy).await).await
}

/// Connects again until the proxy has room, for as long as is bearable.
async fn has_room(world: &World) -> bool {
    for _ in 0..1000 {
        if world.connect(&world.authority()).await.is_ok() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    false
}

#[tokio::test]
async fn p_d11_a_tunnel_takes_a_place_for_as_long_as_it_lives() {
    let setup = Setup { protocols: vec!["h2", "http/1.1"], connections_max: Some(1), ..Setup::default() };
    let world = build(setup.clone()).await;
    let tunnel = world.connect(&world.authority()).await.unwrap();
    assert!(is_turned_away(&world).await, "the tunnel has the only place");
    world.line(&[("event", "deny"), ("reason", "LimitExceeded")]).await;
    drop(tunnel);
    assert!(has_room(&world).await, "and gives it back");

    let world = build(setup).await;
    let io = to(&world, Entrance::HttpProxy).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let request = Request::get(world.url("/v1/socket")).header("host", world.authority());
    let request = request.header("connection", "Upgrade").header("upgrade", "websocket");
    let request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let response = sender.send_request(request.body(Full::<bytes::Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let socket = hyper::upgrade::on(response).await.unwrap();
    assert!(is_turned_away(&world).await, "the WebSocket has the only place");
    drop(socket);
    assert!(has_room(&world).await, "and gives it back");
}

/// As many lines as denials of one kind may have that began then: in each window the first few, and one for the others.
fn lines_max(begin: Instant) -> usize {
    let windows = begin.elapsed().as_secs() / AUDIT_FOLD_WINDOW.as_secs() + 1;
    (AUDIT_DENIALS_PER_KIND_MAX + 1) * usize::try_from(windows).unwrap()
}

/// The decisions that these lines stand for.
fn decisions(lines: &[serde_json::Value]) -> u64 {
    let told = lines.iter().filter(|line| line["event"] != "end");
    told.map(|line| line["folded"].as_u64().unwrap_or(1)).sum()
}

#[tokio::test]
async fn p_i4_a_flood_of_denials_is_a_few_lines_and_their_number() {
    const FLOOD: u64 = 300;
    let (begin, mut world) = (Instant::now(), standalone(&["http/1.1"]).await);
    let io = to(&world, Entrance::HttpProxy).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    for n in 0..FLOOD {
        let request = get(&world.url(&format!("/denied/{n}")), &world.authority());
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        response.into_body().collect().await.unwrap();
    }
    let allowed = sender.send_request(get(&world.url("/v1/x"), &world.authority())).await.unwrap();
    assert_eq!(allowed.status(), StatusCode::OK, "it is told among them");
    allowed.into_body().collect().await.unwrap();
    drop(sender);
    world.end().await;
    let lines = world.lines();
    assert!(lines.len() <= 2 + lines_max(begin), "{} lines", lines.len());
    assert_eq!(decisions(&lines), FLOOD + 1);
    let folded = lines.iter().find(|line| line["folded"].is_u64()).unwrap();
    assert_eq!(
        (&folded["host"], &folded["rule"], &folded["reason"]),
        (&HOST.into(), &"good".into(), &"PathNotAllowed".into())
    );
    assert_eq!(folded["entrance"], "http-proxy");
}

#[tokio::test]
async fn p_i4_what_is_allowed_too_fast_waits_and_is_told_in_full() {
    const RATE: u32 = 25;
    let decisions_per_second = std::num::NonZeroU32::new(RATE);
    let mut world = build(Setup { protocols: vec!["h2"], decisions_per_second, ..Setup::default() }).await;
    let io = to(&world, Entrance::HttpProxy).await;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let start = Instant::now();
    // A burst of four seconds' worth, and half a second's more.
    let requests = RATE * 4 + RATE / 2;
    for _ in 0..requests {
        let response = sender.send_request(get(&world.url("/v1/x"), &world.authority())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
    }
    assert!(start.elapsed() >= std::time::Duration::from_millis(400), "{:?}", start.elapsed());
    drop(sender);
    world.end().await;
    assert_eq!(world.lines().len() as u64, 2 * u64::from(requests));
}

#[tokio::test]
async fn p_i4_tunnels_and_handshakes_that_are_allowed_too_fast_wait_too() {
    const RATE: u32 = 5;
    for entrance in [Entrance::HttpProxy, Entrance::Socks5, Entrance::TransparentTls] {
        let decisions_per_second = std::num::NonZeroU32::new(RATE);
        let world = build(Setup { protocols: vec!["h2"], decisions_per_second, ..Setup::default() }).await;
        let start = std::time::Instant::now();
        // A burst of four seconds' worth, and one second's more.
        for _ in 0..RATE * 5 {
            match entrance {
                Entrance::HttpProxy => drop(world.connect(&world.authority()).await.unwrap()),
                Entrance::Socks5 => drop(socks(&world, HOST, world.upstream.port()).await.unwrap()),
                _ => drop(world.tls(to(&world, entrance).await, "tls.good.test", "h2").await.unwrap()),
            }
        }
        assert!(start.elapsed() >= std::time::Duration::from_millis(750), "{entrance:?}");
        assert_eq!(decisions(&world.lines()), u64::from(RATE * 5), "{entrance:?}");
    }
}

async fn enrol(world: &World, token: &str) -> StatusCode {
    let request =
        Request::post("/enrol").header("host", "proxy").header("authorization", format!("Bearer {token}"));
    over_http1(to(world, Entrance::Enrolment).await, request.body(Full::default()).unwrap()).await.status
}

#[tokio::test]
async fn p_i5_who_is_enrolled_is_told_before_and_wrong_tokens_are_folded() {
    const WRONG: u64 = 50;
    let (begin, mut world) = (Instant::now(), in_pod().await);
    for _ in 0..WRONG {
        assert_eq!(enrol(&world, "wrong").await, StatusCode::UNAUTHORIZED);
    }
    world.disk_is_full(true);
    assert_eq!(enrol(&world, TOKEN).await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!world.folder.path().join("state/enrolled").exists());
    world.disk_is_full(false);
    assert_eq!(enrol(&world, TOKEN).await, StatusCode::NO_CONTENT);
    let line = world.line(&[("event", "admit")]).await;
    assert_eq!((&line["entrance"], &line["host"]), (&"enrolment".into(), &"127.0.0.1".into()));
    world.end().await;
    let lines = world.lines();
    assert!(lines.len() <= 2 + lines_max(begin), "{} lines", lines.len());
    assert_eq!(decisions(&lines), WRONG + 2, "each wrong token, what could not be told, and the agent");
}

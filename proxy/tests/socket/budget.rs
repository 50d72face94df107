//! What may be sent under a rule with limits, through real connections: what is over it is denied or cut, whatever it is sent as.

use std::convert::Infallible;
use std::time::Instant;

use agentsandbox_policy::UploadLimits;
use agentsandbox_proxy::budget::{Budgets, Exceeded};
use agentsandbox_proxy::entrance::Entrance;
use agentsandbox_proxy::serve::Port;
use bytes::Bytes;
use futures::future::join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::flow::tunnel;
use crate::world::{Answer, HOST, Setup, World, build, get, over_http1, raw};

/// More than any head of these tests, so that what a head counts hides no body.
const HEAD: usize = 1_000;
const WITH_IN_ALL: (&str, &str) = ("websocket: Allow}", "websocket: Allow, limits: {uploadBytes: 10000}}");
const WITH_A_MINUTE: (&str, &str) =
    ("websocket: Allow}", "websocket: Allow, limits: {uploadBytesPerMinute: 10000}}");

async fn with(limits: (&'static str, &'static str)) -> World {
    build(Setup { protocols: vec!["http/1.1"], policy: vec![limits], ..Setup::default() }).await
}

/// Sends a body of so many bytes, its length known.
async fn post(world: &World, bytes: usize) -> Answer {
    let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    let request = Request::post(world.url("/v1/x")).header("host", world.authority());
    over_http1(io, request.body(Full::from(vec![b'x'; bytes])).unwrap()).await
}

fn is_final(answer: &Answer) {
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", answer.body);
    assert!(answer.body.contains("\"reason\":\"UploadLimitExceeded\""), "{}", answer.body);
    assert_eq!(answer.headers["x-should-retry"], "false");
}

#[tokio::test]
async fn p_g3_beyond_its_limit_a_rule_sends_nothing_and_says_so_for_good() {
    for limits in [WITH_IN_ALL, WITH_A_MINUTE] {
        let world = with(limits).await;
        assert_eq!(post(&world, 8_000).await.status, StatusCode::OK);
        let (connections, over) = (world.upstream_connections(), post(&world, 2_000).await);
        is_final(&over);
        assert!(over.body.contains("Rule good lets 10000 bytes"), "{}", over.body);
        assert_eq!(world.upstream_connections(), connections, "nothing was sent");
        assert_eq!(world.line(&[("event", "deny")]).await["rule"], "good");
        assert_eq!(post(&world, 10).await.status, StatusCode::OK, "what there is room for goes on");
        world.edit(|text| text.replace("10000", "20000")).await;
        assert_eq!(post(&world, 2_000).await.status, StatusCode::OK, "a higher limit allows it");
        is_final(&post(&world, 10_000).await);
    }
}

#[tokio::test]
async fn p_g3_paths_queries_and_fields_count_as_bodies_do() {
    let world = with(WITH_IN_ALL).await;
    let long = "x".repeat(4_000);
    let ask = async |target: &str, field: &str| {
        let io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
        let request = Request::get(world.url(target)).header("host", world.authority());
        over_http1(io, request.header("x-data", field).body(Full::default()).unwrap()).await
    };
    assert_eq!(ask(&format!("/v1/x?{long}"), "x").await.status, StatusCode::OK);
    assert_eq!(ask("/v1/x", &long).await.status, StatusCode::OK);
    is_final(&ask(&format!("/v1/{long}"), "x").await);
    assert_eq!(ask("/v1/x", "x").await.status, StatusCode::OK);
    let admin = TcpStream::connect(world.port(Port::Admin)).await.unwrap();
    let metrics = over_http1(admin, get("/metrics", "proxy")).await.body;
    let sent = metrics.lines().find_map(|line| {
        line.strip_prefix("agentsandbox_proxy_rule_sent_bytes_total{rule=\"good\"} ")?.parse::<usize>().ok()
    });
    assert!((8_000..8_000 + 3 * HEAD).contains(&sent.unwrap()), "{metrics}");
}

#[tokio::test]
async fn p_g3_a_body_without_a_known_length_is_cut_where_the_room_ends() {
    let world = with(WITH_IN_ALL).await;
    let frames = std::iter::repeat_n([b'x'; 1_000], 64)
        .map(|frame| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(&frame))));
    let body = StreamBody::new(futures::stream::iter(frames));
    let request = Request::post("/v1/x").header("host", world.authority()).body(body).unwrap();
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(tunnel(&world, "http/1.1").await)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let told = world.line(&[("event", "end")]).await;
    assert_eq!((&told["decision"], &told["reason"]), (&"deny".into(), &"UploadLimitExceeded".into()));
    let sent = told["bytesUp"].as_u64().unwrap();
    assert!((1..=10_000).contains(&sent), "{sent}");
    // What was sent counts, though nobody got an answer to it.
    is_final(&post(&world, 10_000 - usize::try_from(sent).unwrap()).await);
}

#[tokio::test]
async fn p_i15_of_requests_at_a_time_no_more_are_sent_than_there_is_room_for() {
    let world = with(WITH_IN_ALL).await;
    let answers = join_all((0..8).map(|_| post(&world, 6_000))).await;
    let sent = answers.iter().filter(|answer| answer.status == StatusCode::OK).count();
    assert_eq!(sent, 1);
    answers.iter().filter(|answer| answer.status != StatusCode::OK).for_each(is_final);
}

#[tokio::test]
async fn p_i15_a_request_that_its_agent_gives_up_counts_with_what_was_sent_of_it() {
    let world = with(WITH_IN_ALL).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: 8000\r\n\r\n{}",
        world.url("/v1/x"),
        world.authority(),
        "x".repeat(6_000)
    );
    raw(&world, Entrance::HttpProxy, head.as_bytes()).await;
    assert_eq!(world.line(&[("event", "end")]).await["bytesUp"], 6_000);
    is_final(&post(&world, 4_000).await);
    assert_eq!(post(&world, 2_000).await.status, StatusCode::OK, "what was reserved and not sent does not");
}

#[tokio::test]
async fn p_i15_a_proxy_that_starts_again_goes_on_counting() {
    let mut world = with(WITH_IN_ALL).await;
    assert_eq!(post(&world, 8_000).await.status, StatusCode::OK);
    world.end().await;
    let again = Budgets::open(&world.folder.path().join("state"), Instant::now());
    let reserve = |bytes| again.reserve(&UploadLimits::new(HOST, Some(10_000), None), bytes, Instant::now());
    assert_eq!(reserve(2_000).err(), Some(Exceeded::UsedUp));
    assert!(reserve(500).is_ok());
}

#[tokio::test]
async fn p_h2_what_goes_up_in_a_websocket_is_cut_where_the_room_ends() {
    let limits = ("websocket: Allow}", "websocket: Allow, limits: {uploadBytes: 1000}}");
    let world = with(limits).await;
    let mut io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    let head = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        world.url("/v1/socket"),
        world.authority()
    );
    io.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    // Whether all of it is taken before the end is seen does not matter.
    let frame = [&b"\x82\xfe\x07\xd0\0\0\0\0"[..], &[b'x'; 2_000]].concat();
    let _ = io.write_all(&frame).await;
    let told = world.line(&[("event", "end")]).await;
    assert_eq!((&told["decision"], &told["reason"]), (&"deny".into(), &"UploadLimitExceeded".into()));
    assert!(told["bytesUp"].as_u64().unwrap() < 1_000, "{told}");
}

#[tokio::test]
async fn p_g3_tls_that_passes_unopened_is_cut_where_the_room_ends() {
    let rule = "rules:\n- {name: pass, host: pass.good.test, ports: [PORT], scheme: https, tls: Passthrough, limits: {uploadBytes: LIMIT}}\n";
    for (limit, passes) in [("100000", true), ("100", false)] {
        let setup =
            Setup { protocols: vec!["http/1.1"], certificate: Some("pass.good.test"), ..Setup::default() };
        let world = build(setup).await;
        let port = world.upstream.port();
        let rule = rule.replace("PORT", &port.to_string()).replace("LIMIT", limit);
        world.edit(|text| text.replace("rules:\n", &rule)).await;
        let io = world.connect(&format!("pass.good.test:{port}")).await.unwrap();
        // The server's certificate is not the sandbox's, so a handshake that passes fails in the client.
        assert!(world.tls(io, "pass.good.test", "http/1.1").await.is_err());
        let told = world.line(&[("rule", "pass"), ("event", "end")]).await;
        let sent = told["bytesUp"].as_u64().unwrap();
        if passes {
            assert!(sent > 100, "{told}");
        } else {
            assert_eq!((sent, &told["reason"]), (0, &"UploadLimitExceeded".into()));
            assert_eq!(world.upstream_connections(), 0, "nobody was told the name");
        }
    }
}

#[tokio::test]
async fn p_g3_only_fields_that_a_rule_lists_are_passed_on_and_the_key_is() {
    let listed = ("websocket: Allow}", "websocket: Allow, headers: [accept, x-kept]}");
    let world = build(Setup { protocols: vec!["http/1.1"], policy: vec![listed], ..Setup::default() }).await;
    let frames: Vec<Result<Frame<Bytes>, Infallible>> = vec![
        Ok(Frame::data(Bytes::from_static(b"body"))),
        Ok(Frame::trailers([("x-kept".parse().unwrap(), "trailed".parse().unwrap())].into_iter().collect())),
    ];
    let request = Request::post("/v1/x").header("host", world.authority()).header("trailer", "x-kept");
    let fields = [
        ("accept", "a/b"),
        ("x-kept", "kept"),
        ("X_Kept", "out"),
        ("user-agent", "out"),
        ("x-api-key", "out"),
    ];
    let request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(tunnel(&world, "http/1.1").await)).await.unwrap();
    tokio::spawn(connection);
    let request = request.body(StreamBody::new(futures::stream::iter(frames))).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let told: String = String::from_utf8(body.to_vec()).unwrap().chars().rev().collect();
    for wanted in ["accept: a/b", "x-kept: kept", "x-api-key: ", "body: 4 bytes", "host: "] {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
    for unwanted in ["out", "trailed", "user-agent"] {
        assert!(!told.contains(unwanted), "{unwanted}: {told}");
    }
}

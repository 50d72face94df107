//! HTTP framing, byte by byte. The upstream keeps what it was sent, so a second request cannot hide in a first.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::entrances::to;
use crate::upstream::Behaviour;
use crate::world::{HOST, KEY, Setup, World, build, get, over_http1, scripted, speak};

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

const PATIENCE: Duration = Duration::from_secs(60);

pub fn requests(world: &World) -> usize {
    world.received().matches(" HTTP/1.1\r\n").count()
}

/// The status of the answer to a POST with these lines behind its Host, and what the upstream was sent.
async fn post(world: &World, lines: &str) -> (u16, usize) {
    let before = requests(world);
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{lines}",
        world.url("/v1/x"),
        world.authority()
    );
    let answer = speak(world, Entrance::HttpProxy, head.as_bytes()).await;
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, requests(world) - before)
}

#[tokio::test]
async fn p_d1_a_body_has_one_length_or_the_request_is_none() {
    let world = scripted(OK).await;
    let smuggled = "0\r\n\r\nGET /v1/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for field in [
        "transfer-encoding: chunked, identity",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked\x0b",
        "transfer-encoding: identity",
        "transfer-encoding: identity\r\ntransfer-encoding: gzip",
        "transfer-encoding : chunked",
        "transfer-encoding: chunked\r\n gzip",
    ] {
        let (status, sent) = post(&world, &format!("{field}\r\ncontent-length: 5\r\n\r\n{smuggled}")).await;
        assert_eq!((status, sent), (400, 0), "{field:?}");
    }
    // RFC 9112, 6.3: the coding overrides the length; the upstream gets one of the two, and one request.
    for field in [
        "content-length: 99\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 3",
    ] {
        let before = world.received().len();
        assert_eq!(post(&world, &format!("{field}\r\n\r\n{smuggled}")).await, (200, 1), "{field:?}");
        let sent = &world.received()[before..];
        assert!(!sent.contains("content-length") && !sent.contains("smuggled"), "{sent}");
    }
    assert_eq!(post(&world, "transfer-encoding: chunked\r\n\r\n0\r\n\r\n").await, (200, 1));
}

#[tokio::test]
async fn p_d2_a_length_is_one_plain_number() {
    let world = scripted(OK).await;
    for field in [
        "content-length: 5\r\ncontent-length: 6",
        "content-length: +5",
        "content-length: 5,6",
        "content-length: 0x5",
        "content-length: 5 6",
        "content-length: -5",
        "content-length: 18446744073709551616",
        "content-length:",
    ] {
        assert_eq!(post(&world, &format!("{field}\r\n\r\nhello")).await, (400, 0), "{field:?}");
    }
    // The same length twice is one length; the upstream is told it once.
    let before = world.received().len();
    assert_eq!(post(&world, "content-length: 5\r\ncontent-length: 5\r\n\r\nhello").await, (200, 1));
    assert_eq!(world.received()[before..].matches("content-length").count(), 1);
}

#[tokio::test]
async fn p_d3_a_head_is_lines_of_name_colon_value() {
    let world = scripted(OK).await;
    for lines in [
        "x: a\r\n b\r\n\r\n",
        "x : a\r\n\r\n",
        "x\0y: a\r\n\r\n",
        "x\u{e9}: a\r\n\r\n",
        ": a\r\n\r\n",
        "nocolon\r\n\r\n",
        "x: a\rb: c\r\n\r\n",
        "x: a\0\r\n\r\n",
    ] {
        assert_eq!(post(&world, lines).await, (400, 0), "{lines:?}");
    }
    assert_eq!(post(&world, "x: a\r\n\r\n").await, (200, 1));
}

#[tokio::test]
async fn p_d4_a_request_line_is_method_target_and_version_with_one_space_between() {
    let world = scripted(OK).await;
    let url = world.url("/v1/x");
    let long = "G".repeat(10_000);
    for (line, statuses) in [
        (format!("GET  {url} HTTP/1.1"), [400, 400]),
        (format!("GET\t{url} HTTP/1.1"), [400, 400]),
        (format!("GET {url} HTTP/1.1 "), [400, 400]),
        (format!("GET {url} HTTP/1.2"), [400, 400]),
        (format!("GET {url} HTTP/0.9"), [400, 400]),
        (format!("GET {url}"), [400, 400]),
        (format!("get {url} HTTP/1.1"), [400, 400]),
        (format!("{long} {url} HTTP/1.1"), [400, 431]),
        (format!("GET {url}\\..\\x HTTP/1.1"), [400, 400]),
        (format!("GET {url} x HTTP/1.1"), [400, 400]),
    ] {
        let head = format!("{line}\r\nhost: {}\r\nconnection: close\r\n\r\n", world.authority());
        let answer = speak(&world, Entrance::HttpProxy, head.as_bytes()).await;
        let status: u16 = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
        assert!(statuses.contains(&status), "{line:.60}: {answer}");
    }
    assert_eq!(requests(&world), 0);
    assert_eq!(post(&world, "\r\n").await, (200, 1));
}

#[tokio::test]
async fn p_d5_an_upgrade_that_nobody_asked_for_is_a_bad_gateway() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: foo\r\n\r\nraw bytes",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n",
    ] {
        let world = scripted(answer).await;
        let (status, _) = post(&world, "content-length: 0\r\n\r\n").await;
        assert_eq!(status, 502, "{answer}");
    }
    let world = scripted(OK).await;
    assert_eq!(
        post(&world, "connection: upgrade\r\nupgrade: foo\r\ncontent-length: 0\r\n\r\n").await,
        (403, 0)
    );
    assert_eq!(post(&world, "content-length: 0\r\n\r\n").await, (200, 1));
}

#[tokio::test]
async fn p_d6_a_body_stays_a_body_whatever_the_method() {
    let policy = vec![("methods: [GET, POST]", "methods: [GET, DELETE, POST]")];
    let world =
        build(Setup { protocols: vec!["http/1.1"], script: Some(OK.into()), policy, ..Setup::default() })
            .await;
    let inner = "POST /v1/smuggled HTTP/1.1 \r\nhost: x\r\n\r\n";
    for method in ["GET", "DELETE", "POST"] {
        let before = world.received().len();
        let head = format!(
            "{method} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{inner}",
            world.url("/v1/x"),
            world.authority(),
            inner.len()
        );
        assert!(
            speak(&world, Entrance::HttpProxy, head.as_bytes()).await.starts_with("HTTP/1.1 200"),
            "{method}"
        );
        let sent = world.received()[before..].to_owned();
        assert!(
            sent.contains(&format!("content-length: {}", inner.len())) && sent.ends_with(inner),
            "{sent}"
        );
    }
    assert_eq!(requests(&world), 3);
}

/// An upstream that answers each request once its last chunk has come.
fn patient(received: &Arc<Mutex<Vec<u8>>>) -> Behaviour {
    let received = Arc::clone(received);
    Behaviour::new(move |mut io| {
        let received = Arc::clone(&received);
        async move {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = io.read(&mut buffer).await {
                let is_whole = {
                    let mut all = received.lock().unwrap();
                    all.extend_from_slice(&buffer[..read]);
                    all.ends_with(b"0\r\n\r\n")
                };
                if is_whole && io.write_all(OK.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
}

#[tokio::test]
async fn p_d6_a_body_of_unknown_length_stays_a_body_whatever_the_method_and_the_protocol() {
    let received = Arc::default();
    let policy = vec![("methods: [GET, POST]", "methods: [GET, HEAD, DELETE, POST]")];
    let behaviour = Some(patient(&received));
    let world = build(Setup { protocols: vec!["http/1.1"], behaviour, policy, ..Setup::default() }).await;
    let passed_on = |method: &str| {
        let sent = String::from_utf8(std::mem::take(&mut *received.lock().unwrap())).unwrap();
        assert!(sent.contains("transfer-encoding: chunked") && !sent.contains("content-length"), "{sent}");
        assert!(sent.starts_with(method) && sent.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{sent}");
    };
    // HEADERS do not end the stream, and DATA follows.
    for method in [http::Method::GET, http::Method::DELETE, http::Method::POST] {
        let frames = futures::stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"hello")))]);
        let request = Request::builder().method(&method).uri(world.url("/v1/x"));
        let io = world.tls(world.connect(&world.authority()).await.unwrap(), HOST, "h2").await.unwrap();
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
        tokio::spawn(connection);
        let answered = sender.send_request(request.body(StreamBody::new(frames)).unwrap());
        assert_eq!(timeout(PATIENCE, answered).await.unwrap().unwrap().status(), StatusCode::OK, "{method}");
        passed_on(method.as_str());
    }
    for method in ["GET", "DELETE", "POST", "HEAD"] {
        let head = format!(
            "{method} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            world.url("/v1/x"),
            world.authority(),
        );
        let answered = timeout(PATIENCE, speak(&world, Entrance::HttpProxy, head.as_bytes())).await.unwrap();
        assert!(answered.starts_with("HTTP/1.1 200"), "{method}");
        passed_on(method);
    }
    // Nothing is announced where nothing follows.
    let world = scripted(OK).await;
    let io = to(&world, Entrance::HttpProxy).await;
    assert_eq!(over_http1(io, get(&world.url("/v1/x"), &world.authority())).await.status, StatusCode::OK);
    assert!(!world.received().contains("transfer-encoding"));
}

#[tokio::test]
async fn p_d9_each_request_gets_one_answer_or_a_bad_gateway() {
    for answer in [
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx y: a\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "nonsense\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
    ] {
        assert_eq!(post(&scripted(answer).await, "content-length: 0\r\n\r\n").await.0, 502, "{answer:?}");
    }
    for (answer, body) in [
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", ""),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "ok",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "ok",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstale",
            "ok",
        ),
    ] {
        let world = scripted(answer).await;
        for _ in 0..2 {
            let told = over_http1(
                to(&world, Entrance::HttpProxy).await,
                get(&world.url("/v1/x"), &world.authority()),
            )
            .await;
            assert_eq!(told.body, body, "{answer:?}");
        }
    }
}

#[tokio::test]
async fn p_d10_heads_and_paths_are_bounded() {
    let world = scripted(OK).await;
    let fields = |count: usize| {
        (0..count).fold(String::new(), |mut all, n| write!(all, "x-{n}: y\r\n").map(|()| all).unwrap())
    };
    // Host, Connection and these.
    assert_eq!(post(&world, &format!("{}\r\n", fields(98))).await, (200, 1));
    assert_eq!(post(&world, &format!("{}\r\n", fields(99))).await, (431, 0));
    assert_eq!(post(&world, &format!("x: {}\r\n\r\n", "y".repeat(60 << 10))).await, (200, 1));
    assert_eq!(post(&world, &format!("x: {}\r\n\r\n", "y".repeat(64 << 10))).await, (431, 0));
    for (length, status) in [(8 << 10, StatusCode::OK), ((8 << 10) + 1, StatusCode::URI_TOO_LONG)] {
        let path = format!("/v1/{}", "x".repeat(length - 4));
        let answer =
            over_http1(to(&world, Entrance::HttpProxy).await, get(&world.url(&path), &world.authority()))
                .await;
        assert_eq!(answer.status, status, "{length}");
        let query = format!("/v1/x?q={}", "x".repeat(length - 8));
        let asked = get(&world.url(&query), &world.authority());
        let answer = over_http1(to(&world, Entrance::HttpProxy).await, asked).await;
        assert_eq!(answer.status, status, "{length} with the query");
    }
}

#[tokio::test]
async fn p_f6_the_key_comes_back_in_no_field_name_trailer_or_status_line() {
    let encoded = KEY.replace('-', "%2d");
    let answer = format!(
        "HTTP/1.1 302 {KEY}\r\nlocation: https://x.test/?key={encoded}\r\nset-cookie: k={KEY}\r\nx-b: c2stcmVhbC0wMTIzNDU2Nzg5\r\n{KEY}: 1\r\n\
         trailer: x-t\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: {KEY}\r\n\r\n"
    );
    for inject in ["{type: Header, name: x-api-key}", "{type: Query, name: key}"] {
        let policy = vec![("{type: Header, name: x-api-key}", inject)];
        let setup = Setup {
            protocols: vec!["http/1.1"],
            script: Some(answer.clone().into()),
            policy,
            ..Setup::default()
        };
        let world = build(setup).await;
        let head = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close, te\r\nte: trailers\r\n\r\n",
            world.url("/v1/x"),
            world.authority()
        );
        let told = speak(&world, Entrance::HttpProxy, head.as_bytes()).await;
        assert!(world.received().contains(KEY), "it was sent, so it could come back");
        assert!(
            told.starts_with("HTTP/1.1 302 ")
                && told.contains("location: https://x.test/?key=[redacted]\r\n"),
            "{told}"
        );
        assert!(told.contains("x-t: [redacted]"), "{told}");
        for spelling in [KEY, &encoded, "c2stcmVhbC0wMTIzNDU2Nzg5"] {
            assert!(!told.to_lowercase().contains(&spelling.to_lowercase()), "{told}");
        }
    }
}

#[tokio::test]
async fn p_d9_an_answer_to_head_has_no_body_over_http_2_either() {
    let world = build(Setup { protocols: vec!["h2"], ..Setup::default() }).await;
    let ask = |method| {
        let mut request = get(&world.url("/v1/x"), &world.authority());
        *request.method_mut() = method;
        world.through_connect("h2", request)
    };
    assert_eq!(ask(http::Method::GET).await.status, StatusCode::OK);
    // No rule allows HEAD, so this is the proxy's own answer. With a body, the client would call the stream broken.
    let refused = ask(http::Method::HEAD).await;
    assert_eq!((refused.status, refused.body.as_str()), (StatusCode::FORBIDDEN, ""));
}

/// A frame of HTTP/2 (RFC 9113, 4.1) on stream 1.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A header block of literals that enter no table (RFC 7541, 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// What the proxy answers to one HTTP/2 stream with this head: its status, or the code it resets the stream with.
async fn over_raw_http2(world: &World, fields: &[(&str, &str)]) -> Result<u8, u32> {
    const END_OF_HEAD_AND_STREAM: u8 = 5;
    let io = world.connect(&world.authority()).await.unwrap();
    let mut io = world.tls(io, crate::world::HOST, "h2").await.unwrap();
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(4, 0, 0, &[])].concat();
    io.write_all(&[preface, frame(1, END_OF_HEAD_AND_STREAM, 1, &block(fields))].concat()).await.unwrap();
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        io.read_exact(&mut payload).await.unwrap();
        match head[3] {
            // The first field of an answer is its status; 200 has number 8 in the static table.
            1 => return Ok(payload[0]),
            3 => return Err(u32::from_be_bytes(payload.try_into().unwrap())),
            7 => return Err(u32::from_be_bytes(payload[4..8].try_into().unwrap())),
            _ => {}
        }
    }
}

#[tokio::test]
async fn p_d8_a_stream_that_is_no_request_is_reset_with_a_line() {
    const PROTOCOL_ERROR: u32 = 1;
    const STATUS_200: u8 = 0x88;
    let world = scripted(OK).await;
    let authority = world.authority();
    let good =
        [(":method", "POST"), (":scheme", "https"), (":authority", authority.as_str()), (":path", "/v1/x")];
    let with = |field: (&'static str, &'static str)| {
        let mut fields = good.to_vec();
        match fields.iter_mut().find(|(name, _)| *name == field.0) {
            Some(known) => known.1 = field.1,
            None => fields.push(field),
        }
        fields
    };
    for field in [
        ("transfer-encoding", "chunked"),
        ("connection", "x"),
        ("x", "a\r\nb: c"),
        ("x:y", "a"),
        ("X-Upper", "a"),
        ("x y", "a"),
        ("content-length", "5"),
        (":path", "/v1/x HTTP/1.1\r\nHost: x"),
        (":method", "GET / HTTP/1.1\r\nHost: x"),
    ] {
        let before = world.lines().len();
        assert_eq!(over_raw_http2(&world, &with(field)).await, Err(PROTOCOL_ERROR), "{field:?}");
        let refusals =
            || world.lines()[before..].iter().filter(|line| line["reason"] == "MalformedRequest").count();
        for _ in 0..500 {
            if refusals() > 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(refusals(), 1, "{field:?}");
    }
    assert_eq!((world.upstream_connections(), requests(&world)), (0, 0));
    assert_eq!(over_raw_http2(&world, &with(("x", "a"))).await, Ok(STATUS_200));
}

#[tokio::test]
async fn p_f6_the_key_comes_back_in_no_body_whole_or_cut_between_two_chunks() {
    let stars = "*".repeat(KEY.len());
    let whole = format!("your key is {KEY}, thank you");
    let (left, right) = KEY.split_at(9);
    let cut = [format!("your key is {left}"), format!("{right}, thank you")];
    let chunks: String = cut.iter().map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
    let answers = [
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{whole}", whole.len()),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n"),
    ];
    for answer in answers {
        let policy = vec![("{type: Header, name: x-api-key}", "{type: Header, name: x-api-key}")];
        let setup =
            Setup { protocols: vec!["http/1.1"], script: Some(answer.into()), policy, ..Setup::default() };
        let world = build(setup).await;
        let head = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\naccept-encoding: gzip\r\nconnection: close\r\n\r\n",
            world.url("/v1/x"),
            world.authority()
        );
        let told = speak(&world, Entrance::HttpProxy, head.as_bytes()).await;
        assert!(world.received().contains(KEY), "it was sent, so it could come back");
        assert!(world.received().contains("accept-encoding: identity"), "{}", world.received());
        assert!(!told.contains(KEY) && !told.contains(right), "{told}");
        assert!(told.contains("your key is ") && told.contains(", thank you"), "{told}");
        assert_eq!(told.matches('*').count(), stars.len(), "{told}");
    }
}

#[tokio::test]
async fn p_d14_trailers_lose_what_fields_lose() {
    let policy = vec![("{type: Header, name: x-api-key}", "{type: Header, name: x-api-key}")];
    let world = build(Setup { protocols: vec!["h2"], policy, ..Setup::default() }).await;
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: x-plain\r\n\r\n2\r\nok\r\n0\r\n\
         authorization: Bearer own\r\nx-api-key: own\r\nx-forwarded-host: evil.test\r\nx-plain: stays\r\n\r\n",
        world.url("/v1/x"),
        world.authority()
    );
    let told = speak(&world, Entrance::HttpProxy, request.as_bytes()).await;
    // The upstream's echo is backwards.
    let echo: String = told.chars().rev().collect();
    assert!(echo.contains("trailer x-plain: stays"), "{echo}");
    for gone in ["trailer authorization", "trailer x-api-key", "trailer x-forwarded-host"] {
        assert!(!echo.contains(gone), "{echo}");
    }
}

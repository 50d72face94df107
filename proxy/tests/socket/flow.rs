//! Bodies in both directions: who waits for whom, and how much is taken meanwhile.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::entrances::to;
use crate::upstream::Behaviour;
use crate::world::{HOST, Setup, World, build, get, over_http1, scripted, standalone};

const GIB: usize = 1 << 30;
const MIB: usize = 1 << 20;
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A connection with so little room in the kernel that what was sent is what was taken.
async fn narrow(world: &World, entrance: Entrance) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(64 * 1024).unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    socket.connect(world.at(entrance)).await.unwrap()
}

/// A tunnel with TLS in it, over such a connection.
pub async fn tunnel(world: &World, protocol: &str) -> TlsStream<TcpStream> {
    let (mut io, authority) = (narrow(world, Entrance::HttpProxy).await, world.authority());
    let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    io.write_all(head.as_bytes()).await.unwrap();
    let mut told = Vec::new();
    while !told.ends_with(b"\r\n\r\n") {
        told.push(io.read_u8().await.unwrap());
    }
    world.tls(io, HOST, protocol).await.unwrap()
}

/// Uploads `piece` over and over, as the body of a POST that is announced as one GiB. How much was taken, and the answer.
async fn upload(world: &World, path: &str, piece: &[u8]) -> (usize, String) {
    let io = narrow(world, Entrance::HttpProxy).await;
    let (mut read, mut write) = io.into_split();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-length: {GIB}\r\n\r\n",
        world.url(path),
        world.authority()
    );
    write.write_all(head.as_bytes()).await.unwrap();
    let answer = tokio::spawn(async move {
        let (mut told, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(count @ 1..) = read.read(&mut buffer).await {
            told.extend_from_slice(&buffer[..count]);
        }
        String::from_utf8_lossy(&told).into_owned()
    });
    let mut taken = 0;
    while taken < GIB && write.write_all(piece).await.is_ok() {
        taken += piece.len();
    }
    (taken, answer.await.unwrap())
}

#[tokio::test]
async fn p_d7_a_refusal_ends_an_upload_and_nothing_of_it_becomes_a_request() {
    let piece = "GET /v1/smuggled HTTP/1.1\r\nhost: x\r\n\r\n".repeat(1000).into_bytes();
    let world = scripted("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    for (path, begun) in [("/v1/x", 1), ("/admin", 0)] {
        let before = world.lines().len();
        let (taken, answer) = upload(&world, path, &piece).await;
        assert!(taken < 8 * MIB, "{path}: {taken} bytes were taken");
        assert!(answer.starts_with("HTTP/1.1 403") && answer.matches("HTTP/1.1 ").count() == 1, "{answer}");
        let begins = || world.lines()[before..].iter().filter(|line| line["event"] == "begin").count();
        assert_eq!(begins(), begun, "{path}");
    }
    let request = Request::post(world.url("/v1/x")).header("host", world.authority());
    let request = request.body(http_body_util::Full::from("small")).unwrap();
    let answer = over_http1(to(&world, Entrance::HttpProxy).await, request).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::FORBIDDEN, "no"));
}

#[tokio::test]
async fn p_d7_a_refused_upload_over_http_2_is_cut_off_too() {
    for path in ["/v1/x", "/admin"] {
        let world = scripted("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
        let io = world.connect(&world.authority()).await.unwrap();
        let io = TokioIo::new(world.tls(io, HOST, "h2").await.unwrap());
        let taken = Arc::new(AtomicUsize::new(0));
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let counted = Arc::clone(&taken);
        let endless = futures::stream::repeat_with(move || {
            counted.fetch_add(16 * 1024, Ordering::SeqCst);
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))
        });
        let request = Request::post(world.url(path)).body(StreamBody::new(endless)).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        response.into_body().collect().await.unwrap();
        settled(&taken).await;
        assert!(taken.load(Ordering::SeqCst) < 8 * MIB, "{path}: {taken:?} bytes were taken");
    }
}

/// Waits until a number no longer grows.
pub async fn settled(number: &AtomicUsize) -> usize {
    let (mut last, mut same) = (usize::MAX, 0);
    while same < 20 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let now = number.load(Ordering::SeqCst);
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// An upstream that sends as fast as it can, and how much it got rid of.
pub fn fast() -> (Behaviour, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let behaviour = Behaviour::new(move |mut io| {
        let counted = Arc::clone(&counted);
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(io.read_u8().await.unwrap());
            }
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 3 * GIB / 2);
            io.write_all(answer.as_bytes()).await.unwrap();
            while io.write_all(&[b'x'; 16 * 1024]).await.is_ok() {
                counted.fetch_add(16 * 1024, Ordering::SeqCst);
            }
        }
    });
    (behaviour, sent)
}

/// What the kernel may hold of two connections by its own account (tcp_rmem and tcp_wmem: 32 and 4 MiB of each, on large machines). Of the 1.5 GiB
/// an upstream is read on without bound, that is little.
const KERNELS_BYTES: usize = 96 * MIB;

/// The same over HTTP/2.
pub fn fast_http2() -> (Behaviour, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let behaviour = Behaviour::new(move |io| {
        let counted = Arc::clone(&counted);
        async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let counted = Arc::clone(&counted);
                let endless = futures::stream::repeat_with(move || {
                    counted.fetch_add(16 * 1024, Ordering::SeqCst);
                    Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 16 * 1024])))
                });
                async { Ok::<_, Infallible>(Response::new(StreamBody::new(endless))) }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.max_send_buf_size(16 * 1024).serve_connection(TokioIo::new(io), service).await;
        }
    });
    (behaviour, sent)
}

#[tokio::test]
async fn p_d13_an_upstream_is_read_no_faster_than_the_agent_reads() {
    for (protocol, upstream) in [("http/1.1", "http/1.1"), ("h2", "http/1.1"), ("h2", "h2")] {
        let (behaviour, sent) = if upstream == "h2" { fast_http2() } else { fast() };
        let setup = Setup { protocols: vec![upstream], behaviour: Some(behaviour), ..Setup::default() };
        let world = build(setup).await;
        let (io, authority) = (TokioIo::new(tunnel(&world, protocol).await), world.authority());
        let mut body = if protocol == "h2" {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(get(&world.url("/v1/x"), &authority)).await.unwrap().into_body()
        } else {
            let (mut sender, connection) = http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(get("/v1/x", &authority)).await.unwrap().into_body()
        };
        let mut read = 0;
        for _ in 0..4 {
            let ahead = settled(&sent).await - read;
            assert!(
                ahead < KERNELS_BYTES,
                "{protocol} to {upstream}: {ahead} bytes ahead of {read} that were read"
            );
            let enough = read + 16 * MIB;
            while read < enough {
                read += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
            }
        }
    }
}

#[tokio::test]
async fn windows_towards_the_agent_are_small_and_streams_are_few() {
    let world = standalone(&["http/1.1"]).await;
    let io = world.connect(&world.authority()).await.unwrap();
    let mut io = world.tls(io, HOST, "h2").await.unwrap();
    io.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (mut settings, mut window) = (std::collections::BTreeMap::new(), None);
    while settings.is_empty() || window.is_none() {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        io.read_exact(&mut payload).await.unwrap();
        match head[3] {
            4 => settings.extend(
                payload.chunks(6).map(|one| (one[1], u32::from_be_bytes(one[2..].try_into().unwrap()))),
            ),
            8 => window = Some(u32::from_be_bytes(payload.try_into().unwrap())),
            _ => {}
        }
    }
    // RFC 9113, 6.5.2: streams at a time, a stream's window, a head; 6.9.2: a connection's window begins with 65,535.
    assert_eq!((settings[&3], settings[&4], settings[&6]), (128, 64 * 1024, 64 * 1024));
    assert_eq!(window, Some(8 * 1024 * 1024 - 65_535));
    // What a client may have sent before it reads them.
    assert!(settings[&4] >= 65_535);
}

#[tokio::test]
async fn a_body_is_asked_for_once_its_request_is_allowed_and_never_when_it_is_refused() {
    let world = standalone(&["http/1.1"]).await;
    for (path, first) in
        [("/v1/x", "HTTP/1.1 100 Continue\r\n\r\n"), ("/admin", "HTTP/1.1 403 Forbidden\r\n")]
    {
        let mut io = to(&world, Entrance::HttpProxy).await;
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
            world.url(path),
            world.authority()
        );
        io.write_all(head.as_bytes()).await.unwrap();
        let mut told = vec![0; first.len()];
        io.read_exact(&mut told).await.unwrap();
        assert_eq!(String::from_utf8(told).unwrap(), first);
        let _ = io.write_all(b"hello").await;
        let mut rest = String::new();
        let _ = io.read_to_string(&mut rest).await;
        let echo: String = rest.chars().rev().collect();
        assert_eq!(echo.contains("body: 5 bytes"), path == "/v1/x", "{rest}");
        assert!(!echo.contains("expect:"), "it was for this hop");
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_in_every_mix_of_http_1_and_2() {
    for upstream in ["h2", "http/1.1"] {
        for client in ["h2", "http/1.1"] {
            let behaviour = Behaviour::new(|io| async move {
                let service = service_fn(|request: Request<Incoming>| async move {
                    let sent = request.into_body().collect().await.unwrap();
                    let mut trailers = HeaderMap::new();
                    let sent_up = sent.trailers().unwrap();
                    // What a body is was judged by its head.
                    let is_judged =
                        ["content-type", "content_encoding"].iter().any(|name| sent_up.contains_key(*name));
                    let back = if is_judged { "judged".parse().unwrap() } else { sent_up["x-up"].clone() };
                    trailers.insert("x-back", back);
                    let frames =
                        [Ok::<_, Infallible>(Frame::data(sent.to_bytes())), Ok(Frame::trailers(trailers))];
                    let body = StreamBody::new(futures::stream::iter(frames));
                    let response = Response::builder().header("trailer", "x-back").body(body);
                    Ok::<_, Infallible>(response.unwrap())
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(io), service).await;
            });
            let setup = Setup { protocols: vec![upstream], behaviour: Some(behaviour), ..Setup::default() };
            let world = build(setup).await;
            let mut trailers = HeaderMap::new();
            trailers.insert("x-up", "there and back".parse().unwrap());
            trailers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
            trailers.insert("content_encoding", "gzip".parse().unwrap());
            let frames =
                [Ok::<_, Infallible>(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
            let body = StreamBody::new(futures::stream::iter(frames));
            let uri = if client == "h2" { world.url("/v1/x") } else { "/v1/x".to_owned() };
            let request = Request::post(uri).header("host", world.authority()).header("te", "trailers");
            let request =
                request.header("trailer", "x-up, content-type, content_encoding").body(body).unwrap();
            let io = world.connect(&world.authority()).await.unwrap();
            let io = TokioIo::new(world.tls(io, HOST, client).await.unwrap());
            let response = if client == "h2" {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            } else {
                let (mut sender, connection) = http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            };
            let told = response.into_body().collect().await.unwrap();
            let back = told.trailers().and_then(|trailers| trailers.get("x-back")).cloned();
            assert_eq!(back.unwrap(), "there and back", "{client} to {upstream}");
            assert_eq!(told.to_bytes(), "body");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_resets_a_stream_is_not_taken_for_a_fault_of_the_agents() {
    const PROTOCOL_ERROR: u32 = 1;
    let behaviour = Behaviour::new(|mut io| async move {
        let mut preface = [0; 24];
        io.read_exact(&mut preface).await.unwrap();
        io.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
        loop {
            let mut head = [0; 9];
            if io.read_exact(&mut head).await.is_err() {
                return;
            }
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            io.read_exact(&mut payload).await.unwrap();
            if head[3] == 1 {
                // Status 200 and half a body, and then a reset.
                let begun = b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x04\0\0\0\0\0\x01half";
                let reset = [&b"\0\0\x04\x03\0\0\0\0\x01"[..], &PROTOCOL_ERROR.to_be_bytes()].concat();
                io.write_all(begun).await.unwrap();
                io.write_all(&reset).await.unwrap();
            }
        }
    });
    let world = build(Setup { protocols: vec!["h2"], behaviour: Some(behaviour), ..Setup::default() }).await;
    let io = world.connect(&world.authority()).await.unwrap();
    let io = TokioIo::new(world.tls(io, HOST, "h2").await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    if let Ok(response) = sender.send_request(get(&world.url("/v1/x"), &world.authority())).await {
        assert!(response.into_body().collect().await.is_err(), "half an answer is none");
    }
    let line = world.line(&[("event", "end")]).await;
    assert_eq!((&line["decision"], &line["reason"]), (&"allow".into(), &"AnswerBroken".into()));
    assert!(world.lines().iter().all(|line| line["reason"] != "MalformedRequest"), "{:#?}", world.lines());
}

#[tokio::test]
async fn p_d3_a_head_that_ends_its_lines_with_a_bare_lf_is_sent_on_with_crlf_and_is_one_request() {
    let world = scripted(OK).await;
    let head = format!(
        "GET {} HTTP/1.1\nhost: {}\nconnection: close\nx: a\n\n",
        world.url("/v1/x"),
        world.authority()
    );
    let answer = crate::world::speak(&world, Entrance::HttpProxy, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let sent = world.received();
    assert_eq!(sent.matches(" HTTP/1.1\r\n").count(), 1);
    assert_eq!(sent.matches('\n').count(), sent.matches("\r\n").count(), "{sent:?}");
}

#[tokio::test]
async fn p_d10_a_head_of_more_than_64_kib_is_refused_however_it_is_cut() {
    let world = scripted(OK).await;
    for piece in [1000, 60_000, usize::MAX] {
        for (bytes, status) in [(60 * 1024, "HTTP/1.1 200"), (64 * 1024, "HTTP/1.1 431")] {
            let field = "y".repeat(bytes);
            let head = format!(
                "GET {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\nx: {field}\r\n\r\n",
                world.url("/v1/x"),
                world.authority()
            );
            let (mut read, mut write) = to(&world, Entrance::HttpProxy).await.into_split();
            let pieces = tokio::spawn(async move {
                for piece in head.as_bytes().chunks(piece) {
                    if write.write_all(piece).await.is_err() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                write
            });
            let mut told = Vec::new();
            let _ = timeout(Duration::from_secs(20), read.read_to_end(&mut told)).await.unwrap();
            drop(pieces.await.unwrap());
            assert!(String::from_utf8_lossy(&told).starts_with(status), "{bytes} in pieces of {piece}");
        }
    }
}

#[tokio::test]
async fn what_an_answers_head_loses_its_trailers_lose_too() {
    const NAMES: [&str; 6] =
        ["alt-svc", "content-digest", "content-md5", "digest", "repr-digest", "set-cookie"];
    let behaviour = Behaviour::new(|io| async move {
        let service = service_fn(|_: Request<Incoming>| async move {
            let names = NAMES.into_iter().chain(["x-plain"]);
            let field = |name| (http::HeaderName::from_static(name), "x".parse().unwrap());
            let trailers: HeaderMap = names.map(field).collect();
            let frames =
                [Ok::<_, Infallible>(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(trailers))];
            Ok::<_, Infallible>(Response::new(StreamBody::new(futures::stream::iter(frames))))
        });
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(TokioIo::new(io), service).await;
    });
    let without_key = ", credential: good, websocket: Allow";
    let elsewhere = ("scopes: [{host: api.good.test", "scopes: [{host: other.good.test");
    for (policy, passed) in [
        (vec![], vec!["x-plain"]),
        (vec![(without_key, "")], vec!["set-cookie", "x-plain"]),
        (vec![(without_key, ""), elsewhere], [&NAMES[1..], &["x-plain"]].concat()),
    ] {
        let setup =
            Setup { protocols: vec!["h2"], behaviour: Some(behaviour.clone()), policy, ..Setup::default() };
        let world = build(setup).await;
        let io = TokioIo::new(tunnel(&world, "h2").await);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let response = sender.send_request(get(&world.url("/v1/x"), &world.authority())).await.unwrap();
        let body = response.into_body().collect().await.unwrap();
        let mut names: Vec<_> = body.trailers().unwrap().keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, passed);
    }
}

#[tokio::test]
async fn a_refused_request_with_a_body_leaves_its_connection_usable() {
    let world = standalone(&["http/1.1"]).await;
    let io = to(&world, Entrance::HttpProxy).await;
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    // One is refused before its body is looked at, the other when its address is known.
    for (uri, host) in
        [(world.url("/admin"), world.authority()), ("http://meta.good.test/".into(), "meta.good.test".into())]
    {
        let body = http_body_util::Full::from(Bytes::from(vec![b'x'; 100 * 1024]));
        let refused = Request::post(uri).header("host", &host).body(body).unwrap();
        let response = sender.send_request(refused).await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        response.into_body().collect().await.unwrap();
        sender.ready().await.expect(&host);
    }
    let allowed = Request::get(world.url("/v1/x")).header("host", world.authority());
    let allowed = allowed.body(http_body_util::Full::<Bytes>::default()).unwrap();
    assert_eq!(sender.send_request(allowed).await.unwrap().status(), StatusCode::OK);
}

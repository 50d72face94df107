//! Streams that nobody reads, and small frames, beside other streams of the same HTTP/2 connection.

use agentsandbox_proxy::limits::{H2_CONNECTIONS_MAX, H2_STREAM_WINDOW_BYTES, STREAMS_PER_CONNECTION_MAX};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::flow::settled;
use crate::upstream::Behaviour;
use crate::world::{HOST, Setup, World, build, get, over_http2, scripted, standalone};

const PATIENCE: Duration = Duration::from_secs(60);
const TINY: usize = 20;
const TINY_COUNT: usize = 20_000;

type Streamed = UnsyncBoxBody<Bytes, Infallible>;

/// What an upstream answers, and how many bytes of it were asked for.
fn answer(path: &str, sent: &Arc<AtomicUsize>) -> Streamed {
    let frames = |count: usize, piece: &'static [u8]| {
        let sent = Arc::clone(sent);
        let frames = stream::iter(0..count).map(move |_| {
            sent.fetch_add(piece.len(), Ordering::SeqCst);
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece)))
        });
        StreamBody::new(frames).boxed_unsync()
    };
    match path {
        "/v1/big" => frames(usize::MAX, &[b'x'; 16 * 1024]),
        "/v1/tiny" => frames(TINY_COUNT, &[b'x'; TINY]),
        _ => Full::new(Bytes::from_static(b"ok")).boxed_unsync(),
    }
}

/// A world whose upstream speaks HTTP/2 and streams as fast as it is read, and how much it got rid of.
async fn streaming() -> (World, Arc<AtomicUsize>) {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let behaviour = Behaviour::new(move |io| {
        let counted = Arc::clone(&counted);
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let body = answer(request.uri().path(), &counted);
                async { Ok::<_, Infallible>(Response::new(body)) }
            });
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.max_send_buf_size(16 * 1024).serve_connection(TokioIo::new(io), service).await;
        }
    });
    let setup = Setup { protocols: vec!["h2"], behaviour: Some(behaviour), ..Setup::default() };
    (build(setup).await, sent)
}

/// An agent that takes little of each stream before it is read.
async fn agent(world: &World) -> http2::SendRequest<Full<Bytes>> {
    let io = world.tls(world.connect(&world.authority()).await.unwrap(), HOST, "h2").await.unwrap();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(16 * 1024);
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn begin(agent: &mut http2::SendRequest<Full<Bytes>>, world: &World, path: &str) -> Incoming {
    let response = agent.send_request(get(&world.url(path), &world.authority())).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body()
}

async fn another_is_answered(world: &World) {
    let io = world.tls(world.connect(&world.authority()).await.unwrap(), HOST, "h2").await.unwrap();
    let asked = over_http2(io, get(&world.url("/v1/small"), &world.authority()));
    assert_eq!(timeout(PATIENCE, asked).await.unwrap().body, "ok");
    assert_eq!(world.upstream_connections(), 1, "on the same connection");
}

#[tokio::test]
async fn p_d12_paused_downloads_hold_up_no_other_answer_of_their_upstream() {
    let (world, sent) = streaming().await;
    let mut agent = agent(&world).await;
    let mut paused = Vec::new();
    for _ in 0..24 {
        paused.push(begin(&mut agent, &world, "/v1/big").await);
    }
    let before = settled(&sent).await;
    another_is_answered(&world).await;
    // Those that are read go on.
    let frame = timeout(PATIENCE, paused[0].frame()).await.unwrap().unwrap().unwrap();
    assert!(frame.is_data());
    println!("{before} bytes were taken for {} downloads that nobody reads", paused.len());
}

#[tokio::test]
async fn p_h4_small_messages_that_an_agent_does_not_read_wait_and_end_no_other_stream() {
    let (world, sent) = streaming().await;
    let mut agent = agent(&world).await;
    let slow = begin(&mut agent, &world, "/v1/tiny").await;
    settled(&sent).await;
    another_is_answered(&world).await;
    let all = timeout(PATIENCE, slow.collect()).await.unwrap().unwrap().to_bytes();
    assert_eq!(all.len(), TINY * TINY_COUNT);
}

#[tokio::test]
async fn p_h4_a_burst_of_small_messages_of_an_agent_waits_for_its_upstream_and_ends_no_connection() {
    const MESSAGES: usize = 2000;
    let world = scripted("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let io = world.tls(world.connect(&world.authority()).await.unwrap(), HOST, "h2").await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    // As grpc-go frames a message of eight bytes. All are there before the upstream is reached.
    let message = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\0\0\x08message!")));
    let body = StreamBody::new(stream::iter((0..MESSAGES).map(move |_| message())));
    let request = Request::post(world.url("/v1/x")).header("content-type", "application/grpc");
    let answered = sender.send_request(request.body(body).unwrap());
    assert_eq!(timeout(PATIENCE, answered).await.unwrap().unwrap().status(), StatusCode::OK);
    let line = world.line(&[("event", "end")]).await;
    assert_eq!((line["reason"].is_null(), line["bytesUp"].as_u64() > Some(0)), (true, true), "{line}");
}

/// A world whose upstream reads no body that comes to `/v1/stall`, and answers all others.
async fn stalling() -> World {
    let behaviour = Behaviour::new(|io| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            if request.uri().path() == "/v1/stall" {
                // It is held, and not read.
                let () = std::future::pending().await;
            }
            request.into_body().collect().await.unwrap();
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
        });
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(TokioIo::new(io), service).await;
    });
    build(Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() }).await
}

/// So many uploads on one connection, each of pieces of this size without end, that nobody reads; then one more, that is read.
async fn stalled_uploads(count: usize, piece: &'static [u8]) -> StatusCode {
    let world = stalling().await;
    let io = world.tls(world.connect(&world.authority()).await.unwrap(), HOST, "h2").await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    let sent = Arc::new(AtomicUsize::new(0));
    let upload = |path: &str, pieces: usize| {
        let sent = Arc::clone(&sent);
        let frames = stream::iter(0..pieces).map(move |_| {
            sent.fetch_add(piece.len(), Ordering::SeqCst);
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece)))
        });
        let (request, mut sender) = (Request::post(world.url(path)), sender.clone());
        async move { sender.send_request(request.body(StreamBody::new(frames)).unwrap()).await }
    };
    // From then on the client knows how much it may send.
    assert_eq!(upload("/v1/x", 1).await.unwrap().status(), StatusCode::OK);
    let stalled: Vec<_> = (0..count).map(|_| tokio::spawn(upload("/v1/stall", usize::MAX))).collect();
    settled(&sent).await;
    let answer = timeout(PATIENCE, upload("/v1/x", 1)).await.unwrap().unwrap();
    assert!(stalled.iter().all(|upload| !upload.is_finished()), "none of them has failed");
    answer.status()
}

#[tokio::test]
async fn p_d12_uploads_that_nobody_reads_hold_up_no_other_however_many_they_are() {
    const ALL_BUT_ONE: usize = STREAMS_PER_CONNECTION_MAX as usize - 1;
    assert_eq!(stalled_uploads(ALL_BUT_ONE, &[b'x'; H2_STREAM_WINDOW_BYTES as usize]).await, StatusCode::OK);
}

#[tokio::test]
async fn p_h4_two_uploads_of_small_messages_that_nobody_reads_end_no_connection() {
    assert_eq!(stalled_uploads(2, b"message!").await, StatusCode::OK);
}

#[tokio::test]
async fn p_d12_of_many_http_2_connections_of_an_agent_one_more_speaks_http_1_1() {
    let world = standalone(&["http/1.1"]).await;
    let mut config = world.trusting("h2");
    config.alpn_protocols.push(b"http/1.1".to_vec());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let speaks = async || {
        let io = world.connect(&world.authority()).await.unwrap();
        let io = connector.connect(HOST.try_into().unwrap(), io).await.unwrap();
        let protocol = io.get_ref().1.alpn_protocol().map(<[u8]>::to_vec).unwrap();
        (io, String::from_utf8(protocol).unwrap())
    };
    let mut held = Vec::new();
    for number in 0..H2_CONNECTIONS_MAX {
        let (io, protocol) = speaks().await;
        assert_eq!(protocol, "h2", "{number}");
        held.push(io);
    }
    // Who speaks nothing else is told why.
    let io = world.connect(&world.authority()).await.unwrap();
    assert!(world.tls(io, HOST, "h2").await.is_err());
    let line = world.line(&[("event", "deny"), ("reason", "LimitExceeded")]).await;
    assert!(line["host"] == HOST, "{line}");
    let (io, protocol) = speaks().await;
    assert_eq!(protocol, "http/1.1");
    let answer = crate::world::over_http1(io, get("/v1/x", &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK, "and is served");
    drop(held);
    let again = async {
        while speaks().await.1 != "h2" {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
}

#[tokio::test]
async fn p_d12_who_speaks_http_1_1_takes_no_place_of_http_2_while_it_shakes_hands() {
    let world = standalone(&["http/1.1"]).await;
    let config = Arc::new(world.trusting("http/1.1"));
    let mut held = Vec::new();
    for _ in 0..H2_CONNECTIONS_MAX {
        // Its first words alone, and it has been answered: it was listened to.
        let mut io = world.connect(&world.authority()).await.unwrap();
        let mut client =
            rustls::ClientConnection::new(Arc::clone(&config), HOST.try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        io.write_all(&hello).await.unwrap();
        io.read_exact(&mut [0; 5]).await.unwrap();
        held.push(io);
    }
    let io = world.connect(&world.authority()).await.unwrap();
    let io = world.tls(io, HOST, "h2").await.unwrap();
    let answer = over_http2(io, get(&world.url("/v1/x"), &world.authority())).await;
    assert_eq!(answer.status, StatusCode::OK);
    drop(held);
}

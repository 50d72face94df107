//! Exchanges that end early: what still goes up, and what is told of it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::flow::{settled, tunnel};
use crate::upstream::Behaviour;
use crate::world::{Setup, build, get, raw, speak, standalone};

const MIB: usize = 1 << 20;

/// An upstream over HTTP/2 that answers with this field as soon as it is asked, takes all that is sent, and counts it.
fn answering_early(field: (&'static str, &'static str)) -> (Behaviour, Arc<AtomicUsize>) {
    let received = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&received);
    let behaviour = Behaviour::new(move |io| {
        let counted = Arc::clone(&counted);
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(frame)) = body.frame().await {
                        let bytes = frame.data_ref().map_or(0, Bytes::len);
                        counted.fetch_add(bytes, Ordering::SeqCst);
                    }
                });
                let body = http_body_util::Full::<Bytes>::from("early");
                let response = Response::builder().header(field.0, field.1).body(body);
                async { Ok::<_, Infallible>(response.unwrap()) }
            });
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
        }
    });
    (behaviour, received)
}

#[tokio::test]
async fn p_i5_nothing_goes_up_uncounted_whether_the_answer_is_over_early_or_refused() {
    const PIECE: &[u8] = &[b'x'; 16 * 1024];
    const PIECES: usize = 32 * MIB / PIECE.len();
    for client in ["h2", "http/1.1"] {
        for (field, status) in [(("x-plain", "x"), 200), (("content-encoding", "compress"), 502)] {
            let (behaviour, received) = answering_early(field);
            let setup = Setup { protocols: vec!["h2"], behaviour: Some(behaviour), ..Setup::default() };
            let world = build(setup).await;
            let frames = std::iter::repeat_n(PIECE, PIECES)
                .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece))));
            let body = StreamBody::new(futures::stream::iter(frames));
            let uri = if client == "h2" { world.url("/v1/x") } else { "/v1/x".to_owned() };
            let request = Request::post(uri).header("host", world.authority()).body(body).unwrap();
            let io = TokioIo::new(tunnel(&world, client).await);
            let response = if client == "h2" {
                let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            } else {
                let (mut sender, connection) = http1::handshake(io).await.unwrap();
                tokio::spawn(connection);
                sender.send_request(request).await.unwrap()
            };
            assert_eq!(response.status(), status, "{client}");
            response.into_body().collect().await.unwrap();
            let told = world.line(&[("event", "end")]).await["bytesUp"].as_u64().unwrap();
            let received = settled(&received).await as u64;
            assert!(received <= told, "{client}, {status}: {received} bytes arrived, {told} are told");
            assert!(told < (PIECES * PIECE.len()) as u64, "{client}, {status}: it was cut off");
        }
    }
}

#[tokio::test]
async fn p_i5_a_body_that_its_agent_gave_up_or_broke_is_not_told_as_the_upstreams_fault() {
    const WHOLE: &str = "content-length: 5\r\n\r\nhello";
    const SHORT: &str = "content-length: 9\r\n\r\nhello";
    const BROKEN: &str = "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nnone\r\n\r\n";
    for (fields, status, decision, reason) in [
        (WHOLE, "HTTP/1.1 200", "allow", None),
        (SHORT, "", "allow", Some("Interrupted")),
        (BROKEN, "HTTP/1.1 400", "deny", Some("MalformedRequest")),
    ] {
        let world = standalone(&["http/1.1"]).await;
        let (uri, authority) = (world.url("/v1/x"), world.authority());
        let post = format!("POST {uri} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n{fields}");
        let entrance = Entrance::HttpProxy;
        let answer = match fields {
            SHORT => raw(&world, entrance, post.as_bytes()).await,
            _ => speak(&world, entrance, post.as_bytes()).await,
        };
        assert!(answer.starts_with(status), "{answer}");
        let line = world.line(&[("event", "end")]).await;
        assert_eq!((line["decision"].as_str(), line["reason"].as_str()), (Some(decision), reason));
    }
}

#[tokio::test]
async fn p_i5_an_agent_that_leaves_before_the_head_of_its_answer_has_interrupted_it() {
    for client in ["h2", "http/1.1"] {
        let asked = Arc::new(tokio::sync::Notify::new());
        let notify = Arc::clone(&asked);
        let behaviour = Behaviour::new(move |mut io| {
            let notify = Arc::clone(&notify);
            async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(io.read_u8().await.unwrap());
                }
                notify.notify_one();
                let _ = io.read_u8().await;
            }
        });
        let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
        let world = build(setup).await;
        let mut io = tunnel(&world, client).await;
        if client == "h2" {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
            let connection = tokio::spawn(connection);
            let answer = sender.send_request(get(&world.url("/v1/x"), &world.authority()));
            tokio::select! { _ = answer => panic!("an answer"), () = asked.notified() => {} }
            connection.abort();
        } else {
            let head = format!("GET /v1/x HTTP/1.1\r\nhost: {}\r\n\r\n", world.authority());
            io.write_all(head.as_bytes()).await.unwrap();
            asked.notified().await;
            drop(io);
        }
        let line = world.line(&[("event", "end")]).await;
        assert_eq!(
            (&line["decision"], &line["reason"], line["status"].is_null()),
            (&"allow".into(), &"Interrupted".into(), true),
            "{client}"
        );
    }
}

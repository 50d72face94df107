//! Event streams that are stopped: by what they end, and how an agent tells that from an upstream that broke off.

use std::convert::Infallible;
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::entrances::to;
use crate::flow::tunnel;
use crate::upstream::Behaviour;
use crate::world::{Setup, World, build, get, standalone};

const RULE: &str = "methods: [GET, POST], paths: ['/v1/**'], credential: good, websocket: Allow}";
const ELSEWHERE: &str = "methods: [GET, POST], paths: ['/v2/**'], credential: good, websocket: Allow}";

/// Asks for this path over this protocol, through TLS.
pub async fn asks(world: &World, protocol: &str, path: &str) -> Response<Incoming> {
    let io = TokioIo::new(tunnel(world, protocol).await);
    if protocol == "h2" {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        return sender.send_request(get(&world.url(path), &world.authority())).await.unwrap();
    }
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(get(path, &world.authority())).await.unwrap()
}

/// All that comes of a body, and whether it ended in order.
pub async fn rest(body: &mut Incoming) -> (String, bool) {
    let mut all = Vec::new();
    let read = async {
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => all.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Err(_) => return false,
            }
        }
        true
    };
    let is_whole = tokio::time::timeout(Duration::from_secs(30), read).await.unwrap();
    (String::from_utf8(all).unwrap(), is_whole)
}

/// The data of the last event, which is of type `error`, and what stands before it.
fn last(text: &str) -> (&str, serde_json::Value) {
    let (before, told) = text.split_once("event: error\ndata: ").unwrap_or_else(|| panic!("{text:?}"));
    assert!(told.ends_with("\n\n") && told.trim_end().lines().count() == 1, "{told:?}");
    (before, serde_json::from_str(told).unwrap())
}

/// An upstream that answers with these fields and pieces, and then rests.
fn telling(fields: Vec<(&'static str, &'static str)>, pieces: Vec<&'static str>) -> Behaviour {
    let head: HeaderMap = fields.into_iter().map(field).collect();
    let bytes: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
    Behaviour::new(move |io| {
        let (head, bytes) = (head.clone(), bytes.clone());
        async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let mut response = Response::new(StreamBody::new(resting(bytes.clone())));
                *response.headers_mut() = head.clone();
                async { Ok::<_, Infallible>(response) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
        }
    })
}

fn field((name, value): (&'static str, &'static str)) -> (http::HeaderName, http::HeaderValue) {
    (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
}

/// These pieces, and then nothing.
fn resting(bytes: Vec<Bytes>) -> impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let told = futures::stream::iter(bytes.into_iter().map(|bytes| Ok(Frame::data(bytes))));
    told.chain(futures::stream::pending())
}

#[tokio::test]
async fn p_h3_a_stream_that_its_policy_stops_says_so_in_a_last_event_and_ends_in_order() {
    const OF_GOOD: &str = "name: good, host: api.good.test,";
    for (from, edited, reason, rule) in [
        (RULE, ELSEWHERE, "PathNotAllowed", "good".into()),
        (
            RULE,
            "methods: [GET, POST], paths: ['/v1/**'], websocket: Allow}",
            "CredentialScope",
            "good".into(),
        ),
        // As a refusal would, it names no rule that is gone.
        (OF_GOOD, "name: other, host: other.good.test,", "HostNotAllowed", serde_json::Value::Null),
    ] {
        for upstream in ["h2", "http/1.1"] {
            for client in ["h2", "http/1.1"] {
                let world = standalone(&[upstream]).await;
                let mut body = asks(&world, client, "/v1/events").await.into_body();
                let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
                assert_eq!(first, "data: first\n\n");
                world.edit(|document| document.replace(from, edited)).await;
                // It is silent: nothing has to pass for it to end.
                let (text, is_whole) = rest(&mut body).await;
                let (before, told) = last(&text);
                assert_eq!((before, is_whole), ("", true), "{client} {upstream}");
                for (field, value) in [
                    ("reason", reason),
                    ("host", "api.good.test"),
                    ("method", "GET"),
                    ("path", "/v1/events"),
                    ("type", "error"),
                ] {
                    assert_eq!(told[field], value, "{told}");
                }
                assert_eq!(told["rule"], rule, "{reason}");
                assert_eq!(told["error"]["code"], reason, "what SDKs look for");
                assert!(told["howToAllow"].as_str().is_some_and(|advice| !advice.is_empty()), "{told}");
                let line = world.line(&[("event", "end")]).await;
                assert_eq!(line["requestId"], told["requestId"]);
                assert_eq!((&line["reason"], &line["lastEvent"]), (&reason.into(), &true.into()));
                assert_eq!(line["bytesDown"], "data: first\n\n".len(), "of the upstream's");
            }
        }
    }
}

#[tokio::test]
async fn p_h3_a_stream_that_nothing_stops_ends_as_its_upstream_ends_it() {
    for client in ["h2", "http/1.1"] {
        let world = standalone(&["http/1.1"]).await;
        let mut body = asks(&world, client, "/v1/events").await.into_body();
        world.finish.notify_one();
        assert_eq!(rest(&mut body).await, ("data: first\n\ndata: last\n\n".to_owned(), true));
        drop(body);
        let line = world.line(&[("event", "end")]).await;
        assert!(line["reason"].is_null() && line["lastEvent"].is_null(), "{line}");
        // One that the upstream breaks off has no word of ours.
        let broken = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\nd\r\ndata: first\n\n\r\n";
        let behaviour = Behaviour::new(move |mut io| async move {
            let mut head = [0; 4096];
            let _ = io.read(&mut head).await;
            let _ = io.write_all(broken.as_bytes()).await;
            let _ = io.shutdown().await;
        });
        let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
        let world = build(setup).await;
        let mut body = asks(&world, client, "/v1/x").await.into_body();
        assert_eq!(rest(&mut body).await, ("data: first\n\n".to_owned(), false), "{client}");
        let line = world.line(&[("event", "end")]).await;
        assert_eq!((&line["reason"], line["lastEvent"].is_null()), (&"AnswerBroken".into(), true));
    }
}

#[tokio::test]
async fn p_h3_half_an_event_is_not_passed_on_where_the_stream_is_stopped_and_is_where_its_upstream_ends_it() {
    for client in ["h2", "http/1.1"] {
        let kind = vec![("content-type", "Text/Event-Stream; charset=utf-8")];
        let setup = Setup {
            protocols: vec!["http/1.1"],
            behaviour: Some(telling(kind, vec!["data: whole\n\nid: 7\n", "data: {\"ha"])),
            ..Setup::default()
        };
        let world = build(setup).await;
        let mut body = asks(&world, client, "/v1/x").await.into_body();
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, "data: whole\n\n");
        world.edit(|document| document.replace(RULE, ELSEWHERE)).await;
        let (text, is_whole) = rest(&mut body).await;
        let (before, told) = last(&text);
        assert_eq!((before, is_whole, &told["reason"]), ("", true, &"PathNotAllowed".into()));
        let line = world.line(&[("event", "end")]).await;
        assert_eq!(line["bytesDown"], "data: whole\n\n".len(), "what was passed on");
        let half =
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: {\"ha";
        let behaviour = Behaviour::new(move |mut io| async move {
            let mut head = [0; 4096];
            let _ = io.read(&mut head).await;
            let _ = io.write_all(half.as_bytes()).await;
            let _ = io.shutdown().await;
        });
        let setup = Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() };
        let world = build(setup).await;
        let mut body = asks(&world, client, "/v1/x").await.into_body();
        assert_eq!(rest(&mut body).await, ("data: {\"ha".to_owned(), true), "{client}");
    }
}

#[tokio::test]
async fn p_h3_half_an_event_that_is_too_long_to_be_held_becomes_none_that_a_client_takes_for_a_whole_one() {
    const LONG: usize = 100 * 1024;
    let long: &str = Box::leak(format!("id: 7\ndata: {{\"{}", "x".repeat(LONG)).into_boxed_str());
    for client in ["h2", "http/1.1"] {
        let setup = Setup {
            protocols: vec!["http/1.1"],
            behaviour: Some(telling(vec![("content-type", "text/event-stream")], vec![long])),
            ..Setup::default()
        };
        let world = build(setup).await;
        let mut body = asks(&world, client, "/v1/x").await.into_body();
        let mut passed = 0;
        while passed < long.len() {
            passed += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
        }
        world.edit(|document| document.replace(RULE, ELSEWHERE)).await;
        let (text, is_whole) = rest(&mut body).await;
        let (before, told) = last(&text);
        let cut = "...\nevent: agentsandbox-cut\ndata: (the rest of this event was not passed on)\nid: \n\n";
        assert_eq!((before, is_whole, &told["reason"]), (cut, true, &"PathNotAllowed".into()));
    }
}

#[tokio::test]
async fn p_h3_a_stream_that_is_longer_than_its_rule_takes_says_so() {
    let behaviour = telling(
        vec![("content-type", "text/event-stream")],
        vec!["data: 1\n\n", "data: 22\n\n", "data: 3\n\n"],
    );
    for (limit, passed) in
        [("answer: {maxBytes: 18}}", "data: 1\n\n"), ("answer: {maxBytes: 19}}", "data: 1\n\ndata: 22\n\n")]
    {
        let setup = Setup {
            protocols: vec!["h2"],
            behaviour: Some(behaviour.clone()),
            policy: vec![("websocket: Allow}", limit)],
            ..Setup::default()
        };
        let world = build(setup).await;
        let mut body = asks(&world, "h2", "/v1/x").await.into_body();
        let (text, is_whole) = rest(&mut body).await;
        let (before, told) = last(&text);
        assert_eq!((before, is_whole, &told["reason"]), (passed, true, &"AnswerTooLarge".into()));
    }
}

#[tokio::test]
async fn p_h3_what_no_event_can_be_added_to_breaks_off() {
    let of_events = ("content-type", "text/event-stream");
    let without_key = (", credential: good, websocket: Allow", "");
    let elsewhere = ("scopes: [{host: api.good.test", "scopes: [{host: other.good.test");
    for (fields, policy) in [
        (vec![of_events, ("content-length", "100")], vec![]),
        (vec![of_events, ("content-encoding", "gzip")], vec![without_key, elsewhere]),
        (vec![("content-type", "text/event-streams")], vec![]),
        (vec![("content-type", "application/x-ndjson")], vec![]),
    ] {
        for client in ["h2", "http/1.1"] {
            let setup = Setup {
                protocols: vec!["http/1.1"],
                behaviour: Some(telling(fields.clone(), vec!["data: first\n\n"])),
                policy: policy.clone(),
                ..Setup::default()
            };
            let world = build(setup).await;
            let mut body = asks(&world, client, "/v1/x").await.into_body();
            assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: first\n\n");
            world.edit(|document| document.replace("paths: ['/v1/**']", "paths: ['/v2/**']")).await;
            assert_eq!(rest(&mut body).await, (String::new(), false), "{fields:?} {client}");
            let line = world.line(&[("event", "end")]).await;
            assert_eq!((&line["reason"], line["lastEvent"].is_null()), (&"PathNotAllowed".into(), true));
        }
    }
}

#[tokio::test]
async fn p_h3_a_client_of_http_1_0_has_the_last_event_too() {
    let world = standalone(&["http/1.1"]).await;
    let head = format!("GET {} HTTP/1.0\r\nhost: {}\r\n\r\n", world.url("/v1/events"), world.authority());
    let mut io = to(&world, Entrance::HttpProxy).await;
    io.write_all(head.as_bytes()).await.unwrap();
    let mut answered = Vec::new();
    while !answered.ends_with(b"data: first\n\n") {
        answered.push(io.read_u8().await.unwrap());
    }
    world.edit(|document| document.replace(RULE, ELSEWHERE)).await;
    io.read_to_end(&mut answered).await.unwrap();
    let answered = String::from_utf8(answered).unwrap();
    let (_, body) = answered.split_once("\r\n\r\n").unwrap();
    let (before, told) = last(body);
    assert_eq!((before, &told["reason"]), ("data: first\n\n", &"PathNotAllowed".into()), "{answered}");
}

#[tokio::test]
async fn p_h3_a_stream_beside_an_upload_that_is_stopped_says_so() {
    for upstream in ["h2", "http/1.1"] {
        let setup = Setup {
            protocols: vec![upstream],
            behaviour: Some(telling(vec![("content-type", "text/event-stream")], vec!["data: 1\n\n"])),
            policy: vec![("websocket: Allow}", "limits: {uploadBytes: 4000}}")],
            ..Setup::default()
        };
        let world = build(setup).await;
        let (pieces, sent) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
        let sent = futures::stream::unfold(sent, |mut sent| async {
            Some((Ok::<_, Infallible>(Frame::data(sent.recv().await?)), sent))
        });
        let request = Request::post(world.url("/v1/x")).body(StreamBody::new(Box::pin(sent))).unwrap();
        let io = TokioIo::new(tunnel(&world, "h2").await);
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        pieces.send(Bytes::from(vec![b'x'; 100])).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "data: 1\n\n");
        pieces.send(Bytes::from(vec![b'x'; 4000])).unwrap();
        let (text, is_whole) = rest(&mut body).await;
        let (before, told) = last(&text);
        assert_eq!(
            (before, is_whole, &told["reason"]),
            ("", true, &"UploadLimitExceeded".into()),
            "{upstream}"
        );
        let advice = told["howToAllow"].as_str().unwrap();
        assert!(advice.starts_with("Rule good lets 4000 bytes"), "as a refusal says it: {advice}");
        let line = world.line(&[("event", "end")]).await;
        assert_eq!((&line["reason"], &line["lastEvent"]), (&"UploadLimitExceeded".into(), &true.into()));
    }
}

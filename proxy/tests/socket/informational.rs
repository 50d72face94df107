//! Informational answers of upstreams (1xx): they end at the proxy, and the final answer is whole behind them, or there is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::entrances::to;
use crate::flow::tunnel;
use crate::upstream::Behaviour;
use crate::world::{Answer, Setup, World, build, get, over_http1, over_http2};

const FINAL: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-final: yes\r\n\r\nok";
/// As many as are taken at once.
const MOST: usize = 64;

/// What an upstream has seen.
#[derive(Default)]
struct Seen {
    /// Informational answers that it has sent.
    sent: AtomicUsize,
    /// Its connection has ended.
    ended: Notify,
}

/// An upstream over HTTP/1.1 that says these statuses before the answer, and no answer where it is endless.
fn over_one(statuses: Vec<u16>, endless: bool, seen: Arc<Seen>) -> Behaviour {
    Behaviour::new(move |mut io| {
        let (statuses, seen) = (statuses.clone(), Arc::clone(&seen));
        async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = io.read_u8().await else { return };
                head.push(byte);
            }
            for status in &statuses {
                let early = format!("HTTP/1.1 {status} Early\r\nlink: </x.css>; rel=preload\r\n\r\n");
                if io.write_all(early.as_bytes()).await.is_err() {
                    return seen.ended.notify_one();
                }
                seen.sent.fetch_add(1, Ordering::SeqCst);
            }
            if !endless {
                let _ = io.write_all(FINAL.as_bytes()).await;
            }
            let _ = io.flush().await;
            let _ = io.read_u8().await;
            seen.ended.notify_one();
        }
    })
}

/// A frame of the first request's stream, or of none (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A head with this status and one field, nothing of it from a table but the name of the status (RFC 7541, 6.2.2).
fn head(status: u16, name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let block = [vec![0x08], text(&status.to_string()), vec![0], text(name), text(value)].concat();
    frame(1, 4, 1, &block)
}

/// The same over HTTP/2.
fn over_two(statuses: Vec<u16>, endless: bool, seen: Arc<Seen>) -> Behaviour {
    Behaviour::new(move |mut io| {
        let (statuses, seen) = (statuses.clone(), Arc::clone(&seen));
        async move {
            let mut preface = [0; 24];
            io.read_exact(&mut preface).await.unwrap();
            io.write_all(&frame(4, 0, 0, &[])).await.unwrap();
            let mut kind = 0;
            while kind != 1 {
                let mut head = [0; 9];
                io.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                io.read_exact(&mut payload).await.unwrap();
                kind = head[3];
            }
            for status in &statuses {
                if io.write_all(&head(*status, "link", "</x.css>; rel=preload")).await.is_err() {
                    return seen.ended.notify_one();
                }
                seen.sent.fetch_add(1, Ordering::SeqCst);
            }
            if !endless {
                let _ = io.write_all(&[head(200, "x-final", "yes"), frame(0, 1, 1, b"ok")].concat()).await;
            }
            let _ = io.flush().await;
            let _ = tokio::io::copy(&mut io, &mut tokio::io::sink()).await;
            seen.ended.notify_one();
        }
    })
}

async fn world(upstream: &'static str, behaviour: Behaviour) -> World {
    build(Setup { protocols: vec![upstream], behaviour: Some(behaviour), ..Setup::default() }).await
}

async fn asks(world: &World, client: &str) -> Answer {
    let io = tunnel(world, client).await;
    match client {
        "h2" => over_http2(io, get(&world.url("/v1/x"), &world.authority())).await,
        _ => over_http1(io, get("/v1/x", &world.authority())).await,
    }
}

#[tokio::test]
async fn p_d9_what_comes_before_an_answer_is_dropped_and_the_answer_is_whole() {
    for statuses in [vec![100], vec![102, 103], vec![103; MOST]] {
        for upstream in ["h2", "http/1.1"] {
            for client in ["h2", "http/1.1"] {
                let seen = Arc::<Seen>::default();
                let upstreams = if upstream == "h2" { over_two } else { over_one };
                let world = world(upstream, upstreams(statuses.clone(), false, Arc::clone(&seen))).await;
                let answer = asks(&world, client).await;
                assert_eq!(
                    (answer.status, answer.body.as_str()),
                    (StatusCode::OK, "ok"),
                    "{upstream} {client}"
                );
                let fields: &HeaderMap = &answer.headers;
                assert!(fields.contains_key("x-final") && !fields.contains_key("link"), "{fields:?}");
                assert_eq!(seen.sent.load(Ordering::SeqCst), statuses.len(), "they were sent");
            }
        }
    }
}

#[tokio::test]
async fn p_d9_a_flood_of_informational_answers_is_a_bad_gateway_and_ends_the_connection() {
    for upstream in ["h2", "http/1.1"] {
        for client in ["h2", "http/1.1"] {
            let upstreams = if upstream == "h2" { over_two } else { over_one };
            let seen = Arc::<Seen>::default();
            // More than come into the time that the first take, however slow this machine is.
            let world = world(upstream, upstreams(vec![103; 3 * MOST], true, Arc::clone(&seen))).await;
            let answered = tokio::time::timeout(Duration::from_secs(30), asks(&world, client)).await;
            let answer = answered.unwrap_or_else(|_| panic!("{upstream} {client}: it is waited for"));
            assert_eq!(answer.status, StatusCode::BAD_GATEWAY, "{upstream} {client}");
            assert!(answer.body.contains("\"UpstreamUnreachable\""), "{}", answer.body);
            let line = world.line(&[("event", "end")]).await;
            assert_eq!(line["reason"], "UpstreamUnreachable");
            let ended = tokio::time::timeout(Duration::from_secs(30), seen.ended.notified()).await;
            assert!(ended.is_ok(), "{upstream} {client}: its connection stays open");
        }
    }
}

#[tokio::test]
async fn an_agent_that_expects_to_be_asked_is_asked_once_it_is_allowed_and_never_where_it_is_refused() {
    let world = crate::world::standalone(&["h2", "http/1.1"]).await;
    let head = |path: &str| {
        let (url, host) = (world.url(path), world.authority());
        format!(
            "POST {url} HTTP/1.1\r\nhost: {host}\r\nexpect: 100-continue\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
        )
    };
    let mut io = to(&world, Entrance::HttpProxy).await;
    io.write_all(head("/v1/x").as_bytes()).await.unwrap();
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        asked.push(io.read_u8().await.unwrap());
    }
    assert_eq!(
        String::from_utf8(asked).unwrap(),
        "HTTP/1.1 100 Continue\r\n\r\n",
        "before it sends anything"
    );
    io.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    io.read_to_string(&mut answer).await.unwrap();
    // The echo comes backwards.
    let echo: String = answer.chars().rev().collect();
    assert!(answer.starts_with("HTTP/1.1 200 ") && echo.contains("body: 5 bytes"), "{answer}");
    assert!(!echo.contains("expect"), "{echo}");
    let mut io = to(&world, Entrance::HttpProxy).await;
    io.write_all(head("/v2/x").as_bytes()).await.unwrap();
    let mut refused = Vec::new();
    // It may be reset behind the answer.
    let _ = io.read_to_end(&mut refused).await;
    let refused = String::from_utf8(refused).unwrap();
    assert!(refused.starts_with("HTTP/1.1 403 ") && !refused.contains("100 Continue"), "{refused}");
}

#[tokio::test]
async fn an_agent_that_expects_to_be_asked_is_served_over_http_2() {
    let world = crate::world::standalone(&["h2", "http/1.1"]).await;
    let mut request = get(&world.url("/v1/x"), &world.authority());
    *request.method_mut() = http::Method::POST;
    *request.body_mut() = http_body_util::Full::from("hello");
    request.headers_mut().insert("expect", "100-continue".parse().unwrap());
    let answer = over_http2(tunnel(&world, "h2").await, request).await;
    assert!(answer.body.contains("body: 5 bytes") && !answer.body.contains("expect"), "{}", answer.body);
}

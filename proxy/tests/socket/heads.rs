//! Heads that are not read, and what their sender is told.

use agentsandbox_proxy::entrance::Entrance;
use http::StatusCode;

use crate::framing::{OK, requests};
use crate::world::{World, scripted, speak};

/// The first answer on a connection on which these bytes are sent.
async fn told(world: &World, bytes: &[u8]) -> (StatusCode, serde_json::Value) {
    let answer = speak(world, Entrance::HttpProxy, bytes).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status =
        head.get(9..12).and_then(|status| status.parse().ok()).and_then(|n| StatusCode::from_u16(n).ok());
    let length = format!("content-length: {}", body.len());
    assert!(head.lines().any(|line| line == length), "{answer}");
    (status.unwrap(), serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn p_d10_a_head_beyond_a_limit_is_told_what_would_be_taken_and_that_is() {
    let world = scripted(OK).await;
    let head = |target: &str, lines: &str| {
        format!("GET {target} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n{lines}\r\n", world.authority())
    };
    let url = |length: usize| world.url(&format!("/v1/{}", "x".repeat(length - 4)));
    let fields = |count: usize| "x: y\r\n".repeat(count);
    let large = |bytes: usize| format!("x: {}\r\n", "y".repeat(bytes));
    let (uri, head_fields) = (StatusCode::URI_TOO_LONG, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    for (refused, status, says) in [
        (head(&url((8 << 10) + 1), ""), uri, "a path and query of 8192 bytes at most."),
        (head(&url(80 << 10), ""), uri, "a path and query of 8192 bytes at most."),
        (format!("\r\n\r\n{}", head(&url(80 << 10), "")), uri, "a path and query of 8192 bytes at most."),
        (head(&url(10), &fields(99)), head_fields, "Send 100 header fields at most"),
        (head(&url(10), &large(64 << 10)), head_fields, "64 KiB of them together with the request line."),
    ] {
        let (answered, told) = told(&world, refused.as_bytes()).await;
        assert_eq!((answered, &told["reason"]), (status, &"LimitExceeded".into()), "{told}");
        assert!(told["howToAllow"].as_str().unwrap().contains(says), "{told}");
        let line = world.line(&[("requestId", told["requestId"].as_str().unwrap())]).await;
        assert_eq!((&line["event"], &line["status"]), (&"deny".into(), &status.as_u16().into()));
    }
    assert_eq!(requests(&world), 0);
    let room = (64 << 10) - head(&url(10), &large(0)).len();
    for allowed in [head(&url(8 << 10), ""), head(&url(10), &fields(98)), head(&url(10), &large(room))] {
        let answer = speak(&world, Entrance::HttpProxy, allowed.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn p_d3_a_head_that_cannot_be_read_is_told_so_and_one_after_another_request_gets_one_answer() {
    let world = scripted(OK).await;
    let (answered, told) = told(&world, b"GET / HTTP/1.1\r\nhost : x\r\n\r\n").await;
    assert_eq!((answered, &told["reason"]), (StatusCode::BAD_REQUEST, &"MalformedRequest".into()));
    let good = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", world.url("/v1/x"), world.authority());
    let answer = speak(&world, Entrance::HttpProxy, [&good, "nonsense\r\n\r\n"].concat().as_bytes()).await;
    let answers: Vec<_> = answer.match_indices("HTTP/1.1 ").map(|(at, _)| &answer[at + 9..at + 12]).collect();
    assert_eq!(answers, ["200", "400"], "{answer}");
}

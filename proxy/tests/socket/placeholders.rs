//! Placeholders, keys of the agent's own, and the two places of a secret that have no field of their own, through the whole
//! proxy.

use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::entrances::to;
use crate::world::{Answer, KEY, Setup, World, build, over_http1, speak};

const PLACEHOLDER: &str = "sk-placeholder-0123456789abcdef";
const INJECT: &str = "  inject: {type: Header, name: x-api-key}";

/// A world whose credential has a placeholder; `inject` says where its secret goes.
async fn world(inject: &'static str, protocol: &'static str, script: Option<Vec<u8>>) -> World {
    let policy = vec![(INJECT, inject)];
    build(Setup { protocols: vec![protocol], script, policy, ..Setup::default() }).await
}

async fn with_secret(inject: &'static str, protocol: &'static str, secret: &'static str) -> World {
    let policy = vec![(INJECT, inject)];
    build(Setup { protocols: vec![protocol], secret: Some(secret), policy, ..Setup::default() }).await
}

const HEADER: &str =
    "  placeholders: [sk-placeholder-0123456789abcdef]\n  inject: {type: Header, name: x-api-key}";
const COOKIE: &str =
    "  placeholders: [sk-placeholder-0123456789abcdef]\n  inject: {type: Cookie, name: session}";
const PATH: &str =
    "  placeholders: [sk-placeholder-0123456789abcdef]\n  inject: {type: PathSegment, after: /v1/bot}";

async fn sent(world: &World, path: &str, field: (&str, &str), body: &'static str) -> Answer {
    let request = Request::post(world.url(path)).header("host", world.authority()).header(field.0, field.1);
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    over_http1(to(world, Entrance::HttpProxy).await, request).await
}

#[tokio::test]
async fn p_i11_a_placeholder_that_would_leave_is_refused_written_down_and_not_sent() {
    let world = world(HEADER, "http/1.1", None).await;
    for (path, field) in [
        ("/v1/x", ("x-note", PLACEHOLDER)),
        ("/v1/x?q=sk-placeholder-0123456789abcdef", ("x-note", "1")),
        ("/v1/sk%2dplaceholder-0123456789abcdef", ("x-note", "1")),
    ] {
        let answer = sent(&world, path, field, "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{path} {field:?}");
        assert!(answer.body.contains("PlaceholderMisuse"), "{}", answer.body);
    }
    assert_eq!(world.upstream_connections(), 0);
    let line = world.line(&[("event", "deny"), ("reason", "PlaceholderMisuse")]).await;
    assert_eq!((&line["credential"], &line["rule"]), (&"good".into(), &"good".into()));
    let answer = sent(&world, "/v1/x", ("x-api-key", PLACEHOLDER), "").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.contains(&format!("x-api-key: {KEY}\n")) && !answer.body.contains(PLACEHOLDER));
}

#[tokio::test]
async fn p_f3_a_body_with_a_placeholder_is_broken_off_towards_each_kind_of_upstream() {
    for protocol in ["http/1.1", "h2"] {
        let world = world(HEADER, protocol, None).await;
        let answer =
            sent(&world, "/v1/x", ("x-note", "1"), "{\"k\": \"sk-placeholder-0123456789abcdef\"}").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{protocol}");
        assert!(answer.body.contains("PlaceholderMisuse"), "{}", answer.body);
        let line = world.line(&[("event", "end"), ("decision", "deny")]).await;
        assert_eq!(
            (&line["reason"], &line["bytesUp"]),
            (&"PlaceholderMisuse".into(), &0.into()),
            "{protocol}"
        );
        let answer = sent(&world, "/v1/x", ("x-note", "1"), "{\"k\": \"sk-placeholder\"}").await;
        assert_eq!(answer.status, StatusCode::OK, "{protocol}");
    }
}

/// Sends the pieces of a request one by one, each once the upstream has all before it, until the answer ends.
async fn in_pieces(world: &World, pieces: &[&str]) -> String {
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        world.url("/v1/x"),
        world.authority()
    );
    let mut io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    io.write_all(head.as_bytes()).await.unwrap();
    for (number, piece) in pieces.iter().enumerate() {
        io.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await.unwrap();
        while number + 1 < pieces.len() && !world.received().contains(piece) {
            tokio::task::yield_now().await;
        }
    }
    let mut answer = Vec::new();
    let _ = io.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn p_f3_a_body_that_streams_already_ends_before_the_placeholder_is_whole_and_its_line_says_why() {
    let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n".to_vec();
    let world = world(HEADER, "http/1.1", Some(endless)).await;
    let pieces = in_pieces(&world, &["first sk-placehold", "er-0123456789abcdef last"]);
    assert!(timeout(Duration::from_secs(10), pieces).await.is_ok(), "the answer goes on for ever");
    let line = world.line(&[("event", "end"), ("reason", "PlaceholderMisuse")]).await;
    assert_eq!((&line["decision"], &line["bytesUp"]), (&"deny".into(), &18.into()));
    while world.upstream_closed() == 0 {
        tokio::task::yield_now().await;
    }
    let received = world.received();
    assert!(received.contains("first sk-placehold") && !received.contains("0123456789abcdef"), "{received}");
}

#[tokio::test]
async fn p_f1_a_key_of_the_agents_own_is_refused_where_a_credential_covers_the_host_and_none_is_put_in() {
    let policy = vec![("credential: good, websocket: Allow", "websocket: Allow"), (INJECT, HEADER)];
    let world = build(Setup { protocols: vec!["http/1.1"], policy, ..Setup::default() }).await;
    for field in [("authorization", "Bearer own"), ("x-api-key", "own"), ("Private_Token", "own")] {
        let answer = sent(&world, "/v1/files", field, "").await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{field:?}");
        assert!(answer.body.contains("ForeignCredential"), "{}", answer.body);
    }
    assert_eq!(world.upstream_connections(), 0);
    world.line(&[("event", "deny"), ("reason", "ForeignCredential")]).await;
    let answer = sent(&world, "/v1/files", ("x-note", "1"), "").await;
    assert!(answer.status == StatusCode::OK && !answer.body.contains(KEY), "{}", answer.body);
}

#[tokio::test]
async fn p_d14_a_session_in_the_trailers_is_lost_where_one_in_the_head_is_on_a_rule_without_the_hosts_credential()
 {
    for (covered, stays) in [("api.good.test", false), ("other.good.test", true)] {
        let scope: &'static str = format!("scopes: [{{host: {covered}, ").leak();
        let policy = vec![
            ("credential: good, websocket: Allow", "websocket: Allow"),
            ("scopes: [{host: api.good.test, ", scope),
        ];
        let world = build(Setup { protocols: vec!["h2"], policy, ..Setup::default() }).await;
        let request = format!(
            "POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ntransfer-encoding: chunked\r\ntrailer: x-plain, cookie\r\n\r\n2\r\nok\r\n0\r\n\
             cookie: session=own\r\nx-plain: stays\r\n\r\n",
            world.url("/v1/x"),
            world.authority()
        );
        let told = speak(&world, Entrance::HttpProxy, request.as_bytes()).await;
        // The upstream's echo is backwards.
        let echo: String = told.chars().rev().collect();
        assert!(echo.contains("trailer x-plain: stays"), "{covered}: {echo}");
        assert_eq!(echo.contains("trailer cookie"), stays, "{covered}: {echo}");
    }
}

#[tokio::test]
async fn p_f1_a_cookie_with_the_key_replaces_every_cookie_of_the_agent() {
    for protocol in ["http/1.1", "h2"] {
        let world = world(COOKIE, protocol, None).await;
        let answer = sent(&world, "/v1/x", ("cookie", "a=own; session=own"), "").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.body.contains(&format!("cookie: session={KEY}\n")), "{}", answer.body);
        assert!(!answer.body.contains("own"), "{}", answer.body);
    }
}

#[tokio::test]
async fn p_f1_no_session_of_the_agents_own_goes_to_a_host_of_a_credential_on_any_rule() {
    for (covers, expected) in [("scopes: [{host: api.good.test", false), ("scopes: [{host: other.test", true)]
    {
        let policy = vec![
            ("credential: good, websocket: Allow", "websocket: Allow"),
            ("scopes: [{host: api.good.test", covers),
        ];
        let world = build(Setup { protocols: vec!["http/1.1"], policy, ..Setup::default() }).await;
        let answer = sent(&world, "/v1/x", ("cookie", "user_session=own"), "").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.body.contains("user_session"), expected, "{covers}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_key_that_would_end_its_cookie_is_not_sent() {
    let world = with_secret(COOKIE, "http/1.1", "key;admin=1").await;
    let answer = sent(&world, "/v1/x", ("x-note", "1"), "").await;
    assert!(answer.body.contains("CredentialUnavailable"), "{}", answer.body);
    assert_eq!(world.upstream_connections(), 0);
}

#[tokio::test]
async fn p_f10_a_key_in_the_path_is_sent_encoded_and_judged_and_written_down_as_its_placeholder() {
    for protocol in ["http/1.1", "h2"] {
        let world = with_secret(PATH, protocol, "123456:AA/b?").await;
        let answer = sent(&world, &format!("/v1/bot{PLACEHOLDER}/send?a=1"), ("x-note", "1"), "").await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        assert!(answer.body.contains("/v1/bot123456:AA%2Fb%3F/send?a=1\n"), "{}", answer.body);
        let line = world.line(&[("event", "end")]).await;
        assert_eq!(line["path"], format!("/v1/bot{PLACEHOLDER}/send"));
        assert!(!format!("{:?}", world.lines()).contains("123456:"), "{:?}", world.lines());
        let bare = sent(&world, "/v1/bot/send", ("x-note", "1"), "").await;
        assert!(bare.body.contains("PlaceholderMisuse"), "{}", bare.body);
        assert_eq!(world.upstream_connections(), 1);
    }
}

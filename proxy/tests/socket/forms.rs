//! Keys of the agent's own in a form, through the whole proxy.

use std::time::Duration;

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::entrances::to;
use crate::own_keys::WITHOUT_CREDENTIAL;
use crate::world::{Answer, Setup, World, build, over_http1};

const JOINED: &str = "application/x-www-form-urlencoded";
const PARTS: &str = "multipart/form-data; boundary=b";
const OWN_PART: &str = "--b\r\nContent-Disposition: form-data; name=\"api_key\"\r\n\r\nown\r\n--b--\r\n";
const OTHER_PART: &str = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"api_key\"\r\n\r\napi_key=1&a\r\n--b--\r\n";

async fn world(policy: Vec<(&'static str, &'static str)>) -> World {
    build(Setup { protocols: vec!["http/1.1"], policy, ..Setup::default() }).await
}

async fn sent(world: &World, fields: &[(&str, &str)], body: &'static str) -> Answer {
    let mut request = Request::post(world.url("/v1/x")).header("host", world.authority());
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).unwrap();
    over_http1(to(world, Entrance::HttpProxy).await, request).await
}

/// Asserts that it is refused, and that the field is named.
fn refused(answer: &Answer, field: &str) {
    assert_eq!(answer.status, StatusCode::FORBIDDEN, "{}", answer.body);
    assert!(answer.body.contains("ForeignCredential") && answer.body.contains(field), "{}", answer.body);
}

#[tokio::test]
async fn p_f1_a_key_of_the_agents_own_in_a_form_is_broken_off_where_the_host_is_sent_a_key_on_any_rule() {
    for policy in [vec![], vec![WITHOUT_CREDENTIAL[0]]] {
        for protocol in ["http/1.1", "h2"] {
            let policy = policy.clone();
            let world = build(Setup { protocols: vec![protocol], policy, ..Setup::default() }).await;
            for (kind, body) in [
                (JOINED, "a=1&api_key=own"),
                (JOINED, "[api_key]=own"),
                (PARTS, OWN_PART),
                ("", "api.key=own"),
            ] {
                refused(&sent(&world, &[("content-type", kind)], body).await, "field api_key");
                let line = world.line(&[("event", "end"), ("reason", "ForeignCredential")]).await;
                assert_eq!((&line["decision"], &line["bytesUp"]), (&"deny".into(), &0.into()), "{protocol}");
            }
            refused(&sent(&world, &[], "api_key=own").await, "field api_key");
            for (kind, body) in
                [(JOINED, "a=1&note=api_key"), (PARTS, OTHER_PART), ("application/json", "api_key=own")]
            {
                let answer = sent(&world, &[("content-type", kind)], body).await;
                assert_eq!(answer.status, StatusCode::OK, "{protocol} {kind}: {}", answer.body);
            }
        }
    }
}

#[tokio::test]
async fn p_f1_a_form_that_cannot_be_read_is_denied_with_its_head_where_the_host_is_sent_a_key() {
    let world = world(vec![]).await;
    let free = self::world(WITHOUT_CREDENTIAL.to_vec()).await;
    for fields in [
        &[("content-type", JOINED), ("content-encoding", "gzip")][..],
        &[("content-encoding", "gzip")],
        &[("content-type", "application/x-www-form-urlencoded; charset=utf-7")],
        &[("content-type", "multipart/form-data; boundary=b; charset=utf-16")],
        &[("content-type", "multipart/form-data")],
        &[("content-type", "text/plain"), ("content-type", JOINED)],
        &[("content-type", "application/json"), ("content_type", JOINED)],
        &[("content-type", JOINED), ("content_encoding", "gzip")],
    ] {
        refused(&sent(&world, fields, "x").await, "one Content-Type");
        let answer = sent(&free, fields, "api_key=own").await;
        assert_eq!(
            answer.status,
            StatusCode::OK,
            "no credential is for this host: {fields:?}: {}",
            answer.body
        );
    }
    assert_eq!(world.upstream_connections(), 0);
    let packed =
        sent(&world, &[("content-type", "application/json"), ("content-encoding", "gzip")], "x").await;
    assert_eq!(packed.status, StatusCode::OK, "{}", packed.body);
}

#[tokio::test]
async fn p_f1_a_form_is_what_the_fields_say_that_are_sent() {
    let unlisted = world(vec![("websocket: Allow}", "headers: [x-plain]}")]).await;
    refused(&sent(&unlisted, &[("content-type", "application/json")], "api_key=own").await, "field api_key");
    let listed = world(vec![("websocket: Allow}", "headers: [content-type]}")]).await;
    let answer = sent(&listed, &[("content-type", "application/json")], "api_key=own").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    // The upstream is told the type that was judged, whatever the agent has taken out.
    let world = world(vec![]).await;
    let taken_out = |kind| [("content-type", kind), ("connection", "content-type")];
    let answer = sent(&world, &taken_out("application/json"), "api_key=own").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert!(answer.body.contains("content-type: application/json"), "{}", answer.body);
    refused(&sent(&world, &taken_out(JOINED), "api_key=own").await, "field api_key");
    refused(&sent(&world, &[("content_type", JOINED)], "api_key=own").await, "field api_key");
}

#[tokio::test]
async fn p_g2_an_account_that_the_credential_pins_is_not_chosen_in_a_form() {
    let world = world(vec![("- name: good\n", "- name: good\n  pinnedHeaders: [{name: sudo}]\n")]).await;
    refused(&sent(&world, &[("content-type", JOINED)], "a=1&[sudo]=root").await, "field sudo");
    let answer = sent(&world, &[("content-type", JOINED)], "a=sudo&sudoku=1").await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
}

#[tokio::test]
async fn p_f1_a_form_that_streams_already_ends_before_the_value_of_a_key() {
    let endless = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n".to_vec();
    let world = build(Setup { protocols: vec!["http/1.1"], script: Some(endless), ..Setup::default() }).await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\ncontent-type: {JOINED}\r\ntransfer-encoding: chunked\r\n\r\n9\r\na=1&api_k\r\n",
        world.url("/v1/x"),
        world.authority()
    );
    let mut io = TcpStream::connect(world.at(Entrance::HttpProxy)).await.unwrap();
    io.write_all(head.as_bytes()).await.unwrap();
    while !world.received().contains("a=1&api_k") {
        tokio::task::yield_now().await;
    }
    io.write_all(b"c\r\ney=own-value\r\n").await.unwrap();
    let mut answer = Vec::new();
    assert!(
        timeout(Duration::from_secs(10), io.read_to_end(&mut answer)).await.is_ok(),
        "the answer goes on for ever"
    );
    let line = world.line(&[("event", "end"), ("reason", "ForeignCredential")]).await;
    assert_eq!((&line["decision"], &line["bytesUp"]), (&"deny".into(), &9.into()));
    assert!(!world.received().contains("own-value"), "{}", world.received());
}

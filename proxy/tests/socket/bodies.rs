//! Bodies are bytes: whatever their fields say of them, they are neither decoded nor read to decide. Only keys are looked for in them, and where
//! a credential is for their host, a form in which none could be found is refused (see `forms`).

use agentsandbox_proxy::entrance::Entrance;

use crate::own_keys::WITHOUT_CREDENTIAL;
use crate::world::{Setup, build, speak};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn p_e7_a_body_is_bytes_whatever_its_fields_say_and_no_decision_depends_on_it() {
    // As it says, not as it says, and damaged.
    let kinds = [
        ("content-encoding: gzip\r\n", "not gzip at all"),
        ("content-encoding: br\r\n", "\u{1b}\u{3}"),
        ("content-encoding: zstd, gzip\r\ncontent-type: application/json\r\n", "{\"method\":\"DELETE\"}"),
        (
            "content-type: application/x-www-form-urlencoded; charset=utf-7\r\n",
            "_method=DELETE&+AF8-path=/admin",
        ),
        ("content-type: multipart/form-data; boundary=a; boundary=b\r\n", "--b\r\nname=x\r\n--a--"),
        ("content-type: application/json\r\n", "{\"host\":\"evil.test\""),
        ("content-type: image/png\r\n", "<html>"),
        ("", "_method=DELETE"),
    ];
    for (fields, body) in kinds {
        for (path, status) in [("/v1/x", "200"), ("/admin", "403")] {
            let policy = WITHOUT_CREDENTIAL.to_vec();
            let script = Some(ANSWER.to_vec());
            let world =
                build(Setup { protocols: vec!["http/1.1"], script, policy, ..Setup::default() }).await;
            let request = format!(
                "POST {} HTTP/1.1\r\nhost: {}\r\n{fields}content-length: {}\r\nconnection: close\r\n\r\n{body}",
                world.url(path),
                world.authority(),
                body.len()
            );
            let told = speak(&world, Entrance::HttpProxy, request.as_bytes()).await;
            assert!(told.starts_with(&format!("HTTP/1.1 {status}")), "{fields}{path}: {told}");
            if status == "200" {
                assert_eq!(world.line(&[("event", "end")]).await["bytesUp"], body.len(), "{fields}");
                let received = world.received();
                assert!(received.starts_with("POST /v1/x ") && received.ends_with(body), "{received}");
                assert!(fields.lines().all(|field| received.contains(field)), "{received}");
            } else {
                assert_eq!(world.upstream_connections(), 0, "{fields}");
            }
        }
    }
}

#[tokio::test]
async fn p_e7_what_a_body_is_said_to_be_goes_on_with_it_though_the_agent_names_it_in_connection() {
    let world =
        build(Setup { protocols: vec!["http/1.1"], script: Some(ANSWER.to_vec()), ..Setup::default() }).await;
    let said = "content-type: application/json\r\ncontent-encoding: identity\r\ncontent-length: 2\r\n";
    let request = format!(
        "POST {} HTTP/1.1\r\nhost: {}\r\nconnection: close, Content-Type, content_encoding, content-length, x-own\r\nx-own: 1\r\n{said}\r\n{{}}",
        world.url("/v1/x"),
        world.authority()
    );
    let told = speak(&world, Entrance::HttpProxy, request.as_bytes()).await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    let received = world.received();
    assert!(said.lines().all(|field| received.contains(field)), "{received}");
    assert!(!received.contains("x-own"), "{received}");
}

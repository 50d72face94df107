//! What `explain` says of a request is what the audit trail says of the same request, sent.

use std::process::Command;

use agentsandbox_proxy::entrance::Entrance;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;

use crate::entrances::to;
use crate::world::{HOST, Setup, World, build, get, over_http1, raw};

const INJECT: &str = "  inject: {type: Header, name: x-api-key}";
const PLACEHOLDER: &str = "sk-placeholder-0123456789abcdef";
const WITH_PLACEHOLDER: &str =
    "  placeholders: [sk-placeholder-0123456789abcdef]\n  inject: {type: Header, name: x-api-key}";

struct Case {
    request: String,
    fields: Vec<(&'static str, String)>,
    body: String,
}

fn case(request: String, fields: &[(&'static str, &str)], body: &str) -> Case {
    let fields = fields.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Case { request, fields, body: body.to_owned() }
}

fn cases(world: &World) -> Vec<(Case, &'static str)> {
    let port = world.upstream.port();
    let url = |method: &str, path: &str| format!("{method} https://{HOST}:{port}{path}");
    let in_query = format!("/v1/x?k={PLACEHOLDER}");
    let in_body = format!("{{\"k\": \"{PLACEHOLDER}\"}}");
    vec![
        (case(url("GET", "/v1/x"), &[], ""), "allow"),
        (case(url("POST", "/v1/x?q=1"), &[("x-api-key", PLACEHOLDER)], "text"), "allow"),
        (case(url("GET", "/v1/x"), &[("authorization", "Bearer its-own-key")], ""), "allow"),
        (case(url("GET", "/bare/x"), &[], ""), "allow"),
        (case(url("GET", "/v1/%2e%2e/v1/x"), &[], ""), "allow"),
        (case(url("GET", "/v1/x"), &[("x-note", PLACEHOLDER)], ""), "PlaceholderMisuse"),
        (case(url("GET", &in_query), &[], ""), "PlaceholderMisuse"),
        (case(url("GET", "/bare/x"), &[("x-api-key", PLACEHOLDER)], ""), "PlaceholderMisuse"),
        (case(url("POST", "/v1/x"), &[], &in_body), "PlaceholderMisuse"),
        (case(url("GET", "/bare/x"), &[("x-api-key", "sk-of-the-agent")], ""), "ForeignCredential"),
        (case(url("GET", "/v2"), &[], ""), "PathNotAllowed"),
        (case(url("DELETE", "/v1/x"), &[], ""), "MethodNotAllowed"),
        (case("GET https://evil.test/".to_owned(), &[], ""), "HostNotAllowed"),
        (case("GET http://plain.good.test:8080/".to_owned(), &[], ""), "PortNotAllowed"),
        (case(url("GET", "/scope/x"), &[], ""), "CredentialScope"),
        (
            case(url("GET", "/v1/x"), &[("upgrade", "h2c"), ("connection", "upgrade")], ""),
            "UnsupportedProtocol",
        ),
    ]
}

fn explained(world: &World, case: &Case) -> (bool, Value) {
    let body = world.folder.path().join("body");
    std::fs::write(&body, &case.body).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentsandbox-proxy"));
    command.arg("explain").arg("--policy").arg(world.folder.path().join("policy.yaml"));
    command.args(["--request", &case.request]).arg("--body").arg(body);
    for (name, value) in &case.fields {
        command.args(["--header", &format!("{name}: {value}")]);
    }
    let output = command.output().unwrap();
    let told = serde_json::from_slice(&output.stdout);
    (output.status.success(), told.unwrap_or_else(|_| panic!("{output:?}")))
}

/// Sends the request, and gives back the line that tells what became of it.
async fn audited(world: &World, case: &Case) -> Value {
    let (method, url) = case.request.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(url);
    request = request.header("host", url.split('/').nth(2).unwrap());
    for (name, value) in &case.fields {
        request = request.header(*name, value);
    }
    let before = world.lines().len();
    let request = request.body(Full::new(Bytes::from(case.body.clone()))).unwrap();
    over_http1(to(world, Entrance::HttpProxy).await, request).await;
    for lines in before + 1.. {
        let last = world.audit(lines).await.pop().unwrap();
        if last["event"] != "begin" {
            return last;
        }
    }
    unreachable!("each request ends")
}

#[tokio::test]
async fn what_is_explained_is_what_is_written_down_when_the_request_is_sent() {
    let more = "paths: ['/v1/**', '/scope/**']";
    let bare = "rules:\n- {name: bare, host: api.good.test, ports: [1], scheme: https, methods: [GET], paths: ['/bare/**']}";
    let policy = vec![(INJECT, WITH_PLACEHOLDER), ("paths: ['/v1/**']", more), ("rules:", bare)];
    let world = build(Setup { protocols: vec!["http/1.1"], policy, ..Setup::default() }).await;
    let port = world.upstream.port();
    world
        .edit(|text| {
            let scoped = format!("scopes: [{{host: {HOST}, ports: [{port}]}}]");
            assert!(text.contains(&scoped));
            let narrowed = format!("scopes: [{{host: {HOST}, ports: [{port}], paths: ['/v1/**']}}]");
            text.replace("[1]", &format!("[{port}]")).replace(&scoped, &narrowed)
        })
        .await;
    for (case, expected) in cases(&world) {
        let (allowed, told) = explained(&world, &case);
        let line = audited(&world, &case).await;
        let is_presented = matches!(expected, "PlaceholderMisuse" | "ForeignCredential");
        let advice = told["denial"]["howToAllow"].as_str().unwrap_or_default();
        assert!(!is_presented || (!advice.is_empty() && !advice.contains('`')), "nothing to write: {advice}");
        let decision = told["decision"].as_str().unwrap();
        assert_eq!(
            (line["decision"].as_str().unwrap(), allowed),
            (decision, decision == "allow"),
            "{told}\n{line}"
        );
        let (says, fields) = if allowed {
            ("allow", &told)
        } else {
            (told["denial"]["reason"].as_str().unwrap(), &told["denial"])
        };
        assert_eq!(says, expected, "{told}");
        assert_eq!(line["reason"].as_str().unwrap_or("allow"), expected, "{line}");
        for field in ["rule", "host", "port", "method", "path", "credential"] {
            if !fields[field].is_null() || allowed {
                assert_eq!(line[field], fields[field], "{field} of {}: {told}\n{line}", case.request);
            }
        }
        assert_eq!(told["place"].as_str().is_some(), !fields["credential"].is_null() && allowed);
    }
}

#[tokio::test]
async fn what_a_denied_connect_says_to_write_allows_what_its_client_sends_then() {
    for (port, scheme) in [(80, "http"), (443, "https"), (8080, "https")] {
        let policy = vec![(", uid: u1", "")];
        let world = build(Setup { protocols: vec!["http/1.1"], policy, ..Setup::default() }).await;
        let authority = format!("new.test:{port}");
        let connect =
            format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
        let refusal = raw(&world, Entrance::HttpProxy, connect.as_bytes()).await;
        let told: Value = serde_json::from_str(refusal.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let advice = told["howToAllow"].as_str().unwrap();
        assert!(advice.contains(&format!("ports: [{port}], scheme: {scheme}}}`")), "{advice}");
        assert_eq!(advice.contains("If plain HTTP is spoken there"), port == 8080, "{advice}");
        let snippet = advice.split('`').nth(1).unwrap().to_owned();
        world.edit(|text| text.replace("rules:\n", &format!("rules:\n{snippet}\n"))).await;
        let io = world.connect(&authority).await.unwrap();
        // It is allowed, and then no such host is found.
        let (event, host) = (("event", "end"), ("host", "new.test"));
        if scheme == "http" {
            over_http1(io, get("/x", "new.test")).await;
        } else {
            let io = world.tls(io, "new.test", "http/1.1").await.unwrap();
            over_http1(io, get("/x", &authority)).await;
        }
        let line = world.line(&[event, host]).await;
        assert_eq!((&line["rule"], &line["decision"]), (&"new.test".into(), &"allow".into()), "{line}");
    }
}

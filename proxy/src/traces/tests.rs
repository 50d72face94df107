use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::*;
use crate::audit::tests::request_id;

/// As it is written in a document.
const POLICY: &str = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: team, name: fix-login, uid: u1}, generation: 7, rules: []}";

fn span() -> Span {
    Span {
        ended: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5),
        took: Duration::from_millis(1500),
        entrance: Entrance::HttpProxy,
        decision: Decision::Allow,
        reason: None,
        request_id: request_id(1, 2),
        host: Some("api.good.test".into()),
        port: Some(443),
        method: Some(Cow::Borrowed("POST")),
        rule: Some("good".into()),
        address: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)), 443)),
        status: Some(200),
        bytes_up: 12,
        bytes_down: u64::from(u32::MAX) + 1,
        generation: 7,
    }
}

fn denied() -> Span {
    Span { decision: Decision::Deny, reason: Some(DenialReason::HostNotAllowed), status: Some(403), ..span() }
}

fn encoded(spans: &[Span]) -> Value {
    let policy = agentsandbox_policy::Policy::from_yaml(POLICY).unwrap();
    serde_json::from_slice(&otlp::request(&policy, spans).unwrap()).unwrap()
}

/// The attributes by name, each with the name of its type.
fn attributes(of: &Value) -> Vec<(String, Value)> {
    let list = of["attributes"].as_array().unwrap();
    list.iter().map(|each| (each["key"].as_str().unwrap().to_owned(), each["value"].clone())).collect()
}

fn attribute(span: &Value, name: &str) -> Option<Value> {
    attributes(span).into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

fn dropped(metrics: &Metrics, why: Dropped) -> u64 {
    let line = format!("agentsandbox_proxy_spans_dropped_total{{reason=\"{}\"}} ", why.as_str());
    let text = metrics.render();
    text.lines().find_map(|each| each.strip_prefix(&line)?.parse().ok()).unwrap()
}

#[test]
fn a_span_is_encoded_as_otlp_has_it_in_json() {
    let all = encoded(&[span()]);
    let [resource] = all["resourceSpans"].as_array().unwrap().as_slice() else { panic!("{all}") };
    let text = |text: &str| json!({"stringValue": text});
    assert_eq!(
        attributes(&resource["resource"]),
        [
            ("service.name", text("agentsandbox-proxy")),
            ("service.version", text(env!("CARGO_PKG_VERSION"))),
            ("k8s.namespace.name", text("team")),
            ("agentsandbox.sandbox.name", text("fix-login")),
            ("agentsandbox.sandbox.uid", text("u1")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
    );
    let span = &resource["scopeSpans"][0]["spans"][0];
    // Numbers of 64 bits are decimal strings, and enums are numbers.
    assert_eq!(span["endTimeUnixNano"], "1700000000000000005");
    assert_eq!(span["startTimeUnixNano"], "1699999998500000005");
    assert_eq!((&span["kind"], &span["status"]), (&json!(3), &json!({"code": 0})));
    assert_eq!((&span["name"], span.get("parentSpanId"), span.get("links")), (&json!("POST"), None, None));
    let int = |number: u64| json!({"intValue": number.to_string()});
    assert_eq!(
        attributes(span),
        [
            ("agentsandbox.decision", text("allow")),
            ("agentsandbox.rule", text("good")),
            ("agentsandbox.entrance", text("http-proxy")),
            ("agentsandbox.request_id", text("0000000000000001-000002")),
            ("agentsandbox.generation", int(7)),
            ("http.request.method", text("POST")),
            ("http.response.status_code", int(200)),
            ("http.request.body.size", int(12)),
            ("http.response.body.size", int(4_294_967_296)),
            ("server.address", text("api.good.test")),
            ("server.port", int(443)),
            ("network.peer.address", text("192.0.2.7")),
            ("network.peer.port", int(443)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
    );
}

#[test]
fn every_span_is_a_trace_of_its_own() {
    let all = encoded(&[span(), span()]);
    let spans = all["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap();
    for (id, digits) in [("traceId", 32), ("spanId", 16)] {
        let ids: Vec<_> = spans.iter().map(|span| span[id].as_str().unwrap()).collect();
        assert_ne!(ids[0], ids[1]);
        let is_hex = |id: &&str| id.len() == digits && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        assert!(ids.iter().all(is_hex), "{ids:?}");
    }
}

#[test]
fn what_is_refused_or_fails_is_an_error_with_its_reason() {
    let refused = Span {
        decision: Decision::Deny,
        reason: Some(DenialReason::HostNotAllowed),
        method: None,
        status: Some(403),
        ..span()
    };
    let answered = |status| Span { status: Some(status), ..span() };
    let all = encoded(&[refused, answered(404), answered(204)]);
    let [refused, not_found, good] =
        all["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().as_slice()
    else {
        panic!("{all}")
    };
    assert_eq!(refused["status"], json!({"code": 2, "message": "HostNotAllowed"}));
    assert_eq!(refused["name"], "http-proxy", "without a method it is called after its entrance");
    for name in ["agentsandbox.reason", "error.type"] {
        assert_eq!(attribute(refused, name), Some(json!({"stringValue": "HostNotAllowed"})));
    }
    assert_eq!(attribute(refused, "agentsandbox.decision"), Some(json!({"stringValue": "deny"})));
    assert_eq!(not_found["status"], json!({"code": 2}));
    assert_eq!(attribute(not_found, "error.type"), Some(json!({"stringValue": "404"})));
    assert_eq!((&good["status"], attribute(good, "error.type")), (&json!({"code": 0}), None));
}

#[test]
fn p_i4_a_queue_is_full_at_its_bound_and_what_is_dropped_is_counted() {
    let (spans, metrics) = (Spans::default(), Metrics::default());
    for _ in 0..TRACES_QUEUE_SPANS_MAX {
        spans.add(denied(), &metrics);
    }
    assert_eq!(dropped(&metrics, Dropped::QueueFull), 0);
    for _ in 0..10 {
        spans.add(denied(), &metrics);
    }
    assert_eq!(dropped(&metrics, Dropped::QueueFull), 10);
    assert_eq!(spans.queue().len(), TRACES_QUEUE_SPANS_MAX);
    assert_eq!(spans.take().len(), TRACES_BATCH_SPANS_MAX);
    spans.add(span(), &metrics);
    assert_eq!(dropped(&metrics, Dropped::QueueFull), 10, "there is room again");
}

#[test]
fn p_i4_however_much_is_allowed_there_is_room_for_what_is_denied() {
    let (spans, metrics) = (Spans::default(), Metrics::default());
    for _ in 0..TRACES_QUEUE_SPANS_MAX {
        spans.add(span(), &metrics);
    }
    let reserved = u64::try_from(TRACES_QUEUE_DENIALS_RESERVED).unwrap();
    assert_eq!(dropped(&metrics, Dropped::QueueFull), reserved);
    for _ in 0..reserved {
        spans.add(denied(), &metrics);
    }
    assert_eq!(dropped(&metrics, Dropped::QueueFull), reserved, "each has a place");
    assert_eq!(spans.queue().len(), TRACES_QUEUE_SPANS_MAX);
}

#[test]
fn p_i4_what_an_agent_writes_makes_no_span_long() {
    let (spans, metrics) = (Spans::default(), Metrics::default());
    let long = "é".repeat(40_000);
    let as_long = "r".repeat(TRACES_TEXT_BYTES_MAX);
    spans.add(
        Span {
            host: Some(long.as_str().into()),
            rule: Some(as_long.as_str().into()),
            method: Some(Cow::Owned(long)),
            ..span()
        },
        &metrics,
    );
    let [span] = <[_; 1]>::try_from(spans.take()).unwrap();
    assert_eq!(span.host.as_deref(), Some("é".repeat(TRACES_TEXT_BYTES_MAX / 2).as_str()));
    assert_eq!(span.rule.as_deref(), Some(as_long.as_str()));
    assert_eq!(span.method.as_deref(), Some("_OTHER"));
}

#[tokio::test(start_paused = true)]
async fn p_i4_spans_go_together_after_a_second_and_no_faster_however_many_there_are() {
    let (spans, metrics) = (Arc::new(Spans::default()), Metrics::default());
    let start = Instant::now();
    let waiting = Arc::clone(&spans);
    let batch = tokio::spawn(async move { waiting.batch().await.len() });
    tokio::task::yield_now().await;
    (0..3).for_each(|_| spans.add(span(), &metrics));
    assert_eq!((batch.await.unwrap(), start.elapsed()), (3, TRACES_DELAY));
    (0..=TRACES_BATCH_SPANS_MAX).for_each(|_| spans.add(span(), &metrics));
    assert_eq!((spans.batch().await.len(), start.elapsed()), (TRACES_BATCH_SPANS_MAX, TRACES_DELAY * 2));
    assert_eq!((spans.batch().await.len(), start.elapsed()), (1, TRACES_DELAY * 3));
}

#[tokio::test]
async fn where_no_collector_is_named_spans_go_nowhere_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = crate::serve::tests::proxy(folder.path(), POLICY, Vec::new());
    assert_eq!(deliver(&proxy, &[span(), span()]).await, Err(Dropped::NoCollector));
    assert_eq!(dropped(&proxy.metrics, Dropped::NoCollector), 2);
    assert!(proxy.metrics.render().contains("agentsandbox_proxy_spans_sent_total 0\n"));
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_gone_is_tried_ever_more_slowly_and_then_its_spans_are_dropped_and_counted() {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let policy = POLICY.replace(
        "rules: []",
        &format!("rules: [], addresses: {{allow: [127.0.0.0/8]}}, tracing: {{endpoint: 'http://{gone}'}}"),
    );
    let folder = tempfile::tempdir().unwrap();
    let proxy = crate::serve::tests::proxy(folder.path(), &policy, Vec::new());
    let start = Instant::now();
    assert_eq!(deliver(&proxy, &[span()]).await, Err(Dropped::Unreachable));
    assert!(start.elapsed() >= TRACES_PAUSES.iter().sum::<Duration>());
    assert_eq!(dropped(&proxy.metrics, Dropped::Unreachable), 1);
}

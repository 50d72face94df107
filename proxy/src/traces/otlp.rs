//! Spans as OTLP has them, in its encoding as JSON (OpenTelemetry Protocol 1.x, "JSON Protobuf Encoding"): keys in lowerCamelCase, ids in
//! hexadecimal, 64-bit numbers as decimal strings, enums as numbers. The types that OpenTelemetry generates would bring its SDK with them,
//! for a dozen fields of a shape that is stable.
//!
//! Names are those of OpenTelemetry's semantic conventions where they have one. Each request is a trace of its own: ids are drawn here.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agentsandbox_policy::{DenialReason, Policy};
use bytes::Bytes;
use serde::Serialize;

use super::Span;
use crate::audit::Decision;

const SERVICE: &str = "agentsandbox-proxy";
/// `SPAN_KIND_CLIENT`: what is seen is the agent's side of a request, with the destination as its server.
const KIND_CLIENT: u8 = 3;
/// `STATUS_CODE_UNSET`, for what went as it should.
const STATUS_UNSET: u8 = 0;
/// `STATUS_CODE_ERROR`.
const STATUS_ERROR: u8 = 2;
/// By the conventions a client's span is an error from here on.
const HTTP_ERROR_MIN: u16 = 400;
/// The methods that the conventions know (RFC 9110, RFC 5789, QUERY); the name for all others.
const METHODS: [&str; 10] =
    ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];
const OTHER_METHOD: &str = "_OTHER";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: Resource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct Resource<'a> {
    attributes: Vec<KeyValue<'a>>,
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: Scope,
    spans: Vec<Wire<'a>>,
}

#[derive(Serialize)]
struct Scope {
    name: &'static str,
    version: &'static str,
}

/// A span on the wire.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    trace_id: String,
    span_id: String,
    name: &'a str,
    kind: u8,
    start_time_unix_nano: String,
    end_time_unix_nano: String,
    attributes: Vec<KeyValue<'a>>,
    status: Status,
}

#[derive(Serialize)]
struct Status {
    code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'static str>,
}

#[derive(Serialize)]
struct KeyValue<'a> {
    key: &'static str,
    value: Value<'a>,
}

#[derive(Serialize)]
enum Value<'a> {
    #[serde(rename = "stringValue")]
    Text(&'a str),
    #[serde(rename = "stringValue")]
    Owned(String),
    /// Of 64 bits.
    #[serde(rename = "intValue")]
    Int(String),
}

/// A method by the name that the conventions have for it.
pub(super) fn known(method: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == method).unwrap_or(OTHER_METHOD)
}

/// An `ExportTraceServiceRequest`; none if no ids can be drawn.
pub(super) fn request(policy: &Policy, spans: &[Span]) -> Option<Bytes> {
    let sandbox = policy.sandbox();
    let resource = [
        ("service.name", SERVICE),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("k8s.namespace.name", sandbox.namespace.as_str()),
        ("agentsandbox.sandbox.name", sandbox.name.as_str()),
        ("agentsandbox.sandbox.uid", sandbox.uid.as_str()),
    ];
    let attributes = resource.map(|(key, text)| KeyValue { key, value: Value::Text(text) });
    let spans = spans.iter().map(wire).collect::<Option<Vec<_>>>()?;
    let scope = Scope { name: SERVICE, version: env!("CARGO_PKG_VERSION") };
    let request = Request {
        resource_spans: [ResourceSpans {
            resource: Resource { attributes: attributes.into() },
            scope_spans: [ScopeSpans { scope, spans }],
        }],
    };
    serde_json::to_vec(&request).ok().map(Bytes::from)
}

fn wire(span: &Span) -> Option<Wire<'_>> {
    let began = span.ended.checked_sub(span.took).unwrap_or(span.ended);
    // What failed has a reason, and so has what was refused; an answer can say by its status alone that it is an error.
    let is_error = span.reason.is_some() || span.status.is_some_and(|status| status >= HTTP_ERROR_MIN);
    let status = Status {
        code: if is_error { STATUS_ERROR } else { STATUS_UNSET },
        message: span.reason.map(DenialReason::as_str),
    };
    Some(Wire {
        trace_id: id::<16>()?,
        span_id: id::<8>()?,
        name: span.method.as_deref().unwrap_or_else(|| span.entrance.as_str()),
        kind: KIND_CLIENT,
        start_time_unix_nano: nanos(began),
        end_time_unix_nano: nanos(span.ended),
        attributes: attributes(span, is_error),
        status,
    })
}

fn attributes(span: &Span, is_error: bool) -> Vec<KeyValue<'_>> {
    let decision = match span.decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    };
    let reason = span.reason.map(DenialReason::as_str);
    let text = |text| Value::Text(text);
    let error = match (reason, span.status) {
        (Some(reason), _) => Some(text(reason)),
        (None, Some(status)) if is_error => Some(Value::Owned(status.to_string())),
        (None, _) => None,
    };
    let of = |address: SocketAddr| (address.ip().to_string(), address.port());
    let (peer, peer_port) = span.address.map(of).unzip();
    let all = [
        ("agentsandbox.decision", Some(text(decision))),
        ("agentsandbox.reason", reason.map(text)),
        ("agentsandbox.rule", span.rule.as_deref().map(text)),
        ("agentsandbox.entrance", Some(text(span.entrance.as_str()))),
        ("agentsandbox.request_id", Some(Value::Owned(span.request_id.to_string()))),
        ("agentsandbox.generation", Some(int(span.generation))),
        ("http.request.method", span.method.as_deref().map(text)),
        ("http.response.status_code", span.status.map(int)),
        ("http.request.body.size", Some(int(span.bytes_up))),
        ("http.response.body.size", Some(int(span.bytes_down))),
        ("server.address", span.host.as_deref().map(text)),
        ("server.port", span.port.map(int)),
        ("network.peer.address", peer.map(Value::Owned)),
        ("network.peer.port", peer_port.map(int)),
        ("error.type", error),
    ];
    all.into_iter().filter_map(|(key, value)| Some(KeyValue { key, value: value? })).collect()
}

fn int<'a>(number: impl ToString) -> Value<'a> {
    Value::Int(number.to_string())
}

fn nanos(time: SystemTime) -> String {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos().to_string()
}

/// An id that nobody else has, in hexadecimal. One of zeros would be none; it is as likely as to draw another's.
fn id<const BYTES: usize>() -> Option<String> {
    let mut id = [0; BYTES];
    aws_lc_rs::rand::fill(&mut id).ok()?;
    Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
}

//! What the agent is told when a request is refused. This is the one table from reasons to status codes, and the one
//! place that writes a refusal's text. Nothing here repeats a query, a header or a body.

use agentsandbox_policy::{Denial, DenialReason, Method, Permit};
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, UPGRADE, USER_AGENT,
};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use serde::Serialize;

/// The error of any body in flight.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Any body in flight.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The status for a reason. Only a body the agent may retry later is answered with 5xx.
#[must_use]
pub const fn status(reason: DenialReason) -> StatusCode {
    match reason {
        DenialReason::NoPolicy
        | DenialReason::StalePolicy
        | DenialReason::Overtaken
        | DenialReason::AuditUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        DenialReason::MalformedRequest => StatusCode::BAD_REQUEST,
        DenialReason::AuthorityMismatch => StatusCode::MISDIRECTED_REQUEST,
        DenialReason::UpstreamUnreachable
        | DenialReason::UpstreamRefused
        | DenialReason::UpstreamUntrusted
        | DenialReason::AnswerBroken
        | DenialReason::UnreadableAnswer
        | DenialReason::AnswerNotAllowed
        | DenialReason::AnswerTooLarge
        | DenialReason::Interrupted
        | DenialReason::NameNotFound => StatusCode::BAD_GATEWAY,
        DenialReason::UploadLimitExceeded => StatusCode::PAYLOAD_TOO_LARGE,
        DenialReason::LimitExceeded => StatusCode::URI_TOO_LONG,
        DenialReason::RequestStalled => StatusCode::REQUEST_TIMEOUT,
        DenialReason::LoopDetected => StatusCode::LOOP_DETECTED,
        DenialReason::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::FORBIDDEN,
    }
}

/// The status for a denial. Methods that echo are not allowed anywhere, which has a status of its own. codex takes a 403 for a
/// broken stream and asks five times more; of the client errors only 400 is final to it. It asks for a WebSocket before all
/// else, and goes on without one only after a 426, which servers that have none answer. What it then asks for is judged anew, so that
/// this opens nothing, whatever its handshake was denied for.
fn status_for(denial: &Denial, asked_with: &HeaderMap) -> StatusCode {
    let is_codex = asked_with.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"codex"));
    if is_slack(asked_with) && is_final(denial.reason) {
        return StatusCode::OK;
    }
    match status(denial.reason) {
        StatusCode::FORBIDDEN if matches!(denial.method.as_deref(), Some("TRACE" | "TRACK")) => {
            StatusCode::METHOD_NOT_ALLOWED
        }
        _ if is_codex && is_final(denial.reason) && asks_for_websocket(asked_with) => {
            StatusCode::UPGRADE_REQUIRED
        }
        _ if is_codex && is_final(denial.reason) => StatusCode::BAD_REQUEST,
        status => status,
    }
}

/// Slack's SDK for Node asks ten times more, for half an hour, after any status but 200; Slack denies with that, and says `ok: false`.
fn is_slack(asked_with: &HeaderMap) -> bool {
    let agent = asked_with.get(USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default();
    memchr::memmem::find(agent, b"@slack:web-api/").is_some()
}

fn asks_for_websocket(asked_with: &HeaderMap) -> bool {
    asked_with.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// What of a request's fields decides how it is told of a refusal, kept without the others.
pub fn told_by(fields: &HeaderMap) -> impl Iterator<Item = (HeaderName, HeaderValue)> + use<> {
    let kept = [USER_AGENT, UPGRADE].map(|name| fields.get(&name).cloned().map(|value| (name, value)));
    kept.into_iter().flatten()
}

/// The denial of a request that a rule allows, for what came up later.
#[must_use]
pub fn denial(permit: &Permit, reason: DenialReason) -> Denial {
    Denial::of(permit, reason)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refusal<'a> {
    #[serde(flatten)]
    denial: &'a Denial,
    request_id: &'a str,
}

/// As Slack says that something is refused.
#[derive(Serialize)]
struct SlackRefusal<'a> {
    ok: bool,
    error: &'a str,
    #[serde(flatten)]
    refusal: Refusal<'a>,
}

/// The answer to a refused request.
#[must_use]
pub fn refusal(denial: &Denial, request_id: &str, asked_with: &HeaderMap) -> Response<Body> {
    // git shows a body to its user only when it is plain text.
    let is_git = asked_with.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"git/"));
    let (content_type, text) = if is_git {
        ("text/plain; charset=utf-8", sentence(denial, request_id))
    } else {
        let refusal = Refusal { denial, request_id };
        let told = match is_slack(asked_with) {
            true => {
                serde_json::to_string(&SlackRefusal { ok: false, error: denial.reason.as_str(), refusal })
            }
            false => serde_json::to_string(&refusal),
        };
        ("application/json", told.unwrap_or_default() + "\n")
    };
    let mut response = Response::new(full(text));
    *response.status_mut() = status_for(denial, asked_with);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if response.status() == StatusCode::METHOD_NOT_ALLOWED
        && let Ok(methods) = HeaderValue::from_str(&Method::ordinary().join(", "))
    {
        response.headers_mut().insert(ALLOW, methods);
    }
    if response.status() == StatusCode::UPGRADE_REQUIRED {
        // Such an answer has to say what to ask in (RFC 9110, 15.5.22): in plain HTTP. The field is this connection's alone (7.8).
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("HTTP/1.1"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if is_final(denial.reason) {
        // SDKs of model providers obey this before they look at the status: a decision does not change by asking again.
        response.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
    }
    response
}

/// Whether asking again changes nothing. What the upstream, the agent's line or the proxy's own state failed in may pass.
const fn is_final(reason: DenialReason) -> bool {
    !matches!(
        reason,
        DenialReason::UpstreamUnreachable
            | DenialReason::AnswerBroken
            | DenialReason::Interrupted
            | DenialReason::RequestStalled
            | DenialReason::NoPolicy
            | DenialReason::StalePolicy
            | DenialReason::Overtaken
            | DenialReason::AuditUnavailable
    )
}

#[derive(Serialize)]
struct LastEvent<'a> {
    #[serde(flatten)]
    refusal: Refusal<'a>,
    /// What the SDKs of model providers know an error in a stream by, which has no status any more.
    #[serde(rename = "type")]
    kind: &'static str,
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    code: &'a str,
    message: String,
}

/// The last event of an event stream that is stopped: of type `error`, with the refusal as its data.
#[must_use]
pub fn last_event(denial: &Denial, request_id: &str) -> String {
    let error = Error { kind: "denied", code: denial.reason.as_str(), message: denial.to_string() };
    let told = LastEvent { refusal: Refusal { denial, request_id }, kind: "error", error };
    // JSON has no line ends of its own, so this is one line.
    format!("event: error\ndata: {}\n\n", serde_json::to_string(&told).unwrap_or_default())
}

fn sentence(denial: &Denial, request_id: &str) -> String {
    let host = denial.host.as_deref().unwrap_or("the destination");
    let path = denial.path.as_deref().unwrap_or_default();
    format!("agentsandbox refused {host}{path}: {denial} (request {request_id})\n")
}

/// A body of known text.
#[must_use]
pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
#[must_use]
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn no_reason_is_ever_answered_with_success() {
        for reason in DenialReason::ALL {
            assert!(!status(*reason).is_success() && !status(*reason).is_redirection(), "{reason}");
        }
    }

    #[test]
    fn p_i14_only_what_is_final_asks_for_no_retry() {
        let asks_for_none = |reason: &DenialReason| {
            refusal(&Denial::new(*reason), "r1", &HeaderMap::new()).headers().contains_key("x-should-retry")
        };
        for reason in DenialReason::ALL {
            let may_pass = Denial::new(*reason).how_to_allow.contains("try again later")
                || matches!(status(*reason).as_u16(), 408 | 503)
                || *reason == DenialReason::Interrupted;
            assert_eq!(asks_for_none(reason), !may_pass, "{reason}");
        }
    }

    #[test]
    fn git_is_told_in_plain_text() {
        let denial = Denial::new(DenialReason::PathNotAllowed).with_host("github.com").with_path("/x.git");
        let mut asked = HeaderMap::new();
        asked.insert(USER_AGENT, HeaderValue::from_static("git/2.39.5"));
        let told = refusal(&denial, "r1", &asked);
        assert_eq!(told.headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(refusal(&denial, "r1", &HeaderMap::new()).headers()[CONTENT_TYPE], "application/json");
    }

    #[test]
    fn p_i14_codex_is_told_with_the_one_status_that_is_final_to_it_and_nobody_else_is() {
        let answered = |agent: &'static str, reason| {
            let mut asked = HeaderMap::new();
            asked.insert(USER_AGENT, HeaderValue::from_static(agent));
            refusal(&Denial::new(reason), "r1", &asked).status()
        };
        let denied = DenialReason::PathNotAllowed;
        assert_eq!(answered("codex_exec/0.169.0 (Debian 12.0.0; x86_64)", denied), StatusCode::BAD_REQUEST);
        let long = DenialReason::UploadLimitExceeded;
        assert_eq!(answered("codex_exec/0.169.0", long), StatusCode::BAD_REQUEST);
        assert_eq!(answered("curl/7.88.1", long), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(answered("curl/7.88.1 codex", denied), StatusCode::FORBIDDEN);
        for reason in DenialReason::ALL {
            let expected = if is_final(*reason) { StatusCode::BAD_REQUEST } else { status(*reason) };
            assert_eq!(answered("codex_cli_rs/0.169.0", *reason), expected, "{reason}");
            assert_eq!(answered("curl/7.88.1", *reason), status(*reason), "{reason}");
        }
        // What may pass when asked for again keeps a status that says so.
        assert_eq!(answered("codex_cli_rs/0.169.0", DenialReason::NoPolicy), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn p_i14_slacks_sdk_for_node_is_told_as_slack_denies_and_nobody_else_is() {
        let told = |agent: &'static str, reason| {
            let mut asked = HeaderMap::new();
            asked.insert(USER_AGENT, HeaderValue::from_static(agent));
            refusal(&Denial::new(reason), "r1", &told_by(&asked).collect())
        };
        for reason in DenialReason::ALL {
            let slack = told("my-app/1.0 @slack:web-api/8.2.0 node/24.21.0 linux/6.1", *reason);
            let expected = if is_final(*reason) { StatusCode::OK } else { status(*reason) };
            assert_eq!(slack.status(), expected, "{reason}");
            assert_eq!(told("slack_sdk/3.48.0 python/3.11", *reason).status(), status(*reason), "{reason}");
        }
        let text = |agent| {
            let body = told(agent, DenialReason::PathNotAllowed).into_body();
            let bytes = body.collect().now_or_never().unwrap().unwrap().to_bytes();
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
        };
        let slack = text("@slack:web-api/8.2.0");
        assert_eq!((&slack["ok"], &slack["error"]), (&false.into(), &"PathNotAllowed".into()));
        assert_eq!(slack["reason"], "PathNotAllowed");
        assert!(text("curl/7.88.1").get("ok").is_none());
    }

    #[test]
    fn p_i14_codex_is_told_of_any_websocket_that_it_may_not_have_with_426_and_what_to_ask_in() {
        for reason in DenialReason::ALL {
            for (agent, upgrade, is_told) in [
                ("codex_cli_rs/0.169.0", Some("websocket"), true),
                ("codex_cli_rs/0.169.0", Some("h2c"), false),
                ("codex_cli_rs/0.169.0", None, false),
                ("curl/7.88.1", Some("websocket"), false),
            ] {
                let mut asked = HeaderMap::new();
                asked.insert(USER_AGENT, HeaderValue::from_static(agent));
                upgrade.map(|upgrade| asked.insert(UPGRADE, HeaderValue::from_static(upgrade)));
                asked.insert("authorization", HeaderValue::from_static("Bearer x"));
                let told = refusal(&Denial::new(*reason), "r1", &told_by(&asked).collect());
                let is_told = is_told && is_final(*reason);
                assert_eq!(told.status() == StatusCode::UPGRADE_REQUIRED, is_told, "{reason} {agent}");
                let named = told.headers().get(UPGRADE).map(HeaderValue::as_bytes);
                assert_eq!(named, is_told.then_some(&b"HTTP/1.1"[..]), "{reason} {agent}");
                assert_eq!(told.headers().contains_key(CONNECTION), is_told, "{reason} {agent}");
            }
        }
    }
}

//! What the agent is told when a request is refused. This is the one table from reasons to status codes, and the one
//! place that writes a refusal's text. Nothing here repeats a query, a header or a body.

use agentsandbox_policy::{Denial, DenialReason};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, USER_AGENT};
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
        DenialReason::NoPolicy | DenialReason::StalePolicy | DenialReason::AuditUnavailable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        DenialReason::MalformedRequest => StatusCode::BAD_REQUEST,
        DenialReason::AuthorityMismatch => StatusCode::MISDIRECTED_REQUEST,
        DenialReason::UpstreamUnreachable
        | DenialReason::UpstreamUntrusted
        | DenialReason::AnswerBroken
        | DenialReason::UnreadableAnswer
        | DenialReason::Interrupted
        | DenialReason::NameNotFound => StatusCode::BAD_GATEWAY,
        DenialReason::LimitExceeded => StatusCode::URI_TOO_LONG,
        DenialReason::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::FORBIDDEN,
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Refusal<'a> {
    #[serde(flatten)]
    denial: &'a Denial,
    request_id: &'a str,
}

/// The answer to a refused request.
#[must_use]
pub fn refusal(denial: &Denial, request_id: &str, asked_with: &HeaderMap) -> Response<Body> {
    // git shows a body to its user only when it is plain text.
    let is_git = asked_with.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"git/"));
    let (content_type, text) = if is_git {
        ("text/plain; charset=utf-8", sentence(denial, request_id))
    } else {
        (
            "application/json",
            serde_json::to_string(&Refusal { denial, request_id }).unwrap_or_default() + "\n",
        )
    };
    let mut response = Response::new(full(text));
    *response.status_mut() = status(denial.reason);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // SDKs of model providers obey this before they look at the status: a decision does not change by asking again.
    headers.insert("x-should-retry", HeaderValue::from_static("false"));
    response
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
    use super::*;

    #[test]
    fn no_reason_is_ever_answered_with_success() {
        for reason in DenialReason::ALL {
            assert!(!status(*reason).is_success() && !status(*reason).is_redirection(), "{reason}");
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
}

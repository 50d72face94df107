//! What a rule bounds, where a request passes: room for what goes up, and whether an answer fits.

use std::time::Instant;

use agentsandbox_policy::{AnswerLimits, Bounds, Denial, DenialReason, Permit};
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::audit::Entry;
use crate::budget::Exceeded;
use crate::headers;
use crate::pipeline::Proxy;
use crate::respond::denial;
use crate::upstream::Answer;

/// What a head sends up, as the agent wrote it: what is put in is none of it.
pub(crate) fn head_bytes(permit: &Permit, fields: &HeaderMap) -> u64 {
    let target = u64::try_from(permit.target().as_str().len()).unwrap_or(u64::MAX);
    // A host says something too where a pattern lets the agent choose it.
    let host = u64::try_from(permit.host().as_str().len()).unwrap_or(u64::MAX);
    headers::bytes_of(fields).saturating_add(target).saturating_add(host).saturating_add(1)
}

/// Room for what is about to go up, if the rule bounds it.
pub(crate) fn reserve(
    proxy: &Proxy,
    entry: &Entry,
    (bounds, head_bytes): (&Bounds, u64),
    body: Option<&Incoming>,
) -> Result<(), Exceeded> {
    let Some(limits) = bounds.upload() else { return Ok(()) };
    let length = body.and_then(|body| body.size_hint().exact()).unwrap_or(0);
    let meter = proxy.budgets.reserve(limits, head_bytes.saturating_add(length), Instant::now())?;
    entry.traffic().bound(meter);
    Ok(())
}

/// The denial of what would be more than the rule lets go up.
pub(crate) fn over_limit(permit: &Permit, exceeded: Exceeded) -> Denial {
    let denial = denial(permit, DenialReason::UploadLimitExceeded);
    let Some(limits) = permit.bounds().upload().filter(|_| exceeded == Exceeded::UsedUp) else {
        return denial.with_how_to_allow(format!("A platform admin must look after the proxy: {exceeded}."));
    };
    let (rule, hosts) = (permit.rule(), limits.pattern());
    denial.with_how_to_allow(format!(
        "Rule {rule} lets {limits} go up to {hosts}, and there is no room left for this request; send less, or have its owner write higher limits, up to what the AgentSandboxClass allows."
    ))
}

/// What passes in each rule: it frames the message, and says nothing that the agent chose freely.
const FRAMING: [&str; 3] = ["content-length", "te", "host"];
/// The same of a WebSocket's handshake.
const HANDSHAKE: [&str; 2] = ["sec-websocket-key", "sec-websocket-version"];

/// Takes out the fields that the rule does not list, if it lists any.
pub(crate) fn keep_listed(fields: &mut HeaderMap, permit: &Permit) {
    if permit.bounds().headers().is_none() {
        return;
    }
    let unlisted: Vec<HeaderName> = fields.keys().filter(|name| !is_kept(name, permit)).cloned().collect();
    unlisted.into_iter().for_each(|name| drop(fields.remove(name)));
}

/// Whether the rule lets this field pass.
pub(crate) fn is_kept(name: &HeaderName, permit: &Permit) -> bool {
    let Some(listed) = permit.bounds().headers() else { return true };
    listed.iter().any(|listed| listed == name.as_str())
        || FRAMING.contains(&name.as_str())
        || (permit.websocket() && HANDSHAKE.contains(&name.as_str()))
}

/// Whether the rule takes an answer, as far as its head tells. One without a body has neither length nor type.
pub(crate) fn fits(response: &Response<Answer>, limits: &AnswerLimits) -> Result<(), DenialReason> {
    let is_empty = response.body().is_end_stream() || response.body().size_hint().exact() == Some(0);
    // Over HTTP/2 the end of one that has none may come in a frame of its own; a body that comes all the same is cut.
    if is_empty || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok(());
    }
    // Several types, or one that cannot be read, are none.
    let mut types = response.headers().get_all(CONTENT_TYPE).into_iter();
    let content_type = types.next().filter(|_| types.next().is_none()).and_then(|text| text.to_str().ok());
    if !limits.takes(content_type) {
        return Err(DenialReason::AnswerNotAllowed);
    }
    let is_longer = limits.max_bytes().is_some_and(|most| response.body().size_hint().lower() > most);
    if is_longer { Err(DenialReason::AnswerTooLarge) } else { Ok(()) }
}

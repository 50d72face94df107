//! The decision on one request: by the policy, and by what the agent presents with it. The pipeline sends by it, and
//! `explain` tells of it, so that what is told is what would be done.

use agentsandbox_policy::{Denial, Permit, Placeholders, Policy, Request};
use http::HeaderMap;

use crate::destination::Destination;
use crate::presented;

/// Decides a request whose destination was read.
///
/// # Errors
/// A denial unless a rule allows the request, its credential may go there, and nothing that the agent presents with it is
/// out of place.
pub fn decide(
    policy: &Policy,
    placeholders: &Placeholders,
    asked: Destination,
    fields: &HeaderMap,
) -> Result<Permit, Box<Denial>> {
    let Destination { scheme, host, port, method, target, websocket } = asked;
    let permit = policy.decide(Request { scheme, host, port, method, target, websocket })?;
    presented::judge(policy, placeholders, &permit, fields)?;
    Ok(permit)
}

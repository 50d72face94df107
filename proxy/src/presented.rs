//! What an agent presents with a request as its right: placeholders, and credentials of its own. It is judged once the
//! request is permitted, and before anything of it is sent.
//!
//! A placeholder belongs in the place of its credential, on a rule that names the credential; there it is removed and the
//! secret put in. So it is in other fields that authenticate, which are removed there, too, for some clients send both.
//! Anywhere else it denies the request. A credential of the agent's own is removed on every rule; where the rule names no
//! credential while one covers the host, or a client certificate does, the agent went around it, and the request is denied. So it is on a rule that names
//! one, when the place of another credential of the host is filled and would stay so, or a query parameter or a WebSocket's subprotocol that some provider
//! takes for a key. Nor does the query choose what the credential pins. So it is with the fields of a form, which are looked at as they pass; a form that
//! cannot be read is denied with its head.

use agentsandbox_policy::{Denial, FormSearch, Injection, Permit, Placeholders, Policy, is_auth_protocol};
use http::HeaderMap;
use http::header::{COOKIE, PROXY_AUTHORIZATION};

use crate::{bounds, headers};

/// Judges the head of a request.
///
/// # Errors
/// [`PlaceholderMisuse`](agentsandbox_policy::DenialReason::PlaceholderMisuse) and
/// [`ForeignCredential`](agentsandbox_policy::DenialReason::ForeignCredential).
pub fn judge(
    policy: &Policy,
    placeholders: &Placeholders,
    permit: &Permit,
    fields: &HeaderMap,
) -> Result<(), Box<Denial>> {
    if let Some(credential) = misused(placeholders, permit, fields) {
        return Err(Box::new(permit.misuse(credential)));
    }
    if let Some(pinned) = policy.pinned_in_query(permit) {
        return Err(Box::new(policy.own_account(permit, pinned)));
    }
    in_form(policy, permit, fields)?;
    let own = permit.credential().map(|credential| credential.injection());
    let mut places = policy.injections_at(permit.host());
    let is_foreign = policy.has_own_key_in_query(permit)
        || places.any(|place| is_filled(place, own, fields))
        || (policy.has_credential_at(permit.host()) && offers_key(fields))
        || (own.is_none() && policy.has_certificate_at(permit.host()) && has_key(fields));
    if is_foreign {
        return Err(Box::new(policy.own_key(permit)));
    }
    Ok(())
}

/// What looks for a key of the agent's own in the body of a request with these fields, if it is a form. Fields that are not sent say nothing
/// of it to the upstream, and nothing here.
///
/// # Errors
/// [`ForeignCredential`](agentsandbox_policy::DenialReason::ForeignCredential) where the form cannot be read.
pub fn in_form(
    policy: &Policy,
    permit: &Permit,
    fields: &HeaderMap,
) -> Result<Option<FormSearch>, Box<Denial>> {
    let sent = |plain| headers::values_of(fields, plain, |name| bounds::is_kept(name, permit));
    policy.form(permit, sent("content-type"), sent("content-encoding"))
}

fn misused<'a>(placeholders: &'a Placeholders, permit: &'a Permit, fields: &HeaderMap) -> Option<&'a str> {
    let own = permit.credential();
    let in_fields = || {
        placeholders.misused_in(headers::texts(fields), |field| {
            own.filter(|own| headers::replaces(own.injection(), field)).map(|own| own.name())
        })
    };
    placeholders.misused_in_target(permit).or_else(in_fields)
}

/// Whether the agent put something of its own into a field where a key for this host is expected, and it would stay there: what is
/// removed where a secret is put in, in the place `own`, is not sent.
fn is_filled(place: &Injection, own: Option<&Injection>, fields: &HeaderMap) -> bool {
    let filled = match place {
        Injection::Cookie { name } => {
            // No cookie of the agent's own is sent beside a secret.
            own.is_none()
                && fields.get_all(COOKIE).into_iter().any(|value| has_cookie(value.as_bytes(), name))
        }
        Injection::Header { .. }
        | Injection::Bearer
        | Injection::Basic { .. }
        // What is in the query the policy judges.
        | Injection::Query { .. }
        | Injection::PathSegment { .. } => false,
    };
    filled
        || fields.iter().any(|(field, value)| {
            // What a client shows to a proxy is not for the upstream.
            field != PROXY_AUTHORIZATION
                && field != COOKIE
                && headers::replaces(place, field.as_str())
                && !own.is_some_and(|own| headers::replaces(own, field.as_str()))
                && !value.as_bytes().trim_ascii().is_empty()
        })
}

/// Whether the agent put something into a field in which keys are expected.
fn has_key(fields: &HeaderMap) -> bool {
    fields.iter().any(|(field, value)| {
        // What a client shows to a proxy is not for the upstream.
        field != PROXY_AUTHORIZATION
            && headers::authenticates(field.as_str())
            && !value.as_bytes().trim_ascii().is_empty()
    })
}

/// Whether a key stands among the subprotocols that the agent offers for a WebSocket, where a client sends it that can set no field.
fn offers_key(fields: &HeaderMap) -> bool {
    headers::subprotocols(fields).any(is_auth_protocol)
}

fn has_cookie(value: &[u8], name: &str) -> bool {
    let named = |pair: &[u8]| {
        pair.split(|byte| *byte == b'=').next().is_some_and(|key| key.trim_ascii() == name.as_bytes())
    };
    value.split(|byte| *byte == b';').any(named)
}

#[cfg(test)]
mod tests;

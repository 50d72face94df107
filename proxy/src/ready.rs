//! What the proxy still waits for before it serves its agent everything that the policy allows.
//!
//! Each thing is an item with a kind, so that whoever asks can leave kinds out, as `/readyz?exclude=secret`. A kind that is
//! not known leaves nothing out. Names and reasons are told, never what is in a file.

use std::time::Instant;

use serde::Serialize;
use time::OffsetDateTime;

use crate::pipeline::Proxy;
use crate::secrets::Unusable;

/// What kind of thing is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Item {
    /// The proxy is ending.
    Drain,
    /// A policy document that is valid, and not too old.
    Policy,
    /// A certificate authority whose certificate is valid now.
    Ca,
    /// Somebody to ask for addresses.
    Resolver,
    /// The password of the upstream proxy, without which nothing is reached.
    Upstream,
    /// The secret of one credential, or a client certificate.
    Secret,
    /// The secret of one credential, or a client certificate, which has been missing since the proxy started.
    Start,
    /// An agent to serve.
    Enrolment,
}

/// One thing that is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Pending {
    pub(crate) item: Item,
    /// Of several of its kind, which: the credential's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) why: String,
}

/// Everything that is waited for at this time.
pub(crate) fn pending(proxy: &Proxy, now: Instant) -> Vec<Pending> {
    let mut all = Vec::new();
    let mut wait = |item, name: Option<&str>, why: String| {
        all.push(Pending { item, name: name.map(str::to_owned), why });
    };
    if proxy.shutdown.is_cancelled() {
        wait(Item::Drain, None, "the proxy is ending".to_owned());
    }
    let loaded = proxy.policy.current(now);
    if let Err(reason) = &loaded {
        wait(Item::Policy, None, format!("there is no valid policy document: {reason}"));
    }
    if !proxy.authority.is_valid_at(OffsetDateTime::now_utc()) {
        wait(Item::Ca, None, "the certificate of the CA is not valid at this time".to_owned());
    }
    if !proxy.resolver.is_usable() {
        wait(Item::Resolver, None, "the system names no usable resolver".to_owned());
    }
    let proxies = loaded.iter().filter_map(|loaded| loaded.policy.upstream_proxy());
    let login = proxies.filter_map(|proxy| proxy.login.as_ref()).next();
    let unusable = loaded.iter().flat_map(|loaded| proxy.secrets.unusable(&loaded.policy, now));
    for Unusable { name, held, error } in unusable {
        let item = match login {
            Some(login) if login.credential == name => Item::Upstream,
            _ if proxy.secrets.is_waited_for(held) => Item::Start,
            _ => Item::Secret,
        };
        wait(item, Some(name), error.to_string());
    }
    if !proxy.enrolment.is_complete() {
        wait(Item::Enrolment, None, "no agent is enrolled".to_owned());
    }
    all
}

/// What is left of it for one who does not ask for everything.
pub(crate) fn counted(pending: Vec<Pending>, query: &str) -> Vec<Pending> {
    let is_excluded = |item: Item| {
        let name = serde_json::to_value(item).unwrap_or_default();
        query.split('&').filter_map(|pair| pair.strip_prefix("exclude=")).any(|excluded| name == excluded)
    };
    pending.into_iter().filter(|pending| !is_excluded(pending.item)).collect()
}

/// Whether an agent may start: what is left then is the agent itself, and what only some requests need.
pub(crate) fn may_start(proxy: &Proxy, now: Instant) -> bool {
    pending(proxy, now)
        .iter()
        .all(|pending| matches!(pending.item, Item::Resolver | Item::Secret | Item::Enrolment))
}

/// JSON with a line for each item.
pub(crate) fn report(pending: &[Pending]) -> String {
    let lines: Vec<String> = pending
        .iter()
        .map(|pending| format!("\n{}", serde_json::to_string(pending).unwrap_or_default()))
        .collect();
    format!("{{\"ready\":{},\"pending\":[{}]}}\n", pending.is_empty(), lines.join(","))
}

#[cfg(test)]
mod tests;

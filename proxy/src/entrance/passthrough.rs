//! TLS that is not opened, for clients that trust one certificate alone. A rule has to say so; what the handshake names is
//! judged like any other name, its addresses like any other addresses, and it is written down. No request is seen, so
//! none is changed: no credential goes this way, and an agent can say there whatever it likes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::Origin;
use crate::audit::{Entry, RecordedPass};
use crate::limits::{ADDRESSES_PER_REQUEST_MAX, H2_UPSTREAM_STREAM_WAIT_MAX};
use crate::pipeline::{NO_PLACE, Proxy, password};
use crate::reload::Loaded;
use crate::{bounds, dial, revoked, upgrade};

/// A connection that may be handed on.
pub(super) struct Passing {
    pub loaded: Arc<Loaded>,
    pub entry: Entry,
    pub recorded: RecordedPass,
}

/// Hands a connection on, beginning with what was read of it.
pub(super) async fn hand_on<S>(proxy: &Arc<Proxy>, agent: (S, Vec<u8>), origin: Origin, passing: Passing)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Passing { loaded, mut entry, recorded } = passing;
    let (agent, first) = agent;
    let first_bytes = u64::try_from(first.len()).unwrap_or(u64::MAX);
    if let Err(denial) = bound_to_pass(proxy, &entry, &recorded, first_bytes) {
        return entry.refuses(&denial, None);
    }
    // A name that is looked up tells something already.
    if entry.traffic().spends(first_bytes).is_err() {
        return;
    }
    let mut upstream = match connect(proxy, &loaded, &recorded, &mut entry).await {
        Ok(upstream) => upstream,
        Err(denial) => return entry.refuses(&denial, None),
    };
    if upstream.write_all(&first).await.is_err() {
        return entry.breaks(DenialReason::UpstreamUnreachable);
    }
    entry.traffic().up.fetch_add(first_bytes, Ordering::Relaxed);
    // Whoever is replaced or cut off is so by the one who started this; the place is given back with the last byte.
    let _origin = origin;
    tokio::select! {
        () = upgrade::relay(agent, upstream, None, &mut entry) => {}
        () = proxy.shutdown.cancelled() => {}
        reason = revoked::passing_ends(&proxy.policy, loaded, recorded.permit()) => entry.breaks(reason),
    }
}

/// Counts what goes up from here, if the rule bounds it.
fn bound_to_pass(
    proxy: &Proxy,
    entry: &Entry,
    recorded: &RecordedPass,
    first_bytes: u64,
) -> Result<(), Box<Denial>> {
    let permit = recorded.permit();
    bounds::reserve(proxy, entry, (permit.bounds(), first_bytes), None).map_err(|_| {
        let denial = Denial::new(DenialReason::UploadLimitExceeded).with_rule(permit.rule());
        Box::new(denial.with_host(permit.host()).with_port(permit.port()))
    })
}

async fn connect(
    proxy: &Proxy,
    loaded: &Arc<Loaded>,
    recorded: &RecordedPass,
    entry: &mut Entry,
) -> Result<dial::Stream, Box<Denial>> {
    let failed = |reason| Box::new(Denial::new(reason));
    let permit = recorded.permit();
    let mut last = failed(DenialReason::NameNotFound);
    let addresses = proxy.resolver.resolve_pass(recorded, &loaded.policy).await.map_err(failed)?;
    let judged: Vec<_> = addresses.into_iter().map(|address| permit.dial(&loaded.policy, address)).collect();
    let mut dialled = 0;
    let until = tokio::time::Instant::now() + H2_UPSTREAM_STREAM_WAIT_MAX;
    let place = match judged.iter().any(Result::is_ok) {
        true => loaded.upstream.place(until).await,
        false => None,
    };
    for dial in judged {
        match dial {
            Ok(dial) if dialled < ADDRESSES_PER_REQUEST_MAX => {
                let unreachable = || Denial::new(DenialReason::UpstreamUnreachable);
                let place = place.clone().ok_or_else(|| unreachable().with_how_to_allow(NO_PLACE))?;
                dialled += 1;
                in_force(proxy, loaded)?;
                let password = password(proxy, &loaded.policy, Instant::now())?;
                entry.dials(dial.address());
                match dial::connect(&dial, place, password.as_ref()).await {
                    Ok(stream) => return in_force(proxy, loaded).map(|()| stream),
                    Err(_) => last = failed(DenialReason::UpstreamUnreachable),
                }
            }
            Ok(_) => {}
            // Why an address was refused says more than that another did not answer.
            Err(denial) => last = denial,
        }
    }
    Err(last)
}

/// A name that resolves slowly, or an address that answers late, may have been overtaken by a decision of its owner.
fn in_force(proxy: &Proxy, loaded: &Arc<Loaded>) -> Result<(), Box<Denial>> {
    let failed = |reason| Box::new(Denial::new(reason));
    let current = proxy.policy.current(Instant::now()).map_err(failed)?;
    if Arc::ptr_eq(&current, loaded) { Ok(()) } else { Err(failed(DenialReason::Overtaken)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn p_f17_tls_that_passes_unopened_is_told_that_it_was_overtaken() {
        let document = |generation: u32| {
            format!(
                "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: {generation}, rules: []}}"
            )
        };
        let folder = tempfile::tempdir().unwrap();
        let proxy = Arc::new(crate::serve::tests::proxy(folder.path(), &document(1), Vec::new()));
        let loaded = proxy.policy.current(Instant::now()).unwrap();
        assert!(in_force(&proxy, &loaded).is_ok());
        std::fs::write(folder.path().join("policy.yaml"), document(2)).unwrap();
        proxy.policy.refresh(Instant::now());
        assert_eq!(
            in_force(&proxy, &loaded).err().map(|denial| denial.reason),
            Some(DenialReason::Overtaken)
        );
    }
}

//! TLS that is not opened, for clients that trust one certificate alone. A rule has to say so; what the handshake names is
//! judged like any other name, its addresses like any other addresses, and it is written down. No request is seen, so
//! none is changed: no credential goes this way, and an agent can say there whatever it likes.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason, PassPermit, Policy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Origin;
use crate::audit::{Entry, RecordedPass};
use crate::limits::{ADDRESSES_PER_REQUEST_MAX, PASSED_PLACE_WAIT_MAX, RESOLVED_ADDRESS_BYTES};
use crate::pipeline::{NO_PLACE, Proxy, password};
use crate::reload::Loaded;
use crate::upgrade::{self, Carries};
use crate::{bounds, chain, dial, revoked};

/// What is read of an agent that does not wait for the answer to its handshake, before there is anybody to hand it to.
const AHEAD_BYTES_MAX: usize = 16 * 1024;

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
    let (mut agent, first) = agent;
    let mut ahead = Vec::new();
    let first_bytes = u64::try_from(first.len()).unwrap_or(u64::MAX);
    if let Err(denial) = bound_to_pass(proxy, &entry, &recorded, first_bytes) {
        return entry.refuses(&denial, None);
    }
    // A name that is looked up tells something already.
    if entry.traffic().spends(first_bytes).is_err() {
        return;
    }
    // Nobody but a select of all who can end it may wait here: whoever is gone would keep its place among those that are served.
    let connected = tokio::select! {
        connected = connect(proxy, &loaded, &recorded, &mut entry) => connected,
        () = leaves(&mut agent, &mut ahead) => return entry.breaks(DenialReason::Interrupted),
        () = proxy.shutdown.cancelled() => return entry.breaks(DenialReason::Interrupted),
        reason = revoked::passing_ends(&proxy.policy, Arc::clone(&loaded), recorded.permit()) => {
            return entry.refuses(&Denial::new(reason), None);
        }
    };
    let mut upstream = match connected {
        Ok(upstream) => upstream,
        Err(denial) => return entry.refuses(&denial, None),
    };
    if upstream.write_all(&first).await.is_err() {
        return entry.breaks(DenialReason::UpstreamUnreachable);
    }
    entry.traffic().goes_up(first.len());
    let (read, write) = tokio::io::split(agent);
    let agent = tokio::io::join(std::io::Cursor::new(ahead).chain(read), write);
    // Whoever is replaced or cut off is so by the one who started this; the place is given back with the last byte.
    let _origin = origin;
    tokio::select! {
        _ = upgrade::relay((agent, upstream, Carries::Bytes), None, &mut entry, std::future::pending::<()>()) => {}
        () = proxy.shutdown.cancelled() => {}
        reason = revoked::passing_ends(&proxy.policy, loaded, recorded.permit()) => entry.breaks(reason),
    }
}

/// Completes when the agent has ended its connection, or its side of it: there is no TLS with one that has no more to say before it is
/// answered. What it says meanwhile is kept in `ahead`.
async fn leaves(agent: &mut (impl AsyncRead + Unpin), ahead: &mut Vec<u8>) {
    let room = u64::try_from(AHEAD_BYTES_MAX).unwrap_or(u64::MAX);
    let read = agent.take(room).read_to_end(ahead).await;
    if read.is_ok() && ahead.len() >= AHEAD_BYTES_MAX {
        std::future::pending::<()>().await;
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
    proxy.policy.places().ceiling().reads(addresses.len().saturating_mul(RESOLVED_ADDRESS_BYTES));
    let judged: Vec<_> = addresses.into_iter().map(|address| permit.dial(&loaded.policy, address)).collect();
    let mut dialled = 0;
    let until = tokio::time::Instant::now() + PASSED_PLACE_WAIT_MAX;
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
                    Err(error) => last = undialled(&loaded.policy, permit, &error),
                }
            }
            Ok(_) => {}
            // Why an address was refused says more than that another did not answer.
            Err(denial) => last = denial,
        }
    }
    Err(last)
}

/// Why there is no connection.
fn undialled(policy: &Policy, permit: &PassPermit, error: &io::Error) -> Box<Denial> {
    let refused = chain::Refusal::of(error).zip(policy.upstream_proxy());
    Box::new(match refused {
        Some((refusal, proxy)) => Denial::new(DenialReason::UpstreamProxyRefused)
            .with_how_to_allow(refusal.told(proxy, permit.host(), permit.port())),
        None => Denial::new(DenialReason::UpstreamUnreachable),
    })
}

/// A name that resolves slowly, or an address that answers late, may have been overtaken by a decision of its owner.
fn in_force(proxy: &Proxy, loaded: &Arc<Loaded>) -> Result<(), Box<Denial>> {
    let failed = |reason| Box::new(Denial::new(reason));
    let current = proxy.policy.current(Instant::now()).map_err(failed)?;
    if Arc::ptr_eq(&current, loaded) { Ok(()) } else { Err(failed(DenialReason::Overtaken)) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agentsandbox_policy::Host;
    use futures::FutureExt;
    use tokio::io::duplex;
    use tokio::sync::Semaphore;
    use tokio::time::sleep;

    use super::*;
    use crate::audit::tests::{Disk, audit, read};
    use crate::entrance::line::Pulse;
    use crate::entrance::{Entrance, Slot};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum End {
        Leaves,
        Revoked,
        Shutdown,
        Bound,
        Freed,
    }

    /// A handshake that waits for a place; the reason at its end, and how long it has waited.
    async fn waited(end: End) -> (Option<String>, Duration) {
        const PASS: &str = "{name: pass, host: pass.test, ports: [9], scheme: https, tls: Passthrough}";
        let document = |generation: u32, rules: &str| {
            format!(
                "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: {generation}, \
                 rules: [{rules}], addresses: {{allow: ['127.0.0.0/8']}}}}"
            )
        };
        let folder = tempfile::tempdir().unwrap();
        let host = Host::parse("pass.test").unwrap();
        let known = vec![(host.clone(), std::net::Ipv4Addr::LOCALHOST.into())];
        let disk = Disk::default().room(usize::MAX);
        let mut proxy = crate::serve::tests::proxy(folder.path(), &document(1, PASS), known);
        proxy.audit = audit(&disk);
        let proxy = Arc::new(proxy);
        let loaded = proxy.policy.current(Instant::now()).unwrap();
        let mut taken = Vec::new();
        while let Some(place) = loaded.upstream.place(tokio::time::Instant::now()).await {
            taken.push(place);
        }
        assert!(!taken.is_empty());
        let mut entry = proxy.audit.open(Entrance::TransparentTls, Some(&loaded.policy));
        let recorded = entry.begins_to_pass(loaded.policy.pass(&host, 9).unwrap()).unwrap();
        let slot = Slot::new(Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap());
        let (entrance, peer) = (Entrance::TransparentTls, std::net::Ipv4Addr::LOCALHOST.into());
        let origin = Origin { entrance, peer, slot, pulse: Pulse::default() };
        let (mut agent, ours) = duplex(1024);
        let begin = tokio::time::Instant::now();
        let passing = Passing { loaded, entry, recorded };
        let handing = hand_on(&proxy, (ours, b"hello".to_vec()), origin, passing);
        let ending = async {
            agent.write_all(b"more").await.unwrap();
            sleep(Duration::from_secs(5)).await;
            match end {
                End::Leaves => drop(agent),
                End::Revoked => {
                    std::fs::write(folder.path().join("policy.yaml"), document(2, "")).unwrap();
                    proxy.policy.refresh(Instant::now());
                    std::future::pending().await
                }
                End::Shutdown => {
                    proxy.shutdown.cancel();
                    std::future::pending().await
                }
                End::Bound => std::future::pending().await,
                End::Freed => {
                    taken.pop();
                    std::future::pending().await
                }
            }
        };
        tokio::select! {
            () = handing => {}
            () = async { ending.await; std::future::pending().await } => {}
        }
        let end = read(&disk.lines()).pop().unwrap();
        (end["reason"].as_str().map(str::to_owned), begin.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn p_i4_a_handshake_waits_for_a_place_no_longer_than_its_agent_its_rule_and_the_proxy() {
        let mut got = Vec::new();
        for end in [End::Leaves, End::Revoked, End::Shutdown, End::Bound] {
            let (reason, after) = waited(end).await;
            got.push((end, reason.unwrap_or_default(), after.as_secs()));
        }
        let (soon, bound) = (5, PASSED_PLACE_WAIT_MAX.as_secs());
        let wanted = [
            (End::Leaves, "Interrupted", soon),
            (End::Revoked, "HostNotAllowed", soon),
            (End::Shutdown, "Interrupted", soon),
            (End::Bound, "UpstreamUnreachable", bound),
        ];
        assert_eq!(got, wanted.map(|(end, reason, after)| (end, reason.to_owned(), after)));
        // Nobody listens at this port, so that one that has its place goes no further.
        let (reason, after) = waited(End::Freed).await;
        assert_eq!(reason.as_deref(), Some("UpstreamUnreachable"));
        assert!(after < PASSED_PLACE_WAIT_MAX, "{after:?}");
    }

    #[tokio::test]
    async fn what_an_agent_says_before_it_is_answered_is_kept_up_to_a_bound() {
        let (mut agent, mut ours) = duplex(1024);
        let mut ahead = Vec::new();
        agent.write_all(b"early").await.unwrap();
        assert!(leaves(&mut ours, &mut ahead).now_or_never().is_none());
        assert_eq!(ahead, b"early");
        drop(agent);
        leaves(&mut ours, &mut ahead).await;
        let (mut flood, mut ahead) = (std::io::Cursor::new(vec![0; 2 * AHEAD_BYTES_MAX]), Vec::new());
        assert!(leaves(&mut flood, &mut ahead).now_or_never().is_none(), "it is still there");
        assert_eq!(ahead.len(), AHEAD_BYTES_MAX);
    }

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

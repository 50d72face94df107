//! How a permitted request goes out: on a connection that is open, or else on a new one. That it is about to be sent is written
//! down already.

use agentsandbox_policy::{Denial, DenialReason, DialPermit, Permit, Scheme};
use http::header::{HeaderMap, HeaderValue, LOCATION};
use http::{Method, Request, Response};
use http_body::Body as _;
use tokio::time::Instant;

use super::leave::{Leave, Stopped};
use super::{Keys, Proxy, keys};
use crate::audit::Entry;
use crate::bounds;
use crate::limits::{ADDRESSES_PER_REQUEST_MAX, LOST_REQUEST_AGE_MAX, RESOLVED_ADDRESS_BYTES};
use crate::respond::{self, Body, denial};
use crate::upstream::{Answer, ConnectError, ExchangeError, Lease, Place, Purpose, Unleased};

/// What is told of a request for which no connection could be opened in time.
pub(crate) const NO_PLACE: &str = "As many connections to upstreams as the proxy opens at a time were in use until the request had waited too long; end some that are open, or send fewer at the same time.";

/// A connection to send a request on.
struct Found {
    lease: Lease,
    /// It was open already.
    is_kept: bool,
}

/// Sends a request. One that was not sent, as its connection had ended, is sent on another. One whose kept connection ends under it
/// may have been taken or not: it is sent once more, on a new one, if it asks for nothing to be done and the connection ended soon.
pub(super) async fn send(
    proxy: &Proxy,
    leave: &mut Leave<'_>,
    mut request: Request<Body>,
    entry: &mut Entry,
) -> Result<Response<Answer>, Box<Denial>> {
    let (permit, upstream) = (leave.recorded.permit(), &leave.loaded.upstream);
    let purpose = if permit.websocket() { Purpose::Upgrade } else { Purpose::Exchange };
    let failed = |reason| Box::new(denial(permit, reason));
    let until = Instant::now() + proxy.upstream_wait_max;
    let mut is_again = false;
    loop {
        let may_reuse = purpose == Purpose::Exchange && !is_again;
        let Found { lease, is_kept } = match find(proxy, leave, (purpose, may_reuse, until), entry).await {
            Ok(found) => found,
            Err(Stopped::Replaced(keys)) => {
                leave.renew(*keys, &mut request).map_err(|denial| told(denial, permit, is_again))?;
                continue;
            }
            Err(Stopped::Denied(denial)) => return Err(told(denial, permit, is_again)),
        };
        entry.shows(lease.shown());
        entry.resends(is_again);
        let spare = if is_kept && !lease.is_shared() { spare(&request) } else { None };
        let sent = Instant::now();
        match upstream.exchange(lease, request, (leave.target(), purpose), leave.progress).await {
            Ok(response) => {
                entry.leads(leads_to_http(permit, response.headers()));
                return Ok(response);
            }
            Err(ExchangeError::Unsent(unsent)) if is_kept => request = unsent.0,
            Err(ExchangeError::Unsent(_)) => {
                entry.resends(false);
                return Err(failed(DenialReason::UpstreamUnreachable));
            }
            Err(ExchangeError::Lost) => {
                let unreachable = || failed(DenialReason::UpstreamUnreachable);
                request = spare.filter(|_| sent.elapsed() <= LOST_REQUEST_AGE_MAX).ok_or_else(unreachable)?;
                entry.traffic().sends_head_again(leave.head_bytes).map_err(|_| unreachable())?;
                is_again = true;
            }
            Err(ExchangeError::Failed(reason)) => return Err(failed(reason)),
            Err(ExchangeError::Refused(refusal)) => return Err(keys::refused(permit, refusal)),
        }
    }
}

/// Whether an answer over https leads to a URL without TLS. Clients drop blanks and control characters before a scheme, and tabs in it
/// (WHATWG URL, 4.4).
fn leads_to_http(permit: &Permit, answer: &HeaderMap) -> bool {
    let is_plain = |value: &HeaderValue| {
        let seen = value.as_bytes().iter().copied().skip_while(|byte| *byte <= b' ');
        let scheme = seen.filter(|byte| !matches!(byte, b'\t' | b'\n' | b'\r')).take(5);
        scheme.map(|byte| byte.to_ascii_lowercase()).eq(*b"http:")
    };
    permit.scheme() == Scheme::Https && answer.get_all(LOCATION).iter().any(is_plain)
}

/// What is told of a request that is not sent: where it went out before, nothing that says that it did not.
pub(super) fn told(denied: Box<Denial>, permit: &Permit, is_again: bool) -> Box<Denial> {
    use DenialReason::{
        CredentialUnavailable, NoPolicy, Overtaken, StalePolicy, UpstreamProxyRefused, UpstreamUnreachable,
    };
    match denied.reason {
        CredentialUnavailable
        | NoPolicy
        | Overtaken
        | StalePolicy
        | UpstreamProxyRefused
        | UpstreamUnreachable
            if is_again =>
        {
            Box::new(denial(permit, DenialReason::UpstreamUnreachable))
        }
        _ => denied,
    }
}

/// The same request again, where it only asks for something (RFC 9110, 9.2.1), and it has no body, of which some may be gone. Servers
/// close connections that lie idle, also just as a request is written. What is idempotent and not safe is not sent again: DELETE of
/// "the oldest", and PUT over what another has written since, are no longer the same the second time.
fn spare(request: &Request<Body>) -> Option<Request<Body>> {
    let is_asking = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !is_asking || !request.body().is_end_stream() {
        return None;
    }
    let mut spare = Request::new(respond::empty());
    *spare.method_mut() = request.method().clone();
    *spare.headers_mut() = request.headers().clone();
    Some(spare)
}

/// A connection that is open, or else a new one, once the request may be sent on it.
async fn find(
    proxy: &Proxy,
    leave: &Leave<'_>,
    (purpose, may_reuse, until): (Purpose, bool, Instant),
    entry: &mut Entry,
) -> Result<Found, Stopped> {
    let (permit, upstream) = (leave.recorded.permit(), &leave.loaded.upstream);
    let traffic = entry.traffic();
    let count = || {
        let counted = traffic.sends_head(leave.head_bytes);
        counted.map_err(|exceeded| Box::new(bounds::over_limit(permit, exceeded)))
    };
    loop {
        let found = match may_reuse {
            true => upstream.reuse(leave.recorded, &leave.voice, until).await,
            false => Err(upstream.anew(until).await),
        };
        let (opening, place) = match found {
            Ok(lease) => {
                leave.holds(proxy)?;
                entry.dials(lease.address());
                count()?;
                return Ok(Found { lease, is_kept: true });
            }
            Err(Unleased::Opening(opening, place)) => (opening, place),
            Err(Unleased::Full) => {
                return Err(Box::new(denial(permit, DenialReason::UpstreamUnreachable)).into());
            }
            Err(Unleased::Retired) => return Err(leave.overtaken()),
            Err(Unleased::NoPlace) => {
                let denied = denial(permit, DenialReason::UpstreamUnreachable);
                return Err(Box::new(denied.with_how_to_allow(NO_PLACE)).into());
            }
        };
        // A name that is looked up and a handshake tell the host already.
        count()?;
        // Apart: most requests open no connection, and would all be moved about with the room for a TLS handshake.
        match Box::pin(connect(proxy, leave, (purpose, place), entry)).await {
            Ok(lease) => {
                leave.holds(proxy)?;
                return Ok(Found { lease, is_kept: false });
            }
            // One that is full is better than none.
            Err(Stopped::Denied(_)) if opening.is_for_one_more() => opening.failed(),
            Err(stopped) => return Err(stopped),
        }
    }
}

/// Resolves once, judges each address, and dials the judged ones in turn.
async fn connect(
    proxy: &Proxy,
    leave: &Leave<'_>,
    (purpose, place): (Purpose, Place),
    entry: &mut Entry,
) -> Result<Lease, Stopped> {
    let (permit, policy) = (leave.recorded.permit(), &leave.loaded.policy);
    // A name that the policy in force denies is not asked for.
    leave.holds(proxy)?;
    let resolved = proxy.resolver.resolve(leave.recorded, policy).await;
    let addresses = resolved.map_err(|reason| Box::new(denial(permit, reason)))?;
    proxy.policy.places().ceiling().reads(addresses.len().saturating_mul(RESOLVED_ADDRESS_BYTES));
    let mut refused = None;
    let mut dials: Vec<DialPermit> = Vec::new();
    for address in addresses {
        match permit.dial(policy, address) {
            Ok(dial) => dials.push(dial),
            Err(denial) => refused = Some(denial),
        }
    }
    if dials.is_empty() {
        let none = || Box::new(denial(permit, DenialReason::NameNotFound));
        return Err(refused.unwrap_or_else(none).into());
    }
    let mut failure = Box::new(denial(permit, DenialReason::UpstreamUnreachable));
    for dial in dials.iter().take(ADDRESSES_PER_REQUEST_MAX) {
        leave.holds(proxy)?;
        entry.dials(dial.address());
        let Keys { certificate, password, .. } = &leave.keys;
        let connecting = leave.loaded.upstream.connect(
            (dial, place.clone()),
            purpose,
            &leave.voice,
            password.as_ref(),
            certificate.as_ref(),
        );
        match connecting.await {
            Ok(lease) => return Ok(lease),
            Err(ConnectError::Withheld) => return Err(keys::withheld(permit).into()),
            // The proxy was asked for the name: at another of its addresses it would be asked for the same.
            Err(ConnectError::RefusedOnTheWay(refusal)) => {
                return Err(keys::refused_on_the_way(permit, policy, refusal).into());
            }
            Err(ConnectError::Refused(refusal)) => failure = keys::refused(permit, refusal),
            Err(ConnectError::Failed(reason)) => failure = Box::new(denial(permit, reason)),
        }
    }
    Err(failure.into())
}

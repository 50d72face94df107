//! The HTTP proxy entrance: absolute-form requests, and CONNECT, whose tunnel is opened only to a name that some rule
//! allows and is then read like any other connection.

use std::sync::Arc;
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason, Host, Policy, Scheme, parse_authority};
use http::header::HOST;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::line::Line;
use super::{Binding, EntranceContext, Origin, serve_http1, tunnel};
use crate::audit::pace::Turn;
use crate::destination::host_field;
use crate::loops;
use crate::pipeline::{Proxy, refuse};
use crate::respond::{self, Body};

/// Serves one connection.
pub(crate) async fn serve(proxy: Arc<Proxy>, io: Line, origin: Origin) {
    serve_http1(proxy, io, EntranceContext { origin, binding: Binding::AbsoluteForm }).await;
}

/// Answers CONNECT. The tunnel is written down before it is opened, and what it carries request by request.
pub(super) fn connect(
    proxy: Arc<Proxy>,
    request: Request<Incoming>,
    context: &EntranceContext,
    turn: Turn,
) -> Response<Body> {
    let loaded = proxy.policy.current(Instant::now());
    let mut entry =
        proxy.audit.open(context.origin.entrance, loaded.as_ref().ok().map(|loaded| &*loaded.policy));
    entry.takes(turn);
    let admitted = loaded
        .map_err(|reason| Box::new(Denial::new(reason)))
        .and_then(|loaded| {
            let (host, port) = authority(&request)?;
            entry.asks_to_connect(host.as_str(), port);
            if loops::is_back(request.headers()) {
                return Err(Box::new(Denial::new(DenialReason::LoopDetected)));
            }
            admit(&loaded.policy, &host, port)?;
            let recorded = entry.admits().map_err(Denial::from)?;
            Ok(((host, port), recorded))
        })
        .map_err(|denial| Box::new(denial.with_method("CONNECT")));
    match admitted {
        Ok((to, recorded)) => {
            let origin = context.origin.clone();
            let tracker = proxy.connections.clone();
            tracker.spawn(async move {
                let (owner, entrance, peer) = (Arc::clone(&proxy), origin.entrance, origin.peer);
                let work = async {
                    if let Ok(upgraded) = hyper::upgrade::on(request).await {
                        tunnel(proxy, TokioIo::new(upgraded), origin, to, recorded).await;
                    }
                };
                tokio::select! {
                    biased;
                    () = owner.cuts_off(entrance, peer) => {}
                    () = work => {}
                }
            });
            Response::new(respond::empty())
        }
        Err(denial) => refuse(entry, &denial, request.headers()),
    }
}

/// Leave to open a tunnel: what it carries is not known yet, so either scheme will do. What is told is told of the one that clients speak at
/// the port.
pub(super) fn admit(policy: &Policy, host: &Host, port: u16) -> Result<(), Box<Denial>> {
    if policy.pass(host, port).is_some() {
        return Ok(());
    }
    let is_plain = port == Scheme::Http.default_port();
    let (likely, other) =
        if is_plain { (Scheme::Http, Scheme::Https) } else { (Scheme::Https, Scheme::Http) };
    let Err(mut denial) = policy.admit(likely, host, port) else { return Ok(()) };
    if policy.admit(other, host, port).is_ok() {
        return Ok(());
    }
    let is_new = denial.reason == DenialReason::HostNotAllowed && denial.how_to_allow.contains('`');
    if is_new && port != likely.default_port() {
        denial.how_to_allow.push_str(" If plain HTTP is spoken there, the scheme of the rule must be HTTP.");
    }
    Err(denial)
}

fn authority(request: &Request<Incoming>) -> Result<(Host, u16), Box<Denial>> {
    let malformed = || Box::new(Denial::new(DenialReason::MalformedRequest));
    let authority = request.uri().authority().ok_or_else(malformed)?;
    let (host, port) = parse_authority(authority.as_str(), None)?;
    if request.headers().contains_key(HOST) {
        let field = host_field(request.headers())?.ok_or_else(malformed)?;
        if parse_authority(field, Some(port))?.0 != host {
            return Err(Box::new(
                Denial::new(DenialReason::AuthorityMismatch).with_host(&host).with_port(port),
            ));
        }
    }
    Ok((host, port))
}

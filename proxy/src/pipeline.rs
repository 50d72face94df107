//! The one way of a request through the proxy: canonicalise → decide → secret → write down → resolve → judge and dial → strip →
//! inject → stream → decode → scrub → audit. All entrances end here, and what was judged is what is sent.
//!
//! A denial comes before a name is resolved, a connection is opened or a secret is read. An error on the way is a
//! denial too: no step has a success to fall back on.

mod keys;
mod leave;
mod send;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use agentsandbox_policy::{AnswerLimits, Denial, DenialReason, Host, Permit};
use http::header::TRAILER;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use zeroize::Zeroizing;

use crate::audit::{Audit, Entry, Fault, Recorded, Unrecorded};
use crate::authority::Authority;
use crate::bounds;
use crate::budget::{Budgets, Exceeded};
use crate::decision;
use crate::destination;
use crate::enrolment::Enrolment;
use crate::entrance::room::Room;
use crate::entrance::{Entrance, EntranceContext, unread};
use crate::exchange::{self, Progress, Upload};
use crate::headers;
use crate::loops;
use crate::metrics::Metrics;
use crate::presented;
use crate::reload::{ActivePolicy, Loaded};
use crate::resolve::Resolver;
use crate::respond::{self, Body, denial};
use crate::revoked::{Allowed, Watch};
use crate::scrub::Scrubber;
use crate::scrub::decode::{self, Coding, Undecodable};
use crate::secrets::{Secret, Secrets};
use crate::stream::{Bodies, Cleaning, Decoding, Downward, EventStream, Session, is_event_stream};
use crate::upgrade::{self, Tunnel};
use crate::upstream::Answer;
use keys::Keys;
pub(crate) use keys::password;
use leave::Leave;
pub(crate) use send::NO_PLACE;
use send::send;

/// What is told of connections that ended since they took too much together.
const MEMORY_IS_FULL: &str = "What was held of this agent's requests and answers took the memory that its proxy has, so all of its connections ended: read what is answered, and have fewer open at a time.";

/// Everything a connection needs. One for each process, shared by all entrances.
pub struct Proxy {
    /// The policy in force.
    pub policy: Arc<ActivePolicy>,
    /// The secrets.
    pub secrets: Secrets,
    /// The CA.
    pub authority: Authority,
    /// Names to addresses.
    pub resolver: Resolver,
    /// Who is served.
    pub enrolment: Enrolment,
    /// The audit trail.
    pub audit: Arc<Audit>,
    /// What was sent under rules with limits.
    pub budgets: Arc<Budgets>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The address that the policy DNS answers with.
    pub advertise: Option<IpAddr>,
    /// Cancelled when the proxy is to end.
    pub shutdown: CancellationToken,
    /// Connections and tunnels, awaited while draining.
    pub connections: TaskTracker,
    /// How long a request waits for a connection to an upstream.
    pub upstream_wait_max: Duration,
    /// Places among the answers that are decoded at a time.
    pub decoders: decode::Places,
    /// Answers on their way.
    pub bodies: Bodies,
    /// What the agent's HTTP/2 connections may hold.
    pub room: Room,
    /// Queries that the policy DNS may still answer in this second.
    pub dns_budget: crate::entrance::dns::Budget,
}

impl Proxy {
    /// Whether the peer is the agent; if not, that is counted and written down.
    pub fn knows(&self, entrance: Entrance, peer: IpAddr) -> bool {
        if self.enrolment.admits(peer) {
            return true;
        }
        self.metrics.unknown_peer();
        self.refuse_often(entrance, None, DenialReason::UnknownPeer);
        false
    }

    /// Writes down a refusal that comes from nobody in particular: the first at once, the number of the others later.
    pub(crate) fn refuse_often(&self, entrance: Entrance, host: Option<&Host>, reason: DenialReason) {
        self.open_often(entrance, host).refuses(&Denial::new(reason), None);
    }

    /// Writes down that a name is answered for; the first time at once, the number of the other times later.
    pub(crate) fn admit_often(&self, entrance: Entrance, host: &Host) -> Result<(), Unrecorded> {
        self.open_often(entrance, Some(host)).admits_often()
    }

    /// Completes when what this peer has open is to end: it is not the agent any more, or the memory is full, which is written down.
    pub(crate) async fn cuts_off(&self, entrance: Entrance, peer: IpAddr) {
        tokio::select! {
            () = self.enrolment.replaced(peer) => {}
            () = self.policy.places().ceiling().exceeded() => {
                let denial = Denial::new(DenialReason::LimitExceeded).with_how_to_allow(MEMORY_IS_FULL);
                self.open_often(entrance, None).refuses(&denial, None);
            }
        }
    }

    /// Writes down how often each decision was repeated since this was last done, and lets go of what is not used any more.
    pub(crate) fn tidy(&self) {
        let loaded = self.policy.current(Instant::now()).ok();
        let policy = loaded.as_ref().map(|loaded| &*loaded.policy);
        self.audit.write_folds(policy);
        if let Some(policy) = policy {
            self.secrets.keep_certificates_of(policy);
        }
    }

    /// The same for the last time, when the proxy ends.
    pub(crate) fn end_folds(&self) {
        let loaded = self.policy.current(Instant::now()).ok();
        self.audit.end_folds(loaded.as_ref().map(|loaded| &*loaded.policy));
    }

    fn open_often(&self, entrance: Entrance, host: Option<&Host>) -> Entry {
        let loaded = self.policy.current(Instant::now()).ok();
        let mut entry = self.audit.open(entrance, loaded.as_ref().map(|loaded| &*loaded.policy));
        entry.repeats();
        if let Some(host) = host {
            entry.asks_name(host.shared());
        }
        entry
    }
}

/// Answers one request.
pub async fn handle(
    proxy: Arc<Proxy>,
    mut request: Request<Incoming>,
    context: &Arc<EntranceContext>,
) -> Response<Body> {
    let Some(_room) = proxy.room.head(request.headers()) else {
        return refuse_head(&proxy, request, context.origin.entrance).await;
    };
    let turn = proxy.audit.turn().await;
    let since = Instant::now();
    let loaded = proxy.policy.current(since);
    let policy = loaded.as_ref().ok().map(|loaded| &*loaded.policy);
    let mut entry = proxy.audit.open_at(context.origin.entrance, policy, since);
    entry.takes(turn);
    let named = respond::told_by(request.headers());
    let agent = hyper::upgrade::on(&mut request);
    let (head, body) = request.into_parts();
    let mut body = Some(body);
    let answered = match &loaded {
        Ok(loaded) => exchange(&proxy, (loaded, since), (head, &mut body, agent), context, &mut entry).await,
        Err(reason) => Err(Box::new(Denial::new(*reason))),
    };
    match answered {
        Ok(answered) => deliver(&proxy, context, answered, entry),
        Err(denial) => {
            if let Some(body) = body {
                exchange::drain(body);
            }
            refuse(entry, &denial, &named.collect())
        }
    }
}

/// Refuses a request whose head there is no room for. The head is not kept for the line that tells of it.
async fn refuse_head(proxy: &Proxy, request: Request<Incoming>, entrance: Entrance) -> Response<Body> {
    exchange::drain(request.into_body());
    let turn = proxy.audit.turn().await;
    let loaded = proxy.policy.current(Instant::now()).ok();
    let mut entry = proxy.audit.open(entrance, loaded.as_ref().map(|loaded| &*loaded.policy));
    entry.takes(turn);
    let denial = unread::one_more_head();
    let mut response = respond::refusal(&denial, &entry.request_id().to_string(), &HeaderMap::new());
    *response.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    entry.refuses(&denial, Some(response.status().as_u16()));
    response
}

/// An upstream's answer, and what its delivery needs.
struct Answered {
    response: Response<Answer>,
    cleaning: Cleaning,
    /// What its body is made readable with.
    decoding: Option<Decoding>,
    /// There if it is a 101, and only then.
    tunnel: Option<Tunnel>,
    /// How much of its body is passed on.
    max_bytes: Option<u64>,
    /// What ends its body with its rule.
    watch: Option<Watch>,
    /// The request, for the last event where its body is a stream of them.
    asked: Option<Recorded>,
}

async fn exchange(
    proxy: &Proxy,
    (loaded, since): (&Arc<Loaded>, Instant),
    (head, body, agent): (Parts, &mut Option<Incoming>, OnUpgrade),
    context: &EntranceContext,
    entry: &mut Entry,
) -> Result<Answered, Box<Denial>> {
    if loops::is_back(&head.headers) {
        return Err(Box::new(Denial::new(DenialReason::LoopDetected)));
    }
    let asked = destination::read(&head, &context.binding, &loaded.policy)
        .map_err(|denial| destination::located(*denial, &head, &context.binding))?;
    entry.asks(asked.host.shared(), asked.port);
    entry.asks_for(asked.method.text(), asked.target.shared_path());
    let permit = decision::decide(&loaded.policy, &loaded.placeholders, asked, &head.headers)?;
    let keys = Keys::of(proxy, &loaded.policy, &permit, since)?;
    let head_bytes = bounds::head_bytes(&permit, &head.headers);
    bounds::reserve(proxy, entry, (permit.bounds(), head_bytes), body.as_ref())
        .map_err(|exceeded| Box::new(bounds::over_limit(&permit, exceeded)))?;
    let voice = keys.voice(&permit);
    let recorded = entry.begins(permit).await.map_err(Denial::from)?;
    let permit = recorded.permit();
    let tunnel = permit.websocket().then(|| Tunnel {
        agent,
        accept: upgrade::accept_for(&head.headers),
        allowed: Allowed::by(loaded, permit),
    });
    let scrubber = scrubber(proxy, loaded, permit, since);
    let mut fields = head.headers;
    if loaded.policy.has_credential_at(permit.host()) {
        headers::strip_own_session(&mut fields);
    }
    let (request, target) = outgoing(permit, fields, keys.secret.as_ref(), scrubber.as_deref())?;
    // Its body is what the upstream is told that it is.
    let form = presented::in_form(&loaded.policy, permit, request.headers())?;
    let body = body.take().ok_or_else(|| Box::new(denial(permit, DenialReason::InternalError)))?;
    let (progress, traffic) = (Progress::default(), entry.traffic());
    entry.carries(progress.clone());
    let body = Upload::new(body, request.headers(), progress.clone(), Arc::clone(&traffic));
    let body = body.judged(&loaded.policy, permit, loaded.placeholders.in_body()).searched(form);
    let watch = || Watch::new(&proxy.policy, Allowed::by(loaded, permit), &traffic);
    let request = request.map(|()| body.watched(watch).boxed_unsync());
    let mut leave = Leave {
        loaded,
        recorded: &recorded,
        keys,
        voice,
        target,
        progress: &progress,
        head_bytes,
        since,
        is_renewed: false,
    };
    let response = send(proxy, &mut leave, request, entry).await.map_err(|failed| {
        // The upstream broke off because the body was.
        traffic.fault().map_or(failed, |fault| Box::new(faulty(permit, fault)))
    })?;
    progress.answered();
    let known = known_by_now(proxy, loaded, permit)?;
    if scrubber.is_none() && known.is_some() && response.status() == StatusCode::PARTIAL_CONTENT {
        // A whole answer was not asked for, and a part may show a part of a secret.
        return Err(Box::new(denial(permit, DenialReason::UnreadableAnswer)));
    }
    let session = if leave.keys.authenticate() { Session::Removed } else { Session::Passed };
    let cleaning = Cleaning { scrubber: known, session };
    // Nobody looked while its head was awaited, which may take long.
    let mut watch = watch();
    watch.passes_now().map_err(|denial| Box::new(located(permit, &denial)))?;
    let watch = (!response.body().is_end_stream()).then_some(watch);
    let answered = answered(proxy, permit, response, cleaning, tunnel)?;
    Ok(Answered { watch, asked: Some(recorded), ..answered })
}

/// What can be passed on of an answer, or why nothing can.
fn answered(
    proxy: &Proxy,
    permit: &Permit,
    mut response: Response<Answer>,
    cleaning: Cleaning,
    tunnel: Option<Tunnel>,
) -> Result<Answered, Box<Denial>> {
    let failed = |reason| Box::new(denial(permit, reason));
    // The words behind a status code are the upstream's own, and would be passed on.
    response.extensions_mut().remove::<hyper::ext::ReasonPhrase>();
    if let Some(limits) = permit.bounds().answer() {
        bounds::fits(&response, limits).map_err(failed)?;
    }
    let searched = cleaning.scrubber.as_ref().map(|_| decoding(proxy, &response)).transpose();
    let (coding, decoding) =
        searched.map_err(|Undecodable| failed(DenialReason::UnreadableAnswer))?.unwrap_or_default();
    cleaning.clean(response.headers_mut(), coding);
    let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let accepted = |tunnel: &Tunnel| {
        is_upgrade && upgrade::is_accepted(response.headers(), &tunnel.accept, cleaning.scrubber.as_ref())
    };
    let tunnel = tunnel.filter(accepted);
    if is_upgrade && tunnel.is_none() {
        // Nobody asked for it, or it is not the protocol that was asked for.
        return Err(failed(DenialReason::UpstreamUnreachable));
    }
    let max_bytes = permit.bounds().answer().and_then(AnswerLimits::max_bytes);
    Ok(Answered { response, cleaning, decoding, tunnel, max_bytes, watch: None, asked: None })
}

/// The denial of a request whose body was at fault.
pub(crate) fn faulty(permit: &Permit, fault: &Fault) -> Denial {
    match fault {
        Fault::Misused(credential) => permit.misuse(credential),
        Fault::OwnKey(field) => permit.own_field(field),
        Fault::OverLimit => bounds::over_limit(permit, Exceeded::UsedUp),
        Fault::Revoked(denial) => located(permit, denial),
        Fault::Malformed | Fault::Silent | Fault::Gone => denial(permit, fault.reason()),
    }
}

/// What a later document denies a request for. It knows the rule that comes closest by now, if there is one; the one that allowed the request
/// may be gone.
pub(crate) fn located(permit: &Permit, denial: &Denial) -> Denial {
    let (denial, asked) = (denial.clone(), respond::denial(permit, denial.reason));
    Denial {
        host: denial.host.or(asked.host),
        port: denial.port.or(asked.port),
        method: denial.method.or(asked.method),
        path: denial.path.or(asked.path),
        ..denial
    }
}

/// What finds the secrets that the permit's host may know; none where it can know none.
fn scrubber(proxy: &Proxy, loaded: &Loaded, permit: &Permit, now: Instant) -> Option<Arc<Scrubber>> {
    let known = (&proxy.secrets, proxy.metrics.as_ref());
    loaded.scrubbers.at(&loaded.policy, permit.host(), known, now)
}

/// What finds the secrets that this host may have been given until now. It may have taken minutes to the head of the answer:
/// meanwhile a secret may have been replaced, or a new policy may let another one go there.
fn known_by_now(
    proxy: &Proxy,
    loaded: &Arc<Loaded>,
    permit: &Permit,
) -> Result<Option<Arc<Scrubber>>, Box<Denial>> {
    let now = Instant::now();
    let current = proxy.policy.current(now).map_err(|reason| Box::new(denial(permit, reason)))?;
    let is_same = Arc::ptr_eq(&current, loaded);
    let late = if is_same { None } else { current.scrubbers.late(&loaded.policy, now) };
    let scrubbers = late.as_deref().unwrap_or(&current.scrubbers);
    Ok(scrubbers.at(&current.policy, permit.host(), (&proxy.secrets, proxy.metrics.as_ref()), now))
}

/// A request's head, and the path and query to send it with where they are not those that were asked for.
type Outgoing = (Request<()>, Option<Zeroizing<String>>);

fn outgoing(
    permit: &Permit,
    mut fields: HeaderMap,
    secret: Option<&Secret>,
    scrubber: Option<&Scrubber>,
) -> Result<Outgoing, Box<Denial>> {
    let injection = permit.credential().map(|credential| credential.injection());
    // Over HTTP/1.1 a trailer is sent only if it was announced; those that may not be sent are taken out as they come.
    let announced: Vec<_> = fields.get_all(TRAILER).into_iter().cloned().collect();
    // Sent on only as part of a handshake that the rule allows; see below.
    headers::strip_request(&mut fields, injection);
    if permit.certificate().is_some() {
        headers::strip_cookies(&mut fields);
    }
    fields.extend(announced.into_iter().map(|names| (TRAILER, names)));
    bounds::keep_listed(&mut fields, permit);
    if scrubber.is_some() {
        headers::ask_readable(&mut fields);
    }
    if let Some(credential) = permit.credential() {
        headers::pin(&mut fields, credential.pinned())
            .map_err(|_| Box::new(denial(permit, DenialReason::InternalError)))?;
    }
    let target = keys::put(permit, secret, &mut fields)?;
    if permit.websocket() {
        upgrade::ask(&mut fields);
    }
    let method = http::Method::from_bytes(permit.method().as_str().as_bytes())
        .map_err(|_| Box::new(denial(permit, DenialReason::MalformedRequest)))?;
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.headers_mut() = fields;
    Ok((request, target))
}

fn deliver(
    proxy: &Arc<Proxy>,
    context: &Arc<EntranceContext>,
    answered: Answered,
    mut entry: Entry,
) -> Response<Body> {
    let Answered { mut response, cleaning, decoding, tunnel, max_bytes, watch, asked } = answered;
    entry.answers(response.status().as_u16());
    if let Some(tunnel) = tunnel {
        return upgrade::join(proxy, context, tunnel, response, (cleaning.scrubber, entry));
    }
    headers::strip_response(response.headers_mut());
    let asked = asked.filter(|_| is_event_stream(response.headers()));
    response.map(|body| {
        let body = Downward::new(body, cleaning, decoding, entry).at_most(max_bytes);
        let body = body.watched(watch).on(Arc::clone(context));
        // What is longer than was announced is no answer.
        match asked.filter(|_| body.size_hint().exact().is_none()) {
            Some(asked) => proxy.bodies.attend(EventStream::new(body, asked, proxy.room.events().clone())),
            None => proxy.bodies.attend(body),
        }
    })
}

/// The coding that an answer comes in, and what decodes it. An answer without a body needs no decoding, whatever its head
/// says of one.
fn decoding(
    proxy: &Proxy,
    response: &Response<Answer>,
) -> Result<(Option<Coding>, Option<Decoding>), Undecodable> {
    let coding = decode::coding(response.headers())?;
    let used = coding.filter(|_| !response.body().is_end_stream());
    let decoding = used.map(|coding| Decoding::new(coding, &proxy.decoders).ok_or(Undecodable));
    Ok((coding, decoding.transpose()?))
}

/// Refuses a request in its own entry.
pub(crate) fn refuse(mut entry: Entry, denial: &Denial, asked_with: &HeaderMap) -> Response<Body> {
    let response = respond::refusal(denial, &entry.request_id().to_string(), asked_with);
    entry.refuses(denial, Some(response.status().as_u16()));
    response
}

#[cfg(test)]
mod tests;

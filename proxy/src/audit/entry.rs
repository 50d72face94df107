//! One exchange's part of the trail. It is opened before anything is decided and writes itself when it is dropped.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason, PassPermit, Permit};

use super::folds::{Folded, Kind, Verdict};
use super::pace::Turn;
use super::record::{Decision, Event, Fault, Record, RequestId, Text, Traffic, shortened};
use super::sink::Place;
use super::{Admitted, Audit, FENCE_QUESTION, Recorded, RecordedPass, Unrecorded, once_more};
use crate::activity::Awaited;
use crate::exchange::Progress;
use crate::limits::AUDIT_DENIALS_PER_KIND_MAX;

/// What is out of an entry already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    Begun,
    Whole,
}

/// The entry of one exchange; it writes itself when dropped.
pub struct Entry {
    audit: Arc<Audit>,
    started: Instant,
    pub(super) stage: Stage,
    /// Of the first line of a request, while it may still wait.
    beginning: Option<Place>,
    traffic: Arc<Traffic>,
    pub(super) record: Record,
    /// How many denials like this one have a line of their own in a window.
    told_max: usize,
    turn: Option<Turn>,
    upload: Option<Progress>,
    /// There for as long as an allowed request has no answer.
    awaited: Option<Awaited>,
    /// It has come to the end that it was meant to come to.
    is_complete: bool,
    /// A collector is told of it.
    is_traced: bool,
}

impl Entry {
    pub(super) fn new(audit: &Arc<Audit>, record: Record, started: Instant, is_traced: bool) -> Self {
        Self {
            audit: Arc::clone(audit),
            started,
            stage: Stage::Open,
            beginning: None,
            traffic: Arc::new(Traffic::telling(&audit.activity)),
            record,
            told_max: AUDIT_DENIALS_PER_KIND_MAX,
            turn: None,
            upload: None,
            awaited: None,
            is_complete: false,
            is_traced,
        }
    }

    /// The id that the client is told as well.
    #[must_use]
    pub const fn request_id(&self) -> RequestId {
        self.record.request_id
    }

    /// It was waited for this turn. A line spends it; if none comes of it, it is given back.
    pub fn takes(&mut self, turn: Turn) {
        self.turn = Some(turn);
    }

    /// It comes from nobody in particular, and often: one line tells of all.
    pub fn repeats(&mut self) {
        self.told_max = 1;
    }

    /// The body that goes up is this one's: nothing more of it is sent once the last line is out.
    pub fn carries(&mut self, upload: Progress) {
        self.upload = Some(upload);
    }

    /// The byte counters of this exchange.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// What the agent asked for, before it is judged.
    pub fn asks(&mut self, host: impl Into<Text>, port: u16) {
        self.record.host = Some(host.into());
        self.record.port = Some(port);
    }

    /// The name asked for, where there is no port.
    pub fn asks_name(&mut self, host: impl Into<Text>) {
        self.record.host = Some(host.into());
    }

    /// The method and path asked for; never pass a query.
    pub fn asks_for(&mut self, method: impl Into<Cow<'static, str>>, path: impl Into<Text>) {
        self.record.method = Some(method.into());
        self.record.path = Some(shortened(path.into()));
    }

    /// What the agent wants to be connected to.
    pub fn asks_to_connect(&mut self, host: impl Into<Text>, port: u16) {
        self.asks(host, port);
        self.record.method = Some(Cow::Borrowed("CONNECT"));
    }

    /// The policy allows the request: writes that down, before anything of it leaves, in one write with those requests that come
    /// to this at the same moment.
    ///
    /// # Errors
    /// [`Unrecorded`] when the line cannot be written; the entry then is a denial.
    pub async fn begins(&mut self, permit: Permit) -> Result<Recorded, Unrecorded> {
        self.record.rule = Some(permit.shared_rule().into());
        self.record.credential = permit.credential().map(|credential| credential.shared_name().into());
        self.record.client_certificate =
            permit.certificate().map(|certificate| certificate.shared_name().into());
        self.turns_allowed(Event::Begin);
        let waits = self.audit.begin_writing(&mut self.record);
        self.beginning = Some(waits.inspect_err(|_| self.turns_unrecorded())?);
        once_more().await;
        self.has_begun()?;
        Ok(Recorded { permit })
    }

    /// What came of the first line of the request, if that may not be known yet.
    fn has_begun(&mut self) -> Result<(), Unrecorded> {
        let Some(place) = self.beginning.take() else { return Ok(()) };
        let written = self.audit.written(&place);
        match written {
            Ok(()) => {
                self.spend_turn();
                self.stage = Stage::Begun;
                self.awaited = Some(self.audit.activity.awaits());
            }
            Err(Unrecorded) => self.turns_unrecorded(),
        }
        written
    }

    /// The policy allows TLS to pass unopened: writes that down, before anything of it leaves.
    ///
    /// # Errors
    /// [`Unrecorded`] when the line cannot be written; the entry then is a denial.
    pub fn begins_to_pass(&mut self, permit: PassPermit) -> Result<RecordedPass, Unrecorded> {
        self.record.rule = Some(permit.rule().into());
        self.allows(Event::Begin)?;
        self.stage = Stage::Begun;
        self.audit.activity.passes();
        Ok(RecordedPass { permit })
    }

    /// The policy allows the name, and no more than that: writes that down, and nothing is left to be written.
    ///
    /// # Errors
    /// [`Unrecorded`] when the line cannot be written; the entry then is a denial.
    pub fn admits(&mut self) -> Result<Admitted, Unrecorded> {
        self.allows(Event::Admit)?;
        self.is_admitted();
        Ok(Admitted(()))
    }

    /// The same for what is asked over and over: the first time is written down, and the number of the others later.
    ///
    /// # Errors
    /// [`Unrecorded`] when the line cannot be written; the entry then is a denial.
    pub fn admits_often(&mut self) -> Result<(), Unrecorded> {
        let kind = Kind { decision: Decision::Allow, ..self.kind() };
        match self.audit.folds.note(kind, self.record.entrance, self.told_max) {
            Verdict::Tell(kind) => {
                let admitted = self.admits().map(drop);
                admitted.inspect_err(|_| self.audit.folds.untold(&kind))
            }
            Verdict::Counted => {
                self.record.decision = Decision::Allow;
                self.is_admitted();
                Ok(())
            }
        }
    }

    fn is_admitted(&mut self) {
        self.stage = Stage::Whole;
        self.count();
    }

    fn kind(&self) -> Kind {
        let Record { entrance, decision, host, rule, reason, .. } = &self.record;
        Kind {
            entrance: (self.told_max > 1).then_some(*entrance),
            decision: *decision,
            host: host.as_deref().map(str::to_owned),
            rule: rule.as_deref().map(str::to_owned),
            reason: *reason,
        }
    }

    /// Writes down a denial, or counts it if there are many like it.
    fn denies(&mut self) {
        let entrance = self.record.entrance;
        match self.audit.folds.note(self.kind(), entrance, self.told_max) {
            Verdict::Tell(kind) => {
                if self.audit.write(&mut self.record).is_err() {
                    self.audit.folds.untold(&kind);
                    self.audit.folds.count(&Folded { kind, entrance, count: 1 });
                    return;
                }
                self.spend_turn();
                self.trace();
            }
            Verdict::Counted => {}
        }
    }

    /// Leaves a span of what is over, behind its line.
    fn trace(&self) {
        if self.is_traced {
            self.audit.spans.add(self.record.span(self.started.elapsed()), &self.audit.metrics);
        }
    }

    fn spend_turn(&mut self) {
        if let Some(turn) = self.turn.take() {
            turn.spend();
        }
    }

    fn allows(&mut self, event: Event) -> Result<(), Unrecorded> {
        self.turns_allowed(event);
        let written = self.audit.write(&mut self.record);
        match written {
            Ok(()) => self.spend_turn(),
            Err(Unrecorded) => self.turns_unrecorded(),
        }
        written
    }

    fn turns_allowed(&mut self, event: Event) {
        self.record.event = event;
        self.record.decision = Decision::Allow;
    }

    fn turns_unrecorded(&mut self) {
        self.record.decision = Decision::Deny;
        self.record.reason = Some(DenialReason::AuditUnavailable);
    }

    /// It is refused, or failed upstream.
    pub fn refuses(&mut self, denial: &Denial, status: Option<u16>) {
        let record = &mut self.record;
        record.reason = Some(denial.reason);
        record.status = status;
        if !is_upstream_failure(denial.reason) {
            record.decision = Decision::Deny;
        }
        record.rule = record.rule.take().or_else(|| denial.rule.as_deref().map(Text::from));
        record.host = record.host.take().or_else(|| denial.host.as_deref().map(Text::from));
        record.port = record.port.or(denial.port);
        record.method = record.method.take().or_else(|| denial.method.clone().map(Cow::Owned));
        record.path =
            record.path.take().or_else(|| denial.path.as_deref().map(|path| shortened(path.into())));
        let of = |name: &Option<String>| name.as_deref().map(Text::from);
        let (credential, certificate) = (of(&denial.credential), of(&denial.client_certificate));
        if denial.reason == DenialReason::CredentialUnavailable {
            // Nothing went out, under either: the one that is missing is named.
            record.credential = credential;
            record.client_certificate = certificate;
            record.client_certificate_shown = None;
        } else {
            record.credential = record.credential.take().or(credential);
            record.client_certificate = record.client_certificate.take().or(certificate);
        }
    }

    /// The address that is dialled; of several the last.
    pub fn dials(&mut self, address: SocketAddr) {
        self.record.address = Some(address);
    }

    /// Whether the upstream has been shown the client certificate; none without one.
    pub fn shows(&mut self, shown: Option<bool>) {
        self.record.client_certificate_shown = shown;
    }

    /// Whether it is sent a second time.
    pub fn resends(&mut self, is_again: bool) {
        self.record.resent = is_again.then_some(true);
    }

    /// Whether the answer leads from https to a URL without TLS.
    pub fn leads(&mut self, to_http: bool) {
        self.record.leads_to_http = to_http.then_some(true);
    }

    /// It was stopped, and the agent was told so by the last event of the stream.
    pub fn tells_in_stream(&mut self) {
        self.record.last_event = Some(true);
    }

    /// The status the agent is answered with.
    pub fn answers(&mut self, status: u16) {
        self.record.status = Some(status);
        self.awaited = None;
    }

    /// All of the answer was passed on. What begins and is not completed, refused or broken was interrupted.
    pub fn completes(&mut self) {
        self.is_complete = true;
    }

    /// The exchange broke off; the first reason stands.
    pub fn breaks(&mut self, reason: DenialReason) {
        self.record.reason.get_or_insert(reason);
    }

    /// What the agent sent may be at fault for the end that was seen.
    fn tell_why(&mut self) {
        let fault = self.traffic.fault();
        if let Some(fault @ (Fault::Misused(_) | Fault::OwnKey(_) | Fault::OverLimit)) = fault {
            self.record.decision = Decision::Deny;
            self.record.reason = Some(fault.reason());
            if let Fault::Misused(credential) = fault {
                self.record.credential.get_or_insert_with(|| credential.as_str().into());
            }
        } else if let Some(Fault::Revoked(denial)) = fault {
            self.record.reason = Some(denial.reason);
        } else if self.stage == Stage::Begun && !self.is_complete {
            let why = fault.map_or(DenialReason::Interrupted, Fault::reason);
            self.record.reason.get_or_insert(why);
        }
    }

    fn count(&self) {
        let Record { entrance, decision, reason, .. } = &self.record;
        self.audit.metrics.decided(*entrance, *decision, *reason);
        // A stranger's connection and the fence's question are no doing of the agent's.
        if let (Decision::Deny, Some(reason)) = (decision, reason)
            && *reason != DenialReason::UnknownPeer
            && self.record.host.as_deref() != Some(FENCE_QUESTION)
        {
            let mut tally = self.audit.tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.note(self.record.host.as_deref(), self.record.port, *reason, 1);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // An agent that goes away while the first line waits leaves a request that has begun, or a denial.
        let _ = self.has_begun();
        self.record.event = match self.stage {
            Stage::Open => Event::Deny,
            Stage::Begun => Event::End,
            Stage::Whole => return,
        };
        if let Some(upload) = self.upload.take() {
            upload.over();
        }
        let sent = self.traffic.is_over();
        self.tell_why();
        self.record.drained = self.traffic.has_drained().then_some(true);
        self.record.bytes_up = self.traffic.up.load(Ordering::Relaxed);
        self.record.bytes_down = self.traffic.down.load(Ordering::Relaxed);
        self.record.millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.count();
        self.audit.metrics.carried(self.record.bytes_up, self.record.bytes_down);
        if let Some(rule) = self.record.rule.as_deref().filter(|_| sent > 0) {
            self.audit.metrics.sent(rule, sent);
        }
        if self.stage == Stage::Open {
            return self.denies();
        }
        // What is over cannot be undone; a loss is counted, and the next request finds out by itself.
        self.audit.write_soon(&mut self.record);
        self.trace();
    }
}

/// Failures behind an allowing decision: they say nothing against the request.
const fn is_upstream_failure(reason: DenialReason) -> bool {
    matches!(
        reason,
        DenialReason::UpstreamUnreachable
            | DenialReason::Overtaken
            | DenialReason::UpstreamRefused
            | DenialReason::UpstreamProxyRefused
            | DenialReason::UpstreamUntrusted
            | DenialReason::AnswerBroken
            | DenialReason::UnreadableAnswer
            | DenialReason::AnswerNotAllowed
            | DenialReason::AnswerTooLarge
            | DenialReason::RequestStalled
            | DenialReason::Interrupted
            | DenialReason::NameNotFound
    )
}

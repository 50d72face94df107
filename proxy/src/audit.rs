//! The audit trail: one JSON object on one line for each decision, on every path.
//!
//! An allowed request has two lines that share a `requestId`: `begin`, written before its first byte leaves, so that no
//! death of the process can hide what was sent; and `end`, with what came of it. Leave to go on with a name (a tunnel, a
//! TLS handshake, a DNS answer) is one line, `admit`; a refusal is one line, `deny`. What repeats is counted in
//! [`folds`], and its count is a line too; what is allowed waits for its turn in [`pace`] if there is too much of it.
//!
//! An [`Entry`] is opened before anything is decided and writes itself when it is dropped, so that no path can forget
//! it: neither an early return nor a client that goes away. What is allowed needs a [`Recorded`] or an [`Admitted`], which only a written
//! line makes: where nothing can be written, nothing is allowed. Fields are typed; there is none for a query, a header
//! or a body, and none that could hold a secret. The sink is written under a lock, so sequence numbers have no gap; a
//! sink that blocks blocks requests, because an unwritten decision is worse than a slow one.

pub mod folds;
mod line;
pub mod pace;
mod record;
mod sink;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason, PassPermit, Permit, Policy, Tally};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use self::folds::{Folded, Folds, Kind, Verdict};
use self::pace::{Pace, Turn};
use self::record::{Sandbox, VERSION, shortened};
use self::sink::Sink;
use crate::entrance::Entrance;
use crate::limits::AUDIT_DENIALS_PER_KIND_MAX;
use crate::metrics::Metrics;

pub use self::record::{Decision, Event, Record, Traffic};

/// What each fence asks the policy DNS, to see that a name which no rule allows does not exist. It is written down like any
/// other denial, and not counted among the agent's.
pub const FENCE_QUESTION: &str = "fence.agentsandbox.invalid";

/// The right to send one request, and the proof that this was written down. Only a line that is out makes one, and it
/// holds the request's own permit: what is resolved, dialled and sent is read from here, so the record of one request
/// cannot serve another.
///
/// ```compile_fail,E0451
/// fn forge(permit: agentsandbox_policy::Permit) -> agentsandbox_proxy::audit::Recorded {
///     agentsandbox_proxy::audit::Recorded { permit }
/// }
/// ```
///
/// A permit is recorded once:
///
/// ```compile_fail,E0382
/// fn twice(entry: &mut agentsandbox_proxy::audit::Entry, permit: agentsandbox_policy::Permit) {
///     let _ = (entry.begins(permit), entry.begins(permit));
/// }
/// ```
///
/// ```
/// fn once(entry: &mut agentsandbox_proxy::audit::Entry, permit: agentsandbox_policy::Permit) {
///     let _ = entry.begins(permit);
/// }
/// ```
#[derive(Debug)]
pub struct Recorded {
    permit: Permit,
}

impl Recorded {
    /// What may be sent.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }
}

/// The right to hand one TLS connection on unopened, and the proof that this was written down, as [`Recorded`] is.
#[derive(Debug)]
pub struct RecordedPass {
    permit: PassPermit,
}

impl RecordedPass {
    /// Where it may be handed on to.
    #[must_use]
    pub const fn permit(&self) -> &PassPermit {
        &self.permit
    }
}

/// The proof that leave to go on with a name was written down. It is no right to send anything.
#[derive(Debug)]
pub struct Admitted(());

/// The decision could not be written down, so nothing is allowed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the audit line cannot be written")]
pub struct Unrecorded;

impl From<Unrecorded> for Denial {
    fn from(_: Unrecorded) -> Self {
        Self::new(DenialReason::AuditUnavailable)
    }
}

/// Where the lines go.
pub struct Audit {
    sink: Mutex<Sink>,
    /// Of this run alone: a proxy that was started again counts from the beginning, and its ids must not be taken for those
    /// of the run before.
    run: u64,
    requests: AtomicU64,
    metrics: Arc<Metrics>,
    tally: Mutex<Tally>,
    folds: Folds,
    pace: Pace,
}

impl Audit {
    /// An audit trail into `out`, at this pace.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>, pace: Pace, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            sink: Mutex::new(Sink::new(out)),
            folds: Folds::default(),
            pace,
            run: RandomState::new().build_hasher().finish(),
            requests: AtomicU64::new(0),
            metrics,
            tally: Mutex::default(),
        })
    }

    /// Waits until one more decision may be written.
    pub async fn turn(&self) -> Turn {
        self.pace.turn().await
    }

    /// Writes down how often each decision was repeated since this was last done.
    pub fn write_folds(self: &Arc<Self>, policy: Option<&Policy>) {
        self.write_folded(self.folds.take(), policy);
    }

    /// The same for the last time. Whatever is decided from now on has a line of its own: nobody comes back to tell of it.
    pub fn end_folds(self: &Arc<Self>, policy: Option<&Policy>) {
        self.write_folded(self.folds.end(), policy);
    }

    fn write_folded(self: &Arc<Self>, all: Vec<Folded>, policy: Option<&Policy>) {
        for folded in all {
            let mut record = self.blank(folded.entrance, policy);
            record.decision = folded.kind.decision;
            if record.decision == Decision::Allow {
                record.event = Event::Admit;
            }
            record.host.clone_from(&folded.kind.host);
            record.rule.clone_from(&folded.kind.rule);
            record.reason = folded.kind.reason;
            record.folded = Some(folded.count);
            if self.write(&mut record).is_err() {
                self.folds.count(&folded);
            }
        }
    }

    /// Opens the entry of one exchange.
    #[must_use]
    pub fn open(self: &Arc<Self>, entrance: Entrance, policy: Option<&Policy>) -> Entry {
        Entry {
            audit: Arc::clone(self),
            started: Instant::now(),
            stage: Stage::Open,
            traffic: Arc::new(Traffic::default()),
            record: self.blank(entrance, policy),
            told_max: AUDIT_DENIALS_PER_KIND_MAX,
            turn: None,
        }
    }

    fn blank(&self, entrance: Entrance, policy: Option<&Policy>) -> Record {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let sandbox = policy.map(|policy| policy.sandbox());
        Record {
            version: VERSION,
            time: String::new(),
            seq: 0,
            sandbox: sandbox.map_or_else(Sandbox::default, |s| Sandbox {
                namespace: s.namespace.clone(),
                name: s.name.clone(),
                uid: s.uid.clone(),
            }),
            entrance,
            event: Event::Deny,
            request_id: format!("{:016x}-{number:06x}", self.run),
            host: None,
            port: None,
            method: None,
            path: None,
            rule: None,
            // Until something allows it, it is denied; also when the task is cancelled half-way.
            decision: Decision::Deny,
            reason: None,
            credential: None,
            address: None,
            status: None,
            bytes_up: 0,
            bytes_down: 0,
            millis: 0,
            generation: policy.map_or(0, |policy| policy.generation()),
            folded: None,
        }
    }

    /// What this run has denied its agent.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, record: &mut Record) -> Result<(), Unrecorded> {
        record.time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        record.seq = sink.seq;
        let line = line::of(record).map_err(std::io::Error::other);
        let written = line.and_then(|line| sink.write_line(&line));
        match written {
            Ok(()) => {
                sink.seq += 1;
                sink.failing = false;
                Ok(())
            }
            Err(error) => {
                self.metrics.audit_lost();
                // Once: the log may be on the disk that is full, and the agent can ask without end.
                if !std::mem::replace(&mut sink.failing, true) {
                    tracing::error!(error = %error, "an audit line cannot be written; nothing is allowed until one can");
                }
                Err(Unrecorded)
            }
        }
    }
}

/// What is out of an entry already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Begun,
    Whole,
}

/// The entry of one exchange; it writes itself when dropped.
pub struct Entry {
    audit: Arc<Audit>,
    started: Instant,
    stage: Stage,
    traffic: Arc<Traffic>,
    record: Record,
    /// How many denials like this one have a line of their own in a window.
    told_max: usize,
    turn: Option<Turn>,
}

impl Entry {
    /// The id that the client is told as well.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.record.request_id
    }

    /// It was waited for this turn. A line spends it; if none comes of it, it is given back.
    pub fn takes(&mut self, turn: Turn) {
        self.turn = Some(turn);
    }

    /// It comes from nobody in particular, and often: one line tells of all.
    pub fn repeats(&mut self) {
        self.told_max = 1;
    }

    /// The byte counters of this exchange.
    #[must_use]
    pub fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// What the agent asked for, before it is judged.
    pub fn asks(&mut self, host: &str, port: u16) {
        self.record.host = Some(host.to_owned());
        self.record.port = Some(port);
    }

    /// The name asked for, where there is no port.
    pub fn asks_name(&mut self, host: &str) {
        self.record.host = Some(host.to_owned());
    }

    /// The method and path asked for; never pass a query.
    pub fn asks_for(&mut self, method: &str, path: &str) {
        self.record.method = Some(method.to_owned());
        self.record.path = Some(shortened(path));
    }

    /// What the agent wants to be connected to.
    pub fn asks_to_connect(&mut self, host: &str, port: u16) {
        self.asks(host, port);
        self.record.method = Some("CONNECT".to_owned());
    }

    /// The policy allows the request: writes that down, before anything of it leaves.
    ///
    /// # Errors
    /// [`Unrecorded`] when the line cannot be written; the entry then is a denial.
    pub fn begins(&mut self, permit: Permit) -> Result<Recorded, Unrecorded> {
        self.record.rule = Some(permit.rule().to_owned());
        self.record.credential = permit.credential().map(|credential| credential.name().to_owned());
        self.allows(Event::Begin)?;
        self.stage = Stage::Begun;
        Ok(Recorded { permit })
    }

    /// The policy allows TLS to pass unopened: writes that down, before anything of it leaves.
    ///
    /// # Errors
    /// [`Unrecorded`] when the line cannot be written; the entry then is a denial.
    pub fn begins_to_pass(&mut self, permit: PassPermit) -> Result<RecordedPass, Unrecorded> {
        self.record.rule = Some(permit.rule().to_owned());
        self.allows(Event::Begin)?;
        self.stage = Stage::Begun;
        Ok(RecordedPass { permit })
    }

    /// The policy allows the name, and no more than that: writes that down, and nothing is left to be written.
    ///
    /// # Errors
    /// [`Unrecorded`] when the line cannot be written; the entry then is a denial.
    pub fn admits(&mut self) -> Result<Admitted, Unrecorded> {
        self.allows(Event::Admit)?;
        self.stage = Stage::Whole;
        self.count();
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
                self.stage = Stage::Whole;
                self.count();
                Ok(())
            }
        }
    }

    fn kind(&self) -> Kind {
        let Record { entrance, decision, host, rule, reason, .. } = &self.record;
        Kind {
            entrance: (self.told_max > 1).then_some(*entrance),
            decision: *decision,
            host: host.clone(),
            rule: rule.clone(),
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
            }
            Verdict::Counted => {}
        }
    }

    fn spend_turn(&mut self) {
        if let Some(turn) = self.turn.take() {
            turn.spend();
        }
    }

    fn allows(&mut self, event: Event) -> Result<(), Unrecorded> {
        self.record.event = event;
        self.record.decision = Decision::Allow;
        let written = self.audit.write(&mut self.record);
        match written {
            Ok(()) => self.spend_turn(),
            Err(Unrecorded) => {
                self.record.decision = Decision::Deny;
                self.record.reason = Some(DenialReason::AuditUnavailable);
            }
        }
        written
    }

    /// It is refused, or failed upstream.
    pub fn refuses(&mut self, denial: &Denial, status: Option<u16>) {
        let record = &mut self.record;
        record.reason = Some(denial.reason);
        record.status = status;
        if !is_upstream_failure(denial.reason) {
            record.decision = Decision::Deny;
        }
        record.rule = record.rule.take().or_else(|| denial.rule.clone());
        record.host = record.host.take().or_else(|| denial.host.clone());
        record.port = record.port.or(denial.port);
        record.method = record.method.take().or_else(|| denial.method.clone());
        record.path = record.path.take().or_else(|| denial.path.as_deref().map(shortened));
        record.credential = record.credential.take().or_else(|| denial.credential.clone());
    }

    /// The address that is dialled; of several the last.
    pub fn dials(&mut self, address: SocketAddr) {
        self.record.address = Some(address);
    }

    /// The status the agent is answered with.
    pub fn answers(&mut self, status: u16) {
        self.record.status = Some(status);
    }

    /// The exchange broke off; the first reason stands.
    pub fn breaks(&mut self, reason: DenialReason) {
        self.record.reason.get_or_insert(reason);
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
        self.record.event = match self.stage {
            Stage::Open => Event::Deny,
            Stage::Begun => Event::End,
            Stage::Whole => return,
        };
        if let Some(credential) = self.traffic.misused() {
            self.record.decision = Decision::Deny;
            self.record.reason = Some(DenialReason::PlaceholderMisuse);
            self.record.credential.get_or_insert_with(|| credential.to_owned());
        }
        self.record.bytes_up = self.traffic.up.load(Ordering::Relaxed);
        self.record.bytes_down = self.traffic.down.load(Ordering::Relaxed);
        self.record.millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.count();
        self.audit.metrics.carried(self.record.bytes_up, self.record.bytes_down);
        if self.stage == Stage::Open {
            return self.denies();
        }
        // What is over cannot be undone; the loss is counted, and the next request finds out by itself.
        let _ = self.audit.write(&mut self.record);
    }
}

/// Failures behind an allowing decision: they say nothing against the request.
const fn is_upstream_failure(reason: DenialReason) -> bool {
    matches!(
        reason,
        DenialReason::UpstreamUnreachable
            | DenialReason::UpstreamUntrusted
            | DenialReason::AnswerBroken
            | DenialReason::UnreadableAnswer
            | DenialReason::Interrupted
            | DenialReason::NameNotFound
    )
}

#[cfg(test)]
pub(crate) mod tests;

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
//! sink that blocks blocks requests, because an unwritten decision is worse than a slow one. Requests that are ready at the same
//! moment are written down together, and each goes on once its own line is out.

mod clock;
mod entry;
pub mod folds;
mod line;
pub mod pace;
mod record;
mod sink;
mod span;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Instant, SystemTime};

use agentsandbox_policy::{Denial, DenialReason, Idle, PassPermit, Permit, Policy, Tally};
use tokio::sync::Notify;

use self::folds::{Folded, Folds};
use self::pace::{Pace, Turn};
use self::record::{Owner, VERSION};
use self::sink::{Place, Sink};
use crate::activity::Activity;
use crate::entrance::Entrance;
use crate::limits::AUDIT_BATCH_BYTES_MAX;
use crate::metrics::Metrics;
use crate::traces::Spans;

pub use self::entry::Entry;
pub use self::record::{Decision, Event, Fault, Record, RequestId, Text, Traffic};

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
///     drop(entry.begins(permit));
///     drop(entry.begins(permit));
/// }
/// ```
///
/// ```
/// fn once(entry: &mut agentsandbox_proxy::audit::Entry, permit: agentsandbox_policy::Permit) {
///     drop(entry.begins(permit));
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
    /// Lines wait that nobody waits for.
    has_lines: Notify,
    /// Of this run alone: a proxy that was started again counts from the beginning, and its ids must not be taken for those
    /// of the run before.
    run: u64,
    requests: AtomicU64,
    metrics: Arc<Metrics>,
    tally: Mutex<Tally>,
    activity: Arc<Activity>,
    folds: Folds,
    pace: Pace,
    spans: Spans,
}

impl Audit {
    /// An audit trail into `out`, at this pace.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>, pace: Pace, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            sink: Mutex::new(Sink::new(out)),
            has_lines: Notify::new(),
            folds: Folds::default(),
            pace,
            spans: Spans::default(),
            run: RandomState::new().build_hasher().finish(),
            requests: AtomicU64::new(0),
            metrics,
            tally: Mutex::default(),
            activity: Arc::new(Activity::since(Instant::now())),
        })
    }

    /// What is left for the collector.
    pub(crate) const fn spans(&self) -> &Spans {
        &self.spans
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
            record.host = folded.kind.host.as_deref().map(Text::from);
            record.rule = folded.kind.rule.as_deref().map(Text::from);
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
        self.open_at(entrance, policy, Instant::now())
    }

    /// The same for an exchange that began at this time.
    #[must_use]
    pub fn open_at(self: &Arc<Self>, entrance: Entrance, policy: Option<&Policy>, began: Instant) -> Entry {
        let is_traced = policy.is_some_and(|policy| policy.collector().is_some());
        Entry::new(self, self.blank(entrance, policy), began, is_traced)
    }

    fn blank(&self, entrance: Entrance, policy: Option<&Policy>) -> Record {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        Record {
            version: VERSION,
            time: String::new(),
            seq: 0,
            sandbox: Owner(policy.map(Policy::shared_sandbox)),
            entrance,
            event: Event::Deny,
            request_id: RequestId { run: self.run, number },
            host: None,
            port: None,
            method: None,
            path: None,
            rule: None,
            // Until something allows it, it is denied; also when the task is cancelled half-way.
            decision: Decision::Deny,
            reason: None,
            credential: None,
            client_certificate: None,
            client_certificate_shown: None,
            address: None,
            resent: None,
            leads_to_http: None,
            last_event: None,
            drained: None,
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

    /// For how long nothing has passed through this run's proxy by now.
    #[must_use]
    pub fn idle(&self, now: Instant) -> Idle {
        self.activity.idle(now)
    }

    /// Writes down what waits and nobody waits for, until this is dropped; from then on nothing waits any more.
    pub async fn tend(&self) {
        let _tending = Tending::of(self);
        loop {
            self.has_lines.notified().await;
            once_more().await;
            self.write_waiting(&mut self.sink());
        }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a line now, and before it those that wait.
    fn write(&self, record: &mut Record) -> Result<(), Unrecorded> {
        let place = self.add(&mut self.sink(), record)?;
        self.written(&place)
    }

    /// Has a line wait for those that come at the same moment; [`Self::written`] tells what came of it.
    fn begin_writing(&self, record: &mut Record) -> Result<Place, Unrecorded> {
        self.add(&mut self.sink(), record)
    }

    /// Whether a line is out. If it still waits it is written now.
    fn written(&self, place: &Place) -> Result<(), Unrecorded> {
        if place.is_written().is_none() {
            self.write_waiting(&mut self.sink());
        }
        if place.is_written() == Some(true) { Ok(()) } else { Err(Unrecorded) }
    }

    /// Writes a line that nobody waits for soon, or now if nobody would come back to it.
    fn write_soon(&self, record: &mut Record) {
        let mut sink = self.sink();
        // One behind others may be the first that nobody waits for, so whoever tends them is told of each; to be told twice costs
        // nothing. A line that cannot be made is counted.
        if self.add(&mut sink, record).is_err() {
            return;
        }
        if sink.is_tended {
            self.has_lines.notify_one();
        } else {
            self.write_waiting(&mut sink);
        }
    }

    fn add(&self, sink: &mut Sink, record: &mut Record) -> Result<Place, Unrecorded> {
        if sink.waiting_bytes() >= AUDIT_BATCH_BYTES_MAX {
            self.write_waiting(sink);
        }
        // One line after another has its room.
        record.time = std::mem::take(&mut sink.time);
        sink.clock.write(SystemTime::now(), &mut record.time);
        let added = sink.add(|seq, lines| {
            record.seq = seq;
            line::put(record, lines)
        });
        sink.time = std::mem::take(&mut record.time);
        added.map_err(|error| {
            self.loses(sink, 1, &error.into());
            Unrecorded
        })
    }

    fn write_waiting(&self, sink: &mut Sink) {
        if sink.waiting_bytes() == 0 {
            return;
        }
        match sink.write() {
            Ok(()) => sink.failing = false,
            Err((lost, error)) => self.loses(sink, lost, &error),
        }
    }

    fn loses(&self, sink: &mut Sink, lines: usize, error: &std::io::Error) {
        self.metrics.audit_lost(lines);
        // Once: the log may be on the disk that is full, and the agent can ask without end.
        if !std::mem::replace(&mut sink.failing, true) {
            tracing::error!(error = %error, "an audit line cannot be written; nothing is allowed until one can");
        }
    }
}

/// While this lives somebody writes what waits.
struct Tending<'a>(&'a Audit);

impl<'a> Tending<'a> {
    fn of(audit: &'a Audit) -> Self {
        audit.sink().is_tended = true;
        Self(audit)
    }
}

impl Drop for Tending<'_> {
    fn drop(&mut self) {
        let mut sink = self.0.sink();
        sink.is_tended = false;
        self.0.write_waiting(&mut sink);
    }
}

/// Comes back when all tasks that are ready have had their turn.
async fn once_more() {
    let mut has_waited = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
pub(crate) mod tests;

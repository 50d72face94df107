//! The audit trail: one JSON object on one line for each decision, on every path.
//!
//! An [`Entry`] is opened before anything is decided and writes itself when it is dropped, so that no path can forget
//! it: neither an early return nor a client that goes away. Its fields are typed; there is none for a query, a header
//! or a body, and none that could hold a secret. The sink is written under a lock, so sequence numbers have no gap; a
//! sink that blocks blocks requests, because an unwritten decision is worse than a slow one.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason, Permit, Policy};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::entrance::Entrance;
use crate::limits::AUDIT_PATH_BYTES_MAX;
use crate::metrics::Metrics;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The policy allows it; `reason` tells whether the upstream then failed.
    Allow,
    /// Refused.
    Deny,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    time: String,
    seq: u64,
    sandbox: Sandbox,
    entrance: Entrance,
    request_id: String,
    host: Option<String>,
    port: Option<u16>,
    method: Option<String>,
    path: Option<String>,
    rule: Option<String>,
    decision: Decision,
    reason: Option<DenialReason>,
    credential: Option<String>,
    address: Option<SocketAddr>,
    status: Option<u16>,
    bytes_up: u64,
    bytes_down: u64,
    millis: u64,
    generation: i64,
    /// How many like this one were folded into this line.
    #[serde(skip_serializing_if = "Option::is_none")]
    folded: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Sandbox {
    namespace: String,
    name: String,
    uid: String,
}

/// Where the lines go.
pub struct Audit {
    sink: Mutex<Sink>,
    requests: AtomicU64,
    metrics: Arc<Metrics>,
}

struct Sink {
    seq: u64,
    out: Box<dyn Write + Send>,
}

impl Audit {
    /// An audit trail into `out`.
    #[must_use]
    pub fn new(out: Box<dyn Write + Send>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { sink: Mutex::new(Sink { seq: 0, out }), requests: AtomicU64::new(0), metrics })
    }

    /// Opens the entry of one exchange.
    #[must_use]
    pub fn open(self: &Arc<Self>, entrance: Entrance, policy: Option<&Policy>) -> Entry {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let sandbox = policy.map(|policy| policy.sandbox());
        Entry {
            audit: Arc::clone(self),
            started: Instant::now(),
            traffic: Arc::new(Traffic::default()),
            record: Record {
                time: String::new(),
                seq: 0,
                sandbox: sandbox.map_or_else(Sandbox::default, |s| Sandbox {
                    namespace: s.namespace.clone(),
                    name: s.name.clone(),
                    uid: s.uid.clone(),
                }),
                entrance,
                request_id: format!("{:08x}-{number:06x}", std::process::id()),
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
            },
        }
    }

    fn write(&self, record: &mut Record) {
        record.time = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        record.seq = sink.seq;
        let Ok(mut line) = serde_json::to_vec(record) else { return };
        line.push(b'\n');
        if sink.out.write_all(&line).and_then(|()| sink.out.flush()).is_ok() {
            sink.seq += 1;
        } else {
            self.metrics.audit_lost();
        }
    }
}

/// Bytes of one exchange, counted where they pass.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the agent.
    pub up: AtomicU64,
    /// To the agent.
    pub down: AtomicU64,
}

/// The entry of one exchange; it writes itself when dropped.
pub struct Entry {
    audit: Arc<Audit>,
    started: Instant,
    traffic: Arc<Traffic>,
    record: Record,
}

impl Entry {
    /// The id that the client is told as well.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.record.request_id
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

    /// The method and path asked for; never pass a query.
    pub fn asks_for(&mut self, method: &str, path: &str) {
        self.record.method = Some(method.to_owned());
        self.record.path = Some(shortened(path));
    }

    /// The policy allows it.
    pub fn permits(&mut self, permit: &Permit) {
        self.record.decision = Decision::Allow;
        self.record.rule = Some(permit.rule().to_owned());
        self.record.credential = permit.credential().map(|credential| credential.name().to_owned());
    }

    /// The policy allows the name, and no more than that.
    pub fn permits_name(&mut self) {
        self.record.decision = Decision::Allow;
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

    /// The address that was dialled.
    pub fn dials(&mut self, address: SocketAddr) {
        self.record.address = Some(address);
    }

    /// The status the agent is answered with.
    pub fn answers(&mut self, status: u16) {
        self.record.status = Some(status);
    }

    /// This line stands for so many.
    pub fn folds(&mut self, count: u64) {
        self.record.folded = Some(count);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.record.bytes_up = self.traffic.up.load(Ordering::Relaxed);
        self.record.bytes_down = self.traffic.down.load(Ordering::Relaxed);
        self.record.millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let record = &mut self.record;
        self.audit.metrics.decided(
            record.entrance,
            record.decision,
            record.reason,
            record.folded.unwrap_or(1),
        );
        self.audit.metrics.carried(record.bytes_up, record.bytes_down);
        self.audit.write(record);
    }
}

/// Failures behind an allowing decision: they say nothing against the request.
const fn is_upstream_failure(reason: DenialReason) -> bool {
    matches!(
        reason,
        DenialReason::UpstreamUnreachable | DenialReason::UpstreamUntrusted | DenialReason::NameNotFound
    )
}

fn shortened(path: &str) -> String {
    if path.len() <= AUDIT_PATH_BYTES_MAX {
        return path.to_owned();
    }
    let end = (0..=AUDIT_PATH_BYTES_MAX).rev().find(|end| path.is_char_boundary(*end)).unwrap_or(0);
    format!("{}… ({} bytes)", &path[..end], path.len())
}

//! What one line of the audit trail says, and what it is filled with while an exchange goes on.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use agentsandbox_policy::document::SandboxIdentity;
use agentsandbox_policy::{Denial, DenialReason};
use aws_lc_rs::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use tokio::time;

use crate::activity::Activity;
use crate::budget::{Exceeded, Meter};
use crate::entrance::Entrance;
use crate::limits::AUDIT_PATH_BYTES_MAX;

/// Of the shape of a line. It is raised when a field is taken away or means something else; a new field raises nothing.
pub(super) const VERSION: u8 = 1;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The policy allows it; `reason` tells whether the upstream then failed.
    Allow,
    /// Refused.
    Deny,
}

/// What a line says about its decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A request is allowed and about to be sent; an [`Event::End`] with the same request id follows.
    Begin,
    /// A request that began has ended.
    End,
    /// A name may be gone on with; no request was judged.
    Admit,
    /// Something is refused.
    Deny,
}

/// One line of the audit trail. What is not known, or does not apply, is null.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "AuditLine")]
pub struct Record {
    /// The version of this shape.
    #[schemars(extend("const" = VERSION))]
    pub(super) version: u8,
    /// When the line was written, in UTC (RFC 3339).
    #[schemars(extend("format" = "date-time"))]
    pub(super) time: String,
    /// Number of the line since the proxy's start, from 0, without gaps.
    pub(super) seq: u64,
    /// Whose agent it is; its fields are empty while there is no policy in force.
    #[schemars(with = "Sandbox<'_>")]
    pub(super) sandbox: Owner,
    /// Where it came in.
    pub(super) entrance: Entrance,
    /// What the line says about its decision.
    pub(super) event: Event,
    /// Shared by `begin` and `end`, and told to the agent with a refusal.
    #[schemars(with = "String")]
    pub(super) request_id: RequestId,
    /// Canonical host.
    #[schemars(with = "Option<String>")]
    pub(super) host: Option<Text>,
    /// Port asked for.
    pub(super) port: Option<u16>,
    /// Method asked for.
    pub(super) method: Option<Cow<'static, str>>,
    /// Canonical path, never with a query. One over 2 KiB is cut, with its SHA-256.
    #[schemars(with = "Option<String>")]
    pub(super) path: Option<Text>,
    /// Name of the rule that allowed it, or came closest.
    #[schemars(with = "Option<String>")]
    pub(super) rule: Option<Text>,
    /// What was decided.
    pub(super) decision: Decision,
    /// Why it was refused or failed.
    pub(super) reason: Option<DenialReason>,
    /// Name of the credential that was added, or that is concerned.
    #[schemars(with = "Option<String>")]
    pub(super) credential: Option<Text>,
    /// Name of the client certificate that its connection was to show; the field is not there without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub(super) client_certificate: Option<Text>,
    /// Whether its last connection was asked for the client certificate and showed it; the field is not there where that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub(super) client_certificate_shown: Option<bool>,
    /// Address that was dialled; of several the last.
    pub(super) address: Option<SocketAddr>,
    /// That it was sent a second time, as the connection that was kept ended under it; else the field is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub(super) resent: Option<bool>,
    /// That an answer over https leads to a URL without TLS (`Location`); else the field is not there. The proxy follows none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub(super) leads_to_http: Option<bool>,
    /// That an event stream was stopped for the reason and ended with an event that says so; else the field is not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub(super) last_event: Option<bool>,
    /// That a body of it was given time to its end when its rule went (`drainSeconds`), which it had unless there is a reason; else the field is
    /// not there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub(super) drained: Option<bool>,
    /// Status the agent was answered with.
    pub(super) status: Option<u16>,
    /// Bytes of bodies from the agent.
    pub(super) bytes_up: u64,
    /// Bytes of bodies to the agent.
    pub(super) bytes_down: u64,
    /// Milliseconds since the exchange began.
    pub(super) millis: u64,
    /// Generation of the AgentSandbox that the policy was written from.
    pub(super) generation: i64,
    /// How many more like the line before them this line stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub(super) folded: Option<u64>,
}

/// Whose agent it is.
#[derive(Default, Serialize, JsonSchema)]
pub(super) struct Sandbox<'a> {
    /// Namespace of the AgentSandbox.
    pub(super) namespace: &'a str,
    /// Its name.
    pub(super) name: &'a str,
    /// Its UID; empty outside Kubernetes.
    pub(super) uid: &'a str,
}

/// Whose agent it is, as its policy has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Owner(pub(super) Option<Arc<SandboxIdentity>>);

impl Owner {
    /// What the line says of it.
    pub(super) fn sandbox(&self) -> Sandbox<'_> {
        self.0.as_deref().map_or_else(Sandbox::default, |SandboxIdentity { namespace, name, uid }| Sandbox {
            namespace,
            name,
            uid,
        })
    }
}

impl Serialize for Owner {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.sandbox().serialize(serializer)
    }
}

/// A text that is shared with the request or the policy that it stands in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text(Arc<str>);

impl std::ops::Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for Text {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

/// The run of the proxy, and the number of the request in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    pub(super) run: u64,
    pub(super) number: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:06x}", self.run, self.number)
    }
}

impl Serialize for RequestId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bytes of one exchange, counted where they pass.
#[derive(Default)]
pub struct Traffic {
    /// From the agent.
    pub(super) up: AtomicU64,
    /// To the agent.
    pub(super) down: AtomicU64,
    activity: Option<Arc<Activity>>,
    /// Of the head that was sent up.
    head: AtomicU64,
    meter: OnceLock<Meter>,
    fault: OnceLock<Fault>,
    drained: AtomicBool,
    /// Since when no document allows it, and when it ends at the latest.
    draining: Mutex<Option<(time::Instant, time::Instant)>>,
}

/// Why the agent's body did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It was broken off for a placeholder of this credential.
    Misused(String),
    /// It was broken off for this field of its form, which is for a key or an account.
    OwnKey(String),
    /// It broke the protocol.
    Malformed,
    /// The agent fell silent.
    Silent,
    /// The agent went away.
    Gone,
    /// More of it may not be sent.
    OverLimit,
    /// The policy would not allow it any more.
    Revoked(Box<Denial>),
}

impl Fault {
    /// What the exchange is denied for, or failed of.
    #[must_use]
    pub fn reason(&self) -> DenialReason {
        match self {
            Self::Misused(_) => DenialReason::PlaceholderMisuse,
            Self::OwnKey(_) => DenialReason::ForeignCredential,
            Self::Malformed => DenialReason::MalformedRequest,
            Self::Silent => DenialReason::RequestStalled,
            Self::Gone => DenialReason::Interrupted,
            Self::OverLimit => DenialReason::UploadLimitExceeded,
            Self::Revoked(denial) => denial.reason,
        }
    }
}

impl Traffic {
    /// Nothing yet; what passes is also told to `activity`.
    pub(super) fn telling(activity: &Arc<Activity>) -> Self {
        Self { activity: Some(Arc::clone(activity)), ..Self::default() }
    }

    /// Bytes went up, beside the head.
    pub fn goes_up(&self, bytes: usize) {
        self.goes(&self.up, bytes);
    }

    /// Bytes went down.
    pub fn goes_down(&self, bytes: usize) {
        self.goes(&self.down, bytes);
    }

    /// As many bytes that were to go down were withdrawn.
    pub fn withdraws(&self, bytes: usize) {
        self.down.fetch_sub(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Bytes that have passed in both ways; of use to see whether it moves.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.up.load(Ordering::Relaxed).wrapping_add(self.down.load(Ordering::Relaxed))
    }

    fn goes(&self, way: &AtomicU64, bytes: usize) {
        way.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
        if let Some(activity) = self.activity.as_ref().filter(|_| bytes > 0) {
            activity.passes();
        }
    }

    /// What goes up is bounded.
    pub fn bound(&self, meter: Meter) {
        // An exchange is sent under one rule.
        let _ = self.meter.set(meter);
    }

    /// A head of this size is about to be sent; sent again, it is the same one.
    ///
    /// # Errors
    /// [`Exceeded`] when it may not be.
    pub fn sends_head(&self, bytes: u64) -> Result<(), Exceeded> {
        if self.head.load(Ordering::Relaxed) == 0 {
            self.spends(bytes)?;
            self.head.store(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The same head is about to go up once more.
    ///
    /// # Errors
    /// [`Exceeded`] when it may not be. That is no fault of the agent's, whose request went up once.
    pub fn sends_head_again(&self, bytes: u64) -> Result<(), Exceeded> {
        if let Some(meter) = self.meter.get() {
            meter.spend(bytes, Instant::now())?;
        }
        self.head.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Bytes are about to go up, beside the head.
    ///
    /// # Errors
    /// [`Exceeded`] when they may not. The agent's body, or its side of a tunnel, then ends here.
    pub fn spends(&self, bytes: u64) -> Result<(), Exceeded> {
        let Some(meter) = self.meter.get() else { return Ok(()) };
        meter.spend(bytes, Instant::now()).inspect_err(|_| self.faults(Fault::OverLimit))
    }

    /// Nothing more goes up. Gives back how much did, with the head.
    pub(super) fn is_over(&self) -> u64 {
        if let Some(meter) = self.meter.get() {
            meter.over();
        }
        self.head.load(Ordering::Relaxed).saturating_add(self.up.load(Ordering::Relaxed))
    }

    /// Its rule is gone, and a document gives it this long; when it ends at the latest. The time is counted for both of its bodies from
    /// when that was seen first, and what follows only shortens it.
    pub fn drains(&self, now: time::Instant, grace: Duration) -> time::Instant {
        let mut draining = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, promised) = draining.unwrap_or((now, now + grace));
        let until = promised.min(since + grace);
        *draining = Some((since, until));
        if now < until {
            self.drained.store(true, Ordering::Relaxed);
        }
        until
    }

    /// It is allowed again.
    pub fn goes_on(&self) {
        *self.draining.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether it was given time to its end.
    #[must_use]
    pub fn has_drained(&self) -> bool {
        self.drained.load(Ordering::Relaxed)
    }

    /// The agent's body ends here.
    pub fn faults(&self, fault: Fault) {
        // A body that is broken off has no second fault.
        let _ = self.fault.set(fault);
    }

    /// Why the agent's body ended early, if it did.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        self.fault.get()
    }
}

/// Long paths are cut; the digest still tells them apart.
pub(super) fn shortened(path: Text) -> Text {
    if path.len() <= AUDIT_PATH_BYTES_MAX {
        return path;
    }
    let end = (0..=AUDIT_PATH_BYTES_MAX).rev().find(|end| path.is_char_boundary(*end)).unwrap_or(0);
    let sum = digest(&SHA256, path.as_bytes());
    let hex: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}… ({} bytes, sha256 {hex})", path.get(..end).unwrap_or_default(), path.len()).into()
}

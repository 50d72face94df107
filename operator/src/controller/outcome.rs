//! What a pass came to: the record that status, Events, metrics and the requeue are drawn from. Never what was hoped for.

use agentsandbox_crds::class::Isolation;
use agentsandbox_crds::sandbox::ProgramStatus;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

use super::accept::{Rejection, SecretPlace, UpstreamLogin};
use super::apply::{Applied, ApplyError, Missing, names_another};
use super::desired::ChildKind;
use super::evaluate::Widening;
use super::memory::Failed;
use super::observe::denials::Held;
use super::observe::{Closedness, serving_since};
use crate::metrics::Verb;

/// Another object's owner may rename it; nothing tells us when.
const FOREIGN_RETRY: Duration = Duration::from_secs(300);
/// A quota is raised, or space is freed, by somebody else.
const REFUSED_RETRY: Duration = Duration::from_secs(30);
/// OwnerReferencesPermissionEnforcement asks what kinds there are about every 30 s; a pause that grew would outlast that.
pub(super) const KINDS_RETRY: Duration = Duration::from_secs(2);
/// A probe that failed for reasons of the operator's own: they mostly pass.
const PROBE_UNCLEAR_RETRY: Duration = Duration::from_secs(1);
/// Walls are programmed within about a tenth of a second; the fence waits for this probe.
const PROBE_RETRY: Duration = Duration::from_millis(50);
/// A wall that stays open this long is reported, and probed calmly.
pub const PROBE_PATIENCE: SignedDuration = SignedDuration::from_secs(5);
const PROBE_RETRY_LATER: Duration = Duration::from_secs(2);
/// A pod that its node has not made after this time is reported: a runtime without this handler never makes it.
pub const UNMADE_PATIENCE: SignedDuration = SignedDuration::from_secs(15);

/// What a pass came to.
#[derive(Debug)]
pub struct Outcome {
    /// The class in force, once known.
    pub class_name: Option<String>,
    /// When an agent of the sandbox first started, as far as it was known when the pass began.
    pub started: Option<Timestamp>,
    /// Since when nothing has passed through its proxy, where that is to be told.
    pub idle_since: Option<Timestamp>,
    /// What is left of its power, where it is suspended.
    pub off: Option<Off>,
    /// How far it got.
    pub stage: Stage,
}

/// How far a pass got.
#[derive(Debug)]
pub enum Stage {
    /// The sandbox is not accepted; nothing of it runs.
    Rejected(Vec<Rejection>),
    /// A child could not be applied.
    Blocked(Blocked),
    /// What bounds the sandbox's power is missing or not as wanted, and could not be put back.
    Breached(Breach),
    /// The walls stand.
    Standing(Box<Workload>),
    /// The walls stand and nothing is started behind them, for the sandbox is suspended; a policy that widens them, if there is one.
    Suspended(Option<Widening>),
    /// The program has ended, and nothing is started any more.
    Finished(Box<ProgramStatus>, Left),
    /// No list of templates has come, so nobody knows what the sandbox is to be.
    Unlisted(Box<Unlisted>),
}

/// A sandbox of which nobody knows what it is to be.
#[derive(Debug)]
pub struct Unlisted {
    /// The template that it names.
    pub template: String,
    /// For how long that is not told yet; none where it is.
    pub silent_for: Option<Duration>,
    /// Whether our finalizer was taken off it and could not be put back.
    pub is_unheld: bool,
    /// What bounds it all the same.
    pub bounds: Bounds,
}

/// What bounds a sandbox of which nobody knows what it is to be.
#[derive(Debug)]
pub enum Bounds {
    /// It is within them, but for a policy that widens the walls, if there is one; then no agent runs.
    Kept(Option<Widening>),
    /// It is within them as far as is known, and its proxy is tried once more.
    Probed,
    /// Its proxy can be reached by others, so no agent runs.
    Open,
    /// They could not be looked after.
    Blocked(Blocked),
    /// One is missing or not as wanted, and could not be put back.
    Breached(Breach),
}

/// What is left of a power that was taken away, and when to look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Off {
    /// What is left.
    pub left: Left,
    /// When to look again at what does not go, if no watch shows it go; none where nothing is left.
    pub again: Option<Duration>,
}

/// What is left of a sandbox that is over or suspended, beside its walls and the agent's pod as it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// Nothing.
    Nothing,
    /// These pods, which are stopped, each with its node as far as that is known.
    Ending(Vec<String>),
    /// Nobody knows: they could not be stopped, for this.
    Unstopped(String),
}

/// Why a child could not be applied, as far as status needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The name belongs to somebody else.
    Foreign(ChildKind, String),
    /// An object is on its way out.
    Pending(ChildKind, String),
    /// A permission is missing.
    Forbidden(String),
    /// The API server refuses this object: a quota, an admission policy.
    Refused(String),
    /// Something on the way to the API server changes this pod.
    Changed(String),
    /// The namespace is being deleted.
    NamespaceTerminating,
    /// Somebody wrote in between.
    Conflict,
    /// The API server could not answer.
    Transient(String),
    /// The API server does not know our kinds yet.
    KindsUnknown(String),
    /// Another replica leads.
    NotLeader,
}

/// Something that bounds the sandbox's power and could not be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// What it is.
    pub lost: Lost,
    /// Why.
    pub why: Blocked,
    /// What became of the agent.
    pub agent: Halted,
}

/// What bounds a sandbox's power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// A NetworkPolicy, or the labels by which it selects the agent.
    Wall,
    /// The policy document, which tells the proxy where a credential goes.
    Document,
}

/// What became of an agent whose walls are breached, and of its proxy if that would obey a stranger's document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halted {
    /// It runs no more, or never did.
    Stopped,
    /// It was left alone: the failure may pass, and the wall is tried again at once.
    Spared,
    /// It could not be stopped; why.
    Unstopped(String),
}

/// The pods, and what is known about them.
#[derive(Debug)]
pub struct Workload {
    /// The kernel that was promised.
    pub isolation: Isolation,
    /// Whether the class gives the agent no network.
    pub without_network: bool,
    /// Whether the workspace has a source.
    pub fetches: bool,
    /// The claim that it is in, with the bytes that it is to have; none where it lasts as long as its pod.
    pub claim: Option<(Box<PersistentVolumeClaim>, i64)>,
    /// What the workspace is to begin with and is not there, if the agent's pod waits for it.
    pub missing: Option<Missing>,
    /// The Secrets of the credentials that rules name, and of the login at the class's upstream proxy, by the credential's name.
    pub credentials: BTreeMap<String, SecretPlace>,
    /// That login, if the class asks for one.
    pub login: Option<UpstreamLogin>,
    /// What is known of the secrets that the proxy holds, once it is ready.
    pub held: Held,
    /// The proxy's pod.
    pub proxy: Applied,
    /// Whether the proxy is closed to others.
    pub closed: Closedness,
    /// The agent's pod.
    pub agent: Applied,
    /// The agent's pod that last failed before its program was started, if that was made from the same spec.
    pub failed: Option<Failed>,
    /// A policy that widens the walls.
    pub widening: Option<Widening>,
}

/// When the next pass has to come, if nothing wakes it earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    /// A watch will wake it.
    AwaitChange,
    /// At the latest after this time.
    After(Duration),
    /// With a backoff of its own.
    Backoff,
}

impl Requeue {
    /// The same, but no later than `limit`.
    #[must_use]
    pub fn at_latest(self, limit: Option<Duration>) -> Self {
        match (self, limit) {
            (Self::AwaitChange, Some(limit)) => Self::After(limit),
            (Self::After(time), Some(limit)) => Self::After(time.min(limit)),
            (other, _) => other,
        }
    }
}

impl Outcome {
    /// What a pass came to, before anything is known of the sandbox's life.
    #[must_use]
    pub const fn of(class_name: Option<String>, stage: Stage) -> Self {
        Self { class_name, started: None, idle_since: None, off: None, stage }
    }

    /// When the next pass has to come.
    #[must_use]
    pub fn requeue(&self, now: Timestamp) -> Requeue {
        match &self.stage {
            Stage::Rejected(_) | Stage::Suspended(_) | Stage::Finished(..) => Requeue::AwaitChange,
            Stage::Blocked(blocked) => blocked.requeue(),
            Stage::Breached(breach) => breach.requeue(),
            Stage::Standing(workload) => workload.requeue(now),
            Stage::Unlisted(unlisted) => unlisted.requeue(),
        }
    }
}

impl Breach {
    fn requeue(&self) -> Requeue {
        match self.agent {
            Halted::Stopped => self.why.requeue(),
            Halted::Spared | Halted::Unstopped(_) => Requeue::Backoff,
        }
    }
}

impl Unlisted {
    /// Each list wakes every sandbox, so it is not waited for here.
    fn requeue(&self) -> Requeue {
        let next = match &self.bounds {
            _ if self.is_unheld => Requeue::Backoff,
            Bounds::Kept(_) => Requeue::AwaitChange,
            Bounds::Probed => Requeue::After(PROBE_UNCLEAR_RETRY),
            Bounds::Open => Requeue::After(PROBE_RETRY_LATER),
            Bounds::Blocked(blocked) => blocked.requeue(),
            Bounds::Breached(breach) => breach.requeue(),
        };
        next.at_latest(self.silent_for)
    }
}

impl Workload {
    fn requeue(&self, now: Timestamp) -> Requeue {
        let probe = match &self.closed {
            Closedness::Open | Closedness::Reopened if self.open_too_long(now) => Some(PROBE_RETRY_LATER),
            Closedness::Open | Closedness::Reopened => Some(PROBE_RETRY),
            Closedness::Unclear(_) => Some(PROBE_UNCLEAR_RETRY),
            Closedness::Seen(_, confirm_in) => Some(*confirm_in),
            Closedness::Untried | Closedness::Proven(_) | Closedness::Waived(_) => None,
        };
        let held = [&self.proxy, &self.agent].into_iter().filter_map(|applied| match applied {
            Applied::Ended(_, Some(until)) => {
                Some(Duration::try_from(until.duration_since(now)).unwrap_or_default() + PROBE_RETRY)
            }
            _ => None,
        });
        let unmade = self.unmade_since().and_then(|since| {
            let left = UNMADE_PATIENCE - now.duration_since(since);
            left.is_positive().then(|| Duration::try_from(left).unwrap_or_default() + PROBE_RETRY)
        });
        // It failed, and its kubelet starts nothing of it again.
        let spent = match (&self.agent, &self.failed) {
            (Applied::Present(pod), Some(failed)) if pod.metadata.uid == failed.pod.metadata.uid => {
                let left = failed.until.duration_since(now);
                Some(Duration::try_from(left).unwrap_or_default() + PROBE_RETRY)
            }
            _ => None,
        };
        held.chain(spent).chain(probe).chain(unmade).min().map_or(Requeue::AwaitChange, Requeue::After)
    }

    /// Since when a node has had the agent's pod and not made its sandbox (condition PodReadyToStartContainers).
    #[must_use]
    pub fn unmade_since(&self) -> Option<Timestamp> {
        let Applied::Present(pod) = &self.agent else { return None };
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let of = |type_: &str, status: &str| {
            conditions.clone().find(|one| one.type_ == type_ && one.status == status)
        };
        of("PodReadyToStartContainers", "False")?;
        of("PodScheduled", "True")?.last_transition_time.as_ref().map(|time| time.0)
    }

    /// Whether the proxy has served, open to others, for longer than policies take to be programmed.
    #[must_use]
    pub fn open_too_long(&self, now: Timestamp) -> bool {
        open_too_long(&self.proxy, &self.closed, now)
    }
}

/// Whether a proxy has served, open to others, for longer than policies take to be programmed.
#[must_use]
pub fn open_too_long(proxy: &Applied, closed: &Closedness, now: Timestamp) -> bool {
    let since = match proxy {
        Applied::Present(pod) => serving_since(pod),
        _ => None,
    };
    matches!(closed, Closedness::Open | Closedness::Reopened)
        && since.is_some_and(|since| now.duration_since(since) > PROBE_PATIENCE)
}

/// Whether an agent may not run beside a proxy that was found like this.
#[must_use]
pub fn must_stop(proxy: &Applied, closed: &Closedness, now: Timestamp) -> bool {
    *closed == Closedness::Reopened || open_too_long(proxy, closed, now)
}

impl Blocked {
    /// Whether trying again is of no use before something else changes.
    #[must_use]
    pub const fn lasts(&self) -> bool {
        match self {
            Self::Foreign(..) | Self::Refused(_) | Self::Changed(_) | Self::NamespaceTerminating => true,
            // An API server that has just started forbids what is granted, until it has read the roles.
            Self::Forbidden(_)
            | Self::Pending(..)
            | Self::Conflict
            | Self::Transient(_)
            | Self::KindsUnknown(_)
            | Self::NotLeader => false,
        }
    }

    fn requeue(&self) -> Requeue {
        match self {
            Self::Foreign(..) => Requeue::After(FOREIGN_RETRY),
            Self::Refused(_) | Self::Changed(_) => Requeue::After(REFUSED_RETRY),
            Self::KindsUnknown(_) => Requeue::After(KINDS_RETRY),
            Self::Pending(..) | Self::NamespaceTerminating => Requeue::AwaitChange,
            // The watch mostly brings the newer version before the first pause is over. A missing
            // permission is granted by a person, or by an API server that has just started as soon as it has read the roles.
            Self::Conflict | Self::Forbidden(_) | Self::Transient(_) | Self::NotLeader => Requeue::Backoff,
        }
    }
}

impl From<&ApplyError> for Blocked {
    fn from(error: &ApplyError) -> Self {
        match error {
            ApplyError::Foreign { kind, name } => Self::Foreign(*kind, name.clone()),
            ApplyError::Pending { kind, name } => Self::Pending(*kind, name.clone()),
            ApplyError::Held { source, .. } => Self::from(source.as_ref()),
            ApplyError::NotLeader => Self::NotLeader,
            ApplyError::Late { .. } => Self::Conflict,
            ApplyError::Changed { name, what } => Self::Changed(format!("{name}: {what}")),
            ApplyError::Unanswered { verb, what } => {
                Self::Transient(format!("{verb} of {what} got no answer"))
            }
            ApplyError::Keys(error) => Self::Transient(error.to_string()),
            ApplyError::Api { verb, what, source } => match source.as_ref() {
                kube::Error::Api(status) => Self::from_status(*verb, status, &format!("{verb} of {what}")),
                _ => Self::Transient(format!("{verb} of {what} got no answer")),
            },
        }
    }
}

impl Blocked {
    /// A 403 has three meanings that the code alone does not tell apart; the API server writes which.
    fn from_status(verb: Verb, status: &kube::core::Status, what: &str) -> Self {
        let says = |text: &str| status.message.contains(text);
        match status.code {
            403 if says("because it is being terminated") => Self::NamespaceTerminating,
            // OwnerReferencesPermissionEnforcement learns of a new kind only when it next asks what there is.
            403 if says("cannot find RESTMapping") => Self::KindsUnknown(format!("{what} was refused")),
            403 if says("exceeded quota")
                || says("violates PodSecurity")
                || says("denied request")
                || says("ValidatingAdmissionPolicy") =>
            {
                Self::Refused(format!("{what} was refused: {}", status.message))
            }
            403 if says("cannot ") => Self::Forbidden(format!("{what} is not permitted: {}", status.message)),
            422 if names_another(verb, status) => Self::Conflict,
            400 | 403 | 422 => Self::Refused(format!("{what} was refused: {}", status.message)),
            404 => Self::Transient(format!("{what} found nothing")),
            409 => Self::Conflict,
            code => Self::Transient(format!("{what} was answered with {code}")),
        }
    }
}

#[cfg(test)]
mod tests;

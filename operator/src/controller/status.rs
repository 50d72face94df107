//! The status of a sandbox, from what a pass came to. Pure; none when nothing changed.
//!
//! A condition is True only on evidence: a pod that the kubelet calls ready, a connection that failed, a report of the
//! fence. Silence is Unknown, never True. Time is an argument; it is written only where a status changed, and two
//! statuses that differ in times only are the same.

use agentsandbox_crds::sandbox::{DeniedRequests, EgressStatus, ProgramStatus};
use agentsandbox_crds::workspace::WorkspaceStatus;
use agentsandbox_crds::{AgentSandbox, AgentSandboxStatus};
use agentsandbox_policy::Tally;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use super::accept::Rejection;
use super::life;
use super::outcome::{Blocked, Breach, Halted, Lost, Outcome, Stage, Workload};
use super::present;

pub mod evidence;
mod finished;
mod pods;
mod reason;
mod secrets;
mod suspended;
mod unlisted;
pub(super) mod workspace;

pub use reason::{ConditionType, Reason};

/// One condition, before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which aspect.
    pub type_: ConditionType,
    /// Whether it holds.
    pub holds: Holds,
    /// For programs.
    pub reason: Reason,
    /// For people.
    pub message: String,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// It does, on evidence.
    True,
    /// It does not, on evidence.
    False,
    /// There is no evidence.
    Unknown,
}

/// The status to write; none when the present one says the same.
#[must_use]
pub fn status(
    sandbox: &AgentSandbox,
    outcome: &Outcome,
    tally: Option<&Tally>,
    now: Timestamp,
) -> Option<AgentSandboxStatus> {
    let old = sandbox.status.clone().unwrap_or_default();
    let facts = Facts {
        class_name: outcome.class_name.clone(),
        egress: egress(tally, old.egress.as_ref()),
        workspace: workspace::counts(sandbox, outcome, old.workspace.as_ref()),
        started_at: old.started_at.or_else(|| started(outcome, now).map(Time)),
        program: match &outcome.stage {
            Stage::Finished(program, _) => Some(program.as_ref().clone()),
            _ => old.program,
        },
        last_activity_time: match &outcome.stage {
            Stage::Finished(..) | Stage::Unlisted(_) => {
                outcome.idle_since.map(Time).or(old.last_activity_time)
            }
            _ => outcome.idle_since.map(Time),
        },
    };
    let mut verdicts = verdicts(outcome, now)?;
    suspended::add(&mut verdicts, suspended::told(sandbox, outcome));
    changed(sandbox, verdicts, facts, now)
}

/// The status of a sandbox that is being deleted, with the sentence that says what it waits for; none when the present one says
/// the same. What was proven of it holds no more, and nothing is proven anew.
#[must_use]
pub fn ending(sandbox: &AgentSandbox, message: &str, now: Timestamp) -> Option<AgentSandboxStatus> {
    const FACTS: &str = "The sandbox is being deleted.";
    let mut facts = vec![Verdict::new(ConditionType::Accepted, Holds::Unknown, Reason::Terminating, FACTS)];
    facts.extend(unknown(Reason::Terminating, FACTS));
    facts.push(Verdict::new(ConditionType::Ready, Holds::False, Reason::Terminating, message));
    let mut verdicts = summarised(facts);
    let suspended = Verdict::new(ConditionType::Suspended, Holds::Unknown, Reason::Terminating, FACTS);
    suspended::add(&mut verdicts, life::state(sandbox).map(|_| suspended));
    let AgentSandboxStatus { class_name, egress, workspace, started_at, program, last_activity_time, .. } =
        sandbox.status.clone().unwrap_or_default();
    let facts = Facts { class_name, egress, workspace, started_at, program, last_activity_time };
    changed(sandbox, verdicts, facts, now)
}

/// What a status says beside its conditions.
struct Facts {
    class_name: Option<String>,
    egress: Option<EgressStatus>,
    workspace: Option<WorkspaceStatus>,
    started_at: Option<Time>,
    program: Option<ProgramStatus>,
    last_activity_time: Option<Time>,
}

/// When an agent first started. One that a pass has made run is told with its start, so that the one without the other means that
/// somebody took it away.
fn started(outcome: &Outcome, now: Timestamp) -> Option<Timestamp> {
    outcome.started.or_else(|| match &outcome.stage {
        Stage::Standing(workload) => life::started_in(present(&workload.agent)?, now),
        _ => None,
    })
}

fn changed(
    sandbox: &AgentSandbox,
    verdicts: Vec<Verdict>,
    facts: Facts,
    now: Timestamp,
) -> Option<AgentSandboxStatus> {
    let generation = sandbox.metadata.generation;
    let old = sandbox.status.clone().unwrap_or_default();
    let verdicts = workspace::completed(sandbox, verdicts);
    let conditions =
        verdicts.iter().map(|verdict| condition(verdict, generation, &old.conditions, now)).collect();
    let Facts { class_name, egress, workspace, started_at, program, last_activity_time } = facts;
    let new = AgentSandboxStatus {
        observed_generation: generation,
        class_name,
        conditions,
        egress,
        workspace,
        started_at,
        program,
        last_activity_time,
    };
    (new != old).then_some(new)
}

/// What was denied; absent until something was. What is not known now stays as it was told.
fn egress(tally: Option<&Tally>, old: Option<&EgressStatus>) -> Option<EgressStatus> {
    let Some(tally) = tally.filter(|tally| tally.denied > 0 || old.is_some()) else { return old.cloned() };
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let latest = tally.latest.iter().map(|kind| DeniedRequests {
        host: kind.host.clone(),
        port: kind.port.map(i32::from),
        reason: kind.reason.clone(),
        count: count(kind.count),
    });
    Some(EgressStatus { denied: count(tally.denied), latest: latest.collect() })
}

/// The reason a pass ended with: the only source of a metric's label and an Event's reason.
#[must_use]
pub fn reason(outcome: &Outcome, now: Timestamp) -> Reason {
    verdicts(outcome, now)
        .and_then(|all| all.into_iter().find(|verdict| verdict.type_ == ConditionType::Ready))
        .map_or(Reason::Retrying, |verdict| verdict.reason)
}

/// All conditions; none for an outcome that says nothing about the sandbox itself.
fn verdicts(outcome: &Outcome, now: Timestamp) -> Option<Vec<Verdict>> {
    let facts = match &outcome.stage {
        Stage::Rejected(rejections) => rejected(rejections),
        Stage::Blocked(blocked) => blocked_by(blocked)?,
        Stage::Breached(breach) => breached(breach)?,
        Stage::Standing(workload) => standing(workload, now),
        Stage::Suspended(widening) => {
            return Some(suspended::verdicts(outcome.off.as_ref(), widening.as_ref()));
        }
        Stage::Unlisted(unlisted) => return unlisted::verdicts(unlisted),
        Stage::Finished(program, left) => return Some(finished::finished(program, left)),
    };
    Some(summarised(facts))
}

fn rejected(rejections: &[Rejection]) -> Vec<Verdict> {
    let all: Vec<String> = rejections.iter().map(ToString::to_string).collect();
    let message = match all.as_slice() {
        [one] => format!("{one}. Nothing runs until it is corrected."),
        many => format!(
            "{} things have to be corrected, and nothing runs until then. {}.",
            many.len(),
            many.join("; ")
        ),
    };
    let reason = rejections.first().map_or(Reason::InvalidField, |rejection| rejection.reason.into());
    let mut all = vec![Verdict::new(ConditionType::Accepted, Holds::False, reason, message)];
    all.extend(unknown(Reason::NotAccepted, "The sandbox is not accepted."));
    all
}

fn accepted() -> Verdict {
    Verdict::new(
        ConditionType::Accepted,
        Holds::True,
        Reason::Accepted,
        "The sandbox and all that it refers to are valid.",
    )
}

/// The conditions that need a workload, all unknown for one reason.
fn unknown(reason: Reason, message: &str) -> Vec<Verdict> {
    [
        ConditionType::CredentialsReady,
        ConditionType::ProxyReady,
        ConditionType::NetworkIsolated,
        ConditionType::RuntimeVerified,
    ]
    .map(|type_| Verdict::new(type_, Holds::Unknown, reason, message))
    .into()
}

/// None where it passes by itself, or says nothing about the sandbox.
fn blocked_by(blocked: &Blocked) -> Option<Vec<Verdict>> {
    let (reason, message) = why(blocked)?;
    let mut all = vec![accepted()];
    all.extend(unknown(reason, &message));
    Some(all)
}

fn why(blocked: &Blocked) -> Option<(Reason, String)> {
    Some(match blocked {
        Blocked::Foreign(kind, name) => (
            Reason::NameConflict,
            format!(
                "The {} {name} exists and belongs to somebody else, so it is left alone. Delete it, or create the sandbox under another name.",
                kind.as_str()
            ),
        ),
        Blocked::Pending(kind, name) => (
            Reason::Replacing,
            format!(
                "An earlier {kind} {name} is on its way out. The sandbox goes on when it is gone; if it stays, see what holds it: kubectl get {kind} {name} -o yaml.",
                kind = kind.as_str()
            ),
        ),
        Blocked::Forbidden(what) => (
            Reason::Forbidden,
            format!("The operator lacks a permission: {what}. Install its roles again with the chart."),
        ),
        Blocked::Refused(what) => (
            Reason::Refused,
            format!(
                "The cluster refuses a part of the sandbox: {}. {}",
                what.trim_end_matches('.'),
                remedy(what)
            ),
        ),
        Blocked::Changed(what) => (
            Reason::Refused,
            format!(
                "Something on the way to the API server changes a pod of the sandbox, which is not started so ({what}). Exempt the namespace from the admission webhook or MutatingAdmissionPolicy that does it."
            ),
        ),
        Blocked::NamespaceTerminating => (
            Reason::NamespaceTerminating,
            "The namespace is being deleted, and the sandbox with it. Create the sandbox in another one."
                .to_owned(),
        ),
        Blocked::Transient(what) => (
            Reason::Retrying,
            format!("The last pass failed, so what holds now is not known: {what}. It is tried again."),
        ),
        Blocked::KindsUnknown(what) => (
            Reason::Retrying,
            format!(
                "The API server has not taken notice of this project's kinds yet, as for half a minute after their installation or after its own start: {what}. It is tried again."
            ),
        ),
        Blocked::Conflict | Blocked::NotLeader => return None,
    })
}

/// What helps against a refusal: the API server writes who refused.
fn remedy(what: &str) -> &'static str {
    let says = |text: &str| what.contains(text);
    if says("exceeded quota") {
        "Raise the quota that it names, or free some of it."
    } else if says("denied request") || says("ValidatingAdmissionPolicy") || says("violates PodSecurity") {
        "Change the policy that it names, or what it asks of the sandbox."
    } else {
        "Change the field that it names; one that the sandbox does not have comes from its class or from its namespace: kubectl describe limitrange."
    }
}

/// The fact is what is lost; why it is lost gives the reason where that is more than a failure that may pass.
fn breached(breach: &Breach) -> Option<Vec<Verdict>> {
    let (what, lost, fails, runs) = match breach.lost {
        Lost::Wall => (
            "A wall is not in place",
            Reason::WallsMissing,
            ConditionType::NetworkIsolated,
            "No agent runs until it stands.",
        ),
        Lost::Document => (
            "The policy document was changed",
            Reason::PolicyChanged,
            ConditionType::ProxyReady,
            "Neither proxy nor agent runs until it is as written.",
        ),
    };
    let (reason, message) = match (why(&breach.why), &breach.agent) {
        (told, Halted::Spared) => {
            let why = told.map_or_else(|| "somebody wrote in between".to_owned(), |(_, message)| message);
            let message = format!("{what}, and is put back: {why}");
            let mut all = vec![accepted()];
            all.extend(unknown(Reason::Retrying, &message));
            return Some(all);
        }
        (Some((Reason::Retrying, message)), _) => (lost, message),
        (Some(told), _) => told,
        (None, _) => (lost, "Somebody writes it again and again.".to_owned()),
    };
    let agent = match &breach.agent {
        Halted::Unstopped(why) => format!("The agent could not be stopped ({why}); that is tried again."),
        Halted::Stopped | Halted::Spared => runs.to_owned(),
    };
    let mut all = vec![accepted()];
    let message = format!("{what}, and could not be put back. {message} {agent}");
    all.extend(unknown(reason, &message).into_iter().map(|verdict| match verdict.type_ {
        type_ if type_ == fails => Verdict { holds: Holds::False, ..verdict },
        _ => verdict,
    }));
    Some(all)
}

fn standing(workload: &Workload, now: Timestamp) -> Vec<Verdict> {
    let mut facts = vec![
        accepted(),
        pods::credentials_ready(workload),
        pods::proxy_ready(workload),
        evidence::network_isolated(workload, now),
        evidence::runtime_verified(workload),
    ];
    facts.extend(workspace::workspace_ready(workload));
    facts.push(pods::agent_running(workload));
    facts
}

/// Adds Ready, Reconciling and Stalled: the first fact that does not hold says why.
fn summarised(facts: Vec<Verdict>) -> Vec<Verdict> {
    let worst = facts
        .iter()
        .find(|fact| fact.holds == Holds::False)
        .or_else(|| facts.iter().find(|fact| fact.holds == Holds::Unknown))
        .cloned();
    let (ready, reason, message) = match &worst {
        None => (Holds::True, Reason::Running, "The agent runs behind a proven fence.".to_owned()),
        // A pass that failed has seen nothing, not even that the agent does not run.
        Some(Verdict { reason: reason @ (Reason::Retrying | Reason::TemplatesUnknown), message, .. }) => {
            (Holds::Unknown, *reason, message.clone())
        }
        Some(worst) => (Holds::False, worst.reason, worst.message.clone()),
    };
    let stalled = worst.is_some() && reason.needs_a_person();
    let progressing = worst.is_some() && !stalled;
    let mut all: Vec<Verdict> = facts.into_iter().filter(|fact| fact.type_ != ConditionType::Ready).collect();
    all.push(Verdict::new(ConditionType::Ready, ready, reason, message.clone()));
    all.push(flag(ConditionType::Reconciling, progressing.then_some((reason, message.as_str()))));
    all.push(flag(ConditionType::Stalled, stalled.then_some((reason, message.as_str()))));
    all
}

/// Reconciling or Stalled: True for a reason, or else settled.
fn flag(type_: ConditionType, why: Option<(Reason, &str)>) -> Verdict {
    match why {
        Some((reason, message)) => Verdict::new(type_, Holds::True, reason, message),
        None => Verdict::new(type_, Holds::False, Reason::Settled, "Nothing to report."),
    }
}

fn condition(verdict: &Verdict, generation: Option<i64>, old: &[Condition], now: Timestamp) -> Condition {
    let status = verdict.holds.as_str();
    let since = old
        .iter()
        .find(|condition| condition.type_ == verdict.type_.as_str() && condition.status == status)
        // What the schema says of an object that nobody has seen has no time.
        .filter(|condition| condition.reason != Reason::Pending.as_str())
        .map_or(Time(now), |condition| condition.last_transition_time.clone());
    Condition {
        type_: verdict.type_.as_str().to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.as_str().to_owned(),
        message: bounded(&verdict.message),
        observed_generation: generation,
        last_transition_time: since,
    }
}

/// The schema allows 32768 characters; a message that long would help nobody.
fn bounded(message: &str) -> String {
    const CHARACTERS_MAX: usize = 4000;
    message.chars().take(CHARACTERS_MAX).collect()
}

impl Verdict {
    pub(super) fn new(
        type_: ConditionType,
        holds: Holds,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self { type_, holds, reason, message: message.into() }
    }
}

impl Holds {
    const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

#[cfg(test)]
mod tests;

//! Whether the API server still refuses what the chart has it refuse.
//!
//! The chart installs ValidatingAdmissionPolicies with their bindings, and gives the operator the same text. Whoever deletes or
//! edits one of them takes a guard away and leaves no other trace, so the operator compares what is in force with that text: a
//! gauge, a line in /readyz, and an Event of the operator's own pod tell what is missing or changed. It repairs nothing: it has no
//! right to write policies, and whoever has may have a reason. Sandboxes run on, for their walls do not rest on admission.
//!
//! Only what this version of the API knows is compared, so that a newer API server's additional defaults are no news.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::controller::{chain, plan};
use crate::lease::Tenure;
use crate::metrics::Metrics;

/// How long until what is in force is compared again though nothing came.
const RELOOK: Duration = Duration::from_secs(300);
/// Helm writes one object after the other: what has differed for this long is told.
pub const SETTLE: Duration = Duration::from_secs(15);
/// Longest note that an Event takes is 1024 characters.
const NOTE_CHARACTERS_MAX: usize = 1000;

/// What is to be in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expected {
    policies: Vec<ValidatingAdmissionPolicy>,
    bindings: Vec<ValidatingAdmissionPolicyBinding>,
}

/// Why a text does not say what is to be in force.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// It is no YAML of Kubernetes objects.
    #[error("it is no list of admission policies and bindings")]
    Yaml(#[source] Box<serde_yaml::Error>),
    /// An object of another kind.
    #[error("{0:?} is no ValidatingAdmissionPolicy and no ValidatingAdmissionPolicyBinding")]
    Kind(String),
    /// No policy at all.
    #[error("it names no policy")]
    Empty,
}

/// What is wrong with one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// There is none of its name.
    Missing,
    /// It says something else.
    Changed,
    /// Nobody can say: the API server has not shown it yet, or may not.
    Unknown,
}

/// One object that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// What is wrong.
    pub wrong: Wrong,
    /// Kind and name.
    pub object: String,
}

/// How much of what is expected is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Objects that are as expected.
    pub in_force: usize,
    /// All others.
    pub faults: Vec<Fault>,
}

/// What the API server shows, and when it shows something new.
pub struct Watched {
    /// All policies.
    pub policies: Store<ValidatingAdmissionPolicy>,
    /// All bindings.
    pub bindings: Store<ValidatingAdmissionPolicyBinding>,
    /// Moves whenever either changes.
    pub touched: BoxStream<'static, Result<(), watcher::Error>>,
}

/// Where a verdict is told.
pub struct Teller {
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Events.
    pub recorder: Recorder,
    /// The operator's own pod, whose Events they are.
    pub pod: ObjectReference,
    /// For how long this process may write them.
    pub tenure: Arc<Tenure>,
}

impl Expected {
    /// Reads what the chart wrote.
    ///
    /// # Errors
    /// When it is anything but at least one policy and bindings.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut expected = Self::default();
        let is_text = |line: &str| !line.trim().is_empty() && !line.starts_with('#');
        for document in text.split("---\n").filter(|document| document.lines().any(is_text)) {
            // Read as what it is, and not by way of any value: a quoted "false" is an expression, and no boolean.
            let kind = read::<Kind>(document)?.kind;
            match kind.as_str() {
                "ValidatingAdmissionPolicy" => expected.policies.push(read(document)?),
                "ValidatingAdmissionPolicyBinding" => expected.bindings.push(read(document)?),
                _ => return Err(Invalid::Kind(kind)),
            }
        }
        if expected.policies.is_empty() { Err(Invalid::Empty) } else { Ok(expected) }
    }

    /// Compares. Pure; absent lists are not known.
    #[must_use]
    pub fn verdict(
        &self,
        policies: Option<&[Arc<ValidatingAdmissionPolicy>]>,
        bindings: Option<&[Arc<ValidatingAdmissionPolicyBinding>]>,
    ) -> Verdict {
        let mut verdict = Verdict::default();
        for policy in &self.policies {
            let live = policies.map(|all| all.iter().find(|live| live.name_any() == policy.name_any()));
            verdict.count("ValidatingAdmissionPolicy", policy, live, |policy| value(&policy.spec));
        }
        for binding in &self.bindings {
            let live = bindings.map(|all| all.iter().find(|live| live.name_any() == binding.name_any()));
            verdict.count("ValidatingAdmissionPolicyBinding", binding, live, |binding| value(&binding.spec));
        }
        verdict.faults.sort();
        verdict
    }
}

/// What kind of object a document is.
#[derive(Deserialize)]
struct Kind {
    kind: String,
}

fn read<T: DeserializeOwned>(document: &str) -> Result<T, Invalid> {
    serde_yaml::from_str(document).map_err(|error| Invalid::Yaml(Box::new(error)))
}

fn value(spec: &impl Serialize) -> Value {
    // Kubernetes' own types are JSON by definition.
    plan::pruned(&serde_json::to_value(spec).unwrap_or_default())
}

impl Verdict {
    fn count<K: ResourceExt>(
        &mut self,
        kind: &str,
        wanted: &K,
        live: Option<Option<&Arc<K>>>,
        says: impl Fn(&K) -> Value,
    ) {
        let wrong = match live {
            None => Wrong::Unknown,
            Some(None) => Wrong::Missing,
            // One that is being deleted and held by a finalizer is still in force, and will not be for long.
            Some(Some(live)) if live.meta().deletion_timestamp.is_some() => Wrong::Missing,
            Some(Some(live)) if says(live) != says(wanted) => Wrong::Changed,
            Some(Some(_)) => {
                self.in_force += 1;
                return;
            }
        };
        self.faults.push(Fault { wrong, object: format!("{kind} {}", wanted.name_any()) });
    }

    /// How many objects are wrong in this way.
    #[must_use]
    pub fn faults_of(&self, wrong: Wrong) -> usize {
        self.faults.iter().filter(|fault| fault.wrong == wrong).count()
    }

    /// What is wrong, in a sentence that says what to do; empty when nothing is.
    #[must_use]
    pub fn sentence(&self) -> String {
        if self.faults.is_empty() {
            return String::new();
        }
        let faults: Vec<String> = self.faults.iter().map(ToString::to_string).collect();
        format!(
            "What the API server is to refuse is not as the chart installed it: {}. Run helm upgrade with the values of this release, and find \
             in the audit log who changed it.",
            faults.join(", ")
        )
    }
}

impl Wrong {
    /// The word of metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
            Self::Unknown => "unknown",
        }
    }
}

impl Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}", self.object, self.wrong.as_str())
    }
}

/// Compares `settle` after a change and tells what is new. Ends only when the watches do.
pub async fn follow(expected: Expected, mut watched: Watched, teller: Teller, settle: Duration) {
    let mut told =
        Verdict { in_force: expected.policies.len() + expected.bindings.len(), faults: Vec::new() };
    // The first look is due whether or not anything comes: silence is no proof.
    let mut due = Instant::now() + settle;
    loop {
        let look = async move {
            tokio::time::sleep_until(due).await;
        };
        tokio::select! {
            touched = watched.touched.next() => match touched {
                Some(Ok(())) => due = due.min(Instant::now() + settle),
                Some(Err(error)) => tracing::warn!(error = chain(&error), "admission policies cannot be watched"),
                None => return,
            },
            () = look => {
                let verdict = look_at(&expected, &watched);
                // What nobody could say is asked for again soon. Everything else too, in time: a watch that had to list anew says nothing of
                // what went meanwhile.
                let is_unknown = verdict.faults_of(Wrong::Unknown) > 0;
                due = Instant::now() + if is_unknown { settle } else { RELOOK };
                teller.metrics.admission(&verdict);
                if verdict != told {
                    teller.tell(&verdict).await;
                    told = verdict;
                }
            }
        }
    }
}

fn look_at(expected: &Expected, watched: &Watched) -> Verdict {
    let is_filled = |ready: Option<Result<(), _>>| matches!(ready, Some(Ok(())));
    let policies =
        is_filled(watched.policies.wait_until_ready().now_or_never()).then(|| watched.policies.state());
    let bindings =
        is_filled(watched.bindings.wait_until_ready().now_or_never()).then(|| watched.bindings.state());
    expected.verdict(policies.as_deref(), bindings.as_deref())
}

impl Teller {
    async fn tell(&self, verdict: &Verdict) {
        let sentence = verdict.sentence();
        let (type_, reason, note) = if sentence.is_empty() {
            tracing::info!("every admission policy is in force");
            let note = "Every admission policy of the chart is in force as it was installed.".to_owned();
            (EventType::Normal, "AdmissionPoliciesInForce", note)
        } else {
            tracing::error!(admission.faults = sentence, "an admission policy is not in force");
            (EventType::Warning, "AdmissionPoliciesNotInForce", sentence)
        };
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note.chars().take(NOTE_CHARACTERS_MAX).collect()),
            action: "Compare".to_owned(),
            secondary: None,
        };
        if let Some(Err(error)) = self.tenure.within(self.recorder.publish(&event, &self.pod)).await {
            tracing::warn!(event.reason = reason, error = chain(&error), "an Event was lost");
        }
    }
}

#[cfg(test)]
mod tests;

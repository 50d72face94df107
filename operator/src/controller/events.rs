//! Events: told on transitions only, one for each change of Ready and of a condition that warns.

use agentsandbox_crds::{AgentSandbox, AgentSandboxStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Resource, runtime::events};

/// Longest note that the API server takes is 1024 characters.
const NOTE_CHARACTERS_MAX: usize = 1000;

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether it is good.
    pub type_: EventType,
    /// The condition's reason.
    pub reason: String,
    /// The condition's message.
    pub note: String,
}

/// What a change of status has to tell. Pure.
#[must_use]
pub fn transitions(old: Option<&AgentSandboxStatus>, new: &AgentSandboxStatus) -> Vec<Told> {
    let empty = Vec::new();
    let before = old.map_or(&empty, |status| &status.conditions);
    let mut told: Vec<Told> = Vec::new();
    for condition in new.conditions.iter().filter(|condition| tells(condition)) {
        let same = before.iter().any(|c| {
            c.type_ == condition.type_ && c.status == condition.status && c.reason == condition.reason
        });
        // Several conditions may say the same; it is told once.
        if !same && !told.iter().any(|one| one.reason == condition.reason) {
            told.push(Told {
                type_: if condition.status == "True" && condition.type_ == "Ready" {
                    EventType::Normal
                } else {
                    EventType::Warning
                },
                reason: condition.reason.clone(),
                note: condition.message.chars().take(NOTE_CHARACTERS_MAX).collect(),
            });
        }
    }
    told
}

/// Ready=True is told, and whatever needs a person; progress is in the status.
fn tells(condition: &Condition) -> bool {
    matches!((condition.type_.as_str(), condition.status.as_str()), ("Ready" | "Stalled", "True"))
}

/// Publishes; an Event that is lost is logged, and nothing depends on it.
pub async fn publish(recorder: &Recorder, sandbox: &AgentSandbox, told: Vec<Told>) {
    let reference = sandbox.object_ref(&());
    for one in told {
        let event = events::Event {
            type_: one.type_,
            reason: one.reason,
            note: Some(one.note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        publish_one(recorder, &event, &reference).await;
    }
}

async fn publish_one(
    recorder: &Recorder,
    event: &Event,
    reference: &k8s_openapi::api::core::v1::ObjectReference,
) {
    if let Err(error) = recorder.publish(event, reference).await {
        tracing::warn!(event.reason = event.reason, error = %error, "an Event was lost");
    }
}

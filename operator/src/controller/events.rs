//! Events: told on transitions only, one for each change of Ready and of a condition that warns.

use agentsandbox_crds::{AgentSandbox, AgentSandboxStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::events::{EventType, Recorder};
use kube::{Resource, runtime::events};

use super::status::Reason;
use crate::lease::Tenure;

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
    told.extend(denied(old, new));
    told
}

/// Requests that were denied since the last status. An Event that repeats keeps its first note, so this one names none of them.
fn denied(old: Option<&AgentSandboxStatus>, new: &AgentSandboxStatus) -> Option<Told> {
    let count = |status: &AgentSandboxStatus| status.egress.as_ref().map_or(0, |egress| egress.denied);
    let (before, now) = (old.map_or(0, count), count(new));
    // Fewer than before: the proxy has started anew, and these are all new.
    (now != before && now > 0).then(|| Told {
        type_: EventType::Warning,
        reason: "EgressDenied".to_owned(),
        note: "Requests of the agent were denied; status.egress.latest has the latest of them. If the agent needs them, \
               allow them in spec.egress.allow. What to write is in the answer that the agent got, and in the proxy's log."
            .to_owned(),
    })
}

/// Ready=True is told, and whatever needs a person, and the end of a pod, whose reason goes with it; progress is in the status.
fn tells(condition: &Condition) -> bool {
    matches!((condition.type_.as_str(), condition.status.as_str()), ("Ready" | "Stalled", "True"))
        || (condition.type_ == "Ready" && condition.reason == Reason::Ended.as_str())
}

/// Publishes while this process may write; an Event that is lost is logged, and nothing depends on it.
pub async fn publish(recorder: &Recorder, tenure: &Tenure, sandbox: &AgentSandbox, told: Vec<Told>) {
    let reference = sandbox.object_ref(&());
    for one in told {
        let event = events::Event {
            type_: one.type_,
            reason: one.reason,
            note: Some(one.note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if let Some(Err(error)) = tenure.within(recorder.publish(&event, &reference)).await {
            tracing::warn!(event.reason = event.reason, error = %error, "an Event was lost");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agentsandbox_crds::sandbox::{DeniedRequests, EgressStatus};

    fn denied(count: i64) -> AgentSandboxStatus {
        let one = DeniedRequests {
            host: Some("a.test".to_owned()),
            port: Some(443),
            reason: "HostNotAllowed".to_owned(),
            count,
        };
        AgentSandboxStatus {
            egress: Some(EgressStatus { denied: count, latest: vec![one] }),
            ..AgentSandboxStatus::default()
        }
    }

    #[test]
    fn the_end_of_a_pod_is_told_with_its_reason_and_a_start_is_not() {
        let ready = |status: &str, reason: &str, message: &str| AgentSandboxStatus {
            conditions: vec![crate::fixtures::from(serde_json::json!({
                "type": "Ready", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2030-01-01T00:00:00Z",
            }))],
            ..AgentSandboxStatus::default()
        };
        let running = ready("True", "Running", "The agent runs.");
        let told = transitions(Some(&running), &ready("False", "Ended", "The agent's pod ended (Evicted)."));
        assert_eq!((told.len(), told[0].type_, told[0].reason.as_str()), (1, EventType::Warning, "Ended"));
        assert!(told[0].note.contains("Evicted"), "{told:?}");
        assert!(transitions(Some(&running), &ready("False", "FencePending", "Not yet.")).is_empty());
    }

    #[test]
    fn denials_are_told_when_there_are_more_or_a_proxy_started_anew_and_not_again() {
        let told = transitions(Some(&denied(1)), &denied(2));
        assert_eq!((told.len(), told[0].reason.as_str()), (1, "EgressDenied"));
        assert!(
            !told[0].note.contains("a.test"),
            "the note of a repeated Event is that of the first: {told:?}"
        );
        assert_eq!(transitions(None, &denied(1)).len(), 1);
        assert_eq!(transitions(Some(&denied(100)), &denied(90)).len(), 1, "a proxy that started anew");
        assert!(transitions(Some(&denied(2)), &denied(2)).is_empty());
        assert!(transitions(Some(&denied(2)), &denied(0)).is_empty());
    }

    #[tokio::test]
    async fn o_r14_a_replica_that_may_not_write_any_more_tells_no_event() {
        use crate::fixtures::api::{Api as FakeApi, Asked};
        let api = FakeApi::start(Vec::new(), Box::new(|_: &Asked| None)).await;
        let recorder = Recorder::new(api.client.clone(), "operator".to_owned().into());
        let told = transitions(None, &denied(1));
        for (tenure, events) in [(Tenure::default(), 0), (Tenure::unlimited(), 1)] {
            publish(&recorder, &tenure, &crate::fixtures::sandbox(|_| ()), told.clone()).await;
            assert_eq!(api.asked().len(), events);
        }
    }
}

//! What is told of a sandbox that is suspended, or resumed.

use super::*;
use crate::controller::outcome::Off;

fn suspendable(state: &str) -> AgentSandbox {
    sandbox(|s| s.spec.lifecycle = Some(from(json!({"state": state}))))
}

/// What is told of a sandbox of this state.
fn told_of(state: &str, stage: Stage, off: Option<Off>) -> AgentSandboxStatus {
    status(&suspendable(state), &Outcome { off, ..outcome(stage) }, None, now()).unwrap()
}

fn suspended(left: Left, widening: Option<Widening>) -> AgentSandboxStatus {
    told_of("Suspended", Stage::Suspended(widening), Some(Off { left, again: None }))
}

fn conditions(status: &AgentSandboxStatus) -> Told {
    status.conditions.iter().map(|c| (c.type_.clone(), (c.status.clone(), c.reason.clone()))).collect()
}

fn going() -> Left {
    Left::Ending(vec!["fix-login-proxy on node n".to_owned()])
}

#[test]
fn a_sandbox_is_suspended_once_nothing_of_it_runs_and_until_then_what_is_left_is_named() {
    let gone = conditions(&suspended(Left::Nothing, None));
    says(&gone, "Suspended", "True", "Suspended");
    says(&gone, "Ready", "True", "Suspended");
    says(&gone, "Reconciling", "False", "Settled");
    says(&gone, "NetworkIsolated", "Unknown", "Suspended");
    says(&gone, "ProxyReady", "Unknown", "Suspended");
    let leaving = suspended(going(), None);
    let message = |type_: &str| leaving.conditions.iter().find(|c| c.type_ == type_).unwrap().message.clone();
    for type_ in ["Suspended", "Ready"] {
        says(&conditions(&leaving), type_, "False", "Suspending");
        assert!(message(type_).contains("fix-login-proxy on node n"), "{}", message(type_));
    }
    says(&conditions(&leaving), "Reconciling", "True", "Suspending");
    says(&conditions(&leaving), "Stalled", "False", "Settled");
}

#[test]
fn it_is_told_where_the_spec_says_something_of_it_and_in_its_place_and_nowhere_else() {
    let types = |status: &AgentSandboxStatus| -> Vec<String> {
        status.conditions.iter().map(|condition| condition.type_.clone()).collect()
    };
    let running = told_of("Running", with(|_| ()), None);
    says(&conditions(&running), "Suspended", "False", "NotSuspended");
    says(&conditions(&running), "Ready", "True", "Running");
    assert_eq!(types(&running)[5..], ["Ready", "Suspended", "Reconciling", "Stalled"]);
    assert_eq!(types(&suspended(going(), None)), types(&running));
    assert!(!told(with(|_| ())).contains_key("Suspended"));
    let deleted = ending(&suspendable("Suspended"), "It waits.", now()).unwrap();
    says(&conditions(&deleted), "Suspended", "Unknown", "Terminating");
    assert_eq!(types(&deleted), types(&running));
    assert!(!types(&ending(&sandbox(|_| ()), "It waits.", now()).unwrap()).contains(&"Suspended".to_owned()));
}

#[test]
fn power_that_is_not_known_to_be_off_is_never_called_so() {
    let unstopped = || Some(Off { left: Left::Unstopped("forbidden".to_owned()), again: None });
    let failed = Stage::Blocked(Blocked::Transient("x".to_owned()));
    let blocked = conditions(&told_of("Suspended", failed, unstopped()));
    says(&blocked, "Suspended", "False", "Suspending");
    says(&blocked, "Ready", "Unknown", "Retrying");
    let fault = Rejection {
        reason: RejectionReason::OutsideClass,
        field: "spec.a".to_owned(),
        message: "write something else".to_owned(),
    };
    let rejected = conditions(&told_of("Suspended", Stage::Rejected(vec![fault]), None));
    says(&rejected, "Suspended", "Unknown", "NotAccepted");
    let over = Stage::Finished(Box::new(from(json!({"exitCode": 0, "reason": "Completed"}))), Left::Nothing);
    says(&conditions(&told_of("Suspended", over, None)), "Suspended", "Unknown", "Finished");
}

#[test]
fn walls_that_another_policy_widens_are_told_of_behind_which_nothing_runs() {
    let told = suspended(Left::Nothing, widening(Component::Agent, Direction::Egress));
    says(&conditions(&told), "NetworkIsolated", "False", "EgressWidened");
    says(&conditions(&told), "Ready", "True", "Suspended");
    let message = told.conditions.iter().find(|c| c.type_ == "NetworkIsolated").unwrap().message.clone();
    assert!(message.contains("let-all-out"), "{message}");
}

#[test]
fn that_a_sandbox_is_suspended_and_that_it_runs_again_is_an_event_each() {
    use crate::controller::events::transitions;
    let (on, off) = (told_of("Running", with(|_| ()), None), suspended(Left::Nothing, None));
    for (before, after, reason) in [(&on, &off, "Suspended"), (&off, &on, "Running")] {
        let told = transitions(Some(before), after);
        let reasons: Vec<_> = told.iter().map(|one| one.reason.as_str()).collect();
        assert_eq!(reasons, [reason]);
        assert!(matches!(told[0].type_, kube::runtime::events::EventType::Normal), "{told:?}");
    }
}

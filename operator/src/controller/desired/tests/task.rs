//! The pod of an agent that runs once, beside that of one that is started again.

use super::*;

fn of(mode: &str) -> Pod {
    let accepted = accepted(|s| s.spec.lifecycle = Some(from(json!({"mode": mode}))));
    agent_pod::pod(&accepted, &platform(), &sealed())
}

#[test]
fn a_task_is_started_once_and_its_last_words_are_kept() {
    let spec = of("Task").spec.unwrap();
    assert_eq!(spec.restart_policy.as_deref(), Some("Never"));
    assert_eq!(spec.containers[0].termination_message_policy.as_deref(), Some("FallbackToLogsOnError"));
    assert!(agent_pod::runs_once(&of("Task")) && !agent_pod::runs_once(&of("Service")));
}

#[test]
fn a_service_is_what_a_sandbox_without_a_mode_is() {
    assert_eq!(of("Service"), agent());
}

#[test]
fn the_pod_of_a_task_is_kept_until_what_came_of_it_is_told_and_that_of_a_service_is_not() {
    let held = |mode: &str| of(mode).metadata.finalizers;
    assert_eq!(held("Task"), Some(vec!["agentsandbox.dev/program".to_owned()]));
    assert_eq!(held("Service"), None);
}

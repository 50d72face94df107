//! Passes over a Task whose run takes too long.

use super::*;

const PROXY_IS_STOPPED: &str = "DELETE pods/fix-login-proxy";

/// A Task that has run since the beginning of 2026, with this deadline.
fn overdue(deadline: &str) -> Scene {
    let mut scene = Scene::running().agent(|pod| {
        let mut value = serde_json::to_value(pod).unwrap();
        value["spec"]["restartPolicy"] = json!("Never");
        from(value)
    });
    scene.sandbox.spec.lifecycle = Some(from(json!({"mode": "Task", "activeDeadline": deadline})));
    scene.sandbox.status = Some(from(json!({"className": "gvisor", "startedAt": "2026-01-01T00:00:00Z"})));
    scene
}

#[tokio::test]
async fn a_run_that_takes_too_long_loses_its_keys_and_is_told_before_its_agent_goes() {
    let after = overdue("30m").pass(takes_all()).await;
    assert_eq!(after.result.as_ref().unwrap(), &Action::requeue(TEARDOWN_RETRY));
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS], "its pod alone shows when it began");
    after.says("Ready", "False", "DeadlineExceeded");
    after.says("Stalled", "True", "DeadlineExceeded");
    let status = &after.api.body(STATUS)["status"];
    assert_eq!(status["program"]["reason"], "DeadlineExceeded", "{status}");
    assert_eq!(status["program"]["startedAt"], "2026-01-01T00:00:00Z", "{status}");
    let mut told = overdue("30m");
    let program = json!({"reason": "DeadlineExceeded", "finishedAt": "2026-01-01T00:30:00Z"});
    told.sandbox.status = Some(from(json!({"className": "gvisor", "program": program})));
    let after = told.pass(takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    let after = overdue("8760h").pass(takes_all()).await;
    assert!(!after.api.was_asked(PROXY_IS_STOPPED), "the control: {:?}", after.api.writes());
    assert!(after.api.body(STATUS)["status"]["program"].is_null());
}

#[tokio::test]
async fn a_run_that_takes_too_long_and_cannot_be_told_keeps_its_pod_and_no_way_out() {
    let after = overdue("30m").pass(refuses(STATUS, refusal(500, "InternalError", "etcd is away"))).await;
    assert!(matches!(after.result, Err(ReconcileError::Status(_))), "{:?}", after.result);
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS]);
}

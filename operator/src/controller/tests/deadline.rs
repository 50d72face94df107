//! Passes over a Task whose run takes too long.

use super::finish::shown;
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

/// What the API server itself shows of the agent's pod.
fn shows(answer: (u16, Value)) -> Says {
    Box::new(move |asked| (asked.line == "GET pods/fix-login-agent").then(|| answer.clone()))
}

#[tokio::test]
async fn a_run_that_ended_in_time_is_told_as_it_ended_though_the_watch_is_behind() {
    let mut ended = shown(&overdue("30m"));
    ended["status"]["phase"] = json!("Succeeded");
    ended["status"]["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 0, "reason": "Completed",
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:29:00Z"}});
    let after = overdue("30m").pass(shows((200, ended))).await;
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS]);
    after.says("Ready", "True", "Succeeded");
    assert_eq!(after.api.body(STATUS)["status"]["program"]["exitCode"], 0);
}

#[tokio::test]
async fn a_run_whose_pod_is_gone_or_followed_by_another_is_not_told_to_be_over() {
    let mut another = shown(&overdue("30m"));
    another["metadata"]["uid"] = json!("another");
    for (what, answer) in [("gone", refusal(404, "NotFound", "no pod")), ("another", (200, another))] {
        let after = overdue("30m").pass(shows(answer)).await;
        assert!(!after.api.was_asked(PROXY_IS_STOPPED), "{what}: {:?}", after.api.writes());
        let told = after.api.asked().into_iter().filter(|asked| asked.line == STATUS);
        assert!(told.map(|asked| asked.body).all(|body| body["status"]["program"].is_null()), "{what}");
    }
    let after = overdue("30m").pass(shows(refusal(500, "InternalError", "etcd is away"))).await;
    assert!(matches!(after.result, Err(ReconcileError::Apply(_))), "{:?}", after.result);
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED], "its way out goes, whatever has become of it");
}

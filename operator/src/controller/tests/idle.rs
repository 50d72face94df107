//! Passes over a sandbox through whose proxy nothing passes.

use agentsandbox_policy::Idle;

use super::*;

const PROXY_IS_STOPPED: &str = "DELETE pods/fix-login-proxy";

/// A Service that may be idle for half an hour.
fn bounded() -> Scene {
    let mut scene = Scene::running();
    scene.sandbox.spec.lifecycle = Some(from(json!({"idleTimeout": "30m"})));
    scene.sandbox.status = Some(from(json!({"className": "gvisor", "startedAt": "2026-01-01T00:00:00Z"})));
    scene
}

/// One pass after its proxy has said that nothing has passed for so many seconds.
async fn idle_for(seconds: u64, scene: Scene, says: Says) -> After {
    let api = scene.api(says).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &scene.others);
    ctx.denials.activities.learn(&scene.sandbox, Idle { seconds, has_passed: true }, ctx.clock.now());
    let result = reconcile(Arc::new(scene.sandbox), Arc::clone(&ctx)).await;
    After { api, ctx, result }
}

#[tokio::test]
async fn whose_proxy_passed_nothing_for_too_long_loses_its_keys_is_told_and_then_its_agent_goes() {
    let after = idle_for(1800, bounded(), takes_all()).await;
    assert_eq!(after.result.as_ref().unwrap(), &Action::requeue(TEARDOWN_RETRY));
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS]);
    after.says("Ready", "False", "IdleTimeoutExceeded");
    after.says("Stalled", "True", "IdleTimeoutExceeded");
    let status = &after.api.body(STATUS)["status"];
    assert_eq!(status["program"]["reason"], "IdleTimeoutExceeded", "{status}");
    let mut told = bounded();
    told.sandbox.status.as_mut().unwrap().program = Some(from(json!({"reason": "IdleTimeoutExceeded"})));
    let after = told.pass(takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    let after = idle_for(1700, bounded(), takes_all()).await;
    let writes = after.api.writes();
    assert!(!writes.iter().any(|write| write.starts_with("DELETE pods")), "the control: {writes:?}");
}

#[tokio::test]
async fn who_is_idle_for_half_of_the_time_is_told_so_until_something_passes_again() {
    let after = idle_for(1000, bounded(), takes_all()).await;
    let told = after.api.body(STATUS)["status"]["lastActivityTime"].clone();
    let told: Timestamp = told.as_str().unwrap().parse().unwrap();
    let ago = Timestamp::now().duration_since(told).as_secs();
    assert!((1000..1060).contains(&ago), "{ago}");
    let after = idle_for(10, bounded(), takes_all()).await;
    assert_eq!(after.api.body(STATUS)["status"].get("lastActivityTime"), None, "it is in use");
    let mut used_again = bounded();
    used_again.sandbox.status.as_mut().unwrap().last_activity_time =
        Some(from(json!("2026-01-01T00:00:00Z")));
    let after = idle_for(10, used_again, takes_all()).await;
    let told = after.api.body(STATUS)["status"].get("lastActivityTime").cloned();
    assert_eq!(told, Some(Value::Null), "a merge patch takes away what it says is null");
}

#[tokio::test]
async fn a_pass_over_a_sandbox_that_may_be_idle_asks_whether_it_is_over_before_it_makes_a_pod() {
    const IT_IS_ASKED_FOR: &str = "PATCH agentsandboxes/fix-login";
    let without = |scene: Scene| {
        let scene = scene.without(ChildKind::Pod, "fix-login-agent");
        scene.without(ChildKind::Pod, "fix-login-proxy")
    };
    let after = without(bounded()).pass(takes_all()).await;
    assert!(after.api.was_asked(IT_IS_ASKED_FOR), "{:?}", after.api.asked());
    let after = without(Scene::running()).pass(takes_all()).await;
    assert!(!after.api.was_asked(IT_IS_ASKED_FOR), "the control: {:?}", after.api.asked());
}

#[tokio::test]
async fn an_agent_that_the_watch_does_not_show_yet_is_not_idle_by_the_start_of_the_one_before_it() {
    let scene = bounded();
    let mut next = scene
        .children
        .iter()
        .find(|child| child.name() == "fix-login-agent" && child.kind() == ChildKind::Pod)
        .unwrap()
        .value();
    next["metadata"]["uid"] = json!("another");
    let says: Says =
        Box::new(move |asked| (asked.line == "GET pods/fix-login-agent").then(|| (200, next.clone())));
    let after = idle_for(1800, scene, says).await;
    assert!(!after.api.was_asked(PROXY_IS_STOPPED), "{:?}", after.api.writes());
}

//! When a pass that failed comes again at the latest, and what a pass asks besides what it is shown.

use super::*;
use crate::clock::Clock;
use crate::controller::finish::due_in;

#[tokio::test]
async fn a_sandbox_is_looked_at_when_its_time_is_up_and_one_that_lived_too_long_again_and_again() {
    let mut scene = Scene::running();
    scene.sandbox.spec.lifecycle = Some(from(json!({"maxLifetime": "1h"})));
    scene.sandbox.status = Some(from(json!({"startedAt": "2026-01-01T00:00:00Z"})));
    let api = scene.api(takes_all()).await;
    let due_at = |now: &str| {
        let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
        let mut ctx = Arc::into_inner(ctx).unwrap();
        let now: Timestamp = now.parse().unwrap();
        ctx.clock = Clock::new(move || now);
        due_in(&scene.sandbox, &ctx)
    };
    assert_eq!(due_at("2026-01-01T00:59:00Z"), Some(Duration::from_millis(60_005)));
    for late in ["2026-01-01T01:00:00Z", "2026-01-01T02:00:00Z"] {
        assert_eq!(due_at(late), Some(Duration::from_secs(10)), "{late}");
    }
    scene.sandbox.spec.lifecycle = None;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    assert_eq!(due_in(&scene.sandbox, &ctx), None, "its life has no bound");
}

#[tokio::test]
async fn nothing_is_asked_about_a_pod_that_runs_and_that_the_watches_show_whole() {
    const ITS_END_IS_ASKED_FOR: &str = "GET pods/fix-login-agent";
    let after = Scene::running().pass(takes_all()).await;
    assert!(!after.api.was_asked(ITS_END_IS_ASKED_FOR), "{:?}", after.api.asked());
    let hidden = Scene::running().agent_changed(|pod| pod.metadata.labels = None);
    assert!(hidden.pass(takes_all()).await.api.was_asked(ITS_END_IS_ASKED_FOR), "the control");
}

//! What is told of a sandbox that is being deleted.

use super::*;

fn deleted() -> Scene {
    let mut scene = Scene::running().agent(|pod| {
        let mut pod = pod.clone();
        pod.spec.as_mut().unwrap().node_name = Some("node-7".to_owned());
        pod
    });
    scene.sandbox.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    let whole: AgentSandboxStatus = from(
        json!({"observedGeneration": 3, "className": "gvisor", "conditions": [
            {"type": "Ready", "status": "True", "reason": "Running", "message": "It runs.", "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]}),
    );
    scene.sandbox.status = Some(whole);
    scene
}

#[tokio::test]
async fn a_sandbox_that_is_being_deleted_is_not_ready_and_says_which_pod_it_waits_for() {
    let after = deleted().pass(takes_all()).await;
    assert_eq!(after.result.as_ref().unwrap(), &Action::requeue(TEARDOWN_RETRY));
    assert_eq!(after.api.writes(), [AGENT_IS_STOPPED, STATUS], "the deletion waits for no telling");
    after.says("Ready", "False", "Terminating");
    after.says("NetworkIsolated", "Unknown", "Terminating");
    after.says("Reconciling", "True", "Terminating");
    after.says("Stalled", "False", "Settled");
    let status = &after.api.body(STATUS)["status"];
    assert_eq!(status["className"], "gvisor", "{status}");
    let text = status.to_string();
    assert!(text.contains("fix-login-agent") && text.contains("node-7"), "{text}");
}

#[tokio::test]
async fn it_is_told_once() {
    let scene = deleted();
    let first = scene.api(takes_all()).await;
    let ctx = fixtures::ctx(first.client.clone(), &scene.sandbox, &scene.children, &[]);
    let sandbox = Arc::new(scene.sandbox);
    for _ in 0..3 {
        reconcile(Arc::clone(&sandbox), Arc::clone(&ctx)).await.unwrap();
    }
    assert_eq!(first.writes().iter().filter(|line| *line == STATUS).count(), 1, "{:?}", first.writes());
}

#[tokio::test]
async fn what_cannot_be_told_holds_up_no_deletion() {
    let after = deleted().pass(refuses(STATUS, refusal(500, "InternalError", "etcd is away"))).await;
    assert_eq!(after.result.as_ref().unwrap(), &Action::requeue(TEARDOWN_RETRY));
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && after.api.was_asked(STATUS), "{:?}", after.api.writes());
}

#[tokio::test]
async fn a_deletion_that_fails_is_told_and_tried_again() {
    let after =
        deleted().pass(refuses(AGENT_IS_STOPPED, refusal(500, "InternalError", "etcd is away"))).await;
    assert!(matches!(after.result, Err(ReconcileError::Apply(_))));
    after.says("Ready", "False", "Terminating");
    assert!(after.api.body(STATUS).to_string().contains("is tried again"));
}

#[tokio::test]
async fn a_deletion_that_is_done_is_not_told() {
    let mut scene = deleted();
    scene.children.retain(|child| child.kind() != ChildKind::Pod);
    let after = scene.pass(takes_all()).await;
    assert_eq!(after.result.as_ref().unwrap(), &Action::await_change());
    assert!(!after.api.was_asked(STATUS), "{:?}", after.api.writes());
}

#[tokio::test]
async fn o_r1_a_sandbox_that_is_gone_and_shown_as_it_was_before_is_given_nothing_any_more() {
    let bare = || {
        let mut scene = Scene::running();
        scene.children.clear();
        scene
    };
    let scene = bare();
    let api = scene.api(takes_all()).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &scene.others);
    ctx.recent.forget(fixtures::UID);
    assert_eq!(reconcile(scene.sandbox.into(), ctx).await.unwrap(), Action::await_change());
    assert_eq!(api.writes(), [""; 0]);
    assert!(bare().pass(takes_all()).await.api.was_asked("POST pods"), "one that is there is");
}

#[tokio::test]
async fn work_that_outlasts_its_sandbox_is_told_of_when_nothing_else_is_left() {
    for (when, is_told) in [("Retain", true), ("Delete", false)] {
        let workspace = json!({"access": "Persistent", "persistent": {"size": "1Gi", "whenDeleted": when}});
        let lasting = |s: &mut AgentSandbox| s.spec.workspace = Some(from(workspace.clone()));
        let claim = desired::claim::claim(&fixtures::accepted(lasting)).unwrap();
        let mut scene = deleted();
        lasting(&mut scene.sandbox);
        scene.children.retain(|child| child.kind() != ChildKind::Pod);
        scene.children.push(fixtures::live(Child::PersistentVolumeClaim(Box::new(claim))));
        let after = scene.pass(takes_all()).await;
        assert_eq!(after.result.as_ref().unwrap(), &Action::await_change());
        let events: Vec<Value> = after.api.asked().into_iter().map(|asked| asked.body).collect();
        let told = events.iter().find(|body| body["reason"] == "WorkspaceRetained");
        assert_eq!(told.is_some(), is_told, "{when}: {:?}", after.api.asked());
        let names = |body: &Value| body["note"].as_str().unwrap().contains("fix-login-workspace");
        assert!(told.is_none_or(names), "{told:?}");
    }
}

#[tokio::test]
async fn a_deletion_that_somebody_wrote_in_between_of_is_tried_again_and_not_told() {
    let after = deleted().pass(refuses(AGENT_IS_STOPPED, refusal(409, "Conflict", "another uid"))).await;
    assert!(matches!(after.result, Err(ReconcileError::Apply(_))));
    assert!(!after.api.was_asked(STATUS), "{:?}", after.api.writes());
}

#[tokio::test]
async fn nothing_is_remembered_of_a_sandbox_once_its_deletion_is_done() {
    let mut scene = deleted().without(ChildKind::NetworkPolicy, "fix-login-agent");
    scene.children.retain(|child| child.kind() != ChildKind::Pod);
    let away: Says = Box::new(|asked| {
        let is_refused = [WALL_IS_MADE, STATUS].contains(&asked.line.as_str());
        is_refused.then(|| refusal(500, "InternalError", "etcd is away"))
    });
    let api = scene.api(away).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &scene.others);
    let (mut there, began) = (scene.sandbox.clone(), Timestamp::now());
    there.metadata.deletion_timestamp = None;
    assert!(reconcile(Arc::new(there), Arc::clone(&ctx)).await.is_err(), "its wall cannot be put back");
    ctx.memory.start(fixtures::UID, Some(began));
    let known = || (ctx.breaches.due_in(fixtures::UID).is_some(), ctx.memory.start(fixtures::UID, None));
    assert_eq!(known(), (true, Some(began)), "the control");
    let done = reconcile(Arc::new(scene.sandbox), Arc::clone(&ctx)).await.unwrap();
    assert_eq!(done, Action::await_change());
    assert_eq!(known(), (false, None));
}

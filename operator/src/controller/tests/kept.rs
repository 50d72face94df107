//! Passes over a Task whose pod our finalizer keeps.

use super::suspend::lists_only;
use super::*;
use agentsandbox_crds::names::{LABEL_SANDBOX, PROGRAM_FINALIZER};

const POD_IS_LET_GO: &str = "PATCH pods/fix-login-agent";
const PROXY_IS_STOPPED: &str = "DELETE pods/fix-login-proxy";

/// A Task with this agent's pod, to whose fields in JSON something was done.
fn task(change: impl Fn(&mut Value)) -> Scene {
    let mut scene = Scene::running();
    scene.sandbox.spec.lifecycle = Some(from(json!({"mode": "Task"})));
    let accepted = fixtures::accepted(|s| s.spec.lifecycle.clone_from(&scene.sandbox.spec.lifecycle));
    let wanted = desired::agent_pod::pod(&accepted, &fixtures::platform(), &Sealed::for_tests());
    scene.agent(move |pod| {
        let mut value = serde_json::to_value(pod).unwrap();
        value["metadata"]["annotations"] = serde_json::to_value(&wanted.metadata.annotations).unwrap();
        value["metadata"]["finalizers"] = json!(["acme.test/x", PROGRAM_FINALIZER]);
        value["spec"]["restartPolicy"] = json!("Never");
        change(&mut value);
        from(value)
    })
}

/// Its program has ended at 00:01:00.
fn ended(pod: &mut Value) {
    pod["status"]["phase"] = json!("Failed");
    pod["status"]["conditions"] = json!([]);
    pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {
        "exitCode": 3, "reason": "Error", "finishedAt": "2026-01-01T00:01:00Z",
    }});
}

fn deleted_at(pod: &mut Value, at: &str) {
    pod["metadata"]["deletionTimestamp"] = json!(at);
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(0);
}

fn told(mut scene: Scene) -> Scene {
    let program = json!({"exitCode": 3, "reason": "Error", "finishedAt": "2026-01-01T00:01:00Z"});
    scene.sandbox.status =
        Some(from(json!({"className": "gvisor", "startedAt": "2026-01-01T00:00:00Z", "program": program})));
    scene
}

#[tokio::test]
async fn a_pod_is_kept_until_its_end_is_told_and_then_let_go_once() {
    let after = task(ended).pass(takes_all()).await;
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS]);
    let gone = || told(task(ended)).without(ChildKind::Pod, "fix-login-proxy");
    let after = gone().passes(3, takes_all()).await;
    assert_eq!(after.api.writes(), [POD_IS_LET_GO, STATUS]);
    let body = after.api.body(POD_IS_LET_GO);
    assert_eq!(body["metadata"]["finalizers"], json!(["acme.test/x"]), "another's stays");
    assert_eq!(
        (&body["metadata"]["uid"], &body["metadata"]["resourceVersion"]),
        (&json!("uid-of-fix-login-agent"), &json!("50"))
    );
}

#[tokio::test]
async fn an_end_is_told_of_a_pod_that_was_deleted_long_after_it_and_only_then_is_it_let_go() {
    let late = |pod: &mut Value| {
        ended(pod);
        deleted_at(pod, "2026-01-01T00:05:00Z");
    };
    let after = task(late).pass(takes_all()).await;
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS]);
    assert_eq!(after.api.body(STATUS)["status"]["program"]["exitCode"], 3);
    assert!(told(task(late)).pass(takes_all()).await.api.was_asked(POD_IS_LET_GO));
}

#[tokio::test]
async fn an_end_is_told_of_a_pod_on_its_way_out_that_somebody_took_a_label_off() {
    let hindered = |pod: &mut Value| {
        ended(pod);
        deleted_at(pod, "2026-01-01T00:05:00Z");
        pod["metadata"]["labels"][LABEL_SANDBOX] = json!("x");
    };
    let after = task(hindered).pass(takes_all()).await;
    assert_eq!(after.api.writes(), [POD_IS_LET_GO, PROXY_IS_STOPPED, STATUS]);
    let named = after.api.body(POD_IS_LET_GO);
    assert_eq!(named["metadata"]["finalizers"], json!([PROGRAM_FINALIZER]), "it is named, and still kept");
    assert_eq!(named["metadata"]["labels"][LABEL_SANDBOX], "fix-login");
    assert_eq!(after.api.body(STATUS)["status"]["program"]["exitCode"], 3);
    let refused = refuses(POD_IS_LET_GO, refusal(500, "InternalError", "somebody's webhook is away"));
    let after = task(hindered).pass(refused).await;
    assert_eq!(
        after.api.writes(),
        [POD_IS_LET_GO, PROXY_IS_STOPPED, STATUS],
        "its label alone is not as it was"
    );
    assert_eq!(after.api.body(STATUS)["status"]["program"]["exitCode"], 3);
}

#[tokio::test]
async fn a_pod_on_its_way_out_of_which_nothing_came_is_let_go_at_once() {
    let runs = |pod: &mut Value| deleted_at(pod, "2026-01-01T00:05:00Z");
    let doubtful = |pod: &mut Value| {
        ended(pod);
        deleted_at(pod, "2026-01-01T00:01:10Z");
    };
    for change in [runs as fn(&mut Value), doubtful] {
        let after = task(change).pass(takes_all()).await;
        assert_eq!(after.api.writes(), [POD_IS_LET_GO, STATUS]);
        assert!(after.api.body(STATUS)["status"]["program"].is_null());
    }
    let after = task(|_| ()).pass(takes_all()).await;
    assert!(!after.api.was_asked(POD_IS_LET_GO), "the control is one that runs: {:?}", after.api.writes());
}

#[tokio::test]
async fn a_pod_that_cannot_be_let_go_is_tried_again_and_keeps_no_wall_down() {
    let mut scene = task(|pod| deleted_at(pod, "2026-01-01T00:05:00Z"));
    scene = scene.without(ChildKind::NetworkPolicy, "fix-login-agent");
    let after = scene.pass(refuses(POD_IS_LET_GO, refusal(500, "InternalError", "etcd is away"))).await;
    assert!(after.api.was_asked(WALL_IS_MADE), "{:?}", after.api.writes());
    assert!(matches!(after.result, Err(ReconcileError::Apply(_))), "{:?}", after.result);
}

#[tokio::test]
async fn a_teardown_a_rejection_and_a_suspension_let_the_pod_go_though_no_watch_shows_it() {
    let hidden = || {
        let mut scene = task(|pod| {
            ended(pod);
            deleted_at(pod, "2026-01-01T00:01:10Z");
            pod["metadata"]["labels"] = json!({});
        });
        let is_agents = |child: &Child| child.kind() == ChildKind::Pod && child.name() == "fix-login-agent";
        let place = scene.children.iter().position(is_agents).unwrap();
        if let Child::Pod(pod) = scene.children.remove(place) {
            scene.unseen.push(*pod);
        }
        scene
    };
    let changes: [fn(&mut AgentSandbox); 3] = [
        |s| s.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z"))),
        |s| s.spec.class_name = Some("gone".to_owned()),
        |s| s.spec.lifecycle = Some(from(json!({"mode": "Task", "state": "Suspended"}))),
    ];
    for change in changes {
        let mut scene = hidden();
        change(&mut scene.sandbox);
        let after = scene.pass(takes_all()).await;
        assert!(after.api.was_asked(POD_IS_LET_GO), "{:?}", after.api.writes());
    }
}

#[tokio::test]
async fn an_end_that_was_seen_is_told_though_its_pod_has_gone_since() {
    let scene = task(ended);
    let (sandbox, api) = (
        Arc::new(scene.sandbox.clone()),
        scene.api(refuses(STATUS, refusal(500, "InternalError", "no"))).await,
    );
    let ctx = fixtures::ctx(api.client.clone(), &sandbox, &scene.children, &[]);
    reconcile(Arc::clone(&sandbox), Arc::clone(&ctx)).await.unwrap_err();
    let gone = scene.without(ChildKind::Pod, "fix-login-agent");
    let api = gone.api(takes_all()).await;
    let mut next = Arc::into_inner(fixtures::ctx(api.client.clone(), &sandbox, &gone.children, &[])).unwrap();
    next.memory = Arc::into_inner(ctx).unwrap().memory;
    reconcile(Arc::clone(&sandbox), Arc::new(next)).await.unwrap();
    assert!(!api.was_asked("POST pods"), "{:?}", api.writes());
    assert_eq!(api.body(STATUS)["status"]["program"]["exitCode"], 3);
    let api = gone.api(takes_all()).await;
    let fresh = fixtures::ctx(api.client.clone(), &sandbox, &gone.children, &[]);
    reconcile(sandbox, fresh).await.unwrap();
    assert!(api.was_asked("POST pods"), "the control has not seen it: {:?}", api.writes());
}

#[tokio::test]
async fn a_suspended_task_of_whose_end_nobody_can_be_asked_has_lost_its_proxy_and_keeps_its_pod() {
    let mut scene = task(ended);
    scene.sandbox.spec.lifecycle = Some(from(json!({"mode": "Task", "state": "Suspended"})));
    let says = lists_only(&scene);
    let after = scene.pass(says).await;
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED]);
    assert!(matches!(after.result, Err(ReconcileError::Apply(_))), "{:?}", after.result);
    let scene = task(ended);
    let says = lists_only(&scene);
    let after = scene.pass(says).await;
    assert_eq!(after.api.writes(), [""; 0], "the control may run for all that is known");
}

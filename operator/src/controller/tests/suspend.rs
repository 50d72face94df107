//! Passes over a sandbox that is suspended.

use super::finish::comes_within;
use super::*;

const PROXY_IS_STOPPED: &str = "DELETE pods/fix-login-proxy";
const KEYS_ARE_MADE: &str = "POST secrets";

fn suspended(mut scene: Scene) -> Scene {
    scene.sandbox.spec.lifecycle = Some(from(json!({"state": "Suspended"})));
    scene
}

fn without_pods(scene: Scene) -> Scene {
    scene.without(ChildKind::Pod, "fix-login-agent").without(ChildKind::Pod, "fix-login-proxy")
}

/// Its own Service, as it stands once its way is shut.
fn shut(scene: Scene) -> Scene {
    scene.service(service::shut)
}

#[tokio::test]
async fn the_power_of_a_suspended_sandbox_goes_proxy_first_and_its_way_is_shut_and_its_walls_stay() {
    let after = suspended(Scene::running()).pass(takes_all()).await;
    assert_eq!(after.result.as_ref().unwrap(), &Action::requeue(TEARDOWN_RETRY));
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, AGENT_IS_STOPPED, SERVICE_IS_WRITTEN, STATUS]);
    after.says("Accepted", "True", "Accepted");
    after.says("Ready", "False", "Suspending");
    after.says("Suspended", "False", "Suspending");
    after.says("Reconciling", "True", "Suspending");
    let said = after.api.body(STATUS)["status"]["conditions"].to_string();
    assert!(said.contains("not gone yet: fix-login-agent, fix-login-proxy"), "{said}");
    let mut running = Scene::running();
    running.sandbox.spec.lifecycle = Some(from(json!({"state": "Running"})));
    let after = running.pass(takes_all()).await;
    assert!(!after.api.was_asked(PROXY_IS_STOPPED), "the control: {:?}", after.api.writes());
    after.says("Suspended", "False", "NotSuspended");
}

#[tokio::test]
async fn o_r6_ten_passes_over_a_suspended_sandbox_write_its_status_once_and_make_neither_keys_nor_pods() {
    let after = shut(without_pods(suspended(Scene::running()))).passes(10, takes_all()).await;
    assert_eq!(after.api.writes(), [STATUS]);
    assert_eq!(after.result.as_ref().unwrap(), &Action::await_change());
    after.says("Ready", "True", "Suspended");
    after.says("Suspended", "True", "Suspended");
    after.says("Reconciling", "False", "Settled");
    let resumed = shut(without_pods(Scene::running())).pass(takes_all()).await;
    let made = resumed.api.was_asked(KEYS_ARE_MADE) && resumed.api.was_asked("POST pods");
    assert!(made, "the control: {:?}", resumed.api.writes());
}

#[tokio::test]
async fn a_suspended_sandbox_has_its_walls_put_back_and_what_widens_them_told() {
    let after = shut(without_pods(suspended(wallless()))).pass(takes_all()).await;
    assert_eq!(after.api.writes(), [WALL_IS_MADE, STATUS]);
    after.says("Ready", "True", "Suspended");
    let widened = shut(without_pods(suspended(Scene::running()))).beside(opens_everything("let-all-out"));
    let after = widened.pass(takes_all()).await;
    after.says("NetworkIsolated", "False", "EgressWidened");
    after.says("Suspended", "True", "Suspended");
}

#[tokio::test]
async fn a_suspended_sandbox_loses_its_power_though_no_wall_can_be_put_up() {
    let quota = refusal(403, "Forbidden", "exceeded quota: walls");
    let after = suspended(wallless()).pass(refuses(WALL_IS_MADE, quota)).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && after.api.was_asked(PROXY_IS_STOPPED));
    after.says("NetworkIsolated", "False", "Refused");
    after.says("Suspended", "False", "Suspending");
    assert_eq!(after.result.as_ref().unwrap(), &Action::requeue(TEARDOWN_RETRY), "its pods are looked at");
}

#[tokio::test]
async fn what_of_a_suspended_sandbox_cannot_be_stopped_is_told_and_its_walls_are_put_back_all_the_same() {
    for refused in [PROXY_IS_STOPPED, AGENT_IS_STOPPED, "GET pods"] {
        let no = refusal(403, "Forbidden", "cannot do this to pods");
        let scene = suspended(wallless());
        let sandbox = scene.sandbox.clone();
        let after = scene.pass(refuses(refused, no)).await;
        let Err(error @ ReconcileError::Apply(_)) = &after.result else {
            panic!("{refused}: {:?}", after.result)
        };
        // Keys that were to be gone are not left for as long as failures have grown to.
        let pauses: Vec<Action> = (0..10).map(|_| retry(&sandbox, error, &after.ctx)).collect();
        assert!(pauses.iter().all(|pause| comes_within(pause, 10.1)), "{pauses:?}");
        assert!(after.api.was_asked(WALL_IS_MADE), "{refused}: {:?}", after.api.writes());
        assert!(after.api.was_asked(SERVICE_IS_WRITTEN), "{refused}: {:?}", after.api.writes());
        after.says("Suspended", "False", "Suspending");
        let said = after.api.body(STATUS)["status"]["conditions"].to_string();
        assert!(said.contains("could not be stopped"), "{refused}: {said}");
    }
}

/// Pods can be listed and deleted, and none can be asked for.
pub(super) fn lists_only(scene: &Scene) -> Says {
    let pods = scene.children.iter().filter(|child| child.kind() == ChildKind::Pod);
    let items: Vec<Value> = pods.map(|pod| json!({"metadata": pod.value()["metadata"]})).collect();
    let list = json!({"kind": "List", "apiVersion": "v1", "items": items});
    Box::new(move |asked: &Asked| match asked.line.as_str() {
        "GET pods" => Some((200, list.clone())),
        line if line.starts_with("GET pods/") => Some(refusal(403, "Forbidden", "cannot get pods")),
        _ => None,
    })
}

#[tokio::test]
async fn the_power_of_a_suspended_service_goes_though_nobody_can_be_asked_of_its_pods() {
    let scene = suspended(Scene::running());
    let says = lists_only(&scene);
    let after = scene.pass(says).await;
    assert!(after.api.was_asked(PROXY_IS_STOPPED) && after.api.was_asked(AGENT_IS_STOPPED));
    // Of one that no list shows nobody can say whether it is there.
    let scene = suspended(Scene::running()).without(ChildKind::Pod, "fix-login-agent");
    let says = lists_only(&scene);
    let after = scene.pass(says).await;
    assert!(after.api.was_asked(PROXY_IS_STOPPED), "{:?}", after.api.writes());
    after.says("Suspended", "False", "Suspending");
    let mut task = suspended(Scene::running());
    task.sandbox.spec.lifecycle = Some(from(json!({"mode": "Task", "state": "Suspended"})));
    let says = lists_only(&task);
    let after = task.pass(says).await;
    assert!(after.api.was_asked(PROXY_IS_STOPPED), "{:?}", after.api.writes());
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "it may hold the only word of its end");
}

#[tokio::test]
async fn an_agent_of_a_suspended_sandbox_that_cannot_be_stopped_in_time_is_contained() {
    let no = || refuses(PROXY_IS_STOPPED, refusal(500, "InternalError", "etcd is away"));
    let widened = suspended(Scene::running()).beside(opens_everything("let-all-out"));
    let after = widened.pass(no()).await;
    let hurried = |after: &After| {
        let all = after.api.asked().into_iter().filter(|asked| asked.line == AGENT_IS_STOPPED);
        all.map(|asked| asked.body).any(|body| body["gracePeriodSeconds"] == 1)
    };
    assert!(hurried(&after), "{:?}", after.api.writes());
    assert!(!hurried(&suspended(Scene::running()).pass(no()).await), "the control has its walls");
}

#[tokio::test]
async fn a_pod_that_does_not_end_is_named_with_its_node_and_looked_at_ever_less_often() {
    let ending = |by: &str| {
        let by: Value = json!(by);
        suspended(Scene::running()).without(ChildKind::Pod, "fix-login-proxy").agent(move |pod| {
            let mut pod = pod.clone();
            pod.metadata.deletion_timestamp = Some(from(by.clone()));
            pod.spec.as_mut().unwrap().node_name = Some("node-7".to_owned());
            pod
        })
    };
    let stuck = shut(ending("2026-01-01T00:00:00Z")).pass(takes_all()).await;
    assert_eq!(stuck.result.as_ref().unwrap(), &Action::requeue(Duration::from_secs(30)));
    assert_eq!(stuck.api.writes(), [STATUS]);
    let said = stuck.api.body(STATUS)["status"]["conditions"].to_string();
    assert!(said.contains("fix-login-agent on node node-7"), "{said}");
    let fresh = shut(ending(&Timestamp::now().to_string())).pass(takes_all()).await;
    assert_eq!(fresh.result.as_ref().unwrap(), &Action::requeue(TEARDOWN_RETRY));
}

#[tokio::test]
async fn a_suspended_sandbox_that_is_over_stays_over_and_one_whose_time_is_up_ends() {
    let mut told = without_pods(suspended(Scene::running()));
    let program = json!({"exitCode": 0, "reason": "Completed", "finishedAt": "2026-01-01T00:01:00Z"});
    told.sandbox.status = Some(from(json!({"className": "gvisor", "program": program})));
    let after = told.pass(takes_all()).await;
    after.says("Ready", "True", "Succeeded");
    after.says("Suspended", "Unknown", "Finished");
    let mut late = without_pods(suspended(Scene::running()));
    late.sandbox.spec.lifecycle = Some(from(json!({"state": "Suspended", "maxLifetime": "1h"})));
    late.sandbox.status = Some(from(json!({"className": "gvisor", "startedAt": "2026-01-01T00:00:00Z"})));
    late.pass(takes_all()).await.says("Ready", "False", "LifetimeExceeded");
}

#[tokio::test]
async fn a_suspended_sandbox_that_is_not_accepted_runs_nothing_and_says_why() {
    let mut scene = suspended(Scene::running());
    scene.sandbox.spec.class_name = Some("gone".to_owned());
    let after = scene.pass(takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && after.api.was_asked(PROXY_IS_STOPPED));
    after.says("Ready", "False", "ClassNotFound");
    after.says("Suspended", "Unknown", "NotAccepted");
}

#[tokio::test]
async fn a_resumed_sandbox_has_new_pods_and_a_way_that_is_shut_until_its_new_proxy_is_seen_closed() {
    let mut scene = shut(without_pods(Scene::running()));
    scene.sandbox.spec.lifecycle = Some(from(json!({"state": "Running"})));
    let after = scene.pass(takes_all()).await;
    let pods = after.api.writes().into_iter().filter(|line| line == "POST pods").count();
    assert_eq!(pods, 2, "{:?}", after.api.writes());
    assert!(!after.api.was_asked(SERVICE_IS_WRITTEN), "{:?}", after.api.writes());
    after.says("NetworkIsolated", "Unknown", "FencePending");
    after.says("Suspended", "False", "NotSuspended");
}

//! Passes over a Task whose program has ended.

use super::*;
use agentsandbox_crds::sandbox::{Lifecycle, Mode};

const PROXY_IS_STOPPED: &str = "DELETE pods/fix-login-proxy";

/// The agent's pod of a Task, which is over; a patch of JSON is laid over its status.
fn over(pod: &Pod, status: &Value) -> Pod {
    let mut value = serde_json::to_value(pod).unwrap();
    value["spec"]["restartPolicy"] = json!("Never");
    value["status"]["phase"] = json!("Failed");
    value["status"]["conditions"] = json!([]);
    value["status"]["containerStatuses"][0]["state"] = json!({"terminated": {
        "exitCode": 3, "reason": "Error", "message": "no \u{1b}test passes",
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:01:00Z",
    }});
    for (key, inner) in status.as_object().into_iter().flatten() {
        value["status"][key] = inner.clone();
    }
    from(value)
}

/// A Task whose program has ended with 3.
fn done() -> Scene {
    let mut scene = Scene::running().agent(|pod| over(pod, &json!({})));
    scene.sandbox.spec.lifecycle = Some(Lifecycle { mode: Some(Mode::Task), ..Lifecycle::default() });
    scene
}

/// The agent's pod, as the watches show it.
pub(super) fn shown(scene: &Scene) -> Value {
    scene
        .children
        .iter()
        .find(|child| child.name() == "fix-login-agent" && child.kind() == ChildKind::Pod)
        .unwrap()
        .value()
}

/// The same, once its result was told.
fn told() -> Scene {
    let mut scene = done();
    let program = json!({"exitCode": 3, "reason": "Error", "finishedAt": "2026-01-01T00:01:00Z"});
    scene.sandbox.status = Some(from(json!({"className": "gvisor", "program": program})));
    scene
}

#[tokio::test]
async fn the_proxy_of_a_task_that_has_ended_goes_first_and_its_result_is_told_and_its_pod_stays() {
    let after = done().pass(takes_all()).await;
    assert_eq!(after.result.as_ref().unwrap(), &Action::requeue(TEARDOWN_RETRY));
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS]);
    after.says("Ready", "False", "Failed");
    after.says("Stalled", "True", "Failed");
    let told = after.api.body(STATUS)["status"]["conditions"].to_string();
    assert!(told.contains("not gone yet: fix-login-proxy") && !told.contains("runs any more"), "{told}");
    after.says("Reconciling", "False", "Settled");
    after.says("NetworkIsolated", "Unknown", "Finished");
    let status = &after.api.body(STATUS)["status"];
    assert_eq!(status["program"]["exitCode"], 3, "{status}");
    assert_eq!(status["program"]["lastWords"], "no  test passes", "{status}");
    assert!(!status["conditions"].to_string().contains("test passes"), "{status}");
    let events = after.api.asked().into_iter().filter(|asked| asked.line.contains(" events"));
    assert!(events.map(|asked| asked.body.to_string()).all(|body| !body.contains("test passes")));
}

#[tokio::test]
async fn while_its_result_cannot_be_told_the_pod_that_shows_it_stays_and_the_keys_go() {
    for code in [500, 409, 403] {
        let after = done().pass(refuses(STATUS, refusal(code, "InternalError", "no"))).await;
        assert!(matches!(after.result, Err(ReconcileError::Status(_))), "{:?}", after.result);
        assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS], "{code}");
    }
}

#[tokio::test]
async fn what_could_not_be_stopped_is_not_said_to_be_gone() {
    let after = told().pass(refuses(PROXY_IS_STOPPED, refusal(403, "Forbidden", "cannot delete pods"))).await;
    assert!(matches!(after.result, Err(ReconcileError::Apply(_))), "{:?}", after.result);
    let said = after.api.body(STATUS)["status"]["conditions"].to_string();
    assert!(said.contains("could not be stopped") && !said.contains("runs any more"), "{said}");
    let gone = told().without(ChildKind::Pod, "fix-login-proxy").pass(takes_all()).await;
    let said = gone.api.body(STATUS)["status"]["conditions"].to_string();
    assert!(said.contains("nothing of the sandbox runs any more"), "the control: {said}");
}

type Change = fn(&mut Value);

/// What the API server itself shows of the agent's pod.
fn live(change: Change) -> Says {
    let mut pod = shown(&done());
    change(&mut pod);
    Box::new(move |asked| (asked.line == "GET pods/fix-login-agent").then(|| (200, pod.clone())))
}

#[tokio::test]
async fn an_end_is_believed_only_of_a_pod_that_the_api_server_shows_so_and_that_is_the_operators() {
    let changes: [(&str, Change); 5] = [
        ("it was deleted meanwhile", |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:05:00Z");
        }),
        ("it is another one", |pod| pod["metadata"]["uid"] = json!("another")),
        ("it mounts none of what the operator's do", |pod| pod["spec"]["volumes"] = json!([])),
        ("its program was to be started again", |pod| pod["spec"]["restartPolicy"] = json!("Always")),
        ("it bears no hash of a spec", |pod| pod["metadata"]["annotations"] = json!({})),
    ];
    for (what, change) in changes {
        let after = done().pass(live(change)).await;
        assert!(!after.api.was_asked(PROXY_IS_STOPPED), "{what}: {:?}", after.api.writes());
        let told = after.api.asked().into_iter().filter(|asked| asked.line == STATUS);
        assert!(told.map(|asked| asked.body).all(|body| body["status"]["program"].is_null()), "{what}");
    }
    assert!(done().pass(live(|_| ())).await.api.was_asked(PROXY_IS_STOPPED), "the control");
}

#[tokio::test]
async fn a_pod_that_passes_for_the_agents_is_ended_and_one_of_which_a_watch_is_late_is_not() {
    let changes: [(bool, Change); 3] = [
        (true, |pod| pod["spec"]["volumes"] = json!([])),
        (true, |pod| pod["metadata"]["annotations"] = json!({})),
        (false, |pod| pod["metadata"]["uid"] = json!("another")),
    ];
    for (is_ended, change) in changes {
        let after = done().pass(live(change)).await;
        assert_eq!(after.api.was_asked(AGENT_IS_STOPPED), is_ended, "{:?}", after.api.writes());
        if is_ended {
            let body = after.api.body(AGENT_IS_STOPPED);
            assert_eq!(body["preconditions"]["uid"], "uid-of-fix-login-agent", "{body}");
        }
    }
}

#[tokio::test]
async fn a_life_counts_from_the_start_that_was_seen_though_it_was_taken_out_of_the_status() {
    let mut scene = Scene::running();
    scene.sandbox.spec.lifecycle = Some(from(json!({"maxLifetime": "8760h"})));
    let (sandbox, api) = (scene.sandbox.clone(), scene.api(takes_all()).await);
    let gone = scene.without(ChildKind::Pod, "fix-login-agent");
    let ctx = fixtures::ctx(api.client.clone(), &sandbox, &gone.children, &[]);
    let long_ago = Timestamp::now() - SignedDuration::from_hours(9000);
    ctx.memory.start(fixtures::UID, Some(long_ago));
    reconcile(Arc::new(sandbox.clone()), Arc::clone(&ctx)).await.unwrap();
    assert!(api.was_asked(PROXY_IS_STOPPED) && !api.was_asked("POST pods"), "{:?}", api.writes());
    assert_eq!(api.body(STATUS)["status"]["program"]["reason"], "LifetimeExceeded");
    let forgotten = fixtures::ctx(api.client.clone(), &sandbox, &gone.children, &[]);
    reconcile(Arc::new(sandbox), forgotten).await.unwrap();
    assert!(api.was_asked("POST pods"), "the control: {:?}", api.writes());
}

/// A Task whose pod failed before its program was started.
fn unbegun() -> Scene {
    let mut scene = Scene::running();
    scene.sandbox.spec.lifecycle = Some(Lifecycle { mode: Some(Mode::Task), ..Lifecycle::default() });
    let accepted = fixtures::accepted(|s| s.spec.lifecycle.clone_from(&scene.sandbox.spec.lifecycle));
    let wanted = desired::agent_pod::pod(&accepted, &fixtures::platform(), &Sealed::for_tests());
    let report = fixtures::report(|report| report["verdict"] = json!("EgressOpen"));
    scene.agent(move |_| {
        fixtures::failed_pod("uid-of-fix-login-agent", &report, |pod| {
            pod["metadata"]["annotations"] = serde_json::to_value(&wanted.metadata.annotations).unwrap();
        })
    })
}

#[tokio::test]
async fn a_task_whose_fence_failed_rests_and_its_verdict_outlasts_the_pod_that_found_it() {
    let scene = unbegun();
    let (sandbox, api) = (Arc::new(scene.sandbox.clone()), scene.api(takes_all()).await);
    let ctx = fixtures::ctx(api.client.clone(), &sandbox, &scene.children, &[]);
    let action = reconcile(Arc::clone(&sandbox), Arc::clone(&ctx)).await.unwrap();
    assert!(comes_within(&action, 11.0) && !comes_within(&action, 4.0), "{action:?}");
    assert!(!api.was_asked(AGENT_IS_STOPPED) && !api.was_asked("POST pods"), "{:?}", api.writes());
    let stalled = |api: &Api| {
        let status: AgentSandboxStatus = from(api.body(STATUS)["status"].clone());
        status.conditions.into_iter().find(|one| one.type_ == "Stalled").map(|one| (one.status, one.reason))
    };
    let told = Some(("True".to_owned(), "EgressOpen".to_owned()));
    assert_eq!(stalled(&api), told);
    // The next pod is made, and says nothing yet.
    let gone = scene.without(ChildKind::Pod, "fix-login-agent");
    let api = gone.api(takes_all()).await;
    let next = fixtures::ctx(api.client.clone(), &sandbox, &gone.children, &[]);
    let mut next = Arc::into_inner(next).unwrap();
    next.memory = Arc::into_inner(ctx).unwrap().memory;
    reconcile(Arc::clone(&sandbox), Arc::new(next)).await.unwrap();
    assert!(api.was_asked("POST pods"), "{:?}", api.writes());
    assert_eq!(stalled(&api), told);
    let api = gone.api(takes_all()).await;
    reconcile(sandbox.clone(), fixtures::ctx(api.client.clone(), &sandbox, &gone.children, &[]))
        .await
        .unwrap();
    assert_eq!(stalled(&api).unwrap().0, "False", "the control has no pod before it");
}

#[tokio::test]
async fn a_task_is_not_started_from_what_a_late_watch_shows_of_it() {
    let fresh = || {
        let mut scene = done().without(ChildKind::Pod, "fix-login-agent");
        scene.sandbox.metadata.resource_version = Some("200".to_owned());
        scene
    };
    let was_started = |after: &After| after.api.was_asked("POST pods");
    let conflict = refusal(409, "Conflict", "it changed");
    let after = fresh().pass(refuses("PATCH agentsandboxes/fix-login", conflict)).await;
    assert!(!was_started(&after), "{:?}", after.api.writes());
    let after = fresh().pass(takes_all()).await;
    assert!(was_started(&after), "the control: {:?}", after.api.writes());
    let body = after.api.body("PATCH agentsandboxes/fix-login");
    assert_eq!(
        body,
        json!({"metadata": {"uid": fixtures::UID}}),
        "it changes nothing and conflicts with no edit"
    );
    for (what, change) in [
        ("status", json!({"program": {"reason": "Completed", "exitCode": 0}})),
        ("metadata", json!({"deletionTimestamp": "2026-01-01T00:05:00Z"})),
    ] {
        let mut shown = serde_json::to_value(&fresh().sandbox).unwrap();
        for (key, inner) in change.as_object().unwrap() {
            shown[what][key] = inner.clone();
        }
        let says = move |asked: &Asked| {
            (asked.line == "PATCH agentsandboxes/fix-login").then(|| (200, shown.clone()))
        };
        let after = fresh().pass(Box::new(says)).await;
        assert!(!was_started(&after), "{what}: {:?}", after.api.writes());
    }
}

#[tokio::test]
async fn a_task_is_not_asked_for_where_none_of_its_pods_is_to_be_made() {
    let widens =
        foreign_policy("wide", json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}));
    let waiting = done().without(ChildKind::Pod, "fix-login-agent").beside(widens);
    let after = waiting.pass(takes_all()).await;
    assert!(!after.api.was_asked("PATCH agentsandboxes/fix-login"), "{:?}", after.api.writes());
    after.says("NetworkIsolated", "False", "EgressWidened");
}

#[tokio::test]
async fn a_task_that_is_over_is_not_started_again_whatever_becomes_of_its_pod_its_spec_and_its_class() {
    let gone = |scene: Scene| {
        scene.without(ChildKind::Pod, "fix-login-agent").without(ChildKind::Pod, "fix-login-proxy")
    };
    let after = gone(told()).pass(takes_all()).await;
    assert_eq!(after.result.as_ref().unwrap(), &Action::await_change());
    assert_eq!(after.api.writes(), [STATUS], "its pod was deleted");
    let edited = |change: fn(&mut AgentSandbox)| {
        let mut scene = told();
        change(&mut scene.sandbox);
        scene
    };
    let changes: [fn(&mut AgentSandbox); 3] = [
        |s| s.spec.agent.args = vec!["another".to_owned()],
        |s| s.spec.class_name = Some("gone".to_owned()),
        |s| s.spec.lifecycle = None,
    ];
    for change in changes {
        let after = edited(change).pass(takes_all()).await;
        assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS]);
        assert_eq!(after.api.body(STATUS)["status"]["program"]["exitCode"], 3);
    }
    let mut fresh = gone(told());
    fresh.sandbox.status = None;
    assert!(
        fresh.pass(takes_all()).await.api.was_asked("POST pods"),
        "the control is one that was never run"
    );
}

#[tokio::test]
async fn what_a_late_watch_shows_of_a_pod_that_has_ended_takes_nothing_from_it() {
    let scene = told().agent(|pod| {
        let mut pod = pod.clone();
        pod.status.as_mut().unwrap().phase = Some("Running".to_owned());
        pod
    });
    let ended = shown(&done());
    let says = move |asked: &Asked| (asked.line == "GET pods/fix-login-agent").then(|| (200, ended.clone()));
    let after = scene.pass(Box::new(says)).await;
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS], "the API server itself is asked");
    let running = told().agent(|pod| {
        let mut pod = pod.clone();
        pod.status.as_mut().unwrap().phase = Some("Running".to_owned());
        pod
    });
    let after = running.pass(takes_all()).await;
    let mut writes = after.api.writes();
    writes.sort();
    assert_eq!(writes, [AGENT_IS_STOPPED, PROXY_IS_STOPPED, STATUS], "one that runs is ended");
}

#[tokio::test]
async fn a_task_that_somebody_else_ended_is_started_again_after_its_pause() {
    let mut scene = done().agent(|pod| over(pod, &json!({"reason": "Evicted"})));
    scene.sandbox.status = None;
    let (sandbox, api) = (scene.sandbox.clone(), scene.api(takes_all()).await);
    let resting = fixtures::ctx(api.client.clone(), &sandbox, &scene.children, &[]);
    reconcile(Arc::new(sandbox.clone()), resting).await.unwrap();
    assert!(!api.was_asked(AGENT_IS_STOPPED), "one that was just lost rests: {:?}", api.writes());
    let rested = fixtures::ctx(api.client.clone(), &sandbox, &scene.children, &[]);
    let lost = scene.children.iter().find_map(|child| match child {
        Child::Pod(pod) if pod.name_any() == "fix-login-agent" => Some((**pod).clone()),
        _ => None,
    });
    let long_ago = Timestamp::now() - SignedDuration::from_hours(1);
    rested.memory.failed(fixtures::UID, lost.as_ref(), long_ago);
    let after = After { result: reconcile(Arc::new(sandbox), Arc::clone(&rested)).await, api, ctx: rested };
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    assert!(!after.api.was_asked(PROXY_IS_STOPPED), "{:?}", after.api.writes());
    after.says("Ready", "False", "Ended");
    assert!(after.api.body(STATUS)["status"]["program"].is_null());
}

#[tokio::test]
async fn a_finished_sandbox_that_is_deleted_loses_its_pods_before_its_walls() {
    let mut scene = told();
    scene.sandbox.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    let after = scene.pass(takes_all()).await;
    assert_eq!(after.api.writes(), [AGENT_IS_STOPPED, STATUS]);
    assert_eq!(after.api.body(STATUS)["status"]["program"]["exitCode"], 3, "its result stays to the end");
}

#[tokio::test]
async fn a_sandbox_that_is_not_accepted_keeps_a_pod_that_has_ended() {
    let mut scene = done();
    scene.sandbox.spec.lifecycle = None;
    scene.sandbox.spec.class_name = Some("gone".to_owned());
    let after = scene.pass(takes_all()).await;
    after.says("Accepted", "False", "ClassNotFound");
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    assert!(after.api.was_asked(PROXY_IS_STOPPED), "{:?}", after.api.writes());
}

/// A Service that has lived long enough, and runs.
fn late() -> Scene {
    let mut scene = Scene::running();
    scene.sandbox.spec.lifecycle = Some(from(json!({"maxLifetime": "1h"})));
    scene.sandbox.status = Some(from(json!({"className": "gvisor", "startedAt": "2026-01-01T00:00:00Z"})));
    scene
}

#[tokio::test]
async fn whose_time_is_up_is_told_so_and_then_stopped_for_good() {
    let after = late().pass(takes_all()).await;
    let mut writes = after.api.writes();
    assert_eq!(writes.first().map(String::as_str), Some(PROXY_IS_STOPPED));
    writes.sort();
    assert_eq!(writes, [AGENT_IS_STOPPED, PROXY_IS_STOPPED, STATUS]);
    after.says("Ready", "False", "LifetimeExceeded");
    after.says("Stalled", "True", "LifetimeExceeded");
    let status = &after.api.body(STATUS)["status"];
    assert_eq!(status["program"]["reason"], "LifetimeExceeded", "{status}");
    assert_eq!(status["startedAt"], "2026-01-01T00:00:00Z", "{status}");
    let mut unbounded = late();
    unbounded.sandbox.spec.lifecycle = None;
    let after = unbounded.pass(takes_all()).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
}

#[tokio::test]
async fn whose_time_is_up_is_stopped_though_it_cannot_be_told() {
    let after = late().pass(refuses(STATUS, refusal(500, "InternalError", "etcd is away"))).await;
    assert!(matches!(after.result, Err(ReconcileError::Status(_))), "{:?}", after.result);
    assert!(after.api.was_asked(AGENT_IS_STOPPED) && after.api.was_asked(PROXY_IS_STOPPED));
}

#[tokio::test]
async fn whose_start_was_never_told_loses_its_keys_on_time_though_nothing_can_be_told() {
    let mut scene = late();
    scene.sandbox.status = Some(from(json!({"className": "gvisor"})));
    let sandbox = scene.sandbox.clone();
    let after = scene.pass(refuses(STATUS, refusal(403, "Forbidden", "no"))).await;
    assert_eq!(after.api.writes(), [PROXY_IS_STOPPED, STATUS], "only its pod shows when it started");
    let error = after.result.as_ref().unwrap_err();
    for _ in 0..20 {
        let action = retry(&sandbox, error, &after.ctx);
        assert!(comes_within(&action, 11.0), "{action:?}");
    }
}

/// Whether a pass comes within so many seconds.
pub(super) fn comes_within(action: &Action, limit: f64) -> bool {
    let text = format!("{action:?}");
    let Some(time) = text.split("Some(").nth(1).and_then(|rest| rest.split(')').next()) else { return false };
    let seconds = match time.strip_suffix("ms") {
        Some(millis) => millis.parse::<f64>().map(|millis| millis / 1000.0),
        None => time.trim_end_matches('s').parse(),
    };
    seconds.is_ok_and(|seconds| seconds > 0.0 && seconds < limit)
}

#[tokio::test]
async fn a_phase_that_somebody_wrote_keeps_no_agent_from_being_stopped() {
    let failed = |pod: &Pod| {
        let mut pod = pod.clone();
        pod.status.as_mut().unwrap().phase = Some("Failed".to_owned());
        pod
    };
    let mut scene = Scene::running().agent(failed);
    scene.sandbox.spec.class_name = Some("gone".to_owned());
    let after = scene.pass(takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    let breached = Scene::running().agent(failed).without(ChildKind::NetworkPolicy, "fix-login-agent");
    let after = breached.pass(refuses(WALL_IS_MADE, refusal(400, "BadRequest", "denied request"))).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    let mut ended = done().without(ChildKind::NetworkPolicy, "fix-login-agent");
    ended.sandbox.spec.lifecycle = None;
    let after = ended.pass(refuses(WALL_IS_MADE, refusal(400, "BadRequest", "denied request"))).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "the control holds a result: {:?}", after.api.writes());
}

#[tokio::test]
async fn a_crd_that_keeps_no_start_is_not_written_again_and_again() {
    let mut scene = Scene::running();
    let pruned = serde_json::to_value(&scene.sandbox).unwrap();
    let settled = {
        let after = Scene::running().pass(takes_all()).await;
        let mut status = after.api.body(STATUS)["status"].clone();
        status.as_object_mut().unwrap().remove("startedAt").expect("a start is told");
        status
    };
    scene.sandbox.status = Some(from(settled.clone()));
    let says = move |asked: &Asked| {
        (asked.line == STATUS).then(|| {
            let mut kept = pruned.clone();
            kept["status"] = settled.clone();
            (200, kept)
        })
    };
    let after = scene.passes(3, Box::new(says)).await;
    let told = after.api.asked().iter().filter(|asked| asked.line == STATUS).count();
    assert_eq!(told, 1, "{:?}", after.api.writes());
}

#[tokio::test]
async fn a_pass_comes_when_the_time_is_up_and_a_failed_one_no_later() {
    let mut scene = late();
    scene.sandbox.spec.lifecycle = Some(from(json!({"maxLifetime": "8760h"})));
    let start = Timestamp::now() - SignedDuration::from_hours(8760) + SignedDuration::from_secs(30);
    scene.sandbox.status = Some(from(json!({"className": "gvisor", "startedAt": start.to_string()})));
    let sandbox = scene.sandbox.clone();
    let after = scene.pass(takes_all()).await;
    let soon = |action: &Action| comes_within(action, 31.0);
    assert!(soon(after.result.as_ref().unwrap()), "{:?}", after.result);
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    // A failure that is tried again after minutes waits no longer than that.
    let action = retry(&sandbox, &ReconcileError::NoIdentity, &after.ctx);
    assert!(soon(&action), "{action:?}");
}

const IT_IS_DELETED: &str = "DELETE agentsandboxes/fix-login";

fn kept(time: &str) -> Scene {
    let mut scene = told();
    scene.sandbox.spec.lifecycle = Some(from(json!({"mode": "Task", "ttlAfterFinished": time})));
    scene
}

#[tokio::test]
async fn what_is_over_is_deleted_once_it_was_kept_as_long_as_it_says_and_only_as_it_was_then() {
    let unpowered = |time| kept(time).without(ChildKind::Pod, "fix-login-proxy");
    let after = kept("1h").pass(takes_all()).await;
    assert!(!after.api.was_asked(IT_IS_DELETED), "its proxy has not gone: {:?}", after.api.writes());
    let after = unpowered("1h").pass(takes_all()).await;
    assert!(after.api.was_asked(IT_IS_DELETED), "{:?}", after.api.writes());
    let body = after.api.body(IT_IS_DELETED);
    assert_eq!(body["preconditions"], json!({"uid": fixtures::UID, "resourceVersion": "200"}), "{body}");
    let after = unpowered("8760h").pass(takes_all()).await;
    assert!(!after.api.was_asked(IT_IS_DELETED), "{:?}", after.api.writes());
    let running = {
        let mut scene = Scene::running();
        scene.sandbox.spec.lifecycle = Some(from(json!({"ttlAfterFinished": "0s"})));
        scene
    };
    assert!(!running.pass(takes_all()).await.api.was_asked(IT_IS_DELETED), "one that is not over");
    let mut timeless = unpowered("0s");
    timeless.sandbox.status.as_mut().unwrap().program.as_mut().unwrap().finished_at = None;
    assert!(
        !timeless.pass(takes_all()).await.api.was_asked(IT_IS_DELETED),
        "nobody knows since when it is over"
    );
}

#[tokio::test]
async fn a_sandbox_that_is_being_deleted_is_not_deleted_once_more() {
    let mut scene = kept("0s");
    scene.sandbox.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    assert!(!scene.pass(takes_all()).await.api.was_asked(IT_IS_DELETED));
}

#[tokio::test]
async fn a_sandbox_that_changed_meanwhile_is_not_deleted_and_looked_at_again() {
    let scene = kept("0s").without(ChildKind::Pod, "fix-login-proxy");
    let after = scene.pass(refuses(IT_IS_DELETED, refusal(409, "Conflict", "it changed"))).await;
    assert!(matches!(after.result, Err(ReconcileError::Apply(_))), "{:?}", after.result);
}

//! Whole passes over a sandbox that somebody got at.

use std::sync::{Condvar, Mutex};

use agentsandbox_crds::names::{LABEL_MANAGED_BY, LABEL_SANDBOX_UID};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::controller::Action;
use serde_json::{Value, json};

use super::*;
use crate::backoff::Jitter;
use crate::controller::tests::way::{self, selected};
use crate::controller::tests::{
    AGENT_IS_STOPPED, STATUS, Scene, WALL_IS_MADE, opens_everything, refuses, takes_all, wallless,
};
use crate::controller::{ReconcileError, reconcile, retry};
use crate::fixtures::api::{Api, Asked, Says, refusal};
use crate::fixtures::{self, UID, from};

mod stand_ins;

const PROXY_IS_STOPPED: &str = "DELETE pods/fix-login-proxy";
const DOCUMENT_IS_REPAIRED: &str = "PATCH configmaps/fix-login-policy";
const AGENT_IS_NAMED: &str = "PATCH pods/fix-login-agent";

/// The running sandbox after `change` was done to its policy document.
fn document(change: impl FnOnce(&mut Value)) -> Scene {
    let mut scene = Scene::running();
    let documents = scene.children.iter_mut().find(|child| child.kind() == ChildKind::ConfigMap);
    let own = documents.expect("a sandbox has a policy document");
    let mut value = own.value();
    change(&mut value);
    *own = Child::ConfigMap(from(value));
    scene
}

fn point_the_key_elsewhere(document: &mut Value) {
    document["data"]["policy.yaml"] = json!("credentials: [{scopes: [{host: evil.test}]}]");
}

fn quota() -> (u16, Value) {
    refusal(403, "Forbidden", "pods is forbidden: exceeded quota: pods")
}

fn busy() -> (u16, Value) {
    refusal(500, "InternalError", "failed calling webhook")
}

fn strip(pod: &mut Pod) {
    pod.metadata.labels = None;
    pod.metadata.owner_references = None;
}

fn are_both_stopped(api: &Api) -> bool {
    api.was_asked(AGENT_IS_STOPPED) && api.was_asked(PROXY_IS_STOPPED)
}

fn is_any_stopped(api: &Api) -> bool {
    api.was_asked(AGENT_IS_STOPPED) || api.was_asked(PROXY_IS_STOPPED)
}

/// Seconds of grace that came with the first deletion of the agent; null leaves it to the pod.
fn grace(api: &Api) -> Value {
    let first = api.asked().into_iter().find(|asked| asked.line == AGENT_IS_STOPPED);
    first.unwrap_or_else(|| panic!("{:?}", api.writes())).body["gracePeriodSeconds"].clone()
}

#[tokio::test]
async fn o_t6_a_policy_document_that_is_a_strangers_now_stops_the_proxy_that_would_obey_it() {
    let after = document(|document| {
        document["metadata"]["ownerReferences"] = Value::Null;
        point_the_key_elsewhere(document);
    })
    .pass(takes_all())
    .await;
    assert!(are_both_stopped(&after.api), "{:?}", after.api.writes());
    assert_eq!(after.api.body(PROXY_IS_STOPPED)["gracePeriodSeconds"], 1);
    after.says("ProxyReady", "False", "NameConflict");
    after.says("Ready", "False", "NameConflict");

    let after = document(point_the_key_elsewhere).pass(takes_all()).await;
    assert!(after.api.was_asked(DOCUMENT_IS_REPAIRED) && !is_any_stopped(&after.api));
}

#[tokio::test]
async fn o_t6_a_policy_document_that_no_watch_shows_and_is_a_strangers_stops_the_proxy_too() {
    let mut theirs = json!({"metadata": {"name": "fix-login-policy", "uid": "uid-of-theirs"}});
    point_the_key_elsewhere(&mut theirs);
    let says: Says = Box::new(move |asked| match asked.line.as_str() {
        "POST configmaps" => Some(refusal(409, "AlreadyExists", "exists")),
        "GET configmaps/fix-login-policy" => Some((200, theirs.clone())),
        _ => None,
    });
    let after = Scene::running().without(ChildKind::ConfigMap, "fix-login-policy").pass(says).await;
    assert!(are_both_stopped(&after.api), "{:?}", after.api.writes());
}

#[tokio::test]
async fn a_policy_document_whose_labels_were_taken_off_is_written_whole_again() {
    let mut own =
        fixtures::boundary().into_iter().find(|c| c.kind() == ChildKind::ConfigMap).unwrap().value();
    own["metadata"]["labels"] = Value::Null;
    point_the_key_elsewhere(&mut own);
    let says: Says = Box::new(move |asked| match asked.line.as_str() {
        "POST configmaps" => Some(refusal(409, "AlreadyExists", "exists")),
        "GET configmaps/fix-login-policy" => Some((200, own.clone())),
        _ => None,
    });
    let after = Scene::running().without(ChildKind::ConfigMap, "fix-login-policy").pass(says).await;
    let text = after.api.body(DOCUMENT_IS_REPAIRED)["data"]["policy.yaml"].to_string();
    assert!(text.contains("anthropic") && !text.contains("evil.test"), "{text}");
}

#[tokio::test]
async fn o_t6_a_policy_document_that_cannot_be_repaired_stops_proxy_and_agent() {
    let refused = refusal(403, "Forbidden", "a webhook denied request");
    let after = document(point_the_key_elsewhere).pass(refuses(DOCUMENT_IS_REPAIRED, refused)).await;
    assert!(are_both_stopped(&after.api), "{:?}", after.api.writes());
    after.says("ProxyReady", "False", "Refused");

    let spared = document(point_the_key_elsewhere).pass(refuses(DOCUMENT_IS_REPAIRED, busy())).await;
    assert!(!is_any_stopped(&spared.api), "a failure that may pass is tried again first");
    spared.says("ProxyReady", "Unknown", "Retrying");

    let scene = document(point_the_key_elsewhere);
    let api = scene.api(refuses(DOCUMENT_IS_REPAIRED, busy())).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    ctx.breaches.exhaust(UID);
    assert!(reconcile(scene.sandbox.into(), ctx).await.is_err());
    assert!(are_both_stopped(&api), "{:?}", api.writes());
    assert!(api.body(STATUS).to_string().contains("PolicyChanged"));
}

/// As an API server answers to whatever it is asked while it has not read the roles yet, and as one does to what nobody granted.
fn unauthorized() -> (u16, Value) {
    let message =
        "networkpolicies is forbidden: User \"operator\" cannot create resource \"networkpolicies\"";
    refusal(403, "Forbidden", message)
}

#[tokio::test]
async fn o_t6_a_permission_that_is_missing_for_a_moment_stops_no_agent_and_one_that_stays_missing_does() {
    let scene = wallless();
    let api = scene.api(refuses(WALL_IS_MADE, unauthorized())).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    let sandbox = std::sync::Arc::new(scene.sandbox);
    let error = reconcile(sandbox.clone(), ctx.clone()).await.unwrap_err();
    assert!(!is_any_stopped(&api), "{:?}", api.writes());
    let first = Jitter::seeded(0).pause(
        UID,
        1,
        super::super::failures::BACKOFF_MIN,
        super::super::failures::BACKOFF_MAX,
    );
    assert_eq!(retry(&sandbox, &error, &ctx), Action::requeue(first), "it is tried again in time");

    ctx.breaches.exhaust(UID);
    assert!(reconcile(sandbox, ctx).await.is_err(), "it is tried again for as long as it is missing");
    assert!(api.was_asked(AGENT_IS_STOPPED) && !api.was_asked(PROXY_IS_STOPPED), "{:?}", api.writes());
    assert_eq!(grace(&api), 1);
    let told = api.asked().into_iter().rfind(|asked| asked.line == STATUS).unwrap().body;
    let conditions = told["status"]["conditions"].as_array().unwrap().clone();
    let isolated = conditions.into_iter().find(|one| one["type"] == "NetworkIsolated").unwrap();
    assert_eq!((&isolated["status"], &isolated["reason"]), (&json!("False"), &json!("Forbidden")));
}

#[tokio::test]
async fn a_missing_permission_is_asked_for_again_after_pauses_that_grow_and_told_as_such() {
    let scene = Scene::running().without(ChildKind::ConfigMap, "fix-login-policy");
    let api = scene.api(refuses("POST configmaps", unauthorized())).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    let sandbox = std::sync::Arc::new(scene.sandbox);
    let error = reconcile(sandbox.clone(), ctx.clone()).await.unwrap_err();
    assert!(api.body(STATUS).to_string().contains("\"Forbidden\""), "{}", api.body(STATUS));
    let pause = |count| {
        let jitter = Jitter::seeded(0);
        Action::requeue(jitter.pause(
            UID,
            count,
            super::super::failures::BACKOFF_MIN,
            super::super::failures::BACKOFF_MAX,
        ))
    };
    for count in 1..12 {
        assert_eq!(retry(&sandbox, &error, &ctx), pause(count));
    }
}

#[tokio::test]
async fn a_wall_that_fails_in_passing_leaves_nothing_known_and_stops_the_agent_when_patience_ends() {
    let scene = wallless();
    let api = scene.api(refuses(WALL_IS_MADE, busy())).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    let sandbox = std::sync::Arc::new(scene.sandbox);
    let error = reconcile(sandbox.clone(), ctx.clone()).await.unwrap_err();
    assert!(!api.was_asked(AGENT_IS_STOPPED), "{:?}", api.writes());
    assert!(api.body(STATUS).to_string().contains("Retrying"));
    // So many failures in a row that their pause would be longer than patience.
    let pause = |count| {
        Jitter::seeded(0).pause(
            UID,
            count,
            super::super::failures::BACKOFF_MIN,
            super::super::failures::BACKOFF_MAX,
        )
    };
    let count = (1..).find(|count| pause(*count) > fixtures::PATIENCE).unwrap();
    for _ in 1..count {
        let _ = retry(&sandbox, &error, &ctx);
    }
    let due = ctx.breaches.due_in(UID).unwrap();
    assert!(due <= fixtures::PATIENCE);
    assert_ne!(retry(&sandbox, &error, &ctx), Action::requeue(pause(count)));

    ctx.breaches.exhaust(UID);
    reconcile(sandbox, ctx.clone()).await.unwrap_err();
    assert!(api.was_asked(AGENT_IS_STOPPED) && !api.was_asked(PROXY_IS_STOPPED), "{:?}", api.writes());
    assert!(api.body(STATUS).to_string().contains("WallsMissing"));
}

#[tokio::test]
async fn a_breach_that_was_mended_begins_anew() {
    let scene = Scene::running();
    let api = scene.api(takes_all()).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    ctx.breaches.exhaust(UID);
    reconcile(scene.sandbox.into(), ctx.clone()).await.unwrap();
    assert!(ctx.breaches.left(UID) > fixtures::PATIENCE / 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_agent_is_stopped_while_the_api_server_still_thinks_about_its_wall() {
    let stopped: &'static (Mutex<bool>, Condvar) = Box::leak(Box::default());
    let says: Says = Box::new(move |asked: &Asked| {
        let (is_stopped, told) = stopped;
        match asked.line.as_str() {
            AGENT_IS_STOPPED => {
                *is_stopped.lock().unwrap() = true;
                told.notify_all();
                None
            }
            // The answer comes when the agent was stopped, or else is the one that a test without a stop would see.
            WALL_IS_MADE => {
                let limit = std::time::Duration::from_secs(10);
                let waited =
                    told.wait_timeout_while(is_stopped.lock().unwrap(), limit, |done| !*done).unwrap();
                waited.1.timed_out().then(quota)
            }
            _ => None,
        }
    });
    let scene = wallless();
    let api = scene.api(says).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    ctx.breaches.exhaust(UID);
    reconcile(scene.sandbox.into(), ctx).await.unwrap();
    let told = api.body(STATUS).to_string();
    assert!(api.was_asked(AGENT_IS_STOPPED) && !told.contains("Refused"), "it was stopped too late: {told}");
}

#[tokio::test]
async fn o_t7_a_widened_agent_is_stopped_though_its_proxy_cannot_be_made() {
    let without_proxy = || Scene::running().without(ChildKind::Pod, "fix-login-proxy");
    let after =
        without_proxy().beside(opens_everything("let-all-out")).pass(refuses("POST pods", quota())).await;
    let writes = after.api.writes();
    let stopped = writes.iter().position(|line| line == AGENT_IS_STOPPED);
    let tried = writes.iter().position(|line| line == "POST pods");
    assert!(stopped.is_some() && stopped < tried, "{writes:?}");
    let after = without_proxy().pass(refuses("POST pods", quota())).await;
    assert!(after.api.was_asked("POST pods") && !after.api.was_asked(AGENT_IS_STOPPED));
}

#[tokio::test]
async fn o_t7_a_widened_agent_is_stopped_though_a_wall_fails_in_passing() {
    let scene = || Scene::running().without(ChildKind::NetworkPolicy, "fix-login-proxy");
    let after = scene().beside(opens_everything("let-all-out")).pass(refuses(WALL_IS_MADE, busy())).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    let after = scene().pass(refuses(WALL_IS_MADE, busy())).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
}

#[tokio::test]
async fn o_t7_a_widened_agent_that_cannot_be_stopped_has_its_way_shut() {
    let forbidden = || refusal(403, "Forbidden", "pods \"fix-login-agent\" is forbidden");
    let running = || Scene::running().service(way::open);
    let after =
        running().beside(opens_everything("let-all-out")).pass(refuses(AGENT_IS_STOPPED, forbidden())).await;
    assert_eq!(selected(&after), ["none"]);
    let after = running().pass(refuses(AGENT_IS_STOPPED, forbidden())).await;
    assert_eq!(selected(&after), [""; 0], "the control: {:?}", after.api.writes());
}

/// The running sandbox, its agent without labels, and without this child.
fn bare_agent_without(kind: ChildKind, name: &str) -> Scene {
    Scene::running().agent_changed(|pod| pod.metadata.labels = None).without(kind, name)
}

fn each_failure() -> [(ChildKind, &'static str, &'static str); 3] {
    [
        (ChildKind::Pod, "fix-login-proxy", "POST pods"),
        (ChildKind::ConfigMap, "fix-login-policy", "POST configmaps"),
        (ChildKind::NetworkPolicy, "fix-login-proxy", WALL_IS_MADE),
    ]
}

#[tokio::test]
async fn o_t6_an_agent_without_labels_gets_them_back_whatever_else_fails() {
    for (kind, name, fails) in each_failure() {
        let after = bare_agent_without(kind, name).pass(refuses(fails, busy())).await;
        let body = after.api.body(AGENT_IS_NAMED);
        assert_eq!(body["metadata"]["labels"][LABEL_SANDBOX_UID], UID, "{fails}");
        assert_eq!(body["metadata"]["uid"], "uid-of-fix-login-agent", "the same pod or none");
        assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{fails}: {:?}", after.api.writes());
    }
}

#[tokio::test]
async fn o_t6_an_agent_that_cannot_get_its_labels_back_is_stopped_whatever_else_fails() {
    for (kind, name, fails) in each_failure() {
        let says: Says = Box::new(move |asked| match asked.line.as_str() {
            line if line == fails => Some(busy()),
            AGENT_IS_NAMED => Some(refusal(403, "Forbidden", "a webhook denied request")),
            _ => None,
        });
        let after = bare_agent_without(kind, name).pass(says).await;
        assert!(after.api.was_asked(AGENT_IS_STOPPED), "{fails}: {:?}", after.api.writes());
        assert_eq!(grace(&after.api), 1);
    }
}

#[tokio::test]
async fn o_t6_a_pod_without_labels_and_owner_is_known_by_the_keys_that_it_mounts() {
    let after = Scene::running().agent_changed(strip).pass(takes_all()).await;
    let body = after.api.body(AGENT_IS_NAMED);
    assert_eq!(body["metadata"]["ownerReferences"][0]["uid"], UID);
    assert_eq!(body["metadata"]["labels"][LABEL_MANAGED_BY], "agentsandbox");
    after.says("Ready", "True", "Running");

    let stranger = Scene::running().agent_changed(|pod| {
        strip(pod);
        pod.spec.as_mut().unwrap().volumes = None;
    });
    let after = stranger.pass(takes_all()).await;
    assert!(!after.api.was_asked(AGENT_IS_NAMED) && !after.api.was_asked(AGENT_IS_STOPPED));
}

#[tokio::test]
async fn o_t9_a_pod_of_our_name_with_our_label_and_other_volumes_is_not_adopted() {
    let forged = Scene::running().agent_changed(|pod| {
        let labels = [(LABEL_SANDBOX_UID.to_owned(), UID.to_owned())];
        strip(pod);
        pod.metadata.labels = Some(labels.into());
        pod.spec.as_mut().unwrap().volumes = None;
    });
    let after = forged.pass(takes_all()).await;
    assert!(!after.api.was_asked(AGENT_IS_NAMED), "{:?}", after.api.writes());
}

/// The running sandbox, no longer accepted.
fn rejected(mut scene: Scene) -> Scene {
    scene.sandbox.spec.class_name = Some("none-such".to_owned());
    scene
}

#[tokio::test]
async fn a_sandbox_that_is_not_accepted_has_its_pods_stopped_whatever_was_done_to_their_labels() {
    let bare: fn(&mut Pod) = |pod| pod.metadata.labels = None;
    for change in [bare, strip] {
        let after = rejected(Scene::running().agent_changed(change)).pass(takes_all()).await;
        assert!(are_both_stopped(&after.api), "{:?}", after.api.writes());
        assert_eq!(grace(&after.api), 1, "it is outside its walls");
        after.says("Accepted", "False", "ClassNotFound");
    }
    let after = rejected(Scene::running()).pass(takes_all()).await;
    assert!(are_both_stopped(&after.api), "{:?}", after.api.writes());
    assert_eq!(grace(&after.api), Value::Null, "behind its walls it may end calmly");
}

/// The running sandbox, being deleted.
fn ending(mut scene: Scene) -> Scene {
    scene.sandbox.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    scene
}

#[tokio::test]
async fn an_agent_that_is_to_end_is_hurried_where_its_walls_do_not_stand() {
    let open = || Scene::running().beside(opens_everything("let-all-out"));
    for scene in [ending(wallless()), rejected(wallless()), ending(open()), rejected(open())] {
        let after = scene.pass(takes_all()).await;
        assert_eq!(grace(&after.api), 1);
    }
    let on_its_way = ending(wallless()).agent_changed(|pod| {
        pod.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
        pod.metadata.deletion_grace_period_seconds = Some(10);
    });
    assert!(on_its_way.pass(takes_all()).await.api.was_asked(AGENT_IS_STOPPED));

    let after = ending(Scene::running()).pass(takes_all()).await;
    assert_eq!(grace(&after.api), Value::Null, "behind its walls it may end calmly");
}

#[tokio::test]
async fn what_a_lost_watch_event_would_hide_is_looked_at_again() {
    let scene = Scene::running().without(ChildKind::Service, "fix-login-proxy");
    let service = Scene::running().children.into_iter().find(|c| c.kind() == ChildKind::Service).unwrap();
    let api = scene.api(takes_all()).await;
    let ctx = fixtures::ctx(api.client.clone(), &scene.sandbox, &scene.children, &[]);
    ctx.recent.wrote("team", service);
    let action = reconcile(scene.sandbox.into(), ctx).await.unwrap();
    assert_eq!(action, Action::requeue(fixtures::PATIENCE));
    assert!(!api.was_asked("POST services"));
    let settled: Result<Action, ReconcileError> = Scene::running().pass(takes_all()).await.result;
    assert_eq!(settled.unwrap(), Action::await_change());
}

#[test]
fn a_breach_is_borne_for_two_seconds() {
    assert_eq!(Breaches::default().patience, Duration::from_secs(2));
}

//! Each test says which pods the API server shows, and sees what one step of a teardown does.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::fixtures::api::{Api, Asked, refusal};
use crate::fixtures::{self, UID, agent_pod, identity, observed, sandbox};

/// A sandbox whose spec is all that is to be known.
fn written(own: &AgentSandbox) -> (&AgentSandbox, Fate) {
    (own, Fate::Said(fate::of(&own.spec).unwrap_or_default()))
}

/// A pod in a list by label.
fn listed(name: &str, component: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("uid-of-{name}"), "labels": {
        "agentsandbox.dev/sandbox-uid": UID, "agentsandbox.dev/component": component,
    }}})
}

fn ending(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod
}

/// One step while the API server lists these pods, and finds `named` by name.
async fn step(pods: Vec<Value>, named: Vec<(&str, Value)>) -> (Result<Teardown, ApplyError>, Api) {
    let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": pods});
    let own = sandbox(|s| s.metadata.finalizers = Some(vec![FINALIZER.to_owned()]));
    let mut found: Vec<(String, Value)> =
        named.into_iter().map(|(name, pod)| (format!("pods/{name}"), pod)).collect();
    found.push(("agentsandboxes/fix-login".to_owned(), serde_json::to_value(&own).unwrap()));
    let says = move |asked: &Asked| (asked.line == "GET pods").then(|| (200, list.clone()));
    let api = Api::start(found, Box::new(says)).await;
    let ctx = fixtures::ctx(api.client.clone(), &own, &[], &[]);
    let result =
        teardown(&ctx.writer, &identity(), written(&own), &observed(fixtures::boundary(), Vec::new())).await;
    (result, api)
}

fn waiting(component: Component, pod: &str) -> Teardown {
    Teardown::Waiting(component, pod.to_owned())
}

fn deleted(api: &Api) -> Vec<String> {
    api.writes().into_iter().filter_map(|line| line.strip_prefix("DELETE ").map(str::to_owned)).collect()
}

#[tokio::test]
async fn walls_go_and_the_finalizer_last_when_no_pod_is_left() {
    let (result, api) = step(Vec::new(), Vec::new()).await;
    assert!(matches!(result.unwrap(), Teardown::Done(_)));
    assert_eq!(deleted(&api).len(), 6, "{:?}", api.writes());
    let position = |line: &str| api.writes().iter().position(|one| one == line);
    for wall in ["networkpolicies/fix-login-agent", "networkpolicies/fix-login-proxy"] {
        let released = position(&format!("PATCH {wall}"));
        assert!(released.is_some() && released < position(&format!("DELETE {wall}")), "{:?}", api.writes());
    }
    assert_eq!(api.writes().last().unwrap(), "PATCH agentsandboxes/fix-login");
    let list = api.asked().into_iter().find(|asked| asked.line == "GET pods").unwrap();
    assert!(list.query.contains(&format!("sandbox-uid%3D{UID}")), "{}", list.query);
}

#[tokio::test]
async fn the_agent_goes_before_the_proxy_and_no_wall_goes_with_either() {
    let (result, api) =
        step(vec![listed("fix-login-proxy", "proxy"), listed("fix-login-agent", "agent")], Vec::new()).await;
    assert_eq!(result.unwrap(), waiting(Component::Agent, "fix-login-agent"));
    assert_eq!(deleted(&api), ["pods/fix-login-agent"]);
    let (result, api) = step(vec![listed("fix-login-proxy", "proxy")], Vec::new()).await;
    assert_eq!(result.unwrap(), waiting(Component::Proxy, "fix-login-proxy"));
    assert_eq!(deleted(&api), ["pods/fix-login-proxy"]);
}

#[tokio::test]
async fn a_pod_that_is_on_its_way_out_keeps_the_walls_up() {
    let (result, api) = step(vec![ending(listed("fix-login-agent", "agent"))], Vec::new()).await;
    assert_eq!(result.unwrap(), waiting(Component::Agent, "fix-login-agent"));
    assert_eq!(api.writes(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_without_an_owner_is_found_by_its_label_as_after_a_deletion_that_orphans() {
    let (result, api) = step(vec![listed("fix-login-agent", "agent")], Vec::new()).await;
    assert_eq!(result.unwrap(), waiting(Component::Agent, "fix-login-agent"));
    assert_eq!(api.body("DELETE pods/fix-login-agent")["preconditions"]["uid"], "uid-of-fix-login-agent");
}

#[tokio::test]
async fn an_agent_whose_labels_were_taken_off_is_found_by_its_owner() {
    let mut bare = agent_pod();
    bare.metadata.labels = None;
    let bare = serde_json::to_value(bare).unwrap();
    let (result, api) = step(vec![listed("fix-login-proxy", "proxy")], vec![("fix-login-agent", bare)]).await;
    assert_eq!(result.unwrap(), waiting(Component::Agent, "fix-login-agent"));
    assert_eq!(deleted(&api), ["pods/fix-login-agent"]);
}

#[tokio::test]
async fn a_pod_that_says_not_which_half_it_is_goes_with_the_agent() {
    let (result, api) = step(vec![listed("x", "proxy"), listed("y", "something")], Vec::new()).await;
    assert_eq!(result.unwrap(), waiting(Component::Agent, "y"));
    assert_eq!(deleted(&api), ["pods/y"]);
}

#[tokio::test]
async fn o_r34_a_strangers_pod_of_our_name_is_left_alone() {
    let stranger = json!({"metadata": {"name": "fix-login-agent", "uid": "another"}});
    let (result, api) = step(Vec::new(), vec![("fix-login-agent", stranger)]).await;
    assert!(matches!(result.unwrap(), Teardown::Done(_)));
    assert!(!api.was_asked("DELETE pods/fix-login-agent"));
}

#[tokio::test]
async fn walls_stay_when_nobody_can_say_whether_a_pod_is_left() {
    for line in ["GET pods", "GET pods/fix-login-agent"] {
        let own = sandbox(|s| s.metadata.finalizers = Some(vec![FINALIZER.to_owned()]));
        let says =
            move |asked: &Asked| (asked.line == line).then(|| refusal(500, "InternalError", "etcd is away"));
        let api = Api::start(Vec::new(), Box::new(says)).await;
        let ctx = fixtures::ctx(api.client.clone(), &own, &[], &[]);
        let result =
            teardown(&ctx.writer, &identity(), written(&own), &observed(fixtures::boundary(), Vec::new()))
                .await;
        assert!(matches!(result, Err(ApplyError::Api { .. })), "{line}");
        assert_eq!(api.writes(), Vec::<String>::new(), "{line}");
    }
}

#[tokio::test]
async fn an_orphaned_wall_goes_too_and_a_strangers_does_not() {
    let own = Arc::new(sandbox(|s| s.metadata.finalizers = Some(vec![FINALIZER.to_owned()])));
    let mut children = fixtures::boundary();
    for child in &mut children {
        if let crate::controller::desired::Child::NetworkPolicy(policy) = child {
            policy.metadata.owner_references = None;
            if policy.metadata.name.as_deref() == Some("fix-login-proxy") {
                policy.metadata.labels = None;
            }
        }
    }
    let found = vec![("agentsandboxes/fix-login".to_owned(), serde_json::to_value(own.as_ref()).unwrap())];
    let api = Api::start(found, Box::new(|_| None)).await;
    let ctx = fixtures::ctx(api.client.clone(), &own, &[], &[]);
    teardown(&ctx.writer, &identity(), written(&own), &observed(children, Vec::new())).await.unwrap();
    assert!(api.was_asked("DELETE networkpolicies/fix-login-agent"), "{:?}", api.writes());
    assert!(!api.was_asked("DELETE networkpolicies/fix-login-proxy"), "{:?}", api.writes());
}

#[tokio::test]
async fn a_wall_that_somebody_deleted_is_released_only_when_no_pod_is_left() {
    let own = sandbox(|s| s.metadata.finalizers = Some(vec![FINALIZER.to_owned()]));
    let mut children = fixtures::boundary();
    for child in &mut children {
        if let Child::NetworkPolicy(policy) = child {
            policy.metadata.deletion_timestamp = Some(fixtures::from(json!("2026-01-01T00:00:00Z")));
        }
    }
    let released = "PATCH networkpolicies/fix-login-agent";
    for (pods, wanted) in [(json!([listed("fix-login-agent", "agent")]), false), (json!([]), true)] {
        let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": pods});
        let says = move |asked: &Asked| (asked.line == "GET pods").then(|| (200, list.clone()));
        let found = vec![("agentsandboxes/fix-login".to_owned(), serde_json::to_value(&own).unwrap())];
        let api = Api::start(found, Box::new(says)).await;
        let ctx = fixtures::ctx(api.client.clone(), &own, &[], &[]);
        teardown(&ctx.writer, &identity(), written(&own), &observed(children.clone(), Vec::new()))
            .await
            .unwrap();
        assert_eq!(api.was_asked(released), wanted, "{:?}", api.writes());
        assert!(!api.was_asked("DELETE networkpolicies/fix-login-agent"), "it is deleted already");
    }
}

#[tokio::test]
async fn a_sandbox_that_went_with_an_earlier_patch_is_done() {
    let own = sandbox(|s| s.metadata.finalizers = Some(vec![FINALIZER.to_owned()]));
    let says = |asked: &Asked| asked.line.starts_with("PATCH ").then(|| refusal(404, "NotFound", "gone"));
    let api = Api::start(Vec::new(), Box::new(says)).await;
    let ctx = fixtures::ctx(api.client.clone(), &own, &[], &[]);
    let result = teardown(&ctx.writer, &identity(), written(&own), &Observed::default()).await;
    assert!(matches!(result.unwrap(), Teardown::Done(_)));
}

/// What is written to a claim, changed by `change`, while its sandbox is deleted whose workspace says this; and whether it is said to stay.
async fn written_of_claim(
    workspace: &Value,
    pods: Vec<Value>,
    change: impl FnOnce(&mut Value),
) -> (Vec<String>, bool) {
    let lasting = json!({"access": "Persistent", "persistent": {"size": "1Gi", "whenDeleted": "Delete"}});
    let made = fixtures::accepted(|s| s.spec.workspace = Some(fixtures::from(lasting)));
    let claim = crate::controller::desired::claim::claim(&made).unwrap();
    let mut claim = fixtures::live(Child::PersistentVolumeClaim(Box::new(claim))).value();
    change(&mut claim);
    let own = sandbox(|s| {
        s.spec.workspace = Some(fixtures::from(workspace.clone()));
        s.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    });
    let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": pods});
    let says = move |asked: &Asked| (asked.line == "GET pods").then(|| (200, list.clone()));
    let found = vec![
        ("agentsandboxes/fix-login".to_owned(), serde_json::to_value(&own).unwrap()),
        ("persistentvolumeclaims/fix-login-workspace".to_owned(), claim.clone()),
    ];
    let api = Api::start(found, Box::new(says)).await;
    let ctx = fixtures::ctx(api.client.clone(), &own, &[], &[]);
    // No watch has shown it yet.
    let shown = observed(fixtures::boundary(), Vec::new());
    let when = match teardown(&ctx.writer, &identity(), written(&own), &shown).await.unwrap() {
        Teardown::Done(when) => when,
        Teardown::Waiting(..) | Teardown::Unlisted => WhenDeleted::Delete,
    };
    let shown = Child::PersistentVolumeClaim(Box::new(fixtures::from(claim)));
    let is_told = retained(when, &identity(), &observed(vec![shown], Vec::new())).is_some();
    let of_claim = |line: &String| line.contains("persistentvolumeclaims");
    (api.writes().into_iter().filter(of_claim).collect(), is_told)
}

fn lasting(when_deleted: &str) -> Value {
    json!({"access": "Persistent", "persistent": {"size": "1Gi", "whenDeleted": when_deleted}})
}

#[tokio::test]
async fn a_claim_goes_only_where_the_spec_says_so_by_then_and_after_every_pod() {
    const DELETED: &str = "DELETE persistentvolumeclaims/fix-login-workspace";
    let nothing: (Vec<String>, bool) = (Vec::new(), false);
    let goes = written_of_claim(&lasting("Delete"), Vec::new(), |_| ()).await;
    assert_eq!(goes, (vec![DELETED.to_owned()], false));
    let behind = written_of_claim(&lasting("Delete"), vec![listed("fix-login-proxy", "proxy")], |_| ()).await;
    assert_eq!(behind, nothing, "a pod is left");
    for kept in [
        lasting("Retain"),
        json!({"access": "Persistent", "persistent": {"size": "1Gi"}}),
        json!({"access": "ReadWrite"}),
    ] {
        let stays = written_of_claim(&kept, Vec::new(), |_| ()).await;
        assert_eq!(stays, (Vec::new(), true), "{kept}");
    }
}

#[tokio::test]
async fn a_claim_that_goes_already_is_not_said_to_stay_and_anothers_is_left_alone() {
    let nothing: (Vec<String>, bool) = (Vec::new(), false);
    let going = |claim: &mut Value| claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let anothers =
        |claim: &mut Value| claim["metadata"]["labels"]["agentsandbox.dev/sandbox-uid"] = json!("x");
    for when in ["Delete", "Retain"] {
        assert_eq!(written_of_claim(&lasting(when), Vec::new(), going).await, nothing, "{when}");
        assert_eq!(written_of_claim(&lasting(when), Vec::new(), anothers).await, nothing, "{when}");
    }
}

#[tokio::test]
async fn a_sandbox_whose_claim_nobody_can_look_for_keeps_its_finalizer() {
    let own = sandbox(|s| {
        s.spec.workspace = Some(fixtures::from(lasting("Delete")));
        s.metadata.finalizers = Some(vec![FINALIZER.to_owned()]);
    });
    let says = |asked: &Asked| {
        let is_claim = asked.line == "GET persistentvolumeclaims/fix-login-workspace";
        is_claim.then(|| refusal(500, "InternalError", "etcd is away"))
    };
    let api = Api::start(Vec::new(), Box::new(says)).await;
    let ctx = fixtures::ctx(api.client.clone(), &own, &[], &[]);
    let result =
        teardown(&ctx.writer, &identity(), written(&own), &observed(fixtures::boundary(), Vec::new())).await;
    assert!(matches!(result, Err(ApplyError::Api { .. })), "{result:?}");
    assert!(!api.was_asked("PATCH agentsandboxes/fix-login"), "{:?}", api.writes());
}

#[tokio::test]
async fn o_r34_a_wall_that_names_another_sandbox_or_has_another_controller_is_neither_released_nor_deleted() {
    type Change = fn(&mut Value);
    const UID_LABEL: &str = "agentsandbox.dev/sandbox-uid";
    let changes: [(Change, bool); 4] = [
        (|_| (), true),
        (|wall| wall["metadata"]["labels"] = Value::Null, false),
        (|wall| wall["metadata"]["labels"][UID_LABEL] = json!("another"), false),
        (
            |wall| {
                wall["metadata"]["ownerReferences"] = json!([{
                    "apiVersion": "acme.test/v1", "kind": "Fence", "name": "x", "uid": "y", "controller": true,
                }]);
            },
            false,
        ),
    ];
    let own = sandbox(|s| s.metadata.finalizers = Some(vec![FINALIZER.to_owned()]));
    for (change, goes) in changes {
        let orphaned = |child: Child| {
            let is_proxys = child.kind() == ChildKind::NetworkPolicy && child.name() == "fix-login-proxy";
            if !is_proxys {
                return child;
            }
            let mut wall = child.value();
            wall["metadata"]["ownerReferences"] = Value::Null;
            change(&mut wall);
            Child::NetworkPolicy(fixtures::from(wall))
        };
        let children = fixtures::boundary().into_iter().map(orphaned).collect();
        let found = vec![("agentsandboxes/fix-login".to_owned(), serde_json::to_value(&own).unwrap())];
        let api = Api::start(found, Box::new(|_| None)).await;
        let ctx = fixtures::ctx(api.client.clone(), &own, &[], &[]);
        teardown(&ctx.writer, &identity(), written(&own), &observed(children, Vec::new())).await.unwrap();
        for verb in ["PATCH", "DELETE"] {
            let is_asked = api.was_asked(&format!("{verb} networkpolicies/fix-login-proxy"));
            assert_eq!(is_asked, goes, "{verb}: {:?}", api.writes());
        }
    }
}

#[tokio::test]
async fn the_finalizers_of_others_stay_on_a_sandbox_and_whoever_wrote_in_between_is_not_passed_over() {
    const LET_GO: &str = "PATCH agentsandboxes/fix-login";
    let own = sandbox(|s| {
        s.metadata.finalizers = Some(vec!["acme.test/x".to_owned(), FINALIZER.to_owned()]);
    });
    for (code, reason, is_done) in [(404, "NotFound", true), (409, "Conflict", false)] {
        let says = move |asked: &Asked| (asked.line == LET_GO).then(|| refusal(code, reason, "no"));
        let api = Api::start(Vec::new(), Box::new(says)).await;
        let ctx = fixtures::ctx(api.client.clone(), &own, &[], &[]);
        let result = teardown(&ctx.writer, &identity(), written(&own), &Observed::default()).await;
        assert_eq!(result.is_ok(), is_done, "{result:?}");
        let wanted = json!({"resourceVersion": "100", "finalizers": ["acme.test/x"]});
        assert_eq!(api.body(LET_GO)["metadata"], wanted);
    }
}

//! A persistent workspace whose claim somebody gets at while its agent runs.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use agentsandbox_crds::names::LABEL_SANDBOX;

use super::*;
use crate::controller::desired::{agent_pod, claim};
use crate::fixtures::{platform, ready, reported};

const CLAIM: &str = "fix-login-workspace";
const CLAIM_IS_MADE: &str = "POST persistentvolumeclaims";

fn workspace() -> Value {
    json!({"access": "Persistent", "persistent": {"size": "1Gi"}})
}

/// A sandbox whose agent works on its claim, after `change` was done to that.
fn lasting(change: impl FnOnce(&mut Value)) -> Scene {
    let with = |s: &mut AgentSandbox| s.spec.workspace = Some(from(workspace()));
    let accepted = fixtures::accepted(with);
    let own = claim::claim(&accepted).unwrap();
    let mut own: Value = fixtures::live(Child::PersistentVolumeClaim(Box::new(own))).value();
    own["status"] = json!({"phase": "Bound"});
    let before: PersistentVolumeClaim = from(own.clone());
    change(&mut own);
    let pod = agent_pod::pod(&accepted, &platform(), &Sealed::for_tests().on(before));
    let mut pod = reported(ready(pod, agent_pod::AGENT, "10.244.0.9"), &fixtures::report(|_| ()));
    let said = json!({
        "version": 1, "verdict": "Unpacked", "message": "It begins empty.",
        "files": 0, "bytes": 0, "leftOut": 0, "withTokens": 0, "durationMillis": 7,
    });
    let steps = pod.status.as_mut().unwrap().init_container_statuses.as_mut().unwrap();
    steps.push(from(json!({
        "name": "workspace", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
        "state": {"terminated": {"exitCode": 0, "message": said.to_string()}},
    })));
    let mut scene = Scene::running().without(ChildKind::Pod, "fix-login-agent");
    with(&mut scene.sandbox);
    scene.children.push(Child::Pod(Box::new(pod)));
    scene.children.push(Child::PersistentVolumeClaim(Box::new(from(own))));
    scene
}

fn deleted(claim: &mut Value) {
    claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    claim["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]);
}

#[tokio::test]
async fn a_pass_over_an_agent_that_works_on_its_claim_writes_nothing_but_its_status() {
    let after = lasting(|_| ()).pass(takes_all()).await;
    assert_eq!(after.api.writes(), [STATUS]);
    after.says("WorkspaceReady", "True", "Unpacked");
    after.says("Ready", "True", "Running");
}

#[tokio::test]
async fn an_agent_whose_claim_is_deleted_works_on_and_is_told_of_it() {
    let after = lasting(deleted).pass(takes_all()).await;
    assert_eq!(after.api.writes(), [STATUS]);
    after.says("WorkspaceReady", "True", "ClaimEnding");
    after.says("Ready", "True", "Running");
    assert!(after.api.body(STATUS).to_string().contains(CLAIM));
}

#[tokio::test]
async fn an_agent_whose_claim_is_deleted_is_looked_after_as_before() {
    let _open = TcpListener::bind("127.0.79.1:3128").await.unwrap();
    for (address, is_open) in [("127.0.79.1", true), ("127.0.79.2", false)] {
        let mut scene = lasting(deleted).proxy(|_| fixtures::proxy_pod(address));
        scene.probe = WallProbe::Connect;
        let after = scene.pass(takes_all()).await;
        assert_eq!(after.api.was_asked(AGENT_IS_STOPPED), is_open, "{:?}", after.api.writes());
    }
    let mut edited = lasting(deleted);
    edited.sandbox.spec.agent.image = "ghcr.io/acme/agent:2.2".to_owned();
    let after = edited.pass(takes_all()).await;
    assert!(after.api.was_asked(AGENT_IS_STOPPED), "another image is another pod: {:?}", after.api.writes());
}

#[tokio::test]
async fn a_claim_that_ends_without_a_pod_is_awaited_and_none_is_made_meanwhile() {
    let after = lasting(deleted).without(ChildKind::Pod, "fix-login-agent").pass(takes_all()).await;
    assert!(!after.api.was_asked("POST pods") && !after.api.was_asked(CLAIM_IS_MADE));
    after.says("Ready", "False", "Replacing");
    let after = lasting(|_| ())
        .without(ChildKind::Pod, "fix-login-agent")
        .without(ChildKind::PersistentVolumeClaim, CLAIM)
        .pass(takes_all())
        .await;
    assert!(after.api.was_asked("POST pods") && after.api.was_asked(CLAIM_IS_MADE), "the control");
}

#[tokio::test]
async fn a_suspended_sandbox_makes_and_awaits_no_claim_and_keeps_the_one_it_has() {
    let off = |mut scene: Scene| {
        scene.sandbox.spec.lifecycle = Some(from(json!({"state": "Suspended"})));
        scene.without(ChildKind::Pod, "fix-login-agent").without(ChildKind::Pod, "fix-login-proxy")
    };
    let none = off(lasting(|_| ())).without(ChildKind::PersistentVolumeClaim, CLAIM);
    for scene in [none, off(lasting(deleted)), off(lasting(|_| ()))] {
        let after = scene.pass(takes_all()).await;
        assert_eq!(after.api.writes(), [SERVICE_IS_WRITTEN, STATUS], "its way is shut whatever its claim is");
        after.says("Ready", "True", "Suspended");
    }
    let unlabelled = |claim: &mut Value| claim["metadata"]["labels"][LABEL_SANDBOX] = json!("x");
    let after = off(lasting(unlabelled)).pass(takes_all()).await;
    let put_right = after.api.was_asked("PATCH persistentvolumeclaims/fix-login-workspace");
    assert!(put_right, "the control: {:?}", after.api.writes());
}

/// What a pass comes to that finds this claim, which no watch shows, under the name.
fn taken(stranger: Value) -> Says {
    Box::new(move |asked| match asked.line.as_str() {
        CLAIM_IS_MADE => Some(refusal(409, "AlreadyExists", "it exists already")),
        "GET persistentvolumeclaims/fix-login-workspace" => Some((200, stranger.clone())),
        _ => None,
    })
}

#[tokio::test]
async fn an_agent_whose_claim_is_a_strangers_by_now_is_stopped_and_the_claim_is_left_alone() {
    let anothers = |claim: &mut Value| {
        claim["metadata"]["uid"] = json!("uid-of-theirs");
        claim["metadata"]["labels"][LABEL_SANDBOX_UID] = json!("another");
    };
    let unlabelled = json!({"metadata": {"name": CLAIM, "namespace": "team", "uid": "uid-of-theirs"}});
    let shown = lasting(anothers).pass(takes_all()).await;
    let hidden =
        lasting(|_| ()).without(ChildKind::PersistentVolumeClaim, CLAIM).pass(taken(unlabelled)).await;
    for after in [shown, hidden] {
        let body = after.api.body(AGENT_IS_STOPPED);
        assert_eq!(body["gracePeriodSeconds"], 1, "it may not go on with what is not its own");
        let touched =
            |line: &String| line.contains("persistentvolumeclaims/") || line.contains("fix-login-proxy");
        assert!(!after.api.writes().iter().any(touched), "{:?}", after.api.writes());
        after.says("Ready", "False", "NameConflict");
    }
}

#[tokio::test]
async fn an_agent_on_a_strangers_claim_that_could_not_be_stopped_is_tried_again() {
    let scene = lasting(|claim| claim["metadata"]["labels"] = json!(null));
    let after = scene.pass(refuses(AGENT_IS_STOPPED, refusal(500, "InternalError", "etcd is away"))).await;
    assert!(matches!(after.result, Err(ReconcileError::Apply(_))), "{:?}", after.result);
}

#[tokio::test]
async fn a_claim_that_cannot_be_made_stops_nobody() {
    let scene = lasting(|_| ()).without(ChildKind::PersistentVolumeClaim, CLAIM);
    let quota = refusal(403, "Forbidden", "persistentvolumeclaims is forbidden: exceeded quota");
    let after = scene.pass(refuses(CLAIM_IS_MADE, quota)).await;
    assert!(!after.api.was_asked(AGENT_IS_STOPPED), "{:?}", after.api.writes());
    after.says("Ready", "False", "Refused");
}

#[tokio::test]
async fn an_agent_on_a_claim_beyond_its_class_is_stopped_and_told_what_to_do() {
    let sized = |size: &'static str| {
        move |claim: &mut Value| claim["spec"]["resources"]["requests"]["storage"] = json!(size)
    };
    let after = lasting(sized("11Gi")).pass(takes_all()).await;
    assert!(!after.api.writes().iter().any(|line| line.contains("persistentvolumeclaims")));
    after.says("Accepted", "False", "OutsideClass");
    let after = lasting(sized("10Gi")).pass(takes_all()).await;
    after.says("Ready", "True", "Running");
    assert!(after.api.body(STATUS).to_string().contains("a volume never shrinks"));
}

/// A sandbox whose claim is to grow, and whose larger sizes are answered so.
fn growing(refused: (u16, Value)) -> (Scene, Says) {
    let mut scene = lasting(|_| ());
    scene.sandbox.spec.workspace = Some(from(json!({"access": "Persistent", "persistent": {"size": "2Gi"}})));
    let own = scene.children.iter().find(|child| child.kind() == ChildKind::PersistentVolumeClaim);
    let own = own.unwrap().value();
    let says: Says = Box::new(move |asked| {
        let is_patch = asked.line == "PATCH persistentvolumeclaims/fix-login-workspace";
        let grows = !asked.body["spec"].is_null();
        is_patch.then(|| if grows { refused.clone() } else { (200, own.clone()) })
    });
    (scene, says)
}

#[tokio::test]
async fn o_r6_a_claim_that_is_refused_to_grow_is_asked_once_and_then_left() {
    let message = "only dynamically provisioned pvc can be resized and the storageclass must support resize";
    let (scene, says) = growing(refusal(403, "Forbidden", message));
    let after = scene.passes(4, says).await;
    let patches = after.api.writes().into_iter().filter(|line| line.contains("persistentvolumeclaims"));
    assert_eq!(patches.count(), 2, "once with the size and once without: {:?}", after.api.writes());
    assert!(after.result.is_ok(), "it keeps nobody from working: {:?}", after.result);
}

#[tokio::test]
async fn a_permission_that_is_missing_is_no_size_that_is_refused() {
    let message = "User \"operator\" cannot patch resource \"persistentvolumeclaims\"";
    let (scene, says) = growing(refusal(403, "Forbidden", message));
    let after = scene.pass(says).await;
    after.says("Ready", "False", "Forbidden");
    assert!(after.result.is_err(), "{:?}", after.result);
}

//! What goes with each request: who makes it, whether it still may, which object it means, and how its answer is read.

use agentsandbox_crds::names::WALL_FINALIZER;
use kube::core::Status;

use super::*;
use crate::controller::Ctx;
use crate::controller::desired::Component;
use crate::controller::plan::BoundaryPlan;
use crate::controller::tests::{AGENT_IS_STOPPED, Scene, takes_all};
use crate::fixtures::api::{Api as Server, Asked, Says, refusal};
use crate::fixtures::{self, agent_pod, from, identity, proxy_pod, sandbox};

mod edges;

/// An API server where these pods are found by their names, and the hand that writes to it.
async fn server(pods: Vec<Pod>, says: Says) -> (Server, Arc<Ctx>) {
    let found =
        pods.into_iter().map(|pod| (format!("pods/{}", pod.name_any()), serde_json::to_value(pod).unwrap()));
    let api = Server::start(found.collect(), says).await;
    let ctx = fixtures::ctx(api.client.clone(), &sandbox(|_| ()), &[], &[]);
    (api, ctx)
}

/// Answers requests with this line by a refusal.
fn refuses(line: &'static str, code: u16, reason: &'static str) -> Says {
    Box::new(move |asked: &Asked| (asked.line == line).then(|| refusal(code, reason, "no")))
}

fn wall() -> NetworkPolicy {
    let mut children = fixtures::boundary().into_iter();
    children.find_map(|child| if let Child::NetworkPolicy(wall) = child { Some(wall) } else { None }).unwrap()
}

#[tokio::test]
async fn each_creation_and_each_patch_says_who_makes_it() {
    let mut fresh = Scene::running();
    fresh.children.clear();
    let mut unheld = Scene::running();
    unheld.sandbox.metadata.finalizers = None;
    for (scene, least) in [(fresh, 8), (unheld, 1)] {
        let asked = scene.pass(takes_all()).await.api.asked();
        let named = |asked: &&Asked| asked.line.starts_with("POST ") || asked.line.starts_with("PATCH ");
        let writes: Vec<_> =
            asked.iter().filter(named).filter(|asked| !asked.line.contains("events")).collect();
        assert!(writes.len() >= least, "{writes:?}");
        for write in writes {
            assert!(write.query.contains("fieldManager=agentsandbox-operator"), "{write:?}");
        }
    }
}

#[tokio::test]
async fn o_r14_a_hand_whose_tenure_is_over_may_read_and_writes_nothing() {
    let (api, ctx) = server(vec![agent_pod()], takes_all()).await;
    let doomed = Doomed::pod(&agent_pod());
    ctx.writer.delete("team", &doomed).await.unwrap();
    assert!(api.was_asked(AGENT_IS_STOPPED), "the control: it may still write");
    ctx.writer.tenure().end();
    assert!(ctx.writer.live_pod("team", &doomed.name).await.unwrap().is_some());
    assert!(matches!(ctx.writer.delete("team", &doomed).await, Err(ApplyError::NotLeader)));
    assert_eq!(api.writes().len(), 1, "{:?}", api.writes());
}

#[tokio::test]
async fn o_r34_a_pod_that_is_hurried_already_and_a_strangers_are_not_told_to_end() {
    let ending = |grace: i64| {
        let mut pod = agent_pod();
        pod.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        pod
    };
    let mut strangers = agent_pod();
    strangers.metadata = from(json!({"name": "fix-login-agent", "namespace": "team", "uid": "another"}));
    strangers.spec.as_mut().unwrap().volumes = None;
    for (pod, is_stopped) in
        [(agent_pod(), true), (ending(2), true), (ending(1), false), (ending(0), false), (strangers, false)]
    {
        let (api, ctx) = server(vec![pod], takes_all()).await;
        halt(&ctx.writer, &identity(), Component::Agent).await.unwrap();
        assert_eq!(api.was_asked(AGENT_IS_STOPPED), is_stopped, "{:?}", api.asked());
    }
}

#[tokio::test]
async fn o_r34_what_is_gone_already_is_deleted_and_what_cannot_be_is_told() {
    let doomed = Doomed::pod(&agent_pod());
    let (_, ctx) = server(Vec::new(), refuses(AGENT_IS_STOPPED, 404, "NotFound")).await;
    ctx.writer.delete("team", &doomed).await.unwrap();
    let (api, ctx) = server(Vec::new(), refuses(AGENT_IS_STOPPED, 409, "Conflict")).await;
    assert!(matches!(ctx.writer.delete("team", &doomed).await, Err(ApplyError::Api { .. })));
    assert_eq!(api.body(AGENT_IS_STOPPED)["preconditions"]["uid"], doomed.uid.as_str());
}

#[tokio::test]
async fn a_proxy_whose_labels_were_taken_off_is_known_as_the_proxy_by_its_name() {
    let mut bare = proxy_pod("10.244.0.8");
    bare.metadata.labels = None;
    let (_, ctx) = server(vec![bare, agent_pod()], takes_all()).await;
    let pods = ctx.writer.live_pods(&identity()).await.unwrap();
    let known: Vec<_> = pods.iter().map(|pod| (pod.component, pod.doomed.name.as_str())).collect();
    assert_eq!(known, [(Component::Agent, "fix-login-agent"), (Component::Proxy, "fix-login-proxy")]);
}

#[tokio::test]
async fn o_t6_a_wall_that_is_released_loses_our_finalizer_alone() {
    const RELEASED: &str = "PATCH networkpolicies/fix-login-agent";
    let held = |finalizers: &[&str]| {
        let mut wall = wall();
        wall.metadata.finalizers = Some(finalizers.iter().map(ToString::to_string).collect());
        wall
    };
    let (api, ctx) = server(Vec::new(), takes_all()).await;
    ctx.writer.release(&held(&["acme.test/backup"])).await.unwrap();
    assert_eq!(api.writes(), Vec::<String>::new(), "there is nothing of ours to take off");
    ctx.writer.release(&held(&["acme.test/backup", WALL_FINALIZER])).await.unwrap();
    assert_eq!(api.body(RELEASED)["metadata"]["finalizers"], json!(["acme.test/backup"]));
    let (_, ctx) = server(Vec::new(), refuses(RELEASED, 404, "NotFound")).await;
    ctx.writer.release(&held(&[WALL_FINALIZER])).await.unwrap();
    let (_, ctx) = server(Vec::new(), refuses(RELEASED, 409, "Conflict")).await;
    assert!(ctx.writer.release(&held(&[WALL_FINALIZER])).await.is_err(), "it may stand still");
}

#[tokio::test]
async fn keys_that_were_made_in_an_earlier_pass_hold_up_no_proxy_and_keys_that_cannot_be_made_do() {
    for (code, reason, is_made) in
        [(409, "AlreadyExists", true), (409, "Conflict", false), (403, "Forbidden", false)]
    {
        let scene = Scene::running().without(ChildKind::Pod, "fix-login-proxy");
        let after = scene.pass(refuses("POST secrets", code, reason)).await;
        assert!(after.api.was_asked("POST secrets"), "the control: it has none that are known");
        assert_eq!(after.api.was_asked("POST pods"), is_made, "{reason}: {:?}", after.api.writes());
    }
}

#[tokio::test]
async fn a_pod_of_ours_that_is_found_in_place_of_a_new_one_is_given_its_names_and_no_spec() {
    let mut bare = agent_pod();
    bare.metadata.labels = None;
    // One that mounts the keys is found before any creation.
    bare.spec.as_mut().unwrap().volumes = None;
    let bare = serde_json::to_value(bare).unwrap();
    let says: Says = Box::new(move |asked| match asked.line.as_str() {
        "POST pods" => Some(refusal(409, "AlreadyExists", "exists")),
        "GET pods/fix-login-agent" => Some((200, bare.clone())),
        _ => None,
    });
    let after = Scene::running().without(ChildKind::Pod, "fix-login-agent").pass(says).await;
    let body = after.api.body("PATCH pods/fix-login-agent");
    assert_eq!(body["metadata"]["labels"]["agentsandbox.dev/component"], "agent");
    assert_eq!(body["metadata"]["uid"], "uid-of-fix-login-agent");
    assert!(body["spec"].is_null(), "it cannot change: {body}");
}

#[test]
fn only_a_sandbox_that_is_not_found_is_gone() {
    let failed = |what: &str, code: u16, reason: &str| {
        let status: Status =
            from(json!({"status": "Failure", "message": "m", "code": code, "reason": reason}));
        let source = Box::new(kube::Error::Api(Box::new(status)));
        ApplyError::Api { verb: Verb::Patch, what: what.to_owned(), source }
    };
    assert!(failed("AgentSandbox fix-login", 404, "NotFound").is_gone_sandbox());
    assert!(!failed("AgentSandbox fix-login", 409, "Conflict").is_gone_sandbox());
    assert!(!failed("Pod AgentSandbox", 404, "NotFound").is_gone_sandbox());
}

#[tokio::test]
async fn a_sandbox_that_went_meanwhile_is_deleted_and_one_that_changed_is_not() {
    const IT_IS_DELETED: &str = "DELETE agentsandboxes/fix-login";
    let over = sandbox(|_| ());
    let (_, ctx) = server(Vec::new(), refuses(IT_IS_DELETED, 404, "NotFound")).await;
    ctx.writer.delete_sandbox(&over).await.unwrap();
    let (api, ctx) = server(Vec::new(), refuses(IT_IS_DELETED, 409, "Conflict")).await;
    assert!(matches!(ctx.writer.delete_sandbox(&over).await, Err(ApplyError::Api { .. })));
    let named = json!({"uid": fixtures::UID, "resourceVersion": "100"});
    assert_eq!(api.body(IT_IS_DELETED)["preconditions"], named);
}

#[tokio::test]
async fn o_t6_a_wall_that_is_gone_when_it_is_to_be_repaired_is_made_at_once_and_nothing_else_is() {
    const REPAIRS: [&str; 2] = ["PATCH networkpolicies/fix-login-agent", "PATCH configmaps/fix-login-policy"];
    let document = fixtures::boundary().into_iter().find(|child| child.kind() == ChildKind::ConfigMap);
    for (code, reason, is_made) in [(409, "Conflict", true), (403, "Forbidden", false)] {
        let says: Says =
            Box::new(move |asked| REPAIRS.contains(&&*asked.line).then(|| refusal(code, reason, "no")));
        let (api, ctx) = server(Vec::new(), says).await;
        let plan = BoundaryPlan {
            walls: vec![Step::Repair(Child::NetworkPolicy(wall()))],
            supplies: vec![Step::Repair(document.clone().unwrap())],
            retired: Vec::new(),
            keys: None,
        };
        assert!(boundary(&ctx.writer, &identity(), plan).await.is_err(), "there is no document");
        assert!(REPAIRS.into_iter().all(|line| api.was_asked(line)), "the control: {:?}", api.writes());
        let made: Vec<String> = api.writes().into_iter().filter(|line| line.starts_with("POST ")).collect();
        assert_eq!(made.iter().any(|line| line == "POST networkpolicies"), is_made, "{reason}");
        assert_eq!(made.len(), usize::from(is_made), "{reason}: {made:?}");
        if is_made {
            assert!(api.body("POST networkpolicies")["metadata"]["uid"].is_null(), "it is another one");
        }
    }
}

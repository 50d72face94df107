use agentsandbox_crds::names::{PROGRAM_FINALIZER, WALL_FINALIZER};
use serde_json::{Value, json};

use super::*;
use crate::controller::desired::{Child, ChildKind};
use crate::fixtures::api::{Api, Asked, Says};
use crate::fixtures::{self, UID, boundary, from, sandbox};

const RELEASED: &str = "PATCH networkpolicies/fix-login-agent";

/// The agent's wall, deleted and held, after `change`.
fn wall(change: impl FnOnce(&mut Value)) -> Child {
    let mut value = boundary().into_iter().find(|c| c.kind() == ChildKind::NetworkPolicy).unwrap().value();
    value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    change(&mut value);
    Child::NetworkPolicy(from(value))
}

/// What one look comes to while only the sandbox `present` is there, and these pods carry its UID.
async fn look(wall: Child, present: &AgentSandbox, pods: Value) -> (Left, Api) {
    let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": pods});
    let of_sandbox = |asked: &Asked| asked.line == "GET pods" && asked.query.contains(UID);
    let says: Says = Box::new(move |asked: &Asked| of_sandbox(asked).then(|| (200, list.clone())));
    let api = Api::start(Vec::new(), says).await;
    let ctx = fixtures::ctx(api.client.clone(), present, &[wall], &[]);
    (sweep(&ctx).await, api)
}

fn another() -> AgentSandbox {
    sandbox(|s| {
        s.metadata.name = Some("another".to_owned());
        s.metadata.uid = Some("uid-of-another".to_owned());
    })
}

fn successor() -> AgentSandbox {
    sandbox(|s| s.metadata.uid = Some("uid-of-a-later-one".to_owned()))
}

fn agent() -> Value {
    json!([{"metadata": {"name": "fix-login-agent", "uid": "x", "labels": {LABEL_SANDBOX_UID: UID}}}])
}

#[tokio::test]
async fn a_wall_whose_sandbox_is_gone_is_released_when_no_pod_is_left_behind_it() {
    for present in [another(), successor()] {
        let (left, api) = look(wall(|_| ()), &present, json!([])).await;
        assert_eq!((left, api.was_asked(RELEASED)), (Left::None, true), "{:?}", api.writes());
        let body = api.body(RELEASED);
        assert_eq!(body["metadata"]["finalizers"], json!([]));
        assert_eq!(body["metadata"]["resourceVersion"], "50");
        let (left, api) = look(wall(|_| ()), &present, agent()).await;
        assert_eq!((left, api.writes()), (Left::Some, Vec::new()), "a pod runs behind it");
    }
}

#[tokio::test]
async fn a_stand_in_without_a_sandbox_is_released_like_its_wall() {
    let stand_in = || wall(|value| value["metadata"]["name"] = json!("fix-login-agent-next"));
    let (left, api) = look(stand_in(), &another(), json!([])).await;
    assert_eq!(api.writes(), ["PATCH networkpolicies/fix-login-agent-next"]);
    assert_eq!(left, Left::None);
    let (left, api) = look(stand_in(), &another(), agent()).await;
    assert_eq!((left, api.writes()), (Left::Some, Vec::new()), "a pod runs behind it");
    let (left, api) = look(stand_in(), &sandbox(|_| ()), json!([])).await;
    assert_eq!((left, api.writes()), (Left::Some, Vec::new()), "its sandbox is there");
}

#[tokio::test]
async fn a_wall_whose_sandbox_is_there_is_left_to_it() {
    let (left, api) = look(wall(|_| ()), &sandbox(|_| ()), json!([])).await;
    assert_eq!((left, api.writes()), (Left::Some, Vec::new()));
}

#[tokio::test]
async fn a_wall_that_its_sandbox_waits_for_after_its_teardown_is_released_when_no_pod_is_left_behind_it() {
    let ending = |finalizer: &str| {
        sandbox(|s| {
            s.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
            s.metadata.finalizers = Some(vec!["foregroundDeletion".to_owned(), finalizer.to_owned()]);
        })
    };
    let (left, api) = look(wall(|_| ()), &ending("example.com/own"), json!([])).await;
    assert_eq!((left, api.was_asked(RELEASED)), (Left::None, true), "{:?}", api.writes());
    let (left, api) = look(wall(|_| ()), &ending("example.com/own"), agent()).await;
    assert_eq!((left, api.writes()), (Left::Some, Vec::new()), "a pod runs behind it");
    let (left, api) = look(wall(|_| ()), &ending(FINALIZER), json!([])).await;
    assert_eq!((left, api.writes()), (Left::Some, Vec::new()), "its teardown is not done");
}

#[tokio::test]
async fn a_wall_that_was_made_to_name_nobody_is_not_released_while_the_agent_of_its_name_runs() {
    let nobodys = || {
        wall(|value| {
            value["metadata"]["ownerReferences"] = Value::Null;
            value["metadata"]["labels"] = json!({LABEL_SANDBOX_UID: "nobody"});
            value["spec"]["podSelector"] = json!({});
        })
    };
    let (left, api) = look(nobodys(), &sandbox(|_| ()), agent()).await;
    assert_eq!((left, api.writes()), (Left::Some, Vec::new()));
    let (left, api) = look(nobodys(), &sandbox(|_| ()), json!([])).await;
    assert_eq!((left, api.was_asked(RELEASED)), (Left::None, true), "the control: nothing runs");
}

#[tokio::test]
async fn the_finalizers_of_others_stay_and_a_wall_that_stands_is_nobodys_business() {
    let held = wall(|value| value["metadata"]["finalizers"] = json!(["acme.test/x", WALL_FINALIZER]));
    let (_, api) = look(held, &another(), json!([])).await;
    assert_eq!(api.body(RELEASED)["metadata"]["finalizers"], json!(["acme.test/x"]));
    for change in
        [(|value| value["metadata"]["deletionTimestamp"] = Value::Null) as fn(&mut Value), |value| {
            value["metadata"]["finalizers"] = json!(["acme.test/x"])
        }]
    {
        let (left, api) = look(wall(change), &another(), json!([])).await;
        assert_eq!((left, api.asked().len()), (Left::None, 0));
    }
}

#[tokio::test]
async fn a_pod_whose_sandbox_is_gone_is_let_go_once_it_is_on_its_way_out() {
    let held = |change: fn(&mut Value)| {
        let mut pods = agent();
        pods[0]["metadata"]["finalizers"] = json!([PROGRAM_FINALIZER]);
        change(&mut pods[0]);
        pods
    };
    const LET_GO: &str = "PATCH pods/fix-login-agent";
    let ends = held(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    let (left, api) = look(wall(|_| ()), &another(), ends).await;
    assert_eq!((left, api.writes()), (Left::Some, vec![LET_GO.to_owned()]));
    assert_eq!(api.body(LET_GO)["metadata"]["finalizers"], json!([]));
    let (_, api) = look(wall(|_| ()), &another(), held(|_| ())).await;
    assert!(!api.was_asked(LET_GO), "the control runs");
}

#[tokio::test]
async fn a_pod_that_is_kept_and_has_neither_sandbox_nor_wall_is_let_go() {
    const LET_GO: &str = "PATCH pods/fix-login-agent";
    let held = |change: fn(&mut Value)| {
        let mut pod = serde_json::to_value(fixtures::agent_pod()).unwrap();
        pod["metadata"]["finalizers"] = json!(["other.test/own", PROGRAM_FINALIZER]);
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        change(&mut pod);
        Child::Pod(Box::new(from(pod)))
    };
    for present in [another(), successor()] {
        let (left, api) = look(held(|_| ()), &present, json!([])).await;
        assert_eq!((left, api.writes()), (Left::Some, vec![LET_GO.to_owned()]));
        assert_eq!(api.body(LET_GO)["metadata"]["finalizers"], json!(["other.test/own"]));
    }
    let (left, api) = look(held(|_| ()), &sandbox(|_| ()), json!([])).await;
    assert_eq!(
        (left, api.writes()),
        (Left::Some, Vec::new()),
        "its sandbox is there, and asks for its end first"
    );
    let unlabelled = held(|pod| pod["metadata"]["labels"] = json!({}));
    let (_, api) = look(unlabelled, &sandbox(|_| ()), json!([])).await;
    assert_eq!(api.writes(), Vec::<String>::new(), "its owner names the sandbox too");
    let (left, api) =
        look(held(|pod| pod["metadata"]["deletionTimestamp"] = Value::Null), &another(), json!([])).await;
    assert_eq!((left, api.writes()), (Left::None, Vec::new()), "it is not on its way out");
}

#[tokio::test]
async fn a_wall_that_was_made_to_name_a_sandbox_that_is_there_lets_no_pod_of_it_go() {
    let mut ends = agent();
    ends[0]["metadata"]["finalizers"] = json!([PROGRAM_FINALIZER]);
    ends[0]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let renamed = || wall(|value| value["metadata"]["name"] = json!("stranger-agent"));
    let (left, api) = look(renamed(), &sandbox(|_| ()), ends.clone()).await;
    assert_eq!((left, api.writes()), (Left::Some, Vec::new()));
    let (_, api) = look(renamed(), &another(), ends).await;
    assert_eq!(api.writes(), ["PATCH pods/fix-login-agent"], "the control: it is gone");
}

#[tokio::test]
async fn a_neighbour_whose_agent_runs_holds_no_wall_of_a_sandbox_that_is_gone() {
    let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": agent()});
    let says: Says = Box::new(move |asked: &Asked| {
        let is_of_neighbour = asked.line == "GET pods" && asked.query.contains("uid-of-another");
        is_of_neighbour.then(|| (200, list.clone()))
    });
    let api = Api::start(Vec::new(), says).await;
    let ctx = fixtures::ctx(api.client.clone(), &another(), &[wall(|_| ())], &[]);
    assert_eq!((sweep(&ctx).await, api.was_asked(RELEASED)), (Left::None, true), "{:?}", api.asked());
}

#[tokio::test]
async fn a_wall_that_was_told_to_be_deleted_is_looked_at_until_no_pod_is_left_behind_it() {
    let (released, looks) = (Arc::new(Notify::new()), std::sync::atomic::AtomicUsize::new(0));
    let telling = Arc::clone(&released);
    let says: Says = Box::new(move |asked: &Asked| {
        if asked.line == RELEASED {
            telling.notify_one();
        }
        let is_first =
            asked.line == "GET pods" && looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let items = if is_first { agent() } else { json!([]) };
        let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items});
        (asked.line == "GET pods").then_some((200, list))
    });
    let api = Api::start(Vec::new(), says).await;
    let ctx = fixtures::ctx(api.client.clone(), &another(), &[wall(|_| ())], &[]);
    let deleted = Arc::new(Notify::new());
    deleted.notify_one();
    tokio::select! {
        () = watch(ctx, deleted) => panic!("it ends never"),
        seen = tokio::time::timeout(Duration::from_secs(30), released.notified()) => seen.unwrap(),
    }
    let looked = api.asked().into_iter().filter(|asked| asked.line == "GET pods").count();
    assert_eq!(looked, 2, "once while a pod was there, and once more: {:?}", api.asked());
}

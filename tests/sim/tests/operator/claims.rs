//! Claims of persistent workspaces, at which somebody gets.

use std::time::Duration;

use agentsandbox_sim::faults;
use agentsandbox_sim::kinds::{CLAIMS, PODS};
use agentsandbox_sim::objects::{self, TEAM};
use agentsandbox_sim::rig::{Rig, simulate};
use agentsandbox_sim::store::{Deletion, Part, Store, is_ending, text};
use serde_json::{Value, json};

const CLAIM: &str = "a-workspace";

/// A sandbox whose agent works on its claim.
async fn lasting() -> Rig {
    of(objects::persistent("a", "Retain")).await
}

async fn of(object: Value) -> Rig {
    let mut rig = Rig::running(1, faults::None);
    rig.world.act("user", |store| objects::create(store, object));
    rig.ready("a").await;
    rig
}

/// The same, in a storage class whose claims grow.
async fn growing() -> Rig {
    let mut object = objects::persistent("a", "Retain");
    object["spec"]["workspace"]["persistent"]["storageClassName"] = json!("growing");
    of(object).await
}

fn uid(store: &Store, kind: &agentsandbox_sim::kinds::Kind, name: &str) -> Option<String> {
    store.get(kind, TEAM, name).map(|object| text(object, "/metadata/uid").to_owned())
}

fn workspace(rig: &Rig) -> String {
    let world = rig.world.world();
    let sandbox = world.store.get(&agentsandbox_sim::kinds::SANDBOXES, TEAM, "a").unwrap().clone();
    let conditions = sandbox["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let own = conditions.iter().find(|one| one["type"] == "WorkspaceReady");
    own.map(|one| text(one, "/reason").to_owned()).unwrap_or_default()
}

#[test]
fn an_agent_works_on_when_its_claim_is_deleted_and_its_next_pod_has_a_new_one() {
    simulate(async {
        let mut rig = lasting().await;
        let (claim, pod) = {
            let world = rig.world.world();
            (uid(&world.store, &CLAIMS, CLAIM), uid(&world.store, &PODS, "a-agent"))
        };
        rig.world.act("user", |store| store.delete(&CLAIMS, (TEAM, CLAIM), &Deletion::default()).unwrap());
        rig.settle().await;
        {
            let world = rig.world.world();
            assert_eq!(uid(&world.store, &PODS, "a-agent"), pod, "it is the same pod");
            assert!(is_ending(world.store.get(&CLAIMS, TEAM, CLAIM).unwrap()), "and its claim waits for it");
        }
        assert_eq!(workspace(&rig), "ClaimEnding");
        rig.patch("a", &json!({"spec": {"agent": {"image": "ghcr.io/acme/agent:2.2"}}}));
        rig.ready("a").await;
        rig.settle().await;
        let world = rig.world.world();
        assert_ne!(uid(&world.store, &PODS, "a-agent"), pod);
        let new = uid(&world.store, &CLAIMS, CLAIM);
        assert!(new.is_some() && new != claim, "{new:?} after {claim:?}");
        assert!(!is_ending(world.store.get(&CLAIMS, TEAM, CLAIM).unwrap()));
    });
}

#[test]
fn a_suspended_sandbox_keeps_its_claim_and_its_next_agent_works_on_that() {
    simulate(async {
        let mut rig = lasting().await;
        let (claim, pod) = {
            let world = rig.world.world();
            (uid(&world.store, &CLAIMS, CLAIM), uid(&world.store, &PODS, "a-agent"))
        };
        rig.patch("a", &json!({"spec": {"lifecycle": {"state": "Suspended"}}}));
        let off = |store: &Store| store.all(&PODS).next().is_none();
        rig.until(Duration::from_secs(60), "no power", off).await;
        rig.settle().await;
        {
            let world = rig.world.world();
            let live = world.store.get(&CLAIMS, TEAM, CLAIM).expect("the claim stays");
            assert!(!is_ending(live) && uid(&world.store, &CLAIMS, CLAIM) == claim, "{live}");
            assert!(off(&world.store), "and no pod mounts it");
        }
        rig.patch("a", &json!({"spec": {"lifecycle": {"state": "Running"}}}));
        rig.ready("a").await;
        rig.settle().await;
        let world = rig.world.world();
        assert_eq!(uid(&world.store, &CLAIMS, CLAIM), claim);
        let agent = world.store.get(&PODS, TEAM, "a-agent").unwrap();
        assert_ne!(uid(&world.store, &PODS, "a-agent"), pod);
        let volumes = agent["spec"]["volumes"].as_array().unwrap();
        let mounted = volumes.iter().map(|one| text(one, "/persistentVolumeClaim/claimName"));
        assert_eq!(mounted.filter(|name| !name.is_empty()).collect::<Vec<_>>(), [CLAIM]);
        assert!(agent.to_string().contains(claim.as_deref().unwrap()), "its step is told of this very claim");
    });
}

#[test]
fn a_claim_that_is_deleted_while_its_sandbox_is_suspended_is_made_anew() {
    simulate(async {
        let mut rig = lasting().await;
        let claim = uid(&rig.world.world().store, &CLAIMS, CLAIM);
        rig.patch("a", &json!({"spec": {"lifecycle": {"state": "Suspended"}}}));
        let off = |store: &Store| store.all(&PODS).next().is_none();
        rig.until(Duration::from_secs(60), "no power", off).await;
        rig.world.act("user", |store| store.delete(&CLAIMS, (TEAM, CLAIM), &Deletion::default()).unwrap());
        rig.settle().await;
        assert!(off(&rig.world.world().store), "it is suspended still");
        rig.patch("a", &json!({"spec": {"lifecycle": {"state": "Running"}}}));
        rig.ready("a").await;
        rig.settle().await;
        let new = uid(&rig.world.world().store, &CLAIMS, CLAIM);
        assert!(new.is_some() && new != claim, "{new:?} after {claim:?}");
    });
}

#[test]
fn a_claim_that_is_deleted_while_no_agent_was_started_is_made_anew() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.world.act("user", |store| objects::create(store, objects::persistent("a", "Retain")));
        let placed = |store: &Store| {
            let pod = store.get(&PODS, TEAM, "a-agent");
            pod.is_some_and(|pod| !text(pod, "/spec/nodeName").is_empty())
        };
        rig.until(Duration::from_secs(20), "a pod on a node", placed).await;
        rig.world.act("user", |store| store.delete(&CLAIMS, (TEAM, CLAIM), &Deletion::default()).unwrap());
        rig.ready("a").await;
        rig.settle().await;
        assert_eq!(workspace(&rig), "Unpacked");
    });
}

#[test]
fn an_agent_whose_claim_was_taken_by_a_stranger_is_stopped_until_the_name_is_free() {
    simulate(async {
        let mut rig = lasting().await;
        rig.world.act("user", |store| {
            // Whoever may write claims can take their protection off.
            let bare = json!({"metadata": {"finalizers": null}});
            store.merge(&CLAIMS, Part::Main, (TEAM, CLAIM), &bare).unwrap();
            store.delete(&CLAIMS, (TEAM, CLAIM), &Deletion::default()).unwrap();
            let theirs =
                json!({"metadata": {"name": CLAIM, "namespace": TEAM}, "spec": {"volumeName": "theirs"}});
            store.create(&CLAIMS, None, theirs, false).unwrap();
        });
        let stopped = |store: &Store| store.get(&PODS, TEAM, "a-agent").is_none();
        rig.until(Duration::from_secs(20), "the agent's end", stopped).await;
        rig.settle().await;
        {
            let world = rig.world.world();
            let theirs = world.store.get(&CLAIMS, TEAM, CLAIM).unwrap();
            assert_eq!((text(theirs, "/spec/volumeName"), is_ending(theirs)), ("theirs", false));
            assert!(stopped(&world.store), "nothing is started on it");
        }
        rig.world.act("user", |store| store.delete(&CLAIMS, (TEAM, CLAIM), &Deletion::default()).unwrap());
        // Of a claim without our labels no watch shows the end.
        rig.pass(Duration::from_secs(310)).await;
        rig.ready("a").await;
        rig.settle().await;
    });
}

#[test]
fn a_claim_that_somebody_enlarges_beyond_the_class_takes_the_power_until_it_is_gone() {
    simulate(async {
        let mut rig = growing().await;
        let large = json!({"spec": {"resources": {"requests": {"storage": "100Gi"}}}});
        rig.world.act("user", |store| store.merge(&CLAIMS, Part::Main, (TEAM, CLAIM), &large).unwrap());
        let off = |store: &Store| store.all(&PODS).next().is_none();
        rig.until(Duration::from_secs(20), "no power", off).await;
        rig.settle().await;
        assert!(off(&rig.world.world().store), "nothing is started on it");
        rig.world.act("user", |store| store.delete(&CLAIMS, (TEAM, CLAIM), &Deletion::default()).unwrap());
        rig.ready("a").await;
        rig.settle().await;
    });
}

#[test]
fn o_r6_a_claim_that_cannot_grow_is_asked_to_now_and_then_and_one_that_can_grows() {
    let patches = |rig: &Rig| {
        let of_claim = |line: &&String| line.starts_with("PATCH persistentvolumeclaims/");
        rig.asked().iter().filter(of_claim).count()
    };
    let larger = json!({"spec": {"workspace": {"persistent": {"size": "2Gi"}}}});
    simulate(async {
        let mut rig = lasting().await;
        rig.patch("a", &larger);
        rig.ready("a").await;
        rig.pass(Duration::from_secs(200)).await;
        assert_eq!(patches(&rig), 2, "once with the size and once without");
        rig.pass(Duration::from_secs(200)).await;
        assert_eq!(patches(&rig), 4, "and again after a pause");
        rig.settle().await;
    });
    simulate(async {
        let mut rig = growing().await;
        rig.patch("a", &larger);
        rig.ready("a").await;
        rig.settle().await;
        assert_eq!(patches(&rig), 1);
        let world = rig.world.world();
        let claim = world.store.get(&CLAIMS, TEAM, CLAIM).unwrap();
        assert_eq!(text(claim, "/spec/resources/requests/storage"), "2Gi");
    });
}

//! How many passes it takes.

use std::time::Duration;

use agentsandbox_sim::faults::{self, Asked, Fate, Lateness, Rules};
use agentsandbox_sim::kinds::{PODS, POLICIES, SANDBOXES};
use agentsandbox_sim::objects::TEAM;
use agentsandbox_sim::rig::{Rig, is_ready, simulate};
use agentsandbox_sim::store::{Deletion, Part, Revision, Store};
use serde_json::{Value, json};

/// Sandboxes that are created at once.
const FEW: usize = 5;
const MANY: usize = 50;

/// Passes over `count` sandboxes that are created at once in one namespace, until nothing happens any more, where watches are
/// late by so many milliseconds.
fn passes(count: usize, schedules: bool, late: u64) -> usize {
    simulate(async {
        let late = move |_: &str, _: u64, _: u64| Lateness::After(late);
        let mut rig = Rig::running(1, Rules(|_: &Asked| Fate::Serve, late));
        rig.world.world().node.schedules = schedules;
        rig.pass(Duration::from_secs(2)).await;
        let before = rig.passes();
        for number in 0..count {
            rig.create(&format!("s{number}"));
        }
        rig.settle().await;
        rig.passes() - before
    })
}

#[test]
fn a_sandbox_takes_no_more_passes_where_there_are_many_than_where_there_are_few() {
    for schedules in [true, false] {
        let (few, many) = (passes(FEW, schedules, 1), passes(MANY, schedules, 1));
        assert!(few >= FEW, "the control is that passes are counted");
        assert!(many * FEW <= few * MANY, "{many} passes over {MANY}, {few} over {FEW}");
    }
}

#[test]
fn what_the_operator_wrote_itself_wakes_nobody() {
    for late in [0, 1, 100] {
        let passes = passes(MANY, false, late);
        assert!(passes >= MANY, "the control is that passes are counted");
        assert!(
            passes <= 2 * MANY,
            "{passes} passes over {MANY} sandboxes that nobody else touches, {late} ms late"
        );
    }
}

#[test]
fn a_policy_that_selects_fewer_pods_than_before_wakes_the_sandboxes_of_the_others() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        for name in ["a", "b"] {
            rig.create(name);
            rig.ready(name).await;
        }
        let wide = json!({"metadata": {"name": "theirs", "namespace": TEAM}, "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}});
        rig.world.act("user", move |store| store.create(&POLICIES, None, wide, false).unwrap());
        rig.until(Duration::from_secs(10), "the widening", |store| {
            !is_ready(store, "a") && !is_ready(store, "b")
        })
        .await;
        rig.pass(Duration::from_secs(60)).await;
        let uid = rig.world.world().store.get(&SANDBOXES, TEAM, "b").unwrap()["metadata"]["uid"].clone();
        let narrow = json!({"spec": {"podSelector": {"matchLabels": {"agentsandbox.dev/sandbox-uid": uid}}}});
        rig.world
            .act("user", move |store| store.merge(&POLICIES, Part::Main, (TEAM, "theirs"), &narrow).unwrap());
        rig.until(Duration::from_secs(20), "an unwidened sandbox", |store| is_ready(store, "a")).await;
        assert!(!is_ready(&rig.world.world().store, "b"), "the control: it is widened still");
        rig.world
            .act("user", |store| store.delete(&POLICIES, (TEAM, "theirs"), &Deletion::default()).unwrap());
        rig.ready("b").await;
    });
}

#[test]
fn a_wall_that_goes_before_any_watch_has_shown_it_is_put_up_again_within_seconds() {
    let stuck = |plural: &str, _: u64, _: u64| match plural {
        "networkpolicies" => Lateness::Stuck,
        _ => Lateness::After(1),
    };
    simulate(async {
        let mut rig = Rig::running(1, Rules(|_: &Asked| Fate::Serve, stuck));
        rig.world.world().node.schedules = false;
        rig.pass(Duration::from_secs(2)).await;
        rig.create("a");
        let stands = |store: &Store| store.get(&POLICIES, TEAM, "a-agent").is_some();
        rig.until(Duration::from_secs(5), "a wall", stands).await;
        rig.pass(Duration::from_secs(1)).await;
        rig.world.act("user", |store| {
            let released = json!({"metadata": {"finalizers": null}});
            store.merge(&POLICIES, Part::Main, (TEAM, "a-agent"), &released).unwrap();
            store.delete(&POLICIES, (TEAM, "a-agent"), &Deletion::default()).unwrap();
        });
        assert!(!stands(&rig.world.world().store), "the control: it has gone");
        rig.until(Duration::from_secs(10), "the wall again", stands).await;
    });
}

/// The agent of a sandbox at rest is deleted, and its name is taken at once by a copy without labels, which is as `like` leaves it
/// and runs. Gives back whether that copy is there 10 s later.
fn stays(like: fn(&mut Value)) -> bool {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create("a");
        rig.ready("a").await;
        rig.settle().await;
        let at = |store: &Store| store.get(&PODS, TEAM, "a-agent").cloned();
        // The node has nothing more to tell of it, so nothing but the operator's own write brings it before a watch.
        rig.world.world().node.schedules = false;
        let copy = rig.world.act("user", move |store| {
            let mut copy = at(store).unwrap();
            let status = json!({"status": copy["status"].take()});
            copy["metadata"]["labels"] = Value::Null;
            like(&mut copy);
            store.gone(&("pods", TEAM.to_owned(), "a-agent".to_owned()));
            let made = store.create(&PODS, None, copy, false).unwrap();
            store.merge(&PODS, Part::Status, (TEAM, "a-agent"), &status).unwrap();
            made
        });
        rig.pass(Duration::from_secs(10)).await;
        let labelled =
            |one: &Revision| one.by == "operator" && one.object["metadata"]["uid"] == copy["metadata"]["uid"];
        assert!(rig.world.world().store.log.iter().any(labelled), "the control: the operator found it");
        let left = at(&rig.world.world().store);
        left.is_some_and(|pod| pod["metadata"]["uid"] == copy["metadata"]["uid"])
    })
}

#[test]
fn a_pod_that_is_found_where_one_was_to_be_created_and_is_not_as_wanted_is_gone_within_seconds() {
    // Without the volumes nothing shows that it has the sandbox's keys, so no pass finds it before the creation does.
    let forged = |pod: &mut Value| {
        pod["spec"]["volumes"] = json!([]);
        pod["metadata"]["annotations"] = Value::Null;
    };
    assert!(!stays(forged));
    let own = |pod: &mut Value| pod["spec"]["volumes"] = json!([]);
    assert!(stays(own), "the control: one that says to be as wanted stays");
}

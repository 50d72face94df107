//! How many passes it takes.

use std::time::Duration;

use agentsandbox_sim::faults::{self, Asked, Fate, Lateness, Rules};
use agentsandbox_sim::kinds::{POLICIES, SANDBOXES};
use agentsandbox_sim::objects::TEAM;
use agentsandbox_sim::rig::{Rig, is_ready, simulate};
use agentsandbox_sim::store::{Deletion, Part, Store};
use serde_json::json;

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

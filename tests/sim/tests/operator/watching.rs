//! Watches that are late, cut, forgotten or stuck.

use std::time::Duration;

use agentsandbox_sim::faults::{self, Asked, Fate, Lateness, Rules, hash};
use agentsandbox_sim::kinds::{PODS, SANDBOXES};
use agentsandbox_sim::objects::TEAM;
use agentsandbox_sim::rig::{Rig, is_ready, simulate};
use agentsandbox_sim::store::{Change, Deletion, Part, text};
use serde_json::{Value, json};

/// Names of the pods that were ever created.
fn pods_made(rig: &Rig) -> Vec<String> {
    let world = rig.world.world();
    let made = world.store.log.iter().filter(|one| *one.kind == PODS && one.change == Change::Added);
    made.map(|one| text(&one.object, "/metadata/name").to_owned()).collect()
}

#[test]
fn o_r10_watches_that_are_five_seconds_late_bring_no_second_child() {
    simulate(async {
        let late = Rules(|_: &Asked| Fate::Serve, |_: &str, _: u64, _: u64| Lateness::After(5000));
        let mut rig = Rig::running(1, late);
        rig.create("a");
        rig.ready("a").await;
        rig.settle().await;
        let mut made = pods_made(&rig);
        made.sort();
        assert_eq!(made, ["a-agent", "a-proxy"]);
    });
}

#[test]
fn o_r10_a_name_that_is_taken_is_ours_only_if_its_owner_is() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        let theirs = json!({"metadata": {"name": "a-proxy", "namespace": TEAM, "labels": {"app": "x"}}, "spec": {"nodeName": "node-1"}});
        rig.world.act("user", |store| store.create(&PODS, None, theirs, false).unwrap());
        rig.create("a");
        rig.pass(Duration::from_secs(10)).await;
        let world = rig.world.world();
        assert!(
            world.store.get(&SANDBOXES, TEAM, "a").unwrap()["status"].to_string().contains("NameConflict")
        );
        let pod = world.store.get(&PODS, TEAM, "a-proxy").unwrap();
        assert_eq!(pod["metadata"]["labels"], json!({"app": "x"}), "it is left alone");
    });
}

#[test]
fn o_r5_watches_that_are_cut_or_forgotten_bring_a_new_list_and_no_write() {
    for seed in 0..8 {
        simulate(async {
            let storm = Rules(
                |_: &Asked| Fate::Serve,
                move |plural: &str, at: u64, draw: u64| match hash(seed ^ draw, plural) % 4 {
                    _ if !(10_000..40_000).contains(&at) => Lateness::After(1),
                    0 => Lateness::Cut,
                    1 => Lateness::Gone,
                    _ => Lateness::After(draw % 300),
                },
            );
            let mut rig = Rig::running(seed, storm);
            rig.create("a");
            rig.ready("a").await;
            rig.pass(Duration::from_secs(9)).await;
            let (from, before) = (rig.asked().len(), rig.picture());
            // Each of these is an event that is cut off.
            for round in 0..20 {
                rig.patch("a", &json!({"metadata": {"annotations": {"acme.test/round": round.to_string()}}}));
                let touch = json!({"metadata": {"annotations": {"acme.test/round": round.to_string()}}});
                rig.world.act("user", |store| {
                    store
                        .merge(&PODS, agentsandbox_sim::store::Part::Main, (TEAM, "a-agent"), &touch)
                        .unwrap()
                });
                rig.pass(Duration::from_secs(1)).await;
            }
            rig.world.act("user", |store| {
                let none = json!({"metadata": {"annotations": {"acme.test/round": null}}});
                store.merge(&PODS, agentsandbox_sim::store::Part::Main, (TEAM, "a-agent"), &none).unwrap();
                store.merge(&SANDBOXES, agentsandbox_sim::store::Part::Main, (TEAM, "a"), &none).unwrap();
            });
            rig.pass(Duration::from_secs(60)).await;
            assert_eq!(rig.writes(from), [""; 0], "seed {seed}");
            let relists = rig.asked().split_off(from).iter().filter(|line| line.starts_with("LIST")).count();
            assert!(relists > 0, "seed {seed} forgot nothing");
            let same = |picture: &serde_json::Value| picture.to_string().replace(r#""annotations":{},"#, "");
            assert_eq!(same(&rig.picture()), same(&before), "seed {seed}");
            rig.settle().await;
        });
    }
}

#[test]
fn o_r5_what_went_while_a_watch_was_away_is_missed_once_it_lists_again() {
    let away = |plural: &str, at: u64, _: u64| match plural {
        "pods" if (10_000..25_000).contains(&at) => Lateness::Gone,
        _ => Lateness::After(1),
    };
    simulate(async {
        let mut rig = Rig::running(1, Rules(|_: &Asked| Fate::Serve, away));
        rig.create("a");
        rig.ready("a").await;
        rig.pass(Duration::from_secs(15)).await;
        // Both, for any of its pods that a list names would wake the sandbox.
        for pod in ["a-agent", "a-proxy"] {
            let at_once = Deletion { grace: Some(0), ..Deletion::default() };
            rig.world.act("user", move |store| store.delete(&PODS, (TEAM, pod), &at_once).unwrap());
        }
        rig.until(Duration::from_secs(60), "another agent", |store| {
            store.get(&PODS, TEAM, "a-agent").is_some() && is_ready(store, "a")
        })
        .await;
        rig.settle().await;
    });
}

#[test]
fn o_r5_no_list_and_no_watch_asks_for_what_may_be_stale() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create("a");
        rig.ready("a").await;
        let world = rig.world.world();
        let lists: Vec<_> = world.outcomes.iter().filter(|one| one.asked.line.starts_with("LIST")).collect();
        assert!(lists.len() > 5 && lists.iter().all(|one| !one.asked.query.contains("resourceVersionMatch")));
    });
}

/// Seconds: as long as a watch lasts, and a while until another is open.
const BELIEVED_FOR: u64 = 40;

#[test]
fn o_r11_a_watch_on_which_nothing_comes_any_more_is_not_believed_for_long() {
    // The watch of pods ends, and the next one is half-open.
    let silent = |asked: &Asked| match asked.line.as_str() {
        "WATCH pods" if (10_000..20_000).contains(&asked.at) => Fate::LoseSilently,
        _ => Fate::Serve,
    };
    let ends = |plural: &str, at: u64, _: u64| match plural {
        "pods" if (10_000..20_000).contains(&at) => Lateness::Cut,
        _ => Lateness::After(1),
    };
    let ready = |holds: &str| json!({"status": {"conditions": [{"type": "Ready", "status": holds}]}});
    simulate(async {
        let mut rig = Rig::running(1, Rules(silent, ends));
        let pod = |rig: &Rig, patch: Value| {
            rig.world.act("kubelet", move |store| {
                store.merge(&PODS, Part::Status, (TEAM, "a-agent"), &patch).unwrap()
            });
        };
        let wipe = |rig: &Rig| {
            rig.world.act("user", |store| {
                let none = json!({"status": {"conditions": []}});
                store.merge(&SANDBOXES, Part::Status, (TEAM, "a"), &none).unwrap()
            });
        };
        rig.create("a");
        rig.ready("a").await;
        rig.pass(Duration::from_secs(10)).await;
        pod(&rig, json!({"metadata": {}, "status": {"message": "x"}}));
        rig.pass(Duration::from_secs(5)).await;
        pod(&rig, ready("False"));
        rig.pass(Duration::from_secs(5)).await;
        wipe(&rig);
        rig.pass(Duration::from_secs(5)).await;
        assert!(is_ready(&rig.world.world().store, "a"), "the control: the watch is silent");
        rig.pass(Duration::from_secs(BELIEVED_FOR)).await;
        wipe(&rig);
        rig.pass(Duration::from_secs(5)).await;
        assert!(!is_ready(&rig.world.world().store, "a"));
        pod(&rig, ready("True"));
        rig.ready("a").await;
        rig.settle().await;
    });
}

//! What each write insists on.

use std::collections::BTreeMap;
use std::time::Duration;

use agentsandbox_sim::faults::{self, Asked, Fate, Lateness, Rule, Rules, Storm};
use agentsandbox_sim::kinds::{PODS, POLICIES, SANDBOXES};
use agentsandbox_sim::objects::TEAM;
use agentsandbox_sim::rig::{Rig, simulate};
use agentsandbox_sim::store::{Change, Part, Store, text};
use agentsandbox_sim::world::Outcome;
use serde_json::{Value, json};

/// How a write says what it means, or that it says nothing.
fn insists(outcome: &Outcome) -> &'static str {
    let (body, line) = (&outcome.body, &outcome.asked.line);
    let says = |pointer: &str| !text(body, pointer).is_empty();
    match line.split_once(' ').map_or("", |(verb, _)| verb) {
        "POST" => "that the name is free",
        "PATCH" if line.starts_with("PATCH events/") => "an event of its own",
        "PATCH" if outcome.applies && says("/metadata/uid") => "the object's own fields",
        "PATCH" if says("/metadata/resourceVersion") => "the version",
        "DELETE" if says("/preconditions/uid") => "the object",
        "GET" | "LIST" | "WATCH" => "nothing to write",
        _ => "nothing",
    }
}

#[test]
fn o_r9_every_write_names_the_object_or_the_version_that_it_means_or_needs_a_free_name() {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in 0..6 {
        simulate(async {
            let mut rig = Rig::running(seed, Storm { seed, during: 8_000..20_000 });
            rig.create("a");
            rig.create("b");
            rig.pass(Duration::from_secs(7)).await;
            rig.patch("a", &json!({"spec": {"egress": {"allow": [{"host": "crates.io"}]}}}));
            let open = json!({"spec": {"egress": [{}], "policyTypes": ["Egress"]}});
            rig.world.act("user", |store| store.merge(&POLICIES, Part::Main, (TEAM, "b-agent"), &open).ok());
            rig.pass(Duration::from_secs(20)).await;
            rig.delete("b");
            rig.settle().await;
            let world = rig.world.world();
            for outcome in &world.outcomes {
                let says = insists(outcome);
                assert_ne!(says, "nothing", "seed {seed}: {} {}", outcome.asked.line, outcome.body);
                *counts.entry(says).or_default() += 1;
            }
        });
    }
    for kind in ["that the name is free", "the object's own fields", "the version", "the object"] {
        assert!(counts.get(kind).is_some_and(|count| *count >= 3), "{counts:?}");
    }
}

#[test]
fn o_r7_a_watch_that_still_shows_a_sandbox_that_was_made_anew_ends_nothing_of_the_new_one() {
    simulate(async {
        let late = |plural: &str, at: u64, _: u64| match plural {
            "agentsandboxes" if at > 10_000 => Lateness::After(20_000),
            _ => Lateness::After(1),
        };
        let mut rig = Rig::running(1, Rules(|_: &Asked| Fate::Serve, late));
        rig.create("a");
        rig.ready("a").await;
        rig.pass(Duration::from_secs(10)).await;
        let uid =
            |store: &Store| store.get(&SANDBOXES, TEAM, "a").map(|one| text(one, "/metadata/uid").to_owned());
        let old = uid(&rig.world.world().store).unwrap();
        rig.delete("a");
        let limit = Duration::from_secs(120);
        rig.until(limit, "the end", |store| store.get(&SANDBOXES, TEAM, "a").is_none()).await;
        // The watch shows the old one for 20 s more.
        rig.create("a");
        let new = uid(&rig.world.world().store).unwrap();
        assert_ne!(old, new);
        rig.ready("a").await;
        rig.settle().await;
        let world = rig.world.world();
        let of_new = |object: &Value| object.to_string().contains(&new);
        let ended: Vec<&str> = world
            .store
            .log
            .iter()
            .filter(|one| one.change == Change::Deleted && of_new(&one.object))
            .map(|one| text(&one.object, "/metadata/name"))
            .collect();
        assert_eq!(ended, [""; 0], "ended of the new one");
        let mut left = world.store.everything().filter(|((plural, ..), _)| *plural != "events");
        assert!(left.all(|(_, object)| !object.to_string().contains(&old)));
        assert!(world.store.everything().filter(|(_, object)| of_new(object)).count() > 7);
    });
}

/// Kinds and names of what was created for a sandbox, in order.
fn created(rig: &Rig) -> Vec<(&'static str, String)> {
    let world = rig.world.world();
    let made = world.store.log.iter().filter(|one| one.change == Change::Added && one.by == "operator");
    made.map(|one| (one.kind.plural, text(&one.object, "/metadata/name").to_owned()))
        .filter(|(plural, _)| *plural != "events")
        .collect()
}

#[test]
fn o_r2_killed_after_any_write_each_child_is_there_once_and_no_pod_before_its_wall() {
    let play = |number: Option<u64>| {
        simulate(async move {
            let rule = Rule(
                move |asked: &Asked| {
                    if Some(asked.number) == number { Fate::CrashAfter } else { Fate::Serve }
                },
            );
            let mut rig = Rig::running(1, rule);
            rig.create("a");
            rig.ready("a").await;
            rig.settle().await;
            let made = created(&rig);
            for (plural, name) in &made {
                let count = made.iter().filter(|one| *one == &(*plural, name.clone())).count();
                assert_eq!(count, 1, "{plural}/{name}, killed after {number:?}");
                if *plural == PODS.plural {
                    let place =
                        |kind: &str| made.iter().position(|(plural, own)| *plural == kind && own == name);
                    assert!(place("networkpolicies") < place("pods"), "{made:?}, killed after {number:?}");
                    assert!(place("networkpolicies").is_some());
                }
            }
            let world = rig.world.world();
            let uid = text(world.store.get(&SANDBOXES, TEAM, "a").unwrap(), "/metadata/uid").to_owned();
            for (plural, name) in &made {
                let key = (*plural, TEAM.to_owned(), name.clone());
                let object = world.store.everything().find(|(at, _)| **at == key).map(|(_, object)| object);
                let owner = object.map(|object| text(object, "/metadata/ownerReferences/0/uid"));
                assert_eq!(owner, Some(uid.as_str()), "{plural}/{name}, killed after {number:?}");
            }
            let mut sorted = made;
            sorted.sort();
            drop(world);
            (sorted, rig.asked())
        })
    };
    let (wanted, asked) = play(None);
    assert_eq!(wanted.len(), 9, "{wanted:?}");
    let writes = |line: &String| ["POST ", "PATCH "].iter().any(|verb| line.starts_with(verb));
    let numbers: Vec<u64> =
        (0..).zip(&asked).filter(|(_, line)| writes(line)).map(|(number, _)| number).collect();
    assert!(numbers.len() >= 11, "{asked:?}");
    for number in numbers {
        assert_eq!(play(Some(number)).0, wanted, "killed after request {number}");
    }
}

#[test]
fn the_control_of_what_writes_insist_on_is_a_write_that_insists_on_nothing() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create("a");
        rig.ready("a").await;
        let world = rig.world.world();
        let mut outcome = world.outcomes.iter().find(|one| insists(one) == "the version").cloned().unwrap();
        outcome.body["metadata"]["resourceVersion"] = Value::Null;
        assert_eq!(insists(&outcome), "nothing");
    });
}

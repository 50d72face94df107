//! An API server that refuses, breaks off, hangs or never ends.

use std::time::Duration;

use agentsandbox_sim::faults::{Asked, Fate, Rule};
use agentsandbox_sim::kinds::{PODS, POLICIES};
use agentsandbox_sim::objects::TEAM;
use agentsandbox_sim::rig::{Rig, is_ready, simulate};
use agentsandbox_sim::store::{Part, Store, text};
use serde_json::json;

/// Milliseconds in which everything goes wrong.
const FROM: u64 = 10_000;
const TO: u64 = 70_000;
/// Longest pause of a pass or a watch, and what a start takes besides.
const RECOVERS_IN: u64 = 65_000;

/// What is asked again and again while every request meets a fate, and when.
fn during(fate: Fate) -> (Vec<(u64, String)>, u64) {
    simulate(async {
        let rule = Rule(move |asked: &Asked| if (FROM..TO).contains(&asked.at) { fate } else { Fate::Serve });
        let mut rig = Rig::running(3, rule);
        rig.create("a");
        rig.ready("a").await;
        let now = rig.world.world().millis();
        rig.pass(Duration::from_millis(FROM + 1000 - now)).await;
        rig.patch("a", &json!({"spec": {"egress": {"allow": [{"host": "crates.io"}]}}}));
        rig.pass(Duration::from_millis(TO - FROM - 1000)).await;
        rig.until(Duration::from_millis(RECOVERS_IN), "recovery", |store| is_ready(store, "a")).await;
        let recovered = rig.world.world().millis();
        rig.settle().await;
        let world = rig.world.world();
        let all = world.outcomes.iter().filter(|one| (FROM..TO).contains(&one.asked.at));
        (all.map(|one| (one.asked.at, one.asked.line.clone())).collect(), recovered)
    })
}

#[test]
fn o_r11_whatever_the_server_does_the_operator_comes_back_within_the_cap_and_never_hotly() {
    let fates = [
        Fate::Refuse(409, None),
        Fate::Refuse(429, Some(1)),
        Fate::Refuse(500, None),
        Fate::Refuse(503, None),
        Fate::Refuse(504, None),
        Fate::Refuse(401, None),
        Fate::Deny,
        Fate::Reset,
        Fate::Cut,
        Fate::Silence,
    ];
    for fate in fates {
        let (asked, _) = during(fate);
        assert!(!asked.is_empty(), "{fate:?} met nothing");
        let mut lines: Vec<&String> = asked.iter().map(|(_, line)| line).collect();
        lines.sort();
        lines.dedup();
        for line in lines {
            let times: Vec<u64> = asked.iter().filter(|(_, one)| one == line).map(|(at, _)| *at).collect();
            assert!(
                times.len() <= 40,
                "{fate:?}: {line} was asked {} times in a minute: {times:?}",
                times.len()
            );
        }
    }
}

#[test]
fn o_r11_pauses_between_failed_passes_grow() {
    let (asked, _) = during(Fate::Refuse(500, None));
    let times: Vec<u64> =
        asked.iter().filter(|(_, line)| line.starts_with("PATCH configmaps")).map(|(at, _)| *at).collect();
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.len() >= 4, "{times:?}");
    assert!(gaps.last().unwrap() > &(8 * gaps[0]), "{gaps:?}");
}

/// Puts a wall back that somebody opened just when the API server began to forbid everything, for so long; answers with the agent's
/// UID before and after.
fn forbidden_for(milliseconds: u64) -> (String, String) {
    simulate(async {
        let denies = FROM..FROM + milliseconds;
        let rule =
            Rule(move |asked: &Asked| if denies.contains(&asked.at) { Fate::Deny } else { Fate::Serve });
        let mut rig = Rig::running(3, rule);
        rig.create("a");
        rig.ready("a").await;
        let key = (TEAM, "a-agent");
        let uid = |rig: &Rig| {
            text(rig.world.world().store.get(&PODS, key.0, key.1).unwrap(), "/metadata/uid").to_owned()
        };
        let (before, now) = (uid(&rig), rig.world.world().millis());
        rig.pass(Duration::from_millis(FROM + 1 - now)).await;
        rig.world.act("stranger", |store| {
            let open = json!({"spec": {"egress": [{}]}});
            store.merge(&POLICIES, Part::Main, key, &open).unwrap();
        });
        rig.pass(Duration::from_millis(milliseconds)).await;
        let whole =
            |store: &Store| store.get(&POLICIES, key.0, key.1).unwrap()["spec"]["egress"] != json!([{}]);
        rig.until(Duration::from_secs(20), "the wall", whole).await;
        rig.settle().await;
        (before, uid(&rig))
    })
}

#[test]
fn o_t6_an_api_server_that_forbids_everything_for_a_second_stops_no_agent_and_one_that_goes_on_does() {
    let (before, after) = forbidden_for(1_000);
    assert_eq!(before, after, "the agent was stopped");
    // The control: nobody leaves an agent without its wall for longer than two seconds.
    let (before, after) = forbidden_for(6_000);
    assert_ne!(before, after, "the agent went on");
}

#[test]
fn o_r12_a_request_that_is_never_answered_blocks_no_other_sandbox() {
    for fate in [Fate::Silence, Fate::Endless] {
        simulate(async {
            let rule = Rule(
                move |asked: &Asked| {
                    if asked.line.starts_with("POST pods/bad-") { fate } else { Fate::Serve }
                },
            );
            let mut rig = Rig::running(1, rule);
            rig.create("bad");
            rig.pass(Duration::from_secs(1)).await;
            rig.create("good");
            rig.until(Duration::from_secs(5), "a good sandbox", |store| is_ready(store, "good")).await;
        });
    }
}

#[test]
fn o_r12_a_list_that_is_never_answered_or_never_ends_is_asked_again() {
    for fate in [Fate::Silence, Fate::Endless] {
        simulate(async {
            let rule =
                Rule(
                    move |asked: &Asked| {
                        if asked.line == "LIST configmaps" && asked.repeats == 1 { fate } else { Fate::Serve }
                    },
                );
            let mut rig = Rig::running(1, rule);
            rig.create("a");
            rig.until(Duration::from_secs(60), "a sandbox", |store| is_ready(store, "a")).await;
        });
    }
}

#[test]
fn o_r12_a_watch_that_fails_again_and_again_holds_up_no_other() {
    simulate(async {
        let rule = Rule(|asked: &Asked| {
            let fails = asked.at > 1_000 && asked.line.ends_with(" runtimeclasses");
            if fails { Fate::Refuse(500, None) } else { Fate::Serve }
        });
        let mut rig = Rig::running(1, rule);
        // The server ends this watch after five minutes; from then on it fails, and there is no other event.
        rig.pass(Duration::from_secs(800)).await;
        let failed = rig.asked().iter().filter(|line| *line == "WATCH runtimeclasses").count();
        assert!(failed > 5, "the watch failed {failed} times");
        for name in ["a", "b", "c"] {
            rig.create(name);
            rig.until(Duration::from_secs(3), "a sandbox", |store| is_ready(store, name)).await;
            rig.pass(Duration::from_secs(100)).await;
        }
    });
}

#[test]
fn a_clean_server_is_the_control_of_every_fault() {
    let (asked, recovered) = during(Fate::Serve);
    assert!(asked.iter().any(|(_, line)| line.starts_with("PATCH configmaps")) && recovered <= TO + 1000);
}

//! Two replicas and one lease.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agentsandbox_operator::config::LeaderElection;
use agentsandbox_sim::faults::{self, Asked, Fate, Rule};
use agentsandbox_sim::kinds::{CONFIG_MAPS, LEASES};
use agentsandbox_sim::objects::{SYSTEM, TEAM};
use agentsandbox_sim::rig::{Rig, simulate};
use agentsandbox_sim::store::{Part, text};
use agentsandbox_sim::world::Outcome;
use serde_json::json;

fn holder(rig: &Rig) -> String {
    let world = rig.world.world();
    text(world.store.get(&LEASES, SYSTEM, "agentsandbox-operator").unwrap(), "/spec/holderIdentity")
        .to_owned()
}

fn elected(faults: impl faults::Faults + 'static) -> Rig {
    let mut rig = Rig::new(1, faults);
    rig.election = LeaderElection::Lease;
    rig
}

/// Whether it writes anything but the lease.
fn writes(asked: &Asked) -> bool {
    !["GET ", "LIST ", "WATCH "].iter().any(|verb| asked.line.starts_with(verb))
        && !asked.line.contains("leases/")
}

/// Who wrote anything but the lease, in order, each with the time.
fn writers(rig: &Rig) -> Vec<(u64, u64)> {
    let world = rig.world.world();
    let writes = world.outcomes.iter().filter(|one| writes(&one.asked));
    writes.map(|one| (one.process, one.asked.at)).collect()
}

#[test]
fn o_r14_a_replica_that_is_told_to_stop_gives_the_lease_back_and_the_other_goes_on() {
    simulate(async {
        let mut rig = elected(faults::None);
        let first = rig.start("operator-0");
        rig.pass(Duration::from_secs(1)).await;
        rig.start("operator-1");
        rig.create("a");
        rig.ready("a").await;
        assert_eq!(holder(&rig), "operator-0");
        rig.stop(first);
        let told = rig.world.world().millis();
        rig.until(Duration::from_secs(20), "a take-over", |store| {
            text(store.get(&LEASES, SYSTEM, "agentsandbox-operator").unwrap(), "/spec/holderIdentity")
                == "operator-1"
        })
        .await;
        let took = rig.world.world().millis() - told;
        assert!(took <= 4_000, "the lease was taken after {took} ms");
        rig.create("b");
        rig.ready("b").await;
    });
}

#[test]
fn o_r14_a_replica_that_cannot_renew_writes_no_more_before_the_other_begins() {
    simulate(async {
        // The first process reaches everything but the lease.
        let mut rig = elected(faults::None);
        rig.world.world().cut = Some((1, "leases/".to_owned(), 5_000));
        rig.start("operator-0");
        rig.pass(Duration::from_secs(1)).await;
        rig.start("operator-1");
        rig.pass(Duration::from_secs(1)).await;
        for number in 0..20 {
            rig.create(&format!("s{number}"));
            rig.pass(Duration::from_secs(1)).await;
        }
        // Its lease is renewed for as long as it leads, so there is never rest.
        rig.pass(Duration::from_secs(60)).await;
        let all = writers(&rig);
        let last_of_first = all.iter().filter(|(process, _)| *process == 1).map(|(_, at)| *at).max().unwrap();
        let first_of_second =
            all.iter().filter(|(process, _)| *process != 1).map(|(_, at)| *at).min().unwrap();
        assert!(last_of_first > 2_000, "the first wrote while it led");
        assert!(
            last_of_first < first_of_second,
            "the first wrote until {last_of_first}, the other from {first_of_second}"
        );
    });
}

/// Two replicas, of which the first keeps its lease or cannot renew it from 5 s on, while a sandbox is created each second. Every
/// write of a child or a status that is asked for between 8 and 13 s is on its way for nine seconds more. Gives back these, and what
/// came to something.
fn held(renews: bool) -> (Vec<String>, Vec<Outcome>) {
    simulate(async {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        let mut rig = elected(Rule(move |one: &Asked| {
            if !(8_000..13_000).contains(&one.at) || !writes(one) {
                return Fate::Serve;
            }
            kept.lock().unwrap().push(one.line.clone());
            Fate::Held(9_000)
        }));
        rig.world.world().cut = (!renews).then(|| (1, "leases/".to_owned(), 5_000));
        rig.start("operator-0");
        rig.pass(Duration::from_secs(1)).await;
        rig.start("operator-1");
        for number in 0..20 {
            rig.create(&format!("s{number}"));
            rig.pass(Duration::from_secs(1)).await;
        }
        rig.pass(Duration::from_secs(60)).await;
        let all: Vec<_> =
            rig.world.world().outcomes.iter().filter(|one| writes(&one.asked)).cloned().collect();
        let asked = asked.lock().unwrap().clone();
        (asked, all)
    })
}

#[test]
fn o_r14_a_write_that_is_under_way_is_given_up_when_the_tenure_ends_and_not_while_the_lease_is_renewed() {
    let (under_way, all) = held(false);
    let last = all.iter().filter(|one| one.process == 1).map(|one| one.asked.at).max().unwrap();
    let other = all.iter().filter(|one| one.process != 1).map(|one| one.asked.at).min().unwrap();
    assert!(!under_way.is_empty(), "writes were under way");
    assert!(last < other, "the first wrote until {last}, the other from {other}");
    let (under_way, all) = held(true);
    assert!(all.iter().all(|one| one.process == 1), "the control: the first leads");
    let late: Vec<&str> =
        all.iter().filter(|one| one.asked.at >= 17_000).map(|one| one.asked.line.as_str()).collect();
    assert!(!under_way.is_empty());
    for line in under_way {
        assert!(late.contains(&line.as_str()), "the control: {line} came to something");
    }
}

/// A repair of a policy document leaves a replica that dies at once, and is on its way for 20 s. Meanwhile another replica leads and
/// the sandbox is deleted, or is not. Gives back what became of the repair, and whether the document is there then.
fn late_repair(deleted: bool) -> (Option<u16>, bool) {
    let is_repair = |asked: &Asked| asked.line == "PATCH configmaps/a-policy";
    simulate(async {
        let asked = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&asked);
        let mut rig =
            elected(Rule(move |one: &Asked| match is_repair(one) && !told.swap(true, Ordering::Relaxed) {
                true => Fate::Slow(20_000),
                false => Fate::Serve,
            }));
        let first = rig.start("operator-0");
        rig.create("a");
        rig.ready("a").await;
        rig.world.act("user", |store| {
            let edit = json!({"data": {"policy.yaml": "{}"}});
            store.merge(&CONFIG_MAPS, Part::Main, (TEAM, "a-policy"), &edit).unwrap();
        });
        while !asked.load(Ordering::Relaxed) {
            rig.pass(Duration::from_millis(10)).await;
        }
        rig.kill(first);
        rig.start("operator-1");
        if deleted {
            rig.delete("a");
        }
        rig.pass(Duration::from_secs(30)).await;
        let world = rig.world.world();
        let late = world.outcomes.iter().find(|one| one.process == first && is_repair(&one.asked));
        (late.unwrap().code, world.store.get(&CONFIG_MAPS, TEAM, "a-policy").is_some())
    })
}

#[test]
fn o_r14_a_repair_that_arrives_late_makes_nothing_anew() {
    assert_eq!(late_repair(true), (Some(409), false));
    assert_eq!(late_repair(false), (Some(200), true), "the control: what is still there is repaired");
}

/// A replica is told to stop in the middle of a pass whose question is so long on its way, and the lease cannot be given back at once.
/// Gives back whether the question was still waited for when it arrived.
fn waits_for_its_pass(millis: u64) -> bool {
    let is_ours = |asked: &Asked| asked.line == "LIST pods" && asked.query.contains("sandbox-uid");
    simulate(async {
        let asked = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&asked);
        let mut rig = elected(Rule(move |one: &Asked| {
            if !is_ours(one) {
                return Fate::Serve;
            }
            told.store(true, Ordering::Relaxed);
            Fate::Held(millis)
        }));
        let first = rig.start("operator-0");
        rig.create("a");
        rig.ready("a").await;
        rig.delete("a");
        rig.pass(Duration::from_millis(500)).await;
        assert!(asked.load(Ordering::Relaxed), "a pass is under way");
        let now = rig.world.world().millis();
        rig.world.world().cut = Some((first, "leases/".to_owned(), now));
        rig.stop(first);
        rig.pass(Duration::from_secs(30)).await;
        let world = rig.world.world();
        world.outcomes.iter().any(|one| is_ours(&one.asked) && one.asked.at > now)
    })
}

#[test]
fn o_r14_a_pass_that_does_not_end_in_time_is_ended_before_the_lease_is_given_back() {
    assert!(!waits_for_its_pass(12_000));
    assert!(waits_for_its_pass(9_000), "the control: a pass may end");
}

#[test]
fn o_r14_a_wall_clock_that_is_ahead_takes_no_lease_that_is_renewed() {
    simulate(async {
        let mut rig = elected(faults::None);
        rig.start("operator-0");
        rig.pass(Duration::from_secs(1)).await;
        rig.ahead = Duration::from_secs(3600);
        rig.start("operator-1");
        rig.pass(Duration::from_secs(60)).await;
        assert_eq!(holder(&rig), "operator-0");
        let held = rig
            .world
            .world()
            .store
            .log
            .iter()
            .filter(|one| *one.kind == LEASES)
            .all(|one| text(&one.object, "/spec/holderIdentity") != "operator-1");
        assert!(held, "it was never the other's");
    });
}

#[test]
fn o_r14_a_lease_whose_holder_died_is_taken_once_it_has_run_out() {
    simulate(async {
        let mut rig = elected(faults::None);
        let first = rig.start("operator-0");
        rig.pass(Duration::from_secs(3)).await;
        rig.start("operator-1");
        rig.pass(Duration::from_secs(3)).await;
        rig.kill(first);
        let died = rig.world.world().millis();
        rig.until(Duration::from_secs(30), "a take-over", |store| {
            text(store.get(&LEASES, SYSTEM, "agentsandbox-operator").unwrap(), "/spec/holderIdentity")
                == "operator-1"
        })
        .await;
        let took = rig.world.world().millis() - died;
        assert!((7_000..15_000).contains(&took), "the lease was taken {took} ms after its holder died");
    });
}

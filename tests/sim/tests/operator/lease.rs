//! Two replicas and one lease.

use std::time::Duration;

use agentsandbox_operator::config::LeaderElection;
use agentsandbox_sim::faults;
use agentsandbox_sim::kinds::LEASES;
use agentsandbox_sim::objects::SYSTEM;
use agentsandbox_sim::rig::{Rig, simulate};
use agentsandbox_sim::store::text;

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

/// Who wrote anything but the lease, in order, each with the time.
fn writers(rig: &Rig) -> Vec<(u64, u64)> {
    let world = rig.world.world();
    let writes = world.outcomes.iter().filter(|one| {
        !["GET ", "LIST ", "WATCH "].iter().any(|verb| one.asked.line.starts_with(verb))
            && !one.asked.line.contains("leases/")
    });
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

//! Statuses: by whom they are written, from what, and for which generation.

use std::time::Duration;

use agentsandbox_sim::faults::{self, Storm};
use agentsandbox_sim::kinds::SANDBOXES;
use agentsandbox_sim::objects::TEAM;
use agentsandbox_sim::rig::{Rig, simulate};
use agentsandbox_sim::store::{Part, text};
use serde_json::json;

#[test]
fn o_r39_every_status_names_the_version_it_was_made_from_and_none_is_older_than_the_last() {
    for seed in 0..4 {
        simulate(async {
            let mut rig = Rig::running(seed, Storm { seed, during: 2_000..40_000 });
            rig.create("a");
            for round in 0..20 {
                rig.patch("a", &json!({"spec": {"agent": {"args": [round.to_string()]}}}));
                rig.pass(Duration::from_secs(2)).await;
            }
            rig.settle().await;
            let world = rig.world.world();
            let mut statuses = 0;
            for one in world.outcomes.iter().filter(|one| one.asked.line == "PATCH agentsandboxes/a/status") {
                assert!(!text(&one.body, "/metadata/resourceVersion").is_empty(), "{}", one.body);
                let generation = &one.body["status"]["observedGeneration"];
                let conditions = one.body["status"]["conditions"].as_array().unwrap();
                assert!(
                    generation.is_i64() && conditions.iter().all(|c| c["observedGeneration"] == *generation)
                );
                statuses += 1;
            }
            assert!(statuses > 0, "seed {seed} wrote no status");
            let revisions =
                world.store.log.iter().filter(|one| *one.kind == SANDBOXES && one.by == "operator");
            let seen: Vec<i64> =
                revisions.filter_map(|one| one.object["status"]["observedGeneration"].as_i64()).collect();
            assert!(seen.is_sorted(), "seed {seed}: {seen:?}");
        });
    }
}

#[test]
fn o_r40_whenever_a_status_says_ready_it_speaks_of_the_generation_that_is_there() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create("a");
        let mut ready = 0;
        for round in 0..12_u64 {
            rig.ready("a").await;
            rig.patch("a", &json!({"spec": {"egress": {"allow": [{"host": format!("h{round}.test")}]}}}));
            rig.pass(Duration::from_millis(7 * round)).await;
        }
        rig.ready("a").await;
        rig.settle().await;
        for one in
            rig.world.world().store.log.iter().filter(|one| *one.kind == SANDBOXES && one.by == "operator")
        {
            let conditions = one.object["status"]["conditions"].as_array().into_iter().flatten();
            for condition in conditions.filter(|c| c["type"] == "Ready" && c["status"] == "True") {
                assert_eq!(condition["observedGeneration"], one.object["metadata"]["generation"]);
                ready += 1;
            }
        }
        assert!(ready >= 12, "it was called ready {ready} times");
    });
}

/// How long a sandbox takes to be ready while somebody edits it every 50 ms.
fn readiness(edits: bool) -> u64 {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.pass(Duration::from_secs(2)).await;
        let begin = rig.world.world().millis();
        rig.create("a");
        for round in 0..200_u64 {
            if !edits {
                break;
            }
            rig.world.at(begin + 50 * round, move |store| {
                let label = json!({"metadata": {"labels": {"acme.test/round": round.to_string()}}});
                let _ = store.merge(&SANDBOXES, Part::Main, (TEAM, "a"), &label);
                let status = json!({"status": {"className": format!("c{round}")}});
                let _ = store.merge(&SANDBOXES, Part::Status, (TEAM, "a"), &status);
            });
        }
        rig.ready("a").await;
        let took = rig.world.world().millis() - begin;
        rig.pass(Duration::from_secs(25)).await;
        rig.settle().await;
        took
    })
}

#[test]
fn o_r8_edits_of_labels_and_status_every_fifty_milliseconds_do_not_starve_the_operator() {
    let (alone, edited) = (readiness(false), readiness(true));
    assert!(
        edited < 3 * alone + 2_000,
        "ready after {edited} ms beside an editor, and after {alone} ms without"
    );
}

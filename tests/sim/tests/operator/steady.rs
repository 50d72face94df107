//! What the operator asks for where nothing goes wrong.

use std::time::Duration;

use agentsandbox_sim::faults;
use agentsandbox_sim::kinds::SANDBOXES;
use agentsandbox_sim::objects::TEAM;
use agentsandbox_sim::rig::{Rig, simulate};
use serde_json::{Value, json};

/// What a sandbox is created with, from the moment it is there until it is ready. The two reads look for pods whose labels were
/// taken off, which no watch shows.
const CREATION: &[&str] = &[
    "GET pods/a-agent",
    "GET pods/a-proxy",
    "PATCH agentsandboxes/a",
    "PATCH agentsandboxes/a/status",
    "PATCH agentsandboxes/a/status",
    "PATCH services/a-proxy",
    "POST configmaps/a-policy",
    "POST events/a.Running",
    "POST networkpolicies/a-agent",
    "POST networkpolicies/a-proxy",
    "POST pods/a-agent",
    "POST pods/a-proxy",
    "POST secrets/a-keys-edfa673d28",
    "POST serviceaccounts/a-agent",
    "POST serviceaccounts/a-proxy",
    "POST services/a-proxy",
];

#[test]
fn o_r6_ten_forced_passes_over_a_settled_sandbox_write_nothing() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create("a");
        rig.ready("a").await;
        rig.settle().await;
        let from = rig.asked().len();
        for round in 0..10 {
            rig.patch("a", &json!({"metadata": {"annotations": {"acme.test/round": round.to_string()}}}));
            rig.pass(Duration::from_secs(1)).await;
        }
        assert_eq!(rig.writes(from), [""; 0]);
        rig.patch("a", &json!({"spec": {"agent": {"args": ["other"]}}}));
        rig.pass(Duration::from_secs(5)).await;
        assert!(!rig.writes(from).is_empty(), "the control is a pass that has something to write");
    });
}

/// What ten passes over a sandbox that settled write, all of which are forced.
async fn ten_forced_passes(rig: &mut Rig) -> Vec<String> {
    rig.settle().await;
    let from = rig.asked().len();
    for round in 0..10 {
        rig.patch("a", &json!({"metadata": {"annotations": {"acme.test/round": round.to_string()}}}));
        rig.pass(Duration::from_secs(1)).await;
    }
    assert!(rig.asked().len() >= from + 10, "there were passes");
    rig.writes(from)
}

#[test]
fn o_r6_ten_forced_passes_over_a_suspended_or_a_finished_sandbox_write_nothing() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create("a");
        rig.ready("a").await;
        rig.patch("a", &json!({"spec": {"lifecycle": {"state": "Suspended"}}}));
        rig.suspended("a").await;
        assert_eq!(ten_forced_passes(&mut rig).await, [""; 0]);
        let from = rig.asked().len();
        rig.patch("a", &json!({"spec": {"lifecycle": {"state": "Running"}}}));
        rig.runs("a").await;
        assert!(!rig.writes(from).is_empty(), "the control is resumed");
    });
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create_task("a", 3);
        rig.finished("a").await;
        assert_eq!(ten_forced_passes(&mut rig).await, [""; 0]);
    });
}

#[test]
fn o_r17_a_sandbox_is_created_with_the_recorded_requests_and_no_more() {
    let asked = simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.pass(Duration::from_secs(2)).await;
        let from = rig.asked().len();
        rig.create("a");
        rig.ready("a").await;
        rig.settle().await;
        let all = rig.asked().split_off(from);
        all.into_iter().filter(|line| !line.starts_with("WATCH")).collect::<Vec<_>>()
    });
    let mut sorted = asked.clone();
    sorted.sort();
    assert_eq!(sorted, CREATION, "as asked: {asked:#?}");
}

/// The picture without what counts generations: the policy document names one too, and its hash is in an annotation.
fn ungenerated(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let counts = ["generation", "observedGeneration", "agentsandbox.dev/policy-hash"];
            let kept = map.iter().filter(|(key, _)| !counts.contains(&key.as_str()));
            kept.map(|(key, value)| (key.clone(), ungenerated(value))).collect()
        }
        Value::String(text) if text.contains("policy.agentsandbox.dev/v1") => {
            text.lines().filter(|line| !line.starts_with("  \"generation\": ")).collect()
        }
        Value::Array(items) => items.iter().map(ungenerated).collect(),
        other => other.clone(),
    }
}

#[test]
fn o_r19_good_then_bad_then_good_ends_as_the_first_good_one() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create("a");
        rig.ready("a").await;
        rig.settle().await;
        let good = ungenerated(&rig.picture());
        let nameless = json!({"spec": {"egress": {"allow": [{"host": "x.test", "credential": "missing"}]}}});
        for bad in [json!({"spec": {"className": "missing"}}), nameless] {
            let before = rig.world.world().store.get(&SANDBOXES, TEAM, "a").unwrap()["spec"].clone();
            rig.patch("a", &bad);
            rig.pass(Duration::from_secs(5)).await;
            let status = rig.world.world().store.get(&SANDBOXES, TEAM, "a").unwrap()["status"].to_string();
            assert!(
                status.contains("\"Stalled\"") && !rig.picture().to_string().contains("pods team/a-agent"),
                "{status}"
            );
            rig.patch("a", &json!({"spec": before}));
            rig.ready("a").await;
            rig.settle().await;
            assert_eq!(ungenerated(&rig.picture()), good, "after {bad}");
        }
    });
}

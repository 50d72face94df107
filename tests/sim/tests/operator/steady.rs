//! What the operator asks for where nothing goes wrong.

use std::time::Duration;

use agentsandbox_sim::faults;
use agentsandbox_sim::rig::{Rig, simulate};
use serde_json::json;

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

//! How many passes it takes.

use std::time::Duration;

use agentsandbox_sim::faults;
use agentsandbox_sim::rig::{Rig, simulate};

/// Sandboxes that are created at once.
const FEW: usize = 5;
const MANY: usize = 50;

/// Passes over `count` sandboxes that are created at once in one namespace, until nothing happens any more.
fn passes(count: usize, schedules: bool) -> usize {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
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
        let (few, many) = (passes(FEW, schedules), passes(MANY, schedules));
        assert!(few >= FEW, "the control is that passes are counted");
        assert!(many * FEW <= few * MANY, "{many} passes over {MANY}, {few} over {FEW}");
    }
}

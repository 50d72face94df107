//! Namespaces that end.

use std::time::Duration;

use agentsandbox_sim::faults;
use agentsandbox_sim::kinds::NAMESPACES;
use agentsandbox_sim::objects::TEAM;
use agentsandbox_sim::rig::{Rig, simulate};
use agentsandbox_sim::store::Deletion;

#[test]
fn o_t10_a_namespace_that_is_deleted_while_sandboxes_are_created_ends_without_a_hot_loop() {
    for after in [0, 3, 8, 15, 30, 60, 120, 400, 3000] {
        simulate(async {
            let mut rig = Rig::running(1, faults::None);
            rig.pass(Duration::from_secs(1)).await;
            let from = rig.asked().len();
            for name in ["a", "b", "c"] {
                rig.create(name);
            }
            rig.create_task("t", 0);
            rig.pass(Duration::from_millis(after)).await;
            rig.world
                .act("user", |store| store.delete(&NAMESPACES, ("", TEAM), &Deletion::default()).unwrap());
            let empty = |store: &agentsandbox_sim::store::Store| store.get(&NAMESPACES, "", TEAM).is_none();
            rig.until(Duration::from_secs(60), "the namespace's end", empty).await;
            rig.pass(Duration::from_secs(60)).await;
            let refused = {
                let world = rig.world.world();
                world.outcomes.iter().skip(from).filter(|one| one.code == Some(403)).count()
            };
            assert!(refused <= 40, "after {after} ms: {refused} refused requests for 4 sandboxes");
            rig.settle().await;
        });
    }
}

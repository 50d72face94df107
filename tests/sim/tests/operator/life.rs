//! Lives that end: by the program's own end, by time, and by the time for which what is over is kept.

use std::time::Duration;

use agentsandbox_sim::faults;
use agentsandbox_sim::kinds::{PODS, POLICIES, SANDBOXES};
use agentsandbox_sim::objects::{self, TEAM};
use agentsandbox_sim::rig::{Rig, simulate};
use agentsandbox_sim::store::{Change, Deletion, Store, has_ended, is_ending, text};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

fn create(rig: &Rig, mut object: Value, lifecycle: Value) {
    object["spec"]["lifecycle"] = lifecycle;
    rig.world.act("user", |store| objects::create(store, object));
}

fn program(rig: &Rig) -> Value {
    rig.world.world().store.get(&SANDBOXES, TEAM, "a").unwrap()["status"]["program"].clone()
}

/// How many pods of agents were ever created.
fn agents_made(rig: &Rig) -> usize {
    let world = rig.world.world();
    let made = world.store.log.iter().filter(|one| *one.kind == PODS && one.change == Change::Added);
    made.filter(|one| text(&one.object, "/metadata/name") == "a-agent").count()
}

fn pods(store: &Store) -> Vec<String> {
    store.all(&PODS).map(|pod| text(pod, "/metadata/name").to_owned()).collect()
}

#[test]
fn a_task_runs_once_and_its_pod_stays_with_what_came_of_it() {
    for (code, ready, reason) in [(0, "True", "Succeeded"), (3, "False", "Failed")] {
        simulate(async {
            let mut rig = Rig::running(1, faults::None);
            rig.create_task("a", code);
            rig.finished("a").await;
            rig.settle().await;
            assert_eq!(program(&rig)["exitCode"], code);
            assert_eq!(program(&rig)["lastWords"], "that was it");
            assert_eq!(agents_made(&rig), 1);
            let world = rig.world.world();
            assert_eq!(pods(&world.store), ["a-agent"]);
            assert!(has_ended(world.store.get(&PODS, TEAM, "a-agent").unwrap()));
            let sandbox = world.store.get(&SANDBOXES, TEAM, "a").unwrap().clone();
            let conditions = sandbox["status"]["conditions"].as_array().unwrap();
            let told = conditions.iter().find(|one| one["type"] == "Ready").unwrap();
            assert_eq!((told["status"].as_str(), told["reason"].as_str()), (Some(ready), Some(reason)));
        });
    }
}

#[test]
fn a_task_whose_pod_is_deleted_while_it_runs_is_started_again_and_one_that_is_over_is_not() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create_task("a", 0);
        rig.ready("a").await;
        let delete = |rig: &Rig| {
            rig.world.act("user", |store| {
                store.delete(&PODS, (TEAM, "a-agent"), &Deletion::default()).unwrap();
            });
        };
        delete(&rig);
        rig.finished("a").await;
        assert_eq!(agents_made(&rig), 2);
        rig.settle().await;
        delete(&rig);
        rig.patch("a", &json!({"spec": {"agent": {"args": ["7"]}}}));
        rig.settle().await;
        assert_eq!(agents_made(&rig), 2, "a result is final");
        assert_eq!(program(&rig)["exitCode"], 0);
    });
}

/// Its operator dies and another comes; it ends when its time is up all the same.
async fn ends_after_90_seconds_under_another_operator(rig: &mut Rig) {
    rig.kill(1);
    rig.pass(Duration::from_secs(5)).await;
    rig.start("operator-0");
    rig.finished("a").await;
    rig.settle().await;
    let time = |at: &str| -> Timestamp { text(&program(rig), at).parse().unwrap() };
    let lived = time("/finishedAt").duration_since(time("/startedAt"));
    assert!((90_000..91_000).contains(&lived.as_millis()), "it lived for {lived}");
    assert_eq!(program(rig)["reason"], "LifetimeExceeded");
}

#[test]
fn a_life_ends_on_time_though_its_pods_and_its_operator_went_in_between() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        create(&rig, objects::sandbox("a"), json!({"maxLifetime": "1m30s"}));
        rig.ready("a").await;
        rig.pass(Duration::from_secs(30)).await;
        rig.world.act("user", |store| store.delete(&PODS, (TEAM, "a-agent"), &Deletion::default()).unwrap());
        rig.pass(Duration::from_secs(30)).await;
        ends_after_90_seconds_under_another_operator(&mut rig).await;
        assert_eq!(agents_made(&rig), 2);
        assert_eq!(pods(&rig.world.world().store), [""; 0]);
        rig.patch("a", &json!({"spec": {"lifecycle": null}}));
        rig.settle().await;
        assert_eq!(agents_made(&rig), 2, "it is final");
    });
}

#[test]
fn one_run_of_a_task_ends_on_time_and_a_run_after_an_eviction_has_all_of_it_again() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.world.world().node.program_takes = 3_600_000;
        create(&rig, objects::task("a", 0), json!({"mode": "Task", "activeDeadline": "1m30s"}));
        rig.ready("a").await;
        rig.pass(Duration::from_secs(60)).await;
        rig.world.act("node", |store| objects::evict(store, "a-agent").unwrap());
        rig.pass(Duration::from_secs(60)).await;
        assert_eq!(program(&rig), Value::Null, "another run began");
        rig.kill(1);
        rig.pass(Duration::from_secs(5)).await;
        rig.start("operator-0");
        rig.finished("a").await;
        rig.settle().await;
        assert_eq!(program(&rig)["reason"], "DeadlineExceeded");
        let time = |at: &str| -> Timestamp { text(&program(&rig), at).parse().unwrap() };
        let ran = time("/finishedAt").duration_since(time("/startedAt"));
        assert!((90_000..91_000).contains(&ran.as_millis()), "it ran for {ran}");
        assert_eq!((agents_made(&rig), pods(&rig.world.world().store)), (2, vec![]));
    });
}

#[test]
fn what_is_over_is_deleted_once_its_time_has_passed_and_nothing_is_left_of_it() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        create(&rig, objects::task("a", 3), json!({"mode": "Task", "ttlAfterFinished": "40s"}));
        rig.finished("a").await;
        rig.pass(Duration::from_secs(35)).await;
        assert!(rig.world.world().store.get(&SANDBOXES, TEAM, "a").is_some());
        rig.pass(Duration::from_secs(10)).await;
        assert!(rig.world.world().store.get(&SANDBOXES, TEAM, "a").is_none(), "{}", rig.recently());
        rig.settle().await;
        assert_eq!(pods(&rig.world.world().store), [""; 0]);
    });
}

/// What a sandbox is changed to.
fn state(rig: &Rig, state: &str) {
    rig.patch("a", &json!({"spec": {"lifecycle": {"state": state}}}));
}

/// The UID of the agent's pod.
fn agent_uid(rig: &Rig) -> String {
    let world = rig.world.world();
    text(world.store.get(&PODS, TEAM, "a-agent").unwrap(), "/metadata/uid").to_owned()
}

#[test]
fn a_suspended_sandbox_has_walls_and_no_pod_and_one_that_is_resumed_has_new_ones() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create("a");
        rig.ready("a").await;
        let before = agent_uid(&rig);
        state(&rig, "Suspended");
        rig.suspended("a").await;
        rig.settle().await;
        assert_eq!(pods(&rig.world.world().store), [""; 0]);
        for wall in ["a-agent", "a-proxy"] {
            assert!(rig.world.world().store.get(&POLICIES, TEAM, wall).is_some(), "{wall}");
            rig.world.act("user", |store| {
                store.delete(&POLICIES, (TEAM, wall), &Deletion::default()).unwrap();
            });
        }
        rig.settle().await;
        let stands = |wall: &str| {
            let world = rig.world.world();
            world.store.get(&POLICIES, TEAM, wall).is_some_and(|one| !is_ending(one))
        };
        assert!(stands("a-agent") && stands("a-proxy"), "what somebody deletes is put back");
        state(&rig, "Running");
        rig.runs("a").await;
        rig.settle().await;
        assert_ne!(agent_uid(&rig), before);
        assert_eq!(agents_made(&rig), 2);
    });
}

#[test]
fn a_sandbox_that_is_made_suspended_starts_nothing_until_it_is_resumed() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        create(&rig, objects::sandbox("a"), json!({"state": "Suspended"}));
        rig.suspended("a").await;
        rig.settle().await;
        assert_eq!(agents_made(&rig), 0);
        state(&rig, "Running");
        rig.runs("a").await;
    });
}

#[test]
fn a_task_that_is_suspended_begins_anew_and_one_that_was_over_stays_so() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create_task("a", 0);
        rig.ready("a").await;
        state(&rig, "Suspended");
        rig.suspended("a").await;
        rig.settle().await;
        assert_eq!((program(&rig), agents_made(&rig)), (Value::Null, 1), "to be stopped is no end");
        state(&rig, "Running");
        rig.finished("a").await;
        assert_eq!((&program(&rig)["exitCode"], agents_made(&rig)), (&json!(0), 2));
        for to in ["Suspended", "Running"] {
            state(&rig, to);
            rig.settle().await;
        }
        assert_eq!(agents_made(&rig), 2, "a result is final");
        assert_eq!(pods(&rig.world.world().store), ["a-agent"], "and its log stays");
    });
}

#[test]
fn the_life_of_a_suspended_sandbox_goes_on_and_ends_on_time() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        create(&rig, objects::sandbox("a"), json!({"maxLifetime": "1m30s"}));
        rig.ready("a").await;
        state(&rig, "Suspended");
        rig.suspended("a").await;
        ends_after_90_seconds_under_another_operator(&mut rig).await;
    });
}

#[test]
fn an_end_that_nobody_saw_is_told_though_its_pod_was_deleted_long_after_and_one_that_is_doubtful_is_not() {
    for (after, made) in [(100, 1), (10, 2)] {
        simulate(async {
            let mut rig = Rig::running(1, faults::None);
            rig.create_task("a", 3);
            rig.ready("a").await;
            rig.kill(1);
            rig.pass(Duration::from_secs(after)).await;
            rig.world.act("user", |store| {
                store.delete(&PODS, (TEAM, "a-agent"), &Deletion::default()).unwrap();
            });
            rig.pass(Duration::from_secs(5)).await;
            assert_eq!(pods(&rig.world.world().store).len(), 2, "it is kept while no operator looks");
            rig.start("operator-0");
            rig.finished("a").await;
            rig.settle().await;
            assert_eq!((agents_made(&rig), &program(&rig)["exitCode"]), (made, &json!(3)));
            let left = if made == 1 { vec![] } else { vec!["a-agent".to_owned()] };
            assert_eq!(pods(&rig.world.world().store), left);
        });
    }
}

#[test]
fn a_task_that_is_over_can_be_rid_of_its_pod_though_no_operator_runs() {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        rig.create_task("a", 0);
        rig.finished("a").await;
        rig.settle().await;
        rig.kill(1);
        rig.world.act("user", |store| {
            store.delete(&PODS, (TEAM, "a-agent"), &Deletion::default()).unwrap();
        });
        rig.pass(Duration::from_secs(5)).await;
        assert_eq!(pods(&rig.world.world().store), [""; 0]);
    });
}

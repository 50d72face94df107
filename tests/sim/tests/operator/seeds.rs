//! Seeds: everything goes wrong at times, for half a minute; then nothing does, and everything must come right.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use agentsandbox_sim::faults::{Storm, hash};
use agentsandbox_sim::kinds::{CLAIMS, PODS, POLICIES, SANDBOXES};
use agentsandbox_sim::objects::{self, TEAM};
use agentsandbox_sim::rig::{Rig, is_finished, is_ready, is_ready_for, simulate};
use agentsandbox_sim::store::{Deletion, Part, Store};
use agentsandbox_sim::world::Shared;
use serde_json::{Value, json};

/// Seeds of an ordinary run; a night plays 10,000. `SEEDS` asks for more, `FROM` for others, and `SEED` for one, whose
/// requests are printed.
const SEEDS: u64 = 300;
/// Seeds that are played twice.
const REPLAYED: std::ops::Range<u64> = 0..2;
const NAMES: [&str; 2] = ["a", "b"];
/// Milliseconds in which things go wrong, and in which users and nodes do something.
const STORM: std::ops::Range<u64> = 2_000..32_000;

/// One thing that a user or the node does.
fn deed(store: &mut Store, draw: u64) {
    let name = NAMES[usize::try_from(draw % 2).unwrap()];
    let at = (TEAM, name);
    let round = (draw >> 8) % 5;
    // What is not there cannot be changed, and that is no failure.
    let _ = match (draw >> 4) % 10 {
        0 | 1 => store.create(&SANDBOXES, None, objects::sandbox(name), false),
        2 => store.merge(
            &SANDBOXES,
            Part::Main,
            at,
            &json!({"spec": {"agent": {"args": [round.to_string()]}}}),
        ),
        3 => store.merge(
            &SANDBOXES,
            Part::Main,
            at,
            &json!({"spec": {"egress": {"allow": [{"host": format!("h{round}.test")}]}}}),
        ),
        4 => store.delete(&SANDBOXES, at, &Deletion::default()),
        5 => store.merge(
            &SANDBOXES,
            Part::Status,
            at,
            &json!({"status": {"className": "x", "conditions": []}}),
        ),
        6 => {
            let pod = format!("{name}-{}", if round.is_multiple_of(2) { "agent" } else { "proxy" });
            store.merge(
                &PODS,
                Part::Status,
                (TEAM, &pod),
                &json!({"status": {"phase": "Failed", "conditions": []}}),
            )
        }
        7 | 8 => {
            let wall = format!("{name}-{}", if round.is_multiple_of(2) { "agent" } else { "proxy" });
            store.delete(&POLICIES, (TEAM, &wall), &Deletion::default())
        }
        _ => {
            let pod = format!("{name}-{}", if round.is_multiple_of(2) { "agent" } else { "proxy" });
            store.delete(&PODS, (TEAM, &pod), &Deletion::default())
        }
    };
}

/// The sandbox whose program runs once.
const TASK: &str = "t";

/// One thing that a user or the node does to it. Its result is not taken off together with the pod that shows it.
fn deed_to_task(store: &mut Store, draw: u64) {
    let pod = (TEAM, if (draw >> 9).is_multiple_of(3) { "t-proxy" } else { "t-agent" });
    let round = (draw >> 12) % 5;
    let _ = match (draw >> 4) % 9 {
        0..=2 => store.create(&SANDBOXES, None, objects::task(TASK, 3), false),
        3 => store.delete(&SANDBOXES, (TEAM, TASK), &Deletion::default()),
        4 => store.delete(&PODS, pod, &Deletion::default()),
        // Whoever evicts it ends its program too.
        5 => objects::evict(store, pod.1),
        6 => store.delete(&POLICIES, (TEAM, pod.1), &Deletion::default()),
        7 => store.merge(
            &SANDBOXES,
            Part::Main,
            (TEAM, TASK),
            &json!({"spec": {"agent": {"args": [round.to_string()]}}}),
        ),
        _ => store.merge(
            &SANDBOXES,
            Part::Status,
            (TEAM, TASK),
            &json!({"status": {"className": "x", "conditions": []}}),
        ),
    };
}

/// The sandbox whose time is up after 15 seconds.
const BRIEF: &str = "l";
/// The sandbox that is deleted 5 seconds after the end of its program.
const FLEETING: &str = "x";

fn limited(name: &str) -> Value {
    let mut object = objects::task(name, 0);
    object["spec"]["lifecycle"] = match name {
        BRIEF => json!({"maxLifetime": "15s"}),
        _ => json!({"mode": "Task", "ttlAfterFinished": "5s"}),
    };
    object
}

/// One thing that a user or the node does to one of those. What was told of its start, and of its end where that was its time, is found
/// again.
fn deed_to_limited(store: &mut Store, draw: u64) {
    let name = if draw.is_multiple_of(2) { BRIEF } else { FLEETING };
    let pod = format!("{name}-{}", if (draw >> 9).is_multiple_of(2) { "agent" } else { "proxy" });
    let cut = if name == BRIEF {
        json!({"status": {"startedAt": null, "program": null}})
    } else {
        json!({"status": {"startedAt": null}})
    };
    let _ = match (draw >> 4) % 8 {
        0..=2 => store.create(&SANDBOXES, None, limited(name), false),
        3 => store.delete(&SANDBOXES, (TEAM, name), &Deletion::default()),
        4 => store.delete(&PODS, (TEAM, &pod), &Deletion::default()),
        5 => objects::evict(store, &pod),
        _ => store.merge(&SANDBOXES, Part::Status, (TEAM, name), &cut),
    };
}

/// The sandbox that is suspended and resumed.
const NAPPING: &str = "s";

/// One thing that a user or the node does to it.
fn deed_to_napping(store: &mut Store, draw: u64) {
    let at = (TEAM, NAPPING);
    let pod = format!("s-{}", if (draw >> 9).is_multiple_of(2) { "agent" } else { "proxy" });
    let state = |state: &str| json!({"spec": {"lifecycle": {"state": state}}});
    let _ = match (draw >> 4) % 9 {
        0 | 1 => store.create(&SANDBOXES, None, objects::sandbox(NAPPING), false),
        2 | 3 => store.merge(&SANDBOXES, Part::Main, at, &state("Suspended")),
        4 => store.merge(&SANDBOXES, Part::Main, at, &state("Running")),
        5 => store.delete(&PODS, (TEAM, &pod), &Deletion::default()),
        6 => store.delete(&POLICIES, (TEAM, &pod), &Deletion::default()),
        7 => store.merge(
            &SANDBOXES,
            Part::Status,
            at,
            &json!({"status": {"className": "x", "conditions": []}}),
        ),
        _ => store.delete(&SANDBOXES, at, &Deletion::default()),
    };
}

/// In the end it is suspended, and then it runs.
async fn nap(rig: &mut Rig, seed: u64) {
    for (state, reason) in [("Suspended", "Suspended"), ("Running", "Running")] {
        rig.world.act("user", |store| {
            let _ = store.create(&SANDBOXES, None, objects::sandbox(NAPPING), false);
            let state = json!({"spec": {"lifecycle": {"state": state}}});
            let _ = store.merge(&SANDBOXES, Part::Main, (TEAM, NAPPING), &state);
        });
        rig.pass(Duration::from_secs(90)).await;
        let is_so = is_ready_for(&rig.world.world().store, NAPPING, reason);
        assert!(is_so, "seed {seed}: {NAPPING} is not {reason}: {}", rig.recently());
    }
}

/// The sandbox whose work outlasts its pods.
const LASTING: &str = "p";
const CLAIM: (&str, &str) = (TEAM, "p-workspace");

/// One thing that a user or the node does to it or to its claim.
fn deed_to_lasting(store: &mut Store, draw: u64) {
    let at = (TEAM, LASTING);
    let is_odd = !(draw >> 9).is_multiple_of(2);
    let when = if is_odd { "Delete" } else { "Retain" };
    let state = if is_odd { "Suspended" } else { "Running" };
    let round = (draw >> 12) % 5;
    let _ = match (draw >> 4) % 14 {
        0..=2 => store.create(&SANDBOXES, None, objects::persistent(LASTING, when), false),
        3 => {
            let said = json!({"spec": {"workspace": {"persistent": {"whenDeleted": when}}}});
            store.merge(&SANDBOXES, Part::Main, at, &said)
        }
        4 => store.merge(
            &SANDBOXES,
            Part::Main,
            at,
            &json!({"spec": {"agent": {"args": [round.to_string()]}}}),
        ),
        5 => {
            let adds = is_odd.then_some("foregroundDeletion");
            store.delete(&SANDBOXES, at, &Deletion { adds, ..Deletion::default() })
        }
        6 | 7 => store.delete(&CLAIMS, CLAIM, &Deletion::default()),
        8 => {
            // Whoever may write claims takes the protection off one, and puts his own in its place.
            let _ = store.merge(&CLAIMS, Part::Main, CLAIM, &json!({"metadata": {"finalizers": null}}));
            let _ = store.delete(&CLAIMS, CLAIM, &Deletion::default());
            let theirs = json!({"metadata": {"name": CLAIM.1, "namespace": CLAIM.0}, "spec": {"volumeName": "theirs"}});
            store.create(&CLAIMS, None, theirs, false)
        }
        9 => store.merge(
            &SANDBOXES,
            Part::Main,
            at,
            &json!({"spec": {"workspace": {"persistent": {"size": format!("{}Gi", 2 + round)}}}}),
        ),
        10 => objects::evict(store, "p-agent"),
        11 | 12 => store.merge(&SANDBOXES, Part::Main, at, &json!({"spec": {"lifecycle": {"state": state}}})),
        _ => store.delete(&PODS, (TEAM, "p-agent"), &Deletion::default()),
    };
}

/// There is such a sandbox that is to run, and nobody else's claim is in its way.
fn free_lasting(store: &mut Store) {
    let _ = store.create(&SANDBOXES, None, objects::persistent(LASTING, "Delete"), false);
    let running = json!({"spec": {"lifecycle": {"state": "Running"}}});
    let _ = store.merge(&SANDBOXES, Part::Main, (TEAM, LASTING), &running);
    let of = store.get(&SANDBOXES, TEAM, LASTING).map(|sandbox| sandbox["metadata"]["uid"].clone());
    let claim = store.get(&CLAIMS, CLAIM.0, CLAIM.1);
    let whose = claim.map(|claim| claim["metadata"]["labels"]["agentsandbox.dev/sandbox-uid"].clone());
    if whose.is_some() && whose != of {
        let _ = store.delete(&CLAIMS, CLAIM, &Deletion::default());
    }
}

/// In the end it runs, on a claim of its own.
async fn last(rig: &mut Rig, seed: u64) {
    rig.world.act("user", free_lasting);
    rig.pass(Duration::from_secs(30)).await;
    let is_so = {
        let world = rig.world.world();
        let sandbox = world.store.get(&SANDBOXES, TEAM, LASTING);
        let claim = world.store.get(&CLAIMS, CLAIM.0, CLAIM.1);
        let whose = claim.map(|claim| &claim["metadata"]["labels"]["agentsandbox.dev/sandbox-uid"]);
        let of = sandbox.map(|sandbox| &sandbox["metadata"]["uid"]);
        is_ready(&world.store, LASTING) && whose.is_some() && whose == of
    };
    assert!(is_so, "seed {seed}: {LASTING} does not run on its claim: {}", rig.recently());
}

/// Prints the lines that were kept of a play that fails: nobody is handed them.
struct Told(Shared);

impl Drop for Told {
    #[allow(clippy::print_stdout, reason = "whoever asks for one seed reads its lines")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.world().lines.iter().flatten().for_each(|line| print!("{line}"));
        }
    }
}

/// Lets somebody do this so many times while things go wrong.
fn strew(rig: &Rig, seed: u64, count: u64, what: &str, deed: fn(&mut Store, u64)) {
    for number in 0..count {
        let draw = hash(seed, &format!("{what} {number}"));
        let at = STORM.start + (draw >> 16) % (STORM.end - STORM.start);
        rig.world.at(at, move |store| deed(store, draw));
    }
}

/// Plays a seed; answers with a line for each request and each revision, if they are kept.
fn play(seed: u64, kept: Option<Vec<String>>) -> Vec<String> {
    simulate(async {
        let mut rig = Rig::new(seed, Storm { seed, during: STORM });
        rig.world.world().lines = kept;
        let _told = Told(rig.world.clone());
        rig.start("operator-0");
        strew(&rig, seed, 16, "deed", deed);
        strew(&rig, seed, 8, "deed to a task", deed_to_task);
        strew(&rig, seed, 8, "deed to a limited one", deed_to_limited);
        strew(&rig, seed, 8, "deed to a napping one", deed_to_napping);
        strew(&rig, seed, 12, "deed to a lasting one", deed_to_lasting);
        rig.pass(Duration::from_millis(STORM.end)).await;
        // In the end each is there, so that coming right means something.
        for name in NAMES {
            rig.world.act("user", |store| {
                let _ = store.create(&SANDBOXES, None, objects::sandbox(name), false);
            });
        }
        // Of a claim that bears no labels of ours no watch shows the end, and it is looked for again after a while.
        rig.world.act("user", free_lasting);
        rig.world.act("user", |store| {
            for object in [objects::task(TASK, 3), limited(BRIEF), limited(FLEETING)] {
                let _ = store.create(&SANDBOXES, None, object, false);
            }
        });
        rig.pass(Duration::from_secs(330)).await;
        if rig.world.world().store.get(&SANDBOXES, TEAM, TASK).is_none() {
            rig.create_task(TASK, 3);
            rig.pass(Duration::from_secs(30)).await;
        }
        let lasts = rig.world.world().store.get(&SANDBOXES, TEAM, FLEETING).is_some();
        assert!(!lasts, "seed {seed}: {FLEETING} is kept too long: {}", rig.recently());
        let late = rig
            .world
            .world()
            .store
            .get(&SANDBOXES, TEAM, BRIEF)
            .is_some_and(|sandbox| sandbox["status"]["program"]["reason"] != "LifetimeExceeded");
        assert!(!late, "seed {seed}: {BRIEF} lives too long: {}", rig.recently());
        let over = is_finished(&rig.world.world().store, TASK);
        assert!(over, "seed {seed}: {TASK} is not over: {}", rig.recently());
        last(&mut rig, seed).await;
        nap(&mut rig, seed).await;
        for name in NAMES {
            let there = rig.world.world().store.get(&SANDBOXES, TEAM, name).is_some();
            if !there {
                rig.create(name);
                rig.pass(Duration::from_secs(30)).await;
            }
            let ready = is_ready(&rig.world.world().store, name);
            assert!(ready, "seed {seed}: {name} is not ready: {}", rig.recently());
        }
        rig.settle().await;
        rig.world.world().lines.take().unwrap_or_default()
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|value| value.parse().ok())
}

/// Plays each seed on whichever core is free; answers with those that fail.
fn play_all(seeds: std::ops::Range<u64>) -> Vec<u64> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = AtomicU64::new(seeds.start);
    let player = || {
        let mut failing = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return failing;
            }
            if std::panic::catch_unwind(|| play(seed, None)).is_err() {
                failing.push(seed);
            }
        }
    };
    let mut failing: Vec<u64> = std::thread::scope(|scope| {
        let players: Vec<_> = (0..cores).map(|_| scope.spawn(player)).collect();
        players.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    failing.sort_unstable();
    failing
}

#[test]
fn o_r29_every_seed_holds_the_invariants_and_comes_right_in_the_end() {
    if let Some(seed) = number("SEED") {
        play(seed, Some(Vec::new())).iter().for_each(|line| print!("{line}"));
        return;
    }
    let from = number("FROM").unwrap_or(0);
    let failing = play_all(from..from + number("SEEDS").unwrap_or(SEEDS));
    assert!(
        failing.is_empty(),
        "seeds {failing:?} fail; SEED=N plays one again and prints it, and what each says stands above"
    );
}

#[test]
fn o_r29_a_seed_replays_bit_for_bit_and_another_does_not() {
    for seed in number("SEED").map_or(REPLAYED, |seed| seed..seed + 1) {
        let (first, second) = (play(seed, Some(Vec::new())), play(seed, Some(Vec::new())));
        let differs = first.iter().zip(&second).position(|(a, b)| a != b);
        let around = |lines: &[String]| {
            let at = differs.unwrap_or(lines.len().min(first.len()));
            lines[at.saturating_sub(3)..lines.len().min(at + 4)].join("")
        };
        assert_eq!(around(&first), around(&second), "seed {seed} differs from line {differs:?} on");
        assert_eq!(first.len(), second.len(), "seed {seed}");
        assert!(first.len() > 100, "seed {seed} has {} lines", first.len());
        assert_ne!(first, play(seed + 1, Some(Vec::new())), "the control is another seed");
    }
}

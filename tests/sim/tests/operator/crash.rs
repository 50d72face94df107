//! The operator dies, or loses an answer, at every request of what it does.

use std::time::Duration;

use agentsandbox_sim::faults::{self, Asked, Fate, Rule};
use agentsandbox_sim::kinds::{CLAIMS, PODS, POLICIES, SANDBOXES};
use agentsandbox_sim::objects::{self, TEAM};
use agentsandbox_sim::rig::{Rig, simulate};
use agentsandbox_sim::store::{Change, Deletion, Revision, Store, is_ending, text};
use serde_json::{Value, json};

/// What a user does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    Create,
    Update,
    Delete,
    DeleteWalls,
    Finish,
    DeleteFinished,
    Outlive,
    Overrun,
    Expire,
    Evict,
    DeletePod,
    ChangeMode,
    Suspend,
    Resume,
    SuspendTask,
    DeletePersistent,
    DeleteRetained,
    Retain,
    RetainInForeground,
    RetainFinished,
    DeleteClaim,
}

const ALL: [Script; 21] = [
    Script::Create,
    Script::Update,
    Script::Delete,
    Script::DeleteWalls,
    Script::Finish,
    Script::DeleteFinished,
    Script::Outlive,
    Script::Overrun,
    Script::Expire,
    Script::Evict,
    Script::DeletePod,
    Script::ChangeMode,
    Script::Suspend,
    Script::Resume,
    Script::SuspendTask,
    Script::DeletePersistent,
    Script::DeleteRetained,
    Script::Retain,
    Script::RetainInForeground,
    Script::RetainFinished,
    Script::DeleteClaim,
];
const WALLS: [&str; 2] = ["a-agent", "a-proxy"];

/// Makes the sandbox that the user then does it to.
async fn begin(rig: &mut Rig, script: Script) {
    let lifecycle = match script {
        Script::Finish | Script::DeleteFinished => json!({"mode": "Task"}),
        Script::Evict | Script::DeletePod | Script::SuspendTask | Script::RetainFinished => {
            json!({"mode": "Task"})
        }
        Script::Expire => json!({"mode": "Task", "ttlAfterFinished": "20s"}),
        Script::Outlive => json!({"maxLifetime": "40s"}),
        Script::Overrun => {
            rig.world.world().node.program_takes = 3_600_000;
            json!({"mode": "Task", "activeDeadline": "40s"})
        }
        _ => json!(null),
    };
    let mut object = match script {
        Script::DeletePersistent | Script::Retain | Script::RetainInForeground | Script::RetainFinished => {
            objects::persistent("a", "Delete")
        }
        Script::DeleteRetained | Script::DeleteClaim => objects::persistent("a", "Retain"),
        _ => objects::task("a", 3),
    };
    object["spec"]["lifecycle"] = lifecycle;
    rig.world.act("user", |store| objects::create(store, object));
    match script {
        Script::Finish | Script::DeleteFinished => {}
        Script::Expire | Script::RetainFinished => rig.finished("a").await,
        _ => rig.ready("a").await,
    }
}

/// Waits until there is no sandbox any more.
async fn gone(rig: &mut Rig) {
    let gone = |store: &Store| store.get(&SANDBOXES, TEAM, "a").is_none();
    rig.until(Duration::from_secs(120), "the end", gone).await;
}

/// Suspends the sandbox, and waits until none of its pods is left.
async fn suspend(rig: &mut Rig) {
    rig.patch("a", &json!({"spec": {"lifecycle": {"state": "Suspended"}}}));
    let off = |store: &Store| store.all(&PODS).next().is_none();
    rig.until(Duration::from_secs(120), "no power", off).await;
}

/// Says at last that what was to be deleted is to stay, and deletes the sandbox.
async fn retain(rig: &mut Rig, adds: Option<&'static str>) {
    rig.patch("a", &json!({"spec": {"workspace": {"persistent": {"whenDeleted": "Retain"}}}}));
    rig.world.act("user", |store| {
        store.delete(&SANDBOXES, (TEAM, "a"), &Deletion { adds, ..Deletion::default() }).unwrap()
    });
    gone(rig).await;
}

/// Lets the user do it, and waits until it has come to its end.
async fn play(rig: &mut Rig, script: Script) {
    begin(rig, script).await;
    match script {
        Script::Create => {}
        Script::Finish => rig.finished("a").await,
        Script::DeleteFinished => {
            rig.finished("a").await;
            rig.delete("a");
            gone(rig).await;
        }
        Script::Outlive | Script::Overrun => rig.finished("a").await,
        Script::Expire => gone(rig).await,
        Script::Evict => {
            rig.world.act("node", |store| objects::evict(store, "a-agent").unwrap());
            rig.finished("a").await;
        }
        Script::DeletePod => {
            rig.world.act("user", |store| {
                store.delete(&PODS, (TEAM, "a-agent"), &Deletion::default()).unwrap();
            });
            rig.finished("a").await;
        }
        Script::Suspend => suspend(rig).await,
        Script::Resume => {
            suspend(rig).await;
            rig.patch("a", &json!({"spec": {"lifecycle": {"state": "Running"}}}));
            rig.runs("a").await;
        }
        Script::SuspendTask => {
            suspend(rig).await;
            rig.patch("a", &json!({"spec": {"lifecycle": {"state": "Running"}}}));
            rig.finished("a").await;
        }
        Script::ChangeMode => {
            rig.patch("a", &json!({"spec": {"lifecycle": {"mode": "Task"}}}));
            rig.finished("a").await;
        }
        Script::Update => {
            rig.patch("a", &json!({"spec": {"agent": {"image": "ghcr.io/acme/agent:2.2"}}}));
            rig.ready("a").await;
        }
        Script::Delete | Script::DeletePersistent | Script::DeleteRetained => {
            rig.delete("a");
            gone(rig).await;
        }
        Script::Retain => retain(rig, None).await,
        Script::RetainInForeground | Script::RetainFinished => retain(rig, Some("foregroundDeletion")).await,
        Script::DeleteClaim => {
            rig.world.act("user", |store| {
                store.delete(&CLAIMS, (TEAM, "a-workspace"), &Deletion::default()).unwrap();
            });
            rig.patch("a", &json!({"spec": {"agent": {"image": "ghcr.io/acme/agent:2.2"}}}));
            rig.ready("a").await;
        }
        Script::DeleteWalls => {
            rig.world.act("user", |store| {
                for wall in WALLS {
                    store.delete(&POLICIES, (TEAM, wall), &Deletion::default()).unwrap();
                }
            });
            let back = |store: &Store| {
                let stand = |wall: &&str| store.get(&POLICIES, TEAM, wall).is_some_and(|one| !is_ending(one));
                WALLS.iter().all(stand)
            };
            rig.until(Duration::from_secs(120), "walls", back).await;
        }
    }
    rig.settle().await;
}

/// How many pods were ever created.
fn pods_made(rig: &Rig) -> usize {
    let world = rig.world.world();
    world.store.log.iter().filter(|one| *one.kind == PODS && one.change == Change::Added).count()
}

/// What a run that nothing disturbs asks, from when, and what is there in the end.
fn clean(script: Script) -> (Vec<String>, usize, Value) {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        if !matches!(script, Script::Create | Script::Finish) {
            begin(&mut rig, script).await;
            rig.rest(Duration::from_secs(5), Duration::from_secs(60)).await;
        }
        let from = rig.asked().len();
        drop(rig);
        let mut rig = Rig::running(1, faults::None);
        play(&mut rig, script).await;
        (rig.asked(), from, rig.picture())
    })
}

/// The picture after a run in which one request met a fate.
fn disturbed(script: Script, number: u64, fate: Fate) -> Value {
    simulate(async {
        let rule = Rule(move |asked: &Asked| if asked.number == number { fate } else { Fate::Serve });
        let mut rig = Rig::running(1, rule);
        play(&mut rig, script).await;
        let from = rig.asked().len();
        rig.pass(Duration::from_secs(60)).await;
        assert_eq!(rig.writes(from), [""; 0], "a settled sandbox is written to");
        if script == Script::DeleteWalls && fate == Fate::CrashAfter {
            assert_eq!(pods_made(&rig), 2, "no pod is ended for a wall that somebody deleted");
        }
        rig.picture()
    })
}

#[test]
fn o_r1_wherever_the_operator_dies_the_end_is_the_same_and_then_nothing_is_written() {
    for script in ALL {
        let (asked, from, wanted) = clean(script);
        assert!(asked.len() > from + 5, "{script:?} is swept over {} requests", asked.len() - from);
        for number in from..=asked.len() {
            let number = number as u64;
            assert_eq!(
                disturbed(script, number, Fate::CrashAfter),
                wanted,
                "{script:?}, after request {number}"
            );
        }
    }
}

#[test]
fn a_claim_goes_with_its_sandbox_or_stays_as_was_said_last() {
    for (script, stays) in [
        (Script::DeletePersistent, false),
        (Script::DeleteRetained, true),
        (Script::Retain, true),
        (Script::RetainInForeground, true),
        (Script::RetainFinished, true),
    ] {
        let (_, _, picture) = clean(script);
        let claim = &picture["persistentvolumeclaims team/a-workspace"];
        assert_eq!(claim.is_object(), stays, "{script:?}: {claim}");
        assert!(claim["metadata"]["ownerReferences"].is_null(), "{script:?}: {claim}");
    }
}

/// What became of the agent's wall and its stand-in once somebody deleted the wall. A request that is made again, as where a watch is
/// late, and that changes nothing is none of it.
fn fate_of_the_agents_wall() -> Vec<String> {
    simulate(async {
        let mut rig = Rig::running(1, faults::None);
        play(&mut rig, Script::DeleteWalls).await;
        let world = rig.world.world();
        let name = |revision: &Revision| text(&revision.object, "/metadata/name").to_owned();
        let of_wall =
            world.store.log.iter().filter(|one| *one.kind == POLICIES && name(one).starts_with("a-agent"));
        let since = of_wall.skip_while(|one| one.by != "user").skip(1);
        since.map(|one| format!("{:?} {}", one.change, name(one))).collect()
    })
}

#[test]
fn a_wall_that_somebody_deletes_is_released_behind_another_and_nothing_is_left_of_that() {
    let wanted = [
        "Added a-agent-next",
        "Deleted a-agent",
        "Added a-agent",
        "Modified a-agent-next",
        "Deleted a-agent-next",
    ];
    assert_eq!(fate_of_the_agents_wall(), wanted);
    assert_eq!(clean(Script::DeleteWalls).2, clean(Script::Create).2, "it ends as it began");
}

#[test]
fn o_r3_an_answer_that_is_lost_after_its_request_took_effect_makes_no_duplicate_and_no_leak() {
    for script in ALL {
        let (asked, from, wanted) = clean(script);
        let writes = (from..asked.len()).filter(|number| {
            ["POST ", "PATCH ", "DELETE "].iter().any(|verb| asked[*number].starts_with(verb))
        });
        for number in writes {
            for fate in [Fate::Lose, Fate::LoseSilently] {
                let picture = disturbed(script, number as u64, fate);
                assert_eq!(picture, wanted, "{script:?}, {fate:?} of {}", asked[number]);
            }
        }
    }
}

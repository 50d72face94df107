//! Whether the simulated API server, on which the operator meets everything that can go wrong, answers as the real one does.
//!
//! A seed makes a sequence of commands as the operator and its users give them. It is played on both servers, and each answer
//! is compared: status, reason, and the object. Objects go by names of their own that nothing else in the cluster looks for, and
//! a sandbox is of a copy of its CRD in a group that no operator watches. Pods name a scheduler that is not there.

use std::collections::{BTreeMap, BTreeSet};

use agentsandbox_crds::schema;
use agentsandbox_sim::faults;
use agentsandbox_sim::kinds::{NAMESPACES, SANDBOXES};
use agentsandbox_sim::transport::Transport;
use agentsandbox_sim::world::Shared;
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use kube::Client;
use serde_json::{Value, json};

mod commands;
mod server;

use commands::{Command, Draw, GROUP, Verb, bases, copy_version, sequence};
use server::{Answer, Server};

/// Sequences, and the commands of each.
const SEEDS: u64 = 12;
const COMMANDS: usize = 160;
/// How long a CRD may take to be served.
const SERVED_WITHIN: std::time::Duration = std::time::Duration::from_secs(30);

/// The simulated server with an empty namespace. What was before is forgotten, as on a server that runs for long.
fn simulated(seed: u64, namespace: &str) -> (Server, tokio::task::JoinHandle<()>) {
    let world = Shared::new(seed, Box::new(faults::None), |store| {
        store.create(&NAMESPACES, None, json!({"metadata": {"name": namespace}}), false).unwrap();
        store.compacted = store.revision();
    });
    world.world().node.schedules = false;
    let turn = tokio::spawn(world.clone().turn());
    let client = Client::new(Transport { world, process: 1 }, namespace);
    (Server::new(client, namespace, SANDBOXES.api_version), turn)
}

/// The sandbox's CRD under another group.
fn copied_crd() -> Value {
    let all = schema::all().unwrap();
    let mut manifest = all.into_iter().find(|one| one.name.starts_with("agentsandboxes.")).unwrap().manifest;
    manifest["metadata"]["name"] = json!(format!("agentsandboxes.{GROUP}"));
    manifest["spec"]["group"] = json!(GROUP);
    manifest
}

/// Plays a sequence on both, and says where they part. What has parted is asked nothing more: everything that follows would differ.
async fn play(seed: u64, simulated: &mut Server, real: &mut Server, seen: &mut Seen) -> Vec<String> {
    let bases = bases(real).await;
    for kind in commands::KINDS {
        simulated.begin(kind).await;
        real.begin(kind).await;
    }
    let (mut parted, mut kinds, mut told) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for command in sequence(&mut Draw::new(seed), &bases, COMMANDS) {
        let (kind, key) = (command.kind.plural, (command.kind.plural, command.name));
        let is_of_kind = matches!(command.verb, Verb::List { .. } | Verb::Next { .. });
        if parted.contains(&key) || is_of_kind && kinds.contains(kind) {
            continue;
        }
        let (ours, theirs) = (simulated.give(&command).await, real.give(&command).await);
        seen.count(&command, &theirs);
        if ours != theirs {
            let named = if is_of_kind { "" } else { command.name };
            if !real.was_written_by_another(command.kind, named).await {
                let before = real.told(&command);
                let verb = &command.verb;
                told.push(format!(
                    "seed {seed}: {key:?} {verb:?}\nsimulated {ours}\nreal      {theirs}\nafter\n  {before}"
                ));
            }
            parted.insert(key);
            kinds.insert(kind);
        }
    }
    for watch in commands::watches().into_iter().filter(|watch| !kinds.contains(watch.kind.plural)) {
        let (ours, theirs) = (simulated.watch(&watch).await, real.watch(&watch).await);
        *seen.0.entry(format!("watch {}", theirs.len().min(3))).or_default() += 1;
        if ours != theirs && !real.was_written_by_another(watch.kind, "").await {
            let at = ours.iter().zip(&theirs).position(|(one, other)| one != other);
            let at = at.unwrap_or(ours.len().min(theirs.len()));
            let (ours, theirs) = (ours.get(at), theirs.get(at));
            let what = format!("seed {seed}: event {at} of {watch:?}");
            told.push(format!("{what}\nsimulated {}\nreal      {}", json!(ours), json!(theirs)));
        }
    }
    told
}

/// How often which verb came to which answer.
#[derive(Default)]
struct Seen(BTreeMap<String, usize>);

impl Seen {
    fn count(&mut self, command: &Command, answer: &Answer) {
        let verb = format!("{:?}", command.verb);
        let verb = verb.split([' ', '(', '{']).next().unwrap_or_default().to_owned();
        *self.0.entry(format!("{verb} {} {}", answer.code, answer.reason)).or_default() += 1;
    }

    /// A sequence that never meets a refusal would show nothing of refusals.
    fn check(&self) {
        for (what, least) in [
            ("Create 201 ", 20),
            ("Create 409 AlreadyExists", 20),
            ("Get 200 ", 10),
            ("Get 404 NotFound", 10),
            ("Apply 200 ", 20),
            ("Apply 201 ", 10),
            ("Apply 409 Conflict", 10),
            ("Merge 200 ", 20),
            ("Merge 404 NotFound", 10),
            ("Merge 409 Conflict", 10),
            ("Replace 200 ", 10),
            ("Replace 409 Conflict", 5),
            ("Replace 422 Invalid", 1),
            ("Delete 200 ", 20),
            ("Delete 404 NotFound", 5),
            ("Delete 409 Conflict", 5),
            ("List 200 ", 20),
            ("Next 200 ", 5),
            ("watch 3", 20),
            ("watch 1", 3),
        ] {
            let count = self.0.get(what).copied().unwrap_or_default();
            assert!(count >= least, "{what:?} was seen {count} times: {:#?}", self.0);
        }
    }
}

async fn serve_copies(namespace: &Namespace) {
    namespace.apply(&copied_crd().to_string()).await.unwrap();
    let list = Command::list(&SANDBOXES);
    eventually("the copied CRD is served", SERVED_WITHIN, || async {
        let mut probe = Server::new(namespace.client.clone(), &namespace.name, &copy_version());
        match probe.give(&list).await.code {
            200 => Ok(()),
            code => Err(code.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn o_r31_the_same_commands_come_to_the_same_on_the_simulated_and_on_the_real_api_server() {
    let rig = Rig::beside().await;
    let mut seen = Seen::default();
    let mut parted = Vec::new();
    let only: Option<u64> = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in only.map_or(0..SEEDS, |seed| seed..seed + 1) {
        with_namespace(&rig, "o-r31", async |namespace| {
            serve_copies(&namespace).await;
            let (mut ours, turn) = simulated(seed, &namespace.name);
            let mut theirs = Server::new(namespace.client.clone(), &namespace.name, &copy_version());
            parted.extend(play(seed, &mut ours, &mut theirs, &mut seen).await);
            // Nothing is left that its finalizers would hold.
            theirs.release().await;
            turn.abort();
        })
        .await;
    }
    assert!(parted.is_empty(), "{}", parted.join("\n\n"));
    if only.is_none() {
        seen.check();
    }
}

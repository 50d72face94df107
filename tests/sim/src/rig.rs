//! Starts the operator in the world, lets it die, and starts it again.

use std::sync::Arc;
use std::time::Duration;

use agentsandbox_operator::backoff::Jitter;
use agentsandbox_operator::clock::Clock;
use agentsandbox_operator::config::{AskDenials, Config, LeaderElection, WallProbe};
use agentsandbox_operator::deadline::Deadlined;
use agentsandbox_operator::metrics::Metrics;
use agentsandbox_operator::one_namespace::OneNamespace;
use agentsandbox_operator::ranges::Configured;
use agentsandbox_operator::run::{Ambient, Stopped, operate};
use kube::Client;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::faults::Faults;
use crate::kinds::{SANDBOXES, SECRETS};
use crate::objects::{self, TEAM};
use crate::store::Store;
use crate::transport::Transport;
use crate::world::Shared;

/// A process that died is started again after this.
const RESTARTS_AFTER: Duration = Duration::from_secs(1);
/// How often it is looked whether nothing happens any more.
const LOOK: Duration = Duration::from_millis(500);

/// One operator, and the world around it.
pub struct Rig {
    /// The world.
    pub world: Shared,
    /// Whether the operator waits for its turn to lead.
    pub election: LeaderElection,
    /// How far the wall clock of whom is started next is ahead.
    pub ahead: Duration,
    /// The one namespace that the operator serves; absent means every one.
    pub only: Option<Arc<OneNamespace>>,
    metrics: Arc<Metrics>,
    seed: u64,
    operators: Vec<Process>,
    turn: JoinHandle<()>,
}

/// One process.
struct Process {
    number: u64,
    identity: String,
    task: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.turn.abort();
        self.operators.iter().for_each(|process| process.task.abort());
    }
}

/// Runs a test on virtual time, without threads and without sockets.
pub fn simulate<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

impl Rig {
    /// A cluster without a sandbox, and no operator yet.
    pub fn new(seed: u64, faults: impl Faults + 'static) -> Self {
        let world = Shared::new(seed, Box::new(faults), objects::cluster);
        let turn = tokio::spawn(world.clone().turn());
        Self {
            world,
            election: LeaderElection::Off,
            ahead: Duration::ZERO,
            only: None,
            metrics: Arc::default(),
            seed,
            operators: Vec::new(),
            turn,
        }
    }

    /// The same, with an operator.
    pub fn running(seed: u64, faults: impl Faults + 'static) -> Self {
        let mut rig = Self::new(seed, faults);
        rig.start("operator-0");
        rig
    }

    /// Starts an operator; answers with the number of its process.
    pub fn start(&mut self, identity: &str) -> u64 {
        let number = self.operators.last().map_or(1, |process| process.number + 1);
        let number = number.max(self.world.world().dead.last().map_or(0, |dead| dead + 1));
        let client =
            Client::new(Deadlined::new(Transport { world: self.world.clone(), process: number }), "default");
        let clock = {
            let (world, ahead) = (self.world.clone(), self.ahead);
            Clock::new(move || world.world().now() + ahead)
        };
        let ambient = Ambient { clock, jitter: Jitter::seeded(self.seed ^ number) };
        let only = self.only.clone();
        // Who serves one namespace is told what others find.
        let cluster_ranges = only.as_ref().map_or_else(Configured::default, |_| objects::ranges());
        let config = Config { only, cluster_ranges, ..config(identity, self.election) };
        let (stop, stopped) = oneshot::channel::<()>();
        let (world, metrics) = (self.world.clone(), Arc::clone(&self.metrics));
        let task = tokio::spawn(async move {
            let told = async move {
                if stopped.await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let end = operate(client, config, ambient, metrics, || (), told).await;
            if matches!(end, Ok(Stopped::ControllerEnded)) {
                world.world().violations.push("the controller ended by itself".to_owned());
            }
            world.world().dead.insert(number);
            world.died.notify_one();
        });
        self.operators.push(Process { number, identity: identity.to_owned(), task, stop: Some(stop) });
        number
    }

    /// Kills an operator, as `kill -9` does.
    pub fn kill(&mut self, number: u64) {
        self.world.world().dead.insert(number);
        self.operators.retain(|process| {
            if process.number == number {
                process.task.abort();
            }
            process.number != number
        });
    }

    /// Tells an operator to stop, as SIGTERM does.
    pub fn stop(&mut self, number: u64) {
        let process = self.operators.iter_mut().find(|process| process.number == number).unwrap();
        let _ = process.stop.take().unwrap().send(());
    }

    /// Lets virtual time pass; who dies is started again, unless it was told to stop.
    pub async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        loop {
            tokio::select! {
                biased;
                () = self.world.died.notified() => {}
                () = tokio::time::sleep_until(until) => return,
            }
            let dead: Vec<(u64, String, bool)> = {
                let world = self.world.world();
                let dead = self.operators.iter().filter(|process| world.dead.contains(&process.number));
                dead.map(|process| (process.number, process.identity.clone(), process.stop.is_some()))
                    .collect()
            };
            for (number, identity, restarts) in dead {
                self.kill(number);
                if restarts {
                    tokio::time::sleep(RESTARTS_AFTER).await;
                    self.start(&identity);
                }
            }
        }
    }

    /// Waits until `done` is true of the store.
    pub async fn until(&mut self, limit: Duration, what: &str, done: impl Fn(&Store) -> bool) {
        let begin = Instant::now();
        while !done(&self.world.world().store) {
            assert!(begin.elapsed() < limit, "{what} did not come in {limit:?}: {}", self.recently());
            self.pass(Duration::from_millis(50)).await;
        }
    }

    /// The sandboxes, and the last requests, for a failure's message.
    pub fn recently(&self) -> String {
        let world = self.world.world();
        let sandboxes = world.store.all(&SANDBOXES).map(Value::to_string);
        let last = world.outcomes.iter().rev().take(40);
        let last = last.map(|o| format!("{} {} {} {:?}", o.asked.at, o.process, o.asked.line, o.code));
        sandboxes.chain(last).collect::<Vec<_>>().join("\n")
    }

    /// Waits until nobody has changed anything for `quiet`.
    pub async fn rest(&mut self, quiet: Duration, limit: Duration) {
        let begin = Instant::now();
        loop {
            self.pass(LOOK).await;
            let world = self.world.world();
            if u128::from(world.millis() - world.last_change()) >= quiet.as_millis() {
                return;
            }
            let last: Vec<String> = world
                .store
                .log
                .iter()
                .rev()
                .take(12)
                .map(|one| {
                    format!(
                        "{} {} {:?} {}",
                        one.at,
                        one.by,
                        one.change,
                        crate::store::text(&one.object, "/metadata/name")
                    )
                })
                .collect();
            drop(world);
            assert!(begin.elapsed() < limit, "something is changed again and again: {last:#?}");
        }
    }

    /// Waits for a minute in which nobody changes anything, and asserts what must hold.
    pub async fn settle(&mut self) {
        self.rest(Duration::from_secs(60), Duration::from_secs(900)).await;
        let broken = self.world.world().at_rest();
        assert!(broken.is_empty(), "seed {}: {broken:#?}", self.seed);
    }

    /// What there is, without what differs from run to run: versions, times, and the UIDs of what may be made anew.
    pub fn picture(&self) -> Value {
        let world = self.world.world();
        let objects =
            world.store.everything().filter(|((plural, ..), _)| !["events", "leases"].contains(plural));
        objects
            .map(|((plural, namespace, name), object)| {
                let mut object = object.clone();
                if *plural == SECRETS.plural {
                    object["data"] = Value::Null;
                }
                object["metadata"]["uid"] = Value::Null;
                (format!("{plural} {namespace}/{name}"), timeless(&object))
            })
            .collect()
    }

    /// Passes that have ended by now, of all processes.
    pub fn passes(&self) -> usize {
        let text = self.metrics.render();
        let counts = text.lines().filter(|line| line.starts_with("agentsandbox_operator_reconciles_total{"));
        counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum()
    }

    /// Everything that was asked by now.
    pub fn asked(&self) -> Vec<String> {
        self.world.world().outcomes.iter().map(|outcome| outcome.asked.line.clone()).collect()
    }

    /// The writes among what was asked from the `from`th request on.
    pub fn writes(&self, from: usize) -> Vec<String> {
        let writes = |line: &String| !["GET ", "LIST ", "WATCH "].iter().any(|verb| line.starts_with(verb));
        self.asked().into_iter().skip(from).filter(writes).collect()
    }

    /// Creates a sandbox, as a user.
    pub fn create(&self, name: &str) {
        self.world.act("user", |store| objects::create(store, objects::sandbox(name)));
    }

    /// Creates a sandbox whose program runs once and ends with this exit code, as a user.
    pub fn create_task(&self, name: &str, exit_code: i64) {
        self.world.act("user", |store| objects::create(store, objects::task(name, exit_code)));
    }

    /// Waits until the end of a sandbox's program is told.
    pub async fn finished(&mut self, name: &str) {
        let name = name.to_owned();
        self.until(Duration::from_secs(120), "the result", move |store| is_finished(store, &name)).await;
    }

    /// Changes a sandbox by a merge patch, as a user.
    pub fn patch(&self, name: &str, patch: &Value) {
        self.world.act("user", |store| {
            store.merge(&SANDBOXES, crate::store::Part::Main, (TEAM, name), patch).unwrap()
        });
    }

    /// Deletes a sandbox, as a user.
    pub fn delete(&self, name: &str) {
        self.world.act("user", |store| {
            store.delete(&SANDBOXES, (TEAM, name), &crate::store::Deletion::default()).unwrap()
        });
    }

    /// Waits until the agent of a sandbox runs for its present generation.
    pub async fn runs(&mut self, name: &str) {
        self.ready_for(name, "Running").await;
    }

    /// Waits until a sandbox is suspended at its present generation.
    pub async fn suspended(&mut self, name: &str) {
        self.ready_for(name, "Suspended").await;
    }

    async fn ready_for(&mut self, name: &str, reason: &'static str) {
        let name = name.to_owned();
        self.until(Duration::from_secs(120), reason, move |store| is_ready_for(store, &name, reason)).await;
    }

    /// Waits until a sandbox is ready for its present generation.
    pub async fn ready(&mut self, name: &str) {
        let name = name.to_owned();
        self.until(Duration::from_secs(120), "ready", move |store| is_ready(store, &name)).await;
    }
}

/// Whether a sandbox is ready for its present generation.
pub fn is_ready(store: &Store, name: &str) -> bool {
    let Some(sandbox) = store.get(&SANDBOXES, TEAM, name) else { return false };
    let generation = &sandbox["metadata"]["generation"];
    let conditions = sandbox["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|one| {
        one["type"] == "Ready" && one["status"] == "True" && one["observedGeneration"] == *generation
    })
}

/// Whether a sandbox is ready for its present generation for this reason.
pub fn is_ready_for(store: &Store, name: &str, reason: &str) -> bool {
    let Some(sandbox) = store.get(&SANDBOXES, TEAM, name) else { return false };
    let conditions = sandbox["status"]["conditions"].as_array().into_iter().flatten();
    let mut ready = conditions.filter(|one| one["type"] == "Ready");
    is_ready(store, name) && ready.any(|one| one["reason"] == reason)
}

/// Whether the end of a sandbox's program is told.
pub fn is_finished(store: &Store, name: &str) -> bool {
    store.get(&SANDBOXES, TEAM, name).is_some_and(|sandbox| sandbox["status"]["program"].is_object())
}

/// The value without versions and times.
fn timeless(value: &Value) -> Value {
    const LEFT_OUT: [&str; 6] = [
        "resourceVersion",
        "creationTimestamp",
        "lastTransitionTime",
        "startedAt",
        "finishedAt",
        "deletionTimestamp",
    ];
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, _)| !LEFT_OUT.contains(&key.as_str()));
            kept.map(|(key, value)| (key.clone(), timeless(value))).collect()
        }
        Value::Array(items) => items.iter().map(timeless).collect(),
        other => other.clone(),
    }
}

fn config(identity: &str, leader_election: LeaderElection) -> Config {
    Config {
        // What the API server refuses is not simulated.
        admission: None,
        pod_uid: None,
        proxy_image: "ghcr.io/agentsandbox/proxy:test".to_owned(),
        init_image: "ghcr.io/agentsandbox/init:test".to_owned(),
        // They are found.
        cluster_ranges: Configured::default(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
        namespace: objects::SYSTEM.to_owned(),
        identity: identity.to_owned(),
        leader_election,
        wall_probe: WallProbe::None,
        denials: AskDenials::None,
        admin_address: "127.0.0.1:0".parse().unwrap(),
        only: None,
    }
}

//! One contender, one number of sandboxes, one fresh API server: start, create, settle, stand still, start again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams, PostParams};
use kube::core::{DynamicObject, PartialObjectMeta};
use kube::{Client, ResourceExt};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::audit::{Counts, Follower, Tally};
use crate::contender::{Contender, Running, Start};
use crate::process::{Machine, Taken, load};

/// Creations at the same time: what one user's controller or a CI system does.
const IN_FLIGHT: usize = 32;
/// Pause between two looks at a contender: short beside what is measured, long enough to take little from it.
const LOOK: Duration = Duration::from_millis(100);
/// Objects of one page of a list.
const PAGE: u32 = 500;

/// What is asked of a contender.
#[derive(Clone, Debug)]
pub struct Asked {
    /// How it is started.
    pub start: Start,
    /// Its version.
    pub version: String,
    /// Sandboxes.
    pub sandboxes: usize,
    /// Namespaces they are spread over, which exist.
    pub namespaces: Vec<String>,
    /// How long no write must have come for it to count as settled.
    pub quiet: Duration,
    /// How long it is then watched.
    pub steady: Duration,
    /// How long each wait may take at most.
    pub limit: Duration,
    /// The API server's audit log.
    pub audit_log: PathBuf,
    /// The API server's process.
    pub api_server: u32,
}

/// What a stretch of time cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Seconds until settled, by the API server's clock: from the first creation, or from the start of the process, until the last
    /// write or, where that came later, the last pass; in a quiet stretch its length.
    pub seconds: f64,
    /// CPU time of the contender.
    pub cpu_seconds: f64,
    /// What it held at the end, in KiB.
    pub resident_kib: u64,
    /// The most that it held since its process began, in KiB.
    pub peak_kib: u64,
    /// Passes over sandboxes, as it counts them.
    pub passes: u64,
    /// Writes that the API server took from it, by verb and resource.
    pub writes: Counts,
    /// Events that it wrote.
    pub events: u64,
    /// Its gets and lists.
    pub reads: Counts,
    /// What the API server refused it, by code, verb and resource.
    pub refused: Counts,
    /// CPU time of the API server.
    pub api_server_cpu_seconds: f64,
    /// The part of the machine's processors that was busy, by whomever.
    pub machine_busy: f64,
    /// The machine's load average at the end.
    pub load: f64,
}

/// All of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Who.
    pub contender: Contender,
    /// Of which version.
    pub version: String,
    /// With which arguments, without paths.
    pub args: Vec<String>,
    /// How many sandboxes.
    pub sandboxes: usize,
    /// In how many namespaces.
    pub namespaces: usize,
    /// Seconds without a write that count as settled.
    pub quiet_seconds: f64,
    /// Seconds from the first creation until the last sandbox was created.
    pub creating_seconds: f64,
    /// Without any sandbox.
    pub empty: Phase,
    /// From the first creation.
    pub settling: Phase,
    /// Afterwards.
    pub steady: Phase,
    /// From the start of a second process.
    pub restart: Phase,
}

/// Measures one run.
///
/// # Errors
/// When the API server refuses, the contender ends or does not settle in time.
pub async fn run(client: Client, asked: &Asked) -> Result<Run, Failure> {
    let mut bench = Bench::begin(asked)?;
    let empty = bench.settled(None).await?;
    eprintln_phase("empty", &empty);
    bench.phase()?;
    let begin = Timestamp::now();
    let created = create(&client, asked).await?;
    let settling = bench.settled(Some((&client, begin))).await?;
    eprintln_phase("settling", &settling);
    bench.phase()?;
    let steady = bench.stand().await?;
    eprintln_phase("steady", &steady);
    let mut bench = bench.again().await?;
    let restart = bench.settled(Some((&client, bench.begin))).await?;
    eprintln_phase("restart", &restart);
    bench.running.stop().await?;
    Ok(Run {
        contender: asked.start.contender,
        version: asked.version.clone(),
        args: asked.start.args.iter().filter(|arg| !arg.contains("=/")).cloned().collect(),
        sandboxes: asked.sandboxes,
        namespaces: asked.namespaces.len(),
        quiet_seconds: asked.quiet.as_secs_f64(),
        creating_seconds: seconds(begin, created),
        empty,
        settling,
        steady,
        restart,
    })
}

#[allow(clippy::print_stderr, reason = "a run takes minutes, and its reader waits")]
fn eprintln_phase(name: &str, phase: &Phase) {
    eprintln!(
        "  {name}: {:.1} s, {:.2} CPU s, {} passes, {} writes, {:.1} MiB",
        phase.seconds,
        phase.cpu_seconds,
        phase.passes,
        phase.writes.values().sum::<u64>(),
        phase.resident_kib as f64 / 1024.0
    );
}

fn seconds(from: Timestamp, to: Timestamp) -> f64 {
    to.duration_since(from).as_secs_f64()
}

/// Creates every sandbox; returns when the last one was.
async fn create(client: &Client, asked: &Asked) -> Result<Timestamp, Failure> {
    let contender = asked.start.contender;
    let kind = contender.kind();
    let creations = (0..asked.sandboxes).zip(asked.namespaces.iter().cycle()).map(|(index, namespace)| {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
        async move {
            api.create(&PostParams::default(), &contender.sandbox(&format!("s{index:05}"))).await.map(drop)
        }
    });
    futures::stream::iter(creations).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
    Ok(Timestamp::now())
}

/// The contender under measurement.
struct Bench<'a> {
    asked: &'a Asked,
    running: Running,
    follower: Follower,
    tally: Tally,
    begin: Timestamp,
    before: Before,
}

/// Where the counters stood when a phase began.
#[derive(Clone, Copy, Default)]
struct Before {
    taken: Taken,
    passes: u64,
    api_server: f64,
    machine: Machine,
}

impl<'a> Bench<'a> {
    fn begin(asked: &'a Asked) -> Result<Self, Failure> {
        let follower = Follower::from_now(asked.audit_log.clone(), asked.start.contender.user())?;
        let (begin, machine) = (Timestamp::now(), Machine::now());
        let before =
            Before { api_server: Taken::by(asked.api_server)?.cpu_seconds, machine, ..Before::default() };
        let running = Running::start(&asked.start)?;
        Ok(Self { asked, running, follower, tally: Tally::default(), begin, before })
    }

    /// Ends the process and starts a second one.
    async fn again(self) -> Result<Self, Failure> {
        self.running.stop().await?;
        Self::begin(self.asked)
    }

    /// Begins a new phase of the same process.
    fn phase(&mut self) -> Result<(), Failure> {
        self.tally = Tally::default();
        self.begin = Timestamp::now();
        let passes = self.before.passes;
        self.before = Before {
            taken: Taken::by(self.running.pid()?)?,
            passes,
            api_server: Taken::by(self.asked.api_server)?.cpu_seconds,
            machine: Machine::now(),
        };
        Ok(())
    }

    /// Waits until no write and no pass has come for long enough and, with sandboxes, until as many passes have been made, each one's
    /// status is current and each has its pods; then says what it took.
    async fn settled(&mut self, sandboxes: Option<(&Client, Timestamp)>) -> Result<Phase, Failure> {
        let deadline = Instant::now() + self.asked.limit;
        let (mut passes, mut last_pass) = (self.before.passes, Timestamp::now());
        loop {
            tokio::time::sleep(LOOK).await;
            self.running.pid()?;
            self.follower.read(&mut self.tally)?;
            let now = self.running.passes().await;
            if now != passes {
                (passes, last_pass) = (now, Timestamp::now());
            }
            let last = self.tally.last_write.max(Some(last_pass)).unwrap_or(last_pass);
            let is_quiet = seconds(last, Timestamp::now()) >= self.asked.quiet.as_secs_f64();
            // Without sandboxes it has at least asked for them.
            let has_begun = match sandboxes {
                Some(_) => passes.saturating_sub(self.before.passes) >= self.asked.sandboxes as u64,
                None => self.tally.first.is_some(),
            };
            if is_quiet && has_begun {
                let missing = match sandboxes {
                    Some((client, _)) => missing(client, self.asked).await?,
                    None => 0,
                };
                if missing == 0 {
                    let from = sandboxes.map_or(self.begin, |(_, begin)| begin);
                    return self.ended(passes, seconds(from, last));
                }
            }
            if Instant::now() >= deadline {
                return Err(Failure::new(format!(
                    "the contender did not settle in {} s",
                    self.asked.limit.as_secs()
                )));
            }
        }
    }

    /// Watches what a settled contender does.
    async fn stand(&mut self) -> Result<Phase, Failure> {
        tokio::time::sleep(self.asked.steady).await;
        self.follower.read(&mut self.tally)?;
        let passes = self.running.passes().await;
        self.ended(passes, self.asked.steady.as_secs_f64())
    }

    fn ended(&mut self, passes: u64, seconds: f64) -> Result<Phase, Failure> {
        let (taken, before) = (Taken::by(self.running.pid()?)?, self.before);
        let tally = self.tally.clone();
        let phase = Phase {
            seconds,
            cpu_seconds: taken.cpu_seconds - before.taken.cpu_seconds,
            resident_kib: taken.resident_kib,
            peak_kib: taken.peak_kib,
            passes: passes.saturating_sub(before.passes),
            writes: tally.writes,
            events: tally.events,
            reads: tally.reads,
            refused: tally.refused,
            api_server_cpu_seconds: Taken::by(self.asked.api_server)?.cpu_seconds - before.api_server,
            machine_busy: Machine::now().busy_since(before.machine).unwrap_or_default(),
            load: load(),
        };
        self.before.passes = passes;
        Ok(phase)
    }
}

/// How many sandboxes have no current status, or fewer pods than they should.
async fn missing(client: &Client, asked: &Asked) -> Result<usize, Failure> {
    let contender = asked.start.contender;
    let sandboxes: Api<DynamicObject> = Api::all_with(client.clone(), &contender.kind());
    let mut current = 0;
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = sandboxes.list(&page).await?;
        current += list.items.iter().filter(|object| contender.is_current(object)).count();
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    let pods: Api<PartialObjectMeta<Pod>> = Api::all(client.clone());
    let pods = pods.list_metadata(&ListParams::default()).await?;
    let pods =
        pods.iter().filter(|pod| pod.namespace().is_some_and(|ns| asked.namespaces.contains(&ns))).count();
    let with_pods = pods / contender.pods();
    Ok(asked.sandboxes.saturating_sub(current.min(with_pods)))
}

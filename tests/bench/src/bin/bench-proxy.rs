//! Runs the scenarios and keeps what was measured, one file of JSON for each; then writes the report from all files that
//! are there. Started by `cargo xtask bench proxy`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the run"
)]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report is the output, progress goes beside it"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use agentsandbox_bench::contender::{Contender, Contestant, Programs, Setting, direct};
use agentsandbox_bench::load::{Job, Load, Outcome, Way};
use agentsandbox_bench::pki::Pki;
use agentsandbox_bench::process::{load_core, pinned};
use agentsandbox_bench::report::{Measured, Sample};
use agentsandbox_bench::scenario::{CONNECTIONS, Scenario, Size};
use agentsandbox_bench::upstream::Addresses;
use clap::Parser;

#[derive(Parser)]
struct Args {
    /// Programs and peers, as JSON.
    #[arg(long)]
    programs: String,
    /// Folder for what was measured.
    #[arg(long)]
    results: PathBuf,
    /// What this machine is.
    #[arg(long)]
    machine: String,
    /// Only these scenarios.
    #[arg(long)]
    scenario: Vec<Scenario>,
    /// Only these contenders.
    #[arg(long)]
    contender: Vec<Contender>,
    /// Rounds; the first is not counted.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Length of one measurement, where it has no end of its own.
    #[arg(long, default_value_t = 800)]
    millis: u64,
    /// Asks for as little as shows that every part works.
    #[arg(long)]
    smoke: bool,
}

impl Args {
    const fn size(&self) -> Size {
        if self.smoke { Size::Smoke } else { Size::Whole }
    }
}

/// What a run has.
struct Bench {
    args: Args,
    programs: Programs,
    folder: tempfile::TempDir,
    pki: Pki,
    addresses: Addresses,
    upstream: Child,
}

fn main() {
    let args = Args::parse();
    fs::create_dir_all(&args.results).unwrap();
    let scenarios = if args.scenario.is_empty() { Scenario::ALL.to_vec() } else { args.scenario.clone() };
    let bench = Bench::new(args);
    for scenario in scenarios {
        let measured = bench.measure(scenario);
        let file = bench.args.results.join(format!("{}.json", scenario.name()));
        fs::write(&file, lines(&measured)).unwrap();
    }
    print!("{}", report(&bench.args.results));
}

/// JSON with one sample on a line, so that a difference can be read.
fn lines(measured: &Measured) -> String {
    serde_json::to_string(measured).unwrap().replace("{\"outcome\"", "\n{\"outcome\"") + "\n"
}

fn report(results: &Path) -> String {
    let kept = Scenario::ALL.iter().filter_map(|scenario| {
        let text = fs::read_to_string(results.join(format!("{}.json", scenario.name()))).ok()?;
        Some(serde_json::from_str::<Measured>(&text).unwrap())
    });
    let all: Vec<Measured> = kept.collect();
    let versions: BTreeMap<String, String> =
        all.iter().flat_map(|measured| measured.versions.clone()).collect();
    let versions: Vec<String> =
        versions.into_iter().map(|(name, version)| format!("{name}: {version}")).collect();
    let machine = all.first().map_or("", |measured| measured.machine.as_str());
    let tables: Vec<String> = all.iter().map(Measured::markdown).collect();
    format!("Machine: {machine}\n\nVersions: {}.\n\n{}", versions.join("; "), tables.join("\n"))
}

impl Bench {
    fn new(args: Args) -> Self {
        let programs: Programs = serde_json::from_str(&args.programs).unwrap();
        let folder = tempfile::tempdir().unwrap();
        // Squid gives up its rights and still reads its certificates.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), mode).unwrap();
        let pki = Pki::create(folder.path());
        let mut command = pinned(load_core(), &programs.bench.join("bench-upstream"));
        let mut upstream = command.arg(folder.path()).stdout(Stdio::piped()).spawn().unwrap();
        let addresses = serde_json::from_str(&first_line(&mut upstream)).unwrap();
        Self { args, programs, folder, pki, addresses, upstream }
    }

    fn measure(&self, scenario: Scenario) -> Measured {
        let wanted =
            |contender: &Contender| self.args.contender.is_empty() || self.args.contender.contains(contender);
        let (without, present): (Vec<_>, Vec<_>) =
            Contender::ALL.into_iter().filter(wanted).partition(|c| c.absent(scenario).is_some());
        let why = |contender: Contender| Some((contender, contender.absent(scenario)?.to_owned()));
        let mut absent: BTreeMap<Contender, String> = without.into_iter().filter_map(why).collect();
        let mut samples: BTreeMap<Contender, Vec<Sample>> = BTreeMap::new();
        if scenario == Scenario::Idle {
            for round in 0..self.args.rounds {
                for contender in &present {
                    let pairs = self.args.size().pairs().iter();
                    let pairs = pairs.filter(|pairs| **pairs <= contender.connections_max());
                    let found: Vec<Sample> = pairs.map(|pairs| self.hold(*contender, *pairs)).collect();
                    note(scenario, *contender, round, &found);
                    if round > 0 {
                        samples.entry(*contender).or_default().extend(found);
                    }
                }
            }
        } else {
            self.rounds(scenario, &present, &mut samples, &mut absent);
        }
        let versions = self.programs.peers.iter().map(|(name, peer)| (name.clone(), peer.version.clone()));
        Measured {
            scenario,
            machine: self.args.machine.clone(),
            versions: versions.collect(),
            samples,
            absent,
        }
    }

    /// All contenders run, and are asked in turn. One that fails a request is out.
    fn rounds(
        &self,
        scenario: Scenario,
        present: &[Contender],
        samples: &mut BTreeMap<Contender, Vec<Sample>>,
        absent: &mut BTreeMap<Contender, String>,
    ) {
        let started: Vec<(Contender, Contestant)> =
            present.iter().map(|contender| (*contender, self.start(*contender, scenario))).collect();
        let mut rates = BTreeMap::new();
        for round in 0..self.args.rounds {
            for (contender, contestant) in &started {
                if absent.contains_key(contender) {
                    continue;
                }
                let mut job = scenario.job(self.args.size());
                let mut asked = 0.0;
                if let Job::Rate { per_second, .. } = &mut job {
                    asked = *rates.entry(*contender).or_insert_with(|| self.half_rate(contestant, scenario));
                    *per_second = asked;
                }
                let mut sample = self.sample(contestant, scenario, job.clone());
                sample.asked_per_second = asked;
                if scenario == Scenario::Latency {
                    let alone = direct(&self.setting(scenario, PathBuf::new(), contestant.entry));
                    sample.direct = Some(self.sample(&alone, scenario, job).outcome);
                }
                note(scenario, *contender, round, std::slice::from_ref(&sample));
                if sample.outcome.failed > 0 {
                    let (failed, all) = (sample.outcome.failed, sample.outcome.failed + sample.outcome.done);
                    absent.insert(*contender, format!("failed {failed} of {all}"));
                    samples.remove(contender);
                } else if round > 0 {
                    samples.entry(*contender).or_default().push(sample);
                }
            }
        }
    }

    /// Half of what it does when it is asked as fast as it answers.
    fn half_rate(&self, contestant: &Contestant, scenario: Scenario) -> f64 {
        let job = Job::Closed { connections: CONNECTIONS, streams: 1 };
        let outcome = self.sample(contestant, scenario, job).outcome;
        outcome.done as f64 / outcome.seconds / 2.0
    }

    fn start(&self, contender: Contender, scenario: Scenario) -> Contestant {
        let folder = self.folder.path().join(format!("{}-{}", scenario.name(), contender.name()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        contender.start(self.setting(scenario, folder, self.addresses.plain))
    }

    fn setting(&self, scenario: Scenario, folder: PathBuf, listen: SocketAddr) -> Setting<'_> {
        let (programs, pki, upstream) = (&self.programs, &self.pki, self.addresses);
        Setting { programs, pki, upstream, scenario, folder, listen }
    }

    fn load(&self, contestant: &Contestant, scenario: Scenario, job: Job) -> Child {
        let setting = self.setting(scenario, PathBuf::new(), contestant.entry);
        let load = Load {
            entry: contestant.entry,
            way: contestant.way,
            http2: scenario.front() == agentsandbox_bench::scenario::Front::TunnelH2,
            authority: format!("{}:{}", setting.name(), setting.target().port()),
            path: format!("{}{}", contestant.prefix, scenario.path(self.args.size())),
            authorization: contestant.authorization.clone(),
            grpc: scenario == Scenario::Grpc,
            pki: self.folder.path().to_owned(),
            millis: self.args.millis,
            job,
        };
        debug_assert!(load.way != Way::Absolute || !load.http2);
        let mut command = pinned(load_core(), &self.programs.bench.join("bench-load"));
        command.arg(serde_json::to_string(&load).unwrap());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    fn sample(&self, contestant: &Contestant, scenario: Scenario, job: Job) -> Sample {
        let Some(running) = &contestant.running else {
            return Sample { outcome: outcome(self.load(contestant, scenario, job)), ..Sample::default() };
        };
        running.forget_peak();
        let (cpu_before, kib_before) = (running.cpu_seconds(), running.resident_kib());
        let outcome = outcome(self.load(contestant, scenario, job));
        let cpu_seconds = running.cpu_seconds() - cpu_before;
        let grown_kib = running.peak_kib().saturating_sub(kib_before);
        Sample { outcome, cpu_seconds, resident_kib: running.resident_kib(), grown_kib, ..Sample::default() }
    }

    /// The memory of a new process that holds so many connections.
    fn hold(&self, contender: Contender, pairs: usize) -> Sample {
        let contestant = self.start(contender, Scenario::Idle);
        let mut load = self.load(&contestant, Scenario::Idle, Job::Idle { pairs });
        assert_eq!(first_line(&mut load).trim(), "ready");
        let resident_kib = contestant.running.as_ref().map_or(0, |running| running.resident_kib());
        let outcome = outcome(load);
        assert!(outcome.failed == 0, "{contender:?} holds {outcome:?}");
        Sample { outcome, resident_kib, ..Sample::default() }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.upstream.kill();
        let _ = self.upstream.wait();
    }
}

/// Reads a line without taking the pipe away.
fn first_line(child: &mut Child) -> String {
    let mut reader = BufReader::with_capacity(1, child.stdout.as_mut().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    line
}

/// Ends the load's input and reads what came of it.
fn outcome(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    serde_json::from_str(text.lines().last().unwrap_or_default()).expect("the load says what came of it")
}

fn note(scenario: Scenario, contender: Contender, round: usize, samples: &[Sample]) {
    let mut out = std::io::stderr().lock();
    for sample in samples {
        let Sample { outcome, cpu_seconds, resident_kib, .. } = sample;
        let _ = writeln!(
            out,
            "{scenario:?} {contender:?} round {round}: {:.0}/s, {} failed, {:.3} CPU s per 10,000, p50 {:.0} µs, p99 {:.0} µs, {} MiB",
            outcome.done as f64 / outcome.seconds,
            outcome.failed,
            cpu_seconds / outcome.done.max(1) as f64 * 10_000.0,
            outcome.micros_p50,
            outcome.micros_p99,
            resident_kib / 1024
        );
    }
}

//! `cargo xtask test`: everything that must hold, in named parts that can be run alone.

use std::fmt::Debug;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::cluster::{Cluster, down, process};
use crate::failure::{During, Failure, Result};
use crate::images::{self, Selection};
use crate::{agent_images, chart, invariants, nightly, parts, paths, quickstart, scanners, shell, tools};

/// A part of the tests, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Formatting.
    Fmt,
    /// Lints.
    Clippy,
    /// Dependency policy: banned crates, licenses, sources.
    Deny,
    /// Unit, property and socket tests, and the house's rules.
    Unit,
    /// The chart renders, and refuses what it should.
    Chart,
    /// Other people's scanners on what the chart and the operator make.
    Scanners,
    /// The machine's own clients through the proxy, in network namespaces.
    Clients,
    /// The product on a real cluster.
    Cluster,
}

const ALL: [Part; 8] = [
    Part::Fmt,
    Part::Clippy,
    Part::Deny,
    Part::Unit,
    Part::Chart,
    Part::Scanners,
    Part::Clients,
    Part::Cluster,
];

/// Tests that need network namespaces and other people's programs; their manifest keeps them out of `cargo test`.
const CLIENTS_TESTS: [&str; 2] = ["quick", "readers"];
/// Tests that need a cluster, likewise.
const CLUSTER_TESTS: [&str; 3] = ["cluster", "rig", "whole_run"];

/// Runs the parts, or one of them, and prints a line that counts them. All of them run even where one fails: a run takes long
/// enough that each failure it can tell of is worth knowing.
///
/// # Errors
/// When a part fails; the sentence says how to run it alone.
pub fn test(only_part: Option<Part>, only_test: Option<&str>) -> Result<()> {
    let selected: Vec<Part> = ALL.into_iter().filter(|p| only_part.is_none_or(|o| o == *p)).collect();
    if let [first, ..] = selected[..]
        && first != Part::Cluster
        && selected.contains(&Part::Cluster)
    {
        begin_ahead();
    }
    each(&selected, "test", |part| part.run(only_test))
}

/// The lowest there is: it is to take what nobody else wants.
const AHEAD_PRIORITY: &str = "19";

/// Starts to build what the cluster's part needs. The parts before it leave a third of two processors idle, and this takes as long
/// as all of them on a machine that has nothing yet. A part that comes to the same finds it done, or waits for it by cargo's lock and
/// the cache's; what goes wrong here is told there.
fn begin_ahead() {
    let begin = || -> Result<Child> {
        let own = std::env::current_exe().during("this program is not known")?;
        let log =
            File::create(paths::target().join("ahead.log")).during("target/ahead.log cannot be made")?;
        let errors = log.try_clone().during("target/ahead.log cannot be shared")?;
        let mut nice = shell::command("nice", &["-n", AHEAD_PRIORITY]);
        nice.arg(own).arg("ahead").stdin(Stdio::null()).stdout(log).stderr(errors);
        nice.spawn().during("nice cannot be started")
    };
    match begin() {
        // Nobody waits for it: it ends with what it builds.
        Ok(_running) => println!("building what the cluster needs meanwhile; target/ahead.log tells"),
        Err(failure) => println!("nothing is built ahead: {failure}"),
    }
}

/// Builds the cluster's programs and those of the images for its tests.
///
/// # Errors
/// As both say.
pub fn build_ahead() -> Result<()> {
    parts::built()?;
    images::programs(&paths::repository(), Selection::WithTests).during("the images' programs are not built")
}

/// Runs parts of a task one after the other, whatever becomes of those before, and prints how each ended and how long it took.
pub(crate) fn each<P: Copy + Debug>(parts: &[P], task: &str, run: impl Fn(P) -> Result<()>) -> Result<()> {
    let mut failed = Vec::new();
    for part in parts {
        let begin = Instant::now();
        println!("==> {part:?}");
        let outcome = run(*part);
        let took = begin.elapsed().as_secs();
        match outcome {
            Ok(()) => println!("==> {part:?} passed in {took} s"),
            Err(failure) => {
                eprintln!("==> {part:?} failed after {took} s: {failure}");
                failed.push(format!("`cargo xtask {task} {}`", format!("{part:?}").to_lowercase()));
            }
        }
    }
    println!("{} passed, {} failed", parts.len() - failed.len(), failed.len());
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("run what failed alone with {}", failed.join(", "))))
}

impl Part {
    fn run(self, only_test: Option<&str>) -> Result<()> {
        match self {
            Self::Fmt => cargo(&["fmt", "--all", "--check"]),
            Self::Clippy => {
                let mut args = vec!["clippy", "--locked", "--all-targets"];
                // These are targets that `--all-targets` leaves out.
                for test in CLIENTS_TESTS.iter().chain(&CLUSTER_TESTS).chain(&[nightly::UPSTREAM_TEST]) {
                    args.extend(["--test", test]);
                }
                args.extend(["--", "-D", "warnings"]);
                cargo(&args)
            }
            Self::Deny => deny(),
            Self::Unit => {
                let mut args = vec!["test", "--locked", "--no-fail-fast"];
                args.extend(only_test);
                cargo(&args)
            }
            Self::Chart => chart::check(),
            Self::Scanners => scanners::run(),
            Self::Clients => {
                let mut args = named(&CLIENTS_TESTS);
                args.extend(only_test);
                cargo(&args)
            }
            Self::Cluster => cluster(only_test),
        }
    }
}

/// Runs these tests, of whichever package. All of cargo's commands here name what they want and no package: cargo then builds
/// with the features that the whole workspace asks for, and what one part of the tests has built another finds.
fn named<'a>(tests: &[&'a str]) -> Vec<&'a str> {
    let each = tests.iter().flat_map(|test| ["--test", test]);
    ["test", "--locked"].into_iter().chain(each).collect()
}

/// Runs cargo in the repository with its output shown.
pub(crate) fn cargo(args: &[&str]) -> Result<()> {
    let mut cargo = Command::new("cargo");
    visible(cargo.args(args).current_dir(paths::repository()))
}

pub(crate) fn visible(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(format!("{program} ended with {status}"))),
        Err(error) => Err(Failure::new(format!("{program} cannot be started: {error}"))),
    }
}

/// The version of cargo-deny whose verdict counts.
const DENY_VERSION: &str = "0.20.2";

/// Checks `deny.toml` with a cargo-deny of its own, which is built once. Advisories need a database from the internet,
/// so they are not part of it.
fn deny() -> Result<()> {
    let program = tools::built("cargo-deny", DENY_VERSION)?;
    let mut check = shell::command(
        &program,
        &["--locked", "--workspace", "--log-level", "error", "check", "bans", "licenses", "sources"],
    );
    visible(check.current_dir(paths::repository()))
}

/// Tests share the machine's two cores with the cluster; two at a time keep waits for conditions short.
const TEST_THREADS: &str = "--test-threads=2";

/// The world's servers are killed with it, so nothing has to be waited for.
const WORLD_GRACE: Duration = Duration::from_secs(2);

fn cluster(only_test: Option<&str>) -> Result<()> {
    let cluster = Cluster::chosen()?;
    images::build(&paths::repository(), Selection::WithTests).during("the images are not made")?;
    // The world's real git, pip and npm servers are put into its cache before it starts.
    visible(shell::command(paths::world_program(), &["prepare"]).stdin(Stdio::null()))?;
    // One that runs already, as a quickstart leaves it, began without them; it is started again with the rest.
    process::stop(&cluster, "world", WORLD_GRACE).during("the world does not end")?;
    match only_test {
        Some(_) => quickstart::prepare(&cluster)?,
        // The README's other command, whole.
        None => quickstart::quickstart(&cluster)?,
    }
    agent_images::load(&cluster)?;
    // It needs a whole run: an invariant that was never judged is not shown to hold.
    let watching = if only_test.is_none() { Some(invariants::watch(&cluster)?) } else { None };
    let mut args = named(&CLUSTER_TESTS);
    if only_test.is_none() {
        // Every failure of a long run is worth knowing.
        args.push("--no-fail-fast");
    }
    args.extend(["--", TEST_THREADS]);
    args.extend(only_test);
    let outcome = cargo(&args);
    let verdict = watching.map_or(Ok(()), invariants::Watching::verdict);
    let outcome = outcome.and(verdict);
    if outcome.is_ok() && only_test.is_none() {
        down::down(&cluster)?;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_though_one_before_it_failed_and_the_whole_has_failed_with_it() {
        let ran = std::cell::RefCell::new(Vec::new());
        let run = |part| {
            ran.borrow_mut().push(part);
            if part == Part::Fmt { Err(Failure::new("a blank")) } else { Ok(()) }
        };
        let failure = each(&[Part::Fmt, Part::Deny], "test", run).expect_err("one failed").to_string();
        assert!(failure.contains("`cargo xtask test fmt`") && !failure.contains("deny"), "{failure}");
        assert_eq!(ran.take(), [Part::Fmt, Part::Deny]);
        assert!(each(&[Part::Deny], "test", run).is_ok());
    }

    /// A target that `cargo test` leaves out and that no part names is a test that nobody runs.
    #[test]
    fn each_test_that_cargo_leaves_out_has_a_part_that_runs_it() {
        let left_out = |manifest: &str| {
            let text = std::fs::read_to_string(paths::repository().join(manifest)).unwrap();
            let targets = text.split("[[test]]").skip(1).filter(|target| target.contains("test = false"));
            let names = targets.filter_map(|target| target.split('"').nth(1).map(str::to_owned));
            names.collect::<Vec<_>>()
        };
        assert_eq!(left_out("tests/clients/Cargo.toml"), CLIENTS_TESTS);
        let night = nightly::UPSTREAM_TEST;
        assert_eq!(left_out("tests/Cargo.toml"), [&CLUSTER_TESTS[..], &[night]].concat());
    }
}

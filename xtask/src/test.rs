//! `cargo xtask test`: everything that must hold, in named parts that can be run alone.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::cluster::{Cluster, down, process};
use crate::failure::{During, Failure, Result};
use crate::images::{self, Selection};
use crate::{agent_images, chart, invariants, parts, paths, quickstart, scanners, shell, tools};

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

/// Runs the parts, or one of them, and prints a line that counts them.
///
/// # Errors
/// When a part fails; those after it are not run.
pub fn test(only_part: Option<Part>, only_test: Option<&str>) -> Result<()> {
    let selected: Vec<Part> = ALL.into_iter().filter(|p| only_part.is_none_or(|o| o == *p)).collect();
    let mut passed = 0;
    if selected.iter().any(|part| part.needs_cluster_programs()) {
        parts::fetch_ahead();
    }
    for part in selected {
        let begin = Instant::now();
        println!("==> {part:?}");
        let outcome = part.run(only_test);
        let took = begin.elapsed().as_secs();
        if let Err(failure) = outcome {
            eprintln!("==> {part:?} failed after {took} s: {failure}");
            println!("{passed} passed, 1 failed");
            return Err(Failure::new(format!(
                "run it alone with `cargo xtask test {}`",
                format!("{part:?}").to_lowercase()
            )));
        }
        passed += 1;
        println!("==> {part:?} passed in {took} s");
    }
    println!("{passed} passed, 0 failed");
    Ok(())
}

impl Part {
    const fn needs_cluster_programs(self) -> bool {
        matches!(self, Self::Chart | Self::Scanners | Self::Cluster)
    }

    fn run(self, only_test: Option<&str>) -> Result<()> {
        match self {
            Self::Fmt => cargo(&["fmt", "--all", "--check"]),
            Self::Clippy => {
                // The night's test is a target that `--all-targets` leaves out.
                let targets = ["--all-targets", "--test", "upstream"];
                cargo(
                    &[&["clippy", "--workspace", "--locked"], &targets[..], &["--", "-D", "warnings"]]
                        .concat(),
                )
            }
            Self::Deny => deny(),
            Self::Unit => {
                let mut args = vec!["test", "--locked"];
                args.extend(only_test);
                cargo(&args)
            }
            Self::Chart => chart::check(),
            Self::Scanners => scanners::run(),
            Self::Clients => {
                let mut args = vec!["test", "--locked", "--package", "agentsandbox-clients"];
                args.extend(only_test);
                cargo(&args)
            }
            Self::Cluster => cluster(only_test),
        }
    }
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
    let mut args = vec!["test", "--locked", "--package", "agentsandbox-tests"];
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

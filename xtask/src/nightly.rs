//! `cargo xtask nightly`: the sizes that take too long for each change, in named parts that can be run alone.
//!
//! The parts do not depend on one another, so all of them run even where one fails: a night is worth every failure it finds.
//! `cargo xtask mutate` is none of them, for it takes more than a night.

use std::process::Command;

use clap::ValueEnum;

use crate::failure::{During, Failure, Result};
use crate::test::{cargo, visible};
use crate::{clients, fuzz, paths, soak, test};

/// A part of the night, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The operator's storms (O-R29): 10,000 seeds.
    Seeds,
    /// Each fuzz target for ten minutes.
    Fuzz,
    /// The proxy under load for half an hour.
    Soak,
    /// Kubernetes' own tests of the runtime and of NetworkPolicies, with runc and with gVisor (O-C8, O-C9).
    Upstream,
    /// Every client through every entrance, through other proxies and to them: downloads of several gigabytes.
    Clients,
    /// The cluster's tests five times in a row (O-C6): one that fails once in five is a flake, and is found here.
    Suite,
}

/// Seeds of the operator's storms; `cargo test` plays fewer.
const SEEDS: u32 = 10_000;
/// Ten thousand of them are worth a build that is optimised.
const STORMS: [&str; 7] =
    ["test", "--locked", "--profile", "nightly", "--package", "agentsandbox-sim", "o_r29_every"];
/// How often the cluster's tests pass in a row before they count as steady.
const SUITE_RUNS: u32 = 5;
/// How many agents the night starts at once (O-N7), and the variable that says so to the test.
const AT_ONCE: u32 = 20;
const AT_ONCE_VARIABLE: &str = "AGENTSANDBOX_TEST_AT_ONCE";
/// Tests that each bring up clusters of their own; their manifest keeps them out of `cargo test`.
pub(crate) const UPSTREAM_TEST: &str = "upstream";
const UPSTREAM: [&str; 6] = ["test", "--locked", "--test", UPSTREAM_TEST, "--", "--test-threads=1"];

/// Runs the parts, or one of them, and prints a line that counts them.
///
/// # Errors
/// When a part fails; the others are run all the same.
pub fn run(only: Option<Part>) -> Result<()> {
    let selected: Vec<Part> = match only {
        Some(part) => vec![part],
        None => Part::value_variants().to_vec(),
    };
    test::each(&selected, "nightly", Part::run)
}

impl Part {
    fn run(self) -> Result<()> {
        match self {
            Self::Seeds => visible(&mut storms()),
            Self::Fuzz => fuzz::run(None, fuzz::SECONDS),
            Self::Soak => soak::run(soak::MINUTES, None),
            Self::Upstream => cargo(&UPSTREAM),
            // What a night finds is told; the table is written by whoever means to.
            Self::Clients => clients::run(&[], clients::Document::Kept),
            Self::Suite => suite(|| visible(&mut cluster()?)),
        }
    }
}

/// Runs the cluster's tests again and again, and stops at the first run that fails: there is no second try.
fn suite(run: impl Fn() -> Result<()>) -> Result<()> {
    for number in 1..=SUITE_RUNS {
        println!("==> run {number} of {SUITE_RUNS}");
        run().map_err(|failure| Failure::new(format!("run {number} of {SUITE_RUNS}: {failure}")))?;
    }
    Ok(())
}

/// The cluster's tests, with what is more of some of them in the night.
fn cluster() -> Result<Command> {
    let own = std::env::current_exe().during("this program is not known")?;
    let mut cluster = Command::new(own);
    cluster.arg("test").arg("cluster").env(AT_ONCE_VARIABLE, AT_ONCE.to_string());
    Ok(cluster)
}

fn storms() -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(STORMS).current_dir(paths::repository());
    // What a caller may have set for one seed or a few is not to make the night shorter.
    cargo.env("SEEDS", SEEDS.to_string()).env_remove("SEED").env_remove("FROM");
    cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_night_plays_all_its_seeds_whatever_its_caller_has_set() {
        let command = storms();
        let set: Vec<_> = command.get_envs().map(|(name, value)| (name.to_str(), value)).collect();
        assert!(set.contains(&(Some("SEEDS"), Some("10000".as_ref()))), "{set:?}");
        assert!(set.contains(&(Some("SEED"), None)) && set.contains(&(Some("FROM"), None)), "{set:?}");
    }

    #[test]
    fn o_c6_a_suite_that_fails_once_in_five_runs_has_failed() {
        let runs = std::cell::Cell::new(0);
        let run = |fails: u32| {
            runs.set(0);
            suite(|| {
                runs.set(runs.get() + 1);
                if runs.get() == fails { Err(Failure::new("a flake")) } else { Ok(()) }
            })
        };
        assert!(run(0).is_ok());
        assert_eq!(runs.get(), 5);
        for fails in 1..=5 {
            let failure = run(fails).expect_err("one run failed");
            assert!(failure.to_string().contains(&format!("run {fails} of 5: a flake")), "{failure}");
            assert_eq!(runs.get(), fails, "it went on after a failure");
        }
    }

    #[test]
    fn the_night_starts_twenty_agents_at_once_by_the_name_that_the_test_reads() {
        let command = cluster().unwrap();
        let set: Vec<_> = command.get_envs().map(|(name, value)| (name.to_str(), value)).collect();
        assert!(command.get_args().eq("test cluster".split(' ')), "{command:?}");
        assert_eq!(set, [(Some(AT_ONCE_VARIABLE), Some("20".as_ref()))]);
        let test = paths::repository().join("tests/tests/cluster/race.rs");
        assert!(std::fs::read_to_string(test).unwrap().contains(&format!("\"{AT_ONCE_VARIABLE}\"")));
    }

    /// A filter that fits nothing would be a night without a test, and green.
    #[test]
    fn the_night_names_one_test_that_exists() {
        let file = paths::repository().join("tests/sim/tests/operator/seeds.rs");
        let text = std::fs::read_to_string(file).unwrap();
        let filter = STORMS.last().unwrap();
        assert_eq!(text.matches(&format!("fn {filter}")).count(), 1, "{filter}");
    }
}

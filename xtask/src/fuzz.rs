//! `cargo xtask fuzz`: the fuzz targets under libFuzzer, each for a while, and a table of what they did.
//!
//! It needs a nightly compiler, for only that one can count what an input reaches, and a C++ compiler for libFuzzer
//! itself. What a target finds is kept in `fuzz/artifacts`; made small and given a name it becomes a seed, which
//! `cargo test` runs from then on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{During, Failure, Result};
use crate::test::visible;
use crate::{paths, shell, tools};

/// How long each target runs, unless it is said.
pub const SECONDS: u32 = 600;

const CARGO_FUZZ_VERSION: &str = "0.13.2";
/// One input that takes longer is a finding: what the targets read is bounded, and takes milliseconds.
const INPUT_SECS_MAX: u32 = 60;

/// What one target did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    executions: u64,
    edges: u64,
    /// Inputs at which it broke off.
    found: usize,
}

/// Runs one target or all of them, and prints a table.
///
/// # Errors
/// When something is missing, a target cannot be built, or one found an input.
pub fn run(only: Option<&str>, seconds: u32) -> Result<()> {
    let targets = selected(only)?;
    needs()?;
    let program = tools::built("cargo-fuzz", CARGO_FUZZ_VERSION)?;
    visible(&mut cargo_fuzz(&program, "build", only))?;
    let mut all = Vec::new();
    for target in targets {
        println!("==> {target}, {seconds} s");
        let (done, log) = fuzz(&program, &target, seconds)?;
        if done.found > 0 {
            println!("    found: see {}", log.display());
        }
        all.push((target, done));
    }
    print!("{}", table(&all));
    let found: usize = all.iter().map(|(_, done)| done.found).sum();
    if found == 0 {
        return Ok(());
    }
    Err(Failure::new(format!(
        "{found} inputs break a claim: they are in fuzz/artifacts; mend the code, and keep each of them in fuzz/seeds"
    )))
}

fn fuzz_folder() -> PathBuf {
    paths::repository().join("fuzz")
}

/// The names of the targets, which are those of their programs.
fn targets() -> Result<Vec<String>> {
    let folder = fuzz_folder().join("fuzz_targets");
    let entries = fs::read_dir(&folder).during(format!("{} cannot be read", folder.display()))?;
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.ok()?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned())
    };
    let mut all: Vec<String> = entries.filter_map(name).collect();
    all.sort();
    Ok(all)
}

fn selected(only: Option<&str>) -> Result<Vec<String>> {
    let all = targets()?;
    match only {
        None => Ok(all),
        Some(name) if all.iter().any(|target| target == name) => Ok(vec![name.to_owned()]),
        Some(name) => Err(Failure::new(format!("there is no target {name}: {}", all.join(", ")))),
    }
}

/// What no build brings along.
fn needs() -> Result<()> {
    if shell::run("rustup", &["run", "nightly", "rustc", "--version"]).is_err() {
        return Err(Failure::new("fuzzing needs a nightly compiler: `rustup toolchain install nightly`"));
    }
    if !["c++", "g++", "clang++"].into_iter().any(shell::exists) {
        return Err(Failure::new("fuzzing needs a C++ compiler, to build libFuzzer: install g++ or clang"));
    }
    Ok(())
}

fn cargo_fuzz(program: &Path, verb: &str, target: Option<&str>) -> Command {
    let folder = fuzz_folder().display().to_string();
    let mut command =
        shell::command(program, &["fuzz", verb, "--features", "libfuzzer", "--fuzz-dir", &folder]);
    // The workspace's own compiler is a stable one, and cargo tells its children to use it.
    command.env("RUSTUP_TOOLCHAIN", "nightly").env_remove("CARGO").env_remove("RUSTC");
    command.arg("--target-dir").arg(output()).args(target).current_dir(paths::repository());
    command
}

/// Other flags than the workspace's: a folder of its own keeps both from being built anew.
fn output() -> PathBuf {
    paths::target().join("fuzz")
}

fn fuzz(program: &Path, target: &str, seconds: u32) -> Result<(Done, PathBuf)> {
    let (corpus, seeds) = (output().join("corpus").join(target), fuzz_folder().join("seeds").join(target));
    fs::create_dir_all(&corpus).during(format!("{} cannot be made", corpus.display()))?;
    let mut command = cargo_fuzz(program, "run", Some(target));
    // What it learns goes into the first folder; the seeds are only read.
    command.args([&corpus, &seeds]).arg("--").args([
        format!("-max_total_time={seconds}"),
        format!("-timeout={INPUT_SECS_MAX}"),
        "-print_final_stats=1".to_owned(),
    ]);
    let log = output().join("logs").join(format!("{target}.log"));
    let ended = shell::logged(&mut command, &log);
    let text = fs::read_to_string(&log).during(format!("{} cannot be read", log.display()))?;
    let done = read(&text);
    // A run that neither found something nor counted what it did has not taken place.
    match ended {
        Err(failure) if done.found == 0 => Err(failure),
        _ => Ok((done, log)),
    }
}

/// What libFuzzer wrote: its status lines (`#1234 … cov: 567 …`), its statistics, and a line for each input it kept.
fn read(log: &str) -> Done {
    let behind = |line: &str, before: &str| -> Option<u64> {
        line.split_once(before)?.1.split_whitespace().next()?.parse().ok()
    };
    let executed = |line: &str| behind(line, "stat::number_of_executed_units:");
    let status = |line: &str| line.strip_prefix('#')?.split_whitespace().next()?.parse().ok();
    let most = |all: &mut dyn Iterator<Item = u64>| all.max().unwrap_or(0);
    Done {
        executions: most(&mut log.lines().filter_map(|line| executed(line).or_else(|| status(line)))),
        edges: most(&mut log.lines().filter_map(|line| behind(line, " cov: "))),
        found: log.lines().filter(|line| line.contains("Test unit written to")).count(),
    }
}

fn table(all: &[(String, Done)]) -> String {
    let mut text = "| target | executions | edges | found |\n|---|---|---|---|\n".to_owned();
    for (target, Done { executions, edges, found }) in all {
        text.push_str(&format!("| `{target}` | {executions} | {edges} | {found} |\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_edges_and_findings_are_read_from_a_log() {
        let log = "#2\tINITED cov: 10 ft: 11 corp: 1/1b\n#65536\tpulse  cov: 240 ft: 300 corp: 9/1Kb\n\
                   stat::number_of_executed_units: 70001\n";
        assert_eq!(read(log), Done { executions: 70_001, edges: 240, found: 0 });
        let crashed = "#2\tINITED cov: 10 ft: 11\n==1== ERROR: libFuzzer: deadly signal\n\
                       artifact_prefix='x'; Test unit written to x/crash-1\n";
        assert_eq!(read(crashed), Done { executions: 2, edges: 10, found: 1 });
        assert_eq!(read("error: no such command"), Done::default());
    }

    #[test]
    fn a_target_that_does_not_exist_is_told_with_those_that_do() {
        assert!(selected(Some("path")).is_ok_and(|all| all == ["path"]));
        let failure = selected(Some("no-such-target")).unwrap_err().to_string();
        assert!(failure.contains("websocket"), "{failure}");
        assert!(selected(None).is_ok_and(|all| all.len() > 10));
    }
}

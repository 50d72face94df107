//! `cargo xtask bench`: measurements on the running cluster, with what they are compared to in the same run.

use std::process::Stdio;

use clap::ValueEnum;

use crate::cluster::{Cluster, DEFAULT_NAME};
use crate::failure::{During, Result};
use crate::{parts, paths, quickstart, shell};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// From `create` to the agent's running process, beside a bare gVisor pod, and the operator's API writes.
    Start,
}

/// Measures, and writes `docs/benchmarks.md`.
///
/// # Errors
/// When the cluster cannot be brought up or a measurement cannot be made.
pub fn run(subject: Subject) -> Result<()> {
    quickstart::prepare(&Cluster::named(DEFAULT_NAME)?)?;
    let Subject::Start = subject;
    let program = ["run", "--locked", "--package", "agentsandbox-tests", "--bin", "bench-start"];
    let mut bench = shell::command("cargo", &program);
    bench.current_dir(paths::repository()).stderr(Stdio::inherit());
    let measured = shell::output(&mut bench)?;
    let text = format!("{HEAD}\n{}\n\n{measured}", machine());
    print!("{text}");
    let file = paths::repository().join("docs/benchmarks.md");
    std::fs::write(&file, text).during(format!("{} cannot be written", file.display()))
}

const HEAD: &str = "# Benchmarks
Written by `cargo xtask bench start`, which measures everything below in one run, on a cluster of this project's rig that does nothing else.
";

/// What was measured on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next());
    let gib = kib.and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib >> 20);
    format!(
        "Machine: {cores} cores, {gib} GiB, {}; Kubernetes {}, gVisor with the systrap platform.",
        std::env::consts::ARCH,
        parts::KUBERNETES_VERSION
    )
}

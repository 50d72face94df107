//! `cargo xtask bench`: measurements on the running cluster, with what they are compared to in the same run.

use clap::ValueEnum;

use crate::cluster::{Cluster, DEFAULT_NAME};
use crate::failure::Result;
use crate::{quickstart, test};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// From `create` to the agent's running process, beside a bare gVisor pod, and the operator's API writes.
    Start,
}

/// Measures, and prints a table for `docs/benchmarks.md`.
///
/// # Errors
/// When the cluster cannot be brought up or a measurement cannot be made.
pub fn run(subject: Subject) -> Result<()> {
    quickstart::prepare(&Cluster::named(DEFAULT_NAME)?)?;
    match subject {
        Subject::Start => test::cargo(&[
            "run",
            "--quiet",
            "--locked",
            "--package",
            "agentsandbox-tests",
            "--bin",
            "bench-start",
        ]),
    }
}

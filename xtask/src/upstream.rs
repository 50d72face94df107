//! Other people's tests of what the product stands on: the CRI's own (critest) and Kubernetes' own of NetworkPolicies, on the rig,
//! with runc and with gVisor.
//!
//! - [`runtime`]: critest. - [`policies`]: NetworkPolicies. - [`exceptions`]: the specs that fail here, each with its reason.
//! - [`report`]: what Ginkgo says of its specs. - [`image`]: the image that critest's pods run.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

use crate::cluster::{Cluster, down};
use crate::failure::{During, Failure, Result};
use crate::paths;
use exceptions::Exceptions;
use report::Report;

pub mod exceptions;
pub mod image;
pub mod policies;
pub mod report;
pub mod runtime;

/// The list of exceptions.
const EXCEPTIONS: &str = "tests/upstream/exceptions.yaml";
/// The document with a row for each run.
const TABLE: &str = "docs/upstream.md";

/// Whose tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Suite {
    /// The CRI's.
    Critest,
    /// Kubernetes' NetworkPolicies.
    Netpol,
}

/// What runs the pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// The node's own kernel.
    Runc,
    /// gVisor.
    Runsc,
}

impl Suite {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critest => "critest",
            Self::Netpol => "netpol",
        }
    }

    /// The version whose specs run.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Critest => crate::parts::CRITEST_VERSION,
            Self::Netpol => crate::parts::KUBERNETES_VERSION,
        }
    }
}

impl Runtime {
    /// Name of the handler.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Runc => "runc",
            Self::Runsc => "runsc",
        }
    }
}

/// A cluster that nobody else uses while it lives.
struct Own(Cluster);

impl Own {
    fn named(name: &str) -> Result<Self> {
        let cluster = Cluster::named(name)?;
        down::down(&cluster)?;
        Ok(Self(cluster))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(failure) = down::down(&self.0) {
            eprintln!("the cluster {} stays: {failure}", self.0.name());
        }
    }
}

/// An empty folder for what a run says.
fn folder(suite: Suite, runtime: Runtime) -> Result<PathBuf> {
    let folder = paths::target().join("upstream").join(suite.as_str()).join(runtime.as_str());
    let _absent = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}

fn exceptions() -> Result<Exceptions> {
    Exceptions::parse(&read(EXCEPTIONS)?).during(EXCEPTIONS)
}

fn read(file: &str) -> Result<String> {
    fs::read_to_string(paths::repository().join(file)).during(format!("{file} cannot be read"))
}

/// Compares a run with what is written of it.
///
/// # Errors
/// When a spec failed that is not listed, a listed one passed or did not run, or the table does not have the run's row.
fn judge(suite: Suite, runtime: Runtime, report: &Report) -> Result<()> {
    let mut wrong = exceptions()?.disagreements(suite, runtime, &report.failed);
    let row = row(suite, runtime, report);
    println!("{row}");
    if !read(TABLE)?.contains(&row) {
        wrong.push(format!("{TABLE} lacks the line {row}"));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(wrong.join("\n"))) }
}

fn row(suite: Suite, runtime: Runtime, report: &Report) -> String {
    let [passed, failed, skipped] = [&report.passed, &report.failed, &report.skipped].map(BTreeSet::len);
    let (name, version, runtime) = (suite.as_str(), suite.version(), runtime.as_str());
    format!("| {name} | {version} | {runtime} | {passed} | {failed} | {skipped} |")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_of_each_run_how_many_specs_fail_and_each_is_listed() {
        let (exceptions, table) = (exceptions().unwrap(), read(TABLE).unwrap());
        let rows = table.lines().filter(|line| line.starts_with("| critest") || line.starts_with("| netpol"));
        let mut seen = 0;
        for line in rows {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            for suite in [Suite::Critest, Suite::Netpol] {
                for runtime in [Runtime::Runc, Runtime::Runsc] {
                    if cells[1] == suite.as_str() && cells[3] == runtime.as_str() {
                        assert_eq!(cells[2], suite.version(), "{line}");
                        assert_eq!(cells[5], exceptions.of(suite, runtime).to_string(), "{line}");
                        seen += 1;
                    }
                }
            }
        }
        assert_eq!(seen, 4, "{table}");
    }
}

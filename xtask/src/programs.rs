//! Programs of the workspace that tests of another package run. Cargo builds them before tests of the whole workspace, but not
//! for one package's alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::failure::{During, Failure, Result};
use crate::paths;

/// Our proxy beside a program of the same profile; it is built where it is missing or older than its sources.
///
/// # Errors
/// When it cannot be built, or its sources cannot be read.
pub fn proxy_beside(own: &Path) -> Result<PathBuf> {
    beside(own, "agentsandbox-proxy", &["proxy/src", "proxy/policy/src"])
}

/// `kubectl agentsandbox`, likewise.
///
/// # Errors
/// When it cannot be built, or its sources cannot be read.
pub fn cli_beside(own: &Path) -> Result<PathBuf> {
    beside(own, "kubectl-agentsandbox", &["cli/src", "crds/src", "proxy/policy/src", "workspace/src"])
}

fn beside(own: &Path, name: &str, sources: &[&str]) -> Result<PathBuf> {
    let program = own.with_file_name(name);
    let built = program.metadata().and_then(|file| file.modified());
    let mut newest = SystemTime::UNIX_EPOCH;
    for folder in sources {
        newest = newest.max(newest_in(&paths::repository().join(folder))?);
    }
    if built.is_ok_and(|built| newest < built) {
        return Ok(program);
    }
    let mut build = Command::new("cargo");
    build.args(["build", "--locked", "--bin", name]);
    let status = build.current_dir(paths::repository()).status().during("cargo cannot be started")?;
    if status.success() { Ok(program) } else { Err(Failure::new(format!("{name} is not built"))) }
}

/// The time of the newest file in a folder of sources.
fn newest_in(folder: &Path) -> Result<SystemTime> {
    let unreadable = || format!("{} cannot be read", folder.display());
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(folder).during(unreadable())? {
        let entry = entry.during(unreadable())?;
        let metadata = entry.metadata().during(unreadable())?;
        let time = if metadata.is_dir() {
            newest_in(&entry.path())?
        } else {
            metadata.modified().during(unreadable())?
        };
        newest = newest.max(time);
    }
    Ok(newest)
}

//! Taking a cluster down: nothing of it stays, whatever state it was in.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::{Cluster, cgroup, component, network, process};
use crate::failure::{During, Result};

/// Grace for a component that was asked to end.
const GRACE: Duration = Duration::from_millis(700);
/// Time in which everything must have ended after SIGKILL.
const KILL_WITHIN: Duration = Duration::from_secs(20);

/// Takes the cluster down and forgets it.
///
/// # Errors
/// When something of it stays; the sentence names it.
pub fn down(cluster: &Cluster) -> Result<()> {
    stop(cluster)?;
    let state = cluster.state();
    if !state.exists() {
        return Ok(());
    }
    match fs::remove_dir_all(&state) {
        // It is empty by now, and whoever mounted it takes it away.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && is_mounted(&state) => Ok(()),
        done => done.during(format!("{} cannot be removed", state.display())),
    }
}

/// Whether a folder is a file system of its own.
#[must_use]
pub fn is_mounted(folder: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(folder) != device(&folder.join(".."))
}

/// Ends every process and removes namespaces and cgroups; keeps the state.
///
/// # Errors
/// When something of it stays.
pub fn stop(cluster: &Cluster) -> Result<()> {
    for name in component::STOP_ORDER.iter().filter(|n| **n != component::MOUNTS) {
        process::stop(cluster, name, GRACE)?;
    }
    process::kill_members(cluster, KILL_WITHIN)?;
    process::stop(cluster, component::MOUNTS, Duration::ZERO)?;
    cgroup::remove(cluster)?;
    network::remove(cluster)
}

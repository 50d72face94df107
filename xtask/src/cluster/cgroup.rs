//! The node's control groups: a root of its own in every hierarchy, so that its pods are found and limited.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Cluster;
use crate::failure::{During, Result};

const ROOT: &str = "/sys/fs/cgroup";
/// Hierarchies of version 1 in which the kubelet expects its root.
const V1: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"];
/// Controllers of version 2 that the kubelet expects.
const V2: &str = "+cpu +cpuset +memory +pids +io";

/// Longest wait for a cgroup whose processes are dead.
const BUSY_WITHIN: Duration = Duration::from_secs(5);
/// Pause between two tries.
const LOOK: Duration = Duration::from_millis(20);

/// The node's pods together weigh as much as eight processes beside them: a build that runs at the same time would
/// otherwise starve probes and make healthy pods look dead. The default is 1024 in version 1 and 100 in version 2.
const WEIGHT_V1: (&str, &str) = ("cpu.shares", "8192");
const WEIGHT_V2: (&str, &str) = ("cpu.weight", "800");

/// Name of the node's root in every hierarchy.
#[must_use]
pub fn root_name(cluster: &Cluster) -> String {
    format!("asbx-{}", cluster.name())
}

/// Whether the host has one hierarchy for all controllers.
#[must_use]
pub fn is_v2() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

fn roots(cluster: &Cluster) -> Vec<PathBuf> {
    let name = root_name(cluster);
    if is_v2() {
        return vec![Path::new(ROOT).join(name)];
    }
    V1.iter().map(|h| Path::new(ROOT).join(h)).filter(|h| h.is_dir()).map(|h| h.join(&name)).collect()
}

/// The roots that are there, in whatever hierarchy: runtimes also make theirs in `unified`, where a host has both
/// versions, although nothing asked for it.
fn existing_roots(cluster: &Cluster) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|e| e.path());
    let name = root_name(cluster);
    hierarchies
        .chain([PathBuf::from(ROOT)])
        // `cpu` and `cpu,cpuacct` may be one hierarchy under two names.
        .filter(|h| !h.is_symlink())
        .map(|h| h.join(&name))
        .filter(|r| r.is_dir())
        .collect()
}

/// Makes the roots.
///
/// # Errors
/// When a hierarchy refuses.
pub fn create(cluster: &Cluster) -> Result<()> {
    for root in roots(cluster) {
        fs::create_dir_all(&root).during(format!("{} cannot be made", root.display()))?;
        if is_v2() {
            fs::write(Path::new(ROOT).join("cgroup.subtree_control"), V2)
                .during("cgroup controllers cannot be enabled")?;
            fs::write(root.join("cgroup.subtree_control"), V2)
                .during("cgroup controllers cannot be enabled")?;
        }
        // A cpuset without processors and memory nodes admits no process.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let parent = root.parent().map(|p| p.join(file));
            if let Some(value) = parent.and_then(|p| fs::read_to_string(p).ok())
                && root.join(file).exists()
                && !is_v2()
            {
                fs::write(root.join(file), value).during(format!("{file} cannot be written"))?;
            }
        }
        for (file, weight) in [WEIGHT_V1, WEIGHT_V2] {
            if root.join(file).exists() {
                fs::write(root.join(file), weight).during(format!("{file} cannot be written"))?;
            }
        }
    }
    Ok(())
}

/// Every process in the roots, however deep.
#[must_use]
pub fn processes(cluster: &Cluster) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    for root in existing_roots(cluster) {
        for folder in deepest_first(&root) {
            let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(list.lines().filter_map(|l| l.parse::<i32>().ok()));
        }
    }
    found
}

/// Removes the roots, deepest first; they must be empty.
///
/// # Errors
/// When one stays.
pub fn remove(cluster: &Cluster) -> Result<()> {
    for root in existing_roots(cluster) {
        for folder in deepest_first(&root) {
            remove_empty(&folder)?;
        }
    }
    Ok(())
}

/// Ends every process of a cgroup that is not below the cluster's own, however deep, and removes it.
///
/// # Errors
/// When it stays.
pub fn end(name: &str) -> Result<()> {
    for hierarchy in fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path()) {
        for folder in deepest_first(&hierarchy.join(name)) {
            let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            for process in list.lines().filter_map(|line| line.parse::<i32>().ok()) {
                let _gone_already = kill(Pid::from_raw(process), Signal::SIGKILL);
            }
            remove_empty(&folder)?;
        }
    }
    Ok(())
}

/// Removes what is empty of a cgroup that others use too, and itself where it is empty then.
pub fn remove_unused(name: &str) {
    for hierarchy in fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path()) {
        for folder in deepest_first(&hierarchy.join(name)) {
            let _in_use = fs::remove_dir(folder);
        }
    }
}

/// A cgroup stays busy for a moment after its last process has been killed.
fn remove_empty(folder: &Path) -> Result<()> {
    let deadline = Instant::now() + BUSY_WITHIN;
    loop {
        match fs::remove_dir(folder) {
            Err(e) if e.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => sleep(LOOK),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            done => return done.during(format!("the cgroup {} cannot be removed", folder.display())),
        }
    }
}

fn deepest_first(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut open: Vec<PathBuf> = root.is_dir().then(|| root.to_path_buf()).into_iter().collect();
    while let Some(folder) = open.pop() {
        let below =
            fs::read_dir(&folder).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir());
        open.extend(below);
        all.push(folder);
    }
    all.reverse();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_comes_after_all_that_it_holds() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("kubepods/burstable/pod1/c")).unwrap();
        fs::create_dir_all(root.path().join("kubepods/besteffort")).unwrap();
        let order = deepest_first(root.path());
        for folder in &order {
            fs::remove_dir(folder).unwrap();
        }
        assert!(!root.path().exists());
    }
}

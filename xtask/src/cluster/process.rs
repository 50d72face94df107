//! Starting processes, knowing them again, and ending them.
//!
//! A process is known by its id, its start time and the boot it belongs to, all recorded when it starts: an id alone may
//! be another's by now. What was not recorded (shims, sandboxes) is found by the cluster's namespaces and cgroups. A
//! process is never looked for by its name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Cluster, cgroup};
use crate::failure::{During, Result};

/// Pause between two looks at a process that is asked to end.
const LOOK: Duration = Duration::from_millis(20);

/// Starts a process in a session of its own, with its output in its log, and records it.
///
/// # Errors
/// When it cannot be started or recorded.
pub fn start(cluster: &Cluster, name: &str, command: &mut Command) -> Result<i32> {
    let log = cluster.log(name);
    let file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&log)
        .during(format!("{} cannot be written", log.display()))?;
    let copy = file.try_clone().during("a log cannot be shared")?;
    let child = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        .process_group(0)
        .spawn()
        .during(format!("{name} cannot be started"))?;
    let pid = i32::try_from(child.id()).during("a process id is out of range")?;
    let record = format!("{pid} {} {}", start_time(pid).unwrap_or(0), boot());
    let path = record_path(cluster, name);
    fs::write(&path, record).during(format!("{} cannot be written", path.display()))?;
    Ok(pid)
}

/// The id of a recorded process that still runs.
///
/// # Errors
/// When the record cannot be read.
pub fn running(cluster: &Cluster, name: &str) -> Result<Option<i32>> {
    let Ok(record) = fs::read_to_string(record_path(cluster, name)) else { return Ok(None) };
    let mut fields = record.split(' ');
    let pid = fields.next().and_then(|p| p.parse().ok());
    let began = fields.next().and_then(|t| t.parse().ok());
    let same_boot = fields.next().is_some_and(|b| b.trim() == boot());
    Ok(pid.filter(|p| same_boot && is_alive(*p) && start_time(*p) == began))
}

/// Sends a signal to a recorded process, if it runs.
///
/// # Errors
/// When the kernel refuses.
pub fn signal(cluster: &Cluster, name: &str, signal: Signal) -> Result<bool> {
    let Some(pid) = running(cluster, name)? else { return Ok(false) };
    kill(Pid::from_raw(pid), signal).during(format!("{name} cannot be signalled"))?;
    Ok(true)
}

/// Ends a recorded process: asks, waits for `grace`, then kills.
///
/// # Errors
/// When the kernel refuses.
pub fn stop(cluster: &Cluster, name: &str, grace: Duration) -> Result<()> {
    if signal(cluster, name, Signal::SIGTERM)? {
        let _resumed = signal(cluster, name, Signal::SIGCONT)?;
        if !await_end(cluster, name, grace)? {
            signal(cluster, name, Signal::SIGKILL)?;
            await_end(cluster, name, Duration::from_secs(5))?;
        }
    }
    let _absent = fs::remove_file(record_path(cluster, name));
    Ok(())
}

fn await_end(cluster: &Cluster, name: &str, within: Duration) -> Result<bool> {
    let deadline = Instant::now() + within;
    while running(cluster, name)?.is_some() {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        sleep(LOOK);
    }
    Ok(true)
}

/// Every process in the cluster's network namespaces or cgroups.
#[must_use]
pub fn members(cluster: &Cluster) -> BTreeSet<i32> {
    let inode = |name: String| fs::metadata(format!("/run/netns/{name}")).map(|m| m.ino()).ok();
    let namespaces: Vec<u64> =
        [cluster.node_netns(), cluster.world_netns()].into_iter().filter_map(inode).collect();
    let mut found: BTreeSet<i32> = cgroup::processes(cluster);
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let own = fs::metadata(entry.path().join("ns/net")).map(|m| m.ino());
        if own.is_ok_and(|i| namespaces.contains(&i)) && is_alive(pid) {
            found.insert(pid);
        }
    }
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    found.remove(&own);
    found
}

/// Kills every member until none is left.
///
/// # Errors
/// When some are still there after `within`.
pub fn kill_members(cluster: &Cluster, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let all = members(cluster);
        if all.is_empty() {
            return Ok(());
        }
        for pid in &all {
            let _gone = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if Instant::now() >= deadline {
            return None.during(format!("processes of the cluster do not end: {all:?}"));
        }
        sleep(LOOK);
    }
}

fn record_path(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.state().join("processes").join(name)
}

/// A process that has ended but was not waited for counts as gone.
fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| !s.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
}

/// Start time in clock ticks since boot: field 22 of proc_pid_stat(5), the 20th after the name in parentheses.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.split(' ').nth(19)?.parse().ok()
}

fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

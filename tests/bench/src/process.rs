//! Processes with a core of their own, and what they take of it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The core of the contender.
pub const CONTENDER_CORE: &str = "0";
/// The core of load and upstream; on a machine with one core there is no other.
pub fn load_core() -> &'static str {
    if std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) { "1" } else { CONTENDER_CORE }
}
/// `USER_HZ`, in which /proc counts; fixed by the ABI of Linux.
const TICKS_PER_SECOND: f64 = 100.0;
/// The slowest contender to start is an interpreter.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// The first port that a contender may have: well above those of services.
const FIRST_PORT: u16 = 20_000;

/// A command that runs on one core.
#[must_use]
pub fn pinned(core: &str, program: &Path) -> Command {
    // A thousand pairs are two thousand descriptors, twice what a process commonly may open unasked.
    let script = "ulimit -n \"$(ulimit -H -n)\"; exec taskset --cpu-list \"$0\" \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, core]).arg(program).stdin(Stdio::null());
    command
}

/// A process that ends when this is dropped, with what it started.
pub struct Running(Child);

impl Running {
    /// Starts the command with its output in files.
    #[must_use]
    pub fn start(mut command: Command, stdout: &Path, stderr: &Path) -> Self {
        command.stdout(File::create(stdout).unwrap()).stderr(File::create(stderr).unwrap());
        Self(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Waits until it accepts connections.
    pub fn await_listening(&mut self, address: SocketAddr, log: &Path) {
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = self.0.try_wait().unwrap();
            assert!(
                ended.is_none() && begin.elapsed() < START_TIMEOUT,
                "nothing listens on {address}: {}",
                fs::read_to_string(log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Seconds of CPU time that it and its children have taken so far.
    #[must_use]
    pub fn cpu_seconds(&self) -> f64 {
        let all = processes();
        let ticks: u64 =
            family(self.0.id(), &all).iter().filter_map(|pid| all.get(pid)).map(|p| p.ticks).sum();
        ticks as f64 / TICKS_PER_SECOND
    }

    /// Resident memory of it and its children, in KiB.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let all = processes();
        family(self.0.id(), &all).into_iter().filter_map(|pid| status(pid, "VmRSS:")).sum()
    }

    /// The most that has been resident since [`Running::forget_peak`], of it and its children, in KiB.
    #[must_use]
    pub fn peak_kib(&self) -> u64 {
        let all = processes();
        family(self.0.id(), &all).into_iter().filter_map(|pid| status(pid, "VmHWM:")).sum()
    }

    /// Lets what is resident now be the most that was.
    pub fn forget_peak(&self) {
        for pid in family(self.0.id(), &processes()) {
            // One that has ended meanwhile has no peak. The number is proc(5)'s.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let children = family(self.0.id(), &processes());
        let _ = self.0.kill();
        let _ = self.0.wait();
        for pid in children.into_iter().filter(|pid| *pid != self.0.id()) {
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

struct Process {
    parent: u32,
    ticks: u64,
}

fn processes() -> HashMap<u32, Process> {
    let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, process(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?)))
        .collect()
}

/// Parent and CPU time from a line of `/proc/<pid>/stat`; the name in brackets may hold anything.
fn process(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Process { parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)? })
}

fn family(root: u32, all: &HashMap<u32, Process>) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, process)| process.parent == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found
}

/// A number of KiB from `/proc/<pid>/status`.
fn status(pid: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// A port that nobody has, and that nobody is given who asks for any: one below those that the kernel hands out
/// (ip(7), `ip_local_port_range`). Else a connection of the load may have it before the contender does.
///
/// # Panics
/// When none is free.
#[must_use]
pub fn free_address() -> SocketAddr {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let handed_out =
        range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768_u16);
    // Where all are handed out, any will have to do.
    let ours = FIRST_PORT..if handed_out > FIRST_PORT { handed_out } else { u16::MAX };
    let count = u32::try_from(ours.len()).unwrap();
    let port = (0..count)
        .map(|_| {
            // Processes that run beside each other begin apart.
            let tried =
                TRIED.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id().wrapping_mul(64));
            ours.start + u16::try_from(tried % count).unwrap()
        })
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok());
    (Ipv4Addr::LOCALHOST, port.unwrap()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_brackets_and_spaces() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 31 11 0 0 20 0 1 0 12345 1 1";
        let process = process(stat).unwrap();
        assert_eq!((process.parent, process.ticks), (7, 42));
    }

    #[test]
    fn a_port_that_is_free_is_given_once_and_is_none_that_a_connection_gets() {
        let given = [free_address(), free_address()];
        assert_ne!(given[0], given[1]);
        let any = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        assert!(
            first <= FIRST_PORT
                || given.iter().all(|given| given.port() < first && given.port() < any.port())
        );
    }

    #[test]
    fn children_of_children_are_counted() {
        let of = |parent| Process { parent, ticks: 1 };
        let all = HashMap::from([(1, of(0)), (2, of(1)), (3, of(2)), (4, of(9))]);
        let mut found = family(1, &all);
        found.sort_unstable();
        assert_eq!(found, [1, 2, 3]);
    }
}

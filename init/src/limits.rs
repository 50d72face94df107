//! The limits that hold for this pod, read back inside it.
//!
//! Under gVisor only the pod's cgroup limits anything, and the Sentry passes on what it was started with: `MemTotal` is
//! the memory limit where one applies, and its CPU files hold the quota of the pod's cgroup on the host, or -1 where that
//! has none (google/gvisor#12924; before it, in April 2026, they always held -1, and such a gVisor is refused: it may have
//! no limit). Its `pids.max` is no such echo: it bounds the Sentry's own count,
//! is `max` in every container, and says nothing of the node's podPidsLimit. On Linux the container's own cgroup is
//! mounted at `/sys/fs/cgroup`, version 2 or 1, and the kubelet gives a container without limits those of its pod.
//!
//! Memory must be read and be at most what was promised. CPU and processes must not exceed it where they can be read, and
//! a kernel that says "no limit" where one was promised is a breach. Where a kernel shows nothing, the report says so and
//! the operator's own pod specification is the only evidence: the fence does not call a limit proven that it could not
//! see, nor missing.

use std::fs;
use std::path::Path;

use agentsandbox_report::{KernelKind, LimitReport, LimitsReport};
use thiserror::Error;

/// cgroup v1 writes "no limit" as the largest multiple of a page; anything near it is none.
const UNLIMITED_BYTES: u64 = 1 << 60;
/// Kernels round memory limits to pages, and the Sentry reports whole KiB.
const MEMORY_SLACK_BYTES: u64 = 1 << 20;
/// The shortest quota that the kubelet writes: 1 ms of 100 ms (`MinQuotaPeriod`).
const CPU_SLACK_MILLIS: u64 = 10;

/// One limit as the kernel shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// The kernel shows nothing.
    #[default]
    Absent,
    /// The kernel says that there is none.
    Unlimited,
    /// The limit.
    Limit(u64),
}

/// All limits as the kernel shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Readings {
    /// Bytes of memory.
    pub memory_bytes: Reading,
    /// Thousandths of a core.
    pub cpu_millis: Reading,
    /// Processes.
    pub pids: Reading,
}

/// What was promised.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Thousandths of a core.
    pub cpu_millis: u64,
    /// Processes, where promised.
    pub pids: Option<u64>,
}

/// A promise that does not hold.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Breach {
    /// There is no limit, or none was found.
    #[error("no {axis} limit holds for this pod; {expected} was promised")]
    Missing {
        /// Which limit.
        axis: &'static str,
        /// What was promised.
        expected: u64,
    },
    /// The limit is wider than promised.
    #[error("the {axis} limit is {found}; at most {expected} was promised")]
    Wider {
        /// Which limit.
        axis: &'static str,
        /// What was found.
        found: u64,
        /// What was promised.
        expected: u64,
    },
}

/// What became of the promised limits, by the names the report's message uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Read, and at most what was promised.
    pub seen: Vec<&'static str>,
    /// Promised, and not shown by this kernel.
    pub unseen: Vec<&'static str>,
}

/// Compares what was read with what was promised.
pub fn judge(readings: &Readings, expected: &Expected) -> Result<Held, Breach> {
    const MEMORY: &str = "memory (bytes)";
    const CPU: &str = "CPU (millicores)";
    const PIDS: &str = "process";
    let missing = |axis, expected| Err(Breach::Missing { axis, expected });
    let mut held = Held::default();
    match readings.memory_bytes {
        Reading::Limit(found) => at_most(MEMORY, found, expected.memory_bytes, MEMORY_SLACK_BYTES)?,
        Reading::Absent | Reading::Unlimited => return missing(MEMORY, expected.memory_bytes),
    }
    held.seen.push("memory");
    match readings.cpu_millis {
        Reading::Limit(found) => {
            at_most(CPU, found, expected.cpu_millis, CPU_SLACK_MILLIS)?;
            held.seen.push("CPU");
        }
        Reading::Unlimited => return missing(CPU, expected.cpu_millis),
        Reading::Absent => held.unseen.push("CPU"),
    }
    // Where nothing was promised about processes there is nothing to hold and nothing to miss.
    let Some(promised) = expected.pids else { return Ok(held) };
    match readings.pids {
        Reading::Limit(found) => {
            at_most(PIDS, found, promised, 0)?;
            held.seen.push("process");
        }
        Reading::Unlimited => return missing(PIDS, promised),
        Reading::Absent => held.unseen.push("process"),
    }
    Ok(held)
}

const fn at_most(axis: &'static str, found: u64, expected: u64, slack: u64) -> Result<(), Breach> {
    if found > expected.saturating_add(slack) { Err(Breach::Wider { axis, found, expected }) } else { Ok(()) }
}

/// The readings as reported.
#[must_use]
pub const fn report(readings: &Readings) -> LimitsReport {
    const fn limit(reading: Reading) -> LimitReport {
        match reading {
            Reading::Limit(limit) => LimitReport::At(limit),
            Reading::Unlimited => LimitReport::Unlimited,
            Reading::Absent => LimitReport::Unseen,
        }
    }
    LimitsReport {
        memory_bytes: limit(readings.memory_bytes),
        cpu_millis: limit(readings.cpu_millis),
        pids: limit(readings.pids),
    }
}

/// Reads the limits below `root`, which is `/` outside tests.
#[must_use]
pub fn read(root: &Path, kernel: KernelKind) -> Readings {
    let text = |path: &str| fs::read_to_string(root.join(path)).ok();
    let memory = [
        text("sys/fs/cgroup/memory.max").map(|text| bytes(&text)),
        text("sys/fs/cgroup/memory/memory.limit_in_bytes").map(|text| bytes(&text)),
        text("sys/fs/cgroup/memory/memory.stat").map(|text| hierarchical(&text)),
        // On Linux this is the node's memory, which limits nobody.
        (kernel == KernelKind::GVisor).then(|| text("proc/meminfo").map(|text| mem_total(&text))).flatten(),
    ];
    let cpu = [
        text("sys/fs/cgroup/cpu.max").map(|text| cpu_max(&text)),
        text("sys/fs/cgroup/cpu/cpu.cfs_quota_us")
            .zip(text("sys/fs/cgroup/cpu/cpu.cfs_period_us"))
            .map(|(quota, period)| cpu_max(&format!("{} {}", quota.trim(), period.trim()))),
    ];
    let pids = [text("sys/fs/cgroup/pids.max"), text("sys/fs/cgroup/pids/pids.max")]
        .map(|text| text.map(|text| pids_max(&text, kernel)));
    Readings { memory_bytes: tightest(memory), cpu_millis: tightest(cpu), pids: tightest(pids) }
}

/// Limits add up to the lowest of them.
fn tightest(readings: impl IntoIterator<Item = Option<Reading>>) -> Reading {
    readings.into_iter().flatten().fold(Reading::Absent, |tightest, reading| match (tightest, reading) {
        (Reading::Limit(one), Reading::Limit(other)) => Reading::Limit(one.min(other)),
        (Reading::Limit(limit), _) | (_, Reading::Limit(limit)) => Reading::Limit(limit),
        (Reading::Unlimited, _) | (_, Reading::Unlimited) => Reading::Unlimited,
        (Reading::Absent, Reading::Absent) => Reading::Absent,
    })
}

/// A number, or `max`, or -1 for "none"; anything else shows nothing. Nor does zero: nothing could run under it.
fn count(text: &str) -> Reading {
    match text.trim() {
        "max" | "-1" => Reading::Unlimited,
        number => match number.parse() {
            Ok(0) | Err(_) => Reading::Absent,
            Ok(limit) => Reading::Limit(limit),
        },
    }
}

/// The Sentry's `max` is about its own count; the limit on the node it does not show.
fn pids_max(text: &str, kernel: KernelKind) -> Reading {
    match (count(text), kernel) {
        (Reading::Unlimited, KernelKind::GVisor) => Reading::Absent,
        (reading, _) => reading,
    }
}

fn bytes(text: &str) -> Reading {
    match count(text) {
        Reading::Limit(limit) if limit >= UNLIMITED_BYTES => Reading::Unlimited,
        other => other,
    }
}

/// `memory.stat` of cgroup v1 knows the tightest limit of all ancestors.
fn hierarchical(stat: &str) -> Reading {
    let line = stat.lines().find_map(|line| line.strip_prefix("hierarchical_memory_limit "));
    line.map_or(Reading::Absent, bytes)
}

fn mem_total(meminfo: &str) -> Reading {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    let kib: Option<u64> = kib.and_then(|kib| kib.trim().parse().ok());
    kib.and_then(|kib| kib.checked_mul(1024))
        .filter(|bytes| *bytes > 0)
        .map_or(Reading::Absent, Reading::Limit)
}

/// `<quota> <period>` in microseconds, the quota `max` or -1 for none.
fn cpu_max(text: &str) -> Reading {
    let Some((quota, period)) = text.trim().split_once(' ') else { return Reading::Absent };
    match (count(quota), count(period)) {
        (Reading::Limit(quota), Reading::Limit(period)) if period > 0 => {
            Reading::Limit(quota.saturating_mul(1000) / period)
        }
        (Reading::Unlimited, _) => Reading::Unlimited,
        _ => Reading::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMISED: Expected = Expected { memory_bytes: 512 << 20, cpu_millis: 500, pids: Some(1024) };

    fn readings(memory: Reading, cpu: Reading, pids: Reading) -> Readings {
        Readings { memory_bytes: memory, cpu_millis: cpu, pids }
    }

    fn held(seen: &[&'static str], unseen: &[&'static str]) -> Result<Held, Breach> {
        Ok(Held { seen: seen.to_vec(), unseen: unseen.to_vec() })
    }

    fn wider(axis: &'static str, found: u64, expected: u64) -> Result<Held, Breach> {
        Err(Breach::Wider { axis, found, expected })
    }

    fn missing(axis: &'static str, expected: u64) -> Result<Held, Breach> {
        Err(Breach::Missing { axis, expected })
    }

    #[test]
    fn limits_hold_where_they_are_read_and_are_admitted_unseen_where_not() {
        let (memory, cpu, pids) = (Reading::Limit(512 << 20), Reading::Limit(500), Reading::Limit(1000));
        let (none, low) = (Reading::Absent, Reading::Limit(1));
        let all = &["memory", "CPU", "process"];
        let cases = [
            ("all as promised", readings(memory, cpu, pids), held(all, &[])),
            ("lower than promised", readings(low, low, low), held(all, &[])),
            (
                "CPU and processes unseen",
                readings(memory, none, none),
                held(&["memory"], &["CPU", "process"]),
            ),
            ("processes unseen", readings(memory, cpu, none), held(&["memory", "CPU"], &["process"])),
            ("memory unseen", readings(none, cpu, pids), missing("memory (bytes)", 512 << 20)),
            (
                "wider memory",
                readings(Reading::Limit(1 << 30), cpu, pids),
                wider("memory (bytes)", 1 << 30, 512 << 20),
            ),
            ("wider CPU", readings(memory, Reading::Limit(2000), pids), wider("CPU (millicores)", 2000, 500)),
            ("more processes", readings(memory, cpu, Reading::Limit(1025)), wider("process", 1025, 1024)),
        ];
        for (case, readings, expected) in cases {
            assert_eq!(judge(&readings, &PROMISED), expected, "{case}");
        }
    }

    #[test]
    fn a_kernel_that_says_no_limit_breaks_every_promise_of_one() {
        let (memory, cpu, pids) = (Reading::Limit(512 << 20), Reading::Limit(500), Reading::Limit(1000));
        let free = Reading::Unlimited;
        let cases = [
            (readings(free, cpu, pids), missing("memory (bytes)", 512 << 20)),
            (readings(memory, free, pids), missing("CPU (millicores)", 500)),
            (readings(memory, cpu, free), missing("process", 1024)),
        ];
        for (readings, expected) in cases {
            assert_eq!(judge(&readings, &PROMISED), expected, "{readings:?}");
        }
        assert!(judge(&readings(memory, cpu, pids), &PROMISED).is_ok(), "limits that are there hold");
    }

    #[test]
    fn what_was_not_promised_is_neither_held_nor_missed() {
        let nothing_of_pids = Expected { pids: None, ..PROMISED };
        for pids in [Reading::Absent, Reading::Unlimited, Reading::Limit(1 << 22)] {
            let read = readings(Reading::Limit(512 << 20), Reading::Limit(500), pids);
            assert_eq!(judge(&read, &nothing_of_pids), held(&["memory", "CPU"], &[]), "{pids:?}");
        }
    }

    #[test]
    fn the_report_tells_a_number_from_no_limit_and_from_nothing_seen() {
        let found = report(&readings(Reading::Limit(7), Reading::Unlimited, Reading::Absent));
        let all = (found.memory_bytes, found.cpu_millis, found.pids);
        assert_eq!(all, (LimitReport::At(7), LimitReport::Unlimited, LimitReport::Unseen));
    }

    #[test]
    fn the_sentry_in_a_limited_pod_shows_memory_and_cpu_and_keeps_silent_about_processes() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("proc/meminfo", "MemTotal:         524288 kB\n");
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
        write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        write("sys/fs/cgroup/pids/pids.max", "max\n");
        let sentry = read(root.path(), KernelKind::GVisor);
        assert_eq!(judge(&sentry, &PROMISED), held(&["memory", "CPU"], &["process"]));
        // The same files on Linux are the container's own, and there `max` is an answer.
        assert_eq!(read(root.path(), KernelKind::Linux).pids, Reading::Unlimited);
        write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
        let unlimited = read(root.path(), KernelKind::GVisor);
        assert_eq!(judge(&unlimited, &PROMISED), missing("CPU (millicores)", 500));
    }

    #[test]
    fn both_cgroup_versions_and_the_sentry_are_understood() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(read(root.path(), KernelKind::GVisor), Readings::default());
        write("proc/meminfo", "MemTotal:         524288 kB\nMemFree: 1 kB\n");
        assert_eq!(read(root.path(), KernelKind::GVisor).memory_bytes, Reading::Limit(512 << 20));
        assert_eq!(
            read(root.path(), KernelKind::Linux).memory_bytes,
            Reading::Absent,
            "a node's memory is no limit"
        );
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(read(root.path(), KernelKind::Linux).memory_bytes, Reading::Unlimited);
        write("sys/fs/cgroup/memory/memory.stat", "cache 0\nhierarchical_memory_limit 268435456\n");
        write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
        write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        write("sys/fs/cgroup/pids/pids.max", "max\n");
        let v1 = readings(Reading::Limit(256 << 20), Reading::Limit(500), Reading::Unlimited);
        assert_eq!(read(root.path(), KernelKind::Linux), v1);
        write("sys/fs/cgroup/memory.max", "134217728\n");
        write("sys/fs/cgroup/cpu.max", "25000 100000\n");
        write("sys/fs/cgroup/pids.max", "100\n");
        let tighter = readings(Reading::Limit(128 << 20), Reading::Limit(250), Reading::Limit(100));
        assert_eq!(read(root.path(), KernelKind::Linux), tighter);
    }

    #[test]
    fn nonsense_shows_nothing() {
        for text in ["", "x", "1 2 3", "100000 0", "0 100000", "max", "-5 100000"] {
            assert_eq!(cpu_max(text), Reading::Absent, "{text:?}");
        }
        assert_eq!(cpu_max("max 100000"), Reading::Unlimited);
        assert_eq!(cpu_max("-1 100000"), Reading::Unlimited);
        assert_eq!(mem_total("MemTotal: 18446744073709551615 kB"), Reading::Absent);
        assert_eq!(mem_total("MemTotal: 0 kB"), Reading::Absent);
        assert_eq!(
            (count("0"), bytes("0")),
            (Reading::Absent, Reading::Absent),
            "nothing runs under a limit of zero"
        );
    }
}

//! What a process takes, and how busy the machine is, from /proc: CPU time and memory are the contender's own, whoever else
//! uses the machine meanwhile.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::Failure;

/// `USER_HZ`, in which /proc counts; fixed by the ABI of Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process holds and has taken since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// CPU time in seconds, of all its threads.
    pub cpu_seconds: f64,
    /// Resident memory in KiB.
    pub resident_kib: u64,
    /// The most that was ever resident, in KiB.
    pub peak_kib: u64,
}

impl Taken {
    /// Of a process that runs.
    ///
    /// # Errors
    /// When it does not run any more.
    pub fn by(pid: u32) -> Result<Self, Failure> {
        let read = |name: &str| {
            fs::read_to_string(format!("/proc/{pid}/{name}"))
                .map_err(|error| Failure::new(format!("process {pid} does not run any more: {error}")))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        Self::parse(&stat, &status).ok_or_else(|| Failure::new(format!("/proc/{pid} cannot be read")))
    }

    fn parse(stat: &str, status: &str) -> Option<Self> {
        Some(Self {
            cpu_seconds: cpu_seconds(stat)?,
            resident_kib: kib(status, "VmRSS:")?,
            peak_kib: kib(status, "VmHWM:")?,
        })
    }
}

/// From `/proc/<pid>/stat`: fields 14 and 15 of proc(5), the 12th and 13th behind the name, which may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    Some((f64::from(ticks(11)?) + f64::from(ticks(12)?)) / TICKS_PER_SECOND)
}

/// A number of KiB from `/proc/<pid>/status`.
fn kib(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// CPU time of the whole machine since it started, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    busy: u64,
    all: u64,
}

impl Machine {
    /// Until now.
    #[must_use]
    pub fn now() -> Self {
        Self::parse(&fs::read_to_string("/proc/stat").unwrap_or_default()).unwrap_or_default()
    }

    /// The first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. Guests are in user already.
    fn parse(stat: &str) -> Option<Self> {
        let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).filter_map(|word| word.parse().ok()).collect();
        let waiting: u64 = ticks.iter().skip(3).take(2).sum();
        let all: u64 = ticks.iter().sum();
        Some(Self { busy: all.saturating_sub(waiting), all })
    }

    /// The part of the machine's processors that was busy since then, between 0 and 1; none if no time has passed.
    #[must_use]
    pub fn busy_since(self, earlier: Self) -> Option<f64> {
        let all = self.all.checked_sub(earlier.all).filter(|all| *all > 0)?;
        Some(self.busy.saturating_sub(earlier.busy) as f64 / all as f64)
    }
}

/// The machine's load average over a minute.
#[must_use]
pub fn load() -> f64 {
    fs::read_to_string("/proc/loadavg").ok().as_deref().and_then(first_number).unwrap_or(f64::NAN)
}

fn first_number(text: &str) -> Option<f64> {
    text.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_and_memory_are_read_behind_a_name_with_brackets_and_spaces() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 4194560 100 0 0 0 310 11 9 9 20 0 1 0 12345 1 1";
        let status = "Name:\ta\nVmPeak:\t  999 kB\nVmHWM:\t   30 kB\nVmRSS:\t   20 kB\n";
        let taken = Taken::parse(stat, status).unwrap();
        assert_eq!(taken, Taken { cpu_seconds: 3.21, resident_kib: 20, peak_kib: 30 });
        assert_eq!(Taken::parse("42 (a) S 7", status), None);
        assert_eq!(Taken::parse(stat, "Name:\ta\n"), None);
    }

    #[test]
    fn waiting_for_a_disk_is_not_being_busy() {
        let before = Machine::parse("cpu  10 0 10 70 10 0 0 0 0 0\ncpu0 1 1 1 1 1\n").unwrap();
        let after = Machine::parse("cpu  30 5 20 90 20 3 2 0 0 0\n").unwrap();
        assert_eq!(after.busy_since(before), Some(40.0 / 70.0));
        assert_eq!(before.busy_since(before), None);
        assert_eq!(Machine::parse("cpu0 1 1 1"), None);
    }

    #[test]
    fn the_load_is_that_of_a_minute() {
        assert_eq!(first_number("2.17 2.55 3.33 4/188 31029\n"), Some(2.17));
        assert_eq!(first_number(""), None);
    }
}

//! From samples to tables: medians with the smallest and the largest, and nothing that was not measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::contender::Contender;
use crate::load::Outcome;
use crate::scenario::{PAIRS, Scenario};

/// One run of the load against one contender.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// What the load saw.
    pub outcome: Outcome,
    /// CPU time of the contender and its children, in seconds.
    pub cpu_seconds: f64,
    /// Their resident memory at the end, in KiB.
    pub resident_kib: u64,
    /// Requests per second that were asked for, where the rate is fixed.
    pub asked_per_second: f64,
}

/// One scenario, as it is kept beside the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// What was asked.
    pub scenario: Scenario,
    /// Cores, memory, kernel.
    pub machine: String,
    /// What the contenders say their version is.
    pub versions: BTreeMap<String, String>,
    /// Samples by contender, without the first of each.
    pub samples: BTreeMap<Contender, Vec<Sample>>,
    /// Who took no part, and why.
    pub absent: BTreeMap<Contender, String>,
}

/// Median, smallest, largest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median; of an even number the mean of the two in the middle.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of some values; none where there are none.
    #[must_use]
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let (low, high) = (values.get((values.len() - 1) / 2)?, values.get(values.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min, max })
    }

    fn show(self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$} – {:.digits$})", self.median, self.min, self.max)
    }
}

type Column = (&'static str, usize, fn(&Sample) -> f64);

fn per_second(sample: &Sample) -> f64 {
    sample.outcome.done as f64 / sample.outcome.seconds
}

/// CPU seconds for ten thousand of what was done.
fn cpu(sample: &Sample) -> f64 {
    sample.cpu_seconds / sample.outcome.done as f64 * 10_000.0
}

const PER_SECOND: Column = ("per second", 0, per_second);
const CPU: Column = ("CPU s per 10,000", 3, cpu);
const CORE: Column = ("of its core, %", 0, |s| s.cpu_seconds / s.outcome.seconds * 100.0);
const MEMORY: Column = ("MiB", 1, |s| s.resident_kib as f64 / 1024.0);
const MILLIS_P50: Column = ("p50 ms", 2, |s| s.outcome.micros_p50 / 1000.0);
const MILLIS_P99: Column = ("p99 ms", 2, |s| s.outcome.micros_p99 / 1000.0);
const MIB_PER_SECOND: Column = ("MiB/s", 0, |s| s.outcome.bytes as f64 / 1_048_576.0 / s.outcome.seconds);
const CPU_PER_GIB: Column =
    ("CPU s per GiB", 2, |s| s.cpu_seconds / s.outcome.bytes as f64 * 1_073_741_824.0);
const ASKED: Column = ("asked per second", 0, |s| s.asked_per_second);

const fn columns(scenario: Scenario) -> &'static [Column] {
    match scenario {
        // CPU time would be that of opening the streams.
        Scenario::Events => &[MILLIS_P50, MILLIS_P99, PER_SECOND, MEMORY],
        Scenario::Download | Scenario::Upload => &[MIB_PER_SECOND, CPU_PER_GIB, CORE],
        Scenario::Latency => &[MILLIS_P50, MILLIS_P99, ASKED, PER_SECOND],
        _ => &[PER_SECOND, CPU, CORE, MEMORY],
    }
}

impl Measured {
    fn median(&self, contender: Contender, of: fn(&Sample) -> f64) -> Option<f64> {
        Some(Spread::of(self.samples.get(&contender)?.iter().map(of))?.median)
    }

    /// The scenario's part of the report.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("### {}\n\n", self.scenario.title());
        text.push_str(&if self.scenario == Scenario::Idle { self.memory() } else { self.table() });
        for (contender, why) in &self.absent {
            if *contender != Contender::Direct {
                let _ = writeln!(text, "| {} | n/a: {why} |", contender.name());
            }
        }
        if let Some(ratios) = self.ratios() {
            let _ = writeln!(text, "\n{ratios}");
        }
        text
    }

    fn table(&self) -> String {
        let columns = columns(self.scenario);
        let names: Vec<&str> = columns.iter().map(|(name, ..)| *name).collect();
        let mut text = format!("| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(columns.len()));
        for (contender, samples) in &self.samples {
            let cells = columns.iter().map(|(name, digits, of)| {
                // The load alone has no process of a contender's.
                let is_of_process = name.contains("CPU") || name.contains("MiB");
                if *contender == Contender::Direct && is_of_process {
                    return "–".to_owned();
                }
                Spread::of(samples.iter().map(of)).map_or_else(String::new, |spread| spread.show(*digits))
            });
            let cells: Vec<String> = cells.collect();
            let _ = writeln!(text, "| {} | {} |", contender.name(), cells.join(" | "));
        }
        text
    }

    fn memory(&self) -> String {
        let names: Vec<String> = PAIRS.iter().map(|pairs| format!("MiB at {pairs}")).collect();
        let mut text = format!("| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(PAIRS.len()));
        for (contender, samples) in &self.samples {
            let cells = PAIRS.iter().map(|pairs| {
                let of = samples.iter().filter(|sample| sample.outcome.done == *pairs as u64);
                Spread::of(of.map(|s| s.resident_kib as f64 / 1024.0)).map_or_else(String::new, |s| s.show(1))
            });
            let cells: Vec<String> = cells.collect();
            let _ = writeln!(text, "| {} | {} |", contender.name(), cells.join(" | "));
        }
        text
    }

    /// Ours beside the limit and beside Envoy, by CPU time: it holds also where the load's core was the narrow one.
    fn ratios(&self) -> Option<String> {
        let of = if matches!(self.scenario, Scenario::Download | Scenario::Upload) {
            CPU_PER_GIB.2
        } else if matches!(self.scenario, Scenario::Idle | Scenario::Latency | Scenario::Events) {
            return None;
        } else {
            CPU.2
        };
        let ours = self.median(Contender::Ours, of)?;
        let beside = [(Contender::Bare, "the bare forwarder's"), (Contender::Envoy, "Envoy's")];
        let known = beside.iter().filter_map(|(contender, name)| {
            let theirs = self.median(*contender, of)?;
            Some(format!("{:.2}× {name}", theirs / ours))
        });
        let known: Vec<String> = known.collect();
        (!known.is_empty()).then(|| format!("Per second of CPU, ours does {}.", known.join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(done: u64, cpu_seconds: f64) -> Sample {
        let outcome = Outcome { done, seconds: 2.0, ..Outcome::default() };
        Sample { outcome, cpu_seconds, resident_kib: 2048, asked_per_second: 0.0 }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0].into_iter()).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn a_table_shows_medians_ratios_and_who_was_not_there() {
        let measured = Measured {
            scenario: Scenario::Connect,
            machine: String::new(),
            versions: BTreeMap::new(),
            samples: BTreeMap::from([
                (Contender::Ours, vec![sample(20_000, 1.0), sample(20_000, 2.0), sample(20_000, 1.5)]),
                (Contender::Envoy, vec![sample(10_000, 2.25)]),
            ]),
            absent: BTreeMap::from([(Contender::Nginx, "knows no CONNECT".to_owned())]),
        };
        let text = measured.markdown();
        assert!(
            text.contains("| ours | 10000 (10000 – 10000) | 0.750 (0.500 – 1.000) | 75 (50 – 100) | 2.0"),
            "{text}"
        );
        assert!(text.contains("| nginx | n/a: knows no CONNECT |"), "{text}");
        assert!(text.contains("ours does 3.00× Envoy's."), "{text}");
    }
}

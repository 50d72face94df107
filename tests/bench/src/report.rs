//! From samples to tables: medians with the smallest and the largest, and nothing that was not measured.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::contender::Contender;
use crate::load::Outcome;
use crate::scenario::Scenario;

/// One run of the load against one contender.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// What the load saw.
    pub outcome: Outcome,
    /// CPU time of the contender and its children, in seconds.
    pub cpu_seconds: f64,
    /// Their resident memory at the end, in KiB.
    pub resident_kib: u64,
    /// Requests per second that were asked for, where the rate is fixed.
    pub asked_per_second: f64,
    /// What the load saw of the upstream alone, at the same rate right afterwards.
    #[serde(default)]
    pub direct: Option<Outcome>,
    /// By how much the most that was resident lay above what was resident before, in KiB.
    #[serde(default)]
    pub grown_kib: u64,
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

/// Milliseconds that a contender adds to what the upstream alone takes at the same rate.
fn added(sample: &Sample, of: fn(&Outcome) -> f64) -> f64 {
    (of(&sample.outcome) - sample.direct.as_ref().map_or(f64::NAN, of)) / 1000.0
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
const GROWN: Column = ("MiB more at most", 1, |s| s.grown_kib as f64 / 1024.0);
const ADDED_P50: Column = ("added p50 ms", 2, |s| added(s, |outcome| outcome.micros_p50));
const ADDED_P99: Column = ("added p99 ms", 2, |s| added(s, |outcome| outcome.micros_p99));
const ASKED: Column = ("asked per second", 0, |s| s.asked_per_second);

const fn columns(scenario: Scenario) -> &'static [Column] {
    match scenario {
        // CPU time would be that of opening the streams.
        Scenario::Events => &[MILLIS_P50, MILLIS_P99, PER_SECOND, MEMORY],
        Scenario::Download | Scenario::Upload => &[MIB_PER_SECOND, CPU_PER_GIB, CORE, GROWN],
        Scenario::Latency => &[ADDED_P50, ADDED_P99, MILLIS_P50, MILLIS_P99, ASKED, PER_SECOND],
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
            if !contender.is_reference() {
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
        let held = self.samples.values().flatten().map(|sample| sample.outcome.done);
        let held: BTreeSet<u64> = held.collect();
        let mut names: Vec<String> = held.iter().map(|pairs| format!("MiB at {pairs}")).collect();
        names.push("KiB for each".to_owned());
        let mut text = format!("| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
        for (contender, samples) in &self.samples {
            let mebibytes = |pairs: u64| {
                let of = samples.iter().filter(|sample| sample.outcome.done == pairs);
                Spread::of(of.map(|sample| sample.resident_kib as f64 / 1024.0))
            };
            let mut cells: Vec<String> = held
                .iter()
                .map(|pairs| match mebibytes(*pairs) {
                    Some(spread) => spread.show(1),
                    None => format!("n/a: serves {} at a time", contender.connections_max()),
                })
                .collect();
            // From none to the most that it held.
            let most = held.iter().rev().find_map(|pairs| Some((*pairs, mebibytes(*pairs)?.median)));
            let each = most.zip(mebibytes(0)).filter(|((pairs, _), _)| *pairs > 0);
            cells.push(each.map_or_else(String::new, |((pairs, most), none)| {
                format!("{:.1}", (most - none.median) * 1024.0 / pairs as f64)
            }));
            let _ = writeln!(text, "| {} | {} |", contender.name(), cells.join(" | "));
        }
        text
    }

    /// Ours beside the limit and beside Envoy, by CPU time: it holds also where the load's core was the narrow one.
    fn ratios(&self) -> Option<String> {
        match self.scenario {
            Scenario::Rules => {
                let (few, many) =
                    (self.median(Contender::Ours, cpu)?, self.median(Contender::OursManyRules, cpu)?);
                let percent = (many / few - 1.0) * 100.0;
                return Some(format!("10,000 rules cost {percent:+.1} % CPU time beside 100."));
            }
            Scenario::Events => return self.added_to_events(),
            _ => {}
        }
        let of = if matches!(self.scenario, Scenario::Download | Scenario::Upload) {
            CPU_PER_GIB.2
        } else if matches!(self.scenario, Scenario::Idle | Scenario::Latency) {
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

impl Measured {
    /// What the contenders add to the delay of an event in the bare forwarder.
    fn added_to_events(&self) -> Option<String> {
        let (p50, p99) = (MILLIS_P50.2, MILLIS_P99.2);
        let base = (self.median(Contender::Bare, p50)?, self.median(Contender::Bare, p99)?);
        let others = self.samples.keys().filter(|who| !matches!(who, Contender::Bare | Contender::Direct));
        let added = others.filter_map(|who| {
            let (half, late) = (self.median(*who, p50)? - base.0, self.median(*who, p99)? - base.1);
            Some(format!("{} {half:+.2} ms and {late:+.2} ms", who.name()))
        });
        let added: Vec<String> = added.collect();
        (!added.is_empty()).then(|| {
            format!("Beside the bare forwarder's p50 and p99 an event is later by: {}.", added.join("; "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(done: u64, cpu_seconds: f64) -> Sample {
        let outcome = Outcome { done, seconds: 2.0, ..Outcome::default() };
        Sample { outcome, cpu_seconds, resident_kib: 2048, ..Sample::default() }
    }

    fn measured(scenario: Scenario, samples: impl Into<BTreeMap<Contender, Vec<Sample>>>) -> Measured {
        let (machine, versions, absent) = Default::default();
        Measured { scenario, machine, versions, samples: samples.into(), absent }
    }

    #[test]
    fn many_rules_are_compared_with_few_of_the_same_run() {
        let few = vec![sample(10_000, 1.0)];
        let many = vec![sample(10_000, 1.04)];
        let text =
            measured(Scenario::Rules, [(Contender::Ours, few), (Contender::OursManyRules, many)]).markdown();
        assert!(text.contains("10,000 rules cost +4.0 % CPU time beside 100."), "{text}");
    }

    #[test]
    fn what_a_contender_adds_is_its_own_delay_without_that_of_the_upstream_at_the_same_rate() {
        let delays = |p50, p99| Outcome { micros_p50: p50, micros_p99: p99, ..Outcome::default() };
        let sample = Sample {
            outcome: delays(500.0, 2000.0),
            direct: Some(delays(200.0, 800.0)),
            ..Sample::default()
        };
        let text = measured(Scenario::Latency, [(Contender::Ours, vec![sample])]).markdown();
        assert!(text.contains("| ours | 0.30 (0.30 – 0.30) | 1.20 (1.20 – 1.20) |"), "{text}");
    }

    #[test]
    fn what_ours_does_not_hold_is_said_and_what_it_holds_is_told_for_each() {
        let hold = |pairs, kib| Sample { resident_kib: kib, ..sample(pairs, 0.0) };
        let ours = vec![hold(0, 10_240), hold(500, 30_720)];
        let bare = vec![hold(0, 1024), hold(500, 2048), hold(1000, 3072)];
        let text = measured(Scenario::Idle, [(Contender::Ours, ours), (Contender::Bare, bare)]).markdown();
        assert!(text.contains("| n/a: serves 1024 at a time | 41.0 |"), "{text}");
        assert!(text.contains("| 3.0 (3.0 – 3.0) | 2.0 |"), "{text}");
    }

    #[test]
    fn an_event_is_late_beside_the_bare_forwarder() {
        let late = |micros| {
            let outcome = Outcome { micros_p50: micros, micros_p99: micros * 2.0, ..Outcome::default() };
            vec![Sample { outcome, ..Sample::default() }]
        };
        let text = measured(
            Scenario::Events,
            [
                (Contender::Ours, late(1500.0)),
                (Contender::Bare, late(1000.0)),
                (Contender::Direct, late(1.0)),
            ],
        )
        .markdown();
        assert!(text.contains("later by: ours +0.50 ms and +1.00 ms."), "{text}");
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0].into_iter()), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0].into_iter()).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of(std::iter::empty()), None);
    }

    #[test]
    fn a_table_shows_medians_ratios_and_who_was_not_there() {
        let ours = vec![sample(20_000, 1.0), sample(20_000, 2.0), sample(20_000, 1.5)];
        let envoy = vec![sample(10_000, 2.25)];
        let mut measured = measured(Scenario::Connect, [(Contender::Ours, ours), (Contender::Envoy, envoy)]);
        measured.absent.insert(Contender::Nginx, "knows no CONNECT".to_owned());
        let text = measured.markdown();
        assert!(
            text.contains("| ours | 10000 (10000 – 10000) | 0.750 (0.500 – 1.000) | 75 (50 – 100) | 2.0"),
            "{text}"
        );
        assert!(text.contains("| nginx | n/a: knows no CONNECT |"), "{text}");
        assert!(text.contains("ours does 3.00× Envoy's."), "{text}");
    }
}

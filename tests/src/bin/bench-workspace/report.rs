//! The tables: medians, with the smallest and the largest of what counts.

use crate::case::Case;
use crate::measure::Sample;
use crate::plain::{PROGRAMS, Plain};

/// Everything that was measured, and what came to nothing.
pub struct Measured {
    pub cases: Vec<Case>,
    pub samples: Vec<Sample>,
    pub plain: Vec<Plain>,
    pub failures: Vec<String>,
}

impl Measured {
    /// What counts of a case: all but the first round, where there is more than one.
    fn of(&self, case: Case, is_resumed: bool) -> Vec<&Sample> {
        let name = case.name();
        let all: Vec<_> =
            self.samples.iter().filter(|s| s.case == name && s.is_resumed == is_resumed).collect();
        let counted: Vec<_> = all.iter().filter(|sample| sample.round > 0).copied().collect();
        if counted.is_empty() { all } else { counted }
    }

    /// All tables.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "| | agent runs after, s | to an empty one | the step, s | CPU s of the pod | MB fetched | MiB held at most | MiB on disk |\n|---|---|---|---|---|---|---|---|\n",
        );
        for case in &self.cases {
            text.push_str(&self.row(*case));
        }
        text.push_str(
            "\nSuspended and resumed:\n\n| | agent runs after, s | to an empty one |\n|---|---|---|\n",
        );
        for case in &self.cases {
            let (own, empty) = (self.of(*case, true), self.of(case.baseline(), true));
            if !own.is_empty() {
                let ratio = ratio(&own, &empty);
                text.push_str(&format!(
                    "| {} | {} | {ratio} |\n",
                    told(*case),
                    seconds(&own, |s| Some(s.agent_millis))
                ));
            }
        }
        text.push_str("\nThe same by plain programs on the same machine:\n\n| | s | s, put on the disk |\n|---|---|---|\n");
        for program in PROGRAMS {
            let all: Vec<_> = self.plain.iter().filter(|plain| plain.program == program).collect();
            let counted: Vec<_> = all.iter().filter(|plain| plain.round > 0).copied().collect();
            let counted = if counted.is_empty() { all } else { counted };
            let of =
                |get: fn(&Plain) -> f64| spread(counted.iter().map(|plain| get(plain) / 1000.0).collect(), 1);
            text.push_str(&format!("| {program} | {} | {} |\n", of(|p| p.millis), of(|p| p.synced_millis)));
        }
        for failure in &self.failures {
            text.push_str(&format!("\nCame to nothing: {failure}\n"));
        }
        text
    }

    fn row(&self, case: Case) -> String {
        let (own, empty) = (self.of(case, false), self.of(case.baseline(), false));
        let of =
            |get: fn(&Sample) -> f64, digits| spread(own.iter().map(|sample| get(sample)).collect(), digits);
        let step = seconds(&own, |sample| sample.step_millis.map(|step| step - sample.fence_millis));
        let fetched = median(own.iter().map(|sample| sample.down_bytes as f64 / 1e6).collect());
        format!(
            "| {} | {} | {} | {step} | {} | {} | {} | {} |\n",
            told(case),
            seconds(&own, |sample| Some(sample.agent_millis)),
            ratio(&own, &empty),
            of(|sample| sample.cpu_millis as f64 / 1e3, 1),
            fetched
                .filter(|megabytes| *megabytes > 0.0)
                .map_or("–".to_owned(), |megabytes| format!("{megabytes:.1}")),
            of(|sample| sample.held_bytes as f64 / f64::from(1 << 20), 0),
            of(|sample| sample.disk_bytes as f64 / f64::from(1 << 20), 0),
        )
    }
}

fn told(case: Case) -> String {
    format!("{}, {}, {}", case.source.name(), case.access.name(), case.runtime.name())
}

fn ratio(own: &[&Sample], empty: &[&Sample]) -> String {
    let of = |all: &[&Sample]| median(all.iter().map(|sample| sample.agent_millis).collect());
    match (of(own), of(empty)) {
        (Some(own), Some(empty)) => format!("{:.1} ×", own / empty),
        _ => "–".to_owned(),
    }
}

fn seconds(samples: &[&Sample], get: fn(&Sample) -> Option<f64>) -> String {
    spread(samples.iter().filter_map(|sample| get(sample)).map(|millis| millis / 1000.0).collect(), 1)
}

/// The middle one of the sorted samples; of an even number the one below the middle, so that it is one that was measured.
fn median(mut samples: Vec<f64>) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len().saturating_sub(1) / 2).copied()
}

/// A median with the smallest and the largest.
fn spread(samples: Vec<f64>, digits: usize) -> String {
    let least = samples.iter().copied().fold(f64::INFINITY, f64::min);
    let most = samples.iter().copied().fold(0.0, f64::max);
    match median(samples) {
        Some(median) => format!("{median:.digits$} ({least:.digits$} – {most:.digits$})"),
        None => "–".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_a_median_that_was_measured_with_what_was_around_it() {
        assert_eq!(spread(vec![3.0, 1.0, 2.0], 1), "2.0 (1.0 – 3.0)");
        assert_eq!(spread(vec![4.0, 1.0], 0), "1 (1 – 4)");
        assert_eq!(spread(Vec::new(), 0), "–");
    }
}

//! From runs to tables; nothing that was not measured.

use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use crate::Failure;
use crate::audit::Counts;
use crate::measure::{Phase, Run};

/// The file that is kept beside the report.
#[derive(Debug, Deserialize)]
struct Kept {
    /// Cores, memory, kernel.
    machine: String,
    /// All runs, in the order in which they were made.
    runs: Vec<Run>,
}

type Column = (&'static str, fn(&Run) -> String);

/// What the work cost.
const SETTLING: [Column; 9] = [
    ("sandboxes", |run| run.sandboxes.to_string()),
    ("settled after, s", |run| format!("{:.1}", run.settling.seconds)),
    ("CPU s", |run| format!("{:.2}", run.settling.cpu_seconds)),
    ("sandboxes per CPU s", |run| ratio(run.sandboxes as f64, run.settling.cpu_seconds, 0)),
    ("passes per s", |run| ratio(run.settling.passes as f64, run.settling.seconds, 0)),
    ("passes per CPU s", |run| ratio(run.settling.passes as f64, run.settling.cpu_seconds, 0)),
    ("passes per sandbox", |run| ratio(run.settling.passes as f64, run.sandboxes as f64, 1)),
    ("API server's CPU s", |run| format!("{:.1}", run.settling.api_server_cpu_seconds)),
    ("machine busy, load", |run| busy(&run.settling)),
];

/// What it asked of the API server for each sandbox.
const REQUESTS: [Column; 6] = [
    ("sandboxes", |run| run.sandboxes.to_string()),
    ("writes per sandbox", |run| ratio(total(&run.settling.writes) as f64, run.sandboxes as f64, 2)),
    ("Events per sandbox", |run| ratio(run.settling.events as f64, run.sandboxes as f64, 2)),
    ("reads per sandbox", |run| ratio(total(&run.settling.reads) as f64, run.sandboxes as f64, 2)),
    ("refused in all", |run| total(&run.settling.refused).to_string()),
    ("writes per s", |run| ratio(total(&run.settling.writes) as f64, run.settling.seconds, 0)),
];

/// What it holds, and what it does when there is nothing to do.
const STANDING: [Column; 8] = [
    ("sandboxes", |run| run.sandboxes.to_string()),
    ("MiB without any", |run| mebibytes(run.empty.resident_kib)),
    ("MiB settled", |run| mebibytes(run.settling.resident_kib)),
    ("MiB at most", |run| mebibytes(run.steady.peak_kib)),
    ("MiB after a new start", |run| mebibytes(run.restart.resident_kib)),
    ("writes while steady", |run| {
        format!("{} in {:.0} s", total(&run.steady.writes) + run.steady.events, run.steady.seconds)
    }),
    ("settled after a new start, s", |run| {
        format!("{:.1} ({:.2} CPU s)", run.restart.seconds, run.restart.cpu_seconds)
    }),
    ("writes after a new start", |run| (total(&run.restart.writes) + run.restart.events).to_string()),
];

fn total(counts: &Counts) -> u64 {
    counts.values().sum()
}

fn ratio(of: f64, by: f64, digits: usize) -> String {
    if by > 0.0 { format!("{:.digits$}", of / by) } else { "n/a".to_owned() }
}

fn mebibytes(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

fn busy(phase: &Phase) -> String {
    format!("{:.0} %, {:.1}", phase.machine_busy * 100.0, phase.load)
}

/// The tables of a file of runs.
///
/// # Errors
/// When the file cannot be read.
pub fn of(results: &Path) -> Result<String, Failure> {
    let unreadable = |error: String| Failure::new(format!("{} cannot be read: {error}", results.display()));
    let text = std::fs::read_to_string(results).map_err(|error| unreadable(error.to_string()))?;
    let kept: Kept = serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    Ok(tables(&kept))
}

fn tables(kept: &Kept) -> String {
    let mut text = format!("Machine: {}\n\n", kept.machine);
    for (title, columns) in [
        ("From the first `create` until all are settled", &SETTLING[..]),
        ("Requests meanwhile, from the API server's audit log", &REQUESTS[..]),
        ("Memory, standing still, and a new start", &STANDING[..]),
    ] {
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(
            text,
            "### {title}\n\n| | {} |\n|---|{}",
            names.join(" | "),
            "---|".repeat(columns.len())
        );
        for run in &kept.runs {
            let cells: Vec<String> = columns.iter().map(|(_, of)| of(run)).collect();
            let _ = writeln!(text, "| {} | {} |", name(run), cells.join(" | "));
        }
        text.push('\n');
    }
    text.push_str(&by_kind(&kept.runs));
    text
}

/// The writes of the largest run of each contender, by kind.
fn by_kind(runs: &[Run]) -> String {
    let mut text = String::from("### Writes for each sandbox, by kind, in the largest run\n\n");
    let mut told: Vec<String> = Vec::new();
    let Some(largest) = runs.iter().map(|run| run.sandboxes).max() else { return text };
    for run in runs.iter().filter(|run| run.sandboxes == largest) {
        let each = |(what, count): (&String, &u64)| {
            format!("{what} {}", ratio(*count as f64, run.sandboxes as f64, 2))
        };
        let writes: Vec<String> = run.settling.writes.iter().map(each).collect();
        let line = format!("- {}: {}.", name(run), writes.join(", "));
        if !told.contains(&line) {
            told.push(line);
        }
    }
    let _ = writeln!(text, "{}", told.join("\n"));
    text
}

/// Who it was: the contender, its version, and how many workers it was told to have.
fn name(run: &Run) -> String {
    let workers = run.args.iter().find_map(|arg| arg.strip_prefix("--sandbox-concurrent-workers="));
    let workers = workers.map(|workers| format!(", {workers} workers")).unwrap_or_default();
    format!("{} {}{workers}", run.contender.name(), run.version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Contender;

    fn run() -> Run {
        let settling = Phase {
            seconds: 20.0,
            cpu_seconds: 4.0,
            resident_kib: 20 * 1024,
            peak_kib: 30 * 1024,
            passes: 1000,
            writes: Counts::from([
                ("create pods".to_owned(), 200),
                ("patch sandboxes/status".to_owned(), 100),
            ]),
            events: 50,
            reads: Counts::from([("get pods".to_owned(), 25)]),
            machine_busy: 0.5,
            load: 2.0,
            ..Phase::default()
        };
        Run {
            contender: Contender::AgentSandbox,
            version: "v1".to_owned(),
            args: vec!["--sandbox-concurrent-workers=7".to_owned()],
            sandboxes: 100,
            namespaces: 1,
            quiet_seconds: 5.0,
            creating_seconds: 1.0,
            empty: Phase { resident_kib: 10 * 1024, ..Phase::default() },
            steady: Phase { seconds: 120.0, peak_kib: 30 * 1024, ..Phase::default() },
            restart: Phase { seconds: 1.25, cpu_seconds: 0.5, resident_kib: 15 * 1024, ..Phase::default() },
            settling,
        }
    }

    #[test]
    fn each_number_is_divided_by_what_its_column_says() {
        let text = tables(&Kept { machine: "m".to_owned(), runs: vec![run()] });
        let row = |cells: &str| text.contains(&format!("| agent-sandbox v1, 7 workers | {cells} |\n"));
        assert!(row("100 | 20.0 | 4.00 | 25 | 50 | 250 | 10.0 | 0.0 | 50 %, 2.0"), "{text}");
        assert!(row("100 | 3.00 | 0.50 | 0.25 | 0 | 15"), "{text}");
        assert!(row("100 | 10.0 | 20.0 | 30.0 | 15.0 | 0 in 120 s | 1.2 (0.50 CPU s) | 0"), "{text}");
        assert!(
            text.contains("- agent-sandbox v1, 7 workers: create pods 2.00, patch sandboxes/status 1.00.\n"),
            "{text}"
        );
    }

    #[test]
    fn what_was_not_measured_has_no_number() {
        assert_eq!(ratio(5.0, 0.0, 1), "n/a");
    }
}

//! The scoreboard: all runs side by side, as `docs/conformance.md` and on the screen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;

use crate::adapter::Kind;
use crate::failure::{During, Result};
use crate::run::{Outcome, Run, Verdict, order};

/// The longest reason that a table cell holds.
const REASON_CHARS_MAX: usize = 160;

/// An entry of the catalogue that is no traffic, and what proves it instead.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoTraffic {
    /// The entry.
    pub id: String,
    /// Why a client and an upstream cannot show it.
    pub why: String,
    /// The tests that do; none where nothing proves it yet.
    #[serde(default)]
    pub tests: Vec<String>,
}

/// Reads the entries that are no traffic.
///
/// # Errors
/// When the file cannot be read or understood.
pub fn no_traffic(file: &Path) -> Result<Vec<NoTraffic>> {
    let text = std::fs::read_to_string(file).during(format!("{} cannot be read", file.display()))?;
    serde_yaml::from_str(&text).during(format!("{} is no list of entries", file.display()))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Score {
    passed: usize,
    applicable: usize,
}

impl Score {
    fn of<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Self {
        outcomes.fold(Self::default(), |mut score, outcome| {
            score.applicable += usize::from(!matches!(outcome.verdict, Verdict::Inapplicable(_)));
            score.passed += usize::from(outcome.verdict == Verdict::Passed);
            score
        })
    }

    fn cell(self) -> String {
        if self.applicable == 0 { "n/a".to_owned() } else { format!("{}/{}", self.passed, self.applicable) }
    }
}

/// One line for each group of entries and one for all, as text.
#[must_use]
pub fn scoreboard(runs: &[Run]) -> String {
    let groups: BTreeSet<String> =
        runs.iter().flat_map(|run| &run.outcomes).map(|o| order(&o.id).0).collect();
    let mut text = format!("{:10}", "group");
    for run in runs {
        let _ = write!(text, "{:>12}", run.proxy.as_str());
    }
    text.push('\n');
    for group in &groups {
        let _ = write!(text, "{group:10}");
        for run in runs {
            let own = run.outcomes.iter().filter(|outcome| order(&outcome.id).0 == *group);
            let _ = write!(text, "{:>12}", Score::of(own).cell());
        }
        text.push('\n');
    }
    let _ = write!(text, "{:10}", "all");
    for run in runs {
        let _ = write!(text, "{:>12}", Score::of(run.outcomes.iter()).cell());
    }
    text.push('\n');
    text
}

/// The whole document.
#[must_use]
pub fn document(runs: &[Run], no_traffic: &[NoTraffic]) -> String {
    let mut text = HEAD.to_owned();
    text.push_str("\n## Who ran\n\n| proxy | version | n/a |\n|---|---|---|\n");
    for run in runs {
        let _ = writeln!(text, "| {} | {} | {} |", run.proxy.as_str(), run.version, reasons(run));
    }
    text.push_str("\n## Totals\nPassed, of those that apply.\n\n");
    text.push_str(&totals(runs));
    text.push_str("\n## Entry by entry\n\n");
    text.push_str(&entries(runs));
    for run in runs.iter().filter(|run| run.proxy != Kind::Ours) {
        text.push_str(&failures(run));
    }
    text.push_str(&without_traffic(no_traffic));
    text
}

const HEAD: &str = "# Conformance
Written by `cargo xtask conformance`, which runs the same vectors (`tests/conformance/vectors/`) against our proxy and four others, each configured with the
same policy as well as its own documentation allows (`tests/conformance/peers/`). The others are good proxies that were made for other ends; a vector that one of
them does not pass says what it does not promise, not that it is broken.

A vector is sent through each entrance it names. *Denied* means refused without a connection to anybody and without a question to a name server; *allowed*
means that exactly one request arrived, with the credential exactly once. Whatever a vector is about, it fails if any spelling of the secret is told to the
client or sent to another host, and if the nearest allowed request does not pass in the same run. Statuses and reasons of refusals are held against our proxy only: any other may say no as
it likes, even by closing.

To add a vector, write it into `tests/conformance/vectors/`: `id`, `title`, `on` (entrances), `send` (what differs from an allowed request), `expect`. The fields are described in
`tests/conformance/src/vector.rs`. `cargo xtask conformance --only ours --vector P-A1` runs one entry.
";

/// Why vectors do not apply to a proxy, and how many.
fn reasons(run: &Run) -> String {
    let mut counted = BTreeMap::<&str, usize>::new();
    for outcome in &run.outcomes {
        if let Verdict::Inapplicable(why) = &outcome.verdict {
            *counted.entry(why).or_default() += 1;
        }
    }
    let all: Vec<String> = counted.iter().map(|(why, count)| format!("{count}: {why}")).collect();
    all.join("; ")
}

fn header(runs: &[Run], first: &str) -> String {
    let names: String = runs.iter().map(|run| format!(" {} |", run.proxy.as_str())).collect();
    format!("| {first} |{names}\n|---|{}\n", "---|".repeat(runs.len()))
}

fn totals(runs: &[Run]) -> String {
    let groups: BTreeSet<String> =
        runs.iter().flat_map(|run| &run.outcomes).map(|o| order(&o.id).0).collect();
    let mut text = header(runs, "group");
    for group in &groups {
        let cells = runs.iter().map(|run| {
            Score::of(run.outcomes.iter().filter(|outcome| order(&outcome.id).0 == *group)).cell()
        });
        let _ = writeln!(text, "| {group} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    let cells: Vec<String> =
        runs.iter().map(|run| format!("**{}**", Score::of(run.outcomes.iter()).cell())).collect();
    let _ = writeln!(text, "| all | {} |", cells.join(" | "));
    text
}

fn entries(runs: &[Run]) -> String {
    let mut all = BTreeMap::<(String, u32), BTreeMap<&str, &str>>::new();
    for outcome in runs.iter().flat_map(|run| &run.outcomes) {
        all.entry(order(&outcome.id)).or_default().insert(&outcome.title, &outcome.id);
    }
    let mut text = header(runs, "entry | what is sent");
    text = text.replacen("|---|", "|---|---|", 1);
    for titles in all.values() {
        for (title, id) in titles {
            let cells = runs.iter().map(|run| {
                Score::of(run.outcomes.iter().filter(|o| o.id == *id && o.title == *title)).cell()
            });
            let _ = writeln!(text, "| {id} | {title} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
    }
    text
}

fn failures(run: &Run) -> String {
    let mut text = format!(
        "\n## What {} does otherwise\n\n| entry | through | what came of it |\n|---|---|---|\n",
        run.proxy.as_str()
    );
    let mut seen = BTreeSet::new();
    for outcome in &run.outcomes {
        let Verdict::Failed(why) = &outcome.verdict else { continue };
        if seen.insert((&outcome.id, &outcome.title)) {
            let _ = writeln!(text, "| {} | {} | {} |", outcome.id, through(outcome), short(why));
        }
    }
    text.push_str("\nOne line for each title; the numbers above count each entrance and spelling.\n");
    text
}

fn through(outcome: &Outcome) -> String {
    match &outcome.each {
        Some(each) => {
            format!("{}, `{}`", outcome.entrance, short(&each.escape_debug().to_string()).replace('`', "'"))
        }
        None => outcome.entrance.to_string(),
    }
}

/// One line that breaks no table.
fn short(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let cut: String = line.chars().take(REASON_CHARS_MAX).collect();
    let marked = if cut.len() < line.len() { format!("{cut}…") } else { cut };
    marked.replace('|', "\\|").replace('<', "&lt;")
}

fn without_traffic(entries: &[NoTraffic]) -> String {
    let mut text = "\n## Entries that are no traffic\nA client and an upstream cannot show them; what proves them is named, or nothing yet does.\n\n| entry | why | tests |\n|---|---|---|\n".to_owned();
    for entry in entries {
        let tests: Vec<String> = entry.tests.iter().map(|test| format!("`{test}`")).collect();
        let tests = if tests.is_empty() { "none yet".to_owned() } else { tests.join(", ") };
        let _ = writeln!(text, "| {} | {} | {tests} |", entry.id, entry.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::Entrance;

    fn run(proxy: Kind, verdicts: Vec<Verdict>) -> Run {
        let outcome = |verdict| Outcome {
            id: "P-A1".to_owned(),
            title: "a title".to_owned(),
            each: Some("a|b".to_owned()),
            entrance: Entrance::Connect,
            verdict,
        };
        Run { proxy, version: "1".to_owned(), outcomes: verdicts.into_iter().map(outcome).collect() }
    }

    #[test]
    fn what_does_not_apply_is_counted_neither_for_nor_against_and_is_explained() {
        let runs = [
            run(Kind::Ours, vec![Verdict::Passed, Verdict::Passed]),
            run(
                Kind::Squid,
                vec![
                    Verdict::Failed("it | answered".to_owned()),
                    Verdict::Inapplicable("no entrance".to_owned()),
                ],
            ),
        ];
        let text = document(&runs, &[]);
        assert!(text.contains("| P-A1 | a title | 2/2 | 0/1 |"), "{text}");
        assert!(text.contains("1: no entrance"), "{text}");
        assert!(text.contains("| P-A1 | connect, `a\\|b` | it \\| answered |"), "{text}");
        assert!(scoreboard(&runs).contains("2/2"));
    }
}

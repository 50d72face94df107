//! Whether a cluster is able to keep the promises, line by line.
//!
//! [`facts`] asks the API server and judges nothing; [`checks`] judges what was seen and asks nothing. What could not be seen is
//! unknown, and unknown is never well. No pod is started: that walls are enforced is taken from sandboxes that have proven it.

mod admission;
pub mod checks;
mod facts;

use std::fmt::{self, Write as _};

use anstyle::{AnsiColor, Style};
use serde::Serialize;

pub use facts::observe;

use crate::text::harmless_line;

/// How one line stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it has to be.
    Ok,
    /// Not as it has to be.
    Failed,
    /// Nobody can say.
    Unknown,
}

/// What was found of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub check: String,
    /// How it stands.
    pub verdict: Verdict,
    /// What was found, as a clause.
    pub found: String,
    /// What to do, as a sentence; where all is well, none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Line {
    fn ok(check: impl Into<String>, found: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn failed(check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (check, found) = (check.into(), found.into());
        Self { check, verdict: Verdict::Failed, found, remedy: Some(remedy.into()) }
    }

    fn unknown(check: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (check, found) = (check.into(), found.into());
        Self { check, verdict: Verdict::Unknown, found, remedy: Some(remedy.into()) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        })
    }
}

impl Verdict {
    const fn style(self) -> Style {
        let colour = match self {
            Self::Ok => AnsiColor::Green,
            Self::Failed => AnsiColor::Red,
            Self::Unknown => AnsiColor::Yellow,
        };
        colour.on_default()
    }
}

/// How all lines together stand: failed if one is, else unknown if one is.
#[must_use]
pub fn verdict(lines: &[Line]) -> Verdict {
    let has = |verdict| lines.iter().any(|line| line.verdict == verdict);
    if has(Verdict::Failed) {
        Verdict::Failed
    } else if has(Verdict::Unknown) || lines.is_empty() {
        Verdict::Unknown
    } else {
        Verdict::Ok
    }
}

/// The lines for people, each with its remedy below it.
#[must_use]
pub fn table(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Line { check, verdict, found, remedy } in lines {
        let style = verdict.style();
        let (check, found) = (harmless_line(check), harmless_line(found));
        // Writing to a String does not fail.
        let _ = writeln!(text, "{style}{verdict:7}{style:#}  {check:width$}  {found}");
        if let Some(remedy) = remedy {
            let _ = writeln!(text, "{:7}  {:width$}  {}", "", "", harmless_line(remedy));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_line_fails_all_and_an_unknown_one_is_never_well() {
        let (ok, failed, unknown) =
            (Line::ok("a", "b"), Line::failed("a", "b", "c"), Line::unknown("a", "b", "c"));
        for (lines, expected) in [
            (vec![ok.clone()], Verdict::Ok),
            (vec![ok.clone(), unknown.clone()], Verdict::Unknown),
            (vec![unknown.clone(), failed.clone(), ok.clone()], Verdict::Failed),
            (vec![], Verdict::Unknown),
        ] {
            assert_eq!(verdict(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn a_remedy_stands_below_its_line_and_no_escape_of_the_clusters_reaches_a_terminal() {
        let text = table(&[Line::failed("class gvisor", "\u{1b}[2J", "Do this."), Line::ok("x", "well")]);
        let plain = anstream::adapter::strip_str(&text).to_string();
        assert_eq!(plain.lines().count(), 3, "{plain}");
        assert!(plain.lines().nth(1).unwrap().ends_with("Do this.") && text.contains("\\u{1b}[2J"), "{text}");
    }
}

//! What Ginkgo says of its specs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::failure::{During, Failure, Result};

/// The specs of a run, by their full names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Those that passed.
    pub passed: BTreeSet<String>,
    /// Those that did anything else.
    pub failed: BTreeSet<String>,
    /// Those that were selected and found that they do not apply.
    pub skipped: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Run {
    suite_has_programmatic_focus: bool,
    spec_reports: Option<Vec<Spec>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    run_time: u64,
}

impl Report {
    /// Reads the file that `--ginkgo.json-report` names.
    ///
    /// # Errors
    /// When it is no such report, or what stands before or after the specs failed: then they were not what was tested.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .during(format!("{} cannot be read: the run broke off", path.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let runs: Vec<Run> = serde_json::from_str(text).during("it is no report of Ginkgo")?;
        let mut report = Self::default();
        for run in runs {
            if run.suite_has_programmatic_focus {
                return Err(Failure::new("the suite runs only some of its specs"));
            }
            for spec in run.spec_reports.into_iter().flatten() {
                report.add(spec)?;
            }
        }
        if report.passed.is_empty() && report.failed.is_empty() {
            return Err(Failure::new("no spec has run: nothing was tested"));
        }
        Ok(report)
    }

    fn add(&mut self, spec: Spec) -> Result<()> {
        let mut words = spec.container_hierarchy_texts.unwrap_or_default();
        words.push(spec.leaf_node_text);
        let name = words.join(" ");
        if spec.leaf_node_type != "It" {
            return match spec.state.as_str() {
                "passed" => Ok(()),
                other => Err(Failure::new(format!("{} {name} {other}", spec.leaf_node_type))),
            };
        }
        match spec.state.as_str() {
            "passed" => self.passed.insert(name),
            // A filter's work takes no time; a spec that does not apply says so while it runs.
            "skipped" | "pending" if spec.run_time == 0 => false,
            "skipped" | "pending" => self.skipped.insert(name),
            _ => self.failed.insert(name),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(kind: &str, name: &str, state: &str, time: u64) -> serde_json::Value {
        json!({"ContainerHierarchyTexts": ["A", "b"], "LeafNodeType": kind, "LeafNodeText": name, "State": state,
            "RunTime": time})
    }

    fn read(specs: &[serde_json::Value]) -> Result<Report> {
        let runs = json!([{"SuiteHasProgrammaticFocus": false, "SpecReports": specs}]);
        Report::parse(&runs.to_string())
    }

    #[test]
    fn whatever_is_not_passed_or_left_out_has_failed() {
        let mut specs = vec![spec("It", "one", "passed", 1), spec("BeforeSuite", "", "passed", 1)];
        let bad = ["failed", "panicked", "timedout", "interrupted", "aborted", "unheard-of"];
        specs.extend(bad.map(|state| spec("It", state, state, 1)));
        specs.extend([spec("It", "unfit", "skipped", 5), spec("It", "unasked", "skipped", 0)]);
        let report = read(&specs).unwrap();
        assert_eq!(report.failed.len(), bad.len());
        assert_eq!((report.passed.len(), report.skipped.len()), (1, 1));
        assert!(report.passed.contains("A b one"));
    }

    #[test]
    fn a_run_without_specs_or_whose_preparation_failed_is_none() {
        let passed = spec("It", "one", "passed", 1);
        assert!(read(std::slice::from_ref(&passed)).is_ok());
        assert!(read(&[]).is_err());
        assert!(read(&[passed, spec("BeforeSuite", "", "failed", 1)]).is_err());
    }
}

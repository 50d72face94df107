//! What a scanner says, from its own JSON. What cannot be read is an error, and never "nothing found".

use std::collections::BTreeSet;

use serde_json::Value;

use super::Scanner;
use crate::failure::{During, Failure, Result};

/// One verdict against one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Whose it is.
    pub scanner: Scanner,
    /// The scanner's own name of the check.
    pub check: String,
    /// What it says beside that, where one check finds several things: which container, and what. Empty otherwise.
    pub says: String,
    /// `Kind/namespace/name`; a scanner may write `default` for no namespace.
    pub object: String,
}

/// What a scanner judged, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The checks that came to a verdict on some object.
    pub checks: BTreeSet<String>,
    /// The verdicts against an object.
    pub findings: BTreeSet<Finding>,
}

impl Report {
    /// Whether some object fails this check.
    #[must_use]
    pub fn fails(&self, check: &str) -> bool {
        self.findings.iter().any(|finding| finding.check == check)
    }

    /// Takes another report of the same scanner in.
    pub fn add(&mut self, other: Self) {
        self.checks.extend(other.checks);
        self.findings.extend(other.findings);
    }
}

/// Reads what a scanner printed.
///
/// # Errors
/// When something of it is missing or it could not read a file.
pub fn read(scanner: Scanner, told: &Value) -> Result<Report> {
    let report = match scanner {
        Scanner::Checkov => checkov(told)?,
        Scanner::KubeScore => kube_score(told)?,
    };
    if report.checks.is_empty() {
        return Err(Failure::new(format!("{} came to no verdict at all", scanner.as_str())));
    }
    Ok(report)
}

fn text(value: &Value, key: &str) -> Result<String> {
    value.get(key).and_then(Value::as_str).map(str::to_owned).during(format!("a report has no {key}"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> Result<&'a Vec<Value>> {
    value.pointer(pointer).and_then(Value::as_array).during(format!("a report has no {pointer}"))
}

fn checkov(told: &Value) -> Result<Report> {
    if told.pointer("/summary/parsing_errors").and_then(Value::as_u64) != Some(0) {
        return Err(Failure::new("checkov could not read each file"));
    }
    let mut report = Report::default();
    for passed in list(told, "/results/passed_checks")? {
        report.checks.insert(text(passed, "check_id")?);
    }
    for failed in list(told, "/results/failed_checks")? {
        let check = text(failed, "check_id")?;
        report.checks.insert(check.clone());
        // A name may have dots; a kind and a namespace have none.
        let object = text(failed, "resource")?.splitn(3, '.').collect::<Vec<_>>().join("/");
        report.findings.insert(Finding { scanner: Scanner::Checkov, check, says: String::new(), object });
    }
    Ok(report)
}

/// The grade of an object that a check has nothing against.
const BEST: u64 = 10;

fn kube_score(told: &Value) -> Result<Report> {
    let mut report = Report::default();
    for judged in list(told, "")? {
        let metadata = judged.get("object_meta").during("a report has no object_meta")?;
        let kind = text(judged.get("type_meta").during("a report has no type_meta")?, "kind")?;
        let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or("default");
        let object = format!("{kind}/{namespace}/{}", text(metadata, "name")?);
        for verdict in list(judged, "/checks")? {
            if verdict.get("skipped").and_then(Value::as_bool).during("a verdict has no skipped")? {
                continue;
            }
            let check = text(verdict.get("check").during("a verdict has no check")?, "id")?;
            report.checks.insert(check.clone());
            if verdict.get("grade").and_then(Value::as_u64).during("a verdict has no grade")? >= BEST {
                continue;
            }
            let comments = verdict.get("comments").and_then(Value::as_array).cloned().unwrap_or_default();
            let mut all = comments.iter().map(says).collect::<Result<Vec<_>>>()?;
            if all.is_empty() {
                all.push(String::new());
            }
            report.findings.extend(all.into_iter().map(|says| Finding {
                scanner: Scanner::KubeScore,
                check: check.clone(),
                says,
                object: object.clone(),
            }));
        }
    }
    Ok(report)
}

fn says(comment: &Value) -> Result<String> {
    let (container, summary) = (text(comment, "path")?, text(comment, "summary")?);
    Ok(if container.is_empty() { summary } else { format!("{container}: {summary}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finding(scanner: Scanner, check: &str, says: &str, object: &str) -> Finding {
        Finding { scanner, check: check.to_owned(), says: says.to_owned(), object: object.to_owned() }
    }

    fn checkov_told() -> Value {
        let verdict = |check: &str| json!({"check_id": check, "resource": "Pod.team.fix.login"});
        json!({
            "results": {"passed_checks": [verdict("CKV_K8S_16")], "failed_checks": [verdict("CKV_K8S_8")]},
            "summary": {"parsing_errors": 0},
        })
    }

    fn kube_score_told() -> Value {
        let check = |id: &str, grade: u64, skipped: bool, comments: Value| json!({"check": {"id": id}, "grade": grade, "skipped": skipped, "comments": comments});
        json!([{
            "type_meta": {"kind": "Pod"},
            "object_meta": {"name": "fix", "namespace": "team"},
            "checks": [
                check("service-type", 10, false, Value::Null),
                check("pod-probes", 5, true, json!([{"path": "", "summary": "skipped"}])),
                check("container-resources", 1, false, json!([{"path": "agent", "summary": "CPU limit is not set"}])),
                check("stable-version", 7, false, Value::Null),
            ],
        }])
    }

    #[test]
    fn each_failed_check_is_a_finding_and_each_verdict_counts_its_check() {
        let report = read(Scanner::Checkov, &checkov_told()).unwrap();
        let wanted = [finding(Scanner::Checkov, "CKV_K8S_8", "", "Pod/team/fix.login")];
        assert_eq!(report.findings, wanted.into());
        assert_eq!(report.checks.len(), 2);
        assert!(report.fails("CKV_K8S_8") && !report.fails("CKV_K8S_16"));

        let report = read(Scanner::KubeScore, &kube_score_told()).unwrap();
        let wanted = [
            finding(Scanner::KubeScore, "container-resources", "agent: CPU limit is not set", "Pod/team/fix"),
            finding(Scanner::KubeScore, "stable-version", "", "Pod/team/fix"),
        ];
        assert_eq!(report.findings, wanted.into());
        assert_eq!(report.checks.len(), 3, "one was skipped");
    }

    #[test]
    fn what_cannot_be_read_is_no_clean_report() {
        let mut unread = checkov_told();
        unread["summary"]["parsing_errors"] = json!(1);
        let mut nameless = checkov_told();
        nameless["results"]["failed_checks"][0]["check_id"] = Value::Null;
        let mut ungraded = kube_score_told();
        ungraded[0]["checks"][3]["grade"] = Value::Null;
        for (scanner, told) in [
            (Scanner::Checkov, unread),
            (Scanner::Checkov, nameless),
            (Scanner::Checkov, json!({})),
            (Scanner::Checkov, json!({"passed": 0, "failed": 0})),
            (Scanner::KubeScore, ungraded),
            (Scanner::KubeScore, json!({})),
            (Scanner::KubeScore, json!([])),
        ] {
            assert!(read(scanner, &told).is_err(), "{told}");
        }
    }
}

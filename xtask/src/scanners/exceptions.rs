//! The findings that stand, each with its reason. What is found and what is excepted have to be the same.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::Scanner;
use super::report::Finding;
use crate::failure::{During, Failure, Result};

/// A reason is a sentence.
const REASON_CHARACTERS_MIN: usize = 30;

/// One exception, as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    scanner: Scanner,
    check: String,
    #[serde(default)]
    says: String,
    objects: Vec<String>,
    reason: String,
}

/// All exceptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceptions(BTreeSet<Finding>);

impl Exceptions {
    /// Reads the list.
    ///
    /// # Errors
    /// When it is no such list, an exception has no object or no reason, or one stands there twice.
    pub fn parse(text: &str) -> Result<Self> {
        let written: Vec<Written> = serde_yaml::from_str(text).during("it is no list of exceptions")?;
        let mut all = BTreeSet::new();
        for one in written {
            if one.reason.trim().len() < REASON_CHARACTERS_MIN || one.objects.is_empty() {
                return Err(Failure::new(format!("{} needs objects and a reason", one.check)));
            }
            for object in one.objects {
                let (scanner, check, says) = (one.scanner, one.check.clone(), one.says.clone());
                let finding = Finding { scanner, check, says, object };
                if let Some(twice) = all.replace(finding) {
                    return Err(Failure::new(format!("{twice} stands there twice")));
                }
            }
        }
        Ok(Self(all))
    }

    /// How many a scanner has.
    #[must_use]
    pub fn of(&self, scanner: Scanner) -> usize {
        self.0.iter().filter(|exception| exception.scanner == scanner).count()
    }

    /// A sentence for each finding without an exception, and for each exception without a finding.
    #[must_use]
    pub fn disagreements(&self, found: &BTreeSet<Finding>) -> Vec<String> {
        let new = found.difference(&self.0).map(|finding| format!("found, and no exception: {finding}"));
        let old = self.0.difference(found).map(|finding| format!("an exception, and not found: {finding}"));
        new.chain(old).collect()
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { scanner, check, says, object } = self;
        write!(f, "{} {check} on {object}", scanner.as_str())?;
        if says.is_empty() { Ok(()) } else { write!(f, ", {says}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "
- scanner: checkov
  check: CKV_K8S_8
  objects: [Pod/team/one, Pod/team/two]
  reason: It ends by itself when it can no longer serve.
- scanner: kube-score
  check: container-resources
  says: 'operator: CPU limit is not set'
  objects: [Deployment/system/operator]
  reason: It would be slow when it is needed most.
";

    fn exceptions() -> Exceptions {
        Exceptions::parse(LIST).unwrap()
    }

    #[test]
    fn what_is_found_and_what_is_excepted_are_the_same() {
        let all = exceptions();
        assert_eq!((all.of(Scanner::Checkov), all.of(Scanner::KubeScore)), (2, 1));
        assert!(all.disagreements(&all.0).is_empty());
    }

    #[test]
    fn a_finding_without_an_exception_is_told() {
        let all = exceptions();
        for change in [
            |finding: &mut Finding| finding.scanner = Scanner::Checkov,
            |finding: &mut Finding| "another".clone_into(&mut finding.check),
            |finding: &mut Finding| "operator: Memory limit is not set".clone_into(&mut finding.says),
            |finding: &mut Finding| "Deployment/team/operator".clone_into(&mut finding.object),
        ] {
            let mut found = all.0.clone();
            let mut other = found.last().unwrap().clone();
            change(&mut other);
            found.insert(other.clone());
            assert_eq!(all.disagreements(&found), [format!("found, and no exception: {other}")]);
        }
    }

    #[test]
    fn an_exception_that_nothing_needs_any_more_is_told() {
        let all = exceptions();
        let mut found = all.0.clone();
        let mended = found.pop_first().unwrap();
        assert_eq!(all.disagreements(&found), [format!("an exception, and not found: {mended}")]);
    }

    #[test]
    fn an_exception_says_for_what_it_stands_and_why_and_stands_there_once() {
        for (from, to) in [
            ("It ends by itself when it can no longer serve.", "''"),
            ("[Pod/team/one, Pod/team/two]", "[]"),
            ("[Pod/team/one, Pod/team/two]", "[Pod/team/one, Pod/team/one]"),
            ("scanner: checkov", "scanner: another"),
            ("objects:", "resources:"),
        ] {
            assert!(Exceptions::parse(&LIST.replace(from, to)).is_err(), "{to}");
        }
    }
}

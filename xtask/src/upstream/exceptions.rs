//! The specs that fail here and those that are left out, each with its reason. What fails and what is listed have to be the same.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::{Runtime, Suite};
use crate::failure::{During, Failure, Result};

/// A reason is a sentence.
const REASON_CHARACTERS_MIN: usize = 30;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    suite: Suite,
    runtimes: Vec<Runtime>,
    /// Specs that fail, by their full names.
    #[serde(default)]
    specs: Vec<String>,
    /// Parts of names of specs that are not run.
    #[serde(default)]
    left_out: Vec<String>,
    reason: String,
}

type Listed = BTreeSet<(Suite, Runtime, String)>;

/// All exceptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    fail: Listed,
    left_out: Listed,
}

impl Exceptions {
    /// Reads the list.
    ///
    /// # Errors
    /// When it is no such list, an exception names nothing or gives no reason, or one stands there twice.
    pub fn parse(text: &str) -> Result<Self> {
        let written: Vec<Written> = serde_yaml::from_str(text).during("it is no list of exceptions")?;
        let mut all = Self::default();
        for one in written {
            let named = one.specs.is_empty() != one.left_out.is_empty() && !one.runtimes.is_empty();
            if !named || one.reason.trim().len() < REASON_CHARACTERS_MIN {
                return Err(Failure::new(format!("{:?} needs specs, runtimes and a reason", one.specs)));
            }
            for runtime in one.runtimes {
                for (names, listed) in [(&one.specs, &mut all.fail), (&one.left_out, &mut all.left_out)] {
                    for name in names {
                        if !listed.insert((one.suite, runtime, name.clone())) {
                            return Err(Failure::new(format!("{name:?} stands there twice")));
                        }
                    }
                }
            }
        }
        Ok(all)
    }

    /// How many a run has.
    #[must_use]
    pub fn of(&self, suite: Suite, runtime: Runtime) -> usize {
        names(&self.fail, suite, runtime).len()
    }

    /// The expression that leaves out what a run does not try.
    #[must_use]
    pub fn skip(&self, suite: Suite, runtime: Runtime) -> String {
        names(&self.left_out, suite, runtime).into_iter().collect::<Vec<_>>().join("|")
    }

    /// A sentence for each spec that failed and is not listed, and for each that is listed and did not fail.
    #[must_use]
    pub fn disagreements(&self, suite: Suite, runtime: Runtime, failed: &BTreeSet<String>) -> Vec<String> {
        let listed = names(&self.fail, suite, runtime);
        let new = failed.difference(&listed).map(|spec| format!("failed, and not listed: {spec}"));
        let old = listed.difference(failed).map(|spec| format!("listed, and did not fail: {spec}"));
        new.chain(old).collect()
    }
}

fn names(listed: &Listed, suite: Suite, runtime: Runtime) -> BTreeSet<String> {
    let of_run = listed.iter().filter(|(s, r, _)| (*s, *r) == (suite, runtime));
    of_run.map(|(_, _, name)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "
- suite: critest
  runtimes: [runsc]
  specs: [one, two]
  reason: The kernel of the pod is not the kernel of the node.
- suite: netpol
  runtimes: [runc, runsc]
  specs: [one]
  reason: The policy engine knows no such thing, in any version.
- suite: netpol
  runtimes: [runc]
  left_out: [three, four]
  reason: The kernel of the node does not speak this protocol.
";

    #[test]
    fn what_fails_and_what_is_listed_are_the_same() {
        let all = Exceptions::parse(LIST).unwrap();
        let failed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let told = |names: &[&str]| all.disagreements(Suite::Critest, Runtime::Runsc, &failed(names));
        assert_eq!(told(&["one", "two"]), [""; 0]);
        assert_eq!(told(&["one", "two", "three"]), ["failed, and not listed: three"]);
        assert_eq!(told(&["one"]), ["listed, and did not fail: two"]);
        assert_eq!(all.disagreements(Suite::Critest, Runtime::Runc, &failed(&[])), [""; 0]);
        assert_eq!(all.of(Suite::Netpol, Runtime::Runc), 1);
        assert_eq!(all.skip(Suite::Netpol, Runtime::Runc), "four|three");
        assert_eq!(all.skip(Suite::Netpol, Runtime::Runsc), "");
    }

    #[test]
    fn an_exception_needs_a_reason_and_stands_there_once() {
        assert!(
            Exceptions::parse(&LIST.replace("The kernel of the pod is not the kernel of the node.", "so"))
                .is_err()
        );
        assert!(Exceptions::parse(&LIST.replace("[one, two]", "[one, one]")).is_err());
        assert!(Exceptions::parse(&LIST.replace("[one, two]", "[]")).is_err());
    }
}

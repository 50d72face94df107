//! Conformance suites that others wrote, run through the proxy.

use crate::catalogue::{Catalogue, Judge};
use crate::cell::{Script, script};
use crate::failure::Result;
use crate::install::Folders;
use crate::rig::Rig;

/// How long a suite may take: h2spec waits for many timeouts.
const SUITE_TIMEOUT_SECS: u32 = 900;

/// What a suite found.
#[derive(Debug)]
pub struct Verdict {
    /// The suite.
    pub name: String,
    /// Its version.
    pub version: String,
    /// How many cases passed.
    pub passed: usize,
    /// The others, each with its reason.
    pub failed: Vec<String>,
    /// Why it is no verdict, where it broke off.
    pub fault: Option<String>,
}

/// Runs a suite.
///
/// # Errors
/// When the rig fails; a suite's failure is a verdict.
pub fn run(rig: &Rig, catalogue: &Catalogue, folders: &Folders, judge: &Judge) -> Result<Verdict> {
    let target = catalogue.target(&judge.target)?;
    let base = format!("{}{}", judge.entrance.origin(target), target.allowed);
    rig.forget()?;
    let asked = Script {
        run: &judge.run,
        entrance: judge.entrance,
        base: base.clone(),
        folders,
        seconds: SUITE_TIMEOUT_SECS,
    };
    let (_, said) = script(rig, &asked)?;
    let version =
        Script { run: &judge.version, entrance: judge.entrance, base, folders, seconds: SUITE_TIMEOUT_SECS };
    let (_, version) = script(rig, &version)?;
    let passed = said.lines().filter(|line| line.starts_with("PASS ")).count();
    let failed: Vec<_> =
        said.lines().filter_map(|line| line.strip_prefix("FAIL ")).map(str::to_owned).collect();
    let cases = passed + failed.len();
    let fault = (cases != judge.cases)
        .then(|| format!("{cases} cases were judged, not {}:\n{said}", judge.cases))
        .or_else(|| Rig::secret_in(&said).map(|name| format!("the key of {name} is in what it says")));
    Ok(Verdict { name: judge.name.clone(), version: version.trim().to_owned(), passed, failed, fault })
}

//! Conformance suites that others wrote, run through the proxy, and what their clients make of a rule that goes while they wait.

use std::thread;

use crate::catalogue::{Catalogue, Judge, Target};
use crate::cell::{Script, script};
use crate::failure::{Failure, Result};
use crate::held::until;
use crate::install::Folders;
use crate::rig::Rig;

/// How long a suite may take: h2spec waits for many timeouts.
const SUITE_TIMEOUT_SECS: u32 = 900;
/// How long one may take whose requests are stopped: an SDK would wait for minutes.
const STOPPED_TIMEOUT_SECS: u32 = 60;

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
pub fn run(rig: &mut Rig, catalogue: &Catalogue, folders: &Folders, judge: &Judge) -> Result<Verdict> {
    let target = catalogue.target(&judge.target)?;
    let base = format!("{}{}", judge.entrance.origin(target), target.allowed);
    rig.forget()?;
    let asked = Script {
        run: &judge.run,
        entrance: judge.entrance,
        base: base.clone(),
        folders,
        seconds: if judge.loses.is_some() { STOPPED_TIMEOUT_SECS } else { SUITE_TIMEOUT_SECS },
    };
    let said = match &judge.loses {
        Some(rule) => stopped(rig, &asked, (target, judge.cases), rule)?,
        None => script(rig, &asked)?.1,
    };
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

/// What a script says whose requests lose their rule once all of them rest. After it the proxy has its rules again.
fn stopped(
    rig: &mut Rig,
    asked: &Script<'_>,
    (target, count): (&Target, usize),
    rule: &str,
) -> Result<String> {
    let said = thread::scope(|scope| {
        let shared = &*rig;
        let running = scope.spawn(move || script(shared, asked));
        let arrived = |request: &agentsandbox_world::journal::Request| request.host == target.host;
        let all =
            || (shared.requests().ok()?.iter().filter(|seen| arrived(seen)).count() >= count).then_some(());
        let lost = until("the stand-in whose streams rest", all).and_then(|()| shared.lose(rule));
        let (_, said) = running.join().map_err(|_| Failure::new("the script's thread ended"))??;
        lost.map_err(|failure| Failure::new(format!("{failure}: {said}"))).map(|()| said)
    });
    rig.serve(None)?;
    said
}

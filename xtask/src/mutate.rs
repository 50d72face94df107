//! `cargo xtask mutate`: changes the guards in one place after the other, and says which change no test notices.
//!
//! cargo-mutants makes the changes. Each module is tested by what is fast and speaks of it, so that a change takes
//! seconds; it is no part of `cargo xtask test`, for there are hundreds of them. A change that no test notices is a
//! missing test, or stands in `docs/mutants.md` with the reason why nobody could notice.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{During, Failure, Result};
use crate::test::visible;
use crate::{paths, shell, tools};

const CARGO_MUTANTS_VERSION: &str = "27.1.0";
/// Where survivors stand with their reasons.
const DOCUMENT: &str = "docs/mutants.md";

/// Any number.
const PROPTEST_SEED: &str = "1";

/// Code that is changed, and what is to notice it.
struct Module {
    name: &'static str,
    package: &'static str,
    /// Patterns of files.
    files: &'static [&'static str],
    /// What cargo test is told.
    tests: &'static [&'static str],
}

const fn policy(name: &'static str, files: &'static [&'static str]) -> Module {
    Module { name, package: "agentsandbox-policy", files, tests: &["--lib"] }
}

const fn proxy(name: &'static str, files: &'static [&'static str], tests: &'static [&'static str]) -> Module {
    Module { name, package: "agentsandbox-proxy", files, tests }
}

const fn operator(name: &'static str, files: &'static [&'static str]) -> Module {
    Module { name, package: "agentsandbox-operator", files, tests: &["--lib", "--", "controller"] }
}

/// What everything that passes goes through is noticed anywhere.
const ALL: &[&str] = &["--lib", "--test", "socket"];

const MODULES: [Module; 36] = [
    policy("host", &["proxy/policy/src/host.rs", "proxy/policy/src/pattern.rs"]),
    policy("path", &["proxy/policy/src/path.rs"]),
    policy("target", &["proxy/policy/src/target.rs", "proxy/policy/src/method.rs"]),
    policy("form", &["proxy/policy/src/form.rs"]),
    policy("parameter", &["proxy/policy/src/parameter.rs"]),
    policy("own_key", &["proxy/policy/src/own_key.rs"]),
    policy("address", &["proxy/policy/src/address.rs"]),
    policy("bounds", &["proxy/policy/src/bounds.rs", "proxy/policy/src/pinned.rs"]),
    policy(
        "decide",
        &[
            "proxy/policy/src/decide.rs",
            "proxy/policy/src/decide/barred.rs",
            "proxy/policy/src/decide/grace.rs",
            "proxy/policy/src/denial.rs",
        ],
    ),
    policy("operations", &["proxy/policy/src/decide/operations.rs", "proxy/policy/src/decide/push.rs"]),
    policy("strangers", &["proxy/policy/src/strangers.rs"]),
    policy("placeholder", &["proxy/policy/src/placeholder.rs", "proxy/policy/src/placeholder/**"]),
    policy("advice", &["proxy/policy/src/decide/advice.rs"]),
    policy(
        "document",
        &["proxy/policy/src/policy.rs", "proxy/policy/src/policy/**", "proxy/policy/src/document.rs"],
    ),
    proxy(
        "headers",
        &["proxy/src/headers.rs", "proxy/src/presented.rs"],
        &["--lib", "--test", "socket", "--", "headers", "presented", "credentials", "authority", "framing"],
    ),
    proxy(
        "destination",
        &["proxy/src/destination.rs", "proxy/src/decision.rs"],
        &["--lib", "--test", "socket", "--", "destination", "authority", "entrances", "framing"],
    ),
    proxy(
        "authority",
        &["proxy/src/authority.rs", "proxy/src/authority/**"],
        &["--lib", "--test", "socket", "--", "authority", "hello", "sessions"],
    ),
    proxy("exchange", &["proxy/src/exchange.rs"], &["--lib", "--", "exchange"]),
    proxy("scrub", &["proxy/src/scrub.rs", "proxy/src/scrub/**"], &["--lib", "--", "scrub", "stream"]),
    proxy("pipeline", &["proxy/src/pipeline.rs", "proxy/src/pipeline/**"], ALL),
    proxy("entrance", &["proxy/src/entrance.rs", "proxy/src/entrance/**"], ALL),
    proxy("resolve", &["proxy/src/resolve.rs", "proxy/src/dial.rs"], ALL),
    proxy("upgrade", &["proxy/src/upgrade.rs"], ALL),
    proxy("frames", &["proxy/src/upgrade/**"], &["--lib", "--", "upgrade"]),
    proxy(
        "stream",
        &["proxy/src/stream.rs", "proxy/src/stream/**"],
        &["--lib", "--test", "socket", "--", "stream", "last_event", "answers", "ends", "revoked"],
    ),
    proxy(
        "revoked",
        &["proxy/src/revoked.rs"],
        &["--lib", "--test", "socket", "--", "revoked", "drained", "p_h1_a_socket"],
    ),
    proxy(
        "heads",
        &["proxy/src/upstream/heads.rs"],
        &["--lib", "--test", "socket", "--", "upstream::heads", "informational"],
    ),
    operator("accept", &["operator/src/controller/accept.rs", "operator/src/controller/accept/**"]),
    operator("desired", &["operator/src/controller/desired.rs", "operator/src/controller/desired/**"]),
    operator("plan", &["operator/src/controller/plan.rs", "operator/src/controller/plan/**"]),
    operator("apply", &["operator/src/controller/apply.rs", "operator/src/controller/apply/**"]),
    operator(
        "breach",
        &[
            "operator/src/controller/breach.rs",
            "operator/src/controller/evaluate.rs",
            "operator/src/controller/way.rs",
        ],
    ),
    operator(
        "evidence",
        &[
            "operator/src/controller/observe/probe.rs",
            "operator/src/controller/outcome.rs",
            "operator/src/controller/status/evidence.rs",
        ],
    ),
    operator(
        "observe",
        &[
            "operator/src/controller/observe.rs",
            "operator/src/controller/observe/activity.rs",
            "operator/src/controller/observe/denials.rs",
            "operator/src/controller/observe/echoes.rs",
            "operator/src/controller/observe/growth.rs",
        ],
    ),
    operator(
        "status",
        &[
            "operator/src/controller/status.rs",
            "operator/src/controller/status/finished.rs",
            "operator/src/controller/status/pods.rs",
            "operator/src/controller/status/reason.rs",
            "operator/src/controller/status/secrets.rs",
            "operator/src/controller/status/suspended.rs",
            "operator/src/controller/status/workspace.rs",
        ],
    ),
    operator(
        "ending",
        &[
            "operator/src/controller/ending.rs",
            "operator/src/controller/finish.rs",
            "operator/src/controller/life.rs",
            "operator/src/controller/life/**",
            "operator/src/controller/orphans.rs",
            "operator/src/controller/suspend.rs",
            "operator/src/controller/teardown.rs",
        ],
    ),
];

/// What became of the changes to one module.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    caught: usize,
    unviable: usize,
    timed_out: usize,
    survivors: Vec<String>,
}

/// Which of a module's changes are made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part<'p> {
    /// `K/N`: each N-th of them, from the K-th on, counted from 0.
    pub shard: Option<&'p str>,
    /// Only those in lines that differ from this commit.
    pub since: Option<&'p str>,
}

/// Changes these modules, or all, and prints a table.
///
/// # Errors
/// When a module or a commit is not known, the tests fail without a change, or one survives without a reason.
pub fn run(names: &[String], part: Part<'_>) -> Result<()> {
    let modules = selected(names)?;
    let program = tools::built("cargo-mutants", CARGO_MUTANTS_VERSION)?;
    let document = paths::repository().join(DOCUMENT);
    let reasons = fs::read_to_string(&document).during(format!("{} cannot be read", document.display()))?;
    let (mut rows, mut silent) = (String::new(), Vec::new());
    for module in modules {
        println!("==> {}", module.name);
        let outcome = mutate(&program, module, part)?;
        rows.push_str(&row(module.name, &outcome));
        silent.extend(outcome.survivors.into_iter().filter(|survivor| !reasons.contains(survivor.as_str())));
    }
    print!("{HEAD}{rows}");
    if silent.is_empty() {
        return Ok(());
    }
    let list = silent.join("\n");
    Err(Failure::new(format!("no test notices these, and {DOCUMENT} gives no reason:\n{list}")))
}

const HEAD: &str = "| module | caught | survivors | timed out | unviable |\n|---|---|---|---|---|\n";

fn row(name: &str, outcome: &Outcome) -> String {
    let Outcome { caught, unviable, timed_out, survivors } = outcome;
    format!("| {name} | {caught} | {} | {timed_out} | {unviable} |\n", survivors.len())
}

fn selected(names: &[String]) -> Result<Vec<&'static Module>> {
    if names.is_empty() {
        return Ok(MODULES.iter().collect());
    }
    let find = |name: &String| {
        MODULES.iter().find(|module| module.name == name).ok_or_else(|| {
            let all: Vec<&str> = MODULES.iter().map(|module| module.name).collect();
            Failure::new(format!("there is no module {name}: {}", all.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

fn mutate(program: &Path, module: &Module, part: Part<'_>) -> Result<Outcome> {
    let folder = paths::target().join("mutants").join(module.name);
    fs::create_dir_all(&folder).during(format!("{} cannot be made", folder.display()))?;
    let mut command = shell::command(program, &["mutants", "--package", module.package, "--no-times"]);
    for files in module.files {
        command.args(["--file", files]);
    }
    if let Some(shard) = part.shard {
        command.args(["--shard", shard]);
    }
    if let Some(commit) = part.since {
        let Some(diff) = changed(&paths::repository(), commit, module.files, &folder)? else {
            return Ok(Outcome::default());
        };
        command.arg("--in-diff").arg(diff);
    }
    // What is changed once is built once: the fewer bytes each build writes, the better. What is drawn by chance is drawn
    // alike each time, so that a change is not noticed by luck.
    command
        .env("CARGO_INCREMENTAL", "1")
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("PROPTEST_RNG_SEED", PROPTEST_SEED)
        .env("CARGO_TARGET_DIR", paths::target().join("mutants/target"));
    command.arg("--output").arg(&folder).arg("--").args(module.tests).current_dir(paths::repository());
    let ended = visible(&mut command);
    let results = folder.join("mutants.out");
    let outcome = read(&results)?;
    // It fails where something survives; where nothing was counted it has failed before.
    match ended {
        Err(failure) if outcome == Outcome::default() => Err(failure),
        _ => Ok(outcome),
    }
}

/// What differs from a commit in these files, written into a folder; none where nothing does.
fn changed(repository: &Path, commit: &str, files: &[&str], folder: &Path) -> Result<Option<PathBuf>> {
    let mut diff = shell::command("git", &["diff", commit, "--"]);
    let text = shell::output(diff.args(files).current_dir(repository))?;
    if text.is_empty() {
        return Ok(None);
    }
    let file = folder.join("since.diff");
    fs::write(&file, text).during(format!("{} cannot be written", file.display()))?;
    Ok(Some(file))
}

/// One file for each outcome, and a line in it for each change.
fn read(results: &Path) -> Result<Outcome> {
    let lines = |name: &str| -> Result<Vec<String>> {
        let path = results.join(name);
        let text = fs::read_to_string(&path).during(format!("{} cannot be read", path.display()))?;
        Ok(text.lines().filter(|line| !line.is_empty()).map(without_place).collect())
    };
    Ok(Outcome {
        caught: lines("caught.txt")?.len(),
        unviable: lines("unviable.txt")?.len(),
        timed_out: lines("timeout.txt")?.len(),
        survivors: lines("missed.txt")?,
    })
}

/// A change without its line and column, which move with every edit.
fn without_place(line: &str) -> String {
    let mut parts = line.splitn(4, ':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(file), Some(_), Some(_), Some(change)) => format!("{file}:{change}"),
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_counted_and_survivors_named_without_their_place() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("caught.txt", "a.rs:1:2: replace a -> bool with true\nb.rs:3:4: replace == with !=\n"),
            ("missed.txt", "a.rs:9:1: replace a::b -> Vec<String> with vec![]\n"),
            ("timeout.txt", ""),
            ("unviable.txt", "c.rs:1:1: replace c -> T with Default::default()\n"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let outcome = read(folder.path()).unwrap();
        let survivors = vec!["a.rs: replace a::b -> Vec<String> with vec![]".to_owned()];
        assert_eq!(outcome, Outcome { caught: 2, unviable: 1, timed_out: 0, survivors });
        assert_eq!(row("a", &outcome), "| a | 2 | 1 | 0 | 1 |\n");
        assert!(read(&folder.path().join("none")).is_err());
    }

    #[test]
    fn every_module_names_files_that_exist_and_an_unknown_one_is_told_with_those_that_are_known() {
        for module in &MODULES {
            for file in module.files {
                let path = paths::repository().join(file.trim_end_matches("/**"));
                assert!(path.exists(), "{}: {file}", module.name);
            }
        }
        assert_eq!(selected(&[]).map(|all| all.len()).unwrap(), MODULES.len());
        assert!(selected(&["scrub".to_owned()]).is_ok_and(|all| all.len() == 1));
        let failure = selected(&["no-such-module".to_owned()]).err().unwrap().to_string();
        assert!(failure.contains("scrub"), "{failure}");
    }

    #[test]
    fn what_differs_from_a_commit_is_that_of_the_modules_files_and_an_unknown_commit_is_no_empty_difference()
    {
        let (repository, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| repository.path().join(name);
        let git = |args: &[&str]| {
            let who = ["-c", "user.name=test", "-c", "user.email=test@example.com"];
            shell::output(shell::command("git", &who).args(args).current_dir(repository.path())).unwrap()
        };
        git(&["init", "--quiet"]);
        for name in ["guard.rs", "other.rs"] {
            fs::write(at(name), "fn before() {}\n").unwrap();
        }
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "before"]);
        for name in ["guard.rs", "other.rs"] {
            fs::write(at(name), "fn before() {}\nfn since() {}\n").unwrap();
        }
        let differs = |commit, files: &[&str]| changed(repository.path(), commit, files, folder.path());
        let diff = fs::read_to_string(differs("HEAD", &["guard.rs"]).unwrap().unwrap()).unwrap();
        assert!(diff.contains("+fn since") && !diff.contains("+fn before"), "{diff}");
        assert!(!diff.contains("other.rs"), "{diff}");
        git(&["checkout", "--quiet", "guard.rs"]);
        assert_eq!(differs("HEAD", &["guard.rs"]).unwrap(), None);
        assert!(differs("no-such-commit", &["guard.rs"]).is_err());
    }
}

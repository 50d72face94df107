//! Every vector against our proxy, as `cargo xtask conformance --only ours` runs it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests state their claims by them")]

use std::path::{Path, PathBuf};
use std::process::Command;

use agentsandbox_conformance::report::no_traffic;
use agentsandbox_conformance::run::{Run, Verdict};
use agentsandbox_conformance::vector;
use xtask::programs::proxy_beside;

/// Cases of the suite; far fewer would mean that files were not read.
const CASES_MIN: usize = 1_000;

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn repository() -> PathBuf {
    package().join("../..").canonicalize().unwrap()
}

#[test]
fn every_vector_passes_against_our_proxy() {
    let folder = tempfile::tempdir().unwrap();
    let results = folder.path().join("ours.json");
    let own = env!("CARGO_BIN_EXE_agentsandbox-conformance");
    let (mut run, proxy) = (Command::new(own), proxy_beside(Path::new(own)).unwrap());
    let output =
        run.args(["run", "--proxy", "ours", "--program"]).arg(proxy).arg("--to").arg(&results).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let text = std::fs::read_to_string(&results).unwrap_or_else(|error| panic!("{error}: {said}"));
    let run: Run = serde_json::from_str(&text).unwrap();
    let count = |wanted: fn(&Verdict) -> bool| run.outcomes.iter().filter(|o| wanted(&o.verdict)).count();
    assert_eq!(count(|verdict| matches!(verdict, Verdict::Failed(_))), 0, "{said}");
    assert_eq!(
        count(|verdict| matches!(verdict, Verdict::Inapplicable(_))),
        0,
        "every entrance of ours is there"
    );
    let passed = count(|verdict| *verdict == Verdict::Passed);
    assert!(passed >= CASES_MIN, "only {passed} cases ran");
}

/// Entries of the catalogue for the proxy, by group, and how many each has.
const CATALOGUE: [(&str, u32); 9] = [
    ("P-A", 24),
    ("P-B", 8),
    ("P-C", 14),
    ("P-D", 14),
    ("P-E", 12),
    ("P-F", 23),
    ("P-G", 7),
    ("P-H", 6),
    ("P-I", 16),
];

#[test]
fn each_entry_of_the_catalogue_is_sent_or_said_to_be_no_traffic() {
    let cases = vector::read(&package().join("vectors")).unwrap();
    let others = no_traffic(&package().join("no-traffic.yaml")).unwrap();
    for (group, last) in CATALOGUE {
        for number in 1..=last {
            let id = format!("{group}{number}");
            let sent = cases.iter().any(|case| case.id == id);
            let excused = others.iter().filter(|entry| entry.id == id).count();
            assert_eq!(usize::from(sent) + excused, 1, "{id}: sent {sent}, excused {excused} times");
        }
    }
}

#[test]
fn an_entry_that_is_no_traffic_names_tests_that_exist() {
    fn sources(folder: &Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            let hidden = entry.ends_with("target") || entry.ends_with(".git");
            if entry.is_dir() && !hidden {
                sources(&entry, into);
            } else if entry.extension().is_some_and(|ending| ending == "rs") {
                into.push_str(&std::fs::read_to_string(&entry).unwrap());
            }
        }
    }
    let mut code = String::new();
    sources(&repository(), &mut code);
    for entry in no_traffic(&package().join("no-traffic.yaml")).unwrap() {
        for test in entry.tests {
            assert!(code.contains(&format!("fn {test}(")), "{} names {test}, which is no test", entry.id);
        }
    }
}

//! The house's rules that no compiler and no lint holds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Lines of a file, its tests not counted.
const FILE_LINES_MAX: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

/// Every file of the repository with one of these endings, and its text.
fn files(endings: &[&str]) -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, endings: &[&str], found: &mut Vec<(PathBuf, String)>) {
        let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    walk(&path, endings, found);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending))
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), endings, &mut found);
    assert!(!found.is_empty(), "no {endings:?} was found, so nothing would be checked");
    found
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--no-deps"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo speaks JSON")
}

/// What each package of the workspace depends on, tests not counted.
fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let packages = metadata()["packages"].as_array().expect("there are packages").clone();
    let edge = |package: &Value| {
        let all = package["dependencies"].as_array().cloned().unwrap_or_default();
        let normal = all.iter().filter(|dependency| dependency["kind"].is_null());
        (text(&package["name"]), normal.map(|dependency| text(&dependency["name"])).collect())
    };
    packages.iter().map(edge).collect()
}

#[test]
fn dependencies_point_the_allowed_way() {
    let forbidden: [(&str, &[&str]); 9] = [
        ("agentsandbox-crds", &["agentsandbox-operator", "agentsandbox-proxy", "agentsandbox-policy"]),
        ("agentsandbox-operator", &["agentsandbox-proxy", "agentsandbox-init"]),
        ("agentsandbox-proxy", &["agentsandbox-operator", "agentsandbox-crds", "kube", "k8s-openapi"]),
        ("agentsandbox-policy", &["agentsandbox-crds", "kube", "k8s-openapi", "tokio", "hyper", "reqwest"]),
        ("agentsandbox-init", &["agentsandbox-operator", "agentsandbox-crds", "kube", "k8s-openapi"]),
        ("agentsandbox-report", &["agentsandbox-init", "agentsandbox-crds", "kube", "tokio"]),
        (
            "agentsandbox-workspace",
            &["agentsandbox-crds", "agentsandbox-operator", "agentsandbox-proxy", "kube", "tokio"],
        ),
        // It explains with the policy's own decision, judges what an agent wrote with the workspace's own guards, and learns the rest from the
        // cluster.
        ("agentsandbox-cli", &["agentsandbox-operator", "agentsandbox-proxy", "agentsandbox-init", "hyper"]),
        ("agentsandbox-operator", &["ring", "openssl"]),
    ];
    let edges = edges();
    for (package, others) in forbidden {
        let found = edges.get(package).unwrap_or_else(|| panic!("there is no package {package}"));
        for other in others {
            assert!(!found.contains(*other), "{package} must not depend on {other}");
        }
    }
}

/// The lines of a file without its module of tests. What else is there for tests only is read with the rest, and so is all
/// that follows the module.
fn own(text: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut own, mut at) = (Vec::new(), 0);
    while let Some(line) = lines.get(at) {
        let item = (at + 1..lines.len()).find(|next| !lines[*next].starts_with("#["));
        let item = item.filter(|item| *line == "#[cfg(test)]" && lines[*item].starts_with("mod tests"));
        at = match item {
            Some(item) if lines[item].ends_with(';') => item,
            // As rustfmt writes it, its brace is the next one that stands first in a line.
            Some(item) => (item..lines.len()).find(|end| lines[*end] == "}").unwrap_or(lines.len()),
            None => {
                own.push(*line);
                at
            }
        } + 1;
    }
    own.into_iter()
}

#[test]
fn only_the_module_of_tests_is_not_counted() {
    let item = "fn a() {}\n#[cfg(test)]\nfn b() {}\nfn c() {}\n";
    for (tests, count) in [
        ("", 4),
        ("#[cfg(test)]\nmod tests;\n", 4),
        ("#[cfg(test)]\nmod tests {\n}\n", 4),
        ("#[cfg(test)]\n#[allow(clippy::panic, reason = \"so\")]\nmod tests {\n}\n", 4),
        ("#[cfg(test)]\nmod fixtures;\n", 6),
    ] {
        assert_eq!(own(&format!("{item}{tests}")).count(), count, "{tests}");
        assert_eq!(own(&format!("{tests}{item}")).count(), count, "{tests} at the top");
    }
}

#[test]
fn no_file_is_longer_than_a_reader_bears() {
    for (path, text) in files(&[".rs"]) {
        let own = own(&text).count();
        assert!(own <= FILE_LINES_MAX, "{} has {own} lines", path.display());
    }
}

#[test]
fn only_thin_steps_of_the_operator_hold_a_client() {
    // The steps, and the wiring of the process: run connects, facts asks once, lease leads, watches listens.
    let steps = ["observe.rs", "apply.rs", "teardown.rs", "events.rs"];
    let allowed = [steps, ["run.rs", "facts.rs", "lease.rs", "watches.rs"]].concat();
    let source = root().join("operator/src");
    for (path, text) in files(&[".rs"]).into_iter().filter(|(path, _)| path.starts_with(&source)) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_test = name == "tests.rs" || path.components().any(|part| part.as_os_str() == "tests");
        let holds = own(&text)
            .filter(|line| line.starts_with("use kube"))
            .any(|line| line.contains("Client") || line.contains("kube::api::"));
        assert!(!holds || is_test || allowed.contains(&name.as_str()), "{} holds a client", path.display());
    }
}

#[test]
fn every_invariant_names_tests_that_exist() {
    let document = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section = document.split("## Invariants").nth(1).unwrap().split("\n## ").next().unwrap();
    let code: String = files(&[".rs"]).into_iter().map(|(_, text)| text).collect();
    let mut current = 0;
    let mut claims = BTreeMap::<usize, usize>::new();
    for line in section.lines() {
        if let Some(number) = line.split(". **").next().and_then(|number| number.parse().ok()) {
            current = number;
        }
        let names = line.split('`').skip(1).step_by(2).filter(|name| current > 0 && name.contains('_'));
        for name in names {
            assert!(
                code.contains(&format!("fn {name}(")),
                "invariant {current} names {name}, which is no test"
            );
            *claims.entry(current).or_default() += 1;
        }
    }
    assert_eq!(
        claims.keys().copied().collect::<Vec<_>>(),
        (1..=8).collect::<Vec<_>>(),
        "each invariant has a test"
    );
}

#[test]
fn every_promise_of_the_threat_model_names_tests_that_exist() {
    let document = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let code: String = files(&[".rs"]).into_iter().map(|(_, text)| text).collect();
    let rows = document.lines().filter(|line| line.starts_with("| ") && line.contains("`"));
    let names: Vec<&str> =
        rows.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|name| name.contains('_')).collect();
    assert!(names.len() > 20, "only {} tests were found in it", names.len());
    for name in names {
        assert!(code.contains(&format!("fn {name}(")), "docs/threat-model.md names {name}, which is no test");
    }
}

/// The number behind `before` in a file, up to the next character that is no digit.
fn number_in(file: &str, before: &str) -> u64 {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let rest = text.split(before).nth(1).unwrap_or_else(|| panic!("{file} has no {before}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

#[test]
fn the_proxy_has_drained_before_its_pod_is_killed() {
    // The proxy may know nothing of pods, and the operator nothing of the proxy: here both numbers are seen.
    let drain = number_in("proxy/src/limits.rs", "DRAIN_TIMEOUT: Duration = Duration::from_secs(");
    let last = number_in("proxy/src/limits.rs", "TRACES_LAST_TIMEOUT: Duration = Duration::from_secs(");
    let grace = number_in("operator/src/controller/desired/proxy_pod.rs", "const GRACE_SECS: i64 = ");
    assert!(
        drain > 0 && drain + last < grace,
        "the proxy drains for {drain} s, sends traces for {last} s and is killed after {grace} s"
    );
}

#[test]
fn the_proxy_knows_what_the_fence_asks() {
    let text_in = |file: &str, before: &str| {
        let text = fs::read_to_string(root().join(file)).unwrap();
        text.split(before).nth(1).and_then(|rest| rest.split('"').next()).map(str::to_owned).unwrap()
    };
    let asked = text_in("init/src/enrolment.rs", "NAME_UNKNOWN: &str = \"");
    assert_eq!(asked.trim_end_matches('.'), text_in("proxy/src/audit.rs", "FENCE_QUESTION: &str = \""));
}

/// Names of tests that begin with a catalogue id, such as `p_a1_…` or `o_n7_…`.
fn catalogue_tests() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (_, text) in files(&[".rs"]) {
        for line in text.lines().map(str::trim_start) {
            let line = line.strip_prefix("async ").unwrap_or(line);
            let Some(name) = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next()) else {
                continue;
            };
            let mut words = name.split('_');
            let part = words.next().is_some_and(|word| word == "p" || word == "o");
            let entry = words.next().is_some_and(|word| word.ends_with(|last: char| last.is_ascii_digit()));
            if part && entry && words.next().is_some() {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

/// The rows of the table of tested threats.
fn rows(document: &str) -> impl Iterator<Item = &str> {
    document.lines().filter(|line| line.starts_with("| P-") || line.starts_with("| O-"))
}

/// The threats that have more than one row: each test of theirs would be found in one of them, and nobody reads both.
fn doubled(document: &str) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    rows(document).filter_map(|row| row.split(' ').nth(1)).filter(|id| !seen.insert(*id)).collect()
}

#[test]
fn a_threat_with_two_rows_is_found_and_one_whose_name_begins_another_is_none() {
    let document = "| entry | tests |\n|---|---|\n| O-R1 | `a` |\n| O-R12 | `b` |\n| P-I4 | `c` |\n";
    assert!(doubled(document).is_empty());
    assert_eq!(doubled(&format!("{document}| O-R1 | `d` |\n")), ["O-R1"]);
}

#[test]
fn the_table_of_tested_threats_is_current() {
    let document = fs::read_to_string(root().join("docs/threats.md")).unwrap();
    let twice = doubled(&document);
    assert!(twice.is_empty(), "docs/threats.md has more than one row of {twice:?}");
    let listed: BTreeSet<String> =
        rows(&document).flat_map(|row| row.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    let tests = catalogue_tests();
    assert!(tests.len() > 60, "only {} catalogue tests were found", tests.len());
    let (missing, stale): (Vec<_>, Vec<_>) =
        (tests.difference(&listed).collect(), listed.difference(&tests).collect());
    assert!(missing.is_empty() && stale.is_empty(), "docs/threats.md lacks {missing:?} and lists {stale:?}");
}

/// Entries of the catalogue: each stands among the tested ones or after them, and in one place only.
const CATALOGUE_ENTRIES: usize = 275;

#[test]
fn every_entry_of_the_catalogue_is_listed_once_as_tested_as_not_promised_or_as_not_yet() {
    let document = fs::read_to_string(root().join("docs/threats.md")).unwrap();
    let (tested, rest) = document.split_once("## Not yet").unwrap();
    let ids = |text: &str| -> Vec<String> {
        let is_id = |word: &&str| {
            let digits = word.strip_prefix("P-").or(word.strip_prefix("O-")).and_then(|rest| rest.get(1..));
            digits.is_some_and(|digits| digits.parse::<u32>().is_ok())
        };
        text.split_whitespace().filter(is_id).map(str::to_owned).collect()
    };
    let tested: Vec<String> =
        // What is not promised is a list with its reasons.
        tested
            .lines()
            .filter_map(|line| line.strip_prefix("| ").or(line.strip_prefix("- "))?.split(' ').next())
            .flat_map(ids)
            .collect();
    let untested = ids(rest.split("\n\n").nth(2).unwrap());
    let all: BTreeSet<&String> = tested.iter().chain(&untested).collect();
    let twice: Vec<_> = untested.iter().filter(|id| tested.contains(id)).collect();
    assert!(twice.is_empty(), "docs/threats.md says that these are tested and that they are not: {twice:?}");
    assert_eq!(all.len(), CATALOGUE_ENTRIES, "docs/threats.md has lost or made up an entry");
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    // Put together here, so that this file does not name them itself.
    let words = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/us")];
    for (path, text) in files(&[".rs", ".md", ".toml", ".yaml", ".tpl", ".txt", ".sh", "run", "Dockerfile"]) {
        for word in words {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}

/// What follows a number that was measured in such a run.
const UNITS: [&str; 4] = ["ms", "µs", "ns", "×"];

/// The numbers of a text that have a unit, each with it.
fn measured(text: &str) -> BTreeSet<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let trimmed = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '×').to_owned();
    let pairs = words.windows(2).map(|pair| [trimmed(pair[0]), trimmed(pair[1])]);
    let is_number = |word: &str| word.starts_with(|first: char| first.is_ascii_digit());
    pairs
        .filter(|[number, unit]| is_number(number) && UNITS.contains(&unit.as_str()))
        .map(|p| p.join(" "))
        .collect()
}

#[test]
fn o_g27_what_isolation_costs_is_measured_for_both_runtimes_and_documents_quote_only_that() {
    let document = fs::read_to_string(root().join("docs/benchmarks.md")).unwrap();
    let section = document.split("<!-- measured: isolation -->").nth(1).unwrap();
    let section = section.split("<!-- end: isolation -->").next().unwrap();
    for part in ["runc p50", "runc p95", "runsc p50", "runsc p95"] {
        assert!(section.contains(part), "the section lacks {part}");
    }
    let rows: Vec<&str> = section.lines().filter(|line| line.contains(" × |")).collect();
    for row in ["start of a pod", "10,000 small files, on the node's disk", "10,000 small files, in memory"] {
        let found = rows.iter().find(|line| line.starts_with(&format!("| {row} |")));
        let found = found.unwrap_or_else(|| panic!("the section lacks {row}"));
        assert!(measured(found).len() >= 4, "{found}");
    }
    let known = measured(section);
    let mut quoted = 0;
    for (path, text) in files(&[".md"]) {
        // Whoever quotes says where from.
        for quote in text.split("\n\n").filter(|part| part.contains("benchmarks.md#what-isolation-costs")) {
            let numbers = measured(quote);
            let strange: Vec<_> = numbers.difference(&known).collect();
            assert!(strange.is_empty(), "{} quotes {strange:?}, which was not measured", path.display());
            quoted += numbers.len();
        }
        let speaks =
            |line: &&str| line.contains("runsc") && line.contains("runc") && !measured(line).is_empty();
        let elsewhere = !path.ends_with("docs/benchmarks.md");
        assert!(
            !elsewhere || text.lines().find(speaks).is_none(),
            "{} has numbers of its own",
            path.display()
        );
    }
    assert!(quoted > 0, "the control: docs/isolation.md quotes some");
}

#[test]
fn links_of_documents_resolve() {
    for (path, text) in files(&[".md"]) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let file = path.parent().unwrap().join(target);
            assert!(file.exists(), "{} links to {target}, which is not there", path.display());
        }
    }
}

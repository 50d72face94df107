//! Where what is built comes from (P-I10).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The sources below a folder, each with its path.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

/// The argument lists in a source that begin with a command of cargo's which resolves dependencies. Other programs have
/// commands of the same names, and are known by their own flags.
fn cargo_calls(text: &str) -> Vec<&str> {
    const COMMANDS: [&str; 7] = ["build", "test", "run", "clippy", "install", "bench", "metadata"];
    const OTHERS: [&str; 10] = [
        "-trimpath",
        "--no-install-recommends",
        "--no-audit",
        "--no-input",
        "\"-m\"",
        "\"-S\"",
        "--proxy",
        "127.0.0.1",
        "\"nightly\"",
        "setuptools",
    ];
    let lists = text.split('[').skip(1).filter_map(|rest| rest.split(']').next());
    let begins = |list: &&str| {
        let first = list.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
        first.is_some_and(|first| COMMANDS.contains(&first))
    };
    lists.filter(begins).filter(|list| !OTHERS.iter().any(|flag| list.contains(flag))).collect()
}

#[test]
fn p_i10_whatever_is_built_is_built_from_the_lockfile() {
    let folders =
        ["xtask/src", "tests/clients/src", "tests/conformance", "tests/bench/src", "tests/world/src"];
    let mut calls = 0;
    for (path, text) in folders.iter().flat_map(|folder| sources(&root().join(folder))) {
        for call in cargo_calls(&text) {
            assert!(call.contains("\"--locked\""), "{}: [{call}] lacks --locked", path.display());
            calls += 1;
        }
    }
    assert!(calls >= 10, "only {calls} calls of cargo were found, so something is overlooked");
    let builds: Vec<String> = read("Dockerfile")
        .replace("\\\n", " ")
        .lines()
        .filter(|line| line.contains("cargo build"))
        .map(str::to_owned)
        .collect();
    assert!(builds.iter().any(|line| line.starts_with("RUN")), "the Dockerfile builds");
    assert!(
        builds.iter().filter(|line| !line.starts_with('#')).all(|line| line.contains("--locked")),
        "{builds:?}"
    );
    assert!(read(".cargo/config.toml").contains("xtask = \"run --locked "), "the tasks themselves");
    assert!(read("Cargo.lock").contains("checksum = "), "the lockfile is here");
    assert!(!read(".gitignore").contains("Cargo.lock"), "and committed");
}

#[test]
fn p_i10_the_policy_of_dependencies_is_checked_by_each_run_of_ci() {
    assert!(read(".ci/run").lines().any(|line| line == "exec cargo xtask test \"$@\""), "CI runs every part");
    let parts = read("xtask/src/test.rs");
    let all = parts.split_once("const ALL: [Part;").and_then(|(_, rest)| rest.split(';').next()).unwrap();
    assert!(all.contains("Part::Deny"), "{all}");
    assert!(parts.contains("Self::Deny => deny(),"));
    let policy = read("deny.toml");
    for line in
        ["crate = \"ring\"", "wildcards = \"deny\"", "unknown-registry = \"deny\"", "unknown-git = \"deny\""]
    {
        assert!(policy.contains(line), "deny.toml lacks {line}");
    }
}

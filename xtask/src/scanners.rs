//! Other people's scanners of Kubernetes objects, on what the chart renders and on what the operator makes of one sandbox.
//!
//! The pods are the operator's own snapshots, which its unit tests hold equal to what it makes. Each finding is mended, or stands
//! with its reason in `tests/scanners/exceptions.yaml`; an exception that nothing needs any more fails as well. A scanner that
//! lets a bad pod pass fails, and so does one whose row in `docs/scanners.md` is not what it did. Installed once into the cache.

pub mod exceptions;
pub mod report;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use self::exceptions::Exceptions;
use self::report::Report;
use crate::failure::{During, Failure, Result};
use crate::{parts, paths, peers, shell};

/// A scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scanner {
    /// checkov, its checks of Kubernetes objects.
    Checkov,
    /// kube-score, all checks but those that ask for equal requests and limits, which are a matter of taste.
    KubeScore,
}

/// Where the list of exceptions is.
pub const EXCEPTIONS: &str = "tests/scanners/exceptions.yaml";
/// Where the table of scanners is.
pub const TABLE: &str = "docs/scanners.md";
/// The pod that no scanner may let pass.
const BAD: &str = "tests/scanners/bad.yaml";
/// The sets of values that the chart is rendered with.
const VARIANTS: [(&str, &[&str]); 3] = [
    ("defaults", &[]),
    ("two-replicas", &["operator.replicas=2"]),
    (
        "one-namespace",
        &[
            "watchNamespace=team",
            "clusterRanges.podCIDRs={10.244.0.0/16}",
            "clusterRanges.serviceCIDRs={10.96.0.0/16}",
            "clusterRanges.nodeCIDRs={10.0.0.0/24}",
        ],
    ),
];
/// The snapshots of what one sandbox becomes. The others are the same objects once more, of other sandboxes.
const SNAPSHOTS: [&str; 7] = [
    "agent_pod",
    "network_policy_agent",
    "network_policy_proxy",
    "policy_config_map",
    "proxy_pod",
    "service_account_agent",
    "service_open",
];
/// Python packages of checkov.
const CHECKOV: &str = "checkov==3.3.30";
/// The Go program kube-score.
const KUBE_SCORE: &str = "github.com/zegl/kube-score/cmd/kube-score@v1.20.0";
/// Checks of kube-score that have to be asked for.
const OPTIONAL: [&str; 2] = ["container-seccomp-profile", "container-ports-check"];

impl Scanner {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Checkov, Self::KubeScore];

    /// The stable name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Checkov => "checkov",
            Self::KubeScore => "kube-score",
        }
    }

    /// The version whose verdict counts.
    #[must_use]
    pub fn version(self) -> &'static str {
        let (pinned, sign) = match self {
            Self::Checkov => (CHECKOV, "=="),
            Self::KubeScore => (KUBE_SCORE, "@v"),
        };
        pinned.split_once(sign).map_or(pinned, |(_, version)| version)
    }

    /// The check that the bad pod fails.
    const fn sure(self) -> &'static str {
        match self {
            Self::Checkov => "CKV_K8S_16",
            Self::KubeScore => "container-security-context-privileged",
        }
    }

    fn installed(self) -> Result<PathBuf> {
        let root = paths::cache().join("scanners").join(format!("{}-{}", self.as_str(), self.version()));
        let program = root.join("bin").join(self.as_str());
        let _held = paths::cache_locked("scanners")?;
        // Written last, so that an installation that was cut off is done again.
        let done = root.join("installed");
        if !done.is_file() {
            println!("installing {} {}; this is done once", self.as_str(), self.version());
            let log = root.with_extension("log");
            match self {
                Self::Checkov => peers::environment(&[CHECKOV], &root, &log)?,
                Self::KubeScore => {
                    let mut install = shell::command("go", &["install", "-trimpath", KUBE_SCORE]);
                    install.env("GOBIN", root.join("bin")).env("CGO_ENABLED", "0");
                    // Beside a module of the repository `go install` would ask for its workspace.
                    shell::logged(install.current_dir(paths::cache()), &log)?;
                }
            }
            fs::write(&done, "").during(format!("{} cannot be written", done.display()))?;
        }
        Ok(program)
    }

    /// What it says of all YAML files in a folder.
    fn scan(self, folder: &Path) -> Result<Report> {
        let mut command = shell::command(self.installed()?, &[] as &[&str]);
        match self {
            Self::Checkov => {
                // From within: it leaves out what lies below a hidden folder, such as a cache.
                command
                    .args(["--framework", "kubernetes", "--compact", "--output", "json", "-d", "."])
                    .current_dir(folder);
                // It would ask its maker for texts, and colours are for people.
                command
                    .args(["--skip-download"])
                    .env("BC_SKIP_MAPPING", "TRUE")
                    .env("ANSI_COLORS_DISABLED", "1");
            }
            Self::KubeScore => {
                command.args(["score", "--output-format", "json", "--kubernetes-version", "v1.34"]);
                command.arg("--disable-ignore-checks-annotations");
                for check in OPTIONAL {
                    command.args(["--enable-optional-test", check]);
                }
                command.args(files(folder)?);
            }
        }
        // A finding is no success to it, so what it prints decides.
        let output = command.output().during(format!("{} cannot be started", self.as_str()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let told: Value = serde_json::from_slice(&output.stdout).during(format!(
            "{} has no report: {}",
            self.as_str(),
            said.trim()
        ))?;
        report::read(self, &told)
    }
}

/// Installs the scanners, runs them, and compares what they find with the exceptions.
///
/// # Errors
/// When one cannot be installed or has not looked, when a finding has no exception or an exception no finding, or when the table of
/// scanners is not current; the sentence lists each.
pub fn run() -> Result<()> {
    let repository = paths::repository();
    let read =
        |file: &str| fs::read_to_string(repository.join(file)).during(format!("{file} cannot be read"));
    let exceptions = Exceptions::parse(&read(EXCEPTIONS)?).during(EXCEPTIONS)?;
    let folder = paths::target().join("scanners");
    let _absent = fs::remove_dir_all(&folder);
    write(&folder.join("bad"), "bad", &read(BAD)?)?;
    let made = SNAPSHOTS.iter().map(|name| snapshot(name)).collect::<Result<Vec<_>>>()?;
    for (variant, values) in VARIANTS {
        write(&folder.join(variant), "chart", &rendered(values)?)?;
        for (name, object) in SNAPSHOTS.iter().zip(&made) {
            write(&folder.join(variant), name, object)?;
        }
    }
    let (mut found, mut wrong, table) = (BTreeSet::new(), Vec::new(), read(TABLE)?);
    for scanner in Scanner::ALL {
        if !scanner.scan(&folder.join("bad"))?.fails(scanner.sure()) {
            return Err(Failure::new(format!(
                "{} lets a privileged pod pass: it has not looked",
                scanner.as_str()
            )));
        }
        let mut whole = Report::default();
        for (variant, _) in VARIANTS {
            whole.add(scanner.scan(&folder.join(variant))?);
        }
        let row = row(scanner, &whole, exceptions.of(scanner));
        println!("{row}");
        if !table.contains(&row) {
            wrong.push(format!("{TABLE} lacks the line {row}"));
        }
        found.extend(whole.findings);
    }
    wrong.extend(exceptions.disagreements(&found));
    if wrong.is_empty() { Ok(()) } else { Err(Failure::new(wrong.join("\n"))) }
}

fn row(scanner: Scanner, report: &Report, exceptions: usize) -> String {
    let (name, version) = (scanner.as_str(), scanner.version());
    format!("| {name} | {version} | {} | {exceptions} |", report.checks.len())
}

fn rendered(values: &[&str]) -> Result<String> {
    let mut helm = shell::command(parts::built()?.join("helm"), &["template", "agentsandbox"]);
    helm.arg(paths::repository().join("charts/agentsandbox")).args(["--namespace", "agentsandbox-system"]);
    for value in values {
        helm.args(["--set", value]);
    }
    shell::output(&mut helm)
}

/// An object as the operator makes it, without the snapshot's head.
fn snapshot(name: &str) -> Result<String> {
    let path = paths::repository().join(format!("operator/src/controller/desired/snapshots/{name}.snap"));
    let text = fs::read_to_string(&path).during(format!("{} cannot be read", path.display()))?;
    let object = text.splitn(3, "---\n").nth(2).during(format!("{} is no snapshot", path.display()))?;
    Ok(object.to_owned())
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let file = folder.join(format!("{name}.yaml"));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&file, text))
        .during(format!("{} cannot be written", file.display()))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("{} cannot be read", folder.display());
    let entries = fs::read_dir(folder).during(unreadable())?;
    let mut files =
        entries.map(|entry| Ok(entry.during(unreadable())?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_is_pinned() {
        for scanner in Scanner::ALL {
            let numbers: Vec<_> = scanner.version().split('.').map(str::parse::<u32>).collect();
            assert!(
                numbers.len() == 3 && numbers.iter().all(std::result::Result::is_ok),
                "{scanner:?} {}",
                scanner.version()
            );
        }
    }

    #[test]
    fn every_object_that_one_sandbox_becomes_is_scanned() {
        for name in SNAPSHOTS {
            assert!(snapshot(name).unwrap().starts_with("apiVersion:"), "{name}");
        }
        let folder = paths::repository().join("operator/src/controller/desired/snapshots");
        let others = ["network_policy_private_ranges", "service_shut"];
        for file in files(&folder).unwrap() {
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            let known = SNAPSHOTS.contains(&name.as_str()) || others.contains(&name.as_str());
            assert!(known, "{name} is neither scanned nor the same object once more");
        }
    }

    #[test]
    fn the_table_has_a_row_for_each_scanner_with_its_version_and_its_exceptions() {
        let read = |file: &str| fs::read_to_string(paths::repository().join(file)).unwrap();
        let (exceptions, table) = (Exceptions::parse(&read(EXCEPTIONS)).unwrap(), read(TABLE));
        for scanner in Scanner::ALL {
            let begin = format!("| {} | {} | ", scanner.as_str(), scanner.version());
            let end = format!(" | {} |", exceptions.of(scanner));
            assert!(
                table.lines().any(|line| line.starts_with(&begin) && line.ends_with(&end)),
                "{begin}…{end}"
            );
        }
    }
}

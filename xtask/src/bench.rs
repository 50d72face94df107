//! `cargo xtask bench`: measurements, each with what it is compared to in the same run.

mod operator;
mod proxy;
mod workspace;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::Subcommand;

use crate::cluster::{Cluster, NAME_VARIABLE};
use crate::failure::{During, Result};
use crate::{parts, paths, quickstart, shell};

/// What can be measured.
#[derive(Clone, Debug, Subcommand)]
pub enum Subject {
    /// From `create` to the agent's running process, beside a bare gVisor pod, and the operator's API writes.
    Start,
    /// The same pods with runc and with runsc: their start, small files, system calls and plain work.
    Isolation,
    /// A repository of 200 MB in 20,000 files until the agent runs: from each source and with each access, beside an empty workspace and plain git.
    Workspace(workspace::WorkspaceArgs),
    /// The proxy beside Envoy, nginx, HAProxy, Squid, mitmproxy and a bare forwarder; needs no cluster, and a quiet machine.
    Proxy(proxy::ProxyArgs),
    /// The operator beside kubernetes-sigs/agent-sandbox: thousands of sandboxes on a real API server where no pod is ever scheduled.
    Operator(operator::OperatorArgs),
}

/// Measures, and writes its section of `docs/benchmarks.md`.
///
/// # Errors
/// When the cluster cannot be brought up, a peer cannot be installed or a measurement cannot be made.
pub fn run(subject: &Subject) -> Result<()> {
    match subject {
        Subject::Start => on_the_shared_cluster("start", "bench-start"),
        Subject::Isolation => on_the_shared_cluster("isolation", "bench-isolation"),
        Subject::Workspace(args) if args.is_whole() => keep("workspace", &workspace::measure(args)?),
        Subject::Workspace(args) => {
            print!("{}", workspace::measure(args)?);
            Ok(())
        }
        Subject::Proxy(args) if args.is_whole() => keep("proxy", &proxy::measure(args)?),
        Subject::Proxy(args) => {
            print!("{}", proxy::measure(args)?);
            Ok(())
        }
        Subject::Operator(args) if args.is_whole() => keep("operator", &operator::measure(args)?),
        Subject::Operator(args) => {
            print!("{}", operator::measure(args)?);
            Ok(())
        }
    }
}

/// Measures a section by a program of the cluster tests, on the cluster that they share.
fn on_the_shared_cluster(section: &str, program: &str) -> Result<()> {
    keep(section, &on_a_cluster(&Cluster::chosen()?, program, &samples(section), &[])?)
}

/// Measures by a program of the cluster tests, which may keep its samples in a file, and is told more than that by some.
fn on_a_cluster(cluster: &Cluster, program: &str, samples: &Path, more: &[String]) -> Result<String> {
    quickstart::prepare(cluster)?;
    let software = format!("Kubernetes {}, gVisor with the systrap platform", parts::KUBERNETES_VERSION);
    let on = format!("{}; {software}", machine_in_full());
    let raw = samples.display().to_string();
    let program = ["run", "--locked", "--bin", program, "--", &raw, &on];
    let mut bench = shell::command("cargo", &program);
    bench.args(more).env(NAME_VARIABLE, cluster.name());
    let measured = shell::output(bench.current_dir(paths::repository()).stderr(Stdio::inherit()))?;
    Ok(format!("Machine: {on}.\n\n{measured}"))
}

/// The file beside the document with the samples of a section.
fn samples(section: &str) -> PathBuf {
    paths::repository().join(format!("docs/benchmarks/{section}.json"))
}

/// Prints what was measured, and puts it into its section of the document.
fn keep(section: &str, measured: &str) -> Result<()> {
    print!("{measured}");
    let file = paths::repository().join("docs/benchmarks.md");
    let document = std::fs::read_to_string(&file).during(format!("{} cannot be read", file.display()))?;
    let text = placed(&document, section, measured)
        .during(format!("{} has no section {section:?} between its two marks", file.display()))?;
    std::fs::write(&file, text).during(format!("{} cannot be written", file.display()))
}

/// The document with the text between the section's two marks.
fn placed(document: &str, section: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- measured: {section} -->\n"), format!("<!-- end: {section} -->"));
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}{}\n{end}{after}", text.trim()))
}

/// What was measured on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next());
    let gib = kib.and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib >> 20);
    format!("{cores} cores, {gib} GiB, {}", std::env::consts::ARCH)
}

/// The same, with its processor and its kernel.
fn machine_in_full() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name).to_owned();
    format!("{}, {model}, Linux {}", machine(), read("/proc/sys/kernel/osrelease").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_and_the_rest_of_the_document_stays() {
        let document = "# A\n<!-- measured: one -->\nold\n<!-- end: one -->\n\n## B\n<!-- measured: two -->\n<!-- end: two -->\n";
        let placed = placed(document, "one", "new\n").unwrap();
        assert_eq!(placed, document.replace("old", "new"));
        assert_eq!(super::placed(document, "three", "new"), None);
    }

    #[test]
    fn the_document_has_a_place_for_each_section() {
        let file = paths::repository().join("docs/benchmarks.md");
        let document = std::fs::read_to_string(file).unwrap();
        for section in ["start", "isolation", "workspace", "proxy", "operator"] {
            assert!(placed(&document, section, "x").is_some(), "{section}");
        }
    }
}

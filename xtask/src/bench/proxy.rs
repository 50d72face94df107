//! `cargo xtask bench proxy`: builds what is measured, installs the peers, and lets `bench-proxy` measure.

use std::path::Path;
use std::process::Stdio;

use clap::Args;
use serde_json::json;

use crate::failure::{During, Result};
use crate::peers::{self, Peer};
use crate::{paths, shell};

/// The peers that take part.
const PEERS: [Peer; 5] = [Peer::Envoy, Peer::Nginx, Peer::Haproxy, Peer::Squid, Peer::Mitmproxy];

/// Rounds of a whole measurement: one to warm up, and five.
const ROUNDS: usize = 6;

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct ProxyArgs {
    /// Only this scenario. May be given again; `docs/benchmarks/` has a file of each name.
    #[arg(long)]
    scenario: Vec<String>,
    /// Only this contender. May be given again. What is measured is then shown and not kept.
    #[arg(long)]
    contender: Vec<String>,
    /// Rounds; the first is not counted. With fewer than six, what is measured is shown and not kept.
    #[arg(long, default_value_t = ROUNDS)]
    rounds: usize,
}

impl ProxyArgs {
    /// Whether all contenders are asked often enough for the document.
    pub(super) const fn is_whole(&self) -> bool {
        self.contender.is_empty() && self.rounds >= ROUNDS
    }
}

/// Measures, keeps the samples in `docs/benchmarks/`, and returns the report.
///
/// # Errors
/// When something cannot be built, installed or measured; what is missing is on the screen.
pub fn measure(args: &ProxyArgs) -> Result<String> {
    // Apart: together Cargo would give the proxy the features that the others ask of its dependencies.
    build("agentsandbox-proxy")?;
    build("agentsandbox-bench")?;
    let release = paths::target().join("release");
    let mut peers = serde_json::Map::new();
    for peer in PEERS {
        let found = peers::installed(peer)?;
        let version = portable(&found.version, &found.root);
        let described = json!({"program": found.program, "root": found.root, "libraries": found.libraries, "version": version});
        peers.insert(peer.as_str().to_owned(), described);
    }
    let programs =
        json!({"ours": release.join("agentsandbox-proxy"), "bench": release, "peers": peers}).to_string();
    let mut bench = shell::command(release.join("bench-proxy"), &["--programs", &programs]);
    let kept = paths::repository().join("docs/benchmarks");
    bench.arg("--results").arg(if args.is_whole() { kept } else { paths::target().join("bench") });
    bench.args(["--machine", &machine(), "--rounds", &args.rounds.to_string()]);
    bench.args(args.scenario.iter().flat_map(|name| ["--scenario", name]));
    bench.args(args.contender.iter().flat_map(|name| ["--contender", name]));
    shell::output(bench.stderr(Stdio::inherit()))
}

/// What a program says its version is, without where it lies.
fn portable(version: &str, root: &Path) -> String {
    let root = root.display().to_string();
    let words: Vec<&str> = version.split_whitespace().filter(|word| !word.contains(&root)).collect();
    words.join(" ")
}

fn build(package: &str) -> Result<()> {
    let mut cargo = shell::command("cargo", &["build", "--release", "--locked", "--package", package]);
    // Names for a profiler; the code is the same.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "none").env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only");
    cargo.current_dir(paths::repository()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    shell::output(&mut cargo).map(drop).during(format!("{package} is not built"))
}

fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, name)| name).to_owned();
    format!("{}, {model}, Linux {}", super::machine(), read("/proc/sys/kernel/osrelease").trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_says_nothing_of_this_machine() {
        let said = "/var/cache/peers/envoy-1/lib/envoy  version: 9e55/1.40.0/Clean";
        assert_eq!(portable(said, Path::new("/var/cache/peers/envoy-1")), "version: 9e55/1.40.0/Clean");
    }
}

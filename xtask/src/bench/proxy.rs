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
/// One to warm up, and one.
const SMOKE_ROUNDS: usize = 2;
/// Length of one measurement where only the way is tried.
const SMOKE_MILLIS: &str = "100";

/// What is measured.
#[derive(Clone, Debug, Args)]
pub struct ProxyArgs {
    /// Only this scenario. May be given again; `docs/benchmarks/` has a file of each name.
    #[arg(long)]
    scenario: Vec<String>,
    /// Only this contender. May be given again; only the others' programs that take part are installed. What is measured is then shown and not kept.
    #[arg(long)]
    contender: Vec<String>,
    /// Rounds; the first is not counted. With fewer than six, which is what it takes, what is measured is shown and not kept.
    #[arg(long)]
    rounds: Option<usize>,
    /// Tries every way in seconds: small bodies, few streams, two rounds. What comes of it is no measurement, and not kept.
    #[arg(long)]
    smoke: bool,
}

impl ProxyArgs {
    /// Whether all contenders are asked often enough for the document.
    pub(super) fn is_whole(&self) -> bool {
        self.contender.is_empty() && self.rounds() >= ROUNDS && !self.smoke
    }

    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.smoke { SMOKE_ROUNDS } else { ROUNDS })
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
    let takes_part =
        |peer: &Peer| args.contender.is_empty() || args.contender.iter().any(|c| c == peer.as_str());
    for peer in PEERS.into_iter().filter(takes_part) {
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
    bench.args(["--machine", &super::machine_in_full(), "--rounds", &args.rounds().to_string()]);
    if args.smoke {
        bench.args(["--smoke", "--millis", SMOKE_MILLIS]);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_of_a_run_that_is_not_whole() {
        let whole = ProxyArgs {
            scenario: vec!["grpc".to_owned()],
            contender: Vec::new(),
            rounds: None,
            smoke: false,
        };
        assert!(whole.is_whole());
        let smoke = ProxyArgs { rounds: Some(ROUNDS), smoke: true, ..whole.clone() };
        let short = ProxyArgs { rounds: Some(ROUNDS - 1), ..whole.clone() };
        let partial = ProxyArgs { contender: vec!["ours".to_owned()], ..whole };
        assert!(![smoke, short, partial].iter().any(ProxyArgs::is_whole));
    }

    #[test]
    fn a_version_says_nothing_of_this_machine() {
        let said = "/var/cache/peers/envoy-1/lib/envoy  version: 9e55/1.40.0/Clean";
        assert_eq!(portable(said, Path::new("/var/cache/peers/envoy-1")), "version: 9e55/1.40.0/Clean");
    }
}

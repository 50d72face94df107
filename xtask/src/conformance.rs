//! `cargo xtask conformance`: the attack catalogue against our proxy and other people's, and the scoreboard.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::failure::{During, Failure, Result};
use crate::peers::{self, Peer};
use crate::test::cargo;
use crate::{paths, shell};

/// A proxy of the scoreboard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Contender {
    /// Ours.
    Ours,
    /// Envoy.
    Envoy,
    /// mitmproxy.
    Mitmproxy,
    /// Squid.
    Squid,
    /// Tinyproxy.
    Tinyproxy,
}

impl Contender {
    const fn name(self) -> &'static str {
        match self.peer() {
            None => "ours",
            Some(peer) => peer.as_str(),
        }
    }

    const fn peer(self) -> Option<Peer> {
        match self {
            Self::Ours => None,
            Self::Envoy => Some(Peer::Envoy),
            Self::Mitmproxy => Some(Peer::Mitmproxy),
            Self::Squid => Some(Peer::Squid),
            Self::Tinyproxy => Some(Peer::Tinyproxy),
        }
    }
}

/// Runs the suite against these proxies, or all, prints the scoreboard and, where everything ran, writes
/// `docs/conformance.md`.
///
/// # Errors
/// When a proxy cannot be installed or started, or ours fails a vector.
pub fn run(only: &[Contender], vector: Option<&str>) -> Result<()> {
    cargo(&["build", "--locked", "--bin", "agentsandbox-proxy", "--bin", "agentsandbox-conformance"])?;
    let results = paths::target().join("conformance");
    std::fs::create_dir_all(&results).during(format!("{} cannot be made", results.display()))?;
    let mut files = Vec::new();
    let mut failed = false;
    for contender in Contender::value_variants() {
        if !only.is_empty() && !only.contains(contender) {
            continue;
        }
        let file = results.join(format!("{}.json", contender.name()));
        let _absent = std::fs::remove_file(&file);
        println!("==> {}", contender.name());
        let (passed, said) = against(*contender, vector, &file)?;
        if !file.is_file() {
            return Err(Failure::new(format!("{} did not run: {said}", contender.name())));
        }
        if *contender == Contender::Ours && !passed {
            println!("{said}");
            failed = true;
        }
        files.push(file);
    }
    let mut report = shell::command(program(), &["report"]);
    report.args(&files);
    if only.is_empty() && vector.is_none() {
        report.arg("--to").arg(paths::repository().join("docs/conformance.md"));
    }
    print!("{}", shell::output(&mut report)?);
    if failed { Err(Failure::new("our proxy fails the vectors above")) } else { Ok(()) }
}

fn program() -> PathBuf {
    paths::target().join("debug/agentsandbox-conformance")
}

/// One run: whether every vector passed, and what was said.
fn against(contender: Contender, vector: Option<&str>, to: &PathBuf) -> Result<(bool, String)> {
    let mut command = shell::command(program(), &["run", "--proxy", contender.name()]);
    command.arg("--to").arg(to);
    match contender.peer() {
        None => {
            command.arg("--program").arg(paths::target().join("debug/agentsandbox-proxy"));
        }
        Some(peer) => {
            let installed = peers::installed(peer)?;
            command.arg("--program").arg(installed.program).arg("--root").arg(installed.root);
            command.arg("--libraries").arg(installed.libraries).arg("--version-line").arg(installed.version);
        }
    }
    if let Some(vector) = vector {
        command.args(["--vector", vector]);
    }
    let output = command.output().during("the suite cannot be started")?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((output.status.success(), said))
}

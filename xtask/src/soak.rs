//! `cargo xtask soak`: the proxy under mixed load while its policy, its secrets and its upstreams change each second.

use crate::failure::Result;
use crate::test::{cargo, visible};
use crate::{paths, shell};

/// How long it runs, unless it is said.
pub const MINUTES: u64 = 30;

/// Builds the proxy and the harness, and runs them so long. The build is the one with checks of overflow and of what must hold.
///
/// # Errors
/// When something is wrong: the first such thing, and the seed to run it again with, are on the screen.
pub fn run(minutes: u64, seed: Option<u64>) -> Result<()> {
    cargo(&["build", "--locked", "--bin", "agentsandbox-proxy", "--bin", "agentsandbox-soak"])?;
    let built = paths::target().join("debug");
    let mut soak = shell::command(built.join("agentsandbox-soak"), &["--program"]);
    soak.arg(built.join("agentsandbox-proxy")).args(["--seconds", &(minutes * 60).to_string()]);
    if let Some(seed) = seed {
        soak.args(["--seed", &seed.to_string()]);
    }
    visible(&mut soak)
}

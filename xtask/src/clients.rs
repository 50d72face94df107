//! Real clients through the proxy, by the program that knows how: `docs/clients.md`.

use crate::failure::Result;
use crate::test::cargo;

/// Runs every client through every entrance, or only some, and writes the table when all were run.
///
/// # Errors
/// When a client is answered where it should be refused, or refused where it should be answered; the sentence says which.
pub fn run(only: &[String]) -> Result<()> {
    let only = only.join(",");
    let mut args =
        vec!["run", "--locked", "--quiet", "--package", "agentsandbox-clients", "--bin", "clients"];
    if !only.is_empty() {
        args.extend(["--", "--only", &only]);
    }
    cargo(&args)
}

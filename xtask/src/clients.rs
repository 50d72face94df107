//! Real clients through the proxy, by the program that knows how: `docs/clients.md`.

use crate::failure::Result;
use crate::test::cargo;

/// What becomes of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// It is written where all were run and nothing is wrong.
    Written,
    /// It stays as it is.
    Kept,
}

/// Runs every client through every entrance, or only some.
///
/// # Errors
/// When a client is answered where it should be refused, or refused where it should be answered; the sentence says which.
pub fn run(only: &[String], document: Document) -> Result<()> {
    let only = only.join(",");
    let mut args = vec!["run", "--locked", "--quiet", "--bin", "clients", "--"];
    if !only.is_empty() {
        args.extend(["--only", &only]);
    }
    if document == Document::Kept {
        args.push("--keep-document");
    }
    cargo(&args)
}

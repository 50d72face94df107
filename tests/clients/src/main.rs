//! `clients`: every client through every entrance; writes `docs/clients.md`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a run talks to the person who started it")]

use std::process::ExitCode;

use agentsandbox_clients::catalogue::{self, Catalogue};
use agentsandbox_clients::failure::{During, Failure, Result};
use agentsandbox_clients::{run, table};
use clap::Parser;

/// Runs real clients through the proxy.
#[derive(Parser)]
struct Cli {
    /// Only these clients, suites and upstream proxies, by name, with commas between; the document is then left as it is.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leaves the document as it is, which has the versions of the machine that wrote it.
    #[arg(long)]
    keep_document: bool,
}

fn main() -> ExitCode {
    match whole(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn whole(cli: &Cli) -> Result<()> {
    let catalogue = Catalogue::read()?;
    let found = run::run(&catalogue, &run::Selection::of(&catalogue, &cli.only)?)?;
    let faults = found.faults();
    if cli.only.is_empty() && !cli.keep_document && faults.is_empty() {
        let file = catalogue::repository().join("docs/clients.md");
        std::fs::write(&file, table::document(&found)).during(file.display())?;
    }
    let rows = found.rows.len() + found.fronts.len();
    println!("{rows} rows, {} suites, {} faults", found.verdicts.len(), faults.len());
    if faults.is_empty() { Ok(()) } else { Err(Failure::new(faults.join("\n"))) }
}

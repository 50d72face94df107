//! Entry point: a command line to an exit code. 2 means that there is no answer: the call must be corrected, or the cluster does
//! not say.

use std::io::Write;
use std::process::ExitCode;

use agentsandbox_cli::args::Cli;
use agentsandbox_cli::command;
use agentsandbox_cli::error::chain;
use agentsandbox_cli::text::harmless;
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match command::main(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Where nobody reads any more there is nobody to tell.
            let _told = writeln!(anstream::stderr(), "error: {}", harmless(&chain(&error)));
            ExitCode::from(command::EXIT_UNKNOWN)
        }
    }
}

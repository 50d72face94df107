//! Entry point: flags, then either the rendered artefacts or the running operator.

use std::io::Write;
use std::process::ExitCode;

use agentsandbox_operator::config::{Cli, Command, Config};
use agentsandbox_operator::{rbac, run};
use clap::Parser;

/// `EX_USAGE` of sysexits.h: the flags are at fault, a restart will not help.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(fault) => {
            let code = if fault.use_stderr() { EXIT_USAGE } else { 0 };
            // Nothing can be done about a closed terminal.
            let _ = fault.print();
            return ExitCode::from(code);
        }
    };
    match cli.command {
        Command::Crds => print(
            agentsandbox_crds::schema::all()
                .map_err(|e| e.to_string())
                .and_then(|all| {
                    all.iter().map(|crd| crd.yaml().map_err(|e| e.to_string())).collect::<Result<Vec<_>, _>>()
                })
                .map(|documents| documents.join("---\n")),
        ),
        Command::Rbac => print(rbac::json().map_err(|e| e.to_string())),
        Command::Run(flags) => match Config::try_from(*flags) {
            Ok(config) => run::main(config),
            Err(faults) => fail(&faults.to_string(), EXIT_USAGE),
        },
    }
}

fn print(text: Result<String, String>) -> ExitCode {
    match text {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(fault) => fail(&fault, 1),
    }
}

fn fail(message: &str, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(code)
}

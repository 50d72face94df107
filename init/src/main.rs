//! Entry point of `agentsandbox-init`: parse, run, write the report, and exit 0 only if everything was proven.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use agentsandbox_init::args::{Args, Command, TERMINATION_LOG};
use agentsandbox_init::{fence, termination};
use agentsandbox_report::{KernelKind, Verdict};
use clap::Parser;

/// Exit code of a wrong command line (`EX_USAGE`). Help exits with it too: only a proof may exit 0.
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let started = Instant::now();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let args = match Args::try_parse_from(&arguments) {
        Ok(args) => args,
        Err(error) => {
            let report =
                termination::failed(KernelKind::Unknown, &format!("Wrong command line: {error}"), started);
            // The log may be unwritable too; the exit code still refuses the agent.
            let _ = termination::write(&termination_log(&arguments), &report);
            let _ = error.print();
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let Command::Fence(args) = args.command;
    report_panics(args.termination_log.clone(), args.expect_kernel.into(), started);
    let report = fence::run(&args, started);
    match termination::write(&args.termination_log, &report) {
        Ok(()) if report.verdict == Verdict::Proven => ExitCode::SUCCESS,
        // A proof that nobody can read is no proof.
        Ok(()) | Err(_) => ExitCode::FAILURE,
    }
}

/// The termination log that a command line names, even where the rest of it is wrong.
fn termination_log(arguments: &[OsString]) -> PathBuf {
    let named = arguments.iter().skip_while(|argument| *argument != "--termination-log").nth(1);
    named.map_or_else(|| Path::new(TERMINATION_LOG).to_owned(), PathBuf::from)
}

/// A panic is reported like any other failure; unwinding then ends the process with a code that is not 0.
fn report_panics(log: PathBuf, expected: KernelKind, started: Instant) {
    std::panic::set_hook(Box::new(move |panic| {
        let place =
            panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        let report =
            termination::failed(expected, &format!("The fence panicked{place}; report this."), started);
        let _ = termination::write(&log, &report);
    }));
}

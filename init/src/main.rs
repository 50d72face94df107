//! Entry point of `agentsandbox-init`: parse, run, write the report, and exit 0 only if everything was proven, or is in its place.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use agentsandbox_init::args::{Args, Command, FenceArgs, TERMINATION_LOG, WorkspaceArgs};
use agentsandbox_init::{confine, fence, forward, review, termination, workspace};
use agentsandbox_report::{KernelKind, Verdict, WorkspaceVerdict};
use clap::Parser;

/// Exit code of a wrong command line (`EX_USAGE`). Help exits with it too: only a proof may exit 0.
const EXIT_USAGE: u8 = 64;
/// The command of the workspace's step.
const WORKSPACE: &str = "workspace";
/// The commands that are no step of a pod: no report would be theirs.
const WITHOUT_REPORT: [&str; 5] = ["run", "enter", "carry", "changes", "wait"];

fn main() -> ExitCode {
    let started = Instant::now();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let args = match Args::try_parse_from(&arguments) {
        Ok(args) => args,
        Err(error) => {
            let (log, message) = (termination_log(&arguments), format!("Wrong command line: {error}"));
            // The log may be unwritable too; the exit code still refuses the agent.
            let _ = match arguments.get(1).and_then(|command| command.to_str()) {
                Some(WORKSPACE) => {
                    let report = workspace::failed(WorkspaceVerdict::Failed, &message, started);
                    termination::write_workspace(&log, &report)
                }
                Some(command) if WITHOUT_REPORT.contains(&command) => Ok(()),
                _ => termination::write(&log, &termination::failed(KernelKind::Unknown, &message, started)),
            };
            let _ = error.print();
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match args.command {
        Command::Fence(args) => prove(&args, started),
        Command::Workspace(args) => fetch(&args, started),
        Command::Changes(args) => {
            review::end_after(args.deadline_secs);
            review::tell(&args, &mut std::io::stdout().lock())
        }
        Command::Wait => review::wait(),
        Command::Run(args) => confine::run(&args),
        Command::Enter(args) => confine::enter(&args),
        Command::Carry(args) => forward::beside(args.proxy),
    }
}

fn prove(args: &FenceArgs, started: Instant) -> ExitCode {
    let (log, expected) = (args.termination_log.clone(), args.expect_kernel.into());
    report_panics(move |place| {
        let message = format!("The fence panicked{place}; report this.");
        let _ = termination::write(&log, &termination::failed(expected, &message, started));
    });
    let report = fence::run(args, started);
    match termination::write(&args.termination_log, &report) {
        Ok(()) if report.verdict == Verdict::Proven => ExitCode::SUCCESS,
        // A proof that nobody can read is no proof.
        Ok(()) | Err(_) => ExitCode::FAILURE,
    }
}

fn fetch(args: &WorkspaceArgs, started: Instant) -> ExitCode {
    let log = args.termination_log.clone();
    report_panics(move |place| {
        let message = format!("The workspace's step panicked{place}; report this.");
        let report = workspace::failed(WorkspaceVerdict::Failed, &message, started);
        let _ = termination::write_workspace(&log, &report);
    });
    let mut out = std::io::stdout().lock();
    let report = workspace::run(args, started, &mut out);
    // The kubelet keeps the report of the last run alone. A log that cannot be written keeps nobody from working.
    let _ = writeln!(out, "{}", termination::plain_message(&report));
    match termination::write_workspace(&args.termination_log, &report) {
        Ok(()) if report.verdict == WorkspaceVerdict::Unpacked => ExitCode::SUCCESS,
        Ok(()) | Err(_) => ExitCode::FAILURE,
    }
}

/// The termination log that a command line names, even where the rest of it is wrong.
fn termination_log(arguments: &[OsString]) -> PathBuf {
    let named = arguments.iter().skip_while(|argument| *argument != "--termination-log").nth(1);
    named.map_or_else(|| Path::new(TERMINATION_LOG).to_owned(), PathBuf::from)
}

/// A panic is reported like any other failure; unwinding then ends the process with a code that is not 0.
fn report_panics(report: impl Fn(&str) + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        let place =
            panic.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
        report(&place);
    }));
}

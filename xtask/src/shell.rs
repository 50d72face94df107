//! Running other programs: their output goes to a log, and a failure says where it is and how it ends.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::failure::{During, Failure, Result};

/// Lines of a log that a failure shows.
const TAIL_LINES: usize = 12;

/// A command line.
pub fn command<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[S]) -> Command {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    command
}

/// Runs a program to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or fails; the sentence holds the end of what it printed.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().during(format!("{program} cannot be started"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() {
        return Ok(text);
    }
    let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let error = String::from_utf8_lossy(&out.stderr);
    Err(Failure::new(format!("`{program} {}` failed: {}", args.join(" "), tail(&format!("{text}{error}")))))
}

/// Runs `program args…` to its end and returns what it printed.
///
/// # Errors
/// As [`output`].
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    output(&mut command(program, args))
}

/// Runs a program to its end with its output in a log.
///
/// # Errors
/// When it cannot be started or fails; the sentence names the log and holds its end.
pub fn logged(command: &mut Command, log: &Path) -> Result<()> {
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent).during(format!("{} cannot be made", parent.display()))?;
    }
    let file = File::create(log).during(format!("{} cannot be written", log.display()))?;
    let copy = file.try_clone().during("a log cannot be shared")?;
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(copy)
        .status()
        .during(format!("{program} cannot be started"))?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(log).unwrap_or_default();
    Err(Failure::new(format!("{program} failed; its log is {} and ends:\n{}", log.display(), tail(&text))))
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
}

/// Whether a program of this name is on the search path.
#[must_use]
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|d| d.join(program).is_file())
}

//! `agentsandbox-init changes`, as it is entered beside an agent.
#![allow(clippy::unwrap_used, reason = "tests state their claims by it")]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Tells what differs in this folder, in so many seconds.
fn changes(folder: &Path, seconds: u32) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentsandbox-init"));
    command.arg("changes").arg(format!("--deadline-secs={seconds}"));
    command.arg("--original").arg(folder.join("original")).arg("--workspace").arg(folder.join("workspace"));
    command
}

#[test]
fn it_ends_at_its_deadline_where_nobody_takes_what_it_tells() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["original", "workspace"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    // More than a pipe holds.
    fs::write(folder.path().join("workspace/new"), vec![b'x'; 4 << 20]).unwrap();
    let mut child = changes(folder.path(), 1).stdout(Stdio::piped()).spawn().unwrap();
    let held = child.stdout.take();
    assert_eq!(child.wait().unwrap().signal(), Some(nix::sys::signal::Signal::SIGALRM as i32));
    drop(held);
    let taken = changes(folder.path(), 600).stdout(Stdio::null()).status().unwrap();
    assert!(taken.success(), "the control: {taken}");
}

//! What an agent made of its workspace, where the original stays: told to whoever enters the container `review` and asks.
//!
//! The container waits in the agent's pod, can write nowhere, and holds nothing. What it tells is about files of an agent that may still be writing
//! them, by the crate `agentsandbox-workspace`; whoever asked believes nothing of it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use agentsandbox_workspace::changes::{Bounds, walk};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::alarm;

use crate::args::ChangesArgs;

/// Written at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Lets the process end after so many seconds, which are at least one, wherever it waits then: whoever asked may be gone, and an agent
/// whose files are read and not told would keep it, and every one after it, without a word on a broken pipe.
pub fn end_after(seconds: u32) {
    // Its default is to end the process.
    let _none_before = alarm::set(seconds.max(1));
}

/// Tells what differs; the exit code is 0 only if all of it was told.
#[must_use]
pub fn tell(args: &ChangesArgs, out: &mut dyn Write) -> ExitCode {
    let mut out = BufWriter::with_capacity(CHUNK_BYTES, out);
    match told(&args.original, &args.workspace, &mut out) {
        Ok(()) => ExitCode::SUCCESS,
        // What was told up to here has no end, or says itself why: nothing of it counts.
        Err(_) => ExitCode::FAILURE,
    }
}

fn told(original: &Path, workspace: &Path, out: &mut dyn Write) -> Result<(), Box<dyn std::error::Error>> {
    let (original, workspace) = (File::open(original)?, File::open(workspace)?);
    walk::tell(original.as_fd(), workspace.as_fd(), &Bounds::default(), out)?;
    Ok(())
}

/// Waits for the signal by which a container is ended: a process that is the first of its container is not ended by it unless it asks.
#[must_use]
pub fn wait() -> ExitCode {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.add(Signal::SIGINT);
    match ends.thread_block().and_then(|()| ends.wait()) {
        Ok(_) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

//! Programs that end with their owner, and what is waited for until they answer.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// How long a program may take until it answers.
pub const START_TIMEOUT: Duration = Duration::from_secs(40);
/// How often it is asked.
const START_POLL: Duration = Duration::from_millis(50);

/// A child that ends with its owner.
pub struct Held(Child);

impl Held {
    /// Takes a child over.
    #[must_use]
    pub fn of(child: Child) -> Self {
        Self(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits, for so long at most, for the first line of a child whose output is a pipe; whether it is `ready`. A child that said something
/// else, or nothing, is ended.
pub fn said_ready(child: &mut Held, within: Duration) -> bool {
    let (tells, told) = mpsc::channel();
    if let Some(out) = child.0.stdout.take() {
        // It ends with the child at the latest.
        thread::spawn(move || {
            let mut line = String::new();
            let said = BufReader::new(out).read_line(&mut line);
            // Nobody may wait for it any more.
            let _ = tells.send(said.is_ok() && line == "ready\n");
        });
    }
    let is_ready = told.recv_timeout(within).unwrap_or(false);
    if !is_ready {
        let _ = child.0.kill();
    }
    is_ready
}

/// Asks until there is an answer.
///
/// # Errors
/// When there is none in time.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if begin.elapsed() > START_TIMEOUT {
            return Err(Failure::new(format!("{what} does not answer")));
        }
        thread::sleep(START_POLL);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_is_waited_for_no_longer_than_its_time_and_is_ended_where_it_is_not_ready() {
        for (script, within, is_ready) in [
            ("echo ready; exec sleep 600", START_TIMEOUT, true),
            ("echo other; exec sleep 600", START_TIMEOUT, false),
            ("exec sleep 600", Duration::from_millis(50), false),
            ("true", START_TIMEOUT, false),
        ] {
            let child = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
            let mut held = Held::of(child);
            assert_eq!(said_ready(&mut held, within), is_ready, "{script}");
            if !is_ready {
                // It would sleep for ten minutes.
                held.0.wait().unwrap();
            }
        }
    }
}

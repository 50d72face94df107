//! Programs that end with their owner, and what is waited for until they answer.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};

/// How long a program may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(40);
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

/// Waits for the first line of a child whose output is a pipe; whether it is `ready`.
pub fn said_ready(child: &mut Held) -> bool {
    let mut line = String::new();
    let said = child.0.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
    matches!(said, Some(Ok(_))) && line == "ready\n"
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

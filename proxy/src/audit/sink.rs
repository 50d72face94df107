//! Where the lines go, one after the other and each as a whole or not at all. A line that was cut off by a full disk is ended
//! as what it is, so that nothing which follows completes it.
//!
//! Lines wait here until they are written, and those that wait at the same moment go out in one write. Whoever needs to know whether
//! its line is out keeps its place in the batch.

use std::io::{Error, ErrorKind, Write};
use std::sync::{Arc, OnceLock};

use super::clock::Clock;

/// Ends a line that was not written as a whole. What is out of it may be all but the line's end, and that alone would make a
/// decision of it that was never told to anybody.
const TORN: &[u8] = b"~torn\n";

/// Lines that wait, and where they go.
pub struct Sink {
    /// The last line failed; that is logged once.
    pub failing: bool,
    /// Somebody writes what waits; until then nothing may wait that nobody waits for.
    pub is_tended: bool,
    /// What time it is.
    pub clock: Clock,
    /// Room for a line's time.
    pub time: String,
    /// The number of the next line to be written.
    seq: u64,
    /// Part of a line is out and the rest failed: the next line needs a line of its own.
    torn: bool,
    /// The lines that wait, one behind the other, and where each of them ends.
    lines: Vec<u8>,
    ends: Vec<usize>,
    batch: Arc<Batch>,
    out: Box<dyn Write + Send>,
}

/// Lines that go out in one write.
#[derive(Default)]
struct Batch {
    /// How many of them are out, once it was tried.
    written: OnceLock<usize>,
}

/// The place of one line in its batch.
pub struct Place {
    batch: Arc<Batch>,
    number: usize,
}

impl Place {
    /// Whether the line is out; none while it waits.
    pub fn is_written(&self) -> Option<bool> {
        self.batch.written.get().map(|written| self.number < *written)
    }
}

impl Sink {
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self {
            failing: false,
            is_tended: false,
            clock: Clock::default(),
            time: String::new(),
            seq: 0,
            torn: false,
            lines: Vec::new(),
            ends: Vec::new(),
            batch: Arc::default(),
            out,
        }
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> usize {
        self.lines.len()
    }

    /// Adds a line, which is told its number.
    pub fn add<E>(&mut self, line: impl FnOnce(u64, &mut Vec<u8>) -> Result<(), E>) -> Result<Place, E> {
        let (start, number) = (self.lines.len(), self.ends.len());
        let seq = self.seq + u64::try_from(number).unwrap_or(u64::MAX);
        line(seq, &mut self.lines).inspect_err(|_| self.lines.truncate(start))?;
        self.ends.push(self.lines.len());
        Ok(Place { batch: Arc::clone(&self.batch), number })
    }

    /// Writes the lines that wait. Those behind one that failed are not tried, and their numbers are given out again.
    ///
    /// # Errors
    /// How many of them are lost, and why.
    pub fn write(&mut self) -> Result<(), (usize, Error)> {
        let (bytes, written) = self.put();
        let whole = self.ends.iter().take_while(|end| **end <= bytes).count();
        let lost = self.ends.len() - whole;
        self.torn |= bytes > whole.checked_sub(1).and_then(|last| self.ends.get(last)).copied().unwrap_or(0);
        self.seq += u64::try_from(whole).unwrap_or(u64::MAX);
        // A batch is written once.
        let _ = std::mem::take(&mut self.batch).written.set(whole);
        self.lines.clear();
        self.ends.clear();
        written.map_err(|error| (lost, error))
    }

    /// How many bytes of the lines are out, and why not all.
    fn put(&mut self) -> (usize, Result<(), Error>) {
        if self.torn
            && let Err(error) = self.out.write_all(TORN)
        {
            return (0, Err(error));
        }
        self.torn = false;
        let mut bytes = 0;
        while let Some(rest) = self.lines.get(bytes..).filter(|rest| !rest.is_empty()) {
            match self.out.write(rest) {
                Ok(0) => return (bytes, Err(ErrorKind::WriteZero.into())),
                Ok(written) => bytes += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (bytes, Err(error)),
            }
        }
        match self.out.flush() {
            Ok(()) => (bytes, Ok(())),
            Err(error) => (0, Err(error)),
        }
    }
}

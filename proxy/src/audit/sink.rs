//! Where the lines go, one after the other and each as a whole or not at all. A line that was cut off by a full disk is ended
//! as what it is, so that nothing which follows completes it.

use std::io::Write;

/// Ends a line that was not written as a whole. What is out of it may be all but the line's end, and that alone would make a
/// decision of it that was never told to anybody.
const TORN: &[u8] = b"~torn\n";

pub struct Sink {
    /// The number of the next line.
    pub seq: u64,
    /// The last line failed; that is logged once.
    pub failing: bool,
    /// Part of a line is out and the rest failed: the next line needs a line of its own.
    torn: bool,
    out: Box<dyn Write + Send>,
}

impl Sink {
    pub fn new(out: Box<dyn Write + Send>) -> Self {
        Self { seq: 0, failing: false, torn: false, out }
    }

    pub fn write_line(&mut self, line: &[u8]) -> std::io::Result<()> {
        if self.torn {
            self.out.write_all(TORN)?;
            self.torn = false;
        }
        let mut rest = line;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.torn = !rest.is_empty();
        }
        self.out.flush()
    }
}

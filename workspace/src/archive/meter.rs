//! What goes in and what comes out, counted where it happens.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use crate::limits::{Limits, RATIO_FREE_BYTES};
use crate::refusal::Reason;

/// Counts what is read.
pub struct Counted<R> {
    inner: R,
    count: Rc<Cell<u64>>,
}

impl<R> Counted<R> {
    pub fn new(inner: R) -> Self {
        Self { inner, count: Rc::default() }
    }

    /// The count, as it goes on.
    pub fn count(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.count)
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.count.set(self.count.get().saturating_add(read as u64));
        Ok(read)
    }
}

/// What the meter saw. Readers between it and whoever asks wrap or drop an error's cause, so it is kept here.
#[derive(Debug)]
pub struct Seen {
    /// How much more may be read.
    allowance: Cell<u64>,
    /// All that came out.
    unpacked: Cell<u64>,
    /// The zeros at the end of what came out since the last mark.
    zeros: Cell<u64>,
    /// Why the meter stopped.
    reason: Cell<Option<Reason>>,
}

impl Seen {
    /// Lets so many bytes through, and no more until the next call.
    pub fn allow(&self, bytes: u64) {
        self.allowance.set(bytes);
    }

    /// Begins to count zeros.
    pub fn mark(&self) {
        self.zeros.set(0);
    }

    /// The zeros at the end of what came out since the mark.
    pub fn zeros(&self) -> u64 {
        self.zeros.get()
    }

    /// Why the meter stopped, if it did.
    pub fn reason(&self) -> Option<Reason> {
        self.reason.get()
    }
}

/// Unpacked bytes, as long as they are within every bound.
pub struct Meter<R> {
    inner: R,
    packed: Rc<Cell<u64>>,
    limits: Limits,
    seen: Rc<Seen>,
}

impl<R> Meter<R> {
    /// Lets nothing through yet. `packed` counts what went in.
    pub fn new(inner: R, packed: Rc<Cell<u64>>, limits: Limits) -> Self {
        let (allowance, unpacked) = (Cell::new(0), Cell::new(0));
        let seen = Rc::new(Seen { allowance, unpacked, zeros: Cell::new(0), reason: Cell::new(None) });
        Self { inner, packed, limits, seen }
    }

    /// What it saw, as it goes on.
    pub fn seen(&self) -> Rc<Seen> {
        Rc::clone(&self.seen)
    }

    /// Goes on from what another one let through.
    pub fn after(self, unpacked: u64) -> Self {
        self.seen.unpacked.set(unpacked);
        self
    }

    /// All that was let through.
    pub fn unpacked(&self) -> u64 {
        self.seen.unpacked.get()
    }

    fn judge(&self, unpacked: u64) -> Result<(), Reason> {
        let limits = self.limits;
        if unpacked > RATIO_FREE_BYTES && unpacked > self.packed.get().saturating_mul(limits.ratio_max) {
            return Err(Reason::Bomb(limits.ratio_max));
        }
        if unpacked > limits.bytes_max {
            return Err(Reason::TooLarge(limits.bytes_max));
        }
        Ok(())
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let stop = |reason: Reason| {
            self.seen.reason.set(Some(reason));
            io::Error::other(reason)
        };
        if let Some(reason) = self.seen.reason.get() {
            return Err(io::Error::other(reason));
        }
        let read = self.inner.read(buffer)?;
        let seen = &self.seen;
        let allowed =
            seen.allowance.get().checked_sub(read as u64).ok_or_else(|| stop(Reason::HeadTooLarge))?;
        seen.allowance.set(allowed);
        let unpacked = seen.unpacked.get().saturating_add(read as u64);
        self.judge(unpacked).map_err(stop)?;
        seen.unpacked.set(unpacked);
        let piece = buffer.get(..read).unwrap_or_default();
        let zeros = piece.iter().rev().take_while(|byte| **byte == 0).count();
        let before = if zeros == read { seen.zeros.get() } else { 0 };
        seen.zeros.set(before.saturating_add(zeros as u64));
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, copy, repeat, sink};
    use std::rc::Rc;

    use super::Meter;
    use crate::limits::{Limits, RATIO_FREE_BYTES};
    use crate::refusal::Reason;

    fn limits() -> Limits {
        Limits { bytes_max: 1 << 30, ratio_max: 10, ..Limits::default() }
    }

    #[test]
    fn nothing_beyond_the_ratio_is_let_through() {
        let packed = RATIO_FREE_BYTES / 5;
        for (packed, let_through) in [(0, RATIO_FREE_BYTES), (packed, packed * 10)] {
            let mut meter = Meter::new(repeat(1), Rc::new(Cell::new(packed)), limits());
            let seen = meter.seen();
            seen.allow(u64::MAX);
            assert!(copy(&mut meter, &mut sink()).is_err());
            assert_eq!(seen.reason(), Some(Reason::Bomb(10)));
            assert!(meter.unpacked() <= let_through && meter.unpacked() > let_through - (64 << 10));
            assert!(meter.read(&mut [0; 1]).is_err(), "and nothing later");
        }
    }

    #[test]
    fn nothing_beyond_the_allowance_or_the_size_is_let_through() {
        let mut meter = Meter::new(repeat(1), Rc::new(Cell::new(1 << 40)), limits());
        let seen = meter.seen();
        assert!(meter.read(&mut [0; 1]).is_err(), "nothing is allowed at first");
        assert_eq!(seen.reason(), Some(Reason::HeadTooLarge));
        let mut meter = Meter::new(repeat(1), Rc::new(Cell::new(1 << 40)), limits());
        let seen = meter.seen();
        seen.allow(u64::MAX);
        assert!(copy(&mut meter, &mut sink()).is_err());
        assert_eq!(seen.reason(), Some(Reason::TooLarge(1 << 30)));
    }

    #[test]
    fn zeros_are_counted_from_the_mark_to_the_end() {
        let content = [&[0; 9][..], &[1], &[0; 5]].concat();
        for piece in 1..=content.len() {
            let mut meter = Meter::new(&content[..], Rc::new(Cell::new(100)), limits());
            let seen = meter.seen();
            seen.allow(100);
            let mut buffer = vec![0; piece];
            while meter.read(&mut buffer).unwrap() > 0 {}
            assert_eq!(seen.zeros(), 5, "{piece}");
            seen.mark();
            assert_eq!(seen.zeros(), 0);
        }
    }
}

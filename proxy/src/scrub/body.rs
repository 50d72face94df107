//! Masks secrets in a body that passes by, without gathering it and without changing its length. It is searched as it came,
//! and where it has escapes, or base64 that goes on in another line, once more with those undone.
//!
//! Each occurrence becomes asterisks, so `Content-Length` and frames of what is inside stay true. An occurrence may be
//! cut anywhere between two frames: the end of a frame that may be the beginning of one is held until the next frame
//! tells. Fewer than [`HELD_BYTES_MIN`] bytes are never held, because a peer may wait for exactly those before it sends
//! more; what came before is remembered instead, and the rest of the occurrence is masked.
//!
//! What is held when the body ends, or for too long, may be most of a secret. It is passed on only where it is too little
//! to be worth anything (see [`shows_too_much`]), and masked otherwise.

use std::sync::Arc;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::Scrubber;
use super::needles::{Found, Needles};
use super::unescaped::{self, Lines, Unescaped};
use super::wrap::Wrap;

/// Bytes of a secret that a frame must end with to be held.
const HELD_BYTES_MIN: usize = 4;
/// Bytes of a secret that may be shown when nothing follows them: no more than what names its kind, such as `ghp_` or
/// `sk-ant-`.
const SHOWN_BYTES_MAX: usize = 7;
const MASK: u8 = b'*';

/// The state between two frames of one body.
pub struct BodyMask {
    scrubber: Arc<Scrubber>,
    /// The longest end of what came that begins a needle, as it came: what follows may complete it.
    begun: Zeroizing<Vec<u8>>,
    /// How many bytes at the end of that are read anew once escapes are undone: what comes before may be half an escape, of
    /// which only letter for letter a needle was begun.
    unread: usize,
    /// The last bytes of it that were not passed on yet, masked where a needle was complete already.
    held: Zeroizing<Vec<u8>>,
    wrap: Wrap,
    /// Joined once base64 went on in another line.
    lines: Lines,
}

impl BodyMask {
    /// Masks what the scrubber knows, letter for letter.
    #[must_use]
    pub fn new(scrubber: Arc<Scrubber>) -> Self {
        let (begun, held) = (Zeroizing::default(), Zeroizing::default());
        Self { scrubber, begun, unread: 0, held, wrap: Wrap::default(), lines: Lines::Kept }
    }

    /// What may be passed on once this frame has come; it can be nothing.
    #[must_use]
    pub fn pass(&mut self, frame: Bytes) -> Bytes {
        let mut found = self.search(&frame);
        let is_begun_otherwise = self.unread < self.begun.len();
        let is_wrapped = self.wrap.passes(&frame);
        if is_wrapped {
            self.lines = Lines::Joined;
        }
        let is_escaped = unescaped::is_escaped(&frame, &self.scrubber.short) || self.is_spelled(&self.begun);
        self.unread = if is_begun_otherwise || is_wrapped || is_escaped {
            self.search_unescaped(&frame, &mut found)
        } else {
            found.begun
        };
        let Found { places, begun } = found;
        let came = self.begun.len() + frame.len();
        let kept = came - begun;
        let from = self.begun.len() - self.held.len();
        let held = if begun < HELD_BYTES_MIN { 0 } else { begun.min(came - from) };
        let until = came - held;
        let has_masks = places.iter().any(|(_, end)| *end > from);
        let clean = if self.held.is_empty() && !has_masks {
            self.held.extend_from_slice(frame.get(frame.len().saturating_sub(held)..).unwrap_or_default());
            frame.slice(..frame.len().saturating_sub(held))
        } else {
            let mut text = Zeroizing::new(Vec::with_capacity(came - from));
            text.extend_from_slice(&self.held);
            text.extend_from_slice(&frame);
            mask(&mut text, &places, from);
            self.held = Zeroizing::new(text.get(until - from..).unwrap_or_default().to_vec());
            Bytes::copy_from_slice(text.get(..until - from).unwrap_or_default())
        };
        self.remember(kept, &frame);
        clean
    }

    /// What was held, when the body ends or when it has been held for too long. Whatever follows is still masked.
    #[must_use]
    pub fn release(&mut self) -> Bytes {
        if self.held.is_empty() {
            return Bytes::new();
        }
        let held = std::mem::take(&mut self.held);
        let shows = |text: &[u8]| {
            let (bodies, wide) = (&self.scrubber.bodies, &self.scrubber.wide);
            let mut begun = bodies.begun(text).chain(wide.begun(text));
            begun.any(|(begun, length)| shows_too_much(begun, length))
        };
        let unread = self.begun.get(self.begun.len().saturating_sub(self.unread)..).unwrap_or_default();
        let read = self.is_spelled(unread).then(|| Unescaped::of(unread, self.lines));
        if shows(&self.begun) || read.is_some_and(|read| shows(read.text())) {
            return Bytes::from(vec![MASK; held.len()]);
        }
        Bytes::copy_from_slice(&held)
    }

    /// Whether something is held.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// How many bytes are held.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        u64::try_from(self.held.len()).unwrap_or(0)
    }

    /// Whether a text may be read as something else.
    fn is_spelled(&self, text: &[u8]) -> bool {
        unescaped::is_spelled(text, self.lines, &self.scrubber.short)
    }

    /// Where needles stand in what was begun and this frame behind it. Those of UTF-16 have a zero behind each letter, and each of them begins
    /// as one without.
    fn search(&self, frame: &[u8]) -> Found {
        let found = self.search_for(&self.scrubber.bodies, frame);
        if memchr::memchr(0, frame).is_none() && memchr::memchr(0, &self.begun).is_none() {
            return found;
        }
        let wide = self.search_for(&self.scrubber.wide, frame);
        Found {
            places: found.places.into_iter().chain(wide.places).collect(),
            begun: found.begun.max(wide.begun),
        }
    }

    fn search_for(&self, needles: &Needles, frame: &[u8]) -> Found {
        let found = needles.search(frame, frame.len());
        let before = self.begun.len();
        if before == 0 {
            return found;
        }
        // As much of the frame as can complete what was begun.
        let most = needles.longest().saturating_sub(1).min(frame.len());
        let mut bridge = Zeroizing::new(Vec::with_capacity(before + most));
        bridge.extend_from_slice(&self.begun);
        bridge.extend_from_slice(frame.get(..most).unwrap_or_default());
        let across = needles.search(&bridge, before);
        let later = found.places.iter().map(|(start, end)| (before + start, before + end));
        Found {
            places: across.places.iter().copied().chain(later).collect(),
            begun: found.begun.max(across.begun),
        }
    }

    /// Adds where needles stand once escapes are undone, and tells how many bytes of the end begin one then. An escape that the
    /// end cuts off may be of a needle as well.
    fn search_unescaped(&self, frame: &[u8], found: &mut Found) -> usize {
        let needles = &self.scrubber.bodies;
        let mut came = Zeroizing::new(Vec::with_capacity(self.begun.len() + frame.len()));
        came.extend_from_slice(&self.begun);
        came.extend_from_slice(frame);
        let read_to = self.begun.len().saturating_sub(self.unread);
        let unread = came.get(read_to..).unwrap_or_default();
        let first = unescaped::first(unread, self.lines).unwrap_or(unread.len());
        // What begins farther before the first escape ends before it.
        let from = read_to + first.saturating_sub(needles.longest());
        let read = Unescaped::of(came.get(from..).unwrap_or_default(), self.lines);
        let inside = needles.search(read.text(), read.text().len());
        let place = |at| from + read.place(at);
        found.places.extend(inside.places.iter().map(|(start, end)| (place(*start), place(*end))));
        let begins = place(read.text().len().saturating_sub(inside.begun));
        let begun = came.len().saturating_sub(begins);
        found.begun = found.begun.max(begun);
        begun
    }

    /// Keeps what begins a needle: from `kept` on, of what was begun and this frame.
    fn remember(&mut self, kept: usize, frame: &[u8]) {
        let before = self.begun.len();
        let mut begun = Zeroizing::new(Vec::with_capacity(before + frame.len() - kept));
        begun.extend_from_slice(self.begun.get(kept..).unwrap_or_default());
        begun.extend_from_slice(frame.get(kept.saturating_sub(before)..).unwrap_or_default());
        self.begun = begun;
    }
}

/// Masks these places in a text whose first byte is number `from`. Ends of lines stay: they may end more than what they stand in.
fn mask(text: &mut [u8], places: &[(usize, usize)], from: usize) {
    for (start, end) in places {
        if let Some(part) = text.get_mut(start.saturating_sub(from)..end.saturating_sub(from)) {
            part.iter_mut().filter(|byte| !matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = MASK);
        }
    }
}

/// Whether so many bytes of the beginning of a needle tell more than the kind of a secret: more than [`SHOWN_BYTES_MAX`], or
/// half of a short one.
const fn shows_too_much(bytes: usize, needle_bytes: usize) -> bool {
    bytes > SHOWN_BYTES_MAX || 2 * bytes >= needle_bytes
}

#[cfg(test)]
mod tests;

//! Placeholders in a body that passes by frame by frame. Nothing is held back: the beginning of a placeholder may pass, the
//! frame that would complete it does not.

use std::sync::Arc;

use http::HeaderMap;

use super::{Placeholders, Words};

/// Longest escape, `\u0041`, without its last byte.
const PENDING_BYTES_MAX: usize = 5;

/// The state between two frames of one body.
pub struct BodySearch {
    placeholders: Arc<Placeholders>,
    plain: Tail,
    unescaped: Tail,
    /// The beginning of an escape at the end of the last frame.
    pending: Vec<u8>,
}

/// The last bytes that were looked at: one fewer than the longest placeholder has.
#[derive(Default)]
struct Tail(Vec<u8>);

impl BodySearch {
    pub(super) const fn new(placeholders: Arc<Placeholders>) -> Self {
        Self { placeholders, plain: Tail(Vec::new()), unescaped: Tail(Vec::new()), pending: Vec::new() }
    }

    /// The credential whose placeholder is complete with this frame.
    #[must_use]
    pub fn finds(&mut self, frame: &[u8]) -> Option<&str> {
        let placeholders = &self.placeholders;
        let words = placeholders.bodies.as_ref()?;
        let escaped = !self.pending.is_empty() || memchr::memchr2(b'%', b'\\', frame).is_some();
        let mut found = words.all(frame).next().or_else(|| self.plain.bridges(words, frame));
        if escaped {
            let mut text = std::mem::take(&mut self.pending);
            text.extend_from_slice(frame);
            let until = text.len() - unfinished(&text);
            let (whole, rest) = text.split_at(until);
            self.pending = rest.to_vec();
            let decoded = unescaped(whole).unwrap_or_else(|| whole.to_vec());
            found = found.or_else(|| words.all(&decoded).next());
            found = found.or_else(|| self.unescaped.bridges(words, &decoded));
            self.unescaped.moves(words, &decoded);
        } else {
            found = found.or_else(|| self.unescaped.bridges(words, frame));
            self.unescaped.moves(words, frame);
        }
        self.plain.moves(words, frame);
        self.placeholders.credential(found?)
    }

    /// The credential whose placeholder stands in the trailers.
    #[must_use]
    pub fn finds_in_trailers(&self, trailers: &HeaderMap) -> Option<&str> {
        self.placeholders.misused_in(trailers, |_| None)
    }
}

impl Tail {
    /// A placeholder that began before this text and ends in it.
    fn bridges(&self, words: &Words, text: &[u8]) -> Option<usize> {
        if self.0.is_empty() {
            return None;
        }
        let most = words.longest.saturating_sub(1).min(text.len());
        let bridge = [self.0.as_slice(), text.get(..most).unwrap_or_default()].concat();
        words.all(&bridge).next()
    }

    fn moves(&mut self, words: &Words, text: &[u8]) {
        let most = words.longest.saturating_sub(1);
        if text.len() < most {
            self.0.extend_from_slice(text);
            self.0.drain(..self.0.len().saturating_sub(most));
        } else {
            self.0.clear();
            self.0.extend_from_slice(text.get(text.len() - most..).unwrap_or_default());
        }
    }
}

/// How many bytes at the end of the text may be the beginning of an escape.
fn unfinished(text: &[u8]) -> usize {
    let from = text.len().saturating_sub(PENDING_BYTES_MAX);
    let end = text.get(from..).unwrap_or_default();
    let begins = |at: usize| match end.get(at..) {
        Some([b'%', digits @ ..]) => digits.len() < 2,
        Some([b'\\']) => true,
        Some([b'\\', b'u', digits @ ..]) => digits.len() < 4,
        _ => false,
    };
    (0..end.len()).find(|at| begins(*at)).map_or(0, |at| end.len() - at)
}

/// The text with its percent-encoding (RFC 3986, 2.1) and its escapes of JSON (RFC 8259, 7) undone once, where they stand
/// for ASCII; none where nothing is escaped.
pub(super) fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let mut next = memchr::memchr2(b'%', b'\\', text)?;
    let (mut out, mut at, mut found) = (Vec::with_capacity(text.len()), 0, false);
    loop {
        out.extend_from_slice(text.get(at..next).unwrap_or_default());
        let (byte, bytes) = match escape(text.get(next..).unwrap_or_default()) {
            Some(escape) => {
                found = true;
                escape
            }
            None => (text.get(next).copied().unwrap_or_default(), 1),
        };
        out.push(byte);
        at = next + bytes;
        let rest = text.get(at..).unwrap_or_default();
        match memchr::memchr2(b'%', b'\\', rest) {
            Some(further) => next = at + further,
            None => {
                out.extend_from_slice(rest);
                return found.then_some(out);
            }
        }
    }
}

/// The byte that an escape stands for, and how long the escape is.
fn escape(text: &[u8]) -> Option<(u8, usize)> {
    match text {
        [b'%', high, low, ..] => Some((hex(*high, *low)?, 3)),
        [b'\\', b'u', b'0', b'0', high, low, ..] => Some((hex(*high, *low)?, 6)),
        [b'\\', plain @ (b'"' | b'\\' | b'/'), ..] => Some((*plain, 2)),
        _ => None,
    }
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

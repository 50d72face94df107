//! Placeholders in a body that passes by frame by frame. Nothing is held back: the beginning of a placeholder may pass, the
//! frame that would complete it does not.

use std::sync::Arc;

use super::{Placeholders, Words};

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

    /// The credential whose placeholder stands in the trailers, each its name in lower case and its value.
    #[must_use]
    pub fn finds_in_trailers<'f>(&self, trailers: impl Iterator<Item = (&'f str, &'f [u8])>) -> Option<&str> {
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

/// How many bytes at the end of the text may be the beginning of an escape. It is read from its beginning, as [`unescaped`]
/// reads it: whether a backslash begins an escape or ends one is told by what stands before it.
fn unfinished(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(next) = memchr::memchr2(b'%', b'\\', text.get(at..).unwrap_or_default()) {
        at += next;
        let rest = text.get(at..).unwrap_or_default();
        match escape(rest) {
            Some((_, bytes)) => at += bytes,
            None if begins(rest) => return rest.len(),
            None => at += 1,
        }
    }
    0
}

/// Whether all of this may be the beginning of an escape.
const fn begins(text: &[u8]) -> bool {
    match text {
        [b'%', digits @ ..] => digits.len() < 2,
        [b'\\'] => true,
        [b'\\', b'u', digits @ ..] => digits.len() < 4,
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_the_beginning_of_an_escape_is_kept_for_the_next_frame() {
        for (text, kept) in [
            ("", 0),
            ("a%", 1),
            ("a%4", 2),
            ("a%41", 0),
            ("a%zz", 0),
            (r"a\", 1),
            (r"a\u", 2),
            (r"a\u0", 3),
            (r"a\u004", 5),
            (r"a\u0041", 0),
            (r"a\u00zz", 0),
            (r"a\n", 0),
            ("50% of it", 0),
        ] {
            assert_eq!(unfinished(text.as_bytes()), kept, "{text}");
        }
    }

    #[test]
    fn of_a_body_that_passed_less_is_kept_than_a_placeholder_has() {
        let words = Words::new([(0, b"issued-0123456789".to_vec())].into_iter()).unwrap();
        for frames in
            [&["a"; 99][..], &["0123456789"; 3], &["0123456789abcdef"], &["0123456789abcdefghijklmno"]]
        {
            let mut tail = Tail::default();
            for frame in frames {
                tail.moves(&words, frame.as_bytes());
            }
            let all = frames.concat();
            assert_eq!(tail.0, &all.as_bytes()[all.len() - (words.longest - 1)..], "{frames:?}");
        }
    }
}

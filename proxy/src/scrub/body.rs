//! Masks secrets in a body that passes by, without gathering it and without changing its length.
//!
//! Each occurrence becomes asterisks, so `Content-Length` and frames of what is inside stay true. An occurrence may be
//! cut anywhere between two frames: the end of a frame that may be the beginning of one is held until the next frame
//! tells. Fewer than [`HELD_BYTES_MIN`] bytes are never held, because a peer may wait for exactly those before it sends
//! more; what came before is remembered instead, and the rest of the occurrence is masked.
//!
//! What is held when the body ends, or for too long, may be most of a secret. It is passed on only where it is too little
//! to be worth anything (see [`shows_too_much`]), and masked otherwise.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use zeroize::Zeroizing;

use super::Scrubber;

/// Bytes of a secret that a frame must end with to be held.
const HELD_BYTES_MIN: usize = 4;
/// Bytes of a secret that may be shown when nothing follows them: no more than what names its kind, such as `ghp_` or
/// `sk-ant-`.
const SHOWN_BYTES_MAX: usize = 7;
const MASK: u8 = b'*';

/// The state between two frames of one body.
pub struct BodyMask {
    scrubber: Arc<Scrubber>,
    /// The last bytes that were passed on, as they came: one fewer than the longest needle has.
    passed: Zeroizing<Vec<u8>>,
    held: Zeroizing<Vec<u8>>,
}

impl BodyMask {
    /// Masks what the scrubber knows, letter for letter.
    #[must_use]
    pub fn new(scrubber: Arc<Scrubber>) -> Self {
        Self { scrubber, passed: Zeroizing::default(), held: Zeroizing::default() }
    }

    /// What may be passed on once this frame has come; it can be nothing.
    #[must_use]
    pub fn pass(&mut self, frame: Bytes) -> Bytes {
        let before = self.passed.len() + self.held.len();
        let mut text = Zeroizing::new(Vec::with_capacity(before + frame.len()));
        text.extend_from_slice(&self.passed);
        text.extend_from_slice(&self.held);
        text.extend_from_slice(&frame);
        let from = self.passed.len();
        let until = text.len() - self.beginning(&text).min(text.len() - from);
        let found = self.found(&text);
        let clean = if found.is_empty() && self.held.is_empty() && until == text.len() {
            frame
        } else {
            let mut masked = BytesMut::from(text.get(from..until).unwrap_or_default());
            for (start, end) in found {
                let (start, end) = (start.max(from), end.min(until));
                if let Some(part) = masked.get_mut(start.saturating_sub(from)..end.saturating_sub(from)) {
                    part.fill(MASK);
                }
            }
            masked.freeze()
        };
        let remembered = until.saturating_sub(self.scrubber.longest.saturating_sub(1));
        self.held = Zeroizing::new(text.get(until..).unwrap_or_default().to_vec());
        self.passed = Zeroizing::new(text.get(remembered..until).unwrap_or_default().to_vec());
        clean
    }

    /// What was held, when the body ends or when it has been held for too long. Whatever follows is still masked.
    #[must_use]
    pub fn release(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        self.passed.extend_from_slice(&held);
        let all = self.passed.as_slice();
        if self.scrubber.spelled.iter().any(|needle| shows_too_much(needle, begun(needle, all))) {
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

    /// Where needles stand in the text.
    fn found(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let places = |needle: &Zeroizing<Vec<u8>>| {
            let length = needle.len();
            memchr::memmem::find_iter(text, needle.as_slice()).map(|at| (at, at + length)).collect::<Vec<_>>()
        };
        self.scrubber.spelled.iter().flat_map(places).collect()
    }

    /// Length of the longest end of the text that begins a needle and must be held.
    fn beginning(&self, text: &[u8]) -> usize {
        let begun = self.scrubber.spelled.iter().map(|needle| begun(needle, text));
        begun.filter(|length| *length >= HELD_BYTES_MIN).max().unwrap_or(0)
    }
}

/// Length of the longest end of the text that begins this needle and is not all of it.
fn begun(needle: &[u8], text: &[u8]) -> usize {
    let longest = needle.len().saturating_sub(1).min(text.len());
    let ends_with =
        |length: usize| text.len().checked_sub(length).and_then(|at| text.get(at..)) == needle.get(..length);
    (1..=longest).rev().find(|length| ends_with(*length)).unwrap_or(0)
}

/// Whether so many bytes of the beginning tell more than the kind of a secret: more than [`SHOWN_BYTES_MAX`], or half of a
/// short one.
fn shows_too_much(needle: &[u8], bytes: usize) -> bool {
    bytes > SHOWN_BYTES_MAX || 2 * bytes >= needle.len()
}

#[cfg(test)]
mod tests {
    use agentsandbox_policy::Injection;

    use super::*;
    use crate::secrets::Secret;

    const KEY: &str = "sk-live-0123456789abcdef";

    fn masking(key: &str) -> BodyMask {
        BodyMask::new(Arc::new(Scrubber::new([(&Injection::Bearer, &Secret::of(key))])))
    }

    fn mask() -> BodyMask {
        masking(KEY)
    }

    /// The text as it is passed on when it comes in frames of these sizes, the last one repeated.
    fn passed(text: &str, frame_bytes: usize) -> String {
        let mut mask = mask();
        let mut clean = Vec::new();
        for frame in text.as_bytes().chunks(frame_bytes) {
            clean.extend_from_slice(&mask.pass(Bytes::copy_from_slice(frame)));
        }
        clean.extend_from_slice(&mask.release());
        String::from_utf8(clean).unwrap()
    }

    #[test]
    fn p_f6_a_secret_is_masked_wherever_a_body_is_cut_but_for_the_bytes_that_may_not_be_held() {
        let text = format!("before {KEY} between {KEY}{KEY} after sk-live-01 sk-");
        let stars = "*".repeat(KEY.len());
        let whole = format!("before {stars} between {stars}{stars} after sk-live-01 sk-");
        for frame_bytes in 1..text.len() + 1 {
            let clean = passed(&text, frame_bytes);
            assert_eq!(clean.len(), text.len(), "frames of {frame_bytes} bytes");
            let least = &KEY[HELD_BYTES_MIN - 1..];
            assert!(!clean.contains(least), "frames of {frame_bytes} bytes: {clean}");
            if frame_bytes >= text.len() {
                assert_eq!(clean, whole);
            }
        }
    }

    #[test]
    fn an_encoded_secret_is_masked_too() {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::STANDARD.encode(format!("user:{KEY}"));
        let clean = passed(&format!("x {encoded} y"), 7);
        assert!(clean.contains("****") && clean.len() == encoded.len() + 4, "{clean}");
    }

    #[test]
    fn a_frame_without_a_secret_is_passed_on_as_it_is_and_at_once() {
        let mut mask = mask();
        let frame = Bytes::from_static(b"data: nothing to see, s\n\n");
        let clean = mask.pass(frame.clone());
        assert_eq!(clean.as_ptr(), frame.as_ptr(), "it was copied");
        assert_eq!(mask.pass(Bytes::from_static(b"...s")), "...s");
        assert!(!mask.holds());
        assert_eq!(mask.pass(Bytes::from_static(b"...sk-l")), "...");
        assert!(mask.holds());
        assert_eq!(mask.pass(Bytes::from_static(b"amp")), "sk-lamp");
    }

    #[test]
    fn p_f7_the_spelling_that_was_sent_in_a_query_and_the_one_of_json_are_masked() {
        let key = "ab+cd/ef==\"0123";
        let mut mask = masking(key);
        for spelled in [
            "ab%2Bcd%2Fef%3D%3D%220123",
            "ab%2bcd%2fef%3d%3d%220123",
            "ab+cd/ef==\\\"0123",
            "ab+cd\\/ef==\\\"0123",
        ] {
            let clean = mask.pass(Bytes::from(format!("<{spelled}>")));
            assert_eq!(clean, format!("<{}>", "*".repeat(spelled.len())), "{spelled}");
        }
    }

    #[test]
    fn what_follows_released_bytes_is_still_masked() {
        let mut mask = mask();
        let (left, right) = KEY.split_at(SHOWN_BYTES_MAX);
        assert_eq!(mask.pass(Bytes::from(left)), "");
        assert_eq!(mask.release(), left);
        assert_eq!(mask.pass(Bytes::from(right)), "*".repeat(right.len()));
    }

    #[test]
    fn p_f6_a_secret_that_the_end_of_a_body_cuts_off_shows_no_more_than_its_kind() {
        for length in 1..KEY.len() {
            let cut = passed(&format!("x{}", &KEY[..length]), KEY.len() + 1);
            let shown = if length > SHOWN_BYTES_MAX { "*".repeat(length) } else { KEY[..length].to_owned() };
            assert_eq!(cut, format!("x{shown}"), "{length} bytes");
        }
        // Of a short secret half is too much.
        let mut short = masking("12345678");
        assert_eq!((short.pass(Bytes::from("1234")), short.release()), (Bytes::new(), Bytes::from("****")));
        assert_eq!(short.pass(Bytes::from("5678")), "****");
    }

    #[test]
    fn p_f6_bytes_that_are_released_one_by_one_show_no_more_than_those_released_at_once() {
        let mut mask = mask();
        let mut shown = Vec::new();
        for byte in KEY.bytes() {
            shown.extend_from_slice(&mask.pass(Bytes::from(vec![byte])));
            shown.extend_from_slice(&mask.release());
        }
        let expected = format!("{}{}", &KEY[..SHOWN_BYTES_MAX], "*".repeat(KEY.len() - SHOWN_BYTES_MAX));
        assert_eq!(String::from_utf8(shown).unwrap(), expected);
    }
}

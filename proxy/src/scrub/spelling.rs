//! Reads the text of a field in every way in which escapes can be read, and finds a secret in it.
//!
//! A character can stand for itself, be escaped as in JSON, or be percent-encoded, where the percent sign and its digits
//! may be encoded themselves. So it can be read in more than one way, and all places at which the next one may begin are
//! kept. The ways of each place are worked out once for all secrets, and the work on one text is bounded: a text that
//! takes more is not read to its end, and whoever asked takes it for a secret as a whole.

use super::Case;

/// `%2541` is `%41` encoded again, as in a URL within a URL. Deeper ones are not seen in the field.
const PERCENT_LAYERS: usize = 3;
/// Steps for each byte of a text, all secrets together. A text without escapes takes none, and the worst patterns of the test
/// below two for each secret: this leaves room for all the secrets of a host.
const STEPS_PER_BYTE_MAX: usize = 512;

/// A way to read what stands at one place: the character, and where the next one begins.
type Reading = (u8, usize);

/// The bytes that any secret begins with, in either case.
pub struct Firsts([bool; 256]);

impl Firsts {
    /// Those of these secrets.
    #[must_use]
    pub fn of<'n>(needles: impl Iterator<Item = &'n [u8]>) -> Self {
        let mut firsts = [false; 256];
        for first in needles.filter_map(<[u8]>::first) {
            for byte in [first.to_ascii_lowercase(), first.to_ascii_uppercase()] {
                if let Some(is_first) = firsts.get_mut(usize::from(byte)) {
                    *is_first = true;
                }
            }
        }
        Self(firsts)
    }

    fn has(&self, byte: u8) -> bool {
        self.0.get(usize::from(byte)).copied().unwrap_or(true)
    }
}

/// A text and how it can be read.
pub struct Spelled<'t> {
    text: &'t [u8],
    /// By place, for places of an escape; empty where there is none in the whole text.
    readings: Vec<Vec<Reading>>,
    /// Places of such a text that can be read as the first byte of a secret.
    starts: Vec<usize>,
    steps_left: usize,
}

impl<'t> Spelled<'t> {
    /// Reads a text in which only secrets are looked for that begin with one of these.
    #[must_use]
    pub fn new(text: &'t [u8], firsts: &Firsts) -> Self {
        let steps_left = text.len().saturating_mul(STEPS_PER_BYTE_MAX);
        let mut spelled = Self { text, readings: Vec::new(), starts: Vec::new(), steps_left };
        if is_escaped(text) {
            spelled.read();
            let begins = |at: &usize| spelled.readings_at(*at).any(|(byte, _)| firsts.has(byte));
            spelled.starts = (0..text.len()).filter(begins).collect();
        }
        spelled
    }

    /// Where a secret stands, each place with its end. None when that cannot be told within the bound.
    #[must_use]
    pub fn find(&mut self, needle: &[u8], case: Case) -> Option<Vec<(usize, usize)>> {
        let (first, _) = needle.split_first()?;
        if self.readings.is_empty() {
            return Some(plain(self.text, needle, case));
        }
        let (mut places, mut past) = (Vec::new(), 0);
        for number in 0..self.starts.len() {
            let Some(at) = self.starts.get(number).copied().filter(|at| *at >= past) else { continue };
            let may_begin = self.readings_at(at).any(|(byte, _)| same(byte, *first, case));
            let end = if may_begin { self.spells(at, needle, case)? } else { None };
            places.extend(end.map(|end| (at, end)));
            past = end.unwrap_or(past);
        }
        Some(places)
    }

    /// Whether the text that begins at `at` reads as `needle`, and where it ends then.
    #[allow(clippy::option_option, reason = "the outer one is the bound on work, the inner one the answer")]
    fn spells(&mut self, at: usize, needle: &[u8], case: Case) -> Option<Option<usize>> {
        let mut places = vec![at];
        for wanted in needle {
            let mut next = Vec::new();
            let mut steps = 0;
            for at in &places {
                for (byte, end) in self.readings_at(*at) {
                    steps += 1;
                    if same(byte, *wanted, case) {
                        next.push(end);
                    }
                }
            }
            self.steps_left = self.steps_left.checked_sub(steps)?;
            if next.is_empty() {
                return Some(None);
            }
            next.sort_unstable();
            next.dedup();
            places = next;
        }
        Some(places.last().copied())
    }

    fn readings_at(&self, at: usize) -> impl Iterator<Item = Reading> {
        let escapes = self.readings.get(at).map(Vec::as_slice).unwrap_or_default();
        let plain = self.text.get(at).filter(|_| escapes.is_empty()).map(|byte| (*byte, at + 1));
        plain.into_iter().chain(escapes.iter().copied())
    }

    /// Works out the readings layer by layer: what a layer encodes may be encoded in the one below.
    fn read(&mut self) {
        let escapes: Vec<usize> =
            (0..self.text.len()).filter(|at| self.text.get(*at).is_some_and(|b| is_escape(*b))).collect();
        self.readings = vec![Vec::new(); self.text.len()];
        for at in &escapes {
            let plain = self.text.get(*at).map(|byte| (*byte, at + 1));
            let all = plain.into_iter().chain(escaped(self.text, *at)).collect();
            self.put(*at, all);
        }
        for _ in 0..PERCENT_LAYERS {
            let deeper: Vec<Vec<Reading>> = escapes.iter().map(|at| self.percent(*at)).collect();
            let mut adds = false;
            for (at, more) in escapes.iter().zip(deeper) {
                let mut all = self.readings.get(*at).cloned().unwrap_or_default();
                all.extend(more);
                all.sort_unstable();
                all.dedup();
                adds |= self.readings.get(*at).map(Vec::len) != Some(all.len());
                self.put(*at, all);
            }
            if !adds {
                return;
            }
        }
    }

    fn put(&mut self, at: usize, all: Vec<Reading>) {
        if let Some(readings) = self.readings.get_mut(at) {
            *readings = all;
        }
    }

    /// What a percent sign and two digits at this place stand for, each of them read in all ways known so far.
    fn percent(&self, at: usize) -> Vec<Reading> {
        let digits = |at| self.readings_at(at).filter_map(|(digit, end)| Some((hex(digit)?, end)));
        let mut all = Vec::new();
        for (_, high_at) in self.readings_at(at).filter(|(sign, _)| *sign == b'%') {
            for (high, low_at) in digits(high_at) {
                all.extend(digits(low_at).map(|(low, end)| (high << 4 | low, end)));
            }
        }
        all
    }
}

/// Whether some of the text may be read in more than one way.
pub fn is_escaped(text: &[u8]) -> bool {
    memchr::memchr2(b'%', b'\\', text).is_some()
}

const fn is_escape(byte: u8) -> bool {
    matches!(byte, b'%' | b'\\')
}

fn same(a: u8, b: u8, case: Case) -> bool {
    a == b || (case == Case::Any && a.eq_ignore_ascii_case(&b))
}

/// Where a secret stands in a text without escapes.
fn plain(text: &[u8], needle: &[u8], case: Case) -> Vec<(usize, usize)> {
    let length = needle.len();
    let places = |text: &[u8], needle: &[u8]| -> Vec<(usize, usize)> {
        memchr::memmem::find_iter(text, needle).map(|at| (at, at + length)).collect()
    };
    match case {
        Case::Exact => places(text, needle),
        Case::Any if text.len() < length => Vec::new(),
        Case::Any => {
            let [text, needle] =
                [text, needle].map(|bytes| zeroize::Zeroizing::new(bytes.to_ascii_lowercase()));
            places(&text, &needle)
        }
    }
}

/// The escapes of JSON (RFC 8259, 7) that stand for ASCII.
fn escaped(text: &[u8], at: usize) -> Option<Reading> {
    match (text.get(at)?, text.get(at + 1)?) {
        (b'\\', b'u') if text.get(at + 2..at + 4)? == b"00" => {
            let [high, low] = [at + 4, at + 5].map(|at| text.get(at).copied().and_then(hex));
            Some((high? << 4 | low?, at + 6))
        }
        (b'\\', plain @ (b'"' | b'\\' | b'/')) => Some((*plain, at + 2)),
        _ => None,
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As many bytes as all fields of one head may have.
    const HEAD: usize = 64 << 10;
    const NEEDLE: &[u8] = b"sk-ant-api03-0123456789abcdef";

    /// Steps that finding this needle in this text takes, and how often the work was too much.
    fn steps(text: &[u8]) -> (usize, bool) {
        let mut spelled = Spelled::new(text, &firsts());
        let before = spelled.steps_left;
        let found = spelled.find(NEEDLE, Case::Exact);
        (before - spelled.steps_left, found.is_none())
    }

    fn firsts() -> Firsts {
        Firsts::of([NEEDLE, b"a"].into_iter())
    }

    fn repeated(pattern: &str) -> Vec<u8> {
        pattern.bytes().cycle().take(HEAD).collect()
    }

    #[test]
    fn p_f7_no_pattern_of_escapes_in_a_largest_head_costs_more_than_the_bound() {
        for pattern in [
            "%25",
            "%2525",
            "%252525",
            "%25%32%35",
            "%%32%35",
            "%%",
            "%5c",
            "\\",
            "\\\\",
            "\\u0025",
            "\\u005c",
            "%73",
            "%2573",
            "%25%37%33",
            "s%6b%2d",
            "sk-ant-api03-",
            "%73%6b%2d%61%6e%74%2d%61%70%69%30%33%2d",
            "%2573%256b%252d%2561%256e%2574%252d%2561%2570%2569%2530%2533%252d",
        ] {
            let text = repeated(pattern);
            let spelled = Spelled::new(&text, &firsts());
            let widest = spelled.readings.iter().map(Vec::len).max().unwrap_or(0);
            assert!(widest <= 4, "{pattern}: {widest} ways to read one place");
            let (steps, given_up) = steps(&text);
            assert!(!given_up && steps <= 2 * HEAD, "{pattern}: {steps} steps");
        }
    }

    proptest! {
        #[test]
        fn no_place_is_passed_over_at_which_a_secret_may_begin(
            text in "([abA]|%|%25|%61|%2561|%41|\\\\u0061|\\\\){0,20}",
            needle in "[ab%]{1,4}",
            case in prop_oneof![Just(Case::Exact), Just(Case::Any)],
        ) {
            let found = |firsts| Spelled::new(text.as_bytes(), &firsts).find(needle.as_bytes(), case);
            prop_assert_eq!(found(Firsts::of(std::iter::once(needle.as_bytes()))), found(Firsts([true; 256])));
        }
    }

    #[test]
    fn p_f7_a_text_that_takes_too_much_work_is_not_read_to_its_end_and_goes_whole() {
        let many = vec![b'a'; 4 * STEPS_PER_BYTE_MAX];
        let (needle, text) = (vec![b'a'; 2 * STEPS_PER_BYTE_MAX], [&b"%41"[..], &many].concat());
        let needle = [&needle[..], b"b"].concat();
        assert_eq!(Spelled::new(&text, &firsts()).find(&needle, Case::Exact), None);
        let scrubber = super::super::Scrubber::new([(
            &agentsandbox_policy::Injection::Bearer,
            &crate::secrets::Secret::of(std::str::from_utf8(&needle).unwrap()),
        )]);
        assert_eq!(scrubber.redacted(&text).unwrap(), b"[redacted]");
        assert_eq!(scrubber.redacted(&text[3..]), None, "without an escape it is read at once");
    }
}

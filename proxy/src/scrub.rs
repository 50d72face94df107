//! Finds a secret in what comes back, in each way an upstream may write what it was sent, and puts a mark in its place.
//!
//! Known are the secret itself and the credentials rendered from it, in base64 and base64url at any alignment, and in
//! hexadecimal; and each of these with any of its characters percent-encoded, once or over again, or escaped as in JSON.
//! An upstream can transform a secret in other ways; whoever binds a key to a host trusts that host with it.

use agentsandbox_policy::Injection;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::headers::pair;
use crate::secrets::Secret;

mod body;

pub use body::BodyMask;

const REPLACEMENT: &[u8] = b"[redacted]";
/// Shorter encodings would be found where no secret is.
const ENCODED_BYTES_MIN: usize = 8;
/// `%2541` is `%41` encoded again, as in a URL within a URL. Deeper ones are not seen in the field.
const PERCENT_LAYERS: usize = 3;
const ALPHABETS: [GeneralPurpose; 2] =
    [GeneralPurpose::new(&alphabet::STANDARD, NO_PAD), GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD)];

/// Finds the secret of one exchange.
#[derive(Clone)]
pub struct Scrubber(Vec<Needle>);

#[derive(Clone, PartialEq, Eq)]
struct Needle {
    bytes: Zeroizing<Vec<u8>>,
    case: Case,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Case {
    Exact,
    Any,
}

impl Scrubber {
    /// A scrubber for a secret that was sent as the credential says.
    #[must_use]
    pub fn new(injection: &Injection, secret: &Secret) -> Self {
        let mut needles = vec![Needle::exact(Zeroizing::new(secret.expose().to_vec()))];
        let mut encoded: Vec<Needle> = (0..3).flat_map(|before| aligned(secret.expose(), before)).collect();
        if let Injection::Basic { username } = injection {
            encoded.extend(aligned(&pair(username, secret), 0));
        }
        encoded.push(hexadecimal(secret.expose()));
        encoded.extend(escaped_forms(secret.expose()));
        needles.extend(encoded.into_iter().filter(|needle| needle.bytes.len() >= ENCODED_BYTES_MIN));
        // A longer one may hold a shorter one, and goes as a whole.
        needles.sort_by_key(|needle| std::cmp::Reverse(needle.bytes.len()));
        needles.dedup();
        Self(needles)
    }

    /// Replaces the secret in each value, and removes fields that are named after it.
    pub fn scrub(&self, headers: &mut HeaderMap) {
        let named: Vec<HeaderName> = headers.keys().filter(|name| self.names(name)).cloned().collect();
        for name in named {
            headers.remove(name);
        }
        for value in headers.values_mut() {
            if let Some(clean) = self.redacted(value.as_bytes()) {
                *value = HeaderValue::from_bytes(&clean).unwrap_or(HeaderValue::from_static("[redacted]"));
            }
        }
    }

    /// Names of fields are read in lower case, whatever was sent.
    fn names(&self, name: &HeaderName) -> bool {
        let text = name.as_str().as_bytes();
        let found =
            |needle: &Needle| (0..text.len()).any(|at| spelled(text, at, &needle.bytes, Case::Any).is_some());
        self.0.iter().any(found)
    }

    fn redacted(&self, text: &[u8]) -> Option<Vec<u8>> {
        self.0.iter().fold(None, |clean: Option<Vec<u8>>, needle| {
            replaced(clean.as_deref().unwrap_or(text), needle).or(clean)
        })
    }
}

impl Needle {
    const fn exact(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { bytes, case: Case::Exact }
    }
}

/// The text with each occurrence replaced, if there is one.
fn replaced(text: &[u8], needle: &Needle) -> Option<Vec<u8>> {
    let (mut clean, mut at, mut found) = (Vec::with_capacity(text.len()), 0, false);
    while let Some(byte) = text.get(at) {
        match spelled(text, at, &needle.bytes, needle.case) {
            Some(end) => {
                clean.extend_from_slice(REPLACEMENT);
                (at, found) = (end, true);
            }
            None => {
                clean.push(*byte);
                at += 1;
            }
        }
    }
    found.then_some(clean)
}

/// Where the text that begins at `at` and reads as `needle` ends. A character can be read in more than one way, so all
/// places at which the next one may begin are kept.
fn spelled(text: &[u8], at: usize, needle: &[u8], case: Case) -> Option<usize> {
    let same = |a: u8, b: u8| a == b || (case == Case::Any && a.eq_ignore_ascii_case(&b));
    // Most characters are neither an escape nor the first of a secret, and are done with here.
    let (plain, first) = (*text.get(at)?, *needle.first()?);
    if !same(plain, first) && !matches!(plain, b'%' | b'\\') {
        return None;
    }
    let mut places = vec![at];
    for wanted in needle {
        let mut next: Vec<usize> = places
            .iter()
            .flat_map(|at| readings(text, *at, PERCENT_LAYERS))
            .filter(|(byte, _)| same(*byte, *wanted))
            .map(|(_, end)| end)
            .collect();
        if next.is_empty() {
            return None;
        }
        next.sort_unstable();
        next.dedup();
        places = next;
    }
    places.last().copied()
}

/// What the character at `at` can be read as, and where the next one begins then. Its percent sign and its digits may be
/// encoded themselves, `layers` deep.
fn readings(text: &[u8], at: usize, layers: usize) -> Vec<(u8, usize)> {
    let Some(plain) = text.get(at) else { return Vec::new() };
    let mut all = vec![(*plain, at + 1)];
    all.extend(escaped(text, at));
    if layers == 0 || !matches!(plain, b'%' | b'\\') {
        return all;
    }
    let deeper = |at| readings(text, at, layers - 1).into_iter();
    let digits = |at| deeper(at).filter_map(|(digit, end)| Some((char::from(digit).to_digit(16)?, end)));
    for (_, high_at) in deeper(at).filter(|(sign, _)| *sign == b'%') {
        for (high, low_at) in digits(high_at) {
            for (low, end) in digits(low_at) {
                all.extend(u8::try_from(high * 16 + low).ok().map(|byte| (byte, end)));
            }
        }
    }
    all
}

/// The escapes of JSON (RFC 8259, 7) that stand for ASCII.
fn escaped(text: &[u8], at: usize) -> Option<(u8, usize)> {
    match (text.get(at)?, text.get(at + 1)?) {
        (b'\\', b'u') if text.get(at + 2..at + 4)? == b"00" => Some((hex_byte(text, at + 4)?, at + 6)),
        (b'\\', plain @ (b'"' | b'\\' | b'/')) => Some((*plain, at + 2)),
        _ => None,
    }
}

fn hex_byte(text: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*text.get(at)?).to_digit(16);
    u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
}

/// What base64 has of these bytes wherever they stand behind `before` others, modulo three: the characters that no
/// neighbour has a bit in.
fn aligned(bytes: &[u8], before: usize) -> impl Iterator<Item = Needle> {
    let mut text = Zeroizing::new(vec![0; before]);
    text.extend_from_slice(bytes);
    let first = if before == 0 { 0 } else { before + 1 };
    let partial_last = !text.len().is_multiple_of(3);
    ALPHABETS.iter().filter_map(move |alphabet| {
        let encoded = Zeroizing::new(alphabet.encode(&*text));
        let end = encoded.len().checked_sub(usize::from(partial_last))?;
        let whole = encoded.as_bytes().get(first..end)?;
        Some(Needle::exact(Zeroizing::new(whole.to_vec())))
    })
}

/// The secret as a query and as JSON text spell it, where that differs from the secret itself. Fields are read escape by
/// escape anyway; a body is searched for these letter for letter.
fn escaped_forms(bytes: &[u8]) -> impl Iterator<Item = Needle> {
    let percent = |digits: &[u8; 16]| {
        let mut text = Zeroizing::new(Vec::with_capacity(3 * bytes.len()));
        for byte in bytes {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
                text.push(*byte);
            } else {
                let digit = |half: u8| digits.get(usize::from(half)).copied().unwrap_or(b'0');
                text.extend([b'%', digit(byte >> 4), digit(byte & 0xf)]);
            }
        }
        text
    };
    let json = |escaped: &[u8]| {
        let mut text = Zeroizing::new(Vec::with_capacity(2 * bytes.len()));
        for byte in bytes {
            if escaped.contains(byte) {
                text.push(b'\\');
            }
            text.push(*byte);
        }
        text
    };
    // Some encoders escape the slash and some do not.
    let forms = [percent(b"0123456789ABCDEF"), percent(b"0123456789abcdef"), json(b"\"\\"), json(b"\"\\/")];
    forms.into_iter().filter(move |form| form.as_slice() != bytes).map(Needle::exact)
}

fn hexadecimal(bytes: &[u8]) -> Needle {
    let mut text = Zeroizing::new(Vec::with_capacity(2 * bytes.len()));
    for byte in bytes {
        for half in [byte >> 4, byte & 0xf] {
            text.push(if half < 10 { b'0' + half } else { b'a' + half - 10 });
        }
    }
    Needle { bytes: text, case: Case::Any }
}

#[cfg(test)]
mod tests;

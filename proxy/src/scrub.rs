//! Finds secrets in what comes back, in each way an upstream may write what it was sent, and puts a mark in their place.
//!
//! Known are a secret itself and the credentials rendered from it, in base64 and base64url at any alignment, and in
//! hexadecimal; in fields also each of these with any of its characters percent-encoded, once or over again, or escaped
//! as in JSON; in bodies also each of these as character references of HTML, in UTF-16, and broken into lines. An upstream can transform a secret in other ways; whoever binds a key to a host trusts that host with it.
//!
//! [`scope`] says which secrets are looked for in which host's answers, [`escapes`] how encoders write them, [`unescaped`] and [`wrap`] undo that, [`needles`] finds them in one pass, [`spelling`]
//! reads fields, [`body`] masks what streams by, [`decode`] makes compressed bodies readable, and [`frames`] finds the payload of a WebSocket.

use agentsandbox_policy::Injection;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::headers::pair;
use crate::secrets::Secret;

mod body;
pub mod decode;
mod escapes;
pub mod frames;
mod needles;
pub mod scope;
mod spelling;
mod unescaped;
mod wrap;

pub use body::BodyMask;

use needles::{Anchors, Needles};
use spelling::{Firsts, Spelled, is_escaped};

const REPLACEMENT: &[u8] = b"[redacted]";
/// Shorter encodings would be found where no secret is.
const ENCODED_BYTES_MIN: usize = 8;
const ALPHABETS: [GeneralPurpose; 2] =
    [GeneralPurpose::new(&alphabet::STANDARD, NO_PAD), GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD)];

/// Finds the secrets of one host. It is costly to make and cheap to share, so [`scope`] makes it once.
pub struct Scrubber {
    /// What is looked for in fields, the longest first.
    needles: Vec<Needle>,
    /// How any of them begins, in any case.
    anchors: Anchors,
    firsts: Firsts,
    /// What is looked for in bodies, letter for letter.
    bodies: Needles,
    /// The same in UTF-16, looked for where there are zeros.
    wide: Needles,
    /// Bytes of any of these that JSON may write with a plain backslash.
    short: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq)]
struct Needle {
    bytes: Zeroizing<Vec<u8>>,
    case: Case,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Exact,
    Any,
}

impl Scrubber {
    /// A scrubber for secrets that are sent as their credentials say.
    #[must_use]
    pub fn new<'a>(secrets: impl IntoIterator<Item = (&'a Injection, &'a Secret)>) -> Self {
        let (mut needles, mut bodies, mut wide) = (Vec::new(), Vec::new(), Vec::new());
        for (injection, secret) in secrets {
            let encodings = encodings(injection, secret);
            // Fields are read escape by escape; a body is searched for these letter for letter.
            let exact = encodings.iter().filter(|needle| needle.case == Case::Exact);
            let escaped = exact.flat_map(|needle| escapes::all(&needle.bytes)).map(Needle::exact);
            bodies.extend(escaped.filter(Needle::is_telling).flat_map(|needle| needle.letters()));
            wide.extend(encodings.iter().flat_map(Needle::letters).map(|text| in_utf_16(&text)));
            needles.extend(encodings);
        }
        // A longer one may hold a shorter one, and goes as a whole. Equal ones stand together, so that none stays twice.
        needles.sort_by(|a, b| b.bytes.len().cmp(&a.bytes.len()).then_with(|| a.bytes.cmp(&b.bytes)));
        needles.dedup();
        let anchors = Anchors::new(needles.iter().map(|needle| needle.bytes.as_slice()), Case::Any);
        bodies.extend(needles.iter().flat_map(Needle::letters));
        let firsts = Firsts::of(needles.iter().map(|needle| needle.bytes.as_slice()));
        let short = unescaped::short(needles.iter().map(|needle| needle.bytes.as_slice()));
        Self { needles, anchors, firsts, bodies: Needles::new(bodies), wide: Needles::new(wide), short }
    }

    /// Replaces the secrets in each value, and removes fields that are named after one.
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
        if self.is_clean(name.as_str().as_bytes()) {
            return false;
        }
        let mut text = Spelled::new(name.as_str().as_bytes(), &self.firsts);
        // What cannot be read to its end is taken for a secret.
        self.needles.iter().any(|needle| text.find(&needle.bytes, Case::Any).is_none_or(|at| !at.is_empty()))
    }

    /// Whether one look tells that no secret stands in a field: most have neither an escape nor the beginning of one.
    fn is_clean(&self, text: &[u8]) -> bool {
        !is_escaped(text) && !self.anchors.stand_in(text)
    }

    fn redacted(&self, text: &[u8]) -> Option<Vec<u8>> {
        if self.is_clean(text) {
            return None;
        }
        let mut spelled = Spelled::new(text, &self.firsts);
        let mut places = Vec::new();
        for needle in &self.needles {
            match spelled.find(&needle.bytes, needle.case) {
                Some(found) => places.extend(found),
                None => return Some(REPLACEMENT.to_vec()),
            }
        }
        (!places.is_empty()).then(|| replaced(text, places))
    }
}

impl Needle {
    const fn exact(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { bytes, case: Case::Exact }
    }

    fn is_telling(&self) -> bool {
        self.bytes.len() >= ENCODED_BYTES_MIN
    }

    /// The ways to write it that a body is searched for.
    fn letters(&self) -> Vec<Zeroizing<Vec<u8>>> {
        match self.case {
            Case::Exact => vec![self.bytes.clone()],
            Case::Any => {
                vec![self.bytes.to_ascii_lowercase().into(), self.bytes.to_ascii_uppercase().into()]
            }
        }
    }
}

/// The ways to write one secret: itself, and its encodings.
fn encodings(injection: &Injection, secret: &Secret) -> Vec<Needle> {
    let mut encoded: Vec<Needle> = (0..3).flat_map(|before| aligned(secret.expose(), before)).collect();
    if let Injection::Basic { username } = injection {
        encoded.extend(aligned(&pair(username, secret), 0));
    }
    encoded.push(hexadecimal(secret.expose()));
    encoded.retain(Needle::is_telling);
    encoded.push(Needle::exact(Zeroizing::new(secret.expose().to_vec())));
    encoded
}

/// The text with a mark in each of these places. Places that overlap are one.
fn replaced(text: &[u8], mut places: Vec<(usize, usize)>) -> Vec<u8> {
    places.sort_unstable();
    let (mut clean, mut at) = (Vec::with_capacity(text.len()), 0);
    for (start, end) in places {
        if start >= at {
            clean.extend_from_slice(text.get(at..start).unwrap_or_default());
            clean.extend_from_slice(REPLACEMENT);
        }
        at = at.max(end);
    }
    clean.extend_from_slice(text.get(at..).unwrap_or_default());
    clean
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

/// A text of ASCII as UTF-16 has it (RFC 2781), from its first byte that is not zero to its last: it is the same in either order of bytes.
fn in_utf_16(text: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut wide = Zeroizing::new(Vec::with_capacity(2 * text.len()));
    for byte in text {
        wide.extend_from_slice(&[*byte, 0]);
    }
    wide.pop();
    wide
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

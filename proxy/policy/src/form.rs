//! Fields that the agent may not fill in a form, found while the form passes by frame by frame: nothing is gathered, for the name of a
//! field comes before its value, and the frame with the end of such a name does not pass.
//!
//! A form is read as generously as any server reads one, since what is overlooked here would be a key there. In one that is joined (`a=1&b=2`)
//! also `;` divides. In one of several parts no boundary is believed: behind each `Content-Disposition:`, wherever it stands, each `name=`
//! counts up to an empty line, and the value of `Content-ID` and of `Content-Type` is a name as well (Rack). Names are folded
//! by `parameter`. What is packed, or written in letters of another kind, is refused before its first byte.

use memchr::{memchr2, memmem};

use crate::own_key::OwnNames;
use crate::parameter::Name;
use crate::{Denial, DenialReason, Method, Permit, Policy};

/// Character sets in which what is ASCII is written as ASCII.
const CHARSETS: [&[u8]; 6] = [b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"windows-1252"];
/// Fields of a part in which its name can stand. No letter begins one of them again within it.
const NAMING: [&[u8]; 3] = [DISPOSITION, b"content-id", b"content-type"];
const DISPOSITION: &[u8] = b"content-disposition";
const KEY: &[u8] = b"name";
/// What a part's head ends with to the strictest reader. To others it may have ended before.
const HEAD_END: &[u8] = b"\r\n\r\n";
/// What is told of a field that may be any.
const ANY: &str = "of a name that servers read in several ways";

/// What looks for such fields in one form.
#[derive(Debug)]
pub struct FormSearch {
    names: OwnNames,
    joined: Option<Joined>,
    parts: Option<Parts>,
}

/// A form whose fields are joined as in a query.
#[derive(Debug, Default)]
struct Joined {
    name: Name,
    is_value: bool,
}

/// A form of several parts.
#[derive(Debug, Default)]
struct Parts {
    /// How much of each of [`NAMING`] has come.
    begun: [usize; NAMING.len()],
    head: Option<Head>,
}

/// What stands behind one of [`NAMING`].
#[derive(Debug, Default)]
struct Head {
    /// Whether `name=` is looked for in it.
    disposes: bool,
    value: Option<Name>,
    /// Whether the value is one of `name=`, and no other parameter follows yet.
    is_parameter: bool,
    key: Key,
    /// How much of its end has come.
    end: usize,
    before: u8,
}

/// How much of `name=` has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// So many letters of the name.
    Letters(usize),
    /// What says that the name comes in pieces, or in an encoding of its own (RFC 2231).
    Star,
    /// The beginning of a comment (RFC 822), and any of what follows.
    Comment,
}

impl Policy {
    /// What looks for a key of the agent's own, and for what the credential pins, in the body of a request with these values of `Content-Type`
    /// and `Content-Encoding`. None if it is no form, and where the host is sent no key.
    ///
    /// # Errors
    /// [`ForeignCredential`](DenialReason::ForeignCredential) where it is a form that cannot be read.
    pub fn form<'v>(
        &self,
        permit: &Permit,
        types: impl Iterator<Item = &'v [u8]>,
        encodings: impl Iterator<Item = &'v [u8]>,
    ) -> Result<Option<FormSearch>, Box<Denial>> {
        if !self.has_credential_at(permit.host()) {
            return Ok(None);
        }
        let types: Vec<Vec<u8>> = types.map(<[u8]>::to_ascii_lowercase).collect();
        let has = |word: &str| types.iter().any(|value| memmem::find(value, word.as_bytes()).is_some());
        let parts = has("multipart");
        let joined = has("urlencoded") || has("url-encoded") || may_be_untyped(permit.method(), &types);
        if !joined && !parts {
            return Ok(None);
        }
        let is_plain = |value: &[u8]| matches!(&*value.trim_ascii().to_ascii_lowercase(), b"" | b"identity");
        let mut encodings = encodings;
        if types.len() > 1 || !types.iter().all(|value| is_ascii(value)) || !encodings.all(is_plain) {
            return Err(Box::new(permit.unreadable_form()));
        }
        Ok(Some(FormSearch {
            names: OwnNames::at(self, permit),
            joined: joined.then(Joined::default),
            parts: parts.then(Parts::default),
        }))
    }
}

impl Permit {
    /// The denial of a request with such a field in its form.
    #[must_use]
    pub fn own_field(&self, field: &str) -> Denial {
        Denial::of(self, DenialReason::ForeignCredential).with_how_to_allow(format!(
            "The form has a field {field}, in which this host may take a key or an account: send none of your own, the credential that a rule names says who asks."
        ))
    }

    fn unreadable_form(&self) -> Denial {
        Denial::of(self, DenialReason::ForeignCredential).with_how_to_allow(
            "Send the form with one Content-Type, in UTF-8, and without Content-Encoding: at the host of a credential it is searched for keys of your own.",
        )
    }
}

/// Whether some server takes the body for a form for want of a type (Rack), or for a type that names none (WebOb).
fn may_be_untyped(method: &Method, types: &[Vec<u8>]) -> bool {
    let names_none = |value: &Vec<u8>| {
        let name = value.split(|byte| matches!(byte, b';' | b',')).next().unwrap_or_default();
        !name.contains(&b'/')
    };
    method.as_str() == "POST" && (types.is_empty() || types.iter().any(names_none))
}

/// Whether each character set that a type names writes ASCII as ASCII.
fn is_ascii(value: &[u8]) -> bool {
    const WORD: &[u8] = b"charset";
    memmem::find_iter(value, WORD).all(|at| {
        // `charset*=` and all that is not read here is none of them.
        let named = value.get(at + WORD.len()..).and_then(|rest| rest.strip_prefix(b"="));
        let Some(named) = named else { return false };
        let named = named.strip_prefix(b"\"").unwrap_or(named);
        let end = named.iter().position(|byte| matches!(byte, b'"' | b';' | b',' | b' '));
        named.get(..end.unwrap_or(named.len())).is_some_and(|named| CHARSETS.contains(&named))
    })
}

impl FormSearch {
    /// The field that the agent may not fill whose name ends in this frame. Nothing may pass once one is found.
    #[must_use]
    pub fn finds(&mut self, frame: &[u8]) -> Option<&str> {
        let Self { names, joined, parts } = self;
        let names = &*names;
        let is_own = |read: &[u8]| names.named(read).is_some();
        let told = |name: Option<&Name>| name.and_then(|name| names.named(name.read())).unwrap_or(ANY);
        if let Some(joined) = joined
            && joined.finds(frame, is_own)
        {
            return Some(told(Some(&joined.name)));
        }
        let parts = parts.as_mut()?;
        parts.finds(frame, is_own).then(|| told(parts.head.as_ref().and_then(|head| head.value.as_ref())))
    }
}

impl Joined {
    fn finds(&mut self, mut frame: &[u8], is_own: impl Fn(&[u8]) -> bool) -> bool {
        while let Some((&byte, rest)) = frame.split_first() {
            if self.is_value || self.name.is_over() {
                let Some(at) = memchr2(b'&', b';', frame) else { return false };
                frame = frame.get(at + 1..).unwrap_or_default();
                *self = Self::default();
                continue;
            }
            frame = rest;
            let found = match byte {
                b'&' | b';' | b'=' => self.name.may_end(&is_own),
                byte => self.name.takes(byte, &is_own),
            };
            if found {
                return true;
            }
            match byte {
                b'=' => self.is_value = true,
                b'&' | b';' => *self = Self::default(),
                _ => {}
            }
        }
        false
    }
}

impl Parts {
    fn finds(&mut self, mut frame: &[u8], is_own: impl Fn(&[u8]) -> bool) -> bool {
        loop {
            if self.head.is_none() && self.begun == [0; NAMING.len()] {
                let Some(at) = memchr2(b'c', b'C', frame) else { return false };
                frame = frame.get(at..).unwrap_or_default();
            }
            let Some((&byte, rest)) = frame.split_first() else { return false };
            frame = rest;
            if let Some(head) = &mut self.head {
                if head.finds(byte, &is_own) {
                    return true;
                }
                if head.is_over() {
                    self.head = None;
                }
            }
            if let Some(named) = self.names(byte) {
                let head = self.head.get_or_insert_default();
                head.disposes |= named == DISPOSITION;
                (head.value, head.is_parameter) = (Some(Name::default()), false);
            }
        }
    }

    /// The field of a part whose value begins behind this byte.
    fn names(&mut self, byte: u8) -> Option<&'static [u8]> {
        let mut named = None;
        for (word, begun) in NAMING.into_iter().zip(&mut self.begun) {
            *begun = match (word.get(*begun), byte) {
                (Some(next), byte) if byte.eq_ignore_ascii_case(next) => *begun + 1,
                (None, b'\0'..=b' ') => *begun,
                (None, b':') => {
                    named = Some(word);
                    0
                }
                (_, byte) => usize::from(byte.eq_ignore_ascii_case(&b'c')),
            };
        }
        named
    }
}

impl Head {
    fn finds(&mut self, byte: u8, is_own: impl Fn(&[u8]) -> bool) -> bool {
        let before = std::mem::replace(&mut self.before, byte);
        self.end = match HEAD_END.get(self.end) {
            Some(next) if byte == *next => self.end + 1,
            _ => usize::from(byte == b'\r'),
        };
        // Who reads a NUL as the end of a line's text joins what stands before it with the next line (PHP).
        let is_cut = self.disposes && byte == 0;
        is_cut
            || self.finds_in_value((before, byte), is_own)
            || (self.disposes && self.finds_key(before, byte))
    }

    /// Whether the value is up to here the name of such a field to some reader: with quotation marks or without, each ends it at other signs.
    fn finds_in_value(&mut self, (before, byte): (u8, u8), is_own: impl Fn(&[u8]) -> bool) -> bool {
        let Some(value) = &mut self.value else { return false };
        // A comment, or a word in an encoding of its own (RFC 2047), which some readers take away and decode.
        let is_other = byte == b'(' || (before == b'=' && byte == b'?');
        let is_end = !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if (self.is_parameter && is_other && value.read().is_empty()) || (is_end && value.may_end(&is_own)) {
            return true;
        }
        if self.is_parameter && byte == b'\'' {
            // What stands before it may be a character set and a language (RFC 8187).
            *value = Name::default();
        }
        self.is_parameter &= byte != b';';
        value.takes(byte, is_own)
    }

    /// Looks for `name=`, also where ends of lines stand in it, which PHP leaves out. A name that is written in another way is found at once:
    /// no form needs it (RFC 7578, 4.2).
    fn finds_key(&mut self, before: u8, byte: u8) -> bool {
        const WHOLE: Key = Key::Letters(KEY.len());
        let is_next = |letters: usize| {
            let is_letter = KEY.get(letters).is_some_and(|letter| byte.eq_ignore_ascii_case(letter));
            is_letter && (letters > 0 || !before.is_ascii_alphanumeric())
        };
        self.key = match (self.key, byte) {
            (Key::Star | Key::Comment, b'=') => return true,
            (WHOLE, b'=') => {
                (self.value, self.is_parameter) = (Some(Name::default()), true);
                Key::default()
            }
            (WHOLE, b'*') => Key::Star,
            (WHOLE | Key::Star, b'(') => Key::Comment,
            (Key::Comment, _) | (Key::Star, b'*' | b'0'..=b'9') | (WHOLE | Key::Star, ..=b' ') => self.key,
            (Key::Letters(1..), b'\r' | b'\n') => self.key,
            (Key::Letters(letters), _) if is_next(letters) => Key::Letters(letters + 1),
            _ => Key::Letters(usize::from(is_next(0))),
        };
        false
    }

    /// Whether nothing that follows is of it.
    fn is_over(&self) -> bool {
        let has_value = self.value.as_ref().is_some_and(|value| !value.is_over());
        self.end == HEAD_END.len() || !(self.disposes || has_value)
    }
}

impl Default for Key {
    fn default() -> Self {
        Self::Letters(0)
    }
}

#[cfg(test)]
mod tests;

//! Fields that the agent may not fill in a form, found while the form passes by frame by frame: nothing is gathered, for the name of a
//! field comes before its value, and the frame with the end of such a name does not pass.
//!
//! A form is read as generously as any server reads one, since what is overlooked here would be a key there. In one that is joined (`a=1&b=2`)
//! also `;` divides. In one of several parts no boundary is believed: behind each `Content-Disposition:`, wherever it stands, each `name=`
//! but that of `filename=` counts up to an empty line, and the value of `Content-ID` and of `Content-Type` is a name as well (Rack). Names are folded
//! by `parameter`. What is packed, or written in letters of another kind, is refused before its first byte.

use memchr::{memchr2, memmem};

use crate::own_key::OwnNames;
use crate::parameter::Name;
use crate::{Denial, DenialReason, Method, Permit, Policy};

/// Character sets in which what is ASCII is written as ASCII.
const CHARSETS: [&[u8]; 6] = [b"utf-8", b"utf8", b"us-ascii", b"ascii", b"iso-8859-1", b"windows-1252"];
/// Fields of a part in which its name can stand. No letter begins one of them again within it.
const NAMING: [&[u8]; 3] = [DISPOSITION, ID, b"content-type"];
const DISPOSITION: &[u8] = b"content-disposition";
const ID: &[u8] = b"content-id";
const KEY: &[u8] = b"name";
/// Another one, whose end is no [`KEY`].
const FILE_KEY: &[u8] = b"filename";
/// How a line begins that is no part of [`DISPOSITION`] to whoever divides lines at CR LF, or at more.
const TYPED: &[u8] = b"\r\ncontent-type";
/// About as long is a line that PHP divides where none ends.
const LINE_BYTES: usize = 5000;
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
    /// Whether [`DISPOSITION`] has come in this line and a sign at which a name is over (Netty), and no colon yet.
    is_named: bool,
    head: Option<Head>,
}

/// What stands behind one of [`NAMING`].
#[derive(Debug, Default)]
struct Head {
    /// Whether `name=` is looked for in it.
    disposes: bool,
    value: Option<Name>,
    kind: Kind,
    /// Whether nothing of the value has come.
    is_new: bool,
    /// Whether the value began with a comment.
    has_comment: bool,
    key: Key,
    joint: Joint,
    /// How much of the beginning of a line of [`TYPED`] has come.
    typing: usize,
    /// Whether this is a line of `Content-Type` to all that read more than a plain `name=`.
    is_typed: bool,
    /// How much of its end has come.
    end: usize,
    before: u8,
}

/// What a value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// One of `name=` that may go on.
    Parameter,
    /// One of `Content-ID` that may go on.
    Id,
    /// One that is over for who divides, decodes or joins anything in it, or none that is read so.
    #[default]
    Over,
}

/// How much of `name=` has come. Each reader leaves out other signs in it and around it, so letters and digits count alone.
#[derive(Debug, Default)]
struct Key {
    /// So many letters of the name are the last that came.
    letters: usize,
    /// So many of `filename`, with nothing between them.
    file: usize,
    /// Whether no letter stands right before the name.
    is_word: bool,
    /// What says that the name comes in pieces, or in an encoding of its own (RFC 2231).
    has_star: bool,
    /// Whether a comment (RFC 822) began behind the name, and whether a star stood before it.
    comment: Option<bool>,
}

/// What begins behind a byte.
#[derive(PartialEq, Eq)]
enum Begins {
    Nothing,
    Value,
    /// A value in pieces, or in an encoding of its own.
    Encoded,
}

/// The same for who ends the text of a line at a NUL and joins it with the next one (PHP, HHVM).
#[derive(Debug, Default)]
struct Joint {
    /// How much of `name` has come since a parameter began. None within another one.
    letters: Option<usize>,
    /// Whether a NUL came where a parameter begins, and its line goes on.
    is_cut: bool,
    line_bytes: usize,
    /// Whether the value is one of such a `name=`.
    is_value: bool,
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
        let is_divided = !parts || types.iter().all(|value| has_boundary(value));
        if types.len() > 1
            || !is_divided
            || !types.iter().all(|value| is_ascii(value))
            || !encodings.all(is_plain)
        {
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
            "Send the form with one Content-Type (of parts with their boundary), in UTF-8, and without Content-Encoding: at the host of a credential it is searched for keys of your own.",
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

/// Whether a type says what divides the parts, to who reads them as a joined form otherwise (Rack).
fn has_boundary(value: &[u8]) -> bool {
    const WORD: &[u8] = b"boundary=";
    memmem::find_iter(value, WORD).any(|at| {
        let named = value.get(at + WORD.len()..).unwrap_or_default();
        let named = named.strip_prefix(b"\"").unwrap_or(named);
        named.first().is_some_and(|byte| !matches!(byte, b'"' | b';' | b','))
    })
}

/// Whether each character set that a type names writes ASCII as ASCII.
fn is_ascii(value: &[u8]) -> bool {
    const WORD: &[u8] = b"charset";
    memmem::find_iter(value, WORD).all(|at| {
        // `charset*=` and all that is not read here is none of them. `charset:` names none, and no more does one without a value.
        let rest = value.get(at + WORD.len()..).unwrap_or_default();
        let Some(named) = rest.strip_prefix(b"=") else { return rest.starts_with(b":") };
        if matches!(named.trim_ascii_start().first(), None | Some(b';' | b',')) {
            return true;
        }
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
            if self.head.is_none() && !self.is_named && self.begun == [0; NAMING.len()] {
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
                self.head.get_or_insert_default().begins(named);
            }
        }
    }

    /// The field of a part whose value begins behind this byte.
    fn names(&mut self, byte: u8) -> Option<&'static [u8]> {
        let [disposition, ..] = self.begun;
        let is_named = self.is_named || (disposition == DISPOSITION.len() && !matches!(byte, b'!'..=b'~'));
        self.is_named = is_named && !matches!(byte, b'\r' | b'\n' | b':');
        let mut named = (is_named && byte == b':').then_some(DISPOSITION);
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
    /// Begins the value of one of [`NAMING`].
    fn begins(&mut self, named: &[u8]) {
        let disposes = named == DISPOSITION;
        self.disposes |= disposes;
        self.is_typed &= !disposes;
        if disposes && !self.joint.is_cut {
            self.joint.letters = Some(0);
        }
        self.value = Some(Name::default());
        self.kind = if named == ID { Kind::Id } else { Kind::Over };
    }

    fn finds(&mut self, byte: u8, is_own: impl Fn(&[u8]) -> bool) -> bool {
        let before = std::mem::replace(&mut self.before, byte);
        self.end = match HEAD_END.get(self.end) {
            Some(next) if byte == *next => self.end + 1,
            _ => usize::from(byte == b'\r'),
        };
        let begins_line =
            matches!(before, b'\r' | b'\n') && !matches!((before, byte), (_, b' ' | b'\t') | (b'\r', b'\n'));
        self.is_typed = (self.is_typed && !begins_line) || (self.typing == TYPED.len() && byte == b':');
        self.typing = match TYPED.get(self.typing) {
            Some(next) if byte.eq_ignore_ascii_case(next) => self.typing + 1,
            _ => usize::from(byte == b'\r'),
        };
        let is_joined = self.joint.takes(byte);
        let is_open = self.joint.is_value && self.kind == Kind::Parameter;
        (self.disposes && (is_joined || (is_open && byte == 0)))
            || self.finds_in_value((before, byte), is_own)
            || (self.disposes && self.finds_key(before, byte))
    }

    /// Whether the value is up to here the name of such a field to some reader: with quotation marks or without, each ends it at other signs.
    fn finds_in_value(&mut self, (before, byte): (u8, u8), is_own: impl Fn(&[u8]) -> bool) -> bool {
        let Some(value) = &mut self.value else { return false };
        let is_new = std::mem::replace(&mut self.is_new, false);
        let (is_parameter, is_empty) = (self.kind == Kind::Parameter, value.read().is_empty());
        // A word in an encoding of its own (RFC 2047), which some readers decode. The sign before the value is none of it.
        let is_word = before == b'=' && byte == b'?' && !is_new && !self.is_typed;
        // Letters of a set that the part names (Rack): no name in UTF-8 has these.
        let is_foreign = byte == 0x1b || (matches!(byte, 0x80..=0xbf) && before.is_ascii());
        let is_end = !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        if (is_parameter && is_empty && is_word)
            || (self.kind != Kind::Over && is_foreign)
            || (is_end && value.may_end(&is_own))
        {
            return true;
        }
        self.has_comment |= is_parameter && is_empty && byte == b'(';
        // What stands before it may be a character set and a language (RFC 8187), or a comment.
        if is_parameter && (byte == b'\'' || (byte == b')' && self.has_comment)) {
            *value = Name::default();
        }
        if matches!(byte, 0 | b';') || (byte == b'"' && !value.read().is_empty()) {
            self.kind = Kind::Over;
        }
        // What it is called behind its end is asked still, but not what it may be called.
        value.takes(byte, &is_own) && (self.kind != Kind::Over || is_own(value.read()))
    }

    /// Looks for `name=`. One that is written in another way is found at once: no form needs it (RFC 7578, 4.2).
    fn finds_key(&mut self, before: u8, byte: u8) -> bool {
        let begins = self.key.takes(before, byte);
        if begins == Begins::Nothing {
            return false;
        }
        (self.value, self.kind, self.has_comment) = (Some(Name::default()), Kind::Parameter, false);
        self.is_new = true;
        begins == Begins::Encoded && !self.is_typed
    }

    /// Whether nothing that follows is of it.
    fn is_over(&self) -> bool {
        let has_value = self.value.as_ref().is_some_and(|value| !value.is_over());
        self.end == HEAD_END.len() || !(self.disposes || has_value)
    }
}

impl Key {
    fn takes(&mut self, before: u8, byte: u8) -> Begins {
        let is_whole = self.letters == KEY.len() && self.file != FILE_KEY.len();
        match byte {
            b'=' | b';' => {
                let (has_star, comment) = (self.has_star, self.comment);
                let is_value = byte == b'=' && (is_whole || has_star);
                *self = Self { comment: comment.filter(|_| !is_value), ..Self::default() };
                return match (is_value, has_star) {
                    (false, _) => Begins::Nothing,
                    (true, false) => Begins::Value,
                    (true, true) => Begins::Encoded,
                };
            }
            b'*' if is_whole && self.is_word => self.has_star = true,
            b'(' if is_whole => self.comment = Some(self.has_star),
            b')' => {
                if let Some(has_star) = self.comment {
                    (self.letters, self.file, self.is_word) = (KEY.len(), 0, true);
                    self.has_star = has_star;
                }
            }
            b'0'..=b'9' if self.has_star => {}
            _ if byte.is_ascii_alphanumeric() => {
                let is = |next: Option<&u8>| next.is_some_and(|next| byte.eq_ignore_ascii_case(next));
                let follows = |word: &[u8], letters| match is(word.get(letters)) {
                    true => letters + 1,
                    false => usize::from(is(word.first())),
                };
                (self.letters, self.file) = (follows(KEY, self.letters), follows(FILE_KEY, self.file));
                self.has_star = false;
                if self.letters == 1 {
                    self.is_word = !before.is_ascii_alphanumeric();
                }
            }
            _ if self.file < FILE_KEY.len() => self.file = 0,
            _ => {}
        }
        Begins::Nothing
    }
}

impl Joint {
    /// Whether a NUL parts `name=` here, or parted what may have been the sign before it from the rest.
    fn takes(&mut self, byte: u8) -> bool {
        self.line_bytes = if byte == b'\n' { 0 } else { self.line_bytes.saturating_add(1) };
        if self.is_cut {
            self.is_cut = byte != b'\n';
            return self.is_cut && self.line_bytes >= LINE_BYTES;
        }
        self.letters = match (self.letters, byte) {
            (Some(letters), 0) => {
                self.is_cut = letters == 0;
                return letters > 0;
            }
            (_, b';') => Some(0),
            (letters, b'\r' | b'\n') | (letters @ Some(0), ..=b' ') => letters,
            (letters, b'=') => {
                self.is_value = letters == Some(KEY.len());
                None
            }
            (Some(letters), _) if KEY.get(letters).is_some_and(|next| byte.eq_ignore_ascii_case(next)) => {
                Some(letters + 1)
            }
            _ => None,
        };
        false
    }
}

#[cfg(test)]
mod tests;

//! Names of parameters in a query and of fields in a form, as any server may read them.
//!
//! Each folds them in a way of its own. PHP and HHVM end a name at a NUL, leave out the blanks before it, and write `_` for a blank, a dot and a
//! bracket that is not closed; Rack leaves out the brackets before it, and qs those around it; what stands before a bracket is the name
//! of a list or a map everywhere (`token[]`); ASP and ASP.NET decode `%uXXXX`; others leave out what they cannot decode. So letters and digits count
//! here and nothing else, in lower case, and at each NUL and each bracket a name may be over.

use crate::policy::INJECTION_TEXT_BYTES_MAX;

/// No name that is looked for is longer.
const FOLDED_BYTES_MAX: usize = INJECTION_TEXT_BYTES_MAX;

/// A name that comes byte by byte, as it is written. What is kept of it is bounded, however long it is.
#[derive(Debug, Default)]
pub(crate) struct Name {
    /// Its letters and digits, up to one more than there may be.
    folded: Vec<u8>,
    /// An escape that has begun.
    escape: Vec<u8>,
    /// That it may be over here was asked already.
    is_asked: bool,
}

/// What some bytes are that begin with `%`.
enum Escape {
    /// No escape.
    Not,
    /// The beginning of one.
    Begun,
    /// A byte.
    Byte(u8),
    /// A character beyond ASCII, of which servers with other character sets make what is nearest to it.
    Wide,
}

/// Whether some server reads such a name in this one, as it is written. `is_such` is asked of letters and digits in lower case.
pub(crate) fn is_read_as(written: &str, is_such: impl Fn(&[u8]) -> bool) -> bool {
    let mut name = Name::default();
    written.bytes().any(|byte| name.takes(byte, &is_such)) || name.may_end(&is_such)
}

/// Whether this name is read in letters and digits.
pub(crate) fn is_folded(name: &str, read: &[u8]) -> bool {
    folded(name).eq(read.iter().copied())
}

/// The letters and digits of a name, in lower case.
pub(crate) fn folded(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase())
}

/// What some server reads in the value of a parameter. None where it has a character that servers may make anything of.
pub(crate) fn decoded(value: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let read = [3, 6].into_iter().filter_map(|length| rest.split_at_checked(length)).find_map(
            |(text, behind)| match escape(text) {
                Escape::Byte(byte) => Some(Ok((byte, behind))),
                Escape::Wide => Some(Err(())),
                Escape::Not | Escape::Begun => None,
            },
        );
        let (byte, behind) = read.unwrap_or(Ok((first, behind))).ok()?;
        decoded.push(byte);
        rest = behind;
    }
    Some(decoded)
}

impl Name {
    /// Takes the next byte. Whether the name may be over with it and is such a one, or cannot be told from one.
    pub(crate) fn takes(&mut self, byte: u8, is_such: impl Fn(&[u8]) -> bool) -> bool {
        if self.is_over() {
            return false;
        }
        if self.escape.is_empty() && byte != b'%' {
            return self.adds(byte, is_such);
        }
        self.escape.push(byte);
        match escape(&self.escape) {
            Escape::Begun => false,
            Escape::Wide => {
                self.escape.clear();
                true
            }
            Escape::Byte(decoded) => {
                self.escape.clear();
                self.adds(decoded, is_such)
            }
            Escape::Not => {
                // The last of it may begin another one.
                self.escape.pop();
                self.settles();
                self.takes(byte, is_such)
            }
        }
    }

    /// Whether it is such a one if it is over here. It goes on if it is not.
    pub(crate) fn may_end(&mut self, is_such: impl Fn(&[u8]) -> bool) -> bool {
        self.settles();
        !std::mem::replace(&mut self.is_asked, true) && is_such(&self.folded)
    }

    /// Its letters and digits so far, in lower case.
    pub(crate) fn read(&self) -> &[u8] {
        &self.folded
    }

    /// Whether it is longer than any that is looked for.
    pub(crate) fn is_over(&self) -> bool {
        self.folded.len() > FOLDED_BYTES_MAX
    }

    fn adds(&mut self, byte: u8, is_such: impl Fn(&[u8]) -> bool) -> bool {
        if matches!(byte, 0 | b'[' | b']') {
            return self.may_end(is_such);
        }
        self.folds(byte);
        false
    }

    /// What began as an escape and is none stands for itself.
    fn settles(&mut self) {
        for byte in std::mem::take(&mut self.escape) {
            self.folds(byte);
        }
    }

    fn folds(&mut self, byte: u8) {
        if byte.is_ascii_alphanumeric() && !self.is_over() {
            self.folded.push(byte.to_ascii_lowercase());
            self.is_asked = false;
        }
    }
}

fn escape(text: &[u8]) -> Escape {
    let (digits, count) = match text {
        [b'%', b'u' | b'U', digits @ ..] => (digits, 4),
        [b'%', digits @ ..] => (digits, 2),
        _ => return Escape::Not,
    };
    let mut value = 0;
    for digit in digits {
        let Some(digit) = char::from(*digit).to_digit(16) else { return Escape::Not };
        value = value * 16 + digit;
    }
    match u8::try_from(value) {
        _ if digits.len() < count => Escape::Begun,
        Ok(byte) if count == 2 || byte.is_ascii() => Escape::Byte(byte),
        _ => Escape::Wide,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_f1_a_name_is_known_in_each_spelling_that_some_server_folds_into_it() {
        for written in [
            "private_token",
            "PRIVATE-Token",
            "%70rivate%5Ftoken",
            // PHP and HHVM.
            "private_token%00",
            "private_token%00abc",
            "private.token",
            "private+token",
            "private%20token",
            "private[token",
            "%20%0a+private_token",
            // Rack and qs.
            "[private_token]",
            "]private_token",
            "[[private_token]",
            "%5Bprivate_token%5D",
            // Lists and maps.
            "private_token[]",
            "private_token[0][x]",
            "private_token%5b",
            "private_token]x",
            // ASP and ASP.NET.
            "%u0070rivate_token",
            "private_token%u0000x",
            "%U0050rivate_token",
            "%uFF50rivate_token",
            "priv%u00E1te_token",
            // What others leave out.
            "$private_token",
            "private_%FFtoken",
            "p%00r%00i%00v%00a%00t%00e%00_%00t%00o%00k%00e%00n%00",
            "private_%token",
            "%%70rivate_token",
            "private_token\u{1f}",
        ] {
            assert!(is(written), "{written}");
            assert!(is(&format!("{written}{}", "[x]".repeat(1000))), "{written}");
        }
        for written in [
            "",
            "token",
            "private",
            "privatetokens",
            "xprivate_token",
            "%zprivate_token",
            "a[private_token]",
            "%2570rivate_token",
            "private%5token",
            "private%u005token",
            "%u00",
            "%",
            "%u",
        ] {
            assert!(!is(written), "{written}");
        }
        assert!(!is(&format!("{}%00private_token", "x".repeat(FOLDED_BYTES_MAX + 1))));
    }

    fn is(written: &str) -> bool {
        is_read_as(written, |read| is_folded("private_token", read))
    }

    #[test]
    fn a_name_may_be_as_long_as_the_longest_that_is_looked_for() {
        let longest = "x".repeat(FOLDED_BYTES_MAX);
        let is = |written: &str| is_read_as(written, |read| is_folded(&longest, read));
        assert!(is(&longest) && is(&format!("{longest}[]")));
        assert!(!is(&format!("{longest}x")) && !is(&format!("{longest}x[]")));
    }

    #[test]
    fn p_i4_of_a_name_without_end_no_more_is_kept_or_asked_than_of_the_longest() {
        for piece in ["[", "%00", "a[", "%", "%u00", "%5b", " ", "%20", "a%u"] {
            let mut name = Name::default();
            let asked = std::cell::Cell::new(0);
            for byte in piece.bytes().cycle().take(1 << 20) {
                let count = |_: &[u8]| {
                    asked.set(asked.get() + 1);
                    false
                };
                assert!(!name.takes(byte, count), "{piece}");
            }
            assert!(name.folded.len() <= FOLDED_BYTES_MAX + 1 && name.escape.len() < 6, "{piece}");
            assert!(asked.get() <= FOLDED_BYTES_MAX + 1, "{piece}: {}", asked.get());
        }
    }
}

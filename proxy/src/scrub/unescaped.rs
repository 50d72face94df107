//! A piece of a body with its escapes undone once, and where each byte of that stood. An encoder may write any byte as an
//! escape, so that no list of spellings is complete; undone they are all one.

use zeroize::Zeroizing;

/// A text without its percent-encoding (RFC 3986, 2.1) and its escapes of JSON (RFC 8259, 7), where they stand for one byte.
pub struct Unescaped {
    text: Zeroizing<Vec<u8>>,
    /// Where the text goes on behind each escape: here, and as it was written.
    marks: Vec<(usize, usize)>,
}

/// Whether a text may hold a secret that is spelled with escapes of its bytes. What is written with a plain backslash alone is
/// among the spellings that are searched for letter by letter.
pub fn is_escaped(text: &[u8]) -> bool {
    text.ends_with(b"\\")
        || memchr::memchr(b'%', text).is_some()
        || memchr::memmem::find(text, b"\\u").is_some()
}

impl Unescaped {
    /// Reads a text up to its end, or to an escape that its end cuts off.
    #[must_use]
    pub fn of(written: &[u8]) -> Self {
        let mut text = Zeroizing::new(Vec::with_capacity(written.len()));
        let (mut marks, mut at) = (Vec::new(), 0);
        loop {
            let rest = written.get(at..).unwrap_or_default();
            let Some(next) = memchr::memchr2(b'%', b'\\', rest) else {
                text.extend_from_slice(rest);
                return Self { text, marks };
            };
            let (plain, escaped) = rest.split_at(next);
            text.extend_from_slice(plain);
            at += next;
            match escape(escaped) {
                Escape::Of(byte, bytes) => {
                    text.push(byte);
                    at += bytes;
                    marks.push((text.len(), at));
                }
                Escape::Unfinished => return Self { text, marks },
                Escape::None(byte) => {
                    text.push(byte);
                    at += 1;
                }
            }
        }
    }

    /// The text that is meant.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// Where byte number `at` of it was written; that of its end is where what was cut off begins.
    #[must_use]
    pub fn place(&self, at: usize) -> usize {
        let behind = self.marks.partition_point(|(here, _)| *here <= at);
        let (here, written) = behind.checked_sub(1).and_then(|last| self.marks.get(last)).unwrap_or(&(0, 0));
        written + (at - here)
    }
}

/// What begins with a percent sign or a backslash.
enum Escape {
    /// A byte, written with so many.
    Of(u8, usize),
    /// The text ends before that is known.
    Unfinished,
    /// Nothing but this byte.
    None(u8),
}

fn escape(text: &[u8]) -> Escape {
    let (read, digits_at) = match text {
        [b'%', high, low, ..] => (hex(*high, *low), 3),
        [b'\\', b'u', b'0', b'0', high, low, ..] => (hex(*high, *low), 6),
        [b'\\', plain @ (b'"' | b'\\' | b'/'), ..] => (Some(*plain), 2),
        [b'%', ..] | [b'\\'] => return Escape::Unfinished,
        [b'\\', b'u', digits @ ..] if b"00".starts_with(digits.get(..2).unwrap_or(digits)) => {
            return Escape::Unfinished;
        }
        [first, ..] => return Escape::None(*first),
        [] => return Escape::Unfinished,
    };
    match (read, text) {
        (Some(byte), _) => Escape::Of(byte, digits_at),
        (None, [first, ..]) => Escape::None(*first),
        (None, []) => Escape::Unfinished,
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
    fn each_byte_is_read_as_it_is_meant_and_found_where_it_was_written() {
        for (written, text) in [
            ("plain", "plain"),
            ("a%2Bb%2bc", "a+b+c"),
            (r"a\u002Bb\u002bc", "a+b+c"),
            (r#"a\"b\\c\/d"#, r#"a"b\c/d"#),
            (r"\\u002B", r"\u002B"),
            (r"%zz\u12ab\n%", r"%zz\u12ab\n"),
            (r"a\u00", "a"),
            (r"a\u004", "a"),
            (r"a\u", "a"),
            (r"a\u1", r"a\u1"),
            (r"a\u01", r"a\u01"),
            (r"\u00zz", r"\u00zz"),
            (r"a\", "a"),
        ] {
            let read = Unescaped::of(written.as_bytes());
            assert_eq!(read.text(), text.as_bytes(), "{written}");
            for (at, byte) in text.bytes().enumerate() {
                let (from, until) = (read.place(at), read.place(at + 1));
                let own = &written[from..until];
                let meant = match own.len() {
                    1 => own.as_bytes().to_vec(),
                    _ => Unescaped::of(own.as_bytes()).text().to_vec(),
                };
                assert_eq!(meant, [byte], "{own} of {written}");
            }
        }
    }

    #[test]
    fn a_text_without_a_percent_sign_or_a_number_is_not_read() {
        for (text, expected) in
            [("100 %", true), (r"\u0041", true), (r"x\", true), (r#"{"a": "b\n"}"#, false), ("", false)]
        {
            assert_eq!(is_escaped(text.as_bytes()), expected, "{text}");
        }
    }
}

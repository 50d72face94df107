//! A piece of a body with its escapes undone once, and where each byte of that stood. An encoder may write any byte as an
//! escape, so that no list of spellings is complete; undone they are all one. So are lines that break what is written in them.

use zeroize::Zeroizing;

use super::wrap::{break_of, has_break};

/// Bytes of the longest character reference that is read: `&#x0000041;` and shorter ones. Encoders write four to six.
const REFERENCE_BYTES_MAX: usize = 12;
/// Character references by name that stand for what encoders of HTML do not leave as it is (HTML, 13.5).
const NAMED: [(&[u8], u8); 5] =
    [(b"amp", b'&'), (b"apos", b'\''), (b"gt", b'>'), (b"lt", b'<'), (b"quot", b'"')];

/// What is made of ends of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// They stand where they stand.
    Kept,
    /// They are left out.
    Joined,
}

/// A text without its percent-encoding (RFC 3986, 2.1), its escapes of JSON (RFC 8259, 7) and its character references of HTML (HTML, 13.1.4),
/// where they stand for one byte.
pub struct Unescaped {
    text: Zeroizing<Vec<u8>>,
    /// Where the text goes on behind each escape: here, and as it was written.
    marks: Vec<(usize, usize)>,
}

/// What JSON may write as a backslash and the byte itself, besides what stands for something else (RFC 8259, 7).
const SHORT: &[u8] = b"\"\\/";

/// Those bytes of what is looked for that JSON may write with a plain backslash: a text is read for the sake of no others.
pub fn short<'n>(needles: impl Iterator<Item = &'n [u8]> + Clone) -> Vec<u8> {
    SHORT.iter().copied().filter(|byte| needles.clone().any(|needle| needle.contains(byte))).collect()
}

/// Whether a text may hold a secret that is spelled with escapes of its bytes; `short` are those that a plain backslash escapes.
/// Encoders escape each of these or none, and these spellings are searched for letter by letter; what an answer holds may be
/// anybody's choice.
pub fn is_escaped(text: &[u8], short: &[u8]) -> bool {
    let is_reference = |at: usize| {
        let read = text.get(at..).map(reference);
        !matches!(read, Some(Escape::None(_)) | None)
    };
    let is_escape = |at: usize| text.get(at + 1).is_none_or(|next| *next == b'u' || short.contains(next));
    memchr::memchr(b'%', text).is_some()
        || memchr::memchr_iter(b'\\', text).any(is_escape)
        || memchr::memchr_iter(b'&', text).any(is_reference)
}

/// The same where lines may be joined, too.
pub fn is_spelled(text: &[u8], lines: Lines, short: &[u8]) -> bool {
    is_escaped(text, short) || (lines == Lines::Joined && has_break(text))
}

/// Where the first byte stands that may be read as something else.
pub fn first(text: &[u8], lines: Lines) -> Option<usize> {
    match lines {
        Lines::Kept => memchr::memchr3(b'%', b'\\', b'&', text),
        // One look for all of them: a second one would read up to the end of the text for each line.
        Lines::Joined => text.iter().position(|byte| matches!(byte, b'%' | b'\\' | b'&' | b'\r' | b'\n')),
    }
}

impl Unescaped {
    /// Reads a text up to its end, or to an escape that its end cuts off.
    #[must_use]
    pub fn of(written: &[u8], lines: Lines) -> Self {
        let mut text = Zeroizing::new(Vec::with_capacity(written.len()));
        let (mut marks, mut at) = (Vec::new(), 0);
        // Where the last end of a line was left out, and with what it ended: lines are joined, empty ones among them end what is written.
        let mut joined = None;
        loop {
            let rest = written.get(at..).unwrap_or_default();
            let Some(next) = first(rest, lines) else {
                text.extend_from_slice(rest);
                return Self { text, marks };
            };
            let (plain, escaped) = rest.split_at(next);
            text.extend_from_slice(plain);
            at += next;
            match spelled(escaped, lines) {
                Escape::Of(byte @ (b'\r' | b'\n'), bytes)
                    if lines == Lines::Joined && joins(joined, at, byte) =>
                {
                    at += bytes;
                    joined = Some((at, byte));
                    marks.push((text.len(), at));
                }
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

/// Whether this byte at this place is left out with others of the end of a line, of which the last was left out there.
fn joins(last: Option<(usize, u8)>, at: usize, byte: u8) -> bool {
    last.is_none_or(|(end, before)| end != at || (before, byte) == (b'\r', b'\n'))
}

/// What begins with a byte that may be read as something else.
enum Escape {
    /// A byte, written with so many.
    Of(u8, usize),
    /// The text ends before that is known.
    Unfinished,
    /// Nothing but this byte.
    None(u8),
}

fn spelled(text: &[u8], lines: Lines) -> Escape {
    match break_of(text) {
        Some((byte, bytes)) if lines == Lines::Joined => Escape::Of(byte, bytes),
        _ if text.starts_with(b"&") => reference(text),
        _ => escape(text),
    }
}

/// What begins with an ampersand.
fn reference(text: &[u8]) -> Escape {
    let most = text.get(..REFERENCE_BYTES_MAX).unwrap_or(text);
    let Some(end) = memchr::memchr(b';', most) else {
        let is_cut_off =
            text.len() < REFERENCE_BYTES_MAX && may_be_reference(text.get(1..).unwrap_or_default());
        return if is_cut_off { Escape::Unfinished } else { Escape::None(b'&') };
    };
    let name = most.get(1..end).unwrap_or_default();
    let byte = match name {
        [b'#', b'x' | b'X', digits @ ..] => number(digits, 16),
        [b'#', digits @ ..] => number(digits, 10),
        _ => NAMED.iter().find(|(known, _)| *known == name).map(|(_, byte)| *byte),
    };
    byte.map_or(Escape::None(b'&'), |byte| Escape::Of(byte, end + 1))
}

/// Whether this may be the beginning of a reference, behind its ampersand.
fn may_be_reference(name: &[u8]) -> bool {
    match name {
        [b'#', b'x' | b'X', digits @ ..] => digits.iter().all(u8::is_ascii_hexdigit),
        [b'#', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => NAMED.iter().any(|(known, _)| known.starts_with(name)),
    }
}

/// The ASCII of this number.
fn number(digits: &[u8], radix: u32) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    // from_str_radix would take a sign.
    let is_plain = digits.iter().all(u8::is_ascii_hexdigit);
    u8::from_str_radix(text, radix).ok().filter(|byte| is_plain && byte.is_ascii())
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
            ("a&#65;&#x42;&#X43;&#0068;b", "aABCDb"),
            ("&amp;&lt;&gt;&quot;&apos;&#39;", "&<>\"''"),
            ("a&b&page=1&#;&#x;&#256;&#x100;&#+65;&nbsp;&amp", "a&b&page=1&#;&#x;&#256;&#x100;&#+65;&nbsp;"),
            ("a&#x4", "a"),
            ("a&#6", "a"),
            ("a&am", "a"),
            ("a&ax", "a&ax"),
            ("a&#6x", "a&#6x"),
            ("a&#0000000041", "a&#0000000041"),
            ("a&#200;", "a&#200;"),
            ("a%0Ab&#10;c", "a\nb\nc"),
            ("a&#00000000000000065;", "a&#00000000000000065;"),
        ] {
            let read = Unescaped::of(written.as_bytes(), Lines::Kept);
            assert_eq!(read.text(), text.as_bytes(), "{written}");
            for (at, byte) in text.bytes().enumerate() {
                let (from, until) = (read.place(at), read.place(at + 1));
                let own = &written[from..until];
                let meant = match own.len() {
                    1 => own.as_bytes().to_vec(),
                    _ => Unescaped::of(own.as_bytes(), Lines::Kept).text().to_vec(),
                };
                assert_eq!(meant, [byte], "{own} of {written}");
            }
        }
    }

    #[test]
    fn a_text_without_a_percent_sign_or_a_number_is_not_read() {
        for (text, expected) in [
            ("100 %", true),
            (r"\u0041", true),
            (r"x\", true),
            (r#"{"a": "b\n"}"#, false),
            ("", false),
            ("&#65;", true),
            ("a &amp; b", true),
            ("a&", true),
            ("?a=b&page=1&c", false),
        ] {
            assert_eq!(is_escaped(text.as_bytes(), b""), expected, "{text}");
        }
    }

    #[test]
    fn a_plain_backslash_is_looked_at_before_bytes_that_are_looked_for_and_no_others() {
        assert_eq!(short([&b"a/b"[..], b"c\"d"].into_iter()), b"\"/");
        assert_eq!(short([&b"sk-live"[..]].into_iter()), b"");
        for (text, expected) in
            [(r"a\/b", true), (r"a\\/b", true), (r#"a\"b"#, false), (r"a\\b\n", false), ("a/b", false)]
        {
            assert_eq!(is_escaped(text.as_bytes(), b"/"), expected, "{text}");
        }
    }

    #[test]
    fn lines_are_joined_and_each_byte_is_found_where_it_was_written() {
        let written = "ab\r\ncd\\nef%0Ag&#10;h\n";
        let read = Unescaped::of(written.as_bytes(), Lines::Joined);
        assert_eq!(read.text(), b"abcdefgh");
        for (at, byte) in "abcdefgh".bytes().enumerate() {
            assert_eq!(written.as_bytes()[read.place(at)], byte);
        }
        assert_eq!(read.place(8), written.len());
        assert_eq!(Unescaped::of(b"a\n", Lines::Kept).text(), b"a\n");
        assert_eq!(
            Unescaped::of(b"a\r\n\r\nb\\n\\n\nc", Lines::Joined).text(),
            b"a\rb\nc",
            "an empty line ends it"
        );
    }
}

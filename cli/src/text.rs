//! Text on its way to a terminal.
//!
//! A message in a status, a line of a log or a name may be the words of an agent, and a terminal obeys what it is shown. So
//! controls, and what turns the direction of a text, are shown as escapes; a line break and a tab stay.

use std::borrow::Cow;
use std::io::{self, Write};

/// Whether a terminal, or who reads it, may be deceived by this character.
const fn is_control(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // C0, DEL and C1: a terminal may take U+009B for ESC [.
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' => true,
        // Marks and overrides of direction, and what separates lines or is not seen.
        '\u{61c}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{2069}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

/// The text with everything that a terminal would obey written as an escape.
#[must_use]
pub fn harmless(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c.escape_unicode().to_string())
}

/// The same on one line.
#[must_use]
pub fn harmless_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

/// JSON that means the same and holds nothing that a terminal would obey.
#[must_use]
pub fn harmless_json(text: &str) -> Cow<'_, str> {
    // Such a character stands in strings alone, where it may be written so.
    let unit = |unit: &u16| format!("\\u{unit:04x}");
    replaced(text, |c| c.encode_utf16(&mut [0; 2]).iter().map(unit).collect())
}

fn replaced(text: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if is_control(c) { safe.push_str(&escape(c)) } else { safe.push(c) }
    }
    Cow::Owned(safe)
}

/// Makes a stream of bytes harmless as it comes. Characters may come in pieces; what is none is shown as U+FFFD.
#[derive(Debug, Default)]
pub struct Filter {
    /// The beginning of a character, at most three bytes.
    begun: Vec<u8>,
}

impl Filter {
    /// What may be shown of the stream up to here.
    #[must_use]
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let bytes = [std::mem::take(&mut self.begun).as_slice(), bytes].concat();
        let (mut shown, mut at) = (String::with_capacity(bytes.len()), 0);
        for chunk in bytes.utf8_chunks() {
            shown.push_str(&harmless(chunk.valid()));
            at += chunk.valid().len() + chunk.invalid().len();
            let is_begun = at == bytes.len()
                && std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            if is_begun {
                self.begun = chunk.invalid().to_vec();
            } else if !chunk.invalid().is_empty() {
                shown.push(char::REPLACEMENT_CHARACTER);
            }
        }
        shown
    }

    /// What is shown of a character that was begun and not ended.
    #[must_use]
    pub fn rest(&mut self) -> String {
        let begun = std::mem::take(&mut self.begun);
        if begun.is_empty() { String::new() } else { char::REPLACEMENT_CHARACTER.to_string() }
    }
}

/// Bytes that are made harmless at once: each may become six.
const PIECE_BYTES: usize = 64 << 10;

/// Makes harmless what is written through it, piece by piece.
#[derive(Debug)]
pub struct Filtered<W> {
    out: W,
    filter: Filter,
}

impl<W: Write> Filtered<W> {
    /// To there.
    pub fn new(out: W) -> Self {
        Self { out, filter: Filter::default() }
    }

    /// Ends it with what was begun.
    ///
    /// # Errors
    /// What the writer behind it says.
    pub fn end(mut self) -> io::Result<()> {
        self.out.write_all(self.filter.rest().as_bytes())?;
        self.out.flush()
    }
}

impl<W: Write> Write for Filtered<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = bytes.get(..PIECE_BYTES).unwrap_or(bytes);
        self.out.write_all(self.filter.push(piece).as_bytes())?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Rows in columns, for people.
#[must_use]
pub fn columns(rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| harmless_line(cell)).collect()).collect();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let line = |row: &Vec<String>| {
        let cells = row.iter().enumerate();
        let line: String = cells
            .map(|(column, cell)| format!("{cell:width$}  ", width = width(column).unwrap_or_default()))
            .collect();
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

/// Lines of two columns, for people. Values that are absent have no line.
#[must_use]
pub fn pairs(rows: &[(&str, Option<String>)]) -> String {
    let width = rows.iter().filter(|(_, value)| value.is_some()).map(|(name, _)| name.len()).max();
    let line = |(name, value): &(&str, Option<String>)| {
        let value = harmless_line(value.as_ref()?);
        Some(format!("{name:width$}  {value}\n", width = width.unwrap_or_default()))
    };
    rows.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_and_not_done() {
        for hostile in [
            "\u{1b}[2J",
            "\u{1b}]0;title\u{7}",
            "\u{9b}31m",
            "a\rb",
            "a\u{8}b",
            "\u{7f}",
            "\u{202e}txt.exe",
            "\u{2066}x",
            "\u{200b}",
            "\u{e0041}",
            "\0",
        ] {
            let shown = harmless(hostile);
            assert!(!shown.contains(is_control) && shown.contains("\\u{"), "{hostile:?} became {shown:?}");
        }
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for text in ["plain", "two\nlines\tand a tab", "größer", "日本語", "naïve — “quoted”", "🙂", ""]
        {
            assert_eq!(harmless(text), text);
        }
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let value = serde_json::json!({"message": "a\u{9b}31m\u{202e}\u{e0041}\u{1b}ä"});
        let text = value.to_string();
        let safe = harmless_json(&text);
        assert!(text.contains('\u{9b}') && !safe.contains(is_control), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }

    #[test]
    fn a_stream_is_as_harmless_as_its_whole_wherever_it_is_cut() {
        let bytes = "a\u{1b}[2J größe 🙂 \u{9b}31m\n".as_bytes();
        let whole = harmless(std::str::from_utf8(bytes).unwrap()).into_owned();
        for cut in 0..=bytes.len() {
            let mut filter = Filter::default();
            let shown = [filter.push(&bytes[..cut]), filter.push(&bytes[cut..]), filter.rest()].concat();
            assert_eq!(shown, whole, "cut at {cut}");
        }
        let mut filter = Filter::default();
        assert_eq!(filter.push(b"a\xffb\xe2\x82"), "a\u{fffd}b");
        assert_eq!((filter.push(b"x"), filter.rest()), ("\u{fffd}x".to_owned(), String::new()));
        assert_eq!((filter.push(b"\xf0\x9f"), filter.rest()), (String::new(), "\u{fffd}".to_owned()));
    }

    /// What was written, and the most of it at once.
    #[derive(Default)]
    struct Seen(Vec<u8>, usize);

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend(bytes);
            self.1 = self.1.max(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn much_text_is_made_harmless_piece_by_piece_and_is_the_same_in_the_end() {
        let text = "größe \u{1}🙂\n".repeat(100_000);
        let mut seen = Seen::default();
        let mut filtered = Filtered::new(&mut seen);
        filtered.write_all(text.as_bytes()).unwrap();
        filtered.write_all(b"\xe2\x82").unwrap();
        filtered.end().unwrap();
        assert_eq!(String::from_utf8(seen.0).unwrap(), format!("{}\u{fffd}", harmless(&text)));
        assert!(seen.1 <= 6 * PIECE_BYTES, "{}", seen.1);
    }

    #[test]
    fn rows_stand_in_columns_and_hold_no_escape() {
        let rows = [vec!["A".to_owned(), "B".to_owned()], vec!["long\u{1b}".to_owned(), "x\ny".to_owned()]];
        assert_eq!(columns(&rows), "A           B\nlong\\u{1b}  x y\n");
    }

    #[test]
    fn a_value_stands_on_one_line_and_an_absent_one_on_none() {
        let rows = [("a", Some("x\ny".to_owned())), ("longer", None), ("bcd", Some("z".to_owned()))];
        assert_eq!(pairs(&rows), "a    x y\nbcd  z\n");
    }
}

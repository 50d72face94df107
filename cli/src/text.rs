//! Text on its way to a terminal.
//!
//! A message in a status, a line of a log or a name may be the words of an agent, and a terminal obeys what it is shown. So
//! controls, and what turns the direction of a text, are shown as escapes; a line break and a tab stay.

use std::borrow::Cow;

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
    fn a_value_stands_on_one_line_and_an_absent_one_on_none() {
        let rows = [("a", Some("x\ny".to_owned())), ("longer", None), ("bcd", Some("z".to_owned()))];
        assert_eq!(pairs(&rows), "a    x y\nbcd  z\n");
    }
}

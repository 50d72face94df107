//! Notices where a text in base64 goes on in another line, as MIME (RFC 2045, 6.8: 76 characters) and PEM (RFC 7468, 2: 64) have it, also
//! inside of JSON, where a line ends with `\n`. Only then is a body read with its lines joined: most bodies have lines, and few are so.

/// Characters of base64 that stand before the end of a line that goes on in the next: fewer than any of the encoders in use write, also
/// where a word stands before them in that line, and more than words have.
const RUN_BYTES_MIN: usize = 32;

/// What is known of the line that a body is in, between two frames.
#[derive(Debug, Default)]
pub struct Wrap {
    /// Characters of base64 at its end, [`RUN_BYTES_MIN`] at most.
    run: usize,
    /// Whether what came ends where such a line does, or in the middle of that end.
    is_broken: bool,
}

impl Wrap {
    /// Whether base64 goes on behind an end of a line in this frame, or behind one that the frame ends with.
    #[must_use]
    pub fn passes(&mut self, frame: &[u8]) -> bool {
        if frame.is_empty() {
            return false;
        }
        let (body, is_broken) = (without_breaks(frame), self.is_broken);
        let before = if is_broken { 0 } else { self.run };
        let goes_on = is_broken && frame.first().is_some_and(|byte| may_go_on(*byte));
        let wraps = goes_on
            || breaks(frame).any(|at| {
                run(frame.get(..at).unwrap_or_default(), before) >= RUN_BYTES_MIN && goes_on_behind(frame, at)
            });
        if !body.is_empty() {
            self.run = run(body, before);
        }
        self.is_broken = body.len() < frame.len() && self.run >= RUN_BYTES_MIN;
        wraps
    }
}

/// Whether an end of a line stands in a text.
#[must_use]
pub fn has_break(text: &[u8]) -> bool {
    breaks(text).next().is_some()
}

/// The byte of the end of a line that a text begins with, plain or as JSON escapes it, and how long that is.
#[must_use]
pub const fn break_of(text: &[u8]) -> Option<(u8, usize)> {
    match text {
        [b'\r', ..] => Some((b'\r', 1)),
        [b'\n', ..] => Some((b'\n', 1)),
        [b'\\', b'r', ..] => Some((b'\r', 2)),
        [b'\\', b'n', ..] => Some((b'\n', 2)),
        _ => None,
    }
}

/// Where ends of lines begin.
fn breaks(text: &[u8]) -> impl Iterator<Item = usize> {
    let begins = |at: &usize| text.get(*at..).is_some_and(|rest| break_of(rest).is_some());
    memchr::memchr3_iter(b'\r', b'\n', b'\\', text).filter(begins)
}

/// The text without ends of lines at its own end, and without a backslash that may begin one.
fn without_breaks(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b'\r' | b'\n' | b'\\'] | [rest @ .., b'\\', b'r' | b'n'] = text {
        text = rest;
    }
    text
}

/// Whether base64 stands behind the end of a line that begins here, or the text ends there.
fn goes_on_behind(text: &[u8], at: usize) -> bool {
    let mut rest = text.get(at..).unwrap_or_default();
    while let Some((_, bytes)) = break_of(rest) {
        rest = rest.get(bytes..).unwrap_or_default();
    }
    rest.first().is_none_or(|byte| may_go_on(*byte))
}

/// How many characters of base64 the text ends with, [`RUN_BYTES_MIN`] at most, where so many come before it.
fn run(text: &[u8], before: usize) -> usize {
    let own = text.iter().rev().take(RUN_BYTES_MIN).take_while(|byte| is_base64(**byte)).count();
    let all = if own == text.len() { own.saturating_add(before) } else { own };
    all.min(RUN_BYTES_MIN)
}

const fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_' | b'=')
}

/// Whether base64, or another end of a line before it, may begin with this.
const fn may_go_on(byte: u8) -> bool {
    is_base64(byte) || matches!(byte, b'\r' | b'\n' | b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it is noticed in a text that comes in frames of so many bytes.
    fn wraps(text: &str, frame_bytes: usize) -> bool {
        let mut wrap = Wrap::default();
        let seen: Vec<bool> = text.as_bytes().chunks(frame_bytes).map(|frame| wrap.passes(frame)).collect();
        seen.contains(&true)
    }

    #[test]
    fn p_f7_a_line_of_base64_that_goes_on_is_noticed_wherever_it_is_cut_and_a_word_is_none() {
        let line = "YWJj".repeat(8);
        for (text, expected) in [
            (format!("{line}\r\n{line}"), true),
            (format!("{line}\n{line}"), true),
            (format!("{{\"a\": \"{line}\\n{line}\"}}"), true),
            (format!("{{\"a\": \"{line}\\r\\nx\"}}"), true),
            (format!("{}\r\nx", &line[1..]), false),
            (format!("{line} \n{line}"), false),
            (line.repeat(4), false),
            ("words\nof one\nline each\n".repeat(9), false),
            ("data: {\"delta\": \"a word\\nand another\"}\n\n".repeat(9), false),
        ] {
            for frame_bytes in 1..=text.len() {
                assert_eq!(wraps(&text, frame_bytes), expected, "{text:?} in frames of {frame_bytes}");
            }
        }
        let mut wrap = Wrap::default();
        let frames = [line.as_bytes(), b"", b"x", b"\\", b"", b"nx"];
        assert_eq!(
            frames.map(|frame| wrap.passes(frame)),
            [false, false, false, false, false, true],
            "an empty frame"
        );
        // What follows decides, where it is known.
        assert!(!wraps(&format!("{line}\n\"x\""), 99) && wraps(&format!("{line}\n"), 99));
    }
}

//! What error pages and encoders for other text make of a secret: character references of HTML, UTF-16, and base64 in lines.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

/// What an encoder of HTML leaves nothing of as it is.
const ODD_KEY: &str = "k3y-a&b<c>d\"e'f/0123456789";

/// The body as it is passed on when it comes in frames of so many bytes.
fn passed(key: &str, text: &[u8], frame_bytes: usize) -> Vec<u8> {
    let mut mask = masking(key);
    let mut clean: Vec<u8> =
        text.chunks(frame_bytes).flat_map(|frame| mask.pass(Bytes::copy_from_slice(frame))).collect();
    clean.extend_from_slice(&mask.release());
    assert_eq!(clean.len(), text.len(), "frames of {frame_bytes} bytes");
    clean
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[test]
fn p_f7_a_secret_in_character_references_is_masked_wherever_it_is_cut() {
    let each = |write: fn(u8) -> String| ODD_KEY.bytes().map(write).collect::<String>();
    let named = |apostrophe: &str, quote: &str| {
        let text = ODD_KEY.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        text.replace('\'', apostrophe).replace('"', quote)
    };
    for spelled in
        [
            each(|byte| format!("&#x{byte:x};")),
            each(|byte| format!("&#X{byte:02X};")),
            each(|byte| format!("&#{byte};")),
            each(|byte| format!("&#{byte:04};")),
            each(|byte| {
                if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("&#{byte};") }
            }),
            // Python's html.escape, Go's html.EscapeString, and what a slash is besides with others.
            named("&#x27;", "&quot;"),
            named("&#39;", "&#34;"),
            named("&#39;", "&quot;").replace('/', "&#x2F;"),
            named("&apos;", "&quot;"),
        ]
    {
        let text = format!("<p>Unknown key {spelled} &amp; nobody</p>");
        let whole = text.replace(&spelled, &"*".repeat(spelled.len()));
        assert_eq!(
            String::from_utf8_lossy(&passed(ODD_KEY, text.as_bytes(), text.len())),
            whole,
            "{spelled}"
        );
        for frame_bytes in 1..text.len() {
            let clean = passed(ODD_KEY, text.as_bytes(), frame_bytes);
            let read = Unescaped::of(&clean, Lines::Kept);
            let least = &ODD_KEY.as_bytes()[HELD_BYTES_MIN - 1..];
            assert!(!holds(read.text(), least), "{frame_bytes}: {}", String::from_utf8_lossy(&clean));
        }
        let other =
            text.replace("0123", "0124").replace("&#x30;&#x31;&#x32;&#x33;", "&#x30;&#x31;&#x32;&#x34;");
        if other != text {
            assert_eq!(passed(ODD_KEY, other.as_bytes(), 7), other.as_bytes(), "it is another key");
        }
    }
}

#[test]
fn p_f7_a_secret_in_base64_that_is_broken_into_lines_is_masked_wherever_it_is_cut() {
    let lines = |text: &str, width: usize, end: &str| {
        let lines: Vec<&str> =
            (0..text.len()).step_by(width).map(|at| &text[at..text.len().min(at + width)]).collect();
        lines.join(end)
    };
    // So much stands before the key that it is on two lines, in each way in which it can be divided.
    for before in 20..64 {
        let encoded =
            STANDARD.encode(format!("{}{KEY}, and more that is of no interest", "x".repeat(before)));
        let piece = &encoded[(8 * before).div_ceil(6)..8 * (before + KEY.len()) / 6];
        for (width, end) in [(76, "\r\n"), (64, "\n"), (76, "\\n"), (64, "\\r\\n")] {
            let wrapped = lines(&encoded, width, end);
            let text = format!("{{\"a\": 1}}\n{wrapped}\n-----END-----\n");
            for frame_bytes in [1, 2, 3, 5, 7, 11, 40, 64, 78, 1000] {
                let clean = String::from_utf8(passed(KEY, text.as_bytes(), frame_bytes)).unwrap();
                assert_eq!(clean.lines().count(), text.lines().count(), "lines stay: {clean}");
                let joined = clean.replace(end, "").replace(['\r', '\n'], "");
                // Of its base64 those characters that it shares with others may stay, and at the beginning those that may not be held.
                for part in piece.as_bytes()[HELD_BYTES_MIN - 1..].windows(6) {
                    assert!(
                        !holds(joined.as_bytes(), part),
                        "{before} before, {width} wide, frames of {frame_bytes}: {clean}"
                    );
                }
            }
        }
    }
    let other = lines(
        &STANDARD.encode("nothing of interest stands in this, however long it is. ".repeat(9)),
        76,
        "\r\n",
    );
    assert_eq!(passed(KEY, other.as_bytes(), 50), other.as_bytes());
}

#[test]
fn p_f7_a_secret_in_utf_16_is_masked_in_either_order_wherever_it_is_cut() {
    let little = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let big = |text: &str| text.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<u8>>();
    let encoded = STANDARD.encode(KEY);
    let hexadecimal: String = KEY.bytes().map(|byte| format!("{byte:02X}")).collect();
    for write in [little, big] {
        for spelled in [KEY, encoded.trim_end_matches('='), &hexadecimal] {
            let sent = write(&format!("\u{feff}{{\"echo\": \"{spelled}\", \"ü\": 1}}"));
            for frame_bytes in 1..sent.len() + 1 {
                let clean = passed(KEY, &sent, frame_bytes);
                let ascii: Vec<u8> = clean.into_iter().filter(|byte| *byte != 0).collect();
                // Of it two characters may be on their way before any may be held.
                assert!(!holds(&ascii, &spelled.as_bytes()[HELD_BYTES_MIN / 2..]), "frames of {frame_bytes}");
            }
            let other = write(&spelled.replace(['4', '0', 'Y'], "5"));
            assert_eq!(passed(KEY, &other, 7), other, "it is another key");
        }
    }
}

#[test]
fn p_i4_empty_lines_behind_the_beginning_of_a_secret_are_not_held() {
    let begun = format!("{}{}", "x".repeat(76), &KEY[..SHOWN_BYTES_MAX]);
    let mut mask = masking(KEY);
    assert_eq!(mask.pass(Bytes::from(begun)).len(), 76);
    assert!(mask.pass(Bytes::from_static(b"\r\n")).is_empty() && mask.holds(), "what follows may go on");
    for _ in 0..1000 {
        let _passed = mask.pass(Bytes::from_static(b"\r\n"));
        assert!(mask.held_bytes() <= 12, "{}", mask.held_bytes());
    }
}

use agentsandbox_policy::Injection;
use proptest::prelude::*;

use super::super::Case;
use super::super::needles::{Anchors, Needles};
use super::*;
use crate::secrets::Secret;

mod encoders;

const KEY: &str = "sk-live-0123456789abcdef";

fn masking(key: &str) -> BodyMask {
    BodyMask::new(Arc::new(Scrubber::new([(&Injection::Bearer, &Secret::of(key))])))
}

fn mask() -> BodyMask {
    masking(KEY)
}

/// The text as it is passed on when it comes in frames of these sizes, the last one repeated.
fn passed(text: &str, frame_bytes: usize) -> String {
    let mut mask = mask();
    let mut clean = Vec::new();
    for frame in text.as_bytes().chunks(frame_bytes) {
        clean.extend_from_slice(&mask.pass(Bytes::copy_from_slice(frame)));
    }
    clean.extend_from_slice(&mask.release());
    String::from_utf8(clean).unwrap()
}

#[test]
fn p_f6_a_secret_is_masked_wherever_a_body_is_cut_but_for_the_bytes_that_may_not_be_held() {
    let text = format!("before {KEY} between {KEY}{KEY} after sk-live-01 sk-");
    let stars = "*".repeat(KEY.len());
    let whole = format!("before {stars} between {stars}{stars} after sk-live-01 sk-");
    for frame_bytes in 1..text.len() + 1 {
        let clean = passed(&text, frame_bytes);
        assert_eq!(clean.len(), text.len(), "frames of {frame_bytes} bytes");
        let least = &KEY[HELD_BYTES_MIN - 1..];
        assert!(!clean.contains(least), "frames of {frame_bytes} bytes: {clean}");
        if frame_bytes >= text.len() {
            assert_eq!(clean, whole);
        }
    }
}

#[test]
fn an_encoded_secret_is_masked_too() {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("user:{KEY}"));
    let clean = passed(&format!("x {encoded} y"), 7);
    assert!(clean.contains("****") && clean.len() == encoded.len() + 4, "{clean}");
}

#[test]
fn a_frame_without_a_secret_is_passed_on_as_it_is_and_at_once() {
    let mut mask = mask();
    let frame = Bytes::from_static(b"data: nothing to see, s\n\n");
    let clean = mask.pass(frame.clone());
    assert_eq!(clean.as_ptr(), frame.as_ptr(), "it was copied");
    assert_eq!(mask.pass(Bytes::from_static(b"...s")), "...s");
    assert!(!mask.holds());
    assert_eq!(mask.held_bytes(), 0);
    assert_eq!(mask.pass(Bytes::from_static(b"...sk-l")), "...");
    assert_eq!((mask.holds(), mask.held_bytes()), (true, 4));
    assert_eq!(mask.pass(Bytes::from_static(b"amp")), "sk-lamp");
}

#[test]
fn p_f7_the_spelling_that_was_sent_in_a_query_and_the_one_of_json_are_masked() {
    let key = "ab+cd/ef==\"0123";
    let mut mask = masking(key);
    for spelled in [
        "ab%2Bcd%2Fef%3D%3D%220123",
        "ab%2bcd%2fef%3d%3d%220123",
        "ab+cd/ef==\\\"0123",
        "ab+cd\\/ef==\\\"0123",
    ] {
        let clean = mask.pass(Bytes::from(format!("<{spelled}>")));
        assert_eq!(clean, format!("<{}>", "*".repeat(spelled.len())), "{spelled}");
    }
}

/// A key and, by the command that made it, how an encoder writes it.
fn spellings() -> (&'static str, Vec<(&'static str, &'static str)>) {
    let mut lines = include_str!("../fixtures/spellings.txt").lines().filter(|line| !line.starts_with("# "));
    let key = lines.next().unwrap();
    let all: Vec<_> = std::iter::from_fn(|| Some((lines.next()?, lines.next()?))).collect();
    (key, all)
}

#[test]
fn p_f7_a_body_is_masked_in_the_spellings_of_the_encoders_in_use() {
    let (key, all) = spellings();
    assert_eq!(all.len(), 13);
    let mut mask = masking(key);
    // The digits of each escape in upper or in lower case: programs differ.
    let digits = |text: &str, upper: bool| {
        let sign = if text.contains("\\u00") { "\\u00" } else { "%" };
        let mut parts = text.split(sign);
        let first = parts.next().unwrap().to_owned();
        parts.fold(first, |text, part| {
            let (hex, rest) = part.split_at(2);
            text + sign + &if upper { hex.to_uppercase() } else { hex.to_lowercase() } + rest
        })
    };
    for (command, spelled) in all {
        let both = [digits(spelled, true), digits(spelled, false)];
        assert!(both.contains(&spelled.to_owned()), "{command}");
        for spelled in both {
            let clean = mask.pass(Bytes::from(format!("<{spelled}>")));
            assert_eq!(clean, format!("<{}>", "*".repeat(spelled.len())), "{command}: {spelled}");
        }
        let other = spelled.replacen('4', "5", 1);
        assert_eq!(mask.pass(Bytes::from(other.clone())), other, "{command}: it is another key");
    }
}

#[test]
fn p_f7_a_body_is_masked_where_what_an_encoder_wrote_is_encoded_once_more() {
    let (key, all) = spellings();
    let mut mask = masking(key);
    let percent = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    for (command, spelled) in all {
        // As a URL in a URL, and as JSON text in JSON, of which PHP escapes the slashes, too.
        let json = spelled.replace('\\', "\\\\").replace('"', "\\\"");
        let php = json.replace('/', "\\/");
        for twice in [spelled.bytes().map(percent).collect::<String>(), json, php] {
            let clean = mask.pass(Bytes::from(format!("<{twice}>")));
            assert_eq!(clean, format!("<{}>", "*".repeat(twice.len())), "{command}: {twice}");
        }
    }
}

#[test]
fn p_f7_a_body_is_masked_in_the_spelling_that_was_sent_in_a_path() {
    let (key, _) = spellings();
    let placeholder = "placeholder-0123".to_owned();
    let target = agentsandbox_policy::Target::parse("/bot/placeholder-0123").unwrap();
    let sent = target.with_path_segment("/bot/", &[placeholder], key).unwrap();
    let spelled = sent.strip_prefix("/bot/").unwrap();
    assert!(spelled.contains("%3D:~") && spelled != key, "{spelled}");
    let clean = masking(key).pass(Bytes::from(format!("no such method: {sent}!")));
    assert_eq!(clean, format!("no such method: /bot/{}!", "*".repeat(spelled.len())));
}

#[test]
fn p_f7_base64_of_a_secret_is_masked_as_a_query_and_json_text_spell_it() {
    use base64::Engine as _;
    let (key, _) = spellings();
    let encoded = base64::engine::general_purpose::STANDARD.encode(key);
    assert!(encoded.contains('+') && encoded.contains('/'));
    let query = encoded.replace('+', "%2b").replace('/', "%2f");
    for spelled in [encoded.clone(), query, encoded.replace('/', "\\/")] {
        let clean = masking(key).pass(Bytes::from(format!("<{spelled}>")));
        assert_eq!(clean, format!("<{}>", "*".repeat(spelled.len())), "{spelled}");
    }
}

/// The text with each byte written as this number says.
fn escaped(text: &str, choices: &[u8]) -> String {
    let written = |(at, byte): (usize, u8)| match choices[at % choices.len()] {
        0 => char::from(byte).to_string(),
        1 => format!("%{byte:02X}"),
        2 => format!("%{byte:02x}"),
        3 => format!("\\u{byte:04X}"),
        5 => format!("&#x{byte:x};"),
        6 => format!("&#{byte};"),
        7 if matches!(byte, b'"' | b'\\' | b'/') => format!("\\{}", char::from(byte)),
        7 => char::from(byte).to_string(),
        _ => format!("\\u{byte:04x}"),
    };
    text.bytes().enumerate().map(written).collect()
}

#[test]
fn p_f6_a_secret_whose_every_byte_is_escaped_is_masked_in_a_body() {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("user:{KEY}?~~>"));
    for choices in [&[1][..], &[2], &[3], &[4], &[5], &[6], &[0, 4], &[0, 0, 1], &[3, 2, 0], &[5, 6, 0]] {
        let spelled = escaped(KEY, choices);
        let clean = mask().pass(Bytes::from(format!("{{\"echo\":\"{spelled}\"}}")));
        assert_eq!(clean, format!("{{\"echo\":\"{}\"}}", "*".repeat(spelled.len())), "{spelled}");
        let other = escaped(&KEY.replace('5', "6"), choices);
        let mut mask = mask();
        assert_eq!(
            [mask.pass(Bytes::from(other.clone())), mask.release()].concat(),
            other.as_bytes(),
            "{other}"
        );
    }
    // As no encoder does, and as a hostile one may.
    for choices in [&[7, 7, 7, 0][..], &[0, 0, 7], &[7, 0]] {
        let key = r#"sk/live/0123/4567"89\ab/cd\ef/gh"#;
        let spelled = escaped(key, choices);
        for bytes in 1..=spelled.len() {
            let mut mask = masking(key);
            let (begin, end) = spelled.split_at(bytes);
            let clean =
                [begin, end].map(|frame| mask.pass(Bytes::copy_from_slice(frame.as_bytes()))).concat();
            let clean = String::from_utf8([clean, mask.release().to_vec()].concat()).unwrap();
            let shown = clean.trim_end_matches('*').len();
            assert!(shown < HELD_BYTES_MIN && clean.len() == spelled.len(), "{spelled} at {bytes}: {clean}");
        }
    }
    // As .NET and Gson write base64.
    let json = encoded.replace('+', "\\u002B").replace('=', "\\u003d");
    let clean = masking(&format!("{KEY}?~~>")).pass(Bytes::from(json.clone()));
    assert!(clean.windows(8).any(|part| part == b"********"), "{json}: {clean:?}");
}

proptest! {
    #[test]
    fn p_f6_no_choice_of_escapes_and_no_cut_lets_a_secret_out_of_a_body(
        choices in prop::collection::vec(0_u8..7, 1..30),
        before in "[a-z%\\\\u0&#x]{0,6}",
        cuts in prop::collection::vec(1_usize..40, 1..20),
    ) {
        let sent = format!("{before} {} after, and more of it", escaped(KEY, &choices));
        let (mut mask, mut clean, mut rest) = (mask(), Vec::new(), sent.as_bytes());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (frame, further) = rest.split_at((*cut).min(rest.len()));
            clean.extend_from_slice(&mask.pass(Bytes::copy_from_slice(frame)));
            rest = further;
        }
        clean.extend_from_slice(&mask.release());
        prop_assert_eq!(clean.len(), sent.len());
        let read = Unescaped::of(&clean, Lines::Kept);
        let shown = &KEY.as_bytes()[HELD_BYTES_MIN - 1..];
        prop_assert!(!read.text().windows(shown.len()).any(|part| part == shown), "{}", String::from_utf8_lossy(&clean));
    }
}

#[test]
fn p_f6_an_escaped_secret_that_the_end_of_a_body_cuts_off_shows_no_more_than_its_kind() {
    for bytes in [SHOWN_BYTES_MAX, SHOWN_BYTES_MAX + 1] {
        let spelled = escaped(&KEY[..bytes], &[4]);
        let mut mask = mask();
        assert_eq!(mask.pass(Bytes::from(spelled.clone())), "");
        let shown = if bytes > SHOWN_BYTES_MAX { "*".repeat(spelled.len()) } else { spelled };
        assert_eq!(mask.release(), shown);
        let rest = escaped(&KEY[bytes..], &[1]);
        assert_eq!(mask.pass(Bytes::from(rest.clone())), "*".repeat(rest.len()));
    }
}

#[test]
fn what_an_escape_ends_with_begins_no_secret_wherever_the_escape_is_cut() {
    let key = "71-live-0123456789abcdef";
    let mut whole = masking(key);
    let body = "at %271-live-0123%";
    let mut out = whole.pass(Bytes::from_static(body.as_bytes())).to_vec();
    out.extend_from_slice(&whole.release());
    assert_eq!(String::from_utf8_lossy(&out), body, "its first letter is of an escape");
    for (cut, again) in [(6, 9), (6, 17), (7, 12)] {
        let mut mask = masking(key);
        let frames = [&body[..cut], &body[cut..again], &body[again..]];
        let mut out = frames.map(|frame| mask.pass(Bytes::from_static(frame.as_bytes()))).concat();
        out.extend_from_slice(&mask.release());
        assert_eq!(String::from_utf8_lossy(&out), body, "cut at {cut} and {again}");
    }
    let mut mask = masking(key);
    let mut out = mask.pass(Bytes::from_static(b"at %2 71-live-0123%")).to_vec();
    out.extend_from_slice(&mask.release());
    assert!(out.ends_with(b"**"), "what begins one is masked: {}", String::from_utf8_lossy(&out));
}

#[test]
fn what_follows_released_bytes_is_still_masked() {
    let mut mask = mask();
    let (left, right) = KEY.split_at(SHOWN_BYTES_MAX);
    assert_eq!(mask.pass(Bytes::from(left)), "");
    assert_eq!(mask.release(), left);
    assert_eq!(mask.pass(Bytes::from(right)), "*".repeat(right.len()));
}

#[test]
fn p_f6_a_secret_that_the_end_of_a_body_cuts_off_shows_no_more_than_its_kind() {
    for length in 1..KEY.len() {
        let cut = passed(&format!("x{}", &KEY[..length]), KEY.len() + 1);
        let shown = if length > SHOWN_BYTES_MAX { "*".repeat(length) } else { KEY[..length].to_owned() };
        assert_eq!(cut, format!("x{shown}"), "{length} bytes");
    }
    // Of a short secret half is too much.
    let mut short = masking("12345678");
    assert_eq!((short.pass(Bytes::from("1234")), short.release()), (Bytes::new(), Bytes::from("****")));
    assert_eq!(short.pass(Bytes::from("5678")), "****");
}

#[test]
fn p_f6_bytes_that_are_released_one_by_one_show_no_more_than_those_released_at_once() {
    let mut mask = mask();
    let mut shown = Vec::new();
    for byte in KEY.bytes() {
        shown.extend_from_slice(&mask.pass(Bytes::from(vec![byte])));
        shown.extend_from_slice(&mask.release());
    }
    let expected = format!("{}{}", &KEY[..SHOWN_BYTES_MAX], "*".repeat(KEY.len() - SHOWN_BYTES_MAX));
    assert_eq!(String::from_utf8(shown).unwrap(), expected);
}

/// The mask as it would be written if speed did not matter: all that came is kept and looked through from its beginning
/// with each frame, needle by needle and place by place.
#[derive(Default)]
struct Plain {
    needles: Vec<String>,
    passed: Vec<u8>,
    held: Vec<u8>,
}

impl Plain {
    fn masked(&self, text: &[u8]) -> Vec<u8> {
        let mut masked = text.to_vec();
        for needle in &self.needles {
            for at in 0..text.len() {
                if text[at..].starts_with(needle.as_bytes()) {
                    masked[at..at + needle.len()].fill(MASK);
                }
            }
        }
        masked
    }

    /// For each needle, how much of it the text ends with.
    fn begun(&self, text: &[u8]) -> Vec<(usize, usize)> {
        let begun =
            |needle: &String| (1..needle.len()).rev().find(|n| text.ends_with(&needle.as_bytes()[..*n]));
        self.needles.iter().map(|needle| (begun(needle).unwrap_or(0), needle.len())).collect()
    }

    fn pass(&mut self, frame: &[u8]) -> Vec<u8> {
        let (from, text) = (self.passed.len(), [&self.passed[..], &self.held, frame].concat());
        let begun =
            self.begun(&text).into_iter().map(|(bytes, _)| bytes).filter(|bytes| *bytes >= HELD_BYTES_MIN);
        let until = text.len() - begun.max().unwrap_or(0).min(text.len() - from);
        (self.passed, self.held) = (text[..until].to_vec(), text[until..].to_vec());
        self.masked(&text)[from..until].to_vec()
    }

    fn release(&mut self) -> Vec<u8> {
        let (from, text) = (self.passed.len(), [&self.passed[..], &self.held].concat());
        self.held.clear();
        self.passed.clone_from(&text);
        if self.begun(&text).into_iter().any(|(bytes, length)| shows_too_much(bytes, length)) {
            return vec![MASK; text.len() - from];
        }
        self.masked(&text)[from..].to_vec()
    }
}

fn masking_all(needles: &[String]) -> BodyMask {
    let bodies = Needles::new(needles.iter().map(|needle| needle.clone().into_bytes().into()).collect());
    let anchors = Anchors::new(std::iter::empty(), Case::Any);
    let firsts = super::super::Firsts::of(std::iter::empty());
    BodyMask::new(Arc::new(Scrubber {
        needles: Vec::new(),
        anchors,
        firsts,
        bodies,
        wide: Needles::new(Vec::new()),
        short: Vec::new(),
    }))
}

/// A few needles of few letters, so that they overlap each other and themselves; and a body in frames, made of parts of them
/// and of other text. After a frame that is marked what is held is released.
fn needles_and_frames() -> impl Strategy<Value = (Vec<String>, Vec<(String, bool)>)> {
    let needles = prop::collection::vec(prop_oneof!["[ab]{1,5}", "[ab]{4,20}", "sk-[a-c]{2,20}"], 1..5);
    let related =
        (needles, any::<prop::sample::Index>(), "[abs]{0,9}").prop_map(|(mut needles, which, more)| {
            // As when a key was replaced by a longer one.
            needles.push(format!("{}{more}", which.get(&needles)));
            needles
        });
    related.prop_flat_map(|needles| {
        let part = (any::<prop::sample::Index>(), 0_usize..22, 0_usize..22);
        let of_needle = (Just(needles.clone()), part).prop_map(|(needles, (which, from, length))| {
            which.get(&needles).chars().skip(from / 4).take(length).collect::<String>()
        });
        let piece = prop_oneof![3 => of_needle, 1 => "[abcsk-]{0,6}"];
        let frames = prop::collection::vec((prop::collection::vec(piece, 0..4), any::<bool>()), 0..9);
        let joined = frames.prop_map(|frames| {
            frames.into_iter().map(|(pieces, released)| (pieces.concat(), released)).collect()
        });
        (Just(needles), joined)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn p_f6_one_pass_for_all_secrets_masks_and_holds_what_a_plain_search_does((needles, frames) in needles_and_frames()) {
        let mut mask = masking_all(&needles);
        let mut plain = Plain { needles: needles.clone(), ..Plain::default() };
        for (frame, is_released) in &frames {
            let clean = mask.pass(Bytes::from(frame.clone()));
            prop_assert_eq!(clean, plain.pass(frame.as_bytes()), "{:?}: {:?}", needles, frames);
            prop_assert_eq!(mask.held_bytes(), u64::try_from(plain.held.len()).unwrap());
            if *is_released {
                prop_assert_eq!(mask.release(), plain.release(), "{:?}: {:?}", needles, frames);
            }
        }
    }

    #[test]
    fn p_f6_whatever_is_sent_and_however_it_is_cut_no_secret_comes_out((needles, frames) in needles_and_frames()) {
        let mut mask = masking_all(&needles);
        let mut out = Vec::new();
        for (frame, is_released) in &frames {
            out.extend_from_slice(&mask.pass(Bytes::from(frame.clone())));
            if *is_released {
                out.extend_from_slice(&mask.release());
            }
        }
        out.extend_from_slice(&mask.release());
        let out = String::from_utf8(out).unwrap();
        let sent: usize = frames.iter().map(|(frame, _)| frame.len()).sum();
        prop_assert_eq!(out.len(), sent);
        for needle in &needles {
            prop_assert!(!out.contains(needle), "{} in {}, of {:?}", needle, out, frames);
        }
    }
}

#[test]
fn p_f6_what_is_held_is_masked_where_another_secret_is_complete_in_it() {
    // The second key begins as the first one, which it replaced.
    let mut mask = masking_all(&["key-one".to_owned(), "key-one-and-more-of-it".to_owned()]);
    assert_eq!(mask.pass(Bytes::from("is key-one")), "is ");
    assert_eq!(mask.release(), "*******");
    assert_eq!(mask.pass(Bytes::from("-and-more-of-it")), "*".repeat(15));
    // And nothing is masked that only begins it.
    assert_eq!(
        (mask.pass(Bytes::from(" key-on")), mask.release()),
        (Bytes::from(" "), Bytes::from("******"))
    );
    assert_eq!((mask.pass(Bytes::from("!")), mask.release()), (Bytes::from("!"), Bytes::new()));
}

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;

const SECRET: &str = "sk-Re/al%+41?0123456789";

fn scrubber(injection: &Injection, secret: &str) -> Scrubber {
    Scrubber::new([(injection, &Secret::of(secret))])
}

fn query() -> Injection {
    Injection::Query { name: "key".to_owned() }
}

fn clean(text: &str) -> String {
    let clean = scrubber(&query(), SECRET).redacted(text.as_bytes());
    clean.map_or_else(|| text.to_owned(), |clean| String::from_utf8(clean).unwrap())
}

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn p_f6_an_echo_is_found_in_each_spelling() {
    let json: String = SECRET.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let reserved = SECRET.replace('%', "%25").replace('/', "%2f").replace('+', "%2B").replace('?', "%3F");
    for spelled in [
        SECRET.to_owned(),
        reserved.clone(),
        percent(SECRET),
        percent(SECRET).to_lowercase(),
        percent(&percent(SECRET)),
        reserved.replace('%', "%25"),
        SECRET.replace('/', "\\/"),
        json,
        STANDARD.encode(SECRET),
        percent(&STANDARD.encode(SECRET)),
        SECRET.bytes().map(|byte| format!("{byte:02x}")).collect(),
        SECRET.bytes().map(|byte| format!("{byte:02X}")).collect(),
    ] {
        let text = format!("https://x.test/cb?key={spelled}&a=b");
        let cleaned = clean(&text);
        assert!(cleaned.starts_with("https://x.test/cb?key=[redacted]"), "{spelled}: {cleaned}");
        assert!(cleaned.ends_with("&a=b"), "{spelled}: {cleaned}");
    }
}

#[test]
fn hexadecimal_is_found_with_each_digit_in_either_case() {
    let secret = "*+,-./018JZ[]^_\\gyI";
    let digits: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!("0123456789abcdef".chars().all(|digit| digits.contains(digit)), "{digits}");
    for written in [digits.clone(), digits.to_uppercase()] {
        assert_eq!(
            scrubber(&query(), secret).redacted(written.as_bytes()).unwrap(),
            REPLACEMENT,
            "{written}"
        );
    }
}

#[test]
fn p_f7_base64_is_found_at_each_alignment_in_both_alphabets() {
    for (before, after) in
        [("", ""), ("a", ""), ("ab", ""), ("abc", "x"), ("user:", "xy"), ("{\"k\":\"", "\"}")]
    {
        let text = format!("{before}{SECRET}{after}");
        for encoded in [STANDARD.encode(&text), URL_SAFE_NO_PAD.encode(&text)] {
            let cleaned = clean(&encoded);
            let kept = encoded.len() - (SECRET.len() * 4 / 3 - 2);
            assert!(cleaned.contains("[redacted]"), "{text}: {encoded}");
            assert!(cleaned.len() <= kept + REPLACEMENT.len(), "too much of it stays: {cleaned}");
        }
    }
}

#[test]
fn p_f7_the_rendered_credential_is_replaced_as_a_whole() {
    let scrubber =
        scrubber(&Injection::Basic { username: "x-access-token".to_owned() }, "ghp_0123456789abcdef");
    let rendered = STANDARD.encode("x-access-token:ghp_0123456789abcdef");
    let mut headers = HeaderMap::new();
    headers.insert("x-echo", format!("Basic {rendered}; {rendered}").parse().unwrap());
    headers.insert("x-ghp_0123456789ABCDEF-y", HeaderValue::from_static("1"));
    headers.insert("x-other", HeaderValue::from_static("ghp_other"));
    headers.insert("x-ghp_other", HeaderValue::from_static("1"));
    scrubber.scrub(&mut headers);
    assert!(headers["x-echo"].to_str().unwrap().starts_with("Basic [redacted]"));
    assert!(!headers["x-echo"].to_str().unwrap().contains(&rendered[..8]));
    assert!(headers.contains_key("x-ghp_other"), "a name that only begins like the secret stays");
    assert_eq!((headers.len(), &headers["x-other"]), (3, &HeaderValue::from_static("ghp_other")));
}

#[test]
fn what_only_looks_like_the_secret_stays() {
    for text in ["", "%", "%zz", "\\u00", "sk-Re/al", "%73%6b-other", &SECRET[1..], "c2stUmUvYWw"] {
        assert_eq!(clean(text), text);
    }
    let short = scrubber(&query(), "ab");
    assert_eq!(
        short.redacted(b"YWI= 6162"),
        None,
        "the encodings of a short secret would be found by chance"
    );
    assert_eq!(short.redacted(b"cab").unwrap(), b"c[redacted]");
}

#[test]
fn p_f7_behind_an_escape_letters_count_as_they_do_elsewhere() {
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02X}")).collect();
    assert_eq!(clean(&format!("%2f{hex}")), "%2f[redacted]");
    assert_eq!(clean(&format!("%2f{SECRET}")), "%2f[redacted]");
    let other = format!("%2f{}", SECRET.to_uppercase());
    assert_eq!(clean(&other), other, "it is another secret");
    let wide: String = SECRET.chars().map(|c| format!("\\u01{:02x}", u32::from(c))).collect();
    assert_eq!(clean(&wide), wide, "these are other letters");
}

#[test]
fn p_f6_secrets_that_touch_are_each_replaced_and_those_that_overlap_as_one() {
    assert_eq!(clean(&format!("<{SECRET}{SECRET}>")), "<[redacted][redacted]>");
    let both = [&Secret::of("abcdefgh-12345678"), &Secret::of("12345678-ijklmnop")];
    let injection = query();
    let scrubber = Scrubber::new(both.map(|secret| (&injection, secret)));
    assert_eq!(scrubber.redacted(b"<abcdefgh-12345678-ijklmnop>").unwrap(), b"<[redacted]>");
}

proptest! {
    #[test]
    fn p_f7_no_choice_of_escapes_hides_a_secret(
        secret in "[!-~]{8,40}", choice in prop::collection::vec(0..6_u8, 40), before in "[ -~]{0,9}", after in "[ -~]{0,9}",
    ) {
        let spelled: String = secret.bytes().zip(choice).map(|(byte, choice)| match choice {
            0 => format!("%{byte:02x}"),
            1 => format!("%{byte:02X}"),
            2 => format!("%25{byte:02x}"),
            3 => format!("%2525{byte:02X}"),
            4 => format!("\\u00{byte:02x}"),
            _ => char::from(byte).to_string(),
        }).collect();
        let text = format!("{before}{spelled}{after}");
        let cleaned = scrubber(&query(), &secret).redacted(text.as_bytes());
        prop_assert!(cleaned.is_some_and(|cleaned| !String::from_utf8_lossy(&cleaned).contains(&spelled)), "{}", text);
    }
}

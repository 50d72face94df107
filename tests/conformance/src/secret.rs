//! The secret that must not come back, and the spellings in which it could.

use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

/// What the proxy injects. It has characters that base64, percent-encoding and JSON spell differently.
pub const REAL: &str = "sk-REAL/0123456789+abcdef?~xyz";
/// What the agent has of its own, which must be taken out.
pub const OWN: &str = "sk-own-9876543210";

/// A way in which a secret could come back.
pub struct Spelling {
    /// What answers of vectors write for it: `{real}`, `{real-base64}` …
    pub name: &'static str,
    /// The secret in it, whole.
    pub text: String,
    /// The part of it that depends on nothing but the secret, by which it is found.
    pub core: String,
}

/// All of [`REAL`].
#[must_use]
pub fn spellings() -> Vec<Spelling> {
    spellings_of(REAL)
}

/// All of a secret.
#[must_use]
pub fn spellings_of(secret: &str) -> Vec<Spelling> {
    let json: String = secret.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    let every: String = secret.bytes().map(|b| format!("%{b:02X}")).collect();
    let some: String = secret
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02x}") })
        .collect();
    let plain = |name, text: String| Spelling { name, core: text.clone(), text };
    vec![
        plain("{real}", secret.to_owned()),
        base64("{real-base64}", secret, 0, &STANDARD_NO_PAD),
        base64("{real-base64-1}", secret, 1, &STANDARD_NO_PAD),
        base64("{real-base64-2}", secret, 2, &STANDARD_NO_PAD),
        base64("{real-base64url}", secret, 0, &URL_SAFE_NO_PAD),
        base64("{real-base64url-1}", secret, 1, &URL_SAFE_NO_PAD),
        base64("{real-base64url-2}", secret, 2, &URL_SAFE_NO_PAD),
        plain("{real-hex}", secret.bytes().map(|b| format!("{b:02x}")).collect()),
        plain("{real-hex-upper}", secret.bytes().map(|b| format!("{b:02X}")).collect()),
        plain("{real-percent}", some),
        plain("{real-percent-every}", every.clone()),
        plain("{real-percent-lower}", every.to_lowercase()),
        plain("{real-json}", json),
        plain("{real-json-slash}", secret.replace('/', "\\/")),
    ]
}

/// Base64 of the secret behind `shift` bytes of something else, whose bits reach into its first characters; bits of what
/// follows reach into its last.
fn base64(name: &'static str, secret: &str, shift: usize, engine: &impl base64::Engine) -> Spelling {
    let bytes = [b"xy".get(..shift).unwrap_or_default(), secret.as_bytes()].concat();
    let text = engine.encode(&bytes);
    let core = text.get((8 * shift).div_ceil(6)..8 * bytes.len() / 6).unwrap_or_default().to_owned();
    Spelling { name, text, core }
}

/// The spelling of [`REAL`] that stands in these bytes, if one does.
#[must_use]
pub fn found_in(bytes: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(bytes);
    spellings()
        .into_iter()
        .find(|spelling| text.contains(spelling.core.as_str()))
        .map(|spelling| spelling.name)
}

/// A text with each `{real…}` in place.
#[must_use]
pub fn filled_in(text: &str) -> String {
    let own = text.replace("{own}", OWN);
    spellings().into_iter().fold(own, |text, spelling| text.replace(spelling.name, &spelling.text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state their claims by it")]
mod tests {
    use base64::Engine as _;

    use super::*;

    #[test]
    fn every_spelling_is_found_and_nothing_else_is() {
        for spelling in spellings() {
            assert!(found_in(format!("a {} b", spelling.text).as_bytes()).is_some(), "{}", spelling.name);
        }
        assert_eq!(found_in(b"sk-REAL [redacted] abc"), None);
    }

    #[test]
    fn base64_is_found_at_each_alignment() {
        for before in ["", "u", "us", "usr", "user:"] {
            let text = base64::engine::general_purpose::STANDARD.encode(format!("{before}{REAL} and more"));
            assert!(found_in(text.as_bytes()).is_some(), "{before}");
        }
    }
}

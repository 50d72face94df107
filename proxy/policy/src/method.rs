//! Request methods. They are case-sensitive (RFC 9110, 9.1), so `get` is malformed here and never quietly `GET`.

use std::borrow::Cow;
use std::fmt;

use crate::Malformed;

const METHOD_BYTES_MAX: usize = 32;
/// What a rule without `methods` allows. HEAD stands beside GET here, but a rule that lists GET alone allows GET alone.
pub(crate) const ORDINARY: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Never allowed, whatever a rule lists: TRACE and TRACK echo the request with the credential in it, CONNECT opens a
/// tunnel behind the proxy's back, and DEBUG starts a debugger on some servers.
const NEVER: [&str; 4] = ["CONNECT", "DEBUG", "TRACE", "TRACK"];

/// A method in the one spelling that is judged and sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Method(Cow<'static, str>);

impl Method {
    /// Reads an upper-case method name.
    ///
    /// # Errors
    /// [`Malformed`] when the text is empty, too long, or holds anything but `A-Z`, `0-9`, `-` and `_`.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let token =
            |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        if text.is_empty() || text.len() > METHOD_BYTES_MAX {
            return Err(Malformed::method("it must have 1 to 32 letters"));
        }
        if !text.bytes().all(token) {
            return Err(Malformed::method("it must be written in upper case"));
        }
        let known = ORDINARY.into_iter().find(|known| *known == text);
        Ok(Self(known.map_or_else(|| Cow::Owned(text.to_owned()), Cow::Borrowed)))
    }

    /// The method as it stands in a request line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text; a copy is made of unusual ones only.
    #[must_use]
    pub fn text(&self) -> Cow<'static, str> {
        self.0.clone()
    }

    /// Whether no rule can ever allow it: CONNECT, DEBUG, TRACE and TRACK.
    #[must_use]
    pub fn is_never_allowed(&self) -> bool {
        NEVER.contains(&self.as_str())
    }

    /// What a rule that lists no methods allows.
    #[must_use]
    pub const fn ordinary() -> &'static [&'static str] {
        &ORDINARY
    }

    /// Whether a rule that lists no methods allows it.
    pub(crate) fn is_ordinary(&self) -> bool {
        ORDINARY.contains(&self.as_str())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_e5_lower_case_methods_are_malformed_and_unknown_ones_are_not_ordinary() {
        for text in ["get", "Get", "", "GE T", "GET\r\n", "GET\0", "ＧＥＴ", &"A".repeat(33)] {
            assert!(Method::parse(text).is_err(), "{text:?}");
        }
        for (text, ordinary) in [("GET", true), ("HEAD", true), ("PATCH", true), ("PROPFIND", false)] {
            let method = Method::parse(text).unwrap();
            assert_eq!((method.as_str(), method.is_ordinary()), (text, ordinary));
        }
    }

    #[test]
    fn a_method_has_at_most_32_letters_digits_hyphens_and_underscores() {
        for text in ["M-SEARCH", "X_1", "9", "-", "_", &"A".repeat(32)] {
            assert_eq!(Method::parse(text).map(|method| method.to_string()).as_deref(), Ok(text));
        }
        assert!(Method::parse(&"A".repeat(33)).is_err() && Method::parse("A.B").is_err());
    }

    #[test]
    fn the_text_of_a_method_is_what_it_was_read_from() {
        for text in ["GET", "PROPFIND"] {
            assert_eq!(Method::parse(text).unwrap().text(), text);
        }
    }

    #[test]
    fn what_a_rule_without_methods_allows_is_what_is_named_as_ordinary() {
        let named = Method::ordinary();
        for text in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "TRACE"] {
            assert_eq!(named.contains(&text), Method::parse(text).unwrap().is_ordinary(), "{text}");
        }
        assert!(named.contains(&"GET") && named.iter().all(|text| Method::parse(text).is_ok()));
    }

    #[test]
    fn p_a19_methods_that_echo_or_tunnel_are_never_allowed() {
        for text in NEVER {
            let method = Method::parse(text).unwrap();
            assert!(method.is_never_allowed() && !method.is_ordinary(), "{text}");
        }
        assert!(!Method::parse("POST").unwrap().is_never_allowed());
    }
}

//! What a rule bounds beside what it allows: how much may go up under it and in which fields, and what may come back. Nothing here allows
//! anything; whoever sends counts.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::document::{
    AnswerDocument, BYTES_MAX, CONTENT_TYPES_MAX, DRAIN_SECONDS_MAX, HEADERS_MAX, LimitsDocument,
};

/// What a rule bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub(crate) upload: Option<UploadLimits>,
    pub(crate) answer: Option<AnswerLimits>,
    pub(crate) headers: Option<Vec<String>>,
}

/// What of an answer is passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerLimits {
    max_bytes: Option<u64>,
    content_types: Option<Vec<String>>,
}

/// How many bytes may be sent to the hosts of one pattern. All rules that write the same pattern count together, each up to
/// limits of its own: more rules send no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadLimits {
    pattern: Arc<str>,
    total: Option<u64>,
    per_minute: Option<u64>,
}

impl Bounds {
    /// How much may go up; none where it is neither bounded nor counted for another rule.
    #[must_use]
    pub const fn upload(&self) -> Option<&UploadLimits> {
        self.upload.as_ref()
    }

    /// Names of the only fields that are passed on, in lower case; none where all are.
    #[must_use]
    pub fn headers(&self) -> Option<&[String]> {
        self.headers.as_deref()
    }

    /// What may come back; none where every answer may.
    #[must_use]
    pub const fn answer(&self) -> Option<&AnswerLimits> {
        self.answer.as_ref()
    }
}

impl AnswerLimits {
    /// Longest body, in bytes.
    #[must_use]
    pub const fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// Whether a body may be of what its `Content-Type` says; without one, only where any may.
    #[must_use]
    pub fn takes(&self, content_type: Option<&str>) -> bool {
        let Some(allowed) = &self.content_types else { return true };
        let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let essence = essence.to_ascii_lowercase();
        allowed.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(kind) => essence.strip_prefix(kind).is_some_and(|rest| !rest.is_empty()),
            None => *allowed == essence,
        })
    }
}

impl UploadLimits {
    /// Limits over the hosts of a pattern, in bytes. Without either, what is sent is only counted.
    #[must_use]
    pub fn new(pattern: &str, total: Option<u64>, per_minute: Option<u64>) -> Self {
        Self { pattern: pattern.into(), total, per_minute }
    }

    /// The pattern whose hosts count together, in its canonical spelling.
    #[must_use]
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Bytes in all.
    #[must_use]
    pub const fn total(&self) -> Option<u64> {
        self.total
    }

    /// Bytes in any sixty seconds.
    #[must_use]
    pub const fn per_minute(&self) -> Option<u64> {
        self.per_minute
    }
}

impl fmt::Display for UploadLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.total, self.per_minute) {
            (Some(total), Some(minute)) => write!(f, "{total} bytes in all and {minute} bytes a minute"),
            (Some(total), None) => write!(f, "{total} bytes in all"),
            (None, Some(minute)) => write!(f, "{minute} bytes a minute"),
            (None, None) => f.write_str("any number of bytes"),
        }
    }
}

/// Reads the limits of a rule; each fault is told with the field it is in.
pub(crate) fn upload(
    pattern: &str,
    document: &LimitsDocument,
    mut fault: impl FnMut(&str, &str),
) -> UploadLimits {
    let LimitsDocument { upload_bytes, upload_bytes_per_minute } = document;
    if upload_bytes.is_none() && upload_bytes_per_minute.is_none() {
        fault("", "write uploadBytes, uploadBytesPerMinute or both, or leave limits out");
    }
    let both = [("uploadBytes", upload_bytes), ("uploadBytesPerMinute", upload_bytes_per_minute)];
    for (field, bytes) in both {
        if bytes.is_some_and(|bytes| !(1..=BYTES_MAX).contains(&bytes)) {
            fault(field, "write a number of bytes from 1 to 2^50");
        }
    }
    UploadLimits::new(pattern, *upload_bytes, *upload_bytes_per_minute)
}

/// Reads what a rule says of answers; each fault is told with the field it is in.
pub(crate) fn answer(document: AnswerDocument, mut fault: impl FnMut(&str, &str)) -> AnswerLimits {
    let AnswerDocument { max_bytes, content_types } = document;
    if max_bytes.is_none() && content_types.is_none() {
        fault("", "write maxBytes, contentTypes or both, or leave answer out");
    }
    if max_bytes.is_some_and(|bytes| !(1..=BYTES_MAX).contains(&bytes)) {
        fault("maxBytes", "write a number of bytes from 1 to 2^50");
    }
    let types = content_types.as_deref();
    if types.is_some_and(|types| types.is_empty() || types.len() > CONTENT_TYPES_MAX) {
        fault("contentTypes", "write 1 to 16 media types, or leave contentTypes out");
    }
    if types.is_some_and(|types| !types.iter().all(|text| is_media_type(text))) {
        fault("contentTypes", "write media types in lower case, such as application/json or text/*");
    }
    AnswerLimits { max_bytes, content_types }
}

/// Reads the list of fields of a rule.
pub(crate) fn headers(list: Vec<String>, mut fault: impl FnMut(&str)) -> Vec<String> {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    let is_name = |name: &String| (1..=64).contains(&name.len()) && name.bytes().all(token);
    if list.is_empty() || list.len() > HEADERS_MAX || !list.iter().all(is_name) {
        fault("write 1 to 32 header names in lower case, such as accept, or leave headers out");
    }
    list
}

/// RFC 9110, 8.3.1, without parameters; of the tokens those that are registered (RFC 6838, 4.2).
fn is_media_type(text: &str) -> bool {
    let is_name = |name: &str| {
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$&-^_.+".contains(&byte);
        (1..=64).contains(&name.len()) && name.bytes().all(plain)
    };
    text.split_once('/').is_some_and(|(kind, name)| is_name(kind) && (name == "*" || is_name(name)))
}

/// How long what is on its way may take once it has no rule any more.
pub(crate) fn drain(seconds: Option<u16>) -> Result<Duration, String> {
    match seconds {
        None => Ok(Duration::ZERO),
        Some(seconds @ 1..=DRAIN_SECONDS_MAX) => Ok(Duration::from_secs(seconds.into())),
        Some(_) => Err(format!("write 1 to {DRAIN_SECONDS_MAX} seconds, or nothing to end at once")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_say_whose_they_are_and_how_much_they_let_go() {
        for (total, minute, text) in [
            (Some(100), Some(10), "100 bytes in all and 10 bytes a minute"),
            (Some(100), None, "100 bytes in all"),
            (None, Some(10), "10 bytes a minute"),
            (None, None, "any number of bytes"),
        ] {
            let limits = UploadLimits::new("*.a.test", total, minute);
            assert_eq!((limits.pattern(), limits.total(), limits.per_minute()), ("*.a.test", total, minute));
            assert_eq!(limits.to_string(), text);
        }
    }
}

//! What a rule bounds beside what it allows: how much may go up under it. Nothing here allows anything; whoever sends
//! counts.

use std::fmt;
use std::sync::Arc;

use crate::document::{BYTES_MAX, LimitsDocument};

/// What a rule bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub(crate) upload: Option<UploadLimits>,
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

//! Requests that come back. Each process has a number of its own, which goes along with what it sends to an address that
//! is not public: only such an address can lead back here, and no server outside learns anything by it. A request that
//! comes with the number is refused. Whatever an agent writes in the field is removed.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use http::{HeaderMap, HeaderName, HeaderValue};

const FIELD: HeaderName = HeaderName::from_static("x-agentsandbox-loop");

/// It need not be a secret: an agent that knew it could only deny its own requests.
static NONCE: LazyLock<HeaderValue> = LazyLock::new(|| {
    let half = || RandomState::new().build_hasher().finish();
    HeaderValue::from_str(&format!("{:016x}{:016x}", half(), half()))
        .unwrap_or_else(|_| HeaderValue::from_static("0"))
});

/// Whether this process sent the request.
#[must_use]
pub fn is_back(fields: &HeaderMap) -> bool {
    fields.get_all(FIELD).into_iter().any(|value| *value == *NONCE)
}

/// Leaves the field out, or puts our number into it where the destination could lead back.
pub fn mark(fields: &mut HeaderMap, may_lead_back: bool) {
    fields.remove(FIELD);
    if may_lead_back {
        fields.insert(FIELD, NONCE.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_a15_what_an_agent_writes_is_removed_and_a_public_server_is_told_nothing() {
        let mut fields = HeaderMap::new();
        fields.append(FIELD, HeaderValue::from_static("own"));
        fields.append(FIELD, HeaderValue::from_static("other"));
        assert!(!is_back(&fields));
        mark(&mut fields, true);
        assert!(is_back(&fields) && fields.len() == 1);
        mark(&mut fields, false);
        assert!(fields.is_empty());
    }
}

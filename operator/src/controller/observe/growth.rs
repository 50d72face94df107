//! Claims that were refused to grow. What refuses it, a storage class or a quota, is seldom changed, and no watch shows it, so that it is asked
//! for again after a pause, and not in pass after pass.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use tokio::time::Instant;

use crate::controller::desired::claim;

/// How long a size that was refused is not asked for again.
const PAUSE: Duration = Duration::from_secs(300);

/// A size that a claim was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ungrown {
    /// UID of the claim.
    pub claim: String,
    /// The size, in bytes.
    pub bytes: i64,
}

/// What was refused, and until when that counts, by the sandbox's UID.
#[derive(Debug, Default)]
pub(super) struct Growth(Mutex<HashMap<String, (Ungrown, Instant)>>);

impl Growth {
    /// The size that is wanted of this claim was refused.
    pub(super) fn refused(&self, sandbox_uid: &str, wanted: &PersistentVolumeClaim) {
        let (Some(claim), Some(bytes)) = (wanted.metadata.uid.clone(), claim::asked_bytes(wanted)) else {
            return;
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(sandbox_uid.to_owned(), (Ungrown { claim, bytes }, Instant::now() + PAUSE));
    }

    /// What was refused so lately that it is not asked for.
    pub(super) fn ungrown(&self, sandbox_uid: &str) -> Option<Ungrown> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (ungrown, until) = all.get(sandbox_uid)?;
        (Instant::now() < *until).then(|| ungrown.clone())
    }

    /// When it may be asked for again; none if it may, or never was.
    pub(super) fn again_in(&self, sandbox_uid: &str) -> Option<Duration> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = all.get(sandbox_uid)?.1.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Forgets a sandbox.
    pub(super) fn forget(&self, sandbox_uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(sandbox_uid);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::from;

    #[tokio::test(start_paused = true)]
    async fn a_size_that_was_refused_is_remembered_for_its_pause_and_no_longer() {
        let growth = Growth::default();
        assert_eq!((growth.ungrown("s"), growth.again_in("s")), (None, None));
        let wanted: PersistentVolumeClaim = from(json!({
            "metadata": {"uid": "c"}, "spec": {"resources": {"requests": {"storage": "2Gi"}}},
        }));
        growth.refused("s", &wanted);
        let ungrown = Ungrown { claim: "c".to_owned(), bytes: 2 << 30 };
        assert_eq!((growth.ungrown("s"), growth.again_in("s")), (Some(ungrown), Some(PAUSE)));
        assert_eq!(growth.ungrown("another"), None);
        tokio::time::advance(PAUSE).await;
        assert_eq!((growth.ungrown("s"), growth.again_in("s")), (None, None));
        growth.refused("s", &wanted);
        growth.forget("s");
        assert_eq!(growth.ungrown("s"), None);
    }
}

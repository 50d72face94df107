//! What a request is sent by, and whether that is still worth what it was.

use std::sync::Arc;
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason};

use super::{Keys, Proxy};
use crate::audit::Recorded;
use crate::exchange::Progress;
use crate::limits::UNCHECKED_WAIT_MAX;
use crate::reload::Loaded;
use crate::respond::denial;
use crate::upstream::Voice;

/// What a request is sent by.
pub(super) struct Leave<'a> {
    pub(super) loaded: &'a Arc<Loaded>,
    /// The right to send it.
    pub(super) recorded: &'a Recorded,
    /// What it is sent with.
    pub(super) keys: &'a Keys,
    /// As whom it speaks by them.
    pub(super) voice: &'a Voice,
    /// How far it has come.
    pub(super) progress: &'a Progress,
    /// What its head counts.
    pub(super) head_bytes: u64,
    /// When all this was looked up.
    pub(super) since: Instant,
}

impl Leave<'_> {
    /// Whether it is still worth what it was. A request that had to wait, for a stream or for an upstream that is slow to be
    /// reached, may have been overtaken by a decision of its owner.
    pub(super) fn holds(&self, proxy: &Proxy) -> Result<(), Box<Denial>> {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) <= UNCHECKED_WAIT_MAX {
            return Ok(());
        }
        let permit = self.recorded.permit();
        let current = proxy.policy.current(now).map_err(|reason| Box::new(denial(permit, reason)))?;
        let is_as_before = Keys::of(proxy, &self.loaded.policy, permit, now)?.voice(permit) == *self.voice;
        if Arc::ptr_eq(&current, self.loaded) && is_as_before {
            return Ok(());
        }
        Err(Box::new(denial(permit, DenialReason::UpstreamUnreachable)))
    }
}

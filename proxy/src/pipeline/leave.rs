//! What a request is sent by, and whether that is still worth what it was.

use std::sync::Arc;
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason};
use http::Request;
use zeroize::Zeroizing;

use super::{Keys, Proxy, keys};
use crate::audit::Recorded;
use crate::exchange::Progress;
use crate::limits::UNCHECKED_WAIT_MAX;
use crate::reload::Loaded;
use crate::respond::{Body, denial};
use crate::upstream::Voice;

/// What a request is sent by.
pub(super) struct Leave<'a> {
    pub(super) loaded: &'a Arc<Loaded>,
    /// The right to send it.
    pub(super) recorded: &'a Recorded,
    /// What it is sent with.
    pub(super) keys: Keys,
    /// As whom it speaks by them.
    pub(super) voice: Voice,
    /// The path and query to send it with, where a key stands in them.
    pub(super) target: Option<Zeroizing<String>>,
    /// How far it has come.
    pub(super) progress: &'a Progress,
    /// What its head counts.
    pub(super) head_bytes: u64,
    /// When all this was looked up.
    pub(super) since: Instant,
    /// Whether it has other keys than it began with.
    pub(super) is_renewed: bool,
}

/// Why a request does not go out as it is.
pub(super) enum Stopped {
    /// It does not go out.
    Denied(Box<Denial>),
    /// A key of it was replaced while it waited: these are in force now.
    Replaced(Box<Keys>),
}

impl From<Box<Denial>> for Stopped {
    fn from(denial: Box<Denial>) -> Self {
        Self::Denied(denial)
    }
}

impl Leave<'_> {
    /// The path and query to send it with.
    pub(super) fn target(&self) -> &str {
        let permitted = || self.recorded.permit().target().as_str();
        self.target.as_ref().map_or_else(permitted, |target| target.as_str())
    }

    /// Whether it is still worth what it was. A request may have been overtaken by a decision of its owner, above all one that had to
    /// wait, for a stream or for an upstream that is slow to be reached. One whose key was replaced is permitted as before, and is
    /// sent with the other key; one that is overtaken over and over is not waited for.
    pub(super) fn holds(&self, proxy: &Proxy) -> Result<(), Stopped> {
        let (now, permit) = (Instant::now(), self.recorded.permit());
        // However soon: nothing is sent by a policy that is not in force.
        let current = proxy.policy.current(now).map_err(|reason| Box::new(denial(permit, reason)))?;
        if !Arc::ptr_eq(&current, self.loaded) {
            return Err(self.overtaken());
        }
        if now.saturating_duration_since(self.since) <= UNCHECKED_WAIT_MAX {
            return Ok(());
        }
        let keys = Keys::of(proxy, &self.loaded.policy, permit, now)?;
        if keys.voice(permit) == self.voice {
            return Ok(());
        }
        Err(if self.is_renewed { self.overtaken() } else { Stopped::Replaced(Box::new(keys)) })
    }

    /// It does not go out: its policy is not in force any more.
    pub(super) fn overtaken(&self) -> Stopped {
        Box::new(denial(self.recorded.permit(), DenialReason::Overtaken)).into()
    }

    /// Has the request go out with these keys, on a connection of theirs.
    pub(super) fn renew(&mut self, keys: Keys, request: &mut Request<Body>) -> Result<(), Box<Denial>> {
        let permit = self.recorded.permit();
        self.target = keys::put(permit, keys.secret.as_ref(), request.headers_mut())?;
        self.voice = keys.voice(permit);
        self.keys = keys;
        self.since = Instant::now();
        self.is_renewed = true;
        Ok(())
    }
}

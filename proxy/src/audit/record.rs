//! What one line of the audit trail says, and what it is filled with while an exchange goes on.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use agentsandbox_policy::DenialReason;
use aws_lc_rs::digest::{SHA256, digest};
use serde::Serialize;

use crate::entrance::Entrance;
use crate::limits::AUDIT_PATH_BYTES_MAX;

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// The policy allows it; `reason` tells whether the upstream then failed.
    Allow,
    /// Refused.
    Deny,
}

/// What a line says about its decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// A request is allowed and about to be sent; an [`Event::End`] with the same request id follows.
    Begin,
    /// A request that began has ended.
    End,
    /// A name may be gone on with; no request was judged.
    Admit,
    /// Something is refused.
    Deny,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub(super) time: String,
    pub(super) seq: u64,
    pub(super) sandbox: Sandbox,
    pub(super) entrance: Entrance,
    pub(super) event: Event,
    pub(super) request_id: String,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) method: Option<String>,
    pub(super) path: Option<String>,
    pub(super) rule: Option<String>,
    pub(super) decision: Decision,
    pub(super) reason: Option<DenialReason>,
    pub(super) credential: Option<String>,
    pub(super) address: Option<SocketAddr>,
    pub(super) status: Option<u16>,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) millis: u64,
    pub(super) generation: i64,
    /// How many more like the line before them this line stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) folded: Option<u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Sandbox {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
}

/// Bytes of one exchange, counted where they pass.
#[derive(Debug, Default)]
pub struct Traffic {
    /// From the agent.
    pub up: AtomicU64,
    /// To the agent.
    pub down: AtomicU64,
    /// The credential whose placeholder the agent's body was broken off for.
    misused: OnceLock<String>,
}

impl Traffic {
    /// The agent's body holds a placeholder of this credential.
    pub fn misuses(&self, credential: &str) {
        // A body that is broken off has no second one.
        let _ = self.misused.set(credential.to_owned());
    }

    /// The credential whose placeholder was found in the agent's body.
    #[must_use]
    pub fn misused(&self) -> Option<&str> {
        self.misused.get().map(String::as_str)
    }
}

/// Long paths are cut; the digest still tells them apart.
pub(super) fn shortened(path: &str) -> String {
    if path.len() <= AUDIT_PATH_BYTES_MAX {
        return path.to_owned();
    }
    let end = (0..=AUDIT_PATH_BYTES_MAX).rev().find(|end| path.is_char_boundary(*end)).unwrap_or(0);
    let sum = digest(&SHA256, path.as_bytes());
    let hex: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}… ({} bytes, sha256 {hex})", path.get(..end).unwrap_or_default(), path.len())
}

//! Why a write did not happen.

use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::child::{is_conflict, is_not_found};
use crate::ca::KeyError;
use crate::controller::desired::ChildKind;
use crate::metrics::Verb;

/// Why there is no [`Sealed`](super::Sealed), or a pod was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused, or did not answer.
    #[error("{verb} of {what} failed")]
    Api {
        /// What was tried.
        verb: Verb,
        /// On which object, as `Kind name`.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer in time.
    #[error("{verb} of {what} was not answered in time")]
    Unanswered {
        /// What was tried.
        verb: Verb,
        /// On which object, as `Kind name`.
        what: String,
    },
    /// The name belongs to somebody else.
    #[error("{} {name} exists and belongs to somebody else", .kind.as_str())]
    Foreign {
        /// Kind of the object.
        kind: ChildKind,
        /// Its name.
        name: String,
    },
    /// An object is on its way out, or not there yet.
    #[error("waiting for {} {name}", .kind.as_str())]
    Pending {
        /// Kind of the object.
        kind: ChildKind,
        /// Its name.
        name: String,
    },
    /// A wall that somebody deleted, and that cannot be put up anew yet: it stands still, or its stand-in does.
    #[error("NetworkPolicy {name} is not put up anew yet, and bounds its pod all the same")]
    Held {
        /// Name of the wall.
        name: String,
        /// What failed.
        #[source]
        source: Box<Self>,
    },
    /// Something between this process and the API server's store changed a pod that was created, so it was ended.
    #[error("the pod {name} was changed on its way: {what}")]
    Changed {
        /// Name of the pod.
        name: String,
        /// What is not as it was sent.
        what: String,
    },
    /// The sandbox is over, or goes, and the watch has not shown that yet.
    #[error("AgentSandbox {name} is over by now")]
    Late {
        /// Its name.
        name: String,
    },
    /// No keys could be made.
    #[error("the sandbox's keys could not be made")]
    Keys(#[from] KeyError),
    /// Another replica leads.
    #[error("this replica may not write")]
    NotLeader,
}

/// Why the walls do not stand, or what stands beside them.
#[derive(Debug)]
pub struct Unsealed {
    /// What failed: a wall before all else.
    pub error: ApplyError,
    /// Whether the NetworkPolicies are as wanted all the same.
    pub walls: Walls,
    /// Whether the proxy can be trusted with what it reads all the same.
    pub document: Document,
    /// Whose the claim is that the agent's pod names.
    pub claim: Claim,
}

/// The claim of a persistent workspace. A pod names its claim by name alone, so whoever has that name next has the pod's mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The sandbox's own, or none.
    Own,
    /// Somebody else's.
    Strange,
}

/// The policy document that the proxy obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// As the operator wrote it, or not there, in which case the proxy keeps the last one that it read.
    Own,
    /// It holds, or may hold, what somebody else wrote.
    Strange,
}

/// The state of a sandbox's two NetworkPolicies.
#[derive(Clone, Debug, PartialEq)]
pub enum Walls {
    /// Both are as wanted; those that are not on their way out, as the API server answered.
    Whole(Vec<NetworkPolicy>),
    /// One is missing, or is not as wanted, and could not be put back.
    Breached,
}

impl ApplyError {
    /// Whether an object that was to be as wanted is there and is not, or may not be: it is somebody else's, or could not
    /// be read or repaired. A creation that fails leaves nothing.
    #[must_use]
    pub const fn leaves_a_strangers_object(&self) -> bool {
        matches!(
            self,
            Self::Foreign { .. }
                | Self::Api { verb: Verb::Get | Verb::Patch, .. }
                | Self::Unanswered { verb: Verb::Get | Verb::Patch, .. }
        )
    }

    /// Whether it is the sandbox itself that does not exist any more.
    #[must_use]
    pub fn is_gone_sandbox(&self) -> bool {
        matches!(self, Self::Api { what, .. } if what.starts_with("AgentSandbox ")) && self.is_not_found()
    }

    /// Whether the object is not, or not any more, the one that was meant.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { verb, source, .. } if is_conflict(*verb, source))
    }

    /// Whether the object that was written to does not exist any more.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if is_not_found(source))
    }
}

//! What the workspace's step did, as the JSON document in its termination message: counts, and no name of any file but the one
//! that was refused. Names of what was left out are in its log.

use serde::{Deserialize, Serialize};

/// Version of the document. A reader rejects any other.
pub const WORKSPACE_VERSION: u32 = 1;

/// One run of the step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkspaceReport {
    /// Always [`WORKSPACE_VERSION`].
    pub version: u32,
    /// What the run came to. Only `Unpacked` lets the agent start.
    pub verdict: WorkspaceVerdict,
    /// What happened, in a sentence for a person; printable ASCII of bounded length.
    pub message: String,
    /// Regular files in the tree.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Files and links that were left out by their name: by the project's list, and by the user.
    pub left_out: u64,
    /// Files with what looks like a credential, which stay.
    pub with_tokens: u64,
    /// Files that were rewritten without the secrets in them; absent where there are none.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rewritten: u64,
    /// The commit that was checked out, as 40 hexadecimal digits; absent of an archive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Milliseconds from the step's start to its verdict.
    pub duration_millis: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Outcome of a run, in the order in which it gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkspaceVerdict {
    /// The tree is in its place.
    Unpacked,
    /// The sandbox's proxy denied a request.
    FetchDenied,
    /// The archive could not be had.
    FetchFailed,
    /// What came is not what was asked for.
    DigestMismatch,
    /// The archive is damaged, or asks for what is never done.
    ArchiveRefused,
    /// The step could not do its own work.
    Failed,
}

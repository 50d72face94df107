//! What the fence saw, as the JSON document in its termination message.
//!
//! The fence writes it, the operator reads it, and neither trusts silence: a message that is missing, cut short or of
//! another version is no evidence at all. The kubelet keeps at most 4 KiB of a termination message, so probes are
//! summarised by target and only open routes are listed one by one.

use serde::{Deserialize, Serialize};

/// Version of the document. A reader rejects any other.
pub const VERSION: u32 = 1;

/// Bytes of a termination message that the kubelet keeps (`MaxContainerTerminationMessageLength`).
pub const REPORT_BYTES_MAX: usize = 4096;

/// One run of the fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FenceReport {
    /// Always [`VERSION`].
    pub version: u32,
    /// What the run came to. Only `Proven` lets the agent start.
    pub verdict: Verdict,
    /// One sentence for a person; constant for a given verdict but for names.
    pub message: String,
    /// The kernel the fence ran on.
    pub kernel: KernelReport,
    /// Routes that were tried.
    pub walls: WallsReport,
    /// Limits that hold for this pod, as read inside; absent where they were not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsReport>,
    /// Milliseconds from the fence's start to its verdict.
    pub duration_millis: u64,
}

/// Outcome of a fence run, in the order in which it checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Everything was proven.
    Proven,
    /// The kernel is not the one the class promises.
    WrongKernel,
    /// A direct route stayed open until the deadline.
    EgressOpen,
    /// The proxy did not answer or refused enrolment until the deadline.
    ProxyUnreachable,
    /// A limit is missing or wider than the class promises.
    LimitsMissing,
    /// The fence could not do its own work.
    Failed,
}

/// The kernel's identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KernelReport {
    /// What it was found to be.
    pub kind: KernelKind,
    /// What it was expected to be.
    pub expected: KernelKind,
    /// First line of `/proc/version`, at most 200 bytes.
    pub version: String,
}

/// Kinds of kernel the fence can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KernelKind {
    /// gVisor's Sentry.
    GVisor,
    /// A Linux kernel shared with the node.
    Linux,
    /// A Linux kernel of a virtual machine.
    VirtualMachine,
    /// None of these.
    Unknown,
}

/// The direct routes that were tried in the last round.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WallsReport {
    /// Rounds until the verdict.
    pub rounds: u32,
    /// Milliseconds after which a whole round was closed; absent if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_after_millis: Option<u64>,
    /// Every route of the last round that was found closed, as `protocol target`, such as `tcp 10.96.0.1:443`.
    #[serde(default)]
    pub closed: Vec<String>,
    /// Every route of the last round that was found open, in the same form.
    #[serde(default)]
    pub open: Vec<String>,
    /// The proxy answered and enrolled this pod.
    pub enrolled: bool,
}

/// Limits read inside the pod. Zero means that no limit was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsReport {
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// CPU in thousandths of a core.
    pub cpu_millis: u64,
    /// Processes.
    pub pids: u64,
}

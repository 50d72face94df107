//! What the fence saw, as the JSON document in its termination message; and what the [workspace's step](WorkspaceReport) did.
//!
//! The fence writes it, the operator reads it, and neither trusts silence: a message that is missing, cut short or of
//! another version is no evidence at all. The kubelet keeps at most 4 KiB of a termination message, so probes are
//! summarised by target and only open routes are listed one by one.

mod workspace;

use serde::{Deserialize, Serialize};

pub use workspace::{WORKSPACE_VERSION, WorkspaceReport, WorkspaceVerdict};

/// Version of the document. A reader rejects any other.
pub const VERSION: u32 = 2;

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
    /// Limits of this pod, as read inside; absent where they were not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsReport>,
    /// Version of Landlock by which the program confined itself that the agent starts by; absent where it starts in no process
    /// sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub landlock_version: Option<u32>,
    /// Whether the program that the agent starts by was seen to have no network but a loopback.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub loopback_only: bool,
    /// How long each step took.
    pub phases: PhasesReport,
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
    /// The process sandbox that the agent is to start in cannot be had on this kernel.
    ProcessSandboxMissing,
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
    /// Whom the node takes the pod's root for; absent where the kernel is the pod's own or does not show it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootReport>,
}

/// Whom a node takes the root of a pod for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootReport {
    /// Its own root.
    Node,
    /// Somebody else: a user namespace stands between.
    Mapped,
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
    /// Milliseconds from the fence's start until a round was a proof: closed, while the proxy answered in that same
    /// round. Absent if none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_after_millis: Option<u64>,
    /// Milliseconds that the proxy took to answer a TCP handshake in the last round; absent if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_answered_millis: Option<u64>,
    /// Every route of the last round that was found closed, as `protocol target`, such as `tcp 10.96.0.1:443`.
    #[serde(default)]
    pub closed: Vec<String>,
    /// Every route of the last round that was found open, in the same form.
    #[serde(default)]
    pub open: Vec<String>,
    /// The proxy answered and enrolled this pod.
    pub enrolled: bool,
}

/// Limits read inside the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsReport {
    /// Memory in bytes.
    pub memory_bytes: LimitReport,
    /// CPU in thousandths of a core.
    pub cpu_millis: LimitReport,
    /// Processes.
    pub pids: LimitReport,
}

impl LimitsReport {
    /// The limits that the kernel did not show: nothing is known of them, so nobody may say that they hold.
    #[must_use]
    pub fn unseen(&self) -> Vec<&'static str> {
        let all = [("memory", self.memory_bytes), ("CPU", self.cpu_millis), ("process", self.pids)];
        all.into_iter().filter(|(_, limit)| *limit == LimitReport::Unseen).map(|(name, _)| name).collect()
    }
}

/// One limit: a number, `"unlimited"` or `"unseen"`. No number stands for the absence of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum LimitReport {
    /// The kernel does not show it.
    #[default]
    Unseen,
    /// The kernel says that there is none.
    Unlimited,
    /// This, in the unit of its field.
    #[serde(untagged)]
    At(u64),
}

/// Milliseconds that each step took; absent where it was not reached. Trust and limits run beside the walls, so the steps
/// add up to more than the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PhasesReport {
    /// Reading the kernel's identity, from the fence's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_millis: Option<u64>,
    /// All rounds of direct routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub walls_millis: Option<u64>,
    /// Showing the token to the proxy, until it took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment_millis: Option<u64>,
    /// The policy DNS, until it denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_millis: Option<u64>,
    /// Building the trust bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_millis: Option<u64>,
    /// Reading the limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits_millis: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_was_not_seen_is_no_number() {
        let limits = LimitsReport {
            memory_bytes: LimitReport::At(0),
            cpu_millis: LimitReport::Unlimited,
            pids: LimitReport::Unseen,
        };
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(text, r#"{"memoryBytes":0,"cpuMillis":"unlimited","pids":"unseen"}"#);
        assert_eq!(serde_json::from_str::<LimitsReport>(&text).unwrap(), limits);
        assert_eq!(limits.unseen(), ["process"]);
    }

    #[test]
    fn a_limit_that_is_missing_or_unknown_rejects_the_report() {
        for text in [
            r#"{"memoryBytes":1,"cpuMillis":1}"#,
            r#"{"memoryBytes":1,"cpuMillis":1,"pids":null}"#,
            r#"{"memoryBytes":1,"cpuMillis":1,"pids":"none"}"#,
            r#"{"memoryBytes":1,"cpuMillis":1,"pids":-1}"#,
        ] {
            assert!(serde_json::from_str::<LimitsReport>(text).is_err(), "{text}");
        }
        let whole = r#"{"memoryBytes":1,"cpuMillis":1,"pids":1}"#;
        assert!(serde_json::from_str::<LimitsReport>(whole).is_ok(), "a whole one is read");
    }
}

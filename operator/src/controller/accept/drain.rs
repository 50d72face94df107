//! How long what is on its way may take to its end when its rule goes: what the sandbox says, unless its class has it ended at once.

use agentsandbox_crds::class::AgentSandboxClass;
use agentsandbox_crds::common::OnRevoke;
use agentsandbox_crds::sandbox::AgentSandbox;

/// What a sandbox that says Drain gives and no number. A model's answer seldom takes longer.
const DRAIN_SECONDS: u16 = 30;

/// The seconds; none ends it at once. A number out of bounds is the policy's to refuse.
pub(super) fn seconds(sandbox: &AgentSandbox, class: &AgentSandboxClass) -> Option<u16> {
    let egress = sandbox.spec.egress.as_ref()?;
    let of_class = class.spec.egress.as_ref().and_then(|egress| egress.on_revoke);
    match (egress.on_revoke, of_class) {
        (Some(OnRevoke::Drain), Some(OnRevoke::Drain) | None) => {
            let own = egress.drain_seconds.map(|seconds| u16::try_from(seconds).unwrap_or(u16::MAX));
            Some(own.unwrap_or(DRAIN_SECONDS))
        }
        (Some(OnRevoke::Kill) | None, _) | (Some(OnRevoke::Drain), Some(OnRevoke::Kill)) => None,
    }
}

//! What becomes of a claim when its sandbox is deleted.
//!
//! The sandbox says it, or else its template. Work that is gone cannot be had back, so a claim goes only where that is known to be wanted: it
//! stays where the template is gone, and where no list of templates has come. Lists mostly come in a moment, and a teardown waits that long
//! for one. A watch may be behind, or blind, so a template that is to say so is asked for once more, and any other answer keeps the claim.

use agentsandbox_crds::workspace::WhenDeleted;
use agentsandbox_crds::{AgentSandbox, AgentSandboxSpec};
use kube::ResourceExt;

use super::accept::Identity;
use super::apply::Writer;
use super::chain;

/// What becomes of the claim of a sandbox that is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// This, by the sandbox's own word, or because nobody says that it goes.
    Said(WhenDeleted),
    /// The sandbox says nothing, and its template that it goes, as the watches show that.
    GoesByTemplate,
    /// No list of templates has come, and one may come in a moment.
    Awaited,
    /// No list of templates has come, so nobody knows what its template says.
    Unknown,
}

impl Fate {
    /// Whether the claim stays, whatever anybody is asked.
    #[must_use]
    pub const fn keeps(self) -> bool {
        matches!(self, Self::Said(WhenDeleted::Retain) | Self::Awaited | Self::Unknown)
    }
}

/// What a spec says of its claim.
pub(super) fn of(spec: &AgentSandboxSpec) -> Option<WhenDeleted> {
    spec.workspace.as_ref()?.persistent.as_ref()?.when_deleted
}

/// What becomes of the claim by the word of the API server itself. Where its template is asked for and anything but `Delete` is the answer, an
/// error too, it stays.
pub(super) async fn settled(
    writer: &Writer,
    identity: &Identity,
    (sandbox, fate): (&AgentSandbox, Fate),
) -> WhenDeleted {
    let (Fate::GoesByTemplate, Some(template)) = (fate, &sandbox.spec.template_ref) else {
        return match fate {
            Fate::Said(when) => when,
            Fate::GoesByTemplate | Fate::Awaited | Fate::Unknown => WhenDeleted::Retain,
        };
    };
    match writer.live_template(&identity.namespace, &template.name).await {
        Ok(live) => live.and_then(|live| of(&live.spec.sandbox)).unwrap_or_default(),
        Err(error) => {
            tracing::warn!(
                sandbox.namespace = identity.namespace,
                sandbox.name = sandbox.name_any(),
                template = template.name,
                error = chain(&error),
                "the workspace's claim is kept: its template could not be asked whether it goes"
            );
            WhenDeleted::Retain
        }
    }
}

#[cfg(test)]
mod tests;

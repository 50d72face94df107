//! What becomes of a claim when its sandbox is deleted.
//!
//! The sandbox says it, or else its template. Work that is gone cannot be had back, so a claim goes only where that is known to be wanted: it
//! stays where the template is gone, and where no list of templates has come. Lists mostly come in a moment, and a teardown waits that long
//! for one. A watch may be behind, or blind, so whoever is to say so is asked for once more, the sandbox and then its template, and any other
//! answer keeps the claim.

use agentsandbox_crds::template::TemplateRef;
use agentsandbox_crds::workspace::{WhenDeleted, WorkspaceAccess};
use agentsandbox_crds::{AgentSandbox, AgentSandboxSpec};

use super::accept::Identity;
use super::apply::{ApplyError, Writer};
use super::chain;

/// What becomes of the claim of a sandbox that is deleted, as the watches show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// This, by the sandbox's own word, or because nobody says that it goes.
    Said(WhenDeleted),
    /// The sandbox says nothing, and its template that it goes.
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

/// Whether a spec leaves it to its template to speak of a claim.
pub(super) fn may_be_templates(spec: &AgentSandboxSpec) -> bool {
    let access = spec.workspace.as_ref().and_then(|workspace| workspace.access);
    access.is_none_or(|access| access == WorkspaceAccess::Persistent)
}

/// What becomes of the claim by the word of the API server itself, where the watches do not keep it: by the sandbox's own, and where it has
/// none and they showed none, by its template's. It stays where the sandbox is gone: nobody knows what it said last.
///
/// # Errors
/// When the API server refuses to show the sandbox or does not answer, or has another of the name.
pub(super) async fn settled(
    writer: &Writer,
    identity: &Identity,
    (sandbox, fate): (&AgentSandbox, Fate),
) -> Result<WhenDeleted, ApplyError> {
    let live = match writer.shown(sandbox).await {
        Err(error) if error.is_not_found() => return Ok(WhenDeleted::Retain),
        shown => shown?.spec,
    };
    Ok(match (of(&live), fate, &live.template_ref) {
        (Some(own), ..) => own,
        (None, Fate::GoesByTemplate, Some(template)) if may_be_templates(&live) => {
            by_template(writer, identity, template).await
        }
        _ => WhenDeleted::Retain,
    })
}

/// By the template's word: where anything but `Delete` is the answer, an error too, it stays.
async fn by_template(writer: &Writer, identity: &Identity, template: &TemplateRef) -> WhenDeleted {
    match writer.live_template(&identity.namespace, &template.name).await {
        Ok(live) => live.and_then(|live| of(&live.spec.sandbox)).unwrap_or_default(),
        Err(error) => {
            tracing::warn!(
                sandbox.namespace = identity.namespace,
                sandbox.name = identity.name,
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

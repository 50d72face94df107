//! The spec that a pass goes by: a sandbox's own, merged with its template's.
//!
//! Every step of a pass sees the merged spec, the life and the end of a sandbox among them, and [`accept`](super::accept) takes nothing
//! else. Where there is none (the template is missing, or the sandbox asks for more than it allows) nothing runs, and the rest of
//! the pass goes by what the sandbox says itself, and by what its pod was made as. As long as no list of templates has come, nobody knows
//! whether there is one, and what runs goes on within its bounds ([`unlisted`](super::unlisted)).

use std::sync::Arc;

use agentsandbox_crds::sandbox::Mode;
use agentsandbox_crds::workspace::WhenDeleted;
use agentsandbox_crds::{AgentSandbox, AgentSandboxSpec, AgentSandboxTemplate};
use agentsandbox_merge::{Fault, FaultReason, Merged, Origin, merge};
use futures::FutureExt;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::Ctx;
use super::accept::{Identity, Rejection, RejectionReason};
use super::desired::agent_pod::runs_once;
use super::fate::{self, Fate};
use super::observe::{Observed, Stores};

impl From<Fault> for Rejection {
    fn from(fault: Fault) -> Self {
        let reason = match fault.reason {
            FaultReason::TemplateNotFound => RejectionReason::TemplateNotFound,
            FaultReason::OutsideTemplate => RejectionReason::OutsideTemplate,
            FaultReason::InvalidField => RejectionReason::InvalidField,
        };
        Self { reason, field: fault.field, message: fault.message }
    }
}

/// Why there is no merged spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unmerged {
    /// This speaks against it.
    Rejected(Vec<Rejection>),
    /// Nobody knows whether the template of this name is there: no list of templates has come yet.
    Unlisted(String),
}

/// Whether what there is of templates was ever listed.
fn are_listed(stores: &Stores) -> bool {
    matches!(stores.templates.wait_until_ready().now_or_never(), Some(Ok(())))
}

/// The sandbox with its template, as the watches show that.
///
/// # Errors
/// What speaks against the two together.
pub fn merged(stores: &Stores, sandbox: &Arc<AgentSandbox>) -> Result<Merged, Vec<Fault>> {
    merge(Arc::clone(sandbox), found(stores, sandbox).as_deref())
}

/// The sandbox with how long it may lie idle, by itself or by its template; none where that is not bounded. It costs less than to merge the
/// two, and says the same of each that runs.
#[must_use]
pub fn idling(stores: &Stores, sandbox: &Arc<AgentSandbox>) -> Option<Arc<AgentSandbox>> {
    let bounded = |one: &AgentSandboxSpec| one.lifecycle.as_ref()?.idle_timeout.clone();
    if bounded(&sandbox.spec).is_some() {
        return Some(Arc::clone(sandbox));
    }
    let timeout = bounded(&found(stores, sandbox)?.spec.sandbox)?;
    let mut idling = AgentSandbox::clone(sandbox);
    idling.spec.lifecycle.get_or_insert_default().idle_timeout = Some(timeout);
    Some(Arc::new(idling))
}

/// The template that a sandbox names, as the watches show it.
fn found(stores: &Stores, sandbox: &AgentSandbox) -> Option<Arc<AgentSandboxTemplate>> {
    let reference = sandbox.spec.template_ref.as_ref()?;
    stores.templates.get(&ObjectRef::new(&reference.name).within(&sandbox.namespace().unwrap_or_default()))
}

/// The sandbox as it lives: with its template, or alone where that cannot be had.
#[must_use]
pub fn living(stores: &Stores, sandbox: &Arc<AgentSandbox>) -> Arc<AgentSandbox> {
    merged(stores, sandbox).map_or_else(|_| Arc::clone(sandbox), |merged| Arc::clone(merged.sandbox()))
}

/// The sandbox as a pass goes by it, and what it is judged by.
pub(super) fn whole(
    stores: &Stores,
    sandbox: Arc<AgentSandbox>,
    observed: &Observed,
    identity: &Identity,
) -> (Arc<AgentSandbox>, Result<Merged, Unmerged>) {
    let name = sandbox.spec.template_ref.as_ref().map(|reference| reference.name.clone());
    if let Some(name) = name.filter(|_| !are_listed(stores)) {
        return (as_it_ran(sandbox, observed, identity), Err(Unmerged::Unlisted(name)));
    }
    match merged(stores, &sandbox) {
        Ok(merged) => (Arc::clone(merged.sandbox()), Ok(merged)),
        Err(faults) => {
            let rejections = faults.into_iter().map(Rejection::from).collect();
            (as_it_ran(sandbox, observed, identity), Err(Unmerged::Rejected(rejections)))
        }
    }
}

/// What becomes of the claim of a sandbox that is written so, by its own word or by that of its template, as the watches show that.
pub(super) fn fate(ctx: &Ctx, own: &AgentSandbox, merged: &Result<Merged, Unmerged>) -> Fate {
    if let Some(when) = fate::of(&own.spec) {
        return Fate::Said(when);
    }
    let of_template = match merged {
        Ok(merged) => fate::of(&merged.sandbox().spec),
        Err(Unmerged::Unlisted(_)) => {
            return ctx.patience.left().map_or(Fate::Unknown, |_| Fate::Awaited);
        }
        // What speaks against the two together may be about something else.
        Err(Unmerged::Rejected(_)) => {
            let named = found(&ctx.stores, own).filter(|_| fate::may_be_templates(&own.spec));
            named.and_then(|one| fate::of(&one.spec.sandbox))
        }
    };
    match of_template {
        Some(WhenDeleted::Delete) => Fate::GoesByTemplate,
        Some(WhenDeleted::Retain) | None => Fate::Said(WhenDeleted::Retain),
    }
}

/// The sandbox as a Task, where its pod is one and it does not say so itself: the end of a program that ran once is told, and it is not run
/// again, whatever has become of the template that said so.
fn as_it_ran(sandbox: Arc<AgentSandbox>, observed: &Observed, identity: &Identity) -> Arc<AgentSandbox> {
    let is_silent = sandbox.spec.lifecycle.as_ref().is_none_or(|lifecycle| lifecycle.mode.is_none());
    if !is_silent || !observed.agent_pod(identity).is_some_and(runs_once) {
        return sandbox;
    }
    let mut task = AgentSandbox::clone(&sandbox);
    task.spec.lifecycle.get_or_insert_default().mode = Some(Mode::Task);
    Arc::new(task)
}

/// What speaks against a merged spec, with the template's field where the sandbox does not write its own.
pub(super) fn placed(merged: &Merged, rejections: Vec<Rejection>) -> Vec<Rejection> {
    let Some(template) = merged.template() else { return rejections };
    let fields = merged.fields();
    let is_at = |path: &str, field: &str| {
        field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let place = |rejection: Rejection| {
        let path = rejection.field.strip_prefix("spec.").unwrap_or_default();
        let mut there = fields.iter().filter(|field| is_at(path, &field.path)).peekable();
        if there.peek().is_none() || there.any(|field| field.from == Origin::Sandbox) {
            return rejection;
        }
        let message = format!(
            "{} (AgentSandboxTemplate {template} says it, in spec.sandbox.{path})",
            rejection.message
        );
        Rejection { message, ..rejection }
    };
    rejections.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests;

//! The spec that a pass goes by: a sandbox's own, merged with its template's.
//!
//! Every step of a pass sees the merged spec, the life and the end of a sandbox among them, and [`accept`](super::accept) takes nothing
//! else. Where there is none (the template is missing, or the sandbox asks for more than it allows) nothing runs, and the rest of
//! the pass goes by what the sandbox says itself, and by what its pod was made as.

use std::sync::Arc;

use agentsandbox_crds::sandbox::Mode;
use agentsandbox_crds::{AgentSandbox, AgentSandboxTemplate};
use agentsandbox_merge::{Fault, FaultReason, Merged, Origin, merge};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;

use super::accept::{Identity, Rejection, RejectionReason};
use super::desired::agent_pod::runs_once;
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

/// The sandbox with its template, as the watches show that.
///
/// # Errors
/// What speaks against the two together.
pub fn merged(stores: &Stores, sandbox: &Arc<AgentSandbox>) -> Result<Merged, Vec<Fault>> {
    merge(Arc::clone(sandbox), found(stores, sandbox).as_deref())
}

/// Whether a sandbox, or its template, bounds how long it lies idle. It costs less than to merge them.
#[must_use]
pub fn may_idle(stores: &Stores, sandbox: &AgentSandbox) -> bool {
    let template = found(stores, sandbox);
    let of = template.iter().filter_map(|template| template.spec.sandbox.lifecycle.as_ref());
    sandbox.spec.lifecycle.iter().chain(of).any(|lifecycle| lifecycle.idle_timeout.is_some())
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
) -> (Arc<AgentSandbox>, Result<Merged, Vec<Rejection>>) {
    match merged(stores, &sandbox) {
        Ok(merged) => (Arc::clone(merged.sandbox()), Ok(merged)),
        Err(faults) => {
            let rejections = faults.into_iter().map(Rejection::from).collect();
            (as_it_ran(sandbox, observed, identity), Err(rejections))
        }
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

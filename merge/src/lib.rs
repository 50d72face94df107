//! One spec of a sandbox and its template, or every fault at once. Pure.
//!
//! What a sandbox does not say it has from its template ([`overlay`]); what it says has to lie within what the template says, where
//! that is a bound ([`bounds`], [`egress`]). So a sandbox never has more than its template gives, and what is no bound, as arguments are
//! none, is the sandbox's. [`Merged`] is the evidence: nothing else is judged and built from, and only [`merge`] makes it. The
//! operator and the command line use the same code.
//!
//! It must never widen: where it cannot tell whether something is narrower, it is a fault.

use std::sync::Arc;

use agentsandbox_crds::{AgentSandbox, AgentSandboxSpec, AgentSandboxTemplate};
use serde_json::Value;

mod bounds;
mod egress;
mod fault;
pub mod hosts;
mod origin;
mod overlay;

pub use fault::{Fault, FaultReason};
pub use origin::{Field, Origin};

use fault::Faults;

/// A sandbox whose spec is whole: its own, with what its template adds.
#[derive(Clone, Debug)]
pub struct Merged {
    sandbox: Arc<AgentSandbox>,
    template: Option<Template>,
}

/// What a spec was merged from.
#[derive(Clone, Debug)]
struct Template {
    name: String,
    /// The sandbox as it is written.
    own: Arc<AgentSandbox>,
}

impl Merged {
    /// The sandbox, with the merged spec.
    #[must_use]
    pub const fn sandbox(&self) -> &Arc<AgentSandbox> {
        &self.sandbox
    }

    /// Name of its template; none where it names none.
    #[must_use]
    pub fn template(&self) -> Option<&str> {
        self.template.as_ref().map(|template| template.name.as_str())
    }

    /// Each field of the merged spec, with where it is from.
    #[must_use]
    pub fn fields(&self) -> Vec<Field> {
        let own = self.template.as_ref().map_or(&self.sandbox, |template| &template.own);
        origin::fields(&value(&own.spec), &value(&self.sandbox.spec))
    }
}

/// Makes the spec whole. `template` is the one that the sandbox refers to, if there is one of that name; another one counts as none.
///
/// # Errors
/// Everything that speaks against it, each with both fields.
pub fn merge(
    sandbox: Arc<AgentSandbox>,
    template: Option<&AgentSandboxTemplate>,
) -> Result<Merged, Vec<Fault>> {
    let Some(reference) = &sandbox.spec.template_ref else {
        return Ok(Merged { sandbox, template: None });
    };
    let is_named = |found: &&AgentSandboxTemplate| {
        found.metadata.name.as_ref() == Some(&reference.name)
            && found.metadata.namespace == sandbox.metadata.namespace
    };
    let name = reference.name.clone();
    let mut faults = Faults::of(&name);
    let Some(template) = template.filter(is_named) else {
        faults.not_found();
        return Err(faults.found());
    };
    let (own, of) = (&sandbox.spec, &template.spec.sandbox);
    let mut spec = match overlay::overlaid(own, of) {
        Ok(spec) => spec,
        Err(error) => {
            faults.unreadable(&error);
            return Err(faults.found());
        }
    };
    bounds::judge(own, &template.spec, &spec, &mut faults);
    if let (Some(own), Some(of), Some(merged)) = (&own.egress, &of.egress, &mut spec.egress) {
        merged.allow = egress::allow(&own.allow, &of.allow, &mut faults);
    }
    let merged = AgentSandbox { spec, ..AgentSandbox::clone(&sandbox) };
    faults.or(Merged { sandbox: Arc::new(merged), template: Some(Template { name, own: sandbox }) })
}

/// As JSON; the types have no value that is none.
fn value(spec: &AgentSandboxSpec) -> Value {
    serde_json::to_value(spec).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! What speaks against a sandbox beside its template.

use std::fmt::Display;

/// One reason why there is no merged spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Fault {
    /// For programs.
    pub reason: FaultReason,
    /// The sandbox's field at fault.
    pub field: String,
    /// For people: what the template says, in which field, and what to write.
    pub message: String,
}

/// Reasons of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultReason {
    /// There is no template of that name.
    TemplateNotFound,
    /// The sandbox asks for more than its template allows.
    OutsideTemplate,
    /// Neither says what one of both must.
    InvalidField,
}

/// The faults of one sandbox, beside its template.
pub(crate) struct Faults {
    template: String,
    found: Vec<Fault>,
}

impl Faults {
    pub(crate) fn of(template: &str) -> Self {
        Self { template: template.to_owned(), found: Vec::new() }
    }

    pub(crate) fn found(self) -> Vec<Fault> {
        self.found
    }

    /// What was made, if nothing speaks against it.
    pub(crate) fn or<T>(self, made: T) -> Result<T, Vec<Fault>> {
        if self.found.is_empty() { Ok(made) } else { Err(self.found) }
    }

    pub(crate) fn not_found(&mut self) {
        let message = format!(
            "there is no AgentSandboxTemplate {} in this namespace; create it, or write the name of one that exists",
            self.template
        );
        self.add(FaultReason::TemplateNotFound, "templateRef.name", message);
    }

    pub(crate) fn unreadable(&mut self, error: &dyn Display) {
        let message = format!(
            "what AgentSandboxTemplate {} and the sandbox say together cannot be read ({error}); write it in the sandbox alone",
            self.template
        );
        self.add(FaultReason::InvalidField, "templateRef", message);
    }

    /// The sandbox asks for more at `path` than the template's field of the same path, which has `has`, allows.
    pub(crate) fn outside(&mut self, path: &str, has: impl Display, write: impl Display) {
        self.outside_of(path, &format!("sandbox.{path}"), has, write);
    }

    /// The same where the template's field is another one, below its spec.
    pub(crate) fn outside_of(&mut self, path: &str, field: &str, has: impl Display, write: impl Display) {
        let message = format!("AgentSandboxTemplate {} has {has} in spec.{field}; {write}", self.template);
        self.add(FaultReason::OutsideTemplate, path, message);
    }

    /// Neither of both says what one must.
    pub(crate) fn missing(&mut self, path: &str, write: impl Display) {
        let message = format!(
            "neither the sandbox nor AgentSandboxTemplate {} says it, in spec.sandbox.{path}; {write}",
            self.template
        );
        self.add(FaultReason::InvalidField, path, message);
    }

    fn add(&mut self, reason: FaultReason, path: &str, message: String) {
        self.found.push(Fault { reason, field: format!("spec.{path}"), message });
    }
}

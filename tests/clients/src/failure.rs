//! A run fails with one sentence that says what happened and what to do about it.

use std::fmt;

/// Why a run could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(String);

/// The result of a step of a run.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure in a sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// Says what was being done when something failed.
pub trait During<T> {
    /// Puts `what` before the error's own text.
    ///
    /// # Errors
    /// The error, with `what` before it.
    fn during(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> During<T> for std::result::Result<T, E> {
    fn during(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure(format!("{what}: {error}")))
    }
}

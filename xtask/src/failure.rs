//! A task fails with one sentence that says what happened and what to do about it.

use std::fmt;

/// Why a task could not be done.
#[derive(Debug)]
pub struct Failure(String);

/// The result of a task.
pub type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure in a sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

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
        self.map_err(|e| Failure(format!("{what}: {e}")))
    }
}

impl<T> During<T> for Option<T> {
    fn during(self, what: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Failure(what.to_string()))
    }
}

//! A run that cannot be made ends with one sentence. A vector that fails is no failure of the run: it is its result.

use std::fmt;

/// Why the suite could not run.
#[derive(Debug)]
pub struct Failure(String);

/// The result of a step of the harness.
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
        self.map_err(|error| Failure(format!("{what}: {error}")))
    }
}

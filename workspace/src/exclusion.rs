//! What is left out, by its name: this project's list, the user's `exclude`, and `include`, which takes back from the
//! list alone.
//!
//! Patterns are those of .gitignore, matched by ripgrep's `ignore`. Nothing is read from the tree: a .gitignore in there
//! is a file like any other, and its writer has no say.

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::path::RelativePath;
use crate::refusal::Plain;

/// This project's list, one pattern a line.
pub const DEFAULT: &str = include_str!("exclusion/default.txt");

/// Patterns of one list.
pub const PATTERNS_MAX: usize = 256;

/// Bytes of one pattern.
pub const PATTERN_BYTES_MAX: usize = 256;

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is taken.
    Taken,
    /// It is on this project's list, and nothing includes it.
    LeftOutByDefault,
    /// The user excludes it.
    Excluded,
}

/// A pattern that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pattern `{}` {why}", Plain(.pattern.as_bytes()))]
pub struct BadPattern {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// What is left out.
#[derive(Debug)]
pub struct Exclusion {
    default: Gitignore,
    exclude: Gitignore,
    include: Gitignore,
}

impl Exclusion {
    /// This project's list, with the user's patterns. What is left out is so in any case of letters; what is included is
    /// exactly what was written.
    ///
    /// # Errors
    /// Refuses a pattern that is none, says nothing, or is too long, and too many of them.
    pub fn new<S: AsRef<str>>(exclude: &[S], include: &[S]) -> Result<Self, BadPattern> {
        for pattern in include.iter().map(AsRef::as_ref) {
            if pattern.starts_with('!') {
                return Err(bad(pattern, "negates, which means nothing in include"));
            }
        }
        let default: Vec<&str> =
            DEFAULT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        Ok(Self {
            default: matcher(&default, true)?,
            exclude: matcher(exclude, true)?,
            include: matcher(include, false)?,
        })
    }

    /// What becomes of a path. A pattern that matches a folder speaks for all that is in it.
    pub fn verdict(&self, path: &RelativePath, is_folder: bool) -> Verdict {
        if path.is_root() {
            return Verdict::Taken;
        }
        let speaks =
            |list: &Gitignore| list.matched_path_or_any_parents(path.as_str(), is_folder).is_ignore();
        if speaks(&self.exclude) {
            Verdict::Excluded
        } else if speaks(&self.default) && !speaks(&self.include) {
            Verdict::LeftOutByDefault
        } else {
            Verdict::Taken
        }
    }
}

fn bad(pattern: &str, why: &'static str) -> BadPattern {
    BadPattern { pattern: pattern.to_owned(), why }
}

fn matcher<S: AsRef<str>>(patterns: &[S], is_case_blind: bool) -> Result<Gitignore, BadPattern> {
    let mut builder = GitignoreBuilder::new("");
    builder.case_insensitive(is_case_blind).map_err(|_| bad("", "cannot be read"))?;
    if let Some(beyond) = patterns.get(PATTERNS_MAX) {
        return Err(bad(beyond.as_ref(), "is one too many"));
    }
    for pattern in patterns.iter().map(AsRef::as_ref) {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(bad(pattern, "is too long"));
        }
        if pattern.chars().any(char::is_control) {
            return Err(bad(pattern, "holds a control character"));
        }
        // They would be taken for comments and blank lines, and leave nothing out without a word.
        if pattern.trim().is_empty() || pattern.starts_with('#') {
            return Err(bad(pattern, "says nothing"));
        }
        if pattern.split('/').any(|name| name == ".." || name == ".") {
            return Err(bad(pattern, "names no path inside"));
        }
        builder.add_line(None, pattern).map_err(|_| bad(pattern, "cannot be read"))?;
    }
    builder.build().map_err(|_| bad("", "cannot be read"))
}

#[cfg(test)]
mod tests;

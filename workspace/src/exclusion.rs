//! What is left out, by its name: this project's list, the user's `exclude`, and `include`, which takes back from the
//! list alone.
//!
//! Patterns are those of .gitignore, matched by ripgrep's `ignore`. Nothing is read from the tree: a .gitignore in there
//! is a file like any other, and its writer has no say.

use icu_normalizer::ComposingNormalizerBorrowed;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::path::RelativePath;
use crate::refusal::Plain;
use crate::sanitize::Format;

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
    /// The user's patterns, as they were written: what is left out, and what is taken back.
    patterns: (Vec<String>, Vec<String>),
    /// What is rewritten instead of being left out.
    formats: Vec<Format>,
}

impl Exclusion {
    /// This project's list, with the user's patterns. What is left out is so in any case of letters and in either form of
    /// their accents; what is included is exactly what was written.
    ///
    /// # Errors
    /// Refuses a pattern that is none, says nothing, or is too long, and too many of them.
    pub fn new<S: AsRef<str>>(exclude: &[S], include: &[S]) -> Result<Self, BadPattern> {
        let (excluded, included) = matchers(exclude, include)?;
        let default: Vec<&str> =
            DEFAULT.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        Ok(Self {
            default: matcher(&default, true)?,
            exclude: excluded,
            include: included,
            patterns: (owned(exclude), owned(include)),
            formats: Vec::new(),
        })
    }

    /// Nothing but what the user's patterns leave out: for what this project's list does not speak of, as it has been with an agent.
    ///
    /// # Errors
    /// As [`Exclusion::new`].
    pub fn only<S: AsRef<str>>(exclude: &[S]) -> Result<Self, BadPattern> {
        let (excluded, included) = matchers(exclude, &[])?;
        Ok(Self {
            default: matcher::<&str>(&[], true)?,
            exclude: excluded,
            include: included,
            patterns: (owned(exclude), Vec::new()),
            formats: Vec::new(),
        })
    }

    /// The same, with files of these formats rewritten without their secrets, whether this project's list has them or not.
    #[must_use]
    pub fn sanitizing(self, formats: &[Format]) -> Self {
        Self { formats: formats.to_vec(), ..self }
    }

    /// Whether the user's patterns can be read. Where there are none that costs nothing, and whoever asks again and again reads no list of
    /// this project's for it.
    ///
    /// # Errors
    /// As [`Exclusion::new`].
    pub fn check<S: AsRef<str>>(exclude: &[S], include: &[S]) -> Result<(), BadPattern> {
        matchers(exclude, include).map(drop)
    }

    /// As what a file is rewritten; none where nobody asks for it, where the user excludes it, and where a folder that it is in is left out with it.
    /// One that is included is rewritten all the same. The path comes in the two forms of [`Exclusion::verdict_of`].
    pub fn rewrites(&self, came: &RelativePath, path: &RelativePath) -> Option<Format> {
        let format = Format::of(path.split().1).filter(|format| self.formats.contains(format))?;
        let folder = |of: &RelativePath| {
            let within = of.split().0;
            RelativePath::parse(if within.is_empty() { "." } else { within }.as_bytes()).ok()
        };
        let is_rewritten = match self.verdict_of(came, path, false) {
            Verdict::Taken => true,
            Verdict::LeftOutByDefault => {
                self.verdict_of(&folder(came)?, &folder(path)?, true) == Verdict::Taken
            }
            Verdict::Excluded => false,
        };
        is_rewritten.then_some(format)
    }

    /// The user's patterns: what is left out, and what is taken back.
    pub(crate) fn patterns(&self) -> (&[String], &[String]) {
        (&self.patterns.0, &self.patterns.1)
    }

    /// What becomes of a path. A pattern that matches a folder speaks for all that is in it, and as in .gitignore no
    /// negation brings anything back from there.
    pub fn verdict(&self, path: &RelativePath, is_folder: bool) -> Verdict {
        self.verdict_of(path, path, is_folder)
    }

    /// The same for a path whose first names were taken off: `came` is how it came, `path` what is left of it. Each list speaks of either,
    /// so nothing comes back with the name of the folder that it was in; what is included must be so under the name that is on the list.
    pub fn verdict_of(&self, came: &RelativePath, path: &RelativePath, is_folder: bool) -> Verdict {
        let forms = if came == path { vec![path] } else { vec![path, came] };
        let blinds: Vec<_> = forms
            .into_iter()
            .filter(|form| !form.is_root())
            .map(|form| (form, blind(form.as_str())))
            .collect();
        if blinds.iter().any(|(_, blind)| speaks(&self.exclude, blind, is_folder)) {
            return Verdict::Excluded;
        }
        // The first that the list speaks of: what is left of a path, before the path as it came.
        let listed = blinds.iter().find(|(_, blind)| speaks(&self.default, blind, is_folder));
        match listed {
            Some((form, _)) if !speaks(&self.include, form.as_str(), is_folder) => Verdict::LeftOutByDefault,
            _ => Verdict::Taken,
        }
    }
}

/// Whether a list speaks of a path or of a folder on the way to it. The library's own walk goes up from the path and ends at
/// the first pattern of either kind: there `!keep` would bring a file back from a folder that is left out.
fn speaks(list: &Gitignore, path: &str, is_folder: bool) -> bool {
    let on_the_way = path.match_indices('/').map(|(end, _)| (end, true));
    on_the_way.chain([(path.len(), is_folder)]).any(|(end, is_folder)| {
        path.get(..end).is_some_and(|prefix| list.matched(prefix, is_folder).is_ignore())
    })
}

/// Lower case, with accents composed: the library knows the case of ASCII alone, and macOS packs names decomposed.
fn blind(text: &str) -> String {
    let lower: String = text.chars().flat_map(char::to_lowercase).collect();
    if lower.is_ascii() {
        return lower;
    }
    const { ComposingNormalizerBorrowed::new_nfc() }.normalize(&lower).into_owned()
}

fn owned<S: AsRef<str>>(patterns: &[S]) -> Vec<String> {
    patterns.iter().map(|pattern| pattern.as_ref().to_owned()).collect()
}

fn bad(pattern: &str, why: &'static str) -> BadPattern {
    BadPattern { pattern: pattern.to_owned(), why }
}

/// What the user leaves out, and what is taken back.
fn matchers<S: AsRef<str>>(exclude: &[S], include: &[S]) -> Result<(Gitignore, Gitignore), BadPattern> {
    for pattern in include.iter().map(AsRef::as_ref) {
        if pattern.starts_with('!') {
            return Err(bad(pattern, "negates, which means nothing in include"));
        }
    }
    Ok((matcher(exclude, true)?, matcher(include, false)?))
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
        // They would be taken for comments and blank lines, or match no name, and leave nothing out without a word.
        let own = pattern.strip_prefix('!').unwrap_or(pattern).trim();
        let names = own.strip_prefix('/').unwrap_or(own);
        let mut names = names.strip_suffix('/').unwrap_or(names).split('/');
        if pattern.starts_with('#') || names.any(str::is_empty) {
            return Err(bad(pattern, "says nothing"));
        }
        if own.split('/').any(|name| name == ".." || name == ".") {
            return Err(bad(pattern, "names no path inside"));
        }
        // .gitignore takes them as they are and the library as a choice: each leaves in what the other leaves out.
        if own.contains(['{', '}']) {
            return Err(bad(pattern, "holds a brace, which means nothing here"));
        }
        let read = if is_case_blind { blind(pattern) } else { pattern.to_owned() };
        builder.add_line(None, &read).map_err(|_| bad(pattern, "cannot be read"))?;
    }
    builder.build().map_err(|_| bad("", "cannot be read"))
}

#[cfg(test)]
mod tests;

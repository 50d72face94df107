//! What is left out, in the words of git's sparse checkout. Without it git would write a left-out file as soon as another commit is
//! checked out or merged whose content it has, or end because it has none.

use std::collections::BTreeSet;

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::exclusion::{self, Exclusion, Verdict};
use crate::path::RelativePath;
use crate::refusal::{Error, Reason, Refusal};

/// The lists as git reads them, and the paths for which they say something else than we do.
pub struct Sparse {
    lists: Gitignore,
    lines: Vec<String>,
    exact: BTreeSet<String>,
}

impl Sparse {
    pub fn new(exclusion: &Exclusion) -> Result<Self, Error> {
        let unread = |_| Error::from(Refusal::new(b"the patterns", Reason::Malformed));
        let (exclude, include) = exclusion.patterns();
        let default = exclusion::DEFAULT.lines();
        let default = default.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let turned = |pattern: &str| match pattern.strip_prefix('!') {
            Some(taken) => taken.to_owned(),
            None => format!("!{pattern}"),
        };
        // What is left out has an exclamation mark in git's file, and none in ours.
        let mut ours: Vec<String> = default.map(str::to_owned).collect();
        ours.extend(include.iter().map(|pattern| format!("!{pattern}")));
        ours.extend(exclude.iter().cloned());
        let mut builder = GitignoreBuilder::new("");
        builder.case_insensitive(true).map_err(unread)?;
        let mut lines = vec!["/*".to_owned()];
        for pattern in ours {
            builder.add_line(None, &pattern).map_err(unread)?;
            lines.push(turned(&blind(&pattern)));
        }
        Ok(Self { lists: builder.build().map_err(unread)?, lines, exact: BTreeSet::new() })
    }

    /// Notes a path of any commit that the agent has.
    pub fn judge(&mut self, path: &RelativePath, verdict: Verdict) {
        let by_lists = self.lists.matched_path_or_any_parents(path.as_str(), false).is_ignore();
        let is_left_out = verdict != Verdict::Taken;
        // The library folds the case of ASCII alone, and git none.
        if by_lists != is_left_out || (is_left_out && !path.as_str().is_ascii()) {
            let mark = if is_left_out { "!" } else { "" };
            self.exact.insert(format!("{mark}/{}", escaped(path.as_str())));
        }
    }

    /// The file `info/sparse-checkout`.
    pub fn text(&self) -> String {
        let lines = self.lines.iter().map(String::as_str).chain(self.exact.iter().map(String::as_str));
        lines.flat_map(|line| [line, "\n"]).collect()
    }
}

/// A pattern that means each letter in either case.
fn blind(pattern: &str) -> String {
    let (mut out, mut is_escaped, mut is_class) = (String::new(), false, false);
    for letter in pattern.chars() {
        if letter.is_ascii_alphabetic() && !is_escaped && !is_class {
            out.extend(['[', letter.to_ascii_lowercase(), letter.to_ascii_uppercase(), ']']);
            continue;
        }
        is_class = !is_escaped && (letter == '[' || (is_class && letter != ']'));
        is_escaped = letter == '\\' && !is_escaped;
        out.push(letter);
    }
    out
}

fn escaped(path: &str) -> String {
    path.chars().fold(String::new(), |mut out, letter| {
        if matches!(letter, '\\' | '*' | '?' | '[' | ' ') {
            out.push('\\');
        }
        out.push(letter);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::{Sparse, blind};
    use crate::exclusion::Exclusion;
    use crate::path::RelativePath;

    #[test]
    fn a_pattern_means_each_letter_in_either_case_and_nothing_else_changes() {
        for (pattern, wanted) in [
            (".env", ".[eE][nN][vV]"),
            ("!.env", "!.[eE][nN][vV]"),
            ("a[b-d]\\e/*", "[aA][b-d]\\e/*"),
            ("\u{e9}?", "\u{e9}?"),
        ] {
            assert_eq!(blind(pattern), wanted);
        }
    }

    #[test]
    fn only_a_path_of_which_the_lists_say_something_else_is_named() {
        let exclusion = Exclusion::new(&["*.secret", "!keep.secret"], &[".env.local"]).unwrap();
        let mut sparse = Sparse::new(&exclusion).unwrap();
        for path in ["src/main.rs", ".env", "a/.ENV", "x.secret", "keep.secret", ".env.local", ".env.example"]
        {
            let path = RelativePath::parse(path.as_bytes()).unwrap();
            sparse.judge(&path, exclusion.verdict(&path, false));
        }
        assert_eq!(sparse.exact.len(), 0, "{:?}", sparse.exact);
        // A folder that is left out gives nothing back, whatever else is said.
        for path in [".terraform/.env.example", "caf\u{e9} [1].pem"] {
            let path = RelativePath::parse(path.as_bytes()).unwrap();
            sparse.judge(&path, exclusion.verdict(&path, false));
        }
        let exact: Vec<&str> = sparse.exact.iter().map(String::as_str).collect();
        assert_eq!(exact, ["!/.terraform/.env.example", "!/caf\u{e9}\\ \\[1].pem"]);
        let text = sparse.text();
        assert!(text.starts_with("/*\n") && text.ends_with("!/caf\u{e9}\\ \\[1].pem\n"), "{text}");
    }
}

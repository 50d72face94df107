//! Paths inside a tree.

use std::fmt::{self, Display, Formatter};

use crate::fold::is_git;
use crate::limits::{NAME_BYTES_MAX, PATH_BYTES_MAX};
use crate::refusal::{Plain, Reason, Refusal};

/// A path that stays inside its tree whatever the tree holds, links apart: names between single slashes, none of them
/// `.` or `..`. The tree's own folder is the empty path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RelativePath(String);

impl RelativePath {
    /// Reads a path as an archive has it. `./` before it and one `/` behind it say nothing and are taken off.
    ///
    /// # Errors
    /// Refuses what is absolute, climbs, is empty in its middle, is too long, is not UTF-8, or holds a control character.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let refused = |reason| Refusal::new(bytes, reason);
        let text = std::str::from_utf8(bytes).map_err(|_| refused(Reason::NotUtf8))?;
        if text.is_empty() {
            return Err(refused(Reason::EmptySegment));
        }
        if text.starts_with('/') {
            return Err(refused(Reason::Absolute));
        }
        let mut own = text;
        while let Some(rest) = own.strip_prefix("./") {
            own = rest;
        }
        let own = own.strip_suffix('/').unwrap_or(own);
        if own.is_empty() || own == "." {
            return Ok(Self(String::new()));
        }
        if own.len() > PATH_BYTES_MAX {
            return Err(refused(Reason::PathTooLong));
        }
        own.split('/').try_for_each(check).map_err(refused)?;
        Ok(Self(own.to_owned()))
    }

    /// Whether it is the tree's own folder.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path as text: without a slash at either end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its names in order: none for the tree's own folder.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').filter(|name| !name.is_empty())
    }

    /// How many names it has.
    pub fn depth(&self) -> usize {
        self.names().count()
    }

    /// The path without its first names; none where it has fewer.
    pub fn without_first(&self, count: usize) -> Option<Self> {
        let mut left = self.0.as_str();
        for _ in 0..count {
            if left.is_empty() {
                return None;
            }
            left = left.split_once('/').map_or("", |(_, left)| left);
        }
        Some(Self(left.to_owned()))
    }

    /// The folder it is in, which may be the tree's own, and its name there.
    pub fn split(&self) -> (&str, &str) {
        self.0.rsplit_once('/').unwrap_or(("", &self.0))
    }

    /// Whether one of its names is `.git`, or may be taken for it.
    pub fn is_in_git_folder(&self) -> bool {
        self.names().any(is_git)
    }
}

impl Display for RelativePath {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        Plain(self.0.as_bytes()).fmt(out)
    }
}

/// Judges one name.
pub(crate) fn check(name: &str) -> Result<(), Reason> {
    match name {
        "" | "." => return Err(Reason::EmptySegment),
        ".." => return Err(Reason::ParentSegment),
        _ => {}
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(Reason::NameTooLong);
    }
    // What turns the direction of text shows a reviewer another name than the one that is there.
    let turns = |letter: char| matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = |letter: char| matches!(letter, '\u{2028}' | '\u{2029}');
    if name.chars().any(|letter| letter.is_control() || turns(letter) || breaks(letter)) {
        return Err(Reason::Control);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::{Strategy, any, prop, prop_oneof, proptest};

    use super::RelativePath;
    use crate::refusal::Reason;

    fn reason(path: &[u8]) -> Option<Reason> {
        RelativePath::parse(path).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn a_path_that_could_leave_the_tree_or_hurt_a_reader_is_refused() {
        let long = "x".repeat(256);
        let deep = "x/".repeat(1100);
        for (path, wanted) in [
            (&b""[..], Reason::EmptySegment),
            (b"/etc/passwd", Reason::Absolute),
            (b"/", Reason::Absolute),
            (b"..", Reason::ParentSegment),
            (b"../x", Reason::ParentSegment),
            (b"a/../../x", Reason::ParentSegment),
            (b"a/b/..", Reason::ParentSegment),
            (b"./../x", Reason::ParentSegment),
            (b"a//b", Reason::EmptySegment),
            (b".//etc", Reason::EmptySegment),
            (b"a/./b", Reason::EmptySegment),
            (b"a//", Reason::EmptySegment),
            (b"a\0b", Reason::Control),
            (b"a\nb", Reason::Control),
            (b"\x1b[2J", Reason::Control),
            (b"\x7f", Reason::Control),
            (b"\xc2\x9b31m", Reason::Control),
            ("a\u{202e}txt.exe".as_bytes(), Reason::Control),
            ("a\u{2028}b".as_bytes(), Reason::Control),
            (b"\xff", Reason::NotUtf8),
            (b"a/\xc0\xae\xc0\xae/b", Reason::NotUtf8),
            (long.as_bytes(), Reason::NameTooLong),
            (deep.as_bytes(), Reason::PathTooLong),
        ] {
            assert_eq!(reason(path), Some(wanted), "{}", path.escape_ascii());
        }
        // The control: names that are unusual and harmless.
        for path in
            ["a", "a/b", "./a", "././a/", "...", ".../x", "..a", "a..", "-rf", "a b", "a\\b", "\u{e9}", "C:"]
        {
            assert_eq!(reason(path.as_bytes()), None, "{path}");
        }
        assert_eq!(reason("x".repeat(255).as_bytes()), None);
    }

    #[test]
    fn a_path_has_one_spelling_and_the_trees_own_folder_is_empty() {
        for (path, own) in [("./a/b/", "a/b"), ("a", "a"), (".", ""), ("./", ""), ("././", "")] {
            let parsed = RelativePath::parse(path.as_bytes()).unwrap();
            assert_eq!(parsed.as_str(), own, "{path}");
            assert_eq!(parsed.is_root(), own.is_empty());
        }
        assert_eq!(RelativePath::parse(b"a/b/c").unwrap().split(), ("a/b", "c"));
        assert_eq!(RelativePath::parse(b"c").unwrap().split(), ("", "c"));
        assert_eq!(RelativePath::parse(b"a/b/c").unwrap().depth(), 3);
        for (count, left) in [(0, Some("a/b")), (1, Some("b")), (2, Some("")), (3, None)] {
            let stripped = RelativePath::parse(b"a/b").unwrap().without_first(count);
            assert_eq!(stripped.as_ref().map(RelativePath::as_str), left, "{count}");
        }
    }

    proptest! {
        #[test]
        fn a_path_that_is_taken_is_only_of_names(
            path in prop::collection::vec(
                prop_oneof![
                    any::<String>(),
                    prop::sample::select(vec!["..", ".", "", "a", "/"]).prop_map(str::to_owned),
                ],
                0..6,
            ).prop_map(|names| names.join("/"))
        ) {
            if let Ok(parsed) = RelativePath::parse(path.as_bytes()) {
                let names: Vec<&str> = parsed.names().collect();
                // The library's own reading of it.
                let components: Vec<Component<'_>> = Path::new(parsed.as_str()).components().collect();
                assert!(components.iter().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
                assert_eq!(components.len(), names.len());
                assert_eq!(RelativePath::parse(parsed.as_str().as_bytes()).is_ok(), !names.is_empty());
            }
        }
    }
}

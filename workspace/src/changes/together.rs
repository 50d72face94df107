//! What changes come to together, and no path of theirs shows alone: a folder that git takes for a repository, and links to what is not
//! the agent's.
//!
//! git knows a repository by what a folder holds, not by its name: `HEAD`, and either `objects` and `refs`, or a `commondir` that says
//! where those are (git's setup.c, `is_git_directory`). In such a folder every git obeys the configuration and the hooks that stand
//! there, the one that a prompt asks for the state of a checkout, too.
//!
//! A link dangles in the agent's tree if its target was kept from the agent, and leads to it where the changes are applied: to what is
//! ignored, left out, or nobody's but the user's. So it may lead to what the original has, or to what these changes bring.

use std::collections::{HashMap, HashSet};

use super::Change;
use crate::fold::fold;
use crate::path::RelativePath;

const HEAD: u8 = 1;
const OBJECTS: u8 = 2;
const REFS: u8 = 4;
const COMMON: u8 = 8;

/// Which of the names a folder has by which git knows a repository, in any spelling that some file system takes for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Signs(u8);

impl Signs {
    /// Takes a name of the folder into account.
    pub fn see(&mut self, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        self.0 |= match fold(name).as_str() {
            "head" => HEAD,
            "objects" => OBJECTS,
            "refs" => REFS,
            "commondir" => COMMON,
            _ => 0,
        };
    }

    /// Whether git may take the folder for a repository.
    #[must_use]
    pub fn is_repository(self) -> bool {
        let has = |signs: u8| self.0 & signs == signs;
        has(HEAD) && (has(COMMON) || has(OBJECTS | REFS))
    }
}

/// The folders to which these changes bring anything, at whatever depth; with the signs that come with them.
pub fn signs(changes: &[Change]) -> HashMap<&str, Signs> {
    let mut folders: HashMap<&str, Signs> = HashMap::new();
    for change in changes.iter().filter(|change| change.new.is_some()) {
        let path = change.path.as_str();
        let mut begins = 0;
        for end in path.match_indices('/').map(|(end, _)| end).chain([path.len()]) {
            let within = path.get(..begins.max(1) - 1).unwrap_or_default();
            let name = path.get(begins..end).unwrap_or_default();
            folders.entry(within).or_default().see(name.as_bytes());
            begins = end + 1;
        }
    }
    folders
}

/// A folder of which these changes alone make a repository.
pub fn repository(changes: &[Change]) -> Option<&str> {
    // The first by name, so that the same is told each time.
    signs(changes).into_iter().filter(|(_, signs)| signs.is_repository()).map(|(within, _)| within).min()
}

/// The links, of those that lead to what the original has not, whose targets do not come with these changes either; and what leads to
/// them.
pub fn elsewhere(changes: &[Change], links: &[(RelativePath, RelativePath)]) -> HashSet<String> {
    let comes = changes.iter().filter(|change| change.new.is_some()).map(|change| change.path.as_str());
    let comes: HashSet<&str> = comes.collect();
    let mut by_target: HashMap<&str, Vec<&str>> = HashMap::new();
    for (link, target) in links {
        by_target.entry(target.as_str()).or_default().push(link.as_str());
    }
    let is_there = |path: &str| path.is_empty() || comes.contains(path);
    let lost = links.iter().filter(|(_, target)| !is_there(target.as_str()));
    let mut left: Vec<&str> = lost.map(|(link, _)| link.as_str()).collect();
    let mut elsewhere = HashSet::new();
    while let Some(link) = left.pop() {
        if elsewhere.insert(link.to_owned()) {
            left.extend(by_target.get(link).into_iter().flatten());
        }
    }
    elsewhere
}

/// How a folder of the tree is told: its own has no name.
#[must_use]
pub const fn named(within: &str) -> &str {
    if within.is_empty() { "." } else { within }
}

#[cfg(test)]
mod tests {
    use super::Signs;

    #[test]
    fn a_folder_is_a_repository_by_the_names_in_it_however_they_are_written() {
        let is_one = |names: &[&str]| {
            let mut signs = Signs::default();
            names.iter().for_each(|name| signs.see(name.as_bytes()));
            signs.is_repository()
        };
        for names in [
            &["HEAD", "objects", "refs"] as &[&str],
            &["config", "refs", "objects", "HEAD", "x"],
            &["head", "Objects", "REFS"],
            &["HEAD", "commondir"],
            &["HE\u{200c}AD", "objects", "refs"],
        ] {
            assert!(is_one(names), "{names:?}");
        }
        for names in [
            &[] as &[&str],
            &["HEAD", "objects"],
            &["HEAD", "refs"],
            &["objects", "refs", "config", "hooks"],
            &["commondir", "objects", "refs"],
            &["HEADS", "objects", "refs"],
        ] {
            assert!(!is_one(names), "{names:?}");
        }
    }
}

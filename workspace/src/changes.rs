//! What somebody hostile made of a tree that was written here: told, shown, and made of another copy of the original.
//!
//! - [`walk`] compares the two trees, and follows nothing while their writer may still be at work.
//! - [`stream`] carries what differs to somebody who believes none of it: every path is judged again where it arrives.
//! - [`unified`] shows it as git would.
//! - [`apply`](mod@apply) makes the same of a folder that holds the original: all of it, or nothing.
//!
//! A tree is what git takes for one: folders, regular files that may be executable, and symbolic links that stay inside. Owners,
//! other modes, times and hard links make no difference, and arrive nowhere. What is none of these is refused by its path.
//! The `.git` folder of the tree itself is no part of it; any other name that some file system takes for `.git` is refused, and so is a
//! folder that git takes for a repository under another name.

pub mod apply;
pub mod stream;
mod together;
pub mod unified;
pub mod walk;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::limits::Limits;
use crate::look;
use crate::path::RelativePath;

/// The one folder that is neither compared nor written: the repository of the tree itself.
pub const GIT_FOLDER: &str = ".git";

/// How much is told. There is no way to say "without limit".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Entries of both trees together, and names in one path.
    pub tree: Limits,
    /// Paths that differ.
    pub changes_max: u64,
    /// Paths that are refused and named; the others are counted.
    pub refused_max: u64,
    /// Bytes of one file that differs.
    pub file_bytes_max: u64,
    /// Bytes of a file of the original that is told along with what became of it, so that both can be shown.
    pub shown_bytes_max: u64,
    /// Bytes of all content that is told.
    pub bytes_max: u64,
}

impl Default for Bounds {
    /// More than anybody reads, and no more than a terminal's machine has of memory.
    fn default() -> Self {
        Self {
            // Two trees.
            tree: Limits { entries_max: 2_000_000, ..Limits::default() },
            changes_max: 50_000,
            refused_max: 1_000,
            file_bytes_max: 64 << 20,
            shown_bytes_max: 4 << 20,
            bytes_max: 256 << 20,
        }
    }
}

/// What stands, or stood, under a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", deny_unknown_fields)]
pub enum Entry {
    /// A folder.
    Folder {},
    /// A regular file.
    File {
        /// Whether its owner may execute it.
        executable: bool,
        /// How large it is.
        bytes: u64,
        /// The SHA-256 of its content, in hexadecimal digits.
        sha256: String,
    },
    /// A symbolic link.
    Link {
        /// Where it leads: inside the tree.
        target: String,
    },
}

impl Entry {
    /// Whether it is a folder.
    #[must_use]
    pub const fn is_folder(&self) -> bool {
        matches!(self, Self::Folder {})
    }
}

/// One path that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The path.
    pub path: RelativePath,
    /// What the original has there.
    pub old: Option<Entry>,
    /// What is there now.
    pub new: Option<Entry>,
    /// Content of the original's file, if it is told: a large one is not.
    pub old_content: Option<Vec<u8>>,
    /// Content of the file that is there now.
    pub new_content: Vec<u8>,
}

/// A path that is refused, as text that harms no terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedPath {
    /// The path.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Everything that differs, in the order in which git tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The paths that differ.
    pub changes: Vec<Change>,
    /// The paths that are refused, as far as they are named.
    pub refused: Vec<RefusedPath>,
    /// How many are refused.
    pub refused_count: u64,
    /// Whether there is a `.git` folder, which is no part of what is compared.
    pub has_git_folder: bool,
}

impl Changes {
    /// The SHA-256 over all of it, in hexadecimal digits: of each path in its turn, with what stood there and what stands there, content
    /// by its own digest, and of what is refused. Two sets that would be applied differently never have the same.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut hasher = Sha256::new();
        // With its length before it no text can be taken for two.
        let mut add = |text: &str| {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
        };
        add("agentsandbox changes 1");
        for change in &self.changes {
            add(change.path.as_str());
            add(&told(change.old.as_ref()));
            add(&told(change.new.as_ref()));
        }
        add("refused");
        for refused in &self.refused {
            add(&refused.path);
            add(&refused.reason);
        }
        add(&self.refused_count.to_string());
        look::hex(&hasher.finalize())
    }

    /// What takes nothing away, and the paths that stay for it: what is gone under one path may be what is refused under another, and
    /// would be nowhere then. A file that takes a folder's place takes away what it held.
    #[must_use]
    pub fn without_deletions(mut self) -> (Self, Vec<RelativePath>) {
        let takes_away = |change: &Change| match (&change.old, &change.new) {
            (_, None) => true,
            (Some(old), Some(new)) => old.is_folder() && !new.is_folder(),
            (None, Some(_)) => false,
        };
        let (gone, kept): (Vec<_>, Vec<_>) = self.changes.into_iter().partition(takes_away);
        self.changes = kept;
        (self, gone.into_iter().map(|change| change.path).collect())
    }
}

/// An entry in one line.
fn told(entry: Option<&Entry>) -> String {
    match entry {
        None => "nothing".to_owned(),
        Some(Entry::Folder {}) => "folder".to_owned(),
        Some(Entry::File { executable, bytes, sha256 }) => format!("file {executable} {bytes} {sha256}"),
        Some(Entry::Link { target }) => format!("link {target}"),
    }
}

#[cfg(test)]
mod tests;

//! One entry of any archive: judged by its name, left out or written, and told of.

use std::io::{Read, copy, sink};

use super::{Note, Unpacked};
use crate::exclusion::{Exclusion, Verdict};
use crate::path::RelativePath;
use crate::refusal::{Error, Reason, Refusal};
use crate::sanitize::{Format, SANITIZED_BYTES_MAX};
use crate::tokens::Searched;
use crate::tree::{Counts, Tree};

/// What an entry asks for.
pub enum Entry<'a> {
    Folder,
    File { is_executable: bool, modified: Option<u64>, content: &'a mut dyn Read },
    Symlink { target: &'a [u8] },
    HardLink { target: &'a [u8] },
}

/// A tree, and what its archive came to so far.
pub struct Intake<'a> {
    tree: Tree,
    exclusion: &'a Exclusion,
    strip: usize,
    notes: &'a mut dyn FnMut(Note<'_>),
    entries: u64,
    unpacked: Unpacked,
}

impl<'a> Intake<'a> {
    pub fn new(
        tree: Tree,
        exclusion: &'a Exclusion,
        strip: usize,
        notes: &'a mut dyn FnMut(Note<'_>),
    ) -> Self {
        Self { tree, exclusion, strip, notes, entries: 0, unpacked: Unpacked::default() }
    }

    /// Bounds of the tree.
    pub fn limits(&self) -> crate::limits::Limits {
        self.tree.limits()
    }

    /// The tree, for what is in no archive.
    pub fn tree(&mut self) -> &mut Tree {
        &mut self.tree
    }

    /// What was written so far.
    pub fn counts(&self) -> Counts {
        self.tree.counts()
    }

    /// Puts the tree in its place.
    pub fn publish(self) -> Result<Unpacked, Error> {
        let written = self.tree.publish()?;
        Ok(Unpacked { written, ..self.unpacked })
    }

    /// Whether a file or link of this name is left out, before anything is known of its content.
    pub fn leaves_out(&self, came: &RelativePath) -> bool {
        let path = self.stripped(came);
        self.exclusion.verdict_of(came, &path, false) != Verdict::Taken
            && self.exclusion.rewrites(came, &path).is_none()
    }

    /// Whether the user excludes a folder, with all that is in it.
    pub fn excludes(&self, came: &RelativePath) -> bool {
        self.exclusion.verdict_of(came, &self.stripped(came), true) == Verdict::Excluded
    }

    /// What is left of a path; all of it where no name would be.
    fn stripped(&self, came: &RelativePath) -> RelativePath {
        came.without_first(self.strip).unwrap_or_else(|| came.clone())
    }

    /// Whether something of a file of this name is kept from the agent: all of it, or its secrets.
    pub fn keeps_back(&self, came: &RelativePath) -> bool {
        let path = self.stripped(came);
        self.exclusion.verdict_of(came, &path, false) != Verdict::Taken
            || self.exclusion.rewrites(came, &path).is_some()
    }

    /// Leaves out what cannot be looked at, a folder with all that is in it, if its name is left out; else says that it is not.
    pub fn omit(&mut self, name: &[u8]) -> Result<bool, Error> {
        let came = RelativePath::parse(name)?;
        let path = self.stripped(&came);
        // What it is is not known, and a pattern may speak of folders alone.
        let verdict = self.exclusion.verdict_of(&came, &path, true);
        if verdict == Verdict::Taken {
            return Ok(false);
        }
        self.count(name)?;
        self.leave_out(&path, verdict, Entry::Symlink { target: &[] })?;
        Ok(true)
    }

    /// Takes one entry, or leaves it out.
    pub fn take(&mut self, name: &[u8], entry: Entry<'_>) -> Result<(), Error> {
        let came = RelativePath::parse(name)?;
        self.count(name)?;
        // Before the patterns, which are matched with every folder on the way.
        let max = self.limits().depth_max;
        if came.depth() > max {
            return Err(Refusal::new(name, Reason::TooDeep(max)).into());
        }
        let path = match (came.without_first(self.strip), &entry) {
            (Some(path), Entry::Folder) if path.is_root() => return Ok(()),
            (None, Entry::Folder) => return Ok(()),
            (Some(path), _) if self.strip == 0 || !path.is_root() => path,
            (Some(_) | None, _) => return Err(Refusal::new(name, Reason::Stripped(self.strip)).into()),
        };
        let verdict = self.exclusion.verdict_of(&came, &path, matches!(entry, Entry::Folder));
        let format = match entry {
            Entry::File { .. } | Entry::HardLink { .. } => self.exclusion.rewrites(&came, &path),
            Entry::Folder | Entry::Symlink { .. } => None,
        };
        if verdict != Verdict::Taken && format.is_none() {
            return self.leave_out(&path, verdict, entry);
        }
        // The tree judges what is left of the path, and never sees what was taken off.
        if came.is_in_git_folder() {
            return Err(Refusal::new(name, Reason::GitFolder).into());
        }
        match (entry, format) {
            (entry, Some(format)) => self.rewrite(&path, format, entry),
            (entry, None) => self.write(&path, name, entry),
        }
    }

    /// Writes what is taken as it is.
    fn write(&mut self, path: &RelativePath, name: &[u8], entry: Entry<'_>) -> Result<(), Error> {
        match entry {
            Entry::Folder => self.tree.folder(path),
            Entry::File { is_executable, modified, content } => {
                let mut searched = Searched::new(content);
                self.tree.file(path, is_executable, modified, &mut searched)?;
                let found = searched.found();
                self.unpacked.with_tokens += u64::from(!found.is_empty());
                found.into_iter().for_each(|shape| (self.notes)(Note::Token(path, shape)));
                Ok(())
            }
            Entry::Symlink { target } => self.tree.symlink(path, target),
            Entry::HardLink { target } => {
                let escapes = || Refusal::new(name, Reason::HardLinkEscapes);
                let (came, target) = self.target(target).ok_or_else(escapes)?;
                if came.is_in_git_folder() {
                    return Err(escapes().into());
                }
                match self.exclusion.verdict_of(&came, &target, false) {
                    Verdict::Taken => self.tree.hard_link(path, &target),
                    // Its content was left out under the other name.
                    verdict => self.leave_out(path, verdict, Entry::HardLink { target: &[] }),
                }
            }
        }
    }

    /// Writes a file without its secrets. What is too long or no text is left out, and so is another name of what is left out: another
    /// name of what is taken has bytes that nobody rewrote.
    fn rewrite(&mut self, path: &RelativePath, format: Format, entry: Entry<'_>) -> Result<(), Error> {
        let Entry::File { is_executable, modified, content } = entry else {
            return self.leave_out(path, Verdict::LeftOutByDefault, entry);
        };
        let mut bytes = Vec::new();
        let read = content.take(SANITIZED_BYTES_MAX + 1).read_to_end(&mut bytes);
        let read = read.map_err(|error| Error::Unreadable(error.to_string()))? as u64;
        let text = if read > SANITIZED_BYTES_MAX { None } else { format.rewritten(&bytes) };
        let Some(text) = text else {
            return self.leave_out(
                path,
                Verdict::LeftOutByDefault,
                Entry::File { is_executable, modified, content },
            );
        };
        let mut searched = Searched::new(text.as_bytes());
        self.tree.file(path, is_executable, modified, &mut searched)?;
        let found = searched.found();
        self.unpacked.with_tokens += u64::from(!found.is_empty());
        found.into_iter().for_each(|shape| (self.notes)(Note::Token(path, shape)));
        self.unpacked.rewritten += 1;
        (self.notes)(Note::Rewritten(path));
        Ok(())
    }

    /// What a hard link names: as the archive has it, and as a path of the tree.
    fn target(&self, target: &[u8]) -> Option<(RelativePath, RelativePath)> {
        let came = RelativePath::parse(target).ok()?;
        let path = came.without_first(self.strip)?;
        Some((came, path))
    }

    /// Counts an entry, whatever becomes of it.
    fn count(&mut self, name: &[u8]) -> Result<(), Error> {
        let max = self.limits().entries_max;
        self.entries += 1;
        if self.entries > max { Err(Refusal::new(name, Reason::TooMany(max)).into()) } else { Ok(()) }
    }

    fn leave_out(&mut self, path: &RelativePath, verdict: Verdict, entry: Entry<'_>) -> Result<(), Error> {
        match entry {
            // What is in it is counted by itself.
            Entry::Folder => return Ok(()),
            Entry::File { content, .. } => {
                copy(content, &mut sink()).map_err(|error| Error::Unreadable(error.to_string()))?;
            }
            Entry::Symlink { .. } => {}
            Entry::HardLink { target } => {
                let target = self.target(target);
                // The bytes of this name are in the tree already, under one that nobody leaves out.
                let is_taken = |(came, path): (RelativePath, RelativePath)| {
                    self.exclusion.verdict_of(&came, &path, false) == Verdict::Taken
                };
                if target.is_some_and(is_taken) {
                    return Err(Refusal::new(path.as_str().as_bytes(), Reason::LeftOutElsewhere).into());
                }
            }
        }
        (self.notes)(Note::LeftOut(path));
        match verdict {
            Verdict::Excluded => self.unpacked.excluded += 1,
            Verdict::LeftOutByDefault | Verdict::Taken => self.unpacked.left_out += 1,
        }
        Ok(())
    }
}

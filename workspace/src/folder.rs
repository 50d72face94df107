//! A folder that stands there already, such as a volume that the kubelet mounted: read name by name as an archive is, and as hostile.
//!
//! Nothing is followed, nothing is waited for, and nothing is written to it. Somebody else may be writing there: what changes while it is
//! read is refused, since no tree of anybody's is made of two halves. A file with several names is a file for each of them, and where one
//! of these names is left out or rewritten none may be taken. What is left out is not read, and a folder that is excluded is not entered.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Stat, fstat};

use crate::archive::intake::{Entry, Intake};
use crate::archive::{Note, Unpacked};
use crate::exclusion::Exclusion;
use crate::look::{Found, Unseen, look, names};
use crate::path::RelativePath;
use crate::refusal::{Error, Reason, Refusal};
use crate::sanitize::SANITIZED_BYTES_MAX;
use crate::tree::{Tree, open, system, told};

/// Bytes of names that are held at once, of all folders on the way to where it is: those of a million entries are as long on average.
const NAMES_BYTES_MAX: usize = 64 << 20;
/// To be read.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW);
/// What a file system of its own has at its root, and no user put there.
const FILE_SYSTEMS_OWN: &[u8] = b"lost+found";

/// Opens a folder of a volume, through no link.
///
/// # Errors
/// Refuses a path on which a link or a file lies, and tells what the system says.
pub fn open_within(volume: BorrowedFd<'_>, path: &RelativePath) -> Result<OwnedFd, Error> {
    let name = if path.is_root() { "." } else { path.as_str() };
    open(volume, name, FOLDER, Mode::empty()).map_err(|errno| told("open the folder", path, errno))
}

/// Takes what a folder holds into a tree, and puts the tree in its place. `within` is its way from the root of its volume, whose names are
/// judged as those are that are taken off the paths of an archive. `clock` is asked before each entry whether there is time left.
///
/// # Errors
/// Refuses the whole folder for one entry that is refused; then nothing is left of the tree.
pub fn unpack_folder(
    folder: BorrowedFd<'_>,
    within: Option<&RelativePath>,
    tree: Tree,
    exclusion: &Exclusion,
    clock: &dyn Fn() -> Result<(), Error>,
    notes: &mut dyn FnMut(Note<'_>),
) -> Result<Unpacked, Error> {
    let within = within.filter(|within| !within.is_root());
    let intake = Intake::new(tree, exclusion, within.map_or(0, RelativePath::depth), notes);
    let mut walk = Walk { intake, clock, files: HashMap::new(), listed: 0, listed_bytes: 0 };
    walk.folder(folder, within.map_or("", RelativePath::as_str).as_bytes())?;
    walk.intake.publish()
}

struct Walk<'a> {
    intake: Intake<'a>,
    clock: &'a dyn Fn() -> Result<(), Error>,
    /// Files with several names, by device and number, and whether something was kept back under the name that was met first.
    files: HashMap<(u64, u64), bool>,
    /// Names that were listed in all.
    listed: u64,
    /// Bytes of those that are held now.
    listed_bytes: usize,
}

impl Walk<'_> {
    fn folder(&mut self, folder: BorrowedFd<'_>, within: &[u8]) -> Result<(), Error> {
        let before = self.listed;
        let all = self.names(folder, within, before)?;
        let bytes: usize = all.iter().map(Vec::len).sum();
        self.listed = before.saturating_add(all.len() as u64);
        self.listed_bytes = self.listed_bytes.saturating_add(bytes);
        for name in &all {
            (self.clock)()?;
            if within.is_empty() && name == FILE_SYSTEMS_OWN {
                continue;
            }
            let path = if within.is_empty() { name.clone() } else { [within, name].join(&b'/') };
            // Before anything of that name is opened: a name may be longer or deeper than any that is taken.
            let parsed = RelativePath::parse(&path)?;
            self.entry(folder, name, &path, &parsed)?;
        }
        self.listed_bytes = self.listed_bytes.saturating_sub(bytes);
        let again = self.names(folder, within, before)?;
        if again == all { Ok(()) } else { Err(refused(within, Reason::Changing)) }
    }

    /// The names in a folder, as far as there is room for them beside the others.
    fn names(&self, folder: BorrowedFd<'_>, within: &[u8], listed: u64) -> Result<Vec<Vec<u8>>, Error> {
        let max = self.intake.limits().entries_max;
        let bytes = NAMES_BYTES_MAX.saturating_sub(self.listed_bytes);
        let found = names(folder, max.saturating_sub(listed), bytes)
            .map_err(|errno| system("read the folder", &String::from_utf8_lossy(within), errno))?;
        found.map_err(|reason| match reason {
            Reason::TooMany(_) => refused(within, Reason::TooMany(max)),
            _ => refused(within, Reason::PathsTooLong(NAMES_BYTES_MAX as u64)),
        })
    }

    fn entry(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        parsed: &RelativePath,
    ) -> Result<(), Error> {
        match look(folder, name) {
            Ok(None) => Err(refused(path, Reason::Changing)),
            // Nothing brings anything back from there.
            Ok(Some(Found::Folder(_))) if self.intake.excludes(parsed) => self.intake.omit(path).map(|_| ()),
            Ok(Some(Found::Folder(inner))) => {
                self.intake.take(path, Entry::Folder)?;
                self.folder(inner.as_fd(), path)
            }
            Ok(Some(Found::File { file, is_executable, modified, .. })) => {
                self.file(path, parsed, (file, is_executable, modified))
            }
            Ok(Some(Found::Link(target))) => self.intake.take(path, Entry::Symlink { target: &target }),
            // Whatever it is and whoever may read it: nothing of what is left out is looked at.
            Err(Unseen::Refused(reason)) => match self.intake.omit(path)? {
                true => Ok(()),
                false => Err(refused(path, reason)),
            },
            Err(Unseen::Failed(errno)) => Err(system("read", parsed.as_str(), errno)),
        }
    }

    fn file(
        &mut self,
        path: &[u8],
        parsed: &RelativePath,
        (file, is_executable, modified): (File, bool, u64),
    ) -> Result<(), Error> {
        let stat = |file: &File| fstat(file).map_err(|errno| system("look at", parsed.as_str(), errno));
        let before = stat(&file)?;
        let is_kept_back = self.intake.keeps_back(parsed);
        if before.st_nlink > 1 {
            match self.files.entry((before.st_dev, before.st_ino)) {
                Slot::Occupied(other) if *other.get() != is_kept_back => {
                    return Err(refused(path, Reason::LeftOutElsewhere));
                }
                Slot::Occupied(_) => {}
                Slot::Vacant(slot) => drop(slot.insert(is_kept_back)),
            }
        }
        let modified = Some(modified);
        if self.intake.leaves_out(parsed) {
            return self
                .intake
                .take(path, Entry::File { is_executable, modified, content: &mut io::empty() });
        }
        // It is too long to be rewritten, and so left out: none of a hole of exabytes is read.
        let is_too_long = u64::try_from(before.st_size).is_ok_and(|bytes| bytes > SANITIZED_BYTES_MAX);
        if is_kept_back && is_too_long {
            let mut content = io::repeat(0).take(SANITIZED_BYTES_MAX + 1);
            return self.intake.take(path, Entry::File { is_executable, modified, content: &mut content });
        }
        // What grows meanwhile is refused, and no more of it is read than shows that.
        let left = u64::try_from(before.st_size).unwrap_or_default().saturating_add(1);
        let mut content = Counted { file, bytes: 0, left };
        self.intake.take(path, Entry::File { is_executable, modified, content: &mut content })?;
        let after = stat(&content.file)?;
        let is_whole = u64::try_from(before.st_size).is_ok_and(|bytes| bytes == content.bytes);
        if is_whole && is_as_before(&before, &after) { Ok(()) } else { Err(refused(path, Reason::Changing)) }
    }
}

fn is_as_before(before: &Stat, after: &Stat) -> bool {
    let seen = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_mode);
    seen(before) == seen(after)
}

fn refused(path: &[u8], reason: Reason) -> Error {
    Refusal::new(if path.is_empty() { b"the folder" } else { path }, reason).into()
}

/// A file, how much of it was read, and how much may be.
struct Counted {
    file: File,
    bytes: u64,
    left: u64,
}

impl Read for Counted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read(into.get_mut(..room).unwrap_or_default())?;
        self.bytes = self.bytes.saturating_add(count as u64);
        self.left = self.left.saturating_sub(count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests;

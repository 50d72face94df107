//! Compares a tree with its original, while whoever wrote the tree may still be writing.
//!
//! Nothing is followed and nothing is waited for ([`crate::look`]); every name is opened from the folder in which it was found, so that a
//! folder that is moved meanwhile leads nowhere else. What is not understood is refused by its path, and the walk goes on; what exceeds
//! a bound on the whole ends it.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::stream::{Leads, Writer, is_own_git};
use super::together::{Signs, named};
use super::{Bounds, Entry};
use crate::look::{Found, Unseen, look, names, sha256};
use crate::names::{Kind, Names};
use crate::path::RelativePath;
use crate::refusal::{Error, Plain, Reason, Refusal};
use crate::tree::open;

/// Bytes of the names of one folder.
const NAMES_BYTES_MAX: usize = 32 << 20;

/// Tells what differs between `original`, which nobody writes to, and `current`, to `out`.
///
/// # Errors
/// Refuses trees beyond a bound on the whole, and tells what the system says; `out` tells it, too.
pub fn tell(
    original: BorrowedFd<'_>,
    current: BorrowedFd<'_>,
    bounds: &Bounds,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let writer = Writer::start(out).map_err(unwritten)?;
    let mut walk = Walk::new(original, bounds, writer);
    match walk.root(original, current) {
        Ok(()) => walk.writer.end(walk.refused_count, walk.has_git_folder).map_err(unwritten),
        Err(error) => {
            walk.writer.failed(&error).map_err(unwritten)?;
            Err(error)
        }
    }
}

struct Walk<'a> {
    bounds: &'a Bounds,
    original: BorrowedFd<'a>,
    writer: Writer<'a>,
    /// The paths that are there now.
    names: Names,
    entries_left: u64,
    changes_left: u64,
    bytes_left: u64,
    read_bytes_left: u64,
    refused_count: u64,
    has_git_folder: bool,
    /// Whether a folder above is one that git takes for a repository.
    is_in_repository: bool,
}

/// What two folders hold under one path.
struct Inside {
    /// Names of the original's, and then those that are new.
    names: Vec<Vec<u8>>,
    is_repository: bool,
}

/// One side of a path: what it is, and what it holds.
struct Side {
    entry: Entry,
    folder: Option<OwnedFd>,
    file: Option<File>,
}

impl<'a> Walk<'a> {
    fn new(original: BorrowedFd<'a>, bounds: &'a Bounds, writer: Writer<'a>) -> Self {
        Self {
            bounds,
            original,
            writer,
            names: Names::new(bounds.tree.entries_max),
            entries_left: bounds.tree.entries_max,
            changes_left: bounds.changes_max,
            bytes_left: bounds.bytes_max,
            // What is told is read once to be compared; as much again may be read for nothing.
            read_bytes_left: bounds.bytes_max.saturating_mul(2),
            refused_count: 0,
            has_git_folder: false,
            is_in_repository: false,
        }
    }

    fn root(&mut self, original: BorrowedFd<'_>, current: BorrowedFd<'_>) -> Result<(), Error> {
        match self.inside(Some(original), Some(current), "")? {
            Some(inside) => self.folder(Some(original), Some(current), "", &inside),
            None => self.refuse(named("").as_bytes(), Reason::BareRepository),
        }
    }

    /// What is in a folder; none if it became one that git takes for a repository.
    fn inside(
        &mut self,
        old: Option<BorrowedFd<'_>>,
        new: Option<BorrowedFd<'_>>,
        within: &str,
    ) -> Result<Option<Inside>, Error> {
        let of = |walk: &mut Self, folder: Option<BorrowedFd<'_>>| {
            folder.map_or(Ok(Vec::new()), |folder| walk.names_in(folder, within))
        };
        let (mut names, added) = (of(self, old)?, of(self, new)?);
        // Of two names that some file system takes for one, the original's is the one that stays.
        let known: BTreeSet<Vec<u8>> = names.iter().cloned().collect();
        let mut signs = Signs::default();
        names.iter().for_each(|name| signs.see(name));
        let was_repository = signs.is_repository();
        names.extend(added.into_iter().filter(|name| !known.contains(name)));
        // Of both: a name of the original that is away for the moment in which its folder is read would come back behind it.
        names.iter().skip(known.len()).for_each(|name| signs.see(name));
        let is_repository = new.is_some() && signs.is_repository();
        Ok((!is_repository || was_repository).then_some(Inside { names, is_repository }))
    }

    fn folder(
        &mut self,
        old: Option<BorrowedFd<'_>>,
        new: Option<BorrowedFd<'_>>,
        within: &str,
        inside: &Inside,
    ) -> Result<(), Error> {
        let was_in_repository = self.is_in_repository;
        self.is_in_repository |= inside.is_repository;
        for name in &inside.names {
            self.entry(old, new, within, name)?;
        }
        self.is_in_repository = was_in_repository;
        Ok(())
    }

    fn names_in(&mut self, folder: BorrowedFd<'_>, within: &str) -> Result<Vec<Vec<u8>>, Error> {
        let names = names(folder, self.entries_left, NAMES_BYTES_MAX);
        let names = names.map_err(|errno| system("read the folder", within.as_bytes(), errno))?;
        let names = names.map_err(|reason| {
            let reason = match reason {
                Reason::TooMany(_) => Reason::TooMany(self.bounds.tree.entries_max),
                reason => reason,
            };
            Error::from(Refusal::new(within.as_bytes(), reason))
        })?;
        self.entries_left = self.entries_left.saturating_sub(names.len() as u64);
        Ok(names)
    }

    fn entry(
        &mut self,
        old: Option<BorrowedFd<'_>>,
        new: Option<BorrowedFd<'_>>,
        within: &str,
        name: &[u8],
    ) -> Result<(), Error> {
        if is_own_git(within, name) {
            self.has_git_folder = true;
            return Ok(());
        }
        let bytes = if within.is_empty() { name.to_vec() } else { [within.as_bytes(), name].join(&b'/') };
        let path = match self.judged(&bytes) {
            Ok(path) => path,
            Err(reason) => return self.refuse(&bytes, reason),
        };
        let found = |folder: Option<BorrowedFd<'_>>| folder.map_or(Ok(None), |folder| look(folder, name));
        let old = match found(old).and_then(side) {
            Ok(side) => side,
            Err(Unseen::Refused(reason)) => return Err(Refusal::new(&bytes, reason).into()),
            Err(Unseen::Failed(errno)) => return Err(system("read the original's", &bytes, errno)),
        };
        let known = old.as_ref().map(|side| &side.entry);
        let new = match found(new).and_then(|found| self.admitted(found, known)).and_then(side) {
            Ok(side) => side,
            Err(Unseen::Refused(reason)) => return self.refuse(&bytes, reason),
            Err(Unseen::Failed(errno)) => return Err(system("read", &bytes, errno)),
        };
        if let Some(reason) = new.as_ref().and_then(|new| self.refused(&path, new)) {
            return self.refuse(&bytes, reason);
        }
        self.compare(&path, old, new)
    }

    /// A path that may be told.
    fn judged(&self, bytes: &[u8]) -> Result<RelativePath, Reason> {
        let path = RelativePath::parse(bytes).map_err(|refusal| refusal.reason)?;
        if path.is_in_git_folder() {
            return Err(Reason::GitFolder);
        }
        let depth_max = self.bounds.tree.depth_max;
        if path.depth() > depth_max { Err(Reason::TooDeep(depth_max)) } else { Ok(path) }
    }

    /// Why what is there now may not be told under its path.
    fn refused(&mut self, path: &RelativePath, new: &Side) -> Option<Reason> {
        if let Entry::Link { target } = &new.entry
            && let Err(refusal) = crate::link::check_target(path, target.as_bytes())
        {
            return Some(refusal.reason);
        }
        let kind = if new.entry.is_folder() { Kind::Folder } else { Kind::Leaf };
        self.names.claim(path, kind).err()
    }

    /// What is there now, if it is read at all. A file as large as the original's may be it. Any other differs whatever it holds: it must
    /// have room among what is told, and a file that is read for nothing, as it changes meanwhile, has it only so often.
    fn admitted(&mut self, found: Option<Found>, old: Option<&Entry>) -> Result<Option<Found>, Unseen> {
        let Some(Found::File { bytes, .. }) = &found else { return Ok(found) };
        if matches!(old, Some(Entry::File { bytes: old, .. }) if old == bytes) {
            return Ok(found);
        }
        let bounds = self.bounds;
        if *bytes > bounds.file_bytes_max {
            return Err(Unseen::Refused(Reason::FileTooLarge(bounds.file_bytes_max)));
        }
        match self.read_bytes_left.checked_sub(*bytes) {
            Some(left) if *bytes <= self.bytes_left => {
                self.read_bytes_left = left;
                Ok(found)
            }
            _ => Err(Unseen::Refused(Reason::TooLarge(bounds.bytes_max))),
        }
    }

    fn compare(
        &mut self,
        path: &RelativePath,
        mut old: Option<Side>,
        mut new: Option<Side>,
    ) -> Result<(), Error> {
        let entry = |side: &Option<Side>| side.as_ref().map(|side| side.entry.clone());
        let (before, after) = (entry(&old), entry(&new));
        if before != after && self.is_in_repository {
            return self.refuse(path.as_str().as_bytes(), Reason::BareRepository);
        }
        let folder = |side: &mut Option<Side>| side.as_mut().and_then(|side| side.folder.take());
        let folders = (folder(&mut old), folder(&mut new));
        let (old_folder, new_folder) =
            (folders.0.as_ref().map(AsFd::as_fd), folders.1.as_ref().map(AsFd::as_fd));
        // Before the folder itself is told.
        let Some(inside) = self.inside(old_folder, new_folder, path.as_str())? else {
            return self.refuse(path.as_str().as_bytes(), Reason::BareRepository);
        };
        if before != after && !self.change(path, (before, &mut old), (after, &mut new))? {
            return Ok(());
        }
        self.folder(old_folder, new_folder, path.as_str(), &inside)
    }

    /// Tells a path that differs; false where it is refused.
    fn change(
        &mut self,
        path: &RelativePath,
        (before, old): (Option<Entry>, &mut Option<Side>),
        (after, new): (Option<Entry>, &mut Option<Side>),
    ) -> Result<bool, Error> {
        let size = |entry: &Option<Entry>| match entry {
            Some(Entry::File { bytes, .. }) => *bytes,
            _ => 0,
        };
        let bytes = path.as_str().as_bytes();
        let leads = match &after {
            Some(Entry::Link { target }) => match self.leads(path, target) {
                Ok(leads) => leads,
                Err(refusal) => return self.refuse(bytes, refusal.reason).map(|()| false),
            },
            _ => Leads::Elsewhere,
        };
        let (old_bytes, new_bytes) = (size(&before), size(&after));
        if new_bytes > self.bounds.file_bytes_max {
            return self.refuse(bytes, Reason::FileTooLarge(self.bounds.file_bytes_max)).map(|()| false);
        }
        // Both sides, or it could not be shown what became of the one: only of what goes its name is enough.
        let is_small = old_bytes <= self.bounds.shown_bytes_max;
        let both = if is_small { self.bytes_left.checked_sub(new_bytes + old_bytes) } else { None };
        let tells_old = both.is_some();
        let alone = if is_small && after.is_some() { None } else { self.bytes_left.checked_sub(new_bytes) };
        let Some(left) = both.or(alone) else {
            return self.refuse(bytes, Reason::TooLarge(self.bounds.bytes_max)).map(|()| false);
        };
        let changes_left = self.changes_left.checked_sub(1);
        let too_many = || Refusal::new(bytes, Reason::TooMany(self.bounds.changes_max));
        self.changes_left = changes_left.ok_or_else(too_many)?;
        self.bytes_left = left;
        let reader = |side: &mut Option<Side>| side.as_mut().and_then(|side| side.file.take());
        let (mut old_file, mut new_file) = (reader(old).filter(|_| tells_old), reader(new));
        let old_file = old_file.as_mut().map(|file| file as &mut dyn Read);
        let new_file = new_file.as_mut().map(|file| file as &mut dyn Read);
        self.writer
            .change(path, (before.as_ref(), old_file), (after.as_ref(), new_file), leads)
            .map_err(unwritten)?;
        Ok(true)
    }

    /// Where a link leads that is new. What is elsewhere than in the original is for the reader to find among what comes: here its writer
    /// could make it for a moment.
    fn leads(&self, path: &RelativePath, target: &str) -> Result<Leads, Refusal> {
        let leads = crate::link::check_new(path, target.as_bytes())?;
        let leads = named(leads.as_str());
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let is_there = open(self.original, leads, flags, Mode::empty()).is_ok();
        Ok(if is_there { Leads::ToOriginal } else { Leads::Elsewhere })
    }

    fn refuse(&mut self, path: &[u8], reason: Reason) -> Result<(), Error> {
        self.refused_count += 1;
        if self.refused_count > self.bounds.refused_max {
            return Ok(());
        }
        self.writer.refused(path, reason).map_err(unwritten)
    }
}

/// One side of a path, with its digest if it is a file.
fn side(found: Option<Found>) -> Result<Option<Side>, Unseen> {
    let side = match found {
        None => return Ok(None),
        Some(Found::Folder(folder)) => Side { entry: Entry::Folder {}, folder: Some(folder), file: None },
        Some(Found::Link(target)) => {
            let target = String::from_utf8(target).map_err(|_| Unseen::Refused(Reason::NotUtf8))?;
            Side { entry: Entry::Link { target }, folder: None, file: None }
        }
        Some(Found::File { mut file, is_executable: executable, bytes, .. }) => {
            let sha256 = sha256(&mut file, bytes).map_err(failed)?;
            let sha256 = sha256.ok_or(Unseen::Refused(Reason::Changing))?;
            file.rewind().map_err(failed)?;
            Side { entry: Entry::File { executable, bytes, sha256 }, folder: None, file: Some(file) }
        }
    };
    Ok(Some(side))
}

fn failed(error: std::io::Error) -> Unseen {
    match Errno::from_io_error(&error) {
        // What a sparse file of a folder, or a device, would say.
        Some(Errno::ISDIR | Errno::INVAL) | None => Unseen::Refused(Reason::Changing),
        Some(errno) => Unseen::Failed(errno),
    }
}

fn unwritten(source: std::io::Error) -> Error {
    Error::System { doing: "tell the changes of", path: "the tree".to_owned(), source }
}

fn system(doing: &'static str, path: &[u8], errno: Errno) -> Error {
    Error::System { doing, path: Plain(path).to_string(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_has_no_room_among_what_is_told_is_not_even_read() {
        let place = tempfile::tempdir().unwrap();
        let folder = File::open(place.path()).unwrap();
        let bounds = Bounds { file_bytes_max: 50, bytes_max: 100, ..Bounds::default() };
        let mut out = Vec::new();
        let mut walk = Walk::new(folder.as_fd(), &bounds, Writer::start(&mut out).unwrap());
        let of = |bytes| {
            let file = folder.try_clone().unwrap();
            Some(Found::File { file, is_executable: false, bytes, modified: 0 })
        };
        let old = Entry::File { executable: false, bytes: 90, sha256: String::new() };
        let admitted = |walk: &mut Walk<'_>, bytes, old: Option<&Entry>| match walk.admitted(of(bytes), old) {
            Ok(Some(_)) => None,
            Err(Unseen::Refused(reason)) => Some(reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(admitted(&mut walk, 51, None), Some(Reason::FileTooLarge(50)));
        walk.bytes_left = 49;
        assert_eq!(admitted(&mut walk, 50, None), Some(Reason::TooLarge(100)));
        assert_eq!(admitted(&mut walk, 49, None), None, "the control");
        // Three more are read for nothing, as they change meanwhile.
        assert_eq!([0; 3].map(|_| admitted(&mut walk, 49, None)), [None; 3]);
        assert_eq!(admitted(&mut walk, 49, None), Some(Reason::TooLarge(100)));
        // One that may be the original's is read: there are no more of them than the original has.
        assert_eq!(admitted(&mut walk, 90, Some(&old)), None);
        assert_eq!(admitted(&mut walk, 91, Some(&old)), Some(Reason::FileTooLarge(50)));
    }
}

//! The only writer.
//!
//! A tree is written into a folder of its own beside its place, `.NAME.unfinished`, which nobody else may enter, and takes
//! its place by one rename that replaces nothing that is there. Until then nobody sees it; if it is dropped before, it is taken away.
//!
//! Every open is relative to the staging folder and resolved by the kernel beneath it without following any link
//! or mount (openat2(2): `RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`, `RESOLVE_NO_MAGICLINKS`, `RESOLVE_NO_XDEV`). Where the kernel has no openat2
//! nothing is written. Names were judged before; this is the second guard and asks nobody.

mod copy;
pub(crate) mod remove;

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Mode, OFlags, RenameFlags, ResolveFlags, Timespec, Timestamps, fchmod, futimens, linkat,
    mkdirat, openat2, renameat, renameat_with, symlinkat,
};
use rustix::io::Errno;

use crate::limits::{DEPTH_MAX, Limits};
use crate::link::check_target;
use crate::names::{Claim, Kind, Names};
use crate::path::{RelativePath, check};
use crate::refusal::{Error, Reason, Refusal};

/// How every path is resolved.
pub(crate) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);
/// A folder, to resolve by.
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A file that was not there.
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Of the staging folder and of every file while it is written.
const PRIVATE: Mode = Mode::RWXU;
/// Folders, and files that run. Set-id and sticky bits are in no mode here, whatever the input says.
pub(crate) const OPEN: Mode =
    Mode::RWXU.union(Mode::RGRP).union(Mode::XGRP).union(Mode::ROTH).union(Mode::XOTH);
/// Files that do not run.
const PLAIN: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP).union(Mode::ROTH);

/// Read and written at once.
const CHUNK_BYTES: usize = 64 << 10;

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Folders, with those that are only on the way to something else.
    pub folders: u64,
    /// Links of both kinds.
    pub links: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// A tree that is being written.
///
/// Nothing that fails leaves it usable: after an error every call refuses, and what was staged goes with the value.
pub struct Tree {
    /// The folder that the tree stands in.
    parent: OwnedFd,
    name: String,
    staging: String,
    root: OwnedFd,
    limits: Limits,
    names: Names,
    counts: Counts,
    /// The folder that the last entry was in: archives go folder by folder.
    last: Option<(String, OwnedFd)>,
    /// What is read and not yet written: one for all files.
    chunk: Vec<u8>,
    has_failed: bool,
    is_published: bool,
}

impl Tree {
    /// Begins a tree that will be `name` in `parent`. What an earlier attempt left unfinished there is taken away: only one
    /// may be written at a time, which is for the caller to see to.
    ///
    /// # Errors
    /// Refuses a name that is none, and tells what the system says.
    pub fn create(parent: BorrowedFd<'_>, name: &str, limits: Limits) -> Result<Self, Error> {
        let refused = |reason| Refusal::new(name.as_bytes(), reason);
        check(name).map_err(refused)?;
        if name.contains('/') {
            return Err(refused(Reason::PathTooLong).into());
        }
        let parent =
            parent.try_clone_to_owned().map_err(|source| system("open the folder of", name, source))?;
        let staging = format!(".{name}.unfinished");
        remove::remove(parent.as_fd(), &staging).map_err(|errno| system("take away", &staging, errno))?;
        mkdirat(&parent, &*staging, PRIVATE).map_err(|errno| system("make", &staging, errno))?;
        let root = open(parent.as_fd(), &staging, FOLDER, Mode::empty())
            .map_err(|errno| system("open", &staging, errno))?;
        let limits = Limits { depth_max: limits.depth_max.min(DEPTH_MAX), ..limits };
        let (name, names) = (name.to_owned(), Names::new(limits.entries_max));
        let (counts, last, chunk) = (Counts::default(), None, Vec::new());
        let (has_failed, is_published) = (false, false);
        Ok(Self { parent, name, staging, root, limits, names, counts, last, chunk, has_failed, is_published })
    }

    /// The bounds it was created with.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What was written so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Makes a folder, with every folder on the way. One that is there stays.
    ///
    /// # Errors
    /// Refuses a path through a link or file, and one that collides with another.
    pub fn folder(&mut self, path: &RelativePath) -> Result<(), Error> {
        self.begin(path)?;
        let done = self.ensure(path.as_str(), path);
        self.end(done)
    }

    /// Writes a regular file from `content`, with every folder on the way. `modified` is in seconds since 1970.
    ///
    /// # Errors
    /// Refuses what [`Tree::folder`] does, a path that is there, and content beyond a limit. An error of `content` is
    /// told as one of the archive.
    pub fn file(
        &mut self,
        path: &RelativePath,
        is_executable: bool,
        modified: Option<u64>,
        content: &mut dyn Read,
    ) -> Result<u64, Error> {
        self.begin(path)?;
        let done = self.write(path, is_executable, modified, content);
        self.end(done)
    }

    /// Writes a file of this project's own making, which alone may be in a `.git` folder.
    ///
    /// # Errors
    /// As [`Tree::file`].
    pub(crate) fn own(&mut self, path: &str, content: &mut dyn Read) -> Result<u64, Error> {
        let path = RelativePath::parse(path.as_bytes())?;
        self.begin_any(&path)?;
        let done = self.write(&path, false, None, content);
        self.end(done)
    }

    /// Makes a folder of this project's own making.
    pub(crate) fn own_folder(&mut self, path: &str) -> Result<(), Error> {
        let path = RelativePath::parse(path.as_bytes())?;
        self.begin_any(&path)?;
        let done = self.ensure(path.as_str(), &path);
        self.end(done)
    }

    /// Makes a symbolic link whose target stays inside the tree.
    ///
    /// # Errors
    /// Refuses what [`Tree::file`] does, and a target that leaves the tree or may do so.
    pub fn symlink(&mut self, path: &RelativePath, target: &[u8]) -> Result<(), Error> {
        self.begin(path)?;
        let done = self.link(path, |folder, name| {
            check_target(path, target)?;
            symlinkat(target, folder, name).map_err(|errno| told("link", path, errno))
        });
        self.end(done)
    }

    /// Makes another name for a regular file of this tree.
    ///
    /// # Errors
    /// Refuses what [`Tree::file`] does, and a target that this tree did not write as a regular file.
    pub fn hard_link(&mut self, path: &RelativePath, target: &RelativePath) -> Result<(), Error> {
        self.begin(path)?;
        let root =
            self.root.as_fd().try_clone_to_owned().map_err(|source| system("open", &self.staging, source))?;
        let done = self.link(path, |folder, name| {
            let escapes = || Error::from(Refusal::new(path.as_str().as_bytes(), Reason::HardLinkEscapes));
            let (within, own) = target.split();
            if target.is_root() {
                return Err(escapes());
            }
            let within = open_folder(root.as_fd(), within).map_err(|_| escapes())?;
            let file = rustix::fs::statat(&within, own, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| escapes())?;
            if rustix::fs::FileType::from_raw_mode(file.st_mode) != rustix::fs::FileType::RegularFile {
                return Err(escapes());
            }
            linkat(&within, own, folder, name, AtFlags::empty()).map_err(|errno| told("link", path, errno))
        });
        self.end(done)
    }

    /// Puts the tree in its place, where nothing may be: all of it, or nothing.
    ///
    /// # Errors
    /// Refuses a tree that is unfinished, and tells what the system says: of a name that is taken, too. What another writer
    /// of the folder put where the tree was staged is refused, and stays where it is.
    pub fn publish(mut self) -> Result<Counts, Error> {
        if self.has_failed {
            return Err(Refusal::new(self.name.as_bytes(), Reason::Unfinished).into());
        }
        let root = open(self.root.as_fd(), ".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .and_then(|root| fchmod(&root, OPEN));
        root.map_err(|errno| system("open up", &self.staging, errno))?;
        put(self.parent.as_fd(), &self.staging, self.parent.as_fd(), &self.name)
            .map_err(|errno| system("put in its place", &self.name, errno))?;
        // The rename went by name: only now is it certain what was renamed.
        let own = rustix::fs::fstat(&self.root).map_err(|errno| system("look at", &self.staging, errno))?;
        let there = rustix::fs::statat(&self.parent, &*self.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| system("look at", &self.name, errno))?;
        if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino) {
            return Err(Refusal::new(self.name.as_bytes(), Reason::Replaced).into());
        }
        self.is_published = true;
        Ok(self.counts)
    }

    fn begin(&mut self, path: &RelativePath) -> Result<(), Error> {
        self.begin_any(path)?;
        if path.is_in_git_folder() {
            return Err(Refusal::new(path.as_str().as_bytes(), Reason::GitFolder).into());
        }
        Ok(())
    }

    fn begin_any(&mut self, path: &RelativePath) -> Result<(), Error> {
        let refused = |reason| Err(Refusal::new(path.as_str().as_bytes(), reason).into());
        if self.has_failed {
            return refused(Reason::Unfinished);
        }
        // Whoever does not come to `end` has failed.
        self.has_failed = true;
        if path.depth() > self.limits.depth_max {
            return refused(Reason::TooDeep(self.limits.depth_max));
        }
        Ok(())
    }

    fn end<T>(&mut self, done: Result<T, Error>) -> Result<T, Error> {
        self.has_failed = done.is_err();
        done
    }

    /// Makes every folder of `path` that is not there, on the way to `entry`.
    fn ensure(&mut self, path: &str, entry: &RelativePath) -> Result<(), Error> {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends.filter(|end| *end > 0) {
            let Some(prefix) = path.get(..end) else { continue };
            let folder = RelativePath::parse(prefix.as_bytes())?;
            let refused = |reason| Error::from(Refusal::new(entry.as_str().as_bytes(), reason));
            match self.names.claim(&folder, Kind::Folder).map_err(refused)? {
                Claim::Known(Kind::Folder) => {}
                Claim::Known(Kind::Leaf) => return Err(refused(Reason::ThroughLink)),
                Claim::New => {
                    let (within, name) = folder.split();
                    let within = open_folder(self.root.as_fd(), within)
                        .map_err(|errno| told("open the folder of", &folder, errno))?;
                    mkdirat(&within, name, PRIVATE).map_err(|errno| told("make", &folder, errno))?;
                    // The umask is not ours to know.
                    let made = open(within.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
                        .and_then(|made| fchmod(&made, OPEN));
                    made.map_err(|errno| told("make", &folder, errno))?;
                    self.counts.folders += 1;
                }
            }
        }
        Ok(())
    }

    /// The folder of a path, made if it is not there, once the path itself is claimed for what is no folder.
    fn place(&mut self, path: &RelativePath) -> Result<BorrowedFd<'_>, Error> {
        let refused = |reason| Error::from(Refusal::new(path.as_str().as_bytes(), reason));
        if path.is_root() {
            return Err(refused(Reason::EmptySegment));
        }
        let (within, _) = path.split();
        if self.last.as_ref().is_none_or(|(last, _)| last != within) {
            self.ensure(within, path)?;
            let folder = open_folder(self.root.as_fd(), within)
                .map_err(|errno| told("open the folder of", path, errno))?;
            self.last = Some((within.to_owned(), folder));
        }
        match self.names.claim(path, Kind::Leaf).map_err(refused)? {
            Claim::New => {}
            Claim::Known(_) => return Err(refused(Reason::NamedTwice)),
        }
        self.last.as_ref().map(|(_, folder)| folder.as_fd()).ok_or_else(|| refused(Reason::Unfinished))
    }

    fn write(
        &mut self,
        path: &RelativePath,
        is_executable: bool,
        modified: Option<u64>,
        content: &mut dyn Read,
    ) -> Result<u64, Error> {
        let (_, name) = path.split();
        let file = open(self.place(path)?, name, NEW_FILE, Mode::RUSR | Mode::WUSR)
            .map_err(|errno| told("make", path, errno))?;
        let mut file = std::fs::File::from(file);
        let written = self.pour(path, &mut file, content)?;
        fchmod(&file, if is_executable { OPEN } else { PLAIN })
            .map_err(|errno| told("finish", path, errno))?;
        if let Some(modified) = modified {
            futimens(&file, &at(modified)).map_err(|errno| told("finish", path, errno))?;
        }
        self.counts.files += 1;
        self.counts.bytes = self.counts.bytes.saturating_add(written);
        Ok(written)
    }

    /// Writes content into a file, as far as it is within the bounds. What comes in small pieces is written in large ones.
    fn pour(
        &mut self,
        path: &RelativePath,
        file: &mut std::fs::File,
        content: &mut dyn Read,
    ) -> Result<u64, Error> {
        let (limits, before) = (self.limits, self.counts.bytes);
        let refused = |reason| Error::from(Refusal::new(path.as_str().as_bytes(), reason));
        self.chunk.resize(CHUNK_BYTES, 0);
        let (mut written, mut filled) = (0_u64, 0);
        loop {
            let read = match content.read(self.chunk.get_mut(filled..).unwrap_or_default()) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::Unreadable(error.to_string())),
            };
            written = written.saturating_add(read as u64);
            if written > limits.file_bytes_max {
                return Err(refused(Reason::FileTooLarge(limits.file_bytes_max)));
            }
            if before.saturating_add(written) > limits.bytes_max {
                return Err(refused(Reason::TooLarge(limits.bytes_max)));
            }
            filled += read;
            if read == 0 || filled == CHUNK_BYTES {
                let piece = self.chunk.get(..filled).unwrap_or_default();
                file.write_all(piece).map_err(|error| system("write", path.as_str(), error))?;
                filled = 0;
            }
            if read == 0 {
                return Ok(written);
            }
        }
    }

    fn link(
        &mut self,
        path: &RelativePath,
        make: impl FnOnce(BorrowedFd<'_>, &str) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (_, name) = path.split();
        make(self.place(path)?, name)?;
        self.counts.links += 1;
        Ok(())
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        if !self.is_published {
            // What stays for a failure here is taken away by the next attempt, and nobody else may enter it.
            let _ = remove::remove(self.parent.as_fd(), &self.staging);
        }
    }
}

/// The last moment that is written: a 32-bit file system knows no later one.
pub(crate) const SECONDS_MAX: u64 = i32::MAX as u64;

fn at(seconds: u64) -> Timestamps {
    let seconds = i64::try_from(seconds.min(SECONDS_MAX)).unwrap_or_default();
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn open(folder: BorrowedFd<'_>, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    openat2(folder, path, flags | OFlags::CLOEXEC, mode, BENEATH)
}

pub(crate) fn open_folder(root: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, Errno> {
    open(root, if path.is_empty() { "." } else { path }, FOLDER, Mode::empty())
}

/// Renames to a name that nobody has. gVisor does not know this kind of rename where others may write to the same volume.
pub(crate) fn put(
    folder: BorrowedFd<'_>,
    from: &str,
    to_folder: BorrowedFd<'_>,
    to: &str,
) -> Result<(), Errno> {
    match renameat_with(folder, from, to_folder, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => put_plainly(folder, from, to_folder, to),
        done => done,
    }
}

/// The same in two steps. Of a folder, what is put there between them stays too: it takes the place of an empty folder alone (rename(2)).
fn put_plainly(folder: BorrowedFd<'_>, from: &str, to_folder: BorrowedFd<'_>, to: &str) -> Result<(), Errno> {
    match rustix::fs::statat(to_folder, to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => renameat(folder, from, to_folder, to),
        Ok(_) => Err(Errno::EXIST),
        Err(errno) => Err(errno),
    }
}

pub(crate) fn system(doing: &'static str, path: &str, source: impl Into<io::Error>) -> Error {
    Error::System { doing, path: path.to_owned(), source: source.into() }
}

/// What the kernel's answer means for a path of the tree.
pub(crate) fn told(doing: &'static str, path: &RelativePath, errno: Errno) -> Error {
    let reason = match errno {
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV => Reason::ThroughLink,
        Errno::EXIST => Reason::NamedTwice,
        Errno::NAMETOOLONG => Reason::PathTooLong,
        _ => return system(doing, path.as_str(), errno),
    };
    Refusal::new(path.as_str().as_bytes(), reason).into()
}

#[cfg(test)]
mod tests;

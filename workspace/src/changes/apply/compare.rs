//! Whether a folder holds the original wherever something changes: each path that it does not is told.

use std::collections::hash_map::Entry as Known;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags, openat2};
use rustix::io::Errno;

use super::{Conflict, STAGE};
use crate::changes::together::{Signs, named, signs};
use crate::changes::{Bounds, Change, Changes, Entry};
use crate::fold::fold;
use crate::look::{Found, Unseen, look, names, sha256};
use crate::path::RelativePath;
use crate::refusal::{Error, Plain, Reason, Refusal};
use crate::tree::{BENEATH, open_folder, system};

/// Bytes of the names of one folder.
const NAMES_BYTES_MAX: usize = 32 << 20;

/// The paths that are not as the original has them.
pub fn conflicts(changes: &Changes, folder: BorrowedFd<'_>) -> Result<Vec<Conflict>, Error> {
    let by_path: BTreeMap<&str, &Change> =
        changes.changes.iter().map(|change| (change.path.as_str(), change)).collect();
    let mut siblings = Siblings::default();
    let mut conflicts = Vec::new();
    for change in &changes.changes {
        if is_of_the_stage(&change.path) {
            conflicts.push(conflict(change, "the place where changes are staged".to_owned()));
            continue;
        }
        if is_below_what_is_replaced(&by_path, change.path.as_str()) && change.old.is_none() {
            continue;
        }
        let found = match present(folder, &change.path) {
            Ok(found) => found,
            Err(Unseen::Refused(reason)) => {
                conflicts.push(conflict(change, reason.to_string()));
                continue;
            }
            Err(Unseen::Failed(errno)) => return Err(system("read", change.path.as_str(), errno)),
        };
        if found != change.old {
            conflicts.push(conflict(change, describe(found.as_ref())));
        } else if change.old.is_none()
            && let Some(other) = siblings.like(folder, &by_path, &change.path)?
        {
            let found = format!("{}, which some file systems take for it", Plain(other.as_bytes()));
            conflicts.push(conflict(change, found));
        }
    }
    // In a folder that is something else no look is needed.
    if conflicts.is_empty() {
        conflicts.extend(repositories(changes, folder, &by_path, &mut siblings)?);
    }
    Ok(conflicts)
}

/// The folders to which something comes and that git takes for repositories then, by what they hold already and what comes.
fn repositories(
    changes: &Changes,
    folder: BorrowedFd<'_>,
    by_path: &BTreeMap<&str, &Change>,
    siblings: &mut Siblings,
) -> Result<Vec<Conflict>, Error> {
    let mut conflicts = Vec::new();
    // In their order.
    let folders: BTreeMap<&str, Signs> = signs(&changes.changes).into_iter().collect();
    for (within, mut signs) in folders {
        siblings.staying(folder, by_path, within)?.keys().for_each(|name| signs.see(name.as_bytes()));
        if signs.is_repository() {
            let found = "what git takes for a repository with what comes".to_owned();
            conflicts.push(Conflict { path: named(within).to_owned(), found });
        }
    }
    Ok(conflicts)
}

fn conflict(change: &Change, found: String) -> Conflict {
    Conflict { path: change.path.as_str().to_owned(), found }
}

fn describe(found: Option<&Entry>) -> String {
    match found {
        None => "nothing".to_owned(),
        Some(Entry::Folder {}) => "a folder".to_owned(),
        Some(Entry::File { executable: true, .. }) => {
            "another file, or one that may not be executed".to_owned()
        }
        Some(Entry::File { .. }) => "another file, or one that may be executed".to_owned(),
        Some(Entry::Link { .. }) => "a link, or another one".to_owned(),
    }
}

/// Whether a path is, or is in, what is taken away in the end.
fn is_of_the_stage(path: &RelativePath) -> bool {
    path.names().next().is_some_and(|first| fold(first) == STAGE)
}

/// Whether what stands above a path becomes a folder by these changes: then nothing is there yet.
fn is_below_what_is_replaced(by_path: &BTreeMap<&str, &Change>, path: &str) -> bool {
    path.match_indices('/').filter_map(|(end, _)| by_path.get(path.get(..end)?)).any(|above| {
        above.old.as_ref().is_none_or(|old| !old.is_folder())
            && above.new.as_ref().is_some_and(Entry::is_folder)
    })
}

/// What stands under a path of the folder.
pub fn present(folder: BorrowedFd<'_>, path: &RelativePath) -> Result<Option<Entry>, Unseen> {
    let (within, name) = path.split();
    let within = match open_folder(folder, within) {
        Ok(within) => within,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR | Errno::XDEV) => return Err(Unseen::Refused(Reason::ThroughLink)),
        Err(errno) => return Err(Unseen::Failed(errno)),
    };
    Ok(match look(within.as_fd(), name.as_bytes())? {
        None => None,
        Some(Found::Folder(_)) => Some(Entry::Folder {}),
        Some(Found::Link(target)) => {
            let target = String::from_utf8(target).map_err(|_| Unseen::Refused(Reason::NotUtf8))?;
            Some(Entry::Link { target })
        }
        Some(Found::File { mut file, is_executable: executable, bytes, .. }) => {
            let sha256 = sha256(&mut file, bytes)
                .map_err(|error| Unseen::Failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
            let sha256 = sha256.ok_or(Unseen::Refused(Reason::Changing))?;
            Some(Entry::File { executable, bytes, sha256 })
        }
    })
}

/// Names that stay in the folders that something is added to, by how file systems may fold them.
#[derive(Default)]
struct Siblings {
    folded: HashMap<String, HashMap<String, String>>,
}

impl Siblings {
    /// A name beside a path that some file system takes for the same.
    fn like(
        &mut self,
        folder: BorrowedFd<'_>,
        by_path: &BTreeMap<&str, &Change>,
        path: &RelativePath,
    ) -> Result<Option<String>, Error> {
        let (within, name) = path.split();
        let other = self.staying(folder, by_path, within)?.get(&fold(name));
        Ok(other.filter(|other| *other != name).cloned())
    }

    /// The names that stay in a folder, by how they are folded.
    fn staying(
        &mut self,
        folder: BorrowedFd<'_>,
        by_path: &BTreeMap<&str, &Change>,
        within: &str,
    ) -> Result<&HashMap<String, String>, Error> {
        match self.folded.entry(within.to_owned()) {
            Known::Occupied(known) => Ok(known.into_mut()),
            Known::Vacant(place) => Ok(place.insert(Self::read(folder, by_path, within)?)),
        }
    }

    fn read(
        folder: BorrowedFd<'_>,
        by_path: &BTreeMap<&str, &Change>,
        within: &str,
    ) -> Result<HashMap<String, String>, Error> {
        let refused = |reason| Error::from(Refusal::new(within.as_bytes(), reason));
        let path = if within.is_empty() { "." } else { within };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = match openat2(folder, path, flags, Mode::empty(), BENEATH) {
            Ok(opened) => opened,
            // It comes with these changes, maybe in the place of what is none.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(HashMap::new()),
            Err(errno) => return Err(system("read the folder", within, errno)),
        };
        let entries_max = Bounds::default().tree.entries_max;
        let names = names(opened.as_fd(), entries_max, NAMES_BYTES_MAX)
            .map_err(|errno| system("read the folder", within, errno))?
            .map_err(refused)?;
        let names = names.into_iter().filter_map(|name| String::from_utf8(name).ok());
        let stays = |name: &String| {
            let path = if within.is_empty() { name.clone() } else { format!("{within}/{name}") };
            by_path.get(path.as_str()).is_none_or(|change| change.new.is_some())
        };
        Ok(names.filter(stays).map(|name| (fold(&name), name)).collect())
    }
}

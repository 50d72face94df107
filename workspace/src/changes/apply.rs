//! Makes of a folder that holds the original what the changes make of it: all of it, or nothing.
//!
//! | step | what it does |
//! |---|---|
//! | look | where `.agentsandbox-apply` is there already, an earlier run was ended in its middle |
//! | compare | every path that changes must be in the folder as the original has it; what is not is told, and nothing is written |
//! | stage | what is new is written by [`Tree`] into `.agentsandbox-apply` in the folder, so that it can be renamed from there; and what is going to change, by its name |
//! | carry out | files that go are moved there, and looked at once more: what somebody wrote since is brought back; folders that go are taken away, folders that come are made, files that come are moved to their places |
//! | on failure | the steps that were done are undone in their turn |
//!
//! No path of the folder is resolved through a link or a mount, and no name may be, or be taken for, `.git`.

mod compare;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, mkdirat, openat2, statat, unlinkat};
use rustix::io::Errno;

use self::compare::{conflicts, present};
use super::unified::{folder_status, quoted, status};
use super::{Bounds, Change, Changes, Entry};
use crate::link::check_new;
use crate::look::Unseen;
use crate::path::RelativePath;
use crate::refusal::{Error, Reason, Refusal};
use crate::tree::{BENEATH, OPEN, Tree, open, open_folder, put, remove, system};

/// Where everything is staged.
pub const STAGE: &str = ".agentsandbox-apply";
/// In it: what comes.
const NEW: &str = "new";
/// In it: what goes, under the paths that it had.
const OLD: &str = "old";
/// In it: each path that changes, with what git calls its change.
const PATHS: &str = "paths";

/// Why nothing was written; or what stays where it was.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The folder holds something else than the original.
    #[error("{} paths are not as the original has them", .0.len())]
    Conflicts(Vec<Conflict>),
    /// An earlier run was ended in its middle.
    #[error(
        "{STAGE} is there: an earlier apply was ended in its middle, or still works. {STAGE}/{PATHS} names what it changes; what it took away is in {STAGE}/{OLD}, and what it did not put in its place yet in {STAGE}/{NEW}: take out what it put there, move back what it took away, and delete {STAGE}"
    )]
    Unfinished,
    /// What is refused, or what the system says. All that was done is undone.
    #[error(transparent)]
    Failed(#[from] Error),
    /// It failed, and could not be undone.
    #[error(
        "it failed and could not be undone at {path} ({undoing}): what was taken away is in {STAGE}/{OLD}"
    )]
    Stuck {
        /// Where.
        path: String,
        /// Why it could not be undone.
        undoing: String,
        /// Why it failed.
        source: Error,
    },
    /// All of it was applied.
    #[error("all of it is applied, but {STAGE} cannot be taken away: delete it")]
    StageStays(#[source] Error),
}

/// A path that is not as the original has it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Conflict {
    /// The path.
    pub path: String,
    /// What is there in its stead.
    pub found: String,
}

/// Makes the changes in `folder`.
///
/// # Errors
/// As the table of the module says; after an error the folder is as it was, except for [`ApplyError::Stuck`], and for
/// [`ApplyError::StageStays`], after which it is as it should be.
pub fn apply(changes: &Changes, folder: BorrowedFd<'_>) -> Result<(), ApplyError> {
    // Before all else: half of the changes would be told as conflicts.
    match statat(folder, STAGE, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Err(ApplyError::Unfinished),
        Err(Errno::NOENT) => {}
        Err(errno) => return Err(system("look at", STAGE, errno).into()),
    }
    let conflicts = conflicts(changes, folder)?;
    if !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    match mkdirat(folder, STAGE, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Err(ApplyError::Unfinished),
        Err(errno) => return Err(system("make", STAGE, errno).into()),
    }
    let mut place = None;
    let done = staged(changes, folder)
        .and_then(|staged| place.insert(Place { folder, staged, done: Vec::new() }).carry_out(changes));
    if let Err(source) = done {
        if let Some((path, errno)) = place.as_mut().and_then(Place::undo) {
            let undoing = std::io::Error::from(errno).to_string();
            return Err(ApplyError::Stuck { path, undoing, source });
        }
        let _ = remove::remove(folder, STAGE);
        return Err(source.into());
    }
    clear(folder)
}

/// Takes the stage away once all of it is in its place: a failure here is none of the changes.
fn clear(folder: BorrowedFd<'_>) -> Result<(), ApplyError> {
    remove::remove(folder, STAGE).map_err(|errno| ApplyError::StageStays(system("take away", STAGE, errno)))
}

/// What comes, written by the only writer, and a place for what goes.
pub(super) fn staged(changes: &Changes, folder: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let stage = open_folder(folder, STAGE).map_err(|errno| system("open", STAGE, errno))?;
    mkdirat(&stage, OLD, Mode::RWXU).map_err(|errno| system("make", OLD, errno))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let paths = open(stage.as_fd(), PATHS, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| system("make", PATHS, errno))?;
    let written = File::from(paths).write_all(paths_of(changes).as_bytes());
    written.map_err(|error| system("write", PATHS, error))?;
    let mut tree = Tree::create(stage.as_fd(), NEW, Bounds::default().tree)?;
    for change in &changes.changes {
        match &change.new {
            None => {}
            Some(Entry::Folder {}) => tree.folder(&change.path)?,
            Some(Entry::File { executable, .. }) => {
                tree.file(&change.path, *executable, None, &mut change.new_content.as_slice())?;
            }
            Some(Entry::Link { target }) => {
                check_new(&change.path, target.as_bytes())?;
                tree.symlink(&change.path, target.as_bytes())?;
            }
        }
    }
    tree.publish()?;
    Ok(stage)
}

/// What changes, a line each: of a run that is killed nothing else says what it put in its place.
fn paths_of(changes: &Changes) -> String {
    let mut paths = String::new();
    for change in &changes.changes {
        let path = change.path.as_str();
        if let Some(status) = folder_status(change) {
            paths.push_str(&format!("{status}\t{}\n", quoted(&format!("{path}/"))));
        }
        if let Some(status) = status(change) {
            paths.push_str(&format!("{status}\t{}\n", quoted(path)));
        }
    }
    paths
}

/// A step that was done, by what undoes it.
enum Done {
    /// What was there is in the stage.
    Moved(RelativePath),
    /// A folder was taken away.
    FolderGone(RelativePath),
    /// A folder was made.
    FolderMade(RelativePath),
    /// What is new is there: this file, by its device and its number.
    Placed(RelativePath, (u64, u64)),
}

/// The folder, its stage, and what was done so far.
struct Place<'a> {
    folder: BorrowedFd<'a>,
    staged: OwnedFd,
    done: Vec<Done>,
}

impl Place<'_> {
    fn carry_out(&mut self, changes: &Changes) -> Result<(), Error> {
        let is_folder = |entry: &Option<Entry>| entry.as_ref().map(Entry::is_folder);
        let all =
            || changes.changes.iter().map(|change| (change, is_folder(&change.old), is_folder(&change.new)));
        for (change, old, _) in all() {
            if old == Some(false) {
                self.step("move away", &change.path, Self::take_away)?;
                self.look_again(change)?;
            }
        }
        // What they hold went before.
        for (change, old, new) in all().rev() {
            if old == Some(true) && new != Some(true) {
                self.step("take away the folder", &change.path, Self::take_folder_away)?;
            }
        }
        for (change, old, new) in all() {
            if new == Some(true) && old != Some(true) {
                self.step("make the folder", &change.path, Self::make_folder)?;
            }
        }
        for (change, _, new) in all() {
            if new == Some(false) {
                self.step("put in its place", &change.path, Self::put)?;
            }
        }
        Ok(())
    }

    fn step(
        &mut self,
        doing: &'static str,
        path: &RelativePath,
        step: impl FnOnce(&Self, &RelativePath) -> Result<Done, Errno>,
    ) -> Result<(), Error> {
        let done = step(self, path).map_err(|errno| system(doing, path.as_str(), errno))?;
        self.done.push(done);
        Ok(())
    }

    /// What was moved away is what was compared: nobody else can write to it by its name now, and what was written since is no original.
    fn look_again(&self, change: &Change) -> Result<(), Error> {
        let path = change.path.as_str();
        let old = open_folder(self.staged.as_fd(), OLD)
            .map_err(|errno| system("open the stage of", path, errno))?;
        match present(old.as_fd(), &change.path) {
            Ok(found) if found == change.old => Ok(()),
            Ok(_) | Err(Unseen::Refused(_)) => Err(Refusal::new(path.as_bytes(), Reason::Changing).into()),
            Err(Unseen::Failed(errno)) => Err(system("read", path, errno)),
        }
    }

    fn take_away(&self, path: &RelativePath) -> Result<Done, Errno> {
        let (within, name) = path.split();
        let from = open_folder(self.folder, within)?;
        let to = self.folder_of_old(within)?;
        put(from.as_fd(), name, to.as_fd(), name)?;
        Ok(Done::Moved(path.clone()))
    }

    /// The folder for what goes, made as it was around it.
    fn folder_of_old(&self, within: &str) -> Result<OwnedFd, Errno> {
        let mut folder = open_folder(self.staged.as_fd(), OLD)?;
        for name in within.split('/').filter(|name| !name.is_empty()) {
            match mkdirat(&folder, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
            folder = open_folder(folder.as_fd(), name)?;
        }
        Ok(folder)
    }

    fn take_folder_away(&self, path: &RelativePath) -> Result<Done, Errno> {
        let (within, name) = path.split();
        unlinkat(open_folder(self.folder, within)?, name, AtFlags::REMOVEDIR)?;
        Ok(Done::FolderGone(path.clone()))
    }

    fn make_folder(&self, path: &RelativePath) -> Result<Done, Errno> {
        make(self.folder, path)?;
        Ok(Done::FolderMade(path.clone()))
    }

    fn put(&self, path: &RelativePath) -> Result<Done, Errno> {
        let (within, name) = path.split();
        let from = open_folder(open_folder(self.staged.as_fd(), NEW)?.as_fd(), within)?;
        let to = open_folder(self.folder, within)?;
        let own = id(from.as_fd(), name)?;
        put(from.as_fd(), name, to.as_fd(), name)?;
        Ok(Done::Placed(path.clone(), own))
    }

    /// Undoes all of it, the last step first; tells where that fails.
    fn undo(&mut self) -> Option<(String, Errno)> {
        while let Some(done) = self.done.pop() {
            let (path, undone) = match &done {
                Done::Moved(path) => (path, self.bring_back(path)),
                Done::FolderGone(path) => (path, make(self.folder, path)),
                Done::FolderMade(path) => (path, self.unlink(path, AtFlags::REMOVEDIR)),
                Done::Placed(path, own) => (path, self.take_out(path, *own)),
            };
            if let Err(errno) = undone {
                return Some((path.to_string(), errno));
            }
        }
        None
    }

    fn bring_back(&self, path: &RelativePath) -> Result<(), Errno> {
        let (within, name) = path.split();
        let from = open_folder(open_folder(self.staged.as_fd(), OLD)?.as_fd(), within)?;
        put(from.as_fd(), name, open_folder(self.folder, within)?.as_fd(), name)
    }

    /// Takes out what was put there, and nothing that somebody else put in its stead.
    fn take_out(&self, path: &RelativePath, own: (u64, u64)) -> Result<(), Errno> {
        let (within, name) = path.split();
        match id(open_folder(self.folder, within)?.as_fd(), name)? == own {
            true => self.unlink(path, AtFlags::empty()),
            false => Err(Errno::EXIST),
        }
    }

    fn unlink(&self, path: &RelativePath, flags: AtFlags) -> Result<(), Errno> {
        let (within, name) = path.split();
        unlinkat(open_folder(self.folder, within)?, name, flags)
    }
}

/// What a file is known by, whatever its name.
fn id(folder: BorrowedFd<'_>, name: &str) -> Result<(u64, u64), Errno> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok((stat.st_dev, stat.st_ino))
}

fn make(folder: BorrowedFd<'_>, path: &RelativePath) -> Result<(), Errno> {
    let (within, name) = path.split();
    let within = open_folder(folder, within)?;
    mkdirat(&within, name, Mode::RWXU)?;
    // The umask is not ours to know.
    let made =
        openat2(&within, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), BENEATH)?;
    fchmod(&made, OPEN)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;

    use rustix::fs::{Mode, mkdirat};
    use rustix::io::Errno;

    use super::{ApplyError, Place, STAGE, clear, staged};
    use crate::changes::{Change, Changes, Entry};
    use crate::limits::DEPTH_MAX;
    use crate::look;
    use crate::path::RelativePath;
    use crate::refusal::Reason;

    fn change(path: &str, old: Option<&str>, new: &str) -> Change {
        let of = |content: &str| {
            let bytes = content.len() as u64;
            let sha256 = look::sha256(&mut content.as_bytes(), bytes).unwrap().unwrap();
            Entry::File { executable: false, bytes, sha256 }
        };
        let path = RelativePath::parse(path.as_bytes()).unwrap();
        let new_content = new.as_bytes().to_vec();
        Change { path, old: old.map(of), new: Some(of(new)), old_content: None, new_content }
    }

    #[test]
    fn what_somebody_writes_between_the_comparison_and_the_move_is_brought_back() {
        let folder = tempfile::tempdir().unwrap();
        let opened = fs::File::open(folder.path()).unwrap();
        for (written, is_carried_out) in [("mine", false), ("old", true)] {
            let path = folder.path().join("a");
            fs::write(&path, "old").unwrap();
            let changes = Changes { changes: vec![change("a", Some("old"), "new")], ..Changes::default() };
            mkdirat(&opened, STAGE, Mode::RWXU).unwrap();
            let staged = staged(&changes, opened.as_fd()).unwrap();
            fs::write(&path, written).unwrap();
            let mut place = Place { folder: opened.as_fd(), staged, done: Vec::new() };
            let done = place.carry_out(&changes);
            assert_eq!(done.is_ok(), is_carried_out, "{done:?}");
            if let Err(error) = done {
                assert_eq!(error.reason(), Some(Reason::Changing));
                assert_eq!(place.undo(), None);
            }
            let wanted = if is_carried_out { "new" } else { written };
            assert_eq!(fs::read_to_string(&path).unwrap(), wanted);
            clear(opened.as_fd()).unwrap();
        }
    }

    #[test]
    fn what_somebody_puts_in_the_place_of_what_came_is_not_undone() {
        let folder = tempfile::tempdir().unwrap();
        let opened = fs::File::open(folder.path()).unwrap();
        let changes = Changes { changes: vec![change("a", None, "new")], ..Changes::default() };
        for is_replaced in [true, false] {
            mkdirat(&opened, STAGE, Mode::RWXU).unwrap();
            let staged = staged(&changes, opened.as_fd()).unwrap();
            let mut place = Place { folder: opened.as_fd(), staged, done: Vec::new() };
            place.carry_out(&changes).unwrap();
            let path = folder.path().join("a");
            if is_replaced {
                fs::write(folder.path().join("mine"), "mine").unwrap();
                fs::rename(folder.path().join("mine"), &path).unwrap();
                assert_eq!(place.undo(), Some(("a".to_owned(), Errno::EXIST)));
                assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
                fs::remove_file(&path).unwrap();
            } else {
                assert_eq!(place.undo(), None);
                assert!(!path.exists(), "the control");
            }
            clear(opened.as_fd()).unwrap();
        }
    }

    #[test]
    fn a_stage_that_cannot_be_taken_away_is_told_as_what_it_is_and_not_as_nothing_applied() {
        let place = tempfile::tempdir().unwrap();
        let folder = fs::File::open(place.path()).unwrap();
        // Deeper than anything is taken away.
        fs::create_dir_all(place.path().join(STAGE).join("d/".repeat(DEPTH_MAX + 2))).unwrap();
        let left = clear(folder.as_fd());
        assert!(matches!(left, Err(ApplyError::StageStays(_))), "{left:?}");
        assert!(left.unwrap_err().to_string().starts_with("all of it is applied"));
        fs::remove_dir_all(place.path().join(STAGE)).unwrap();
        fs::create_dir(place.path().join(STAGE)).unwrap();
        clear(folder.as_fd()).unwrap();
        assert!(!place.path().join(STAGE).exists(), "the control");
    }
}

//! Taking a folder away, following no link.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, unlinkat};
use rustix::io::Errno;

use crate::limits::DEPTH_MAX;

/// Takes `name` in `folder` away with all that it holds; what is not there is no fault.
pub fn remove(folder: BorrowedFd<'_>, name: &str) -> Result<(), Errno> {
    remove_entry(folder, name.as_ref(), is_folder(folder, name.as_ref())?, DEPTH_MAX + 1)
}

fn is_folder(folder: BorrowedFd<'_>, name: &std::ffi::OsStr) -> Result<Option<bool>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// `left` folders deep: whoever else may write here makes them deeper than a stack is.
fn remove_entry(
    folder: BorrowedFd<'_>,
    name: &std::ffi::OsStr,
    is_folder: Option<bool>,
    left: usize,
) -> Result<(), Errno> {
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    match is_folder {
        None => return Ok(()),
        Some(false) => return unlinkat(folder, name, AtFlags::empty()),
        Some(true) => {}
    }
    let left = left.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = openat(folder, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&own)? {
        let entry = entry?;
        let (name, kind) = (std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()), entry.file_type());
        if name == "." || name == ".." {
            continue;
        }
        let is_folder = match kind {
            FileType::Unknown => self::is_folder(own.as_fd(), name)?,
            kind => Some(kind == FileType::Directory),
        };
        remove_entry(own.as_fd(), name, is_folder, left)?;
    }
    unlinkat(folder, name, AtFlags::REMOVEDIR)
}

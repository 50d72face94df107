//! What stands under a name, opened without following it: of a folder into which somebody hostile may write meanwhile.
//!
//! A name is looked at first, so that no device is ever opened and nobody waits for the other end of a FIFO; what was opened is
//! looked at again, as another thing may have taken the name's place since. Only that second look counts.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, fstat, openat2, readlinkat, statat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::refusal::Reason;
use crate::tree::BENEATH;

/// What stands there.
#[derive(Debug)]
pub enum Found {
    /// A folder, to go on from.
    Folder(OwnedFd),
    /// A regular file.
    File {
        /// It, at its beginning.
        file: File,
        /// Whether its owner may execute it: all that git keeps of a mode.
        is_executable: bool,
        /// How large it was when it was opened.
        bytes: u64,
        /// Seconds since 1970 of its last change.
        modified: u64,
    },
    /// A symbolic link, by its target.
    Link(Vec<u8>),
}

/// Why it is not known.
#[derive(Debug)]
pub enum Unseen {
    /// It is none of these, or may not be read.
    Refused(Reason),
    /// The system failed.
    Failed(Errno),
}

/// Folders are opened so that what they hold can be told.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Without waiting for anybody.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// Looks at `name`, which is one name, in `folder`; none where nothing bears it.
///
/// # Errors
/// Refuses devices, FIFOs, sockets, files with set-id or sticky bits, and what may not be read; tells what the system says.
pub fn look(folder: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Found>, Unseen> {
    let name = OsStr::from_bytes(name);
    let stat = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(unseen(errno)),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => open_folder(folder, name).map(Some),
        FileType::RegularFile => open_file(folder, name).map(Some),
        FileType::Symlink => match readlinkat(folder, name, Vec::new()) {
            Ok(target) => Ok(Some(Found::Link(target.into_bytes()))),
            // It is none any more.
            Err(Errno::INVAL) => Err(Unseen::Refused(Reason::Changing)),
            Err(errno) => Err(unseen(errno)),
        },
        _ => Err(Unseen::Refused(Reason::Device)),
    }
}

fn open_folder(folder: BorrowedFd<'_>, name: &OsStr) -> Result<Found, Unseen> {
    openat2(folder, name, FOLDER, Mode::empty(), BENEATH).map(Found::Folder).map_err(unseen)
}

fn open_file(folder: BorrowedFd<'_>, name: &OsStr) -> Result<Found, Unseen> {
    let file = openat2(folder, name, FILE, Mode::empty(), BENEATH).map_err(unseen)?;
    let stat = fstat(&file).map_err(unseen)?;
    regular(&stat).map_err(Unseen::Refused)?;
    Ok(Found::File {
        file: File::from(file),
        is_executable: Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR),
        bytes: u64::try_from(stat.st_size).unwrap_or_default(),
        modified: u64::try_from(stat.st_mtime).unwrap_or_default(),
    })
}

fn regular(stat: &Stat) -> Result<(), Reason> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Reason::Device);
    }
    let bits = Mode::SUID.union(Mode::SGID).union(Mode::SVTX);
    if Mode::from_raw_mode(stat.st_mode).intersects(bits) { Err(Reason::SetId) } else { Ok(()) }
}

fn unseen(errno: Errno) -> Unseen {
    match errno {
        Errno::ACCESS | Errno::PERM => Unseen::Refused(Reason::Closed),
        // Something else stands there by now.
        Errno::LOOP | Errno::NOTDIR | Errno::XDEV | Errno::NOENT => Unseen::Refused(Reason::Changing),
        // A socket, or a device that nobody serves.
        Errno::NXIO | Errno::NODEV => Unseen::Refused(Reason::Device),
        Errno::NAMETOOLONG => Unseen::Refused(Reason::PathTooLong),
        errno => Unseen::Failed(errno),
    }
}

/// The names in a folder, in the order of their bytes; or why they are not told: more than `names_max` of them, or more than `bytes_max`
/// bytes. A folder that was taken away since has none.
///
/// # Errors
/// What the system says.
pub fn names(
    folder: BorrowedFd<'_>,
    names_max: u64,
    bytes_max: usize,
) -> Result<Result<Vec<Vec<u8>>, Reason>, Errno> {
    let (mut names, mut bytes) = (Vec::new(), 0_usize);
    for entry in Dir::read_from(folder)? {
        let name = match entry {
            Ok(entry) => entry.file_name().to_bytes().to_vec(),
            Err(Errno::NOENT | Errno::STALE) => break,
            Err(errno) => return Err(errno),
        };
        if name == b"." || name == b".." {
            continue;
        }
        bytes = bytes.saturating_add(name.len());
        if names.len() as u64 >= names_max {
            return Ok(Err(Reason::TooMany(names_max)));
        }
        if bytes > bytes_max {
            return Ok(Err(Reason::PathsTooLong(bytes_max as u64)));
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(Ok(names))
}

/// The SHA-256 of exactly so many bytes, in hexadecimal digits; none where there are more or fewer.
///
/// # Errors
/// What the system says.
pub fn sha256(content: &mut impl Read, bytes: u64) -> std::io::Result<Option<String>> {
    let (mut hasher, mut chunk, mut seen) = (Sha256::new(), vec![0; CHUNK_BYTES], 0_u64);
    loop {
        let count = match content.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        seen = seen.saturating_add(count as u64);
        if seen > bytes {
            return Ok(None);
        }
        hasher.update(chunk.get(..count).unwrap_or_default());
    }
    Ok((seen == bytes).then(|| hex(&hasher.finalize())))
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use rustix::fs::mknodat;

    use super::*;

    /// What took the place of a file or a folder between the first look and the opening.
    #[test]
    fn what_takes_a_names_place_after_it_was_looked_at_is_neither_followed_nor_waited_for() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        fs::write(path("file"), "content").unwrap();
        fs::create_dir(path("folder")).unwrap();
        symlink("file", path("to-file")).unwrap();
        symlink("folder", path("to-folder")).unwrap();
        symlink("/etc/passwd", path("out")).unwrap();
        let _socket = UnixListener::bind(path("socket")).unwrap();
        let folder = fs::File::open(place.path()).unwrap();
        mknodat(&folder, "fifo", FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let reason = |seen: Result<Found, Unseen>| match seen {
            Err(Unseen::Refused(reason)) => Some(reason),
            _ => None,
        };
        for (name, wanted) in [
            ("to-file", Reason::Changing),
            ("out", Reason::Changing),
            ("gone", Reason::Changing),
            ("folder", Reason::Device),
            ("fifo", Reason::Device),
            ("socket", Reason::Device),
        ] {
            assert_eq!(reason(open_file(folder.as_fd(), OsStr::new(name))), Some(wanted), "{name}");
        }
        for name in ["to-folder", "file", "fifo"] {
            assert_eq!(
                reason(open_folder(folder.as_fd(), OsStr::new(name))),
                Some(Reason::Changing),
                "{name}"
            );
        }
        assert!(matches!(open_file(folder.as_fd(), OsStr::new("file")), Ok(Found::File { bytes: 7, .. })));
        assert!(matches!(open_folder(folder.as_fd(), OsStr::new("folder")), Ok(Found::Folder(_))));
    }

    #[test]
    fn a_file_that_grows_or_shrinks_while_it_is_read_has_no_digest() {
        let digest = |content: &str, bytes| sha256(&mut content.as_bytes(), bytes).unwrap();
        assert_eq!(digest("abcd", 3), None);
        assert_eq!(digest("ab", 3), None);
        let of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest("abc", 3).as_deref(), Some(of_abc));
    }
}

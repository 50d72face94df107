//! What goes into a sandbox: packed here, link by link, without what is left out.

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use agentsandbox_workspace::exclusion::BadPattern;
use agentsandbox_workspace::tokens::Searched;
use agentsandbox_workspace::{Exclusion, RelativePath, Verdict};
use tar::{Builder, Header};

use super::{BYTES_MAX, CopyError, here};

/// Names in one path below the folder that is named: what the way out takes, too.
const DEPTH_MAX: usize = 64;
/// Who may do what, without set-id bits.
const MODE: u32 = 0o777;

/// What is left out.
pub struct Leaving {
    /// By the user, under the folder that is named.
    chosen: Exclusion,
    /// By this project's list, which speaks of folders, too, that the named one is in: `credentials` is a secret by its `.aws`.
    listed: Exclusion,
}

impl Leaving {
    /// By the user's patterns.
    ///
    /// # Errors
    /// Refuses a pattern that is none.
    pub fn new(exclude: &[String], include: &[String]) -> Result<Self, BadPattern> {
        Ok(Self { chosen: Exclusion::only(exclude)?, listed: Exclusion::new(&[], include)? })
    }

    /// What becomes of a path, by its whole name and by its name below the folder that is named.
    fn verdict(&self, whole: &RelativePath, below: &RelativePath, is_folder: bool) -> Verdict {
        match self.chosen.verdict(below, is_folder) {
            Verdict::Taken => self.listed.verdict_of(whole, below, is_folder),
            left_out => left_out,
        }
    }
}

/// Packs a file or a folder under this name, and tells what is left out of it and what looks like a credential. A link is packed as one,
/// and never followed; the place that was named may be one.
///
/// # Errors
/// Where something cannot be read, or is no file, folder or link; where it is too much, and where nothing is left of it.
pub fn pack(
    from: &Path,
    name: &str,
    leaving: &Leaving,
    into: &mut File,
    tell: &mut dyn FnMut(&str),
) -> Result<(), CopyError> {
    let whole = fs::canonicalize(from).map_err(here(from, "read"))?;
    let builder = Builder::new(into);
    let mut packing = Packing { builder, leaving, root: &whole, tell, left: BYTES_MAX, is_empty: true };
    let metadata = fs::metadata(&whole).map_err(here(from, "read"))?;
    match metadata.is_dir() {
        true => packing.folder(&whole, name, 0)?,
        // One that is no file may never end, or wait for its opening.
        false if !metadata.is_file() => return Err(odd(from, NO_KIND)),
        false => packing.file(&whole, name)?,
    }
    if packing.is_empty {
        return Err(CopyError::Nothing);
    }
    packing.builder.into_inner().and_then(Write::flush).map_err(here(from, "packed"))
}

const NO_KIND: &str = "it is no file, folder or link";

fn odd(path: &Path, why: &'static str) -> CopyError {
    here(path, "packed")(io::Error::other(why))
}

/// A header with what is kept of a file or folder: its mode and time. Whose it is here means nothing there.
fn header(metadata: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    header.set_mode(metadata.permissions().mode() & MODE);
    header.set_uid(0);
    header.set_gid(0);
    header
}

struct Packing<'a> {
    builder: Builder<&'a mut File>,
    leaving: &'a Leaving,
    /// The folder that is named, as the system names it.
    root: &'a Path,
    tell: &'a mut dyn FnMut(&str),
    /// Bytes that may still come.
    left: u64,
    is_empty: bool,
}

impl Packing<'_> {
    fn file(&mut self, from: &Path, name: &str) -> Result<(), CopyError> {
        let mut file = File::open(from).map_err(here(from, "read"))?;
        let metadata = file.metadata().map_err(here(from, "read"))?;
        let size = metadata.len();
        self.left = self.left.checked_sub(size).ok_or(CopyError::TooMuch)?;
        // One that grows meanwhile would go on in the next header.
        let mut content = Searched::new((&mut file).take(size));
        let packed = self.builder.append_data(&mut header(&metadata), name, &mut content);
        packed.map_err(here(from, "packed"))?;
        for shape in content.found() {
            (self.tell)(&format!("holds what looks like a {shape}: {name}"));
        }
        if file.stream_position().map_err(here(from, "read"))? != size {
            return Err(odd(from, "it changed while it was read"));
        }
        self.is_empty = false;
        Ok(())
    }

    /// What becomes of a path, and how it is told.
    fn verdict(&self, path: &Path, is_folder: bool) -> Result<(Verdict, String), CopyError> {
        let parse = |path: &Path| {
            let bytes = path.as_os_str().as_encoded_bytes();
            RelativePath::parse(if bytes.is_empty() { b"." } else { bytes }).ok()
        };
        let below = path.strip_prefix(self.root).ok().and_then(parse);
        let whole = path.strip_prefix("/").ok().and_then(parse);
        let (below, whole) =
            below.zip(whole).ok_or_else(|| odd(path, "its name is one that no sandbox is given"))?;
        // A repository's own settings hold logins, and its objects what is left out beside it.
        let verdict = match whole.is_in_git_folder() {
            true => Verdict::Excluded,
            false => self.leaving.verdict(&whole, &below, is_folder),
        };
        Ok((verdict, if below.is_root() { ".".to_owned() } else { below.as_str().to_owned() }))
    }

    /// A folder, and all in it that is not left out.
    fn folder(&mut self, from: &Path, name: &str, depth: usize) -> Result<(), CopyError> {
        if depth > DEPTH_MAX {
            return Err(odd(from, "it is too deep"));
        }
        match self.verdict(from, true)? {
            (Verdict::Taken, _) => {
                let metadata = fs::metadata(from).map_err(here(from, "read"))?;
                let packed = self.builder.append_data(&mut header(&metadata), name, io::empty());
                packed.map_err(here(from, "packed"))?;
                self.is_empty = false;
            }
            // Of a folder that is on the project's list something may be included; it is made on the way to that alone.
            (Verdict::LeftOutByDefault, _) => {}
            (Verdict::Excluded, below) => {
                (self.tell)(&format!("left out: {below}"));
                return Ok(());
            }
        }
        let read = || -> io::Result<Vec<_>> { fs::read_dir(from)?.collect() };
        let mut entries = read().map_err(here(from, "read"))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = entry.path();
            let kind = entry.file_type().map_err(here(&path, "read"))?;
            let (verdict, below) = self.verdict(&path, kind.is_dir())?;
            let to = format!("{name}/{}", entry.file_name().to_string_lossy());
            match kind {
                kind if kind.is_dir() => self.folder(&path, &to, depth + 1)?,
                _ if verdict != Verdict::Taken => (self.tell)(&format!("left out: {below}")),
                kind if kind.is_file() => self.file(&path, &to)?,
                kind if kind.is_symlink() => self.link(&path, &to)?,
                _ => return Err(odd(&path, NO_KIND)),
            }
        }
        Ok(())
    }

    fn link(&mut self, path: &Path, to: &str) -> Result<(), CopyError> {
        let target = fs::read_link(path).map_err(here(path, "read"))?;
        let mut header = header(&fs::symlink_metadata(path).map_err(here(path, "read"))?);
        header.set_size(0);
        self.builder.append_link(&mut header, to, target).map_err(here(path, "packed"))?;
        self.is_empty = false;
        Ok(())
    }
}

//! The two places of a copy, and how what came takes its place here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CopyError, here, shown};

/// Where paths of a sandbox begin that are not absolute.
const WORKSPACE: &str = "/workspace";
/// Bytes of a path in a sandbox: what Linux takes.
const PATH_BYTES_MAX: usize = 4095;

/// One of the two places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this machine.
    Here(PathBuf),
    /// In a sandbox.
    Inside(Inside),
}

/// A path in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    /// The AgentSandbox.
    pub sandbox: String,
    /// The folder that it is in, absolute.
    pub folder: String,
    /// Its last name.
    pub name: String,
}

impl Inside {
    /// The whole path.
    pub fn path(&self) -> String {
        format!("{}/{}", self.folder.trim_end_matches('/'), self.name)
    }
}

impl Place {
    /// Reads a place as it is written: `NAME:PATH` is in a sandbox, and anything else here. A file here with a colon in its name is
    /// written with a folder before it, as for kubectl: `./a:b`.
    ///
    /// # Errors
    /// Refuses a path in a sandbox that climbs, or names nothing that could be copied.
    pub fn parse(text: &str) -> Result<Self, CopyError> {
        match text.split_once(':') {
            Some((sandbox, path)) if is_name(sandbox) => Ok(Self::Inside(inside(sandbox, path)?)),
            _ => Ok(Self::Here(PathBuf::from(text))),
        }
    }
}

/// Whether an object can have this name.
fn is_name(text: &str) -> bool {
    let is_plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    !text.starts_with(['.', '-']) && !text.is_empty() && text.bytes().all(is_plain)
}

fn inside(sandbox: &str, path: &str) -> Result<Inside, CopyError> {
    let refused = |why| CopyError::Path { path: super::harmless_line(path), why };
    if path.len() > PATH_BYTES_MAX || path.chars().any(char::is_control) {
        return Err(refused("write a path of at most 4,095 bytes without control characters"));
    }
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{WORKSPACE}/{path}") };
    let names: Vec<&str> = whole.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.contains(&"..") {
        return Err(refused("write it without .."));
    }
    let (name, folders) = names.split_last().ok_or_else(|| refused("write which file or folder of it"))?;
    let (sandbox, name) = (sandbox.to_owned(), (*name).to_owned());
    Ok(Inside { sandbox, folder: format!("/{}", folders.join("/")), name })
}

/// The last name of a place here.
///
/// # Errors
/// Refuses one that has none.
pub fn own_name(from: &Path) -> Result<String, CopyError> {
    let whole = fs::canonicalize(from).map_err(here(from, "read"))?;
    let name = if from.file_name().is_some() { from.file_name() } else { whole.file_name() };
    let name = name.and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or(CopyError::Places("the place here has no name that is UTF-8"))
}

/// Where something of this name goes: into the folder that is there, or by the name that was written.
pub fn destination(to: &Path, name: &str) -> Result<PathBuf, CopyError> {
    let is_written_as_folder = to.as_os_str().as_encoded_bytes().ends_with(b"/");
    if to.is_dir() {
        return Ok(to.join(name));
    }
    if is_written_as_folder || to.file_name().is_none() {
        return Err(here(to, "written")(io::Error::from(io::ErrorKind::NotFound)));
    }
    Ok(to.to_owned())
}

/// The folder that a place is in.
pub fn parent(to: &Path) -> &Path {
    to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Looks whether anything could take its place there: a file is replaced by a file, and nothing else by anything.
///
/// # Errors
/// Refuses a place that is taken.
pub fn check_free(to: &Path) -> Result<(), CopyError> {
    match fs::symlink_metadata(to) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(CopyError::Taken(shown(to))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(here(to, "looked at")(error)),
    }
}

/// The one file that a tree holds, where a file was asked for.
///
/// # Errors
/// Refuses a tree that holds anything else, links among it.
pub fn only_file(tree: &Path, name: &str) -> Result<PathBuf, CopyError> {
    let read = || -> io::Result<Vec<_>> { fs::read_dir(tree)?.collect() };
    let entries = read().map_err(here(tree, "read"))?;
    let [entry] = entries.as_slice() else {
        return Err(match entries.is_empty() {
            true => CopyError::Nothing,
            false => CopyError::Other("there is something beside it"),
        });
    };
    let kind = entry.file_type().map_err(here(&entry.path(), "looked at"))?;
    match (kind, entry.file_name().to_str() == Some(name)) {
        (_, false) => Err(CopyError::Other("it has another name")),
        (kind, true) if kind.is_symlink() => Err(CopyError::Other("it is a link: name what it leads to")),
        (kind, true) if kind.is_file() => Ok(entry.path()),
        (_, true) => Err(CopyError::Other("it is a folder that does not come first")),
    }
}

/// Puts what is whole into its place. Of what comes there after the look, a file or link is replaced by a file and never followed, and an
/// empty folder by a folder (rename(2)).
///
/// # Errors
/// Refuses a place that is taken.
pub fn settle(own: &Path, to: &Path) -> Result<(), CopyError> {
    check_free(to)?;
    fs::rename(own, to).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::DirectoryNotEmpty
        | io::ErrorKind::AlreadyExists => CopyError::Taken(shown(to)),
        _ => here(to, "written")(error),
    })
}

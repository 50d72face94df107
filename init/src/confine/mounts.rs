//! Execution that is withheld by mounts, on a kernel that has no Landlock: gVisor's. The process takes users and mounts of its own, in which
//! the folders are mounted anew without execution, and then gives up every capability that these brought ([`super::namespaces`]). The folders are the same ones:
//! nothing is mounted over them.
//!
//! It holds together with the filters of system calls alone: without them the agent could do the same once more, and mount a folder of
//! its own with execution. Whoever is not this process or started by it, such as `kubectl exec`, is not in it, unless it [enters](super::enter).

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sys::statvfs::{FsFlags, statvfs};
use thiserror::Error;

use super::files;

/// Why execution is not withheld.
#[derive(Debug, Error)]
pub enum Fault {
    /// A folder is not as it has to be.
    #[error(transparent)]
    Folder(#[from] files::Fault),
    /// A folder cannot be mounted so.
    #[error("{} cannot be mounted without execution: {source}", path.display())]
    Mount {
        /// The folder.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

/// The folders, each of which must be one, and itself.
///
/// # Errors
/// When one of them is not as it has to be.
pub(super) fn folders(no_execute: &[PathBuf]) -> Result<Vec<PathBuf>, Fault> {
    Ok(no_execute.iter().map(|path| files::folder(path)).collect::<Result<_, _>>()?)
}

/// Withholds execution below these folders, each of which must be a mount, in the mounts that this process has for its own.
///
/// # Errors
/// When not all of it holds; the process must end then.
pub(super) fn withhold(folders: &[PathBuf]) -> Result<(), Fault> {
    let fault = |path: &PathBuf| {
        let path = path.clone();
        move |source| Fault::Mount { path, source }
    };
    folders.iter().try_for_each(|path| mount_anew(path).map_err(fault(path)))
}

fn mount_anew(path: &Path) -> io::Result<()> {
    let none = None::<&str>;
    // Of this mount alone, and not of what is mounted: others of the pod see it as it was.
    let mut flags =
        MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // What was withheld already must not be asked back.
    flags.set(MsFlags::MS_RDONLY, statvfs(path)?.flags().contains(FsFlags::ST_RDONLY));
    nix::mount::mount(none, path, none, flags, none)?;
    match statvfs(path)?.flags().contains(FsFlags::ST_NOEXEC) {
        true => Ok(()),
        false => Err(io::Error::other("the kernel says that it is executed there all the same")),
    }
}

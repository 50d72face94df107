//! Execution that is withheld by mounts, on a kernel that has no Landlock: gVisor's. The process takes users and mounts of its own, in which
//! the folders are mounted anew without execution, and then gives up every capability that these brought. The folders are the same ones:
//! nothing is mounted over them.
//!
//! It holds together with the filters of system calls alone: without them the agent could do the same once more, and mount a folder of
//! its own with execution. Whoever is not this process or started by it, such as `kubectl exec`, is not in it.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::mount::MsFlags;
use nix::sched::CloneFlags;
use nix::sys::statvfs::{FsFlags, statvfs};
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};
use thiserror::Error;

use super::files;

/// Why execution is not withheld.
#[derive(Debug, Error)]
pub enum Fault {
    /// A folder is not as it has to be.
    #[error(transparent)]
    Folder(#[from] files::Fault),
    /// There are no users and mounts of its own.
    #[error("this kernel gives a process no users and mounts of its own: {0}")]
    Namespaces(io::Error),
    /// A folder cannot be mounted so.
    #[error("{} cannot be mounted without execution: {source}", path.display())]
    Mount {
        /// The folder.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// What it may do in them cannot be given up.
    #[error("capabilities cannot be given up: {0}")]
    Capabilities(io::Error),
}

/// Withholds execution below these folders, each of which must be a mount, from this process and what it starts, for good. The process must
/// have one thread.
///
/// # Errors
/// When not all of it holds; the process must end then.
pub fn confine(no_execute: &[PathBuf]) -> Result<(), Fault> {
    let folders = no_execute.iter().map(|path| files::folder(path)).collect::<Result<Vec<_>, _>>()?;
    own_namespaces().map_err(Fault::Namespaces)?;
    for path in folders {
        mount_anew(&path).map_err(|source| Fault::Mount { path, source })?;
    }
    give_up_capabilities().map_err(|error| Fault::Capabilities(error.into()))
}

/// The user stays who it was; all others are nobody.
fn own_namespaces() -> io::Result<()> {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
    // Who could leave a group may not say which one it is in.
    tell("/proc/self/setgroups", "deny")?;
    tell("/proc/self/uid_map", &format!("{user} {user} 1"))?;
    tell("/proc/self/gid_map", &format!("{group} {group} 1"))
}

fn tell(file: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
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

fn give_up_capabilities() -> rustix::io::Result<()> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // A number that this kernel does not know; nor does it know a higher one.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error),
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}

//! Users of a process's own, and in them mounts and a network of its own; and the end of what it may do in them.
//!
//! With them a process has every capability there, which it needs to lay out what it was given, and must not keep: who has given up
//! all of them has the namespaces for good, and nothing else.

use std::fs::OpenOptions;
use std::io::{self, Write};

use nix::sched::CloneFlags;
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};

/// Takes users of its own, in whom the user stays who it was and all others are nobody, and these namespaces beside. The process must have
/// one thread.
///
/// # Errors
/// When the kernel gives a process no such namespaces.
pub(super) fn take(beside: CloneFlags) -> io::Result<()> {
    let (user, group) = (nix::unistd::geteuid(), nix::unistd::getegid());
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER | beside)?;
    // Who could leave a group may not say which one it is in.
    tell("/proc/self/setgroups", "deny")?;
    tell("/proc/self/uid_map", &format!("{user} {user} 1"))?;
    tell("/proc/self/gid_map", &format!("{group} {group} 1"))
}

fn tell(file: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(file)?.write_all(text.as_bytes())
}

/// Gives up every capability, and that any program that is started has one.
///
/// # Errors
/// When the kernel keeps one.
pub(super) fn give_up_capabilities() -> io::Result<()> {
    for number in 0..u64::BITS {
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            Ok(()) => {}
            // A number that this kernel does not know; nor does it know a higher one.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

//! What a confined process tries and must not be able to do, before it becomes the agent. Each attempt is one that any user's
//! process may make and for which the kernel has another answer where nothing denies it, so that "denied" says something, also
//! as root. It would do nothing if it were allowed. A runtime's own profile may deny some of the calls as well, and a machine without
//! a network has no route either.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::mount::{MntFlags, MsFlags};
use nix::net::if_::InterfaceFlags;
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::uio::RemoteIoVec;
use socket2::{Domain, Protocol, Socket, Type};

use super::files::Grants;

/// Nothing has this name.
const NOWHERE: &str = "/nothing-has-this-name";
/// No flag of `unshare`: a kernel without a filter says so.
const NO_FLAG: i32 = libc::CLONE_PARENT_SETTID;
/// No family of sockets.
const NO_FAMILY: i32 = 63;

/// An attempt, and what came of it.
#[derive(Debug)]
pub struct Attempt {
    /// What was tried.
    pub what: String,
    /// What the kernel answered; none where it was done.
    pub answer: Option<Errno>,
    denials: &'static [Errno],
}

const FILTERED: &[Errno] = &[Errno::EPERM];
const WITHHELD: &[Errno] = &[Errno::EACCES];
/// Nothing leads there, or there is no such family of addresses.
const UNREACHABLE: &[Errno] =
    &[Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EADDRNOTAVAIL, Errno::EAFNOSUPPORT];
const NO_DEVICE: &[Errno] = &[Errno::ENODEV];
/// Addresses that are nobody's (RFC 5737, RFC 3849): whoever has a route to any has one to them.
const NOBODYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// A port on which nobody listens; nothing is sent there.
const PORT_DISCARD: u16 = 9;
/// A program that cannot even be put there does not run there.
const WITHHELD_OR_READ_ONLY: &[Errno] = &[Errno::EACCES, Errno::EROFS];

impl Attempt {
    fn new(what: impl Into<String>, outcome: io::Result<()>, denials: &'static [Errno]) -> Self {
        let errno = |error: io::Error| error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw);
        Self { what: what.into(), answer: outcome.err().map(errno), denials }
    }

    fn call(what: &str, outcome: Result<(), Errno>) -> Self {
        Self::new(what, outcome.map_err(Into::into), FILTERED)
    }

    /// Whether it was denied as it must be.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        self.answer.is_some_and(|answer| self.denials.contains(&answer))
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.is_denied() { "denied" } else { "NOT DENIED" };
        match self.answer {
            Some(errno) => write!(out, "{verdict}: {} ({errno:?})", self.what),
            None => write!(out, "{verdict}: {} (done)", self.what),
        }
    }
}

/// Makes every attempt.
#[must_use]
pub fn all(grants: &Grants) -> Vec<Attempt> {
    [calls(), sockets(), files(grants)].into_iter().flatten().collect()
}

/// Those that are denied where mounts do Landlock's work.
#[must_use]
pub fn by_mounts(grants: &Grants) -> Vec<Attempt> {
    [calls(), sockets(), executions(grants)].into_iter().flatten().collect()
}

/// Calls that are denied.
#[must_use]
pub fn calls() -> Vec<Attempt> {
    let none = None::<&str>;
    let user = CloneFlags::CLONE_NEWUSER | CloneFlags::from_bits_retain(NO_FLAG);
    let mut byte = [0_u8; 1];
    let read_own_memory = {
        let own = byte;
        let there = [RemoteIoVec { base: own.as_ptr() as usize, len: 1 }];
        let here = &mut [IoSliceMut::new(&mut byte)];
        nix::sys::uio::process_vm_readv(nix::unistd::getpid(), here, &there).map(drop)
    };
    vec![
        Attempt::call("mount", nix::mount::mount(none, NOWHERE, none, MsFlags::empty(), none)),
        Attempt::call("umount2", nix::mount::umount2(NOWHERE, MntFlags::empty())),
        Attempt::call("chroot", nix::unistd::chroot(NOWHERE)),
        Attempt::call("unshare of users", nix::sched::unshare(user)),
        Attempt::call("setns", nix::sched::setns(io::stdin(), CloneFlags::empty())),
        Attempt::call("process_vm_readv", read_own_memory),
        Attempt::call("ptrace", nix::sys::ptrace::detach(nix::unistd::getpid(), None::<Signal>)),
    ]
}

/// Sockets that are denied.
#[must_use]
pub fn sockets() -> Vec<Attempt> {
    let open = |what: &str, family: i32, kind: Type, protocol: i32| {
        let opened = Socket::new(Domain::from(family), kind, Some(Protocol::from(protocol)));
        Attempt::new(format!("socket of {what}"), opened.map(drop), FILTERED)
    };
    vec![
        open("netlink, events of devices", libc::AF_NETLINK, Type::DGRAM, libc::NETLINK_KOBJECT_UEVENT),
        open("netlink, generic", libc::AF_NETLINK, Type::DGRAM, libc::NETLINK_GENERIC),
        // Each of these has a number that no kernel and no module of one knows, so the answer needs no privilege.
        open("a family without a name", NO_FAMILY, Type::STREAM, 0),
        open("the internet, a protocol without a number", libc::AF_INET, Type::STREAM, 255),
        open("the internet, a kind without a name", libc::AF_INET6, Type::from(5), 0),
    ]
}

/// What leads out of a process that has a loopback and nothing else. Nothing is sent: a kernel looks a route up when it is told to whom.
#[must_use]
pub fn beyond_the_loopback(proxy: IpAddr) -> Vec<Attempt> {
    let interface = Attempt::new("an interface beside the loopback", another_interface(), NO_DEVICE);
    // In a test the proxy may be on the loopback itself.
    let beyond = NOBODYS.into_iter().chain((!proxy.is_loopback()).then_some(proxy));
    let routes = beyond.map(|to| Attempt::new(format!("a route to {to}"), routed(to), UNREACHABLE));
    [interface].into_iter().chain(routes).collect()
}

/// Families of sockets that the kernel knows or may come to know.
const FAMILIES: std::ops::Range<i32> = 0..64;
/// Those that an agent needs, each of which the filters look into: Unix, IPv4, IPv6 and the table of routes.
const NEEDED: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Every family of sockets but those that an agent needs.
#[must_use]
pub fn families() -> Vec<Attempt> {
    let others = FAMILIES.filter(|family| !NEEDED.contains(family));
    let open = |family| Socket::new(Domain::from(family), Type::DGRAM, None).map(drop);
    others.map(|family| Attempt::new(format!("socket of family {family}"), open(family), FILTERED)).collect()
}

/// One that is down leads nowhere: some kernels put such into every network.
fn another_interface() -> io::Result<()> {
    let is_other = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP) && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let found = getifaddrs()?.any(|interface| is_other(interface.flags));
    if found { Ok(()) } else { Err(Errno::ENODEV.into()) }
}

fn routed(to: IpAddr) -> io::Result<()> {
    let any =
        if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    UdpSocket::bind((any, 0))?.connect((to, PORT_DISCARD))
}

/// Files that are not read, not written and not executed.
#[must_use]
pub fn files(grants: &Grants) -> Vec<Attempt> {
    let mut all = vec![write_self_memory()];
    if !grants.read.is_empty() {
        all.push(Attempt::new("listing the root folder", fs::read_dir("/").map(drop), WITHHELD));
    }
    all.extend(executions(grants));
    all
}

fn executions(grants: &Grants) -> Vec<Attempt> {
    let tried = grants.no_execute.iter().map(|folder| {
        let what = format!("execution of a new file in {}", folder.display());
        Attempt::new(what, execute_new(folder), WITHHELD_OR_READ_ONLY)
    });
    tried.collect()
}

/// Every process may write its own memory so, and that of its user's others.
fn write_self_memory() -> Attempt {
    let opened = OpenOptions::new().write(true).open("/proc/self/mem");
    Attempt::new("writing /proc/self/mem", opened.map(drop), WITHHELD)
}

/// The file is empty, so that it needs no space; a kernel that would execute it says that it is no program.
fn execute_new(folder: &Path) -> io::Result<()> {
    // Made here, for the library's own way hides what the kernel answers.
    let make = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o700).open(path);
    // It has a name that nobody can take before, and is closed: one that is open for writing is not executed either.
    let file =
        tempfile::Builder::new().prefix(".agentsandbox-check-").make_in(folder, make)?.into_temp_path();
    // Nothing else is opened on the way, whose refusal would be taken for this one.
    Command::new(&*file).status().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A filter that this very test runs under may deny what ours denies.
    fn is_filtered() -> bool {
        fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line == "Seccomp:\t2")
    }

    #[test]
    fn without_a_filter_no_attempt_is_answered_as_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let folders = vec![folder.path().to_owned()];
        let all = all(&Grants { read: folders.clone(), write: Vec::new(), no_execute: folders });
        assert_eq!(all.len(), calls().len() + sockets().len() + 3);
        for attempt in &all {
            assert!(!attempt.is_denied() || is_filtered(), "{attempt}");
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the copy is still there");
    }

    #[test]
    fn only_the_answer_of_a_denial_is_one() {
        let of = |outcome: Result<(), Errno>| Attempt::call("x", outcome);
        assert!(of(Err(Errno::EPERM)).is_denied());
        for outcome in [Ok(()), Err(Errno::EACCES), Err(Errno::ENOSYS), Err(Errno::EINVAL)] {
            assert!(!of(outcome).is_denied(), "{outcome:?}");
        }
        assert_eq!(of(Ok(())).to_string(), "NOT DENIED: x (done)");
    }
}

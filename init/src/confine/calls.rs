//! The system calls that an agent never needs, and the filters that deny them. A list of what is denied, beside the runtime's own
//! profile, which is a list of what is allowed: this one takes away what that one leaves.
//!
//! A call is told by its number, so whatever gives a call another number is closed first: another architecture ends the process,
//! and x86's second table (x32) answers "no such call". `clone3` hides its flags in memory, where no filter can look, and
//! answers the same; libraries then use `clone`, whose flags are seen.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};
use thiserror::Error;

/// Why system calls were not confined.
#[derive(Debug, Error)]
pub enum Fault {
    /// There is no filter for this machine.
    #[error("the filter of system calls cannot be made: {0}")]
    Made(#[from] BackendError),
    /// The kernel refuses it.
    #[error("the filter of system calls is refused: {0}")]
    Refused(#[from] seccompiler::Error),
}

/// Some calls, and why no agent needs them.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The reason.
    pub why: &'static str,
    /// Each call's name and number on this machine.
    pub calls: &'static [(&'static str, i64)],
}

macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), libc::$name)),*] };
}

/// Denied whatever their arguments are, with EPERM.
pub const DENIED: &[Group] = &[
    Group {
        why: "mounts and roots: how a file system is put over another",
        calls: calls!(SYS_mount SYS_umount2 SYS_move_mount SYS_open_tree SYS_fsopen SYS_fsconfig SYS_fsmount
            SYS_fspick SYS_mount_setattr SYS_pivot_root SYS_chroot SYS_swapon SYS_swapoff SYS_quotactl
            SYS_quotactl_fd),
    },
    Group {
        why: "other processes: reading, steering and entering them",
        calls: calls!(SYS_ptrace SYS_process_vm_readv SYS_process_vm_writev SYS_pidfd_getfd SYS_kcmp SYS_setns
            SYS_move_pages SYS_migrate_pages),
    },
    Group {
        why: "large parts of the kernel that are new, seldom used and often broken",
        calls: calls!(SYS_bpf SYS_perf_event_open SYS_userfaultfd SYS_fanotify_init SYS_memfd_secret SYS_vmsplice),
    },
    Group {
        why: "keys of the kernel, which are not kept apart for each container",
        calls: calls!(SYS_keyctl SYS_add_key SYS_request_key),
    },
    Group {
        why: "files by number instead of by path, past every rule for paths",
        calls: calls!(SYS_open_by_handle_at SYS_name_to_handle_at),
    },
    Group {
        why: "the machine itself: its kernel, clock, name and power",
        calls: calls!(SYS_kexec_load SYS_kexec_file_load SYS_init_module SYS_finit_module SYS_delete_module
            SYS_reboot SYS_acct SYS_syslog SYS_settimeofday SYS_clock_settime SYS_clock_adjtime SYS_adjtimex
            SYS_sethostname SYS_setdomainname SYS_vhangup SYS_lookup_dcookie SYS_nfsservctl),
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        why: "what only x86 has: ports, segments, and calls of kernels long gone",
        calls: calls!(SYS_iopl SYS_ioperm SYS_modify_ldt SYS_uselib SYS_ustat SYS_sysfs SYS__sysctl),
    },
];

/// Answered with ENOSYS, after which programs take another way.
pub const ABSENT: &[Group] = &[Group {
    why: "clone3 hides what it asks for; io_uring does what it is asked past the filter",
    calls: calls!(SYS_clone3 SYS_io_uring_setup SYS_io_uring_enter SYS_io_uring_register),
}];

/// New namespaces: with one of users, a process has every capability in it, and the kernel's code for those before it.
const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];
/// In the flags of `clone` this is part of a signal's number.
const NAMESPACE_OF_TIME: u64 = 0x80;
/// Puts characters into a terminal as if they were typed, and the console's own way of that.
const TYPING: [u64; 2] = [0x5412, 0x541c];
/// The part of a socket's kind that is not a flag.
const KIND_MASK: u64 = 0xf;
/// Kinds beside streams and datagrams: raw, reliable, sequenced, DCCP, packets.
const KINDS: [u64; 5] = [3, 4, 5, 6, 10];
const BEGIN_X32: u32 = 0x4000_0000;

type Conditions = Vec<SeccompCondition>;

fn compare(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    // The kernel reads each of these arguments as 32 bits, so no more of them is looked at.
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn is(argument: u8, value: i32) -> Result<SeccompCondition, BackendError> {
    compare(argument, SeccompCmpOp::Eq, u64::from(value.unsigned_abs()))
}

fn none_of(argument: u8, values: &[i32]) -> Result<Conditions, BackendError> {
    values.iter().map(|value| compare(argument, SeccompCmpOp::Ne, u64::from(value.unsigned_abs()))).collect()
}

fn has(argument: u8, bits: u64) -> Result<SeccompCondition, BackendError> {
    compare(argument, SeccompCmpOp::MaskedEq(bits), bits)
}

/// One rule for each of these lists of conditions; a call is denied where all of one list hold.
fn rules(any: Vec<Conditions>) -> Result<Vec<SeccompRule>, BackendError> {
    any.into_iter().map(SeccompRule::new).collect()
}

/// Sockets of the kernel itself, of other machines' buses, of devices, and those of the internet that are neither TCP nor UDP.
/// Asking for one may load a module into the node.
fn sockets() -> Result<Vec<Conditions>, BackendError> {
    let mut denied = vec![none_of(0, &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK])?];
    // Of netlink only the table of interfaces and routes: the C library and runtimes read it.
    let mut netlink = vec![is(0, libc::AF_NETLINK)?];
    netlink.extend(none_of(2, &[libc::NETLINK_ROUTE])?);
    denied.push(netlink);
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut protocol = vec![is(0, family)?];
        protocol.extend(none_of(2, &[libc::IPPROTO_IP, libc::IPPROTO_TCP, libc::IPPROTO_UDP])?);
        denied.push(protocol);
        for kind in KINDS {
            denied.push(vec![is(0, family)?, compare(1, SeccompCmpOp::MaskedEq(KIND_MASK), kind)?]);
        }
    }
    Ok(denied)
}

fn namespaces() -> Result<Vec<Conditions>, BackendError> {
    NAMESPACES.iter().map(|flag| has(0, u64::from(flag.unsigned_abs())).map(|one| vec![one])).collect()
}

fn denied() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut all: BTreeMap<i64, Vec<SeccompRule>> =
        DENIED.iter().flat_map(|group| group.calls).map(|(_, number)| (*number, Vec::new())).collect();
    all.insert(libc::SYS_clone, rules(namespaces()?)?);
    let mut unshare = namespaces()?;
    unshare.push(vec![has(0, NAMESPACE_OF_TIME)?]);
    all.insert(libc::SYS_unshare, rules(unshare)?);
    all.insert(libc::SYS_socket, rules(sockets()?)?);
    all.insert(libc::SYS_socketpair, rules(vec![none_of(0, &[libc::AF_UNIX])?])?);
    let typing = TYPING.iter().map(|request| Ok(vec![compare(1, SeccompCmpOp::Eq, *request)?]));
    all.insert(libc::SYS_ioctl, rules(typing.collect::<Result<_, BackendError>>()?)?);
    Ok(all)
}

fn absent() -> BTreeMap<i64, Vec<SeccompRule>> {
    ABSENT.iter().flat_map(|group| group.calls).map(|(_, number)| (*number, Vec::new())).collect()
}

fn errno(number: i32) -> SeccompAction {
    SeccompAction::Errno(number.unsigned_abs())
}

/// Every call of x86's second table is no call. The library makes comparisons of whole numbers only, and this is a range.
fn no_second_table() -> BpfProgram {
    let statement =
        |code: u32, jt, jf, k| sock_filter { code: u16::try_from(code).unwrap_or_default(), jt, jf, k };
    vec![
        // The number of the call is the first word of what a filter is given.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, BEGIN_X32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, u32::from(errno(libc::ENOSYS))),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, u32::from(SeccompAction::Allow)),
    ]
}

/// The filters. All of them see each call, and the strictest answer holds.
///
/// # Errors
/// When there is none for this machine.
fn filters() -> Result<Vec<BpfProgram>, BackendError> {
    let machine = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = |rules, answer| -> Result<BpfProgram, BackendError> {
        SeccompFilter::new(rules, SeccompAction::Allow, errno(answer), machine)?.try_into()
    };
    Ok(vec![no_second_table(), filter(absent(), libc::ENOSYS)?, filter(denied()?, libc::EPERM)?])
}

/// Confines the calling thread, and what it starts, for good.
///
/// # Errors
/// When not every filter is in force; the thread may then have some, and must end.
pub fn confine() -> Result<(), Fault> {
    for filter in filters()? {
        seccompiler::apply_filter(&filter)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

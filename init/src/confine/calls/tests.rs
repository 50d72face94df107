//! The filters, judged as the kernel does it: a machine of a few instructions runs them on calls that nobody makes.

use super::*;

const ALLOW: u32 = 0x7fff_0000;
const KILL: u32 = 0x8000_0000;
const X86_64: u32 = 0xc000_003e;
const AARCH64: u32 = 0xc000_00b7;
const I386: u32 = 0x4000_0003;

const fn answer(errno: i32) -> u32 {
    0x0005_0000 | errno.unsigned_abs()
}

fn machine() -> u32 {
    match std::env::consts::ARCH {
        "x86_64" => X86_64,
        "aarch64" => AARCH64,
        other => panic!("no filter was ever tried on {other}"),
    }
}

/// One filter's answer to a call, by the kernel's meaning of each instruction (Documentation/networking/filter).
fn run(program: &BpfProgram, data: &[u32; 16]) -> u32 {
    let (mut at, mut accumulator) = (0, 0_u32);
    loop {
        let one = &program[at];
        let taken = |yes: bool| usize::from(if yes { one.jt } else { one.jf });
        at += 1;
        match u32::from(one.code) {
            0x20 => accumulator = data[one.k as usize / 4],
            0x54 => accumulator &= one.k,
            0x05 => at += one.k as usize,
            0x15 => at += taken(accumulator == one.k),
            0x25 => at += taken(accumulator > one.k),
            0x35 => at += taken(accumulator >= one.k),
            0x06 => return one.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

/// What the kernel does: the strictest answer of all filters, of which the lowest number is one, but for the sign of KILL.
fn judged_on(machine: u32, number: i64, arguments: [u64; 3]) -> u32 {
    let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap();
    let mut data = [0; 16];
    data[0] = low(number as u64);
    data[1] = machine;
    for (index, value) in arguments.into_iter().enumerate() {
        data[4 + index * 2] = low(value);
        data[5 + index * 2] = low(value >> 32);
    }
    let answers = filters().unwrap().iter().map(|filter| run(filter, &data)).collect::<Vec<_>>();
    *answers.iter().min_by_key(|answer| **answer as i32).unwrap()
}

fn judged(number: i64, arguments: [u64; 3]) -> u32 {
    judged_on(machine(), number, arguments)
}

fn flag(flag: i32) -> u64 {
    u64::from(flag.unsigned_abs())
}

#[test]
fn every_call_of_the_table_is_denied_whatever_its_arguments_and_by_any_number_that_it_has() {
    for (groups, errno) in [(DENIED, libc::EPERM), (ABSENT, libc::ENOSYS)] {
        for (name, number) in groups.iter().flat_map(|group| group.calls) {
            for arguments in [[0; 3], [u64::MAX; 3]] {
                assert_eq!(judged(*number, arguments), answer(errno), "{name}");
            }
            let second = judged(*number | i64::from(BEGIN_X32), [0; 3]);
            assert!(second == answer(libc::ENOSYS) || second == answer(errno), "{name} by the second table");
        }
    }
}

#[test]
fn what_programs_do_all_day_is_allowed() {
    let plain = [
        libc::SYS_read,
        libc::SYS_openat,
        libc::SYS_execve,
        libc::SYS_mmap,
        libc::SYS_futex,
        libc::SYS_connect,
        libc::SYS_kill,
        libc::SYS_memfd_create,
        libc::SYS_prctl,
        libc::SYS_seccomp,
        libc::SYS_landlock_restrict_self,
        libc::SYS_ioctl,
        libc::SYS_wait4,
        libc::SYS_exit_group,
    ];
    for number in plain {
        assert_eq!(judged(number, [0; 3]), ALLOW, "{number}");
    }
    // A thread, and a child, as the C library makes them.
    let thread =
        libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
    assert_eq!(judged(libc::SYS_clone, [flag(thread), 0, 0]), ALLOW);
    assert_eq!(judged(libc::SYS_clone, [flag(libc::CLONE_CHILD_SETTID | libc::SIGCHLD), 0, 0]), ALLOW);
    assert_eq!(judged(libc::SYS_unshare, [flag(libc::CLONE_FILES | libc::CLONE_FS), 0, 0]), ALLOW);
}

#[test]
fn no_new_namespace_is_made_alone_or_among_other_flags() {
    for namespace in NAMESPACES {
        for others in [0, libc::CLONE_VM | libc::SIGCHLD] {
            for number in [libc::SYS_clone, libc::SYS_unshare] {
                let asked = judged(number, [flag(namespace | others), 0, 0]);
                assert_eq!(asked, answer(libc::EPERM), "{number} {namespace:#x} {others:#x}");
            }
        }
    }
    assert_eq!(judged(libc::SYS_unshare, [NAMESPACE_OF_TIME, 0, 0]), answer(libc::EPERM));
}

#[test]
fn sockets_are_those_of_files_tcp_udp_and_the_table_of_routes() {
    let allowed = [
        (libc::AF_UNIX, libc::SOCK_STREAM, 0),
        (libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0),
        (libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, libc::IPPROTO_TCP),
        (libc::AF_INET, libc::SOCK_DGRAM, 0),
        (libc::AF_INET6, libc::SOCK_STREAM, 0),
        (libc::AF_INET6, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, libc::IPPROTO_UDP),
        (libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE),
    ];
    for (family, kind, protocol) in allowed {
        let asked = [flag(family), flag(kind), flag(protocol)];
        assert_eq!(judged(libc::SYS_socket, asked), ALLOW, "{asked:?}");
    }
    for family in
        (0..64).filter(|f| ![libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].contains(f))
    {
        for number in [libc::SYS_socket, libc::SYS_socketpair] {
            assert_eq!(judged(number, [flag(family), 1, 0]), answer(libc::EPERM), "family {family}");
        }
    }
    for family in [libc::AF_INET, libc::AF_INET6] {
        for protocol in (1..264).filter(|number| ![libc::IPPROTO_TCP, libc::IPPROTO_UDP].contains(number)) {
            for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW | libc::SOCK_CLOEXEC] {
                let asked = judged(libc::SYS_socket, [flag(family), flag(kind), flag(protocol)]);
                assert_eq!(asked, answer(libc::EPERM), "{family} {kind} {protocol}");
            }
        }
        for kind in KINDS {
            let asked = judged(libc::SYS_socket, [flag(family), kind | flag(libc::SOCK_NONBLOCK), 0]);
            assert_eq!(asked, answer(libc::EPERM), "{family} kind {kind}");
        }
        assert_eq!(judged(libc::SYS_socketpair, [flag(family), 1, 0]), answer(libc::EPERM));
    }
    for protocol in 1..32 {
        let asked = judged(libc::SYS_socket, [flag(libc::AF_NETLINK), flag(libc::SOCK_RAW), protocol]);
        assert_eq!(asked, answer(libc::EPERM), "netlink {protocol}");
    }
    assert_eq!(judged(libc::SYS_socketpair, [flag(libc::AF_UNIX), 1, 0]), ALLOW);
}

#[test]
fn the_half_of_an_argument_that_the_kernel_does_not_read_hides_nothing() {
    let above = 1 << 40;
    let raw = [flag(libc::AF_PACKET) | above, flag(libc::SOCK_RAW) | above, above];
    assert_eq!(judged(libc::SYS_socket, raw), answer(libc::EPERM));
    assert_eq!(judged(libc::SYS_socket, [flag(libc::AF_INET) | above, 3 | above, 0]), answer(libc::EPERM));
    assert_eq!(judged(libc::SYS_unshare, [flag(libc::CLONE_NEWUSER) | above, 0, 0]), answer(libc::EPERM));
    assert_eq!(judged(libc::SYS_ioctl, [0, TYPING[0] | above, 0]), answer(libc::EPERM));
}

#[test]
fn nothing_is_typed_into_a_terminal() {
    for request in TYPING {
        assert_eq!(judged(libc::SYS_ioctl, [0, request, 0]), answer(libc::EPERM));
    }
    assert_eq!(judged(libc::SYS_ioctl, [0, 0x5401, 0]), ALLOW, "asking whether it is one");
}

#[test]
fn a_call_of_another_architecture_ends_the_process() {
    for number in [libc::SYS_read, libc::SYS_mount] {
        assert_eq!(judged_on(I386, number, [0; 3]), KILL);
    }
    assert_eq!(judged(libc::SYS_read | i64::from(BEGIN_X32), [0; 3]), answer(libc::ENOSYS));
}

#[test]
fn the_documentation_names_each_call_with_its_reason() {
    let page = include_str!("../../../../docs/isolation.md");
    for group in DENIED.iter().chain(ABSENT) {
        let row = page.lines().find(|line| line.contains(group.why));
        let row = row.unwrap_or_else(|| panic!("docs/isolation.md has no row for {:?}", group.why));
        for (name, _) in group.calls {
            let name = name.strip_prefix("SYS_").unwrap();
            assert!(row.contains(&format!("`{name}`")), "{name} is not in its row");
        }
    }
}

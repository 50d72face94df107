//! Which kernel this is.
//!
//! What is asked is the kernel itself, through procfs and uname(2); the agent's image has no part in it, and `/proc` is
//! checked to be a procfs, so nothing mounted over it can answer. gVisor gives three signs that have nothing to do with
//! each other in its source: the version it puts in procfs, the release it gives to uname(2), and `/proc/sentry-meminfo`,
//! which only its Sentry serves. Linux gives a fourth by its presence: `/proc/vmstat`, which gVisor has not. All must
//! agree; if they do not, the kernel is `Unknown`, and unknown is refused.
//!
//! A virtual machine of the pod's own (Kata) and a node that is itself a virtual machine look alike to a processor's
//! hypervisor flag. Kata's guest is told apart by the kernel command line, on which its agent's options stand; a
//! hypervisor without them is a shared kernel, for that is the weaker claim.
//!
//! Not asked: the kernel log. gVisor's is readable without privilege, but syslog(2) has no safe wrapper that is worth its
//! dependencies, and this crate holds no unsafe code.

use std::fs;
use std::path::Path;

use agentsandbox_report::{KernelKind, RootReport};

/// Magic number of procfs (`linux/magic.h`).
const PROC_SUPER_MAGIC: u64 = 0x9fa0;
/// Version that gVisor reported before its release said so by name.
const GVISOR_VERSION_OLD: &str = "#1 SMP Sun Jan 10 15:06:54 PST 2016";
/// Options of Kata's agent and its boot target, on the guest's command line.
const KATA_OPTIONS: [&str; 2] = ["agent.log", "systemd.unit=kata-containers.target"];

/// What the kernel shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signs {
    /// `/proc` is a procfs.
    pub procfs: Presence,
    /// First line of `/proc/version`.
    pub version: String,
    /// Release and version by uname(2).
    pub uname: String,
    /// `/proc/sentry-meminfo`, which only gVisor serves.
    pub sentry: Presence,
    /// `/proc/vmstat`, which Linux serves and gVisor does not.
    pub vmstat: Presence,
    /// `/proc/cmdline`.
    pub command_line: String,
    /// `/proc/self/uid_map`.
    pub uid_map: String,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// It is.
    Present,
    /// It is not, or could not be looked at.
    #[default]
    Absent,
}

/// Tells the kernel from its signs.
#[must_use]
pub fn judge(signs: &Signs) -> KernelKind {
    if signs.procfs == Presence::Absent || signs.version.is_empty() || signs.uname.is_empty() {
        return KernelKind::Unknown;
    }
    let by_procfs = says_gvisor(&signs.version);
    let by_uname = says_gvisor(&signs.uname);
    match (by_procfs, by_uname, signs.sentry, signs.vmstat) {
        (true, true, Presence::Present, Presence::Absent) => KernelKind::GVisor,
        (false, false, Presence::Absent, Presence::Present) if is_kata_guest(&signs.command_line) => {
            KernelKind::VirtualMachine
        }
        (false, false, Presence::Absent, Presence::Present) => KernelKind::Linux,
        _ => KernelKind::Unknown,
    }
}

/// Whom the node takes the pod's root for, from the ranges of `uid_map`: first id inside, first id outside, how many. A kernel of the
/// pod's own says nothing of the node.
#[must_use]
pub fn root(kind: KernelKind, uid_map: &str) -> Option<RootReport> {
    if kind != KernelKind::Linux {
        return None;
    }
    let numbers = |line: &str| line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>().ok();
    let ranges: Option<Vec<Vec<u64>>> = uid_map.lines().map(numbers).collect();
    let ranges = ranges.filter(|ranges| !ranges.is_empty() && ranges.iter().all(|range| range.len() == 3))?;
    // Where root is in no range there is no root inside.
    let is_nodes = ranges.iter().any(|range| range.starts_with(&[0, 0]));
    Some(if is_nodes { RootReport::Node } else { RootReport::Mapped })
}

fn says_gvisor(text: &str) -> bool {
    text.contains("gvisor") || text.contains(GVISOR_VERSION_OLD)
}

fn is_kata_guest(command_line: &str) -> bool {
    command_line.split_whitespace().any(|word| KATA_OPTIONS.iter().any(|option| word.starts_with(option)))
}

/// Looks at the kernel.
#[must_use]
pub fn read() -> Signs {
    let uname = rustix::system::uname();
    let first_line = |path: &str| {
        fs::read_to_string(path).unwrap_or_default().lines().next().unwrap_or_default().to_owned()
    };
    Signs {
        procfs: presence(
            rustix::fs::statfs("/proc")
                .is_ok_and(|found| u64::try_from(found.f_type) == Ok(PROC_SUPER_MAGIC)),
        ),
        version: first_line("/proc/version"),
        uname: format!("{} {}", uname.release().to_string_lossy(), uname.version().to_string_lossy()),
        sentry: presence(Path::new("/proc/sentry-meminfo").exists()),
        vmstat: presence(Path::new("/proc/vmstat").exists()),
        command_line: first_line("/proc/cmdline"),
        uid_map: fs::read_to_string("/proc/self/uid_map").unwrap_or_default(),
    }
}

const fn presence(present: bool) -> Presence {
    if present { Presence::Present } else { Presence::Absent }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gvisor() -> Signs {
        Signs {
            procfs: Presence::Present,
            version: "Linux version 4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016".to_owned(),
            uname: "4.19.0-gvisor #1 SMP Sun Jan 10 15:06:54 PST 2016".to_owned(),
            sentry: Presence::Present,
            vmstat: Presence::Absent,
            command_line: "BOOT_IMAGE=/vmlinuz-4.19.0-gvisor quiet".to_owned(),
            uid_map: "0 0 4294967295".to_owned(),
        }
    }

    fn linux() -> Signs {
        Signs {
            procfs: Presence::Present,
            version: "Linux version 6.12.1 (builder@host) (gcc 14.2) #1 SMP".to_owned(),
            uname: "6.12.1 #1 SMP".to_owned(),
            sentry: Presence::Absent,
            vmstat: Presence::Present,
            command_line: "root=/dev/vda1 console=ttyS0".to_owned(),
            uid_map: "         0          0 4294967295".to_owned(),
        }
    }

    #[test]
    fn signs_that_agree_name_the_kernel() {
        let kata = "tsc=reliable panic=1 systemd.unit=kata-containers.target agent.log=debug";
        assert_eq!(judge(&gvisor()), KernelKind::GVisor);
        assert_eq!(judge(&linux()), KernelKind::Linux);
        assert_eq!(judge(&Signs { command_line: kata.to_owned(), ..linux() }), KernelKind::VirtualMachine);
    }

    #[test]
    fn one_sign_that_disagrees_makes_the_kernel_unknown() {
        let cases = [
            ("gVisor's name on a Linux kernel", Signs { version: gvisor().version, ..linux() }),
            ("gVisor's uname on a Linux kernel", Signs { uname: gvisor().uname, ..linux() }),
            ("no Sentry behind gVisor's name", Signs { sentry: Presence::Absent, ..gvisor() }),
            ("Linux's counters behind gVisor's name", Signs { vmstat: Presence::Present, ..gvisor() }),
            ("something else mounted on /proc", Signs { procfs: Presence::Absent, ..gvisor() }),
            ("no version", Signs { version: String::new(), ..linux() }),
            ("nothing at all", Signs::default()),
        ];
        for (case, signs) in cases {
            assert_eq!(judge(&signs), KernelKind::Unknown, "{case}");
        }
    }

    #[test]
    fn an_older_gvisor_is_known_by_its_fixed_version() {
        let old = "Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016".to_owned();
        assert_eq!(judge(&Signs { version: old.clone(), uname: old, ..gvisor() }), KernelKind::GVisor);
    }

    #[test]
    fn o_g22_whom_the_node_takes_the_pods_root_for_is_told_where_it_is_shown_and_nowhere_else() {
        let (node, mapped) = (Some(RootReport::Node), Some(RootReport::Mapped));
        for (map, told) in [
            ("         0          0 4294967295\n", node),
            ("0 65536 65536\n", mapped),
            ("1000 1000 1\n", mapped),
            ("5 5 10\n0 0 1\n", node),
            ("5 5 10\n0 100000 5\n", mapped),
            ("", None),
            ("0 0\n", None),
            ("0 0 all\n", None),
        ] {
            assert_eq!(root(KernelKind::Linux, map), told, "{map:?}");
        }
        for kind in [KernelKind::GVisor, KernelKind::VirtualMachine, KernelKind::Unknown] {
            assert_eq!(root(kind, "0 65536 65536\n"), None, "{kind:?}");
        }
        assert!(root(KernelKind::Linux, &read().uid_map).is_some(), "Linux shows it: {:?}", read());
    }

    #[test]
    fn the_kernel_of_this_test_is_one_we_know() {
        assert_ne!(judge(&read()), KernelKind::Unknown, "{:?}", read());
    }
}

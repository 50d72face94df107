//! A network of the harness's own, in which every address leads to the harness.
//!
//! The program runs itself again inside fresh network, mount and process namespaces. There the loopback interface owns
//! every address of IPv4 and IPv6, so whatever a proxy dials, a public address or a metadata service, arrives at a
//! listener here and can be counted; nothing can leave. When the outer process ends, everything inside ends with it.

use std::convert::Infallible;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use crate::failure::{During, Failure, Result};

/// Set inside the namespaces.
const INSIDE: &str = "AGENTSANDBOX_CONFORMANCE_INSIDE";
/// Where the harness's name server listens: nothing else does, for the namespace is new.
pub const NAME_SERVER: &str = "127.0.0.53";

/// Whether this process is inside already.
#[must_use]
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Becomes this program with these arguments inside; what started it can end it, and with it everything inside.
///
/// # Errors
/// Where namespaces cannot be made: it takes root, or a kernel that lets users make user namespaces.
pub fn run_inside(arguments: &[OsString]) -> Result<Infallible> {
    let own = std::env::current_exe().during("this program does not know where it is")?;
    let mut command = Command::new("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]);
    command.arg(own).args(arguments).env(INSIDE, "1");
    Err(command.exec()).during("unshare (util-linux) cannot be started")
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default().to_owned();
    line.split_whitespace().nth(1) == Some("0")
}

/// Gives the loopback interface every address, and programs the harness's name server, which is waited for so many seconds, and its
/// hosts file.
///
/// # Errors
/// When a step is refused.
pub fn furnish(folder: &Path, dns_secs: u32) -> Result<()> {
    for arguments in ["link set lo up", "route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo"]
    {
        program("ip", &arguments.split(' ').map(OsString::from).collect::<Vec<_>>())?;
    }
    let files = [
        ("resolv.conf", format!("nameserver {NAME_SERVER}\noptions timeout:{dns_secs} attempts:1\n")),
        // What a hosts file says is no answer of DNS: P-B8 looks whether it counts.
        ("hosts", format!("127.0.0.1 localhost\n{} hosts.good.test\n", crate::world::INTERNAL)),
    ];
    for (name, text) in files {
        let file = folder.join(name);
        std::fs::write(&file, text).during(format!("{} cannot be written", file.display()))?;
        let over = Path::new("/etc").join(name);
        program("mount", &["--bind".into(), file.into_os_string(), over.into_os_string()])?;
    }
    Ok(())
}

fn program(name: &str, arguments: &[OsString]) -> Result<()> {
    let output = Command::new(name).args(arguments).output().during(format!("{name} cannot be started"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Failure::new(format!("{name} {arguments:?} failed inside the namespace: {said}")))
}

//! Three network namespaces in a row: the agent's, the proxy's, the internet's.
//!
//! The agent's only neighbour is the proxy's namespace, which forwards nothing: what is not sent to the proxy arrives nowhere. In the
//! internet's every IPv4 address is local, so that whatever the proxy sends arrives and is journaled. Each namespace lives as long as
//! the process that holds it, and the kernel ends that with this one: nothing is left, however a run ends.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::failure::{During, Failure, Result};

/// The agent's address.
pub const AGENT: &str = "10.9.0.2";
/// The proxy's address on the agent's side.
pub const PROXY: &str = "10.9.0.1";
/// The proxy's address on the internet's side.
pub const PROXY_OUT: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 2);
/// The internet's address on the link; every other address is its own too.
const WORLD: &str = "10.9.1.1";

/// One namespace, and the process that holds it.
pub struct Namespace {
    holder: Child,
    /// What is shown as `/etc/resolv.conf` in it.
    resolver: PathBuf,
}

/// All three.
pub struct Namespaces {
    /// Where clients run.
    pub agent: Namespace,
    /// Where the proxy runs.
    pub proxy: Namespace,
    /// Where the stand-ins run.
    pub world: Namespace,
}

impl Namespaces {
    /// Makes and joins them; their resolver files are written into the folder.
    ///
    /// # Errors
    /// When the kernel or a tool refuses, as it does without root.
    pub fn create(folder: &Path, world_resolver: &str) -> Result<Self> {
        let made = Self {
            agent: Namespace::create(&folder.join("agent.resolv"), PROXY)?,
            proxy: Namespace::create(&folder.join("proxy.resolv"), world_resolver)?,
            world: Namespace::create(&folder.join("world.resolv"), world_resolver)?,
        };
        join(&made.agent, &made.proxy, "agent")?;
        join(&made.proxy, &made.world, "world")?;
        made.agent.ip(&format!("addr add {AGENT}/30 dev agent0"))?;
        made.agent.ip(&format!("route add default via {PROXY}"))?;
        made.proxy.ip(&format!("addr add {PROXY}/30 dev agent1"))?;
        made.proxy.ip(&format!("addr add {PROXY_OUT}/30 dev world0"))?;
        made.proxy.ip(&format!("route add default via {WORLD}"))?;
        made.proxy.sysctl("net.ipv4.ip_forward=0")?;
        let world = &made.world;
        world.ip(&format!("addr add {WORLD}/30 dev world1"))?;
        world.sysctl("net.ipv4.conf.all.rp_filter=0")?;
        world.sysctl("net.ipv4.conf.world1.rp_filter=0")?;
        // The order matters: the link's own address, then what is on the link, then everything else as local. Routes of
        // type local work in the table of that name only.
        world.ip(&format!("rule add pref 40 to {WORLD} lookup local"))?;
        world.ip("rule add pref 50 to 10.0.0.0/8 lookup main")?;
        world.ip("rule add pref 100 lookup local")?;
        world.ip("rule del pref 0")?;
        world.ip("route add local 0.0.0.0/0 dev lo table local")?;
        Ok(made)
    }
}

impl Namespace {
    fn create(resolver: &Path, address: &str) -> Result<Self> {
        std::fs::write(resolver, format!("nameserver {address}\noptions timeout:2 attempts:2\n"))
            .during("a resolver file cannot be written")?;
        // The line says that the namespace is there; before it, the process still has ours.
        let script = "ip link set lo up && echo made && exec sleep infinity";
        let mut holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "sh", "-c", script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .during("setpriv cannot be run; it is part of util-linux")?;
        let mut line = String::new();
        let said = holder.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let made = Self { holder, resolver: resolver.to_owned() };
        if matches!(said, Some(Ok(_))) && line == "made\n" {
            return Ok(made);
        }
        Err(Failure::new("a network namespace cannot be made; run this as root"))
    }

    /// A program in this namespace, with its resolver, that the kernel ends when this process ends.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.entered(&["--mount"], "mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"", program.as_ref())
    }

    /// As [`Namespace::command`], and when the program ends, or is killed, so does all that it started.
    #[must_use]
    pub fn contained(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        // The shell stays, as the first process of its own namespace: a client is seldom made to be that one.
        // The bundle is mounted over the system's own, as in an agent.
        let script = "mount --bind \"$0\" /etc/resolv.conf || exit 99
            [ -z \"${TRUST-}\" ] || mount --bind \"$TRUST/ca-bundle.crt\" /etc/ssl/certs/ca-certificates.crt || exit 99
            \"$@\"; exit $?";
        let unshare = ["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
        self.entered(&unshare, script, program.as_ref())
    }

    fn entered(&self, unshare: &[&str], script: &str, program: &std::ffi::OsStr) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", "nsenter"])
            .arg(format!("--net=/proc/{}/ns/net", self.holder.id()))
            .args(["--", "unshare"])
            .args(unshare)
            .args(["sh", "-c", script])
            .arg(&self.resolver)
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    fn ip(&self, words: &str) -> Result<()> {
        run(self.bare("ip").args(words.split(' ')))
    }

    fn sysctl(&self, setting: &str) -> Result<()> {
        run(self.bare("sysctl").args(["-q", "-w", setting]))
    }

    fn bare(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program).stdin(Stdio::null());
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A pair of links: `<name>0` in the first namespace, `<name>1` in the second.
fn join(first: &Namespace, second: &Namespace, name: &str) -> Result<()> {
    let (near, far) = (format!("{name}0"), format!("{name}1"));
    let (first_pid, second_pid) = (first.holder.id().to_string(), second.holder.id().to_string());
    let words = ["link", "add", &near, "netns", &first_pid, "type", "veth", "peer", "name", &far, "netns"];
    run(Command::new("ip").args(words).arg(&second_pid))?;
    first.ip(&format!("link set {near} up"))?;
    second.ip(&format!("link set {far} up"))
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.output().during(format!("{program} cannot be run"))?;
    if out.status.success() {
        return Ok(());
    }
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let said = String::from_utf8_lossy(&out.stderr);
    Err(Failure::new(format!("`{program} {}` failed: {}", args.join(" "), said.trim())))
}

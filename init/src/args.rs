//! The command line of what runs before the agent. The operator writes it; every value is parsed before anything is tried.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use agentsandbox_report::KernelKind;
use agentsandbox_workspace::git::wire::Wanted;
use agentsandbox_workspace::{Format, RelativePath};
use clap::{Parser, Subcommand, ValueEnum};
use url::Url;

use crate::confine::files::Grants;

/// Where the kubelet looks for a container's last words unless told otherwise.
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// Addresses of the open internet that answer TCP and UDP on 443 and 53, and ICMP, wherever there is a route to them.
/// Nothing but empty handshakes and one query for the root is sent there, and only while the walls are down.
const CANARIES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111)),
];

/// What runs inside the agent's pod before the agent does.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prove the walls, enrol with the proxy, build the trust bundle, read the limits back, and report.
    Fence(FenceArgs),
    /// Fetch an archive or a repository through the sandbox's own proxy, or read a folder, unpack it, and report.
    Workspace(WorkspaceArgs),
    /// Tell what differs between two trees, one of which somebody hostile writes to.
    Changes(ChangesArgs),
    /// Wait until it is told to end.
    Wait,
    /// Give up for good what an agent never needs, and become the command.
    Run(RunArgs),
    /// Give up what the agent of this container gave up, and become the command: for whoever enters it later.
    Enter(EnterArgs),
    /// Carry for the process that has started this one, which waits on the other end of standard input, and end with it.
    #[command(hide = true)]
    Carry(CarryArgs),
}

/// The trees that are compared.
#[derive(Clone, Debug, clap::Args)]
pub struct ChangesArgs {
    /// The original, which nobody writes to.
    #[arg(long, default_value = "/original")]
    pub original: PathBuf,
    /// What was made of it.
    #[arg(long, default_value = "/workspace")]
    pub workspace: PathBuf,
    /// Seconds after which the process ends, wherever it is: as long as its reader waits.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..))]
    pub deadline_secs: u32,
}

/// What a process gives up, and what it then becomes.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// A path below which files may be read; below no other they may. Where none is named, all files may.
    #[arg(long)]
    pub read: Vec<PathBuf>,
    /// A path below which files may be written, and read; below no other they may be written.
    #[arg(long)]
    pub write: Vec<PathBuf>,
    /// A path below which no file may be executed.
    #[arg(long)]
    pub no_execute: Vec<PathBuf>,
    /// Withhold execution by mounts, and say nothing of reading and writing: for a kernel that has no Landlock. Each path is a mount then.
    #[arg(long, conflicts_with_all = ["read", "write"], requires = "no_execute")]
    pub by_mounts: bool,
    /// Have no network but a loopback, from which what is sent is carried to the proxy, and say nothing of reading and writing. Paths
    /// without execution are withheld by mounts then.
    #[arg(long, conflicts_with_all = ["read", "write"], requires = "proxy")]
    pub no_network: bool,
    /// Address of the sandbox's own proxy (its Service).
    #[arg(long, requires = "no_network")]
    pub proxy: Option<IpAddr>,
    /// The one that carries has started this process, and waits on its standard input.
    #[arg(long, hide = true, requires = "no_network")]
    pub inside: bool,
    /// Say what came of each attempt that must be denied, and end: with 0 where all of them were.
    #[arg(long)]
    pub check: bool,
    /// The command, with its arguments.
    #[arg(last = true, required_unless_present = "check")]
    pub command: Vec<OsString>,
}

/// What a process becomes once it is where the agent is.
#[derive(Clone, Debug, clap::Args)]
pub struct EnterArgs {
    /// The command, with its arguments.
    #[arg(trailing_var_arg = true, required = true)]
    pub command: Vec<OsString>,
}

/// Whom to carry to.
#[derive(Clone, Debug, clap::Args)]
pub struct CarryArgs {
    /// Address of the sandbox's own proxy (its Service).
    #[arg(long)]
    pub proxy: IpAddr,
}

impl RunArgs {
    /// What these arguments of `run` say, which name no command; none where they are not such.
    #[must_use]
    pub fn parse(flags: &[String]) -> Option<Self> {
        let line = ["agentsandbox-init", "run"].into_iter().chain(flags.iter().map(String::as_str));
        match Args::try_parse_from(line.chain(["--", "true"])).ok()?.command {
            // The others say what the process is, and not what it gives up.
            Command::Run(args) if !args.inside && !args.check && args.command == ["true"] => {
                Some(Self { command: Vec::new(), ..args })
            }
            _ => None,
        }
    }

    /// What is granted.
    #[must_use]
    pub fn grants(&self) -> Grants {
        let Self { read, write, no_execute, .. } = self.clone();
        Grants { read, write, no_execute }
    }
}

/// What the fence has to prove, and against whom.
#[derive(Clone, Debug, clap::Args)]
pub struct FenceArgs {
    /// Address of the sandbox's own proxy (its Service).
    #[arg(long)]
    pub proxy: IpAddr,
    /// Port of the proxy on which it enrols its agent.
    #[arg(long, default_value_t = 3129)]
    pub enrolment_port: u16,
    /// Port of the proxy's policy DNS.
    #[arg(long, default_value_t = 53)]
    pub dns_port: u16,
    /// The Service `kubernetes`: a route that must be closed, and which is always answered where it is open.
    #[arg(long)]
    pub api: SocketAddr,
    /// An endpoint behind the Service `kubernetes`.
    #[arg(long)]
    pub api_endpoint: Vec<SocketAddr>,
    /// The node's address.
    #[arg(long)]
    pub node: IpAddr,
    /// The cluster's DNS Service.
    #[arg(long)]
    pub cluster_dns: Vec<IpAddr>,
    /// A cloud metadata address.
    #[arg(long)]
    pub metadata: Vec<IpAddr>,
    /// An address outside the cluster that answers wherever there is a route.
    #[arg(long, default_values_t = CANARIES)]
    pub canary: Vec<IpAddr>,
    /// What an answered ICMP echo request means.
    #[arg(long, value_enum, default_value_t = IcmpRule::Refuse)]
    pub icmp: IcmpRule,
    /// The kernel that the class promises.
    #[arg(long, value_enum)]
    pub expect_kernel: ExpectedKernel,
    /// File with the enrolment token.
    #[arg(long)]
    pub token_file: PathBuf,
    /// File with the sandbox's own CA certificate.
    #[arg(long)]
    pub ca_file: PathBuf,
    /// Folder that the trust bundle is written to.
    #[arg(long)]
    pub trust_dir: PathBuf,
    /// Folder that the program is put into by which the agent starts in a process sandbox; absent where it starts in none.
    #[arg(long)]
    pub program_dir: Option<PathBuf>,
    /// The agent has execution withheld by mounts, and starts in no process sandbox.
    #[arg(long, requires = "program_dir")]
    pub program_by_mounts: bool,
    /// The agent has no network but a loopback, and starts in no process sandbox.
    #[arg(long, requires = "program_dir")]
    pub program_no_network: bool,
    /// An argument by which the agent starts by the program, in their order; it is told beside it, for whoever enters the agent's
    /// container later.
    #[arg(long, requires = "program_dir")]
    pub program_run: Vec<String>,
    /// Memory limit that the class promises.
    #[arg(long)]
    pub expect_memory_bytes: u64,
    /// CPU limit that the class promises.
    #[arg(long)]
    pub expect_cpu_millis: u64,
    /// The highest limit on processes that is accepted.
    #[arg(long)]
    pub expect_pids: Option<u64>,
    /// Seconds after which the proof is given up.
    #[arg(long, default_value_t = 20)]
    pub deadline_secs: u64,
    /// File that the report goes to.
    #[arg(long, default_value = TERMINATION_LOG)]
    pub termination_log: PathBuf,
}

/// What to fetch, and what of it to leave out.
#[derive(Clone, Debug, clap::Args)]
pub struct WorkspaceArgs {
    /// Address of the sandbox's own proxy (its Service).
    #[arg(long)]
    pub proxy: IpAddr,
    /// Port of the proxy's HTTP entrance.
    #[arg(long, default_value_t = 3128)]
    pub proxy_port: u16,
    /// File with every root that is trusted, the sandbox's own among them.
    #[arg(long)]
    pub trust_bundle: PathBuf,
    /// Folder in which the tree is put, under the name `tree`. The agent must not see the folder itself.
    #[arg(long)]
    pub volume: PathBuf,
    /// Folder of another volume, in which the original is kept: what is put into the volume is a copy of it then.
    #[arg(long)]
    pub original: Option<PathBuf>,
    /// Bytes that the archive and its tree may take of the volume, together.
    #[arg(long)]
    pub volume_bytes: u64,
    /// The volume outlasts pods, and what an agent left in it is never taken away.
    #[arg(long, requires = "claim_uid")]
    pub persistent: bool,
    /// UID of the claim that the volume is: what lies in it is believed of a volume that was filled for this one alone.
    #[arg(long, value_parser = claim_uid, requires = "persistent")]
    pub claim_uid: Option<String>,
    /// What is fetched.
    #[command(flatten)]
    pub source: SourceArgs,
    /// A pattern of what is left out beside the project's own list.
    #[arg(long)]
    pub exclude: Vec<String>,
    /// A pattern of what is taken though the project's own list leaves it out.
    #[arg(long)]
    pub include: Vec<String>,
    /// A format of files that are rewritten without their secrets.
    #[arg(long, value_parser = format, conflicts_with = "git_url")]
    pub sanitize: Vec<Format>,
    /// Seconds after which the download is given up; of a repository and a folder, the whole step.
    #[arg(long, default_value_t = 1800)]
    pub deadline_secs: u64,
    /// File that the report goes to.
    #[arg(long, default_value = TERMINATION_LOG)]
    pub termination_log: PathBuf,
}

/// An archive, a git repository, a folder or nothing: exactly one of them.
#[derive(Clone, Debug, clap::Args)]
pub struct SourceArgs {
    /// The archive.
    #[arg(long, required_unless_present_any = ["git_url", "folder", "empty"], conflicts_with_all = ["git_url", "folder"], requires = "sha256")]
    pub url: Option<Url>,
    /// The archive's SHA-256, as 64 hexadecimal digits in lower case.
    #[arg(long, value_parser = digest, requires = "url", conflicts_with = "git_url")]
    pub sha256: Option<String>,
    /// How many of the first names of each path are taken off.
    #[arg(long, default_value_t = 0, conflicts_with = "git_url")]
    pub strip_components: usize,
    /// The repository.
    #[arg(long)]
    pub git_url: Option<Url>,
    /// Its branch or tag, or the id of a commit; absent means where its HEAD is.
    #[arg(long, value_parser = wanted, conflicts_with = "url")]
    pub git_ref: Option<Wanted>,
    /// How many commits of the history are fetched.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000), conflicts_with = "url")]
    pub git_depth: u32,
    /// A folder that is mounted here, and copied.
    #[arg(long, conflicts_with = "git_url")]
    pub folder: Option<PathBuf>,
    /// The folder in it that is copied, by a path without links.
    #[arg(long, value_parser = folder_path, requires = "folder", conflicts_with_all = ["url", "git_url", "empty"])]
    pub folder_path: Option<RelativePath>,
    /// The tree begins empty.
    #[arg(long, conflicts_with_all = ["url", "git_url", "folder"])]
    pub empty: bool,
}

fn wanted(text: &str) -> Result<Wanted, String> {
    Wanted::parse(Some(text)).ok_or_else(|| "it is no branch, tag or commit".to_owned())
}

fn folder_path(text: &str) -> Result<RelativePath, String> {
    RelativePath::parse(text.as_bytes()).map_err(|refusal| refusal.to_string())
}

fn format(text: &str) -> Result<Format, String> {
    Format::named(text).ok_or_else(|| "it is no format that is rewritten".to_owned())
}

fn digest(text: &str) -> Result<String, String> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    match text.len() == 64 && is_hex {
        true => Ok(text.to_owned()),
        false => Err("a SHA-256 has 64 hexadecimal digits in lower case".to_owned()),
    }
}

/// Longest UID that is taken; Kubernetes' own have 36 characters.
const CLAIM_UID_BYTES_MAX: usize = 64;

fn claim_uid(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match !text.is_empty() && text.len() <= CLAIM_UID_BYTES_MAX && is_plain {
        true => Ok(text.to_owned()),
        false => Err("a UID has letters, digits and dashes".to_owned()),
    }
}

/// What an answered ICMP echo request means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IcmpRule {
    /// An open route like any other.
    Refuse,
    /// A finding that is reported and does not keep the agent from starting: some policy engines (kube-router is one)
    /// admit echo requests before any policy, and then only a rule on the node can close them.
    Report,
}

/// The kernel that a class promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExpectedKernel {
    /// gVisor's Sentry.
    Gvisor,
    /// A Linux kernel shared with the node.
    Linux,
    /// A Linux kernel of the pod's own virtual machine.
    Vm,
}

impl From<ExpectedKernel> for KernelKind {
    fn from(expected: ExpectedKernel) -> Self {
        match expected {
            ExpectedKernel::Gvisor => Self::GVisor,
            ExpectedKernel::Linux => Self::Linux,
            ExpectedKernel::Vm => Self::VirtualMachine,
        }
    }
}

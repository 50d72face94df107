//! The process sandbox: what a process gives up for good before it becomes the agent. It adds to the container, where the agent
//! shares the node's kernel; under gVisor there is no Landlock, and [`run`] says so and starts nothing, unless it is told to withhold
//! execution alone, by [`mounts`], or the [`network`], or both.
//!
//! The order matters. Descriptors first, for opening them needs no rule; files next; then system calls, since the others need
//! some; last, what must be denied now is tried. The program is started with [`Confined`] in hand, which only the whole of it
//! makes: what cannot be enforced, or was not seen to hold, is an error, and no agent. What is given up is inherited by every
//! child and never comes back.
//!
//! [`enter`] does the same for who comes into the agent's container later, by what the fence has told of how the agent starts. It joins
//! nothing of the agent's: who shared its users would be read and steered by it. What it becomes is apart from the agent as the agent is from the pod.
//!
//! Not here: whether core files may be written (the program that follows decides that again), and where a network leads, which
//! is the walls' business.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use nix::sched::CloneFlags;
use thiserror::Error;

use self::attempts::Attempt;
use self::files::Grants;
use self::network::Keeper;
use crate::args::{EnterArgs, RunArgs, TERMINATION_LOG};
use crate::{forward, program};

pub mod attempts;
pub mod calls;
pub mod files;
pub mod mounts;
mod namespaces;
pub mod network;

/// Exit code where the process could not be confined (`EX_OSERR`); nothing was started.
pub const EXIT_NOT_CONFINED: u8 = 71;
/// Exit code where it was, and an attempt that must be denied was not (`EX_SOFTWARE`); nothing was started.
pub const EXIT_NOT_DENIED: u8 = 70;
/// How `run --check` begins to say what holds.
pub const LANDLOCK_VERSION: &str = "landlock version ";
/// How it begins where execution is withheld by mounts.
pub const MOUNTS: &str = "mounts";
/// How it begins where there is no network; after [`MOUNTS`], where there is neither.
pub const NETWORK: &str = "no network";
/// Exit codes of every shell for a program that is not there, and for one that cannot be started.
const EXIT_NOT_FOUND: u8 = 127;
const EXIT_NOT_STARTED: u8 = 126;
/// Standard input, output and error are kept.
const KEPT: i32 = 3;

/// Why nothing was started.
#[derive(Debug, Error)]
pub enum Refused {
    /// Files that were open could not be closed.
    #[error("open files cannot be closed: {0}")]
    Descriptors(io::Error),
    /// The kernel could not be asked what it has.
    #[error("the kernel cannot be asked for Landlock: {0}")]
    Unasked(io::Error),
    /// Files.
    #[error(transparent)]
    Files(#[from] files::Fault),
    /// Mounts.
    #[error(transparent)]
    Mounts(#[from] mounts::Fault),
    /// There are no namespaces of its own.
    #[error("this kernel gives a process no namespaces of its own: {0}")]
    Namespaces(io::Error),
    /// The network.
    #[error(transparent)]
    Network(#[from] network::Fault),
    /// What it may do in its namespaces cannot be given up.
    #[error("capabilities cannot be given up: {0}")]
    Capabilities(io::Error),
    /// System calls.
    #[error(transparent)]
    Calls(#[from] calls::Fault),
    /// Everything was taken, and something of it does not hold.
    #[error("what must be denied was not: {}", listed(.0))]
    NotDenied(Vec<Attempt>),
    /// Nobody knows how the agent of this container was started.
    #[error(
        "beside this program it is not told how the agent starts by it ({0}); a pod that an older operator made has no such file, and the next one of its sandbox has"
    )]
    Untold(io::Error),
    /// It is confined, and the command cannot be started.
    #[error("{} cannot be started: {source}", program.display())]
    NotStarted {
        /// Its program.
        program: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Refused {
    fn sentence(&self) -> String {
        match self {
            Self::NotStarted { .. } => self.to_string(),
            _ => format!("nothing is started: {self}"),
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::NotDenied(_) => EXIT_NOT_DENIED,
            Self::NotStarted { source, .. } if source.kind() == io::ErrorKind::NotFound => EXIT_NOT_FOUND,
            Self::NotStarted { .. } => EXIT_NOT_STARTED,
            _ => EXIT_NOT_CONFINED,
        }
    }
}

fn listed(attempts: &[Attempt]) -> String {
    attempts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// That everything is in force for the calling thread, and was seen to be.
#[derive(Debug)]
pub struct Confined {
    /// What holds beside the filters, as it is told.
    held: String,
    /// What was tried, all of it in vain.
    denied: Vec<Attempt>,
}

/// Confines this process, which must have one thread, and becomes the command; returns where it did not. Without a network the command is a
/// child's, and this process [carries](crate::forward) for it until it ends.
#[must_use]
pub fn run(args: &RunArgs) -> ExitCode {
    ran(args).unwrap_or_else(|refused| {
        let sentence = refused.sentence();
        say(&sentence);
        leave(&sentence);
        ExitCode::from(refused.code())
    })
}

fn ran(args: &RunArgs) -> Result<ExitCode, Refused> {
    close_inherited().map_err(Refused::Descriptors)?;
    let keeper = match args.proxy {
        Some(proxy) if !args.inside => return Ok(forward::keep(proxy)?),
        _ => args.inside.then(Keeper::meet).transpose()?,
    };
    let confined = confine(args, keeper)?;
    if args.check { Ok(tell(&confined)) } else { Err(become_command(&confined, &args.command)) }
}

/// Confines this process, which must have one thread, as the agent of its container is, and becomes the command; returns where it did not. Without
/// a network another process carries for it until it ends. The container's last words are the agent's, so a refusal is told on standard error alone.
#[must_use]
pub fn enter(args: &EnterArgs) -> ExitCode {
    let refused = entered(args);
    say(&refused.sentence());
    ExitCode::from(refused.code())
}

/// Why the process did not become the command; else it does not return.
fn entered(args: &EnterArgs) -> Refused {
    let confined = || {
        close_inherited().map_err(Refused::Descriptors)?;
        let how = program::told().map_err(Refused::Untold)?;
        // It stays in the pod's network, so it is started before that is left.
        let keeper = how.proxy.map(Keeper::begin).transpose()?;
        confine(&how, keeper)
    };
    confined().map_or_else(|refused| refused, |confined| become_command(&confined, &args.command))
}

/// # Errors
/// When anything of it cannot be enforced, or an attempt shows that it is not.
fn confine(args: &RunArgs, keeper: Option<Keeper>) -> Result<Confined, Refused> {
    let grants = args.grants();
    let apart = args.by_mounts || args.no_network;
    let held = if apart {
        take_apart(args, &grants, keeper)?
    } else {
        let offered = files::offered().map_err(Refused::Unasked)?;
        format!("{LANDLOCK_VERSION}{}", files::confine(&grants, offered)?)
    };
    calls::confine()?;
    let mut tried = if apart { attempts::by_mounts(&grants) } else { attempts::all(&grants) };
    tried.extend(args.proxy.into_iter().flat_map(attempts::beyond_the_loopback));
    tried.extend(args.proxy.into_iter().flat_map(|_| attempts::families()));
    let (denied, done): (Vec<_>, Vec<_>) = tried.into_iter().partition(Attempt::is_denied);
    if done.is_empty() { Ok(Confined { held, denied }) } else { Err(Refused::NotDenied(done)) }
}

/// Takes this process out of the pod's mounts, its network, or both, and returns what holds then. Whatever it could do there by having them for
/// its own it gives up.
fn take_apart(args: &RunArgs, grants: &Grants, keeper: Option<Keeper>) -> Result<String, Refused> {
    let folders = mounts::folders(&grants.no_execute)?;
    let mut beside = CloneFlags::empty();
    beside.set(CloneFlags::CLONE_NEWNS, !folders.is_empty());
    beside.set(CloneFlags::CLONE_NEWNET, args.no_network);
    namespaces::take(beside).map_err(Refused::Namespaces)?;
    mounts::withhold(&folders)?;
    if let Some(keeper) = keeper {
        keeper.serve(&network::Doors::open()?)?;
    }
    namespaces::give_up_capabilities().map_err(Refused::Capabilities)?;
    Ok(held(!folders.is_empty(), args.no_network))
}

/// How `run --check` begins to say what holds where there is no Landlock.
#[must_use]
pub fn held(mounts: bool, network: bool) -> String {
    let all = [mounts.then_some(MOUNTS), network.then_some(NETWORK)];
    all.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What a runtime left open by mistake is a way out of every root (CVE-2024-21626).
fn close_inherited() -> io::Result<()> {
    let names = fs::read_dir("/proc/self/fd")?.map(|entry| entry.map(|entry| entry.file_name()));
    let open: Vec<i32> = names
        .filter_map(|name| name.map(|name| name.to_str()?.parse().ok()).transpose())
        .collect::<Result<_, _>>()?;
    for descriptor in open.into_iter().filter(|number| *number >= KEPT) {
        match nix::unistd::close(descriptor) {
            // The list was read by one of these.
            Ok(()) | Err(nix::errno::Errno::EBADF) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Why it did not; else it does not return.
fn become_command(_confined: &Confined, command: &[OsString]) -> Refused {
    let (program, arguments) = command
        .split_first()
        .map_or_else(Default::default, |(program, arguments)| (PathBuf::from(program), arguments));
    let source = Command::new(&program).args(arguments).exec();
    Refused::NotStarted { program, source }
}

fn tell(confined: &Confined) -> ExitCode {
    let lines = confined.denied.iter().map(|attempt| format!("{attempt}\n"));
    let told = format!("{}\n{}", confined.held, lines.collect::<String>());
    // Who asked and is told nothing must not take that for a yes.
    match io::stdout().write_all(told.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// To the log, or to whoever has started this. Where nobody can be told, the exit code still says it.
pub(crate) fn say(sentence: &str) {
    let _ = writeln!(io::stderr(), "agentsandbox-init: {sentence}");
}

/// To where the kubelet looks for a container's last words, which status then tells.
fn leave(sentence: &str) {
    let last_words = fs::OpenOptions::new().write(true).open(TERMINATION_LOG);
    let _ = last_words.and_then(|mut file| file.write_all(sentence.as_bytes()));
}

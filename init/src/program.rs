//! The program by which an agent starts in its process sandbox: a copy of this one, in a volume that the agent sees read-only. It
//! is there under its name only after it has confined itself on this very kernel and has seen that what must be denied is: where
//! that cannot be had, the fence proves nothing, and no agent starts. Beside it lies by which arguments the agent starts by it, for
//! whoever enters the agent's container later ([`crate::confine::enter`]): the agent can change that as little.

use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::{fs, str};

use thiserror::Error;

use crate::args::RunArgs;
use crate::confine::{EXIT_NOT_CONFINED, EXIT_NOT_DENIED, LANDLOCK_VERSION, held};

/// Its name; the operator starts the agent by it.
pub const FILE: &str = "agentsandbox-init";
/// Its name before it was seen to work.
const UNPROVEN: &str = ".unproven";
/// What lies beside it: a JSON array of the arguments of `run` by which the agent starts by it.
pub const HOW: &str = "run.json";
/// Its name before it is whole.
const UNTOLD: &str = ".untold";
/// The running program, wherever its image has it.
pub const SELF: &str = "/proc/self/exe";
/// Everybody may read and start it, and nobody change it.
const MODE: u32 = 0o555;
/// Everybody may read what lies beside it.
const MODE_HOW: u32 = 0o444;
/// Characters of what it says that are kept.
const SAID_CHARACTERS_MAX: usize = 300;

/// Why there is no program.
#[derive(Debug, Error)]
pub enum ProgramError {
    /// A file could not be made.
    #[error("cannot put the program that the agent starts by into its place")]
    Copy(#[source] io::Error),
    /// It could not be started.
    #[error("cannot start the program that the agent starts by")]
    Start(#[source] io::Error),
    /// It could not confine itself here.
    #[error("the process sandbox cannot be had here: {0}")]
    NotConfined(String),
    /// It ended in another way.
    #[error("the program that the agent starts by does not work: {0}")]
    Broken(String),
    /// The agent is not started so.
    #[error("these are no arguments by which an agent starts: {}", .0.join(" "))]
    Arguments(Vec<String>),
}

/// By what the program is to confine itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Landlock.
    Landlock,
    /// Mounts without execution.
    Mounts,
    /// A network that has nothing but a loopback, from which there is a way to this proxy; with mounts without execution, or as they are.
    NoNetwork {
        /// The proxy.
        proxy: IpAddr,
        /// Whether execution is withheld by mounts, too.
        mounts: bool,
    },
}

/// What was seen to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Version of Landlock by which it confined itself; none where that was by other means.
    pub landlock_version: Option<u32>,
    /// Whether it had no network but a loopback.
    pub loopback_only: bool,
}

/// Puts this program, which lies at `program`, into `folder`, and returns what it was seen to hold itself to.
///
/// # Errors
/// When it cannot be put there, or did not confine itself.
pub fn install(program: &Path, folder: &Path, means: Means) -> Result<Seen, ProgramError> {
    let unproven = folder.join(UNPROVEN);
    copy(program, &unproven).map_err(ProgramError::Copy)?;
    let path = |flag: &str| format!("--{flag}={}", folder.display());
    let asked = match means {
        Means::Landlock => vec![path("write"), path("no-execute")],
        Means::Mounts => vec!["--by-mounts".to_owned(), path("no-execute")],
        Means::NoNetwork { proxy, mounts } => ["--no-network".to_owned(), format!("--proxy={proxy}")]
            .into_iter()
            .chain(mounts.then(|| path("no-execute")))
            .collect(),
    };
    let output = Command::new(&unproven)
        .arg("run")
        .args(asked)
        .arg("--check")
        .stdin(Stdio::null())
        .output()
        .map_err(ProgramError::Start)?;
    let said: String =
        String::from_utf8_lossy(&output.stderr).trim().chars().take(SAID_CHARACTERS_MAX).collect();
    let told = || {
        let first = str::from_utf8(&output.stdout).ok()?.lines().next()?;
        match means {
            Means::Landlock => {
                let version = first.strip_prefix(LANDLOCK_VERSION)?.parse().ok()?;
                Some(Seen { landlock_version: Some(version), loopback_only: false })
            }
            Means::Mounts => (first == held(true, false)).then_some(Seen::default()),
            Means::NoNetwork { mounts, .. } => {
                (first == held(mounts, true)).then_some(Seen { landlock_version: None, loopback_only: true })
            }
        }
    };
    let not_confined = [EXIT_NOT_CONFINED, EXIT_NOT_DENIED].map(|code| Some(i32::from(code)));
    match (output.status.code(), told()) {
        (Some(0), Some(seen)) => {
            fs::rename(&unproven, folder.join(FILE)).map_err(ProgramError::Copy)?;
            Ok(seen)
        }
        (code, _) if not_confined.contains(&code) => Err(ProgramError::NotConfined(said)),
        _ => Err(ProgramError::Broken(format!("{}, and it said: {said}", output.status))),
    }
}

/// Tells beside the program by which arguments the agent starts by it; of none nothing is told.
///
/// # Errors
/// When they are no such arguments, or the file could not be made.
pub fn tell(folder: &Path, run: &[String]) -> Result<(), ProgramError> {
    if run.is_empty() {
        return Ok(());
    }
    if RunArgs::parse(run).is_none() {
        return Err(ProgramError::Arguments(run.to_owned()));
    }
    let told = || {
        let untold = folder.join(UNTOLD);
        remove(&untold)?;
        fs::write(&untold, serde_json::to_vec(run)?)?;
        fs::set_permissions(&untold, fs::Permissions::from_mode(MODE_HOW))?;
        fs::rename(&untold, folder.join(HOW))
    };
    told().map_err(ProgramError::Copy)
}

/// By which arguments the agent starts, as it was told beside the running program.
///
/// # Errors
/// When nothing was told, or nothing that is understood.
pub fn told() -> io::Result<RunArgs> {
    let program = fs::read_link(SELF)?;
    let told = fs::read(program.with_file_name(HOW))?;
    let run: Vec<String> = serde_json::from_slice(&told)?;
    RunArgs::parse(&run).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, run.join(" ")))
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy(program: &Path, to: &Path) -> io::Result<()> {
    // An earlier run of the fence may have left it, and it cannot be written.
    remove(to)?;
    fs::copy(program, to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(MODE))
}

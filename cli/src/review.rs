//! What an agent made of its workspace, where the original stays: shown, made of a folder outside, or discarded.
//!
//! The container `review` in the agent's pod compares both trees. What it says is taken for an agent's own words: the crate
//! `agentsandbox-workspace` judges every path of it again, here, before any of it is shown or written.

mod shown;

use std::fs::File;
use std::io::{BufReader, BufWriter, Seek, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::{CONTAINER_REVIEW, SUFFIX_AGENT};
use agentsandbox_crds::workspace::WorkspaceAccess;
use agentsandbox_workspace::RelativePath;
use agentsandbox_workspace::changes::apply::{ApplyError, Conflict};
use agentsandbox_workspace::changes::{Bounds, Changes, apply as applied, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{AttachParams, DeleteParams, Preconditions};
use kube::{Api, ResourceExt};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{ApplyArgs, DiffArgs, DiscardArgs};
use crate::cluster::Cluster;
use crate::command::{EXIT_NO, EXIT_OK, json_to};
use crate::error::{Error, chain};
use crate::exec::{ExecError, code};
use crate::find;
use crate::text::{Filtered, harmless_line};
use crate::whole::Whole;

/// What tells of the changes, in the project's own image.
const COMMAND: [&str; 2] = ["/agentsandbox-init", "changes"];
/// How long that may take.
const TIMEOUT: Duration = Duration::from_secs(600);
/// How much it may say: all the content that is taken, and as much around it.
const BYTES_MAX: u64 = 512 << 20;
/// How much is read at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Digits of a commit's id.
const COMMIT_DIGITS: usize = 40;

/// Why it is not known, or not applied.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// There is no original to compare with.
    #[error(
        "AgentSandbox {0} keeps no original: only with spec.workspace.access: Overlay there is something to compare with"
    )]
    NoOverlay(String),
    /// It takes too long.
    #[error("what the agent made is not told within {} s", TIMEOUT.as_secs())]
    Late,
    /// There is too much of it.
    #[error("more than {BYTES_MAX} bytes are told")]
    TooMuch,
    /// What came is refused as a whole.
    #[error("what is told of the changes is refused as a whole")]
    Refused(#[source] agentsandbox_workspace::Error),
    /// The folder cannot be opened.
    #[error("the folder {folder} cannot be opened")]
    Folder {
        /// Which.
        folder: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing was applied, and not for a conflict.
    #[error("nothing was applied")]
    NotApplied(#[source] ApplyError),
    /// Nobody said that it is meant.
    #[error(
        "this deletes Pod {0} with all that the agent made, and its program starts anew: say --yes if that is meant"
    )]
    Unconfirmed(String),
    /// The pod is not deleted.
    #[error("Pod {pod} is not deleted")]
    NotDeleted {
        /// Which.
        pod: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Shows what an agent made.
///
/// # Errors
/// Where it is not known.
pub async fn diff(cluster: &Cluster, args: &DiffArgs, out: &mut impl Write) -> Result<u8, Error> {
    let changes = changes(cluster, &args.name).await?;
    let mut is_whole = changes.refused_count == 0;
    match args.output {
        crate::args::Output::Json => json_to(out, &shown::json(&changes))?,
        crate::args::Output::Table => {
            match args.raw {
                // Byte by byte: what takes colours out for files would change it.
                true => {
                    let mut out = BufWriter::with_capacity(CHUNK_BYTES, std::io::stdout());
                    shown::show_all(&changes, args, &mut out)?;
                    out.flush()?;
                }
                false => harmlessly(&changes, args, out)?,
            }
            let hidden = shown::hidden(&changes, args);
            is_whole &= hidden.is_empty();
            let folders = shown::folders(&changes, args);
            write!(anstream::stderr(), "{}{folders}{hidden}", shown::notes(&changes))?;
            writeln!(anstream::stderr(), "digest for apply --reviewed: {}", changes.digest())?;
        }
    }
    out.flush()?;
    Ok(if is_whole { EXIT_OK } else { EXIT_NO })
}

/// Shows changes without what a terminal would obey, never much of it in memory.
fn harmlessly(changes: &Changes, args: &DiffArgs, out: &mut impl Write) -> std::io::Result<()> {
    let mut filtered = Filtered::new(out);
    let mut buffered = BufWriter::with_capacity(CHUNK_BYTES, &mut filtered);
    shown::show_all(changes, args, &mut buffered)?;
    buffered.flush()?;
    drop(buffered);
    filtered.end()
}

/// Makes the same of a folder, if it is what was reviewed: the agent may have written since.
///
/// # Errors
/// Where it is not known what the agent made, or the system fails; then nothing was written.
pub async fn apply(cluster: &Cluster, args: &ApplyArgs, out: &mut impl Write) -> Result<u8, Error> {
    let folder = open(&args.to)?;
    let changes = changes(cluster, &args.name).await?;
    write!(anstream::stderr(), "{}", shown::notes(&changes))?;
    let (changes, stay) = match approved(changes, args) {
        Ok(approved) => approved,
        Err(why) => {
            writeln!(anstream::stderr(), "error: nothing was applied, as {why}")?;
            return Ok(EXIT_NO);
        }
    };
    for path in stay {
        writeln!(anstream::stderr(), "not deleted, as paths are refused: {}", harmless_line(path.as_str()))?;
    }
    let _held = held()?;
    let left = match applied::apply(&changes, folder.as_fd()) {
        Ok(()) => None,
        Err(error @ ApplyError::StageStays(_)) => Some(error),
        Err(ApplyError::Conflicts(conflicts)) => {
            write!(anstream::stderr(), "{}", told(&conflicts))?;
            return Ok(EXIT_NO);
        }
        Err(error) => return Err(ReviewError::NotApplied(error).into()),
    };
    let to = harmless_line(&args.to.to_string_lossy());
    writeln!(out, "{} paths are applied to {to}", changes.changes.len())?;
    out.flush()?;
    if let Some(left) = left {
        writeln!(anstream::stderr(), "warning: {}", harmless_line(&chain(&left)))?;
    }
    Ok(EXIT_OK)
}

/// What is applied of what came, and what is not deleted; or why nothing is. What was reviewed is known by its digest alone: a look at what
/// came now would be none. Where paths are refused nothing is deleted: it may be what is refused, under the name that it had before.
fn approved(changes: Changes, args: &ApplyArgs) -> Result<(Changes, Vec<RelativePath>), &'static str> {
    if changes.digest() != args.reviewed {
        return Err("what the agent made is not what was reviewed, or not any more: look at diff again");
    }
    match (changes.refused_count, args.without_refused) {
        (0, _) => Ok((changes, Vec::new())),
        (_, true) => Ok(changes.without_deletions()),
        (_, false) => Err("paths are refused; --without-refused applies the rest, and deletes nothing"),
    }
}

/// From here on these signals end nothing: a program that ended in the middle of a step would leave half of the changes.
pub(crate) fn held() -> std::io::Result<[Signal; 3]> {
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
}

fn open(folder: &Path) -> Result<File, ReviewError> {
    let opened = File::open(folder).and_then(|opened| match opened.metadata()?.is_dir() {
        true => Ok(opened),
        false => Err(std::io::Error::from(std::io::ErrorKind::NotADirectory)),
    });
    opened.map_err(|source| ReviewError::Folder { folder: folder.display().to_string(), source })
}

fn told(conflicts: &[Conflict]) -> String {
    let lines = conflicts.iter().map(|conflict| {
        format!("conflict: {}: there is {}\n", harmless_line(&conflict.path), harmless_line(&conflict.found))
    });
    let last = "error: nothing was applied, as the folder is not as the original at these paths\n".to_owned();
    lines.chain([last]).collect()
}

/// Deletes the agent's pod: the operator makes another, whose step makes the original again.
///
/// # Errors
/// Where the pod is not there, not the sandbox's, not the one that was looked at any more, or may not be deleted.
pub async fn discard(cluster: &Cluster, args: &DiscardArgs, out: &mut impl Write) -> Result<u8, Error> {
    let sandbox = overlay(cluster, &args.name).await?;
    let pod = find::own_pod(cluster, &sandbox, SUFFIX_AGENT).await?;
    let name = pod.name_any();
    if !args.yes {
        return Err(ReviewError::Unconfirmed(name).into());
    }
    let preconditions = Preconditions { uid: pod.metadata.uid, resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
    let deleted = pods.delete(&name, &params).await;
    deleted.map_err(|source| ReviewError::NotDeleted { pod: name.clone(), source: Box::new(source) })?;
    let note = moving(&sandbox).map_or_else(String::new, |commit| {
        format!(
            "; its branch or tag may have moved since: write ref: {commit} where the same commit is meant"
        )
    });
    writeln!(out, "Pod {name} is deleted, and another is made with what is fetched anew{note}")?;
    out.flush()?;
    Ok(EXIT_OK)
}

/// The commit that a workspace began with, if what is fetched anew may be another.
fn moving(sandbox: &AgentSandbox) -> Option<&str> {
    let git = sandbox.spec.workspace.as_ref()?.git.as_ref()?;
    let is_commit = git.reference.as_deref().is_some_and(|reference| {
        reference.len() == COMMIT_DIGITS && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    let began = sandbox.status.as_ref()?.workspace.as_ref()?.commit.as_deref();
    began.filter(|commit| !commit.is_empty() && !is_commit)
}

/// The sandbox, if it keeps its original.
async fn overlay(cluster: &Cluster, name: &str) -> Result<AgentSandbox, Error> {
    let sandbox = Whole::living(cluster, name).await?;
    let access = sandbox.spec.workspace.as_ref().and_then(|workspace| workspace.access);
    match access == Some(WorkspaceAccess::Overlay) {
        true => Ok(sandbox),
        false => Err(ReviewError::NoOverlay(name.to_owned()).into()),
    }
}

/// What an agent made, told by the container beside it and judged here.
async fn changes(cluster: &Cluster, name: &str) -> Result<Changes, Error> {
    let sandbox = overlay(cluster, name).await?;
    let pod = find::pod(cluster, &sandbox, SUFFIX_AGENT).await?;
    let pods = Api::<Pod>::namespaced(cluster.streams.clone(), &cluster.namespace);
    let params = AttachParams::default().container(CONTAINER_REVIEW).stdin(false).stdout(true).stderr(true);
    let what = format!(
        "what the agent of AgentSandbox {name} made; `kubectl agentsandbox status {name}` says whether it runs"
    );
    let mut process = find::in_time(what, pods.exec(&pod, COMMAND, &params)).await?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let stdout = stdout.ok_or(ExecError::NoStream("output"))?;
    let stderr = stderr.ok_or(ExecError::NoStream("errors"))?;
    let status = process.take_status().ok_or(ExecError::NoStream("status"))?;
    let mut spool = tempfile::tempfile()?;
    let told = async {
        let (told, errors, status) =
            tokio::join!(copy(stdout, &mut spool), copy(stderr, std::io::sink()), status);
        told?;
        errors?;
        Ok::<_, Error>(status)
    };
    let status = tokio::time::timeout(TIMEOUT, told).await.map_err(|_| ReviewError::Late)??;
    spool.rewind()?;
    let changes = stream::read(&mut BufReader::with_capacity(CHUNK_BYTES, spool), &Bounds::default());
    // Its own words first: how the process ended says no more than that it did.
    let changes = changes.map_err(ReviewError::Refused)?;
    match code(status.as_ref())? {
        0 => Ok(changes),
        _ => Err(ExecError::NoCode("it failed behind its last word".to_owned()).into()),
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl Write) -> Result<(), Error> {
    let (mut chunk, mut left) = (vec![0; CHUNK_BYTES], BYTES_MAX);
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(to.flush()?);
        }
        left = left.checked_sub(count as u64).ok_or(ReviewError::TooMuch)?;
        to.write_all(chunk.get(..count).unwrap_or_default())?;
    }
}

#[cfg(test)]
mod tests;

//! The workspace's step, from top to bottom:
//!
//! | step | fails as |
//! |---|---|
//! | a persistent volume is taken for its claim, or is another's, and then nothing in it is believed or touched | `Failed` |
//! | what an earlier run left is looked at: a tree that was finished is not made again | `Failed` |
//! | [`fetch`](mod@fetch): the archive comes through the sandbox's own proxy, into a file without a name | `FetchDenied`, `FetchFailed` |
//! | its digest is compared, before anybody reads a byte of it as an archive | `DigestMismatch` |
//! | the crate `agentsandbox-workspace` unpacks it beside its place, and puts it there as a whole | `ArchiveRefused` |
//! | where the original stays, that was its place, and the agent's tree is a copy of it | `Failed`, `ArchiveRefused` |
//!
//! Of a git repository it is [`git`] that fetches; what came is named by ids that the crate computes, in place of a digest. A folder is
//! mounted where only this step sees it, read-only, and nothing is fetched. A persistent volume may begin empty, which is reported all the same: it is filled once, whatever is asked for later.
//!
//! It runs behind the fence and has no way past it: it holds no token and no key, its requests are judged like the agent's, and the
//! proxy adds what the rules say. Everything that comes is hostile. Names of files go to the log alone, in plain ASCII.

pub mod fetch;
mod git;
mod tunnel;
mod volume;

use std::fs::File;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use agentsandbox_report::{WORKSPACE_VERSION, WorkspaceReport, WorkspaceVerdict};
use agentsandbox_workspace::folder::{open_within, unpack_folder};
use agentsandbox_workspace::{Error, Exclusion, Limits, Note, Reason, Tree, Unpacked, unpack};
use tokio::time::timeout;
use url::Url;

use self::fetch::{FetchError, Fetched};
use self::tunnel::Way;
use crate::args::WorkspaceArgs;
use crate::termination::{millis, sentence};

/// Names of files that are written to the log: the kubelet rotates it, and a hostile archive could hold a million.
const NOTES_MAX: u64 = 10_000;

/// Why there is no tree: verdict and message, born together.
struct Failure {
    verdict: WorkspaceVerdict,
    message: String,
}

/// A report of a run that came to nothing.
#[must_use]
pub fn failed(verdict: WorkspaceVerdict, message: &str, started: Instant) -> WorkspaceReport {
    WorkspaceReport {
        version: WORKSPACE_VERSION,
        verdict,
        message: message.to_owned(),
        files: 0,
        bytes: 0,
        left_out: 0,
        with_tokens: 0,
        rewritten: 0,
        commit: None,
        duration_millis: millis(started),
    }
}

/// What a run came to.
struct Outcome {
    unpacked: Unpacked,
    message: String,
    commit: Option<String>,
}

/// Runs the whole step, and tells names of files to `log`. Never returns without a verdict.
#[must_use]
pub fn run(args: &WorkspaceArgs, started: Instant, log: &mut dyn Write) -> WorkspaceReport {
    match place(args, started, log) {
        Ok(report) => report,
        Err(Failure { verdict, message }) => failed(verdict, &message, started),
    }
}

fn place(args: &WorkspaceArgs, started: Instant, log: &mut dyn Write) -> Result<WorkspaceReport, Failure> {
    if let Some(claim) = &args.claim_uid {
        volume::take(&args.volume, claim).map_err(|error| own(&error))?;
    }
    if let Some(report) = volume::finished(&args.volume, args.original.as_deref()) {
        return Ok(report);
    }
    if args.persistent {
        volume::check_unreported(&args.volume).map_err(|error| own(&error))?;
    }
    let exclusion = Exclusion::new(&args.exclude, &args.include).map_err(|error| own(&error))?;
    let exclusion = exclusion.sanitizing(&args.sanitize);
    volume::clear(&args.volume).map_err(|error| own(&error))?;
    if let Some(original) = &args.original {
        volume::clear(original).map_err(|error| own(&error))?;
    }
    let mut log = Log { out: log, told: 0 };
    let source = &args.source;
    let done = match (&source.url, &source.git_url, &source.folder) {
        (Some(url), _, _) => archive(args, url, &exclusion, &mut log),
        (None, Some(url), _) => git::checked_out(args, url, &exclusion, started, &mut log),
        (None, None, Some(path)) => folder(args, path, &exclusion, started, &mut log),
        (None, None, None) if source.empty => empty(args),
        // The command line was refused.
        (None, None, None) => Err(own(&io::Error::other("no source is named"))),
    };
    log.end();
    let done = done?;
    if let Some(original) = &args.original {
        copied(args, original)?;
    }
    let report = report(done, started);
    volume::finish(&args.volume, &report).map_err(|error| own(&error))?;
    Ok(report)
}

fn archive(
    args: &WorkspaceArgs,
    url: &Url,
    exclusion: &Exclusion,
    log: &mut Log<'_>,
) -> Result<Outcome, Failure> {
    // It has no name, so nothing of it stays: where a file system gives it one for a moment, the next run clears it away.
    let mut archive = tempfile::tempfile_in(&args.volume).map_err(|error| own(&error))?;
    let fetched =
        awaited(args, async |way| fetch::fetch(way, url.clone(), &mut archive, args.volume_bytes).await)?;
    check(args, url, &fetched)?;
    let tree = tree(args, fetched.bytes)?;
    let unpacked = unpack(archive, tree, exclusion, args.source.strip_components, &mut |note| log.tell(note));
    let unpacked = unpacked.map_err(|error| refused(args, &error))?;
    Ok(Outcome { unpacked, message: "The archive is unpacked.".to_owned(), commit: None })
}

/// What a folder holds that is mounted here. Its path is ours; what is named within it is the sandbox's, and no link on the way is followed.
fn folder(
    args: &WorkspaceArgs,
    path: &Path,
    exclusion: &Exclusion,
    started: Instant,
    log: &mut Log<'_>,
) -> Result<Outcome, Failure> {
    let volume = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Failure {
            verdict: WorkspaceVerdict::FetchFailed,
            message: "Nothing is mounted where the source should be: an API server without image volumes (Kubernetes before 1.35, unless the feature gate ImageVolume is on) takes them out of a pod without a word.".to_owned(),
        },
        _ => own(&error),
    })?;
    let within = args.source.folder_path.as_ref();
    let folder = match within {
        None => volume.into(),
        Some(within) => open_within(volume.as_fd(), within).map_err(|error| match &error {
            Error::System { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                let message = format!("There is no folder {within} in what is to be copied.");
                Failure { verdict: WorkspaceVerdict::FetchFailed, message }
            }
            _ => refused(args, &error),
        })?,
    };
    let clock = in_time(args, started);
    let tree = tree(args, 0)?;
    let mut note = |note: Note<'_>| log.tell(note);
    let unpacked = unpack_folder(folder.as_fd(), within, tree, exclusion, &clock, &mut note);
    let unpacked = unpacked.map_err(|error| refused(args, &error))?;
    Ok(Outcome { unpacked, message: "The folder is copied.".to_owned(), commit: None })
}

/// Whether the step has time left.
fn in_time(args: &WorkspaceArgs, started: Instant) -> impl Fn() -> Result<(), Error> {
    let deadline = Duration::from_secs(args.deadline_secs);
    move || if started.elapsed() < deadline { Ok(()) } else { Err(Error::Late) }
}

/// A tree without anything in it.
fn empty(args: &WorkspaceArgs) -> Result<Outcome, Failure> {
    std::fs::create_dir(args.volume.join(volume::TREE)).map_err(|error| own(&error))?;
    let message = "The volume is new, and its workspace begins empty.".to_owned();
    Ok(Outcome { unpacked: Unpacked::default(), message, commit: None })
}

/// What a download comes to, in the time that it has.
fn awaited<T>(
    args: &WorkspaceArgs,
    fetching: impl AsyncFnOnce(&Way) -> Result<T, FetchError>,
) -> Result<T, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| own(&error))?;
    let way = Way::new(SocketAddr::new(args.proxy, args.proxy_port), &args.trust_bundle);
    let way = way.map_err(|error| own(&error))?;
    // The timer needs the runtime that it is awaited in.
    let done =
        runtime.block_on(async { timeout(Duration::from_secs(args.deadline_secs), fetching(&way)).await });
    done.unwrap_or(Err(FetchError::Deadline(args.deadline_secs))).map_err(|error| Failure {
        verdict: match &error {
            FetchError::Denied { .. } => WorkspaceVerdict::FetchDenied,
            _ => WorkspaceVerdict::FetchFailed,
        },
        message: sentence(&error),
    })
}

fn check(args: &WorkspaceArgs, url: &Url, fetched: &Fetched) -> Result<(), Failure> {
    let wanted = args.source.sha256.as_deref().unwrap_or_default();
    if fetched.sha256 == wanted {
        return Ok(());
    }
    let message = format!(
        "{} bytes came from {} whose SHA-256 is {}, and not {wanted}.",
        fetched.bytes,
        fetch::told(url),
        fetched.sha256,
    );
    Err(Failure { verdict: WorkspaceVerdict::DigestMismatch, message })
}

/// The agent's tree, where the original stays: a copy, once the original is on its disk.
fn copied(args: &WorkspaceArgs, original: &Path) -> Result<(), Failure> {
    volume::sync(original).map_err(|error| own(&error))?;
    let tree = File::open(original.join(volume::TREE)).map_err(|error| own(&error))?;
    let volume = File::open(&args.volume).map_err(|error| own(&error))?;
    // What was fetched is gone by now, but a file with many names, which the original has once, is copied for each of them.
    let mut copy =
        Tree::create(volume.as_fd(), volume::TREE, limits(args.volume_bytes)).map_err(|error| own(&error))?;
    copy.copy(tree.as_fd()).map_err(|error| refused(args, &error))?;
    copy.publish().map(|_| ()).map_err(|error| own(&error))
}

/// A tree that has what the download left of the volume.
fn tree(args: &WorkspaceArgs, fetched_bytes: u64) -> Result<Tree, Failure> {
    let limits = limits(args.volume_bytes.saturating_sub(fetched_bytes));
    let place = args.original.as_ref().unwrap_or(&args.volume);
    let volume = File::open(place).map_err(|error| own(&error))?;
    Tree::create(volume.as_fd(), volume::TREE, limits).map_err(|error| refused(args, &error))
}

/// The fixed bounds, and no more bytes than are left.
fn limits(left: u64) -> Limits {
    let limits = Limits::default();
    Limits {
        bytes_max: limits.bytes_max.min(left),
        file_bytes_max: limits.file_bytes_max.min(left),
        ..limits
    }
}

/// What is told of each name, up to a bound. A log that cannot be written keeps nobody from working.
struct Log<'a> {
    out: &'a mut dyn Write,
    told: u64,
}

impl Log<'_> {
    fn tell(&mut self, note: Note<'_>) {
        self.told += 1;
        if self.told > NOTES_MAX {
            return;
        }
        let _ = match note {
            Note::LeftOut(path) => writeln!(self.out, "left out: {path}"),
            Note::Rewritten(path) => writeln!(self.out, "rewritten without its secrets: {path}"),
            Note::Token(path, shape) => writeln!(self.out, "holds what looks like a {shape}: {path}"),
        };
    }

    fn end(&mut self) {
        if self.told > NOTES_MAX {
            let _ = writeln!(self.out, "and {} more", self.told - NOTES_MAX);
        }
    }
}

fn refused(args: &WorkspaceArgs, error: &Error) -> Failure {
    let (source, what) = match (&args.source.git_url, &args.source.folder) {
        (Some(_), _) => ("repository", "The repository and its tree"),
        // Nothing of it is here but its tree.
        (None, Some(_)) => ("folder", "What is copied"),
        (None, None) => ("archive", "The archive and its tree"),
    };
    let verdict = match error {
        Error::Refused(_) | Error::Unreadable(_) | Error::Pack(_) => WorkspaceVerdict::ArchiveRefused,
        Error::Late => WorkspaceVerdict::FetchFailed,
        Error::System { .. } | Error::Stream(_) | Error::Untold(_) => WorkspaceVerdict::Failed,
    };
    let mut message = match error {
        // A path begins as it is written.
        Error::Refused(refusal) => format!("The {source} is refused: {refusal}."),
        error => sentence(error),
    };
    let is_full =
        matches!(error, Error::System { source, .. } if source.kind() == io::ErrorKind::StorageFull);
    let fixed = Limits::default();
    // Where it is the fixed bound that was met, no other size of the workspace helps.
    let is_too_large = match error.reason() {
        Some(Reason::TooLarge(max)) => max < fixed.bytes_max,
        Some(Reason::FileTooLarge(max)) => max < fixed.file_bytes_max,
        _ => false,
    };
    if is_full || is_too_large {
        let field = if args.persistent { "persistent.size" } else { "sizeLimit" };
        message.push_str(&format!(
            " {what} must fit into the {} bytes of the workspace together: raise spec.workspace.{field}.",
            args.volume_bytes
        ));
    }
    if args.source.git_depth > 1 {
        message.push_str(" What the history holds counts too: a smaller spec.workspace.git.depth may help.");
    }
    Failure { verdict, message }
}

fn own(error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure { verdict: WorkspaceVerdict::Failed, message: sentence(error) }
}

fn report(done: Outcome, started: Instant) -> WorkspaceReport {
    let Outcome { unpacked, message, commit } = done;
    WorkspaceReport {
        version: WORKSPACE_VERSION,
        verdict: WorkspaceVerdict::Unpacked,
        message,
        files: unpacked.written.files,
        bytes: unpacked.written.bytes,
        left_out: unpacked.left_out.saturating_add(unpacked.excluded),
        with_tokens: unpacked.with_tokens,
        rewritten: unpacked.rewritten,
        commit,
        duration_millis: millis(started),
    }
}

#[cfg(test)]
mod tests;

//! Files to and from a sandbox, as `kubectl cp` copies them: by the program `tar` in the agent's container.
//!
//! What comes out was packed by an agent. It is spooled, then taken apart by the crate that unpacks hostile archives into a folder that
//! nobody else may enter, and only when all of it is whole does the one thing that was asked for take its place, by a rename. What goes in
//! is chosen by its user, and without the names of secrets and `.git` folders, which are told; a file that is named itself goes as it is.

mod packed;
mod place;

use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentsandbox_workspace::exclusion::BadPattern;
use agentsandbox_workspace::limits::HEAD_BYTES_MAX;
use agentsandbox_workspace::{Exclusion, Limits, Note, Tree, unpack_stream};
use kube::api::AttachParams;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use self::place::{Inside, Place};
use crate::args::CopyArgs;
use crate::cluster::Cluster;
use crate::command::EXIT_OK;
use crate::error::Error;
use crate::exec::{ExecError, code, process, together};
use crate::review::held;
use crate::text::harmless_line;

/// Bytes that are copied at once, packed.
const BYTES_MAX: u64 = 4 << 30;
/// Bytes of what `tar` complains of that are told.
const COMPLAINT_BYTES_MAX: usize = 4096;
/// What is unpacked, in its folder beside the place.
const TREE: &str = "tree";
/// How much is read at a time.
const CHUNK_BYTES: usize = 64 * 1024;
/// Names that are told of what is not copied; the others are counted.
const TOLD_MAX: u64 = 20;
/// A pattern for the folder of a repository's own, or the file that names it.
const REPOSITORY: &str = ".git";
/// What a shell says of a program that is not there, and containerd of one that cannot be started.
const NOT_STARTED: [u8; 2] = [126, 127];
/// What `test` says of what is not so.
const NOT_SO: u8 = 1;

/// Why something is not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Neither or both of the places are in a sandbox.
    #[error("one of the two places has to be in a sandbox, written NAME:PATH, and the other here: {0}")]
    Places(&'static str),
    /// A path in a sandbox that is none.
    #[error("{path} is no path of a sandbox: {why}")]
    Path {
        /// The path.
        path: String,
        /// What to write instead.
        why: &'static str,
    },
    /// A pattern that is none.
    #[error("--exclude and --include take patterns of .gitignore")]
    Pattern(#[source] BadPattern),
    /// What is taken back from a list that nobody asks.
    #[error(
        "--include takes back what is left out on the way in; on the way out nothing of the list is left out"
    )]
    Include,
    /// There is something in the place already.
    #[error("{0} is there already, and nothing is merged with it: name another place, or take it away")]
    Taken(String),
    /// A program in the agent's container complains.
    #[error("`{program}` in the agent's container ended with {code}: {said}")]
    Failed {
        /// Which.
        program: String,
        /// Its exit code.
        code: u8,
        /// What it said.
        said: String,
    },
    /// The agent's image has none.
    #[error("the agent's image has no program `tar`, without which nothing is copied, as by kubectl cp")]
    NoTar,
    /// It is too much.
    #[error("it is more than {BYTES_MAX} bytes: copy less at once")]
    TooMuch,
    /// It takes too long.
    #[error("it was not copied within {0} s: say --timeout if it may take longer")]
    Late(u64),
    /// What came is refused as a whole.
    #[error("what came is refused as a whole, and nothing is written; --exclude leaves out what is named")]
    Refused(#[source] agentsandbox_workspace::Error),
    /// What came is not what was asked for.
    #[error("what came is not what was asked for, and nothing is written: {0}")]
    Other(&'static str),
    /// Nothing is left of what was asked for.
    #[error(
        "nothing is left of it: --include takes back what is on the list of secrets, and a folder .git is never copied"
    )]
    Nothing,
    /// Something here cannot be read or written.
    #[error("{path} cannot be {doing}")]
    Here {
        /// Which.
        path: String,
        /// What was done with it.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Copies.
///
/// # Errors
/// Where it is not copied; then nothing is written here. In a sandbox, `tar` may have written a part of it.
pub async fn copy(cluster: &Cluster, args: &CopyArgs, told: &mut impl Write) -> Result<u8, Error> {
    let copied = async {
        match (Place::parse(&args.from)?, Place::parse(&args.to)?) {
            (Place::Inside(from), Place::Here(to)) => out_of(cluster, args, &from, &to, told).await,
            (Place::Here(from), Place::Inside(to)) => into(cluster, args, &from, &to, told).await,
            (Place::Here(_), Place::Here(_)) => Err(CopyError::Places("neither is").into()),
            (Place::Inside(_), Place::Inside(_)) => Err(CopyError::Places("both are").into()),
        }
    };
    let within = Duration::from_secs(args.timeout);
    tokio::time::timeout(within, copied).await.map_err(|_| CopyError::Late(args.timeout))??;
    writeln!(told, "{} is copied to {}", harmless_line(&args.from), harmless_line(&args.to))?;
    told.flush()?;
    Ok(EXIT_OK)
}

async fn out_of(
    cluster: &Cluster,
    args: &CopyArgs,
    from: &Inside,
    to: &Path,
    told: &mut impl Write,
) -> Result<(), Error> {
    if !args.include.is_empty() {
        return Err(CopyError::Include.into());
    }
    let exclusion = what_comes_out(&args.exclude)?;
    // What is here already is found before anything is asked for.
    let to = place::destination(to, &from.name)?;
    place::check_free(&to)?;
    let mut spool = tempfile::tempfile()?;
    let command = ["tar", "-c", "-f", "-", "-C", &from.folder, "--", &from.name];
    check(ran(cluster, &from.sandbox, &command, None, &mut spool).await?)?;
    // What a program that ended here would leave beside the place.
    let _held = held()?;
    take(spool, &exclusion, &from.name, &to, told)
}

/// What an agent made is taken but for repositories: whoever asks git anything in a copy of one starts what its settings name.
fn what_comes_out(exclude: &[String]) -> Result<Exclusion, CopyError> {
    let all: Vec<&str> = exclude.iter().map(String::as_str).chain([REPOSITORY]).collect();
    Exclusion::only(&all).map_err(CopyError::Pattern)
}

/// Unpacks what came beside its place, and puts it there.
fn take(
    mut packed: impl Read + Seek,
    exclusion: &Exclusion,
    name: &str,
    to: &Path,
    told: &mut impl Write,
) -> Result<(), Error> {
    packed.rewind()?;
    let is_folder = begins_with_folder(&mut packed);
    packed.rewind()?;
    let beside = tempfile::Builder::new().prefix(".agentsandbox-cp-").tempdir_in(place::parent(to));
    let beside = beside.map_err(here(to, "written"))?;
    let folder = File::open(beside.path()).map_err(here(to, "written"))?;
    let limits = Limits { bytes_max: BYTES_MAX, ..Limits::default() };
    let tree = Tree::create(folder.as_fd(), TREE, limits).map_err(CopyError::Refused)?;
    let mut lines = Lines::new(told);
    let mut note = |note: Note<'_>| match note {
        Note::LeftOut(path) => lines.tell(&format!("left out: {}", path.as_str())),
        Note::Token(path, shape) => {
            lines.tell(&format!("holds what looks like a {shape}: {}", path.as_str()))
        }
        Note::Rewritten(path) => lines.tell(&format!("rewritten: {}", path.as_str())),
    };
    let packed = BufReader::with_capacity(CHUNK_BYTES, packed);
    // A folder that was asked for is the tree itself: a link in it that leads to what is beside it would lead to what is beside its place.
    unpack_stream(packed, tree, exclusion, usize::from(is_folder), &mut note).map_err(CopyError::Refused)?;
    lines.end();
    let tree = beside.path().join(TREE);
    let own = if is_folder { tree } else { place::only_file(&tree, name)? };
    Ok(place::settle(&own, to)?)
}

/// Whether a folder was packed. Whoever packed otherwise than it begins is refused later.
fn begins_with_folder(packed: impl Read) -> bool {
    // What is long in a header is read into memory.
    let mut archive = tar::Archive::new(packed.take(HEAD_BYTES_MAX));
    let first = archive.entries().ok().and_then(|mut entries| entries.next());
    first.is_some_and(|entry| entry.is_ok_and(|entry| entry.header().entry_type().is_dir()))
}

async fn into(
    cluster: &Cluster,
    args: &CopyArgs,
    from: &Path,
    to: &Inside,
    told: &mut impl Write,
) -> Result<(), Error> {
    let leaving = packed::Leaving::new(&args.exclude, &args.include).map_err(CopyError::Pattern)?;
    let own = place::own_name(from)?;
    let mut nothing = std::io::sink();
    let is_folder = ran(cluster, &to.sandbox, &["test", "-d", &to.path()], None, &mut nothing).await?;
    let (folder, name) = match is_folder.code {
        NOT_SO => (to.folder.clone(), to.name.clone()),
        _ => check(is_folder).map(|()| (to.path(), own))?,
    };
    let mut spool = tempfile::tempfile()?;
    let mut lines = Lines::new(told);
    packed::pack(from, &name, &leaving, &mut spool, &mut |line| lines.tell(line))?;
    lines.end();
    spool.rewind()?;
    let command = ["tar", "-x", "-f", "-", "-C", &folder];
    Ok(check(ran(cluster, &to.sandbox, &command, Some(spool), &mut nothing).await?)?)
}

/// The first lines of what is told, and how many there are beyond them. Who does not read them does not need them.
struct Lines<'a> {
    told: &'a mut dyn Write,
    count: u64,
}

impl<'a> Lines<'a> {
    fn new(told: &'a mut impl Write) -> Self {
        Self { told, count: 0 }
    }

    fn tell(&mut self, line: &str) {
        self.count += 1;
        if self.count <= TOLD_MAX {
            let _told = writeln!(self.told, "{}", harmless_line(line));
        }
    }

    fn end(self) {
        if self.count > TOLD_MAX {
            let _told = writeln!(self.told, "and {} more", self.count - TOLD_MAX);
        }
    }
}

/// How a program ended, and the beginning of what it complained of.
struct Ended {
    program: String,
    code: u8,
    said: String,
}

fn check(ended: Ended) -> Result<(), CopyError> {
    match ended.code {
        0 => Ok(()),
        code if NOT_STARTED.contains(&code) => Err(CopyError::NoTar),
        code => Err(CopyError::Failed { program: ended.program, code, said: ended.said }),
    }
}

/// Runs a program in the agent's container.
async fn ran(
    cluster: &Cluster,
    sandbox: &str,
    command: &[&str],
    given: Option<File>,
    out: &mut impl Write,
) -> Result<Ended, Error> {
    let params = AttachParams::default().stdin(given.is_some());
    let mut process = process(cluster, sandbox, command, params).await?;
    let stdout = process.stdout().ok_or(ExecError::NoStream("output"))?;
    let stderr = process.stderr().ok_or(ExecError::NoStream("errors"))?;
    let status = process.take_status().ok_or(ExecError::NoStream("status"))?;
    let stdin = process.stdin().zip(given);
    let giving = async {
        if let Some((mut to, given)) = stdin {
            tokio::io::copy(&mut tokio::fs::File::from_std(given), &mut to).await?;
            to.shutdown().await?;
        }
        Ok::<_, Error>(())
    };
    let ((), said, status) = tokio::select! {
        ended = together(spooled(stdout, out, BYTES_MAX), complaint(stderr), status) => ended?,
        // What it was given and did not take says no more than how it ended.
        Err(error) = giving => return Err(error),
    };
    let program = command.first().copied().unwrap_or_default().to_owned();
    Ok(Ended { program, code: code(status.as_ref())?, said })
}

async fn spooled(mut from: impl AsyncRead + Unpin, to: &mut impl Write, max: u64) -> Result<(), Error> {
    let (mut chunk, mut left) = (vec![0; CHUNK_BYTES], max);
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(to.flush()?);
        }
        left = left.checked_sub(count as u64).ok_or(CopyError::TooMuch)?;
        to.write_all(chunk.get(..count).unwrap_or_default())?;
    }
}

/// The beginning of what is complained of, on one line; the rest is read and forgotten.
async fn complaint(mut from: impl AsyncRead + Unpin) -> Result<String, Error> {
    let (mut chunk, mut said) = (vec![0; CHUNK_BYTES], Vec::new());
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(harmless_line(String::from_utf8_lossy(&said).trim()));
        }
        let room = COMPLAINT_BYTES_MAX.saturating_sub(said.len()).min(count);
        said.extend_from_slice(chunk.get(..room).unwrap_or_default());
    }
}

/// A path as it is told.
fn shown(path: &Path) -> String {
    harmless_line(&path.display().to_string())
}

/// A failure of something here.
fn here(path: &Path, doing: &'static str) -> impl FnOnce(std::io::Error) -> CopyError {
    let path: PathBuf = path.to_owned();
    move |source| CopyError::Here { path: shown(&path), doing, source }
}

#[cfg(test)]
mod tests;

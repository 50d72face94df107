//! Fetching one commit of a git repository over HTTPS, through the same tunnel as an archive: three requests, each of which the proxy
//! judges, and to each of which it adds what the rules say. Nothing is redirected, and nothing of what a server says is repeated to
//! anybody. What comes is a pack, in a file; the crate `agentsandbox-workspace` makes the tree of it.

use std::fs::File;
use std::io::Write;
use std::time::Instant;

use agentsandbox_workspace::git::wire::{
    Greeting, Lines, Named, Names, Reader, Sent, Wanted, WireError, fetch, list,
};
use agentsandbox_workspace::git::{Origin, check_out};
use agentsandbox_workspace::{Exclusion, Note};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use hyper::http::HeaderName;
use tempfile::NamedTempFile;
use tokio::time::timeout;
use url::Url;

use super::fetch::{FetchError, STALL_TIMEOUT, is_redirect, place, refused, told};
use super::tunnel::{Ask, Reply, Way};
use super::{Failure, Log, Outcome};
use crate::args::{SourceArgs, WorkspaceArgs};

/// Bytes of an answer that holds names alone.
const NAMES_BYTES_MAX: u64 = 8 << 20;
/// Some hosts, GitHub among them, answer as a git server to those alone whose name begins with git's.
const AGENT: &str = concat!("git/2.40 (agentsandbox-workspace/", env!("CARGO_PKG_VERSION"), ")");
/// What says which version of the protocol is spoken.
const PROTOCOL: HeaderName = HeaderName::from_static("git-protocol");
const VERSION: &str = "version=2";
const REQUEST: &str = "application/x-git-upload-pack-request";

/// Fetches the repository and checks its commit out.
pub(super) fn checked_out(
    args: &WorkspaceArgs,
    url: &Url,
    exclusion: &Exclusion,
    started: Instant,
    log: &mut Log<'_>,
) -> Result<Outcome, Failure> {
    let wanted = args.source.git_ref.clone().unwrap_or(Wanted::Head);
    let mut pack = NamedTempFile::new_in(&args.volume).map_err(|error| super::own(&error))?;
    let (named, bytes) = super::awaited(args, async |way| {
        fetched(way, url, &wanted, &args.source, pack.as_file_mut(), args.volume_bytes).await
    })?;
    let clock = super::in_time(args, started);
    let tree = super::tree(args, bytes)?;
    let origin = Origin { url: url.as_str(), branch: named.branch.as_deref() };
    let mut notes = |note: Note<'_>| log.tell(note);
    let done = check_out(pack.path(), &named.id, &origin, tree, exclusion, &clock, &mut notes)
        .map_err(|error| super::refused(args, &error))?;
    // It holds what was left out: it goes before anybody is told that the tree is whole.
    pack.close().map_err(|error| super::own(&error))?;
    let mut message = format!("Commit {} is checked out.", done.commit);
    if done.submodules > 0 {
        message.push_str(&format!(" {} submodules are empty folders.", done.submodules));
    }
    Ok(Outcome { unpacked: done.unpacked, message, commit: Some(done.commit) })
}

async fn fetched(
    way: &Way,
    url: &Url,
    wanted: &Wanted,
    source: &SourceArgs,
    into: &mut File,
    bytes_max: u64,
) -> Result<(Named, u64), FetchError> {
    let repository = Repository { way, url };
    let useless = |error| FetchError::Git { url: told(url), error };
    let mut greeting = Greeting::default();
    repository.read("/info/refs?service=git-upload-pack", None, &mut greeting, NAMES_BYTES_MAX).await?;
    greeting.end().map_err(useless)?;
    let mut names = Names::new(wanted);
    if !matches!(wanted, Wanted::Commit(_)) {
        repository.read("/git-upload-pack", Some(list(wanted)), &mut names, NAMES_BYTES_MAX).await?;
    }
    let named = names.end().map_err(useless)?;
    let mut sent = Sent::new(into);
    let request = fetch(&named.id, source.git_depth);
    repository.read("/git-upload-pack", Some(request), &mut sent, bytes_max).await?;
    let bytes = sent.end().map_err(useless)?;
    into.flush().map_err(FetchError::Write)?;
    Ok((named, bytes))
}

struct Repository<'a> {
    way: &'a Way,
    url: &'a Url,
}

impl Repository<'_> {
    /// Asks for something of the repository, and reads the answer as it comes.
    async fn read(
        &self,
        what: &str,
        body: Option<Vec<u8>>,
        reader: &mut dyn Reader,
        bytes_max: u64,
    ) -> Result<(), FetchError> {
        let named = told(self.url);
        let (host, port, path) = place(self.url)?;
        if self.url.query().is_some() {
            return Err(FetchError::Address("a repository's address has no query"));
        }
        let path = format!("{}{what}", path.trim_end_matches('/'));
        let more = [(PROTOCOL, VERSION), (CONTENT_TYPE, REQUEST)];
        let headers = more.get(..if body.is_some() { 2 } else { 1 }).unwrap_or_default();
        let mut answer =
            match self.way.ask(host, port, Ask { path: &path, agent: AGENT, headers, body }).await? {
                Reply::Tunnel(answer) => answer,
                Reply::Proxy(answer) => {
                    let status = answer.response.status();
                    return Err(refused(named, status, answer.response.into_body()).await);
                }
            };
        let status = answer.response.status();
        if is_redirect(status) {
            let why = "and no redirect of a repository is followed; write the address that it has now";
            return Err(FetchError::Redirect { url: named, why });
        }
        if status != StatusCode::OK {
            return Err(FetchError::Status { url: named, status });
        }
        let useless = |error| FetchError::Git { url: told(self.url), error };
        let (mut lines, mut bytes) = (Lines::default(), 0_u64);
        let content = answer.response.body_mut();
        while let Some(frame) =
            timeout(STALL_TIMEOUT, content.frame()).await.map_err(|_| FetchError::Stalled(bytes))?
        {
            let Ok(data) = frame.map_err(FetchError::Http)?.into_data() else { continue };
            bytes = bytes.saturating_add(data.len() as u64);
            if bytes > bytes_max {
                // Only of the pack the bound is the volume's.
                let is_pack = bytes_max != NAMES_BYTES_MAX;
                return Err(if is_pack {
                    FetchError::TooLarge(bytes_max)
                } else {
                    useless(WireError::TooLong)
                });
            }
            lines.feed(&data, reader).map_err(useless)?;
        }
        if lines.is_empty() { Ok(()) } else { Err(useless(WireError::Truncated)) }
    }
}

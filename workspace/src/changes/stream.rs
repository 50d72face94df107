//! Changes on their way to somebody who believes nothing: lines of JSON, each with the content that it announces in chunks behind it.
//!
//! The reader judges every path as the writer did, by the same guards, and takes an end that is not written for none at all. What it
//! refuses here no walk of ours would have sent, so the whole is refused; but for what the agent changed meanwhile, and for links whose
//! targets do not come with them, which no walk knows before its end: those are refused by their paths.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use super::together::{self, named};
use super::{Bounds, Change, Changes, Entry, GIT_FOLDER, RefusedPath};
use crate::exclusion::{Exclusion, Verdict};
use crate::link::{check_new, check_target};
use crate::look;
use crate::names::{Claim, Kind, Names};
use crate::path::RelativePath;
use crate::refusal::{Error, Plain, Reason, Refusal};

/// Version of what is written here.
const VERSION: u32 = 1;
/// Bytes of one line: a path and two targets of links, each twice as long for its escapes, and what stands around them.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// Bytes of one chunk of content.
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Digits of a SHA-256.
const DIGITS: usize = 64;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "camelCase", deny_unknown_fields)]
enum Frame {
    /// The first.
    Start { version: u32 },
    /// A path that differs. Content follows: of the old file if it is told, then of the new one if it is a file.
    #[serde(rename_all = "camelCase")]
    Change {
        path: String,
        old: Option<Entry>,
        new: Option<Entry>,
        tells_old: bool,
        /// Whether the original has what a new link leads to.
        #[serde(default)]
        leads_to_original: bool,
    },
    /// A path that is refused.
    Refused { path: String, reason: String },
    /// The last, if all went well.
    #[serde(rename_all = "camelCase")]
    End { refused_count: u64, has_git_folder: bool },
    /// The last, if it did not.
    Failed { message: String },
}

/// Where a link leads that is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads {
    /// To what the original has.
    ToOriginal,
    /// Elsewhere, or it is no link.
    Elsewhere,
}

/// Writes changes.
pub struct Writer<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Writer<'a> {
    /// Begins.
    ///
    /// # Errors
    /// What the stream says.
    pub fn start(out: &'a mut dyn Write) -> io::Result<Self> {
        let mut writer = Self { out };
        writer.frame(&Frame::Start { version: VERSION })?;
        Ok(writer)
    }

    /// Tells a change, with the content that it announces.
    ///
    /// # Errors
    /// What the stream says, and what the content says.
    pub fn change(
        &mut self,
        path: &RelativePath,
        (old, old_content): (Option<&Entry>, Option<&mut dyn Read>),
        (new, new_content): (Option<&Entry>, Option<&mut dyn Read>),
        leads: Leads,
    ) -> io::Result<()> {
        self.frame(&Frame::Change {
            path: path.as_str().to_owned(),
            old: old.cloned(),
            new: new.cloned(),
            tells_old: old_content.is_some(),
            leads_to_original: leads == Leads::ToOriginal,
        })?;
        if let (Some(Entry::File { bytes, .. }), Some(content)) = (old, old_content) {
            self.content(content, *bytes)?;
        }
        if let (Some(Entry::File { bytes, .. }), Some(content)) = (new, new_content) {
            self.content(content, *bytes)?;
        }
        Ok(())
    }

    /// Tells a path that is refused.
    ///
    /// # Errors
    /// What the stream says.
    pub fn refused(&mut self, path: &[u8], reason: Reason) -> io::Result<()> {
        self.frame(&Frame::Refused { path: Plain(path).to_string(), reason: reason.to_string() })
    }

    /// Ends: without this nothing of it counts.
    ///
    /// # Errors
    /// What the stream says.
    pub fn end(mut self, refused_count: u64, has_git_folder: bool) -> io::Result<()> {
        self.frame(&Frame::End { refused_count, has_git_folder })?;
        self.out.flush()
    }

    /// Ends with why there is nothing to tell.
    ///
    /// # Errors
    /// What the stream says.
    pub fn failed(mut self, error: &Error) -> io::Result<()> {
        self.frame(&Frame::Failed { message: error.to_string() })?;
        self.out.flush()
    }

    fn frame(&mut self, frame: &Frame) -> io::Result<()> {
        let mut line = serde_json::to_vec(frame)?;
        line.push(b'\n');
        self.out.write_all(&line)
    }

    /// At most so many bytes: who goes on writing to a file is not waited for, and its digest tells of it.
    fn content(&mut self, content: &mut dyn Read, bytes: u64) -> io::Result<()> {
        let (mut content, mut chunk) = (content.take(bytes), vec![0; CHUNK_BYTES_MAX]);
        loop {
            let count = match content.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.out.write_all(&u32::try_from(count).unwrap_or_default().to_be_bytes())?;
            if count == 0 {
                return Ok(());
            }
            self.out.write_all(chunk.get(..count).unwrap_or_default())?;
        }
    }
}

/// Reads everything, and judges it.
///
/// # Errors
/// Refuses a path that no walk tells, and more than the bounds; tells a stream that is damaged, that ends early, or goes on behind its
/// end, and what its writer gave up for.
pub fn read(stream: &mut dyn BufRead, bounds: &Bounds) -> Result<Changes, Error> {
    let mut judge = Judge::new(bounds);
    let Some(Frame::Start { version }) = line(stream)? else {
        return Err(Error::Stream("it does not begin as it should"));
    };
    if version != VERSION {
        return Err(Error::Stream("it is of another version than this program: use both of one version"));
    }
    loop {
        match line(stream)? {
            None => return Err(Error::Stream("it ends early")),
            Some(Frame::Change { path, old, new, tells_old, leads_to_original }) => {
                let path = judge.path(&path, old.as_ref(), new.as_ref())?;
                if !leads_to_original {
                    judge.leads(&path, new.as_ref())?;
                }
                let old_content = match (&old, tells_old) {
                    (Some(Entry::File { bytes, sha256, .. }), true) => {
                        let content = judge.content(stream, *bytes)?;
                        is_content_of(&content, sha256)
                            .then_some(Some(content))
                            .ok_or(Error::Stream("the original's content is not what was announced"))?
                    }
                    (_, true) => return Err(Error::Stream("what is no file has content")),
                    (_, false) => None,
                };
                let (is_as_told, new_content) = match &new {
                    Some(Entry::File { bytes, sha256, .. }) => {
                        let content = judge.content(stream, *bytes)?;
                        (is_content_of(&content, sha256), content)
                    }
                    _ => (true, Vec::new()),
                };
                match is_as_told {
                    true => judge.changes.changes.push(Change { path, old, new, old_content, new_content }),
                    // Its writer is the agent, who may write at any time.
                    false => judge.refuse(path.as_str(), Reason::Changing),
                }
            }
            Some(Frame::Refused { path, reason }) => {
                judge.refused_told = judge.refused_told.saturating_add(1);
                judge.refused(path.as_bytes(), &reason);
            }
            Some(Frame::End { refused_count, has_git_folder }) => {
                if !stream.fill_buf().map_err(unreadable)?.is_empty() {
                    return Err(Error::Stream("it goes on behind its end"));
                }
                return judge.done(refused_count, has_git_folder);
            }
            Some(Frame::Failed { message }) => return Err(Error::Untold(message)),
            Some(Frame::Start { .. }) => return Err(Error::Stream("it begins twice")),
        }
    }
}

fn is_content_of(content: &[u8], sha256: &str) -> bool {
    let own = look::sha256(&mut &*content, content.len() as u64);
    own.ok().flatten().is_some_and(|own| own == sha256)
}

fn line(stream: &mut dyn BufRead) -> Result<Option<Frame>, Error> {
    let mut line = Vec::new();
    stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(unreadable)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => {
            serde_json::from_slice(&line).map(Some).map_err(|_| Error::Stream("a line of it is none"))
        }
        Some(_) if line.len() as u64 == LINE_BYTES_MAX => Err(Error::Stream("a line of it is too long")),
        Some(_) => Err(Error::Stream("it ends early")),
    }
}

fn unreadable(_: io::Error) -> Error {
    Error::Stream("it breaks off")
}

/// What was read so far, and what it is measured by.
struct Judge<'a> {
    bounds: &'a Bounds,
    changes: Changes,
    /// Paths that were told as refused, and those that are refused here.
    refused_told: u64,
    refused_here: u64,
    paths: HashSet<String>,
    names: Names,
    /// New links to what the original has not, and where they lead.
    links: Vec<(RelativePath, RelativePath)>,
    bytes_left: u64,
}

impl<'a> Judge<'a> {
    fn new(bounds: &'a Bounds) -> Self {
        let names = Names::new(bounds.tree.entries_max);
        let (changes, paths, links) = (Changes::default(), HashSet::new(), Vec::new());
        let bytes_left = bounds.bytes_max;
        Self { bounds, changes, refused_told: 0, refused_here: 0, paths, names, links, bytes_left }
    }

    /// Judges a path and what stands there, as [`crate::Tree`] would before it wrote it.
    fn path(&mut self, told: &str, old: Option<&Entry>, new: Option<&Entry>) -> Result<RelativePath, Error> {
        let refused = |reason| Error::from(Refusal::new(told.as_bytes(), reason));
        let path = RelativePath::parse(told.as_bytes())?;
        if path.as_str() != told || path.is_root() {
            return Err(refused(Reason::EmptySegment));
        }
        if path.is_in_git_folder() {
            return Err(refused(Reason::GitFolder));
        }
        if path.depth() > self.bounds.tree.depth_max {
            return Err(refused(Reason::TooDeep(self.bounds.tree.depth_max)));
        }
        if old == new {
            return Err(Error::Stream("a path differs from nothing"));
        }
        if self.paths.len() as u64 >= self.bounds.changes_max {
            return Err(refused(Reason::TooMany(self.bounds.changes_max)));
        }
        if !self.paths.insert(told.to_owned()) {
            return Err(refused(Reason::NamedTwice));
        }
        for entry in [old, new].into_iter().flatten() {
            match entry {
                Entry::Folder {} => {}
                Entry::File { sha256, .. } => {
                    let is_hex = sha256.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                    if sha256.len() != DIGITS || !is_hex {
                        return Err(Error::Stream("a digest is none"));
                    }
                }
                Entry::Link { target } => check_target(&path, target.as_bytes())?,
            }
        }
        if let Some(Entry::Link { target }) = new {
            check_new(&path, target.as_bytes())?;
        }
        if let Some(new) = new {
            self.claim(&path, new).map_err(refused)?;
        }
        Ok(path)
    }

    /// Takes a link into account whose target must come with these changes.
    fn leads(&mut self, path: &RelativePath, new: Option<&Entry>) -> Result<(), Error> {
        if let Some(Entry::Link { target }) = new {
            self.links.push((path.clone(), check_new(path, target.as_bytes())?));
        }
        Ok(())
    }

    /// Refuses the links that would lead to what is not the agent's.
    fn refuse_links(&mut self) -> Result<(), Error> {
        let nothing: [&str; 0] = [];
        let list = Exclusion::new(&nothing, &nothing)
            .map_err(|_| Error::Stream("this project's list of what is left out is none"))?;
        let mut refused: HashMap<String, Reason> = HashMap::new();
        for (link, target) in &self.links {
            if [true, false].iter().any(|is_folder| list.verdict(target, *is_folder) != Verdict::Taken) {
                refused.insert(link.as_str().to_owned(), Reason::LinkToLeftOut);
            }
        }
        // What leads to a link that is refused is so, too.
        self.changes.changes.retain(|change| !refused.contains_key(change.path.as_str()));
        for link in together::elsewhere(&self.changes.changes, &self.links) {
            refused.entry(link).or_insert(Reason::LinkElsewhere);
        }
        self.changes.changes.retain(|change| !refused.contains_key(change.path.as_str()));
        let mut refused: Vec<_> = refused.into_iter().collect();
        refused.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (path, reason) in refused {
            self.refuse(&path, reason);
        }
        Ok(())
    }

    /// What is there now has folders alone above it, and no other name that some file system takes for its own.
    fn claim(&mut self, path: &RelativePath, new: &Entry) -> Result<(), Reason> {
        let text = path.as_str();
        for (end, _) in text.match_indices('/') {
            let above = text.get(..end).unwrap_or_default();
            let above = RelativePath::parse(above.as_bytes()).map_err(|refusal| refusal.reason)?;
            if self.names.claim(&above, Kind::Folder)? == Claim::Known(Kind::Leaf) {
                return Err(Reason::ThroughLink);
            }
        }
        let kind = if new.is_folder() { Kind::Folder } else { Kind::Leaf };
        match self.names.claim(path, kind)? {
            Claim::New => Ok(()),
            Claim::Known(Kind::Folder) if kind == Kind::Folder => Ok(()),
            Claim::Known(_) => Err(Reason::ThroughLink),
        }
    }

    fn content(&mut self, stream: &mut dyn BufRead, bytes: u64) -> Result<Vec<u8>, Error> {
        if bytes > self.bounds.file_bytes_max {
            return Err(Error::Stream("a file of it is too large"));
        }
        self.bytes_left =
            self.bytes_left.checked_sub(bytes).ok_or(Error::Stream("all of it is too large"))?;
        let mut content = Vec::new();
        loop {
            let mut length = [0; 4];
            stream.read_exact(&mut length).map_err(unreadable)?;
            let length = u64::from(u32::from_be_bytes(length));
            if length == 0 {
                // It grew by doubling.
                content.shrink_to_fit();
                return Ok(content);
            }
            if length > CHUNK_BYTES_MAX as u64 || content.len() as u64 + length > bytes {
                return Err(Error::Stream("a file of it is larger than was announced"));
            }
            let before = content.len() as u64;
            stream.take(length).read_to_end(&mut content).map_err(unreadable)?;
            if content.len() as u64 != before + length {
                return Err(Error::Stream("it ends early"));
            }
        }
    }

    fn refuse(&mut self, path: &str, reason: Reason) {
        self.refused_here = self.refused_here.saturating_add(1);
        self.refused(path.as_bytes(), &reason.to_string());
    }

    fn refused(&mut self, path: &[u8], reason: &str) {
        if self.changes.refused.len() as u64 >= self.bounds.refused_max {
            return;
        }
        let reason = Plain(reason.as_bytes()).to_string();
        // What was escaped by its writer is plain already, but who says that it was.
        let path: String = path.iter().map(|byte| escaped(*byte)).collect();
        self.changes.refused.push(RefusedPath { path, reason });
    }

    fn done(mut self, refused_count: u64, has_git_folder: bool) -> Result<Changes, Error> {
        if let Some(within) = together::repository(&self.changes.changes) {
            return Err(Refusal::new(named(within).as_bytes(), Reason::BareRepository).into());
        }
        self.refuse_links()?;
        // The order of bytes is git's own, and has folders before what they hold.
        self.changes.changes.sort_by(|one, other| one.path.as_str().cmp(other.path.as_str()));
        // What is refused here nobody counted before.
        self.changes.refused_count = refused_count.max(self.refused_told).saturating_add(self.refused_here);
        self.changes.has_git_folder = has_git_folder;
        Ok(self.changes)
    }
}

fn escaped(byte: u8) -> String {
    match byte {
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    }
}

/// Whether a path is the repository of the tree itself.
pub(super) fn is_own_git(within: &str, name: &[u8]) -> bool {
    within.is_empty() && name == GIT_FOLDER.as_bytes()
}

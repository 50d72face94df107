//! Version 2 of git's protocol (gitprotocol-v2(5)), of which two commands are spoken: which commit a name stands for, and the
//! pack of one commit. Requests are whole; answers are read as they come, and hold no more memory than one line.

use std::io::Write;

use gix_packetline::decode::{Stream, streaming};
use gix_packetline::{BandRef, PacketLineRef};

/// Bytes of one name of a branch or tag.
pub const NAME_BYTES_MAX: usize = 200;
/// Lines of a list of names that are read: a prefix that was asked for may begin many.
const LINES_MAX: usize = 10_000;

/// Why an answer is not what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It is none of git's protocol.
    #[error("the host does not answer as a git server does")]
    NotGit,
    /// It speaks another version.
    #[error(
        "the server does not speak version 2 of git's protocol, or a rule keeps the header git-protocol from it"
    )]
    Version,
    /// Its objects have other ids.
    #[error("the ids of the repository's objects are of another kind than SHA-1")]
    Format,
    /// It says that it cannot. Its words are a stranger's, and kept from whoever reads the status.
    #[error("the server refuses; it may not have the commit that spec.workspace.git.ref names")]
    Server,
    /// There is no such name.
    #[error("the repository has no branch or tag of this name: correct spec.workspace.git.ref")]
    NoSuchName,
    /// Its HEAD names no branch that it has.
    #[error("the repository is empty, or its HEAD names no branch")]
    NoHead,
    /// It ended too early.
    #[error("the answer ends too early")]
    Truncated,
    /// More than anybody needs.
    #[error("its list of names is too long")]
    TooLong,
    /// The pack cannot be written.
    #[error("cannot write the pack: {0}")]
    Write(String),
}

/// What is to be checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Where the server's HEAD is.
    Head,
    /// A branch, or a tag where there is no such branch.
    Name(String),
    /// A commit.
    Commit(String),
}

impl Wanted {
    /// Reads what a user writes: 40 hexadecimal digits are a commit.
    pub fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None => Some(Self::Head),
            Some(text) if is_commit(text) => Some(Self::Commit(text.to_owned())),
            Some(text) => is_name(text).then(|| Self::Name(text.to_owned())),
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The id of a commit or of a tag.
    pub id: String,
    /// The branch, if it is one.
    pub branch: Option<String>,
}

/// Whether it is the id of a commit.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether it is a name of a branch or tag that is taken: some that git takes (git-check-ref-format(1)) are not, and none that it
/// refuses or that its configuration would read otherwise.
pub fn is_name(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty() && !part.starts_with(['.', '-']) && !part.ends_with('.') && !part.ends_with(".lock")
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._/+-".contains(&byte);
    text.len() <= NAME_BYTES_MAX
        && text.bytes().all(is_plain)
        && !text.contains("..")
        && text.split('/').all(is_part)
        && text != "HEAD"
}

/// The request for what names stand for.
pub fn list(wanted: &Wanted) -> Vec<u8> {
    let mut lines = vec!["peel".to_owned(), "symrefs".to_owned()];
    match wanted {
        Wanted::Head | Wanted::Commit(_) => lines.push("ref-prefix HEAD".to_owned()),
        Wanted::Name(name) => {
            lines.extend(["heads", "tags"].map(|kind| format!("ref-prefix refs/{kind}/{name}")));
        }
    }
    request("ls-refs", &lines)
}

/// The request for the pack of a commit, with so many commits of its history.
pub fn fetch(id: &str, depth: u32) -> Vec<u8> {
    let lines = [format!("want {id}"), format!("deepen {depth}"), "ofs-delta".into(), "done".into()];
    request("fetch", &lines)
}

fn request(command: &str, lines: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    line(&mut out, &format!("command={command}"));
    line(&mut out, concat!("agent=agentsandbox/", env!("CARGO_PKG_VERSION")));
    out.extend_from_slice(b"0001");
    lines.iter().for_each(|text| line(&mut out, text));
    out.extend_from_slice(b"0000");
    out
}

/// Each is far below what a line may hold.
fn line(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(format!("{:04x}{text}\n", text.len() + 5).as_bytes());
}

/// What a reader does with a line.
pub trait Reader {
    /// Takes one line.
    ///
    /// # Errors
    /// Tells what is wrong with it.
    fn take(&mut self, line: PacketLineRef<'_>) -> Result<(), WireError>;
}

/// Cuts an answer into lines.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Hands each line that is whole to a reader.
    ///
    /// # Errors
    /// Tells what is wrong with the answer; a line that begins with `ERR` is the server's own word.
    pub fn feed(&mut self, bytes: &[u8], reader: &mut dyn Reader) -> Result<(), WireError> {
        self.pending.extend_from_slice(bytes);
        let mut done = 0;
        while let Some(left) = self.pending.get(done..).filter(|left| !left.is_empty()) {
            match streaming(left).map_err(|_| WireError::NotGit)? {
                Stream::Complete { line, bytes_consumed } => {
                    if line.as_slice().is_some_and(|text| text.starts_with(b"ERR ")) {
                        return Err(WireError::Server);
                    }
                    reader.take(line)?;
                    done += bytes_consumed;
                }
                Stream::Incomplete { .. } => break,
            }
        }
        self.pending.drain(..done);
        Ok(())
    }

    /// Whether every line was whole.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

fn text<'a>(line: &PacketLineRef<'a>) -> Option<&'a [u8]> {
    line.as_slice().map(|text| text.strip_suffix(b"\n").unwrap_or(text))
}

/// What a server says that it can.
#[derive(Debug, Default)]
pub struct Greeting {
    has_version: bool,
    has_other_ids: bool,
    lines: usize,
    is_done: bool,
}

impl Reader for Greeting {
    fn take(&mut self, line: PacketLineRef<'_>) -> Result<(), WireError> {
        self.lines += 1;
        if self.lines > LINES_MAX {
            return Err(WireError::TooLong);
        }
        self.is_done = matches!(line, PacketLineRef::Flush);
        let Some(text) = text(&line) else { return Ok(()) };
        if text == b"version 2" {
            self.has_version = true;
        } else if let Some(format) = text.strip_prefix(b"object-format=") {
            self.has_other_ids = format != b"sha1";
        } else if !self.has_version && !text.starts_with(b"# service=") {
            return Err(WireError::Version);
        }
        Ok(())
    }
}

impl Greeting {
    /// Whether it is understood.
    ///
    /// # Errors
    /// Tells that it is not.
    pub fn end(&self) -> Result<(), WireError> {
        match self.has_other_ids {
            _ if !self.has_version => Err(WireError::Version),
            true => Err(WireError::Format),
            false if !self.is_done => Err(WireError::Truncated),
            false => Ok(()),
        }
    }
}

/// The answer to [`list`].
#[derive(Debug)]
pub struct Names<'a> {
    wanted: &'a Wanted,
    head: Option<Named>,
    branch: Option<String>,
    tag: Option<String>,
    lines: usize,
    is_done: bool,
}

impl<'a> Names<'a> {
    /// None yet.
    pub fn new(wanted: &'a Wanted) -> Self {
        Self { wanted, head: None, branch: None, tag: None, lines: 0, is_done: false }
    }

    /// What is wanted.
    ///
    /// # Errors
    /// There is no such name.
    pub fn end(self) -> Result<Named, WireError> {
        match self.wanted {
            Wanted::Commit(id) => Ok(Named { id: id.clone(), branch: None }),
            Wanted::Head | Wanted::Name(_) if !self.is_done => Err(WireError::Truncated),
            Wanted::Head => self.head.ok_or(WireError::NoHead),
            Wanted::Name(name) => match (self.branch, self.tag) {
                (Some(id), _) => Ok(Named { id, branch: Some(name.clone()) }),
                (None, Some(id)) => Ok(Named { id, branch: None }),
                (None, None) => Err(WireError::NoSuchName),
            },
        }
    }
}

impl Reader for Names<'_> {
    fn take(&mut self, line: PacketLineRef<'_>) -> Result<(), WireError> {
        self.lines += 1;
        if self.lines > LINES_MAX {
            return Err(WireError::TooLong);
        }
        self.is_done = matches!(line, PacketLineRef::Flush);
        let Some(text) = text(&line) else { return Ok(()) };
        // Names that are no UTF-8 are none that is asked for.
        let Ok(text) = std::str::from_utf8(text) else { return Ok(()) };
        let mut words = text.split(' ');
        let (Some(id), Some(name)) = (words.next(), words.next()) else { return Err(WireError::NotGit) };
        if !is_commit(id) {
            // `unborn HEAD`, or what is none of ours.
            return Ok(());
        }
        let target = words.find_map(|word| word.strip_prefix("symref-target:refs/heads/"));
        if name == "HEAD" {
            // Its name is the server's to choose: one that is not plain is not written anywhere.
            let branch = target.filter(|target| is_name(target)).map(str::to_owned);
            self.head = Some(Named { id: id.to_owned(), branch });
        } else if let Wanted::Name(wanted) = self.wanted {
            if name.strip_prefix("refs/heads/") == Some(wanted) {
                self.branch = Some(id.to_owned());
            } else if name.strip_prefix("refs/tags/") == Some(wanted) {
                self.tag = Some(id.to_owned());
            }
        }
        Ok(())
    }
}

/// The answer to [`fetch`]: writes the pack, and is done where it is whole.
pub struct Sent<'a> {
    into: &'a mut dyn Write,
    is_pack: bool,
    is_done: bool,
    lines: usize,
    /// Bytes of the pack.
    pub bytes: u64,
}

impl<'a> Sent<'a> {
    /// Writes the pack to this.
    pub fn new(into: &'a mut dyn Write) -> Self {
        Self { into, is_pack: false, is_done: false, lines: 0, bytes: 0 }
    }

    /// Whether the server said that it sent all of it.
    ///
    /// # Errors
    /// It did not.
    pub fn end(&self) -> Result<u64, WireError> {
        if self.is_done { Ok(self.bytes) } else { Err(WireError::Truncated) }
    }
}

impl Reader for Sent<'_> {
    fn take(&mut self, line: PacketLineRef<'_>) -> Result<(), WireError> {
        if self.is_done {
            return Err(WireError::NotGit);
        }
        if !self.is_pack {
            // Which commits are shallow is seen in the pack.
            self.lines += 1;
            if self.lines > LINES_MAX {
                return Err(WireError::TooLong);
            }
            self.is_pack = text(&line) == Some(b"packfile");
            return Ok(());
        }
        match line {
            PacketLineRef::Flush => self.is_done = true,
            PacketLineRef::Data(_) => match line.decode_band().map_err(|_| WireError::NotGit)? {
                BandRef::Data(data) => {
                    self.into.write_all(data).map_err(|error| WireError::Write(error.to_string()))?;
                    self.bytes = self.bytes.saturating_add(data.len() as u64);
                }
                BandRef::Progress(_) => {}
                BandRef::Error(_) => return Err(WireError::Server),
            },
            PacketLineRef::Delimiter | PacketLineRef::ResponseEnd => return Err(WireError::NotGit),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

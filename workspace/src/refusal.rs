//! What is refused, and why: each refusal names one path in plain ASCII.

use std::fmt::{self, Display, Formatter, Write as _};
use std::io;

use crate::limits::{HEAD_BYTES_MAX, NAME_BYTES_MAX, PATH_BYTES_MAX};

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The input asks for what is never done, or for more than is taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The archive is damaged, or ends too early.
    #[error("the archive cannot be read: {}", Plain(.0.as_bytes()))]
    Unreadable(String),
    /// The pack that a git server sent is damaged, or asks for more memory than it gets.
    #[error("the pack cannot be read: {}", Plain(.0.as_bytes()))]
    Pack(String),
    /// What tells of changes is not as the program that tells it writes it.
    #[error("what tells of the changes cannot be read: {0}")]
    Stream(&'static str),
    /// The program that tells of changes gave up.
    #[error("the changes cannot be told: {}", Plain(.0.as_bytes()))]
    Untold(String),
    /// It took too long.
    #[error("it was not finished in time")]
    Late,
    /// The system failed.
    #[error("cannot {doing} {}", Plain(.path.as_bytes()))]
    System {
        /// What was being done: a verb.
        doing: &'static str,
        /// To which path.
        path: String,
        /// How it failed.
        source: io::Error,
    },
}

impl Error {
    /// The reason, if the input was refused.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Refused(refusal) => Some(refusal.reason),
            Self::Unreadable(_)
            | Self::Pack(_)
            | Self::Stream(_)
            | Self::Untold(_)
            | Self::Late
            | Self::System { .. } => None,
        }
    }
}

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", Plain(.path))]
pub struct Refusal {
    /// The path, as its archive has it.
    pub path: Vec<u8>,
    /// Why.
    pub reason: Reason,
}

impl Refusal {
    /// A refusal of a path.
    pub fn new(path: &[u8], reason: Reason) -> Self {
        Self { path: path.to_vec(), reason }
    }
}

/// Why a path was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is absolute.
    #[error("an absolute name leaves the tree")]
    Absolute,
    /// It holds `..`.
    #[error("`..` in a name leaves the tree")]
    ParentSegment,
    /// It names nothing, or holds an empty name or `.` in its middle.
    #[error("an empty name")]
    EmptySegment,
    /// It holds a control character, NUL among them, or one that turns the direction of text.
    #[error("a control character in a name")]
    Control,
    /// It is not UTF-8.
    #[error("a name that is not UTF-8")]
    NotUtf8,
    /// One of its names is too long.
    #[error("a name longer than {} bytes", NAME_BYTES_MAX)]
    NameTooLong,
    /// It is too long.
    #[error("a path longer than {} bytes", PATH_BYTES_MAX)]
    PathTooLong,
    /// It is too deep.
    #[error("a path deeper than {0} names")]
    TooDeep(usize),
    /// It is `.git`, or what some file system takes for it: its configuration and hooks run commands.
    #[error("a .git folder, whose configuration and hooks run commands; exclude it")]
    GitFolder,
    /// It is a folder that git takes for a repository by what it holds, or it is in one: there, too, configuration and hooks run
    /// commands.
    #[error("what git takes for a repository, whose configuration and hooks run commands")]
    BareRepository,
    /// It is no folder, and has no more names than are taken off.
    #[error("no name is left of it once the first {0} are taken off")]
    Stripped(usize),
    /// It goes through a link, or through a file.
    #[error("a path through a link or a file")]
    ThroughLink,
    /// The path is there already.
    #[error("a path that is written twice")]
    NamedTwice,
    /// Another name differs from it in case only.
    #[error("a name that differs from another in case only")]
    CaseCollision,
    /// Another name differs from it in case or in its Unicode form only.
    #[error("a name that differs from another in case or Unicode form only")]
    UnicodeCollision,
    /// A symbolic link whose target leaves the tree.
    #[error("a link out of the tree")]
    LinkEscapes,
    /// A symbolic link, new among changes, into a `.git` folder, or what some file system takes for one.
    #[error("a link into a .git folder, whose configuration and hooks run commands")]
    LinkToGit,
    /// A symbolic link, new among changes, to what this project's list leaves out.
    #[error("a link to what is left out")]
    LinkToLeftOut,
    /// A symbolic link, new among changes, to what neither the original has nor these changes bring.
    #[error("a link to what is neither in the original nor among what comes")]
    LinkElsewhere,
    /// A hard link to what this archive did not write as a regular file.
    #[error("a hard link to what was not written before it")]
    HardLinkEscapes,
    /// A name that is left out, for a file that is there under another name.
    #[error("a name that is left out for a file that is not")]
    LeftOutElsewhere,
    /// A device, a FIFO or a socket.
    #[error("a device, FIFO or socket")]
    Device,
    /// A sparse file.
    #[error("a sparse file")]
    Sparse,
    /// A kind of entry that nobody here knows.
    #[error("an entry of unknown kind")]
    UnknownKind,
    /// An entry that is encrypted.
    #[error("an encrypted entry")]
    Encrypted,
    /// An entry in a compression that is not read.
    #[error("an entry in a compression that is not read")]
    UnknownCompression,
    /// The archive has two names for one entry, which its readers understand differently.
    #[error("an entry with two different names")]
    TwoNames,
    /// An entry that says two things about its size, its kind or its place, of which each reader believes one.
    #[error("an entry that its readers understand differently")]
    TwoReadings,
    /// Too many entries.
    #[error("more than {0} entries")]
    TooMany(u64),
    /// A file is too large.
    #[error("a file of more than {0} bytes")]
    FileTooLarge(u64),
    /// All of it is too large.
    #[error("more than {0} bytes in all")]
    TooLarge(u64),
    /// It unpacks to too much for its size.
    #[error("more than {0} times as large as it was packed")]
    Bomb(u64),
    /// What stands before an entry is too large.
    #[error("a header of more than {} bytes", HEAD_BYTES_MAX)]
    HeadTooLarge,
    /// An entry, or the archive, ends too early.
    #[error("it ends too early")]
    Truncated,
    /// Something follows the end of the archive.
    #[error("something follows the end of the archive")]
    Trailing,
    /// It is none of the archives that are read.
    #[error("not a tar, tar.gz, tar.zst or zip")]
    NotAnArchive,
    /// An object of git that is needed and was not sent.
    #[error("an object that was not sent")]
    Missing,
    /// An object of git that is of another kind than its place asks for.
    #[error("an object of another kind than its place asks for")]
    WrongKind,
    /// An entry of a tree of git with a mode that git does not write.
    #[error("an entry of unknown mode")]
    UnknownMode,
    /// A tree or commit of git that git would not have written.
    #[error("an object that git would not have written")]
    Malformed,
    /// An object of git that would take too much memory, with what it is made from.
    #[error("an object of more than {0} bytes, which is all that one may take of memory")]
    ObjectTooLarge(u64),
    /// The paths of all trees of git together are too long.
    #[error("paths of more than {0} bytes in all")]
    PathsTooLong(u64),
    /// The checksum at the end of a pack is not its own.
    #[error("a checksum that is not its own")]
    Checksum,
    /// Somebody put another folder where the tree was written.
    #[error("another folder is where the tree was written")]
    Replaced,
    /// A set-id or sticky bit.
    #[error("a set-id or sticky bit")]
    SetId,
    /// Whoever looks may not read it.
    #[error("what may not be read")]
    Closed,
    /// It was changed by somebody while it was read.
    #[error("what changes while it is read")]
    Changing,
    /// An earlier refusal left the tree unfinished.
    #[error("the tree is unfinished")]
    Unfinished,
}

/// Longest name in a message, in bytes of the name.
const PLAIN_BYTES_MAX: usize = 256;

/// Text of a stranger for a terminal or a log: printable ASCII without the backslash, everything else escaped, and cut off.
#[derive(Debug, Clone, Copy)]
pub struct Plain<'a>(pub &'a [u8]);

impl Display for Plain<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        for byte in self.0.iter().take(PLAIN_BYTES_MAX) {
            match byte {
                b' '..=b'[' | b']'..=b'~' => out.write_char(char::from(*byte))?,
                _ => write!(out, "\\x{byte:02x}")?,
            }
        }
        if self.0.len() > PLAIN_BYTES_MAX { out.write_str("...") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, Plain, Reason, Refusal};

    #[test]
    fn a_refusal_names_a_path_in_plain_ascii() {
        let path = "a\u{1b}[2J\u{202e}b\u{9b}\r\n\0\\é\u{7f}/x y".as_bytes();
        let text = Error::from(Refusal::new(path, Reason::Control)).to_string();
        assert_eq!(
            text,
            r"a\x1b[2J\xe2\x80\xaeb\xc2\x9b\x0d\x0a\x00\x5c\xc3\xa9\x7f/x y: a control character in a name"
        );
        assert!(Error::Unreadable("\u{1b}]0;x".to_owned()).to_string().is_ascii());
        let gone = std::io::Error::other("x");
        let text = Error::System { doing: "make", path: "\u{1b}é".to_owned(), source: gone }.to_string();
        assert_eq!(text, r"cannot make \x1b\xc3\xa9");
    }

    #[test]
    fn a_long_path_is_cut_off_in_a_message() {
        let text = Plain(&[b'x'; 5000]).to_string();
        assert_eq!(text, format!("{}...", "x".repeat(256)));
        assert_eq!(Plain(&[b'x'; 256]).to_string(), "x".repeat(256));
    }
}

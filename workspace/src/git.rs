//! A commit of a git repository, checked out from the pack that a server sent.
//!
//! - [`wire`] is what is said to the server, and what it answers: text, and then the pack.
//! - `pack` reads objects by their ids, `walk` finds what is reachable and what of it is left out.
//! - The tree is written by [`crate::tree`], judged and counted as an archive's is; `store` writes the `.git` folder beside it.
//!
//! Everything that a server sends is hostile. Deliberately absent: any reading of configuration, attributes, hooks or `.gitmodules`
//! of the repository, filters, submodules, LFS, and any other object format than SHA-1. What a server cannot send at all is a `.git`.

mod cache;
mod index;
mod pack;
mod sparse;
mod store;
mod walk;
pub mod wire;

use std::io::Cursor;
use std::path::Path;

use gix_hash::ObjectId;
use gix_object::Kind;

use self::pack::Pack;
use self::walk::{Mode, Walked, walk};
use crate::archive::intake::{Entry, Intake};
use crate::archive::{Note, Unpacked};
use crate::exclusion::{Exclusion, Verdict};
use crate::refusal::{Error, Reason, Refusal};
use crate::tree::Tree;

/// Fails once there is no time left.
pub type Clock<'a> = &'a dyn Fn() -> Result<(), Error>;

/// Where the commit is from.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    /// The repository's address: of printable ASCII without quotes, backslashes, `#`, `;` and spaces.
    pub url: &'a str,
    /// The branch that is checked out, without `refs/heads/`; none leaves HEAD at the commit.
    pub branch: Option<&'a str>,
}

/// What was checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedOut {
    /// What became of the tree's entries.
    pub unpacked: Unpacked,
    /// The commit's id, as 40 hexadecimal digits.
    pub commit: String,
    /// Submodules, each of which is an empty folder.
    pub submodules: u64,
}

/// Checks a commit of a pack out into a tree, with a `.git` folder beside it, and puts both in their place. `wanted` is the id of the
/// commit, or of a tag of it.
///
/// # Errors
/// Refuses the whole of it for one entry that is refused, as of an archive; an address or a branch that cannot be written down; and what
/// is not in the pack. Whatever the pack holds, no object is taken for another: its id is computed from what was sent.
pub fn check_out(
    pack: &Path,
    wanted: &str,
    origin: &Origin<'_>,
    tree: Tree,
    exclusion: &Exclusion,
    clock: Clock<'_>,
    notes: &mut dyn FnMut(Note<'_>),
) -> Result<CheckedOut, Error> {
    let malformed = |text: &str| Error::from(Refusal::new(text.as_bytes(), Reason::Malformed));
    if !is_plain(origin.url) {
        return Err(malformed(origin.url));
    }
    if let Some(branch) = origin.branch.filter(|branch| !wire::is_name(branch)) {
        return Err(malformed(branch));
    }
    let wanted = ObjectId::from_hex(wanted.as_bytes()).map_err(|_| malformed(wanted))?;
    let limits = tree.limits();
    let mut pack = Pack::read(pack, limits, clock)?;
    let walked = walk(&mut pack, wanted, exclusion, limits, clock)?;
    let mut intake = Intake::new(tree, exclusion, 0, notes);
    let submodules = leaves(&mut intake, &mut pack, &walked, clock)?;
    let counts = intake.counts();
    store::write(intake.tree(), &mut pack, &walked, origin, clock)?;
    let unpacked = Unpacked { written: counts, ..intake.publish()? };
    Ok(CheckedOut { unpacked, commit: walked.commit.to_string(), submodules })
}

fn leaves(intake: &mut Intake<'_>, pack: &mut Pack, walked: &Walked, clock: Clock<'_>) -> Result<u64, Error> {
    let mut submodules = 0;
    for leaf in &walked.leaves {
        clock()?;
        let path = leaf.path.as_str();
        // Of what is left out nothing is read.
        let content = match leaf.mode {
            Mode::Submodule => Vec::new(),
            _ if leaf.verdict != Verdict::Taken => Vec::new(),
            _ => pack.get(&leaf.id, Kind::Blob, path)?,
        };
        let modified = Some(walked.written_at());
        let is_executable = leaf.mode == Mode::Executable;
        let entry = match leaf.mode {
            Mode::File | Mode::Executable => {
                Entry::File { is_executable, modified, content: &mut Cursor::new(content) }
            }
            Mode::Symlink => Entry::Symlink { target: &content },
            Mode::Submodule => Entry::Folder,
        };
        submodules += u64::from(leaf.mode == Mode::Submodule && leaf.verdict == Verdict::Taken);
        intake.take(path.as_bytes(), entry)?;
    }
    Ok(submodules)
}

impl Walked {
    /// The time of the files, which the index repeats: the commit's, as far as a file system of 32 bits has it.
    fn written_at(&self) -> u64 {
        self.time.min(crate::tree::SECONDS_MAX)
    }
}

/// Whether git's configuration can hold it as it is, in one way.
fn is_plain(url: &str) -> bool {
    let is_odd = |byte: u8| matches!(byte, b'"' | b'\\' | b'#' | b';' | b'\'');
    !url.is_empty() && url.bytes().all(|byte| byte.is_ascii_graphic() && !is_odd(byte))
}

#[cfg(test)]
mod tests;

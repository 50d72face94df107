//! The index: what git believes to be in the work tree. Names that are left out are in it with the mark that says not to look for
//! them (skip-worktree); without it git would take their absence for a deletion, and commit that.

use gix_hash::Kind as HashKind;

use super::pack::{Pack, damaged};
use super::walk::{Mode, Walked};
use crate::exclusion::Verdict;
use crate::refusal::Error;

/// That more flags follow (gitformat-index(5), version 3).
const EXTENDED: u16 = 0x4000;
/// Of those: not to look for it.
const SKIP_WORKTREE: u16 = 0x4000;
/// What the length of a longer name is written as.
const NAME_MAX: usize = 0xfff;

/// The whole file.
pub fn encode(walked: &Walked, pack: &Pack) -> Result<Vec<u8>, Error> {
    let is_left_out = |verdict: Verdict| verdict != Verdict::Taken;
    let version: u32 = if walked.leaves.iter().any(|leaf| is_left_out(leaf.verdict)) { 3 } else { 2 };
    let count = u32::try_from(walked.leaves.len()).unwrap_or(u32::MAX);
    let mut out = [&b"DIRC"[..], &version.to_be_bytes(), &count.to_be_bytes()].concat();
    for leaf in &walked.leaves {
        let begin = out.len();
        let is_file = matches!(leaf.mode, Mode::File | Mode::Executable) && !is_left_out(leaf.verdict);
        // Whose time and size are not written here, git reads to see whether it changed.
        let (time, size) = match is_file {
            true => (walked.written_at(), pack.size(&leaf.id).unwrap_or_default()),
            false => (0, 0),
        };
        let seconds = u32::try_from(time).unwrap_or_default();
        let size = u32::try_from(size).unwrap_or_default();
        for number in [seconds, 0, seconds, 0, 0, 0, leaf.mode.bits(), 0, 0, size] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(leaf.id.as_slice());
        let name = leaf.path.as_str().as_bytes();
        let length = u16::try_from(name.len().min(NAME_MAX)).unwrap_or_default();
        if is_left_out(leaf.verdict) {
            out.extend_from_slice(&(length | EXTENDED).to_be_bytes());
            out.extend_from_slice(&SKIP_WORKTREE.to_be_bytes());
        } else {
            out.extend_from_slice(&length.to_be_bytes());
        }
        out.extend_from_slice(name);
        // At least one zero, up to a multiple of eight.
        let padded = (out.len() - begin) / 8 * 8 + 8;
        out.resize(begin + padded, 0);
    }
    seal(out)
}

/// With the SHA-1 of all that stands before it.
pub fn seal(mut bytes: Vec<u8>) -> Result<Vec<u8>, Error> {
    let mut hasher = gix_hash::hasher(HashKind::Sha1);
    hasher.update(&bytes);
    bytes.extend_from_slice(hasher.try_finalize().map_err(damaged)?.as_slice());
    Ok(bytes)
}

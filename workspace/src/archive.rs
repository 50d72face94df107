//! Archives, read as streams: tar as it is or in gzip or zstd, and zip.
//!
//! Everything in an archive is hostile. Nothing of it is in memory at once but one entry's header and a window of its
//! compression; each is bounded before it is read. The archive must be whole: what ends early, goes on behind its end, or
//! has two readings is refused, and with it the tree.

pub(crate) mod intake;
mod meter;
mod tar;
mod zip;
mod zstd;

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};

use flate2::bufread::MultiGzDecoder;

use self::intake::Intake;
use self::meter::{Counted, Meter};
use self::zstd::Frames;
use crate::exclusion::Exclusion;
use crate::path::RelativePath;
use crate::refusal::{Error, Reason, Refusal};
use crate::tokens::Shape;
use crate::tree::{Counts, Tree};

/// What is told while an archive is unpacked: names, and never contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note<'a> {
    /// This path is left out.
    LeftOut(&'a RelativePath),
    /// This file holds what looks like a credential.
    Token(&'a RelativePath, Shape),
    /// This file is rewritten without its secrets.
    Rewritten(&'a RelativePath),
}

/// What became of an archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// What was written.
    pub written: Counts,
    /// Files and links that are left out by default.
    pub left_out: u64,
    /// Files and links that the user excludes.
    pub excluded: u64,
    /// Files with something that looks like a credential.
    pub with_tokens: u64,
    /// Files that were rewritten without their secrets.
    pub rewritten: u64,
}

/// Unpacks an archive of any kind into a tree, and puts the tree in its place. The first `strip` names of each path are taken off
/// before it is judged by the patterns: most archives of a repository have one folder around it.
///
/// # Errors
/// Refuses the whole archive for one entry that is refused; then nothing is left of the tree.
pub fn unpack<R: Read + Seek>(
    mut archive: R,
    tree: Tree,
    exclusion: &Exclusion,
    strip: usize,
    notes: &mut dyn FnMut(Note<'_>),
) -> Result<Unpacked, Error> {
    let mut magic = [0; ZIP_EMPTY.len()];
    let begun = archive.rewind().and_then(|()| archive.read(&mut magic));
    let read = begun.map_err(|error| Error::Unreadable(error.to_string()))?;
    let length = archive.seek(SeekFrom::End(0)).and_then(|length| archive.rewind().map(|()| length));
    let length = length.map_err(|error| Error::Unreadable(error.to_string()))?;
    let magic = magic.get(..read).unwrap_or_default();
    if magic != ZIP && magic != ZIP_EMPTY {
        return unpack_stream(archive, tree, exclusion, strip, notes);
    }
    let mut intake = Intake::new(tree, exclusion, strip, notes);
    zip::read(archive, length, &mut intake)?;
    intake.publish()
}

/// Unpacks a tar archive, in gzip or zstd or as it is, from a stream.
///
/// # Errors
/// As [`unpack`]; a zip is refused, as its directory is at its end.
pub fn unpack_stream<R: Read>(
    archive: R,
    tree: Tree,
    exclusion: &Exclusion,
    strip: usize,
    notes: &mut dyn FnMut(Note<'_>),
) -> Result<Unpacked, Error> {
    let limits = tree.limits();
    let mut intake = Intake::new(tree, exclusion, strip, notes);
    let counted = Counted::new(archive);
    let packed = counted.count();
    let mut archive = BufReader::with_capacity(PROBE_BYTES * 16, counted);
    let head = archive.fill_buf().map_err(|error| Error::Unreadable(error.to_string()))?;
    if head.starts_with(&GZIP) {
        tar::read(Meter::new(MultiGzDecoder::new(archive), packed, limits), &mut intake)?;
    } else if head.starts_with(&ZSTD) {
        tar::read(Meter::new(Frames::new(archive), packed, limits), &mut intake)?;
    } else if head.is_empty() || head.starts_with(&ZIP) || head.starts_with(&ZIP_EMPTY) {
        return Err(not_an_archive());
    } else {
        tar::read(Meter::new(archive, packed, limits), &mut intake)?;
    }
    intake.publish()
}

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZIP: [u8; 4] = *b"PK\x03\x04";
const ZIP_EMPTY: [u8; 4] = *b"PK\x05\x06";

/// A header of tar.
const PROBE_BYTES: usize = 512;

fn not_an_archive() -> Error {
    Refusal::new(b"the archive", Reason::NotAnArchive).into()
}

/// A refusal of the archive as a whole.
fn whole(reason: Reason) -> Error {
    Refusal::new(b"the archive", reason).into()
}

#[cfg(test)]
mod tests;

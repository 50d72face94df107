//! tar, by the `tar` crate's reading of headers, long names and PAX records; its own unpacking is never used.

use std::io::{Read, copy, sink};

use ::tar::{Archive, EntryType, PaxExtensions};

use super::intake::{Entry, Intake};
use super::meter::{Meter, Seen};
use super::{not_an_archive, whole};
use crate::limits::HEAD_BYTES_MAX;
use crate::refusal::{Error, Reason, Refusal};

/// Two blocks of zeros end an archive (POSIX.1, pax, "ustar Interchange Format").
const END_BYTES: u64 = 1024;

/// Whoever may execute it.
const EXECUTE: u32 = 0o111;

/// Takes every entry of an archive.
pub fn read<R: Read>(archive: Meter<R>, intake: &mut Intake<'_>) -> Result<(), Error> {
    let seen = archive.seen();
    let done = read_all(archive, &seen, intake);
    match (seen.reason(), done) {
        // What the meter stopped reads like damage to everything above it.
        (Some(reason), Err(Error::Unreadable(_))) => Err(whole(reason)),
        (_, done) => done,
    }
}

fn read_all<R: Read>(archive: Meter<R>, seen: &Seen, intake: &mut Intake<'_>) -> Result<(), Error> {
    let unreadable = |error: std::io::Error| Error::Unreadable(error.to_string());
    let mut archive = Archive::new(archive);
    let mut entries = archive.entries().map_err(unreadable)?;
    let mut is_empty = true;
    loop {
        // Headers are read into memory, and what an entry has beyond its own kind is skipped.
        seen.allow(HEAD_BYTES_MAX);
        seen.mark();
        let Some(entry) = entries.next() else { break };
        is_empty = false;
        take(entry.map_err(unreadable)?, seen, intake)?;
    }
    if is_empty {
        return Err(not_an_archive());
    }
    // To the end: a checksum of the compression is there.
    let before = seen.zeros();
    let padding = copy(&mut archive.into_inner(), &mut sink()).map_err(unreadable)?;
    if seen.zeros() != before + padding {
        return Err(whole(Reason::Trailing));
    }
    // An end that is not written may be one that was cut off.
    if seen.zeros() < END_BYTES {
        return Err(whole(Reason::Truncated));
    }
    Ok(())
}

fn take<R: Read>(mut entry: ::tar::Entry<'_, R>, seen: &Seen, intake: &mut Intake<'_>) -> Result<(), Error> {
    let name = entry.path_bytes().into_owned();
    let refused = |reason| Err(Refusal::new(&name, reason).into());
    let header = entry.header();
    if header.as_ustar().is_none() && header.as_gnu().is_none() {
        return Err(not_an_archive());
    }
    let kind = header.entry_type();
    if kind == EntryType::XGlobalHeader {
        return global(entry, &name);
    }
    let target = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
    if let Some(records) = entry.pax_extensions().map_err(|error| Error::Unreadable(error.to_string()))? {
        check_records(records, &name, &[(b"path", &name), (b"linkpath", &target)])?;
    }
    let size = entry.size();
    // Some readers skip content behind what is no file, and some take it for the next header.
    if size > 0 && matches!(kind, EntryType::Directory | EntryType::Symlink | EntryType::Link) {
        return refused(Reason::TwoReadings);
    }
    let modified = entry.header().mtime().ok();
    let is_executable = entry.header().mode().unwrap_or_default() & EXECUTE != 0;
    match kind {
        EntryType::Regular if !name.ends_with(b"/") => {
            // From here on the file's own bounds hold.
            seen.allow(u64::MAX);
            let mut content = Whole { content: &mut entry, left: size };
            intake.take(&name, Entry::File { is_executable, modified, content: &mut content })?;
            if content.left > 0 { refused(Reason::Truncated) } else { Ok(()) }
        }
        EntryType::Directory => intake.take(&name, Entry::Folder),
        EntryType::Symlink => intake.take(&name, Entry::Symlink { target: &target }),
        EntryType::Link => intake.take(&name, Entry::HardLink { target: &target }),
        EntryType::Char | EntryType::Block | EntryType::Fifo => refused(Reason::Device),
        EntryType::GNUSparse => refused(Reason::Sparse),
        _ => refused(Reason::UnknownKind),
    }
}

/// A header for all entries: git writes the commit there.
///
/// Names there would be those of every entry, for some readers. What stands before it is meant for the next entry, for
/// some, and for the header itself by this library.
fn global<R: Read>(mut entry: ::tar::Entry<'_, R>, name: &[u8]) -> Result<(), Error> {
    let unreadable = |error: std::io::Error| Error::Unreadable(error.to_string());
    let has_own_names = *entry.header().path_bytes() == *name
        && entry.header().link_name_bytes().unwrap_or_default()
            == entry.link_name_bytes().unwrap_or_default();
    let mut content = Vec::new();
    entry.by_ref().take(HEAD_BYTES_MAX).read_to_end(&mut content).map_err(unreadable)?;
    check_records(PaxExtensions::new(&content), name, &[])?;
    // The records are read: what there is still was there before it.
    let mut before = entry.pax_extensions().map_err(unreadable)?;
    if has_own_names && before.as_mut().and_then(Iterator::next).is_none() {
        return Ok(());
    }
    Err(Refusal::new(name, Reason::TwoReadings).into())
}

/// Checks records of names, each of which may say again what was read, and nothing else.
fn check_records(records: PaxExtensions<'_>, name: &[u8], read: &[(&[u8], &[u8])]) -> Result<(), Error> {
    let refused = |reason| Err(Refusal::new(name, reason).into());
    for record in records {
        let Ok(record) = record else { return refused(Reason::UnknownKind) };
        match record.key_bytes() {
            key if key.starts_with(b"GNU.sparse") => return refused(Reason::Sparse),
            // Another record, or another kind of long name, may say otherwise: readers differ in which they believe.
            key @ (b"path" | b"linkpath") if !read.contains(&(key, record.value_bytes())) => {
                return refused(Reason::TwoNames);
            }
            // It is needed above 8 GiB only, and what stands between it and its file takes it for its own, for some.
            b"size" => return refused(Reason::TwoReadings),
            _ => {}
        }
    }
    Ok(())
}

/// Content, and how much of it is still to come.
struct Whole<'a, R> {
    content: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Whole<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.content.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

//! zip, by `rawzip`'s reading of its directory, entry by entry. The directory is what counts, and each entry must say
//! the same where it lies.

use std::cell::Cell;
use std::io::{Read, Seek};
use std::rc::Rc;

use flate2::read::DeflateDecoder;
use rawzip::extra_fields::{ExtraFieldId, ExtraFields};
use rawzip::{CompressionMethod, CreatorSystem, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive};

use super::intake::{Entry, Intake};
use super::meter::Meter;
use super::whole;
use crate::limits::PATH_BYTES_MAX;
use crate::refusal::{Error, Reason, Refusal};

/// The kind in a Unix mode, and the kinds.
const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const EXECUTE: u32 = 0o111;

/// An entry of the directory, as far as it counts here.
struct Listed {
    name: Vec<u8>,
    mode: u32,
    is_folder: bool,
    is_encrypted: bool,
    /// Whether its sizes follow its content, too.
    has_descriptor: bool,
    sizes: (u64, u64),
    offset: u64,
    method: CompressionMethod,
    place: rawzip::ZipArchiveEntryWayfinder,
}

/// Sizes behind an entry's content: of 4 or 8 bytes each, behind a checksum, with a signature or without.
const DESCRIPTOR_BYTES: [u64; 4] = [12, 16, 20, 24];

/// Where an entry lies, with its header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    begin: u64,
    end: u64,
    has_descriptor: bool,
}

/// Takes every entry of an archive of `length` bytes.
pub fn read<R: Read + Seek>(archive: R, length: u64, intake: &mut Intake<'_>) -> Result<(), Error> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_seekable(archive, &mut buffer).map_err(|error| unreadable(&error))?;
    // Its end is found by searching: a second one in its comment, or behind it, would be another reading.
    if archive.end_offset() != length || archive.comment().remaining() > 0 {
        return Err(whole(Reason::Trailing));
    }
    let (listed, max) = (archive.entries_hint(), intake.limits().entries_max);
    if listed > max {
        return Err(whole(Reason::TooMany(max)));
    }
    let directory = archive.directory_offset();
    let (mut unpacked, mut taken, mut local) = (0, 0, vec![0; RECOMMENDED_BUFFER_SIZE]);
    let mut spans = Vec::new();
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(|error| unreadable(&error))? {
        taken += 1;
        if taken > listed {
            return Err(whole(Reason::Trailing));
        }
        check_extra(entry.extra_fields(), entry.file_path().as_bytes())?;
        let listed = Listed {
            name: entry.file_path().as_bytes().to_vec(),
            mode: mode(entry.version_made_by().creator_system(), entry.external_attributes()),
            is_folder: entry.is_dir(),
            is_encrypted: entry.flags().is_encrypted(),
            has_descriptor: entry.flags().has_data_descriptor(),
            sizes: (entry.compressed_size_hint(), entry.uncompressed_size_hint()),
            offset: entry.local_header_offset(),
            method: entry.compression_method(),
            place: entry.wayfinder(),
        };
        spans.push(span(&archive, &listed, &mut local)?);
        unpacked = take(&archive, &listed, unpacked, length, intake)?;
    }
    if taken != listed {
        return Err(whole(Reason::Truncated));
    }
    check_spans(spans, directory)
}

/// Checks that entries lie one behind the other from the first byte to the directory. What lies between them, or twice, is
/// there for readers that do not begin with the directory; and two archives one behind the other are two readings.
fn check_spans(mut spans: Vec<Span>, directory: u64) -> Result<(), Error> {
    spans.sort_unstable();
    spans.push(Span { begin: directory, end: directory, has_descriptor: false });
    let (mut end, mut may_follow) = (0, false);
    for span in spans {
        let gap = span.begin.checked_sub(end);
        if !gap.is_some_and(|gap| if may_follow { DESCRIPTOR_BYTES.contains(&gap) } else { gap == 0 }) {
            return Err(whole(Reason::TwoReadings));
        }
        (end, may_follow) = (span.end, span.has_descriptor);
    }
    Ok(())
}

/// Some readers take a name from there, whatever else an entry is called.
fn check_extra(fields: ExtraFields<'_>, name: &[u8]) -> Result<(), Error> {
    // Behind a version and a checksum (APPNOTE 4.6.9).
    let other = |data: &[u8]| data.get(5..) != Some(name);
    for (id, data) in fields {
        if id == ExtraFieldId::INFO_ZIP_UNICODE_PATH && other(data) {
            return Err(Refusal::new(name, Reason::TwoNames).into());
        }
    }
    Ok(())
}

/// Where an entry lies, if it says there what the directory says.
fn span<R: ReaderAt>(archive: &ZipArchive<R>, listed: &Listed, local: &mut [u8]) -> Result<Span, Error> {
    let refused = |reason| Err(Refusal::new(&listed.name, reason).into());
    let entry = archive.get_entry(listed.place).map_err(|error| unreadable(&error))?;
    let header = entry.local_header(local).map_err(|error| unreadable(&error))?;
    if header.file_path().as_bytes() != listed.name || header.compression_method() != listed.method {
        return refused(Reason::TwoNames);
    }
    check_extra(header.extra_fields(), &listed.name)?;
    let sizes = (header.compressed_size_hint(), header.uncompressed_size_hint());
    let has_descriptor = header.flags().has_data_descriptor();
    let is_told_later = has_descriptor && sizes == (0, 0);
    if header.flags().is_encrypted() != listed.is_encrypted
        || has_descriptor != listed.has_descriptor
        || (sizes != listed.sizes && !is_told_later)
    {
        return refused(Reason::TwoReadings);
    }
    let (_, end) = entry.compressed_data_range();
    Ok(Span { begin: listed.offset, end, has_descriptor })
}

/// Takes one entry; returns how much all of them unpacked to.
fn take<R: ReaderAt>(
    archive: &ZipArchive<R>,
    listed: &Listed,
    unpacked: u64,
    length: u64,
    intake: &mut Intake<'_>,
) -> Result<u64, Error> {
    let refused = |reason| Err(Refusal::new(&listed.name, reason).into());
    if listed.is_encrypted {
        return refused(Reason::Encrypted);
    }
    let entry = archive.get_entry(listed.place).map_err(|error| unreadable(&error))?;
    let content: Box<dyn Read + '_> = match listed.method {
        CompressionMethod::STORE => Box::new(entry.reader()),
        CompressionMethod::DEFLATE => Box::new(DeflateDecoder::new(entry.reader())),
        _ => return refused(Reason::UnknownCompression),
    };
    let meter = Meter::new(content, Rc::new(Cell::new(length)), intake.limits()).after(unpacked);
    let seen = meter.seen();
    seen.allow(u64::MAX);
    let mut content = entry.verifying_reader(meter);
    let done = write(listed, &mut content, intake);
    match (seen.reason(), done) {
        (Some(reason), Err(Error::Unreadable(_))) => refused(reason),
        (_, done) => done.map(|()| content.into_inner().unpacked()),
    }
}

fn write(listed: &Listed, content: &mut dyn Read, intake: &mut Intake<'_>) -> Result<(), Error> {
    let refused = |reason| Err(Refusal::new(&listed.name, reason).into());
    let kind = listed.mode & KIND;
    match kind {
        FOLDER | 0 if listed.is_folder => {
            if content.read(&mut [0]).map_err(|error| Error::Unreadable(error.to_string()))? > 0 {
                return refused(Reason::UnknownKind);
            }
            intake.take(&listed.name, Entry::Folder)
        }
        // By its name it is a folder, or by its kind.
        _ if listed.is_folder != (kind == FOLDER) => refused(Reason::UnknownKind),
        REGULAR | 0 => {
            let is_executable = listed.mode & EXECUTE != 0;
            intake.take(&listed.name, Entry::File { is_executable, modified: None, content })
        }
        SYMLINK => {
            let mut target = Vec::new();
            let read = content.take(PATH_BYTES_MAX as u64 + 1).read_to_end(&mut target);
            read.map_err(|error| Error::Unreadable(error.to_string()))?;
            intake.take(&listed.name, Entry::Symlink { target: &target })
        }
        _ => refused(Reason::Device),
    }
}

/// The Unix mode, where the archive's writer knows one: else nothing, and a name alone says what is a folder.
fn mode(by: CreatorSystem, attributes: u32) -> u32 {
    if by == CreatorSystem::UNIX || by == CreatorSystem::MACOS { attributes >> 16 } else { 0 }
}

fn unreadable(error: &rawzip::Error) -> Error {
    Error::Unreadable(error.to_string())
}

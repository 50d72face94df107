//! zip, by `rawzip`'s reading of its directory, entry by entry. The directory is what counts, and each entry must say
//! the same where it lies.

use std::cell::Cell;
use std::io::{Read, Seek};
use std::rc::Rc;

use flate2::read::DeflateDecoder;
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
    method: CompressionMethod,
    place: rawzip::ZipArchiveEntryWayfinder,
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
    let (mut unpacked, mut taken, mut local) = (0, 0, vec![0; RECOMMENDED_BUFFER_SIZE]);
    let mut entries = archive.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(|error| unreadable(&error))? {
        taken += 1;
        if taken > listed {
            return Err(whole(Reason::Trailing));
        }
        let listed = Listed {
            name: entry.file_path().as_bytes().to_vec(),
            mode: mode(entry.version_made_by().creator_system(), entry.external_attributes()),
            is_folder: entry.is_dir(),
            is_encrypted: entry.flags().is_encrypted(),
            method: entry.compression_method(),
            place: entry.wayfinder(),
        };
        unpacked = take(&archive, &listed, unpacked, length, &mut local, intake)?;
    }
    if taken == listed { Ok(()) } else { Err(whole(Reason::Truncated)) }
}

/// Takes one entry; returns how much all of them unpacked to.
fn take<R: ReaderAt>(
    archive: &ZipArchive<R>,
    listed: &Listed,
    unpacked: u64,
    length: u64,
    local: &mut [u8],
    intake: &mut Intake<'_>,
) -> Result<u64, Error> {
    let refused = |reason| Err(Refusal::new(&listed.name, reason).into());
    if listed.is_encrypted {
        return refused(Reason::Encrypted);
    }
    let entry = archive.get_entry(listed.place).map_err(|error| unreadable(&error))?;
    let header = entry.local_header(local).map_err(|error| unreadable(&error))?;
    if header.file_path().as_bytes() != listed.name || header.compression_method() != listed.method {
        return refused(Reason::TwoNames);
    }
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

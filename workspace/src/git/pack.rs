//! The objects of one pack, by their ids. Each id is computed here from the object's own bytes (with the SHA-1 that finds out
//! collisions), so whoever asks for an id gets what it names, or nothing. A pack that leans on objects outside it is refused.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::num::NonZeroU64;
use std::path::Path;

use gix_hash::{Kind as HashKind, ObjectId, oid};
use gix_object::Kind;
use gix_pack::data::decode::entry::ResolvedBase;
use gix_pack::data::entry::Header;
use gix_pack::data::{Entry, File, header};
use gix_zlib::Inflate;

use super::Clock;
use super::cache::Cache;
use crate::limits::Limits;
use crate::refusal::{Error, Reason, Refusal};

/// Memory that one object may take, with the deltas that make it and what they are applied to.
pub const OBJECT_BYTES_MAX: usize = 192 << 20;
/// Objects that are made one from the other, in a row: git's own bound.
const CHAIN_MAX: u32 = 4095;
/// Bytes of a pack that are read at once.
const CHUNK_BYTES: usize = 64 << 10;
/// How often what names a later object is tried again: git writes a base before what is made from it.
const ROUNDS_MAX: usize = 32;
/// The SHA-1 at the end of a pack.
const TRAILER_BYTES: u64 = 20;

/// A pack.
pub struct Pack {
    file: File,
    places: HashMap<ObjectId, Place>,
    /// Where the objects begin that are known, and how many others each is made from: nothing is made from what begins elsewhere.
    known: HashMap<u64, u32>,
    inflate: Inflate,
    cache: Cache,
}

#[derive(Clone, Copy)]
struct Place {
    offset: u64,
    kind: Kind,
    size: u64,
    /// Bytes that its content takes in the pack, where it is made from no other.
    packed: Option<NonZeroU64>,
}

impl Pack {
    /// Reads every object of a pack once.
    ///
    /// # Errors
    /// Refuses a pack that is damaged or not whole, and one beyond a bound: objects (`entries_max`), bytes of one
    /// (`file_bytes_max`, and the memory that it takes), bytes of all of them together (`bytes_max`).
    pub fn read(path: &Path, limits: Limits, clock: Clock<'_>) -> Result<Self, Error> {
        checked(path, clock)?;
        let file = File::at(path, HashKind::Sha1).map_err(damaged)?;
        let file = file.with_alloc_limit_bytes(Some(OBJECT_BYTES_MAX));
        if u64::from(file.num_objects()) > limits.entries_max {
            return Err(whole(Reason::TooMany(limits.entries_max)));
        }
        let (places, known) = (HashMap::new(), HashMap::new());
        let mut pack = Self { file, places, known, inflate: Inflate::default(), cache: Cache::default() };
        pack.index(limits, clock)?;
        Ok(pack)
    }

    fn index(&mut self, limits: Limits, clock: Clock<'_>) -> Result<(), Error> {
        let (mut offset, mut bytes, mut later) = (header::SIZE as u64, 0_u64, Vec::new());
        let end = (self.file.data_len() as u64).saturating_sub(TRAILER_BYTES);
        let mut object = Vec::new();
        for _ in 0..self.file.num_objects() {
            clock()?;
            if offset >= end {
                return Err(whole(Reason::Truncated));
            }
            let entry = self.file.entry(offset).map_err(damaged)?;
            let data = entry.data_offset;
            let packed = if self.waits(&entry) {
                later.push(offset);
                self.skip(&entry, &mut object)?
            } else {
                self.learn(offset, limits, &mut bytes, &mut object)?
            };
            offset = data.saturating_add(packed as u64);
        }
        if offset != end {
            return Err(whole(if offset > end { Reason::Truncated } else { Reason::Trailing }));
        }
        for _ in 0..ROUNDS_MAX {
            let waiting = std::mem::take(&mut later);
            for offset in waiting {
                clock()?;
                let entry = self.file.entry(offset).map_err(damaged)?;
                if self.waits(&entry) {
                    later.push(offset);
                } else {
                    self.learn(offset, limits, &mut bytes, &mut object)?;
                }
            }
        }
        if later.is_empty() { Ok(()) } else { Err(whole(Reason::Missing)) }
    }

    /// Whether it is made from an object that is not known yet.
    fn waits(&self, entry: &Entry) -> bool {
        match entry.header {
            Header::RefDelta { base_id } => !self.places.contains_key(&base_id),
            Header::OfsDelta { base_distance } => {
                let base = entry.checked_base_pack_offset(base_distance);
                !base.is_some_and(|base| self.known.contains_key(&base))
            }
            Header::Commit | Header::Tree | Header::Blob | Header::Tag => false,
        }
    }

    /// How many others the object is made from that this one is made from; none where it stands by itself.
    fn others(&self, entry: &Entry) -> Option<u32> {
        let base = match entry.header {
            Header::RefDelta { base_id } => self.places.get(&base_id).map(|place| place.offset),
            Header::OfsDelta { base_distance } => entry.checked_base_pack_offset(base_distance),
            Header::Commit | Header::Tree | Header::Blob | Header::Tag => None,
        };
        self.known.get(&base?).copied()
    }

    /// Bytes that an entry takes in the pack.
    fn skip(&mut self, entry: &Entry, object: &mut Vec<u8>) -> Result<usize, Error> {
        let size = usize::try_from(entry.decompressed_size).unwrap_or(usize::MAX);
        if size > OBJECT_BYTES_MAX {
            return Err(whole(Reason::ObjectTooLarge(OBJECT_BYTES_MAX as u64)));
        }
        object.clear();
        object.resize(size, 0);
        self.file.decompress_entry(entry, &mut self.inflate, object).map_err(damaged)
    }

    /// Reads an object and computes its id; returns what it takes in the pack.
    fn learn(
        &mut self,
        offset: u64,
        limits: Limits,
        bytes: &mut u64,
        object: &mut Vec<u8>,
    ) -> Result<usize, Error> {
        let entry = self.file.entry(offset).map_err(damaged)?;
        if entry.decompressed_size > OBJECT_BYTES_MAX as u64 {
            return Err(whole(Reason::ObjectTooLarge(OBJECT_BYTES_MAX as u64)));
        }
        let others = self.others(&entry).map_or(0, |others| others.saturating_add(1));
        if others > CHAIN_MAX {
            return Err(whole(Reason::Malformed));
        }
        let (kind, packed) = self.decode(offset, object)?;
        let size = object.len() as u64;
        if size > limits.file_bytes_max {
            return Err(whole(Reason::FileTooLarge(limits.file_bytes_max)));
        }
        *bytes = bytes.saturating_add(size);
        if *bytes > limits.bytes_max {
            return Err(whole(Reason::TooLarge(limits.bytes_max)));
        }
        let id = gix_object::compute_hash(HashKind::Sha1, kind, object).map_err(damaged)?;
        let alone = NonZeroU64::new(packed as u64).filter(|_| entry.header.is_base());
        self.places.entry(id).or_insert(Place { offset, kind, size, packed: alone });
        self.known.insert(offset, others);
        Ok(packed)
    }

    fn decode(&mut self, offset: u64, object: &mut Vec<u8>) -> Result<(Kind, usize), Error> {
        let entry = self.file.entry(offset).map_err(damaged)?;
        let (file, places) = (&self.file, &self.places);
        let base = |id: &oid, _: &mut Vec<u8>| match places.get(id) {
            Some(place) => file.entry(place.offset).map(|entry| Some(ResolvedBase::InPack(entry))),
            None => Ok(None),
        };
        let done = file.decode_entry(entry, object, &mut self.inflate, &base, &mut self.cache);
        let done = done.map_err(damaged)?;
        Ok((done.kind, done.compressed_size))
    }

    /// Of which kind the object of this id is, if it was sent.
    pub fn kind(&self, id: &oid) -> Option<Kind> {
        self.places.get(id).map(|place| place.kind)
    }

    /// Where the object of this id begins: one after the other, they are read soonest.
    pub fn offset(&self, id: &oid) -> Option<u64> {
        self.places.get(id).map(|place| place.offset)
    }

    /// How many bytes the object of this id has, if it was sent.
    pub fn size(&self, id: &oid) -> Option<u64> {
        self.places.get(id).map(|place| place.size)
    }

    /// The content of the object of this id as it lies in the pack, compressed as git does it (zlib); none where it is made from others, or was
    /// not sent. When its id was computed it was one whole stream of exactly the object's size, and nothing has written to the pack since.
    pub fn packed(&self, id: &oid) -> Option<&[u8]> {
        let place = self.places.get(id)?;
        let begin = self.file.entry(place.offset).ok()?.data_offset;
        self.file.entry_slice(begin..begin.checked_add(place.packed?.get())?)
    }

    /// The object of this id. `path` is named if there is none, or one of another kind.
    pub fn get(&mut self, id: &oid, kind: Kind, path: &str) -> Result<Vec<u8>, Error> {
        let refused = |reason| Error::from(Refusal::new(path.as_bytes(), reason));
        let place = *self.places.get(id).ok_or_else(|| refused(Reason::Missing))?;
        if place.kind != kind {
            return Err(refused(Reason::WrongKind));
        }
        let mut object = Vec::new();
        self.decode(place.offset, &mut object)?;
        if place.packed.is_some() {
            return Ok(object);
        }
        // It may be made from others in another way than the first time, from what is in the cache.
        let again = gix_object::compute_hash(HashKind::Sha1, kind, &object).map_err(damaged)?;
        if *again != *id {
            return Err(refused(Reason::Malformed));
        }
        Ok(object)
    }
}

/// Compares the checksum at the end of a pack.
fn checked(path: &Path, clock: Clock<'_>) -> Result<(), Error> {
    let unread = |error: std::io::Error| Error::Pack(error.to_string());
    let file = std::fs::File::open(path).map_err(unread)?;
    let mut left = file.metadata().map_err(unread)?.len().saturating_sub(TRAILER_BYTES);
    let mut file = BufReader::with_capacity(CHUNK_BYTES, file);
    let mut hasher = gix_hash::hasher(HashKind::Sha1);
    while left > 0 {
        clock()?;
        let piece = file.fill_buf().map_err(unread)?;
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        if count == 0 {
            return Err(whole(Reason::Truncated));
        }
        hasher.update(piece.get(..count).unwrap_or_default());
        file.consume(count);
        left = left.saturating_sub(count as u64);
    }
    let mut trailer = Vec::new();
    std::io::Read::read_to_end(&mut file, &mut trailer).map_err(unread)?;
    match hasher.try_finalize().map_err(damaged)?.as_slice() == trailer {
        true => Ok(()),
        false => Err(whole(Reason::Checksum)),
    }
}

fn whole(reason: Reason) -> Error {
    Refusal::new(b"the pack", reason).into()
}

pub(super) fn damaged(error: impl std::fmt::Display) -> Error {
    Error::Pack(error.to_string())
}

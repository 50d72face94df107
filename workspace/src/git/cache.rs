//! Objects that others are made from, for a while. The library's own cache counts the bytes of an object and not what their buffer
//! holds, so it keeps more than it was given.

use std::collections::{HashMap, VecDeque};

use gix_object::Kind;
use gix_pack::cache::DecodeEntry;

/// Bytes of objects that are kept.
const BYTES_MAX: usize = 48 << 20;
/// Bytes of one that is: larger ones would leave no place for the others.
const OBJECT_BYTES_MAX: usize = 16 << 20;
/// What an entry takes beside its bytes.
const ENTRY_BYTES: usize = 128;

/// The objects of one pack, by where they begin; the oldest goes first.
#[derive(Default)]
pub struct Cache {
    objects: HashMap<u64, Object>,
    order: VecDeque<u64>,
    bytes: usize,
}

struct Object {
    /// Exactly as long as the object.
    data: Box<[u8]>,
    kind: Kind,
    packed: usize,
}

impl DecodeEntry for Cache {
    fn put(&mut self, _: u32, offset: u64, data: &[u8], kind: Kind, packed: usize) {
        if data.len() > OBJECT_BYTES_MAX || self.objects.contains_key(&offset) {
            return;
        }
        self.bytes += data.len() + ENTRY_BYTES;
        self.objects.insert(offset, Object { data: data.into(), kind, packed });
        self.order.push_back(offset);
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            let gone = self.objects.remove(&oldest).map_or(0, |object| object.data.len() + ENTRY_BYTES);
            self.bytes = self.bytes.saturating_sub(gone);
        }
    }

    fn get(&mut self, _: u32, offset: u64, out: &mut Vec<u8>) -> Option<(Kind, usize)> {
        let object = self.objects.get(&offset)?;
        out.clear();
        out.extend_from_slice(&object.data);
        Some((object.kind, object.packed))
    }
}

#[cfg(test)]
mod tests {
    use gix_object::Kind;
    use gix_pack::cache::DecodeEntry;

    use super::{BYTES_MAX, Cache, ENTRY_BYTES, OBJECT_BYTES_MAX};

    #[test]
    fn no_more_is_held_than_is_counted_whatever_comes_in_turn() {
        let mut cache = Cache::default();
        let (large, mut out) = (vec![7; OBJECT_BYTES_MAX], Vec::new());
        for turn in 0..40 {
            cache.put(0, turn * 3, &large, Kind::Blob, 1);
            cache.put(0, turn * 3 + 1, &[large.as_slice(), &[1]].concat(), Kind::Blob, 1);
            cache.put(0, turn * 3 + 2, b"x", Kind::Tree, 2);
            let held: usize = cache.objects.values().map(|object| object.data.len() + ENTRY_BYTES).sum();
            assert!(held == cache.bytes && held <= BYTES_MAX, "{held} {}", cache.bytes);
            assert_eq!(cache.order.len(), cache.objects.len());
            assert_eq!(cache.get(0, turn * 3 + 1, &mut out), None, "too large");
            assert_eq!(cache.get(0, turn * 3 + 2, &mut out), Some((Kind::Tree, 2)));
            assert_eq!(out, b"x");
        }
        assert_eq!(cache.get(0, 0, &mut out), None, "the oldest is gone");
    }
}

//! Every path of a tree so far, by hashes: sixteen bytes for each, however long its name.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::{BuildHasher, Hasher};

use crate::fold::fold;
use crate::path::RelativePath;
use crate::refusal::Reason;

/// What a path is, as far as others may stand below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A regular file or a link.
    Leaf,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The path is new.
    New,
    /// The path is there already, as this.
    Known(Kind),
}

/// The paths. Two that differ have the same hash by chance only, as the key is random: then one is refused without a
/// reason, about once in thirty million trees of a million paths. None that collide are ever missed.
pub struct Names {
    known: HashMap<u64, u64>,
    hasher: RandomState,
    entries_max: u64,
}

impl Names {
    /// No paths yet, and never more than so many.
    pub fn new(entries_max: u64) -> Self {
        Self { known: HashMap::new(), hasher: RandomState::new(), entries_max }
    }

    /// Claims a path, whose folders were claimed before.
    ///
    /// # Errors
    /// Refuses a path that differs from another only in ways that some file system overlooks, and one too many.
    pub fn claim(&mut self, path: &RelativePath, kind: Kind) -> Result<Claim, Reason> {
        let mut folded = self.hasher.build_hasher();
        for name in path.names() {
            folded.write(fold(name).as_bytes());
            folded.write_u8(b'/');
        }
        // The last bit says what it is.
        let exact = self.hasher.hash_one(path.as_str()) & !1;
        let value = exact | u64::from(kind == Kind::Folder);
        let is_full = self.known.len() as u64 >= self.entries_max;
        match self.known.entry(folded.finish()) {
            Entry::Vacant(_) if is_full => Err(Reason::TooMany(self.entries_max)),
            Entry::Vacant(place) => {
                place.insert(value);
                Ok(Claim::New)
            }
            Entry::Occupied(known) if known.get() & !1 == exact => {
                Ok(Claim::Known(if known.get() & 1 == 1 { Kind::Folder } else { Kind::Leaf }))
            }
            Entry::Occupied(_) if path.as_str().is_ascii() => Err(Reason::CaseCollision),
            Entry::Occupied(_) => Err(Reason::UnicodeCollision),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Claim, Kind, Names};
    use crate::limits::Limits;
    use crate::path::RelativePath;
    use crate::refusal::Reason;

    fn path(text: &str) -> RelativePath {
        RelativePath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_million_entries_are_taken_and_one_more_is_not() {
        let max = Limits::default().entries_max;
        assert_eq!(max, 1_000_000);
        let mut names = Names::new(max);
        for number in 0..max {
            assert_eq!(names.claim(&path(&format!("folder/{number}")), Kind::Leaf), Ok(Claim::New));
        }
        assert_eq!(names.claim(&path("one-more"), Kind::Leaf), Err(Reason::TooMany(max)));
        assert_eq!(names.claim(&path("folder/7"), Kind::Leaf), Ok(Claim::Known(Kind::Leaf)));
        // Two words for each, and hashbrown's room for an eighth more, doubled at most.
        assert!(names.known.capacity() <= 2_000_000, "{}", names.known.capacity());
    }

    #[test]
    fn a_name_that_differs_in_case_only_is_refused() {
        let mut names = Names::new(100);
        assert_eq!(names.claim(&path("Makefile"), Kind::Leaf), Ok(Claim::New));
        assert_eq!(names.claim(&path("makefile"), Kind::Leaf), Err(Reason::CaseCollision));
        assert_eq!(names.claim(&path("src"), Kind::Folder), Ok(Claim::New));
        assert_eq!(names.claim(&path("SRC/x"), Kind::Leaf), Ok(Claim::New), "its folder is refused first");
        assert_eq!(names.claim(&path("Src"), Kind::Folder), Err(Reason::CaseCollision));
        // The control: the same folder again, and the same name elsewhere.
        assert_eq!(names.claim(&path("src"), Kind::Folder), Ok(Claim::Known(Kind::Folder)));
        assert_eq!(names.claim(&path("src/makefile"), Kind::Leaf), Ok(Claim::New));
    }

    #[test]
    fn a_name_that_differs_in_its_unicode_form_only_is_refused() {
        let mut names = Names::new(100);
        assert_eq!(names.claim(&path("caf\u{e9}"), Kind::Leaf), Ok(Claim::New));
        assert_eq!(names.claim(&path("cafe\u{301}"), Kind::Leaf), Err(Reason::UnicodeCollision));
        assert_eq!(names.claim(&path("CAF\u{c9}"), Kind::Leaf), Err(Reason::UnicodeCollision));
        assert_eq!(names.claim(&path("cafe"), Kind::Leaf), Ok(Claim::New));
    }
}

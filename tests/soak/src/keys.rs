//! The secrets of a run: each version of each tells which it is, and all that ever were are found by what they share.

use agentsandbox_conformance::secret::{Spelling, spellings_of};
use memchr::memmem;

/// In the middle of every secret of a run and nowhere else, so that who finds no spelling of it found no secret whole. It has
/// characters that base64, percent-encoding and JSON spell differently.
const MARK: &str = "Zq/7+x~Vw?9k";
/// Its halves, each of which is too much of a secret to be shown. Base64 of something else has the one, and what a protocol writes
/// has the other, in no run that somebody will live to see.
const HALVES: [&str; 2] = ["Zq/7+x", "~Vw?9k"];
/// Of so many versions one is no secret: its file is deleted.
const ABSENT_EVERY: u32 = 7;

/// Where a secret is put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// `Authorization: Bearer`.
    Bearer,
    /// `X-Api-Key`.
    Header,
}

impl Slot {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bearer, Self::Header];

    /// The name of its file and of its credential.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bearer => "bearer",
            Self::Header => "header",
        }
    }

    /// The field.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Bearer => "authorization",
            Self::Header => "x-api-key",
        }
    }

    /// What a version of the secret is; none where its file is deleted.
    #[must_use]
    pub fn value(self, version: u32) -> Option<String> {
        let is_there = version % ABSENT_EVERY != ABSENT_EVERY - 1;
        is_there.then(|| format!("sk-{version:06}{MARK}{}", self.name()))
    }

    /// Which version a field of a request holds; none where it holds anything else.
    #[must_use]
    pub fn version_in(self, field: &str) -> Option<u32> {
        let secret = match self {
            Self::Bearer => field.strip_prefix("Bearer ")?,
            Self::Header => field,
        };
        let version = secret.strip_prefix("sk-")?.get(..6)?.parse().ok()?;
        (self.value(version)? == secret).then_some(version)
    }
}

/// Finds secrets, whichever, in every spelling that could be one.
#[derive(Clone, Debug)]
pub struct Leaks(Vec<(&'static str, memmem::Finder<'static>)>);

impl Default for Leaks {
    fn default() -> Self {
        let finder = |spelling: Spelling| (spelling.name, memmem::Finder::new(&spelling.core).into_owned());
        let halves = HALVES.map(|half| ("{part}", memmem::Finder::new(half)));
        Self(spellings_of(MARK).into_iter().map(finder).chain(halves).collect())
    }
}

impl Leaks {
    /// The spelling in which a secret stands in these bytes.
    #[must_use]
    pub fn find(&self, bytes: &[u8]) -> Option<&'static str> {
        self.0.iter().find(|(_, finder)| finder.find(bytes).is_some()).map(|(name, _)| *name)
    }
}

/// Spellings that are masked in bodies and in frames, as docs/proxy.md lists them; fields are searched in all.
const IN_BODIES: [&str; 8] = [
    "{real}",
    "{real-base64}",
    "{real-base64-1}",
    "{real-base64-2}",
    "{real-base64url}",
    "{real-hex}",
    "{real-hex-upper}",
    "{real-json-slash}",
];

/// A secret as an upstream might write it into a body.
#[must_use]
pub fn spelled_in_body(secret: &str, random: &mut fastrand::Rng) -> String {
    let mut all = spellings_of(secret);
    all.retain(|spelling| IN_BODIES.contains(&spelling.name));
    chosen(all, random)
}

/// A secret as an upstream might write it into a field.
#[must_use]
pub fn spelled_in_field(secret: &str, random: &mut fastrand::Rng) -> String {
    chosen(spellings_of(secret), random)
}

fn chosen(mut all: Vec<Spelling>, random: &mut fastrand::Rng) -> String {
    all.swap_remove(random.usize(..all.len())).text
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state their claims by it")]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_every_secret_is_found_in_every_spelling_and_nothing_else_is() {
        let leaks = Leaks::default();
        for slot in Slot::ALL {
            for version in [0, 1, 999_999] {
                let secret = slot.value(version).unwrap();
                for spelling in spellings_of(&secret) {
                    assert!(
                        leaks.find(format!("a {} b", spelling.text).as_bytes()).is_some(),
                        "{}",
                        spelling.name
                    );
                }
            }
        }
        assert_eq!(leaks.find(b"sk-000001 ************ [redacted] bearer"), None);
    }

    #[test]
    fn a_part_of_a_secret_that_is_worth_something_is_found_and_its_beginning_alone_is_not() {
        let leaks = Leaks::default();
        let secret = Slot::Bearer.value(1).unwrap();
        assert_eq!(HALVES.concat(), MARK);
        assert_eq!(leaks.find(&secret.as_bytes()[..secret.find(MARK).unwrap()]), None);
        for part in [&secret[..secret.find(HALVES[1]).unwrap()], &secret[secret.find(HALVES[1]).unwrap()..]] {
            assert_eq!(leaks.find(part.as_bytes()), Some("{part}"));
        }
    }

    #[test]
    fn a_version_is_read_from_its_own_slot_only() {
        let secret = Slot::Bearer.value(12).unwrap();
        assert_eq!(Slot::Bearer.version_in(&format!("Bearer {secret}")), Some(12));
        assert_eq!(Slot::Header.version_in(&secret), None);
        assert_eq!(Slot::Bearer.version_in(&secret), None);
        assert_eq!(Slot::Bearer.version_in("Bearer sk-own"), None);
    }

    #[test]
    fn one_version_in_seven_is_a_deleted_file() {
        let absent: Vec<u32> = (0..15).filter(|version| Slot::Header.value(*version).is_none()).collect();
        assert_eq!(absent, [6, 13]);
    }
}

//! A repository that nobody wrote: so many files of so many bytes, the same for the same seed.
//!
//! Sizes are log-normal, as those of real trees are: half of the files have less than a fifth of the mean, and a few have megabytes. Four files
//! in five are words in lines, which compress, and the fifth is noise, which does not. Folders are three to five deep.

/// What a repository is made from.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many files it has.
    pub files: usize,
    /// How many bytes they have together; at least as many as there are files.
    pub bytes: u64,
    /// What decides everything else.
    pub seed: u64,
}

/// One file, whose content is made when it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the repository.
    pub path: String,
    /// How long it is.
    pub bytes: u64,
    /// Whether it may be executed.
    pub is_executable: bool,
    is_noise: bool,
    seed: u64,
}

/// Files of one folder.
const FOLDER_FILES: usize = 16;
/// The spread of sizes: of the logarithm, as measured trees have it.
const SPREAD: f64 = 1.8;
const AREAS: [&str; 8] = ["api", "billing", "catalog", "docs", "search", "shipping", "tools", "web"];
const PARTS: [&str; 5] = ["src", "tests", "src/internal", "assets", "src/handlers/v1"];
const ENDINGS: [&str; 6] = ["rs", "ts", "py", "json", "md", "yaml"];
/// Words that text is made of.
const WORDS: usize = 512;

/// Sebastiano Vigna's splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// More than 0 and at most 1.
    fn part(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Of the normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        let (one, other) = (self.part(), self.part());
        (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
    }
}

impl Plan {
    /// Every file, folder by folder.
    pub fn entries(self) -> Vec<Entry> {
        let mut random = Random(self.seed);
        let sizes = self.sizes(&mut random);
        let entries = sizes.into_iter().enumerate().map(|(number, bytes)| {
            let folder = number / FOLDER_FILES;
            let area = AREAS[folder % AREAS.len()];
            let part = PARTS[(folder / AREAS.len()) % PARTS.len()];
            let module = folder / AREAS.len() / PARTS.len();
            let drawn = random.next();
            let is_noise = drawn.is_multiple_of(5);
            let ending = if is_noise { "bin" } else { ENDINGS[(drawn >> 8) as usize % ENDINGS.len()] };
            Entry {
                path: format!("{area}/module_{module:03}/{part}/file_{number:05}.{ending}"),
                bytes,
                is_executable: (drawn >> 16).is_multiple_of(40),
                is_noise,
                seed: random.next(),
            }
        });
        entries.collect()
    }

    /// Sizes that add up to exactly the bytes of the plan; none is zero.
    fn sizes(self, random: &mut Random) -> Vec<u64> {
        let weights: Vec<f64> = (0..self.files).map(|_| (SPREAD * random.normal()).exp()).collect();
        let spare = self.bytes - self.files as u64;
        let of_one = spare as f64 / weights.iter().sum::<f64>();
        let mut sizes: Vec<u64> = weights.iter().map(|weight| 1 + (weight * of_one) as u64).collect();
        // What rounding took.
        let missing = self.bytes.saturating_sub(sizes.iter().sum());
        if let Some(first) = sizes.first_mut() {
            *first += missing;
        }
        sizes
    }
}

impl Entry {
    /// Its bytes.
    pub fn content(&self) -> Vec<u8> {
        let (mut random, bytes) = (Random(self.seed), self.bytes as usize);
        let mut content = Vec::with_capacity(bytes + 16);
        while content.len() < bytes {
            let drawn = random.next();
            match self.is_noise {
                true => content.extend_from_slice(&drawn.to_le_bytes()),
                false => word(drawn, &mut content),
            }
        }
        content.truncate(bytes);
        content
    }
}

/// A word of two to five syllables, and what follows it.
fn word(drawn: u64, into: &mut Vec<u8>) {
    const SYLLABLES: [&[u8]; 16] = [
        b"re", b"qu", b"est", b"han", b"dle", b"or", b"der", b"ac", b"count", b"in", b"dex", b"val", b"id",
        b"to", b"ken", b"list",
    ];
    let mut own = Random(drawn % WORDS as u64);
    let letters = own.next();
    for syllable in 0..2 + letters % 4 {
        into.extend_from_slice(SYLLABLES[(letters >> (8 + 4 * syllable)) as usize % SYLLABLES.len()]);
    }
    into.extend_from_slice(match drawn >> 60 {
        0 => b"();\n    ",
        1 => b" = ",
        2 => b"\n",
        _ => b" ",
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PLAN: Plan = Plan { files: 2_000, bytes: 20_000_000, seed: 7 };

    #[test]
    fn a_repository_has_as_many_files_and_bytes_as_were_asked_for_and_is_the_same_each_time() {
        let entries = PLAN.entries();
        assert_eq!(entries, PLAN.entries());
        assert_ne!(entries, Plan { seed: 8, ..PLAN }.entries());
        let paths: BTreeSet<_> = entries.iter().map(|entry| &entry.path).collect();
        assert_eq!(paths.len(), PLAN.files);
        assert_eq!(entries.iter().map(|entry| entry.bytes).sum::<u64>(), PLAN.bytes);
        for entry in entries.iter().step_by(100) {
            let content = entry.content();
            assert_eq!(content.len() as u64, entry.bytes);
            assert_eq!(content, entry.content());
        }
    }

    #[test]
    fn most_files_are_small_and_a_few_are_large() {
        let mut sizes: Vec<u64> = PLAN.entries().iter().map(|entry| entry.bytes).collect();
        sizes.sort_unstable();
        let mean = PLAN.bytes / PLAN.files as u64;
        assert!(sizes[PLAN.files / 2] < mean / 3, "{}", sizes[PLAN.files / 2]);
        assert!(sizes[PLAN.files - 1] > 20 * mean, "{}", sizes[PLAN.files - 1]);
    }
}

//! Every target over its seeds: the vectors that it begins with, and whatever it once found.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by them"
)]

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use agentsandbox_fuzz::TARGETS;

/// Largest seed.
const SEED_BYTES_MAX: usize = 8 * 1024;

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn p_i9_every_target_holds_over_its_seeds_and_each_of_their_beginnings() {
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.len() > 4, "{name} has {} seeds", seeds.len());
        for (path, seed) in seeds {
            assert!(seed.len() <= SEED_BYTES_MAX, "{} is too large", path.display());
            // A peer may have said as much as this, and no more yet.
            let step = seed.len() / 64 + 1;
            let ends = (0..seed.len()).step_by(step).chain([seed.len()]);
            for end in ends {
                if catch_unwind(|| target(&seed[..end])).is_err() {
                    failed.push(format!("{name} {} up to {end}", path.display()));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn each_target_has_a_program_and_a_place_in_the_documents() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = fs::read_dir(root.join("fuzz_targets")).unwrap();
    let programs: BTreeSet<String> = programs
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(programs, targets);
    let document = fs::read_to_string(root.join("../docs/fuzzing.md")).unwrap();
    for (name, _) in TARGETS {
        assert!(
            document.contains(&format!("| `{name}` |")),
            "docs/fuzzing.md does not say what {name} claims"
        );
        let program = fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("agentsandbox_fuzz::{name}(data)")), "{name} runs another target");
    }
}

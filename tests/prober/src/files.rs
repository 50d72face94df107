//! Looks for a secret in everything that the agent can read, without holding the secret.
//!
//! The secret comes as length, rolling hash and SHA-256. The rolling hash slides over every byte of every file; where it
//! matches, SHA-256 decides. Read are regular files, and of each process its environment, command line and mounts.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// An odd multiplier; the hash is a polynomial in it, modulo 2^64.
const BASE: u64 = 0x0000_0100_0000_01b3;
const PROCESS_FILES: [&str; 3] = ["environ", "cmdline", "mountinfo"];

/// A secret, as its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needle {
    length: usize,
    rolling: u64,
    sha256: String,
}

/// What a search came to.
#[derive(Debug, Default, Serialize)]
pub struct Found {
    /// Files that were read, so that a search which saw nothing is not mistaken for one that found nothing.
    read: u32,
    /// Bytes that were read.
    bytes: u64,
    /// Where a secret is.
    found: Vec<PathBuf>,
}

impl Needle {
    /// The digest of a secret.
    pub fn of(secret: &[u8]) -> Self {
        Self { length: secret.len(), rolling: rolling(secret), sha256: sha256(secret) }
    }
}

impl fmt::Display for Needle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.length, self.rolling, self.sha256)
    }
}

impl FromStr for Needle {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || "a digest is length:rolling:sha256, as `digest` prints it".to_owned();
        let parts: Vec<&str> = text.split(':').collect();
        let [length, rolling, sha256] = parts.as_slice() else { return Err(malformed()) };
        let length = length.parse().ok().filter(|length| *length > 0).ok_or_else(malformed)?;
        Ok(Self { length, rolling: rolling.parse().map_err(|_| malformed())?, sha256: (*sha256).to_owned() })
    }
}

fn rolling(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |hash: u64, byte| hash.wrapping_mul(BASE).wrapping_add(u64::from(*byte)))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Searches everything below `root`.
pub fn search(root: &Path, needles: &[Needle]) -> Found {
    let mut found = Found::default();
    walk(root, needles, &mut found);
    found
}

fn walk(folder: &Path, needles: &[Needle], found: &mut Found) {
    if folder == Path::new("/proc") {
        return processes(needles, found);
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && entry.path() != Path::new("/sys") => {
                walk(&entry.path(), needles, found)
            }
            Ok(kind) if kind.is_file() => look(&entry.path(), needles, found),
            _ => {}
        }
    }
}

fn processes(needles: &[Needle], found: &mut Found) {
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().parse::<u32>().is_ok() {
            for name in PROCESS_FILES {
                look(&entry.path().join(name), needles, found);
            }
        }
    }
}

fn look(path: &Path, needles: &[Needle], found: &mut Found) {
    let Ok(file) = File::open(path) else { return };
    found.read += 1;
    let mut bytes = Vec::new();
    if BufReader::new(file).read_to_end(&mut bytes).is_err() {
        return;
    }
    found.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if needles.iter().any(|needle| holds(&bytes, needle)) {
        found.found.push(path.to_owned());
    }
}

fn holds(bytes: &[u8], needle: &Needle) -> bool {
    let Some(first) = bytes.get(..needle.length) else { return false };
    let exponent = u32::try_from(needle.length.saturating_sub(1)).unwrap_or(u32::MAX);
    let highest = BASE.wrapping_pow(exponent);
    let matches = |hash: u64, window: &[u8]| hash == needle.rolling && sha256(window) == needle.sha256;
    let mut hash = rolling(first);
    if matches(hash, first) {
        return true;
    }
    bytes.windows(needle.length).zip(bytes.windows(needle.length).skip(1)).any(|(before, window)| {
        let leaves = before.first().copied().unwrap_or(0);
        let enters = window.last().copied().unwrap_or(0);
        hash = hash.wrapping_sub(u64::from(leaves).wrapping_mul(highest)).wrapping_mul(BASE);
        hash = hash.wrapping_add(u64::from(enters));
        matches(hash, window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_wherever_it_stands_and_nowhere_else() {
        let needle: Needle = Needle::of(b"s3cret-canary").to_string().parse().unwrap();
        for text in ["s3cret-canary", "xx s3cret-canary", "s3cret-canary yy", "a s3cret-canary b"] {
            assert!(holds(text.as_bytes(), &needle), "{text}");
        }
        for text in ["", "s3cret", "s3cret-canarx", "canary-s3cret and more text that is longer"] {
            assert!(!holds(text.as_bytes(), &needle), "{text}");
        }
    }

    #[test]
    fn a_digest_that_is_none_is_refused() {
        for text in ["", "1:2", "0:0:00", "a:b:c", "1:2:3:4"] {
            assert!(text.parse::<Needle>().is_err(), "{text}");
        }
    }
}

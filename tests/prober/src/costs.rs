//! What the kernel under a pod charges: small files, files opened again, the cheapest system call, and none at all.
//!
//! It judges nothing; `cargo xtask bench isolation` has it run under each runtime in turn.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};

/// Small files that are made in each folder.
const FILES: u32 = 10_000;
/// Bytes of each: a source file is seldom smaller, and what is measured is the file and not its content.
const FILE_BYTES: usize = 128;
/// How often one file is opened and closed again.
const OPENS: u32 = 20_000;
/// How often the process asks for its own id, which no library remembers for it.
const CALLS: u32 = 200_000;
/// Mebibytes that are hashed without a system call.
const HASHED_MIB: u32 = 64;

/// What was charged.
#[derive(Debug, Serialize)]
pub struct Costs {
    /// By folder, in the order in which they were given: milliseconds for all of [`FILES`].
    create_millis: Vec<f64>,
    /// By folder: microseconds for one file opened and closed.
    open_micros: Vec<f64>,
    /// Nanoseconds for one system call.
    call_nanos: f64,
    /// Milliseconds for [`HASHED_MIB`].
    hash_millis: f64,
}

/// Measures it.
///
/// # Errors
/// When a folder cannot be written.
pub fn measure(folders: &[PathBuf]) -> std::io::Result<Costs> {
    let mut costs =
        Costs { create_millis: Vec::new(), open_micros: Vec::new(), call_nanos: 0.0, hash_millis: 0.0 };
    for folder in folders {
        let inner = folder.join("files");
        fs::create_dir(&inner)?;
        costs.create_millis.push(millis(create(&inner)?));
        costs.open_micros.push(millis(open(&inner.join("0"))?) * 1000.0 / f64::from(OPENS));
        fs::remove_dir_all(&inner)?;
    }
    let begin = Instant::now();
    (0..CALLS).for_each(|_| _ = black_box(std::process::id()));
    costs.call_nanos = millis(begin.elapsed()) * 1e6 / f64::from(CALLS);
    costs.hash_millis = millis(hash());
    Ok(costs)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn create(folder: &Path) -> std::io::Result<Duration> {
    let content = [b'x'; FILE_BYTES];
    let begin = Instant::now();
    for number in 0..FILES {
        File::create_new(folder.join(number.to_string()))?.write_all(&content)?;
    }
    Ok(begin.elapsed())
}

fn open(file: &Path) -> std::io::Result<Duration> {
    let begin = Instant::now();
    for _ in 0..OPENS {
        drop(black_box(File::open(file)?));
    }
    Ok(begin.elapsed())
}

fn hash() -> Duration {
    let block = vec![7; 1 << 20];
    let begin = Instant::now();
    let mut hasher = Sha256::new();
    (0..HASHED_MIB).for_each(|_| hasher.update(&block));
    black_box(hasher.finalize());
    begin.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_is_charged_for_and_is_left_as_it_was() {
        let folder = std::env::temp_dir().join(format!("costs-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let costs = measure(&[folder.clone(), folder.clone()]).unwrap();
        assert_eq!((costs.create_millis.len(), costs.open_micros.len()), (2, 2));
        let all = costs.create_millis.iter().chain(&costs.open_micros);
        assert!(all.chain([&costs.call_nanos, &costs.hash_millis]).all(|cost| *cost > 0.0), "{costs:?}");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir(&folder).unwrap();
    }
}

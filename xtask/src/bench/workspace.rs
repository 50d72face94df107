//! `cargo xtask bench workspace`: how long a large repository takes until the agent runs.
//!
//! It has a cluster of its own, made anew and removed, whose state lies in an ext4 of its own. A machine's disk may take milliseconds for
//! each file that is removed, as one does whose free space is told to whoever serves it, and every sandbox of 20,000 files is removed before
//! the next one starts; and what else the machine's file system does would be in the samples.

use std::fs::{self, File};
use std::path::PathBuf;

use clap::Args;

use crate::cluster::{Cluster, down};
use crate::failure::{During, Result};
use crate::{paths, shell};

/// Rounds below which nothing is kept: one that is not counted, and two to compare.
const ROUNDS_MIN: u8 = 3;
/// Name of the cluster.
const CLUSTER: &str = "bench-workspace";
/// What the file system may take: images, and some volumes of 200 MB at once. The file has holes where nothing was written.
const DISK_BYTES: u64 = 24 << 30;
const PROGRAM: &str = "bench-workspace";

/// How much of it.
#[derive(Args, Clone, Debug)]
pub struct WorkspaceArgs {
    /// Rounds, of which the first is not counted where there are more.
    #[arg(long, default_value_t = ROUNDS_MIN, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Only cases whose names contain one of these, such as `git` or `runsc-archive-overlay`. What is measured is then shown and not kept.
    #[arg(long, value_delimiter = ',')]
    case: Vec<String>,
}

impl WorkspaceArgs {
    /// Whether what is measured is fit for the document.
    pub(super) fn is_whole(&self) -> bool {
        self.case.is_empty() && self.rounds >= ROUNDS_MIN
    }

    /// As the program of the measurement takes it.
    fn told(&self) -> Vec<String> {
        [self.rounds.to_string()].into_iter().chain(self.case.iter().cloned()).collect()
    }
}

/// Measures, keeps the samples, and returns the tables.
///
/// # Errors
/// When the cluster cannot be brought up, or a measurement cannot be made.
pub fn measure(args: &WorkspaceArgs) -> Result<String> {
    let cluster = Cluster::named(CLUSTER)?;
    let samples = if args.is_whole() {
        super::samples("workspace")
    } else {
        paths::target().join("bench-workspace.json")
    };
    // What a run that was killed left.
    down::down(&cluster)?;
    let disk = Disk::mounted(&cluster)?;
    let measured = super::on_a_cluster(&cluster, PROGRAM, &samples, &args.told());
    down::down(&cluster)?;
    disk.remove()?;
    measured
}

/// The file system of the cluster's state.
struct Disk {
    file: PathBuf,
    folder: PathBuf,
}

impl Disk {
    fn mounted(cluster: &Cluster) -> Result<Self> {
        let (folder, file) = (cluster.state(), paths::clusters().join(format!("{CLUSTER}.ext4")));
        let disk = Self { file, folder };
        disk.unmount()?;
        fs::create_dir_all(&disk.folder).during(format!("{} cannot be made", disk.folder.display()))?;
        let made = File::create(&disk.file).and_then(|file| file.set_len(DISK_BYTES));
        made.during(format!("{} cannot be written", disk.file.display()))?;
        let (file, folder) = (disk.file.display().to_string(), disk.folder.display().to_string());
        shell::run("mkfs.ext4", &["-q", &file])?;
        shell::run("mount", &["-o", "loop", &file, &folder])?;
        Ok(disk)
    }

    fn unmount(&self) -> Result<()> {
        if self.folder.exists() && down::is_mounted(&self.folder) {
            shell::run("umount", &[&self.folder.display().to_string()])?;
        }
        Ok(())
    }

    fn remove(&self) -> Result<()> {
        self.unmount()?;
        fs::remove_file(&self.file).during(format!("{} cannot be removed", self.file.display()))?;
        fs::remove_dir(&self.folder).during(format!("{} cannot be removed", self.folder.display()))
    }
}

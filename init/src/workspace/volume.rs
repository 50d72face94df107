//! What lies in the volume: the tree, and beside it the report of the run that finished it. The agent sees the tree alone.
//!
//! A pod whose sandbox is started again runs its init containers again, on the volume as it is. By then the tree is the agent's, with
//! its work in it: one that was finished is left as it is. The report is written last, and only once the file system has said that the
//! tree is on its disk, so a tree without a report was never seen by an agent, and a node that crashes leaves no half tree with one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use agentsandbox_report::{REPORT_BYTES_MAX, WORKSPACE_VERSION, WorkspaceReport, WorkspaceVerdict};

/// The tree's name in the volume.
pub const TREE: &str = "tree";
/// The report of the run that finished it.
pub const REPORT: &str = "report.json";
/// That report while it is written.
const UNFINISHED: &str = "report.json.unfinished";

/// The report of an earlier run, if that one put the tree in its place, and its original where it is kept.
pub fn finished(volume: &Path, original: Option<&Path>) -> Option<WorkspaceReport> {
    let bytes = fs::read(volume.join(REPORT)).ok().filter(|bytes| bytes.len() <= REPORT_BYTES_MAX)?;
    let report: WorkspaceReport = serde_json::from_slice(&bytes).ok()?;
    let is_whole = report.version == WORKSPACE_VERSION && report.verdict == WorkspaceVerdict::Unpacked;
    let has_tree = |volume: &Path| fs::symlink_metadata(volume.join(TREE)).is_ok_and(|tree| tree.is_dir());
    (is_whole && has_tree(volume) && original.is_none_or(has_tree)).then_some(report)
}

/// Takes away all that a run which did not finish left.
pub fn clear(volume: &Path) -> io::Result<()> {
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        let is_folder = entry.file_type()?.is_dir();
        if is_folder { fs::remove_dir_all(entry.path())? } else { fs::remove_file(entry.path())? }
    }
    Ok(())
}

/// Puts everything that was written onto the disk.
pub fn sync(volume: &Path) -> io::Result<()> {
    rustix::fs::syncfs(File::open(volume)?).map_err(io::Error::from)
}

/// Says that the tree is in its place, once it is there for good.
pub fn finish(volume: &Path, report: &WorkspaceReport) -> io::Result<()> {
    finish_after(volume, report, |volume| rustix::fs::syncfs(volume).map_err(io::Error::from))
}

/// The same, with what puts everything that was written onto the disk.
pub fn finish_after(
    volume: &Path,
    report: &WorkspaceReport,
    sync: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let folder = File::open(volume)?;
    sync(&folder)?;
    let mut file = File::create(volume.join(UNFINISHED))?;
    file.write_all(&serde_json::to_vec(report)?)?;
    file.sync_all()?;
    fs::rename(volume.join(UNFINISHED), volume.join(REPORT))?;
    folder.sync_all()
}

//! What lies in the volume: the tree, and beside it the report of the run that finished it. The agent sees the tree alone.
//!
//! A pod whose sandbox is started again runs its init containers again, on the volume as it is. By then the tree is the agent's, with
//! its work in it: one that was finished is left as it is. The report is written last, so a tree without one was never seen by an agent.

use std::fs;
use std::io;
use std::path::Path;

use agentsandbox_report::{REPORT_BYTES_MAX, WORKSPACE_VERSION, WorkspaceReport, WorkspaceVerdict};

/// The tree's name in the volume.
pub const TREE: &str = "tree";
/// The report of the run that finished it.
const REPORT: &str = "report.json";
/// That report while it is written.
const UNFINISHED: &str = "report.json.unfinished";

/// The report of an earlier run, if that one put the tree in its place.
pub fn finished(volume: &Path) -> Option<WorkspaceReport> {
    let bytes = fs::read(volume.join(REPORT)).ok().filter(|bytes| bytes.len() <= REPORT_BYTES_MAX)?;
    let report: WorkspaceReport = serde_json::from_slice(&bytes).ok()?;
    let is_whole = report.version == WORKSPACE_VERSION && report.verdict == WorkspaceVerdict::Unpacked;
    let has_tree = fs::symlink_metadata(volume.join(TREE)).is_ok_and(|tree| tree.is_dir());
    (is_whole && has_tree).then_some(report)
}

/// Takes away what a run that did not finish left; what it staged goes when the next one begins.
pub fn clear(volume: &Path) -> io::Result<()> {
    match fs::remove_dir_all(volume.join(TREE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Says that the tree is in its place.
pub fn finish(volume: &Path, report: &WorkspaceReport) -> io::Result<()> {
    fs::write(volume.join(UNFINISHED), serde_json::to_vec(report)?)?;
    fs::rename(volume.join(UNFINISHED), volume.join(REPORT))
}

//! What lies in the volume: the tree, and beside it the report of the run that finished it, and of a persistent volume the UID of its
//! claim. The agent sees the tree alone.
//!
//! A pod whose sandbox is started again runs its init containers again, on the volume as it is. By then the tree is the agent's, with
//! its work in it: one that was finished is left as it is. So it is with another pod on a persistent volume, where nothing that an agent
//! left in the tree is looked at, and of which a later version may not understand the report: there that is no reason to begin anew. A
//! driver may give a new claim an old folder, or an administrator a volume with data, so a persistent volume is marked with its claim's UID
//! before anything else is put there: in one that bears another's, or none and is not empty, nothing is believed and nothing touched.
//! The report is written last, and only once the file system has said that the
//! tree is on its disk, so a tree without a report was never seen by an agent, and a node that crashes leaves no half tree with one.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use agentsandbox_report::{REPORT_BYTES_MAX, WORKSPACE_VERSION, WorkspaceReport, WorkspaceVerdict};

/// The tree's name in the volume.
pub const TREE: &str = "tree";
/// The report of the run that finished it.
pub const REPORT: &str = "report.json";
/// The UID of the claim that the volume is.
pub const CLAIM: &str = "claim";
/// Bytes of that file beyond which it is none of ours.
const CLAIM_BYTES_MAX: usize = 256;
/// That file while it is written.
const UNFINISHED_CLAIM: &str = "claim.unfinished";
/// What a file system of its own has at its root.
const FILE_SYSTEMS_OWN: &str = "lost+found";
/// That report while it is written.
const UNFINISHED: &str = "report.json.unfinished";

/// Takes a volume for the claim with this UID: one that is empty is marked with it.
///
/// # Errors
/// When it is another's, or holds what no run of this step has put there; then nothing in it was touched.
pub fn take(volume: &Path, uid: &str) -> io::Result<()> {
    const LEFT_ALONE: &str =
        "nothing in it is touched: save what is needed, and give the claim a volume that is empty";
    match read(&volume.join(CLAIM), CLAIM_BYTES_MAX) {
        Ok(found) if found == uid.as_bytes() => return Ok(()),
        Ok(_) => {
            return Err(io::Error::other(format!("the volume was filled for another claim; {LEFT_ALONE}")));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    for entry in fs::read_dir(volume)? {
        let name = entry?.file_name();
        if name != FILE_SYSTEMS_OWN && name != UNFINISHED_CLAIM {
            return Err(io::Error::other(format!("the volume was not empty when it was new; {LEFT_ALONE}")));
        }
    }
    let folder = File::open(volume)?;
    put(volume, &folder, (UNFINISHED_CLAIM, CLAIM), uid.as_bytes())
}

/// Reads a small file. A link, a pipe and whatever else is no file is an error, and nothing waits for it.
fn read(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{} is no file", path.display())));
    }
    let mut bytes = Vec::new();
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    match bytes.len() <= bytes_max {
        true => Ok(bytes),
        false => Err(io::Error::other(format!("{} is too long", path.display()))),
    }
}

/// Puts a file in its place once it is whole and on the disk.
fn put(volume: &Path, folder: &File, (unfinished, name): (&str, &str), bytes: &[u8]) -> io::Result<()> {
    let path = volume.join(unfinished);
    if let Err(error) = fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = File::create_new(&path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(path, volume.join(name))?;
    folder.sync_all()
}

/// The report of an earlier run, if that one put the tree in its place, and its original where it is kept.
pub fn finished(volume: &Path, original: Option<&Path>) -> Option<WorkspaceReport> {
    let bytes = read(&volume.join(REPORT), REPORT_BYTES_MAX).ok()?;
    let report: WorkspaceReport = serde_json::from_slice(&bytes).ok()?;
    let is_whole = report.version == WORKSPACE_VERSION && report.verdict == WorkspaceVerdict::Unpacked;
    let has_tree = |volume: &Path| fs::symlink_metadata(volume.join(TREE)).is_ok_and(|tree| tree.is_dir());
    (is_whole && has_tree(volume) && original.is_none_or(has_tree)).then_some(report)
}

/// Where there is a report that says nothing, an agent has worked in the tree, and nobody takes that away: it was written by another
/// version, or it is damaged.
pub fn check_unreported(volume: &Path) -> io::Result<()> {
    match fs::symlink_metadata(volume.join(REPORT)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::other(
            "the volume was filled before, and what report.json in it says of that cannot be read; nothing in it is touched: mount the claim in a pod of your own to save what is in the folder tree, and create the sandbox anew",
        )),
    }
}

/// Takes away all that a run which did not finish left, but for the mark of its claim.
pub fn clear(volume: &Path) -> io::Result<()> {
    for entry in fs::read_dir(volume)? {
        let entry = entry?;
        if entry.file_name() == FILE_SYSTEMS_OWN || entry.file_name() == CLAIM {
            continue;
        }
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
    put(volume, &folder, (UNFINISHED, REPORT), &serde_json::to_vec(report)?)
}

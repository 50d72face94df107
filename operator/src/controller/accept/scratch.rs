//! Scratch: what the agent may write beside its workspace, and whether it all fits.
//!
//! A folder in memory takes of the pod's memory limit, which no folder raises: the limit is what the pod may take, and what its class
//! allows. So folders that could take all of it are refused here, before a program is killed for what lies in /tmp.

use agentsandbox_crds::sandbox::{AgentSandbox, ProcessSandbox};
use agentsandbox_crds::scratch::{Medium, Scratch};

use super::limits::{DISK_BYTES_MIN, Limits, MEMORY_BYTES_MIN};
use super::{Rejection, RejectionReason, reject, workspace};
use crate::controller::desired::environment::HOME_DIR;
use crate::quantity;

const TMP_DIR: &str = "/tmp";
/// Sizes in memory where the sandbox names none: those of the guide that this project implements.
const TMP_BYTES: i64 = 100 << 20;
const HOME_BYTES: i64 = 500 << 20;

/// A folder that the agent may write, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Name of its volume, which no tenant chooses.
    pub volume: String,
    /// Where the agent sees it.
    pub path: String,
    /// Its size in bytes.
    pub bytes: i64,
    /// What it is made of.
    pub medium: Medium,
}

/// Reads the folders of one sandbox.
struct Reader<'a> {
    limits: &'a Limits,
    faults: &'a mut Vec<Rejection>,
}

/// The folders: /tmp, the home folder, and those that the sandbox adds. Without limits, which have faults of their own, none is judged.
pub(super) fn scratch(
    sandbox: &AgentSandbox,
    limits: Option<&Limits>,
    faults: &mut Vec<Rejection>,
) -> Vec<Folder> {
    let Some(limits) = limits else { return Vec::new() };
    let workspace = workspace::in_memory(sandbox, limits.workspace_bytes);
    let Some(asked) = &sandbox.spec.scratch else {
        room(&[], workspace, limits, faults);
        let on_disk = |volume: &str, path: &str| Folder {
            volume: volume.to_owned(),
            path: path.to_owned(),
            bytes: limits.ephemeral_bytes,
            medium: Medium::Disk,
        };
        return vec![on_disk("tmp", TMP_DIR), on_disk("home", HOME_DIR)];
    };
    let folders = Reader { limits, faults: &mut *faults }.folders(asked);
    if let Some(confinement) = &sandbox.spec.agent.process_sandbox {
        below_a_folder(asked, confinement, faults);
    }
    room(&folders, workspace, limits, faults);
    folders
}

impl Reader<'_> {
    fn folders(&mut self, asked: &Scratch) -> Vec<Folder> {
        let medium = asked.medium.unwrap_or(Medium::Memory);
        let own = [("tmp", TMP_DIR, &asked.tmp, TMP_BYTES), ("home", HOME_DIR, &asked.home, HOME_BYTES)];
        let mut all = Vec::new();
        for (name, path, size, in_memory) in own {
            let bytes = match (size, medium) {
                (Some(size), _) => self.bytes(&format!("spec.scratch.{name}"), size, medium),
                (None, Medium::Memory) => Some(in_memory),
                (None, Medium::Disk) => Some(self.limits.ephemeral_bytes),
            };
            let (volume, path) = (name.to_owned(), path.to_owned());
            all.extend(bytes.map(|bytes| Folder { volume, path, bytes, medium }));
        }
        for (index, folder) in asked.additional.iter().enumerate() {
            let medium = folder.medium.unwrap_or(medium);
            let field = format!("spec.scratch.additional[{index}].sizeLimit");
            let bytes = self.bytes(&field, &folder.size_limit, medium);
            let (volume, path) = (format!("scratch-{index}"), folder.path.clone());
            all.extend(bytes.map(|bytes| Folder { volume, path, bytes, medium }));
        }
        all
    }

    fn bytes(&mut self, field: &str, size: &str, medium: Medium) -> Option<i64> {
        let disk = self.limits.ephemeral_bytes;
        let message = match quantity::bytes(size) {
            None => format!("{size} is no quantity; write a positive number such as 100Mi"),
            Some(bytes) if bytes < DISK_BYTES_MIN => {
                format!("{size} is too little to write anything into; write at least 1Mi")
            }
            Some(bytes) if bytes > disk && medium == Medium::Disk => format!(
                "{size} is more than the {} that the sandbox may take of the node's disk; write at most that, or more in spec.resources.limits.ephemeralStorage",
                quantity::text(disk)
            ),
            Some(bytes) => return Some(bytes),
        };
        reject(self.faults, RejectionReason::InvalidField, field, message);
        None
    }
}

/// Folders in memory, and the workspace where it is one, leave the program what no sandbox can do without.
fn room(folders: &[Folder], workspace: i64, limits: &Limits, faults: &mut Vec<Rejection>) {
    let in_memory = folders.iter().filter(|folder| folder.medium == Medium::Memory);
    let scratch = in_memory.map(|folder| folder.bytes).fold(0, i64::saturating_add);
    let taken = scratch.saturating_add(workspace);
    let needed = taken.saturating_add(MEMORY_BYTES_MIN);
    if taken == 0 || needed <= limits.memory_bytes {
        return;
    }
    let (field, sizes) = match (scratch, workspace) {
        (_, 0) => ("spec.scratch", "tmp, home, additional"),
        (0, _) => ("spec.workspace.sizeLimit", "sizeLimit"),
        _ => ("spec.scratch", "tmp, home, additional, and spec.workspace.sizeLimit"),
    };
    let message = format!(
        "the sandbox's folders in memory may take {}, and a program needs {} beside them, which is more than its memory limit of {}; write smaller sizes ({sizes}), or medium: Disk, or at least {} in spec.resources.limits.memory",
        quantity::text(taken),
        quantity::text(MEMORY_BYTES_MIN),
        quantity::text(limits.memory_bytes),
        quantity::text(needed),
    );
    reject(faults, RejectionReason::InvalidField, field, message);
}

/// What lies below a folder that the agent may write, it can replace by a link before its program is started again. Of the folders that
/// every sandbox has, the schema says so.
fn below_a_folder(asked: &Scratch, confinement: &ProcessSandbox, faults: &mut Vec<Rejection>) {
    let read = confinement.read_paths.iter().flatten();
    let named = read
        .map(|path| ("readPaths", path))
        .chain(confinement.no_execute_paths.iter().map(|path| ("noExecutePaths", path)));
    for (list, path) in named {
        let is_below = |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        if let Some(folder) = asked.additional.iter().find(|folder| is_below(&folder.path)) {
            let message = format!(
                "{path} lies below {}, where the agent may leave a link to anywhere for its next start; name {} itself",
                folder.path, folder.path
            );
            let field = format!("spec.agent.processSandbox.{list}");
            reject(faults, RejectionReason::InvalidField, field, message);
        }
    }
}

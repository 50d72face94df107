//! How an agent's program starts in a process sandbox, or with execution withheld in its scratch: by a copy of the fence's own program, which gives up what the sandbox
//! says, sees that it is gone, and becomes the program.
//!
//! The fence leaves the copy in a volume of its own, once it has seen that this kernel can confine it. The agent mounts the volume
//! read-only: with no capability it cannot change that, so it starts by the same program again each time its container does.

use agentsandbox_crds::sandbox::ProcessSandbox;
use k8s_openapi::api::core::v1::{Volume, VolumeMount};

use super::pods::{empty_dir, mount, read_only};
use super::workspace::WORKSPACE_DIR;
use crate::controller::accept::{Confinement, Folder, Means};

/// Where fence and agent see the program.
pub const PROGRAM_DIR: &str = "/etc/agentsandbox/program";
/// Most that the program takes of the pod's disk space: what its image may have.
pub const PROGRAM_BYTES: i64 = 64 << 20;
const PROGRAM: &str = "program";
/// Its name there, which the fence gives it.
const FILE: &str = "agentsandbox-init";
/// What the operator mounts for every agent to read: trust files, and the program.
const OWN_DIR: &str = "/etc/agentsandbox";
/// Null, random numbers, terminals and shared memory: nothing runs without them.
const DEVICES_DIR: &str = "/dev";

pub(super) fn volume() -> Volume {
    empty_dir(PROGRAM, PROGRAM_BYTES)
}

pub(super) fn fences_mount() -> VolumeMount {
    mount(PROGRAM, PROGRAM_DIR)
}

pub(super) fn agents_mount() -> VolumeMount {
    read_only(PROGRAM, PROGRAM_DIR)
}

/// What comes before the program and its arguments. With an equals sign, no value could be taken for a flag. Where the sandbox does not say
/// what the agent may write, it is all volumes that are its own.
pub(super) fn command(confinement: &Confinement, scratch: &[Folder]) -> Vec<String> {
    let mut all = vec![format!("{PROGRAM_DIR}/{FILE}"), "run".to_owned()];
    match confinement.means {
        Means::Landlock => granted(&confinement.files, scratch, &mut all),
        Means::Mounts => all.push("--by-mounts".to_owned()),
    }
    all.extend(confinement.files.no_execute_paths.iter().map(|path| format!("--no-execute={path}")));
    all.push("--".to_owned());
    all
}

fn granted(asked: &ProcessSandbox, scratch: &[Folder], all: &mut Vec<String>) {
    let mut flag = |name: &str, path: &str| all.push(format!("--{name}={path}"));
    if let Some(paths) = &asked.read_paths {
        [DEVICES_DIR, OWN_DIR].into_iter().for_each(|path| flag("read", path));
        paths.iter().for_each(|path| flag("read", path));
    }
    flag("write", DEVICES_DIR);
    match &asked.write_paths {
        Some(paths) => paths.iter().for_each(|path| flag("write", path)),
        None => {
            flag("write", WORKSPACE_DIR);
            scratch.iter().for_each(|folder| flag("write", &folder.path));
        }
    }
}

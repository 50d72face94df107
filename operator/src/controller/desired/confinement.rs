//! How an agent's program starts in a process sandbox, with execution withheld in its scratch, or without a network: by a copy of the fence's own program, which gives up what the sandbox
//! says, sees that it is gone, and becomes the program.
//!
//! The fence leaves the copy in a volume of its own, once it has seen that this kernel can confine it. The agent mounts the volume
//! read-only: with no capability it cannot change that, so it starts by the same program again each time its container does.

use std::net::Ipv4Addr;

use agentsandbox_crds::names::{AGENT_PROGRAM, AGENT_PROGRAM_RUN};
use agentsandbox_crds::sandbox::ProcessSandbox;
use k8s_openapi::api::core::v1::{Volume, VolumeMount};

use super::pods::{empty_dir, mount, read_only};
use super::workspace::WORKSPACE_DIR;
use crate::controller::accept::{Accepted, Confinement, Folder, Means};
use crate::controller::apply::Sealed;

/// Where fence and agent see the program.
pub const PROGRAM_DIR: &str = "/etc/agentsandbox/program";
/// Most that the program takes of the pod's disk space: what its image may have.
pub const PROGRAM_BYTES: i64 = 64 << 20;
const PROGRAM: &str = "program";
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
pub(super) fn command(confinement: &Confinement, scratch: &[Folder], sealed: &Sealed) -> Vec<String> {
    let own = [AGENT_PROGRAM, AGENT_PROGRAM_RUN].map(str::to_owned);
    own.into_iter().chain(flags(confinement, scratch, sealed)).chain(["--".to_owned()]).collect()
}

/// By which arguments the program is started. The fence is told them as well, and tells whoever enters the agent's container later.
pub(super) fn flags(confinement: &Confinement, scratch: &[Folder], sealed: &Sealed) -> Vec<String> {
    let mut all = Vec::new();
    match confinement.means {
        Means::Landlock => granted(&confinement.files, scratch, &mut all),
        Means::Mounts => all.extend(by_mounts(confinement).then(|| "--by-mounts".to_owned())),
    }
    if confinement.without_network {
        all.extend(["--no-network".to_owned(), format!("--proxy={}", sealed.proxy_address())]);
    }
    all.extend(confinement.files.no_execute_paths.iter().map(|path| format!("--no-execute={path}")));
    all
}

/// Whether execution is withheld by mounts.
pub(super) fn by_mounts(confinement: &Confinement) -> bool {
    confinement.means == Means::Mounts && !confinement.files.no_execute_paths.is_empty()
}

/// Where the agent finds its proxy: at the Service, or, where it has no network, at the entrances' ports on its own loopback, from which what
/// is sent is carried to the Service.
pub(super) fn proxy_address(accepted: &Accepted, sealed: &Sealed) -> Ipv4Addr {
    let without_network = accepted.confinement.as_ref().is_some_and(|asked| asked.without_network);
    if without_network { Ipv4Addr::LOCALHOST } else { sealed.proxy_address() }
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

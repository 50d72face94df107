//! The container that tells what an agent made of its workspace, where the original stays (`access: Overlay`).
//!
//! It stands in the agent's pod, since the agent's copy lies in that pod's volume, and the agent cannot reach it: it shares no process
//! namespace and no writable mount with it. It waits, in our own image, until somebody who may enter pods has it compare the two trees, both of
//! which it can only read. The original lies in a volume that the agent's container does not have.
//!
//! It runs as the agent's user: without capabilities, no other could read what the agent keeps to itself.

use agentsandbox_crds::names::CONTAINER_REVIEW;
use agentsandbox_crds::scratch::Medium;
use agentsandbox_crds::workspace::WorkspaceAccess;
use k8s_openapi::api::core::v1::{Container, ResourceRequirements, Volume, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::pods::{container_security, empty_dir_of, mount, read_only};
use super::workspace::{TREE, VOLUME, WORKSPACE_DIR};
use crate::controller::accept::{Accepted, Limits};
use crate::platform::Platform;

/// Name of the container.
pub const REVIEW: &str = CONTAINER_REVIEW;
/// The volume of the original.
const ORIGINAL: &str = "original";
/// Where the workspace's step sees the whole of it.
pub(super) const ORIGINAL_DIR: &str = "/var/run/agentsandbox/original";
/// Where the container sees the tree in it: what `agentsandbox-init changes` compares with unless told otherwise.
const REVIEWED_DIR: &str = "/original";
/// What it may take while it compares: names of a million entries, and one processor for a moment.
const MEMORY_BYTES_MAX: i64 = 512 << 20;
const CPU_MILLIS_MAX: i64 = 1000;
/// Its log, in which nothing stands.
const DISK_BYTES: i64 = 16 << 20;

fn keeps_original(accepted: &Accepted) -> bool {
    accepted.source.as_ref().is_some_and(|source| source.access == WorkspaceAccess::Overlay)
}

/// The container: an init container that goes on, so that it stands before the agent starts, and its end is no end of the pod.
pub(super) fn container(accepted: &Accepted, platform: &Platform) -> Option<Container> {
    let tree = |mount: VolumeMount| VolumeMount { sub_path: Some(TREE.to_owned()), ..mount };
    keeps_original(accepted).then(|| Container {
        name: REVIEW.to_owned(),
        image: Some(platform.init_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(vec!["wait".to_owned()]),
        restart_policy: Some("Always".to_owned()),
        resources: Some(resources(&accepted.limits)),
        security_context: Some(container_security()),
        volume_mounts: Some(vec![
            tree(read_only(VOLUME, WORKSPACE_DIR)),
            tree(read_only(ORIGINAL, REVIEWED_DIR)),
        ]),
        ..Container::default()
    })
}

/// It reserves nothing: the pod's reservation is the agent's, and Kubernetes adds up those of containers that run side by side.
fn resources(limits: &Limits) -> ResourceRequirements {
    let all = |cpu: i64, memory: i64| {
        [
            ("cpu".to_owned(), Quantity(format!("{cpu}m"))),
            ("memory".to_owned(), Quantity(memory.to_string())),
            ("ephemeral-storage".to_owned(), Quantity(DISK_BYTES.to_string())),
        ]
    };
    ResourceRequirements {
        limits: Some(
            all(limits.cpu_millis.min(CPU_MILLIS_MAX), limits.memory_bytes.min(MEMORY_BYTES_MAX)).into(),
        ),
        requests: Some(all(0, 0).into()),
        ..ResourceRequirements::default()
    }
}

/// The step's mount of the original, to make it.
pub(super) fn steps_mount(accepted: &Accepted) -> Option<VolumeMount> {
    keeps_original(accepted).then(|| mount(ORIGINAL, ORIGINAL_DIR))
}

/// The volume of the original.
pub(super) fn volume(accepted: &Accepted) -> Option<Volume> {
    let bytes = accepted.limits.workspace_bytes;
    keeps_original(accepted).then(|| empty_dir_of(accepted.workspace_medium, ORIGINAL, bytes))
}

/// Disk space of the original.
pub(super) fn original_bytes(accepted: &Accepted) -> i64 {
    let on_disk = accepted.workspace_medium == Medium::Disk;
    if keeps_original(accepted) && on_disk { accepted.limits.workspace_bytes } else { 0 }
}

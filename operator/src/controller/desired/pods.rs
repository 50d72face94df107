//! What the two pods have in common: hardening, volumes, and the hash by which a changed pod is recognised.

use std::collections::BTreeMap;

use agentsandbox_crds::names::{ANNOTATION_RUNTIME_CLASS, ANNOTATION_SPEC_HASH};
use agentsandbox_crds::sandbox::ImagePullPolicy;
use agentsandbox_crds::scratch::Medium;
use k8s_openapi::api::core::v1::{
    Capabilities, EmptyDirVolumeSource, KeyToPath, PodSecurityContext, PodSpec, SeccompProfile,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sha2::{Digest, Sha256};

/// Files of Secrets: readable by owner and group, for the container's user has the volume's group only.
pub const SECRET_FILE_MODE: i32 = 0o440;

const HASH_BYTES: usize = 8;

/// The hash of a pod's spec.
#[must_use]
fn spec_hash(spec: &PodSpec) -> String {
    let bytes = serde_json::to_vec(spec).unwrap_or_default();
    Sha256::digest(&bytes).iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

/// The annotations that say what a pod's spec was when it was described.
#[must_use]
pub fn annotations(spec: &PodSpec) -> BTreeMap<String, String> {
    BTreeMap::from([
        (ANNOTATION_SPEC_HASH.to_owned(), spec_hash(spec)),
        (ANNOTATION_RUNTIME_CLASS.to_owned(), spec.runtime_class_name.clone().unwrap_or_default()),
    ])
}

/// Pod-level hardening: not root, and the runtime's seccomp profile.
#[must_use]
pub fn pod_security(user: i64) -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(user),
        run_as_group: Some(user),
        fs_group: Some(user),
        // Without this the kubelet walks each volume on each start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// Container-level hardening: no capability, no new privilege, a root filesystem that cannot be written.
#[must_use]
pub fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { add: None, drop: Some(vec!["ALL".to_owned()]) }),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

/// An emptyDir with a size, on the node's disk.
#[must_use]
pub fn empty_dir(name: &str, bytes: i64) -> Volume {
    empty_dir_of(Medium::Disk, name, bytes)
}

/// The largest page of a kernel that Kubernetes runs on.
const PAGE_BYTES: i64 = 64 << 10;

/// An emptyDir with a size. What is in memory counts towards the memory limit of who writes it, and ends with the pod like the other. It is
/// whole pages: a kernel rounds the size of a tmpfs up, and the kubelet evicts a pod whose folder holds more than was written here.
#[must_use]
pub fn empty_dir_of(medium: Medium, name: &str, bytes: i64) -> Volume {
    let (medium, bytes) = match medium {
        Medium::Memory => (Some("Memory".to_owned()), bytes - bytes % PAGE_BYTES),
        Medium::Disk => (None, bytes),
    };
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity(bytes.to_string())), medium }),
        ..Volume::default()
    }
}

/// Some keys of a Secret that the operator made.
#[must_use]
pub fn secret_items(name: &str, secret: &str, items: &[&str]) -> Volume {
    let items =
        items.iter().map(|key| KeyToPath { key: (*key).to_owned(), path: (*key).to_owned(), mode: None });
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            items: Some(items.collect()),
            default_mode: Some(SECRET_FILE_MODE),
            optional: Some(false),
        }),
        ..Volume::default()
    }
}

/// When a node pulls an image.
#[must_use]
pub const fn pull_policy(policy: Option<ImagePullPolicy>) -> &'static str {
    match policy {
        Some(ImagePullPolicy::Always) => "Always",
        Some(ImagePullPolicy::Never) => "Never",
        Some(ImagePullPolicy::IfNotPresent) | None => "IfNotPresent",
    }
}

/// A mount that can be written.
#[must_use]
pub fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// A mount that cannot.
#[must_use]
pub fn read_only(name: &str, path: &str) -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(name, path) }
}

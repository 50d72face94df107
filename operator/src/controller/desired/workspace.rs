//! The step that fetches what the workspace begins with: the agent's second init container, behind the fence. It is given the volume and
//! the trust files, and no token, key or variable. The agent sees the finished tree alone, for only that part of the volume is mounted.
//! A ConfigMap, a claim or an image that the workspace begins with is mounted into the step, to be read, and into nothing else.

use agentsandbox_crds::names::PORT_HTTP_PROXY;
use agentsandbox_crds::workspace::{ClaimSource, ConfigMapSource, ImageSource, WorkspaceAccess};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, ImageVolumeSource, PersistentVolumeClaimVolumeSource,
    ResourceRequirements, Volume, VolumeMount,
};

use super::environment::TRUST_DIR;
use super::pods::{container_security, mount, pull_policy, read_only};
use super::review;
use crate::controller::accept::{Accepted, Origin, Source};
use crate::controller::apply::Sealed;
use crate::platform::Platform;

/// Name of the step's container, whose report status reads.
pub const WORKSPACE: &str = "workspace";
/// The volume.
pub const VOLUME: &str = "workspace";
/// Where the agent sees the tree.
pub const WORKSPACE_DIR: &str = "/workspace";
/// Where the step sees the whole volume.
const VOLUME_DIR: &str = "/var/run/agentsandbox/workspace";
/// The tree's name in the volume, which is the step's to give.
pub(super) const TREE: &str = "tree";

/// The volume of what is copied.
const SOURCE: &str = "source";
/// Where the step sees it.
const SOURCE_DIR: &str = "/var/run/agentsandbox/source";
/// The folder of a ConfigMap's volume in which the kubelet puts one file for each key, behind a link of its own.
const KEYS_DIR: &str = "..data";
/// Mode of these files.
const KEY_FILE_MODE: i32 = 0o444;

/// The step's container; none where the workspace begins empty. Its arguments hold what the sandbox says and the proxy's address, and nothing
/// that another version of the operator would write otherwise: an upgrade ends no agent.
pub(super) fn container(
    accepted: &Accepted,
    platform: &Platform,
    sealed: &Sealed,
    resources: ResourceRequirements,
) -> Option<Container> {
    let source = accepted.source.as_ref()?;
    Some(Container {
        name: WORKSPACE.to_owned(),
        image: Some(platform.init_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(args(source, accepted, sealed)),
        resources: Some(resources),
        security_context: Some(container_security()),
        volume_mounts: Some(
            [mount(VOLUME, VOLUME_DIR), read_only("trust", TRUST_DIR)]
                .into_iter()
                .chain(review::steps_mount(accepted))
                .chain(volume(accepted).map(|volume| read_only(&volume.name, SOURCE_DIR)))
                .collect(),
        ),
        ..Container::default()
    })
}

fn args(source: &Source, accepted: &Accepted, sealed: &Sealed) -> Vec<String> {
    let volume_bytes =
        accepted.persistent.as_ref().map_or(accepted.limits.workspace_bytes, |persistent| persistent.bytes);
    let mut args = vec![WORKSPACE.to_owned()];
    // With an equals sign, a value that begins with a dash is none that could be taken for a flag. Kubernetes expands `$(NAME)`; `$$`
    // stands for a plain `$`.
    let mut flag = |name: &str, value: &str| args.push(format!("--{name}={}", value.replace('$', "$$")));
    flag("proxy", &sealed.proxy_address().to_string());
    flag("proxy-port", &PORT_HTTP_PROXY.to_string());
    flag("trust-bundle", &format!("{TRUST_DIR}/ca-bundle.crt"));
    flag("volume", VOLUME_DIR);
    flag("volume-bytes", &volume_bytes.to_string());
    if source.access == WorkspaceAccess::Overlay {
        flag("original", review::ORIGINAL_DIR);
    }
    match &source.origin {
        Origin::Archive(archive) => {
            flag("url", &archive.url);
            flag("sha256", &archive.sha256);
            if let Some(count) = archive.strip_components.filter(|count| *count > 0) {
                flag("strip-components", &count.to_string());
            }
        }
        Origin::Empty => {}
        Origin::ConfigMap(_) => flag("folder", &format!("{SOURCE_DIR}/{KEYS_DIR}")),
        Origin::Claim(ClaimSource { path, .. }) | Origin::Image(ImageSource { path, .. }) => {
            flag("folder", SOURCE_DIR);
            if let Some(path) = path {
                flag("folder-path", path);
            }
        }
        Origin::Git(git) => {
            flag("git-url", &git.url);
            if let Some(reference) = &git.reference {
                flag("git-ref", reference);
            }
            if let Some(depth) = git.depth {
                flag("git-depth", &depth.to_string());
            }
        }
    }
    if accepted.persistent.is_some() {
        // Of another claim another pod is made, and what lies in a volume is believed for the claim alone for which it was put there.
        flag("claim-uid", sealed.claim().and_then(|claim| claim.metadata.uid.as_deref()).unwrap_or_default());
    }
    source.exclude.iter().for_each(|pattern| flag("exclude", pattern));
    source.include.iter().for_each(|pattern| flag("include", pattern));
    source.sanitize.iter().for_each(|format| flag("sanitize", format.as_str()));
    args.extend((source.origin == Origin::Empty).then(|| "--empty".to_owned()));
    args.extend(accepted.persistent.is_some().then(|| "--persistent".to_owned()));
    args
}

/// The volume of what is copied; none where it is fetched.
pub(super) fn volume(accepted: &Accepted) -> Option<Volume> {
    let volume = Volume { name: SOURCE.to_owned(), ..Volume::default() };
    match &accepted.source.as_ref()?.origin {
        Origin::ConfigMap(ConfigMapSource { name }) => Some(Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: name.clone(),
                default_mode: Some(KEY_FILE_MODE),
                optional: Some(false),
                items: None,
            }),
            ..volume
        }),
        Origin::Claim(ClaimSource { claim_name, .. }) => Some(Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim_name.clone(),
                // The kubelet gives a volume that is written to the pod's group, file by file.
                read_only: Some(true),
            }),
            ..volume
        }),
        Origin::Image(ImageSource { reference, pull_policy: policy, .. }) => Some(Volume {
            image: Some(ImageVolumeSource {
                reference: Some(reference.clone()),
                pull_policy: Some(pull_policy(*policy).to_owned()),
            }),
            ..volume
        }),
        Origin::Archive(_) | Origin::Git(_) | Origin::Empty => None,
    }
}

/// The agent's own mount.
pub(super) fn agents_mount(source: Option<&Source>) -> VolumeMount {
    let Some(source) = source else { return mount(VOLUME, WORKSPACE_DIR) };
    VolumeMount {
        sub_path: Some(TREE.to_owned()),
        read_only: (source.access == WorkspaceAccess::ReadOnly).then_some(true),
        ..mount(VOLUME, WORKSPACE_DIR)
    }
}

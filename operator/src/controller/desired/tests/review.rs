//! The container that tells what an agent changed, where the original stays.

use super::*;
use crate::controller::desired::review::REVIEW;

fn overlay() -> Pod {
    with_access(Some("Overlay"))
}

fn with_access(access: Option<&str>) -> Pod {
    let archive = json!({"url": "https://pypi.org/shop.tar.gz", "sha256": "0".repeat(64)});
    let accepted = accepted(|s| {
        s.spec.workspace = Some(from(json!({"archive": archive, "access": access, "sizeLimit": "2Gi"})));
    });
    agent_pod::pod(&accepted, &platform(), &sealed())
}

fn named<'a>(pod: &'a Pod, name: &str) -> &'a Container {
    containers(pod).find(|container| container.name == name).unwrap()
}

/// Volume, place, part of the volume, and whether it is only read.
fn mounts(container: &Container) -> Vec<(&str, &str, Option<&str>, bool)> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts
        .map(|mount| {
            let is_read_only = mount.read_only == Some(true);
            (mount.name.as_str(), mount.mount_path.as_str(), mount.sub_path.as_deref(), is_read_only)
        })
        .collect()
}

#[test]
fn the_original_is_in_a_volume_that_the_agent_does_not_have() {
    let pod = overlay();
    let names: Vec<&str> = containers(&pod).map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["fence", "workspace", "review", "agent"], "in this order");
    let agent = mounts(named(&pod, "agent"));
    assert!(agent.contains(&("workspace", "/workspace", Some("tree"), false)), "{agent:?}");
    assert!(agent.iter().all(|mount| mount.0 != "original"), "{agent:?}");
    let step = named(&pod, "workspace");
    assert!(mounts(step).contains(&("original", "/var/run/agentsandbox/original", None, false)));
    let args = step.args.as_ref().unwrap();
    assert!(args.contains(&"--original=/var/run/agentsandbox/original".to_owned()), "{args:?}");
    let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
    let size = |name: &str| {
        let volume = volumes.iter().find(|volume| volume.name == name).unwrap();
        volume.empty_dir.as_ref().unwrap().size_limit.clone().unwrap().0
    };
    assert_eq!((size("original"), size("workspace")), ((2_u64 << 30).to_string(), (2_u64 << 30).to_string()));
}

#[test]
fn who_tells_of_changes_writes_nowhere_and_shares_no_process_with_the_agent() {
    let pod = overlay();
    let review = named(&pod, REVIEW);
    assert_eq!(
        mounts(review),
        [("workspace", "/workspace", Some("tree"), true), ("original", "/original", Some("tree"), true)]
    );
    assert_eq!(review.security_context, named(&pod, "fence").security_context);
    assert_eq!(review.image, named(&pod, "fence").image);
    assert_eq!(review.restart_policy.as_deref(), Some("Always"));
    assert!(review.env.is_none() && review.env_from.is_none() && review.ports.is_none());
    let spec = pod.spec.as_ref().unwrap();
    assert_eq!((spec.share_process_namespace, spec.host_pid), (None, None));
    // What runs side by side reserves no more than the pod does.
    let requests = review.resources.as_ref().unwrap().requests.as_ref().unwrap();
    assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("0m", "0"));
}

#[test]
fn o_h9_who_tells_of_changes_waits_in_our_image_and_takes_no_more_than_its_own_bound() {
    let pod = overlay();
    let review = named(&pod, REVIEW);
    assert_eq!(review.args.as_deref(), Some(&["wait".to_owned()][..]));
    assert_eq!(review.image_pull_policy, named(&pod, "fence").image_pull_policy);
    let limits = serde_json::to_value(review.resources.as_ref().unwrap().limits.as_ref().unwrap()).unwrap();
    let bound = |memory: i64| json!({"cpu": "1000m", "memory": memory.to_string(), "ephemeral-storage": (16 << 20).to_string()});
    assert_eq!(limits, bound(512 << 20), "less than the agent, which has a gibibyte");
}

#[test]
fn o_h9_an_agent_whose_original_stays_has_the_room_of_both_trees() {
    let disk = |pod: &Pod| -> i64 {
        let limits = named(pod, "agent").resources.as_ref().unwrap().limits.as_ref().unwrap();
        limits["ephemeral-storage"].0.parse().unwrap()
    };
    assert_eq!(disk(&overlay()) - disk(&with_access(Some("ReadWrite"))), 2 << 30);
}

#[test]
fn without_an_overlay_nothing_is_as_if_there_was_one() {
    for access in [None, Some("ReadWrite"), Some("ReadOnly")] {
        let pod = with_access(access);
        assert!(
            containers(&pod).all(|container| container.name != REVIEW && container.restart_policy.is_none())
        );
        assert!(!serde_json::to_string(&pod).unwrap().contains("original"), "{access:?}");
    }
    let hash = |pod: &Pod| pod.metadata.annotations.as_ref().unwrap()[ANNOTATION_SPEC_HASH].clone();
    assert_ne!(hash(&overlay()), hash(&with_access(None)), "another access is another pod");
    let archive = json!({"url": "https://pypi.org/shop.tar.gz", "sha256": "0".repeat(64)});
    let accepted = accepted(|s| {
        s.spec.workspace = Some(from(json!({"archive": archive, "access": "Overlay", "sizeLimit": "2Gi"})));
    });
    let mut tomorrow = platform();
    tomorrow.init_image = "ghcr.io/agentsandbox/init:next".to_owned();
    assert_eq!(
        hash(&overlay()),
        hash(&agent_pod::pod(&accepted, &tomorrow, &sealed())),
        "an upgrade is none"
    );
}

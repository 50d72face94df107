//! The volumes of what the agent may write beside its workspace.

use agentsandbox_crds::class::Isolation;
use agentsandbox_crds::sandbox::AgentSandbox;

use super::*;
use crate::controller::desired::confinement::PROGRAM_DIR;
use crate::controller::desired::environment::TRUST_DIR;
use crate::quantity;

fn pod_of(change: impl FnOnce(&mut AgentSandbox)) -> Pod {
    let asking = sandbox(|s| {
        s.spec.scratch = Some(from(json!({"additional": [
            {"path": "/cache", "sizeLimit": "64Mi"}, {"path": "/var/lib/data", "sizeLimit": "32Mi", "medium": "Disk"},
        ]})));
        change(s);
    });
    let container =
        references(vec![class(|c| c.spec.isolation = Isolation::Container)], vec![credential(|_| ())]);
    agent_pod::pod(&accept(&identity(), &asking, &container, &platform()).unwrap(), &platform(), &sealed())
}

/// What was asked for, as the volumes have it: path, medium, bytes.
fn mounted(pod: &Pod) -> Vec<(String, Option<String>, i64)> {
    let spec = pod.spec.as_ref().unwrap();
    let mounts = spec.containers[0].volume_mounts.iter().flatten();
    let of = |name: &str| spec.volumes.iter().flatten().find(|volume| volume.name == name).unwrap();
    let all = mounts.filter_map(|mount| {
        let dir = of(&mount.name).empty_dir.as_ref()?;
        let bytes = quantity::bytes(&dir.size_limit.as_ref().unwrap().0).unwrap();
        (mount.read_only.is_none()).then(|| (mount.mount_path.clone(), dir.medium.clone(), bytes))
    });
    all.collect()
}

#[test]
fn each_folder_is_a_volume_of_its_medium_and_size_that_the_agent_alone_mounts() {
    let pod = pod_of(|_| ());
    let memory = || Some("Memory".to_owned());
    let found = mounted(&pod);
    assert_eq!(
        found[1..],
        [
            ("/tmp".to_owned(), memory(), 100 << 20),
            ("/home/agent".to_owned(), memory(), 500 << 20),
            ("/cache".to_owned(), memory(), 64 << 20),
            ("/var/lib/data".to_owned(), None, 32 << 20),
        ]
    );
    let others = pod.spec.as_ref().unwrap().init_containers.iter().flatten();
    let theirs = others.flat_map(|other| other.volume_mounts.iter().flatten());
    assert!(
        theirs
            .into_iter()
            .all(|mount| !["tmp", "home", "scratch-0", "scratch-1"].contains(&mount.name.as_str()))
    );
}

#[test]
fn o_h9_what_is_in_memory_is_within_the_memory_limit_which_it_does_not_raise() {
    let limit =
        |pod: &Pod| pod.spec.as_ref().unwrap().resources.clone().unwrap().limits.unwrap()["memory"].clone();
    let pod = pod_of(|_| ());
    let in_memory: i64 =
        mounted(&pod).into_iter().filter(|(_, medium, _)| medium.is_some()).map(|(_, _, bytes)| bytes).sum();
    assert!(in_memory > 0 && in_memory <= quantity::bytes(&limit(&pod).0).unwrap());
    assert_eq!(limit(&pod), limit(&pod_of(|s| s.spec.scratch = None)));
}

#[test]
fn no_folder_of_the_sandboxs_lies_over_what_the_operator_mounts() {
    let pod = pod_of(|s| {
        s.spec.agent.command = vec!["agent".to_owned()];
        s.spec.agent.process_sandbox = Some(from(json!({})));
    });
    let mounts = pod.spec.as_ref().unwrap().containers[0].volume_mounts.clone().unwrap();
    // Runtimes mount paths of few names first, and those of as many in this order.
    let at = |path: &str| mounts.iter().position(|mount| mount.mount_path == path).unwrap();
    let names = |path: &str| path.matches('/').count();
    for own in [TRUST_DIR, PROGRAM_DIR] {
        for folder in ["/cache", "/var/lib/data"] {
            assert!(
                names(folder) < names(own) || (names(folder) == names(own) && at(folder) < at(own)),
                "{own}"
            );
        }
    }
    let command = pod.spec.as_ref().unwrap().containers[0].command.clone().unwrap();
    for path in [
        "--write=/workspace",
        "--write=/tmp",
        "--write=/home/agent",
        "--write=/cache",
        "--write=/var/lib/data",
    ] {
        assert!(command.iter().any(|flag| flag == path), "no {path} in {command:?}");
    }
}

#[test]
fn a_sandbox_that_says_nothing_of_scratch_has_the_pod_that_it_had() {
    let volumes = pod_of(|s| s.spec.scratch = None).spec.unwrap().volumes.unwrap();
    let of =
        |name: &str| volumes.iter().find(|volume| volume.name == name).unwrap().empty_dir.clone().unwrap();
    for name in ["tmp", "home"] {
        assert_eq!(
            (of(name).medium, of(name).size_limit.unwrap().0),
            (None, (1 << 30).to_string()),
            "{name}"
        );
    }
}

#[test]
fn a_workspace_in_memory_is_a_volume_of_memory_and_takes_no_disk_and_so_does_its_original() {
    let of = |medium: &str| {
        pod_of(|s| {
            s.spec.workspace = Some(from(json!({
                "medium": medium, "sizeLimit": "32Mi", "access": "Overlay", "git": {"url": "https://pypi.org/shop.git"},
            })));
            s.spec.egress.as_mut().unwrap().allow[1].methods = None;
        })
    };
    let dirs = |pod: &Pod| -> Vec<_> {
        let volumes = pod.spec.as_ref().unwrap().volumes.iter().flatten();
        let named = volumes.filter(|volume| ["workspace", "original"].contains(&volume.name.as_str()));
        named.map(|volume| volume.empty_dir.clone().unwrap()).collect()
    };
    let disk = |pod: &Pod| {
        let limits = pod.spec.as_ref().unwrap().containers[0].resources.clone().unwrap().limits.unwrap();
        quantity::bytes(&limits["ephemeral-storage"].0).unwrap()
    };
    let (memory, on_disk) = (of("Memory"), of("Disk"));
    for (pod, medium) in [(&memory, Some("Memory")), (&on_disk, None)] {
        let found = dirs(pod);
        assert_eq!(found.len(), 2);
        for dir in found {
            assert_eq!((dir.medium.as_deref(), dir.size_limit.unwrap().0), (medium, (32 << 20).to_string()));
        }
    }
    assert_eq!(disk(&on_disk) - disk(&memory), 64 << 20);
}

#[test]
fn what_is_in_memory_is_whole_pages_so_that_it_is_full_before_its_pod_is_evicted() {
    let decimal = |medium: &str| {
        let asked = json!({"medium": medium, "tmp": "100M"});
        let found = mounted(&pod_of(|s| s.spec.scratch = Some(from(asked))));
        found.into_iter().find(|(path, ..)| path == "/tmp").unwrap().2
    };
    assert_eq!(decimal("Memory"), 99_942_400);
    assert_eq!(decimal("Disk"), 100_000_000, "the control: a disk has no size to round");
}

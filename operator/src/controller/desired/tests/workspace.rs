//! The step that fetches the workspace's code, in the agent's pod.

use super::*;
use crate::controller::desired::workspace::{VOLUME, WORKSPACE};

fn fetching(change: impl FnOnce(&mut serde_json::Value)) -> Pod {
    let mut workspace = json!({
        "archive": {"url": "https://pypi.org/$(HOME)/shop.tar.gz", "sha256": "0".repeat(64), "stripComponents": 1},
        "exclude": ["-rf", "*.secret"], "include": [".env.example"], "sizeLimit": "2Gi",
    });
    change(&mut workspace);
    let accepted = accepted(|s| s.spec.workspace = Some(from(workspace)));
    agent_pod::pod(&accepted, &platform(), &sealed())
}

fn hash(pod: &Pod) -> String {
    pod.metadata.annotations.as_ref().unwrap()[ANNOTATION_SPEC_HASH].clone()
}

#[test]
fn p_g7_the_code_is_fetched_behind_the_fence_by_a_step_that_holds_no_key_and_no_token() {
    let pod = fetching(|_| ());
    let names: Vec<&str> = containers(&pod).map(|container| container.name.as_str()).collect();
    assert_eq!(names, ["fence", "workspace", "agent"], "in this order");
    let step = containers(&pod).find(|container| container.name == WORKSPACE).unwrap();
    let fence = containers(&pod).find(|container| container.name == "fence").unwrap();
    assert_eq!(step.security_context, fence.security_context);
    assert_eq!(step.image, fence.image);
    assert!(step.env.is_none() && step.env_from.is_none());
    let mounts: Vec<_> =
        step.volume_mounts.iter().flatten().map(|m| (m.name.as_str(), m.read_only)).collect();
    assert_eq!(mounts, [("workspace", None), ("trust", Some(true))]);
    let args = step.args.clone().unwrap();
    assert_eq!(args[0], "workspace");
    for wanted in [
        "--url=https://pypi.org/$$(HOME)/shop.tar.gz".to_owned(),
        format!("--sha256={}", "0".repeat(64)),
        "--strip-components=1".to_owned(),
        "--exclude=-rf".to_owned(),
        "--include=.env.example".to_owned(),
        format!("--proxy={}", sealed().proxy_address()),
        format!("--volume-bytes={}", 2_u64 << 30),
    ] {
        assert!(args.contains(&wanted), "{wanted} {args:?}");
    }
}

#[test]
fn the_agent_sees_the_finished_tree_alone_and_writes_it_only_where_it_may() {
    let mount_of = |pod: &Pod| {
        let agent = containers(pod).find(|container| container.name == "agent").unwrap();
        agent.volume_mounts.iter().flatten().find(|mount| mount.name == VOLUME).unwrap().clone()
    };
    let (open, shut) =
        (mount_of(&fetching(|_| ())), mount_of(&fetching(|w| w["access"] = json!("ReadOnly"))));
    assert_eq!((open.sub_path.as_deref(), open.read_only), (Some("tree"), None));
    assert_eq!((shut.sub_path.as_deref(), shut.read_only), (Some("tree"), Some(true)));
    let empty = mount_of(&agent());
    assert_eq!((empty.sub_path, empty.read_only, empty.mount_path.as_str()), (None, None, "/workspace"));
}

#[test]
fn o_r26_another_source_is_another_pod_and_an_upgrade_is_none() {
    let same = hash(&fetching(|_| ()));
    assert_eq!(same, hash(&fetching(|_| ())));
    for change in [
        |w: &mut serde_json::Value| w["archive"]["url"] = json!("https://pypi.org/other.tar.gz"),
        |w: &mut serde_json::Value| w["archive"]["sha256"] = json!("1".repeat(64)),
        |w: &mut serde_json::Value| w["exclude"] = json!(["*.secret"]),
        |w: &mut serde_json::Value| w["include"] = json!([]),
        |w: &mut serde_json::Value| w["access"] = json!("ReadOnly"),
    ] {
        assert_ne!(same, hash(&fetching(change)));
    }
    let accepted = accepted(|s| {
        let archive = json!({"url": "https://pypi.org/$(HOME)/shop.tar.gz", "sha256": "0".repeat(64), "stripComponents": 1});
        s.spec.workspace = Some(from(
            json!({"archive": archive, "exclude": ["-rf", "*.secret"], "include": [".env.example"], "sizeLimit": "2Gi"}),
        ));
    });
    let mut tomorrow = platform();
    tomorrow.init_image = "ghcr.io/agentsandbox/init:next".to_owned();
    tomorrow.api_endpoints.clear();
    assert_eq!(same, hash(&agent_pod::pod(&accepted, &tomorrow, &sealed())));
}

#[test]
fn p_g7_a_repository_is_fetched_by_the_same_step_with_no_more_than_its_name() {
    let pod = |git: serde_json::Value| {
        let accepted = accepted(|s| {
            s.spec.egress.as_mut().unwrap().allow[1].methods = None;
            s.spec.workspace = Some(from(json!({"git": git, "exclude": ["*.secret"], "access": "ReadOnly"})));
        });
        agent_pod::pod(&accepted, &platform(), &sealed())
    };
    let whole = pod(json!({"url": "https://pypi.org/acme/shop.git", "ref": "release/1", "depth": 5}));
    let step = containers(&whole).find(|container| container.name == WORKSPACE).unwrap();
    assert!(step.env.is_none() && step.env_from.is_none());
    let args = step.args.clone().unwrap();
    let own: Vec<&str> =
        args.iter().map(String::as_str).skip_while(|arg| !arg.starts_with("--git")).collect();
    assert_eq!(
        own,
        [
            "--git-url=https://pypi.org/acme/shop.git",
            "--git-ref=release/1",
            "--git-depth=5",
            "--exclude=*.secret"
        ]
    );
    let plain = pod(json!({"url": "https://pypi.org/acme/shop.git"}));
    assert_ne!(hash(&whole), hash(&plain), "another commit is another pod");
    assert_eq!(hash(&plain), hash(&pod(json!({"url": "https://pypi.org/acme/shop.git"}))));
}

fn lasting(persistent: serde_json::Value) -> Accepted {
    accepted(|s| {
        s.spec.workspace = Some(from(json!({"access": "Persistent", "persistent": persistent})));
    })
}

#[test]
fn a_claim_is_one_pods_at_a_time_and_nobody_collects_it_with_its_sandbox() {
    let kept = claim::claim(&lasting(json!({"size": "10Gi", "storageClassName": "fast"}))).unwrap();
    assert!(kept.metadata.owner_references.is_none());
    assert!(claim::is_of(&kept.metadata, &identity()));
    let spec = serde_json::to_value(&kept.spec).unwrap();
    let wanted = json!({"accessModes": ["ReadWriteOncePod"], "storageClassName": "fast", "resources": {"requests": {"storage": "10Gi"}}});
    assert_eq!(spec, wanted);
    let ending = claim::claim(&lasting(json!({"size": "10Gi", "whenDeleted": "Delete"}))).unwrap();
    assert!(ending.metadata.owner_references.is_none(), "what the spec says by then counts");
    assert!(claim::claim(&accepted(|_| ())).is_none());

    let later = Identity { uid: "another".to_owned(), ..identity() };
    assert!(
        !claim::is_of(&kept.metadata, &later),
        "a later sandbox of the same name finds no claim of its own"
    );
    let mut controlled = kept.metadata.clone();
    controlled.owner_references = Some(vec![later.owner.clone()]);
    controlled.owner_references.as_mut().unwrap()[0].uid = later.uid.clone();
    assert!(!claim::is_of(&controlled, &identity()));
}

#[test]
fn a_claim_is_in_its_sandboxs_namespace_and_only_one_that_is_to_grow_or_has_an_owner_is_put_right() {
    let sized = |size: &str| claim::claim(&lasting(json!({"size": size}))).unwrap();
    let own = sized("2Gi");
    assert_eq!(own.metadata.namespace.as_deref(), Some("team"));
    assert!(!claim::differs(&own, &own) && !claim::differs(&sized("1Gi"), &own), "a volume never shrinks");
    assert!(claim::differs(&sized("3Gi"), &own));
    let mut owned = own.clone();
    owned.metadata.owner_references = Some(vec![identity().owner]);
    assert!(claim::differs(&own, &owned), "it would be collected with its sandbox");
}

/// The agent's pod on the claim with this UID.
fn on_claim(uid: &str) -> Pod {
    let accepted = lasting(json!({"size": "10Gi"}));
    let mut own = claim::claim(&accepted).unwrap();
    own.metadata.uid = Some(uid.to_owned());
    agent_pod::pod(&accepted, &platform(), &sealed().on(own))
}

#[test]
fn another_claim_of_the_same_name_is_another_pod() {
    assert_ne!(hash(&on_claim("the-first")), hash(&on_claim("the-second")));
    assert_eq!(hash(&on_claim("the-first")), hash(&on_claim("the-first")), "the control");
}

#[test]
fn p_g7_the_agent_sees_the_tree_of_its_claim_and_not_the_report_and_the_step_knows_that_work_may_be_in_it() {
    let pod = on_claim("the-first");
    let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
    let volume = volumes.iter().find(|volume| volume.name == VOLUME).unwrap();
    let source = volume.persistent_volume_claim.as_ref().unwrap();
    assert_eq!((source.claim_name.as_str(), volume.empty_dir.is_none()), ("fix-login-workspace", true));
    let agent = containers(&pod).find(|container| container.name == "agent").unwrap();
    let mount = agent.volume_mounts.iter().flatten().find(|mount| mount.name == VOLUME).unwrap();
    assert_eq!((mount.sub_path.as_deref(), mount.read_only), (Some("tree"), None));
    let step = containers(&pod).find(|container| container.name == WORKSPACE).unwrap();
    let args = step.args.as_ref().unwrap();
    for wanted in ["--empty", "--persistent", "--claim-uid=the-first", "--volume-bytes=10737418240"] {
        assert!(args.iter().any(|arg| arg == wanted), "{wanted} {args:?}");
    }
    let fetched = fetching(|_| ());
    let step = containers(&fetched).find(|container| container.name == WORKSPACE).unwrap();
    assert!(step.args.iter().flatten().all(|arg| arg != "--persistent"), "the control");
}

#[test]
fn a_claim_takes_nothing_of_the_nodes_disk() {
    let disk = |pod: &Pod| {
        let agent = containers(pod).find(|container| container.name == "agent").unwrap();
        let limits = agent.resources.as_ref().unwrap().limits.as_ref().unwrap();
        limits["ephemeral-storage"].0.parse::<i64>().unwrap()
    };
    let folder = agent_pod::pod(&accepted(|s| s.spec.workspace = None), &platform(), &sealed());
    assert_eq!(
        disk(&folder) - disk(&on_claim("the-first")),
        1 << 30,
        "the folder's own size where none is said"
    );
}

fn copying(workspace: serde_json::Value) -> Pod {
    agent_pod::pod(&accepted(|s| s.spec.workspace = Some(from(workspace))), &platform(), &sealed())
}

#[test]
fn what_is_copied_is_mounted_into_the_step_to_be_read_and_into_nothing_else() {
    let claim =
        json!({"persistentVolumeClaim": {"claimName": "datasets", "path": "-a/$(B)"}, "access": "Overlay"});
    for (source, volume, args) in [
        (
            json!({"configMap": {"name": "task"}}),
            json!({"name": "source", "configMap": {"name": "task", "defaultMode": 0o444, "optional": false}}),
            &["--folder=/var/run/agentsandbox/source/..data"][..],
        ),
        (
            claim,
            json!({"name": "source", "persistentVolumeClaim": {"claimName": "datasets", "readOnly": true}}),
            &["--folder=/var/run/agentsandbox/source", "--folder-path=-a/$$(B)"],
        ),
        (
            json!({"image": {"reference": "ghcr.io/acme/code:1", "path": "src"}}),
            json!({"name": "source", "image": {"reference": "ghcr.io/acme/code:1", "pullPolicy": "IfNotPresent"}}),
            &["--folder=/var/run/agentsandbox/source", "--folder-path=src"],
        ),
    ] {
        let pod = copying(source);
        let volumes = pod.spec.as_ref().unwrap().volumes.iter().flatten();
        let found: Vec<_> = volumes.filter(|one| one.name == "source").collect();
        assert_eq!(serde_json::to_value(&found).unwrap(), json!([volume]));
        let mounting: Vec<_> = containers(&pod)
            .flat_map(|one| one.volume_mounts.iter().flatten().map(move |mount| (&one.name, mount)))
            .filter(|(_, mount)| mount.name == "source")
            .map(|(name, mount)| (name.as_str(), mount.mount_path.as_str(), mount.read_only))
            .collect();
        assert_eq!(mounting, [(WORKSPACE, "/var/run/agentsandbox/source", Some(true))]);
        let step = containers(&pod).find(|container| container.name == WORKSPACE).unwrap();
        let own: Vec<_> = step.args.iter().flatten().filter(|arg| arg.starts_with("--folder")).collect();
        assert_eq!(own, args);
    }
}

#[test]
fn o_r26_another_config_map_claim_or_folder_in_it_is_another_pod() {
    let claim = |name: &str, path: Option<&str>| {
        hash(&copying(json!({"persistentVolumeClaim": {"claimName": name, "path": path}})))
    };
    let map = |name: &str| hash(&copying(json!({"configMap": {"name": name}})));
    assert_eq!((claim("a", None), map("a")), (claim("a", None), map("a")));
    assert_ne!(claim("a", None), claim("b", None));
    assert_ne!(claim("a", Some("x")), claim("a", Some("y")));
    assert_ne!(map("a"), map("b"));
}

#[test]
fn o_r26_what_is_rewritten_is_told_to_the_step_and_something_else_is_another_pod() {
    let pod =
        |formats: serde_json::Value| copying(json!({"configMap": {"name": "task"}, "sanitize": formats}));
    let step = pod(json!(["Npmrc", "GitConfig"]));
    let step = containers(&step).find(|container| container.name == WORKSPACE).unwrap();
    let own: Vec<_> = step.args.iter().flatten().filter(|arg| arg.starts_with("--sanitize")).collect();
    assert_eq!(own, ["--sanitize=Npmrc", "--sanitize=GitConfig"]);
    assert_ne!(hash(&pod(json!(["Npmrc"]))), hash(&pod(json!(["Netrc"]))));
    assert_eq!(hash(&pod(json!([]))), hash(&copying(json!({"configMap": {"name": "task"}}))));
}

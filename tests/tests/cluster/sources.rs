//! What a workspace begins with that stands in the cluster already: a folder of a claim, and the keys of a ConfigMap. It is copied, never
//! written to, and read by nobody whose sandbox's writer may not read it.

use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

use crate::admission::patch;
use crate::fixtures;
use crate::people::{bind, denied, user};

const TOLD_WITHIN: Duration = Duration::from_secs(120);
/// What must not be readable anywhere in the agent.
const CANARY: &str = "source-canary-83e0";
/// What comes back by `include`.
const CONTROL: &str = "source-control-19af";
const SOURCES: &str = "agentsandbox-sources";

/// A sandbox of this class whose workspace is this.
fn beginning(name: &str, class: &str, workspace: &str) -> String {
    fixtures::closed(name)
        .replace("spec:\n", &format!("spec:\n  workspace: {{{workspace}}}\n"))
        .replace("className: world", &format!("className: {class}"))
}

/// A claim that somebody filled: code with secrets in it, and beside it what nobody asks for.
async fn filled(ns: &Namespace) {
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "datasets"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
    });
    ns.apply(&claim.to_string()).await.unwrap();
    let line = format!(
        "umask 022 && mkdir -p /data/src/shop/.ssh /data/hostile && cd /data/src/shop && echo 'echo it runs' > run.sh && chmod 755 run.sh \
         && ln -s run.sh link && for f in .env .npmrc own.secret .ssh/config /data/outside; do echo {CANARY} > $f; done \
         && mkdir -p /data/settings/web && cd /data/settings && printf 'registry=https://me:{CANARY}@npm.corp.example/\n_authToken={CANARY}\n' > web/.npmrc \
         && printf '[corp]\nrepository = https://pypi.corp.example/\npassword = {CANARY}\n' > .pypirc \
         && printf '[global]\nindex-url = https://me:{CANARY}@pypi.corp.example/simple\n' > pip.conf \
         && printf 'machine git.corp.example login me password {CANARY}\n' > .netrc \
         && printf '[http]\n\textraHeader = Authorization: {CANARY}\n[user]\n\tname = Jo\n' > .gitconfig && cd /data/src/shop \
         && echo {CONTROL} > .env.example && ln -s /etc/passwd /data/hostile/up"
    );
    let mut pod = fixtures::plain("filler", &line);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["securityContext"]["fsGroup"] = json!(1000);
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "datasets"}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    ns.apply(&pod.to_string()).await.unwrap();
    let pods: Api<Pod> = ns.pods();
    eventually("the claim is filled", TOLD_WITHIN, || async {
        let pod = pods.get("filler").await.map_err(|error| error.to_string())?;
        let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
        if phase == "Succeeded" { Ok(()) } else { Err(phase) }
    })
    .await;
}

async fn the_folder_is_there_and_no_canary(agent: &Sandbox) {
    assert_eq!(agent.sh("/workspace/link").await.ok().stdout, "it runs\n");
    let names = agent.sh("cd /workspace && find . -mindepth 1 | sort").await.ok().stdout;
    assert_eq!(names, "./.env.example\n./link\n./run.sh\n");
    // Wherever the claim could be mounted.
    let search = format!(
        "grep -rl {CANARY} /workspace /tmp /home /var /run /etc /mnt 2>/dev/null; grep agentsandbox/source /proc/mounts; true"
    );
    assert_eq!(agent.sh(&search).await.ok().stdout, "");
    let control = agent.sh(&search.replace(CANARY, CONTROL)).await.ok().stdout;
    assert_eq!(control, "/workspace/.env.example\n", "the search finds what is there");
    agent.sh("echo new > /workspace/new && rm /workspace/link").await.ok();
    let ready = agent.condition("WorkspaceReady").await.unwrap().unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Unpacked"), "{ready:?}");
    let counts = agent.get().await.status.unwrap().workspace.unwrap();
    assert_eq!((counts.files, counts.left_out), (2, 4));
    let log = agent.log(&agent.agent_pod(), "workspace").await;
    for name in [".env", ".npmrc", "own.secret", ".ssh/config"] {
        assert!(log.contains(&format!("left out: {name}\n")), "{name}: {log}");
    }
    assert!(!log.contains(CANARY), "{log}");
}

async fn the_settings_are_there_and_no_canary(agent: &Sandbox) {
    let read = "cd /workspace && cat web/.npmrc .pypirc pip.conf .netrc .gitconfig && grep -c . .gitconfig";
    let found = agent.sh(read).await.ok().stdout;
    let wanted = "registry=https://npm.corp.example/\n# left out\n[corp]\nrepository = https://pypi.corp.example/\n# left out\n\
                  [global]\nindex-url = https://pypi.corp.example/simple\nmachine git.corp.example\n[http]\n# left out\n[user]\n\tname = Jo\n4\n";
    assert_eq!(found, wanted);
    let search = format!("grep -rl {CANARY} /workspace; true");
    assert_eq!(agent.sh(&search).await.ok().stdout, "");
    let ready = agent.condition("WorkspaceReady").await.unwrap().unwrap();
    assert!(ready.message.contains("5 were rewritten without the secrets in them"), "{}", ready.message);
}

#[tokio::test]
async fn an_agent_works_on_a_copy_of_a_claims_folder_under_gvisor_and_under_runc_and_has_no_secret_of_it() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "claimed", async |ns| {
        filled(&ns).await;
        let folder = "persistentVolumeClaim: {claimName: datasets, path: src/shop}, exclude: ['*.secret']";
        let gvisor = ns.sandbox("under-gvisor", &beginning("under-gvisor", "world", folder)).await;
        let runc = ns.sandbox("under-runc", &beginning("under-runc", "container", folder)).await;
        let settings = "persistentVolumeClaim: {claimName: datasets, path: settings}, sanitize: [Npmrc, Pypirc, PipConf, Netrc, GitConfig]";
        let settings = ns.sandbox("settings", &beginning("settings", "world", settings)).await;
        let hostile = "persistentVolumeClaim: {claimName: datasets, path: hostile}";
        let hostile = ns.sandbox("hostile", &beginning("hostile", "world", hostile)).await;
        gvisor.ready().await;
        the_folder_is_there_and_no_canary(&gvisor).await;
        // What the first agent wrote is in no copy of another.
        runc.ready().await;
        the_folder_is_there_and_no_canary(&runc).await;
        settings.ready().await;
        the_settings_are_there_and_no_canary(&settings).await;
        let told = hostile.await_reason("WorkspaceReady", "ArchiveRefused", TOLD_WITHIN).await;
        assert!(told.message.contains("up: a link out of the tree"), "{}", told.message);
    })
    .await;
}

#[tokio::test]
async fn a_config_map_that_is_not_there_is_named_and_waited_for_and_so_is_a_claim() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "awaited", async |ns| {
        let map = "configMap: {name: task}, access: ReadOnly";
        let map = ns.sandbox("mapped", &beginning("mapped", "world", map)).await;
        let claim = "persistentVolumeClaim: {claimName: none}";
        let claim = ns.sandbox("claims", &beginning("claims", "world", claim)).await;
        let told = map.await_reason("WorkspaceReady", "SourceMissing", TOLD_WITHIN).await;
        assert!(told.message.contains("no ConfigMap task"), "{}", told.message);
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "task"},
            "data": {"TASK.md": "write it down", "b.txt": "b", ".env": CANARY}, "binaryData": {"logo.bin": "AAH/"},
        });
        ns.apply(&object.to_string()).await.unwrap();
        let told = claim.await_reason("WorkspaceReady", "SourceMissing", TOLD_WITHIN).await;
        assert!(told.message.contains("no PersistentVolumeClaim none"), "{}", told.message);

        map.ready().await;
        let read = "cd /workspace && find . -mindepth 1 | sort && cat TASK.md && wc -c < logo.bin";
        let found = map.sh(read).await.ok().stdout;
        assert_eq!(found, "./TASK.md\n./b.txt\n./logo.bin\nwrite it down3\n");
        assert!(map.sh("touch /workspace/new").await.text().contains("Read-only file system"));
    })
    .await;
}

/// What agents run in is an image too, with folders of plain files in it.
#[tokio::test]
async fn an_agent_works_on_a_copy_of_an_images_folder_and_one_that_cannot_be_pulled_is_told() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "imaged", async |ns| {
        let image =
            format!("image: {{reference: '{}', path: usr/share/common-licenses}}", fixtures::AGENT_IMAGE);
        let gvisor = ns.sandbox("under-gvisor", &beginning("under-gvisor", "world", &image)).await;
        let runc = ns.sandbox("under-runc", &beginning("under-runc", "container", &image)).await;
        let whole = format!("image: {{reference: '{}'}}", fixtures::AGENT_IMAGE);
        let whole = ns.sandbox("whole", &beginning("whole", "world", &whole)).await;
        let none = ns
            .sandbox(
                "none",
                &beginning("none", "world", "image: {reference: 'none.agentsandbox.test/none:1'}"),
            )
            .await;
        for agent in [&gvisor, &runc] {
            agent.ready().await;
            // The same files as in the agent's own root, which is of the same image.
            let same = "diff -r /workspace /usr/share/common-licenses && ls /workspace | wc -l";
            let count: u32 = agent.sh(same).await.ok().stdout.trim().parse().unwrap();
            assert!(count > 5, "{count}");
            agent.sh("echo mine > /workspace/GPL-3 && rm /workspace/BSD").await.ok();
            assert_eq!(agent.sh("grep agentsandbox/source /proc/mounts; true").await.ok().stdout, "");
        }
        let told = whole.await_reason("WorkspaceReady", "ArchiveRefused", TOLD_WITHIN).await;
        assert!(told.message.contains("The folder is refused"), "{}", told.message);
        let told = none.await_reason("Ready", "ImageUnavailable", TOLD_WITHIN).await;
        assert!(told.message.contains("none.agentsandbox.test"), "{}", told.message);
    })
    .await;
}

fn sandbox(workspace: Value) -> Value {
    json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": {"name": "reads"},
        "spec": {"className": "no-such-class", "agent": {"image": fixtures::AGENT_IMAGE}, "workspace": workspace},
    })
}

#[tokio::test]
async fn o_t1_who_may_not_read_what_a_workspace_begins_with_has_no_agent_read_it() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "reads", async |ns| {
        let own = json!({"apiGroups": ["agentsandbox.dev"], "resources": ["agentsandboxes"], "verbs": ["*"]});
        for (number, (source, resource, name, field, verb)) in [
            (json!({"configMap": {"name": "task"}}), "configmaps", "task", "spec.workspace.configMap", "get"),
            (
                json!({"persistentVolumeClaim": {"claimName": "datasets"}}),
                "persistentvolumeclaims",
                "datasets",
                "spec.workspace.persistentVolumeClaim",
                "mount",
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let right = |name: &str, verb: &str| {
                json!({"apiGroups": [""], "resources": [resource], "resourceNames": [name], "verbs": [verb]})
            };
            let object = sandbox(source);
            let who = format!("{}-{number}", ns.name);
            let writer = user(&rig, &ns, &who).await;
            // To get a claim is no right to what it holds: whoever may view has it of each.
            let no_right = if verb == "get" { right("another", "get") } else { right(name, "get") };
            bind(&ns, &who, json!([own, no_right])).await;
            let words = [field, name, "may not", &who];
            denied(writer.try_create(object.clone()).await, SOURCES, &words);
            let plain = sandbox(json!({"sizeLimit": "1Gi"}));
            writer.try_create(plain).await.expect("a sandbox that reads nothing is his to write");

            // Whoever edits what stands there has its agent do something else with what it read, and the agent that read it still runs
            // when the rules of the change are in force that takes the source away.
            ns.apply(&object.to_string()).await.unwrap();
            let edit = json!({"spec": {"agent": {"command": ["cat", "/workspace/TASK.md"]}}});
            denied(patch(&writer, &object, &edit).await, SOURCES, &words);
            let taken = json!({"spec": {"workspace": {"configMap": null, "persistentVolumeClaim": null}}});
            denied(patch(&writer, &object, &taken).await, SOURCES, &words);
            patch(&writer, &object, &json!({"metadata": {"labels": {"team": "a"}}})).await.unwrap();

            bind(&ns, &who, json!([own, right(name, verb)])).await;
            eventually("with the right it is allowed", Duration::from_secs(10), || async {
                patch(&writer, &object, &edit).await.map_err(|error| error.to_string())
            })
            .await;
            patch(&writer, &object, &taken).await.unwrap();
            ns.api_of(&object).delete("reads", &kube::api::DeleteParams::default()).await.unwrap();
        }
    })
    .await;
}

//! A workspace in a claim of the sandbox's own: it outlasts pods, ends as was said, and is nobody else's.

use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::fixtures;

const TOLD_WITHIN: Duration = Duration::from_secs(120);

fn claims(ns: &Namespace) -> Api<PersistentVolumeClaim> {
    Api::namespaced(ns.client.clone(), &ns.name)
}

/// A sandbox of this class with a persistent workspace.
fn lasting(name: &str, class: &str, persistent: &str) -> String {
    let workspace = format!("spec:\n  workspace: {{access: Persistent, persistent: {{{persistent}}}}}\n");
    fixtures::closed(name)
        .replace("spec:\n", &workspace)
        .replace("className: world", &format!("className: {class}"))
}

async fn edit(sandbox: &Sandbox, spec: Value) {
    let patch = json!({ "spec": spec });
    sandbox.api().patch(&sandbox.name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
}

async fn uid(sandbox: &Sandbox) -> String {
    sandbox.pods().get(&sandbox.agent_pod()).await.unwrap().uid().unwrap()
}

/// Waits for another agent's pod than that one, whose own fence has proven the walls, and whose agent runs.
async fn another(sandbox: &Sandbox, before: &str) {
    eventually("another pod of the agent", TOLD_WITHIN, || async {
        let pod: Pod = sandbox.pods().get(&sandbox.agent_pod()).await.map_err(|e| e.to_string())?;
        let status = pod.status.clone().unwrap_or_default();
        let steps = status.init_container_statuses.unwrap_or_default();
        let proven = steps.iter().any(|step| {
            let ended = step.state.as_ref().and_then(|state| state.terminated.as_ref());
            let said = ended.and_then(|ended| ended.message.as_deref()).unwrap_or_default();
            step.name == "fence" && said.contains("\"verdict\":\"Proven\"")
        });
        let ready = status.conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
        match pod.uid().is_some_and(|uid| uid != before) && proven && ready {
            true => Ok(()),
            false => Err(format!("{:?} proven {proven} ready {ready}", pod.uid())),
        }
    })
    .await;
    sandbox.ready().await;
}

/// An agent's work outlasts an edit and the loss of its pod, and ends with the sandbox.
async fn keeps(ns: &Namespace, name: &str, class: &str) {
    let keeps = ns.sandbox(name, &lasting(name, class, "size: 64Mi, whenDeleted: Delete")).await;
    keeps.ready().await;
    assert_eq!(
        keeps.sh("ls -A /workspace; stat -c '%u %F' /workspace").await.ok().stdout,
        "1000 directory\n"
    );
    // What is made to hurt the step of the next pod, beside the work.
    let leave = "cd /workspace && echo kept > work && ln -s / root && ln -s report.json tree && ln work hard \
                 && echo '{}' > report.json && touch \"$(printf 'n%.0s' $(seq 255))\"";
    keeps.sh(leave).await.ok();
    let outside = keeps.sh("ls /workspace/.. /var/run/agentsandbox 2>/dev/null; true").await.ok().stdout;
    assert!(!outside.contains("report.json"), "the agent sees nothing of the volume but the tree: {outside}");

    let first = uid(&keeps).await;
    edit(&keeps, json!({"agent": {"env": [{"name": "TURN", "value": "2"}]}})).await;
    another(&keeps, &first).await;
    let found = keeps.sh("cat /workspace/work && echo $TURN").await.ok().stdout;
    assert_eq!(found, "kept\n2\n");

    let second = uid(&keeps).await;
    keeps.pods().delete(&keeps.agent_pod(), &DeleteParams::default()).await.unwrap();
    another(&keeps, &second).await;
    assert_eq!(keeps.sh("cat /workspace/work; ls /workspace | wc -l").await.ok().stdout, "kept\n6\n");
    let status = keeps.get().await.status.unwrap().workspace.unwrap();
    assert_eq!((status.files, status.claim_name), (0, Some(format!("{name}-workspace"))));

    let third = uid(&keeps).await;
    edit(&keeps, json!({"lifecycle": {"state": "Suspended"}})).await;
    eventually("no power", TOLD_WITHIN, || async {
        match keeps.pods().get_opt(&keeps.agent_pod()).await {
            Ok(None) => Ok(()),
            other => Err(format!("{:?}", other.map(|pod| pod.map(|pod| pod.metadata.name)))),
        }
    })
    .await;
    edit(&keeps, json!({"lifecycle": {"state": "Running"}})).await;
    another(&keeps, &third).await;
    assert_eq!(keeps.sh("cat /workspace/work").await.ok().stdout, "kept\n");

    keeps.delete().await;
    keeps.gone(TOLD_WITHIN).await;
    eventually("the claim is gone", TOLD_WITHIN, || async {
        match claims(ns).get_opt(&format!("{name}-workspace")).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn an_agents_work_outlasts_its_pods_under_gvisor_and_under_runc_and_ends_with_its_sandbox() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "persistent", async |ns| {
        keeps(&ns, "under-gvisor", "world").await;
        keeps(&ns, "under-runc", "container").await;
    })
    .await;
}

#[tokio::test]
async fn a_claim_that_is_retained_is_named_and_no_other_sandbox_takes_it_unless_it_is_handed_over() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "retained", async |ns| {
        let manifest = lasting("stays", "world", "size: 64Mi, whenDeleted: Delete");
        let stays = ns.sandbox("stays", &manifest).await;
        stays.ready().await;
        stays.sh("echo kept > /workspace/work").await.ok();
        let before = uid(&stays).await;
        let larger = json!({"workspace": {"persistent": {"size": "128Mi", "whenDeleted": "Retain"}}});
        edit(&stays, larger).await;
        another(&stays, &before).await;
        // The rig's storage class expands nothing.
        eventually("it is told that the claim did not grow", TOLD_WITHIN, || async {
            let told = stays.condition("WorkspaceReady").await?.map(|one| one.message).unwrap_or_default();
            if told.contains("could not be enlarged") { Ok(()) } else { Err(told) }
        })
        .await;
        // The garbage collector takes what the sandbox owns, before its teardown comes to it.
        stays.api().delete(&stays.name, &DeleteParams::foreground()).await.unwrap();
        stays.gone(TOLD_WITHIN).await;
        let claim = claims(&ns).get("stays-workspace").await.unwrap();
        assert!(
            claim.owner_references().is_empty() && claim.metadata.deletion_timestamp.is_none(),
            "{claim:?}"
        );
        let events: Api<Event> = Api::namespaced(ns.client.clone(), &ns.name);
        eventually("an Event names it", TOLD_WITHIN, || async {
            let all = events.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
            let told = all.iter().any(|event| {
                event.reason.as_deref() == Some("WorkspaceRetained")
                    && event.message.as_deref().is_some_and(|note| note.contains("stays-workspace"))
            });
            if told { Ok(()) } else { Err(format!("{} events", all.items.len())) }
        })
        .await;

        let again = ns.sandbox("stays", &manifest).await;
        let told = again.await_reason("Ready", "NameConflict", TOLD_WITHIN).await;
        assert!(told.message.contains("PersistentVolumeClaim stays-workspace"), "{}", told.message);
        assert_eq!(again.pods().get_opt(&again.agent_pod()).await.unwrap().map(|pod| pod.name_any()), None);
        let of = claims(&ns).get("stays-workspace").await.unwrap();
        assert_eq!(of.labels(), claim.labels(), "it is left alone");

        let label =
            json!({"metadata": {"labels": {"agentsandbox.dev/sandbox-uid": again.get().await.uid()}}});
        claims(&ns)
            .patch("stays-workspace", &PatchParams::default(), &Patch::Merge(label))
            .await
            .expect("an administrator hands it over");
        again.ready().await;
        assert_eq!(again.sh("cat /workspace/work").await.ok().stdout, "kept\n");
    })
    .await;
}

#[tokio::test]
async fn a_claim_that_cannot_be_had_is_told_by_its_name_and_a_strangers_is_left_alone() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "no-claim", async |ns| {
        let nowhere = ns
            .sandbox("nowhere", &lasting("nowhere", "world", "size: 64Mi, storageClassName: no-such"))
            .await;
        let large = ns.sandbox("large", &lasting("large", "world", "size: 1Ti")).await;
        let stranger = json!({
            "metadata": {"name": "foreign-workspace"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
        });
        let stranger = serde_json::from_value(stranger).unwrap();
        let stranger = claims(&ns).create(&PostParams::default(), &stranger).await.unwrap();
        let foreign = ns.sandbox("foreign", &lasting("foreign", "world", "size: 64Mi")).await;

        let told = foreign.await_reason("Ready", "NameConflict", TOLD_WITHIN).await;
        assert!(told.message.contains("foreign-workspace"), "{}", told.message);
        let now = claims(&ns).get("foreign-workspace").await.unwrap();
        assert_eq!((now.uid(), now.labels().len()), (stranger.uid(), 0));
        let told = large.await_reason("Accepted", "OutsideClass", TOLD_WITHIN).await;
        assert!(
            told.message.contains("spec.workspace.persistent.size") && told.message.contains("2Gi"),
            "{}",
            told.message
        );

        let told = nowhere.await_reason("Ready", "ClaimPending", TOLD_WITHIN).await;
        assert!(
            told.message.contains("nowhere-workspace") && told.message.contains("storage class no-such"),
            "{}",
            told.message
        );
        let stalled = nowhere.condition("Stalled").await.unwrap().unwrap();
        assert_eq!(stalled.status, "False", "it waits: {stalled:?}");
        nowhere.delete().await;
        nowhere.gone(TOLD_WITHIN).await;
    })
    .await;
}

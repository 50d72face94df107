//! Sandboxes whose program runs once, or for so long: what is told of the end, what stays and what goes.

use std::time::Duration;

use agentsandbox_crds::sandbox::ProgramStatus;
use agentsandbox_tests::sandbox::{READY_WITHIN, Sandbox};
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::fixtures::{self, AGENT_IMAGE};
use crate::people::{denied, operator, tenant};

/// A sandbox that runs a line of shell, with this `lifecycle`.
fn lives(name: &str, lifecycle: &str, line: &str) -> String {
    format!(
        "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandbox
metadata: {{name: {name}}}
spec:
  className: world
  lifecycle: {lifecycle}
  agent:
    image: {AGENT_IMAGE}
    command: [sh, -c, '{line}']
"
    )
}

async fn program(sandbox: &Sandbox) -> ProgramStatus {
    sandbox.get().await.status.and_then(|status| status.program).expect("the end is told")
}

/// Waits until this pod is gone.
async fn pod_gone(sandbox: &Sandbox, pod: &str) {
    eventually(&format!("{pod} gone"), Duration::from_secs(60), || async {
        match sandbox.pods().get_opt(pod).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_task_that_ends_well_is_ready_and_one_that_fails_is_stalled_and_each_keeps_its_log_and_no_proxy() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "task", async |ns| {
        let well = ns.sandbox("well", &lives("well", "{mode: Task}", "echo it is done")).await;
        let badly = lives(
            "badly",
            "{mode: Task}",
            "echo it is lost; echo no test passes > /dev/termination-log; exit 3",
        );
        let badly = ns.sandbox("badly", &badly).await;
        let told = well.await_reason("Ready", "Succeeded", READY_WITHIN).await;
        assert_eq!(told.status, "True");
        let told = badly.await_reason("Stalled", "Failed", READY_WITHIN).await;
        assert_eq!(told.status, "True");
        assert!(!told.message.contains("no test passes"), "{}", told.message);
        for (sandbox, code, log) in [(&well, 0, "it is done"), (&badly, 3, "it is lost")] {
            let program = program(sandbox).await;
            assert_eq!(program.exit_code, Some(code), "{program:?}");
            assert!(
                program.started_at <= program.finished_at && program.finished_at.is_some(),
                "{program:?}"
            );
            pod_gone(sandbox, &sandbox.proxy_pod()).await;
            assert!(sandbox.agent_log().await.contains(log));
            let walls = Api::<NetworkPolicy>::namespaced(ns.client.clone(), &ns.name);
            walls.get(&sandbox.agent_pod()).await.expect("the wall stays");
        }
        assert_eq!(program(&badly).await.last_words.as_deref(), Some("no test passes"));
        let edited = lives("badly", "{mode: Task}", "exit 0");
        let refusal = ns.apply(&edited).await.expect_err("it is over").to_string();
        assert!(refusal.contains("the sandbox is over") && refusal.contains("delete it"), "{refusal}");
        let kept = lives(
            "badly",
            "{mode: Task, ttlAfterFinished: 1h}",
            "echo it is lost; echo no test passes > /dev/termination-log; exit 3",
        );
        ns.apply(&kept).await.expect("how long it is kept may be changed");
        well.delete().await;
        well.gone(Duration::from_secs(60)).await;
    })
    .await;
}

#[tokio::test]
async fn a_life_ends_on_time_and_what_is_over_is_deleted_after_the_time_for_which_it_is_kept() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "lifetime", async |ns| {
        let late = ns.sandbox("late", &lives("late", "{maxLifetime: 20s}", "sleep infinity")).await;
        let brief =
            ns.sandbox("brief", &lives("brief", "{mode: Task, ttlAfterFinished: 5s}", "exit 3")).await;
        late.await_reason("Ready", "LifetimeExceeded", READY_WITHIN).await;
        pod_gone(&late, &late.agent_pod()).await;
        pod_gone(&late, &late.proxy_pod()).await;
        assert_eq!(program(&late).await.reason, "LifetimeExceeded");
        brief.gone(READY_WITHIN).await;
    })
    .await;
}

#[tokio::test]
async fn o_t8_nobody_but_the_operator_writes_what_became_of_a_sandbox() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "statuses", async |ns| {
        let (tenant, operator) = (tenant(&rig, &ns).await, operator(&rig, &ns).await);
        tenant.apply(&fixtures::closed("s").replace("className: world", "className: no-such-class")).await.unwrap();
        let sandbox = json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": {"name": "s"}});
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let written = async |user: &Namespace, change: Value| {
            user.api_of(&sandbox).patch_status("s", &params, &Patch::Merge(&change)).await.map(drop)
        };
        let ended = json!({"status": {"program": {"reason": "Completed", "exitCode": 0}}});
        let begun = json!({"status": {"startedAt": "2030-01-01T00:00:00Z"}});
        for change in [&ended, &begun, &json!({"status": null})] {
            // The operator has told something by now, so that there is something to take away.
            let refusal = eventually("the refusal", Duration::from_secs(30), || async {
                match written(&tenant, change.clone()).await {
                    Err(refusal) => Ok(refusal),
                    Ok(()) => Err(format!("{change} was written")),
                }
            })
            .await;
            denied::<()>(Err(refusal), "agentsandbox-statuses", &["only the operator"]);
            written(&operator, change.clone()).await.unwrap();
            written(&ns, change.clone()).await.unwrap();
        }
        written(&tenant, json!({"metadata": {"annotations": {"note": "mine"}}})).await.unwrap();
    })
    .await;
}

//! Sandboxes whose program runs once, or for so long: what is told of the end, what stays and what goes.

use std::time::Duration;

use agentsandbox_crds::names;
use agentsandbox_crds::sandbox::ProgramStatus;
use agentsandbox_tests::sandbox::{READY_WITHIN, Sandbox};
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::fixtures::{self, AGENT_IMAGE};
use crate::main_job::{answers, claude};
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
        let pod = badly.agent_pod();
        eventually("the pod is let go", Duration::from_secs(30), || async {
            match badly.pods().get(&pod).await {
                Ok(pod) if pod.metadata.finalizers.is_none() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        badly.pods().delete(&pod, &DeleteParams::default()).await.unwrap();
        pod_gone(&badly, &pod).await;
        well.delete().await;
        well.gone(Duration::from_secs(60)).await;
    })
    .await;
}

#[tokio::test]
async fn a_task_whose_pod_is_deleted_while_it_runs_begins_anew_and_its_namespace_ends_while_it_runs() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "kept", async |ns| {
        let task = ns.sandbox("kept", &lives("kept", "{mode: Task}", "sleep infinity")).await;
        task.await_reason("Ready", "Running", READY_WITHIN).await;
        let (before, ..) = proof(&task).await;
        let kept = task.pods().get(&task.agent_pod()).await.unwrap().metadata.finalizers;
        assert_eq!(kept.as_deref(), Some(&[names::PROGRAM_FINALIZER.to_owned()][..]));
        task.pods().delete(&task.agent_pod(), &DeleteParams::default()).await.unwrap();
        eventually("another pod", READY_WITHIN, || async {
            match task.pods().get_opt(&task.agent_pod()).await {
                Ok(Some(pod)) if pod.metadata.uid.as_deref() != Some(&*before) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        task.await_reason("Ready", "Running", READY_WITHIN).await;
        // The namespace goes with it, as each test's does.
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
async fn a_sandbox_through_whose_proxy_nothing_passes_ends_and_one_that_asks_now_and_then_does_not() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "idle", async |ns| {
        let asks = |name: &str, url: &str| {
            let line = format!("while :; do curl -s -m 5 -o /dev/null {url}; sleep 5; done");
            let manifest = lives(name, "{idleTimeout: 1m}", &line);
            format!("{manifest}  egress: {{allow: [{{host: echo.world.test}}]}}\n")
        };
        let used = ns.sandbox("used", &asks("used", "https://echo.world.test/a")).await;
        used.await_reason("Ready", "Running", READY_WITHIN).await;
        // What is refused does not count.
        let idle = ns.sandbox("idle", &asks("idle", "https://files.example.com/x")).await;
        idle.await_reason("Ready", "Running", READY_WITHIN).await;
        idle.await_reason("Ready", "IdleTimeoutExceeded", Duration::from_secs(240)).await;
        let status = idle.get().await.status.unwrap();
        assert!(status.last_activity_time.is_some(), "{status:?}");
        pod_gone(&idle, &idle.agent_pod()).await;
        pod_gone(&idle, &idle.proxy_pod()).await;
        assert_eq!(program(&idle).await.reason, "IdleTimeoutExceeded");
        let ready = used.condition("Ready").await.unwrap().unwrap();
        assert_eq!(ready.reason, "Running", "it has run for longer");
        assert_eq!(used.get().await.status.unwrap().last_activity_time, None);
    })
    .await;
}

#[tokio::test]
async fn a_run_of_a_task_that_takes_too_long_ends_the_task() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "deadline", async |ns| {
        let task = lives("slow", "{mode: Task, activeDeadline: 20s}", "sleep infinity");
        let task = ns.sandbox("slow", &task).await;
        task.await_reason("Ready", "DeadlineExceeded", READY_WITHIN).await;
        pod_gone(&task, &task.agent_pod()).await;
        pod_gone(&task, &task.proxy_pod()).await;
        let program = program(&task).await;
        assert_eq!((program.reason.as_str(), program.exit_code), ("DeadlineExceeded", None));
    })
    .await;
}

/// Suspends a sandbox, or resumes it.
async fn state(sandbox: &Sandbox, state: &str) -> Result<(), kube::Error> {
    let patch = json!({"spec": {"lifecycle": {"state": state}}});
    let params = PatchParams::default();
    sandbox.api().patch(&sandbox.name, &params, &Patch::Merge(patch)).await.map(drop)
}

/// Waits until neither pod of a sandbox is there and it says so.
async fn suspended(sandbox: &Sandbox) {
    state(sandbox, "Suspended").await.unwrap();
    sandbox.await_condition("Suspended", "True", READY_WITHIN).await;
    for pod in [sandbox.agent_pod(), sandbox.proxy_pod()] {
        assert!(sandbox.pods().get_opt(&pod).await.unwrap().is_none(), "{pod} is there");
    }
    let ready = sandbox.condition("Ready").await.unwrap().unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Suspended"));
}

/// The UID of the agent's pod, when its fence had proven the walls, and when its program started.
async fn proof(sandbox: &Sandbox) -> (String, Option<Time>, Option<Time>) {
    let pod = sandbox.pods().get(&sandbox.agent_pod()).await.unwrap();
    let status = pod.status.unwrap();
    let fence = status.init_container_statuses.unwrap().into_iter().find(|one| one.name == "fence").unwrap();
    let fence = fence.state.and_then(|state| state.terminated).expect("the fence is done");
    assert_eq!(fence.exit_code, 0, "{fence:?}");
    assert!(fence.message.unwrap_or_default().contains("Proven"));
    let agent = status.container_statuses.unwrap().into_iter().find(|one| one.name == "agent").unwrap();
    let started = agent.state.and_then(|state| state.running).and_then(|running| running.started_at);
    (pod.metadata.uid.unwrap(), fence.finished_at, started)
}

#[tokio::test]
async fn a_suspended_sandbox_has_walls_and_no_power_and_resumes_behind_a_new_proof_and_does_its_work() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "suspended", async |ns| {
        let sandbox = claude(&ns, &rig, "Set").await;
        let (before, ..) = proof(&sandbox).await;
        suspended(&sandbox).await;
        let walls = Api::<NetworkPolicy>::namespaced(ns.client.clone(), &ns.name);
        for wall in [sandbox.agent_pod(), sandbox.proxy_pod()] {
            let uid = walls.get(&wall).await.expect("the wall stays").metadata.uid;
            walls.delete(&wall, &DeleteParams::default()).await.unwrap();
            eventually(&format!("{wall} is put back"), Duration::from_secs(30), || async {
                match walls.get_opt(&wall).await {
                    Ok(Some(one)) if one.metadata.uid != uid && one.metadata.deletion_timestamp.is_none() => {
                        Ok(())
                    }
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
        }
        let services = Api::<Service>::namespaced(ns.client.clone(), &ns.name);
        let way = services.get(&sandbox.proxy_pod()).await.unwrap().spec.unwrap().selector.unwrap();
        assert_eq!(way[names::LABEL_COMPONENT], "none", "the way is shut");
        state(&sandbox, "Running").await.unwrap();
        sandbox.await_reason("Ready", "Running", READY_WITHIN).await;
        let told = sandbox.condition("NetworkIsolated").await.unwrap().unwrap();
        assert_eq!((told.status.as_str(), told.reason.as_str()), ("True", "Proven"));
        let (after, proven, started) = proof(&sandbox).await;
        assert_ne!(after, before, "its fence is a new one");
        assert!(proven.is_some() && proven <= started, "{proven:?} {started:?}");
        answers(&rig, &sandbox, "").await;
    })
    .await;
}

#[tokio::test]
async fn a_task_that_is_suspended_begins_anew_and_once_it_is_over_it_is_neither_suspended_nor_resumed() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "suspended-task", async |ns| {
        let line = "until [ -e /tmp/go ]; do sleep 1; done; echo it is done";
        let task = ns.sandbox("again", &lives("again", "{mode: Task}", line)).await;
        task.await_reason("Ready", "Running", READY_WITHIN).await;
        suspended(&task).await;
        assert_eq!(task.get().await.status.unwrap().program, None, "to be stopped is no end");
        state(&task, "Running").await.unwrap();
        task.await_reason("Ready", "Running", READY_WITHIN).await;
        task.sh("touch /tmp/go").await.ok();
        task.await_reason("Ready", "Succeeded", READY_WITHIN).await;
        let refusal = state(&task, "Suspended").await.expect_err("it is over").to_string();
        assert!(refusal.contains("the sandbox is over"), "{refusal}");
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

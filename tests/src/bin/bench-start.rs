//! How long from `create` until the agent's process runs, beside a bare gVisor pod in the same run, and how many writes
//! the operator makes for one sandbox. Started by `cargo xtask bench start`, which puts what this prints into
//! `docs/benchmarks.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot be made ends the run")]
#![allow(clippy::print_stdout, reason = "the report is the output")]

use std::time::{Duration, Instant};

use agentsandbox_tests::{Namespace, Rig, with_namespace};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::api::{DeleteParams, ListParams, WatchParams};
use kube::core::WatchEvent;
use serde_json::Value;

/// Pods of each kind.
const RUNS: usize = 20;
/// Image of both kinds of pod.
const IMAGE: &str = "agentsandbox.test/quickstart:1";
/// The operator's user name in the audit log.
const OPERATOR: &str = "system:serviceaccount:agentsandbox-system:agentsandbox-operator";
/// How long a settled sandbox is watched for writes.
const STEADY: Duration = Duration::from_secs(120);

/// Whether a pod shows that a stage is reached.
type Stage = fn(&Pod) -> bool;

/// What happens on the way, each seen by a watch of the pods.
const STAGES: [(&str, Stage); 6] = [
    ("the proxy's pod exists", |pod| is(pod, "-proxy")),
    ("the proxy is ready", |pod| is(pod, "-proxy") && condition(pod, "Ready")),
    ("the agent's pod exists", |pod| is(pod, "-agent")),
    ("the fence runs", |pod| {
        is(pod, "-agent") && fence(pod).is_some_and(|s| s.running.is_some() || s.terminated.is_some())
    }),
    ("the fence has proven the walls", |pod| {
        is(pod, "-agent") && fence(pod).is_some_and(|s| s.terminated.is_some())
    }),
    ("the agent runs", |pod| is(pod, "-agent") && runs(pod)),
];

#[tokio::main]
async fn main() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "bench-start", async |ns| {
        let (mut bare, mut stages) = (Vec::new(), Vec::new());
        for run in 0..RUNS {
            // In turn, so that both meet the same machine.
            bare.push(bare_pod(&ns, &format!("bare{run}")).await);
            stages.push(sandbox(&ns, &format!("s{run}")).await);
        }
        println!("From `create` until the container is reported running, {RUNS} times each, in turn:\n");
        println!("| | p50 | p90 |\n|---|---|---|");
        row("a bare gVisor pod", &mut bare);
        for (index, (name, _)) in STAGES.iter().enumerate() {
            let mut times: Vec<_> = stages.iter().filter_map(|run| run.get(index).copied()).collect();
            row(&format!("AgentSandbox: {name}"), &mut times);
        }
        writes(&rig, &ns).await;
    })
    .await;
}

fn row(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_millis();
    println!("| {what} | {} ms | {} ms |", at(50), at(90));
}

async fn bare_pod(ns: &Namespace, name: &str) -> Duration {
    let manifest = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  runtimeClassName: gvisor
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: agent
    image: {IMAGE}
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
    );
    let time = reached(ns, &manifest, &[|pod| runs(pod)]).await[0];
    ns.pods().delete(name, &DeleteParams::default()).await.unwrap();
    gone(ns, name).await;
    time
}

async fn sandbox(ns: &Namespace, name: &str) -> Vec<Duration> {
    let times = reached(ns, &sandbox_manifest(name), &STAGES.map(|(_, reached)| reached)).await;
    let handle = ns.handle(name);
    handle.delete().await;
    handle.gone(Duration::from_secs(60)).await;
    times
}

async fn gone(ns: &Namespace, pod: &str) {
    agentsandbox_tests::eventually("the pod is gone", Duration::from_secs(60), || async {
        match ns.pods().get_opt(pod).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

fn sandbox_manifest(name: &str) -> String {
    format!(
        "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandbox
metadata: {{name: {name}}}
spec:
  className: gvisor
  agent: {{image: \"{IMAGE}\", command: [sh, -c, \"trap 'exit 0' TERM; sleep infinity & wait\"]}}
  egress: {{allow: [{{host: echo.world.test}}]}}
"
    )
}

/// Applies the manifest, and says when each stage was first seen; the last one ends the wait.
async fn reached(ns: &Namespace, manifest: &str, stages: &[Stage]) -> Vec<Duration> {
    let pods = ns.pods();
    let since = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut events = pods.watch(&WatchParams::default().timeout(120), &since).await.unwrap().boxed();
    let begin = Instant::now();
    ns.apply(manifest).await.unwrap();
    let mut times: Vec<Option<Duration>> = vec![None; stages.len()];
    while let Some(event) = events.try_next().await.unwrap() {
        if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event {
            for (time, stage) in times.iter_mut().zip(stages) {
                if time.is_none() && stage(&pod) {
                    *time = Some(begin.elapsed());
                }
            }
        }
        if times.last().is_some_and(Option::is_some) {
            return times.into_iter().map(|time| time.unwrap_or_else(|| begin.elapsed())).collect();
        }
    }
    unreachable!("the watch ended before the last stage")
}

fn is(pod: &Pod, suffix: &str) -> bool {
    pod.metadata.name.as_deref().is_some_and(|name| name.ends_with(suffix))
}

fn condition(pod: &Pod, kind: &str) -> bool {
    let mut all = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    all.any(|c| c.type_ == kind && c.status == "True")
}

fn fence(pod: &Pod) -> Option<&ContainerState> {
    let mut all = pod.status.iter().flat_map(|s| s.init_container_statuses.iter().flatten());
    all.find(|c| c.name == "fence").and_then(|c| c.state.as_ref())
}

fn runs(pod: &Pod) -> bool {
    let mut all = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    all.any(|c| c.name == "agent" && c.state.as_ref().is_some_and(|s| s.running.is_some()))
}

/// The operator's writes for one sandbox: until it is ready, in two quiet minutes, and for its deletion.
async fn writes(rig: &Rig, ns: &Namespace) {
    let count = || operator_writes(rig, &ns.name);
    let before = count();
    let handle = ns.sandbox("counted", &sandbox_manifest("counted")).await;
    handle.ready().await;
    let cold = count();
    tokio::time::sleep(STEADY).await;
    let steady = count();
    handle.delete().await;
    handle.gone(Duration::from_secs(60)).await;
    println!(
        "\nWrites of the operator for one sandbox, Events and its Lease not counted, from the API server's audit log:\n"
    );
    println!("| | writes |\n|---|---|");
    println!("| from `create` until it is ready | {} |", cold - before);
    println!("| in {} quiet seconds | {} |", STEADY.as_secs(), steady - cold);
    println!("| from `delete` until it is gone | {} |", count() - steady);
}

/// Writes of the operator in a namespace, from the API server's audit log; Events and its Lease are not counted.
fn operator_writes(rig: &Rig, namespace: &str) -> usize {
    let log = std::fs::read_to_string(rig.cluster.audit_log()).unwrap();
    log.lines()
        .filter_map(|l| serde_json::from_str::<Value>(l).ok())
        .filter(|e| e["user"]["username"] == OPERATOR && e["objectRef"]["namespace"] == namespace)
        .filter(|e| e["stage"] == "ResponseComplete" && e["objectRef"]["resource"] != "events")
        .filter(|e| ["create", "update", "patch", "delete"].iter().any(|v| e["verb"] == *v))
        .count()
}

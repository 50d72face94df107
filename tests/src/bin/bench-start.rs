//! How long from `create` until the agent's process runs, beside a bare gVisor pod in the same run, and how many writes
//! the operator makes for one sandbox. Started by `cargo xtask bench start`, which puts what this prints into
//! `docs/benchmarks.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot be made ends the run")]
#![allow(clippy::print_stdout, reason = "the report is the output")]

use std::time::{Duration, Instant};

use agentsandbox_tests::{Namespace, Rig, with_namespace};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, WatchParams};
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

#[tokio::main]
async fn main() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "bench-start", async |ns| {
        let mut bare = Vec::new();
        let mut fenced = Vec::new();
        for run in 0..RUNS {
            // In turn, so that both meet the same machine.
            bare.push(bare_pod(&ns, &format!("bare{run}")).await);
            fenced.push(sandbox(&ns, &format!("s{run}")).await);
        }
        report("bare gVisor pod", &mut bare);
        report("AgentSandbox", &mut fenced);
        writes(&rig, &ns).await;
    })
    .await;
}

fn report(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_millis();
    println!("| {what} | {} | {} ms | {} ms |", times.len(), at(50), at(90));
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
    let time = until_running(ns, name, &manifest).await;
    ns.pods().delete(name, &DeleteParams::default()).await.unwrap();
    time
}

async fn sandbox(ns: &Namespace, name: &str) -> Duration {
    let manifest = sandbox_manifest(name);
    let time = until_running(ns, &format!("{name}-agent"), &manifest).await;
    let handle = ns.handle(name);
    handle.delete().await;
    handle.gone(Duration::from_secs(60)).await;
    time
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

/// Applies the manifest and waits until the pod's container `agent` is reported running.
async fn until_running(ns: &Namespace, pod: &str, manifest: &str) -> Duration {
    let params = WatchParams::default().fields(&format!("metadata.name={pod}")).timeout(120);
    let pods = ns.pods();
    let mut events = pods.watch(&params, "0").await.unwrap().boxed();
    let begin = Instant::now();
    ns.apply(manifest).await.unwrap();
    while let Some(event) = events.try_next().await.unwrap() {
        if let WatchEvent::Added(pod) | WatchEvent::Modified(pod) = event
            && runs(&pod)
        {
            return begin.elapsed();
        }
    }
    unreachable!("the watch ended before {pod} ran")
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
    println!("| API writes, cold | {} |", cold - before);
    println!("| API writes, {} s steady | {} |", STEADY.as_secs(), steady - cold);
    println!("| API writes, delete | {} |", count() - steady);
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

//! What isolation costs: the same pods with the node's own kernel (runc) and with gVisor (runsc), in turn and in one run. Started
//! by `cargo xtask bench isolation`, which puts what this prints into `docs/benchmarks.md`.
//!
//! Its arguments are a file, into which every sample goes, and what the machine is.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot be made ends the run")]
#![allow(clippy::print_stdout, reason = "the report is the output")]

use std::time::{Duration, Instant};

use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, LogParams, WatchParams};
use kube::core::WatchEvent;
use serde_json::{Value, json};

/// Pods of each runtime whose start is timed.
const STARTS: usize = 20;
/// Pods of each runtime that measure what their kernel charges.
const ROUNDS: usize = 10;
/// A static program, which needs no image but its own.
const IMAGE: &str = "agentsandbox.test/prober:1";
/// How long one pod may take.
const WITHIN: Duration = Duration::from_secs(180);

/// The runtimes: how the tables call them, and their RuntimeClass.
const RUNTIMES: [(&str, Option<&str>); 2] = [("runc", None), ("runsc", Some("gvisor"))];

/// What is measured inside: a name, where it stands in the prober's answer, and its unit.
const COSTS: [(&str, &str, &str); 6] = [
    ("10,000 small files, on the node's disk", "/create_millis/0", "ms"),
    ("10,000 small files, in memory", "/create_millis/1", "ms"),
    ("one file opened and closed, on the node's disk", "/open_micros/0", "µs"),
    ("one file opened and closed, in memory", "/open_micros/1", "µs"),
    ("one getpid", "/call_nanos", "ns"),
    ("64 MiB hashed, without a system call", "/hash_millis", "ms"),
];

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (file, machine) = (arguments.next().unwrap(), arguments.next().unwrap());
    let rig = Rig::alone().await;
    let mut raw = json!({"machine": machine});
    with_namespace(&rig, "bench-isolation", async |ns| {
        let mut starts = [Vec::new(), Vec::new()];
        let mut costs = [Vec::new(), Vec::new()];
        // In turn, so that both meet the same machine.
        for round in 0..STARTS {
            for (index, (name, class)) in RUNTIMES.iter().enumerate() {
                starts[index].push(start(&ns, &format!("{name}-{round}"), *class).await);
            }
        }
        for round in 0..ROUNDS {
            for (index, (name, class)) in RUNTIMES.iter().enumerate() {
                costs[index].push(charged(&ns, &format!("{name}-costs-{round}"), *class).await);
            }
        }
        raw["start_millis"] = json!({"runc": starts[0], "runsc": starts[1]});
        raw["costs"] = json!({"runc": costs[0], "runsc": costs[1]});
        report(&mut starts, &costs);
    })
    .await;
    std::fs::write(file, serde_json::to_string(&raw).unwrap() + "\n").unwrap();
}

fn report(starts: &mut [Vec<f64>; 2], costs: &[Vec<Value>; 2]) {
    println!(
        "{STARTS} pods of each runtime for the start, from `create` until the container is reported running, and {ROUNDS} for the rest, in turn:\n"
    );
    println!("| | runc p50 | runc p95 | runsc p50 | runsc p95 | runsc to runc |\n|---|---|---|---|---|---|");
    row("start of a pod", "ms", starts);
    for (name, pointer, unit) in COSTS {
        let cost = |one: &Value| one.pointer(pointer).and_then(Value::as_f64).unwrap();
        let of = |all: &Vec<Value>| -> Vec<f64> { all.iter().map(cost).collect() };
        row(name, unit, &mut [of(&costs[0]), of(&costs[1])]);
    }
}

fn row(what: &str, unit: &str, samples: &mut [Vec<f64>; 2]) {
    samples.iter_mut().for_each(|all| all.sort_by(f64::total_cmp));
    let [runc, runsc] = &*samples;
    let cells = [(runc, 50), (runc, 95), (runsc, 50), (runsc, 95)];
    let cells = cells.map(|(all, percent)| format!("{} {unit}", number(at(all, percent))));
    println!("| {what} | {} | {:.1} × |", cells.join(" | "), at(runsc, 50) / at(runc, 50));
}

/// The least of the sorted samples that so many of a hundred do not exceed.
fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

/// Three figures are what runs have in common.
fn number(value: f64) -> String {
    if value < 10.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

fn pod(name: &str, class: Option<&str>, args: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "runtimeClassName": class,
            "automountServiceAccountToken": false,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
            "containers": [{
                "name": "agent", "image": IMAGE, "args": args,
                "volumeMounts": [{"name": "disk", "mountPath": "/disk"}, {"name": "memory", "mountPath": "/memory"}],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

/// Milliseconds until a pod that only waits is reported running.
async fn start(ns: &Namespace, name: &str, class: Option<&str>) -> f64 {
    let took = until(ns, &pod(name, class, &["sleep"]), name).await;
    end(ns, name).await;
    took
}

/// Milliseconds from the application of an object until the container `agent` of this pod is reported running.
async fn until(ns: &Namespace, object: &Value, pod: &str) -> f64 {
    let pods = ns.pods();
    let since = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut events = pods.watch(&WatchParams::default().timeout(290), &since).await.unwrap().boxed();
    let begin = Instant::now();
    ns.apply(&object.to_string()).await.unwrap();
    loop {
        match events.try_next().await.unwrap().expect("the watch ended before the pod ran") {
            WatchEvent::Added(seen) | WatchEvent::Modified(seen) if runs(&seen, pod) => {
                return begin.elapsed().as_secs_f64() * 1000.0;
            }
            _ => {}
        }
    }
}

fn runs(pod: &Pod, name: &str) -> bool {
    let mut all = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    pod.metadata.name.as_deref() == Some(name)
        && all.any(|c| c.name == "agent" && c.state.as_ref().is_some_and(|s| s.running.is_some()))
}

/// What the kernel of a pod charges, as the prober found it inside.
async fn charged(ns: &Namespace, name: &str, class: Option<&str>) -> Value {
    let args = ["costs", "--folder", "/disk", "--folder", "/memory"];
    ns.apply(&pod(name, class, &args).to_string()).await.unwrap();
    eventually("it has measured", WITHIN, || async {
        let pod = ns.pods().get(name).await.map_err(|error| error.to_string())?;
        let phase = pod.status.and_then(|status| status.phase).unwrap_or_default();
        if phase == "Succeeded" { Ok(()) } else { Err(phase) }
    })
    .await;
    let log = ns.pods().logs(name, &LogParams::default()).await.unwrap();
    end(ns, name).await;
    serde_json::from_str(log.trim()).expect("the prober speaks JSON")
}

async fn end(ns: &Namespace, name: &str) {
    ns.pods().delete(name, &DeleteParams::default()).await.unwrap();
    eventually("the pod is gone", WITHIN, || async {
        match ns.pods().get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_samples_and_never_a_smaller_one() {
        let all: Vec<f64> = (1..=20).map(f64::from).collect();
        assert_eq!((at(&all, 50), at(&all, 95), at(&all, 100)), (10.0, 19.0, 20.0));
        assert_eq!((at(&all[..10], 50), at(&all[..10], 95)), (5.0, 10.0));
        assert_eq!(at(&all[..1], 1), 1.0);
    }
}

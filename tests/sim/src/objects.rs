//! The objects of every scenario: what an administrator, a developer and the cluster itself have made.

use agentsandbox_operator::ranges::Configured;
use agentsandbox_report::{VERSION, WORKSPACE_VERSION};
use serde_json::{Value, json};

use crate::kinds::{
    CLASSES, CREDENTIALS, Kind, LEASES, NAMESPACES, NODES, PODS, RUNTIME_CLASSES, SANDBOXES, SECRETS,
    SERVICE_CIDRS, SERVICES, SLICES,
};
use crate::store::{Part, Refusal, Store};

/// The value of the user's secret, which may be in no object but its own.
pub const SECRET_VALUE: &str = "c2stYW50LXNlY3JldC12YWx1ZQ==";
/// The namespace of every sandbox.
pub const TEAM: &str = "team";
/// The operator's own namespace.
pub const SYSTEM: &str = "agentsandbox-system";

/// Fills a store with a cluster that waits for its first sandbox.
pub fn cluster(store: &mut Store) {
    let mut add = |kind: &'static Kind, object: Value| {
        store.create(kind, None, object, false).unwrap();
    };
    for name in ["default", SYSTEM, TEAM] {
        let labels = json!({"kubernetes.io/metadata.name": name});
        add(&NAMESPACES, json!({"metadata": {"name": name, "labels": labels, "finalizers": ["kubernetes"]}}));
    }
    add(
        &SERVICES,
        json!({"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": {"ports": [{"port": 443}]}}),
    );
    add(
        &SLICES,
        json!({
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4", "ports": [{"port": 6443}], "endpoints": [{"addresses": ["10.0.0.1"]}],
        }),
    );
    add(
        &NODES,
        json!({
            "metadata": {"name": "node"}, "spec": {"podCIDRs": ["10.244.0.0/16"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]},
        }),
    );
    add(&SERVICE_CIDRS, json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}}));
    add(&LEASES, json!({"metadata": {"name": "agentsandbox-operator", "namespace": SYSTEM}, "spec": {}}));
    add(&RUNTIME_CLASSES, json!({"metadata": {"name": "gvisor"}, "handler": "runsc"}));
    add(
        &CLASSES,
        json!({
            "metadata": {"name": "gvisor", "annotations": {"agentsandbox.dev/is-default-class": "true"}},
            "spec": {"isolation": "GVisor", "runtimeClassName": "gvisor", "persistentWorkspace": {"maxSize": "10Gi"}},
        }),
    );
    add(
        &SECRETS,
        json!({"metadata": {"name": "anthropic-key", "namespace": TEAM}, "data": {"api-key": SECRET_VALUE}}),
    );
    add(
        &CREDENTIALS,
        json!({
            "metadata": {"name": "anthropic", "namespace": TEAM},
            "spec": {
                "secretRef": {"name": "anthropic-key", "key": "api-key"},
                "inject": {"type": "Header", "header": {"name": "x-api-key"}},
                "hosts": [{"host": "api.anthropic.com", "paths": ["/v1/**"]}],
            },
        }),
    );
}

/// The cluster's ranges, for who does not find them.
pub fn ranges() -> Configured {
    let range = |text: &str| vec![text.parse().unwrap()];
    Configured { pods: range("10.244.0.0/16"), services: range("10.96.0.0/16"), nodes: range("10.0.0.1/32") }
}

/// A sandbox.
pub fn sandbox(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": TEAM},
        "spec": {
            "className": "gvisor",
            "agent": {"image": "ghcr.io/acme/agent:2.1", "args": ["-p", "fix the test"]},
            "egress": {"allow": [
                {"host": "api.anthropic.com", "credential": "anthropic"},
                {"host": "pypi.org", "methods": ["GET", "HEAD"]},
            ]},
        },
    })
}

/// A sandbox whose program runs once and ends with this exit code.
pub fn task(name: &str, exit_code: i64) -> Value {
    let mut object = sandbox(name);
    object["spec"]["lifecycle"] = json!({"mode": "Task"});
    object["spec"]["agent"]["args"] = json!([exit_code.to_string()]);
    object
}

/// A sandbox whose workspace outlasts its pods, and ends like this with the sandbox.
pub fn persistent(name: &str, when_deleted: &str) -> Value {
    let mut object = sandbox(name);
    object["spec"]["workspace"] =
        json!({"access": "Persistent", "persistent": {"size": "1Gi", "whenDeleted": when_deleted}});
    object
}

/// The kubelet evicts a pod: its containers are killed, and it says why.
///
/// # Errors
/// As the API server: there is no such pod.
pub fn evict(store: &mut Store, pod: &str) -> Result<Value, Refusal> {
    let container = pod.split_once('-').map_or(pod, |(_, component)| component);
    store.merge(
        &PODS,
        Part::Status,
        (TEAM, pod),
        &json!({"status": {"phase": "Failed", "reason": "Evicted", "conditions": [], "containerStatuses": [{
            "name": container, "ready": false, "restartCount": 0, "image": "i", "imageID": "i",
            "state": {"terminated": {"exitCode": 137, "reason": "Error"}},
        }]}}),
    )
}

/// Creates a sandbox.
pub fn create(store: &mut Store, object: Value) -> Value {
    store.create(&SANDBOXES, Some("kubectl"), object, false).unwrap()
}

/// What the workspace's step writes of a volume that began empty.
pub fn workspace_report() -> String {
    json!({
        "version": WORKSPACE_VERSION, "verdict": "Unpacked", "message": "The workspace begins empty.",
        "files": 0, "bytes": 0, "leftOut": 0, "withTokens": 0, "durationMillis": 7,
    })
    .to_string()
}

/// What the fence writes when everything is proven.
pub fn report() -> String {
    json!({
        "version": VERSION,
        "verdict": "Proven",
        "message": "Everything is proven.",
        "kernel": {"kind": "GVisor", "expected": "GVisor", "version": "Linux version 4.4.0"},
        "walls": {"rounds": 1, "closedAfterMillis": 3, "closed": ["tcp 10.96.0.1:443"], "open": [], "enrolled": true},
        "limits": {"memoryBytes": 1_073_741_824, "cpuMillis": 1000, "pids": 1024},
        "phases": {},
        "durationMillis": 9,
    })
    .to_string()
}

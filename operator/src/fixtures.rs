//! Objects for tests, as chained verbs: what a test does not say is ordinary and valid.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use agentsandbox_crds::class::{AgentSandboxClass, AgentSandboxClassSpec};
use agentsandbox_crds::credential::{AgentCredential, AgentCredentialSpec};
use agentsandbox_crds::names::ANNOTATION_DEFAULT_CLASS;
use agentsandbox_crds::sandbox::{AgentSandbox, AgentSandboxSpec};
use agentsandbox_crds::template::{AgentSandboxTemplate, AgentSandboxTemplateSpec};
use agentsandbox_merge::merge;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Resource;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{Store, store};
use kube::runtime::watcher::Event;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::backoff::Jitter;
use crate::clock::Clock;
use crate::config::WallProbe;
use crate::controller::accept::{self, Accepted, Identity, Rejection};
use crate::controller::apply::{Sealed, Writer};
use crate::controller::desired::{self, Boundary, Child, ChildKind};
use crate::controller::memory::Memory;
use crate::controller::observe::{Observed, ProxyClosed, Recent, References, Stores};
use crate::controller::{Breaches, Ctx, Failures, Patience, Progress};
use crate::lease::Tenure;
use crate::metrics::Metrics;
use crate::platform::Platform;
use crate::shelf::{Shelf, Shelved, shelf};

pub mod api;

/// What the operator bears for seconds is borne for so long in tests: longer than a machine stands still, and shorter than the
/// longest pause between two passes.
pub const PATIENCE: Duration = Duration::from_secs(50);

/// UID of the sandbox of every test.
pub const UID: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";

/// Anything, from JSON.
pub fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// The sandbox `team/fix-login`, changed by `change`.
pub fn sandbox(change: impl FnOnce(&mut AgentSandbox)) -> AgentSandbox {
    let spec: AgentSandboxSpec = from(json!({
        "className": "gvisor",
        "agent": {"image": "ghcr.io/acme/agent:2.1", "args": ["-p", "fix the $HOME test"], "env": [{"name": "MODE", "value": "fast"}]},
        "workspace": {"sizeLimit": "2Gi"},
        "egress": {"allow": [
            {"host": "api.anthropic.com", "credential": "anthropic"},
            {"host": "pypi.org", "methods": ["GET", "HEAD"]},
        ]},
    }));
    let mut sandbox = AgentSandbox::new("fix-login", spec);
    sandbox.metadata.namespace = Some("team".to_owned());
    sandbox.metadata.uid = Some(UID.to_owned());
    sandbox.metadata.generation = Some(3);
    sandbox.metadata.resource_version = Some("100".to_owned());
    change(&mut sandbox);
    sandbox
}

/// The class `gvisor`, the default, changed by `change`.
pub fn class(change: impl FnOnce(&mut AgentSandboxClass)) -> AgentSandboxClass {
    let spec: AgentSandboxClassSpec = from(json!({
        "isolation": "GVisor", "runtimeClassName": "gvisor", "persistentWorkspace": {"maxSize": "10Gi"},
    }));
    let mut class = AgentSandboxClass::new("gvisor", spec);
    class.metadata.annotations = Some([(ANNOTATION_DEFAULT_CLASS.to_owned(), "true".to_owned())].into());
    change(&mut class);
    class
}

/// The credential `anthropic`, changed by `change`.
pub fn credential(change: impl FnOnce(&mut AgentCredential)) -> AgentCredential {
    let spec: AgentCredentialSpec = from(json!({
        "secretRef": {"name": "anthropic-key", "key": "api-key"},
        "inject": {"type": "Header", "header": {"name": "x-api-key"}},
        "hosts": [{"host": "api.anthropic.com", "paths": ["/v1/**"]}],
        "placeholderEnv": [{"name": "ANTHROPIC_API_KEY", "value": "placeholder"}],
    }));
    let mut credential = AgentCredential::new("anthropic", spec);
    credential.metadata.namespace = Some("team".to_owned());
    change(&mut credential);
    credential
}

/// The template `jobs`, which has an image and bounds the memory, changed by `change`.
pub fn template(change: impl FnOnce(&mut AgentSandboxTemplate)) -> AgentSandboxTemplate {
    let spec: AgentSandboxTemplateSpec = from(json!({"sandbox": {
        "className": "gvisor",
        "agent": {"image": "ghcr.io/acme/agent:2.1"},
        "egress": {"allow": [{"host": "pypi.org", "methods": ["GET", "HEAD"]}]},
        "resources": {"limits": {"memory": "1Gi"}},
        "lifecycle": {"mode": "Task", "maxLifetime": "1h", "idleTimeout": "30m"},
    }}));
    let mut template = AgentSandboxTemplate::new("jobs", spec);
    template.metadata.namespace = Some("team".to_owned());
    change(&mut template);
    template
}

/// References that hold these.
pub fn references(classes: Vec<AgentSandboxClass>, credentials: Vec<AgentCredential>) -> References {
    let named = credentials.into_iter().map(|c| (c.metadata.name.clone().unwrap(), Arc::new(c)));
    References {
        classes: classes.into_iter().map(Arc::new).collect(),
        credentials: BTreeMap::from_iter(named),
        runtime_classes: BTreeSet::from(["gvisor".to_owned()]),
    }
}

/// The ordinary references.
pub fn ordinary() -> References {
    references(vec![class(|_| ())], vec![credential(|_| ())])
}

/// Judges a sandbox without a template.
pub fn accept(
    identity: &Identity,
    sandbox: &AgentSandbox,
    references: &References,
    platform: &Platform,
) -> Result<Accepted, Vec<Rejection>> {
    accept::accept(identity, &merge(Arc::new(sandbox.clone()), None).unwrap(), references, platform)
}

/// The identity of the sandbox of every test.
pub fn identity() -> Identity {
    Identity::of(&sandbox(|_| ())).unwrap()
}

/// The sandbox of every test, changed by `change`, accepted.
pub fn accepted(change: impl FnOnce(&mut AgentSandbox)) -> Accepted {
    accept(&identity(), &sandbox(change), &ordinary(), &platform()).unwrap()
}

/// The cluster of every test.
pub fn platform() -> Platform {
    Platform {
        asks_from: Some("agentsandbox-system".to_owned()),
        proxy_image: "ghcr.io/agentsandbox/proxy:test".to_owned(),
        init_image: "ghcr.io/agentsandbox/init:test".to_owned(),
        cluster_ranges: ["10.0.0.0/24", "10.96.0.0/16", "10.244.0.0/16"]
            .map(|range| range.parse().unwrap())
            .into(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
        api_service: "10.96.0.1:443".parse().unwrap(),
        api_endpoints: vec!["10.0.0.1:6443".parse().unwrap()],
    }
}

/// A NetworkPolicy of somebody else.
pub fn foreign_policy(name: &str, spec: Value) -> NetworkPolicy {
    from(json!({
        "metadata": {"name": name, "namespace": "team", "uid": format!("uid-of-{name}"), "resourceVersion": "7"},
        "spec": spec,
    }))
}

/// A child as the API server stores it.
pub fn live(child: Child) -> Child {
    let mut value = child.value();
    value["metadata"]["uid"] = json!(format!("uid-of-{}", child.name()));
    value["metadata"]["resourceVersion"] = json!("50");
    value["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    match child {
        Child::ServiceAccount(_) => Child::ServiceAccount(from(value)),
        Child::NetworkPolicy(_) => Child::NetworkPolicy(from(value)),
        Child::ConfigMap(_) => Child::ConfigMap(from(value)),
        Child::PersistentVolumeClaim(_) => Child::PersistentVolumeClaim(Box::new(from(value))),
        Child::Service(_) => {
            value["spec"]["clusterIP"] = json!("10.96.7.7");
            Child::Service(Box::new(from(value)))
        }
        Child::Pod(_) => Child::Pod(Box::new(from(value))),
    }
}

/// A pod that has been ready since 2026, with this address.
pub fn ready(pod: Pod, container: &str, address: &str) -> Pod {
    let Child::Pod(mut pod) = live(Child::Pod(Box::new(pod))) else { unreachable!() };
    pod.status = Some(from(json!({
        "phase": "Running",
        "podIP": address,
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        "containerStatuses": [{
            "name": container, "ready": true, "started": true, "restartCount": 0, "image": "i", "imageID": "i",
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
        }],
    })));
    *pod
}

/// The agent's pod after its fence wrote `report`.
pub fn reported(mut pod: Pod, report: &str) -> Pod {
    let status = json!([{
        "name": "fence", "ready": true, "restartCount": 0, "image": "i", "imageID": "i",
        "state": {"terminated": {"exitCode": 0, "message": report}},
    }]);
    pod.status.get_or_insert_default().init_container_statuses = Some(from(status));
    pod
}

/// A report of the fence in which everything is proven, changed by `change`.
pub fn report(change: impl FnOnce(&mut Value)) -> String {
    let mut report = json!({
        "version": agentsandbox_report::VERSION,
        "verdict": "Proven",
        "message": "Everything is proven.",
        "kernel": {"kind": "GVisor", "expected": "GVisor", "version": "Linux version 4.4.0"},
        "walls": {"rounds": 1, "closedAfterMillis": 3, "closed": ["tcp 10.96.0.1:443"], "open": [], "enrolled": true},
        "limits": {"memoryBytes": 1073741824, "cpuMillis": 1000, "pids": 1024},
        "phases": {},
        "durationMillis": 9,
    });
    change(&mut report);
    report.to_string()
}

/// The proxy's pod, ready, with this address.
pub fn proxy_pod(address: &str) -> Pod {
    let pod = desired::proxy_pod::pod(&accepted(|_| ()), &platform(), &Sealed::for_tests(), None);
    ready(pod, desired::proxy_pod::CONTAINER, address)
}

/// The agent's pod, running behind a proven fence.
pub fn agent_pod() -> Pod {
    let pod = desired::agent_pod::pod(&accepted(|_| ()), &platform(), &Sealed::for_tests());
    reported(ready(pod, desired::agent_pod::AGENT, "10.244.0.9"), &report(|_| ()))
}

/// Makes of the agent's pod that of a Task whose program has ended with exit code 3.
pub fn ended(pod: &mut Pod) {
    let mut value = serde_json::to_value(&*pod).unwrap();
    value["spec"]["restartPolicy"] = json!("Never");
    value["status"]["phase"] = json!("Failed");
    value["status"]["conditions"] = json!([]);
    value["status"]["containerStatuses"][0]["state"] =
        json!({"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": "2026-01-01T00:01:00Z"}});
    *pod = from(value);
}

/// The agent's pod of a Task whose fence failed with this report, changed by `change`.
pub fn failed_pod(uid: &str, report: &str, change: impl FnOnce(&mut Value)) -> Pod {
    let mut pod = serde_json::to_value(agent_pod()).unwrap();
    pod["metadata"]["uid"] = json!(uid);
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["status"]["phase"] = json!("Failed");
    pod["status"]["conditions"] = json!([]);
    pod["status"]["initContainerStatuses"][0]["state"] =
        json!({"terminated": {"exitCode": 1, "message": report}});
    pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "PodInitializing"}});
    change(&mut pod);
    from(pod)
}

/// Everything but the pods, as it stands in the cluster beside a proxy that was seen closed.
pub fn boundary() -> Vec<Child> {
    let Boundary { walls, supplies, .. } = desired::boundary(&accepted(|_| ()), &platform());
    let opened = |child| match child {
        Child::Service(_) => service(desired::service::open(&identity(), &ProxyClosed::for_tests())),
        other => live(other),
    };
    walls.into_iter().chain(supplies).map(opened).collect()
}

/// The proxy's Service, as it stands in the cluster.
pub fn service(service: Service) -> Child {
    live(Child::Service(Box::new(service)))
}

/// What is observed when these exist, policies of others among them.
pub fn observed(children: Vec<Child>, others: Vec<NetworkPolicy>) -> Observed {
    let own = children.iter().filter_map(|child| match child {
        Child::NetworkPolicy(policy) => Some(policy.clone()),
        _ => None,
    });
    let policies = own.chain(others).map(Arc::new).collect();
    let keyed = children.into_iter().map(|child| ((child.kind(), child.name().to_owned()), child));
    Observed {
        children: keyed.collect(),
        policies,
        look_again_in: None,
        failed: None,
        ungrown: None,
        is_new: false,
    }
}

/// What every pass is given, when the watches show this sandbox and these children and policies.
pub fn ctx(
    client: kube::Client,
    sandbox: &AgentSandbox,
    children: &[Child],
    others: &[NetworkPolicy],
) -> Arc<Ctx> {
    let (metrics, recent) = (Arc::new(Metrics::default()), Arc::new(Recent::keeping(PATIENCE)));
    let pick = |kind: ChildKind| children.iter().filter(move |child| child.kind() == kind).map(Child::value);
    let policies =
        pick(ChildKind::NetworkPolicy).chain(others.iter().map(|p| serde_json::to_value(p).unwrap()));
    let stores = Stores {
        sandboxes: filled(std::iter::once(serde_json::to_value(sandbox).unwrap())),
        credentials: filled(std::iter::once(serde_json::to_value(credential(|_| ())).unwrap())),
        classes: filled(std::iter::once(serde_json::to_value(class(|_| ())).unwrap())),
        templates: filled(std::iter::once(serde_json::to_value(template(|_| ())).unwrap())),
        runtime_classes: filled(std::iter::once(json!({"metadata": {"name": "gvisor"}}))),
        network_policies: shelved(policies),
        service_accounts: shelved(pick(ChildKind::ServiceAccount)),
        config_maps: shelved(pick(ChildKind::ConfigMap)),
        claims: shelved(pick(ChildKind::PersistentVolumeClaim)),
        services: shelved(pick(ChildKind::Service)),
        pods: shelved(pick(ChildKind::Pod)),
    };
    let reporter = Reporter { controller: "test".to_owned(), instance: None };
    let tenure = Arc::new(Tenure::unlimited());
    Arc::new(Ctx {
        stores,
        recent: Arc::clone(&recent),
        writer: Writer::new(client.clone(), tenure, Arc::clone(&metrics), recent, Clock::default()),
        recorder: Recorder::new(client, reporter),
        platform: platform(),
        ranges: tokio::sync::watch::channel(platform().cluster_ranges).1,
        wall_probe: WallProbe::None,
        metrics,
        failures: Failures::drawing(Jitter::seeded(0)),
        breaches: Breaches::bearing(PATIENCE),
        memory: Arc::new(Memory::drawing(Jitter::seeded(0))),
        progress: Progress::default(),
        denials: Arc::default(),
        patience: Patience::default(),
        clock: Clock::default(),
    })
}

fn shelved<K: Shelved + 'static>(objects: impl Iterator<Item = Value>) -> Shelf<K> {
    let (held, mut filler) = shelf();
    filler.apply(&Event::Init);
    for object in objects {
        filler.apply(&Event::InitApply(from(object)));
    }
    filler.apply(&Event::InitDone);
    held
}

fn filled<K>(objects: impl Iterator<Item = Value>) -> Store<K>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let (reader, mut writer) = store();
    writer.apply_watcher_event(&Event::Init);
    for object in objects {
        writer.apply_watcher_event(&Event::InitApply(from(object)));
    }
    writer.apply_watcher_event(&Event::InitDone);
    reader
}

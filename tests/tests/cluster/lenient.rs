//! A sandbox on a host that lets through what it should not. All pods of the host are let through, and not the agent's alone: whenever its
//! pod is replaced, the new one is, too.

use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox};
use kube::Api;
use serde_json::{Value, json};

use crate::fixtures;

/// The sandbox `open`, of a class of its own.
pub(crate) async fn sandbox(rig: &Rig, ns: &Namespace, mut class: Value) -> Sandbox {
    class["egress"] = json!({"additionalRoots": &rig.world.ca_certificate().unwrap()});
    let class = json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass", "metadata": {"name": ns.name},
        "spec": class,
    });
    ns.apply(&class.to_string()).await.unwrap();
    let manifest = fixtures::closed("open").replace("className: world", &format!("className: {}", ns.name));
    ns.sandbox("open", &manifest).await
}

/// Sees that the fence of [`sandbox`] refuses and tells of `named`.
pub(crate) async fn refuses(ns: &Namespace, sandbox: &Sandbox, named: &str) {
    let told = sandbox.await_reason("NetworkIsolated", "EgressOpen", Duration::from_secs(180)).await;
    assert!(told.message.to_lowercase().contains(named), "{told:?}");
    let agent = ns.pods().get("open-agent").await.unwrap();
    let started = agent.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    assert!(started.into_iter().all(|c| c.started != Some(true)), "the agent started");
}

pub(crate) async fn class_gone(ns: &Namespace) {
    let classes: Api<agentsandbox_crds::AgentSandboxClass> = Api::all(ns.client.clone());
    classes.delete(&ns.name, &kube::api::DeleteParams::default()).await.unwrap();
}

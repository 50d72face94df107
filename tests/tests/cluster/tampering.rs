//! Whoever changes a child sees it repaired, and whoever widens the walls from outside is named and stops the agent.

use std::time::Duration;

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use xtask::install;

use crate::fixtures;

/// A deleted or edited wall is repaired within this time.
const WALL_REPAIR: Duration = Duration::from_secs(1);

/// Other children are repaired within this time.
const REPAIR: Duration = Duration::from_secs(60);

/// Deletes a child and waits until another with a new UID stands in its place.
async fn is_recreated<K>(ns: &Namespace, name: &str, within: Duration)
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(ns.client.clone(), &ns.name);
    // Another child's absence may have replaced this one too: an agent's pod knows its Service by the address.
    let uid = eventually(&format!("{name} exists"), REPAIR, || async {
        api.get(name).await.map(|child| child.meta().uid.clone()).map_err(|error| error.to_string())
    })
    .await;
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => {}
        // The one that was seen has been replaced in between, which is what is waited for.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => panic!("{name} cannot be deleted: {error}"),
    }
    eventually(&format!("{name} recreated"), within, || async {
        match api.get_opt(name).await {
            Ok(Some(o)) if o.meta().uid != uid => Ok(()),
            other => Err(format!("{:?}", other.map(|o| o.map(|o| o.meta().uid.clone())))),
        }
    })
    .await;
}

async fn ready(ns: &Namespace, name: &str) -> Sandbox {
    let sandbox = ns.sandbox(name, &fixtures::closed(name)).await;
    sandbox.ready().await;
    sandbox
}

#[tokio::test]
async fn o_t6_a_deleted_wall_is_back_within_a_second() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "walls-back", async |ns| {
        ready(&ns, "w").await;
        is_recreated::<NetworkPolicy>(&ns, "w-agent", WALL_REPAIR).await;
        is_recreated::<NetworkPolicy>(&ns, "w-proxy", WALL_REPAIR).await;
    })
    .await;
}

#[tokio::test]
async fn o_t6_an_edited_wall_is_repaired_within_a_second() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "walls-edit", async |ns| {
        ready(&ns, "w").await;
        let api: Api<NetworkPolicy> = Api::namespaced(ns.client.clone(), &ns.name);
        let before = api.get("w-agent").await.unwrap().spec;
        let wider = json!({"spec": {"egress": [{}]}});
        api.patch("w-agent", &PatchParams::default(), &Patch::Merge(&wider)).await.unwrap();
        eventually("wall repaired", WALL_REPAIR, || async {
            let now = api.get("w-agent").await.map_err(|error| error.to_string())?.spec;
            if now == before { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn every_other_deleted_child_is_recreated_and_the_sandbox_is_ready_again() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "children", async |ns| {
        let sandbox = ready(&ns, "c").await;
        is_recreated::<ServiceAccount>(&ns, "c-agent", REPAIR).await;
        is_recreated::<ServiceAccount>(&ns, "c-proxy", REPAIR).await;
        is_recreated::<ConfigMap>(&ns, "c-policy", REPAIR).await;
        is_recreated::<Service>(&ns, "c-proxy", REPAIR).await;
        is_recreated::<Pod>(&ns, "c-proxy", REPAIR).await;
        is_recreated::<Pod>(&ns, "c-agent", REPAIR).await;
        sandbox.ready().await;
    })
    .await;
}

#[tokio::test]
async fn o_t7_a_foreign_policy_that_widens_egress_is_named_within_five_seconds() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "widened", async |ns| {
        let sandbox = ready(&ns, "s").await;
        let foreign = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: let-everything-out}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{}]}
";
        ns.apply(foreign).await.unwrap();
        let condition =
            sandbox.await_reason("NetworkIsolated", "EgressWidened", Duration::from_secs(5)).await;
        assert_eq!(condition.status, "False");
        assert!(condition.message.contains("let-everything-out"), "{}", condition.message);
        eventually("the agent is stopped", REPAIR, || async {
            match ns.pods().get_opt("s-agent").await {
                Ok(None) => Ok(()),
                other => Err(format!("{:?}", other.map(|pod| pod.map(|pod| pod.metadata)))),
            }
        })
        .await;
        assert!(ns.pods().get_opt("s-proxy").await.unwrap().is_some(), "the proxy stays");
        let api: Api<NetworkPolicy> = Api::namespaced(ns.client.clone(), &ns.name);
        api.delete("let-everything-out", &DeleteParams::default()).await.unwrap();
        sandbox.ready().await;
    })
    .await;
}

#[tokio::test]
async fn o_g1_a_runtime_class_that_is_really_runc_is_found_out_and_the_agent_does_not_start() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "impostor", async |ns| {
        let class = "
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: impostor}
handler: fake-runsc
---
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandboxClass
metadata: {name: impostor}
spec: {isolation: GVisor, runtimeClassName: impostor}
";
        ns.apply(class).await.unwrap();
        let manifest = fixtures::closed("liar").replace("className: world", "className: impostor");
        let sandbox = ns.sandbox("liar", &manifest).await;
        let condition = sandbox.await_condition("RuntimeVerified", "False", READY_WITHIN).await;
        assert_eq!(condition.reason, "WrongKernel", "{condition:?}");
        let pod = ns.pods().get("liar-agent").await.unwrap();
        let started = pod
            .status
            .iter()
            .flat_map(|s| s.container_statuses.iter().flatten())
            .any(|c| c.name == "agent" && c.started == Some(true));
        assert!(!started, "the agent started under runc");
    })
    .await;
}

#[tokio::test]
async fn o_r23_an_operator_that_was_restarted_looks_after_the_sandboxes_that_are_there() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "restarted", async |ns| {
        let sandbox = ready(&ns, "s").await;
        let operators: Api<Pod> = Api::namespaced(ns.client.clone(), install::NAMESPACE);
        let label = ListParams::default().labels("app.kubernetes.io/component=operator");
        let old: Vec<_> =
            operators.list(&label).await.unwrap().into_iter().filter_map(|p| p.metadata.name).collect();
        assert!(!old.is_empty(), "there is no operator");
        for name in &old {
            operators.delete(name, &DeleteParams::default()).await.unwrap();
        }
        eventually("another operator", Duration::from_secs(60), || async {
            let all = operators.list(&label).await.map_err(|e| e.to_string())?;
            let names: Vec<_> = all.into_iter().filter_map(|p| p.metadata.name).collect();
            if names.iter().any(|name| !old.contains(name)) { Ok(()) } else { Err(format!("{names:?}")) }
        })
        .await;
        is_recreated::<NetworkPolicy>(&ns, "s-agent", REPAIR).await;
        sandbox.ready().await;
        // Another sandbox, too: the watches work on.
        ready(&ns, "next").await;
    })
    .await;
}

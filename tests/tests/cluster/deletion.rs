//! Deletion takes the power before the walls, and leaves nothing.

use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace as CoreNamespace, Pod, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::fixtures;

/// Names of what is left of a kind in a namespace, but for what Kubernetes itself puts into each.
async fn left<K>(client: &Client, namespace: &str) -> Vec<String>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let list = api.list(&ListParams::default()).await.expect("the kind can be listed");
    list.into_iter()
        .filter_map(|o| o.meta().name.clone())
        .filter(|n| n != "default" && n != "kube-root-ca.crt")
        .collect()
}

#[tokio::test]
async fn nothing_is_left_after_a_sandbox_is_deleted() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "deletion", async |ns| {
        let sandbox = ns.sandbox("quits", &fixtures::closed("quits")).await;
        sandbox.ready().await;
        sandbox.delete().await;
        sandbox.gone(Duration::from_secs(60)).await;
        eventually("all children gone", Duration::from_secs(30), || async {
            let mut all = left::<Pod>(&ns.client, &ns.name).await;
            all.extend(left::<NetworkPolicy>(&ns.client, &ns.name).await);
            all.extend(left::<Service>(&ns.client, &ns.name).await);
            all.extend(left::<ServiceAccount>(&ns.client, &ns.name).await);
            all.extend(left::<ConfigMap>(&ns.client, &ns.name).await);
            all.extend(left::<Secret>(&ns.client, &ns.name).await);
            if all.is_empty() { Ok(()) } else { Err(format!("{all:?}")) }
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn the_agent_is_gone_before_its_walls() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "order", async |ns| {
        let sandbox = ns.sandbox("orderly", &fixtures::closed("orderly")).await;
        sandbox.ready().await;
        let policies: Api<NetworkPolicy> = Api::namespaced(ns.client.clone(), &ns.name);
        let pods = ns.pods();
        let start = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
        sandbox.delete().await;
        sandbox.gone(Duration::from_secs(60)).await;

        let agent = removal_revision(&pods, &start, "orderly-agent").await;
        let proxy = removal_revision(&pods, &start, "orderly-proxy").await;
        let wall = removal_revision(&policies, &start, "orderly-agent").await;
        assert!(agent < wall, "the agent's pod went at {agent}, its wall at {wall}");
        assert!(agent < proxy, "the agent's pod went at {agent}, its proxy at {proxy}");
    })
    .await;
}

/// Deletes in a way that deletes the walls at once, and sees that they stand until the agent is gone.
async fn walls_outlast_the_agent(ns: &Namespace, name: &str, delete: impl AsyncFnOnce()) {
    let sandbox = ns.sandbox(name, &fixtures::closed(name)).await;
    sandbox.ready().await;
    let policies: Api<NetworkPolicy> = Api::namespaced(ns.client.clone(), &ns.name);
    let pods = ns.pods();
    let start = pods.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    delete().await;
    let agent = removal_revision(&pods, &start, &format!("{name}-agent")).await;
    for wall in ["agent", "proxy"] {
        let wall = removal_revision(&policies, &start, &format!("{name}-{wall}")).await;
        assert!(agent < wall, "the agent's pod went at {agent}, a wall at {wall}");
    }
    sandbox.gone(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn o_t6_walls_outlast_the_agent_when_the_sandbox_is_deleted_in_the_foreground() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "foreground", async |ns| {
        let sandboxes: Api<AgentSandbox> = Api::namespaced(ns.client.clone(), &ns.name);
        walls_outlast_the_agent(&ns, "front", async || {
            sandboxes.delete("front", &DeleteParams::foreground()).await.expect("it can be deleted");
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn o_t6_walls_outlast_the_agent_when_the_namespace_is_deleted() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "namespace-goes", async |ns| {
        let namespaces: Api<CoreNamespace> = Api::all(ns.client.clone());
        walls_outlast_the_agent(&ns, "inside", async || {
            namespaces.delete(&ns.name, &DeleteParams::background()).await.expect("it can be deleted");
        })
        .await;
        eventually("namespace gone", Duration::from_secs(60), || async {
            match namespaces.get_opt(&ns.name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{:?}", other.map(|one| one.map(|one| one.status)))),
            }
        })
        .await;
    })
    .await;
}

/// No pass comes for a sandbox that went without a teardown: its walls must neither fall first nor stay for ever.
#[tokio::test]
async fn o_t6_walls_outlast_the_agent_of_a_sandbox_whose_finalizer_was_taken_off_and_then_go() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "forced", async |ns| {
        let sandboxes: Api<AgentSandbox> = Api::namespaced(ns.client.clone(), &ns.name);
        walls_outlast_the_agent(&ns, "forced", async || {
            let bare = Patch::Merge(json!({"metadata": {"finalizers": []}}));
            sandboxes.delete("forced", &DeleteParams::background()).await.expect("it can be deleted");
            // It may have gone by itself meanwhile, or the operator may have written; both end the same.
            let _ = sandboxes.patch("forced", &PatchParams::default(), &bare).await;
        })
        .await;
    })
    .await;
}

/// The etcd revision at which an object was removed, from a watch that begins before its deletion.
async fn removal_revision<K>(api: &Api<K>, since: &str, name: &str) -> u64
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let params = WatchParams::default().fields(&format!("metadata.name={name}")).timeout(60);
    let mut events = api.watch(&params, since).await.expect("the past can be watched").boxed();
    while let Some(event) = events.try_next().await.expect("the watch goes on") {
        if let WatchEvent::Deleted(object) = event {
            let revision = object.meta().resource_version.clone().expect("an object has a revision");
            return revision.parse().expect("a revision is a number");
        }
    }
    panic!("{name} was never removed");
}

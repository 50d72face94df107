//! What happens while the operator does not run is put right when it does; and an end that is resisted comes all the same.

use std::time::Duration;

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use xtask::install;

use crate::fixtures;

const OPERATOR: &str = "agentsandbox-operator";
const ENDS_WITHIN: Duration = Duration::from_secs(60);

/// Sets the number of operators, and waits until as many are ready, and no more.
pub(crate) async fn operators(client: &Client, number: i32) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), install::NAMESPACE);
    let scale = json!({"spec": {"replicas": number}});
    deployments.patch(OPERATOR, &PatchParams::default(), &Patch::Merge(&scale)).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), install::NAMESPACE);
    let label = ListParams::default().labels("app.kubernetes.io/component=operator");
    eventually(&format!("{number} operators"), READY_WITHIN, || async {
        let live = pods.list(&label).await.map_err(|error| error.to_string())?.items.len();
        let deployment = deployments.get(OPERATOR).await.map_err(|error| error.to_string())?;
        let ready = deployment.status.and_then(|status| status.ready_replicas).unwrap_or(0);
        if ready == number && live == usize::try_from(number).unwrap_or(0) {
            Ok(())
        } else {
            Err(format!("{live} pods, {ready} ready"))
        }
    })
    .await;
}

/// The operator's absence; when this is dropped in a failing test, it comes back all the same.
struct Absent<'rig>(&'rig Rig);

impl Drop for Absent<'_> {
    fn drop(&mut self) {
        let scale = ["-n", install::NAMESPACE, "scale", "deployment", OPERATOR, "--replicas=1"];
        let _scaled =
            self.0.cluster.kubectl(&scale).and_then(|mut kubectl| xtask::shell::output(&mut kubectl));
    }
}

async fn metadata<K>(ns: &Namespace) -> Vec<ObjectMeta>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(ns.client.clone(), &ns.name);
    let list = api.list(&ListParams::default()).await.unwrap();
    let owned = list.into_iter().map(|object| object.meta().clone());
    owned.filter(|meta| meta.owner_references.is_some()).collect()
}

/// Everything that some sandbox of the namespace owns.
async fn children(ns: &Namespace) -> Vec<ObjectMeta> {
    let mut all = metadata::<Pod>(ns).await;
    all.extend(metadata::<NetworkPolicy>(ns).await);
    all.extend(metadata::<Service>(ns).await);
    all.extend(metadata::<ServiceAccount>(ns).await);
    all.extend(metadata::<ConfigMap>(ns).await);
    all
}

/// Ends a sandbox as one does whose operator does not come back.
async fn forced_away(ns: &Namespace, name: &str) {
    let sandbox = ns.handle(name);
    sandbox.delete().await;
    let bare = Patch::Merge(json!({"metadata": {"finalizers": []}}));
    sandbox.api().patch(name, &PatchParams::default(), &bare).await.unwrap();
    sandbox.gone(ENDS_WITHIN).await;
}

#[tokio::test]
async fn o_r14_a_lease_that_somebody_deletes_is_made_anew_by_its_holder() {
    let rig = Rig::alone().await;
    let leases: Api<Lease> = Api::namespaced(rig.client.clone(), install::NAMESPACE);
    let holder = |lease: &Lease| lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
    let before = leases.get(OPERATOR).await.unwrap();
    leases.delete(OPERATOR, &DeleteParams::default()).await.unwrap();
    let after = eventually("there is a Lease again", ENDS_WITHIN, || async {
        let lease = leases.get(OPERATOR).await.map_err(|error| error.to_string())?;
        if lease.metadata.uid == before.metadata.uid { Err("the old one".to_owned()) } else { Ok(lease) }
    })
    .await;
    assert!(holder(&before).is_some());
    assert_eq!(holder(&after), holder(&before), "another replica took it");
}

#[tokio::test]
async fn o_r4_what_changed_while_the_operator_was_away_ends_as_if_it_had_been_there() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "away", async |ns| {
        let rule = |path: &str| {
            let rule = format!("{{host: echo.world.test, scheme: Http, ports: [80], paths: [{path}]}}");
            fixtures::sleeper("edited", fixtures::AGENT_IMAGE, "Set", &[&rule])
        };
        let edited = ns.sandbox("edited", &rule("/a")).await;
        let again = ns.sandbox("again", &fixtures::closed("again")).await;
        edited.ready().await;
        again.ready().await;
        let pod = ns.pods().get("edited-agent").await.unwrap().metadata.uid;
        let absent = Absent(&rig);
        operators(&rig.client, 0).await;

        ns.apply(&rule("/b")).await.unwrap();
        ns.apply(&rule("/a")).await.unwrap();
        let policies: Api<NetworkPolicy> = Api::namespaced(ns.client.clone(), &ns.name);
        let wall = policies.get("edited-agent").await.unwrap();
        let bare = Patch::Merge(json!({"metadata": {"finalizers": []}}));
        policies.delete("edited-agent", &DeleteParams::default()).await.unwrap();
        // The finalizer would keep it; somebody who may edit policies may take that off as well.
        let _gone_by_itself = policies.patch("edited-agent", &PatchParams::default(), &bare).await;
        let open = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "edited-agent", "labels": wall.metadata.labels, "ownerReferences": wall.metadata.owner_references},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]}});
        ns.apply(&open.to_string()).await.unwrap();
        let old = again.get().await.metadata.uid;
        forced_away(&ns, "again").await;
        let again = ns.sandbox("again", &fixtures::closed("again")).await;
        let new = again.get().await.metadata.uid;
        assert_ne!(old, new);

        operators(&rig.client, 1).await;
        drop(absent);
        edited.ready().await;
        again.ready().await;
        eventually("the wall is as it was", ENDS_WITHIN, || async {
            let now = policies.get("edited-agent").await.map_err(|error| error.to_string())?;
            if now.spec == wall.spec { Ok(()) } else { Err(format!("{:?}", now.spec)) }
        })
        .await;
        let mut owners = vec![edited.get().await.metadata.uid.unwrap(), new.unwrap()];
        owners.sort();
        eventually("only children of the sandboxes that are there", ENDS_WITHIN, || async {
            let all = children(&ns).await;
            let mut of: Vec<String> =
                all.iter().flat_map(|meta| meta.owner_references.iter().flatten()).map(|o| o.uid.clone()).collect();
            of.sort();
            of.dedup();
            if of == owners { Ok(()) } else { Err(format!("{of:?} and not {owners:?}")) }
        })
        .await;
        let names = |all: Vec<ObjectMeta>, sandbox: &str| {
            let mut names: Vec<String> = all
                .into_iter()
                .filter_map(|meta| meta.name?.strip_prefix(sandbox).map(str::to_owned))
                .collect();
            names.sort();
            names
        };
        let all = children(&ns).await;
        assert_eq!(names(all.clone(), "again"), names(all, "edited"), "one has children that the other lacks");
        eprintln!("the agent of A, B, A is the same pod: {}", ns.pods().get("edited-agent").await.unwrap().metadata.uid == pod);
        let ask = |path: &str| format!("curl -sS -m 20 -o /dev/null -w '%{{http_code}}' http://echo.world.test{path}");
        assert_eq!(edited.sh(&ask("/a")).await.stdout, "200");
        assert_eq!(edited.sh(&ask("/b")).await.stdout, "403");
    })
    .await;
}

/// The handler is one that the node's containerd does not have.
#[tokio::test]
async fn o_g4_a_handler_that_the_node_lacks_is_told_and_no_pod_is_made_again_and_again() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "handler", async |ns| {
        let class = format!(
            "
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {{name: {name}}}
handler: not-on-this-node
---
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentSandboxClass
metadata: {{name: {name}}}
spec: {{isolation: GVisor, runtimeClassName: {name}}}
",
            name = ns.name
        );
        ns.apply(&class).await.unwrap();
        let manifest =
            fixtures::closed("homeless").replace("className: world", &format!("className: {}", ns.name));
        let sandbox = ns.sandbox("homeless", &manifest).await;
        let told = sandbox.await_reason("Ready", "PodSandboxPending", TOLD_WITHIN).await;
        assert!(told.message.contains("kubectl describe pod homeless-agent"), "{told:?}");
        let pod = ns.pods().get("homeless-agent").await.unwrap();
        let events: Api<Event> = Api::namespaced(ns.client.clone(), &ns.name);
        let failed = |all: &[Event]| {
            let of_pod = |e: &&Event| {
                e.involved_object.uid == pod.metadata.uid
                    && e.reason.as_deref() == Some("FailedCreatePodSandBox")
            };
            all.iter().filter(of_pod).map(|event| event.count.unwrap_or(1)).sum::<i32>()
        };
        // The kubelet tries the same pod again; the operator makes no other.
        eventually("the kubelet has tried again", ENDS_WITHIN, || async {
            let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?.items;
            let named =
                all.iter().any(|e| e.message.as_deref().is_some_and(|m| m.contains("not-on-this-node")));
            if named && failed(&all) >= 2 { Ok(()) } else { Err(format!("{} attempts", failed(&all))) }
        })
        .await;
        assert_eq!(
            ns.pods().get("homeless-agent").await.unwrap().metadata.uid,
            pod.metadata.uid,
            "another pod"
        );
        let cluster_wide = ["delete", "agentsandboxclass,runtimeclass", &ns.name, "--wait=false"];
        xtask::shell::output(&mut rig.cluster.kubectl(&cluster_wide).unwrap()).unwrap();
    })
    .await;
}

/// Fifteen seconds of patience, and what two pods take on a busy node. Bounds a hang.
const TOLD_WITHIN: Duration = READY_WITHIN;

/// The agent's own grace period of ten seconds, and what the rest takes on a busy node. It would last for ever if nobody ended it.
const GONE_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn o_h14_an_agent_that_ignores_its_end_is_ended() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "stubborn", async |ns| {
        let stubborn = fixtures::closed("stubborn")
            .replace("[sleep, infinity]", "[sh, -c, \"trap '' TERM; while :; do sleep 1; done\"]");
        let sandbox = ns.sandbox("stubborn", &stubborn).await;
        sandbox.ready().await;
        sandbox.sh("kill -TERM 1 && kill -0 1").await.ok();
        sandbox.delete().await;
        sandbox.gone(GONE_WITHIN).await;
        assert_eq!(
            children(&ns).await.iter().filter(|meta| meta.name.as_deref() == Some("stubborn-agent")).count(),
            0
        );
    })
    .await;
}

//! What is ours is kept as it should be; what is somebody else's is told and never touched.

use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::fixtures;

/// Within this time an edited child is as it should be again.
const REPAIR: Duration = Duration::from_secs(5);
/// Within this time an edited rule is in force in the proxy.
const IN_FORCE: Duration = Duration::from_secs(15);

fn api<K>(ns: &Namespace) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    Api::namespaced(ns.client.clone(), &ns.name)
}

/// What an edit of a child must not change: everything but what the API server counts.
fn own(object: &impl Serialize, fields: &[&str]) -> Vec<Value> {
    let object = serde_json::to_value(object).expect("an object is JSON");
    fields.iter().map(|field| object.pointer(field).cloned().unwrap_or_default()).collect()
}

/// Edits a child, and waits until these fields are as they were.
async fn is_repaired<K>(ns: &Namespace, name: &str, edit: Value, fields: &[&str], within: Duration)
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
    K::DynamicType: Default,
{
    let api = api::<K>(ns);
    let before = own(&api.get(name).await.expect("the child exists"), fields);
    let edited =
        api.patch(name, &PatchParams::default(), &Patch::Merge(&edit)).await.expect("it can be edited");
    assert_ne!(own(&edited, fields), before, "the edit of {name} changed nothing");
    eventually(&format!("{name} repaired after {edit}"), within, || async {
        let now = own(&api.get(name).await.map_err(|e| e.to_string())?, fields);
        if now == before { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

#[tokio::test]
async fn o_t6_every_edited_child_is_repaired() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "edited", async |ns| {
        let sandbox = ns.sandbox("e", &fixtures::closed("e")).await;
        sandbox.ready().await;
        let token = json!({"automountServiceAccountToken": true});
        is_repaired::<ServiceAccount>(&ns, "e-agent", token, &["/automountServiceAccountToken"], REPAIR)
            .await;
        let rules = json!({"data": {"policy.yaml": "rules: []"}});
        is_repaired::<ConfigMap>(&ns, "e-policy", rules, &["/data"], REPAIR).await;
        let selector = json!({"spec": {"selector": {"app": "mine"}}});
        is_repaired::<Service>(&ns, "e-proxy", selector, &["/spec/selector"], REPAIR).await;
        let pods = ns.pods();
        let before = pods.get("e-agent").await.unwrap().metadata;
        let labels = json!({"metadata": {"labels": {"agentsandbox.dev/component": "none"}}});
        pods.patch("e-agent", &PatchParams::default(), &Patch::Merge(&labels)).await.unwrap();
        // Where the labels stay off for two seconds, as on a machine that stands still, the agent is stopped instead.
        eventually("no agent runs outside its wall", REPAIR, || async {
            match pods.get_opt("e-agent").await.map_err(|error| error.to_string())? {
                Some(pod) if pod.metadata.uid == before.uid && pod.metadata.deletion_timestamp.is_none() => {
                    if pod.metadata.labels == before.labels {
                        Ok(())
                    } else {
                        Err(format!("{:?}", pod.metadata.labels))
                    }
                }
                _ => Ok(()),
            }
        })
        .await;
        sandbox.ready().await;
    })
    .await;
}

/// Objects of somebody else that have the names of a sandbox's children.
fn strangers() -> [(&'static str, Value); 4] {
    let pod = json!({"containers": [{
        "name": "c", "image": fixtures::AGENT_IMAGE, "command": ["sleep", "infinity"],
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    }], "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0});
    [
        ("f-agent", json!({"apiVersion": "v1", "kind": "ServiceAccount"})),
        ("f-policy", json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"mine": "yes"}})),
        ("f-proxy", json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 1}]}})),
        ("f-proxy", json!({"apiVersion": "v1", "kind": "Pod", "spec": pod})),
    ]
}

/// The stranger's UID, while it lives.
async fn uid(ns: &Namespace, kind: &str, name: &str) -> Option<String> {
    let metadata = match kind {
        "ServiceAccount" => api::<ServiceAccount>(ns).get_opt(name).await.unwrap().map(|o| o.metadata),
        "ConfigMap" => api::<ConfigMap>(ns).get_opt(name).await.unwrap().map(|o| o.metadata),
        "Service" => api::<Service>(ns).get_opt(name).await.unwrap().map(|o| o.metadata),
        _ => api::<Pod>(ns).get_opt(name).await.unwrap().map(|o| o.metadata),
    };
    metadata.filter(|m| m.deletion_timestamp.is_none() && m.labels.is_none()).and_then(|m| m.uid)
}

async fn remove(ns: &Namespace, kind: &str, name: &str) {
    let now = DeleteParams::default();
    match kind {
        "ServiceAccount" => drop(api::<ServiceAccount>(ns).delete(name, &now).await.unwrap()),
        "ConfigMap" => drop(api::<ConfigMap>(ns).delete(name, &now).await.unwrap()),
        "Service" => drop(api::<Service>(ns).delete(name, &now).await.unwrap()),
        _ => drop(api::<Pod>(ns).delete(name, &now).await.unwrap()),
    }
}

#[tokio::test]
async fn o_r32_an_object_of_somebody_else_with_a_childs_name_is_told_and_never_touched() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "foreign", async |ns| {
        for (name, stranger) in strangers() {
            let kind = stranger["kind"].as_str().unwrap().to_owned();
            let mut stranger = stranger;
            stranger["metadata"] = json!({"name": name});
            ns.apply(&stranger.to_string()).await.unwrap();
            let before = uid(&ns, &kind, name).await.expect("the stranger is there");

            let sandbox = ns.sandbox("f", &fixtures::closed("f")).await;
            // The operator's watch may still show the stranger of the round before, and tell that one first.
            eventually(&format!("{kind} {name} is told"), Duration::from_secs(20), || async {
                match sandbox.condition("Ready").await? {
                    Some(c) if c.reason == "NameConflict" => {
                        let told = c.message.contains(&kind) && c.message.contains(name);
                        if told { Ok(()) } else { Err(c.message) }
                    }
                    other => Err(format!("{other:?}")),
                }
            })
            .await;
            assert_eq!(uid(&ns, &kind, name).await.as_ref(), Some(&before), "{kind} {name} was touched");
            assert!(
                api::<Pod>(&ns).get_opt("f-agent").await.unwrap().is_none(),
                "an agent started all the same"
            );

            sandbox.delete().await;
            sandbox.gone(Duration::from_secs(60)).await;
            assert_eq!(
                uid(&ns, &kind, name).await.as_ref(),
                Some(&before),
                "{kind} {name} went with the sandbox"
            );
            remove(&ns, &kind, name).await;
            eventually("the stranger is gone", Duration::from_secs(30), || async {
                uid(&ns, &kind, name).await.map_or(Ok(()), Err)
            })
            .await;
        }
    })
    .await;
}

async fn status_of(sandbox: &Sandbox, url: &str) -> String {
    sandbox.sh(&format!("curl -sS -m 20 -o /dev/null -w '%{{http_code}}' {url}")).await.stdout
}

#[tokio::test]
async fn o_r21_an_edited_rule_is_in_force_without_a_new_pod() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "edit-rule", async |ns| {
        let rules = |paths: &str| {
            let rule = format!("{{host: echo.world.test, scheme: Http, ports: [80], paths: [{paths}]}}");
            fixtures::sleeper("r", fixtures::AGENT_IMAGE, "Set", &[&rule])
        };
        let sandbox = ns.sandbox("r", &rules("/one")).await;
        sandbox.ready().await;
        let pods = || async {
            let uid = |pod: Pod| pod.metadata.uid;
            (uid(ns.pods().get("r-agent").await.unwrap()), uid(ns.pods().get("r-proxy").await.unwrap()))
        };
        let before = pods().await;
        assert_eq!(status_of(&sandbox, "http://echo.world.test/two").await, "403");
        ns.apply(&rules("/two")).await.unwrap();
        eventually("the new rule in force", IN_FORCE, || async {
            let (one, two) = (
                status_of(&sandbox, "http://echo.world.test/one").await,
                status_of(&sandbox, "http://echo.world.test/two").await,
            );
            if (one.as_str(), two.as_str()) == ("403", "200") { Ok(()) } else { Err(format!("{one} {two}")) }
        })
        .await;
        assert_eq!(pods().await, before, "a pod was replaced");
    })
    .await;
}

//! How a sandbox came to be what it is makes no difference to what it is.

use std::collections::BTreeMap;
use std::fmt::Debug;

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{fixtures, routes};

/// Names of equal length that stand nowhere else in what is compared.
const PATCHED: &str = "aaaa-one";
const CREATED: &str = "aaaa-two";

/// What is wanted in the end: each part of it differs from the default.
fn wanted() -> Value {
    json!({
        "className": "world",
        "agent": {
            "image": fixtures::AGENT_IMAGE, "command": ["sleep", "3600000"], "workingDir": "/tmp",
            "env": [{"name": "A", "value": "b"}], "proxyEnvironment": "Unset",
        },
        "workspace": {"sizeLimit": "100Mi"},
        "egress": {"allow": [{"host": "echo.world.test", "scheme": "Http", "ports": [80], "paths": ["/a/**"], "methods": ["GET"]}]},
        "resources": {"limits": {"cpu": "500m", "memory": "300Mi"}},
    })
}

/// What differs between any two sandboxes, and what stands in its place where they are compared.
async fn own(ns: &Namespace, sandbox: &str) -> Vec<(String, &'static str)> {
    let metadata = ns.handle(sandbox).get().await.metadata;
    let generation = metadata.generation.expect("an object that exists has a generation");
    let proxy = ns.pods().get(&format!("{sandbox}-proxy")).await.expect("the sandbox has its proxy");
    let secrets = proxy.spec.into_iter().flat_map(|spec| spec.volumes.into_iter().flatten());
    let mut names = secrets.filter_map(|volume| volume.secret?.secret_name);
    vec![
        (names.next().expect("a proxy mounts its keys"), "KEYS"),
        (sandbox.to_owned(), "NAME"),
        (metadata.uid.expect("an object that exists has a UID"), "UID"),
        (routes::service_address(ns, &format!("{sandbox}-proxy")).await, "ADDRESS"),
        // As it stands in the text of the policy, which is itself written as a string.
        (format!(r#"\"generation\": {generation},"#), "GENERATION"),
    ]
}

/// What a sandbox's children of a kind hold, by their names.
async fn held<K>(ns: &Namespace, sandbox: &str, fields: &[&str], found: &mut BTreeMap<String, Value>)
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Serialize
        + Debug,
{
    let own = own(ns, sandbox).await;
    let api: Api<K> = Api::namespaced(ns.client.clone(), &ns.name);
    for child in api.list(&ListParams::default()).await.unwrap() {
        let name = child.meta().name.clone().unwrap_or_default();
        if !name.starts_with(sandbox) {
            continue;
        }
        let text = serde_json::to_string(&child).unwrap();
        let text = own.iter().fold(text, |text, (own, common)| text.replace(own, common));
        let object: Value = serde_json::from_str(&text).unwrap();
        let kept: Value = fields.iter().map(|field| object.pointer(field).cloned()).collect();
        found.insert(format!("{} {}", K::kind(&()), name.replace(sandbox, "NAME")), kept);
    }
}

async fn everything(ns: &Namespace, sandbox: &str) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    let labels = "/metadata/labels";
    held::<Pod>(ns, sandbox, &[labels, "/spec"], &mut found).await;
    held::<NetworkPolicy>(ns, sandbox, &[labels, "/spec"], &mut found).await;
    held::<Service>(ns, sandbox, &[labels, "/spec"], &mut found).await;
    held::<ServiceAccount>(ns, sandbox, &[labels, "/automountServiceAccountToken"], &mut found).await;
    held::<ConfigMap>(ns, sandbox, &[labels, "/data"], &mut found).await;
    found
}

#[tokio::test]
async fn o_r20_a_default_sandbox_that_is_patched_becomes_what_one_that_was_created_so_is() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "patched", async |ns| {
        let patched = ns.sandbox(PATCHED, &fixtures::closed(PATCHED)).await;
        patched.ready().await;
        let default = everything(&ns, PATCHED).await;
        let change = Patch::Merge(json!({"spec": wanted()}));
        patched.api().patch(PATCHED, &PatchParams::default(), &change).await.unwrap();
        let manifest = json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
            "metadata": {"name": CREATED}, "spec": wanted()});
        let created = ns.sandbox(CREATED, &manifest.to_string()).await;
        created.ready().await;
        assert_eq!(patched.get().await.spec, created.get().await.spec);
        eventually("both are the same", READY_WITHIN, || async {
            let (one, two) = (everything(&ns, PATCHED).await, everything(&ns, CREATED).await);
            let differ: Vec<_> = one.iter().filter(|(name, held)| two.get(*name) != Some(*held)).collect();
            if differ.is_empty() && one.len() == two.len() {
                assert_ne!(one, default, "the change changed nothing, so this test proves nothing");
                return Ok(());
            }
            Err(differ
                .iter()
                .map(|(name, held)| format!("{name}: {held}\nand {:?}\n", two.get(*name)))
                .collect())
        })
        .await;
        patched.ready().await;
    })
    .await;
}

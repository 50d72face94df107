//! A namespace per test: made with Pod Security `restricted`, dumped when the test fails, deleted in the end.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use futures::FutureExt;
use k8s_openapi::api::core::v1::{Event, Namespace as CoreNamespace, Pod};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams,
};
use kube::{Api, Client, Error};
use serde_json::{Value, json};

use crate::rig::Rig;
use crate::sandbox::Sandbox;
use crate::wait::eventually;

/// Field manager of what tests write.
const TESTER: &str = "agentsandbox-tests";

/// A namespace that one test owns.
#[derive(Clone)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// The administrator's client.
    pub client: Client,
}

/// Runs a test in a namespace of its own.
///
/// # Panics
/// As `test` does, after the namespace was dumped.
pub async fn with_namespace(rig: &Rig, claim: &str, test: impl AsyncFnOnce(Namespace)) {
    let namespace = Namespace::create(rig, claim).await;
    let outcome = AssertUnwindSafe(test(namespace.clone())).catch_unwind().await;
    if outcome.is_err() {
        namespace.dump().await;
    }
    namespace.delete().await;
    if let Err(panic) = outcome {
        // Again behind the dump, which is long: of a long log often nothing but its end is kept.
        eprintln!("{claim} failed: {}", said(&*panic));
        std::panic::resume_unwind(panic);
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it said nothing")
}

impl Namespace {
    async fn create(rig: &Rig, claim: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{claim}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let namespace = Self { name, client: rig.client.clone() };
        namespace.enforce("restricted").await;
        namespace
    }

    /// Makes the namespace take any pod, for a control that needs what no agent has.
    pub async fn unrestricted(&self) {
        self.enforce("privileged").await;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "allowed"},
            "spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "c:1"}]}});
        // Admission sees labels by a watch.
        eventually("the namespace takes any pod", Duration::from_secs(10), || async {
            self.try_create(pod.clone()).await.map_err(|error| error.to_string())
        })
        .await;
    }

    async fn enforce(&self, level: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.name, "labels": {
                "pod-security.kubernetes.io/enforce": level,
                "pod-security.kubernetes.io/enforce-version": "latest",
            }},
        });
        self.apply(&object.to_string()).await.expect("a namespace can be made and labelled");
    }

    /// Applies each document of a manifest, as `kubectl apply --server-side` does, in this namespace where the kind has one.
    ///
    /// # Errors
    /// The API server's refusal of the first document that it refuses.
    pub async fn apply(&self, manifest: &str) -> Result<(), Error> {
        for document in manifest.split("\n---\n").filter(|d| !d.trim().is_empty()) {
            let object: Value = serde_yaml::from_str(document).expect("the manifest is YAML");
            self.apply_object(object).await?;
        }
        Ok(())
    }

    async fn apply_object(&self, mut object: Value) -> Result<(), Error> {
        let name = object["metadata"]["name"].as_str().expect("the object has a name").to_owned();
        let api = self.api_of(&object);
        if let Some(metadata) = object["metadata"].as_object_mut()
            && api.resource_url().contains("/namespaces/")
        {
            metadata.insert("namespace".to_owned(), json!(self.name));
        }
        let params = PatchParams::apply(TESTER).force();
        api.patch(&name, &params, &Patch::Apply(&object)).await.map(drop)
    }

    /// Asks the API server whether it would create this object, and leaves none.
    ///
    /// # Errors
    /// The API server's refusal.
    pub async fn try_create(&self, object: Value) -> Result<(), Error> {
        let api = self.api_of(&object);
        let object: DynamicObject = serde_json::from_value(object).expect("the object has a kind");
        let params = PostParams { dry_run: true, ..PostParams::default() };
        api.create(&params, &object).await.map(drop)
    }

    /// The same namespace, as whoever this client is of sees it.
    #[must_use]
    pub fn seen_by(&self, client: Client) -> Self {
        Self { name: self.name.clone(), client }
    }

    /// Access to objects of the kind of `object`.
    pub fn api_of(&self, object: &Value) -> Api<DynamicObject> {
        let version = object["apiVersion"].as_str().expect("the object has an apiVersion");
        let kind = object["kind"].as_str().expect("the object has a kind");
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = match kind {
            "AgentSandbox" => ApiResource::from_gvk_with_plural(&gvk, "agentsandboxes"),
            "AgentSandboxClass" => ApiResource::from_gvk_with_plural(&gvk, "agentsandboxclasses"),
            "AgentSandboxTemplate" => ApiResource::from_gvk_with_plural(&gvk, "agentsandboxtemplates"),
            "AgentCredential" => ApiResource::from_gvk_with_plural(&gvk, "agentcredentials"),
            _ => ApiResource::from_gvk(&gvk),
        };
        match kind {
            "Namespace"
            | "AgentSandboxClass"
            | "RuntimeClass"
            | "ClusterRole"
            | "ClusterRoleBinding"
            | "CustomResourceDefinition"
            | "ValidatingAdmissionPolicy"
            | "ValidatingAdmissionPolicyBinding" => Api::all_with(self.client.clone(), &resource),
            _ => Api::namespaced_with(self.client.clone(), &self.name, &resource),
        }
    }

    /// Applies a manifest whose AgentSandbox has this name, and returns the sandbox.
    ///
    /// # Panics
    /// When the API server refuses the manifest.
    pub async fn sandbox(&self, name: &str, manifest: &str) -> Sandbox {
        self.apply(manifest).await.expect("the manifest is accepted");
        self.handle(name)
    }

    /// A sandbox of this name, applied or not.
    pub fn handle(&self, name: &str) -> Sandbox {
        Sandbox::new(self.client.clone(), &self.name, name)
    }

    /// Writes a Secret with one key.
    ///
    /// # Panics
    /// When the API server refuses it.
    pub async fn secret(&self, name: &str, key: &str, value: &str) {
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value},
        });
        self.apply(&object.to_string()).await.expect("the Secret is accepted");
    }

    /// Access to the namespace's pods.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Waits until a pod's containers are ready.
    pub async fn pod_ready(&self, name: &str, within: Duration) -> Pod {
        eventually(&format!("pod {name} ready"), within, || async {
            let pod = self.pods().get(name).await.map_err(|e| e.to_string())?;
            let ready = pod
                .status
                .iter()
                .flat_map(|s| s.conditions.iter().flatten())
                .any(|c| c.type_ == "Ready" && c.status == "True");
            if ready { Ok(pod) } else { Err(format!("{:?}", pod.status)) }
        })
        .await
    }

    async fn dump(&self) {
        let everything = ListParams::default();
        let sandboxes: Api<AgentSandbox> = Api::namespaced(self.client.clone(), &self.name);
        for sandbox in sandboxes.list(&everything).await.into_iter().flatten() {
            eprintln!("sandbox {}", serde_json::to_string_pretty(&sandbox.status).unwrap_or_default());
        }
        for pod in self.pods().list(&everything).await.into_iter().flatten() {
            let name = pod.metadata.name.unwrap_or_default();
            eprintln!("pod {name} {}", serde_json::to_string_pretty(&pod.status).unwrap_or_default());
            if let Ok(log) = self.pods().logs(&name, &kube::api::LogParams::default()).await {
                let tail: Vec<_> = log.lines().rev().take(40).collect();
                eprintln!("log of {name}, newest first:\n{}", tail.join("\n"));
            }
        }
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.name);
        for event in events.list(&everything).await.into_iter().flatten() {
            eprintln!(
                "event {} {} {}",
                event.involved_object.name.unwrap_or_default(),
                event.reason.unwrap_or_default(),
                event.message.unwrap_or_default()
            );
        }
    }

    async fn delete(&self) {
        let namespaces: Api<CoreNamespace> = Api::all(self.client.clone());
        if let Err(error) = namespaces.delete(&self.name, &DeleteParams::background()).await {
            eprintln!("namespace {} stays: {error}", self.name);
        }
    }
}

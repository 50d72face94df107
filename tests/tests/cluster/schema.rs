//! What the schema of the kinds refuses by itself, on the API server that keeps it.

use agentsandbox_crds::schema;
use agentsandbox_tests::{Namespace, Rig, with_namespace};
use http::Request;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams};
use kube::{Api, Error};
use serde_json::{Value, json};

fn sandbox(change: impl FnOnce(&mut Value)) -> Value {
    let mut object = json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": {"name": "s"},
        "spec": {"className": "gvisor", "agent": {"image": "ghcr.io/acme/agent:1"}, "egress": {"allow": [{"host": "a.example.com"}]}},
    });
    change(&mut object);
    object
}

#[tokio::test]
async fn o_t2_a_reference_names_nothing_in_another_namespace() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "across", async |ns| {
        ns.try_create(sandbox(|s| s["spec"]["egress"]["allow"][0]["credential"] = json!("anthropic"))).await.unwrap();
        for name in ["other/anthropic", "anthropic.other.svc/x", "../anthropic", "..", "/anthropic", "other:anthropic", "Anthropic", ""] {
            let refused = [
                sandbox(|s| s["spec"]["egress"]["allow"][0]["credential"] = json!(name)),
                sandbox(|s| s["spec"]["className"] = json!(name)),
                json!({
                    "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentCredential", "metadata": {"name": "c"},
                    "spec": {"secretRef": {"name": name, "key": "k"}, "inject": {"type": "Bearer"}, "hosts": [{"host": "a.example.com"}]},
                }),
            ];
            for object in refused {
                match ns.try_create(object.clone()).await {
                    Err(Error::Api(status)) if status.code == 422 => {}
                    other => panic!("{object}: {other:?}"),
                }
            }
        }
        // No reference has a field for another namespace either.
        let elsewhere = sandbox(|s| s["spec"]["egress"]["allow"][0]["credentialNamespace"] = json!("other"));
        assert!(strict(&ns, &elsewhere).await.is_err());
    })
    .await;
}

#[tokio::test]
async fn o_t12_the_kinds_cost_little_enough_for_the_api_server_and_a_huge_object_is_refused() {
    let rig = Rig::beside().await;
    let crd = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let crds: Api<DynamicObject> = Api::all_with(rig.client.clone(), &ApiResource::from_gvk(&crd));
    let params = PatchParams { dry_run: true, ..PatchParams::apply("agentsandbox-tests").force() };
    for rendered in schema::all().unwrap() {
        let name = rendered.manifest["metadata"]["name"].as_str().unwrap().to_owned();
        crds.patch(&name, &params, &Patch::Apply(&rendered.manifest)).await.unwrap();
        // The check is there: a rule whose cost nothing bounds is refused.
        let mut costly = rendered.manifest.clone();
        costly["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["unbounded"] = json!({
            "type": "array", "items": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
            "x-kubernetes-validations": [{"rule": "self.all(a, a.all(b, b.all(c, self.exists(d, d.exists(e, e.exists(f, f == c))))))"}],
        });
        let refusal = crds.patch(&name, &params, &Patch::Apply(&costly)).await.unwrap_err().to_string();
        assert!(refusal.contains("cost"), "{refusal}");
    }
    with_namespace(&rig, "huge", async |ns| {
        let text = "x".repeat(1 << 20);
        let arguments: Vec<&str> =
            (0..20_000).map(|_| "an argument of some length, again and again").collect();
        let huge = [
            sandbox(|s| s["spec"]["agent"]["args"] = json!([text])),
            sandbox(|s| s["spec"]["agent"]["args"] = json!(arguments)),
            sandbox(|s| s["spec"]["agent"]["env"] = json!([{"name": "A", "value": text}])),
            sandbox(|s| s["metadata"]["annotations"] = json!({"note": text})),
        ];
        for object in huge {
            match ns.try_create(object).await {
                Err(Error::Api(status)) if [413, 422].contains(&status.code) => {}
                other => panic!("{:.300}", format!("{other:?}")),
            }
        }
        ns.try_create(sandbox(|_| ())).await.unwrap();
    })
    .await;
}

/// Asks for a creation that drops no field silently.
async fn strict(ns: &Namespace, object: &Value) -> Result<Value, Error> {
    asked(ns, object, "Strict").await
}

async fn asked(ns: &Namespace, object: &Value, validation: &str) -> Result<Value, Error> {
    let path = format!(
        "/apis/agentsandbox.dev/v1alpha1/namespaces/{}/agentsandboxes?dryRun=All&fieldValidation={validation}",
        ns.name
    );
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes())
        .unwrap();
    ns.client.request(request).await
}

/// A field and a value of it.
type Field = (&'static str, Value);

/// Fields of a pod and of its containers by which Pod Security's checks could be failed, each with a value that fails one.
fn unsafe_fields() -> (Vec<Field>, Vec<Field>) {
    let context = |value: Value| ("securityContext", value);
    let pod = vec![
        ("hostNetwork", json!(true)),
        ("hostPID", json!(true)),
        ("hostIPC", json!(true)),
        ("hostUsers", json!(true)),
        ("shareProcessNamespace", json!(true)),
        context(json!({"runAsUser": 0})),
        context(json!({"runAsNonRoot": false})),
        context(json!({"seccompProfile": {"type": "Unconfined"}})),
        context(json!({"appArmorProfile": {"type": "Unconfined"}})),
        context(json!({"seLinuxOptions": {"user": "root", "role": "sysadm_r"}})),
        context(json!({"sysctls": [{"name": "kernel.msgmax", "value": "1"}]})),
        context(json!({"windowsOptions": {"hostProcess": true}})),
        context(json!({"supplementalGroups": [0]})),
        ("volumes", json!([{"name": "h", "hostPath": {"path": "/"}}])),
        ("volumes", json!([{"name": "n", "nfs": {"server": "s", "path": "/"}}])),
        ("volumes", json!([{"name": "i", "iscsi": {"targetPortal": "t", "iqn": "q", "lun": 0}}])),
        ("volumes", json!([{"name": "c", "csi": {"driver": "d"}}])),
        (
            "volumes",
            json!([{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
        ),
        ("initContainers", json!([{"name": "i", "image": "x", "securityContext": {"privileged": true}}])),
        (
            "ephemeralContainers",
            json!([{"name": "e", "image": "x", "securityContext": {"privileged": true}}]),
        ),
        ("containers", json!([{"name": "c", "image": "x"}])),
        ("runtimeClassName", json!("runc")),
        ("serviceAccountName", json!("admin")),
        ("automountServiceAccountToken", json!(true)),
        ("priorityClassName", json!("system-node-critical")),
        ("nodeName", json!("node")),
        ("resourceClaims", json!([{"name": "gpu"}])),
    ];
    let container = vec![
        context(json!({"privileged": true})),
        context(json!({"allowPrivilegeEscalation": true})),
        context(json!({"capabilities": {"add": ["NET_ADMIN"]}})),
        context(json!({"capabilities": {"drop": []}})),
        context(json!({"procMount": "Unmasked"})),
        context(json!({"runAsUser": 0})),
        context(json!({"readOnlyRootFilesystem": false})),
        context(json!({"seccompProfile": {"type": "Unconfined"}})),
        context(json!({"appArmorProfile": {"type": "Unconfined"}})),
        context(json!({"windowsOptions": {"hostProcess": true}})),
        ("ports", json!([{"containerPort": 80, "hostPort": 80}])),
        ("volumeMounts", json!([{"name": "h", "mountPath": "/h"}])),
        ("volumeDevices", json!([{"name": "d", "devicePath": "/d"}])),
        ("envFrom", json!([{"secretRef": {"name": "team-key"}}])),
    ];
    (pod, container)
}

#[tokio::test]
async fn o_h3_nothing_that_fails_a_check_of_pod_security_can_be_asked_for() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "unsafe", async |ns| {
        strict(&ns, &sandbox(|_| ())).await.unwrap();
        let (pod, container) = unsafe_fields();
        assert!(pod.len() + container.len() >= 40, "too few to be a catalogue");
        for (place, fields) in [("/spec", pod), ("/spec/agent", container)] {
            for (field, value) in fields {
                let wrong = sandbox(|s| s.pointer_mut(place).unwrap()[field] = value);
                is_refused_or_dropped(&ns, &wrong, &format!("{place}/{field}")).await;
            }
        }
    })
    .await;
}

/// A client that asks for it is told; one that does not gets an object without the field.
async fn is_refused_or_dropped(ns: &Namespace, object: &Value, pointer: &str) {
    match strict(ns, object).await {
        Err(Error::Api(status)) if [400, 422].contains(&status.code) => {}
        other => panic!("{pointer}: {other:?}"),
    }
    if let Ok(kept) = asked(ns, object, "Ignore").await {
        assert!(kept.pointer(pointer).is_none(), "{pointer} was kept: {kept}");
    }
}

#[tokio::test]
async fn o_h5_no_probe_or_hook_can_be_asked_for() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "probes", async |ns| {
        let get = json!({"httpGet": {"host": "169.254.169.254", "port": 80}});
        let connect = json!({"tcpSocket": {"host": "10.0.0.1", "port": 22}});
        for (field, value) in [
            ("livenessProbe", get.clone()),
            ("readinessProbe", connect.clone()),
            ("startupProbe", get.clone()),
            ("lifecycle", json!({"preStop": get})),
            ("lifecycle", json!({"postStart": connect})),
        ] {
            let wrong = sandbox(|s| s["spec"]["agent"][field] = value);
            is_refused_or_dropped(&ns, &wrong, &format!("/spec/agent/{field}")).await;
        }
    })
    .await;
}

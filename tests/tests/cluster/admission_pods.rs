//! What the API server refuses of pods: to the operator too, where something between the two has changed what it wrote, and to
//! whoever enters one.

use std::fs;

use agentsandbox_tests::{Namespace, Rig, with_namespace};
use http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use xtask::{install, paths, shell};

use crate::admission::{default_account, patch, plain};
use crate::people::{bind, denied, is_denied, operator, tenant, user};

const PODS: &str = "agentsandbox-pods";
const CHILDREN: &str = "agentsandbox-children";

/// A pod with a sandbox's labels, as the operator makes one, after a change.
fn sandboxed(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = plain("Pod", name);
    pod["metadata"]["labels"] = json!({
        "agentsandbox.dev/sandbox": "x", "agentsandbox.dev/sandbox-uid": "00000000-0000-0000-0000-000000000000",
        "agentsandbox.dev/component": "agent", "app.kubernetes.io/managed-by": "agentsandbox",
    });
    pod["metadata"]["annotations"] = json!({"agentsandbox.dev/runtime-class": "gvisor"});
    pod["spec"]["runtimeClassName"] = json!("gvisor");
    change(&mut pod);
    pod
}

async fn created(ns: &Namespace, pod: &Value) {
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    ns.pods().create(&PostParams::default(), &pod).await.unwrap();
}

#[tokio::test]
async fn o_g3_a_pod_of_a_sandbox_has_the_runtime_class_that_it_was_given() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "runtime", async |ns| {
        default_account(&ns).await;
        let operator = operator(&rig, &ns).await;
        operator.try_create(sandboxed("a", |_| ())).await.unwrap();
        let without = sandboxed("a", |pod| {
            pod["metadata"]["annotations"]["agentsandbox.dev/runtime-class"] = json!("");
            pod["spec"].as_object_mut().unwrap().remove("runtimeClassName");
        });
        operator.try_create(without).await.unwrap();
        let changed: [fn(&mut Value); 4] = [
            |pod| drop(pod["spec"].as_object_mut().unwrap().remove("runtimeClassName")),
            |pod| pod["metadata"]["annotations"]["agentsandbox.dev/runtime-class"] = json!("kata-qemu"),
            |pod| pod["metadata"]["annotations"]["agentsandbox.dev/runtime-class"] = json!(""),
            |pod| drop(pod["metadata"].as_object_mut().unwrap().remove("annotations")),
        ];
        for change in changed {
            denied(operator.try_create(sandboxed("a", change)).await, PODS, &["spec.runtimeClassName"]);
        }
    })
    .await;
}

/// Every annotation of the catalogue, and one of each prefix that it names.
const LOOSENING: [&str; 40] = [
    "dev.gvisor.flag.host-uds",
    "dev.gvisor.flag.overlay2",
    "dev.gvisor.flag.debug",
    "dev.gvisor.flag.debug-command",
    "dev.gvisor.flag.debug-to-user-log",
    "dev.gvisor.flag.strace",
    "dev.gvisor.flag.net-disconnect-ok",
    "dev.gvisor.flag.pause-external-networking",
    "dev.gvisor.flag.oci-seccomp",
    "dev.gvisor.flag.mount-cgroup-v2",
    "dev.gvisor.flag.qdisc",
    "dev.gvisor.spec.rootfs.source",
    "dev.gvisor.spec.rootfs.type",
    "dev.gvisor.spec.rootfs.overlay",
    "dev.gvisor.spec.rootfs.options",
    "dev.gvisor.spec.mount.data.type",
    "dev.gvisor.spec.mount.data.options",
    "dev.gvisor.internal.checkpoint.path",
    "dev.gvisor.internal.fscheckpoint.path",
    "dev.gvisor.internal.nvproxy",
    "dev.gvisor.internal.tpuproxy",
    "dev.gvisor.internal.cpufeatures",
    "dev.gvisor.internal.seccomp.agent",
    "dev.gvisor.tar.rootfs.upper",
    "dev.gvisor.spec.cgroup-parent",
    "dev.gvisor.empty-dir.tmp.force-shared",
    "dev.gvisor.bundle.one",
    "dev.gvisor.container-name-remap.1",
    "io.katacontainers.config.hypervisor.kernel_params",
    "io.kubernetes.cri-o.userns-mode",
    "io.kubernetes.cri.untrusted-workload",
    "io.containerd.cri.runtime-handler",
    "cdi.k8s.io/gpu",
    "container.apparmor.security.beta.kubernetes.io/c",
    "seccomp.security.alpha.kubernetes.io/pod",
    "k8s.v1.cni.cncf.io/networks",
    "k8s.v1.cni.cncf.io/network-status",
    "v1.multus-cni.io/default-network",
    "cni.projectcalico.org/ipAddrs",
    "cni.projectcalico.org/podIP",
];

#[tokio::test]
async fn o_g6_no_annotation_that_loosens_a_runtime_or_a_network_is_on_a_pod_of_a_sandbox() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "loosened", async |ns| {
        default_account(&ns).await;
        // Pod Security judges AppArmor's annotation as well.
        ns.unrestricted().await;
        let operator = operator(&rig, &ns).await;
        for key in LOOSENING {
            let pod = sandboxed("a", |pod| pod["metadata"]["annotations"][key] = json!("runtime/default"));
            denied(operator.try_create(pod).await, PODS, &["metadata.annotations", key]);
            // It is the sandbox's pods that are judged.
            let mut plain = plain("Pod", "a");
            plain["metadata"]["annotations"] = json!({key: "runtime/default"});
            if let Err(refusal) = ns.try_create(plain).await {
                assert!(!refusal.to_string().contains("ValidatingAdmissionPolicy"), "{refusal}");
            }
        }
        created(&operator, &sandboxed("a", |_| ())).await;
        let tenant = tenant(&rig, &ns).await;
        let (one, own) =
            (sandboxed("a", |_| ()), json!({"metadata": {"annotations": {"example.com/note": "mine"}}}));
        patch(&tenant, &one, &own).await.unwrap();
        let added = json!({"metadata": {"annotations": {"dev.gvisor.flag.host-uds": "all"}}});
        denied(patch(&tenant, &one, &added).await, PODS, &["dev.gvisor.flag.host-uds"]);
        // What a network plugin writes down afterwards passes, and what would tell it something does not.
        let report = json!({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/network-status": "[]"}}});
        patch(&tenant, &one, &report).await.unwrap();
        let asked = json!({"metadata": {"annotations": {"k8s.v1.cni.cncf.io/networks": "other"}}});
        denied(patch(&tenant, &one, &asked).await, PODS, &["k8s.v1.cni.cncf.io/networks"]);
    })
    .await;
}

/// What the cluster's own gVisor calls unsafe; one that ends in a dot stands for all that begin with it.
fn unsafe_for_gvisor() -> Vec<String> {
    let runsc = paths::cache().join("rig/bin/runsc").display().to_string();
    let features: Value = serde_json::from_str(&shell::run(&runsc, &["features"]).unwrap()).unwrap();
    let keys = features["potentiallyUnsafeConfigAnnotations"].as_array().expect("a list of annotations");
    let keys = keys.iter().map(|key| key.as_str().unwrap());
    keys.map(|key| if key.ends_with('.') { format!("{key}agent") } else { key.to_owned() }).collect()
}

#[tokio::test]
async fn o_g7_everything_that_gvisor_calls_unsafe_is_refused() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "features", async |ns| {
        default_account(&ns).await;
        let (operator, keys) = (operator(&rig, &ns).await, unsafe_for_gvisor());
        assert!(keys.len() > 20, "{keys:?}");
        for key in keys {
            let pod = sandboxed("a", |pod| pod["metadata"]["annotations"][&key] = json!("1"));
            denied(operator.try_create(pod).await, PODS, &[&key]);
        }
        operator.try_create(sandboxed("a", |_| ())).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn o_g8_nobody_puts_host_sockets_into_a_pod_of_a_sandbox() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "sockets", async |ns| {
        default_account(&ns).await;
        let host_uds =
            |pod: &mut Value| pod["metadata"]["annotations"]["dev.gvisor.flag.host-uds"] = json!("all");
        let (tenant, operator) = (tenant(&rig, &ns).await, operator(&rig, &ns).await);
        // One of two policies answers a direct user: the pod is not his, and the annotation is nobody's.
        let refusal = tenant.try_create(sandboxed("a", host_uds)).await;
        let is_one = [PODS, CHILDREN].iter().any(|policy| is_denied(&refusal, policy, &[]).is_ok());
        assert!(is_one, "{refusal:?}");
        denied(operator.try_create(sandboxed("a", host_uds)).await, PODS, &["dev.gvisor.flag.host-uds"]);
        created(&operator, &sandboxed("a", |_| ())).await;
        let change = json!({"metadata": {"annotations": {"dev.gvisor.flag.host-uds": "all"}}});
        denied(patch(&tenant, &sandboxed("a", |_| ()), &change).await, PODS, &["dev.gvisor.flag.host-uds"]);
        let own = json!({"metadata": {"annotations": {"example.com/note": "mine"}}});
        patch(&tenant, &sandboxed("a", |_| ()), &own).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn o_g21_no_pod_of_a_sandbox_joins_a_namespace_of_the_node() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "joined", async |ns| {
        default_account(&ns).await;
        ns.unrestricted().await;
        let operator = operator(&rig, &ns).await;
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            for component in ["agent", "proxy"] {
                let with = |value: bool| {
                    sandboxed("a", |pod| {
                        pod["metadata"]["labels"]["agentsandbox.dev/component"] = json!(component);
                        pod["spec"][field] = json!(value);
                    })
                };
                denied(operator.try_create(with(true)).await, PODS, &[field]);
                operator.try_create(with(false)).await.unwrap();
            }
        }
    })
    .await;
}

#[tokio::test]
async fn o_n10_no_tenant_takes_a_pod_out_of_its_walls_by_its_labels() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "unlabelled", async |ns| {
        default_account(&ns).await;
        created(&operator(&rig, &ns).await, &sandboxed("a", |_| ())).await;
        let (tenant, one) = (tenant(&rig, &ns).await, sandboxed("a", |_| ()));
        let changes = [
            json!({"metadata": {"labels": {"agentsandbox.dev/component": null}}}),
            json!({"metadata": {"labels": {"agentsandbox.dev/sandbox-uid": "another"}}}),
            json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}}),
            json!({"metadata": {"labels": null}}),
        ];
        for change in &changes {
            denied(patch(&tenant, &one, change).await, CHILDREN, &["pods a"]);
            // The status is another way to the same labels.
            let params = PatchParams { dry_run: true, ..PatchParams::default() };
            let status = tenant.pods().patch_status("a", &params, &Patch::Merge(change)).await;
            denied(status, CHILDREN, &["pods a"]);
        }
        let image = json!({"spec": {"containers": [{"name": "c", "image": "example.com/mine:1"}]}});
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        denied(tenant.pods().patch("a", &params, &Patch::Strategic(&image)).await, CHILDREN, &["pods a"]);
        // A kubelet goes on to report.
        let status = json!({"status": {"message": "waiting"}});
        tenant.pods().patch_status("a", &params, &Patch::Merge(&status)).await.unwrap();
        tenant.pods().delete("a", &kube::api::DeleteParams::default().grace_period(0)).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn o_h15_no_ephemeral_container_is_added_to_a_pod_of_a_sandbox() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "ephemeral", async |ns| {
        default_account(&ns).await;
        let operator = operator(&rig, &ns).await;
        created(&operator, &sandboxed("a", |_| ())).await;
        created(&ns, &plain("Pod", "free")).await;
        let tenant = tenant(&rig, &ns).await;
        let debug = json!({"spec": {"ephemeralContainers": [{
            "name": "debug", "image": "example.com/debug:1",
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }]}});
        let params = PatchParams { dry_run: true, ..PatchParams::default() };
        let add = async |ns: &Namespace, pod: &str| {
            ns.pods().patch_ephemeral_containers(pod, &params, &Patch::Strategic(&debug)).await
        };
        denied(add(&tenant, "a").await, PODS, &["no container is added"]);
        add(&tenant, "free").await.unwrap();
    })
    .await;
}

/// Asks to enter a pod as `kubectl exec` and its like do, as far as the first answer.
async fn enter(ns: &Namespace, pod: &str, way: &str) -> Result<String, kube::Error> {
    let path = format!("/api/v1/namespaces/{}/pods/{pod}/{way}", ns.name);
    ns.client.request_text(Request::post(path).body(Vec::new()).unwrap()).await
}

#[tokio::test]
async fn o_h17_nobody_but_an_administrator_of_the_cluster_enters_a_proxys_pod() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "entered", async |ns| {
        let tenant = tenant(&rig, &ns).await;
        for way in ["exec?command=id&stdout=true", "attach?stdout=true", "portforward?ports=3128", "proxy/"] {
            denied(
                enter(&tenant, "x-proxy", way).await,
                "agentsandbox-proxy-access",
                &["x-proxy", "holds its keys"],
            );
            // Whatever stands before and behind the name.
            if way == "proxy/" {
                for name in ["x-proxy:9090", "x-proxy:admin", "http:x-proxy:9090", "https:x-proxy:"] {
                    let refusal = enter(&tenant, name, way).await;
                    denied(refusal, "agentsandbox-proxy-access", &[name, "holds its keys"]);
                }
                let said = enter(&tenant, "x-agent:8000", way).await.unwrap_err().to_string();
                assert!(said.contains("not found"), "{said}");
            }
            // Neither an agent's pod nor an administrator is kept out: there is no such pod, and that is all that is said.
            for (view, pod) in [(&tenant, "x-agent"), (&tenant, "x-proxy-7d4b9c"), (&ns, "x-proxy")] {
                let said = enter(view, pod, way).await.unwrap_err().to_string();
                assert!(said.contains("not found"), "{pod} {way}: {said}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn o_h32_the_operator_may_block_its_owners_deletion_and_nobody_may_without_the_right() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "blocking", async |ns| {
        let mut object = plain("ConfigMap", "x-policy");
        object["metadata"]["ownerReferences"] = json!([{
            "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "name": "x",
            "uid": "00000000-0000-0000-0000-000000000000", "controller": true, "blockOwnerDeletion": true,
        }]);
        operator(&rig, &ns).await.try_create(object.clone()).await.unwrap();
        // It may write ConfigMaps and has no right on finalizers of sandboxes: so the plugin is switched on.
        let name = format!("writer-{}", ns.name);
        let rules = json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]);
        bind(&ns, &name, rules).await;
        let refusal = user(&rig, &ns, &name).await.try_create(object.clone()).await.unwrap_err().to_string();
        assert!(refusal.contains("blockOwnerDeletion"), "{refusal}");
        object["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(false);
        user(&rig, &ns, &name).await.try_create(object).await.unwrap();
    })
    .await;
}

/// The pods of a sandbox as reviewed, and the operator's as the chart renders it.
fn default_pods() -> Vec<Value> {
    let folder = paths::repository().join("operator/src/controller/desired/snapshots");
    let snapshot = |name: &str| {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        let documents: Vec<Value> = serde_yaml::from_multiple(&text).unwrap();
        documents.into_iter().find(|document| document["kind"] == "Pod").expect("a snapshot of a pod")
    };
    let chart = paths::repository().join("charts/agentsandbox").display().to_string();
    let mut helm =
        shell::command(paths::cache().join("rig/bin/helm"), &["template", install::RELEASE, &chart]);
    helm.args([
        "--show-only",
        "templates/deployment.yaml",
        "--set",
        "clusterRanges.podCIDRs={10.244.0.0/16}",
    ]);
    helm.args([
        "--set",
        "clusterRanges.serviceCIDRs={10.96.0.0/16}",
        "--set",
        "clusterRanges.nodeCIDRs={10.0.0.0/24}",
    ]);
    helm.args(["--set", "clusterRanges.clusterDNS=10.96.0.10", "--set", "apiServer.cidrs={10.96.0.1/32}"]);
    let deployments: Vec<Value> = serde_yaml::from_multiple(&shell::output(&mut helm).unwrap()).unwrap();
    let template =
        &deployments.iter().find(|object| object["kind"] == "Deployment").unwrap()["spec"]["template"];
    let operator = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator"}, "spec": template["spec"]});
    vec![snapshot("agent_pod.snap"), snapshot("proxy_pod.snap"), operator]
}

/// Asks whether a pod would be created, and returns every warning.
async fn warnings(ns: &Namespace, pod: &Value) -> Vec<String> {
    let request = Request::post(format!("/api/v1/namespaces/{}/pods?dryRun=All", ns.name))
        .header("content-type", "application/json")
        .body(kube::client::Body::from(pod.to_string().into_bytes()))
        .unwrap();
    let response = ns.client.send(request).await.unwrap();
    assert!(response.status().is_success(), "{}: {}", pod["metadata"]["name"], response.status());
    response.headers().get_all("warning").iter().map(|w| w.to_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn o_h1_every_default_pod_is_admitted_as_restricted_without_a_warning() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "restricted", async |ns| {
        default_account(&ns).await;
        for account in ["fix-login-agent", "fix-login-proxy", "agentsandbox-operator"] {
            ns.apply(&plain("ServiceAccount", account).to_string()).await.unwrap();
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ns.name}});
        for version in ["latest", "v1.34", "v1.36"] {
            let mut labels = serde_json::Map::new();
            for mode in ["enforce", "warn"] {
                labels.insert(format!("pod-security.kubernetes.io/{mode}"), json!("restricted"));
                labels.insert(format!("pod-security.kubernetes.io/{mode}-version"), json!(version));
            }
            let label = json!({"metadata": {"labels": labels}});
            ns.api_of(&namespace)
                .patch(&ns.name, &PatchParams::default(), &Patch::Merge(&label))
                .await
                .unwrap();
            for mut pod in default_pods() {
                pod["metadata"]["namespace"] = json!(ns.name);
                assert_eq!(
                    warnings(&ns, &pod).await,
                    Vec::<String>::new(),
                    "{version} {}",
                    pod["metadata"]["name"]
                );
                // Warnings would be seen: Pod Security also judges what it does not refuse to a Deployment's template.
                pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = json!(true);
                assert!(ns.try_create(pod).await.is_err(), "Pod Security is not asked");
            }
        }
    })
    .await;
}

//! What the API server refuses by the chart's policies to those whom RBAC lets do everything in a namespace, each beside what it
//! lets through.

use std::collections::BTreeSet;
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use xtask::{install, paths, shell};

use crate::fixtures;
use crate::people::{COLLECTOR, bind, denied, is_denied, operator, tenant, user};

const CHILDREN: &str = "agentsandbox-children";
const CREDENTIALS: &str = "agentsandbox-credentials";
const NETWORK_POLICIES: &str = "agentsandbox-network-policies";

/// An object of a kind that children have, as a tenant may write it.
pub fn plain(kind: &str, name: &str) -> Value {
    let (version, rest) = match kind {
        "ConfigMap" => ("v1", json!({"data": {"policy.yaml": "rules: []"}})),
        "Secret" => ("v1", json!({"stringData": {"key": "value"}})),
        "Service" => ("v1", json!({"spec": {"ports": [{"port": 3128}], "selector": {"app": "x"}}})),
        "ServiceAccount" => ("v1", json!({"automountServiceAccountToken": false})),
        "NetworkPolicy" => {
            ("networking.k8s.io/v1", json!({"spec": {"podSelector": {}, "policyTypes": ["Egress"]}}))
        }
        "EndpointSlice" => ("discovery.k8s.io/v1", json!({"addressType": "IPv4", "endpoints": []})),
        "PersistentVolumeClaim" => (
            "v1",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "none", "resources": {"requests": {"storage": "1Gi"}}}}),
        ),
        "Pod" => ("v1", json!({"spec": pod_spec()})),
        other => panic!("{other} is no kind of child"),
    };
    let mut object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}});
    object.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    object
}

/// A pod that Pod Security "restricted" admits and no node takes.
fn pod_spec() -> Value {
    json!({
        "nodeSelector": {"no-such": "node"}, "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": "c", "image": fixtures::AGENT_IMAGE,
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }],
    })
}

fn child(kind: &str, name: &str) -> Value {
    let mut object = plain(kind, name);
    object["metadata"]["labels"] = json!({"agentsandbox.dev/sandbox": "x", "agentsandbox.dev/component": "proxy", "app.kubernetes.io/managed-by": "agentsandbox"});
    object
}

/// A pod as the policy on pods of sandboxes lets it pass: of several that refuse, the API server tells one, and not always the same.
fn with_runtime(mut pod: Value) -> Value {
    pod["metadata"]["annotations"] = json!({"agentsandbox.dev/runtime-class": ""});
    pod
}

/// Asks for a change, and makes none.
pub async fn patch(ns: &Namespace, object: &Value, change: &Value) -> Result<(), kube::Error> {
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    let name = object["metadata"]["name"].as_str().unwrap();
    ns.api_of(object).patch(name, &params, &Patch::Merge(change)).await.map(drop)
}

async fn replace(ns: &Namespace, object: &Value, with: &DynamicObject) -> Result<(), kube::Error> {
    let params = PostParams { dry_run: true, ..PostParams::default() };
    ns.api_of(object).replace(object["metadata"]["name"].as_str().unwrap(), &params, with).await.map(drop)
}

async fn delete(ns: &Namespace, object: &Value) -> Result<(), kube::Error> {
    let params = DeleteParams { dry_run: true, ..DeleteParams::default() };
    ns.api_of(object).delete(object["metadata"]["name"].as_str().unwrap(), &params).await.map(drop)
}

/// Waits for what pods of the namespace need.
pub async fn default_account(ns: &Namespace) {
    eventually("the namespace has its default account", Duration::from_secs(30), || async {
        ns.try_create(plain("Pod", "first")).await.map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test]
async fn o_t5_labels_annotations_and_finalizers_of_ours_are_set_by_nobody_else() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "reserved", async |ns| {
        default_account(&ns).await;
        let tenant = tenant(&rig, &ns).await;
        let marks = [
            json!({"labels": {"agentsandbox.dev/component": "agent"}}),
            json!({"annotations": {"agentsandbox.dev/spec-hash": "0"}}),
            json!({"finalizers": ["agentsandbox.dev/wall"]}),
        ];
        for kind in [
            "ConfigMap",
            "Secret",
            "Service",
            "ServiceAccount",
            "NetworkPolicy",
            "EndpointSlice",
            "PersistentVolumeClaim",
            "Pod",
        ] {
            let object = plain(kind, "mine");
            tenant.try_create(object.clone()).await.unwrap_or_else(|refusal| panic!("{kind}: {refusal}"));
            for mark in &marks {
                let mut marked = object.clone();
                marked["metadata"].as_object_mut().unwrap().extend(mark.as_object().unwrap().clone());
                if kind == "Pod" && mark["labels"].is_object() {
                    marked = with_runtime(marked);
                }
                denied(
                    tenant.try_create(marked).await,
                    CHILDREN,
                    &["begin with agentsandbox.dev/", "AgentSandbox"],
                );
            }
        }
        // Neither is an object of his own made to bear them.
        let mine = plain("ConfigMap", "mine");
        tenant.apply(&mine.to_string()).await.unwrap();
        for mark in &marks {
            denied(patch(&tenant, &mine, &json!({"metadata": mark})).await, CHILDREN, &["configmaps mine"]);
        }
        patch(&tenant, &mine, &json!({"metadata": {"labels": {"app": "mine"}}})).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn o_t5_a_workload_of_a_tenant_lends_no_pod_our_labels() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "lent", async |ns| {
        default_account(&ns).await;
        // Pods of ReplicaSets are written by their controller, which is judged as itself.
        let controller = user(&rig, &ns, "system:serviceaccount:kube-system:replicaset-controller").await;
        controller.try_create(plain("Pod", "p")).await.unwrap();
        denied(controller.try_create(with_runtime(child("Pod", "p"))).await, CHILDREN, &["AgentSandbox"]);
    })
    .await;
}

/// What each kind says, changed.
fn edit(kind: &str) -> Value {
    match kind {
        "ConfigMap" => json!({"data": {"policy.yaml": "rules: [everything]"}}),
        "Secret" => json!({"stringData": {"key": "another"}}),
        "Service" => json!({"spec": {"selector": {"app": "mine"}}}),
        "ServiceAccount" => json!({"automountServiceAccountToken": true}),
        _ => json!({"spec": {"egress": [{}]}}),
    }
}

#[tokio::test]
async fn o_t5_what_belongs_to_a_sandbox_is_changed_and_deleted_by_nobody_else() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "belongs", async |ns| {
        let (tenant, operator) = (tenant(&rig, &ns).await, operator(&rig, &ns).await);
        let owner = json!({"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "mine", "uid": "00000000-0000-0000-0000-000000000000"}]}});
        for kind in ["ConfigMap", "Secret", "Service", "ServiceAccount", "NetworkPolicy"] {
            let own = child(kind, "x-policy");
            operator.api_of(&own).create(&PostParams::default(), &serde_json::from_value(own.clone()).unwrap()).await.unwrap();
            let refused = [
                edit(kind),
                json!({"metadata": {"labels": {"agentsandbox.dev/component": null}}}),
                json!({"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}}),
                json!({"metadata": {"annotations": {"agentsandbox.dev/spec-hash": "0"}}}),
                json!({"metadata": {"finalizers": ["example.com/held"]}}),
                owner.clone(),
            ];
            for change in refused {
                denied(patch(&tenant, &own, &change).await, CHILDREN, &["x-policy", "only the operator"]);
            }
            denied(delete(&tenant, &own).await, CHILDREN, &["x-policy", "delete the AgentSandbox"]);
            patch(&tenant, &own, &json!({"metadata": {"annotations": {"example.com/note": "seen"}}})).await.unwrap();
            if kind != "Secret" {
                patch(&operator, &own, &edit(kind)).await.unwrap_or_else(|refusal| panic!("{kind}: {refusal}"));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn o_t5_the_clusters_own_controllers_tidy_up_and_change_nothing() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "tidied", async |ns| {
        let operator = operator(&rig, &ns).await;
        let collector = user(&rig, &ns, COLLECTOR).await;
        let mut own = child("ConfigMap", "x-policy");
        own["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "kube-root-ca.crt", "uid": uid_of(&ns, "kube-root-ca.crt").await}]);
        operator.api_of(&own).create(&PostParams::default(), &serde_json::from_value(own.clone()).unwrap()).await.unwrap();
        patch(&collector, &own, &json!({"metadata": {"ownerReferences": null}})).await.unwrap();
        denied(patch(&collector, &own, &json!({"metadata": {"labels": null, "ownerReferences": null}})).await, CHILDREN, &[]);
        for name in ["generic-garbage-collector", "namespace-controller"] {
            let controller = user(&rig, &ns, &format!("system:serviceaccount:kube-system:{name}")).await;
            delete(&controller, &own).await.unwrap();
        }
        // The endpoints of a Service bear its labels.
        let slices = user(&rig, &ns, "system:serviceaccount:kube-system:endpointslice-controller").await;
        slices.try_create(child("EndpointSlice", "x-proxy-abcde")).await.unwrap();
        let tenant = tenant(&rig, &ns).await;
        denied(tenant.try_create(child("EndpointSlice", "x-proxy-abcde")).await, CHILDREN, &[]);
    })
    .await;
}

async fn uid_of(ns: &Namespace, config_map: &str) -> String {
    let api: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(ns.client.clone(), &ns.name);
    eventually("the namespace has its root certificate", Duration::from_secs(30), || async {
        let found = api.get(config_map).await.map_err(|error| error.to_string())?;
        found.metadata.uid.ok_or_else(|| "no UID".to_owned())
    })
    .await
}

#[tokio::test]
async fn o_t6_no_tenant_takes_the_finalizer_of_a_sandbox_away() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "finalizer", async |ns| {
        let (tenant, operator) = (tenant(&rig, &ns).await, operator(&rig, &ns).await);
        let manifest = fixtures::closed("f").replace("className: world", "className: no-such-class");
        tenant.apply(&manifest).await.unwrap();
        let sandbox = json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": {"name": "f"}});
        let held = json!({"metadata": {"finalizers": ["agentsandbox.dev/teardown"]}});
        let params = PatchParams::default();
        operator.api_of(&sandbox).patch("f", &params, &Patch::Merge(&held)).await.unwrap();
        let freed = json!({"metadata": {"finalizers": null}});
        denied(patch(&tenant, &sandbox, &freed).await, "agentsandbox-finalizers", &["metadata.finalizers"]);
        patch(&tenant, &sandbox, &json!({"metadata": {"annotations": {"note": "mine"}}})).await.unwrap();
        // As `kubectl replace` does it: of what is there, only the version is kept.
        let kept = tenant.api_of(&sandbox).get("f").await.unwrap();
        let mut bare = kept.clone();
        bare.metadata.finalizers = None;
        denied(replace(&tenant, &sandbox, &bare).await, "agentsandbox-finalizers", &["kubectl replace", "kubectl apply"]);
        replace(&tenant, &sandbox, &kept).await.unwrap();
        tenant.apply(&manifest).await.unwrap();
        patch(&operator, &sandbox, &freed).await.unwrap();
        ns.api_of(&sandbox).patch("f", &params, &Patch::Merge(&freed)).await.unwrap();
    })
    .await;
}

fn credential(host: &str) -> Value {
    json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentCredential", "metadata": {"name": "c"},
        "spec": {"secretRef": {"name": "team-key", "key": "token"}, "inject": {"type": "Bearer"}, "hosts": [{"host": host}]},
    })
}

#[tokio::test]
async fn o_t1_who_may_not_get_a_secret_points_no_credential_at_it_and_who_may_does() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "points", async |ns| {
        let own = json!({"apiGroups": ["agentsandbox.dev"], "resources": ["agentcredentials"], "verbs": ["*"]});
        let secret = |name: &str| json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": [name], "verbs": ["get"]});
        // A person, and a controller that writes on somebody's behalf: it is judged as itself.
        for (number, who) in ["somebody".to_owned(), format!("system:serviceaccount:{}:gitops", ns.name)].iter().enumerate() {
            let name = format!("{}-{number}", ns.name);
            let view = user(&rig, &ns, if number == 0 { &name } else { who }).await;
            let subject = if number == 0 { name.clone() } else { who.clone() };
            bind(&ns, &subject, json!([own, secret("another")])).await;
            denied(view.try_create(credential("a.example.com")).await, CREDENTIALS, &["Secret team-key", "may not get", &subject]);
            bind(&ns, &subject, json!([own, secret("team-key")])).await;
            eventually("with get it is allowed", Duration::from_secs(10), || async {
                view.try_create(credential("a.example.com")).await.map_err(|error| error.to_string())
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn o_t1_who_may_not_get_a_secret_sends_it_nowhere_else() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "resends", async |ns| {
        ns.apply(&credential("a.example.com").to_string()).await.unwrap();
        let name = format!("editor-{}", ns.name);
        bind(
            &ns,
            &name,
            json!([{"apiGroups": ["agentsandbox.dev"], "resources": ["agentcredentials"], "verbs": ["*"]}]),
        )
        .await;
        let editor = user(&rig, &ns, &name).await;
        let one = credential("");
        let wider = json!({"spec": {"hosts": [{"host": "a.example.com"}, {"host": "evil.example.com"}]}});
        denied(patch(&editor, &one, &wider).await, CREDENTIALS, &["Secret team-key"]);
        let other = json!({"spec": {"secretRef": {"name": "other"}}});
        denied(patch(&editor, &one, &other).await, CREDENTIALS, &["Secret other"]);
        patch(&editor, &one, &json!({"metadata": {"labels": {"team": "a"}}})).await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn o_t1_who_writes_a_class_with_a_login_may_read_its_secret_everywhere() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "login", async |ns| {
        let name = format!("platform-{}", ns.name);
        let group = "rbac.authorization.k8s.io";
        let cluster_role = |rules: Value| json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules}).to_string();
        let own = json!({"apiGroups": ["agentsandbox.dev"], "resources": ["agentsandboxclasses"], "verbs": ["*"]});
        ns.apply(&cluster_role(json!([own]))).await.unwrap();
        let binding = json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": group, "kind": "User", "name": name}],
        });
        ns.apply(&binding.to_string()).await.unwrap();
        let platform = user(&rig, &ns, &name).await;
        let class = |egress: Value| json!({
            "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass", "metadata": {"name": name},
            "spec": {"isolation": "GVisor", "runtimeClassName": "gvisor", "egress": egress},
        });
        let proxy = |login: Value| json!({"upstreamProxy": {"url": "http://proxy.example.com:3128", "login": login}});
        let login = json!({"username": "agents", "secretRef": {"name": "corporate-proxy", "key": "password"}});
        eventually("a class without a login is allowed", Duration::from_secs(10), || async {
            platform.try_create(class(json!({}))).await.map_err(|error| error.to_string())
        })
        .await;
        denied(platform.try_create(class(proxy(login.clone()))).await, "agentsandbox-classes", &["Secret corporate-proxy", "every namespace"]);
        let read = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["corporate-proxy"], "verbs": ["get"]});
        ns.apply(&cluster_role(json!([own, read]))).await.unwrap();
        eventually("with get it is allowed", Duration::from_secs(10), || async {
            platform.try_create(class(proxy(login.clone()))).await.map_err(|error| error.to_string())
        })
        .await;
        for kind in ["ClusterRoleBinding", "ClusterRole"] {
            let object = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "metadata": {"name": name}});
            ns.api_of(&object).delete(&name, &DeleteParams::default()).await.unwrap();
        }
    })
    .await;
}

/// The opt-in policy and its binding for one namespace, as the chart renders them.
fn network_policy_admission(ns: &Namespace) -> Vec<Value> {
    let chart = paths::repository().join("charts/agentsandbox").display().to_string();
    let mut helm =
        shell::command(paths::cache().join("rig/bin/helm"), &["template", install::RELEASE, &chart]);
    helm.args(["--namespace", install::NAMESPACE, "--show-only", "templates/admission.yaml"]);
    for value in [
        "clusterRanges.podCIDRs={10.244.0.0/16}",
        "clusterRanges.serviceCIDRs={10.96.0.0/16}",
        "clusterRanges.nodeCIDRs={10.0.0.0/24}",
        "clusterRanges.clusterDNS=10.96.0.10",
        "apiServer.cidrs={10.96.0.1/32}",
        "admission.networkPolicies=Deny",
        &format!("admission.networkPoliciesIn.matchLabels.kubernetes\\.io/metadata\\.name={}", ns.name),
    ] {
        helm.args(["--set", value]);
    }
    let text = shell::output(&mut helm).unwrap();
    let all: Vec<Value> = serde_yaml::from_multiple(&text).unwrap();
    let own: Vec<Value> =
        all.into_iter().filter(|object| object["metadata"]["name"] == NETWORK_POLICIES).collect();
    assert_eq!(own.len(), 2, "the policy and its binding");
    own
}

#[tokio::test]
async fn o_t7_where_it_is_switched_on_no_policy_of_a_tenant_widens_walls() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "widening", async |ns| {
        let tenant = tenant(&rig, &ns).await;
        let objects = network_policy_admission(&ns);
        for object in &objects {
            ns.apply(&object.to_string()).await.unwrap();
        }
        let policy = |spec: Value| json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "n"}, "spec": spec});
        let out = |selector: Value| policy(json!({"podSelector": selector, "policyTypes": ["Egress"], "egress": [{}]}));
        let widening = [
            out(json!({})),
            policy(json!({"podSelector": {}, "ingress": [{}]})),
            out(json!({"matchLabels": {"agentsandbox.dev/component": "agent"}})),
            out(json!({"matchLabels": {"app.kubernetes.io/managed-by": "agentsandbox"}})),
            out(json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]})),
            out(json!({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]})),
            out(json!({"matchExpressions": [{"key": "topology.kubernetes.io/zone", "operator": "Exists"}]})),
            out(json!({"matchExpressions": [{"key": "agentsandbox.dev/component", "operator": "In", "values": ["agent"]}]})),
        ];
        eventually("the policy is in force", Duration::from_secs(30), || async {
            is_denied(&tenant.try_create(widening[0].clone()).await, NETWORK_POLICIES, &["podSelector"])
        })
        .await;
        for object in widening {
            denied(tenant.try_create(object).await, NETWORK_POLICIES, &["agentsandbox.dev/component, operator: DoesNotExist"]);
        }
        let harmless = [
            policy(json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})),
            out(json!({"matchLabels": {"app": "web"}})),
            out(json!({"matchExpressions": [{"key": "agentsandbox.dev/component", "operator": "DoesNotExist"}]})),
            out(json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["web"]}]})),
            out(json!({"matchExpressions": [{"key": "app.kubernetes.io/managed-by", "operator": "NotIn", "values": ["agentsandbox"]}]})),
        ];
        for object in harmless {
            tenant.try_create(object.clone()).await.unwrap_or_else(|refusal| panic!("{object}: {refusal}"));
        }
        for object in &objects {
            ns.api_of(object).delete(NETWORK_POLICIES, &DeleteParams::default()).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn o_t13_every_policy_fails_closed_is_bound_and_all_kinds_are_among_what_they_judge() {
    let rig = Rig::beside().await;
    let label = ListParams::default().labels("app.kubernetes.io/name=agentsandbox");
    let policies = Api::<ValidatingAdmissionPolicy>::all(rig.client.clone()).list(&label).await.unwrap();
    let bindings =
        Api::<ValidatingAdmissionPolicyBinding>::all(rig.client.clone()).list(&label).await.unwrap();
    let mut judged = BTreeSet::new();
    for policy in &policies {
        let (name, spec) = (policy.metadata.name.clone(), policy.spec.clone().unwrap());
        assert_eq!(spec.failure_policy.as_deref(), Some("Fail"), "{name:?}");
        let bound = bindings.iter().map(|binding| &binding.spec).any(|binding| {
            Some(&binding.policy_name) == name.as_ref() && binding.validation_actions == ["Deny"]
        });
        assert!(bound, "{name:?} is not bound");
        let constraints = spec.match_constraints.unwrap();
        judged.extend(
            constraints
                .resource_rules
                .into_iter()
                .flatten()
                .flat_map(|rule| rule.resources.unwrap_or_default()),
        );
    }
    assert!(policies.items.len() >= 6, "{} policies", policies.items.len());
    for resource in
        ["agentsandboxes", "agentcredentials", "agentsandboxclasses", "pods", "configmaps", "networkpolicies"]
    {
        assert!(judged.contains(resource), "{resource} is not among {judged:?}");
    }
}

#[tokio::test]
async fn o_t13_a_binding_that_somebody_deletes_is_reported_until_it_is_back() {
    let rig = Rig::alone().await;
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(rig.client.clone());
    let mut binding = bindings.get("agentsandbox-proxy-access").await.unwrap();
    let since = Timestamp::now();
    bindings.delete("agentsandbox-proxy-access", &DeleteParams::default()).await.unwrap();
    is_told(&rig, since, "AdmissionPoliciesNotInForce", "Binding agentsandbox-proxy-access is missing").await;
    binding.metadata.resource_version = None;
    binding.metadata.uid = None;
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    is_told(&rig, since, "AdmissionPoliciesInForce", "as it was installed").await;
}

/// Waits for an Event of the operator's pod since then.
async fn is_told(rig: &Rig, since: Timestamp, reason: &str, words: &str) {
    let events: Api<Event> = Api::namespaced(rig.client.clone(), install::NAMESPACE);
    eventually(&format!("{reason} is told"), Duration::from_secs(90), || async {
        let all = events.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let is_new = |event: &&Event| {
            event
                .metadata
                .creation_timestamp
                .as_ref()
                .is_some_and(|time| time.0.as_second() >= since.as_second())
        };
        let told = all.iter().filter(is_new).any(|event| {
            event.reason.as_deref() == Some(reason)
                && event.involved_object.kind.as_deref() == Some("Pod")
                && event.message.as_deref().unwrap_or_default().contains(words)
        });
        if told { Ok(()) } else { Err(format!("{} other events", all.items.len())) }
    })
    .await;
}

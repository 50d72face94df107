//! What only the end of a whole run shows: which rights were used, and that uninstalling leaves nothing.
//!
//! Cargo runs this binary after `cluster`, and the tests of this file in turn: the audit log is read while the operator
//! is still there, and then the operator goes.
#![allow(clippy::print_stdout, reason = "a test says what it counted")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test states its claims by them"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use agentsandbox_tests::audit::{account, decided, is_of_a_start, reads_the_roles, right, time, used};
use agentsandbox_tests::{Rig, eventually};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kube::Api;
use kube::api::{ListParams, LogParams};
use serde_json::Value;
use xtask::{install, paths, shell};

/// The operator's user name in the audit log.
const OPERATOR: &str = "system:serviceaccount:agentsandbox-system:agentsandbox-operator";
/// Name of its roles.
const ROLE: &str = "agentsandbox-operator";
/// The name of its Role in the namespace of the API server's own Service.
const API_SERVER_ROLE: &str = "agentsandbox-operator-api-server";
/// Granted for admission's sake: no request carries this verb (OwnerReferencesPermissionEnforcement asks for it).
const NEVER_REQUESTED: &str = "agentsandbox.dev/agentsandboxes/finalizers update in all namespaces";

fn rights(rules: Vec<PolicyRule>, place: &str, found: &mut BTreeSet<String>) {
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                found.extend(rule.verbs.iter().map(|verb| right(group, resource, verb, place)));
            }
        }
    }
}

/// What the installed chart grants the operator.
async fn granted(rig: &Rig) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let cluster: Api<ClusterRole> = Api::all(rig.client.clone());
    rights(cluster.get(ROLE).await.unwrap().rules.unwrap_or_default(), "all namespaces", &mut found);
    for (namespace, role) in [(install::NAMESPACE, ROLE), ("default", API_SERVER_ROLE)] {
        let roles: Api<Role> = Api::namespaced(rig.client.clone(), namespace);
        rights(roles.get(role).await.unwrap().rules.unwrap_or_default(), namespace, &mut found);
    }
    found
}

/// What the API server wrote down, of everybody, as far as it is wanted: all of it is long.
fn events(rig: &Rig, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let log = std::fs::read_to_string(rig.cluster.audit_log()).expect("the API server writes an audit log");
    let events = log.lines().filter_map(|line| serde_json::from_str(line).ok());
    events.filter(wanted).collect()
}

/// Requests of ServiceAccounts since the operator was installed: what an operator before it asked for while its rights were taken
/// away, when an earlier run uninstalled it, says nothing of this one.
async fn all_requests(rig: &Rig) -> Vec<Value> {
    let deployments: Api<Deployment> = Api::namespaced(rig.client.clone(), install::NAMESPACE);
    let installed = deployments.get(ROLE).await.unwrap().metadata.creation_timestamp.unwrap().0;
    events(rig, |e| {
        account(e).starts_with("system:serviceaccount:")
            && e["objectRef"]["resource"].is_string()
            && time(e) >= installed
    })
}

/// The operator's requests since it was installed.
async fn requests(rig: &Rig) -> Vec<Value> {
    all_requests(rig).await.into_iter().filter(|request| account(request) == OPERATOR).collect()
}

async fn o_h30_the_operator_uses_exactly_the_verbs_it_is_granted(rig: &Rig) {
    let granted = granted(rig).await;
    let requests = requests(rig).await;
    let used: BTreeSet<String> = requests.iter().map(|request| used(request, &granted)).collect();
    let beyond: Vec<_> = used.difference(&granted).collect();
    assert!(beyond.is_empty(), "the operator asked for what it may not: {beyond:?}");
    let idle: Vec<_> = granted.difference(&used).filter(|right| *right != NEVER_REQUESTED).collect();
    assert!(idle.is_empty(), "granted and not used in this run of {} requests: {idle:?}", requests.len());
}

/// With the rights of the chart and no others, Events included, nothing that is ours was ever refused, but for what is granted and was
/// asked of an API server that had not read the roles yet; agents and proxies, which have no token, never asked.
async fn o_r41_no_request_of_our_accounts_was_forbidden(rig: &Rig) {
    let requests = all_requests(rig).await;
    let allowed = |resource: &str| {
        requests.iter().any(|request| {
            account(request) == OPERATOR
                && request["objectRef"]["resource"] == resource
                && decided(request, "allow")
        })
    };
    assert!(allowed("pods") && allowed("events"), "the audit log tells no decisions");
    let ours = requests.iter().filter(|request| {
        let account = account(request);
        account == OPERATOR || account.ends_with("-agent") || account.ends_with("-proxy")
    });
    let granted = granted(rig).await;
    let starts: Vec<_> = events(rig, reads_the_roles).iter().map(time).collect();
    let (of_a_start, refused): (Vec<_>, Vec<_>) = ours
        .clone()
        .filter(|e| decided(e, "forbid"))
        .partition(|request| account(request) == OPERATOR && is_of_a_start(request, &granted, &starts));
    println!("{} refused by {} API servers that had just started", of_a_start.len(), starts.len());
    let refused: Vec<_> = refused.into_iter().map(|e| (&e["requestURI"], &e["annotations"])).collect();
    assert!(refused.is_empty(), "refused by authorization: {refused:?}");
    let pods: Vec<_> = ours.filter(|request| account(request) != OPERATOR).map(account).collect();
    assert!(pods.is_empty(), "a pod of a sandbox spoke to the API server: {pods:?}");
}

/// Every real key of these tests holds this, and no placeholder does.
const KEY_MARK: &str = "-real-";

/// What a test of the policies has the operator say by taking one of them away.
const TOLD_ON_PURPOSE: &str = "an admission policy is not in force";

async fn o_r25_no_log_tells_an_error_a_panic_or_a_key(rig: &Rig) {
    let pods: Api<Pod> = Api::all(rig.client.clone());
    let params =
        |container: &str| LogParams { container: Some(container.to_owned()), ..LogParams::default() };
    let (mut read, mut wrong) = (BTreeSet::new(), Vec::new());
    for pod in pods.list(&ListParams::default()).await.unwrap() {
        let (name, namespace) =
            (pod.metadata.name.unwrap_or_default(), pod.metadata.namespace.unwrap_or_default());
        for container in pod.spec.into_iter().flat_map(|spec| spec.containers) {
            if !["operator", "proxy"].contains(&container.name.as_str()) {
                continue;
            }
            let of: Api<Pod> = Api::namespaced(rig.client.clone(), &namespace);
            let log = match of.logs(&name, &params(&container.name)).await {
                Ok(log) => log,
                // It ended after it was listed.
                Err(kube::Error::Api(status)) if [400, 404].contains(&status.code) => continue,
                Err(error) => panic!("{name}: {error}"),
            };
            let bad = |line: &&str| {
                !line.contains(TOLD_ON_PURPOSE)
                    && ["\"ERROR\"", " ERROR ", "panicked", KEY_MARK].iter().any(|word| line.contains(word))
            };
            wrong.extend(log.lines().filter(bad).map(|line| format!("{name}: {line}")));
            if !log.is_empty() {
                read.insert(container.name);
            }
        }
    }
    assert!(read.contains("operator"), "no log of the operator was read: {read:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let logs = rig.cluster.state().join("logs").display().to_string();
    let audit = rig.cluster.audit_log().display().to_string();
    let found = shell::run("grep", &["-r", "-l", "-a", "-e", KEY_MARK, &logs, &audit]);
    assert!(found.is_err(), "a key is in a log of the cluster: {found:?}");
    // Whether keys are there cannot be known: they are never read. So a pass that waits for pods asks for them again, and the busier the
    // API server is, the more passes there are.
    let is_known = |request: &Value| request["objectRef"]["resource"] != "secrets";
    let writes: Vec<Value> =
        requests(rig).await.into_iter().filter(|request| is_write(request) && is_known(request)).collect();
    let conflicts = writes.iter().filter(|request| request["responseStatus"]["code"] == 409).count();
    println!("{conflicts} conflicts of {} writes", writes.len());
    assert!(
        conflicts * CONFLICTS_PER < writes.len(),
        "{conflicts} of {} writes met a conflict",
        writes.len()
    );
}

/// Fewer than one write in so many meets a conflict; on a busy machine 13 did of the 27,620 that asked for no keys which were there.
/// Writes from a stale cache would show as many more.
const CONFLICTS_PER: usize = 100;

fn is_write(request: &Value) -> bool {
    ["create", "update", "patch", "delete"].iter().any(|verb| request["verb"] == *verb)
        // Its Lease is written against another replica on purpose.
        && request["objectRef"]["resource"] != "leases"
}

/// Everything that carries the chart's label or name, CRDs aside.
fn left(rig: &Rig) -> String {
    let cluster_kinds = "clusterroles,clusterrolebindings,runtimeclasses,agentsandboxclasses,validatingadmissionpolicies,validatingadmissionpolicybindings,validatingwebhookconfigurations,mutatingwebhookconfigurations,priorityclasses";
    let kinds = "all,configmaps,secrets,serviceaccounts,roles,rolebindings,networkpolicies,leases,poddisruptionbudgets,endpointslices";
    let label = ["-l", "app.kubernetes.io/name=agentsandbox", "-o", "name"];
    let get = |args: &[&str]| shell::output(&mut rig.cluster.kubectl(args).unwrap()).unwrap();
    let labelled = [
        get(&[&["get", cluster_kinds], &label[..]].concat()),
        get(&[&["get", "-A", kinds], &label[..]].concat()),
    ];
    // Whatever its labels: what Kubernetes itself puts into each namespace is not ours.
    let own = get(&["-n", install::NAMESPACE, "get", kinds, "-o", "name"]);
    let own =
        own.lines().filter(|line| !["configmap/kube-root-ca.crt", "serviceaccount/default"].contains(line));
    labelled.join("") + &own.map(|line| format!("{line}\n")).collect::<String>()
}

fn kubectl(rig: &Rig, args: &[&str]) -> String {
    shell::output(&mut rig.cluster.kubectl(args).unwrap()).unwrap()
}

/// Runs a verb of helm on the release.
fn helm(rig: &Rig, verb: &[&str]) {
    let place = ["--namespace", install::NAMESPACE, "--wait", "--timeout", "120s"];
    shell::output(install::helm(&rig.cluster, verb).args(place)).unwrap();
}

/// Uninstalls as docs/install.md says, and waits until nothing carries the chart's label or name.
async fn uninstalled(rig: &Rig) {
    assert!(
        left(rig).contains("deployment.apps/agentsandbox-operator"),
        "the search finds nothing that is there"
    );
    // Sandboxes first, because their finalizer is the operator's work.
    kubectl(rig, &["delete", "asbx", "--all", "--all-namespaces"]);
    kubectl(rig, &["delete", "agentsandboxclass", install::WORLD_CLASS]);
    helm(rig, &["uninstall", install::RELEASE]);
    eventually("nothing left", Duration::from_secs(30), || async {
        // The Lease is the operator's own; it expires and is not the chart's.
        let left = left(rig);
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

/// Every object of every kind that is in no namespace, whatever its labels; namespaces are other tests'.
fn cluster_scoped(rig: &Rig) -> BTreeSet<String> {
    let kinds = kubectl(rig, &["api-resources", "--namespaced=false", "--verbs=list", "-o", "name"]);
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !["namespaces"].contains(kind)).collect();
    let all = kubectl(rig, &["get", &kinds.join(","), "-o", "name", "--ignore-not-found"]);
    all.lines().map(str::to_owned).collect()
}

/// What the chart makes, without what Kubernetes and helm make of it.
fn made(rig: &Rig) -> BTreeSet<String> {
    let theirs = ["pod/", "replicaset.apps/", "endpointslice", "secret/sh.helm.release", "lease"];
    let all = left(rig);
    let made = all.lines().filter(|line| !theirs.iter().any(|kind| line.starts_with(kind)));
    made.map(str::to_owned).collect()
}

async fn o_r28_install_upgrade_rollback_and_uninstall_leave_nothing_but_the_kinds(rig: &Rig) {
    uninstalled(rig).await;
    let before = cluster_scoped(rig);
    install::install(&rig.cluster).expect("the chart can be installed again");
    let installed = (made(rig), cluster_scoped(rig));
    let chart = paths::repository().join("charts/agentsandbox").display().to_string();
    // An upgrade that takes objects away, and one back.
    helm(rig, &["upgrade", install::RELEASE, &chart, "--reuse-values", "--set", FEWER_OBJECTS]);
    let fewer = made(rig);
    assert!(
        fewer.is_subset(&installed.0) && fewer != installed.0,
        "an upgrade left behind what it took away, or took away nothing: {fewer:?}"
    );
    helm(rig, &["rollback", install::RELEASE]);
    assert_eq!((made(rig), cluster_scoped(rig)), installed, "a rollback is not what was there before");
    uninstalled(rig).await;
    assert_eq!(cluster_scoped(rig), before, "an orphan");
    let kinds = kubectl(rig, &["get", "crd", "-o", "name"]);
    for kind in ["agentsandboxes", "agentcredentials", "agentsandboxclasses", "agentsandboxtemplates"] {
        assert!(kinds.contains(&format!("{kind}.agentsandbox.dev")), "the CRD {kind} did not stay: {kinds}");
    }
    install::install(&rig.cluster).expect("the chart can be installed again");
}

/// A value that leaves objects out which the default has.
const FEWER_OBJECTS: &str = "roles=None";

#[tokio::test]
async fn the_whole_run_used_every_right_and_uninstalling_leaves_nothing() {
    let rig = Rig::alone().await;
    o_r41_no_request_of_our_accounts_was_forbidden(&rig).await;
    o_r25_no_log_tells_an_error_a_panic_or_a_key(&rig).await;
    o_h30_the_operator_uses_exactly_the_verbs_it_is_granted(&rig).await;
    o_r28_install_upgrade_rollback_and_uninstall_leave_nothing_but_the_kinds(&rig).await;
}

//! Who asks the API server, and how a refusal by one of the chart's policies is known.

use std::fmt::Debug;

use agentsandbox_tests::{Namespace, Rig};
use kube::Error;
use serde_json::json;
use xtask::install;

/// The garbage collector.
pub const COLLECTOR: &str = "system:serviceaccount:kube-system:generic-garbage-collector";

/// The namespace as the operator sees it.
pub async fn operator(rig: &Rig, ns: &Namespace) -> Namespace {
    let user = format!("system:serviceaccount:{}:agentsandbox-operator", install::NAMESPACE);
    ns.seen_by(rig.client_of(&user).await)
}

/// The namespace as one of the cluster's own controllers, or anybody else, sees it.
pub async fn user(rig: &Rig, ns: &Namespace, name: &str) -> Namespace {
    ns.seen_by(rig.client_of(name).await)
}

/// The namespace as somebody sees it who may do everything in it, by wildcards, and nothing in the cluster: what is refused to him
/// is refused by a policy and not by RBAC.
pub async fn tenant(rig: &Rig, ns: &Namespace) -> Namespace {
    let name = format!("tenant-of-{}", ns.name);
    bind(ns, &name, json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])).await;
    user(rig, ns, &name).await
}

/// Gives a user these rules in the namespace.
pub async fn bind(ns: &Namespace, user: &str, rules: serde_json::Value) {
    let group = "rbac.authorization.k8s.io";
    let role = json!({"apiVersion": format!("{group}/v1"), "kind": "Role", "metadata": {"name": user}, "rules": rules});
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": user},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": user},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    });
    ns.apply(&role.to_string()).await.expect("a role can be made");
    ns.apply(&binding.to_string()).await.expect("a binding can be made");
}

/// Whether this is the refusal of this policy, with these words in its message; else what came instead.
pub fn is_denied<T: Debug>(outcome: &Result<T, Error>, policy: &str, words: &[&str]) -> Result<(), String> {
    match outcome {
        Err(Error::Api(status))
            if status.code == 403
                && status.message.contains(&format!("ValidatingAdmissionPolicy '{policy}'"))
                && words.iter().all(|word| status.message.contains(word)) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    }
}

/// The refusal of this policy, with these words in its message.
#[track_caller]
pub fn denied<T: Debug>(outcome: Result<T, Error>, policy: &str, words: &[&str]) {
    if let Err(instead) = is_denied(&outcome, policy, words) {
        panic!("{policy} does not refuse with {words:?}: {instead}");
    }
}

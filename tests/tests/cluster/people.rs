//! Who asks the API server, and how a refusal by one of the chart's policies is known.

use std::fmt::Debug;
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, eventually};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::api::PostParams;
use kube::{Api, Error};
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
    in_force(ns, user, &rules).await;
}

/// Waits until the API server knows of the last of these rules: it learns of roles by a watch.
async fn in_force(ns: &Namespace, user: &str, rules: &serde_json::Value) {
    let last = rules.as_array().and_then(|rules| rules.last()).expect("there is a rule");
    let first = |field: &str, instead: &str| match last[field][0].as_str() {
        None | Some("*") => instead.to_owned(),
        Some(text) => text.to_owned(),
    };
    let resource = first("resources", "configmaps");
    let mut attributes = json!({
        "namespace": ns.name, "group": first("apiGroups", ""), "verb": first("verbs", "create"),
        "resource": resource.split('/').next(), "subresource": resource.split('/').nth(1),
    });
    if let Some(name) = last["resourceNames"][0].as_str() {
        attributes["name"] = json!(name);
    }
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {},
        "spec": {"user": user, "resourceAttributes": attributes},
    });
    let review: SubjectAccessReview = serde_json::from_value(review).expect("it is a review");
    let reviews: Api<SubjectAccessReview> = Api::all(ns.client.clone());
    eventually("the binding is in force", Duration::from_secs(60), || async {
        let answer =
            reviews.create(&PostParams::default(), &review).await.map_err(|error| error.to_string())?;
        if answer.status.as_ref().is_some_and(|status| status.allowed) {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })
    .await;
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

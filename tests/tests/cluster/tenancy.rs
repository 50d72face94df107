//! What people with the chart's roles may do, as the API server itself decides.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectRulesReview, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use xtask::paths;

use crate::people::user;

/// The fewest rows that count as a table.
const ROWS_MIN: usize = 30;

/// Resources without a namespace, which a binding in a namespace gives nobody.
const CLUSTER_SCOPED: [&str; 4] =
    ["agentsandboxclasses", "nodes", "validatingadmissionpolicies", "validatingadmissionpolicybindings"];

struct Row {
    may: bool,
    verb: String,
    resource: String,
}

/// The rows of docs/tenancy.md that say what a developer may do.
fn rows() -> Vec<Row> {
    let document = fs::read_to_string(paths::repository().join("docs/tenancy.md")).unwrap();
    let row = |line: &str| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let may = match cells.next()? {
            "yes" => true,
            "no" => false,
            _ => return None,
        };
        Some(Row { may, verb: cells.next()?.to_owned(), resource: cells.next()?.to_owned() })
    };
    document.lines().filter_map(row).collect()
}

/// Somebody who has one of our ClusterRoles in the namespace, and nothing else.
async fn with_role(ns: &Namespace, role: &str) -> String {
    let (name, group) = (format!("{role}-of-{}", ns.name), "rbac.authorization.k8s.io");
    let binding = json!({
        "apiVersion": format!("{group}/v1"), "kind": "RoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": name}],
    });
    ns.apply(&binding.to_string()).await.unwrap();
    name
}

async fn may(ns: &Namespace, user: &str, row: &Row) -> bool {
    let (resource, subresource) = match row.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource)),
        None => (row.resource.as_str(), None),
    };
    let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
    let is_in_namespace = !CLUSTER_SCOPED.contains(&resource);
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            groups: Some(vec!["system:authenticated".to_owned()]),
            resource_attributes: Some(ResourceAttributes {
                namespace: is_in_namespace.then(|| ns.name.clone()),
                verb: Some(row.verb.clone()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: subresource.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(ns.client.clone());
    reviews
        .create(&PostParams::default(), &review)
        .await
        .unwrap()
        .status
        .expect("the API server decides")
        .allowed
}

#[tokio::test]
async fn o_h16_a_developer_may_do_what_the_table_says_and_nothing_that_leads_into_a_pod() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "developer", async |ns| {
        let rows = rows();
        assert!(rows.len() >= ROWS_MIN, "{} rows", rows.len());
        for entry in ["exec", "attach", "portforward", "proxy"] {
            for verb in ["get", "create"] {
                let listed =
                    |row: &Row| !row.may && row.verb == verb && row.resource == format!("pods/{entry}");
                assert!(rows.iter().any(listed), "the table does not refuse {verb} pods/{entry}");
            }
        }
        let developer = with_role(&ns, "agentsandbox-edit").await;
        let first = &rows[0];
        eventually("the binding is in force", Duration::from_secs(10), || async {
            if may(&ns, &developer, first).await == first.may { Ok(()) } else { Err(first.verb.clone()) }
        })
        .await;
        for row in &rows {
            assert_eq!(may(&ns, &developer, row).await, row.may, "{} {}", row.verb, row.resource);
        }
    })
    .await;
}

/// Everything that somebody may do in the namespace, as `kubectl auth can-i --list` shows it; what every user of a cluster may do
/// is left out.
async fn list(ns: &Namespace) -> BTreeSet<String> {
    let review: SelfSubjectRulesReview = serde_json::from_value(json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": ns.name},
    }))
    .unwrap();
    let reviews: Api<SelfSubjectRulesReview> = Api::all(ns.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
    let mut found = BTreeSet::new();
    for rule in answer.resource_rules {
        for group in rule.api_groups.iter().flatten().filter(|group| !group.starts_with("auth")) {
            for resource in rule.resources.iter().flatten() {
                found.extend(rule.verbs.iter().map(|verb| format!("{verb} {resource}.{group}")));
            }
        }
    }
    found
}

fn all(verbs: &[&str], resource: &str) -> BTreeSet<String> {
    verbs.iter().map(|verb| format!("{verb} {resource}.agentsandbox.dev")).collect()
}

#[tokio::test]
async fn o_h16_our_roles_allow_exactly_this() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "roles", async |ns| {
        let read = ["get", "list", "watch"];
        let write = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        let mut view = all(&read, "agentsandboxes");
        view.extend(all(&read, "agentcredentials"));
        view.extend(all(&read, "agentsandboxclasses"));
        view.extend(all(&read, "agentsandboxtemplates"));
        let mut admin = all(&write, "agentcredentials");
        admin.extend(all(&write, "agentsandboxtemplates"));
        for (role, wanted) in [
            ("agentsandbox-view", view),
            ("agentsandbox-edit", all(&write, "agentsandboxes")),
            ("agentsandbox-admin", admin),
        ] {
            let name = with_role(&ns, role).await;
            let view = user(&rig, &ns, &name).await;
            eventually(&format!("{role} is in force"), Duration::from_secs(10), || async {
                let found = list(&view).await;
                if found == wanted { Ok(()) } else { Err(format!("{found:?}")) }
            })
            .await;
        }
    })
    .await;
}

#[tokio::test]
async fn o_h16_view_edit_and_admin_of_kubernetes_get_our_kinds_and_credentials_are_admins() {
    let rig = Rig::beside().await;
    let roles: Api<ClusterRole> = Api::all(rig.client.clone());
    let rights = async |role: &str| -> BTreeSet<String> {
        let rules = roles.get(role).await.unwrap().rules.unwrap_or_default();
        let ours = rules
            .into_iter()
            .filter(|rule| rule.api_groups.iter().flatten().any(|g| g == "agentsandbox.dev"));
        ours.flat_map(|rule| {
            let resources = rule.resources.unwrap_or_default();
            resources
                .into_iter()
                .flat_map(move |r| rule.verbs.clone().into_iter().map(move |v| format!("{v} {r}")))
        })
        .collect()
    };
    eventually("our rules are aggregated", Duration::from_secs(30), || async {
        let (view, edit, admin) = (rights("view").await, rights("edit").await, rights("admin").await);
        let is = view.contains("list agentsandboxes")
            && !view.contains("create agentsandboxes")
            && edit.contains("create agentsandboxes")
            && !edit.contains("create agentcredentials")
            && !edit.contains("create agentsandboxtemplates")
            && admin.contains("create agentcredentials")
            && admin.contains("create agentsandboxtemplates")
            && !admin.iter().any(|right| {
                right.contains("bypass-admission") || right.contains("create agentsandboxclasses")
            });
        if is { Ok(()) } else { Err(format!("{view:?} {edit:?} {admin:?}")) }
    })
    .await;
}

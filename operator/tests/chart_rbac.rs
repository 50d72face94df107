//! The chart grants what the operator's table says, sentence by sentence, and nothing else.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests state their claims by them")]

use std::collections::BTreeSet;
use std::path::Path;

use agentsandbox_operator::rbac::{PERMISSIONS, Scope, in_one_namespace};
use serde_json::Value;

/// One granted verb: where, group, resource, object, verb, and the sentence that justifies it.
type Grant = (&'static str, String, String, Option<String>, String, String);

const fn place(scope: Scope) -> &'static str {
    match scope {
        Scope::Cluster => "cluster",
        Scope::OwnNamespace => "own namespace",
        Scope::DefaultNamespace => "namespace default",
    }
}

fn table() -> BTreeSet<Grant> {
    let grant = |p: &agentsandbox_operator::rbac::Permission, verb: &str| {
        (
            place(p.scope),
            p.group.to_owned(),
            p.resource.to_owned(),
            p.name.map(str::to_owned),
            verb.to_owned(),
            p.why.to_owned(),
        )
    };
    PERMISSIONS.iter().flat_map(|p| p.verbs.iter().map(move |verb| grant(p, verb))).collect()
}

/// The rules of a template's roles, each with the comment above it.
fn grants(template: &str) -> BTreeSet<Grant> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/agentsandbox/templates");
    let file = folder.join(template);
    let text = std::fs::read_to_string(file).unwrap();
    let mut grants = BTreeSet::new();
    for document in text.split("\n---\n") {
        // Templates fill in labels and the release's namespace, and no rule.
        let own = document.contains("namespace: {{ .Release.Namespace }}\n  labels");
        let plain: String = document
            .lines()
            .filter(|line| !line.contains("{{") && !line.contains("}}"))
            .map(|l| format!("{l}\n"))
            .collect();
        let plain =
            plain.split_once("apiVersion:").map_or(String::new(), |(_, rest)| format!("apiVersion:{rest}"));
        let object: Value = serde_yaml::from_str(&plain).expect("a document is YAML");
        let scope = match (object["kind"].as_str().unwrap_or_default(), own) {
            ("ClusterRole", _) => "cluster",
            ("Role", true) => "own namespace",
            ("Role", false) => "namespace default",
            _ => continue,
        };
        let whys =
            document.lines().skip_while(|line| *line != "rules:").filter_map(|line| line.strip_prefix("# "));
        let rules = object["rules"].as_array().expect("a role has rules");
        let whys: Vec<&str> = whys.collect();
        assert_eq!(whys.len(), rules.len(), "each rule has its sentence");
        for (rule, why) in rules.iter().zip(whys) {
            let strings = |key: &str| {
                rule[key]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|v| v.as_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
            };
            let name = rule["resourceNames"].as_array().map(|names| {
                assert_eq!(names.len(), 1, "a rule names one object or none");
                names[0].as_str().unwrap().to_owned()
            });
            for group in strings("apiGroups") {
                for resource in strings("resources") {
                    for verb in strings("verbs") {
                        let why = why.to_owned();
                        grants.insert((scope, group.clone(), resource.clone(), name.clone(), verb, why));
                    }
                }
            }
        }
    }
    grants
}

#[test]
fn the_chart_grants_exactly_what_the_table_says() {
    let (table, chart) = (table(), grants("rbac.yaml"));
    let missing: Vec<_> = table.difference(&chart).collect();
    let extra: Vec<_> = chart.difference(&table).collect();
    assert!(missing.is_empty() && extra.is_empty(), "the chart lacks {missing:#?} and adds {extra:#?}");
}

#[test]
fn o_h31_for_one_namespace_the_chart_grants_the_same_there_and_nothing_of_the_clusters() {
    let kinds = template("rbac_one_namespace.yaml");
    let kinds: Vec<_> = kinds.iter().map(|object| object["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Role", "RoleBinding"]);
    let granted = grants("rbac_one_namespace.yaml");
    let granted: BTreeSet<_> = granted.into_iter().map(|(_, a, b, c, d, e)| (a, b, c, d, e)).collect();
    let (mut used, mut of_the_cluster) = (BTreeSet::new(), BTreeSet::new());
    let namespaced: Vec<_> = in_one_namespace().map(|one| one.resource).collect();
    for (place, group, resource, name, verb, why) in table() {
        if place == "cluster" && namespaced.contains(&resource.as_str()) {
            used.insert((group, resource, name, verb, why));
        } else if place == "cluster" {
            of_the_cluster.insert(resource);
        }
    }
    assert_eq!(granted, used);
    let wanted = [
        "agentsandboxclasses",
        "nodes",
        "runtimeclasses",
        "servicecidrs",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
    ];
    assert_eq!(
        Vec::from_iter(&of_the_cluster),
        wanted,
        "each of these is in no namespace, and nothing else is"
    );
}

/// The objects of a template, without what Helm fills in.
fn template(name: &str) -> Vec<Value> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/agentsandbox/templates").join(name);
    let text = std::fs::read_to_string(file).unwrap();
    let body = text.split_once("*/ -}}").map_or(text.as_str(), |(_, body)| body);
    let plain: String = body
        .lines()
        .filter(|line| !line.contains("{{") && !line.contains("}}"))
        .map(|l| format!("{l}\n"))
        .collect();
    let objects: Vec<Value> = serde_yaml::from_multiple(&plain).expect("a template is YAML");
    assert!(!objects.is_empty(), "{name} has no object");
    objects
}

fn rules(objects: &[Value]) -> impl Iterator<Item = &Value> {
    objects.iter().flat_map(|object| object["rules"].as_array().into_iter().flatten())
}

fn strings<'a>(rule: &'a Value, key: &str) -> Vec<&'a str> {
    rule[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn o_h16_roles_for_people_hold_nothing_but_our_kinds() {
    let roles = template("roles.yaml");
    let names: Vec<_> = roles.iter().map(|role| role["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["agentsandbox-view", "agentsandbox-edit", "agentsandbox-admin"]);
    let known = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
    for rule in rules(&roles) {
        assert_eq!(strings(rule, "apiGroups"), ["agentsandbox.dev"]);
        for resource in strings(rule, "resources") {
            assert!(
                ["agentsandboxes", "agentcredentials", "agentsandboxclasses", "agentsandboxtemplates"]
                    .contains(&resource),
                "{resource}"
            );
        }
        for verb in strings(rule, "verbs") {
            assert!(known.contains(&verb), "{verb}");
            let is_write = !["get", "list", "watch"].contains(&verb);
            assert!(
                !is_write || strings(rule, "resources") != ["agentsandboxclasses"],
                "classes are the platform's"
            );
        }
    }
}

#[test]
fn o_h23_no_role_of_the_chart_makes_a_token() {
    let all: Vec<Value> =
        ["rbac.yaml", "rbac_one_namespace.yaml", "roles.yaml"].into_iter().flat_map(template).collect();
    let mut seen = 0;
    for rule in rules(&all) {
        for resource in strings(rule, "resources") {
            seen += 1;
            assert!(!resource.starts_with("serviceaccounts/") && resource != "*", "{resource}");
        }
    }
    assert!(seen > PERMISSIONS.len(), "the roles were not read");
    assert!(PERMISSIONS.iter().all(|permission| !permission.resource.starts_with("serviceaccounts/")));
}

/// What of a cluster's policies is ordered before those of every namespace, whoever made it: kinds and resources by these names that
/// are not `NetworkPolicy` itself, in whatever group.
fn is_wider_policy(group: &str, name: &str) -> bool {
    let name = name.split('/').next().unwrap_or_default().to_lowercase();
    let is_policy = name.ends_with("networkpolicy") || name.ends_with("networkpolicies");
    let is_namespaced = ["networkpolicy", "networkpolicies"].contains(&name.as_str());
    is_policy && !(is_namespaced && group == "networking.k8s.io") || group == "policy.networking.k8s.io"
}

#[test]
fn o_n21_the_chart_makes_no_policy_of_the_whole_cluster_and_grants_none() {
    // Such a policy is ordered before those of every namespace: whoever makes one owes the proof of its order.
    for (group, name) in [
        ("policy.networking.k8s.io", "clusternetworkpolicies"),
        ("policy.networking.k8s.io", "AdminNetworkPolicy"),
        ("crd.projectcalico.org", "globalnetworkpolicies"),
        ("projectcalico.org", "networkpolicies"),
        ("cilium.io", "ciliumclusterwidenetworkpolicies/status"),
        ("", "BaselineAdminNetworkPolicy"),
    ] {
        assert!(is_wider_policy(group, name), "the control: {group}/{name}");
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/agentsandbox/templates");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let chart: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    let kinds: Vec<&str> =
        chart.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("kind: ")).collect();
    assert!(kinds.contains(&"NetworkPolicy"), "the control: the chart makes policies of a namespace");
    let wider = kinds.iter().find(|kind| is_wider_policy("networking.k8s.io", kind));
    assert!(wider.is_none(), "the chart makes a {wider:?}");
    assert!(!chart.contains("policy.networking.k8s.io"), "the chart names the group");

    let roles: Vec<Value> =
        ["rbac.yaml", "rbac_one_namespace.yaml", "roles.yaml"].into_iter().flat_map(template).collect();
    let of_roles = rules(&roles).flat_map(|rule| {
        let groups = strings(rule, "apiGroups");
        let pairs = strings(rule, "resources").into_iter();
        pairs.flat_map(move |name| groups.clone().into_iter().map(move |group| (group, name)))
    });
    let granted: Vec<_> = of_roles.chain(PERMISSIONS.iter().map(|p| (p.group, p.resource))).collect();
    assert!(granted.contains(&("networking.k8s.io", "networkpolicies")), "the control: walls are granted");
    let wider = granted.iter().find(|(group, name)| is_wider_policy(group, name) || *name == "*");
    assert!(wider.is_none(), "{wider:?} is granted");
}

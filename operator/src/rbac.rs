//! Exactly the permissions the operator uses, each with the sentence that justifies it.
//!
//! This table is the source: the chart's roles are compared with it, and so is the audit log of a whole test run.
//! Deliberately absent: any verb on Secrets but create, `update`, `deletecollection`, wildcards, any write to `nodes`, `namespaces`.

use serde::Serialize;

/// One rule.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Permission {
    /// Where it holds.
    pub scope: Scope,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resource, with its subresource.
    pub resource: &'static str,
    /// The only object that it holds for, by name; absent means each object of the kind.
    pub name: Option<&'static str>,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// Which code needs it, and for what.
    pub why: &'static str,
}

/// Where a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Scope {
    /// In every namespace, and for cluster-scoped resources: a ClusterRole.
    Cluster,
    /// In the operator's own namespace: a Role.
    OwnNamespace,
    /// In the namespace `default`: a Role there.
    DefaultNamespace,
}

const WATCH: &[&str] = &["list", "watch"];
const CHILD: &[&str] = &["create", "delete", "get", "list", "patch", "watch"];

/// All of them.
pub const PERMISSIONS: &[Permission] = &[
    cluster(
        "agentsandbox.dev",
        "agentsandboxes",
        &["delete", "list", "patch", "watch"],
        "watches: sandboxes are what the operator reconciles; apply, teardown: the finalizer is set and removed by patch; finish: one that is over is deleted when its ttlAfterFinished has passed.",
    ),
    cluster(
        "agentsandbox.dev",
        "agentsandboxes/status",
        &["patch"],
        "apply: the status is written by patch, and never the spec.",
    ),
    cluster(
        "agentsandbox.dev",
        "agentsandboxes/finalizers",
        &["update"],
        "apply: children block their owner's deletion, which OwnerReferencesPermissionEnforcement asks this verb for.",
    ),
    cluster(
        "agentsandbox.dev",
        "agentcredentials",
        WATCH,
        "watches: a sandbox refers to credentials by name, and waits for one that does not exist yet.",
    ),
    cluster(
        "agentsandbox.dev",
        "agentsandboxclasses",
        WATCH,
        "watches: a class says which runtime, limits and ceilings hold.",
    ),
    cluster(
        "agentsandbox.dev",
        "agentsandboxtemplates",
        &["get", "list", "watch"],
        "watches: a sandbox may refer to a template of its namespace, and what that says counts for it at once; teardown: get asks for it once more before a claim is deleted by its word.",
    ),
    cluster(
        "node.k8s.io",
        "runtimeclasses",
        WATCH,
        "watches: a missing RuntimeClass is reported, and never replaced by the node's default runtime.",
    ),
    cluster(
        "",
        "nodes",
        WATCH,
        "ranges: no proxy dials a node or its pods, so their addresses are in every policy, also those of a node that joins.",
    ),
    cluster(
        "networking.k8s.io",
        "servicecidrs",
        WATCH,
        "ranges: no proxy dials a Service, so the ranges of Services are in every policy.",
    ),
    cluster(
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        WATCH,
        "admission: a policy of the chart that somebody deleted or edited is reported.",
    ),
    cluster(
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
        WATCH,
        "admission: a policy whose binding is missing or edited is not in force, and is reported.",
    ),
    cluster(
        "",
        "serviceaccounts",
        CHILD,
        "apply, teardown: each sandbox has two ServiceAccounts without bindings; get tells whose an existing one is.",
    ),
    cluster(
        "",
        "configmaps",
        CHILD,
        "apply, teardown: the policy document of a sandbox is a ConfigMap; get tells whose an existing one is.",
    ),
    cluster(
        "",
        "persistentvolumeclaims",
        CHILD,
        "apply, teardown: a persistent workspace is a claim; patch lets it grow, and get tells whose an existing one is.",
    ),
    cluster(
        "",
        "services",
        CHILD,
        "apply, teardown: the stable address of a proxy is a Service; get tells whose an existing one is.",
    ),
    cluster(
        "",
        "pods",
        CHILD,
        "apply, teardown: the proxy and the agent are pods; get tells whose an existing one is, and list whether any is left before the walls of a deleted sandbox go.",
    ),
    cluster(
        "networking.k8s.io",
        "networkpolicies",
        &["create", "delete", "list", "patch", "watch"],
        "apply, teardown: the walls of a sandbox; watched without a selector, because a foreign policy can widen them.",
    ),
    cluster(
        "",
        "secrets",
        &["create"],
        "apply: the keys of a sandbox are created under a fresh name. The operator can read no Secret, not even these.",
    ),
    cluster(
        "events.k8s.io",
        "events",
        &["create", "patch"],
        "events: transitions are told as Events; patch counts repetitions.",
    ),
    Permission {
        scope: Scope::OwnNamespace,
        group: "coordination.k8s.io",
        resource: "leases",
        name: Some(crate::lease::NAME),
        verbs: &["get", "update"],
        why: "lease: one replica writes at a time; update carries the resourceVersion that was read.",
    },
    Permission {
        scope: Scope::OwnNamespace,
        group: "coordination.k8s.io",
        resource: "leases",
        name: None,
        verbs: &["create"],
        why: "lease: it is made anew where the chart's was deleted or never applied; no right can name what does not exist yet.",
    },
    Permission {
        scope: Scope::DefaultNamespace,
        group: "discovery.k8s.io",
        resource: "endpointslices",
        name: None,
        verbs: &["list"],
        why: "run: the fence proves that the API server's endpoints are out of reach, so it has to know them.",
    },
    Permission {
        scope: Scope::DefaultNamespace,
        group: "",
        resource: "services",
        name: Some("kubernetes"),
        verbs: &["get"],
        why: "run: the fence proves that the Service kubernetes is out of reach, so it has to know its address.",
    },
];

const fn cluster(
    group: &'static str,
    resource: &'static str,
    verbs: &'static [&'static str],
    why: &'static str,
) -> Permission {
    Permission { scope: Scope::Cluster, group, resource, name: None, verbs, why }
}

/// Kinds under [`Scope::Cluster`] that are in no namespace.
const OF_THE_CLUSTER: [&str; 6] = [
    "agentsandboxclasses",
    "nodes",
    "runtimeclasses",
    "servicecidrs",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
];

/// What an operator for one namespace uses there, by a Role. Besides, it uses what is of [`Scope::OwnNamespace`], and nothing else
/// of the table.
pub fn in_one_namespace() -> impl Iterator<Item = &'static Permission> {
    let of_the_cluster = |permission: &Permission| OF_THE_CLUSTER.contains(&permission.resource);
    PERMISSIONS.iter().filter(move |one| one.scope == Scope::Cluster && !of_the_cluster(one))
}

/// The table as JSON, for comparison with rendered roles.
///
/// # Errors
/// Never in practice: the table holds strings only.
pub fn json() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(PERMISSIONS).map(|text| text + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o_h27_the_only_verb_on_secrets_is_create() {
        let verbs: Vec<_> =
            PERMISSIONS.iter().filter(|p| p.resource.starts_with("secrets")).map(|p| p.verbs).collect();
        assert_eq!(verbs, [["create"].as_slice()]);
    }

    #[test]
    fn o_h29_nothing_is_a_wildcard_or_an_escalation() {
        for permission in PERMISSIONS {
            assert!(!permission.group.contains('*') && !permission.resource.contains('*'), "{permission:?}");
            for verb in permission.verbs {
                assert!(
                    !["*", "escalate", "bind", "impersonate", "deletecollection"].contains(verb),
                    "{permission:?}"
                );
            }
            assert!(permission.why.len() > 40, "{permission:?}");
        }
    }

    #[test]
    fn no_resource_is_listed_twice_in_one_scope() {
        for (index, one) in PERMISSIONS.iter().enumerate() {
            let twin = PERMISSIONS[index + 1..].iter().find(|other| {
                other.scope == one.scope
                    && other.group == one.group
                    && other.resource == one.resource
                    && other.name == one.name
            });
            assert!(twin.is_none(), "{one:?}");
        }
    }
}

//! Nobody has a right that he does not use.

use agentsandbox_tests::{Namespace, Rig, with_namespace};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::Api;
use kube::api::{ListParams, PostParams};
use xtask::install;

use crate::fixtures;

#[tokio::test]
async fn o_h6_the_agent_has_no_service_account_token() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "token", async |ns| {
        let sandbox = ns.sandbox("t", &fixtures::closed("t")).await;
        sandbox.ready().await;
        sandbox.sh("ls /var/run/secrets/kubernetes.io").await.failed();
        let found = sandbox.sh("find / -xdev -name token -path '*serviceaccount*' 2>/dev/null").await;
        assert_eq!(found.stdout, "");
    })
    .await;
}

/// What the API server adds to the name of every ServiceAccount.
fn groups_of(account: &str) -> Vec<String> {
    let namespace = account.split(':').nth(2).expect("system:serviceaccount:<namespace>:<name>");
    [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ]
    .to_vec()
}

/// Whether a ServiceAccount may do this in a namespace, as the API server itself decides.
pub(crate) async fn may(
    ns: &Namespace,
    account: &str,
    verb: &str,
    group: &str,
    resource: &str,
    sub: Option<&str>,
) -> bool {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(account.to_owned()),
            groups: Some(groups_of(account)),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(ns.name.clone()),
                verb: Some(verb.to_owned()),
                group: Some(group.to_owned()),
                resource: Some(resource.to_owned()),
                subresource: sub.map(str::to_owned),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(ns.client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
    answer.status.expect("the API server decides").allowed
}

#[tokio::test]
async fn p_f12_agent_and_proxy_may_read_no_secret_policy_or_sandbox_and_enter_no_pod() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "powerless", async |ns| {
        ns.sandbox("p", &fixtures::closed("p")).await.ready().await;
        let group = "agentsandbox.dev";
        let powers = [
            ("get", "", "secrets", None),
            ("list", "", "secrets", None),
            ("get", "", "configmaps", None),
            ("update", "", "configmaps", None),
            ("get", group, "agentsandboxes", None),
            ("patch", group, "agentsandboxes", None),
            ("create", "", "pods", Some("exec")),
            ("create", "", "pods", Some("attach")),
            ("create", "", "pods", Some("portforward")),
            ("patch", "", "pods", Some("ephemeralcontainers")),
        ];
        for account in ["p-agent", "p-proxy"] {
            let account = format!("system:serviceaccount:{}:{account}", ns.name);
            for (verb, group, resource, sub) in powers {
                assert!(
                    !may(&ns, &account, verb, group, resource, sub).await,
                    "{account} may {verb} {resource} {sub:?}"
                );
            }
        }
        let operator = format!("system:serviceaccount:{}:agentsandbox-operator", install::NAMESPACE);
        assert!(
            may(&ns, &operator, "create", "", "secrets", None).await,
            "the API server allows nobody anything"
        );
    })
    .await;
}

#[tokio::test]
async fn o_h33_the_service_accounts_of_agent_and_proxy_have_no_bindings() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "bindings", async |ns| {
        ns.sandbox("b", &fixtures::closed("b")).await.ready().await;
        let mut subjects = Vec::new();
        let roles: Api<RoleBinding> = Api::all(ns.client.clone());
        for binding in roles.list(&ListParams::default()).await.unwrap() {
            subjects.extend(binding.subjects.into_iter().flatten());
        }
        let cluster_roles: Api<ClusterRoleBinding> = Api::all(ns.client.clone());
        for binding in cluster_roles.list(&ListParams::default()).await.unwrap() {
            subjects.extend(binding.subjects.into_iter().flatten());
        }
        let ours: Vec<_> = subjects
            .iter()
            .filter(|s| s.kind == "ServiceAccount" && s.namespace.as_deref() == Some(ns.name.as_str()))
            .collect();
        assert!(ours.is_empty(), "{ours:?}");
        let operator = subjects.iter().any(|s| s.kind == "ServiceAccount" && s.name.contains("agentsandbox"));
        assert!(operator, "the operator's own binding is not seen, so this test proves nothing");
    })
    .await;
}

//! Nobody has a right that he does not use.

use agentsandbox_tests::{Rig, with_namespace};
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding};
use kube::Api;
use kube::api::ListParams;

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

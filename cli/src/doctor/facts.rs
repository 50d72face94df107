//! What the API server shows of what the promises rest on. It asks once for each, and judges nothing: what it may not see, or what
//! fails, is kept as the reason why it is not known.

use agentsandbox_crds::{AgentSandbox, AgentSandboxClass};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::checks::{ADMISSION, Facts, OPERATOR_LABELS, Seen, operator_of};
use crate::cluster::Cluster;
use crate::error::chain;

/// Asks for everything.
pub async fn observe(cluster: &Cluster, now: Timestamp) -> Facts {
    let client = &cluster.client;
    let version = client.apiserver_version().await;
    let deployments = seen(
        Api::<Deployment>::all(client.clone()).list(&ListParams::default().labels(OPERATOR_LABELS)).await,
    )
    .map(|list| list.items);
    let operator = deployments.as_ref().ok().and_then(|all| operator_of(all, &cluster.namespace).ok());
    let home = operator.and_then(ResourceExt::namespace);
    let (admission, operator_namespace) = match &home {
        Some(home) => {
            let config_maps = Api::<ConfigMap>::namespaced(client.clone(), home);
            let config_map = seen(config_maps.get_opt(ADMISSION).await);
            (config_map, namespace(client, home).await)
        }
        None => (Err(NO_OPERATOR.to_owned()), Err(NO_OPERATOR.to_owned())),
    };
    let (sandboxes, is_partial) = sandboxes(cluster).await;
    // An API server that says nothing is waited for once, and not for each.
    let (crds, namespace, classes, runtime_classes, policies, bindings) = tokio::join!(
        all::<CustomResourceDefinition>(client),
        namespace(client, &cluster.namespace),
        all::<AgentSandboxClass>(client),
        all::<RuntimeClass>(client),
        all::<ValidatingAdmissionPolicy>(client),
        all::<ValidatingAdmissionPolicyBinding>(client),
    );
    Facts {
        now,
        namespace_name: cluster.namespace.clone(),
        version: seen(version).map(|info| (info.major, info.minor)),
        crds,
        admission,
        operator_namespace,
        namespace,
        deployments,
        classes,
        runtime_classes,
        policies,
        bindings,
        sandboxes,
        is_partial,
    }
}

const NO_OPERATOR: &str = "the operator was not found";

/// Those of the whole cluster, or, with true, of the namespace for whoever may see no others.
async fn sandboxes(cluster: &Cluster) -> (Seen<Vec<AgentSandbox>>, bool) {
    match Api::<AgentSandbox>::all(cluster.client.clone()).list(&ListParams::default()).await {
        Err(error) if is_forbidden(&error) => {
            let own = Api::<AgentSandbox>::namespaced(cluster.client.clone(), &cluster.namespace);
            (seen(own.list(&ListParams::default()).await).map(|list| list.items), true)
        }
        answer => (seen(answer).map(|list| list.items), false),
    }
}

/// Any other failure is no narrower sight.
fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

async fn namespace(client: &Client, name: &str) -> Seen<Option<Namespace>> {
    seen(Api::<Namespace>::all(client.clone()).get_opt(name).await)
}

async fn all<K>(client: &Client) -> Seen<Vec<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    seen(Api::<K>::all(client.clone()).list(&ListParams::default()).await).map(|list| list.items)
}

fn seen<T>(answer: Result<T, kube::Error>) -> Seen<T> {
    answer.map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_may_not_see_all_namespaces_is_shown_one() {
        for (code, expected) in [(403, true), (401, false), (429, false), (500, false)] {
            let mut status = kube::core::Status::failure("no", "No");
            status.code = code;
            assert_eq!(is_forbidden(&kube::Error::Api(Box::new(status))), expected, "{code}");
        }
    }
}

//! The policy document of one sandbox, in the ConfigMap that its proxy mounts. Names of credentials, never values.

use std::collections::BTreeMap;

use agentsandbox_crds::names::SUFFIX_POLICY;
use agentsandbox_policy::document::{
    API_VERSION, AddressesDocument, PolicyDocument, SandboxIdentity, UpstreamDocument,
};
use k8s_openapi::api::core::v1::ConfigMap;

use super::Component;
use crate::controller::accept::{Accepted, Identity};
use crate::platform::Platform;

/// Key of the document.
pub const KEY: &str = "policy.yaml";

/// Name of the ConfigMap.
#[must_use]
pub fn name(identity: &Identity) -> String {
    format!("{}{SUFFIX_POLICY}", identity.name)
}

/// The ConfigMap.
#[must_use]
pub fn config_map(accepted: &Accepted, platform: &Platform) -> ConfigMap {
    // JSON is YAML; it has one way to write each document, so an unchanged policy is never written again. An empty
    // document, should serialization ever fail, is one that the proxy rejects: it keeps denying.
    let document = serde_json::to_string_pretty(&document(accepted, platform)).unwrap_or_default();
    ConfigMap {
        metadata: Component::Proxy.metadata(&accepted.identity, name(&accepted.identity)),
        data: Some(BTreeMap::from([(KEY.to_owned(), document + "\n")])),
        ..ConfigMap::default()
    }
}

/// The document.
#[must_use]
pub fn document(accepted: &Accepted, platform: &Platform) -> PolicyDocument {
    let identity = &accepted.identity;
    PolicyDocument {
        api_version: API_VERSION.to_owned(),
        sandbox: SandboxIdentity {
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            uid: identity.uid.clone(),
        },
        generation: identity.generation,
        rules: accepted.rules.clone(),
        credentials: accepted.credentials.iter().map(|(document, _)| document.clone()).collect(),
        addresses: AddressesDocument {
            allow: accepted.class.private_ranges.iter().map(ToString::to_string).collect(),
            deny: platform.cluster_ranges.iter().map(ToString::to_string).collect(),
        },
        upstream: UpstreamDocument { additional_roots: accepted.class.additional_roots.clone() },
    }
}

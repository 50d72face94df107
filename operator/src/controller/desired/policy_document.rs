//! The policy document of one sandbox, in the ConfigMap that its proxy mounts. Names of credentials, never values.

use std::collections::BTreeMap;

use agentsandbox_crds::credential::SecretKeyRef;
use agentsandbox_crds::names::{KEY_POLICY, SUFFIX_POLICY};
use agentsandbox_policy::document::{
    API_VERSION, AddressesDocument, ClientCertificateDocument, CredentialDocument, PolicyDocument,
    RuleDocument, SandboxIdentity, TracingDocument, UpstreamDocument,
};
use k8s_openapi::api::core::v1::ConfigMap;
use sha2::{Digest, Sha256};

use super::Component;
use crate::controller::accept::{Accepted, ClassInForce, Identity};
use crate::platform::Platform;

/// Key of the document.
pub const KEY: &str = KEY_POLICY;

const HASH_BYTES: usize = 8;

/// Name of the ConfigMap.
#[must_use]
pub fn name(identity: &Identity) -> String {
    format!("{}{SUFFIX_POLICY}", identity.name)
}

/// The ConfigMap.
#[must_use]
pub fn config_map(accepted: &Accepted, platform: &Platform) -> ConfigMap {
    ConfigMap {
        metadata: Component::Proxy.metadata(&accepted.identity, name(&accepted.identity)),
        data: Some(BTreeMap::from([(KEY.to_owned(), text(accepted, platform))])),
        ..ConfigMap::default()
    }
}

/// The hash of the document, as it stands in the ConfigMap.
#[must_use]
pub fn hash(accepted: &Accepted, platform: &Platform) -> String {
    let digest = Sha256::digest(text(accepted, platform));
    digest.iter().take(HASH_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn text(accepted: &Accepted, platform: &Platform) -> String {
    let Accepted { identity, class, rules, credentials, certificates, .. } = accepted;
    // JSON is YAML; it has one way to write each document, so an unchanged policy is never written again. An empty
    // document, should serialization ever fail, is one that the proxy rejects: it keeps denying.
    let document = document(identity, class, rules, credentials, certificates, platform);
    serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
}

/// The document.
#[must_use]
pub fn document(
    identity: &Identity,
    class: &ClassInForce,
    rules: &[RuleDocument],
    credentials: &[(CredentialDocument, SecretKeyRef)],
    certificates: &[(ClientCertificateDocument, String)],
    platform: &Platform,
) -> PolicyDocument {
    PolicyDocument {
        api_version: API_VERSION.to_owned(),
        sandbox: SandboxIdentity {
            namespace: identity.namespace.clone(),
            name: identity.name.clone(),
            uid: identity.uid.clone(),
        },
        generation: identity.generation,
        rules: rules.to_vec(),
        allowed_hosts: class.allowed_hosts.clone(),
        credentials: credentials.iter().map(|(document, _)| document.clone()).collect(),
        client_certificates: certificates.iter().map(|(document, _)| document.clone()).collect(),
        addresses: AddressesDocument {
            allow: class.private_ranges.iter().map(ToString::to_string).collect(),
            deny: platform.cluster_ranges.iter().map(ToString::to_string).collect(),
        },
        upstream: UpstreamDocument {
            additional_roots: class.additional_roots.clone(),
            proxy: class.upstream_proxy.clone(),
        },
        tracing: class.tracing.as_ref().map(|tracing| TracingDocument {
            endpoint: tracing.endpoint.clone(),
            inside: tracing.pods.is_some(),
        }),
        drain_seconds: class.drain_seconds,
    }
}

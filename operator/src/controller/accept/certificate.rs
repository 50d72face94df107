//! An AgentCredential of type ClientCertificate. Nothing of it is in a request, so it is no credential of the policy document: it is
//! what the proxy shows on the connection under one.

use agentsandbox_crds::credential::{
    AgentCredential, InjectionType, SecretKeyRef, TLS_CERTIFICATE, TLS_PRIVATE_KEY,
};
use agentsandbox_policy::document::{ClientCertificateDocument, ScopeDocument};
use kube::ResourceExt;

use super::egress::{HTTPS_PORT, credential_file, methods, ports};
use super::{Rejection, RejectionReason, reject};

/// Whether it is one.
pub(super) fn is_certificate(credential: &AgentCredential) -> bool {
    credential.spec.inject.as_ref().is_some_and(|inject| inject.kind == InjectionType::ClientCertificate)
}

/// A client certificate as the proxy knows it, and the Secret with its files; none, and a fault, when it says what it cannot mean. The
/// schema refuses that, too; an object that was stored under an older one is judged here.
pub(super) fn document(
    credential: &AgentCredential,
    faults: &mut Vec<Rejection>,
) -> Option<(ClientCertificateDocument, String)> {
    let (name, spec) = (credential.name_any(), &credential.spec);
    let is_whole = spec.secret_ref.key.is_none()
        && spec.preset.is_none()
        && spec.placeholder_env.is_none()
        && spec.pinned_headers.is_empty();
    let Some(hosts) = spec.hosts.as_ref().filter(|_| is_whole) else {
        let message = format!(
            "AgentCredential {name} is a client certificate and needs hosts, without secretRef.key, preset, placeholderEnv and pinnedHeaders; correct it"
        );
        reject(faults, RejectionReason::InvalidField, "spec.egress.allow", message);
        return None;
    };
    let secret = &spec.secret_ref.name;
    let file =
        |key: &str| credential_file(&name, &SecretKeyRef { name: secret.clone(), key: key.to_owned() });
    let scopes = hosts.iter().map(|host| ScopeDocument {
        host: host.host.clone(),
        ports: ports(host.ports.as_ref(), HTTPS_PORT),
        methods: methods(host.methods.as_ref()),
        paths: host.paths.clone(),
        except_paths: None,
    });
    let document = ClientCertificateDocument {
        certificate_file: file(TLS_CERTIFICATE),
        key_file: file(TLS_PRIVATE_KEY),
        scopes: scopes.collect(),
        name,
    };
    Some((document, secret.clone()))
}

//! The Secret with the keys of one sandbox: its CA and its enrolment token.
//!
//! Its name holds a hash of the sandbox's UID, so a sandbox that is created again under the same name never meets the
//! keys of its predecessor. It is only ever created: the operator cannot read it back, and so cannot repair it.

use std::collections::BTreeMap;

use agentsandbox_crds::names::{KEYS_HASH_HEX, SUFFIX_KEYS};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use sha2::{Digest, Sha256};

use super::Component;
use crate::ca::KeyMaterial;
use crate::controller::accept::Identity;

/// Key of the CA's certificate.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// Key of the CA's private key.
pub const CA_KEY: &str = "ca.key";
/// Key of the enrolment token.
pub const ENROLMENT_TOKEN: &str = "enrolment-token";

/// Name of the Secret.
#[must_use]
pub fn name(identity: &Identity) -> String {
    let hash: String = Sha256::digest(&identity.uid).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}{SUFFIX_KEYS}{}", identity.name, &hash[..KEYS_HASH_HEX])
}

/// The Secret, with fresh keys.
#[must_use]
pub fn secret(identity: &Identity, keys: &KeyMaterial) -> Secret {
    let data = [
        (CA_CERTIFICATE, keys.certificate.as_bytes()),
        (CA_KEY, keys.key.as_bytes()),
        (ENROLMENT_TOKEN, keys.token.as_bytes()),
    ];
    Secret {
        metadata: Component::Proxy.metadata(identity, name(identity)),
        type_: Some("Opaque".to_owned()),
        immutable: Some(true),
        data: Some(BTreeMap::from(data.map(|(key, value)| (key.to_owned(), ByteString(value.to_vec()))))),
        ..Secret::default()
    }
}

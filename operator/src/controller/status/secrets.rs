//! What is wrong with the Secret of a credential, in words. The proxy says what it found and knows files only; which Secret it is
//! stands in the AgentCredential.

use agentsandbox_crds::credential::{TLS_CERTIFICATE, TLS_PRIVATE_KEY};
use agentsandbox_policy::SecretError;

use crate::controller::accept::SecretPlace;

/// What is wrong and what to store, as a sentence without its end.
pub(super) fn fault(place: &SecretPlace, error: SecretError) -> String {
    let SecretPlace { secret, key } = place;
    let secret = format!("Secret {secret} of this namespace");
    let key = key.as_deref().unwrap_or(TLS_CERTIFICATE);
    match error {
        SecretError::Missing => {
            format!("{secret} is missing, or has no {key}; create it with this key")
        }
        SecretError::Empty => format!("{secret} has nothing under {key}; store the bare value there"),
        SecretError::TooLong => {
            format!("{secret} has more than 8 KiB under {key}; store the bare value there")
        }
        SecretError::NotVisible => format!(
            "{secret} has a byte under {key} that is not visible ASCII; store the bare value there, without spaces and line breaks"
        ),
        _ => format!("{secret} {}", of_pair(error)),
    }
}

/// The same of a client certificate.
fn of_pair(error: SecretError) -> String {
    let (certificate, key) = (TLS_CERTIFICATE, TLS_PRIVATE_KEY);
    match error {
        SecretError::PairMissing => format!(
            "is missing, or has neither {certificate} nor {key}; create it with both, as one of type kubernetes.io/tls"
        ),
        SecretError::CertificateMissing => {
            format!("has no {certificate}; store the certificate under this key")
        }
        SecretError::PrivateKeyMissing => format!("has no {key}; store the private key under this key"),
        SecretError::TooLarge => {
            format!("has more than 64 KiB under {certificate} or {key}; store no more than one of each")
        }
        SecretError::NoCertificate => format!(
            "has no certificate that can be read under {certificate}; store it, and those that vouch for it behind it, as PEM"
        ),
        SecretError::ChainTooLong => format!(
            "has more than 7 certificates behind the first under {certificate}; store only those that vouch for it"
        ),
        SecretError::PrivateKeyShown => {
            format!("has a private key under {certificate}; store it under {key} only")
        }
        SecretError::NoPrivateKey => format!(
            "has no private key that can be read under {key}; store it as PEM, in PKCS #8, SEC 1 or PKCS #1"
        ),
        SecretError::PrivateKeyEncrypted => {
            format!("has an encrypted private key under {key}; store it unencrypted")
        }
        SecretError::SeveralPrivateKeys => {
            format!("has several private keys under {key}; store the one that is the certificate's")
        }
        SecretError::PrivateKeyUnsupported => format!(
            "has a private key under {key} that cannot be used; have the pair issued with an ECDSA key (P-256, P-384, P-521), an Ed25519 key, or an RSA key of 2048 to 8192 bits"
        ),
        _ => format!(
            "has a private key under {key} that is not the one of the certificate under {certificate}; store a certificate and its own private key"
        ),
    }
}

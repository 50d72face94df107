//! Why a credential has no secret: the proxy finds it, the operator tells it of the Secret by name.

use serde::de::IntoDeserializer;
use serde::de::value::Error;
use serde::{Deserialize, Serialize};

/// What is wrong with the file or the files of a credential. The names are stable: the operator reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
pub enum SecretError {
    /// No file, or not readable.
    #[error(
        "its file is missing or unreadable; create the Secret, with the key, that the AgentCredential names"
    )]
    Missing,
    /// Nothing but a line end.
    #[error("it is empty; store the bare value in the Secret")]
    Empty,
    /// Longer than a header field may be.
    #[error("it is longer than 8 KiB; store the bare value in the Secret")]
    TooLong,
    /// Not usable in a header field.
    #[error(
        "it holds a byte that is not visible ASCII; store the bare value, without spaces and line breaks, in the Secret"
    )]
    NotVisible,
    /// Neither file of a client certificate.
    #[error(
        "the files of its certificate and its private key are missing or unreadable; create the Secret that the AgentCredential names, with tls.crt and tls.key"
    )]
    PairMissing,
    /// A private key without its certificate.
    #[error("the file of its certificate is missing or unreadable; store it as tls.crt in the Secret")]
    CertificateMissing,
    /// A certificate without its private key.
    #[error("the file of its private key is missing or unreadable; store it as tls.key in the Secret")]
    PrivateKeyMissing,
    /// A file of a client certificate is larger than any should be.
    #[error("its certificate or its private key has more than 64 KiB; store no more than one of each")]
    TooLarge,
    /// No certificate that can be read.
    #[error("its certificate is none as PEM; store it, and those that vouch for it behind it, as PEM")]
    NoCertificate,
    /// More certificates than are shown together.
    #[error("its certificate has more than 7 behind it; store only those that vouch for it")]
    ChainTooLong,
    /// Where the certificate should be there is a private key as well.
    #[error("a private key stands beside its certificate; store the private key in tls.key only")]
    PrivateKeyShown,
    /// No private key that can be read.
    #[error("its private key is none as PEM; store it as PEM, in PKCS #8, SEC 1 or PKCS #1")]
    NoPrivateKey,
    /// An encrypted private key.
    #[error("its private key is encrypted; store it unencrypted in the Secret")]
    PrivateKeyEncrypted,
    /// More than one private key.
    #[error("it has several private keys; store the one that is the certificate's")]
    SeveralPrivateKeys,
    /// A private key that cannot sign.
    #[error(
        "its private key cannot be used; have the pair issued with an ECDSA key (P-256, P-384, P-521), an Ed25519 key, or an RSA key of 2048 to 8192 bits"
    )]
    PrivateKeyUnsupported,
    /// The private key is of another certificate.
    #[error(
        "its private key does not fit its certificate; store a certificate and its own private key in the Secret"
    )]
    Mismatched,
}

impl SecretError {
    /// The error of this name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let name: serde::de::value::StrDeserializer<'_, Error> = name.into_deserializer();
        Self::deserialize(name).ok()
    }

    /// Whether something is not there, rather than wrong.
    #[must_use]
    pub const fn is_missing(self) -> bool {
        matches!(self, Self::Missing | Self::PairMissing | Self::CertificateMissing | Self::PrivateKeyMissing)
    }

    /// The reason that a condition has for it.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        if self.is_missing() { "CredentialMissing" } else { "CredentialMalformed" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_known_again_by_its_name_and_one_of_another_version_is_not() {
        for error in [SecretError::Missing, SecretError::PrivateKeyMissing, SecretError::Mismatched] {
            let name = serde_json::to_value(error).unwrap();
            assert_eq!(SecretError::named(name.as_str().unwrap()), Some(error));
        }
        assert_eq!(SecretError::named("OfAnotherVersion"), None);
    }

    #[test]
    fn what_is_not_there_is_missing_and_what_is_wrong_is_malformed() {
        let missing = [
            SecretError::Missing,
            SecretError::PairMissing,
            SecretError::CertificateMissing,
            SecretError::PrivateKeyMissing,
        ];
        for error in missing {
            assert_eq!((error.is_missing(), error.reason()), (true, "CredentialMissing"));
        }
        let wrong = SecretError::Mismatched;
        assert_eq!((wrong.is_missing(), wrong.reason()), (false, "CredentialMalformed"));
    }
}

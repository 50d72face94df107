//! The keys of one sandbox: its own CA and the token that enrols its agent.
//!
//! They are made once, go into one Secret, and are dropped. Nothing here has Debug, Display or Serialize.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use zeroize::Zeroizing;

/// Years for which a sandbox's CA is valid. A sandbox that lives longer has to be recreated; the bound limits what a
/// leaked key is worth, and nothing outside the one sandbox ever trusts it.
const VALID_YEARS: i32 = 1;
/// Bytes of the enrolment token: 256 bits, which cannot be guessed.
const TOKEN_BYTES: usize = 32;

/// Key material, on its way into a Secret.
pub struct KeyMaterial {
    /// The CA's certificate, PEM.
    pub certificate: String,
    /// The CA's private key, PEM (PKCS#8).
    pub key: Zeroizing<String>,
    /// The enrolment token, base64url.
    pub token: Zeroizing<String>,
}

/// Why no keys could be made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The CA could not be made.
    #[error("the sandbox's CA could not be made")]
    Certificate(#[from] rcgen::Error),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// Makes the keys of the sandbox `namespace/name`.
///
/// # Errors
/// When the cryptographic library fails.
pub fn generate(namespace: &str, name: &str, now: Timestamp) -> Result<KeyMaterial, KeyError> {
    let key = KeyPair::generate()?;
    let certificate = parameters(namespace, name, now).self_signed(&key)?.pem();
    let mut random = Zeroizing::new([0_u8; TOKEN_BYTES]);
    SystemRandom::new().fill(random.as_mut()).map_err(|_| KeyError::Random)?;
    Ok(KeyMaterial {
        certificate,
        key: Zeroizing::new(key.serialize_pem()),
        token: Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(random.as_ref())),
    })
}

fn parameters(namespace: &str, name: &str, now: Timestamp) -> CertificateParams {
    let mut subject = DistinguishedName::new();
    // X.520 allows 64 characters of common name; a namespace of 63 and a name of 40 have more.
    let common: String = format!("AgentSandbox {namespace}/{name}").chars().take(64).collect();
    subject.push(DnType::CommonName, common);
    subject.push(DnType::OrganizationName, "AgentSandbox");
    // A day earlier than now, for clocks that are behind.
    let start =
        now.to_zoned(TimeZone::UTC).date().yesterday().unwrap_or_else(|_| now.to_zoned(TimeZone::UTC).date());
    let (year, month, day) =
        (i32::from(start.year()), start.month().unsigned_abs(), start.day().unsigned_abs());
    // The 28th exists in each month of each year.
    let (not_before, not_after) =
        (date_time_ymd(year, month, day), date_time_ymd(year + VALID_YEARS, month, day.min(28)));
    let mut parameters = CertificateParams::default();
    parameters.not_before = not_before;
    parameters.not_after = not_after;
    parameters.distinguished_name = subject;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    parameters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_fresh_and_complete() {
        let now = "2028-02-29T00:30:00Z".parse().unwrap();
        let one = generate("team", "fix-login", now).unwrap();
        let two = generate("team", "fix-login", now).unwrap();
        assert!(one.certificate.starts_with("-----BEGIN CERTIFICATE-----"));
        assert!(one.key.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(one.token.len(), 43);
        assert_ne!(one.token, two.token);
        assert_ne!(one.certificate, two.certificate);
    }

    #[test]
    fn the_longest_names_fit() {
        generate(&"n".repeat(63), &"s".repeat(40), Timestamp::UNIX_EPOCH).unwrap();
    }
}

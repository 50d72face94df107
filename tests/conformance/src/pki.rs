//! The private CA that vouches for the harness's servers, and the certificates that must not be believed.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

use crate::failure::{During, Result};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

/// A certificate with its key.
pub struct Identity {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// The same, for a file.
    pub certificate_pem: String,
    /// The key.
    pub key: PrivateKeyDer<'static>,
    /// The same, for a file.
    pub key_pem: String,
}

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When keys cannot be made.
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate().during("a CA key cannot be made")?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = named(name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate_pem = parameters.self_signed(&key).during("a CA cannot be signed")?.pem();
        let key_pem = key.serialize_pem();
        Ok(Self { issuer: Issuer::new(parameters, key), certificate_pem, key_pem })
    }

    /// A server's certificate for these names, valid for an hour from `since`.
    ///
    /// # Errors
    /// When keys cannot be made or a name is none.
    pub fn identity(&self, names: &[&str], since: OffsetDateTime) -> Result<Identity> {
        let key = KeyPair::generate().during("a key cannot be made")?;
        let parameters = parameters(names, since)?;
        let signed = parameters.signed_by(&key, &self.issuer).during("a certificate cannot be signed")?;
        identity(signed.der().clone(), signed.pem(), &key)
    }
}

/// A certificate that nobody vouches for.
///
/// # Errors
/// When keys cannot be made or a name is none.
pub fn self_signed(names: &[&str], since: OffsetDateTime) -> Result<Identity> {
    let key = KeyPair::generate().during("a key cannot be made")?;
    let signed = parameters(names, since)?.self_signed(&key).during("a certificate cannot be signed")?;
    identity(signed.der().clone(), signed.pem(), &key)
}

fn parameters(names: &[&str], since: OffsetDateTime) -> Result<CertificateParams> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let first = names.first().cloned().unwrap_or_default();
    let mut parameters = CertificateParams::new(names).during("a name is none")?;
    parameters.distinguished_name = named(&first);
    parameters.not_before = since;
    parameters.not_after = since + Duration::hours(2);
    Ok(parameters)
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn identity(
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: &KeyPair,
) -> Result<Identity> {
    let key_pem = key.serialize_pem();
    let key = PrivateKeyDer::try_from(key.serialize_der()).during("a key cannot be used")?;
    Ok(Identity { certificate, certificate_pem, key, key_pem })
}

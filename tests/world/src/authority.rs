//! The private CA of this internet, and a certificate for any name on demand.
//!
//! The CA's certificate and key lie in the state folder, so that a second start keeps the trust the first one gave. The
//! certificate is what a sandbox class names as an additional root; the key is worth nothing outside the namespace.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::names;

/// The CA certificate's file in the state folder.
pub const CA_CERTIFICATE_FILE: &str = "ca.crt";
/// The CA key's file in the state folder.
pub const CA_KEY_FILE: &str = "ca.key";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state folder cannot be read or written.
    #[error("the CA files cannot be read or written")]
    Files(#[source] io::Error),
    /// The certificate's file holds none.
    #[error("the CA certificate cannot be read")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// The key file is not a key, or a name is no DNS name.
    #[error("the certificate cannot be made")]
    Certificate(#[source] rcgen::Error),
    /// TLS does not take the key.
    #[error("the key cannot be used for TLS")]
    Key(#[source] rustls::Error),
}

/// The CA, with the certificates it has made.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    made: Mutex<HashMap<String, Arc<CertifiedKey>>>,
}

/// A certificate and its key as PEM, for a server that wants files.
pub struct Pem {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// Loads the CA from the folder, or makes one there.
    ///
    /// # Errors
    /// Fails where the folder cannot be written or holds something that is not a key.
    pub fn load_or_create(folder: &Path) -> Result<Self, Error> {
        let key_file = folder.join(CA_KEY_FILE);
        let key = if key_file.exists() {
            KeyPair::from_pem(&fs::read_to_string(&key_file).map_err(Error::Files)?)
                .map_err(Error::Certificate)?
        } else {
            KeyPair::generate().map_err(Error::Certificate)?
        };
        let params = ca_params();
        let certificate_file = folder.join(CA_CERTIFICATE_FILE);
        if !key_file.exists() || !certificate_file.exists() {
            let certificate = params.self_signed(&key).map_err(Error::Certificate)?;
            fs::write(&key_file, key.serialize_pem()).map_err(Error::Files)?;
            fs::write(&certificate_file, certificate.pem()).map_err(Error::Files)?;
        }
        let certificate = CertificateDer::from_pem_file(&certificate_file).map_err(Error::Pem)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate, made: Mutex::default() })
    }

    /// A certificate for these names, as PEM.
    ///
    /// # Errors
    /// Fails where a name is no DNS name.
    pub fn pem(&self, names: &[&str]) -> Result<Pem, Error> {
        let (certificate, key) = self.issue(names, ExtendedKeyUsagePurpose::ServerAuth)?;
        Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// A certificate with which a client of this name proves who it is.
    ///
    /// # Errors
    /// Fails where the name is no DNS name.
    pub fn client_pem(&self, name: &str) -> Result<Pem, Error> {
        let (certificate, key) = self.issue(&[name], ExtendedKeyUsagePurpose::ClientAuth)?;
        Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// The CA's own certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    fn certified(&self, name: &str) -> Result<Arc<CertifiedKey>, Error> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = made.get(name) {
            return Ok(Arc::clone(known));
        }
        let (certificate, key) = self.issue(&[name], ExtendedKeyUsagePurpose::ServerAuth)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(Error::Key)?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signer));
        made.insert(name.to_owned(), Arc::clone(&certified));
        Ok(certified)
    }

    fn issue(
        &self,
        names: &[&str],
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<(rcgen::Certificate, KeyPair), Error> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().map_err(Error::Certificate)?;
        let mut params = CertificateParams::new(names.clone()).map_err(Error::Certificate)?;
        params.distinguished_name = common_name(names.first().map_or("world", String::as_str));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        limit_validity(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).map_err(Error::Certificate)?;
        Ok((certificate, key))
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Authority {
    /// A client that names no host gets the zone's certificate, which it will refuse unless it does not look.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified(hello.server_name().unwrap_or(names::ZONE)).ok()
    }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name("agentsandbox test world CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    limit_validity(&mut params);
    params
}

/// Some clients refuse certificates that end after 2050, where the encoding of dates changes.
fn limit_validity(params: &mut CertificateParams) {
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 1, 1);
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_start_keeps_the_ca() {
        let folder = tempfile::tempdir().unwrap();
        Authority::load_or_create(folder.path()).unwrap();
        let first = fs::read_to_string(folder.path().join(CA_CERTIFICATE_FILE)).unwrap();
        Authority::load_or_create(folder.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join(CA_CERTIFICATE_FILE)).unwrap(), first);
    }

    #[test]
    fn a_name_gets_one_certificate_for_the_life_of_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(folder.path()).unwrap();
        let first = authority.certified("echo.world.test").unwrap();
        assert!(Arc::ptr_eq(&first, &authority.certified("echo.world.test").unwrap()));
    }
}

//! The trust bundle: the public roots and the sandbox's own CA, in the forms that toolchains read.
//!
//! The public roots travel in this binary (Mozilla's list), so that they are not copied into a ConfigMap for every
//! sandbox. The own CA is checked to be what it claims to be before any program is told to trust it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use p12_keystore::{Certificate, KeyStore, KeyStoreEntry};
use pem::Pem;
use thiserror::Error;
use x509_parser::prelude::{ASN1Time, FromDer, X509Certificate};

/// Public roots and own CA, one PEM after the other.
pub const BUNDLE: &str = "ca-bundle.crt";
/// Own CA only, for variables that add to built-in roots.
pub const OWN: &str = "ca.crt";
/// Both, for Java.
pub const KEYSTORE: &str = "truststore.p12";
/// The password that every Java program expects of a trust store; its content is public.
const KEYSTORE_PASSWORD: &str = "changeit";
/// The password is public, so iterations would only cost time at every start.
const KEYSTORE_ITERATIONS: u32 = 1000;
/// A CA certificate takes under 2 KiB.
const CA_BYTES_MAX: u64 = 64 << 10;
const PEM_LABEL: &str = "CERTIFICATE";

/// Why there is no trust bundle.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The CA file could not be read.
    #[error("cannot read the CA certificate {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The CA file is not one certificate in PEM.
    #[error("the CA file does not hold exactly one PEM certificate")]
    NotOneCertificate,
    /// The certificate may not sign others, or not now.
    #[error("the CA certificate {0}")]
    NotACa(&'static str),
    /// The key store could not be made.
    #[error("cannot make the Java key store")]
    KeyStore(#[source] p12_keystore::error::Error),
    /// A file could not be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Reads the own CA and writes the three files into `folder`.
pub fn build(ca_file: &Path, folder: &Path, now: SystemTime) -> Result<(), TrustError> {
    let own = own_ca(&read(ca_file)?, now)?;
    write(folder, OWN, own_pem(&own).as_bytes())?;
    write(folder, BUNDLE, bundle(&own).as_bytes())?;
    write(folder, KEYSTORE, &keystore(&own)?)
}

fn read(path: &Path) -> Result<String, TrustError> {
    let failed = |source| TrustError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > CA_BYTES_MAX {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    fs::read_to_string(path).map_err(failed)
}

/// The certificate's DER, if it is one CA certificate that is valid now.
fn own_ca(text: &str, now: SystemTime) -> Result<Vec<u8>, TrustError> {
    let parsed = pem::parse_many(text).map_err(|_| TrustError::NotOneCertificate)?;
    let [certificate] = <[Pem; 1]>::try_from(parsed).map_err(|_| TrustError::NotOneCertificate)?;
    if certificate.tag() != PEM_LABEL {
        return Err(TrustError::NotOneCertificate);
    }
    let der = certificate.into_contents();
    let (rest, x509) = X509Certificate::from_der(&der).map_err(|_| TrustError::NotACa("cannot be parsed"))?;
    if !rest.is_empty() {
        return Err(TrustError::NotACa("has bytes after its end"));
    }
    if !x509.is_ca() {
        return Err(TrustError::NotACa("is not a CA's"));
    }
    let seconds = now.duration_since(UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok());
    let now = seconds.and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
    if !now.is_some_and(|now| x509.validity().is_valid_at(now)) {
        return Err(TrustError::NotACa("is not valid now"));
    }
    Ok(der)
}

fn own_pem(der: &[u8]) -> String {
    pem::encode(&Pem::new(PEM_LABEL, der))
}

fn bundle(own: &[u8]) -> String {
    let mut all = String::new();
    for root in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        all.push_str(&own_pem(root));
    }
    all.push_str(&own_pem(own));
    all
}

fn keystore(own: &[u8]) -> Result<Vec<u8>, TrustError> {
    let mut store = KeyStore::new();
    let mut add = |alias: &str, der: &[u8]| -> Result<(), TrustError> {
        let certificate = Certificate::from_der(der).map_err(TrustError::KeyStore)?;
        store.add_entry(alias, KeyStoreEntry::Certificate(certificate));
        Ok(())
    };
    for (number, root) in webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().enumerate() {
        add(&format!("public-root-{number}"), root)?;
    }
    add("agentsandbox", own)?;
    let writer = store.writer(KEYSTORE_PASSWORD).encryption_iterations(KEYSTORE_ITERATIONS);
    writer.mac_iterations(KEYSTORE_ITERATIONS).write().map_err(TrustError::KeyStore)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), TrustError> {
    let path = folder.join(name);
    fs::write(&path, bytes).map_err(|source| TrustError::Write { path, source })
}

#[cfg(test)]
mod tests {
    use p12_keystore::Pkcs12ImportPolicy;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn refused(text: &str) -> String {
        own_ca(text, SystemTime::now()).unwrap_err().to_string()
    }

    #[test]
    fn the_bundle_holds_the_public_roots_and_the_own_ca_in_every_form() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("in.crt");
        let own = certificate(|_| ());
        fs::write(&ca, &own).unwrap();
        build(&ca, folder.path(), SystemTime::now()).unwrap();
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.len();
        let all = pem::parse_many(fs::read(folder.path().join(BUNDLE)).unwrap()).unwrap();
        let own = pem::parse(own).unwrap();
        assert_eq!(all.len(), roots + 1);
        assert_eq!(all.last().unwrap().contents(), own.contents());
        assert_eq!(
            pem::parse(fs::read(folder.path().join(OWN)).unwrap()).unwrap().contents(),
            own.contents()
        );
        let store = fs::read(folder.path().join(KEYSTORE)).unwrap();
        let store = KeyStore::from_pkcs12(&store, KEYSTORE_PASSWORD, Pkcs12ImportPolicy::Strict).unwrap();
        assert_eq!(store.entries_len(), roots + 1);
    }

    #[test]
    fn only_one_valid_ca_certificate_is_trusted() {
        let ca = certificate(|_| ());
        let key = KeyPair::generate().unwrap().serialize_pem();
        assert!(refused("").contains("exactly one"));
        assert!(refused("not PEM").contains("exactly one"));
        assert!(refused(&format!("{ca}{ca}")).contains("exactly one"));
        assert!(refused(&key).contains("exactly one"));
        assert!(refused(&certificate(|params| params.is_ca = IsCa::NoCa)).contains("is not a CA's"));
        let expired = certificate(|params| params.not_after = date_time_ymd(2001, 1, 1));
        assert!(refused(&expired).contains("not valid now"));
        let early = certificate(|params| params.not_before = date_time_ymd(2999, 1, 1));
        assert!(refused(&early).contains("not valid now"));
        assert!(own_ca(&ca, SystemTime::now()).is_ok());
    }
}

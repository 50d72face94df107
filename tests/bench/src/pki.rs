//! One CA for the run: the upstream's, and that of every contender that answers in the upstream's name.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The files of one run.
#[derive(Clone, Debug)]
pub struct Pki {
    /// Certificate of the CA, PEM.
    pub ca: PathBuf,
    /// Its key, PEM.
    pub ca_key: PathBuf,
    /// Certificate for `*.bench.test`, followed by the CA's, PEM.
    pub leaf: PathBuf,
    /// Its key, PEM.
    pub leaf_key: PathBuf,
    /// Both leaf files in one, as HAProxy wants it.
    pub leaf_with_key: PathBuf,
}

impl Pki {
    /// Where the files lie in `folder`.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self {
            ca: folder.join("ca.crt"),
            ca_key: folder.join("ca.key"),
            leaf: folder.join("leaf.crt"),
            leaf_key: folder.join("leaf.key"),
            leaf_with_key: folder.join("leaf.pem"),
        }
    }

    /// Makes CA and leaf in `folder`.
    #[must_use]
    pub fn create(folder: &Path) -> Self {
        let pki = Self::at(folder);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "benchmark CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let ca = params.self_signed(&key).unwrap();
        fs::write(&pki.ca, ca.pem()).unwrap();
        fs::write(&pki.ca_key, key.serialize_pem()).unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let names = vec!["*.bench.test".to_owned(), "localhost".to_owned()];
        let issuer = Issuer::new(params, key);
        let leaf = CertificateParams::new(names).unwrap().signed_by(&leaf_key, &issuer).unwrap();
        let chain = format!("{}{}", leaf.pem(), ca.pem());
        fs::write(&pki.leaf, &chain).unwrap();
        fs::write(&pki.leaf_key, leaf_key.serialize_pem()).unwrap();
        fs::write(&pki.leaf_with_key, format!("{chain}{}", leaf_key.serialize_pem())).unwrap();
        pki
    }

    /// TLS as `*.bench.test`.
    #[must_use]
    pub fn server(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let chain = certificates(&self.leaf);
        let key = PrivateKeyDer::from_pem_file(&self.leaf_key).unwrap();
        let builder =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let versions = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = versions.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// TLS that trusts this CA alone. Sessions are not resumed: every handshake is a whole one.
    #[must_use]
    pub fn client(&self, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.ca));
        let builder =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let versions = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = versions.with_root_certificates(roots).with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file).unwrap().map(Result::unwrap).collect()
}

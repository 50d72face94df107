//! The sandbox's own certificate authority. A leaf is minted only from a [`NamePermit`], so a name that no rule allows
//! never gets one, and asking for it tells nothing.
//!
//! All leaves share one key, which is not the CA's and lives only in memory. Sessions are resumed under the leaf that they were opened
//! with alone. The server's side of TLS offers HTTP/2 and HTTP/1.1, nothing else.

mod sessions;

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use agentsandbox_policy::{Host, NamePermit};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use rustls::{CipherSuite, ServerConfig};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use self::sessions::Sessions;
use crate::limits::{LEAF_AGE_MAX, LEAF_BACKDATE, LEAF_VALIDITY, LEAVES_MAX};
use crate::metrics::Metrics;

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
/// HTTP/2 first: a client that speaks both prefers it.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// A client that opens connections one after the other has a ticket for the next; each resumed one brings another.
const TICKETS_PER_HANDSHAKE: usize = 1;
/// A standalone CA lives for ten years; it serves one machine's loopback.
const STANDALONE_VALIDITY_DAYS: i64 = 3650;

/// Why there is no CA, or no leaf.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the CA.
    #[error("{file} cannot be read or written")]
    File {
        /// Which.
        file: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Certificate or key do not parse, or signing failed.
    #[error("the certificate authority is not usable")]
    Unusable(#[from] rcgen::Error),
    /// The TLS library refuses it.
    #[error("the leaf key is not usable")]
    Tls(#[from] rustls::Error),
}

/// The CA, and the leaves it has made.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// From when until when the certificate is valid, in seconds since 1970.
    valid: RangeInclusive<i64>,
    leaf_key: KeyPair,
    /// The same key as TLS signs with it, read once: to read it costs as much as to sign a leaf.
    signing_key: Arc<dyn SigningKey>,
    leaves: Mutex<HashMap<Host, Leaf>>,
    sessions: Sessions,
    refusing: Arc<ServerConfig>,
    metrics: Arc<Metrics>,
}

#[derive(Clone)]
struct Leaf {
    minted: Instant,
    config: Arc<ServerConfig>,
}

impl Authority {
    /// The CA in a folder with `ca.crt` and `ca.key`.
    pub fn open(
        folder: &Path,
        provider: Arc<CryptoProvider>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, AuthorityError> {
        let read = |file| {
            std::fs::read_to_string(folder.join(file)).map_err(|source| AuthorityError::File { file, source })
        };
        let certificate = pem_certificate(&read(CERTIFICATE)?)?;
        let key = KeyPair::from_pem(&Zeroizing::new(read(KEY)?))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let valid = validity(&certificate)?;
        let refusing = refusing(&provider)?;
        let leaf_key = KeyPair::generate()?;
        let der = PrivateKeyDer::try_from(leaf_key.serialize_der())
            .map_err(|why| rustls::Error::General(why.to_owned()))?;
        let signing_key = provider.key_provider.load_private_key(der)?;
        Ok(Self {
            issuer,
            certificate,
            valid,
            leaf_key,
            signing_key,
            leaves: Mutex::default(),
            sessions: Sessions::new(),
            refusing: Arc::new(refusing),
            metrics,
        })
    }

    /// As [`Authority::open`], after making a CA there if there is none.
    pub fn open_or_create(
        folder: &Path,
        provider: Arc<CryptoProvider>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, AuthorityError> {
        if !folder.join(KEY).exists() {
            create(folder)?;
        }
        Self::open(folder, provider, metrics)
    }

    /// TLS as the permitted name, with a leaf that is not older than half its life.
    pub fn impersonate(&self, name: &NamePermit, now: Instant) -> Result<Arc<ServerConfig>, AuthorityError> {
        let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(leaf) = leaves.get(name.host())
            && now.saturating_duration_since(leaf.minted) < LEAF_AGE_MAX
        {
            return Ok(Arc::clone(&leaf.config));
        }
        if leaves.len() >= LEAVES_MAX
            && let Some(oldest) =
                leaves.iter().min_by_key(|(_, leaf)| leaf.minted).map(|(host, _)| host.clone())
        {
            leaves.remove(&oldest);
        }
        let config = Arc::new(self.mint(name)?);
        leaves.insert(name.host().clone(), Leaf { minted: now, config: Arc::clone(&config) });
        self.metrics.leaf_minted();
        Ok(config)
    }

    /// The same for a client that is to speak HTTP/1.1.
    #[must_use]
    pub fn in_http1(config: &ServerConfig) -> Arc<ServerConfig> {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Whether a client would take a leaf of this CA at this time.
    #[must_use]
    pub fn is_valid_at(&self, now: OffsetDateTime) -> bool {
        self.valid.contains(&now.unix_timestamp())
    }

    /// TLS that ends in an `access_denied` alert: no name, no certificate.
    #[must_use]
    pub fn refuse(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.refusing)
    }

    fn mint(&self, name: &NamePermit) -> Result<ServerConfig, AuthorityError> {
        let leaf = self.certificate_for(name)?;
        let chain = vec![leaf.der().clone(), self.certificate.clone()];
        let certified = CertifiedKey::new(chain, Arc::clone(&self.signing_key));
        let mut config = ServerConfig::clone(&self.refusing);
        config.cert_resolver = Arc::new(SingleCertAndKey::from(certified));
        config.session_storage = self.sessions.of_one_more_leaf();
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        Ok(config)
    }

    fn certificate_for(&self, name: &NamePermit) -> Result<rcgen::Certificate, AuthorityError> {
        let host = name.host();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![match host.address() {
            Some(address) => SanType::IpAddress(address),
            None => SanType::DnsName(host.as_str().try_into()?),
        }];
        params.distinguished_name = rcgen::DistinguishedName::new();
        let now = OffsetDateTime::from(SystemTime::now());
        params.not_before = now - LEAF_BACKDATE;
        // Less twice what it is dated back, so that the whole life stays below a day.
        params.not_after = now + LEAF_VALIDITY - LEAF_BACKDATE * 2;
        params.serial_number = Some(serial()?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&self.leaf_key, &self.issuer)?)
    }
}

/// TLS as it is spoken under every name, still without a certificate.
fn refusing(provider: &Arc<CryptoProvider>) -> Result<ServerConfig, AuthorityError> {
    let mut own = CryptoProvider::clone(provider);
    // A handshake is mostly hashes beside its two signatures and keys, and processors have instructions for SHA-256 but seldom for SHA-384. The sort
    // keeps the order of the others.
    own.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    let mut config = ServerConfig::builder_with_provider(Arc::new(own))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoCertificate));
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.ignore_client_order = true;
    Ok(config)
}

/// 128 random bits: a serial may not be guessed (CA/B Forum asks for 64).
fn serial() -> Result<SerialNumber, rcgen::Error> {
    let mut bytes = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| rcgen::Error::RemoteKeyError)?;
    // Serial numbers are positive.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

fn pem_certificate(pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| AuthorityError::Unusable(rcgen::Error::CouldNotParseCertificate))
}

fn validity(certificate: &[u8]) -> Result<RangeInclusive<i64>, AuthorityError> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|_| AuthorityError::Unusable(rcgen::Error::CouldNotParseCertificate))?;
    let validity = certificate.validity();
    Ok(validity.not_before.timestamp()..=validity.not_after.timestamp())
}

fn create(folder: &Path) -> Result<(), AuthorityError> {
    use std::os::unix::fs::OpenOptionsExt;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "AgentSandbox standalone CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let now = OffsetDateTime::from(SystemTime::now());
    params.not_before = now - LEAF_BACKDATE;
    params.not_after = now + time::Duration::days(STANDALONE_VALIDITY_DAYS);
    params.serial_number = Some(serial()?);
    let certificate = params.self_signed(&key)?;
    let write = |file: &'static str, text: &str, mode| {
        use std::io::Write;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let written = options.open(folder.join(file)).and_then(|mut out| out.write_all(text.as_bytes()));
        written.map_err(|source| AuthorityError::File { file, source })
    };
    write(CERTIFICATE, &certificate.pem(), 0o644)?;
    // The key last: its presence says that the pair is complete.
    write(KEY, &Zeroizing::new(key.serialize_pem()), 0o600)
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesServerCert for NoCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use agentsandbox_policy::{Policy, Scheme};
    use x509_parser::prelude::GeneralName;

    use super::*;

    pub(super) fn permit(host: &str) -> NamePermit {
        let text = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 1,
            rules: [{name: a, host: '*.good.test', ports: [443], scheme: https}]}";
        Policy::from_yaml(text).unwrap().admit(Scheme::Https, &Host::parse(host).unwrap(), 443).unwrap()
    }

    pub(super) fn authority(folder: &Path) -> Authority {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Authority::open_or_create(folder, provider, Arc::default()).unwrap()
    }

    /// The DER of a leaf, as a client sees it.
    fn leaf(authority: &Authority, host: &str) -> Vec<u8> {
        authority.certificate_for(&permit(host)).unwrap().der().to_vec()
    }

    #[test]
    fn p_f18_a_leaf_is_of_one_name_short_lived_and_not_of_the_cas_key() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        let (first, second) = (leaf(&authority, "api.good.test"), leaf(&authority, "api.good.test"));
        let (_, first) = X509Certificate::from_der(&first).unwrap();
        let (_, second) = X509Certificate::from_der(&second).unwrap();
        let (_, ca) = X509Certificate::from_der(&authority.certificate).unwrap();
        let names = &first.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names, &[GeneralName::DNSName("api.good.test")]);
        assert!(!first.is_ca() && ca.is_ca());
        assert_ne!(first.public_key().raw, ca.public_key().raw);
        assert_ne!(first.raw_serial(), second.raw_serial());
        assert!(first.raw_serial().len() >= 8, "64 random bits");
        let life = first.validity().not_after.timestamp() - first.validity().not_before.timestamp();
        assert!((1..=24 * 3600).contains(&life), "{life}");
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let backdated = now - first.validity().not_before.timestamp();
        assert!((300..320).contains(&backdated), "{backdated}");
        first.verify_signature(Some(ca.public_key())).unwrap();
    }

    #[test]
    fn a_serial_is_sixteen_bytes_of_which_none_makes_it_negative_or_shorter() {
        let serials: Vec<Vec<u8>> = (0..64).map(|_| serial().unwrap().to_bytes()).collect();
        assert!(
            serials.iter().all(|bytes| bytes.len() == 16 && (0x40..0x80).contains(&bytes[0])),
            "{serials:?}"
        );
        let firsts: std::collections::HashSet<u8> = serials.iter().map(|bytes| bytes[0]).collect();
        assert!(firsts.len() > 8, "what is not fixed is drawn by chance: {firsts:?}");
    }

    /// What each of the two has to say now, the client first.
    pub(crate) fn tell(client: &mut rustls::ClientConnection, server: &mut rustls::ServerConnection) {
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        server.read_tls(&mut bytes.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        bytes.clear();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets().unwrap();
    }

    /// The suite that a client of these suites ends up with.
    fn agreed(authority: &Authority, offered: &[CipherSuite]) -> CipherSuite {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| offered.contains(&suite.suite()));
        provider.cipher_suites.sort_by_key(|suite| offered.iter().position(|own| *own == suite.suite()));
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.clone()).unwrap();
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "api.good.test".try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let served = authority.impersonate(&permit("api.good.test"), Instant::now()).unwrap();
        let mut server = rustls::ServerConnection::new(served).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            tell(&mut client, &mut server);
        }
        server.negotiated_cipher_suite().unwrap().suite()
    }

    #[test]
    fn a_suite_with_sha_256_is_taken_where_it_is_offered_and_another_where_it_is_not() {
        use CipherSuite::{
            TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
        };
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        let all = [TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256];
        assert_eq!(agreed(&authority, &all), TLS13_AES_128_GCM_SHA256);
        for only in [TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256] {
            assert_eq!(agreed(&authority, &[only]), only);
        }
    }

    #[test]
    fn p_f18_a_leaf_is_renewed_at_half_its_life_without_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        let (name, now) = (permit("api.good.test"), Instant::now());
        let first = authority.impersonate(&name, now).unwrap();
        assert!(Arc::ptr_eq(&first, &authority.impersonate(&name, now + LEAF_AGE_MAX / 2).unwrap()));
        assert!(!Arc::ptr_eq(&first, &authority.impersonate(&name, now + LEAF_AGE_MAX).unwrap()));
    }

    #[test]
    fn a_ca_is_valid_within_its_time_and_at_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, now) = (authority(folder.path()), OffsetDateTime::now_utc());
        let end = now + time::Duration::days(STANDALONE_VALIDITY_DAYS);
        for (at, valid) in [
            (now, true),
            (now - time::Duration::days(1), false),
            (end - time::Duration::days(1), true),
            (end + time::Duration::days(1), false),
        ] {
            assert_eq!(authority.is_valid_at(at), valid, "{at}");
        }
    }

    #[test]
    fn p_i4_leaves_are_bounded_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority(folder.path());
        for number in 0..LEAVES_MAX + 5 {
            authority.impersonate(&permit(&format!("x{number}.good.test")), Instant::now()).unwrap();
        }
        let leaves = authority.leaves.lock().unwrap();
        assert_eq!(leaves.len(), LEAVES_MAX);
        assert!(!leaves.contains_key(&Host::parse("x0.good.test").unwrap()));
    }

    #[test]
    fn p_f18_the_ca_outlives_a_restart_and_its_key_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let first = authority(folder.path()).certificate;
        assert_eq!(authority(folder.path()).certificate, first);
        let mode = std::fs::metadata(folder.path().join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

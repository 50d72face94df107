//! Client certificates: pairs of files, a certificate and its private key, read again when either changes.
//!
//! A pair is taken whole or not at all: the key has to fit the certificate. So one that is half changed denies until the other
//! half is there, and two pairs are never mixed. The bytes of the key's file are wiped once the TLS library has read them. The key
//! signs handshakes and is never sent, so nothing of it is looked for in answers.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use agentsandbox_policy::CertificateFiles;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use super::{SecretError, Stamp};
use crate::limits::{CERTIFICATE_BYTES_MAX, CERTIFICATE_CHAIN_MAX, SECRET_STAT_INTERVAL};

const KEY_BEGIN: &str = "-----BEGIN ";
const KEY_END: &str = "-----END ";
const KEY_LABEL: &str = "PRIVATE KEY-----";
const KEY_ENCRYPTED: &str = "ENCRYPTED";

/// How many times a pair was read since the start.
static READS: AtomicU64 = AtomicU64::new(0);

/// A certificate with its private key, as a TLS client shows it. It cannot be printed.
#[derive(Clone)]
pub struct ClientCertificate {
    pair: Arc<CertifiedKey>,
    generation: u64,
}

/// Shows a pair on one connection, and notes whether it could.
pub struct Showing {
    pair: Arc<CertifiedKey>,
    /// There once the server has asked: whether it takes a signature that the key can make.
    fits: OnceLock<bool>,
}

impl Showing {
    /// Whether the server asked, and was shown the certificate.
    #[must_use]
    pub fn is_shown(&self) -> bool {
        self.fits.get() == Some(&true)
    }

    /// Whether the server asked and takes no signature that the key can make. The TLS library then goes on as nobody.
    #[must_use]
    pub fn is_withheld(&self) -> bool {
        self.fits.get() == Some(&false)
    }
}

impl std::fmt::Debug for Showing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Showing")
    }
}

impl ResolvesClientCert for Showing {
    fn resolve(&self, _issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = *self.fits.get_or_init(|| self.pair.key.choose_scheme(schemes).is_some());
        fits.then(|| Arc::clone(&self.pair))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ClientCertificate {
    /// Reads a pair as PEM.
    ///
    /// # Errors
    /// What is wrong with either, and [`SecretError::Mismatched`] when the key is of another certificate.
    pub fn parse(certificate: &[u8], key: &[u8]) -> Result<Self, SecretError> {
        let pair = CertifiedKey::new(chain(certificate)?, signing_key(key)?);
        if !fits(&pair)? {
            return Err(SecretError::Mismatched);
        }
        let generation = READS.fetch_add(1, Ordering::Relaxed);
        Ok(Self { pair: Arc::new(pair), generation })
    }

    /// Tells this reading of the pair from each other reading, of this pair or another.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// What shows it in the handshake of one connection.
    #[must_use]
    pub fn shown(&self) -> Arc<Showing> {
        Arc::new(Showing { pair: Arc::clone(&self.pair), fits: OnceLock::new() })
    }
}

/// The certificates in a text. The PEM reader of the TLS library leaves copies of all that it reads in memory that was given back,
/// so it gets no text with a private key in it.
fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, SecretError> {
    if memchr::memmem::find(pem, KEY_LABEL.as_bytes()).is_some() {
        return Err(SecretError::PrivateKeyShown);
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if chain.len() > CERTIFICATE_CHAIN_MAX => Err(SecretError::ChainTooLong),
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(SecretError::NoCertificate),
    }
}

/// Whether the key is that of the certificate. No more is asked of it than that: of which version it is, what it is for and
/// until when it is valid is for the host to judge.
fn fits(pair: &CertifiedKey) -> Result<bool, SecretError> {
    let der = pair.end_entity_cert().map_err(|_| SecretError::NoCertificate)?;
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| SecretError::NoCertificate)?;
    let key = pair.key.public_key().ok_or(SecretError::PrivateKeyUnsupported)?;
    Ok(certificate.public_key().raw == key.as_ref())
}

/// The one private key in a text.
fn signing_key(pem: &[u8]) -> Result<Arc<dyn SigningKey>, SecretError> {
    let text = std::str::from_utf8(pem).map_err(|_| SecretError::NoPrivateKey)?;
    let lines = || text.lines().map(str::trim);
    let is_key = |line: &&str| line.starts_with(KEY_BEGIN) && line.ends_with(KEY_LABEL);
    match lines().filter(is_key).count() {
        0 => return Err(SecretError::NoPrivateKey),
        1 => {}
        // Which of them would be a guess.
        _ => return Err(SecretError::SeveralPrivateKeys),
    }
    let mut rest = lines();
    if rest.find(is_key).is_some_and(|line| line.contains(KEY_ENCRYPTED)) {
        return Err(SecretError::PrivateKeyEncrypted);
    }
    let mut encoded = Zeroizing::new(String::with_capacity(pem.len()));
    for line in rest.take_while(|line| !line.starts_with(KEY_END)) {
        if line.contains(KEY_ENCRYPTED) {
            return Err(SecretError::PrivateKeyEncrypted);
        }
        encoded.push_str(line);
    }
    let mut der = Zeroizing::new(vec![0; encoded.len()]);
    let read = STANDARD.decode_slice(encoded.as_bytes(), &mut der).ok().and_then(|length| der.get(..length));
    let key = read.and_then(|der| PrivateKeyDer::try_from(der).ok()).ok_or(SecretError::NoPrivateKey)?;
    any_supported_type(&key).map_err(|_| SecretError::PrivateKeyUnsupported)
}

/// The pairs that were read, by their files.
#[derive(Default)]
pub(super) struct Certificates(Mutex<State>);

#[derive(Default)]
struct State {
    known: HashMap<CertificateFiles, Known>,
    /// Pairs that were not usable at the start, and have not been since.
    waited_for: HashSet<CertificateFiles>,
}

struct Known {
    looked: Instant,
    stamps: Option<Stamps>,
    pair: Result<ClientCertificate, SecretError>,
}

/// Of the certificate and of its key.
type Stamps = (Stamp, Stamp);

impl Certificates {
    pub(super) fn get(
        &self,
        folder: &Path,
        files: &CertificateFiles,
        now: Instant,
    ) -> Result<ClientCertificate, SecretError> {
        let mut state = self.state();
        let pair = state.look(folder, files, now);
        if pair.is_ok() {
            state.waited_for.remove(files);
        }
        pair
    }

    pub(super) fn wait_for(&self, files: &CertificateFiles) {
        self.state().waited_for.insert(files.clone());
    }

    pub(super) fn is_waited_for(&self, files: &CertificateFiles) -> bool {
        self.state().waited_for.contains(files)
    }

    /// Lets go of every pair but these: a private key stays in memory no longer than it may be used.
    pub(super) fn keep<'f>(&self, named: impl Iterator<Item = &'f CertificateFiles>) {
        let named: HashSet<_> = named.collect();
        let mut state = self.state();
        state.known.retain(|files, _| named.contains(files));
        state.waited_for.retain(|files| named.contains(files));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn look(
        &mut self,
        folder: &Path,
        files: &CertificateFiles,
        now: Instant,
    ) -> Result<ClientCertificate, SecretError> {
        if let Some(known) = self.known.get_mut(files) {
            if now.saturating_duration_since(known.looked) >= SECRET_STAT_INTERVAL {
                known.look(&Pair::of(folder, files), now);
            }
            return known.pair.clone();
        }
        let mut first = Known { looked: now, stamps: None, pair: Err(SecretError::PairMissing) };
        first.look(&Pair::of(folder, files), now);
        let pair = first.pair.clone();
        self.known.insert(files.clone(), first);
        pair
    }
}

impl Known {
    fn look(&mut self, pair: &Pair, now: Instant) {
        self.look_by(pair, now, Pair::read);
    }

    fn look_by(
        &mut self,
        pair: &Pair,
        now: Instant,
        mut read: impl FnMut(&Pair) -> Result<ClientCertificate, SecretError>,
    ) {
        self.looked = now;
        let stamps = pair.stamps();
        if stamps.is_some() && stamps == self.stamps {
            return;
        }
        // What changes from here on is found changed at the next look.
        self.stamps = stamps;
        self.pair = read(pair);
        if self.pair.is_err() {
            // The kubelet may have swapped them in between, and half of each pair been read.
            let again = pair.stamps();
            if again != self.stamps {
                self.stamps = again;
                self.pair = read(pair);
            }
        }
        if self.pair.as_ref().is_err_and(|error| error.is_missing()) {
            // Files that are there and could not be read may be readable at the next look, unchanged.
            self.stamps = None;
        }
    }
}

struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn of(folder: &Path, files: &CertificateFiles) -> Self {
        Self { certificate: folder.join(&files.certificate), key: folder.join(&files.key) }
    }

    fn stamps(&self) -> Option<Stamps> {
        let stamp = |path: &Path| std::fs::metadata(path).ok().map(Stamp::from);
        Some((stamp(&self.certificate)?, stamp(&self.key)?))
    }

    fn read(&self) -> Result<ClientCertificate, SecretError> {
        let certificate = read(&self.certificate, SecretError::CertificateMissing);
        match (certificate, read(&self.key, SecretError::PrivateKeyMissing)) {
            (Ok(certificate), Ok(key)) => ClientCertificate::parse(&certificate, &key),
            (Err(SecretError::CertificateMissing), Err(SecretError::PrivateKeyMissing)) => {
                Err(SecretError::PairMissing)
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }
}

fn read(path: &Path, missing: SecretError) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let file = File::open(path).map_err(|_| missing)?;
    // Room for the largest from the start: a buffer that grew would leave copies behind.
    let mut bytes =
        Zeroizing::new(Vec::with_capacity(usize::try_from(CERTIFICATE_BYTES_MAX + 2).unwrap_or(0)));
    file.take(CERTIFICATE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|_| missing)?;
    match u64::try_from(bytes.len()) {
        Ok(length) if length <= CERTIFICATE_BYTES_MAX => Ok(bytes),
        _ => Err(SecretError::TooLarge),
    }
}

#[cfg(test)]
mod tests;

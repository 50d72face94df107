//! The secrets: files that kubelet mounts, read again when they change. A value leaves this room only towards
//! [`crate::headers`], inside a [`Secret`], which cannot be printed and is wiped when dropped.
//!
//! A file that is missing, empty or not usable as a header value yields no secret, and without one the request is
//! denied. The old value is not sent a moment longer than the new one is known; a host may remember it, so it is still
//! looked for in answers for a while.

mod certificate;

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use agentsandbox_policy::{CertificateFiles, Policy};
use foldhash::fast::RandomState;
use zeroize::Zeroizing;

use self::certificate::Certificates;

use crate::limits::{
    SECRET_BYTES_ADVISED_MIN, SECRET_BYTES_MAX, SECRET_REMEMBERED, SECRET_STAT_INTERVAL,
    SECRETS_REMEMBERED_MAX,
};
use crate::metrics::Metrics;

pub use self::certificate::{ClientCertificate, Showing};
pub use agentsandbox_policy::SecretError;

/// How many times a secret was read since the start.
static READS: AtomicU64 = AtomicU64::new(0);

/// One secret's bytes: visible ASCII, at least one.
#[derive(Clone)]
pub struct Secret {
    bytes: Arc<Zeroizing<Vec<u8>>>,
    generation: u64,
}

impl Secret {
    fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { bytes: Arc::new(bytes), generation: READS.fetch_add(1, Ordering::Relaxed) }
    }

    /// A secret as a file holds it: a line end behind it is not a part of it.
    ///
    /// # Errors
    /// When it is empty, longer than [`SECRET_BYTES_MAX`], or not visible ASCII.
    pub fn parse(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, SecretError> {
        if bytes.ends_with(b"\n") {
            bytes.pop();
            if bytes.ends_with(b"\r") {
                bytes.pop();
            }
        }
        match u64::try_from(bytes.len()) {
            Ok(0) => Err(SecretError::Empty),
            Ok(1..=SECRET_BYTES_MAX) if bytes.iter().all(u8::is_ascii_graphic) => Ok(Self::new(bytes)),
            Ok(1..=SECRET_BYTES_MAX) => Err(SecretError::NotVisible),
            _ => Err(SecretError::TooLong),
        }
    }

    /// Tells this reading of the file from each other reading, of this file or another.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The bytes, for the one who puts them into a request or finds them in an answer.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
impl Secret {
    /// A secret as a file would give it.
    pub fn of(text: &str) -> Self {
        Self::new(Zeroizing::new(text.as_bytes().to_vec()))
    }
}

/// What the folder holds for one credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held<'p> {
    /// A secret, in this file.
    Secret(&'p str),
    /// A client certificate, in these files.
    Certificate(&'p CertificateFiles),
}

/// A credential that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable<'p> {
    /// Its name.
    pub name: &'p str,
    /// What is at fault.
    pub held: Held<'p>,
    /// Why.
    pub error: SecretError,
}

/// The secrets folder.
pub struct Secrets {
    folder: PathBuf,
    known: Mutex<State>,
    certificates: Certificates,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    files: HashMap<String, Known, RandomState>,
    /// Raised whenever a secret is known that was not, or no longer.
    generation: u64,
    /// Files that were missing at the start, and have been since.
    waited_for: HashSet<String>,
}

struct Known {
    looked: Instant,
    stamp: Option<Stamp>,
    secret: Result<Secret, SecretError>,
    /// What the file held before, and until when that is looked for in answers. It is never sent again.
    before: Vec<(Secret, Instant)>,
}

/// Changes whenever kubelet swaps a file, and whenever someone writes to it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    bytes: u64,
}

impl From<Metadata> for Stamp {
    fn from(m: Metadata) -> Self {
        let (modified, changed) = ((m.mtime(), m.mtime_nsec()), (m.ctime(), m.ctime_nsec()));
        Self { inode: m.ino(), modified, changed, bytes: m.size() }
    }
}

impl Secrets {
    /// The secrets in `folder`, one in each file.
    #[must_use]
    pub fn new(folder: PathBuf, metrics: Arc<Metrics>) -> Self {
        Self { folder, known: Mutex::default(), certificates: Certificates::default(), metrics }
    }

    /// The current secret in a file of the folder. What is remembered is remembered by file, so a credential that is
    /// pointed at another file never gets what the first one held. The policy admits bare file names only.
    pub fn get(&self, file: &str, now: Instant) -> Result<Secret, SecretError> {
        let mut state = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut state, file, now);
        let secret = state.files.get(file).map_or(Err(SecretError::Missing), |known| known.secret.clone());
        if secret.is_ok() {
            state.waited_for.remove(file);
        }
        secret
    }

    /// The current client certificate in two files of the folder.
    pub fn certificate(
        &self,
        files: &CertificateFiles,
        now: Instant,
    ) -> Result<ClientCertificate, SecretError> {
        self.certificates.get(&self.folder, files, now)
    }

    /// Lets go of the client certificates that this policy does not name. A secret is kept, for a host may remember it.
    pub fn keep_certificates_of(&self, policy: &Policy) {
        self.certificates.keep(policy.certificate_files().map(|(_, files)| files));
    }

    /// What of the policy's credentials is not usable, the client certificates last.
    pub fn unusable<'p>(&self, policy: &'p Policy, now: Instant) -> impl Iterator<Item = Unusable<'p>> {
        let secrets = policy.secret_files().filter_map(move |(name, file)| {
            let error = self.get(file, now).err()?;
            Some(Unusable { name, held: Held::Secret(file), error })
        });
        let certificates = policy.certificate_files().filter_map(move |(name, files)| {
            let error = self.certificate(files, now).err()?;
            Some(Unusable { name, held: Held::Certificate(files), error })
        });
        secrets.chain(certificates)
    }

    /// Nobody is served before this has been usable once.
    pub fn wait_for(&self, held: Held<'_>) {
        match held {
            Held::Secret(file) => {
                let mut state = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                state.waited_for.insert(file.to_owned());
            }
            Held::Certificate(files) => self.certificates.wait_for(files),
        }
    }

    /// Whether this has not been usable since the proxy started to wait for it.
    #[must_use]
    pub fn is_waited_for(&self, held: Held<'_>) -> bool {
        match held {
            Held::Secret(file) => {
                self.known.lock().unwrap_or_else(PoisonError::into_inner).waited_for.contains(file)
            }
            Held::Certificate(files) => self.certificates.is_waited_for(files),
        }
    }

    /// Looks at these files again, where that is due, and gives back the generation of what is known then, and when one of
    /// them is due again. While the generation stays the same, [`Self::known`] gives the same.
    pub fn look<'f>(&self, files: impl Iterator<Item = &'f str>, now: Instant) -> (u64, Option<Instant>) {
        let mut state = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due: Option<Instant> = None;
        for file in files {
            self.refresh(&mut state, file, now);
            let next = state.files.get(file).map_or(now, |known| known.looked + SECRET_STAT_INTERVAL);
            due = Some(due.map_or(next, |due| due.min(next)));
        }
        (state.generation, due)
    }

    /// The generation of what is known now, without a look.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).generation
    }

    /// Every secret of a file that a host may still remember: the current one, and those before it.
    #[must_use]
    pub fn known(&self, file: &str) -> Vec<Secret> {
        let state = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = state.files.get(file) else { return Vec::new() };
        let before = known.before.iter().map(|(secret, _)| secret.clone());
        known.secret.iter().cloned().chain(before).collect()
    }

    fn refresh(&self, state: &mut State, file: &str, now: Instant) {
        let old = state.files.get_mut(file);
        if old
            .as_ref()
            .is_some_and(|known| now.saturating_duration_since(known.looked) < SECRET_STAT_INTERVAL)
        {
            return;
        }
        let path = self.folder.join(file);
        let stamp = std::fs::metadata(&path).ok().map(Stamp::from);
        let read = || {
            let secret = self.read(&path);
            // A file that is there and could not be read may be readable at the next look, unchanged.
            let stamp = stamp.filter(|_| !matches!(secret, Err(SecretError::Missing)));
            (secret, stamp)
        };
        let Some(known) = old else {
            let (secret, stamp) = read();
            state.generation += 1;
            state.files.insert(file.to_owned(), Known { looked: now, stamp, secret, before: Vec::new() });
            return;
        };
        known.looked = now;
        let remembered = known.before.len();
        // One that a request still holds is looked for in its answer, however long that takes.
        known.before.retain(|(secret, until)| *until > now || Arc::strong_count(&secret.bytes) > 1);
        let mut changed = known.before.len() != remembered;
        if stamp.is_none() || known.stamp != stamp {
            let (secret, stamp) = read();
            known.stamp = stamp;
            if bytes(&known.secret) != bytes(&secret) {
                changed = true;
                if let Ok(old) = std::mem::replace(&mut known.secret, secret) {
                    known.before.insert(0, (old, now + SECRET_REMEMBERED));
                    known.before.truncate(SECRETS_REMEMBERED_MAX);
                }
            } else {
                known.secret = secret;
            }
        }
        state.generation += u64::from(changed);
    }

    fn read(&self, path: &std::path::Path) -> Result<Secret, SecretError> {
        let secret = read(path)?;
        if secret.expose().len() < SECRET_BYTES_ADVISED_MIN {
            self.metrics.short_secret();
            tracing::warn!(
                file = ?path.file_name(),
                "a secret is shorter than 12 bytes: it can be guessed, and is found in answers where it is not"
            );
        }
        Ok(secret)
    }
}

fn bytes(secret: &Result<Secret, SecretError>) -> Option<&[u8]> {
    secret.as_ref().ok().map(Secret::expose)
}

fn read(path: &std::path::Path) -> Result<Secret, SecretError> {
    let file = File::open(path).map_err(|_| SecretError::Missing)?;
    // Room for the largest secret from the start: a buffer that grew would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(SECRET_BYTES_MAX + 2).unwrap_or(0)));
    file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|_| SecretError::Missing)?;
    Secret::parse(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_f16_what_is_no_header_value_is_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let read = |bytes: &[u8]| {
            std::fs::write(folder.path().join("c"), bytes).unwrap();
            Secrets::new(folder.path().to_owned(), Arc::default())
                .get("c", Instant::now())
                .map(|secret| secret.expose().to_vec())
        };
        assert_eq!(read(b"key-1\n").unwrap(), b"key-1");
        assert_eq!(read(b"key-1\r\n").unwrap(), b"key-1");
        for empty in [&b""[..], b"\n", b"\r\n"] {
            assert_eq!(read(empty).unwrap_err(), SecretError::Empty, "{empty:?}");
        }
        for bad in [&b"a\nb"[..], b"a\rb", b"a\0b", b"a b", "schlüssel".as_bytes(), b"a\n\n"] {
            assert_eq!(read(bad).unwrap_err(), SecretError::NotVisible, "{bad:?}");
        }
        let long = vec![b'k'; usize::try_from(SECRET_BYTES_MAX).unwrap() + 1];
        let error = read(&long).unwrap_err();
        assert_eq!(error, SecretError::TooLong);
        assert!(error.to_string().contains(&format!("{} KiB", SECRET_BYTES_MAX / 1024)), "{error}");
    }

    #[test]
    fn p_f5_a_line_end_is_trimmed_and_whatever_else_is_no_header_value_is_refused_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let largest = "k".repeat(usize::try_from(SECRET_BYTES_MAX).unwrap());
        let cases = [
            ("key", true),
            ("key\n", true),
            ("key\r\n", true),
            ("k\rey", false),
            ("key\n\n", false),
            ("k\u{e9}y", false),
            ("\u{4e00}", false),
        ];
        let sizes = [(largest.clone(), true), (format!("{largest}k"), false)];
        let all = cases.iter().map(|(text, fits)| ((*text).to_owned(), *fits)).chain(sizes);
        for (number, (text, fits)) in all.enumerate() {
            let file = format!("c{number}");
            std::fs::write(folder.path().join(&file), &text).unwrap();
            let read = Secrets::new(folder.path().to_owned(), Arc::default()).get(&file, Instant::now());
            assert_eq!(read.is_ok(), fits, "{text:.20?}");
        }
    }

    #[test]
    fn p_f17_a_changed_file_is_seen_and_a_deleted_one_fails_closed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c");
        std::fs::write(&file, "old").unwrap();
        let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
        let start = Instant::now();
        assert_eq!(secrets.get("c", start).unwrap().expose(), b"old");
        std::fs::write(&file, "newer").unwrap();
        assert_eq!(secrets.get("c", start + SECRET_STAT_INTERVAL).unwrap().expose(), b"newer");
        std::fs::remove_file(&file).unwrap();
        assert!(secrets.get("c", start + SECRET_STAT_INTERVAL * 2).is_err());
    }

    #[test]
    fn p_f16_a_credential_pointed_at_a_file_that_is_not_there_yet_gets_nothing() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old"), "old-key").unwrap();
        let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
        let now = Instant::now();
        assert_eq!(secrets.get("old", now).unwrap().expose(), b"old-key");
        assert_eq!(secrets.get("new", now).map(|_| ()), Err(SecretError::Missing));
        std::fs::write(folder.path().join("new"), "new-key").unwrap();
        assert_eq!(secrets.get("new", now + SECRET_STAT_INTERVAL).unwrap().expose(), b"new-key");
    }

    #[test]
    fn p_f16_a_file_that_could_not_be_read_for_a_moment_is_read_at_the_next_look_though_it_is_unchanged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c");
        // A folder has a stamp and cannot be read, as a file cannot be opened when descriptors have run out.
        std::fs::create_dir(&file).unwrap();
        let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
        let start = Instant::now();
        assert_eq!(secrets.get("c", start).map(|_| ()), Err(SecretError::Missing));
        let state = secrets.known.lock().unwrap();
        assert!(state.files["c"].stamp.is_none(), "it is looked into again, whatever its stamp");
        drop(state);
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "key-1").unwrap();
        assert_eq!(secrets.get("c", start + SECRET_STAT_INTERVAL).unwrap().expose(), b"key-1");
        let state = secrets.known.lock().unwrap();
        assert!(state.files["c"].stamp.is_some(), "what was read is not read again");
    }

    #[test]
    fn p_f5_a_short_secret_is_counted_once_and_used() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::default());
        let secrets = Secrets::new(folder.path().to_owned(), Arc::clone(&metrics));
        let start = Instant::now();
        for (number, (key, short)) in
            [("0123456789a", 1), ("0123456789ab", 1), ("b", 2)].into_iter().enumerate()
        {
            std::fs::write(folder.path().join("c"), key).unwrap();
            for look in 0..3 {
                let now = start + SECRET_STAT_INTERVAL * u32::try_from(3 * number + look).unwrap();
                assert_eq!(secrets.get("c", now).unwrap().expose(), key.as_bytes());
            }
            let counted = format!("agentsandbox_proxy_short_secrets_total {short}\n");
            assert!(metrics.render().contains(&counted), "{key}");
        }
    }

    #[test]
    fn p_f17_an_old_secret_is_known_and_never_given_out_and_one_in_use_is_known_for_longer() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
        let start = Instant::now();
        std::fs::write(folder.path().join("c"), "old-0123456789").unwrap();
        let in_use = secrets.get("c", start).unwrap();
        std::fs::write(folder.path().join("c"), "new-0123456789x").unwrap();
        let late = start + SECRET_REMEMBERED * 2;
        for now in [start + SECRET_STAT_INTERVAL, late] {
            assert_eq!(secrets.get("c", now).unwrap().expose(), b"new-0123456789x");
            assert_eq!(secrets.known("c").len(), 2);
        }
        drop(in_use);
        let before = secrets.look(["c"].into_iter(), late);
        assert_ne!(
            secrets.look(["c"].into_iter(), late + SECRET_STAT_INTERVAL).0,
            before.0,
            "it is forgotten"
        );
        assert_eq!(secrets.known("c").len(), 1);
    }

    #[test]
    fn p_f17_the_old_secrets_that_are_remembered_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(folder.path().to_owned(), Arc::default());
        let start = Instant::now();
        for number in 0..20 {
            std::fs::write(folder.path().join("c"), format!("key-{number}-0123456789{}", "x".repeat(number)))
                .unwrap();
            secrets.get("c", start + SECRET_STAT_INTERVAL * u32::try_from(number).unwrap()).unwrap();
        }
        assert_eq!(secrets.known("c").len(), 1 + SECRETS_REMEMBERED_MAX);
    }
}

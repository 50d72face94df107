//! The policy in force. Its file is read over and over, because kubelet swaps a symlink behind it; a new document takes
//! effect at once and whole, together with connections of its own. A request keeps the one it started with.
//!
//! A missing or invalid document never loosens anything: the last good one is obeyed for a bounded time, after which
//! everything is denied.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use agentsandbox_policy::{DenialReason, InvalidPolicy, Placeholders, Policy, Unsearchable};
use rustls::crypto::CryptoProvider;
use tokio_util::sync::CancellationToken;

use crate::limits::{POLICY_BYTES_MAX, POLICY_POLL_INTERVAL, POLICY_STALE_MAX};
use crate::metrics::Metrics;
use crate::scrub::scope::Scrubbers;
use crate::traces;
use crate::upstream::{Places, RootsError, Upstream};

/// A policy and what belongs to it.
pub struct Loaded {
    /// The decisions.
    pub policy: Arc<Policy>,
    pub(crate) placeholders: Arc<Placeholders>,
    pub(crate) upstream: Upstream,
    pub(crate) scrubbers: Scrubbers,
    pub(crate) collector: Option<traces::Way>,
}

/// Why a document is not obeyed.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file.
    #[error("the policy file cannot be read")]
    Unreadable(#[from] std::io::Error),
    /// Its size or encoding.
    #[error("the policy file is not UTF-8 text of at most 2 MiB")]
    NotText,
    /// Its content.
    #[error("the policy document is not valid")]
    Invalid(#[from] InvalidPolicy),
    /// Its roots.
    #[error("the upstream roots are not valid")]
    Roots(#[from] RootsError),
    /// Its placeholders.
    #[error("the placeholders cannot be looked for")]
    Placeholders(#[from] Unsearchable),
    /// A fault of the proxy's own.
    #[error("the policy document could not be loaded")]
    Panicked,
}

/// Reads and checks a document. Its connections share these places with those of every other.
pub fn load(
    text: &str,
    provider: &Arc<CryptoProvider>,
    metrics: &Arc<Metrics>,
    places: &Arc<Places>,
) -> Result<Loaded, LoadError> {
    let policy = Arc::new(Policy::from_yaml(text)?);
    let placeholders = Arc::new(Placeholders::of(&policy)?);
    let (metrics, places) = (Arc::clone(metrics), Arc::clone(places));
    let upstream = Upstream::new(policy.additional_roots(), provider, metrics, places)?;
    let collector = policy.collector().map(|to| traces::Way::to(to.clone(), upstream.tls()));
    Ok(Loaded { policy, placeholders, upstream, scrubbers: Scrubbers::default(), collector })
}

/// Reads a document's text.
pub fn read(file: &Path) -> Result<String, LoadError> {
    if std::fs::metadata(file)?.len() > POLICY_BYTES_MAX {
        return Err(LoadError::NotText);
    }
    String::from_utf8(std::fs::read(file)?).map_err(|_| LoadError::NotText)
}

/// The policy in force, and the file it comes from.
pub struct ActivePolicy {
    file: PathBuf,
    provider: Arc<CryptoProvider>,
    metrics: Arc<Metrics>,
    places: Arc<Places>,
    /// Held from the reading of the file until what was read is in force: what is read later comes into force later.
    looking: Mutex<()>,
    state: RwLock<State>,
}

struct State {
    text: String,
    loaded: Arc<Loaded>,
    bad_since: Option<Instant>,
    /// The last refused text, so that it is reported once.
    refused: Option<String>,
}

impl ActivePolicy {
    /// The places for connections to upstreams, which those of every document share.
    pub(crate) const fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Starts from a document that was already found good.
    #[must_use]
    pub fn new(
        file: PathBuf,
        text: String,
        loaded: Loaded,
        provider: Arc<CryptoProvider>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let places = Arc::clone(loaded.upstream.places());
        let state = State { text, loaded: Arc::new(loaded), bad_since: None, refused: None };
        Self { file, provider, metrics, places, looking: Mutex::default(), state: RwLock::new(state) }
    }

    /// The policy to obey now.
    pub fn current(&self, now: Instant) -> Result<Arc<Loaded>, DenialReason> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match state.bad_since {
            Some(since) if now.saturating_duration_since(since) > POLICY_STALE_MAX => {
                Err(DenialReason::StalePolicy)
            }
            _ => Ok(Arc::clone(&state.loaded)),
        }
    }

    /// Reads the file until the proxy ends. The document is read and loaded on a thread of its own: the pod of a proxy has one
    /// core, hence one worker, and all streams would stand still meanwhile.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        self.follow_with(shutdown, Self::refresh).await;
    }

    async fn follow_with(
        self: Arc<Self>,
        shutdown: CancellationToken,
        look: impl Fn(&Self, Instant) + Clone + Send + 'static,
    ) {
        let mut ticks = tokio::time::interval(POLICY_POLL_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let following = async {
            loop {
                ticks.tick().await;
                let (policy, look) = (Arc::clone(&self), look.clone());
                let looked = tokio::task::spawn_blocking(move || look(&policy, Instant::now()));
                if looked.await.is_err() {
                    self.refresh_failed(Instant::now());
                }
            }
        };
        tokio::select! {
            () = following => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Looks at the file once.
    pub fn refresh(&self, now: Instant) {
        self.refresh_with(now, |text| load(text, &self.provider, &self.metrics, &self.places));
    }

    /// Nobody knows what the file says now: that is a document that is refused.
    fn refresh_failed(&self, now: Instant) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.bad_since.is_none() {
            self.refuse(&mut state, &LoadError::Panicked, now);
        }
    }

    /// Requests go on under the old document while a new one is loaded, which may have thousands of rules.
    fn refresh_with(&self, now: Instant, load: impl FnOnce(&str) -> Result<Loaded, LoadError>) {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let text = read(&self.file);
        let loaded = text.as_ref().ok().filter(|text| self.is_new(text)).map(|text| load(text));
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match (text, loaded) {
            (Ok(text), Some(Ok(mut loaded))) => {
                let old = &state.loaded;
                loaded.scrubbers = Scrubbers::after(&old.policy, &old.scrubbers, now);
                tracing::info!(generation = loaded.policy.generation(), "a new policy is in force");
                let new = State { text, loaded: Arc::new(loaded), bad_since: None, refused: None };
                let old = std::mem::replace(&mut *state, new).loaded;
                drop(state);
                // Requests that are still to be answered hold the old document, and it its connections.
                old.upstream.retire();
            }
            (Ok(text), Some(Err(error))) => {
                self.refuse(&mut state, &error, now);
                state.refused = Some(text);
            }
            (Ok(text), None) if text == state.text => {
                // The same bad text may come back, and its ten minutes begin anew then.
                state.bad_since = None;
                state.refused = None;
            }
            (Err(error), _) if state.bad_since.is_none() => self.refuse(&mut state, &error, now),
            (Ok(_) | Err(_), _) => {}
        }
    }

    /// Whether it is neither the text in force nor the one that was refused last.
    fn is_new(&self, text: &str) -> bool {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        text != state.text && state.refused.as_deref() != Some(text)
    }

    fn refuse(&self, state: &mut State, error: &LoadError, now: Instant) {
        tracing::error!(error = %error, "the policy file is refused; the last good policy stays for ten minutes");
        self.metrics.policy_rejected();
        state.bad_since.get_or_insert(now);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::RecvTimeoutError;
    use std::time::Duration;

    use super::*;

    const PROMISED: Duration = Duration::from_secs(1);

    fn document(generation: i64) -> String {
        format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: {generation}, rules: []}}"
        )
    }

    /// A mounted ConfigMap: the file is a link through `..data`, which kubelet swaps as a whole.
    struct Mounted(tempfile::TempDir);

    impl Mounted {
        fn new(text: &str) -> Self {
            let mounted = Self(tempfile::tempdir().unwrap());
            symlink("..data/policy.yaml", mounted.0.path().join("policy.yaml")).unwrap();
            mounted.swap("..1", text);
            mounted
        }

        fn swap(&self, version: &str, text: &str) {
            let at = |name: &str| self.0.path().join(name);
            std::fs::create_dir(at(version)).unwrap();
            std::fs::write(at(version).join("policy.yaml"), text).unwrap();
            symlink(version, at("..data_tmp")).unwrap();
            std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        }

        fn policy(&self) -> Arc<ActivePolicy> {
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let (file, metrics) = (self.0.path().join("policy.yaml"), Arc::default());
            let text = read(&file).unwrap();
            let loaded = load(&text, &provider, &metrics, &Arc::default()).unwrap();
            Arc::new(ActivePolicy::new(file, text, loaded, provider, metrics))
        }
    }

    fn generation(policy: &ActivePolicy) -> i64 {
        policy.current(Instant::now()).unwrap().policy.generation()
    }

    #[tokio::test(start_paused = true)]
    async fn p_i8_a_swapped_document_is_in_force_within_a_second() {
        let mounted = Mounted::new(&document(1));
        let policy = mounted.policy();
        let shutdown = CancellationToken::new();
        let following = tokio::spawn(Arc::clone(&policy).follow(shutdown.clone()));
        // At any moment between two looks.
        for moment in 0..40 {
            tokio::time::sleep(Duration::from_millis(moment * 37)).await;
            let next = generation(&policy) + 1;
            mounted.swap(&format!("..v{moment}"), &document(next));
            tokio::time::sleep(PROMISED).await;
            assert_eq!(generation(&policy), next, "{moment}");
        }
        shutdown.cancel();
        following.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn p_i8_a_document_that_takes_long_to_load_does_not_hold_up_the_only_worker() {
        let mounted = Mounted::new(&document(1));
        let policy = mounted.policy();
        mounted.swap("..2", &document(2));
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let (told, shutdown) = (Arc::new(Mutex::new(told)), CancellationToken::new());
        let stands_still = Arc::new(AtomicBool::new(false));
        let alone = Arc::clone(&stands_still);
        let look = move |policy: &ActivePolicy, now| {
            // Nobody tells if nothing else runs meanwhile.
            let told = told.lock().unwrap().recv_timeout(Duration::from_secs(20));
            alone.fetch_or(told == Err(RecvTimeoutError::Timeout), Ordering::SeqCst);
            policy.refresh(now);
        };
        let following = tokio::spawn(Arc::clone(&policy).follow_with(shutdown.clone(), look));
        // Each is a turn of the runtime's one worker.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(generation(&policy), 1, "it is still being loaded");
        drop(tell);
        assert!(!stands_still.load(Ordering::SeqCst));
        tokio::time::sleep(PROMISED).await;
        assert_eq!(generation(&policy), 2);
        shutdown.cancel();
        following.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn p_i8_a_document_that_ends_its_loading_by_a_panic_is_refused_and_the_next_one_is_obeyed() {
        let mounted = Mounted::new(&document(1));
        let policy = mounted.policy();
        let shutdown = CancellationToken::new();
        let look = |policy: &ActivePolicy, now| {
            policy.refresh_with(now, |text| {
                assert!(text.contains("generation: 3"), "a fault of the loader");
                load(text, &policy.provider, &policy.metrics, &policy.places)
            });
        };
        let following = tokio::spawn(Arc::clone(&policy).follow_with(shutdown.clone(), look));
        tokio::time::sleep(PROMISED).await;
        assert!(policy.state.read().unwrap().bad_since.is_none(), "the same document needs no loading");
        mounted.swap("..2", &document(2));
        tokio::time::sleep(PROMISED).await;
        let reason = |after| policy.current(Instant::now() + after).err();
        assert_eq!((generation(&policy), reason(Duration::ZERO)), (1, None));
        assert_eq!(reason(POLICY_STALE_MAX + PROMISED), Some(DenialReason::StalePolicy));
        mounted.swap("..3", &document(3));
        tokio::time::sleep(PROMISED).await;
        assert_eq!((generation(&policy), reason(POLICY_STALE_MAX + PROMISED)), (3, None));
        shutdown.cancel();
        following.await.unwrap();
    }

    #[test]
    fn p_i8_requests_go_on_while_a_document_is_loaded_and_an_older_one_is_not_in_force_after_a_newer() {
        let mounted = Mounted::new(&document(1));
        let policy = mounted.policy();
        mounted.swap("..2", &document(2));
        let later = Arc::clone(&policy);
        let mut newer = None;
        policy.refresh_with(Instant::now(), |text| {
            assert!(policy.state.try_read().is_ok(), "a request finds a policy");
            assert_eq!(generation(&policy), 1);
            // Somebody else looks, and finds a newer document, before this one is loaded.
            mounted.swap("..3", &document(3));
            assert!(policy.looking.try_lock().is_err(), "and waits");
            newer = Some(std::thread::spawn(move || later.refresh(Instant::now())));
            load(text, &policy.provider, &policy.metrics, &policy.places)
        });
        newer.unwrap().join().unwrap();
        assert_eq!(generation(&policy), 3);
    }

    #[test]
    fn p_i8_an_invalid_document_leaves_the_last_good_one_for_ten_minutes_and_then_nothing() {
        let mounted = Mounted::new(&document(1));
        let policy = mounted.policy();
        let start = Instant::now();
        let reason = |now| policy.current(now).err();
        mounted.swap("..2", "rulez: []");
        policy.refresh(start);
        assert_eq!((generation(&policy), reason(start + POLICY_STALE_MAX)), (1, None));
        let late = start + POLICY_STALE_MAX + Duration::from_secs(1);
        assert_eq!(reason(late), Some(DenialReason::StalePolicy));
        // Another invalid text does not buy time, and neither does a file that is gone.
        mounted.swap("..3", "rules: nonsense");
        policy.refresh(late);
        std::fs::remove_file(mounted.0.path().join("..data")).unwrap();
        policy.refresh(late);
        assert_eq!(reason(late), Some(DenialReason::StalePolicy));
        mounted.swap("..4", &document(2));
        policy.refresh(late);
        assert_eq!((generation(&policy), reason(late)), (2, None));
    }

    #[test]
    fn p_i8_a_request_keeps_the_generation_it_started_with() {
        let mounted = Mounted::new(&document(1));
        let policy = mounted.policy();
        let held = policy.current(Instant::now()).unwrap();
        mounted.swap("..2", &document(2));
        policy.refresh(Instant::now());
        assert_eq!((held.policy.generation(), generation(&policy)), (1, 2));
    }
}

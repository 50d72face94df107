//! The policy in force. Its file is read over and over, because kubelet swaps a symlink behind it; a new document takes
//! effect at once and whole, together with connections of its own. A request keeps the one it started with.
//!
//! A missing or invalid document never loosens anything: the last good one is obeyed for a bounded time, after which
//! everything is denied.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use agentsandbox_policy::{DenialReason, InvalidPolicy, Policy};
use rustls::crypto::CryptoProvider;
use tokio_util::sync::CancellationToken;

use crate::limits::{POLICY_BYTES_MAX, POLICY_POLL_INTERVAL, POLICY_STALE_MAX};
use crate::metrics::Metrics;
use crate::upstream::{RootsError, Upstream};

/// A policy and what belongs to it.
pub struct Loaded {
    /// The decisions.
    pub policy: Policy,
    pub(crate) upstream: Upstream,
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
}

/// Reads and checks a document.
pub fn load(text: &str, provider: &Arc<CryptoProvider>, metrics: &Arc<Metrics>) -> Result<Loaded, LoadError> {
    let policy = Policy::from_yaml(text)?;
    let upstream = Upstream::new(policy.additional_roots(), provider, Arc::clone(metrics))?;
    Ok(Loaded { policy, upstream })
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
    /// Starts from a document that was already found good.
    #[must_use]
    pub fn new(
        file: PathBuf,
        text: String,
        loaded: Loaded,
        provider: Arc<CryptoProvider>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let state = State { text, loaded: Arc::new(loaded), bad_since: None, refused: None };
        Self { file, provider, metrics, state: RwLock::new(state) }
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

    /// Reads the file until the proxy ends.
    pub async fn follow(&self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(POLICY_POLL_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.refresh(Instant::now()),
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Looks at the file once.
    pub fn refresh(&self, now: Instant) {
        let text = read(&self.file);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        match text {
            Ok(text) if text == state.text => {
                // The same bad text may come back, and its ten minutes begin anew then.
                state.bad_since = None;
                state.refused = None;
            }
            Ok(text) if state.refused.as_ref() == Some(&text) => {}
            Ok(text) => match load(&text, &self.provider, &self.metrics) {
                Ok(loaded) => {
                    tracing::info!(generation = loaded.policy.generation(), "a new policy is in force");
                    *state = State { text, loaded: Arc::new(loaded), bad_since: None, refused: None };
                }
                Err(error) => {
                    self.refuse(&mut state, &error, now);
                    state.refused = Some(text);
                }
            },
            Err(error) if state.bad_since.is_none() => self.refuse(&mut state, &error, now),
            Err(_) => {}
        }
    }

    fn refuse(&self, state: &mut State, error: &LoadError, now: Instant) {
        tracing::error!(error = %error, "the policy file is refused; the last good policy stays for ten minutes");
        self.metrics.policy_rejected();
        state.bad_since.get_or_insert(now);
    }
}

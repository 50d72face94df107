//! Who may write: the holder of one Lease, and only until it expires.
//!
//! A lease is renewed well before its end. The holder counts its time from *before* the renewal was sent, so its tenure ends
//! before anybody else may begin. [`Tenure::may_write`] is asked before each write, also in the middle of a long reconcile,
//! and a write that is under way when the tenure ends is given up ([`Tenure::over`]): none leaves this process later. On
//! shutdown the lease is released once nothing writes any more, so that a successor need not wait for its end. Every write of
//! the lease carries the resourceVersion that was read, so of two candidates one wins.
//!
//! What has left this process by then may still arrive: an API server may be slow and not notice within the margin that nobody
//! waits for the answer, and the kernel of a node that was cut off sends what it holds once the node is back. So no write relies on
//! the lease alone: each insists on a free name, on a version or on one object. A late repair makes nothing anew, for it names
//! the UID that it means; a late creation makes what its sandbox owned, which the garbage collector takes away where the
//! sandbox is gone.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;

/// Name of the Lease. The chart makes it, and the operator does where the chart did not (Argo CD leaves Leases out).
pub const NAME: &str = "agentsandbox-operator";
/// How long a lease lasts without renewal.
const DURATION_SECS: i32 = 10;
/// Write no more when the lease ends within this: time for an API server to notice that a write was given up, before a
/// successor starts.
const MARGIN: Duration = Duration::from_secs(2);
/// How often it is renewed, and how often others look.
pub const RETRY: Duration = Duration::from_secs(2);
/// A request that takes longer than this counts as failed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Until when this process may write.
#[derive(Debug)]
pub struct Tenure {
    ends: watch::Sender<Option<End>>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    At(Instant),
    Never,
}

/// The lease as it was last seen, and since when by this process's own clock it has been so. The time that its holder wrote
/// into it is by the holder's clock, and says nothing here.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Option<(Option<LeaseSpec>, Instant)>>);

impl Seen {
    /// For how long the lease has been as it is, or has not been there.
    fn unchanged_for(&self, spec: Option<&LeaseSpec>) -> Duration {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some((before, since)) if before.as_ref() == spec => since.elapsed(),
            _ => {
                *seen = Some((spec.cloned(), Instant::now()));
                Duration::ZERO
            }
        }
    }
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The lease is ours.
    Held,
    /// It is somebody else's.
    TheirTurn,
}

impl Default for Tenure {
    /// Of a replica that has no lease yet.
    fn default() -> Self {
        Self { ends: watch::Sender::new(None) }
    }
}

impl Tenure {
    /// The tenure of the only replica.
    #[must_use]
    pub fn unlimited() -> Self {
        Self { ends: watch::Sender::new(Some(End::Never)) }
    }

    /// Whether this process may write now.
    #[must_use]
    pub fn may_write(&self) -> bool {
        match *self.ends.borrow() {
            Some(End::Never) => true,
            Some(End::At(end)) => Instant::now() < end,
            None => false,
        }
    }

    /// Completes once this process may not write, and never while the lease is renewed in time.
    pub async fn over(&self) {
        let mut ends = self.ends.subscribe();
        loop {
            let end = *ends.borrow_and_update();
            let runs_out = async {
                match end {
                    Some(End::Never) => std::future::pending().await,
                    Some(End::At(end)) => tokio::time::sleep_until(end).await,
                    None => {}
                }
            };
            // A renewal that came in time is seen first. It fails only without a sender, and `self` has that.
            tokio::select! {
                biased;
                _ = ends.changed() => {}
                () = runs_out => return,
            }
        }
    }

    /// Makes one write: none where this process may not, and it is given up, with nothing to answer, when it may no longer.
    pub async fn within<T>(&self, write: impl Future<Output = T>) -> Option<T> {
        if !self.may_write() {
            return None;
        }
        // What waits for its turn or for a connection must not leave once another replica may lead.
        tokio::select! {
            biased;
            () = self.over() => None,
            answer = write => Some(answer),
        }
    }

    fn extend(&self, from: Instant) {
        let lasts = Duration::from_secs(DURATION_SECS.unsigned_abs().into()).saturating_sub(MARGIN);
        self.ends.send_replace(Some(End::At(from + lasts)));
    }

    /// Ends the tenure at once.
    pub fn end(&self) {
        self.ends.send_replace(None);
    }
}

/// Tries once to take or renew the lease; `now` is written into it.
///
/// # Errors
/// When the API server does not answer in time or refuses; the tenure then runs out by itself.
pub async fn attempt(
    api: &Api<Lease>,
    identity: &str,
    tenure: &Tenure,
    seen: &Seen,
    now: Timestamp,
) -> Result<Attempt, LeaseError> {
    let started = Instant::now();
    let result = tokio::time::timeout(REQUEST_TIMEOUT, take(api, identity, tenure, seen, now))
        .await
        .map_err(|_| LeaseError::Timeout)?;
    match result {
        Ok(Attempt::Held) => {
            tenure.extend(started);
            Ok(Attempt::Held)
        }
        Ok(Attempt::TheirTurn) => {
            tenure.end();
            Ok(Attempt::TheirTurn)
        }
        // Somebody was faster.
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
            Ok(Attempt::TheirTurn)
        }
        Err(source) => Err(LeaseError::Api(Box::new(source))),
    }
}

/// Gives the lease back, if it is ours.
///
/// # Errors
/// When the API server does not answer in time or refuses; the lease then runs out by itself.
pub async fn release(api: &Api<Lease>, identity: &str, tenure: &Tenure) -> Result<(), LeaseError> {
    tenure.end();
    let give_back = async {
        let Some(mut lease) = api.get_opt(NAME).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(identity))
        else {
            return Ok(());
        };
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        api.replace(NAME, &PostParams::default(), &lease).await.map(|_| ())
    };
    tokio::time::timeout(REQUEST_TIMEOUT, give_back)
        .await
        .map_err(|_| LeaseError::Timeout)?
        .map_err(|source| LeaseError::Api(Box::new(source)))
}

/// Why a lease was neither taken nor given back.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API server did not answer in time.
    #[error("the API server did not answer in time")]
    Timeout,
    /// It refused.
    #[error("the API server refused")]
    Api(#[source] Box<kube::Error>),
}

async fn take(
    api: &Api<Lease>,
    identity: &str,
    tenure: &Tenure,
    seen: &Seen,
    now: Timestamp,
) -> Result<Attempt, kube::Error> {
    let Some(mut lease) = api.get_opt(NAME).await? else {
        // Somebody deleted it under its holder, who may still write: only the holder makes it anew at once.
        if !tenure.may_write()
            && seen.unchanged_for(None) <= Duration::from_secs(DURATION_SECS.unsigned_abs().into())
        {
            return Ok(Attempt::TheirTurn);
        }
        let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(held(None, identity, now)) };
        return api.create(&PostParams::default(), &lease).await.map(|_| Attempt::Held);
    };
    let old = lease.spec.take().unwrap_or_default();
    if !may_take(&old, identity, seen.unchanged_for(Some(&old))) {
        return Ok(Attempt::TheirTurn);
    }
    lease.spec = Some(held(Some(old), identity, now));
    api.replace(NAME, &PostParams::default(), &lease).await.map(|_| Attempt::Held)
}

/// Whether the lease is ours, free, or run out: it has not been renewed for as long as it lasts.
fn may_take(spec: &LeaseSpec, identity: &str, unchanged_for: Duration) -> bool {
    let Some(holder) = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty()) else {
        return true;
    };
    let lasts = spec.lease_duration_seconds.and_then(|secs| u64::try_from(secs).ok());
    let lasts = Duration::from_secs(lasts.unwrap_or_else(|| DURATION_SECS.unsigned_abs().into()));
    holder == identity || unchanged_for > lasts
}

fn held(old: Option<LeaseSpec>, identity: &str, now: Timestamp) -> LeaseSpec {
    let old = old.unwrap_or_default();
    let ours = old.holder_identity.as_deref() == Some(identity);
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(DURATION_SECS),
        acquire_time: if ours { old.acquire_time } else { Some(MicroTime(now)) },
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(old.lease_transitions.unwrap_or_default() + i32::from(!ours)),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::api::{Api as FakeApi, Says, refusal};
    use k8s_openapi::jiff::SignedDuration;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_ours_free_or_run_out() {
        let held_by_a = held(None, "a", now());
        assert!(may_take(&LeaseSpec::default(), "b", Duration::ZERO));
        assert!(may_take(&held_by_a, "a", Duration::ZERO));
        assert!(!may_take(&held_by_a, "b", Duration::from_secs(10)));
        assert!(may_take(&held_by_a, "b", Duration::from_millis(10_001)));
    }

    #[tokio::test(start_paused = true)]
    async fn o_r14_a_lease_runs_out_by_the_clock_of_who_waits_and_a_renewal_starts_it_anew() {
        let (seen, first) = (Seen::default(), held(None, "a", now()));
        assert_eq!(seen.unchanged_for(Some(&first)), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(seen.unchanged_for(Some(&first)), Duration::from_secs(9));
        let renewed = held(Some(first), "a", now() + SignedDuration::from_secs(2));
        assert_eq!(seen.unchanged_for(Some(&renewed)), Duration::ZERO);
        assert_eq!(seen.unchanged_for(None), Duration::ZERO, "a lease that is gone was there until now");
    }

    #[test]
    fn o_r14_nothing_is_written_without_or_after_a_tenure() {
        let tenure = Tenure::default();
        assert!(!tenure.may_write());
        tenure.extend(Instant::now());
        assert!(tenure.may_write());
        tenure.extend(Instant::now().checked_sub(Duration::from_secs(8)).unwrap());
        assert!(!tenure.may_write());
        tenure.extend(Instant::now());
        tenure.end();
        assert!(!tenure.may_write());
    }

    #[tokio::test(start_paused = true)]
    async fn o_r14_a_tenure_is_over_when_it_runs_out_or_ends_and_not_while_it_is_renewed() {
        let is_over = async |tenure: &Tenure, within: u64| {
            tokio::time::timeout(Duration::from_secs(within), tenure.over()).await.is_ok()
        };
        assert!(is_over(&Tenure::default(), 0).await);
        assert!(!is_over(&Tenure::unlimited(), 3600).await);
        let tenure = Tenure::default();
        let renew = async {
            for _ in 0..10 {
                tenure.extend(Instant::now());
                tokio::time::sleep(RETRY).await;
            }
        };
        tokio::select! {
            biased;
            () = renew => {}
            () = tenure.over() => panic!("it was renewed"),
        }
        assert!(!is_over(&tenure, 5).await, "the last renewal was two seconds before");
        assert!(is_over(&tenure, 2).await && !tenure.may_write());
        tenure.extend(Instant::now());
        let end = async {
            tokio::time::sleep(RETRY).await;
            tenure.end();
        };
        let (within, ()) = tokio::join!(is_over(&tenure, 3), end);
        assert!(within);
    }

    /// An API server without the Lease, which takes one.
    async fn without_a_lease() -> FakeApi {
        let says: Says = Box::new(|asked| match asked.line.as_str() {
            "GET leases/agentsandbox-operator" => Some(refusal(404, "NotFound", "there is none")),
            "POST leases" => Some((201, asked.body.clone())),
            _ => None,
        });
        FakeApi::start(Vec::new(), says).await
    }

    #[tokio::test]
    async fn o_r14_a_lease_that_is_missing_is_made_at_once_by_its_holder_and_by_others_once_it_would_have_run_out()
     {
        let api = without_a_lease().await;
        let leases: Api<Lease> = Api::namespaced(api.client.clone(), "agentsandbox-system");
        let (holder, other) = (Tenure::default(), Tenure::default());
        holder.extend(Instant::now());
        let waited = Seen::default();
        let attempt =
            async |tenure: &Tenure, seen: &Seen| attempt(&leases, "a", tenure, seen, now()).await.unwrap();
        assert_eq!(attempt(&other, &waited).await, Attempt::TheirTurn);
        assert!(!other.may_write() && !api.was_asked("POST leases"));
        assert_eq!(attempt(&holder, &Seen::default()).await, Attempt::Held);
        assert!(api.was_asked("POST leases"));
        let lasts = Duration::from_secs(DURATION_SECS.unsigned_abs().into());
        let long_ago = Instant::now().checked_sub(lasts + Duration::from_secs(1)).unwrap();
        *waited.0.lock().unwrap() = Some((None, long_ago));
        assert_eq!(attempt(&other, &waited).await, Attempt::Held);
        assert!(other.may_write());
    }
}

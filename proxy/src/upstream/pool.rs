//! Connections that are open and may carry another request, each found by all that it may carry: destination, credential,
//! and which readings of the secrets. There is no other way to one, and none is looked at for a request of another key.
//!
//! A reading is newer than those before it. The first request with a newer one ends the connections of the older, and what
//! comes back with an older one is not kept, however late: a key that was replaced speaks no more.
//!
//! hyper takes any number of requests for a connection that is full, and gives none back. So a request waits here until a
//! stream can begin, and is dropped here if its agent gives it up. Whatever lets one go on wakes one that waits: a stream
//! or a connection that ends, one that is kept, a leave to open that is given back. Two that come at once may wake only one,
//! so who goes on wakes the next if that could go on as well; when nothing is left to wait for, all are woken.

mod streams;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use agentsandbox_policy::{CertificateUse, CredentialUse, Host, Permit, Scheme};
use foldhash::fast::RandomState;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, timeout_at};

pub(super) use self::streams::{Stream, Streams};
use super::places::Signals;
use super::{Lease, Sender};
use crate::limits::{
    H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX, IDLE_CONNECTION_AGE_MAX, IDLE_CONNECTIONS_MAX,
    IDLE_CONNECTIONS_PER_HOST_MAX, IDLE_SWEEP_INTERVAL,
};
use crate::secrets::{ClientCertificate, Secret};

/// Where a connection leads.
pub(super) type Destination = (Scheme, Host, u16);

/// As whom requests speak, to the destination and to the proxy on the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voice {
    who: Who,
    readings: Readings,
}

/// The names of what requests speak with: the credential in them, and the client certificate that their connection was opened
/// with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Who {
    credential: Option<Arc<str>>,
    certificate: Option<Arc<str>>,
}

/// Which readings of the secrets are spoken with: of the credential's, of the client certificate, and of the upstream proxy's
/// password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Readings {
    secret: Option<u64>,
    certificate: Option<u64>,
    password: Option<u64>,
}

impl Readings {
    /// Of each secret the newer reading.
    fn latest(self, other: Self) -> Self {
        Self {
            secret: self.secret.max(other.secret),
            certificate: self.certificate.max(other.certificate),
            password: self.password.max(other.password),
        }
    }
}

impl Voice {
    /// The voice of a permitted request, which is sent with this secret, under this certificate, through a proxy that is told this
    /// password.
    #[must_use]
    pub fn of(
        permit: &Permit,
        secret: Option<&Secret>,
        certificate: Option<&ClientCertificate>,
        password: Option<&Secret>,
    ) -> Self {
        let readings = Readings {
            secret: secret.map(Secret::generation),
            certificate: certificate.map(ClientCertificate::generation),
            password: password.map(Secret::generation),
        };
        let who = Who {
            credential: permit.credential().map(CredentialUse::shared_name),
            certificate: permit.certificate().map(CertificateUse::shared_name),
        };
        Self { who, readings }
    }
}

/// The leave to open a connection. While it is held nobody else opens one because those of the same key are full; however it
/// is given back, another may.
#[derive(Debug, Default)]
pub struct Opening(Option<OneMore>);

/// The leave to open one more, held by one request at a time.
#[derive(Debug)]
struct OneMore {
    leave: Arc<Leave>,
    queue: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Leave {
    is_held: AtomicBool,
    /// The last one could not be opened, so that none is until the next sweep. Else each request that waits would try.
    has_failed: AtomicBool,
}

impl Opening {
    /// Whether there are connections, which are full.
    #[must_use]
    pub const fn is_for_one_more(&self) -> bool {
        self.0.is_some()
    }

    /// No connection could be opened.
    pub fn failed(self) {
        if let Some(one_more) = &self.0 {
            one_more.leave.has_failed.store(true, Ordering::Release);
        }
    }
}

impl Leave {
    fn is_free(&self) -> bool {
        !self.has_failed.load(Ordering::Acquire) && !self.is_held.load(Ordering::Acquire)
    }

    /// Whether the caller may open one more, and nobody else until it is given back.
    fn take(&self) -> bool {
        self.is_free() && !self.is_held.swap(true, Ordering::AcqRel)
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.leave.is_held.store(false, Ordering::Release);
        self.queue.notify_one();
    }
}

/// Why a request has no connection to be sent on.
#[derive(Debug)]
pub enum Unleased {
    /// It may open one.
    Opening(Opening),
    /// All were full for as long as it may wait.
    Full,
    /// Its policy has been replaced.
    Retired,
}

/// What there is for a request now.
pub(super) enum Found {
    Lease(Lease),
    Opening(Opening),
    /// Nothing before this is ready.
    Wait(OwnedNotified),
    /// Nothing any more.
    Retired,
}

/// The connections that are kept, and whether somebody looks after them.
#[derive(Default)]
pub(super) struct Pool {
    kept: Mutex<Kept>,
    swept: AtomicBool,
    /// Told what those want to know that wait for a place.
    signals: Arc<Signals>,
}

/// What a connection is found by, but for the readings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    to: Destination,
    who: Who,
}

#[derive(Default)]
struct Kept {
    groups: HashMap<Key, Group, RandomState>,
    /// Connections of all groups.
    count: usize,
    /// The policy that these belong to has been replaced.
    is_retired: bool,
    /// The newest readings that were spoken with, by all who did: a connection may come back when there is no other one left.
    latest: HashMap<Who, Readings, RandomState>,
}

/// Connections of one key, all of the same readings.
#[derive(Default)]
struct Group {
    readings: Readings,
    /// The one that was kept last stands last.
    idle: Vec<Idle>,
    /// The leave to open one more because these are full.
    leave: Arc<Leave>,
    /// Requests that wait because these are full.
    queue: Arc<Notify>,
}

struct Idle {
    /// When it was last put to use, or seen to be in use by a sweep.
    since: Instant,
    lease: Lease,
}

impl Idle {
    fn is_usable(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < IDLE_CONNECTION_AGE_MAX && self.lease.is_open()
    }

    fn is_used(&self) -> bool {
        self.streams().is_some_and(|streams| streams.open() > 0)
    }

    fn streams(&self) -> Option<&Arc<Streams>> {
        match &self.lease.sender {
            Sender::Http1(_) => None,
            Sender::Http2(_, streams) => Some(streams),
        }
    }

    /// Whether a request can be sent on it at once.
    fn has_room(&self) -> bool {
        self.streams().is_none_or(|streams| streams.has_room())
    }
}

impl Pool {
    /// One that tells those who wait for a place.
    pub(super) fn telling(signals: Arc<Signals>) -> Self {
        Self { signals, ..Self::default() }
    }

    /// A connection on which a stream can begin, for this destination and voice; where all are full, the next on which one can,
    /// if that is before `until`.
    pub(super) async fn lease(
        &self,
        to: Destination,
        voice: &Voice,
        until: Instant,
    ) -> Result<Lease, Unleased> {
        match self.take(to.clone(), voice) {
            Found::Lease(lease) => Ok(lease),
            Found::Opening(opening) => Err(Unleased::Opening(opening)),
            Found::Retired => Err(Unleased::Retired),
            // Apart: most requests wait for nothing, and would all be moved about with the room for a timer.
            Found::Wait(change) => Box::pin(self.wait(change, to, voice, until)).await,
        }
    }

    async fn wait(
        &self,
        mut change: OwnedNotified,
        to: Destination,
        voice: &Voice,
        until: Instant,
    ) -> Result<Lease, Unleased> {
        loop {
            timeout_at(until, change).await.map_err(|_| Unleased::Full)?;
            change = match self.take(to.clone(), voice) {
                Found::Lease(lease) => return Ok(lease),
                Found::Opening(opening) => return Err(Unleased::Opening(opening)),
                Found::Retired => return Err(Unleased::Retired),
                Found::Wait(next) => next,
            };
        }
    }

    /// What there is for this destination and voice now.
    pub(super) fn take(&self, to: Destination, voice: &Voice) -> Found {
        let mut kept = self.kept();
        if kept.is_retired {
            return Found::Retired;
        }
        let found = kept.in_group(to, voice, Group::take);
        found.unwrap_or_else(|| Found::Opening(Opening::default()))
    }

    /// Keeps a connection. Where there are too many of its key, it is let go; where there are too many of all, the oldest is.
    pub(super) fn put(self: &Arc<Self>, lease: Lease) {
        if !self.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
        let mut kept = self.kept();
        if kept.is_retired {
            return;
        }
        let (to, voice) = (lease.to.to.clone(), lease.voice.clone());
        let key = Key { to: to.clone(), who: voice.who.clone() };
        // Those that wait for a place and know of a connection of their key wait for its streams as well.
        let is_news = matches!(lease.sender, Sender::Http2(..)) && !kept.groups.contains_key(&key);
        kept.groups.entry(key).or_default();
        kept.in_group(to, &voice, |group| group.put(lease, &self.signals));
        if kept.count > IDLE_CONNECTIONS_MAX {
            kept.evict_oldest(|_| true);
        }
        drop(kept);
        if is_news { self.signals.look.notify_waiters() } else { self.signals.idle.notify_one() }
    }

    /// Ends the oldest connection that carries nothing.
    pub(super) fn make_room(&self) {
        self.kept().evict_oldest(|idle| !idle.is_used());
    }

    /// Ends what is kept, and keeps nothing any more. Those that wait have no connection to wait for.
    pub(super) fn retire(&self) {
        let mut kept = self.kept();
        kept.is_retired = true;
        kept.count = 0;
        for (_, group) in kept.groups.drain() {
            group.queue.notify_waiters();
        }
        drop(kept);
        self.signals.look.notify_waiters();
    }

    /// Whether its policy has been replaced.
    pub(super) fn is_retired(&self) -> bool {
        self.kept().is_retired
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Does something with the connections of this destination and voice, unless there are newer readings.
    fn in_group<T>(
        &mut self,
        to: Destination,
        voice: &Voice,
        act: impl FnOnce(&mut Group) -> T,
    ) -> Option<T> {
        let latest = self.latest(voice);
        let key = Key { to, who: voice.who.clone() };
        let group = self.groups.get_mut(&key)?;
        let before = group.idle.len();
        group.follow(latest);
        let done = (latest == voice.readings).then(|| act(group));
        let after = group.idle.len();
        if after == 0 {
            group.queue.notify_waiters();
            self.groups.remove(&key);
        }
        self.count = (self.count + after).saturating_sub(before);
        done
    }

    fn latest(&mut self, voice: &Voice) -> Readings {
        if let Some(known) = self.latest.get_mut(&voice.who) {
            *known = known.latest(voice.readings);
            return *known;
        }
        self.latest.insert(voice.who.clone(), voice.readings);
        voice.readings
    }

    /// Only a flood comes here, and each connection of it has cost a handshake: all may be looked at.
    fn evict_oldest(&mut self, may_go: impl Fn(&Idle) -> bool) {
        let ages = self.groups.iter().filter_map(|(key, group)| Some((group.oldest(&may_go)?, key)));
        let Some(((since, at), key)) = ages.min_by_key(|((since, _), _)| *since) else { return };
        tracing::debug!(age = ?since.elapsed(), "an idle upstream connection makes room for another");
        let key = key.clone();
        if let Some(group) = self.groups.get_mut(&key) {
            group.idle.remove(at);
            group.wake();
            self.count = self.count.saturating_sub(1);
            if group.idle.is_empty() {
                self.groups.remove(&key);
            }
        }
    }

    fn sweep(&mut self) {
        let now = Instant::now();
        self.groups.retain(|_, group| {
            group.idle.retain(|idle| idle.is_usable(now));
            group.idle.iter_mut().filter(|idle| idle.is_used()).for_each(|idle| idle.since = now);
            group.leave.has_failed.store(false, Ordering::Release);
            group.wake();
            !group.idle.is_empty()
        });
        self.count = self.groups.values().map(|group| group.idle.len()).sum();
    }
}

impl Group {
    /// Ends the connections of what has been replaced. Nobody waits for those any more, or wakings for newer ones would be lost on them.
    fn follow(&mut self, latest: Readings) {
        if self.readings != latest {
            self.readings = latest;
            self.idle.clear();
            self.queue.notify_waiters();
        }
    }

    fn take(&mut self) -> Found {
        let now = Instant::now();
        let found = self.look(now);
        if !matches!(found, Found::Wait(_)) && (self.idle.iter().any(Idle::has_room) || self.may_open(now)) {
            self.queue.notify_one();
        }
        found
    }

    fn look(&mut self, now: Instant) -> Found {
        while self.idle.last().is_some_and(|last| !last.is_usable(now)) {
            self.idle.pop();
        }
        // Most stand last: those of an upstream that has both protocols may not.
        if let Some(at) = self.idle.iter().rposition(|idle| idle.streams().is_none() && idle.is_usable(now)) {
            return Found::Lease(self.idle.remove(at).lease);
        }
        if let Some(lease) = self.shared(now) {
            return Found::Lease(lease);
        }
        // One that is closed, but not the last that was kept, is not to count.
        self.idle.retain(|idle| idle.is_usable(now));
        if self.idle.is_empty() {
            return Found::Opening(Opening::default());
        }
        if self.may_open(now) && self.leave.take() {
            let (leave, queue) = (Arc::clone(&self.leave), Arc::clone(&self.queue));
            return Found::Opening(Opening(Some(OneMore { leave, queue })));
        }
        Found::Wait(Arc::clone(&self.queue).notified_owned())
    }

    /// Whether one more may be opened because these are full. The newest may turn out not to be.
    fn may_open(&self, now: Instant) -> bool {
        let may_yet_allow = |idle: &Idle| {
            idle.streams().is_some_and(|streams| streams.may_yet_allow()) && idle.is_usable(now)
        };
        self.idle.len() < H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX
            && self.leave.is_free()
            && !self.idle.iter().any(may_yet_allow)
    }

    /// A stream of the HTTP/2 connection with the fewest, if one can begin at once.
    fn shared(&mut self, now: Instant) -> Option<Lease> {
        let fits = |idle: &&mut Idle| idle.has_room() && idle.is_usable(now);
        let streams = |idle: &&mut Idle| idle.streams().map(|streams| streams.open());
        let found = self.idle.iter_mut().filter(fits).min_by_key(streams)?;
        found.since = now;
        found.lease.shared()
    }

    /// Lets those that wait look again at what is left: one of them, or all if nothing is.
    fn wake(&self) {
        if self.idle.is_empty() {
            self.queue.notify_waiters();
        } else {
            self.queue.notify_one();
        }
    }

    fn put(&mut self, lease: Lease, signals: &Arc<Signals>) {
        let most = match lease.sender {
            Sender::Http1(_) => IDLE_CONNECTIONS_PER_HOST_MAX,
            Sender::Http2(..) => H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX,
        };
        let now = Instant::now();
        if self.idle.len() >= most {
            self.idle.retain(|idle| idle.is_usable(now));
        }
        if self.idle.len() < most {
            if let Sender::Http2(_, streams) = &lease.sender {
                streams.wait_in(&self.queue, signals);
            }
            self.idle.push(Idle { since: now, lease });
            self.wake();
        }
    }

    /// Since when the one lies idle that has done so for longest of those that may go, and where it stands.
    fn oldest(&self, may_go: impl Fn(&Idle) -> bool) -> Option<(Instant, usize)> {
        let all = self.idle.iter().enumerate();
        all.filter(|(_, idle)| may_go(idle)).map(|(at, idle)| (idle.since, at)).min()
    }
}

/// Ends connections that nobody used for too long, until the policy they were made under is gone.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_SWEEP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.kept().sweep();
    }
}

#[cfg(test)]
mod tests;

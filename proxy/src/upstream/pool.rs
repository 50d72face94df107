//! Connections that are open and may carry another request, each found by all that it may carry: destination, credential,
//! and which readings of the secrets. There is no other way to one, and none is looked at for a request of another key.
//!
//! A reading is newer than those before it. The first request with a newer one ends the connections of the older, and what
//! comes back with an older one is not kept: a key that was replaced speaks no more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use agentsandbox_policy::{Host, Permit, Scheme};
use tokio::time::Instant;

use super::{Lease, Sender};
use crate::limits::{
    H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX, IDLE_CONNECTION_AGE_MAX, IDLE_CONNECTIONS_MAX,
    IDLE_CONNECTIONS_PER_HOST_MAX, IDLE_SWEEP_INTERVAL,
};
use crate::secrets::Secret;

/// Where a connection leads.
pub(super) type Destination = (Scheme, Host, u16);

/// As whom requests speak, to the destination and to the proxy on the way there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Voice {
    credential: Option<String>,
    readings: Readings,
}

/// Which readings of the secrets are spoken with: of the credential's, and of the upstream proxy's password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Readings {
    secret: Option<u64>,
    password: Option<u64>,
}

impl Readings {
    /// Of each secret the newer reading.
    fn latest(self, other: Self) -> Self {
        Self { secret: self.secret.max(other.secret), password: self.password.max(other.password) }
    }
}

impl Voice {
    /// The voice of a permitted request, which is sent with this secret, through a proxy that is told this password.
    #[must_use]
    pub fn of(permit: &Permit, secret: Option<&Secret>, password: Option<&Secret>) -> Self {
        let readings =
            Readings { secret: secret.map(Secret::generation), password: password.map(Secret::generation) };
        Self { credential: permit.credential().map(|used| used.name().to_owned()), readings }
    }
}

/// Streams of one HTTP/2 connection.
pub(super) struct Streams {
    open: AtomicUsize,
    /// What the upstream allows; before it has said so, what hyper assumes.
    max: AtomicUsize,
}

impl Streams {
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { open: AtomicUsize::new(0), max: AtomicUsize::new(max) })
    }

    pub(super) fn allows(&self, max: usize) {
        self.max.store(max, Ordering::Relaxed);
    }

    pub(super) fn open(self: &Arc<Self>) -> Stream {
        self.open.fetch_add(1, Ordering::Relaxed);
        Stream(Arc::clone(self))
    }

    fn has_room(&self) -> bool {
        self.open.load(Ordering::Relaxed) < self.max.load(Ordering::Relaxed)
    }
}

/// One stream of a connection, counted until this is dropped.
pub struct Stream(Arc<Streams>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Which HTTP/2 connections will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// One on which a stream can begin at once.
    AtOnce,
    /// Any: the stream waits until another has ended.
    Eventually,
}

/// The leave to open a connection. While it is held nobody else opens one because those of the same key are full.
#[derive(Debug, Default)]
pub struct Opening(Option<Arc<()>>);

impl Opening {
    /// Whether there are connections, which are full.
    #[must_use]
    pub const fn is_for_one_more(&self) -> bool {
        self.0.is_some()
    }
}

/// The connections that are kept, and whether somebody looks after them.
#[derive(Default)]
pub(super) struct Pool {
    kept: Mutex<Kept>,
    swept: AtomicBool,
}

/// What a connection is found by, but for the readings.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    to: Destination,
    credential: Option<String>,
}

#[derive(Default)]
struct Kept {
    groups: HashMap<Key, Group>,
    /// Connections of all groups.
    count: usize,
}

/// Connections of one key, all of the same readings.
#[derive(Default)]
struct Group {
    readings: Readings,
    /// The one that was kept last stands last.
    idle: Vec<Idle>,
    /// Held by whoever opens one more because these are full.
    opening: Weak<()>,
}

struct Idle {
    since: Instant,
    lease: Lease,
}

impl Idle {
    fn is_usable(&self) -> bool {
        self.since.elapsed() < IDLE_CONNECTION_AGE_MAX && self.lease.is_open()
    }

    fn streams(&self) -> Option<&Arc<Streams>> {
        match &self.lease.sender {
            Sender::Http1(_) => None,
            Sender::Http2(_, streams) => Some(streams),
        }
    }
}

impl Pool {
    /// A connection for this destination and voice, or the leave to open one.
    pub(super) fn take(&self, to: Destination, voice: &Voice) -> Result<Lease, Opening> {
        let mut kept = self.kept();
        kept.in_group(to, voice, Group::take).unwrap_or_else(|| Err(Opening::default()))
    }

    /// A connection that another request is sent on as well, even if it has to wait there.
    pub(super) fn share(&self, to: Destination, voice: &Voice) -> Option<Lease> {
        self.kept().in_group(to, voice, |group| group.shared(Room::Eventually)).flatten()
    }

    /// Keeps a connection. Where there are too many of its key, it is let go; where there are too many of all, the oldest is.
    pub(super) fn put(self: &Arc<Self>, lease: Lease) {
        if !self.swept.swap(true, Ordering::Relaxed) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
        let mut kept = self.kept();
        let (to, voice) = (lease.to.clone(), lease.voice.clone());
        let key = Key { to: to.clone(), credential: voice.credential.clone() };
        kept.groups.entry(key).or_default();
        kept.in_group(to, &voice, |group| group.put(lease));
        if kept.count > IDLE_CONNECTIONS_MAX {
            kept.evict_oldest();
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Does something with the connections of this destination and voice, unless they are of newer readings.
    fn in_group<T>(
        &mut self,
        to: Destination,
        voice: &Voice,
        act: impl FnOnce(&mut Group) -> T,
    ) -> Option<T> {
        let key = Key { to, credential: voice.credential.clone() };
        let group = self.groups.get_mut(&key)?;
        let before = group.idle.len();
        group.follow(voice.readings);
        let done = (group.readings == voice.readings).then(|| act(group));
        let after = group.idle.len();
        if after == 0 {
            self.groups.remove(&key);
        }
        self.count = (self.count + after).saturating_sub(before);
        done
    }

    /// Only a flood of names comes here, and each connection of it has cost a handshake: all may be looked at.
    fn evict_oldest(&mut self) {
        let ages = self.groups.iter().filter_map(|(key, group)| Some((group.oldest()?, key)));
        let Some(((since, at), key)) = ages.min_by_key(|((since, _), _)| *since) else { return };
        tracing::debug!(age = ?since.elapsed(), "an idle upstream connection makes room for another");
        let key = key.clone();
        if let Some(group) = self.groups.get_mut(&key) {
            group.idle.remove(at);
            self.count = self.count.saturating_sub(1);
            if group.idle.is_empty() {
                self.groups.remove(&key);
            }
        }
    }

    fn retain_usable(&mut self) {
        self.groups.retain(|_, group| {
            group.idle.retain(Idle::is_usable);
            !group.idle.is_empty()
        });
        self.count = self.groups.values().map(|group| group.idle.len()).sum();
    }
}

impl Group {
    /// Ends the connections of what has been replaced.
    fn follow(&mut self, readings: Readings) {
        let latest = self.readings.latest(readings);
        if self.readings != latest {
            self.readings = latest;
            self.idle.clear();
        }
    }

    fn take(&mut self) -> Result<Lease, Opening> {
        while self.idle.last().is_some_and(|last| !last.is_usable()) {
            self.idle.pop();
        }
        if self.idle.last().is_some_and(|last| last.streams().is_none()) {
            return self.idle.pop().map(|last| last.lease).ok_or_else(Opening::default);
        }
        if let Some(lease) = self.shared(Room::AtOnce) {
            return Ok(lease);
        }
        if self.idle.len() < H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX && self.opening.strong_count() == 0 {
            let leave = Arc::new(());
            self.opening = Arc::downgrade(&leave);
            return Err(Opening(Some(leave)));
        }
        self.shared(Room::Eventually).ok_or_else(Opening::default)
    }

    /// The HTTP/2 connection with the fewest streams.
    fn shared(&mut self, room: Room) -> Option<Lease> {
        let fits = |idle: &&mut Idle| {
            idle.is_usable() && idle.streams().is_some_and(|s| room == Room::Eventually || s.has_room())
        };
        let streams = |idle: &&mut Idle| idle.streams().map(|streams| streams.open.load(Ordering::Relaxed));
        let found = self.idle.iter_mut().filter(fits).min_by_key(streams)?;
        found.since = Instant::now();
        found.lease.shared()
    }

    fn put(&mut self, lease: Lease) {
        let most = match lease.sender {
            Sender::Http1(_) => IDLE_CONNECTIONS_PER_HOST_MAX,
            Sender::Http2(..) => H2_UPSTREAM_CONNECTIONS_PER_KEY_MAX,
        };
        if self.idle.len() >= most {
            self.idle.retain(Idle::is_usable);
        }
        if self.idle.len() < most {
            self.idle.push(Idle { since: Instant::now(), lease });
        }
    }

    /// Since when the one lies idle that has done so for longest, and where it stands.
    fn oldest(&self) -> Option<(Instant, usize)> {
        self.idle.iter().enumerate().map(|(at, idle)| (idle.since, at)).min()
    }
}

/// Ends connections that nobody used for too long, until the policy they were made under is gone.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE_SWEEP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.kept().retain_usable();
    }
}

#[cfg(test)]
mod tests;

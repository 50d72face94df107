//! The invariants, held against each revision in its order.
//!
//! Times are since the watch began, and are given: nothing here has a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use memchr::memmem;

use crate::object::{self, Body, Meta, Object, Pod};

/// How long after its sandbox a child may still exist (catalogue, I4).
const ORPHAN_GRACE: Duration = Duration::from_secs(60);
/// What the operator wrote may be about what was so a moment before: a pod that ceased to be ready, or a class that was edited.
const NEWS_GRACE: Duration = Duration::from_secs(5);
/// A write that the operator gave up after its 15 s may yet be committed, by a store that was away.
const LATE_WRITE_GRACE: Duration = Duration::from_secs(20);
/// Shorter values, such as `true`, are found anywhere by chance.
const SECRET_BYTES_MIN: usize = 12;

/// The invariants that revisions can show. I8 is about requests: `tests/whole_run.rs` reads it from the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// No sandbox's pod comes into being before a NetworkPolicy that selects it.
    I1,
    /// Every agent's pod has the RuntimeClass that its class asks for.
    I2,
    /// No agent's pod holds a token of its ServiceAccount.
    I3,
    /// No child exists a minute after its sandbox.
    I4,
    /// A credential's value is in no object but Secrets, and mounted in no pod but a proxy's.
    I5,
    /// A sandbox has at most one agent's pod.
    I6,
    /// A sandbox that is Ready has a pod that is ready, its walls, and is so at its generation.
    I7,
    /// Nothing runs of a sandbox that is said to be suspended, and nothing is started.
    I10,
}

/// All of them.
pub const ALL: [Invariant; 8] = [
    Invariant::I1,
    Invariant::I2,
    Invariant::I3,
    Invariant::I4,
    Invariant::I5,
    Invariant::I6,
    Invariant::I7,
    Invariant::I10,
];

/// One revision that broke an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// The revision of etcd.
    pub revision: u64,
    /// What it shows.
    pub what: String,
}

/// One change of one key.
#[derive(Clone, Debug)]
pub struct Event {
    /// The revision of etcd that it made.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// The new value; none if the key was deleted.
    pub value: Option<Bytes>,
    /// When it was seen.
    pub at: Duration,
}

#[derive(Clone, Debug)]
struct Held {
    object: Object,
    value: Bytes,
}

/// A value that nobody but its Secret may hold, in the spellings in which an object would hold it.
#[derive(Clone, Debug)]
struct Protected {
    secret: String,
    spellings: Vec<Vec<u8>>,
}

/// The cluster as of the last revision, and what has been found.
#[derive(Debug, Default)]
pub struct Watcher {
    objects: BTreeMap<String, Held>,
    protected: BTreeMap<Vec<u8>, Protected>,
    /// Sandboxes that are gone, and since when.
    gone: BTreeMap<String, Duration>,
    /// When an agent's pod, by its sandbox's UID, was last seen to be ready.
    ready: BTreeMap<String, Duration>,
    /// The generation of each sandbox by its UID, and since when it has it.
    generations: BTreeMap<String, (u64, Duration)>,
    /// Since when each sandbox that is said to be suspended is, by its UID.
    off: BTreeMap<String, Duration>,
    /// What each class asked for lately, and until when.
    classes: BTreeMap<String, Vec<(Option<String>, Duration)>>,
    judged: BTreeMap<Invariant, usize>,
    violations: Vec<Violation>,
}

impl Watcher {
    /// What was there when the watch began: it is known, and its coming into being is not judged.
    pub fn known(&mut self, event: &Event) {
        self.take(event);
    }

    /// Judges one change. Changes come in the order of their revisions.
    pub fn see(&mut self, event: &Event) {
        let before = self.objects.get(&event.key).map(|held| held.object.body.clone());
        let is_new = before.is_none();
        self.take(event);
        self.orphans(event.revision, event.at);
        let Some(held) = self.objects.get(&event.key).cloned().filter(|_| event.value.is_some()) else {
            return;
        };
        let meta = &held.object.meta;
        match &held.object.body {
            Body::Pod(pod) => self.pod(event, meta, pod, is_new),
            Body::Sandbox(sandbox) => {
                // What was said before is not said again by whoever edits something else meanwhile.
                let said = matches!(&before, Some(Body::Sandbox(before)) if before.ready == sandbox.ready);
                if let Some(generation) = sandbox.ready.filter(|_| !said) {
                    self.is_ready(event, meta, generation);
                }
                let was_off = matches!(&before, Some(Body::Sandbox(before)) if before.is_off);
                if sandbox.is_off && !was_off {
                    self.is_off(event, meta);
                }
            }
            _ => {}
        }
        self.hides_no_secret(event, &held.value);
    }

    /// What is due by now though nothing has changed.
    pub fn end(&mut self, revision: u64, now: Duration) {
        self.orphans(revision, now);
    }

    /// How often each invariant was judged: one that never was is not shown by the absence of violations.
    #[must_use]
    pub fn judged(&self, invariant: Invariant) -> usize {
        self.judged.get(&invariant).copied().unwrap_or_default()
    }

    /// Everything that was found, in order.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    fn claim(&mut self, invariant: Invariant, revision: u64, holds: bool, what: impl FnOnce() -> String) {
        *self.judged.entry(invariant).or_default() += 1;
        if !holds {
            self.violations.push(Violation { invariant, revision, what: what() });
        }
    }

    /// Takes a change into what is known.
    fn take(&mut self, event: &Event) {
        let Some(value) = &event.value else {
            let Some(Held { object, .. }) = self.objects.remove(&event.key) else { return };
            match object.body {
                Body::Sandbox(_) => {
                    self.off.remove(&object.meta.uid);
                    self.gone.insert(object.meta.uid, event.at);
                }
                Body::Pod(pod) if pod.component == "agent" => self.no_longer_ready(&object.meta, event.at),
                _ => {}
            }
            return;
        };
        // A value that cannot be read is still searched for secrets; etcd holds more than objects.
        let object = object::read(&event.key, value).unwrap_or_default();
        match &object.body {
            Body::Class(runtime) => {
                let values = self.classes.entry(object.meta.name.clone()).or_default();
                if let Some((_, until)) = values.last_mut() {
                    *until = event.at;
                }
                values.push((runtime.clone(), Duration::MAX));
            }
            Body::Pod(pod) if pod.is_ready && pod.component == "agent" => {
                self.ready.extend(object.meta.sandbox.clone().map(|uid| (uid, Duration::MAX)));
            }
            Body::Pod(pod) if pod.component == "agent" => self.no_longer_ready(&object.meta, event.at),
            Body::Sandbox(sandbox) => {
                if sandbox.is_off {
                    self.off.entry(object.meta.uid.clone()).or_insert(event.at);
                } else {
                    self.off.remove(&object.meta.uid);
                }
                let held = self.generations.entry(object.meta.uid.clone()).or_default();
                if held.0 != object.meta.generation {
                    *held = (object.meta.generation, event.at);
                }
            }
            _ => {}
        }
        let protects = matches!(object.body, Body::Secret(_) | Body::Credential(..));
        self.objects.insert(event.key.clone(), Held { object, value: value.clone() });
        if protects {
            self.protect(event.revision);
        }
    }

    fn no_longer_ready(&mut self, meta: &Meta, at: Duration) {
        let since = meta.sandbox.as_ref().and_then(|uid| self.ready.get_mut(uid));
        if let Some(since) = since.filter(|since| **since == Duration::MAX) {
            *since = at;
        }
    }

    fn pod(&mut self, event: &Event, meta: &Meta, pod: &Pod, is_new: bool) {
        let name = format!("pod {}/{}", meta.namespace, meta.name);
        let credential = pod.secrets.iter().find(|secret| {
            let key = format!("/registry/secrets/{}/{secret}", meta.namespace);
            self.protected.values().any(|protected| protected.secret == key)
        });
        if let Some(secret) = credential.cloned() {
            let is_proxy = meta.sandbox.is_some() && pod.component == "proxy";
            let what = || format!("{name} is no proxy and is given the Secret {secret}");
            self.claim(Invariant::I5, event.revision, is_proxy, what);
        }
        let Some(uid) = meta.sandbox.clone().filter(|_| is_new) else { return };
        let wall = self.objects.values().any(|held| {
            let in_namespace = held.object.meta.namespace == meta.namespace;
            matches!(&held.object.body, Body::Policy(policy) if in_namespace && policy.walls_in(&meta.labels))
        });
        self.claim(Invariant::I1, event.revision, wall, || format!("{name} is behind no wall"));
        if let Some(since) = self.off.get(&uid) {
            let is_late = since.saturating_add(LATE_WRITE_GRACE) >= event.at;
            self.claim(Invariant::I10, event.revision, is_late, || {
                format!("{name} is of a suspended sandbox")
            });
        }
        if pod.component != "agent" {
            return;
        }
        let asked = self.runtime_classes(&uid, event.at);
        let is_asked = asked.iter().any(|one| one.as_deref().unwrap_or_default() == pod.runtime_class);
        self.claim(Invariant::I2, event.revision, is_asked, || {
            format!("{name} has the RuntimeClass {:?}, its class asks for {asked:?}", pod.runtime_class)
        });
        self.claim(Invariant::I3, event.revision, !pod.has_token, || format!("{name} holds a token"));
        let agents = self.objects.values().filter(|held| {
            let is_agent = matches!(&held.object.body, Body::Pod(pod) if pod.component == "agent");
            is_agent && held.object.meta.sandbox.as_ref() == Some(&uid)
        });
        let count = agents.count();
        let what = || format!("{name} is one of {count} agents of one sandbox");
        self.claim(Invariant::I6, event.revision, count == 1, what);
    }

    /// The RuntimeClasses that the class of a sandbox asks for, or asked for until a moment ago.
    fn runtime_classes(&self, uid: &str, at: Duration) -> Vec<Option<String>> {
        let sandbox = self.objects.values().find(|held| held.object.meta.uid == uid);
        let Some((Body::Sandbox(sandbox), meta)) = sandbox.map(|held| (&held.object.body, &held.object.meta))
        else {
            return Vec::new();
        };
        let template = self.objects.values().find_map(|held| match &held.object.body {
            Body::Template(class) => {
                let is_its = held.object.meta.namespace == meta.namespace
                    && Some(&held.object.meta.name) == sandbox.template.as_ref();
                is_its.then_some(class.as_ref()).flatten()
            }
            _ => None,
        });
        // One that is named nowhere is the one that the operator chose and wrote down.
        let class = sandbox.class.as_ref().or(template).or(sandbox.told_class.as_ref());
        let values = class.and_then(|class| self.classes.get(class)).into_iter().flatten();
        let lately = values.filter(|(_, until)| until.saturating_add(NEWS_GRACE) >= at);
        lately.map(|(runtime, _)| runtime.clone()).collect()
    }

    fn is_ready(&mut self, event: &Event, meta: &Meta, generation: u64) {
        let name = format!("sandbox {}/{}", meta.namespace, meta.name);
        let until = self.ready.get(&meta.uid).copied();
        let pod = until.is_some_and(|until| until.saturating_add(NEWS_GRACE) >= event.at);
        let own = self.objects.values().filter(|held| held.object.meta.sandbox.as_ref() == Some(&meta.uid));
        let walls = own.filter(|held| matches!(held.object.body, Body::Policy(_))).count();
        // Its spec may have changed while the status was on its way.
        let since = self.generations.get(&meta.uid).map_or(Duration::ZERO, |(_, since)| *since);
        let is_of_now = generation == meta.generation || since + NEWS_GRACE >= event.at;
        let holds = pod && walls >= 2 && is_of_now;
        self.claim(Invariant::I7, event.revision, holds, || {
            format!(
                "{name} is Ready at generation {generation} of {}, its pod is ready: {pod}, walls: {walls}",
                meta.generation
            )
        });
    }

    /// A sandbox is said to be suspended from now on.
    fn is_off(&mut self, event: &Event, meta: &Meta) {
        let own = self.objects.values().filter(|held| held.object.meta.sandbox.as_ref() == Some(&meta.uid));
        let lives = |held: &&Held| matches!(&held.object.body, Body::Pod(pod) if !pod.has_ended);
        let pods: Vec<String> = own.filter(lives).map(|held| held.object.meta.name.clone()).collect();
        let what = || {
            format!(
                "sandbox {}/{} is said to be suspended, and there are {pods:?}",
                meta.namespace, meta.name
            )
        };
        self.claim(Invariant::I10, event.revision, pods.is_empty(), what);
    }

    /// Children whose sandbox has been gone for too long.
    fn orphans(&mut self, revision: u64, now: Duration) {
        let due = |(_, since): &(&String, &Duration)| since.saturating_add(ORPHAN_GRACE) <= now;
        let due: BTreeSet<String> = self.gone.iter().filter(due).map(|(uid, _)| uid.clone()).collect();
        for uid in due {
            self.gone.remove(&uid);
            let own = self.objects.iter().filter(|(_, held)| held.object.meta.sandbox.as_ref() == Some(&uid));
            let left: Vec<_> = own.map(|(key, _)| key.clone()).collect();
            let what = || format!("a minute after their sandbox {uid} there are {left:?}");
            self.claim(Invariant::I4, revision, left.is_empty(), what);
        }
    }

    /// Learns which values are credentials, and searches what is there for those that are new.
    fn protect(&mut self, revision: u64) {
        let mut learned = Vec::new();
        for held in self.objects.values() {
            let Body::Credential(secret, entry) = &held.object.body else { continue };
            let key = format!("/registry/secrets/{}/{secret}", held.object.meta.namespace);
            let Some(Body::Secret(data)) = self.objects.get(&key).map(|held| &held.object.body) else {
                continue;
            };
            let value = data.get(entry).map(|value| value.trim_ascii().to_vec()).unwrap_or_default();
            if value.len() >= SECRET_BYTES_MIN && !self.protected.contains_key(&value) {
                let spellings = vec![value.clone(), STANDARD.encode(&value).into_bytes()];
                learned.push((value, Protected { secret: key, spellings }));
            }
        }
        for (value, protected) in learned {
            let leaks: Vec<_> =
                self.objects.iter().filter(|(key, held)| holds(key, &held.value, &protected)).collect();
            let keys: Vec<_> = leaks.into_iter().map(|(key, _)| key.clone()).collect();
            let what = || format!("the value of {} is also in {keys:?}", protected.secret);
            self.claim(Invariant::I5, revision, keys.is_empty(), what);
            self.protected.insert(value, protected);
        }
    }

    fn hides_no_secret(&mut self, event: &Event, value: &Bytes) {
        let found = self.protected.values().find(|protected| holds(&event.key, value, protected));
        let found = found.map(|protected| protected.secret.clone());
        if !self.protected.is_empty() {
            let what = || format!("{} holds the value of {}", event.key, found.clone().unwrap_or_default());
            self.claim(Invariant::I5, event.revision, found.is_none(), what);
        }
    }
}

/// Whether a value that is no Secret holds what is protected. Two Secrets may hold one key: whoever wrote them had it.
fn holds(key: &str, value: &[u8], protected: &Protected) -> bool {
    let spelled = |spelling: &Vec<u8>| memmem::find(value, spelling).is_some();
    !key.starts_with("/registry/secrets/") && protected.spellings.iter().any(spelled)
}

#[cfg(test)]
mod tests;

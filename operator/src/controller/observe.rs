//! What exists: the sandbox's children, everything it refers to, and whether its proxy is closed to others.
//!
//! Reads come from watches, so a reconcile sends no LIST. A watch is a moment late, and right after a write of our own
//! that would mean a second creation, so what we wrote is remembered until the watch brings it ([`Recent`]), and what it
//! then brings is no news ([`echoes`]). The one active read is the [`probe`]: the operator's own connection to the proxy's
//! data port, which has to fail.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agentsandbox_crds::names::LABEL_SANDBOX_UID;
use agentsandbox_crds::{AgentCredential, AgentSandbox, AgentSandboxClass, AgentSandboxTemplate};
use futures::channel::mpsc::UnboundedSender;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::time::Instant;

use super::accept::Identity;
use super::desired::{Child, ChildKind, Component, names, proxy_pod};
use super::memory::Failed;
use crate::shelf::Shelf;

pub mod activity;
pub mod denials;
mod echoes;
mod growth;
mod probe;

pub use echoes::Sent;
pub use growth::Ungrown;
pub use probe::{Closedness, ProxyClosed, closedness};

use echoes::{Echoes, SANDBOX_KIND};
use growth::Growth;
use probe::Sightings;

/// A watch that has not brought our own write after this time is not merely late.
const RECENT_MAX_AGE: Duration = Duration::from_secs(3);

/// How long a pod that was changed on its way is not created again: each time twice as long, up to the longer one.
const WITHHELD_MIN: Duration = Duration::from_secs(5);
const WITHHELD_MAX: Duration = Duration::from_secs(300);

/// A watch that still shows a sandbox after this time is not behind: the sandbox is there.
const GONE_MAX_AGE: Duration = Duration::from_secs(60);

/// The watches, as seen by a reader.
#[derive(Clone, Debug)]
pub struct Stores {
    /// Sandboxes.
    pub sandboxes: Store<AgentSandbox>,
    /// Credentials.
    pub credentials: Store<AgentCredential>,
    /// Classes.
    pub classes: Store<AgentSandboxClass>,
    /// Templates.
    pub templates: Store<AgentSandboxTemplate>,
    /// RuntimeClasses, of which only the names matter.
    pub runtime_classes: Store<PartialObjectMeta<RuntimeClass>>,
    /// All policies, ours and others'.
    pub network_policies: Shelf<NetworkPolicy>,
    /// Our ServiceAccounts.
    pub service_accounts: Shelf<ServiceAccount>,
    /// Our ConfigMaps.
    pub config_maps: Shelf<ConfigMap>,
    /// Our claims.
    pub claims: Shelf<PersistentVolumeClaim>,
    /// Our Services.
    pub services: Shelf<Service>,
    /// Our pods.
    pub pods: Shelf<Pod>,
}

/// What a sandbox may refer to.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// All classes.
    pub classes: Vec<Arc<AgentSandboxClass>>,
    /// The credentials of the namespace, by name.
    pub credentials: BTreeMap<String, Arc<AgentCredential>>,
    /// Names of all RuntimeClasses.
    pub runtime_classes: BTreeSet<String>,
}

/// What exists.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Objects with the names of the sandbox's children, whoever owns them.
    pub children: BTreeMap<(ChildKind, String), Child>,
    /// The policies of the namespace that can select a pod of the sandbox.
    pub policies: Vec<Arc<NetworkPolicy>>,
    /// When to look again, where something here is our own write that no watch has brought: it may be gone by now.
    pub look_again_in: Option<Duration>,
    /// The agent's pod that last failed before its program was started, as it is remembered.
    pub failed: Option<Failed>,
    /// What its claim was refused a moment ago.
    pub ungrown: Option<Ungrown>,
    /// No pass has come as far as its first child: the sandbox has neither our finalizer nor a status.
    pub is_new: bool,
}

/// What is known of one object.
#[derive(Debug, PartialEq)]
enum Sighted {
    /// What the watch shows.
    Watched(Option<Child>),
    /// What we wrote; the watch is behind.
    Written(Child),
}

/// Kind, namespace and name.
type RecentKey = (ChildKind, String, String);

/// Our own writes that the watches have not brought yet, and what probes have seen.
#[derive(Debug)]
pub struct Recent {
    max_age: Duration,
    children: Mutex<HashMap<RecentKey, (Child, Instant)>>,
    sandboxes: Mutex<HashMap<String, AgentSandbox>>,
    sightings: Sightings,
    gone: Mutex<HashMap<String, Instant>>,
    withheld: Mutex<HashMap<(String, String), Withheld>>,
    /// UIDs of walls as we last wrote them, by their sandbox's UID and their name.
    walls: Mutex<HashMap<String, BTreeMap<String, String>>>,
    growth: Growth,
    echoes: Echoes,
}

/// A pod that something on the way changes whenever it is created.
#[derive(Debug)]
struct Withheld {
    until: Instant,
    count: u32,
    what: String,
}

impl Default for Recent {
    fn default() -> Self {
        Self::keeping(RECENT_MAX_AGE)
    }
}

impl Observed {
    /// The object of that kind and name, whoever owns it.
    #[must_use]
    pub fn child(&self, kind: ChildKind, name: &str) -> Option<&Child> {
        self.children.get(&(kind, name.to_owned()))
    }

    /// The proxy's pod, if it is ours.
    #[must_use]
    pub fn proxy_pod(&self, identity: &Identity) -> Option<&Pod> {
        self.own_pod(identity, Component::Proxy)
    }

    /// The agent's pod, if it is ours.
    #[must_use]
    pub fn agent_pod(&self, identity: &Identity) -> Option<&Pod> {
        self.own_pod(identity, Component::Agent)
    }

    /// The same, with a pod that was just read or written.
    #[must_use]
    pub fn with_pod(mut self, pod: Pod) -> Self {
        let child = Child::Pod(Box::new(pod));
        self.children.insert((child.kind(), child.name().to_owned()), child);
        self
    }

    fn own_pod(&self, identity: &Identity, component: Component) -> Option<&Pod> {
        self.child(ChildKind::Pod, &component.name(identity))
            .and_then(Child::pod)
            .filter(|pod| super::plan::is_owned(&pod.metadata, identity))
    }
}

/// The newest known version of a sandbox: our own last patch, or the watch's.
#[must_use]
pub fn newest(sandbox: Arc<AgentSandbox>, recent: &Recent) -> Arc<AgentSandbox> {
    let version =
        |s: &AgentSandbox| s.resource_version().and_then(|v| v.parse::<u64>().ok()).unwrap_or_default();
    let mut all = recent.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
    let key = sandbox.uid().unwrap_or_default();
    match all.get(&key) {
        Some(own) if version(own) > version(&sandbox) => Arc::new(own.clone()),
        Some(_) => {
            all.remove(&key);
            sandbox
        }
        None => sandbox,
    }
}

/// Everything a sandbox may refer to.
#[must_use]
pub fn references(stores: &Stores, namespace: &str) -> References {
    let credentials = stores.credentials.state_filter(|c| c.metadata.namespace.as_deref() == Some(namespace));
    References {
        classes: in_order(stores.classes.state()),
        credentials: credentials.into_iter().map(|c| (c.name_any(), c)).collect(),
        runtime_classes: stores.runtime_classes.state().iter().map(|c| c.name_any()).collect(),
    }
}

/// The objects with the names of the sandbox's children, and the policies that can select its pods: by the labels that they
/// are given, or by those that they have.
#[must_use]
pub fn observed(stores: &Stores, recent: &Recent, identity: &Identity) -> Observed {
    let namespace = identity.namespace.as_str();
    let (mut children, mut look_again_in) = (BTreeMap::new(), None);
    for (kind, name) in names(&identity.name) {
        let watched = watched(stores, kind, namespace, &name);
        let child = match recent.overlay(kind, identity, &name, watched) {
            Sighted::Watched(child) => child,
            Sighted::Written(child) => {
                look_again_in = Some(recent.max_age);
                Some(child)
            }
        };
        children.extend(child.map(|child| ((kind, name), child)));
    }
    let pods = children.values().filter_map(Child::pod);
    let mut uids: Vec<&str> =
        pods.filter_map(|pod| pod.labels().get(LABEL_SANDBOX_UID)).map(String::as_str).collect();
    uids.push(&identity.uid);
    let policies = stores.network_policies.filtered(|place, policy| {
        place == Some(namespace) && policy.selects_only.as_deref().is_none_or(|uid| uids.contains(&uid))
    });
    let ungrown = recent.growth.ungrown(&identity.uid);
    Observed { children, policies: in_order(policies), look_again_in, failed: None, ungrown, is_new: false }
}

/// What a store holds, by namespace and name. A store has an order of its own in each process, and what is told or sent must
/// not depend on it: two replicas, and one that was started again, come to the same.
#[must_use]
pub fn in_order<K: ResourceExt>(mut all: Vec<Arc<K>>) -> Vec<Arc<K>> {
    all.sort_by_cached_key(|one| (one.namespace(), one.name_any()));
    all
}

fn watched(stores: &Stores, kind: ChildKind, namespace: &str, name: &str) -> Option<Child> {
    match kind {
        ChildKind::ServiceAccount => stores.service_accounts.get(namespace, name).map(Child::ServiceAccount),
        ChildKind::NetworkPolicy => stores.network_policies.get(namespace, name).map(Child::NetworkPolicy),
        ChildKind::ConfigMap => stores.config_maps.get(namespace, name).map(Child::ConfigMap),
        ChildKind::PersistentVolumeClaim => {
            stores.claims.get(namespace, name).map(Box::new).map(Child::PersistentVolumeClaim)
        }
        ChildKind::Service => stores.services.get(namespace, name).map(Box::new).map(Child::Service),
        ChildKind::Pod => stores.pods.get(namespace, name).map(Box::new).map(Child::Pod),
    }
}

/// Since when a pod is ready; none if it is not, or on its way out.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|c| c.type_ == "Ready" && c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Since when a proxy serves; none if it does not, or is on its way out. The kubelet calls its container started once its
/// own `await-serving` has ended well there, which is before its readiness probe says so.
#[must_use]
pub fn serving_since(proxy: &Pod) -> Option<Timestamp> {
    if proxy.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let containers = proxy.status.as_ref()?.container_statuses.as_ref()?;
    let container = containers.iter().find(|status| status.name == proxy_pod::CONTAINER)?;
    let running = container.state.as_ref()?.running.as_ref().filter(|_| container.started == Some(true))?;
    Some(running.started_at.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// A pod's address.
#[must_use]
pub fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

impl Recent {
    /// Keeps own writes for so long that a watch which has not brought them then is not merely late.
    pub(crate) fn keeping(max_age: Duration) -> Self {
        Self {
            max_age,
            children: Mutex::default(),
            sandboxes: Mutex::default(),
            sightings: Sightings::default(),
            gone: Mutex::default(),
            withheld: Mutex::default(),
            walls: Mutex::default(),
            growth: Growth::default(),
            echoes: Echoes::default(),
        }
    }

    /// Wakes sandboxes by `wake` where what a watch brought while a write of ours was under way is news.
    #[must_use]
    pub fn waking(wake: UnboundedSender<ObjectRef<AgentSandbox>>) -> Self {
        Self { echoes: Echoes::waking(wake), ..Self::default() }
    }

    /// A creation of a child begins.
    pub fn creates(&self, kind: ChildKind, identity: &Identity, name: &str) -> Sent<'_> {
        self.echoes.sent(kind.as_str(), &identity.namespace, name, &identity.name)
    }

    /// A patch of a sandbox begins.
    pub fn patches(&self, sandbox: &AgentSandbox) -> Sent<'_> {
        let name = sandbox.name_any();
        self.echoes.sent(SANDBOX_KIND, &sandbox.namespace().unwrap_or_default(), &name, &name)
    }

    /// Whom a child wakes that a watch shows: not the sandbox for which we created it just so.
    pub fn woken<K: ResourceExt>(
        &self,
        kind: ChildKind,
        shown: &K,
        mut woken: Vec<ObjectRef<AgentSandbox>>,
    ) -> Vec<ObjectRef<AgentSandbox>> {
        if !self.echoes.is_echo(kind.as_str(), shown.meta(), &mut woken) {
            return woken;
        }
        let key = (kind, shown.namespace().unwrap_or_default(), shown.name_any());
        let mut all = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        if all.get(&key).is_some_and(|(own, _)| own.metadata().resource_version == shown.resource_version()) {
            all.remove(&key);
        }
        woken
    }

    /// Whether a sandbox that a watch shows is news: it is not, if we patched it just so.
    pub fn is_news(&self, shown: &AgentSandbox) -> bool {
        let mut woken = vec![ObjectRef::from_obj(shown)];
        if !self.echoes.is_echo(SANDBOX_KIND, &shown.metadata, &mut woken) {
            return true;
        }
        let mut all = self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = shown.uid().unwrap_or_default();
        if all.get(&uid).is_some_and(|own| own.resource_version() == shown.resource_version()) {
            all.remove(&uid);
        }
        false
    }

    /// When to look again after a pass: what it wrote, and no watch has brought, may be gone by then, and what was refused be granted.
    #[must_use]
    pub fn look_again_in(&self, sandbox_uid: &str) -> Option<Duration> {
        let awaited = self.echoes.is_awaited(sandbox_uid).then_some(self.max_age);
        awaited.into_iter().chain(self.growth.again_in(sandbox_uid)).min()
    }

    /// Asks for the size of this claim again only after a pause.
    pub fn refused_growth(&self, sandbox_uid: &str, wanted: &PersistentVolumeClaim) {
        self.growth.refused(sandbox_uid, wanted);
    }

    /// Remembers an object as the API server answered our creation, until a watch shows it.
    pub fn created(&self, sent: Sent<'_>, identity: &Identity, child: &Child) {
        if sent.answered(child.metadata(), &identity.uid) {
            self.put_up(child);
        } else {
            self.wrote(&identity.namespace, child.clone());
        }
    }

    /// Remembers an object as the API server answered our write.
    pub fn wrote(&self, namespace: &str, child: Child) {
        self.put_up(&child);
        let key = (child.kind(), namespace.to_owned(), child.name().to_owned());
        self.children.lock().unwrap_or_else(PoisonError::into_inner).insert(key, (child, Instant::now()));
    }

    /// Remembers which wall is ours, if it is one.
    fn put_up(&self, child: &Child) {
        let meta = child.metadata();
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        if let (ChildKind::NetworkPolicy, Some(owner), Some(uid)) = (child.kind(), owner, &meta.uid) {
            let mut walls = self.walls.lock().unwrap_or_else(PoisonError::into_inner);
            walls.entry(owner.uid.clone()).or_default().insert(child.name().to_owned(), uid.clone());
        }
    }

    /// Remembers a sandbox as the API server answered our patch, until a watch shows it.
    pub fn patched(&self, sent: Sent<'_>, sandbox: AgentSandbox) {
        let key = sandbox.uid().unwrap_or_default();
        if sent.answered(&sandbox.metadata, &key) {
            return;
        }
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner).insert(key, sandbox);
    }

    /// Forgets everything about a sandbox that is gone, but that it is.
    pub fn forget(&self, sandbox_uid: &str) {
        let mut gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.retain(|_, since| since.elapsed() < GONE_MAX_AGE);
        gone.insert(sandbox_uid.to_owned(), Instant::now());
        drop(gone);
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner).remove(sandbox_uid);
        self.withheld.lock().unwrap_or_else(PoisonError::into_inner).retain(|(uid, _), _| uid != sandbox_uid);
        self.walls.lock().unwrap_or_else(PoisonError::into_inner).remove(sandbox_uid);
        self.growth.forget(sandbox_uid);
        self.sightings.forget(sandbox_uid);
        self.echoes.forget(sandbox_uid);
    }

    /// UID of a wall as we last wrote it, if we did; whether it stands still is for the API server to say.
    #[must_use]
    pub fn own_wall(&self, sandbox_uid: &str, name: &str) -> Option<String> {
        let walls = self.walls.lock().unwrap_or_else(PoisonError::into_inner);
        walls.get(sandbox_uid)?.get(name).cloned()
    }

    /// Why a pod is not created yet, if the last ones of its name were changed on their way.
    #[must_use]
    pub fn withheld(&self, sandbox_uid: &str, pod: &str) -> Option<String> {
        let all = self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
        let one = all.get(&(sandbox_uid.to_owned(), pod.to_owned()))?;
        (Instant::now() < one.until).then(|| one.what.clone())
    }

    /// Creates a pod of this name later only, for the one that was created was changed on its way.
    pub fn withhold(&self, sandbox_uid: &str, pod: &str, what: &str) {
        let mut all = self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (sandbox_uid.to_owned(), pod.to_owned());
        let count = all.get(&key).map_or(0, |one| one.count.saturating_add(1));
        let pause = WITHHELD_MIN.saturating_mul(2_u32.saturating_pow(count)).min(WITHHELD_MAX);
        all.insert(key, Withheld { until: Instant::now() + pause, count, what: what.to_owned() });
    }

    /// A pod of this name is as it was sent.
    pub fn release(&self, sandbox_uid: &str, pod: &str) {
        let mut all = self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&(sandbox_uid.to_owned(), pod.to_owned()));
    }

    /// Whether a sandbox is gone, though a watch that is behind may still show it.
    #[must_use]
    pub fn is_gone(&self, sandbox_uid: &str) -> bool {
        let gone = self.gone.lock().unwrap_or_else(PoisonError::into_inner);
        gone.get(sandbox_uid).is_some_and(|since| since.elapsed() < GONE_MAX_AGE)
    }

    /// What the watch shows, or what we wrote for this very sandbox if the watch is behind.
    ///
    /// A wall that no watch shows is never taken for standing: "not there yet" and "deleted at once" look the same, and
    /// only the first may be waited for. A second creation of one that stands is refused, which costs a read.
    fn overlay(&self, kind: ChildKind, identity: &Identity, name: &str, watched: Option<Child>) -> Sighted {
        let key = (kind, identity.namespace.clone(), name.to_owned());
        let mut all = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((own, since)) = all.get(&key) else { return Sighted::Watched(watched) };
        let version = |c: &Child| c.metadata().resource_version.as_ref().and_then(|v| v.parse::<u64>().ok());
        let behind = match &watched {
            Some(seen) => version(seen) < version(own),
            None => kind != ChildKind::NetworkPolicy,
        };
        let ours = super::plan::is_ours(own, identity);
        if behind && ours && since.elapsed() < self.max_age {
            return Sighted::Written(own.clone());
        }
        all.remove(&key);
        Sighted::Watched(watched)
    }
}

#[cfg(test)]
mod tests;

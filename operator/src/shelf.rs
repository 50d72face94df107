//! What the watches hold of a sandbox's children: each as the JSON that it came as.
//!
//! An object of the API is mostly fields that are not set, and a sandbox has nine of them. As text each takes a fraction of the
//! memory that it takes as a structure, and it is read for a pass of its own sandbox only. What is asked of all
//! objects at once stands beside the text ([`Shelved::Note`]), so that nothing is read to find out that it is not meant.

use std::borrow::Cow;
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Resource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{Lookup, ObjectRef, Store, store};
use kube::runtime::watcher::Event;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::controller::evaluate::selects_only;
use crate::controller::orphans::{is_deleted_and_held, is_deleted_and_kept};

/// A kind that is held as text.
pub trait Shelved:
    Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned + Send + Sync
{
    /// What is asked of all objects of the kind at once.
    type Note: Clone + Debug + Send + Sync;

    /// The same, of this one.
    fn note(&self) -> Self::Note;
}

/// What is asked of all policies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyNote {
    /// UID of the only sandbox whose pods it can select ([`selects_only`]).
    pub selects_only: Option<Box<str>>,
    /// Whether it was deleted and is there by our finalizer ([`is_deleted_and_held`]).
    pub is_held: bool,
}

/// What is asked of all pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodNote {
    /// Whether it was deleted and is there by our finalizer ([`is_deleted_and_kept`]).
    pub is_kept: bool,
}

impl Shelved for NetworkPolicy {
    type Note = PolicyNote;

    fn note(&self) -> PolicyNote {
        PolicyNote { selects_only: selects_only(self).map(Box::from), is_held: is_deleted_and_held(self) }
    }
}

impl Shelved for Pod {
    type Note = PodNote;

    fn note(&self) -> PodNote {
        PodNote { is_kept: is_deleted_and_kept(self) }
    }
}

/// Kinds that are asked for by their names only.
macro_rules! by_name {
    ($($kind:ty),+) => {$(
        impl Shelved for $kind {
            type Note = ();

            fn note(&self) {}
        }
    )+};
}

by_name!(ConfigMap, PersistentVolumeClaim, Service, ServiceAccount);

/// An object as text.
#[derive(Clone, Debug)]
struct Packed<K: Shelved> {
    namespace: Option<Box<str>>,
    name: Option<Box<str>>,
    note: K::Note,
    json: Box<[u8]>,
    kind: PhantomData<fn() -> K>,
}

/// All objects of a kind that a watch has brought, for those who read.
#[derive(Clone, Debug)]
pub struct Shelf<K: Shelved + 'static> {
    packed: Store<Packed<K>>,
}

/// The same, for the one watch that fills it.
#[derive(Debug)]
pub struct Filler<K: Shelved + 'static> {
    packed: Writer<Packed<K>>,
}

/// An empty shelf.
#[must_use]
pub fn shelf<K: Shelved + 'static>() -> (Shelf<K>, Filler<K>) {
    let (reader, writer) = store();
    (Shelf { packed: reader }, Filler { packed: writer })
}

impl<K: Shelved + 'static> Shelf<K> {
    /// The object of that name.
    #[must_use]
    pub fn get(&self, namespace: &str, name: &str) -> Option<K> {
        self.packed.get(&ObjectRef::new(name).within(namespace))?.unpacked()
    }

    /// The objects of which this is true, told their namespace and what was noted; in no order.
    pub fn filtered(&self, is_meant: impl Fn(Option<&str>, &K::Note) -> bool) -> Vec<Arc<K>> {
        let meant = self.packed.state_filter(|one| is_meant(one.namespace.as_deref(), &one.note));
        meant.iter().filter_map(|one| one.unpacked()).map(Arc::new).collect()
    }

    /// Waits until the watch has brought what there is. Of several who wait only the last is woken.
    pub async fn wait_until_ready(&self) {
        // An error means that the watch was dropped, which is the end of the process.
        let _filled = self.packed.wait_until_ready().await;
    }
}

impl<K: Shelved + 'static> Filler<K> {
    /// Takes in what a watch brings. An object that cannot be written as text is as one that was not brought, for what is not
    /// seen proves nothing; no object of the API is of that kind.
    pub fn apply(&mut self, event: &Event<K>) {
        let packed = match event {
            Event::Apply(object) => Packed::of(object).map(Event::Apply),
            Event::Delete(object) => Packed::of(object).map(Event::Delete),
            Event::InitApply(object) => Packed::of(object).map(Event::InitApply),
            Event::Init => Some(Event::Init),
            Event::InitDone => Some(Event::InitDone),
        };
        packed.iter().for_each(|event| self.packed.apply_watcher_event(event));
    }
}

impl<K: Shelved> Packed<K> {
    fn of(object: &K) -> Option<Self> {
        let json = serde_json::to_vec(object).inspect_err(illegible::<K>).ok()?;
        Some(Self {
            namespace: object.meta().namespace.as_deref().map(Box::from),
            name: object.meta().name.as_deref().map(Box::from),
            note: object.note(),
            json: json.into_boxed_slice(),
            kind: PhantomData,
        })
    }

    fn unpacked(&self) -> Option<K> {
        serde_json::from_slice(&self.json).inspect_err(illegible::<K>).ok()
    }
}

fn illegible<K>(error: &serde_json::Error) {
    tracing::error!(object.kind = std::any::type_name::<K>(), %error, "an object cannot be held");
}

/// It is found by its name alone: a version or a UID in the key would be held a second time.
impl<K: Shelved> Lookup for Packed<K> {
    type DynamicType = ();

    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }

    fn name(&self) -> Option<Cow<'_, str>> {
        // A store takes it for given that each object has a name, as each object of the API has.
        Some(Cow::Borrowed(self.name.as_deref().unwrap_or_default()))
    }

    fn namespace(&self) -> Option<Cow<'_, str>> {
        self.namespace.as_deref().map(Cow::Borrowed)
    }

    fn resource_version(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn uid(&self) -> Option<Cow<'_, str>> {
        None
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::controller::desired::Child;
    use crate::fixtures::{agent_pod, boundary};

    fn walls() -> Vec<NetworkPolicy> {
        let wall = |child| match child {
            Child::NetworkPolicy(wall) => Some(wall),
            _ => None,
        };
        boundary().into_iter().filter_map(wall).collect()
    }

    fn named<K: Resource>(object: &K) -> (String, String) {
        let meta = object.meta().clone();
        (meta.namespace.unwrap(), meta.name.unwrap())
    }

    fn filled<K: Shelved>(objects: &[K]) -> (Shelf<K>, Filler<K>) {
        let (held, mut filler) = shelf();
        filler.apply(&Event::Init);
        objects.iter().for_each(|one| filler.apply(&Event::InitApply(one.clone())));
        filler.apply(&Event::InitDone);
        (held, filler)
    }

    #[test]
    fn what_is_taken_off_the_shelf_is_what_was_put_there() {
        let pod = agent_pod();
        let (pods, _filler) = filled(std::slice::from_ref(&pod));
        let (namespace, name) = named(&pod);
        assert_eq!(pods.get(&namespace, &name), Some(pod));
        assert_eq!(pods.get("elsewhere", &name), None, "a namesake in another namespace");
        let walls = walls();
        let (shelf, _filler) = filled(&walls);
        for wall in &walls {
            assert_eq!(shelf.get(&namespace, &named(wall).1).as_ref(), Some(wall));
        }
    }

    #[test]
    fn the_newest_event_about_an_object_counts_and_a_list_replaces_everything() {
        let mut pod = agent_pod();
        let (namespace, name) = named(&pod);
        let (pods, mut filler) = filled(std::slice::from_ref(&pod));
        pod.metadata.resource_version = Some("77".to_owned());
        filler.apply(&Event::Apply(pod.clone()));
        assert_eq!(pods.get(&namespace, &name).unwrap().metadata.resource_version.as_deref(), Some("77"));
        filler.apply(&Event::Delete(pod.clone()));
        assert_eq!(pods.get(&namespace, &name), None);
        filler.apply(&Event::Apply(pod));
        filler.apply(&Event::Init);
        assert!(pods.get(&namespace, &name).is_some(), "a list that has only begun takes nothing away");
        filler.apply(&Event::InitDone);
        assert_eq!(pods.get(&namespace, &name), None);
    }

    #[test]
    fn what_is_asked_of_all_is_answered_by_what_each_of_them_says_now() {
        let mut all = walls();
        all.push(NetworkPolicy::default());
        all.last_mut().unwrap().metadata.name = Some("of-somebody".to_owned());
        let (shelf, mut filler) = filled(&all);
        let uid = selects_only(&all[0]).unwrap().to_owned();
        let count =
            |wanted: Option<&str>| shelf.filtered(|_, note| note.selects_only.as_deref() == wanted).len();
        assert_eq!((count(Some(&uid)), count(None), count(Some("another"))), (2, 1, 0));
        assert_eq!(shelf.filtered(|namespace, _| namespace.is_none()).len(), 1);
        let mut wall = all.swap_remove(0);
        wall.spec.as_mut().unwrap().pod_selector = None;
        filler.apply(&Event::Apply(wall));
        assert_eq!((count(Some(&uid)), count(None)), (1, 2), "a selector that was edited");
    }
}

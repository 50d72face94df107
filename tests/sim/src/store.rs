//! What the API server keeps: objects, and the log of every revision they went through.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use crate::faults::hash;
use crate::fields::{self, Managers};
use crate::kinds::{Kind, NAMESPACES, PODS};
use crate::merge;

mod ending;
mod rules;

pub use rules::PROTECTION;

/// Plural, namespace and name; an empty namespace for what lives in none.
pub type Key = (&'static str, String, String);

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One revision.
#[derive(Clone, Debug)]
pub struct Revision {
    /// Its number; each is one more than the one before.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// Who made it.
    pub by: &'static str,
    /// What happened.
    pub change: Change,
    /// Of which kind the object is.
    pub kind: &'static Kind,
    /// The object as it is then; of a deletion, as it was last.
    pub object: Value,
    /// The object as it was before.
    pub before: Option<Value>,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub code: u16,
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but status.
    Main,
    /// Status alone.
    Status,
}

/// What a deletion insists on, and how long it leaves.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// Precondition.
    pub uid: Option<String>,
    /// Precondition.
    pub resource_version: Option<String>,
    /// Seconds.
    pub grace: Option<i64>,
    /// `metadata.finalizers` that it adds: `foregroundDeletion` or `orphan`.
    pub adds: Option<&'static str>,
}

/// The store.
#[derive(Debug)]
pub struct Store {
    now: Timestamp,
    by: &'static str,
    manager: String,
    objects: BTreeMap<Key, Value>,
    managers: BTreeMap<Key, Managers>,
    /// What has its status from its CRD only: nothing is kept of it until the first write.
    unseen: BTreeSet<Key>,
    /// Every revision, in order.
    pub log: Vec<Revision>,
    made: BTreeMap<Key, u64>,
    /// Watches and lists from before this revision are answered with 410.
    pub compacted: u64,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    /// As the API server writes it.
    pub fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        // What is invalid is listed by its field.
        if let Some((field, _)) = self.message.rsplit_once(": Invalid value").filter(|_| self.code == 422) {
            let field = field.rsplit_once(' ').map_or(field, |(_, field)| field);
            body["details"] = json!({"causes": [{"reason": "FieldValueInvalid", "field": field}]});
        }
        body
    }
}

/// A text in an object, by JSON pointer without `~`; empty if there is none.
pub fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    // `Value::pointer` makes two strings for each name, and this is asked more often than anything else.
    let found = pointer.split('/').skip(1).try_fold(object, |inner, name| match inner {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        inner => inner.get(name),
    });
    found.and_then(Value::as_str).unwrap_or_default()
}

/// Where an object of this kind lies.
pub fn key(kind: &'static Kind, object: &Value) -> Key {
    (kind.plural, text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned())
}

impl Store {
    /// An empty one.
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            by: "setup",
            manager: String::new(),
            objects: BTreeMap::new(),
            managers: BTreeMap::new(),
            unseen: BTreeSet::new(),
            log: Vec::new(),
            made: BTreeMap::new(),
            compacted: 0,
        }
    }

    /// Who writes from here on, and when.
    pub fn acting(&mut self, by: &'static str, now: Timestamp) {
        (self.by, self.now) = (by, now);
        by.clone_into(&mut self.manager);
    }

    /// As which field manager the next write is made.
    pub fn managing(&mut self, manager: &str) {
        manager.clone_into(&mut self.manager);
    }

    /// The time of the write under way.
    pub const fn now(&self) -> Timestamp {
        self.now
    }

    /// The latest revision. It starts above 0, as on a server that has just been installed.
    pub fn revision(&self) -> u64 {
        self.log.last().map_or(1000, |revision| revision.number)
    }

    /// An object.
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(kind.plural, namespace.to_owned(), name.to_owned()))
    }

    /// All objects of a kind, in the order of their keys.
    pub fn all(&self, kind: &Kind) -> impl Iterator<Item = &Value> {
        let plural = kind.plural;
        self.objects
            .range((plural, String::new(), String::new())..)
            .take_while(move |((other, ..), _)| *other == plural)
            .map(|(_, object)| object)
    }

    /// All objects.
    pub fn everything(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter()
    }

    fn missing(kind: &Kind, name: &str) -> Refusal {
        Refusal::new(404, "NotFound", format!("{} \"{name}\" not found", kind.plural))
    }

    fn check_namespace(&self, kind: &Kind, namespace: &str) -> Result<(), Refusal> {
        if !kind.namespaced {
            return Ok(());
        }
        let Some(found) = self.get(&NAMESPACES, "", namespace) else {
            return Err(Self::missing(&NAMESPACES, namespace));
        };
        if text(found, "/metadata/deletionTimestamp").is_empty() {
            return Ok(());
        }
        let message = format!(
            "{} is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
            kind.plural
        );
        Err(Refusal::new(403, "Forbidden", message))
    }

    /// Creates an object; of a rehearsal nothing is kept.
    ///
    /// # Errors
    /// As the API server: the name is taken, the namespace is missing or ends.
    pub fn create(
        &mut self,
        kind: &'static Kind,
        manager: Option<&str>,
        object: Value,
        dry_run: bool,
    ) -> Result<Value, Refusal> {
        let owner = (manager.unwrap_or(&self.manager).to_owned(), false);
        self.make(kind, owner, object, dry_run)
    }

    fn make(
        &mut self,
        kind: &'static Kind,
        owner: (String, bool),
        mut object: Value,
        dry_run: bool,
    ) -> Result<Value, Refusal> {
        let key = key(kind, &object);
        self.check_namespace(kind, &key.1)?;
        if self.objects.contains_key(&key) {
            return Err(Refusal::new(
                409,
                "AlreadyExists",
                format!("{} \"{}\" already exists", kind.plural, key.2),
            ));
        }
        // What is left of one that was deleted while its annotations were on their way.
        if *kind == PODS && !object["spec"].is_object() {
            return Err(Refusal::new(422, "Invalid", "spec.containers: Required value"));
        }
        let made = self.made.entry(key.clone()).or_default();
        *made += u64::from(!dry_run);
        let unique = hash(*made, &format!("{key:?}"));
        object["apiVersion"] = json!(kind.api_version);
        object["kind"] = json!(kind.kind);
        let owned = fields::fields(&object);
        rules::complete(kind, &mut object, unique);
        object["metadata"]["creationTimestamp"] = json!(seconds(self.now));
        if dry_run {
            return Ok(object);
        }
        self.managers.insert(key.clone(), Managers::from([(owner, owned)]));
        if kind.is_ours() && !object["status"].is_null() {
            self.unseen.insert(key.clone());
        }
        Ok(self.commit(Change::Added, kind, &key, object))
    }

    /// Puts an object in the place of one that is there; of some kinds, also where none is.
    ///
    /// # Errors
    /// As the API server: it is missing, or was changed meanwhile.
    pub fn replace(&mut self, kind: &'static Kind, part: Part, new: Value) -> Result<Value, Refusal> {
        let key = key(kind, &new);
        let uid = text(&new, "/metadata/uid");
        let Some(live) = self.objects.get(&key).cloned() else {
            return match (kind.is_created_by_put() && part == Part::Main, uid.is_empty()) {
                (false, _) => Err(Self::missing(kind, &key.2)),
                (true, false) => {
                    Err(Refusal::new(409, "Conflict", "the UID in the precondition does not exist"))
                }
                (true, true) => self.create(kind, None, new, false),
            };
        };
        if !uid.is_empty() && uid != text(&live, "/metadata/uid") {
            return Err(Refusal::new(
                409,
                "Conflict",
                format!("{} \"{}\": the UID differs", kind.plural, key.2),
            ));
        }
        if kind.needs_version() && text(&new, "/metadata/resourceVersion").is_empty() {
            let message = "metadata.resourceVersion: Invalid value: 0: must be specified for an update";
            return Err(Refusal::new(422, "Invalid", message));
        }
        self.update(kind, part, &key, live, new, None)
    }

    /// Changes an object by a merge patch. A `resourceVersion` in it is a precondition, and a `uid` must be the
    /// object's.
    ///
    /// # Errors
    /// As the API server: it is missing, or is not the one that was meant.
    pub fn merge(
        &mut self,
        kind: &'static Kind,
        part: Part,
        (namespace, name): (&str, &str),
        patch: &Value,
    ) -> Result<Value, Refusal> {
        let key = (kind.plural, namespace.to_owned(), name.to_owned());
        let live = self.objects.get(&key).ok_or_else(|| Self::missing(kind, name))?.clone();
        let mut new = live.clone();
        merge::merge(&mut new, patch);
        self.update(kind, part, &key, live, new, None)
    }

    /// Server-side apply; creates what is not there.
    ///
    /// # Errors
    /// As the API server: it is not the object that was meant, or another manager owns a field.
    pub fn apply(
        &mut self,
        kind: &'static Kind,
        (namespace, name): (&str, &str),
        manager: &str,
        force: bool,
        mut wanted: Value,
    ) -> Result<Value, Refusal> {
        wanted["metadata"]["namespace"] = json!(namespace);
        let key = (kind.plural, namespace.to_owned(), name.to_owned());
        let Some(live) = self.objects.get(&key).cloned() else {
            if !text(&wanted, "/metadata/uid").is_empty() {
                return Err(Refusal::new(409, "Conflict", "the UID in the precondition does not exist"));
            }
            return self.make(kind, (manager.to_owned(), true), wanted, false);
        };
        let mut new = live.clone();
        let mut managers = self.managers.get(&key).cloned().unwrap_or_default();
        fields::apply(&mut new, &mut managers, manager, &wanted, force).map_err(|conflict| {
            Refusal::new(409, "Conflict", format!("conflict with another manager: {}", conflict.0))
        })?;
        self.update(kind, Part::Main, &key, live, new, Some(managers))
    }

    /// Who owns which field afterwards is known of an apply; of any other write it follows from what that changes.
    fn update(
        &mut self,
        kind: &'static Kind,
        part: Part,
        key: &Key,
        live: Value,
        mut new: Value,
        applied: Option<Managers>,
    ) -> Result<Value, Refusal> {
        for (pointer, code, reason, why) in [
            ("/metadata/resourceVersion", 409, "Conflict", "the object has been modified"),
            ("/metadata/uid", 422, "Invalid", "metadata.uid: Invalid value: field is immutable"),
        ] {
            if text(&new, pointer) != text(&live, pointer) && !text(&new, pointer).is_empty() {
                return Err(Refusal::new(code, reason, format!("{} \"{}\": {why}", kind.plural, key.2)));
            }
        }
        match part {
            Part::Status => {
                let status = new["status"].take();
                new = live.clone();
                new["status"] = status;
            }
            Part::Main if kind.has_status => new["status"] = live["status"].clone(),
            Part::Main => {}
        }
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
        ] {
            new["metadata"][field] = live["metadata"][field].clone();
        }
        rules::prune(kind, &mut new);
        rules::default_status(kind, &mut new);
        let is_raised = kind.counts_generations && specs_differ(&new, &live);
        rules::check_finalizers(kind, &live, &new)?;
        rules::check_growth(kind, &live, &new)?;
        let owners = self.managers.entry(key.clone()).or_default();
        let is_owned_alike = applied.as_ref().is_none_or(|managers| managers == owners);
        let is_first = self.unseen.remove(key);
        if new == live && is_owned_alike && !is_raised && !is_first {
            return Ok(live);
        }
        match applied {
            Some(managers) => *owners = managers,
            None if part == Part::Main => fields::updated(owners, &self.manager, &live, &new),
            None => {}
        }
        if is_raised {
            new["metadata"]["generation"] = json!(live["metadata"]["generation"].as_i64().unwrap_or(1) + 1);
        }
        if is_ending(&new) && finalizers(&new).is_empty() && is_due(kind, &new) {
            // It is told of its last version, and not of its end.
            self.remove(kind, key, new.clone());
            return Ok(new);
        }
        Ok(self.commit(Change::Modified, kind, key, new))
    }

    fn remove(&mut self, kind: &'static Kind, key: &Key, object: Value) -> Value {
        self.managers.remove(key);
        self.unseen.remove(key);
        self.commit(Change::Deleted, kind, key, object)
    }

    fn commit(&mut self, change: Change, kind: &'static Kind, key: &Key, mut object: Value) -> Value {
        let number = self.revision() + 1;
        rules::prune(kind, &mut object);
        object["metadata"]["resourceVersion"] = json!(number.to_string());
        let before = match change {
            Change::Deleted => self.objects.remove(key),
            Change::Added | Change::Modified => self.objects.insert(key.clone(), object.clone()),
        };
        // Watches show what was kept last: not what the write that ended it made of it.
        let shown = match (&before, change) {
            (Some(before), Change::Deleted) => versioned(before, number),
            _ => object.clone(),
        };
        self.log.push(Revision { number, at: self.now, by: self.by, change, kind, object: shown, before });
        object
    }

    /// All objects of a kind as they were at a revision, in the order of their keys.
    pub fn as_of(&self, kind: &Kind, revision: u64) -> Vec<&Value> {
        let mut then: BTreeMap<(&str, &str), Option<&Value>> = BTreeMap::new();
        for object in self.all(kind) {
            then.insert(place(object), Some(object));
        }
        let later = self.log.iter().rev().take_while(|one| one.number > revision);
        for one in later.filter(|one| one.kind == kind) {
            then.insert(place(&one.object), one.before.as_ref());
        }
        then.into_values().flatten().collect()
    }
}

/// Where an object lies among those of its kind.
fn place(object: &Value) -> (&str, &str) {
    (text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

/// An object as of a revision.
pub fn versioned(object: &Value, number: u64) -> Value {
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = json!(number.to_string());
    object
}

/// The API server writes times of creation to the second.
fn seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// Whether two objects differ in anything but metadata and status.
fn specs_differ(one: &Value, other: &Value) -> bool {
    fn spec(object: &Value) -> Vec<(&String, &Value)> {
        let fields = object.as_object().into_iter().flatten();
        fields.filter(|(name, _)| !["metadata", "status"].contains(&name.as_str())).collect()
    }
    spec(one) != spec(other)
}

/// The finalizers of an object.
pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether an object is being deleted.
pub fn is_ending(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// Whether a pod's containers have all ended.
pub fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Failed" | "Succeeded")
}

/// Whether the grace of an object that ends is over; only the kubelet says so of a pod.
fn is_due(kind: &Kind, object: &Value) -> bool {
    *kind != PODS || object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{CONFIG_MAPS, SANDBOXES};

    fn store() -> Store {
        let mut store = Store::new(Timestamp::UNIX_EPOCH);
        store.create(&NAMESPACES, None, json!({"metadata": {"name": "team"}}), false).unwrap();
        store
    }

    fn sandbox(store: &mut Store) -> Value {
        let object = json!({"metadata": {"name": "a", "namespace": "team", "finalizers": ["f"]}, "spec": {"x": 1}, "status": {"s": 1}});
        store.create(&SANDBOXES, None, object, false).unwrap()
    }

    #[test]
    fn status_and_the_rest_are_written_apart_and_only_the_rest_is_a_new_generation() {
        let mut store = store();
        let created = sandbox(&mut store);
        let unseen = created["status"].clone();
        assert_eq!(
            (text(&unseen, "/conditions/0/reason"), &created["metadata"]["generation"]),
            ("Pending", &json!(1))
        );
        let both = json!({"spec": {"x": 2}, "status": {"s": 2}});
        let main = store.merge(&SANDBOXES, Part::Main, ("team", "a"), &both).unwrap();
        assert_eq!(
            (&main["spec"]["x"], &main["status"], &main["metadata"]["generation"]),
            (&json!(2), &unseen, &json!(2))
        );
        let both = json!({"spec": {"x": 3}, "status": {"s": 3}});
        let status = store.merge(&SANDBOXES, Part::Status, ("team", "a"), &both).unwrap();
        assert_eq!(
            (&status["spec"]["x"], &status["status"]["s"], &status["metadata"]["generation"]),
            (&json!(2), &json!(3), &json!(2))
        );
    }

    #[test]
    fn what_changes_nothing_is_no_revision() {
        let mut store = store();
        sandbox(&mut store);
        // The first write keeps the status that its CRD gave it.
        let same = json!({"spec": {"x": 1}});
        store.merge(&SANDBOXES, Part::Main, ("team", "a"), &same).unwrap();
        let before = store.revision();
        store.merge(&SANDBOXES, Part::Main, ("team", "a"), &json!({"spec": {"x": 1}})).unwrap();
        assert_eq!(store.revision(), before);
    }

    #[test]
    fn a_stale_version_and_a_foreign_uid_are_conflicts() {
        let mut store = store();
        let created = sandbox(&mut store);
        store.merge(&SANDBOXES, Part::Status, ("team", "a"), &json!({"status": {"s": 2}})).unwrap();
        let patch = json!({"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}, "status": {"s": 3}});
        assert_eq!(store.merge(&SANDBOXES, Part::Status, ("team", "a"), &patch).unwrap_err().code, 409);
        let deletion = Deletion { uid: Some("other".to_owned()), ..Deletion::default() };
        assert_eq!(store.delete(&SANDBOXES, ("team", "a"), &deletion).unwrap_err().code, 409);
    }

    #[test]
    fn a_finalizer_holds_what_is_deleted_and_its_end_ends_it() {
        let mut store = store();
        sandbox(&mut store);
        let ending = store.delete(&SANDBOXES, ("team", "a"), &Deletion::default()).unwrap();
        assert!(is_ending(&ending) && ending["metadata"]["generation"] == 2);
        store.merge(&SANDBOXES, Part::Main, ("team", "a"), &json!({"metadata": {"finalizers": []}})).unwrap();
        assert!(store.get(&SANDBOXES, "team", "a").is_none());
        assert_eq!(store.log.last().unwrap().change, Change::Deleted);
    }

    #[test]
    fn a_pod_on_a_node_ends_when_the_kubelet_says_so_and_any_other_at_once() {
        let mut store = store();
        for (name, node) in [("placed", Some("node")), ("waiting", None)] {
            let pod = json!({"metadata": {"name": name, "namespace": "team"}, "spec": {"nodeName": node}});
            store.create(&PODS, None, pod, false).unwrap();
            store.delete(&PODS, ("team", name), &Deletion::default()).unwrap();
        }
        assert!(store.get(&PODS, "team", "waiting").is_none());
        assert!(is_ending(store.get(&PODS, "team", "placed").unwrap()));
        store.gone(&("pods", "team".to_owned(), "placed".to_owned()));
        assert!(store.get(&PODS, "team", "placed").is_none());
    }

    #[test]
    fn nothing_is_created_where_a_namespace_ends() {
        let mut store = store();
        store
            .merge(
                &NAMESPACES,
                Part::Main,
                ("", "team"),
                &json!({"metadata": {"finalizers": ["kubernetes"]}}),
            )
            .unwrap();
        store.delete(&NAMESPACES, ("", "team"), &Deletion::default()).unwrap();
        let refused =
            store.create(&CONFIG_MAPS, None, json!({"metadata": {"name": "m", "namespace": "team"}}), false);
        assert!(refused.unwrap_err().message.contains("because it is being terminated"));
    }
}

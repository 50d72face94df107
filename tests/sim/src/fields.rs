//! Who owns which fields of an object: what `metadata.managedFields` says on a real server, by its rules. Who applies owns
//! what was applied; who writes in any other way owns what that write added or changed. One name can be two owners, one of
//! each way. Status has no owner here: nobody applies it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::merge::{Merging, join, merging, set};

/// One step on the way to a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Into a map.
    Field(String),
    /// To the item of a list whose keys have these values, as JSON.
    Item(String),
    /// To this value of a set, as JSON.
    Value(String),
}

/// The way to a field, from the outside in.
pub type Path = Vec<Step>;

/// Fields that somebody owns.
pub type Fields = BTreeSet<Path>;

/// The owners of one object's fields, each by its name and by whether it applies.
pub type Managers = BTreeMap<(String, bool), Fields>;

/// Another manager owns this field, which would be changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict(pub String);

/// What of the metadata can be owned.
const METADATA: [&str; 4] = ["labels", "annotations", "finalizers", "ownerReferences"];

/// The fields of an object that can be owned.
pub fn fields(object: &Value) -> Fields {
    let mut found = Fields::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => {
                let owned = value.as_object().into_iter().flatten();
                for (inner, value) in owned.filter(|(inner, _)| METADATA.contains(&inner.as_str())) {
                    let path = vec![Step::Field(name.clone()), Step::Field(inner.clone())];
                    collect(value, &join(name, inner), path, &mut found);
                }
            }
            _ => collect(value, name, vec![Step::Field(name.clone())], &mut found),
        }
    }
    found
}

/// The keys of an item, as JSON.
fn item(value: &Value, keys: &[&str]) -> String {
    Value::from(keys.iter().map(|key| value[*key].clone()).collect::<Vec<_>>()).to_string()
}

fn collect(value: &Value, path: &str, at: Path, found: &mut Fields) {
    let onward = |step: Step| [at.clone(), vec![step]].concat();
    match (value, merging(path)) {
        (Value::Null, _) => {}
        (Value::Object(map), Merging::Granular) if !map.is_empty() => {
            for (name, value) in map {
                collect(value, &join(path, name), onward(Step::Field(name.clone())), found);
            }
        }
        (Value::Array(items), Merging::Keyed(keys)) if !items.is_empty() => {
            for one in items {
                let at = onward(Step::Item(item(one, keys)));
                found.insert(at.clone());
                collect(one, "*", at, found);
            }
        }
        (Value::Array(items), Merging::Set) if !items.is_empty() => {
            found.extend(items.iter().map(|one| onward(Step::Value(one.to_string()))));
        }
        _ => {
            found.insert(at);
        }
    }
}

/// The place that a path leads to, and the name of its schema.
fn place<'a>(object: &'a Value, path: &[Step]) -> Option<&'a Value> {
    let mut name = String::new();
    path.iter().try_fold(object, |value, step| match (step, merging(&name)) {
        (Step::Field(field), _) => {
            name = join(&name, field);
            value.get(field)
        }
        (Step::Item(wanted), Merging::Keyed(keys)) => {
            name = "*".to_owned();
            value.as_array()?.iter().find(|one| item(one, keys) == *wanted)
        }
        (Step::Value(wanted), _) => value.as_array()?.iter().find(|one| {
            let written = one.to_string();
            written == *wanted
        }),
        (Step::Item(_), _) => None,
    })
}

/// What a write adds or changes, and what it takes away.
fn compared(live: &Value, new: &Value) -> (Fields, Fields) {
    let (before, after) = (fields(live), fields(new));
    let is_changed = |path: &&Path| {
        !before.contains(*path)
            || matches!(path.last(), Some(Step::Field(_))) && place(live, path) != place(new, path)
    };
    (after.iter().filter(is_changed).cloned().collect(), before.difference(&after).cloned().collect())
}

fn give_up(managers: &mut Managers, except: &(String, bool), gone: &Fields) {
    for (_, owned) in managers.iter_mut().filter(|(owner, _)| *owner != except) {
        owned.retain(|path| !gone.contains(path));
    }
    managers.retain(|owner, owned| owner == except || !owned.is_empty());
}

/// What becomes of the owners when somebody writes without applying.
pub fn updated(managers: &mut Managers, manager: &str, live: &Value, new: &Value) {
    let owner = (manager.to_owned(), false);
    let (changed, removed) = compared(live, new);
    give_up(managers, &owner, &changed.union(&removed).cloned().collect());
    let owned = managers.entry(owner.clone()).or_default();
    owned.extend(changed);
    owned.retain(|path| !removed.contains(path));
    if owned.is_empty() {
        managers.remove(&owner);
    }
}

/// Applies `wanted` for `manager`: what it says is set, what the manager applied before and says no more is taken off unless
/// somebody else owns it, and everything else stays.
///
/// # Errors
/// Where somebody else owns a field that would get another value, and `force` is not set.
pub fn apply(
    live: &mut Value,
    managers: &mut Managers,
    manager: &str,
    wanted: &Value,
    force: bool,
) -> Result<(), Conflict> {
    let owner = (manager.to_owned(), true);
    let owned = fields(wanted);
    let mut new = live.clone();
    set(&mut new, wanted, "");
    let others: Fields =
        managers.iter().filter(|(other, _)| **other != owner).flat_map(|(_, owned)| owned.clone()).collect();
    let before = managers.get(&owner).cloned().unwrap_or_default();
    for path in before.difference(&owned).filter(|path| !others.contains(*path)) {
        let is_shared = others.iter().chain(&owned).any(|other| other.starts_with(path));
        if !is_shared {
            take_off(&mut new, path, "");
        }
    }
    let (changed, removed) = compared(live, &new);
    if let (Some(path), false) = (changed.intersection(&others).next(), force) {
        return Err(Conflict(format!("{path:?}")));
    }
    give_up(managers, &owner, &changed.union(&removed).cloned().collect());
    managers.insert(owner, owned);
    managers.retain(|_, owned| !owned.is_empty());
    *live = new;
    Ok(())
}

/// Takes a field off, and the maps and lists that are empty then.
fn take_off(value: &mut Value, path: &[Step], name: &str) {
    let Some((step, rest)) = path.split_first() else { return };
    match (step, value) {
        (Step::Field(field), Value::Object(map)) => {
            let Some(inner) = map.get_mut(field) else { return };
            take_off(inner, rest, &join(name, field));
            let is_empty = inner.as_object().is_some_and(serde_json::Map::is_empty)
                || inner.as_array().is_some_and(Vec::is_empty);
            if rest.is_empty() || is_empty {
                map.remove(field);
            }
        }
        (Step::Item(wanted), Value::Array(items)) => {
            let Merging::Keyed(keys) = merging(name) else { return };
            if rest.is_empty() {
                items.retain(|one| item(one, keys) != *wanted);
            } else if let Some(one) = items.iter_mut().find(|one| item(one, keys) == *wanted)
                // What it is found by goes with the whole of it only.
                && !matches!(rest, [Step::Field(field)] if keys.contains(&field.as_str()))
            {
                take_off(one, rest, "*");
            }
        }
        (Step::Value(wanted), Value::Array(items)) => items.retain(|one| {
            let written = one.to_string();
            written != *wanted
        }),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Applies and answers with what is left of the object.
    fn applied(live: &Value, managers: &mut Managers, manager: &str, wanted: &Value) -> Value {
        let mut live = live.clone();
        apply(&mut live, managers, manager, wanted, true).unwrap();
        live
    }

    #[test]
    fn an_apply_takes_off_what_its_manager_applied_before_and_nothing_of_others() {
        let live =
            json!({"metadata": {"labels": {"a": "1", "theirs": "x"}}, "spec": {"selector": {"old": "1"}}});
        let mut managers = Managers::new();
        let first =
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"selector": {"x": "1", "y": "2"}}});
        let live = applied(&live, &mut managers, "op", &first);
        let second = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"selector": {"x": "1"}}});
        let live = applied(&live, &mut managers, "op", &second);
        assert_eq!(live["metadata"]["labels"], json!({"a": "1", "theirs": "x"}));
        assert_eq!(live["spec"]["selector"], json!({"x": "1"}), "a selector is replaced whole");
    }

    #[test]
    fn what_somebody_else_changed_since_is_theirs_and_is_not_taken_off() {
        let (first, none) = (json!({"data": {"k": "1", "j": "1"}}), json!({"data": {"j": "1"}}));
        let mut managers = Managers::new();
        let live = applied(&json!({}), &mut managers, "op", &first);
        let theirs = json!({"data": {"k": "2", "j": "1"}});
        updated(&mut managers, "user", &live, &theirs);
        assert_eq!(applied(&theirs, &mut managers, "op", &none), theirs);
        let refused = apply(&mut theirs.clone(), &mut managers, "op", &first, false);
        assert!(refused.is_err(), "{managers:?}");
    }

    #[test]
    fn what_a_manager_wrote_without_applying_it_does_not_take_off_by_applying() {
        let mut managers = Managers::new();
        let live = json!({"data": {"k": "1", "j": "1"}});
        updated(&mut managers, "op", &json!({}), &live);
        assert_eq!(applied(&live, &mut managers, "op", &json!({"data": {"j": "1"}})), live);
    }

    #[test]
    fn an_apply_without_force_meets_what_another_manager_owns() {
        let (one, two) = (json!({"data": {"k": "1"}}), json!({"data": {"k": "2"}}));
        let mut managers = Managers::new();
        let mut live = applied(&json!({}), &mut managers, "one", &one);
        assert!(apply(&mut live, &mut managers, "two", &two, false).is_err());
        assert_eq!(live, one, "nothing came of it");
        assert!(apply(&mut live, &mut managers, "two", &one, false).is_ok(), "the same value is shared");
        assert_eq!(applied(&live, &mut managers, "two", &two), two);
        assert_eq!(applied(&two, &mut managers, "one", &json!({"data": {"j": "1"}}))["data"]["k"], "2");
    }

    #[test]
    fn an_item_that_another_manager_adds_to_stays_with_what_is_theirs() {
        let of = |fields: Value| json!({"spec": {"agent": {"env": [fields]}}});
        let mut managers = Managers::new();
        let live = applied(&json!({}), &mut managers, "op", &of(json!({"name": "A", "value": "1"})));
        let live = applied(&live, &mut managers, "user", &of(json!({"name": "A", "note": "x"})));
        let left = applied(&live, &mut managers, "op", &json!({"spec": {"agent": {}}}));
        assert_eq!(left, of(json!({"name": "A", "note": "x"})));
        assert_eq!(applied(&left, &mut managers, "user", &json!({"spec": {}})), json!({}));
    }
}

//! How patches change objects: JSON merge patch (RFC 7396), and server-side apply as far as the operator's kinds need it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A merge patch.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// What each field manager last applied to one object.
pub type Managers = BTreeMap<String, Value>;

/// How a list or a map is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merging {
    /// Field by field, or replaced if it is no map.
    Granular,
    /// Replaced whole.
    Atomic,
    /// A list of maps with these keys.
    Keyed(&'static [&'static str]),
    /// A list of values, each of which somebody owns.
    Set,
}

/// The schema's word on a path, of the kinds that the operator applies.
fn merging(path: &str) -> Merging {
    match path {
        "metadata.ownerReferences" => Merging::Keyed(&["uid"]),
        "metadata.finalizers" => Merging::Set,
        "spec.ports" => Merging::Keyed(&["port", "protocol"]),
        // Of a Service and of a NetworkPolicy.
        "spec.selector" | "spec.podSelector" => Merging::Atomic,
        _ => Merging::Granular,
    }
}

/// Another manager owns a field that would be changed.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict(pub String);

/// Applies `wanted` for `manager`: what it says is set, what the manager said before and says no more is taken off unless
/// another manager says it, and everything else stays.
///
/// # Errors
/// Where another manager owns a field with another value, and `force` is not set.
pub fn apply(
    live: &mut Value,
    managers: &mut Managers,
    manager: &str,
    wanted: &Value,
    force: bool,
) -> Result<(), Conflict> {
    let others: Vec<&Value> =
        managers.iter().filter(|(name, _)| *name != manager).map(|(_, value)| value).collect();
    if !force {
        conflicts(live, wanted, &others, "")?;
    }
    if let Some(before) = managers.get(manager) {
        prune(live, before, wanted, &others, "");
    }
    set(live, wanted, "");
    managers.insert(manager.to_owned(), wanted.clone());
    Ok(())
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn conflicts(live: &Value, wanted: &Value, others: &[&Value], path: &str) -> Result<(), Conflict> {
    if let (Value::Object(live), Value::Object(wanted)) = (live, wanted)
        && merging(path) == Merging::Granular
    {
        for (key, value) in wanted {
            let inner: Vec<&Value> = others.iter().filter_map(|other| other.get(key)).collect();
            conflicts(live.get(key).unwrap_or(&Value::Null), value, &inner, &join(path, key))?;
        }
        return Ok(());
    }
    let named = ["apiVersion", "kind", "metadata.name", "metadata.namespace", "metadata.uid"].contains(&path);
    let merged = matches!(merging(path), Merging::Keyed(_) | Merging::Set);
    if !named && !merged && live != wanted && !others.is_empty() {
        return Err(Conflict(path.to_owned()));
    }
    Ok(())
}

fn same(one: &Value, other: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| one.get(key) == other.get(key))
}

fn prune(live: &mut Value, before: &Value, wanted: &Value, others: &[&Value], path: &str) {
    match (live, before, merging(path)) {
        (Value::Object(live), Value::Object(before), Merging::Granular) => {
            for (key, old) in before {
                let inner: Vec<&Value> = others.iter().filter_map(|other| other.get(key)).collect();
                let granular = old.is_object() && merging(&join(path, key)) == Merging::Granular;
                match wanted.get(key) {
                    None if granular => {
                        if let Some(live) = live.get_mut(key) {
                            prune(live, old, &Value::Null, &inner, &join(path, key));
                        }
                    }
                    None if inner.is_empty() => {
                        live.remove(key);
                    }
                    None => {}
                    Some(new) => {
                        if let Some(live) = live.get_mut(key) {
                            prune(live, old, new, &inner, &join(path, key));
                        }
                    }
                }
            }
        }
        (Value::Array(live), Value::Array(before), Merging::Keyed(keys)) => live.retain(|item| {
            let in_list =
                |list: &Value| list.as_array().into_iter().flatten().any(|one| same(one, item, keys));
            !before.iter().any(|one| same(one, item, keys))
                || in_list(wanted)
                || others.iter().any(|other| in_list(other))
        }),
        (Value::Array(live), Value::Array(before), Merging::Set) => live.retain(|item| {
            let in_list = |list: &Value| list.as_array().is_some_and(|list| list.contains(item));
            !before.contains(item) || in_list(wanted) || others.iter().any(|other| in_list(other))
        }),
        _ => {}
    }
}

fn set(live: &mut Value, wanted: &Value, path: &str) {
    match (&mut *live, wanted, merging(path)) {
        (Value::Object(live), Value::Object(wanted), Merging::Granular) => {
            for (key, value) in wanted.iter().filter(|(_, value)| !value.is_null()) {
                set(live.entry(key).or_insert(Value::Null), value, &join(path, key));
            }
        }
        (Value::Array(live), Value::Array(wanted), Merging::Keyed(keys)) => {
            for item in wanted {
                match live.iter_mut().find(|one| same(one, item, keys)) {
                    Some(one) => set(one, item, "*"),
                    None => live.push(item.clone()),
                }
            }
        }
        (Value::Array(live), Value::Array(wanted), Merging::Set) => {
            let new: Vec<Value> = wanted.iter().filter(|item| !live.contains(item)).cloned().collect();
            live.extend(new);
        }
        _ => *live = wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_apply_takes_off_what_its_manager_said_before_and_nothing_of_others() {
        let mut live =
            json!({"metadata": {"labels": {"a": "1", "theirs": "x"}}, "spec": {"selector": {"old": "1"}}});
        let mut managers = Managers::new();
        let first =
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"selector": {"x": "1", "y": "2"}}});
        apply(&mut live, &mut managers, "op", &first, true).unwrap();
        let second = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"selector": {"x": "1"}}});
        apply(&mut live, &mut managers, "op", &second, true).unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"a": "1", "theirs": "x"}));
        assert_eq!(live["spec"]["selector"], json!({"x": "1"}), "a selector is replaced whole");
    }

    #[test]
    fn an_apply_without_force_meets_what_another_manager_owns() {
        let mut live = json!({});
        let mut managers = Managers::new();
        apply(&mut live, &mut managers, "one", &json!({"data": {"k": "1"}}), false).unwrap();
        let refused = apply(&mut live, &mut managers, "two", &json!({"data": {"k": "2"}}), false);
        assert_eq!(refused, Err(Conflict("data.k".to_owned())));
        apply(&mut live, &mut managers, "two", &json!({"data": {"k": "2"}}), true).unwrap();
        assert_eq!(live["data"]["k"], "2");
    }

    #[test]
    fn a_merge_patch_takes_off_what_is_null() {
        let mut value = json!({"a": {"b": 1, "c": 2}});
        merge(&mut value, &json!({"a": {"b": null, "d": [1]}}));
        assert_eq!(value, json!({"a": {"c": 2, "d": [1]}}));
    }
}

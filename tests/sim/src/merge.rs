//! How patches change objects: JSON merge patch (RFC 7396), and server-side apply as far as the operator's kinds need it.

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

/// How a list or a map is merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merging {
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
pub fn merging(path: &str) -> Merging {
    match path {
        "metadata.ownerReferences" => Merging::Keyed(&["uid"]),
        "metadata.finalizers" => Merging::Set,
        "spec.ports" => Merging::Keyed(&["port", "protocol"]),
        "spec.agent.env" => Merging::Keyed(&["name"]),
        // Of a Service and of a NetworkPolicy.
        "spec.selector" | "spec.podSelector" => Merging::Atomic,
        _ => Merging::Granular,
    }
}

/// The name of what is inside.
pub fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Whether two items of a list are the same by its keys.
fn same(one: &Value, other: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| one.get(key) == other.get(key))
}

/// Two lists as one: what is wanted in its own order, and around it what else there is.
fn merged(live: &[Value], wanted: &[Value], same: impl Fn(&Value, &Value) -> bool) -> Vec<Value> {
    let of = |list: &[Value], item: &Value| list.iter().position(|one| same(one, item));
    let (mut all, mut taken, mut next) = (Vec::new(), 0, 0);
    loop {
        // What only the one list has stays before what it stood before.
        while let Some(one) = live.get(next) {
            match of(wanted, one) {
                None => all.push(one.clone()),
                Some(place) if place < taken => {}
                Some(_) => break,
            }
            next += 1;
        }
        let Some(item) = wanted.get(taken) else { return all };
        let mut one = of(live, item).map_or(Value::Null, |place| live[place].clone());
        set(&mut one, item, "*");
        all.push(one);
        taken += 1;
    }
}

/// Sets what is wanted, as the schema says, and takes nothing off.
pub fn set(live: &mut Value, wanted: &Value, path: &str) {
    match (&mut *live, wanted, merging(path)) {
        (Value::Object(live), Value::Object(wanted), Merging::Granular) => {
            for (key, value) in wanted.iter().filter(|(_, value)| !value.is_null()) {
                set(live.entry(key).or_insert(Value::Null), value, &join(path, key));
            }
        }
        (Value::Array(live), Value::Array(wanted), Merging::Keyed(keys)) => {
            *live = merged(live, wanted, |one, other| same(one, other, keys));
        }
        (Value::Array(live), Value::Array(wanted), Merging::Set) => {
            *live = merged(live, wanted, |one, other| one == other);
        }
        _ => *live = wanted.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_merge_patch_takes_off_what_is_null() {
        let mut value = json!({"a": {"b": 1, "c": 2}});
        merge(&mut value, &json!({"a": {"b": null, "d": [1]}}));
        assert_eq!(value, json!({"a": {"c": 2, "d": [1]}}));
    }
}

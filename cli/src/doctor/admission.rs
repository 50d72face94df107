//! Whether the API server still refuses what the chart has it refuse, by the text that the chart installed it from. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Kind, name and content of what is in force, or is to be.
type Objects = BTreeMap<(&'static str, String), Value>;

const POLICY: &str = "ValidatingAdmissionPolicy";
const BINDING: &str = "ValidatingAdmissionPolicyBinding";

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// What the text of the chart says is to be in force.
///
/// # Errors
/// A clause where it is no such text, or says nothing.
pub fn expected(text: &str) -> Result<Objects, String> {
    let mut expected = Objects::new();
    let says = |line: &str| !line.trim().is_empty() && !line.starts_with('#');
    for document in text.split("---\n").filter(|document| document.lines().any(says)) {
        let kind: Kind = read(document)?;
        match kind.kind.as_str() {
            POLICY => {
                let policy: ValidatingAdmissionPolicy = read(document)?;
                expected.insert((POLICY, policy.name_any()), content(&policy.spec));
            }
            BINDING => {
                let binding: ValidatingAdmissionPolicyBinding = read(document)?;
                expected.insert((BINDING, binding.name_any()), content(&binding.spec));
            }
            other => return Err(format!("it holds an object of kind {other}")),
        }
    }
    let has = |kind| expected.keys().any(|(own, _)| *own == kind);
    if has(POLICY) && has(BINDING) {
        Ok(expected)
    } else {
        Err("it names no policy or no binding".to_owned())
    }
}

/// What is in force. What is being deleted is not counted: it will not be for long.
pub fn live(
    policies: &[ValidatingAdmissionPolicy],
    bindings: &[ValidatingAdmissionPolicyBinding],
) -> Objects {
    let policies = policies.iter().filter(|policy| policy.metadata.deletion_timestamp.is_none());
    let bindings = bindings.iter().filter(|binding| binding.metadata.deletion_timestamp.is_none());
    let policies = policies.map(|policy| ((POLICY, policy.name_any()), content(&policy.spec)));
    policies.chain(bindings.map(|binding| ((BINDING, binding.name_any()), content(&binding.spec)))).collect()
}

/// Each object that is missing or says something else, as a clause.
pub fn faults(expected: &Objects, live: &Objects) -> Vec<String> {
    let fault = |(key, wanted): (&(&'static str, String), &Value)| match live.get(key) {
        None => Some(format!("{} {} is missing", key.0, key.1)),
        Some(found) if found != wanted => Some(format!("{} {} is changed", key.0, key.1)),
        Some(_) => None,
    };
    expected.iter().filter_map(fault).collect()
}

fn read<T: DeserializeOwned>(document: &str) -> Result<T, String> {
    serde_yaml::from_str(document).map_err(|error| format!("it cannot be read: {error}"))
}

fn content(spec: &impl Serialize) -> Value {
    // Kubernetes' own types are JSON by definition.
    pruned(&serde_json::to_value(spec).unwrap_or_default())
}

/// Without nulls and empty lists and maps: the API server drops those, and they mean the same. Elements of lists stay even when
/// empty: there an empty one means "everything".
fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept: Map<_, _> =
                map.iter().map(|(k, v)| (k.clone(), pruned(v))).filter(|(_, v)| !v.is_null()).collect();
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        Value::Array(items) if items.is_empty() => Value::Null,
        Value::Array(items) => {
            let element = |item: &Value| match (pruned(item), item) {
                (Value::Null, Value::Object(_)) => Value::Object(Map::new()),
                (kept, _) => kept,
            };
            Value::Array(items.iter().map(element).collect())
        }
        other => other.clone(),
    }
}

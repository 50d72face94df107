//! What the API server makes of an object on its way in, kind by kind.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use agentsandbox_crds::schema;
use serde_json::{Value, json};

use super::{Refusal, finalizers, is_ending};
use crate::kinds::{CLAIMS, Kind, NAMESPACES, PODS, SERVICES};

/// What keeps a claim for as long as a pod mounts it.
pub const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// The status that a CRD gives an object without one, by the name of the CRD.
static UNSEEN: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let of = |one: schema::Rendered| {
        let status = "/spec/versions/0/schema/openAPIV3Schema/properties/status/default";
        Some((one.name, one.manifest.pointer(status)?.clone()))
    };
    schema::all().unwrap().into_iter().filter_map(of).collect()
});

/// Gives an object the status that its CRD has for one without.
pub fn default_status(kind: &Kind, object: &mut Value) {
    if kind.is_ours()
        && object["status"].is_null()
        && let Some(status) = UNSEEN.get(&format!("{}.agentsandbox.dev", kind.plural))
    {
        object["status"] = status.clone();
    }
}

/// Fills in what the server says of a new object. Defaults of its spec are left out, all but a Service's address.
pub fn complete(kind: &Kind, object: &mut Value, unique: u64) {
    object["metadata"]["uid"] = json!(format!("00000000-0000-4000-8000-{:012x}", unique >> 16));
    if kind.counts_generations {
        object["metadata"]["generation"] = json!(1);
    }
    if kind.has_status && *kind != NAMESPACES {
        object.as_object_mut().unwrap().remove("status");
    }
    default_status(kind, object);
    if *kind == SERVICES {
        if object["spec"]["clusterIP"].is_null() {
            object["spec"]["clusterIP"] = json!(format!("10.96.1.{}", unique % 250));
        }
        object["status"] = json!({"loadBalancer": {}});
    }
    if *kind == PODS {
        object["status"] = json!({"phase": "Pending"});
    }
    if *kind == CLAIMS {
        let before = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        object["metadata"]["finalizers"] = before.into_iter().chain([json!(PROTECTION)]).collect();
        object["status"] = json!({"phase": "Bound"});
    }
}

/// What the server leaves out where it is empty, by the place where it stands.
const OMITTED: [(&str, &[&str]); 3] = [
    ("/metadata", &["labels", "annotations", "finalizers", "ownerReferences"]),
    ("", &["data"]),
    ("/spec", &["selector", "ingress", "egress", "ports"]),
];

/// Null means absent, and so does what is empty, of what the server leaves out then.
pub fn prune(kind: &Kind, object: &mut Value) {
    prune_nulls(object);
    let empty = |value: &Value| {
        value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty)
    };
    // What a CRD describes is kept as it was written.
    let within = if kind.is_ours() { &OMITTED[..1] } else { &OMITTED[..] };
    for (pointer, names) in within {
        if let Some(map) = object.pointer_mut(pointer).and_then(Value::as_object_mut) {
            map.retain(|name, value| !names.contains(&name.as_str()) || !empty(value));
        }
    }
}

fn prune_nulls(object: &mut Value) {
    match object {
        Value::Object(map) => map.retain(|_, value| {
            prune_nulls(value);
            !value.is_null()
        }),
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}

/// A claim grows where its storage class lets it; here that is the one that is called so.
///
/// # Errors
/// Where it does not.
pub fn check_growth(kind: &Kind, live: &Value, new: &Value) -> Result<(), Refusal> {
    let size = |claim: &Value| claim.pointer("/spec/resources/requests/storage").cloned();
    if *kind != CLAIMS || size(live) == size(new) || live["spec"]["storageClassName"] == "growing" {
        return Ok(());
    }
    let message = "persistentvolumeclaims is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(Refusal::new(403, "Forbidden", message))
}

/// An object that ends is given nothing more to wait for.
///
/// # Errors
/// Where it would.
pub fn check_finalizers(kind: &Kind, live: &Value, new: &Value) -> Result<(), Refusal> {
    let before = finalizers(live);
    let added: Vec<&str> = finalizers(new).into_iter().filter(|one| !before.contains(one)).collect();
    if !is_ending(live) || added.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{}: metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers {added:?}",
        kind.plural
    );
    Err(Refusal::new(422, "Invalid", message))
}

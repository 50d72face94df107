//! What is kept of an object that was seen.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// A whole object once more, in an annotation.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes off what nobody reads of any object. An emptied list would keep its memory.
pub fn trim<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    metadata.annotations.iter_mut().for_each(|all| drop(all.remove(LAST_APPLIED)));
}

/// Leaves of a pod's spec what is read of it: where it runs, whether it runs once, and of its containers who they are and what was changed in them.
/// Everything else of it cannot be changed, and its hash is in an annotation.
pub fn trim_pod(pod: &mut Pod) {
    let container = |one: Container| Container {
        name: one.name,
        image: one.image,
        args: one.args,
        ..Container::default()
    };
    let ephemeral =
        |one: EphemeralContainer| EphemeralContainer { name: one.name, ..EphemeralContainer::default() };
    pod.spec = pod.spec.take().map(|spec| PodSpec {
        node_name: spec.node_name,
        host_network: spec.host_network,
        restart_policy: spec.restart_policy,
        init_containers: spec.init_containers.map(|all| all.into_iter().map(container).collect()),
        containers: spec.containers.into_iter().map(container).collect(),
        ephemeral_containers: spec.ephemeral_containers.map(|all| all.into_iter().map(ephemeral).collect()),
        ..PodSpec::default()
    });
}

/// The object with those fields of its status that can be read.
pub fn legible_status<K: DeserializeOwned>(whole: &mut Value, status: Option<Value>) -> Option<K> {
    let Some(Value::Object(fields)) = status else { return None };
    let mut kept = Map::new();
    for (name, field) in fields {
        whole["status"] = json!({ name.as_str(): &field });
        if K::deserialize(&*whole).is_ok() {
            kept.insert(name, field);
        }
    }
    if kept.is_empty() {
        return None;
    }
    whole["status"] = Value::Object(kept);
    K::deserialize(&*whole).ok()
}

//! What is kept of an object that was seen.

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec};
use kube::Resource;

/// A whole object once more, in an annotation.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Takes off what nobody reads of any object. An emptied list would keep its memory.
pub fn trim<K: Resource>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    metadata.annotations.iter_mut().for_each(|all| drop(all.remove(LAST_APPLIED)));
}

/// Leaves of a pod's spec what is read of it: where it runs, and of its containers who they are and what was changed in them.
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
        init_containers: spec.init_containers.map(|all| all.into_iter().map(container).collect()),
        containers: spec.containers.into_iter().map(container).collect(),
        ephemeral_containers: spec.ephemeral_containers.map(|all| all.into_iter().map(ephemeral).collect()),
        ..PodSpec::default()
    });
}

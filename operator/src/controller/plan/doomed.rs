//! What is to go: one object and no other that has its name later.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::controller::desired::{Child, ChildKind};

/// Exactly one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    /// Its kind.
    pub kind: ChildKind,
    /// Its name.
    pub name: String,
    /// Its UID, which a deletion carries as a precondition.
    pub uid: String,
    /// Of a pod, the node that has to report its end, as far as it is known.
    pub node: Option<String>,
}

impl Doomed {
    /// Exactly this pod.
    #[must_use]
    pub fn pod(pod: &Pod) -> Self {
        Self {
            kind: ChildKind::Pod,
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        }
    }

    /// Exactly this child.
    #[must_use]
    pub fn child(child: &Child) -> Self {
        if let Child::Pod(pod) = child {
            return Self::pod(pod);
        }
        Self {
            kind: child.kind(),
            name: child.name().to_owned(),
            uid: child.metadata().uid.clone().unwrap_or_default(),
            node: None,
        }
    }
}

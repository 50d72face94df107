//! What the requests for children of all kinds have in common: their bodies, and how an answer is read.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Resource;
use kube::core::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::controller::desired::{Child, ChildKind};
use crate::metrics::Verb;

/// A namespaced child that has a kind of ours.
pub(super) trait NamedChild:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
{
    const KIND: ChildKind;

    fn child(self) -> Child;
}

impl NamedChild for ServiceAccount {
    const KIND: ChildKind = ChildKind::ServiceAccount;

    fn child(self) -> Child {
        Child::ServiceAccount(self)
    }
}
impl NamedChild for NetworkPolicy {
    const KIND: ChildKind = ChildKind::NetworkPolicy;

    fn child(self) -> Child {
        Child::NetworkPolicy(self)
    }
}
impl NamedChild for ConfigMap {
    const KIND: ChildKind = ChildKind::ConfigMap;

    fn child(self) -> Child {
        Child::ConfigMap(self)
    }
}
impl NamedChild for PersistentVolumeClaim {
    const KIND: ChildKind = ChildKind::PersistentVolumeClaim;

    fn child(self) -> Child {
        Child::PersistentVolumeClaim(Box::new(self))
    }
}
impl NamedChild for Service {
    const KIND: ChildKind = ChildKind::Service;

    fn child(self) -> Child {
        Child::Service(Box::new(self))
    }
}
impl NamedChild for Pod {
    const KIND: ChildKind = ChildKind::Pod;

    fn child(self) -> Child {
        Child::Pod(Box::new(self))
    }
}

/// What a creation came to.
pub(super) enum Made<K> {
    /// The API server's answer to it.
    Created(K),
    /// The name was taken by this, which says that it is ours. Whoever may create such an object can say so too.
    Found(K),
}

impl<K> Made<K> {
    pub(super) fn object(self) -> K {
        match self {
            Self::Created(object) | Self::Found(object) => object,
        }
    }

    pub(super) fn map<T>(self, into: impl FnOnce(K) -> T) -> Made<T> {
        match self {
            Self::Created(object) => Made::Created(into(object)),
            Self::Found(object) => Made::Found(into(object)),
        }
    }
}

/// The body of a server-side apply. Lists that are empty on purpose stay: they take away what somebody added.
pub(super) fn applied<K: NamedChild>(wanted: &K) -> Value {
    let mut body = serde_json::to_value(wanted).unwrap_or_default();
    body["apiVersion"] = Value::from(K::api_version(&()).into_owned());
    body["kind"] = Value::from(K::kind(&()).into_owned());
    body
}

pub(super) fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Whether a patch named another UID than the object's, and nothing else is wrong with it: that would change the UID, and is refused as
/// that. The object that was meant is gone. The fields at fault are listed, so that no text that a refusal quotes counts.
pub(in crate::controller) fn names_another(verb: Verb, status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let fields: Vec<&str> = causes.map(|cause| cause.field.as_str()).collect();
    verb == Verb::Patch && status.code == 422 && fields == ["metadata.uid"]
}

pub(super) fn is_conflict(verb: Verb, error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict() || names_another(verb, status))
}

pub(super) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

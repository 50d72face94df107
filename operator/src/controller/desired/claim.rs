//! The claim of a persistent workspace: a volume of the sandbox's own, which one pod mounts at a time.
//!
//! It is known by its labels and never has an owner: the garbage collector would take the work with the sandbox, before anybody asked what the
//! spec says of it by then. What is to end with its sandbox is deleted by its teardown. The labels are the operator's alone where the chart's admission policies are in force, and they hold the sandbox's UID, so
//! another sandbox of the same name finds a claim that is not its own.

use std::collections::BTreeMap;

use agentsandbox_crds::names::{
    COMPONENT_WORKSPACE, LABEL_COMPONENT, LABEL_MANAGED_BY, LABEL_SANDBOX, LABEL_SANDBOX_UID, MANAGED_BY,
    SUFFIX_WORKSPACE,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimVolumeSource, Volume,
    VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controller::accept::{Accepted, Identity};
use crate::quantity;

/// One pod of the whole cluster, and not one node: two agents never share a workspace.
const ONE_POD: &str = "ReadWriteOncePod";

/// Name of the claim.
#[must_use]
pub fn name(identity: &Identity) -> String {
    format!("{}{SUFFIX_WORKSPACE}", identity.name)
}

/// The claim; none where the workspace is as short-lived as its pod.
#[must_use]
pub fn claim(accepted: &Accepted) -> Option<PersistentVolumeClaim> {
    let (identity, persistent) = (&accepted.identity, accepted.persistent.as_ref()?);
    let size = [("storage".to_owned(), Quantity(persistent.size.clone()))];
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name(identity)),
            namespace: Some(identity.namespace.clone()),
            labels: Some(labels(identity)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec![ONE_POD.to_owned()]),
            storage_class_name: persistent.storage_class.clone(),
            resources: Some(VolumeResourceRequirements { requests: Some(size.into()), limits: None }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    })
}

fn labels(identity: &Identity) -> BTreeMap<String, String> {
    BTreeMap::from([
        (LABEL_MANAGED_BY.to_owned(), MANAGED_BY.to_owned()),
        (LABEL_SANDBOX.to_owned(), identity.name.clone()),
        (LABEL_SANDBOX_UID.to_owned(), identity.uid.clone()),
        (LABEL_COMPONENT.to_owned(), COMPONENT_WORKSPACE.to_owned()),
    ])
}

/// The volume of a pod that is this claim.
pub(super) fn volume(name: &str, identity: &Identity) -> Volume {
    Volume {
        name: name.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: self::name(identity),
            read_only: None,
        }),
        ..Volume::default()
    }
}

/// Whether a claim is this sandbox's, whether it outlasts it or not. One that another controller owns is not.
#[must_use]
pub fn is_of(metadata: &ObjectMeta, identity: &Identity) -> bool {
    let is = |name: &str, value: &str| metadata.labels.iter().flatten().any(|(k, v)| k == name && v == value);
    let mut owners =
        metadata.owner_references.iter().flatten().filter(|owner| owner.controller == Some(true));
    is(LABEL_SANDBOX_UID, &identity.uid)
        && is(LABEL_MANAGED_BY, MANAGED_BY)
        && owners.all(|owner| owner.uid == identity.uid)
}

/// Bytes that a claim asks for.
#[must_use]
pub fn asked_bytes(claim: &PersistentVolumeClaim) -> Option<i64> {
    quantity::bytes(&claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?.0)
}

/// Whether a claim differs in what can be put right: it is to be larger, or would end with an owner. All else of one cannot be changed.
#[must_use]
pub fn differs(wanted: &PersistentVolumeClaim, live: &PersistentVolumeClaim) -> bool {
    let is_owned = live.metadata.owner_references.iter().flatten().next().is_some();
    asked_bytes(wanted) > asked_bytes(live) || is_owned
}

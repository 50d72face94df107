//! What has to be done so that what exists is what is wanted. Pure; so specific that apply has nothing left to choose.
//!
//! An apply that would change nothing is no step: each write makes a new resourceVersion, which wakes the watch, which
//! reconciles again, and a controller that always writes never rests. Only what we wrote is compared, and what the API
//! server adds is left alone; but walls are compared whole, because there an addition is an opening.

use std::collections::BTreeMap;

use agentsandbox_crds::names::{ANNOTATION_SPEC_HASH, GROUP, WALL_FINALIZER};
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;

use super::accept::Identity;
use super::desired::agent_pod::FENCE;
use super::desired::review::REVIEW;
use super::desired::workspace::WORKSPACE;
use super::desired::{Boundary, Child, ChildKind, claim, network_policy, service};
use super::observe::Observed;
use super::status::evidence::is_proven;
use super::status::workspace::has_unpacked;

mod claimed;
mod doomed;
mod ended;

pub use claimed::agent;
pub use doomed::Doomed;
pub use ended::has_ended;

/// Kind of the owner of every child.
const OWNER_KIND: &str = "AgentSandbox";

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// There is none: create it, on the condition that there is none.
    Create(Child),
    /// Ours, and not as wanted: apply it to exactly the object whose UID it bears.
    Repair(Child),
    /// Ours, and can only be replaced: delete exactly this one; its end brings the next pass.
    Delete(Doomed),
    /// Ours, deleted by somebody, and standing until it is released: release it behind its stand-in and create it anew.
    Renew(Box<Renewal>),
    /// As wanted; the observed object.
    Leave(Child),
    /// It is on its way out; its end brings the next pass.
    Await(Doomed),
    /// It ended, for the reason that is said, too soon after it began: nothing before the given time.
    Hold(Timestamp, String),
    /// It ended, for the reason that is said: delete exactly this one; its end brings the next pass.
    Clear(Doomed, String),
    /// Somebody else's: never adopted, changed or deleted.
    Foreign(ChildKind, String),
}

/// A wall that somebody deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Renewal {
    /// As it is wanted.
    pub wanted: NetworkPolicy,
    /// As it was observed; none once it is gone and its stand-in stands.
    pub live: Option<NetworkPolicy>,
    /// What stands in for it, as it is wanted.
    pub stand_in: NetworkPolicy,
    /// What there is of the stand-in.
    pub standing: StandIn,
}

/// What there is under the name of a stand-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StandIn {
    /// Nothing.
    Absent,
    /// Ours, and held or not on its way out: the policy with this UID.
    Own(String),
    /// What cannot be used: somebody else's, or one that only another's finalizer keeps.
    Other,
}

impl Step {
    /// The kind of the object that the step is about.
    #[must_use]
    pub const fn kind(&self) -> ChildKind {
        match self {
            Self::Create(child) | Self::Repair(child) | Self::Leave(child) => child.kind(),
            Self::Delete(doomed) | Self::Await(doomed) | Self::Clear(doomed, _) => doomed.kind,
            Self::Hold(..) => ChildKind::Pod,
            Self::Renew(_) => ChildKind::NetworkPolicy,
            Self::Foreign(kind, _) => *kind,
        }
    }
}

/// The steps for everything but the pods.
#[derive(Clone, Debug, PartialEq)]
pub struct BoundaryPlan {
    /// ServiceAccounts and NetworkPolicies.
    pub walls: Vec<Step>,
    /// The policy document and the Service, which comes shut.
    pub supplies: Vec<Step>,
    /// Stand-ins that are as wanted, and whose walls stand again.
    pub retired: Vec<NetworkPolicy>,
    /// Name of the Secret to create; none where the proxy's pod exists and thus has its keys.
    pub keys: Option<String>,
}

/// Plans everything but the pods.
#[must_use]
pub fn boundary(wanted: Boundary, observed: &Observed, identity: &Identity, now: Timestamp) -> BoundaryPlan {
    let proxy = observed.proxy_pod(identity).is_some();
    let policies = wanted.policies();
    let retired = policies.iter().filter_map(|wall| retired(wall, observed, identity)).cloned().collect();
    // One that is not as wanted would widen the walls that it stands in for.
    let narrowed = policies.iter().filter_map(|wall| narrowed(wall, observed, identity));
    let plan = |child: Child| match step(child, observed, identity, now) {
        Step::Repair(Child::Service(shut)) => unless_open(shut, observed, identity),
        step => step,
    };
    BoundaryPlan {
        walls: wanted.walls.into_iter().map(plan).chain(narrowed).collect(),
        supplies: wanted.supplies.into_iter().map(plan).collect(),
        retired,
        keys: (!proxy).then_some(wanted.keys),
    }
}

/// A policy under the name of a wall's stand-in, if we wrote it: it has our owner, which anybody can write, and our labels, which
/// the admission policies reserve.
fn own_stand_in<'a>(
    wall: &NetworkPolicy,
    observed: &'a Observed,
    identity: &Identity,
) -> Option<&'a NetworkPolicy> {
    let name = network_policy::stand_in(wall).metadata.name?;
    match observed.child(ChildKind::NetworkPolicy, &name)? {
        Child::NetworkPolicy(live) if is_owned(&live.metadata, identity) => {
            let ours = wall.labels().iter().all(|(key, value)| live.labels().get(key) == Some(value));
            ours.then_some(live)
        }
        _ => None,
    }
}

/// Whether a policy is as wanted but for finalizers, which open nothing.
#[must_use]
pub fn bounds_alike(wanted: &NetworkPolicy, live: &NetworkPolicy) -> bool {
    let mut unheld = wanted.clone();
    unheld.metadata.finalizers = None;
    !differs(&Child::NetworkPolicy(unheld), &Child::NetworkPolicy(live.clone()))
}

/// The stand-in of a wall that is as wanted and that nobody has deleted: it is needed no more.
fn retired<'a>(
    wall: &NetworkPolicy,
    observed: &'a Observed,
    identity: &Identity,
) -> Option<&'a NetworkPolicy> {
    let standing = observed.child(ChildKind::NetworkPolicy, wall.metadata.name.as_deref()?)?;
    let stands = is_owned(standing.metadata(), identity)
        && standing.metadata().deletion_timestamp.is_none()
        && !differs(&Child::NetworkPolicy(wall.clone()), standing);
    let live = own_stand_in(wall, observed, identity).filter(|_| stands)?;
    // One that was deleted and released is held by somebody else's finalizer.
    let is_ours_to_end = live.metadata.deletion_timestamp.is_none() || is_held(&live.metadata);
    (is_ours_to_end && bounds_alike(&network_policy::stand_in(wall), live)).then_some(live)
}

/// A stand-in that is not as wanted is put right, whatever becomes of it then.
fn narrowed(wall: &NetworkPolicy, observed: &Observed, identity: &Identity) -> Option<Step> {
    let mut wanted = network_policy::stand_in(wall);
    let live = own_stand_in(wall, observed, identity)?;
    if live.metadata.deletion_timestamp.is_some() && !is_held(&live.metadata) {
        // No finalizer can be added any more.
        wanted.metadata.finalizers = None;
    }
    (!bounds_alike(&wanted, live)).then(|| repair(Child::NetworkPolicy(wanted), &live.metadata))
}

/// How a wall is put up anew that is gone or is to be released.
fn renewal(
    wanted: NetworkPolicy,
    live: Option<NetworkPolicy>,
    observed: &Observed,
    identity: &Identity,
) -> Renewal {
    let stand_in = network_policy::stand_in(&wanted);
    let is_taken = observed.child(ChildKind::NetworkPolicy, &stand_in.name_any()).is_some();
    let standing = match own_stand_in(&wanted, observed, identity) {
        Some(own) if own.metadata.deletion_timestamp.is_none() || is_held(&own.metadata) => {
            StandIn::Own(own.uid().unwrap_or_default())
        }
        None if !is_taken => StandIn::Absent,
        _ => StandIn::Other,
    };
    Renewal { wanted, live, stand_in, standing }
}

/// A Service that is as wanted but for its open way is left: whether the way stays open is planned by [`way`], once the
/// proxy was tried. One that was changed in anything comes back shut.
fn unless_open(shut: Box<Service>, observed: &Observed, identity: &Identity) -> Step {
    let shut = Child::Service(shut);
    match observed.child(ChildKind::Service, shut.name()) {
        Some(Child::Service(live))
            if !differs(&shut, &Child::Service(Box::new(service::narrowed(identity, live)))) =>
        {
            Step::Leave(Child::Service(live.clone()))
        }
        _ => Step::Repair(shut),
    }
}

/// Plans the way from agent to proxy: the Service as wanted, open or shut, against the one that stands.
#[must_use]
pub fn way(wanted: Service, standing: &Service) -> Step {
    let (wanted, standing) = (Child::Service(Box::new(wanted)), Child::Service(Box::new(standing.clone())));
    if differs(&wanted, &standing) { repair(wanted, standing.metadata()) } else { Step::Leave(standing) }
}

/// Plans one child.
#[must_use]
pub fn step(wanted: Child, observed: &Observed, identity: &Identity, now: Timestamp) -> Step {
    let Some(live) = observed.child(wanted.kind(), wanted.name()) else {
        return absent(wanted, observed, identity);
    };
    let doomed = Doomed::child(live);
    if !is_ours(live, identity) {
        let is_going = claimed::is_going(live, observed, identity);
        return if is_going {
            Step::Await(doomed)
        } else {
            Step::Foreign(wanted.kind(), wanted.name().to_owned())
        };
    }
    if live.metadata().deletion_timestamp.is_some() {
        return step_of_ending(wanted, live, observed, identity).unwrap_or(Step::Await(doomed));
    }
    if let (Child::Pod(wanted_pod), Child::Pod(live_pod)) = (&wanted, live) {
        if has_ended(live_pod) {
            return ended::step(live, live_pod, wanted_pod, observed, now);
        }
        if must_be_replaced(wanted_pod, live_pod) {
            return Step::Delete(doomed);
        }
    }
    let wanted = claimed::within_reach(wanted, live, observed);
    if differs(&wanted, live) { repair(wanted, live.metadata()) } else { Step::Leave(live.clone()) }
}

/// An apply would create what is not there any more; one that names a UID is refused then.
fn repair(wanted: Child, live: &ObjectMeta) -> Step {
    Step::Repair(wanted.with_uid(live.uid.clone()))
}

/// An object that is not there is created; a wall that fell behind its stand-in, as its renewal.
fn absent(wanted: Child, observed: &Observed, identity: &Identity) -> Step {
    match wanted {
        Child::NetworkPolicy(wall) if own_stand_in(&wall, observed, identity).is_some() => {
            Step::Renew(Box::new(renewal(wall, None, observed, identity)))
        }
        other => Step::Create(other),
    }
}

/// What is to be done with an object that is being deleted, other than to wait. A finalizer can hold it for ever, so a wider
/// wall is narrowed even then, and a policy document is put right. A claim stands for as long as its agent's pod does, which is looked
/// after all the while.
fn step_of_ending(mut wanted: Child, live: &Child, observed: &Observed, identity: &Identity) -> Option<Step> {
    // No finalizer can be added any more; ours is no difference here.
    if let Child::NetworkPolicy(wall) = &mut wanted
        && !is_held(live.metadata())
    {
        wall.metadata.finalizers = None;
    }
    let bounds = matches!(wanted.kind(), ChildKind::NetworkPolicy | ChildKind::ConfigMap);
    if bounds && differs(&wanted, live) {
        return Some(repair(wanted, live.metadata()));
    }
    match (wanted, live) {
        (Child::NetworkPolicy(wanted), Child::NetworkPolicy(live)) if is_held(&live.metadata) => {
            Some(Step::Renew(Box::new(renewal(wanted, Some(live.clone()), observed, identity))))
        }
        (Child::PersistentVolumeClaim(_), _) if claimed::stands(observed, identity) => {
            Some(Step::Leave(live.clone()))
        }
        _ => None,
    }
}

/// Whether a wall is kept standing by our own finalizer, whoever deletes it.
#[must_use]
pub fn is_held(metadata: &ObjectMeta) -> bool {
    metadata.finalizers.iter().flatten().any(|finalizer| finalizer == WALL_FINALIZER)
}

/// Whether an object is ours: group, kind and UID of its controller. The name is no proof, a name can be taken again.
#[must_use]
pub fn is_owned(metadata: &ObjectMeta, identity: &Identity) -> bool {
    metadata.owner_references.iter().flatten().any(|owner| {
        owner.controller == Some(true)
            && owner.uid == identity.uid
            && owner.kind == OWNER_KIND
            && owner.api_version.split_once('/').is_some_and(|(group, _)| group == GROUP)
    })
}

/// Whether a child is ours: by its owner, but for a claim, which may outlast its owner and has none then.
#[must_use]
pub fn is_ours(child: &Child, identity: &Identity) -> bool {
    match child {
        Child::PersistentVolumeClaim(claim) => claim::is_of(&claim.metadata, identity),
        other => is_owned(other.metadata(), identity),
    }
}

/// A pod is immutable but for its images and for containers that are added later: another spec, an image that somebody changed, or a
/// container that somebody put beside ours, means another pod.
fn must_be_replaced(wanted: &Pod, live: &Pod) -> bool {
    spec_hash(wanted) != spec_hash(live) || strayed(wanted, live).is_some()
}

/// What something on the way to the API server changed in a pod that was just created; none where it is as it was sent.
#[must_use]
pub fn changed_on_the_way(sent: &Pod, created: &Pod) -> Option<String> {
    // Another hash is an earlier pod of ours, that the watch has not shown yet.
    if spec_hash(sent) == spec_hash(created) { strayed(sent, created) } else { None }
}

/// The hash of the spec from which a pod was made, as its annotation says.
#[must_use]
pub fn spec_hash(pod: &Pod) -> Option<&str> {
    pod.metadata.annotations.as_ref()?.get(ANNOTATION_SPEC_HASH).map(String::as_str)
}

/// The first container that is not as wanted.
fn strayed(wanted: &Pod, live: &Pod) -> Option<String> {
    let proven = is_proven(live);
    let done = Done { proven, unpacked: proven && has_unpacked(live) };
    let (mut expected, mut found) = (containers(wanted), containers(live));
    loop {
        match (expected.next(), found.next()) {
            (None, None) => break,
            (Some(one), Some(other)) if is_as_wanted(one, other, &done) => {}
            (Some(one), Some(other)) if one.name == other.name => {
                let image = |container: &Container| container.image.clone().unwrap_or_default();
                if one.image == other.image {
                    return Some(format!("{} has other arguments", one.name));
                }
                return Some(format!("{} has the image {}, not {}", one.name, image(other), image(one)));
            }
            (Some(one), _) => return Some(format!("another container stands in the place of {}", one.name)),
            (None, Some(other)) => return Some(format!("a container {} was added", other.name)),
        }
    }
    let added = live.spec.as_ref()?.ephemeral_containers.as_ref()?.first()?;
    Some(format!("an ephemeral container {} was added", added.name))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Which of the steps before the agent have done their work.
struct Done {
    proven: bool,
    unpacked: bool,
}

/// A fence that has proven the walls has done its work: another version of it is no reason to end the agent behind it. An image
/// of another repository is, for somebody put it there. The same holds for the step behind the fence once it has unpacked, but for what
/// it is told: that is the sandbox's, and of no version. Before that no agent runs, and a newer version may mend what it fails by.
fn is_as_wanted(wanted: &Container, live: &Container, done: &Done) -> bool {
    let images = (wanted.image.as_deref(), live.image.as_deref());
    let (is_same, is_told) = (images.0 == images.1, wanted.args == live.args);
    let is_version = images.0.map(repository) == images.1.map(repository);
    let same = match wanted.name.as_str() {
        FENCE if done.proven => is_version,
        WORKSPACE if done.unpacked => is_version && is_told,
        // It holds no more than the agent's work, and how it tells of that has a version of its own.
        REVIEW if done.unpacked => is_version && is_told,
        FENCE | WORKSPACE | REVIEW => is_same && is_told,
        _ => is_same,
    };
    wanted.name == live.name && same
}

/// An image reference without its tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => image,
    }
}

/// Whether applying `wanted` would change `live`. Asked of every child in every pass, so JSON is made only of what differs
/// as Rust's types have it, or where the API server adds to what we wrote.
#[must_use]
pub fn differs(wanted: &Child, live: &Child) -> bool {
    are_unnamed(wanted.metadata(), live.metadata())
        || match (wanted, live) {
            (Child::NetworkPolicy(wanted), Child::NetworkPolicy(live)) => {
                wanted.spec != live.spec && pruned(&value(&wanted.spec)) != pruned(&value(&live.spec))
            }
            (Child::ConfigMap(wanted), Child::ConfigMap(live)) => {
                wanted.data != live.data || live.binary_data.as_ref().is_some_and(|data| !data.is_empty())
            }
            (Child::PersistentVolumeClaim(wanted), Child::PersistentVolumeClaim(live)) => {
                claim::differs(wanted, live)
            }
            (Child::ServiceAccount(wanted), Child::ServiceAccount(live)) => {
                wanted.automount_service_account_token != live.automount_service_account_token
            }
            (Child::Service(wanted), Child::Service(live)) => {
                let (wanted, live) = (value(&wanted.spec), value(&live.spec));
                wanted["selector"] != live["selector"] || !contains(&live, &wanted)
            }
            (Child::Pod(_), Child::Pod(_)) => false,
            _ => true,
        }
}

/// Whether labels, annotations, owners or finalizers that are wanted are missing.
fn are_unnamed(wanted: &ObjectMeta, live: &ObjectMeta) -> bool {
    type Texts = Option<BTreeMap<String, String>>;
    let lacks = |wanted: &Texts, live: &Texts| {
        let has =
            |(key, value): (&String, &String)| live.as_ref().and_then(|all| all.get(key)) == Some(value);
        !wanted.iter().flatten().all(has)
    };
    let owners = live.owner_references.as_deref().unwrap_or_default();
    let finalizers = live.finalizers.as_deref().unwrap_or_default();
    lacks(&wanted.labels, &live.labels)
        || lacks(&wanted.annotations, &live.annotations)
        || !wanted.owner_references.iter().flatten().all(|one| owners.contains(one))
        || !wanted.finalizers.iter().flatten().all(|one| finalizers.contains(one))
}

/// As JSON. Kubernetes' own types are that by definition; Null would differ from everything and be applied again.
fn value(of: &impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or_default()
}

/// Whether `live` holds everything that `wanted` says. Lists have the same length and order.
fn contains(live: &Value, wanted: &Value) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            wanted.iter().all(|(key, inner)| contains(live.get(key).unwrap_or(&Value::Null), inner))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(one, other)| contains(one, other))
        }
        _ => live == wanted,
    }
}

/// The value without nulls and empty lists and maps: the API server drops those, and they mean the same.
#[must_use]
pub fn pruned(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept: serde_json::Map<_, _> =
                map.iter().map(|(k, v)| (k.clone(), pruned(v))).filter(|(_, v)| !v.is_null()).collect();
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        Value::Array(items) if items.is_empty() => Value::Null,
        // Elements stay even when empty: in a policy an empty element means "everything".
        Value::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| if item.is_object() { pruned_object(item) } else { pruned(item) })
                .collect(),
        ),
        other => other.clone(),
    }
}

fn pruned_object(item: &Value) -> Value {
    match pruned(item) {
        Value::Null => Value::Object(serde_json::Map::new()),
        other => other,
    }
}

#[cfg(test)]
mod tests;

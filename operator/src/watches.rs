//! What wakes a sandbox: itself, everything it owns, and everything it refers to.
//!
//! No predicate filters these streams. A generation predicate swallows deletions and edits of labels, and an edit of
//! status by somebody else has to be corrected too; a pass without anything to do sends no request, so waking is cheap.
//! A child that the operator created and a sandbox that it patched, exactly as it was answered, do not wake that sandbox; what it
//! repairs, renews or gives back does.
//! A policy wakes whose pods it can select, or could: most are walls, and select those of one sandbox.
//! A list names what is there, never what went meanwhile. So after each list anew every sandbox looks at what it has.
//! What nothing here reads is dropped on arrival: managed fields, which are most of an object's size, and most of a pod.

mod named;
mod shelved;
mod trim;

use std::fmt::Debug;
use std::sync::Arc;

use agentsandbox_crds::names::{
    GROUP, LABEL_MANAGED_BY, LABEL_SANDBOX, MANAGED_BY, SUFFIX_AGENT, SUFFIX_PROXY, SUFFIX_STAND_IN,
};
use agentsandbox_crds::{AgentCredential, AgentSandbox, AgentSandboxClass, AgentSandboxTemplate};
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};
use futures::future::ready;
use futures::stream::{self, BoxStream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::api::Api;
use kube::core::{ApiResource, DynamicObject, ObjectMeta, PartialObjectMeta, PartialObjectMetaExt};
use kube::runtime::WatchStreamExt;
use kube::runtime::controller::{Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use self::named::{names_credential, names_template, naming};
use self::shelved::{shelve, shelve_with};
use self::trim::{legible_status, trim, trim_pod};
use crate::admission::Watched;
use crate::backoff::{Jitter, Unpaused, WatchBackoff};
use crate::config::Config as Flags;
use crate::controller::chain;
use crate::controller::desired::ChildKind;
use crate::controller::evaluate::selects_only;
use crate::controller::observe::{Recent, Stores, in_order};
use crate::controller::orphans::{is_deleted_and_held, is_deleted_and_kept, telling};
use crate::one_namespace::OneNamespace;
use crate::ranges::{self, Brought, Ranges, Unknown};
use crate::shelf::Shelf;

/// Passes at the same time; each mostly waits for the API server.
const CONCURRENCY: u16 = 64;
/// A watch is opened anew after this: a connection on which nothing comes any more looks like one that has nothing to tell until
/// its watch has lasted too long. What is seen is not older than that, and a new watch costs one request and no list.
const WATCH_LASTS_SECS: u32 = 30;
/// Objects in a page of a list. A page is held twice while it is read, as text and as objects.
const PAGE_OBJECTS: u32 = 50;

type Touched<K> = BoxStream<'static, Result<K, watcher::Error>>;

/// The controller with all its watches, and what they hold. It tells `deleted` of each wall and each kept pod that
/// somebody deleted.
#[must_use]
pub fn controller(
    client: &Client,
    only: Option<&OneNamespace>,
    jitter: Jitter,
    deleted: &Arc<Notify>,
    recent: &Arc<Recent>,
) -> (Controller<AgentSandbox>, Stores) {
    let ours = || everything().labels(&format!("{LABEL_MANAGED_BY}={MANAGED_BY}"));
    let (listed, lists) = unbounded();
    let (sandboxes, sandbox_stream) =
        watch_own::<AgentSandbox>(own::<AgentSandbox>(client, only), jitter, &listed);
    let (credentials, credential_stream) =
        watch_own::<AgentCredential>(own::<AgentCredential>(client, only), jitter, &listed);
    let (templates, template_stream) =
        watch_own::<AgentSandboxTemplate>(own::<AgentSandboxTemplate>(client, only), jitter, &listed);
    let (classes, class_stream) = match only {
        Some(only) => given(only.classes.clone()),
        None => watch_own::<AgentSandboxClass>(own::<AgentSandboxClass>(client, None), jitter, &listed),
    };
    let (network_policies, policy_stream, freeing) = watch_policies(served(client, only), jitter, &listed);
    let (service_accounts, account_stream) =
        shelve::<ServiceAccount>(watcher(served(client, only), ours()), jitter, &listed);
    let (config_maps, map_stream) =
        shelve::<ConfigMap>(watcher(served(client, only), ours()), jitter, &listed);
    let (services, service_stream) =
        shelve::<Service>(watcher(served(client, only), ours()), jitter, &listed);
    let (pods, pod_stream) =
        shelve_with::<Pod>(watcher(served(client, only), ours()), jitter, &listed, trim_pod, |_, _| ());
    let (runtime_classes, runtime_stream) = match only {
        Some(only) => given(runtime_classes(only)),
        None => watch_names::<RuntimeClass>(client, jitter, &listed),
    };
    let (claims, claim_stream) =
        shelve::<PersistentVolumeClaim>(watcher(served(client, only), ours()), jitter, &listed);

    let (of_class, of_runtime) = (sandboxes.clone(), sandboxes.clone());
    let (of_policy, of_freeing, of_list) = (sandboxes.clone(), sandboxes.clone(), sandboxes.clone());
    let (of_own, walls) = (Arc::clone(recent), Arc::clone(recent));
    let of_walls = move |policy: NetworkPolicy| {
        walls.woken(ChildKind::NetworkPolicy, &policy, concerned(&of_policy, &policy))
    };
    let is_news = move |touched: &Result<AgentSandbox, watcher::Error>| {
        ready(touched.as_ref().ok().is_none_or(|sandbox| of_own.is_news(sandbox)))
    };
    let controller = Controller::for_stream(sandbox_stream.filter(is_news), sandboxes.clone())
        .with_config(Config::default().concurrency(CONCURRENCY))
        // The library's own pause after an error of one watch holds up all of them, for a minute in the end.
        .trigger_backoff(Unpaused)
        .reconcile_on(lists.flat_map(move |()| stream::iter(select(&of_list, |_| true))))
        .watches_stream(account_stream, woken(recent, ChildKind::ServiceAccount))
        .watches_stream(map_stream, woken(recent, ChildKind::ConfigMap))
        .watches_stream(service_stream, woken(recent, ChildKind::Service))
        .watches_stream(pod_stream, telling(deleted, is_deleted_and_kept, woken(recent, ChildKind::Pod)))
        .watches_stream(policy_stream, telling(deleted, is_deleted_and_held, of_walls))
        .reconcile_on(freeing.flat_map(move |policy| stream::iter(concerned(&of_freeing, &policy))))
        .watches_stream(credential_stream, naming(&sandboxes, names_credential))
        .watches_stream(template_stream, naming(&sandboxes, names_template))
        .watches_stream(class_stream, move |class| {
            let name = class.name_any();
            // A sandbox without a class may have lost its default, or the class of its template, so it is woken by every class.
            select(&of_class, |sandbox| sandbox.spec.class_name.as_ref().is_none_or(|own| *own == name))
        })
        .watches_stream(runtime_stream, move |_| select(&of_runtime, |_| true))
        .watches_stream(claim_stream, woken(recent, ChildKind::PersistentVolumeClaim));
    let stores = Stores {
        sandboxes,
        credentials,
        classes,
        templates,
        runtime_classes,
        network_policies,
        service_accounts,
        config_maps,
        claims,
        services,
        pods,
    };
    (controller, stores)
}

/// Where a kind is watched: in every namespace, or in the only one that is served.
fn served<K>(client: &Client, only: Option<&OneNamespace>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match only {
        Some(only) => Api::namespaced(client.clone(), &only.namespace),
        None => Api::all(client.clone()),
    }
}

/// The same of a kind of our own, as objects that may not be legible.
fn own<K: Resource<DynamicType = ()>>(client: &Client, only: Option<&OneNamespace>) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<K>(&());
    match only {
        Some(only) => Api::namespaced_with(client.clone(), &only.namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

/// Objects that are given once, and stay.
fn given<K>(objects: Vec<K>) -> (Store<K>, Touched<K>)
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    let (reader, mut writer) = store();
    writer.apply_watcher_event(&watcher::Event::Init);
    objects.into_iter().for_each(|one| writer.apply_watcher_event(&watcher::Event::InitApply(one)));
    writer.apply_watcher_event(&watcher::Event::InitDone);
    (reader, stream::pending().boxed())
}

/// The RuntimeClasses of the given classes, which are taken to exist.
fn runtime_classes(only: &OneNamespace) -> Vec<PartialObjectMeta<RuntimeClass>> {
    let names = only.classes.iter().filter_map(|class| class.spec.runtime_class_name.clone());
    let object = |name| ObjectMeta { name: Some(name), ..ObjectMeta::default() }.into_response_partial();
    names.map(object).collect()
}

/// Watches a kind of our own. Others write such objects, and one that cannot be read must not end the watch for all: a status
/// that cannot be read is dropped, for it is the operator's to write anew, and any other object is left out and told.
fn watch_own<K>(
    api: Api<DynamicObject>,
    jitter: Jitter,
    listed: &UnboundedSender<()>,
) -> (Store<K>, Touched<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let stream = watcher(api, everything())
        .backoff(WatchBackoff::new(jitter, std::any::type_name::<K>()))
        .filter_map(|event| ready(event.map(legible::<K>).transpose()))
        .modify(trim)
        .reflect(writer)
        .inspect(tell_of_lists(listed))
        .touched_objects()
        .boxed();
    (reader, stream)
}

/// The event about an object of ours; none if it cannot be read.
fn legible<K: Resource + DeserializeOwned>(
    event: watcher::Event<DynamicObject>,
) -> Option<watcher::Event<K>> {
    Some(match event {
        watcher::Event::Apply(object) => watcher::Event::Apply(read(object)?),
        watcher::Event::Delete(object) => watcher::Event::Delete(read(object)?),
        watcher::Event::InitApply(object) => watcher::Event::InitApply(read(object)?),
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitDone => watcher::Event::InitDone,
    })
}

fn read<K: Resource + DeserializeOwned>(mut object: DynamicObject) -> Option<K> {
    let (namespace, name) = (object.namespace(), object.name_any());
    trim(&mut object);
    let DynamicObject { types: _, metadata, data: mut whole } = object;
    // Kubernetes' own metadata is JSON by definition; without it the object cannot be read.
    whole["metadata"] = serde_json::to_value(metadata).unwrap_or_default();
    let error = match K::deserialize(&whole) {
        Ok(read) => return Some(read),
        Err(error) => error,
    };
    // What of its status can be read counts: what was written there to be kept is not lost for what somebody wrote beside it.
    let status = whole.as_object_mut().and_then(|data| data.remove("status"));
    let without_status = K::deserialize(&whole).ok();
    let kept = without_status.is_some().then(|| legible_status::<K>(&mut whole, status)).flatten();
    tracing::warn!(
        object.kind = std::any::type_name::<K>(),
        object.namespace = namespace,
        object.name = name,
        error = chain(&error),
        left_out = if without_status.is_some() { "a part of its status" } else { "the object" },
        "an object cannot be read"
    );
    kept.or(without_status)
}

fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    jitter: Jitter,
    listed: &UnboundedSender<()>,
) -> (Store<K>, Touched<K>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let stream = watcher(api, config)
        .backoff(WatchBackoff::new(jitter, std::any::type_name::<K>()))
        .modify(trim)
        .reflect(writer)
        .inspect(tell_of_lists(listed))
        .touched_objects()
        .boxed();
    (reader, stream)
}

/// Everything of a kind, as long as a watch lasts.
fn everything() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_LASTS_SECS).page_size(PAGE_OBJECTS)
}

/// Watches all policies; besides what is touched it tells of policies as they were, where they concerned others.
fn watch_policies(
    api: Api<NetworkPolicy>,
    jitter: Jitter,
    listed: &UnboundedSender<()>,
) -> (Shelf<NetworkPolicy>, Touched<NetworkPolicy>, UnboundedReceiver<Box<NetworkPolicy>>) {
    let (freed, freeing) = unbounded();
    let tell = move |held: &Shelf<NetworkPolicy>, event: &watcher::Event<NetworkPolicy>| {
        // An error means that nobody reconciles any more.
        let _told = before(held, event).map(|policy| freed.unbounded_send(policy));
    };
    let (policies, touched) = shelve_with(watcher(api, everything()), jitter, listed, |_| (), tell);
    (policies, touched, freeing)
}

/// Tells of each list that has been read to its end and is what the store holds now.
fn tell_of_lists<K>(
    listed: &UnboundedSender<()>,
) -> impl FnMut(&Result<watcher::Event<K>, watcher::Error>) + use<K> {
    let listed = listed.clone();
    move |event| {
        if matches!(event, Ok(watcher::Event::InitDone)) {
            // An error means that nobody reconciles any more.
            let _told = listed.unbounded_send(());
        }
    }
}

/// Watches the admission policies and bindings of the cluster, of which there are few. They wake no sandbox.
#[must_use]
pub fn admission(client: &Client, jitter: Jitter) -> Watched {
    let (listed, lists) = unbounded();
    let (policies, policy_stream) =
        watch::<ValidatingAdmissionPolicy>(Api::all(client.clone()), everything(), jitter, &listed);
    let (bindings, binding_stream) =
        watch::<ValidatingAdmissionPolicyBinding>(Api::all(client.clone()), everything(), jitter, &listed);
    let touched = stream::select(
        policy_stream.map(|touched| touched.map(drop)),
        binding_stream.map(|touched| touched.map(drop)),
    );
    let touched = stream::select(touched, lists.map(Ok));
    Watched { policies, bindings, touched: touched.boxed() }
}

/// Finds the cluster's ranges and follows them ([`ranges::follow`]).
///
/// # Errors
/// When nothing says where pods, Services or nodes are.
pub async fn ranges(
    client: &Client,
    flags: &Flags,
    jitter: Jitter,
) -> Result<(Ranges, impl Future<Output = ()> + Send + 'static), Unknown> {
    let (nodes, services) = match flags.only {
        Some(_) => (nothing(), nothing()),
        None => (brought(client, jitter, ranges::of_node), brought(client, jitter, ranges::of_services)),
    };
    ranges::follow(nodes, services, flags.cluster_ranges.clone()).await
}

/// What a watch would bring of a kind that may not be asked for.
fn nothing<V: Send + 'static>() -> Brought<V> {
    stream::iter([watcher::Event::Init, watcher::Event::InitDone]).chain(stream::pending()).boxed()
}

/// Wakes every sandbox when the cluster's ranges change. Never returns by itself.
pub async fn moved(
    mut ranges: Ranges,
    sandboxes: Store<AgentSandbox>,
    wake: UnboundedSender<ObjectRef<AgentSandbox>>,
) {
    // An error means that nobody follows the ranges any more, which is the end of the process.
    while ranges.changed().await.is_ok() {
        for sandbox in select(&sandboxes, |_| true) {
            // An error means that nobody reconciles any more.
            let _told = wake.unbounded_send(sandbox);
        }
    }
    std::future::pending().await
}

/// What a watch brings of one kind, read at once: nothing else of an object is kept.
pub(crate) fn brought<K, V>(client: &Client, jitter: Jitter, read: fn(&K) -> V) -> Brought<V>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    V: Send + 'static,
{
    let kind = std::any::type_name::<K>();
    let named = move |object: K| (object.name_any(), read(&object));
    watcher(Api::<K>::all(client.clone()), everything())
        .backoff(WatchBackoff::new(jitter, kind))
        .filter_map(move |event| {
            let event = event.inspect_err(|error| {
                tracing::warn!(error = chain(error), object.kind = kind, "a watch failed and is tried again");
            });
            ready(event.ok().map(|event| match event {
                watcher::Event::Init => watcher::Event::Init,
                watcher::Event::InitApply(object) => watcher::Event::InitApply(named(object)),
                watcher::Event::InitDone => watcher::Event::InitDone,
                watcher::Event::Apply(object) => watcher::Event::Apply(named(object)),
                watcher::Event::Delete(object) => watcher::Event::Delete(named(object)),
            }))
        })
        .boxed()
}

fn watch_names<K>(
    client: &Client,
    jitter: Jitter,
    listed: &UnboundedSender<()>,
) -> (Store<PartialObjectMeta<K>>, Touched<PartialObjectMeta<K>>)
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = store();
    let stream = watcher(Api::<PartialObjectMeta<K>>::all(client.clone()), everything())
        .backoff(WatchBackoff::new(jitter, std::any::type_name::<K>()))
        .modify(trim)
        .reflect(writer)
        .inspect(tell_of_lists(listed))
        .touched_objects()
        .boxed();
    (reader, stream)
}

/// Whom a child wakes.
fn woken<K: ResourceExt>(
    recent: &Arc<Recent>,
    kind: ChildKind,
) -> impl Fn(K) -> Vec<ObjectRef<AgentSandbox>> + use<K> {
    let recent = Arc::clone(recent);
    move |child| recent.woken(kind, &child, sandboxes_of(&child))
}

/// The sandboxes that a policy concerns: those whose pods it can select, and those that may miss a wall of theirs for it, which
/// are those that it names by its label, its owner or its own name. A pod that is given the label of another sandbox
/// wakes its own, which puts that right.
fn concerned(sandboxes: &Store<AgentSandbox>, policy: &NetworkPolicy) -> Vec<ObjectRef<AgentSandbox>> {
    let namespace = policy.metadata.namespace.as_deref();
    let Some(uid) = selects_only(policy) else {
        return select(sandboxes, |sandbox| sandbox.metadata.namespace.as_deref() == namespace);
    };
    let mut all = sandboxes_of(policy);
    let name = policy.metadata.name.as_deref().unwrap_or_default();
    let wall = name.strip_suffix(SUFFIX_STAND_IN).unwrap_or(name);
    let namesake = wall.strip_suffix(SUFFIX_AGENT).or_else(|| wall.strip_suffix(SUFFIX_PROXY));
    all.extend(namesake.map(|name| ObjectRef::new(name).within(namespace.unwrap_or_default())));
    let is_selected = |sandbox: &AgentSandbox| sandbox.metadata.uid.as_deref() == Some(uid);
    if !all.iter().any(|one| sandboxes.get(one).is_some_and(|sandbox| is_selected(&sandbox))) {
        all.extend(select(sandboxes, |sandbox| {
            sandbox.metadata.namespace.as_deref() == namespace && is_selected(sandbox)
        }));
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    all.dedup();
    all
}

/// The policy as it was held, where it concerned others than it does now. Of a list nothing is said, for that wakes all.
fn before(held: &Shelf<NetworkPolicy>, event: &watcher::Event<NetworkPolicy>) -> Option<Box<NetworkPolicy>> {
    let (watcher::Event::Apply(now) | watcher::Event::Delete(now)) = event else { return None };
    let old = held.get(&now.namespace()?, &now.name_any())?;
    (selects_only(&old) != selects_only(now) || sandboxes_of(&old) != sandboxes_of(now))
        .then(|| Box::new(old))
}

/// The sandbox of a child, by its label and by its owner: somebody may have taken either away.
fn sandboxes_of<K: ResourceExt>(child: &K) -> Vec<ObjectRef<AgentSandbox>> {
    let namespace = child.namespace().unwrap_or_default();
    let by_label = child.labels().get(LABEL_SANDBOX).map(String::as_str);
    let by_owner = child
        .owner_references()
        .iter()
        .filter(|owner| owner.controller == Some(true) && owner.api_version.starts_with(GROUP))
        .map(|owner| owner.name.as_str());
    let mut names: Vec<&str> = by_label.into_iter().chain(by_owner).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| ObjectRef::new(name).within(&namespace)).collect()
}

/// The sandboxes of which this is true, in the order of their names.
fn select(
    sandboxes: &Store<AgentSandbox>,
    wanted: impl Fn(&AgentSandbox) -> bool,
) -> Vec<ObjectRef<AgentSandbox>> {
    let all = in_order(sandboxes.state_filter(|sandbox| wanted(sandbox)));
    all.iter().map(|sandbox| ObjectRef::from_obj(sandbox.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use agentsandbox_crds::names::{LABEL_COMPONENT, LABEL_SANDBOX_UID};
    use k8s_openapi::api::core::v1::EphemeralContainer;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::desired::Child;
    use crate::controller::life;
    use crate::controller::plan::{self, Step};
    use crate::fixtures::api::{Api as FakeApi, Says};
    use crate::fixtures::{agent_pod, identity, observed, sandbox};
    use crate::shelf::shelf;

    /// A sandbox of this name after `change`.
    fn named(name: &str, change: impl FnOnce(&mut Value)) -> Value {
        let mut value = serde_json::to_value(sandbox(|s| s.metadata.name = Some(name.to_owned()))).unwrap();
        change(&mut value);
        value
    }

    /// Sandboxes `s0` to `s<count - 1>` of one namespace, and one of another.
    fn many(count: usize) -> Store<AgentSandbox> {
        let (reader, mut writer) = store();
        for number in 0..=count {
            let one = sandbox(|s| {
                s.metadata.name = Some(format!("s{number}"));
                s.metadata.uid = Some(format!("uid-{number}"));
                s.metadata.namespace = Some(if number == count { "other" } else { "team" }.to_owned());
            });
            writer.apply_watcher_event(&watcher::Event::Apply(one));
        }
        reader
    }

    /// A policy that selects the agent of the sandbox with this UID, after `change`.
    fn policy(name: &str, uid: &str, change: impl FnOnce(&mut Value)) -> NetworkPolicy {
        let labels = json!({LABEL_SANDBOX_UID: uid, LABEL_COMPONENT: "agent"});
        let mut value = json!({"metadata": {"name": name, "namespace": "team"}, "spec": {"podSelector": {"matchLabels": labels}}});
        change(&mut value);
        crate::fixtures::from(value)
    }

    fn woken(all: &Store<AgentSandbox>, policy: &NetworkPolicy) -> Vec<String> {
        concerned(all, policy).into_iter().map(|one| one.name).collect()
    }

    #[test]
    fn each_wall_of_fifty_sandboxes_wakes_its_own() {
        let all = many(50);
        for number in 0..50 {
            for half in ["agent", "proxy", "agent-next"] {
                let wall = policy(&format!("s{number}-{half}"), &format!("uid-{number}"), |_| ());
                assert_eq!(woken(&all, &wall), [format!("s{number}")]);
            }
        }
    }

    #[test]
    fn a_policy_that_can_select_pods_of_several_sandboxes_wakes_all_of_its_namespace() {
        let all = many(3);
        let wide: [fn(&mut Value); 5] = [
            |value| value["spec"]["podSelector"] = json!({}),
            |value| value["spec"]["podSelector"] = Value::Null,
            |value| value["spec"]["podSelector"] = json!({"matchLabels": {LABEL_COMPONENT: "agent"}}),
            |value| {
                value["spec"]["podSelector"] = json!({"matchExpressions": [{"key": LABEL_SANDBOX_UID, "operator": "In", "values": ["uid-1"]}]});
            },
            |value| value["spec"] = Value::Null,
        ];
        for change in wide {
            assert_eq!(woken(&all, &policy("s1-agent", "uid-1", change)), ["s0", "s1", "s2"]);
        }
    }

    #[test]
    fn a_policy_wakes_whom_it_selects_and_whose_name_owner_or_label_it_has() {
        let all = many(6);
        assert_eq!(woken(&all, &policy("theirs", "uid-1", |_| ())), ["s1"]);
        assert_eq!(woken(&all, &policy("theirs", "uid-6", |_| ())), [""; 0], "it is in another namespace");
        let of_many = policy("s3-agent-next", "uid-2", |value| {
            value["metadata"]["labels"] = json!({LABEL_SANDBOX: "s4"});
            value["metadata"]["ownerReferences"] = json!([{"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "name": "s5", "uid": "x", "controller": true}]);
        });
        assert_eq!(woken(&all, &of_many), ["s2", "s3", "s4", "s5"]);
    }

    #[test]
    fn a_policy_that_changes_or_goes_wakes_those_whom_it_concerned_before() {
        let (held, mut filler) = shelf();
        let all = many(3);
        let wide = policy("theirs", "", |value| value["spec"]["podSelector"] = json!({}));
        let narrow = policy("theirs", "uid-1", |_| ());
        let labelled =
            policy("theirs", "uid-1", |value| value["metadata"]["labels"] = json!({LABEL_SANDBOX: "s2"}));
        let mut seen = |event: watcher::Event<NetworkPolicy>| {
            let old = before(&held, &event).map(|old| woken(&all, &old));
            filler.apply(&event);
            old
        };
        assert_eq!(seen(watcher::Event::Apply(wide.clone())), None, "nobody had it before");
        assert_eq!(seen(watcher::Event::Apply(narrow.clone())).unwrap(), ["s0", "s1", "s2"]);
        assert_eq!(seen(watcher::Event::Apply(narrow.clone())), None);
        assert_eq!(seen(watcher::Event::Apply(labelled)).unwrap(), ["s1"]);
        assert_eq!(seen(watcher::Event::Apply(narrow.clone())).unwrap(), ["s1", "s2"]);
        assert_eq!(seen(watcher::Event::Apply(wide)).unwrap(), ["s1"]);
        assert_eq!(seen(watcher::Event::Delete(narrow)).unwrap(), ["s0", "s1", "s2"], "a change was missed");
    }

    #[test]
    fn a_pod_is_planned_as_before_without_what_is_not_kept_of_it() {
        let wanted = || Child::Pod(Box::new(agent_pod()));
        let step = |pod: Pod| {
            let observed = observed(vec![Child::Pod(Box::new(pod))], Vec::new());
            match plan::step(wanted(), &observed, &identity(), Timestamp::UNIX_EPOCH) {
                Step::Leave(_) => "leave",
                Step::Repair(_) => "repair",
                Step::Delete(_) => "delete",
                other => panic!("{other:?}"),
            }
        };
        type Change = fn(&mut Pod);
        let cases: [(&str, Change); 5] = [
            ("leave", |_| ()),
            ("repair", |pod| drop(pod.labels_mut().remove(LABEL_SANDBOX))),
            ("delete", |pod| pod.spec.as_mut().unwrap().containers[0].image = Some("other".to_owned())),
            ("delete", |pod| {
                let spec = pod.spec.as_mut().unwrap();
                spec.containers.push(spec.containers[0].clone());
            }),
            ("delete", |pod| {
                let added = EphemeralContainer { name: "debug".to_owned(), ..EphemeralContainer::default() };
                pod.spec.as_mut().unwrap().ephemeral_containers = Some(vec![added]);
            }),
        ];
        for (wanted, change) in cases {
            let mut pod = agent_pod();
            change(&mut pod);
            let mut kept = pod.clone();
            trim_pod(&mut kept);
            assert!(serde_json::to_string(&kept).unwrap().len() < serde_json::to_string(&pod).unwrap().len());
            assert_eq!((step(pod), step(kept)), (wanted, wanted));
        }
    }

    #[test]
    fn what_is_kept_of_the_pod_of_a_task_shows_how_its_program_ended() {
        let mut pod = agent_pod();
        pod.spec.as_mut().unwrap().restart_policy = Some("Never".to_owned());
        let mut over = serde_json::to_value(pod).unwrap();
        over["status"]["phase"] = json!("Failed");
        over["status"]["containerStatuses"][0]["state"] =
            json!({"terminated": {"exitCode": 3, "reason": "Error"}});
        let mut over: Pod = serde_json::from_value(over).unwrap();
        trim_pod(&mut over);
        assert_eq!(life::ended(&over).unwrap().exit_code, Some(3));
    }

    #[tokio::test]
    async fn o_t8_one_object_that_cannot_be_read_ends_the_watch_for_nobody() {
        let items = [
            named("before", |_| ()),
            named("bad-status", |value| {
                let condition = json!({"type": "Ready", "status": "True", "reason": "Running", "message": "x", "lastTransitionTime": "0000-00-00T24:61:00Z"});
                value["status"] = json!({"conditions": [condition]});
            }),
            named("bad-part", |value| {
                let program = json!({"exitCode": 3, "reason": "Error", "finishedAt": "yesterday"});
                value["status"] = json!({"conditions": 7, "startedAt": "soon", "program": program});
            }),
            named("bad-spec", |value| value["spec"]["agent"]["image"] = json!(7)),
            named("behind", |_| ()),
        ];
        let list = json!({"kind": "AgentSandboxList", "apiVersion": "agentsandbox.dev/v1alpha1", "metadata": {"resourceVersion": "100"}, "items": items});
        let says: Says = Box::new(move |_| Some((200, list.clone())));
        let api = FakeApi::start(Vec::new(), says).await;
        let (store, stream) = watch_own::<AgentSandbox>(
            own::<AgentSandbox>(&api.client, None),
            Jitter::default(),
            &unbounded().0,
        );
        tokio::select! {
            () = stream.for_each(|_| ready(())) => unreachable!("a watch does not end"),
            filled = store.wait_until_ready() => filled.unwrap(),
        }
        let mut seen: Vec<_> = store.state().iter().map(|s| (s.name_any(), s.status.is_none())).collect();
        seen.sort();
        let wanted = [("bad-part", false), ("bad-status", true), ("before", true), ("behind", true)];
        let wanted = wanted.map(|(name, is_without)| (name.to_owned(), is_without));
        assert_eq!(seen, wanted, "the status is the operator's to write anew");
        let part = store.state().into_iter().find(|s| s.name_any() == "bad-part").unwrap();
        let status = part.status.clone().unwrap();
        assert_eq!((status.started_at, status.program.unwrap().exit_code), (None, Some(3)));
    }
}

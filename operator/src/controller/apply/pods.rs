//! A sandbox's pods, as the API server itself shows them: past every cache, and whatever somebody did to their labels and
//! their owner. A pod is known by what cannot be edited as well: the Secret that it mounts, whose name holds the UID's hash.

use agentsandbox_crds::names::{
    ANNOTATION_POLICY_HASH, ANNOTATION_RUNTIME_CLASS, ANNOTATION_SPEC_HASH, COMPONENT_PROXY, LABEL_COMPONENT,
    LABEL_SANDBOX_UID, PROGRAM_FINALIZER,
};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::params::{ListParams, Patch};
use serde_json::{Value, json};

use super::child::Made;
use super::{ApplyError, Grace, HALT_GRACE_SECS, Writer, merge};
use crate::controller::accept::Identity;
use crate::controller::desired::{Child, ChildKind, Component, keys};
use crate::controller::life;
use crate::controller::plan::{Doomed, changed_on_the_way, is_owned, spec_hash};
use crate::metrics::Verb;

/// Pods of one sandbox that are listed at once; more are found in the next pass, once these are gone.
const PODS_LISTED_MAX: u32 = 100;

/// A pod of a sandbox, as the API server itself shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LivePod {
    /// Which half it is; a pod that does not say so counts as an agent.
    pub component: Component,
    /// Exactly this pod.
    pub doomed: Doomed,
    /// By when it was to be gone, if it is on its way out.
    pub ending: Option<Timestamp>,
    /// What takes our finalizer off it; none where it has none.
    pub(super) hold: Option<Value>,
}

/// Creates a pod, and ends one that something on the way has changed: it would be replaced at once, again and again. The next one
/// is created after a pause.
///
/// # Errors
/// When the pod could not be created, or was changed. [`ApplyError::Pending`] while another pod that says it is ours stands in
/// its place: nothing may be judged by that one, and the next pass ends it.
pub(super) async fn create(
    writer: &Writer,
    identity: &Identity,
    wanted: Pod,
) -> Result<Made<Pod>, ApplyError> {
    let name = wanted.name_any();
    if let Some(what) = writer.recent.withheld(&identity.uid, &name) {
        return Err(ApplyError::Changed { name, what });
    }
    let made = writer.create_one(identity, wanted.clone()).await?;
    let (Made::Created(created) | Made::Found(created)) = &made;
    if spec_hash(&wanted) != spec_hash(created) {
        return Err(ApplyError::Pending { kind: ChildKind::Pod, name });
    }
    let Some(what) = changed_on_the_way(&wanted, created) else {
        writer.recent.release(&identity.uid, &name);
        return Ok(made);
    };
    writer.recent.withhold(&identity.uid, &name, &what);
    writer.delete_one::<Pod>(&identity.namespace, &Doomed::pod(created), Grace::Least).await?;
    Err(ApplyError::Changed { name, what })
}

/// Stops a sandbox's pod without its own grace period, which it could use where a wall is missing. It asks the API server
/// itself, so that a pod whose labels were taken off, which no watch shows, is found too.
///
/// # Errors
/// When the API server refuses or does not answer: the pod may still run.
pub async fn halt(writer: &Writer, identity: &Identity, component: Component) -> Result<(), ApplyError> {
    let name = component.name(identity);
    let Some(pod) = writer.live_pod(&identity.namespace, &name).await? else { return Ok(()) };
    let hurried =
        pod.metadata.deletion_grace_period_seconds.is_some_and(|secs| secs <= HALT_GRACE_SECS.into());
    // What has ended holds what came of it. A phase alone says nothing: whoever may write a pod's status can write one.
    if !is_of(&pod, identity) || life::is_done(&pod) || (pod.metadata.deletion_timestamp.is_some() && hurried)
    {
        return Ok(());
    }
    writer.delete_one::<Pod>(&identity.namespace, &Doomed::pod(&pod), Grace::Least).await
}

/// Which pods are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Proxies, which hold keys and are the agent's only way out.
    Proxies,
    /// Those, and every other pod but an agent's whose program has ended.
    All,
    /// Those, and every other pod, of which none was to run once: nothing is asked about them.
    Every,
}

impl Writer {
    /// The pods of a sandbox, from the API server itself: every pod with its UID as a label, whoever owns it, and of
    /// its two names each pod that it owns or that mounts its keys, whatever the labels.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn live_pods(&self, identity: &Identity) -> Result<Vec<LivePod>, ApplyError> {
        let (pods, all) = self.shown_pods(identity).await?;
        all.map(|()| pods)
    }

    /// The same as far as it could be asked for, and whether that is all: what is known is there to be ended, whatever else there is.
    ///
    /// # Errors
    /// When the API server does not list the pods.
    async fn shown_pods(
        &self,
        identity: &Identity,
    ) -> Result<(Vec<LivePod>, Result<(), ApplyError>), ApplyError> {
        let api = self.pods(&identity.namespace);
        let labelled = format!("{LABEL_SANDBOX_UID}={}", identity.uid);
        let params = ListParams::default().labels(&labelled).limit(PODS_LISTED_MAX);
        let list = self.call(Verb::List, "Pod", &labelled, api.list_metadata(&params)).await?;
        let (mut pods, mut all): (Vec<LivePod>, _) = (list.iter().map(live).collect(), Ok(()));
        for component in [Component::Agent, Component::Proxy] {
            let name = component.name(identity);
            if pods.iter().any(|pod| pod.doomed.name == name) {
                continue;
            }
            match self.live_pod(&identity.namespace, &name).await {
                Ok(unlabelled) => {
                    let own = unlabelled.filter(|pod| is_of(pod, identity));
                    pods.extend(own.map(|pod| LivePod { component, ..live(&pod) }));
                }
                Err(error) => all = Err(error),
            }
        }
        Ok((pods, all))
    }
}

/// Ends pods of a sandbox. An agent's pod whose program has ended stays, with its log; it is judged as the API server itself shows
/// it. Answers with the pods in which something may still run, in the order of their names.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn power_down(
    writer: &Writer,
    identity: &Identity,
    ending: Ending,
) -> Result<Vec<LivePod>, ApplyError> {
    let (mut left, mut doomed) = (Vec::new(), Vec::new());
    // Proxies first: nothing that is asked about an agent may keep them up.
    let (shown, mut unasked) = writer.shown_pods(identity).await?;
    let (proxies, agents): (Vec<_>, Vec<_>) =
        shown.into_iter().partition(|pod| pod.component == Component::Proxy);
    left.extend(proxies.iter().cloned());
    let proxies = proxies.into_iter().filter(|pod| pod.ending.is_none()).map(|pod| pod.doomed).collect();
    let stopped = super::stop(writer, &identity.namespace, proxies).await;
    for pod in agents {
        match is_spent(writer, identity, &pod.doomed, ending).await {
            Ok(true) => continue,
            Ok(false) if ending == Ending::Proxies => {}
            Ok(false) if pod.ending.is_none() => doomed.push(pod.doomed.clone()),
            // Nothing came of it that is to be told: from here on its kubelet alone keeps it.
            Ok(false) => unasked = unasked.and(let_go(writer, identity, &pod).await.map(|_| ())),
            // It may hold the only word of what came of its program. The others have nothing to do with that.
            Err(error) => unasked = Err(error),
        }
        left.push(pod);
    }
    super::stop(writer, &identity.namespace, doomed).await?;
    left.sort_by(|one, other| one.doomed.name.cmp(&other.doomed.name));
    stopped.and(unasked).map(|()| left)
}

async fn is_spent(
    writer: &Writer,
    identity: &Identity,
    listed: &Doomed,
    ending: Ending,
) -> Result<bool, ApplyError> {
    if ending == Ending::Every {
        return Ok(false);
    }
    let pod = writer.live_pod(&identity.namespace, &listed.name).await?;
    // Another pod of that name is not the one that was listed, and may live.
    Ok(pod.is_none_or(|pod| pod.uid().as_deref() == Some(listed.uid.as_str()) && life::is_done(&pod)))
}

/// What a program's end, as the watches show it, is by the API server itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The end of a program that the operator had started.
    Own,
    /// None: the watch is behind.
    None,
    /// That of exactly this pod, which is not as the operator makes its own.
    Forged(Doomed),
}

/// Whether a program has ended as the watches show it. A watch that is behind shows a pod that was deleted meanwhile. An owner can be
/// written by anybody; labels and annotations of ours are the operator's alone where the chart's admission policies hold, and a pod's
/// volumes cannot be edited.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn end_shown(writer: &Writer, identity: &Identity, shown: Option<&Pod>) -> Result<End, ApplyError> {
    let Some(shown) = shown else { return Ok(End::None) };
    let live = writer.live_pod(&identity.namespace, &shown.name_any()).await?;
    let Some(pod) = live.filter(|pod| pod.metadata.uid == shown.metadata.uid) else { return Ok(End::None) };
    if life::ended(&pod).is_none() {
        return Ok(End::None);
    }
    if !(mounts_keys(&pod, identity) && spec_hash(&pod).is_some()) {
        return Ok(End::Forged(Doomed::pod(&pod)));
    }
    // What it ended with is no less known for a label that somebody took off. That it is given back lets the pod be found; where it
    // cannot be, that must hold nothing up that the end brings.
    if let Err(error) = put_back(writer, identity, Component::Agent, Some(&pod)).await {
        tracing::warn!(
            error = crate::controller::chain(&error),
            "an ended pod could not be given its labels back"
        );
    }
    Ok(End::Own)
}

/// Whether the agent runs outside its walls: they select it by labels, and these can be taken off.
///
/// # Errors
/// When the API server does not answer.
pub async fn is_outside_its_walls(writer: &Writer, identity: &Identity) -> Result<bool, ApplyError> {
    let pod = writer.live_pod(&identity.namespace, &Component::Agent.name(identity)).await?;
    Ok(pod.is_some_and(|pod| is_of(&pod, identity) && !is_inside_its_walls(&pod, identity)))
}

/// Gives a pod that runs back the labels and the owner that somebody took off, and answers with the pod as it is then; none
/// if there is nothing to give. `shown` is the pod as the watches show it: only one that does not show it whole is asked
/// about.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn put_back(
    writer: &Writer,
    identity: &Identity,
    component: Component,
    shown: Option<&Pod>,
) -> Result<Option<Pod>, ApplyError> {
    if shown.is_some_and(|pod| is_named(pod, identity, component)) {
        return Ok(None);
    }
    let (namespace, name) = (&identity.namespace, component.name(identity));
    let Some(live) = writer.live_pod(namespace, &name).await? else { return Ok(None) };
    // A label or an owner can be given to anything; the keys are the operator's to mount. Nothing else is adopted.
    if !mounts_keys(&live, identity) || is_named(&live, identity, component) {
        return Ok(None);
    }
    let mut named = Pod { metadata: component.metadata(identity, name), ..Pod::default() };
    // The same pod, or none: another may have taken the name meanwhile.
    named.metadata.uid = live.uid();
    // What an apply leaves out, it takes off.
    named.metadata.finalizers = is_kept(&live).then(|| vec![PROGRAM_FINALIZER.to_owned()]);
    let own = [ANNOTATION_SPEC_HASH, ANNOTATION_RUNTIME_CLASS, ANNOTATION_POLICY_HASH];
    let ours = |key: &String| own.contains(&key.as_str());
    let kept = live.metadata.annotations.into_iter().flatten().filter(|(key, _)| ours(key)).collect();
    named.metadata.annotations = Some(kept);
    let pod: Pod = writer.apply_one(namespace, &named).await?;
    writer.recent.wrote(namespace, Child::Pod(Box::new(pod.clone())));
    Ok(Some(pod))
}

/// Whether our finalizer keeps an agent's pod.
#[must_use]
pub fn is_kept<K: ResourceExt>(pod: &K) -> bool {
    pod.finalizers().iter().any(|one| one == PROGRAM_FINALIZER)
}

/// A patch that takes our finalizer off a pod, and names the version it was made from.
fn hold<K: ResourceExt>(pod: &K) -> Option<Value> {
    let others: Vec<&String> = pod.finalizers().iter().filter(|one| *one != PROGRAM_FINALIZER).collect();
    is_kept(pod).then(|| {
        json!({"metadata": {
            "uid": pod.uid(), "resourceVersion": pod.resource_version(), "finalizers": others,
        }})
    })
}

/// Lets a pod go that shows nothing that is not told: our finalizer is taken off. Another end of its deletion is its kubelet's.
///
/// # Errors
/// When the API server refuses, a conflict among others. One that is gone is let go.
pub async fn release(writer: &Writer, identity: &Identity, pod: &Pod) -> Result<(), ApplyError> {
    let released = let_go(writer, identity, &live(pod)).await?;
    // Until the watch shows it so; of one that goes, its end is what comes next.
    if let Some(pod) = released.filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        writer.recent.wrote(&identity.namespace, Child::Pod(Box::new(pod)));
    }
    Ok(())
}

/// Lets pods go that are on their way out.
///
/// # Errors
/// As [`release`].
pub async fn release_ending(
    writer: &Writer,
    identity: &Identity,
    pods: &[LivePod],
) -> Result<(), ApplyError> {
    let going = pods.iter().filter(|pod| pod.ending.is_some());
    try_join_all(going.map(|pod| let_go(writer, identity, pod))).await.map(|_| ())
}

async fn let_go(writer: &Writer, identity: &Identity, pod: &LivePod) -> Result<Option<Pod>, ApplyError> {
    let Some(patch) = pod.hold.clone() else { return Ok(None) };
    let (api, name, params) = (writer.api::<Pod>(&identity.namespace), &pod.doomed.name, merge());
    match writer.call(Verb::Patch, "Pod", name, api.patch(name, &params, &Patch::Merge(patch))).await {
        Err(error) if error.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// What is known of a pod. One that does not say which half it is counts as an agent: agents go first.
pub(super) fn live<K: ResourceExt>(pod: &K) -> LivePod {
    let proxy = pod.labels().get(LABEL_COMPONENT).is_some_and(|value| value == COMPONENT_PROXY);
    LivePod {
        component: if proxy { Component::Proxy } else { Component::Agent },
        doomed: Doomed {
            kind: ChildKind::Pod,
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            node: None,
        },
        ending: pod.meta().deletion_timestamp.as_ref().map(|time| time.0),
        hold: hold(pod),
    }
}

/// Whether a pod of one of our names is the sandbox's, by its owner, its label, or the keys that it mounts: somebody may
/// have taken the first two away, and cannot edit the third.
fn is_of(pod: &Pod, identity: &Identity) -> bool {
    is_owned(&pod.metadata, identity)
        || pod.labels().get(LABEL_SANDBOX_UID) == Some(&identity.uid)
        || mounts_keys(pod, identity)
}

fn mounts_keys(pod: &Pod, identity: &Identity) -> bool {
    let keys = keys::name(identity);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mut secrets = volumes.filter_map(|volume| volume.secret.as_ref()?.secret_name.as_ref());
    secrets.any(|name| *name == keys)
}

/// Whether a pod has its owner and all labels that it was given: by some its walls select it, by others it is found.
fn is_named(pod: &Pod, identity: &Identity, component: Component) -> bool {
    let has = |(key, value): (&String, &String)| pod.labels().get(key) == Some(value);
    is_owned(&pod.metadata, identity) && component.labels(identity).iter().all(has)
}

/// Whether the agent's walls select a pod: they do so by labels.
fn is_inside_its_walls<K: ResourceExt>(pod: &K, identity: &Identity) -> bool {
    let labels = pod.labels();
    Component::Agent.match_labels(identity).iter().all(|(key, value)| labels.get(key) == Some(value))
}

//! Carries out a plan; nothing here decides. Boundary first, workload last, and the types keep that order.
//!
//! Something new is created by POST, on the condition that the name is free: server-side apply would quietly adopt a stranger's object.
//! What is ours already is repaired by server-side apply under one field manager. A repair and a deletion name the UID they mean, so one that
//! arrives late makes nothing anew. Every write asks first whether this process may still write, and is given up when it may no longer ([`Tenure`]).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use agentsandbox_crds::names::FIELD_MANAGER;
use agentsandbox_crds::{AgentSandbox, AgentSandboxStatus};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use super::accept::Identity;
use super::desired::{Child, ChildKind, keys};
use super::evaluate::Unwidened;
use super::observe::Recent;
use super::plan::{Doomed, Step, differs, is_ours};
use crate::ca;
use crate::clock::Clock;
use crate::lease::Tenure;
use crate::metrics::{Metrics, Verb};

mod boundary;
mod child;
mod claims;
mod error;
mod pods;
mod source;
mod walls;
mod way;

pub use boundary::{Sealed, boundary};
pub use error::{ApplyError, Claim, Document, Unsealed, Walls};
pub use pods::{
    End, Ending, LivePod, end_shown, halt, is_kept, is_outside_its_walls, power_down, put_back, release,
    release_ending,
};
pub use source::Missing;
pub use way::{Gated, admit, keep, shut};

pub(super) use child::names_another;
use child::{Made, NamedChild, applied, is_already_exists, is_not_found};

/// A request that takes longer counts as failed: one that never ends must not keep a pass from telling so. Admission
/// webhooks are given 10 s unless their owner says otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Seconds that an agent without walls is given to end: the least that still lets the kubelet say that it is gone.
const HALT_GRACE_SECS: u32 = 1;

/// The hand that writes.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    tenure: Arc<Tenure>,
    metrics: Arc<Metrics>,
    recent: Arc<Recent>,
    clock: Clock,
}

/// How long a pod may take to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grace {
    /// As its own spec says.
    Own,
    /// [`HALT_GRACE_SECS`].
    Least,
}

/// What became of a pod.
#[derive(Clone, Debug, Default)]
pub enum Applied {
    /// It exists, as last seen.
    Present(Box<Pod>),
    /// This one is being replaced; its end brings the next pass.
    Replacing(Doomed),
    /// It ended, for the reason that its kubelet gives, and is replaced; not before the given time, if there is one.
    Ended(String, Option<Timestamp>),
    /// It was not its turn.
    #[default]
    Absent,
}

/// Starts the proxy; it asks for the walls.
///
/// # Errors
/// When the pod could not be applied.
pub async fn proxy(
    writer: &Writer,
    identity: &Identity,
    _walls: &Sealed,
    step: Step,
) -> Result<Applied, ApplyError> {
    writer.pod(identity, step).await
}

/// Starts the agent's pod; it asks for the walls, for the proof that no other policy widens them, and for the gate: its
/// fence keeps the agent from starting until the way to a proxy that was seen closed is open.
///
/// # Errors
/// When the pod could not be applied.
pub async fn agent(
    writer: &Writer,
    identity: &Identity,
    _walls: &Sealed,
    _unwidened: &Unwidened,
    _gate: Gated,
    step: Step,
) -> Result<Applied, ApplyError> {
    writer.pod(identity, step).await
}

/// Stops the given pods: power can always be taken away, without evidence.
///
/// # Errors
/// When a pod could not be deleted.
pub async fn stop(writer: &Writer, namespace: &str, pods: Vec<Doomed>) -> Result<(), ApplyError> {
    try_join_all(pods.iter().map(|pod| writer.delete(namespace, pod))).await.map(|_| ())
}

impl Writer {
    /// A hand that writes through `client` while `tenure` lasts.
    #[must_use]
    pub const fn new(
        client: Client,
        tenure: Arc<Tenure>,
        metrics: Arc<Metrics>,
        recent: Arc<Recent>,
        clock: Clock,
    ) -> Self {
        Self { client, tenure, metrics, recent, clock }
    }

    /// Patches a sandbox's finalizers; the patch names the version it was made from.
    ///
    /// # Errors
    /// When the API server refuses, a conflict among others.
    pub async fn finalizers(
        &self,
        sandbox: &AgentSandbox,
        finalizers: Vec<String>,
    ) -> Result<AgentSandbox, ApplyError> {
        let patch =
            json!({"metadata": {"resourceVersion": sandbox.resource_version(), "finalizers": finalizers}});
        let api = self.sandboxes(sandbox);
        let (name, params, patch) = (sandbox.name_any(), merge(), Patch::Merge(patch));
        let call = api.patch(&name, &params, &patch);
        let sent = self.recent.patches(sandbox);
        let patched = self.call(Verb::Patch, "AgentSandbox", &name, call).await?;
        self.recent.patched(sent, patched.clone());
        Ok(patched)
    }

    /// The sandbox as the API server itself has it. It is asked by a patch that changes nothing, for the operator may not read one:
    /// the UID conflicts with another sandbox of the name, and with nobody's edit.
    ///
    /// # Errors
    /// When the API server refuses, or there is another.
    pub async fn shown(&self, sandbox: &AgentSandbox) -> Result<AgentSandbox, ApplyError> {
        let api = self.sandboxes(sandbox);
        let patch = Patch::Merge(json!({"metadata": {"uid": sandbox.uid()}}));
        let (name, params) = (sandbox.name_any(), merge());
        let call = api.patch(&name, &params, &patch);
        let sent = self.recent.patches(sandbox);
        let shown = self.call(Verb::Patch, "AgentSandbox", &name, call).await?;
        self.recent.patched(sent, shown.clone());
        Ok(shown)
    }

    /// Writes a sandbox's status, and gives back what the API server kept of it; the patch names the version it was made
    /// from.
    ///
    /// # Errors
    /// When the API server refuses, a conflict among others.
    pub async fn status(
        &self,
        sandbox: &AgentSandbox,
        status: &AgentSandboxStatus,
    ) -> Result<AgentSandbox, ApplyError> {
        let mut patch =
            json!({"metadata": {"resourceVersion": sandbox.resource_version()}, "status": status});
        let was_idle = sandbox.status.as_ref().is_some_and(|old| old.last_activity_time.is_some());
        if was_idle && status.last_activity_time.is_none() {
            // A merge patch leaves what it does not name, and this is to go where something passes again.
            patch["status"]["lastActivityTime"] = serde_json::Value::Null;
        }
        let api = self.sandboxes(sandbox);
        let (name, params, patch) = (sandbox.name_any(), merge(), Patch::Merge(patch));
        let call = api.patch_status(&name, &params, &patch);
        let sent = self.recent.patches(sandbox);
        let patched = self.call(Verb::Patch, "AgentSandbox", &name, call).await?;
        self.recent.patched(sent, patched.clone());
        Ok(patched)
    }

    /// Deletes a sandbox, if it is still as it was when that was decided; one that is gone already is gone.
    ///
    /// # Errors
    /// When the API server refuses, for it was changed meanwhile among others.
    pub async fn delete_sandbox(&self, sandbox: &AgentSandbox) -> Result<(), ApplyError> {
        let exactly = Preconditions { uid: sandbox.uid(), resource_version: sandbox.resource_version() };
        let params = DeleteParams::background().preconditions(exactly);
        let (api, name) = (self.sandboxes(sandbox), sandbox.name_any());
        match self.call(Verb::Delete, "AgentSandbox", &name, api.delete(&name, &params)).await {
            Err(ApplyError::Api { source, .. }) if is_not_found(&source) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Deletes exactly one object; one that is gone already is gone.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self, namespace: &str, doomed: &Doomed) -> Result<(), ApplyError> {
        let grace = Grace::Own;
        match doomed.kind {
            ChildKind::ServiceAccount => self.delete_one::<ServiceAccount>(namespace, doomed, grace).await,
            ChildKind::NetworkPolicy => self.delete_one::<NetworkPolicy>(namespace, doomed, grace).await,
            ChildKind::ConfigMap => self.delete_one::<ConfigMap>(namespace, doomed, grace).await,
            ChildKind::PersistentVolumeClaim => {
                self.delete_one::<PersistentVolumeClaim>(namespace, doomed, grace).await
            }
            ChildKind::Service => self.delete_one::<Service>(namespace, doomed, grace).await,
            ChildKind::Pod => self.delete_one::<Pod>(namespace, doomed, grace).await,
        }
    }

    /// For how long it writes.
    #[must_use]
    pub fn tenure(&self) -> &Tenure {
        &self.tenure
    }

    /// Reads one pod from the API server itself, past every cache.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn live_pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ApplyError> {
        self.call(Verb::Get, "Pod", name, self.pods(namespace).get_opt(name)).await
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    async fn pod(&self, identity: &Identity, step: Step) -> Result<Applied, ApplyError> {
        match step {
            Step::Hold(until, why) => Ok(Applied::Ended(why, Some(until))),
            Step::Clear(doomed, why) => {
                self.delete(&identity.namespace, &doomed).await?;
                Ok(Applied::Ended(why, None))
            }
            Step::Await(doomed) => Ok(Applied::Replacing(doomed)),
            Step::Delete(doomed) => {
                self.delete(&identity.namespace, &doomed).await?;
                Ok(Applied::Replacing(doomed))
            }
            other => match self.step(identity, other).await? {
                Child::Pod(pod) => Ok(Applied::Present(pod)),
                _ => Ok(Applied::Absent),
            },
        }
    }

    async fn step(&self, identity: &Identity, step: Step) -> Result<Child, ApplyError> {
        match step {
            Step::Leave(live) => Ok(live),
            Step::Create(child) => self.create(identity, child).await,
            Step::Repair(child) => match self.repair(identity, child.clone()).await {
                // It is gone, and no watch has shown that yet. No wall waits for the watch.
                Err(error) if error.is_conflict() && child.kind() == ChildKind::NetworkPolicy => {
                    Box::pin(self.create(identity, child.with_uid(None))).await
                }
                repaired => repaired,
            },
            Step::Renew(renewal) => {
                let renewed = Child::NetworkPolicy(self.renew(identity, *renewal).await?);
                self.recent.wrote(&identity.namespace, renewed.clone());
                Ok(renewed)
            }
            Step::Foreign(kind, name) => Err(ApplyError::Foreign { kind, name }),
            Step::Delete(doomed) | Step::Clear(doomed, _) => {
                self.delete(&identity.namespace, &doomed).await?;
                Err(ApplyError::Pending { kind: doomed.kind, name: doomed.name })
            }
            Step::Await(doomed) => Err(ApplyError::Pending { kind: doomed.kind, name: doomed.name }),
            Step::Hold(..) => Err(ApplyError::Pending { kind: ChildKind::Pod, name: identity.name.clone() }),
        }
    }

    async fn create(&self, identity: &Identity, child: Child) -> Result<Child, ApplyError> {
        let sent = self.recent.creates(child.kind(), identity, child.name());
        let made = match child {
            Child::ServiceAccount(c) => self.create_one(identity, c).await?.map(Child::ServiceAccount),
            Child::NetworkPolicy(c) => self.create_one(identity, c).await?.map(Child::NetworkPolicy),
            Child::ConfigMap(c) => self.create_one(identity, c).await?.map(Child::ConfigMap),
            Child::PersistentVolumeClaim(c) => {
                self.create_one(identity, *c).await?.map(|c| Child::PersistentVolumeClaim(Box::new(c)))
            }
            Child::Service(c) => self.create_one(identity, *c).await?.map(|c| Child::Service(Box::new(c))),
            Child::Pod(c) => pods::create(self, identity, *c).await?.map(|c| Child::Pod(Box::new(c))),
        };
        match made {
            Made::Created(child) => {
                self.recent.created(sent, identity, &child);
                Ok(child)
            }
            // Somebody else may have put it there, so what a watch shows of it is news, and `sent` ends unanswered.
            Made::Found(child) => {
                self.recent.wrote(&identity.namespace, child.clone());
                Ok(child)
            }
        }
    }

    async fn repair(&self, identity: &Identity, child: Child) -> Result<Child, ApplyError> {
        let namespace = &identity.namespace;
        let repaired = match child {
            Child::ServiceAccount(c) => Child::ServiceAccount(self.apply_one(namespace, &c).await?),
            Child::NetworkPolicy(c) => Child::NetworkPolicy(self.apply_one(namespace, &c).await?),
            Child::ConfigMap(c) => Child::ConfigMap(self.apply_one(namespace, &c).await?),
            Child::PersistentVolumeClaim(c) => {
                Child::PersistentVolumeClaim(Box::new(self.right_claim(identity, *c).await?))
            }
            Child::Service(c) => Child::Service(Box::new(self.apply_one(namespace, c.as_ref()).await?)),
            // A pod's spec cannot change; only what names it is restored.
            Child::Pod(c) => {
                let named = Pod { metadata: c.metadata.clone(), ..Pod::default() };
                Child::Pod(Box::new(self.apply_one(namespace, &named).await?))
            }
        };
        self.recent.wrote(namespace, repaired.clone());
        Ok(repaired)
    }

    /// The keys go from the generator into the request, and are dropped with it.
    async fn keys(&self, identity: &Identity, name: Option<String>) -> Result<(), ApplyError> {
        let Some(name) = name else { return Ok(()) };
        let material = ca::generate(&identity.namespace, &identity.name, self.clock.now())?;
        let api = Api::<Secret>::namespaced(self.client.clone(), &identity.namespace);
        let secret = keys::secret(identity, &material);
        match self.call(Verb::Create, "Secret", &name, api.create(&post(), &secret)).await {
            // Made in an earlier pass: the name holds the UID's hash, and it cannot be read to make sure.
            Err(ApplyError::Api { source, .. }) if is_already_exists(&source) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn create_one<K>(&self, identity: &Identity, wanted: K) -> Result<Made<K>, ApplyError>
    where
        K: NamedChild,
    {
        let api = self.api::<K>(&identity.namespace);
        let name = wanted.name_any();
        match self.call(Verb::Create, K::KIND.as_str(), &name, api.create(&post(), &wanted)).await {
            Err(ApplyError::Api { verb, what, source })
                if is_already_exists(&source) && K::KIND == ChildKind::NetworkPolicy =>
            {
                let taken = ApplyError::Api { verb, what, source };
                self.confirm(identity, &wanted, taken).await.map(Made::Found)
            }
            Err(ApplyError::Api { source, .. }) if is_already_exists(&source) => {
                let live = self.call(Verb::Get, K::KIND.as_str(), &name, api.get(&name)).await?;
                if !is_ours(&live.clone().child(), identity) {
                    return Err(ApplyError::Foreign { kind: K::KIND, name });
                }
                if live.meta().deletion_timestamp.is_some() {
                    return Err(ApplyError::Pending { kind: K::KIND, name });
                }
                // Ours: a watch is behind, the answer to an earlier creation was lost, or its labels were taken off.
                // What was edited meanwhile is put right, so that the watch shows it again and it is as it is said to
                // be; of a pod, whose spec cannot be edited, that is what names it.
                if !differs(&wanted.clone().child(), &live.clone().child()) {
                    return Ok(Made::Found(live));
                }
                let mut same = wanted;
                same.meta_mut().uid = live.uid();
                let righted = match K::KIND {
                    // What it lacks is seen by the watch, and put right in the next pass.
                    ChildKind::PersistentVolumeClaim => Ok(live),
                    ChildKind::Pod => self.relabel(&identity.namespace, &same).await,
                    _ => self.apply_one(&identity.namespace, &same).await,
                };
                righted.map(Made::Found)
            }
            other => other.map(Made::Created),
        }
    }

    async fn relabel<K: NamedChild>(&self, namespace: &str, wanted: &K) -> Result<K, ApplyError> {
        let metadata = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {
                "name": wanted.name_any(), "uid": wanted.uid(), "labels": wanted.labels(),
                "ownerReferences": wanted.owner_references(), "finalizers": wanted.finalizers(),
            },
        });
        self.server_side_apply(namespace, &wanted.name_any(), metadata).await
    }

    async fn apply_one<K: NamedChild>(&self, namespace: &str, wanted: &K) -> Result<K, ApplyError> {
        self.server_side_apply(namespace, &wanted.name_any(), applied(wanted)).await
    }

    async fn server_side_apply<K: NamedChild>(
        &self,
        namespace: &str,
        name: &str,
        body: Value,
    ) -> Result<K, ApplyError> {
        let api = self.api::<K>(namespace);
        let (params, patch) = (PatchParams::apply(FIELD_MANAGER).force(), Patch::Apply(body));
        self.call(Verb::Patch, K::KIND.as_str(), name, api.patch(name, &params, &patch)).await
    }

    async fn delete_one<K: NamedChild>(
        &self,
        namespace: &str,
        doomed: &Doomed,
        grace: Grace,
    ) -> Result<(), ApplyError> {
        let api = self.api::<K>(namespace);
        let exactly = Preconditions { uid: Some(doomed.uid.clone()), resource_version: None };
        let params = DeleteParams {
            grace_period_seconds: (grace == Grace::Least).then_some(HALT_GRACE_SECS),
            ..DeleteParams::background().preconditions(exactly)
        };
        match self.call(Verb::Delete, K::KIND.as_str(), &doomed.name, api.delete(&doomed.name, &params)).await
        {
            Err(ApplyError::Api { source, .. }) if is_not_found(&source) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn api<K: NamedChild>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn sandboxes(&self, sandbox: &AgentSandbox) -> Api<AgentSandbox> {
        Api::namespaced(self.client.clone(), &sandbox.namespace().unwrap_or_default())
    }

    /// One request: allowed by the tenure, counted, and named in its error.
    async fn call<T>(
        &self,
        verb: Verb,
        kind: &'static str,
        name: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApplyError> {
        let writes = !matches!(verb, Verb::Get | Verb::List);
        if writes && !self.tenure.may_write() {
            return Err(ApplyError::NotLeader);
        }
        let what = format!("{kind} {name}");
        // Not moved from one future into another: they would be as large as all of them together.
        let answer = pin!(tokio::time::timeout(REQUEST_TIMEOUT, request));
        let answer = if writes { self.tenure.within(answer).await } else { Some(answer.await) };
        self.metrics.request(verb, kind, matches!(answer, Some(Ok(Ok(_)))));
        match answer {
            Some(Ok(result)) => {
                result.map_err(|source| ApplyError::Api { verb, what, source: Box::new(source) })
            }
            Some(Err(_)) => Err(ApplyError::Unanswered { verb, what }),
            None => Err(ApplyError::NotLeader),
        }
    }
}

fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

fn merge() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

#[cfg(test)]
mod tests;

//! Carries out a plan; nothing here decides. Boundary first, workload last, and the types keep that order.
//!
//! Something new is created by POST, on the condition that the name is free: server-side apply would quietly adopt a
//! stranger's object. What is ours already is repaired by server-side apply under one field manager. A deletion names
//! the UID it means. Every write asks first whether this process may still write ([`Tenure`]).

use std::fmt::Debug;
use std::net::Ipv4Addr;
use std::sync::Arc;

use agentsandbox_crds::names::FIELD_MANAGER;
use agentsandbox_crds::{AgentSandbox, AgentSandboxStatus};
use futures::future::{join_all, try_join, try_join_all};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::accept::Identity;
use super::desired::{Child, ChildKind, keys};
use super::observe::{ProxyClosed, Recent};
use super::plan::{BoundaryPlan, Doomed, Step, is_owned};
use crate::ca::{self, KeyError};
use crate::lease::Tenure;
use crate::metrics::{Metrics, Verb};

/// The hand that writes.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    tenure: Arc<Tenure>,
    metrics: Arc<Metrics>,
    recent: Arc<Recent>,
}

/// The walls stand and the proxy has an address; only [`boundary`] makes it, after every one of its writes succeeded.
#[derive(Clone, Debug)]
pub struct Sealed {
    proxy_address: Ipv4Addr,
}

/// Why there is no [`Sealed`], or a pod was not applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused, or did not answer.
    #[error("{verb} of {what} failed")]
    Api {
        /// What was tried.
        verb: Verb,
        /// On which object, as `Kind name`.
        what: String,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The name belongs to somebody else.
    #[error("{} {name} exists and belongs to somebody else", .kind.as_str())]
    Foreign {
        /// Kind of the object.
        kind: ChildKind,
        /// Its name.
        name: String,
    },
    /// An object is on its way out, or not there yet.
    #[error("waiting for {} {name}", .kind.as_str())]
    Pending {
        /// Kind of the object.
        kind: ChildKind,
        /// Its name.
        name: String,
    },
    /// No keys could be made.
    #[error("the sandbox's keys could not be made")]
    Keys(#[from] KeyError),
    /// Another replica leads.
    #[error("this replica may not write")]
    NotLeader,
}

/// What became of a pod.
#[derive(Clone, Debug, Default)]
pub enum Applied {
    /// It exists, as last seen.
    Present(Box<Pod>),
    /// It is being replaced; its end brings the next pass.
    Replacing,
    /// It ended too soon; nothing before the given time.
    Held(Timestamp),
    /// It was not its turn.
    #[default]
    Absent,
}

#[cfg(test)]
impl Sealed {
    /// Walls that stand in a test, where there is no cluster to put them up in.
    pub(crate) const fn for_tests() -> Self {
        Self { proxy_address: Ipv4Addr::new(10, 96, 7, 7) }
    }
}

impl Sealed {
    /// Address of the proxy's Service.
    #[must_use]
    pub const fn proxy_address(&self) -> Ipv4Addr {
        self.proxy_address
    }
}

/// Puts up the walls and what stands beside them, all at once: none of them holds power without a pod.
///
/// # Errors
/// The first wall or supply that could not be put up; then there is no pod.
pub async fn boundary(
    writer: &Writer,
    identity: &Identity,
    plan: BoundaryPlan,
) -> Result<Sealed, ApplyError> {
    let walls = join_all(plan.walls.into_iter().chain(plan.supplies).map(|step| writer.step(identity, step)));
    let (results, ()) = try_join(async { Ok(walls.await) }, writer.keys(identity, plan.keys)).await?;
    let children = results.into_iter().collect::<Result<Vec<_>, _>>()?;
    let address = children.iter().find_map(|child| match child {
        Child::Service(service) => service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok(),
        _ => None,
    });
    match address {
        Some(proxy_address) => Ok(Sealed { proxy_address }),
        None => Err(ApplyError::Pending { kind: ChildKind::Service, name: identity.name.clone() }),
    }
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

/// Starts the agent; it asks for the walls and for the proof that the proxy is closed to others.
///
/// # Errors
/// When the pod could not be applied.
pub async fn agent(
    writer: &Writer,
    identity: &Identity,
    _walls: &Sealed,
    _closed: &ProxyClosed,
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
    ) -> Self {
        Self { client, tenure, metrics, recent }
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
        let patched = self.call(Verb::Patch, "AgentSandbox", &name, call).await?;
        self.recent.patched(patched.clone());
        Ok(patched)
    }

    /// Writes a sandbox's status; the patch names the version it was made from.
    ///
    /// # Errors
    /// When the API server refuses, a conflict among others.
    pub async fn status(
        &self,
        sandbox: &AgentSandbox,
        status: &AgentSandboxStatus,
    ) -> Result<(), ApplyError> {
        let patch = json!({"metadata": {"resourceVersion": sandbox.resource_version()}, "status": status});
        let api = self.sandboxes(sandbox);
        let (name, params, patch) = (sandbox.name_any(), merge(), Patch::Merge(patch));
        let call = api.patch_status(&name, &params, &patch);
        let patched = self.call(Verb::Patch, "AgentSandbox", &name, call).await?;
        self.recent.patched(patched);
        Ok(())
    }

    /// Deletes exactly one object; one that is gone already is gone.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn delete(&self, namespace: &str, doomed: &Doomed) -> Result<(), ApplyError> {
        match doomed.kind {
            ChildKind::ServiceAccount => self.delete_one::<ServiceAccount>(namespace, doomed).await,
            ChildKind::NetworkPolicy => self.delete_one::<NetworkPolicy>(namespace, doomed).await,
            ChildKind::ConfigMap => self.delete_one::<ConfigMap>(namespace, doomed).await,
            ChildKind::Service => self.delete_one::<Service>(namespace, doomed).await,
            ChildKind::Pod => self.delete_one::<Pod>(namespace, doomed).await,
        }
    }

    /// Reads one pod from the API server itself, past every cache.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn live_pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ApplyError> {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        self.call(Verb::Get, "Pod", name, api.get_opt(name)).await
    }

    async fn pod(&self, identity: &Identity, step: Step) -> Result<Applied, ApplyError> {
        match step {
            Step::Hold(until) => Ok(Applied::Held(until)),
            Step::Await(_) => Ok(Applied::Replacing),
            Step::Delete(doomed) => {
                self.delete(&identity.namespace, &doomed).await?;
                Ok(Applied::Replacing)
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
            Step::Repair(child) => self.repair(identity, child).await,
            Step::Foreign(kind, name) => Err(ApplyError::Foreign { kind, name }),
            Step::Delete(doomed) => {
                self.delete(&identity.namespace, &doomed).await?;
                Err(ApplyError::Pending { kind: doomed.kind, name: doomed.name })
            }
            Step::Await(doomed) => Err(ApplyError::Pending { kind: doomed.kind, name: doomed.name }),
            Step::Hold(_) => Err(ApplyError::Pending { kind: ChildKind::Pod, name: identity.name.clone() }),
        }
    }

    async fn create(&self, identity: &Identity, child: Child) -> Result<Child, ApplyError> {
        let created = match child {
            Child::ServiceAccount(c) => Child::ServiceAccount(self.create_one(identity, c).await?),
            Child::NetworkPolicy(c) => Child::NetworkPolicy(self.create_one(identity, c).await?),
            Child::ConfigMap(c) => Child::ConfigMap(self.create_one(identity, c).await?),
            Child::Service(c) => Child::Service(Box::new(self.create_one(identity, *c).await?)),
            Child::Pod(c) => Child::Pod(Box::new(self.create_one(identity, *c).await?)),
        };
        self.recent.wrote(&identity.namespace, created.clone());
        Ok(created)
    }

    async fn repair(&self, identity: &Identity, child: Child) -> Result<Child, ApplyError> {
        let namespace = &identity.namespace;
        let repaired = match child {
            Child::ServiceAccount(c) => Child::ServiceAccount(self.apply_one(namespace, &c).await?),
            Child::NetworkPolicy(c) => Child::NetworkPolicy(self.apply_one(namespace, &c).await?),
            Child::ConfigMap(c) => Child::ConfigMap(self.apply_one(namespace, &c).await?),
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
        let material = ca::generate(&identity.namespace, &identity.name, Timestamp::now())?;
        let api = Api::<Secret>::namespaced(self.client.clone(), &identity.namespace);
        let secret = keys::secret(identity, &material);
        match self.call(Verb::Create, "Secret", &name, api.create(&post(), &secret)).await {
            // Made in an earlier pass: the name holds the UID's hash, and it cannot be read to make sure.
            Err(ApplyError::Api { source, .. }) if is_already_exists(&source) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    async fn create_one<K>(&self, identity: &Identity, wanted: K) -> Result<K, ApplyError>
    where
        K: NamedChild,
    {
        let api = self.api::<K>(&identity.namespace);
        let name = wanted.name_any();
        match self.call(Verb::Create, K::KIND.as_str(), &name, api.create(&post(), &wanted)).await {
            Err(ApplyError::Api { source, .. }) if is_already_exists(&source) => {
                let live = self.call(Verb::Get, K::KIND.as_str(), &name, api.get(&name)).await?;
                if !is_owned(live.meta(), identity) {
                    return Err(ApplyError::Foreign { kind: K::KIND, name });
                }
                if live.meta().deletion_timestamp.is_some() {
                    return Err(ApplyError::Pending { kind: K::KIND, name });
                }
                // Ours: the answer to an earlier creation was lost, or its labels were taken off. The next pass sees
                // it as it is; here its labels are put back so that the watch shows it again.
                self.relabel(&identity.namespace, &wanted).await
            }
            other => other,
        }
    }

    async fn relabel<K: NamedChild>(&self, namespace: &str, wanted: &K) -> Result<K, ApplyError> {
        let metadata = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": wanted.name_any(), "labels": wanted.labels(), "ownerReferences": wanted.owner_references()},
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

    async fn delete_one<K: NamedChild>(&self, namespace: &str, doomed: &Doomed) -> Result<(), ApplyError> {
        let api = self.api::<K>(namespace);
        let exactly = Preconditions { uid: Some(doomed.uid.clone()), resource_version: None };
        let params = DeleteParams::background().preconditions(exactly);
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
        if verb != Verb::Get && !self.tenure.may_write() {
            return Err(ApplyError::NotLeader);
        }
        let result = request.await;
        self.metrics.request(verb, kind, result.is_ok());
        result.map_err(|source| ApplyError::Api {
            verb,
            what: format!("{kind} {name}"),
            source: Box::new(source),
        })
    }
}

/// A namespaced child that has a kind of ours.
trait NamedChild:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Serialize
    + DeserializeOwned
    + Clone
    + Debug
    + Send
    + Sync
{
    const KIND: ChildKind;
}

impl NamedChild for ServiceAccount {
    const KIND: ChildKind = ChildKind::ServiceAccount;
}
impl NamedChild for NetworkPolicy {
    const KIND: ChildKind = ChildKind::NetworkPolicy;
}
impl NamedChild for ConfigMap {
    const KIND: ChildKind = ChildKind::ConfigMap;
}
impl NamedChild for Service {
    const KIND: ChildKind = ChildKind::Service;
}
impl NamedChild for Pod {
    const KIND: ChildKind = ChildKind::Pod;
}

/// The body of a server-side apply. Lists that are empty on purpose stay: they take away what somebody added.
fn applied<K: NamedChild>(wanted: &K) -> Value {
    let mut body = serde_json::to_value(wanted).unwrap_or_default();
    body["apiVersion"] = Value::from(K::api_version(&()).into_owned());
    body["kind"] = Value::from(K::kind(&()).into_owned());
    body
}

fn post() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}

fn merge() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}

fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

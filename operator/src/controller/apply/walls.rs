//! Walls that somebody else deleted. Our finalizer keeps them standing; they are released here and nowhere else.
//!
//! A name is free only once its wall is gone, so between release and creation another policy with the same content, the
//! stand-in, selects the pod. It is held by our finalizer like the wall itself, and is taken down by a later pass, which
//! sees the wall standing: wherever the operator dies, at each revision one of the two stands.

use agentsandbox_crds::names::WALL_FINALIZER;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::core::params::Patch;
use serde_json::{Value, json};

use super::child::{Made, NamedChild, applied};
use super::{ApplyError, Writer, merge};
use crate::controller::accept::Identity;
use crate::controller::chain;
use crate::controller::desired::{Child, ChildKind};
use crate::controller::outcome::Blocked;
use crate::controller::plan::{Doomed, Renewal, StandIn, differs, is_held};
use crate::metrics::Verb;

/// What failed while something bounds the pod all the same, which a namespace that ends does for this pass alone.
fn held(name: &str, error: ApplyError) -> ApplyError {
    match Blocked::from(&error) {
        Blocked::NamespaceTerminating | Blocked::NotLeader => error,
        _ => ApplyError::Held { name: name.to_owned(), source: Box::new(error) },
    }
}

impl Writer {
    /// Puts a wall that is being deleted, or that fell behind its stand-in, up anew. It is released only once its stand-in was
    /// answered to stand as it is wanted, for a watch may still show one that has gone. A namespace that is being deleted refuses that.
    ///
    /// # Errors
    /// [`ApplyError::Held`] while the wall or its stand-in bounds the pod all the same.
    pub(super) async fn renew(
        &self,
        identity: &Identity,
        renewal: Renewal,
    ) -> Result<NetworkPolicy, ApplyError> {
        let Renewal { wanted, live, stand_in, standing } = renewal;
        let name = wanted.name_any();
        let stood = self.stand_in(identity, stand_in, standing).await;
        match live {
            Some(live) => {
                stood.map_err(|error| held(&name, error))?;
                self.release(&live).await?;
            }
            // Nothing keeps it from being created, and until it stands the stand-in counts, if it does.
            None => {
                let created = self.create_one(identity, wanted).await.map(Made::object);
                return created.map_err(|error| if stood.is_ok() { held(&name, error) } else { error });
            }
        }
        let created = self.create_one(identity, wanted).await.map(Made::object);
        created.map_err(|error| held(&name, error))
    }

    /// Makes sure that a stand-in stands, by an answer of the API server.
    async fn stand_in(
        &self,
        identity: &Identity,
        wanted: NetworkPolicy,
        standing: StandIn,
    ) -> Result<(), ApplyError> {
        let (kind, name) = (ChildKind::NetworkPolicy, wanted.name_any());
        let answered = match standing {
            StandIn::Absent => self.create_one(identity, wanted.clone()).await?.object(),
            StandIn::Own(uid) => Box::pin(self.put_right(&identity.namespace, &wanted, &uid)).await?,
            StandIn::Other => return Err(ApplyError::Foreign { kind, name }),
        };
        let answered = Child::NetworkPolicy(answered);
        // Something on the way to the API server may have changed it.
        let stands = !differs(&Child::NetworkPolicy(wanted), &answered);
        self.recent.wrote(&identity.namespace, answered);
        if stands { Ok(()) } else { Err(ApplyError::Pending { kind, name }) }
    }

    /// Takes down a stand-in whose wall stands again. It is as its wall, so one that stays hinders nobody, and the next pass tries again.
    pub(super) async fn retire(&self, namespace: &str, stand_in: &NetworkPolicy) {
        if let Err(error) = self.taken_down(namespace, stand_in).await {
            let name = stand_in.name_any();
            tracing::warn!(error = chain(&error), policy.name = name, "a stand-in is left for now");
        }
    }

    async fn taken_down(&self, namespace: &str, stand_in: &NetworkPolicy) -> Result<(), ApplyError> {
        self.release(stand_in).await?;
        if stand_in.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let uid = stand_in.uid().unwrap_or_default();
        let doomed = Doomed { kind: ChildKind::NetworkPolicy, name: stand_in.name_any(), uid, node: None };
        self.delete(namespace, &doomed).await
    }

    /// What a wall is whose name is `taken`, though no watch shows it. The watch shows every policy, so it is behind, and the next
    /// pass sees whose this one is; no right to read one by its name is needed for that. A watch may be behind for long, though,
    /// and an agent must not be stopped for that: the very wall that we have put up ourselves is put right by an apply that
    /// names its UID, and whose answer shows it standing.
    pub(super) async fn confirm<K: NamedChild>(
        &self,
        identity: &Identity,
        wanted: &K,
        taken: ApplyError,
    ) -> Result<K, ApplyError> {
        let name = wanted.name_any();
        let Some(uid) = self.recent.own_wall(&identity.uid, &name) else { return Err(taken) };
        let standing = Box::pin(self.put_right(&identity.namespace, wanted, &uid)).await?;
        if standing.meta().deletion_timestamp.is_some() {
            return Err(ApplyError::Pending { kind: K::KIND, name });
        }
        Ok(standing)
    }

    /// The policy of this UID, which is put right if it is not as wanted. It is asked by a patch that changes nothing, for no right to
    /// read one by its name is needed for that; an apply would be a write even of what stands already, because the API server keeps
    /// no empty list, and a pass that is woken by its own write comes again at once.
    async fn put_right<K: NamedChild>(
        &self,
        namespace: &str,
        wanted: &K,
        uid: &str,
    ) -> Result<K, ApplyError> {
        let (name, api) = (wanted.name_any(), self.api::<K>(namespace));
        let asking = Patch::Merge(json!({"metadata": {"uid": uid}}));
        let params = merge();
        let asked = self.call(Verb::Patch, K::KIND.as_str(), &name, api.patch(&name, &params, &asking));
        match asked.await {
            Ok(standing) if !differs(&wanted.clone().child(), &K::child(standing.clone())) => {
                return Ok(standing);
            }
            Err(error) if !error.is_not_found() => return Err(error),
            // It names the UID, so one that has gone is not made anew by it, but refused as a conflict.
            Ok(_) | Err(_) => {}
        }
        let mut body = applied(wanted);
        body["metadata"]["uid"] = Value::from(uid);
        self.server_side_apply(namespace, &name, body).await
    }

    /// Takes our finalizer off a wall: nothing runs behind it any more, or another is put up at once. The patch names the
    /// version it was made from.
    ///
    /// # Errors
    /// When the API server refuses, a conflict among others. One that is gone is released.
    pub async fn release(&self, wall: &NetworkPolicy) -> Result<(), ApplyError> {
        if !is_held(&wall.metadata) {
            return Ok(());
        }
        let others: Vec<&String> = wall.finalizers().iter().filter(|one| *one != WALL_FINALIZER).collect();
        let patch = Patch::Merge(json!({"metadata": {
            "uid": wall.uid(), "resourceVersion": wall.resource_version(), "finalizers": others,
        }}));
        let (name, params) = (wall.name_any(), merge());
        let api = self.api::<NetworkPolicy>(&wall.namespace().unwrap_or_default());
        match self.call(Verb::Patch, "NetworkPolicy", &name, api.patch(&name, &params, &patch)).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(|_: NetworkPolicy| ()),
        }
    }
}

//! Walls that somebody else deleted. Our finalizer keeps them standing; they are released here and nowhere else.

use agentsandbox_crds::names::WALL_FINALIZER;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;
use kube::core::params::{Patch, PostParams};
use serde_json::{Value, json};

use super::child::{NamedChild, applied};
use super::{ApplyError, Writer, merge, post};
use crate::controller::accept::Identity;
use crate::controller::plan::{Renewal, is_held};
use crate::metrics::Verb;

/// Ending of the name under which a creation is rehearsed; nothing of it is stored.
const REHEARSAL: &str = "-next";

impl Writer {
    /// Puts a wall that is being deleted up anew, with nothing but these two requests between them: it is released only
    /// when a rehearsal has shown that another may be created, which a namespace that is being deleted refuses.
    pub(super) async fn renew(
        &self,
        identity: &Identity,
        renewal: Renewal,
    ) -> Result<NetworkPolicy, ApplyError> {
        let Renewal { wanted, live } = renewal;
        let mut rehearsal = wanted.clone();
        let name = format!("{}{REHEARSAL}", wanted.name_any());
        rehearsal.metadata.name = Some(name.clone());
        let (api, dry) =
            (self.api::<NetworkPolicy>(&identity.namespace), PostParams { dry_run: true, ..post() });
        self.call(Verb::Create, "NetworkPolicy", &name, api.create(&dry, &rehearsal)).await?;
        self.release(&live).await?;
        self.create_one(identity, wanted).await
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
        let mut body = applied(wanted);
        body["metadata"]["uid"] = Value::from(uid);
        let standing: K = self.server_side_apply(&identity.namespace, &name, body).await?;
        if standing.meta().deletion_timestamp.is_some() {
            return Err(ApplyError::Pending { kind: K::KIND, name });
        }
        Ok(standing)
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

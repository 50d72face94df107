//! Requests for claims of persistent workspaces. Of one that exists little can be changed, and what cannot be must keep nobody from
//! working: a claim that cannot grow is as good as it was.

use agentsandbox_crds::AgentSandboxTemplate;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::core::params::Patch;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{ApplyError, Writer, merge};
use crate::controller::accept::Identity;
use crate::controller::outcome::Blocked;
use crate::metrics::Verb;

const KIND: &str = "PersistentVolumeClaim";

impl Writer {
    /// Gives a claim its labels, no owner, and the size that is wanted of it, if that can be had; of all else it keeps what it has. The
    /// patch names the UID that is meant.
    ///
    /// # Errors
    /// When the API server refuses, but for the size alone.
    pub(super) async fn right_claim(
        &self,
        identity: &Identity,
        wanted: PersistentVolumeClaim,
    ) -> Result<PersistentVolumeClaim, ApplyError> {
        let (namespace, name) = (&identity.namespace, wanted.name_any());
        let metadata = json!({
            "uid": wanted.uid(), "labels": wanted.labels(), "ownerReferences": wanted.owner_references(),
        });
        let named = json!({ "metadata": metadata });
        let Some(resources) = wanted.spec.as_ref().and_then(|spec| spec.resources.as_ref()) else {
            return self.patch_claim(namespace, &name, named).await;
        };
        let whole = json!({"metadata": metadata, "spec": {"resources": resources}});
        match self.patch_claim(namespace, &name, whole).await {
            // A storage class that expands none, or a quota. A permission that is missing is another matter.
            Err(error) if matches!(Blocked::from(&error), Blocked::Refused(_)) => {
                self.recent.refused_growth(&identity.uid, &wanted);
                self.patch_claim(namespace, &name, named).await
            }
            other => other,
        }
    }

    /// Reads one claim from the API server itself, past every cache.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn live_claim(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<PersistentVolumeClaim>, ApplyError> {
        let api = self.api::<PersistentVolumeClaim>(namespace);
        self.call(Verb::Get, KIND, name, api.get_opt(name)).await
    }

    /// Reads one template from the API server itself, past every cache.
    ///
    /// # Errors
    /// When the API server refuses or does not answer, or what it has is no template.
    pub async fn live_template(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<AgentSandboxTemplate>, ApplyError> {
        let api = Api::<AgentSandboxTemplate>::namespaced(self.client.clone(), namespace);
        self.call(Verb::Get, "AgentSandboxTemplate", name, api.get_opt(name)).await
    }

    async fn patch_claim(
        &self,
        namespace: &str,
        name: &str,
        patch: serde_json::Value,
    ) -> Result<PersistentVolumeClaim, ApplyError> {
        let api = self.api::<PersistentVolumeClaim>(namespace);
        let (params, patch) = (merge(), Patch::Merge(patch));
        self.call(Verb::Patch, KIND, name, api.patch(name, &params, &patch)).await
    }
}

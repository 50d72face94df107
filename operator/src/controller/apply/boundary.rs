//! The boundary: walls and what stands beside them, put up before any pod, and the value that says that it stands.

use std::net::Ipv4Addr;

use futures::future::{join_all, join4};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::{ApplyError, Claim, Document, Unsealed, Walls, Writer};
use crate::controller::accept::Identity;
use crate::controller::desired::{Child, ChildKind, Component};
use crate::controller::plan::{BoundaryPlan, Step};

/// The walls stand and the proxy has an address; only [`boundary`] makes it, after every one of its writes succeeded.
#[derive(Clone, Debug)]
pub struct Sealed {
    proxy_address: Ipv4Addr,
    service: Box<Service>,
    claim: Option<Box<PersistentVolumeClaim>>,
    walls: Vec<NetworkPolicy>,
}

impl Sealed {
    /// Address of the proxy's Service.
    #[must_use]
    pub const fn proxy_address(&self) -> Ipv4Addr {
        self.proxy_address
    }

    /// The proxy's Service, as the API server answered.
    #[must_use]
    pub const fn service(&self) -> &Service {
        &self.service
    }

    /// The claim of a persistent workspace, as the API server answered.
    #[must_use]
    pub fn claim(&self) -> Option<&PersistentVolumeClaim> {
        self.claim.as_deref()
    }

    /// The two NetworkPolicies, as the API server answered.
    #[must_use]
    pub fn walls(&self) -> &[NetworkPolicy] {
        &self.walls
    }
}

/// Puts up the walls and what stands beside them, all at once: none of them holds power without a pod. Whatever fails
/// ends nothing else: a wall is put up even where the rest cannot be.
///
/// # Errors
/// What could not be put up, a wall before all else; then no pod is applied.
pub async fn boundary(writer: &Writer, identity: &Identity, plan: BoundaryPlan) -> Result<Sealed, Unsealed> {
    let named = |step: Step| async move {
        let kind = step.kind();
        writer.step(identity, step).await.map_err(|error| (kind, error))
    };
    let walls = join_all(plan.walls.into_iter().map(named));
    let supplies = join_all(plan.supplies.into_iter().map(named));
    let retiring = plan.retired.iter().map(|stand_in| writer.retire(&identity.namespace, stand_in));
    let (walls, supplies, _, keys) =
        join4(walls, supplies, join_all(retiring), writer.keys(identity, plan.keys)).await;
    let (mut standing, mut failed) = (Vec::new(), Vec::new());
    for result in walls.into_iter().chain(supplies) {
        match result {
            Ok(child) => standing.push(child),
            Err(failure) => failed.push(failure),
        }
    }
    // A wall that is on its way out is as wanted until it is gone, and so is one that something stands in for.
    let breach = |(kind, error): &(ChildKind, ApplyError)| {
        *kind == ChildKind::NetworkPolicy
            && !matches!(error, ApplyError::Pending { .. } | ApplyError::Held { .. })
    };
    let strange = |(kind, error): &(ChildKind, ApplyError)| {
        *kind == ChildKind::ConfigMap && error.leaves_a_strangers_object()
    };
    let strange = failed.iter().position(strange);
    let document = if strange.is_some() { Document::Strange } else { Document::Own };
    let is_strange = |(kind, error): &(ChildKind, ApplyError)| {
        *kind == ChildKind::PersistentVolumeClaim && matches!(error, ApplyError::Foreign { .. })
    };
    let claim = if failed.iter().any(is_strange) { Claim::Strange } else { Claim::Own };
    if let Some(position) = failed.iter().position(breach) {
        let error = failed.swap_remove(position).1;
        return Err(Unsealed { error, walls: Walls::Breached, document, claim });
    }
    if let Some(position) = strange {
        failed.swap(0, position);
    }
    let addressed = standing.iter().find_map(|child| match child {
        Child::Service(service) => {
            Some((service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()?, service.clone()))
        }
        _ => None,
    });
    let own = standing.iter().find_map(|child| match child {
        Child::PersistentVolumeClaim(claim) => Some(claim.clone()),
        _ => None,
    });
    let walls = standing.into_iter().filter_map(|child| match child {
        Child::NetworkPolicy(policy) => Some(policy),
        _ => None,
    });
    let (walls, failed) = (walls.collect(), failed.into_iter().next().map(|(_, error)| error));
    let pending = || ApplyError::Pending { kind: ChildKind::Service, name: Component::Proxy.name(identity) };
    match failed.map_or(keys, Err).and_then(|()| addressed.ok_or_else(pending)) {
        Ok((proxy_address, service)) => Ok(Sealed { proxy_address, service, claim: own, walls }),
        Err(error) => Err(Unsealed { error, walls: Walls::Whole(walls), document, claim }),
    }
}

#[cfg(test)]
impl Sealed {
    /// Walls that stand in a test, where there is no cluster to put them up in.
    pub(crate) fn for_tests() -> Self {
        Self {
            proxy_address: Ipv4Addr::new(10, 96, 7, 7),
            service: Box::default(),
            claim: None,
            walls: Vec::new(),
        }
    }

    /// The same, with this claim.
    pub(crate) fn on(self, claim: PersistentVolumeClaim) -> Self {
        Self { claim: Some(Box::new(claim)), ..self }
    }
}

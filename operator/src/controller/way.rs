//! The way from agent to proxy: whether it is open, shut or kept in this pass. The agent's pod starts beside its proxy's,
//! so this gate, and not the pod's absence, keeps an agent from starting before the operator has seen the proxy closed.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Pod;

use super::Ctx;
use super::accept::Identity;
use super::apply::{self, ApplyError, Gated, Sealed};
use super::desired::service;
use super::evaluate::Unwidened;
use super::life::never_began;
use super::observe::{Closedness, Observed, address};
use super::plan::{self, Doomed, Step};
use super::status::evidence::{is_backing_off, is_proven};

/// The way from agent to proxy: open on a proof, kept by an agent that runs behind a proven fence as long as nothing
/// speaks against its proxy, else shut. Where it cannot be shut, a fence that has proven nothing yet is stopped.
pub(super) async fn judged(
    ctx: &Ctx,
    identity: &Identity,
    observed: &Observed,
    sealed: &Sealed,
    unwidened: &Unwidened,
    closed: &Closedness,
) -> Result<Gated, ApplyError> {
    if let Some(proof) = closed.proof() {
        let step = plan::way(service::open(identity, proof), sealed.service());
        if matches!(step, Step::Repair(_)) {
            rouse(ctx, identity, observed).await?;
        }
        return apply::admit(&ctx.writer, identity, sealed, proof, unwidened, step).await;
    }
    unproven(ctx, identity, observed, sealed, closed).await
}

/// The same where there is no proof.
pub(super) async fn unproven(
    ctx: &Ctx,
    identity: &Identity,
    observed: &Observed,
    sealed: &Sealed,
    closed: &Closedness,
) -> Result<Gated, ApplyError> {
    let enrolled = enrolled(observed, identity);
    match (closed, enrolled) {
        (Closedness::Untried | Closedness::Unclear(_), Some(agent)) => Ok(apply::keep(agent)),
        _ => {
            let shut = shut(ctx, identity, sealed).await;
            if shut.is_err() && enrolled.is_none() {
                super::halt(ctx, identity).await?;
            }
            shut
        }
    }
}

/// Address of an agent that already runs behind a proven fence.
pub(super) fn enrolled(observed: &Observed, identity: &Identity) -> Option<Ipv4Addr> {
    let pod = observed.agent_pod(identity).filter(|pod| pod.metadata.deletion_timestamp.is_none())?;
    match address(pod).filter(|_| is_proven(pod))? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// Shuts the way from agent to proxy.
pub(super) async fn shut(ctx: &Ctx, identity: &Identity, sealed: &Sealed) -> Result<Gated, ApplyError> {
    apply::shut(&ctx.writer, identity, plan::way(service::shut(identity), sealed.service())).await
}

/// A fence that gave up while its way was shut can be made to wait five minutes by the kubelet, and that of a Task by the operator: its
/// pod is replaced, once for each time that the way is opened.
async fn rouse(ctx: &Ctx, identity: &Identity, observed: &Observed) -> Result<(), ApplyError> {
    let waits = |pod: &&Pod| is_backing_off(pod) || never_began(pod);
    let doomed = observed.agent_pod(identity).filter(waits).map(Doomed::pod);
    apply::stop(&ctx.writer, &identity.namespace, doomed.into_iter().collect()).await
}

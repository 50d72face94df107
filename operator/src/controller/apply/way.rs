//! The way from agent to proxy: one Service, whose selector is the gate. Without the way no fence can enrol, so no agent
//! starts. It is opened on evidence only; it can always be shut without.

use std::net::Ipv4Addr;

use super::{ApplyError, Sealed, Writer};
use crate::controller::accept::Identity;
use crate::controller::evaluate::Unwidened;
use crate::controller::observe::ProxyClosed;
use crate::controller::plan::Step;

/// No way leads from a fence to a proxy that was not seen closed to others; only this module makes it.
#[derive(Clone, Copy, Debug)]
pub struct Gated {
    _only_this_module_makes_it: (),
}

const GATED: Gated = Gated { _only_this_module_makes_it: () };

/// Opens the way; it asks for the walls, for the proof that the proxy is closed to others, and for the proof that no
/// other policy widens the walls. What it writes could not be described without the second
/// ([`open`](crate::controller::desired::service::open)).
///
/// # Errors
/// When the Service could not be applied: the way is as it was.
pub async fn admit(
    writer: &Writer,
    identity: &Identity,
    _walls: &Sealed,
    _closed: &ProxyClosed,
    _unwidened: &Unwidened,
    step: Step,
) -> Result<Gated, ApplyError> {
    writer.step(identity, step).await.map(|_| GATED)
}

/// Shuts the way. Connections that are open stay so, which is why an agent beside an open proxy is stopped besides.
///
/// # Errors
/// When the Service could not be applied: the way may still be open.
pub async fn shut(writer: &Writer, identity: &Identity, step: Step) -> Result<Gated, ApplyError> {
    writer.step(identity, step).await.map(|_| GATED)
}

/// Leaves the way to an agent that has passed its fence, and has this address.
#[must_use]
pub const fn keep(_enrolled: Ipv4Addr) -> Gated {
    GATED
}

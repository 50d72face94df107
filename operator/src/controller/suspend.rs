//! What is done with a sandbox that is suspended: its power goes, and its walls stay.
//!
//! The proxy goes first, and with it the keys and the only way out, then the agent. Nothing of that waits for a wall, and no wall
//! waits for it: what could not be stopped is contained as an agent that runs is. Nothing is made that only a pod would use. One that is
//! resumed is raised like one that was just made: a new proxy is proven closed before the way to it opens, and a new agent's fence proves
//! the walls. Its life goes on meanwhile, and what is over stays so.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::{Mode, PowerState};

use super::accept::{Accepted, Identity};
use super::apply::{ApplyError, Ending, Sealed};
use super::desired::ChildKind;
use super::evaluate::{Unwidened, Widening};
use super::observe::Observed;
use super::outcome::{Off, Outcome, Stage};
use super::plan::{BoundaryPlan, Step};
use super::{Ctx, Failure, finish, life, way};

/// Whether all of a power could be asked to go.
pub(super) type Stopped = Result<(), ApplyError>;

/// Takes the power of a sandbox that is suspended; none where it is not. What failed is told once the walls are seen to.
pub(super) async fn power(
    ctx: &Ctx,
    identity: &Identity,
    sandbox: &AgentSandbox,
    observed: &Observed,
) -> Option<(Off, Stopped)> {
    let ending = match life::mode(sandbox) {
        Mode::Service => Ending::Every,
        Mode::Task => Ending::All,
    };
    match life::state(sandbox) {
        Some(PowerState::Suspended) => Some(finish::power_down(ctx, identity, observed, ending).await),
        Some(PowerState::Running) | None => None,
    }
}

/// What of the boundary is planned while there is to be no pod: no keys are made that none will mount, in pass after pass, and no
/// claim is made or awaited that none works on. One that is there is kept as it is asked for.
pub(super) fn bounds_only(planned: BoundaryPlan) -> BoundaryPlan {
    let is_for_a_pod = |step: &Step| match step {
        Step::Create(child) => child.kind() == ChildKind::PersistentVolumeClaim,
        Step::Await(doomed) => doomed.kind == ChildKind::PersistentVolumeClaim,
        _ => false,
    };
    let supplies = planned.supplies.into_iter().filter(|step| !is_for_a_pod(step)).collect();
    BoundaryPlan { keys: None, supplies, ..planned }
}

/// The rest of a pass over a sandbox that is suspended, once its walls stand: the way from agent to proxy is shut.
///
/// # Errors
/// When something of its power could not be stopped, or the way could not be shut.
pub(super) async fn walled(
    ctx: &Ctx,
    accepted: &Accepted,
    sealed: &Sealed,
    unwidened: Result<Unwidened, Widening>,
    stopped: Stopped,
) -> Result<Outcome, Failure> {
    let shut = way::shut(ctx, &accepted.identity, sealed).await;
    stopped?;
    shut?;
    Ok(Outcome::of(Some(accepted.class.name.clone()), Stage::Suspended(unwidened.err())))
}

//! What is done the moment a sandbox's power is out of bounds: a wall is missing, widened or changed, the policy document
//! holds a stranger's text, or the agent has lost the labels by which its walls select it. A claim that is somebody else's is none
//! of these and stops the agent all the same: its pod mounts whatever has the claim's name.
//!
//! All of it is put back at once, and whatever cannot be put back stops what it bounds: the agent without its walls; proxy
//! and agent with a document that the operator did not write. A failure that may pass is given [`PATIENCE`] from the moment
//! the breach was first seen, however long a single request takes. Nothing here waits for another step: it comes before
//! the proxy is applied, on every way out of the boundary.

use std::borrow::Cow;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use tokio::time::Instant;

use super::accept::Identity;
use super::apply::{self, ApplyError, Claim, Document, Sealed, Unsealed, Walls};
use super::desired::{Child, ChildKind, Component, network_policy};
use super::evaluate::{self, Unwidened, Widening};
use super::observe::Observed;
use super::outcome::{Blocked, Breach, Halted, Lost};
use super::plan::{BoundaryPlan, Step, differs, is_held, is_owned};
use super::{Ctx, Failure, chain, way};

/// A breach whose repair fails in a way that may pass is borne this long, then what it bounds stops.
const PATIENCE: Duration = Duration::from_secs(2);

/// Both halves, the dangerous one first.
const BOTH: &[Component] = &[Component::Agent, Component::Proxy];
const AGENT: &[Component] = &[Component::Agent];

/// Which sandboxes are out of bounds, and how long that is borne.
#[derive(Debug)]
pub struct Breaches {
    patience: Duration,
    /// When patience ends, by the sandbox's UID.
    ends: Mutex<HashMap<String, Instant>>,
}

impl Default for Breaches {
    fn default() -> Self {
        Self { patience: PATIENCE, ends: Mutex::default() }
    }
}

/// Whether a step is about a wall that stands until another does.
fn is_bounded(step: &Step) -> bool {
    matches!(step, Step::Renew(renewal) if renewal.live.is_some())
}

/// A sandbox behind its boundary.
pub(super) struct Bounded<'a> {
    /// That the boundary stands.
    pub sealed: Sealed,
    /// That no other policy widens its walls, or which one does. An agent whose walls are widened is stopped.
    pub unwidened: Result<Unwidened, Widening>,
    /// What is observed, with the pods that were given their labels back.
    pub observed: Cow<'a, Observed>,
}

/// Puts up the boundary of these walls and keeps the agent within it, before anything that waits for something else. An
/// agent that is out of bounds and cannot be stopped has its way to the proxy shut.
///
/// # Errors
/// When the boundary does not stand, an agent is out of bounds, or nobody can say whether it is.
pub(super) async fn bounded<'a>(
    ctx: &Ctx,
    identity: &Identity,
    walls: &[NetworkPolicy],
    observed: &'a Observed,
    plan: BoundaryPlan,
) -> Result<Bounded<'a>, Failure> {
    let sealed = match boundary(ctx, identity, plan).await {
        Ok(sealed) => sealed,
        Err(unsealed) => return Err(self::unsealed(ctx, identity, walls, observed, unsealed).await),
    };
    let unwidened = evaluate::unwidened(identity, walls, sealed.walls(), observed);
    match contained(ctx, identity, observed, &unwidened).await {
        Ok(observed) => Ok(Bounded { sealed, unwidened, observed }),
        Err(failure) => {
            let agent = failure.breach.as_ref().map(|breach| &breach.agent);
            let may_run = !matches!(agent, Some(Halted::Stopped | Halted::Spared));
            if may_run && let Err(error) = way::shut(ctx, identity, &sealed).await {
                tracing::warn!(
                    error = chain(&error),
                    "the way of an agent that is out of bounds could not be shut"
                );
            }
            Err(failure)
        }
    }
}

/// Puts up the boundary. If something of it is not as wanted and the API server takes its time, what that bounds is stopped
/// while the answer is awaited.
///
/// # Errors
/// As [`apply::boundary`].
async fn boundary(ctx: &Ctx, identity: &Identity, plan: BoundaryPlan) -> Result<Sealed, Unsealed> {
    let open = |kind: ChildKind| {
        let mut steps = plan.walls.iter().chain(&plan.supplies).filter(|step| step.kind() == kind);
        steps.any(|step| !matches!(step, Step::Leave(_) | Step::Await(_)) && !is_bounded(step))
    };
    let (wall, document) = (open(ChildKind::NetworkPolicy), open(ChildKind::ConfigMap));
    let mut applying = pin!(apply::boundary(&ctx.writer, identity, plan));
    let answer = if wall || document {
        match tokio::time::timeout(ctx.breaches.left(&identity.uid), &mut applying).await {
            Ok(answer) => answer,
            Err(_) => {
                if let Err(error) = halt_all(ctx, identity, if document { BOTH } else { AGENT }).await {
                    tracing::warn!(error = chain(&error), "what is out of bounds could not be stopped");
                }
                applying.await
            }
        }
    } else {
        applying.await
    };
    let bounded = answer.as_ref().err().is_none_or(|unsealed| {
        matches!(unsealed.walls, Walls::Whole(_)) && unsealed.document == Document::Own
    });
    if bounded {
        ctx.breaches.end(&identity.uid);
    }
    answer
}

/// What a boundary that could not be put up comes to. Other policies and the agent's labels are looked at all the same.
async fn unsealed(
    ctx: &Ctx,
    identity: &Identity,
    wanted: &[NetworkPolicy],
    observed: &Observed,
    unsealed: Unsealed,
) -> Failure {
    let Unsealed { error, walls, document, claim } = unsealed;
    let halted = match claim {
        Claim::Strange => apply::halt(&ctx.writer, identity, Component::Agent).await,
        Claim::Own => Ok(()),
    };
    let standing = match &walls {
        Walls::Whole(standing) => standing,
        Walls::Breached => wanted,
    };
    let unwidened = evaluate::unwidened(identity, wanted, standing, observed);
    let uncontained = contained(ctx, identity, observed, &unwidened).await.err();
    let halting = if document == Document::Strange { BOTH } else { AGENT };
    match (walls, document) {
        (Walls::Breached, _) => breached(ctx, identity, Lost::Wall, halting, error).await,
        (Walls::Whole(_), Document::Strange) => breached(ctx, identity, Lost::Document, halting, error).await,
        (Walls::Whole(_), Document::Own) => match (uncontained, halted) {
            (Some(failure), _) => failure,
            (None, Err(unstopped)) => unstopped.into(),
            (None, Ok(())) => error.into(),
        },
    }
}

/// Stops an agent whose walls are widened, and gives pods back the labels and the owner that somebody took off; an agent
/// that its walls do not select and that cannot be given them back is stopped. Answers with what is observed then.
///
/// # Errors
/// When an agent is out of bounds, or nobody can say whether it is.
async fn contained<'a>(
    ctx: &Ctx,
    identity: &Identity,
    observed: &'a Observed,
    unwidened: &Result<Unwidened, Widening>,
) -> Result<Cow<'a, Observed>, Failure> {
    if unwidened.is_err() {
        apply::halt(&ctx.writer, identity, Component::Agent).await?;
    }
    // Of a new sandbox nothing was started: that it is new was just proven by the patch that put the finalizer on, which names
    // the version it was made from.
    if observed.is_new {
        return Ok(Cow::Borrowed(observed));
    }
    let put_back = |component, shown| apply::put_back(&ctx.writer, identity, component, shown);
    let (agent, proxy) = tokio::join!(
        put_back(Component::Agent, observed.agent_pod(identity)),
        put_back(Component::Proxy, observed.proxy_pod(identity)),
    );
    let mut contained = Cow::Borrowed(observed);
    match agent {
        Ok(None) => {}
        Ok(Some(pod)) => contained = Cow::Owned(contained.into_owned().with_pod(pod)),
        Err(error) => match apply::is_outside_its_walls(&ctx.writer, identity).await {
            // The step for the pod itself meets the same error, and tells it.
            Ok(false) => {}
            Ok(true) | Err(_) => return Err(breached(ctx, identity, Lost::Wall, AGENT, error).await),
        },
    }
    // A proxy without its labels serves nobody: its Service does not find it, and the agent's wall does not lead there.
    if let Ok(Some(pod)) = proxy {
        contained = Cow::Owned(contained.into_owned().with_pod(pod));
    }
    Ok(contained)
}

/// Something that bounds power could not be put back: what it bounds is stopped, at once if the failure lasts.
pub(super) async fn breached(
    ctx: &Ctx,
    identity: &Identity,
    lost: Lost,
    halting: &[Component],
    error: ApplyError,
) -> Failure {
    let why = Blocked::from(&error);
    if why == Blocked::NotLeader {
        return error.into();
    }
    let agent = if why.lasts() || ctx.breaches.left(&identity.uid).is_zero() {
        match halt_all(ctx, identity, halting).await {
            Ok(()) => Halted::Stopped,
            Err(error) => Halted::Unstopped(chain(&error)),
        }
    } else {
        Halted::Spared
    };
    Failure { error, breach: Some(Breach { lost, why, agent }) }
}

/// The agent's place behind its walls is lost: [`breached`], for the agent alone.
pub(super) async fn outside(ctx: &Ctx, identity: &Identity, error: ApplyError) -> Failure {
    breached(ctx, identity, Lost::Wall, AGENT, error).await
}

/// Hurries an agent that is to end, or ends already, where its walls do not hold it meanwhile.
///
/// # Errors
/// When the API server refuses or does not answer.
pub(super) async fn hurry(ctx: &Ctx, identity: &Identity, observed: &Observed) -> Result<(), ApplyError> {
    if walls_stand(identity, observed) && !apply::is_outside_its_walls(&ctx.writer, identity).await? {
        return Ok(());
    }
    apply::halt(&ctx.writer, identity, Component::Agent).await
}

/// Whether both walls are there, the agent's as wanted, and no other policy widens them. What is wanted of the proxy's
/// cannot be said of a sandbox that is not accepted.
fn walls_stand(identity: &Identity, observed: &Observed) -> bool {
    let standing = |component: Component| {
        let wall = observed.child(ChildKind::NetworkPolicy, &component.name(identity))?;
        let Child::NetworkPolicy(policy) = wall else { return None };
        let stands = policy.metadata.deletion_timestamp.is_none() || is_held(&policy.metadata);
        (is_owned(&policy.metadata, identity) && stands).then(|| policy.clone())
    };
    let (Some(agents), Some(proxys)) = (standing(Component::Agent), standing(Component::Proxy)) else {
        return false;
    };
    let wanted = network_policy::agent(identity);
    !differs(&Child::NetworkPolicy(wanted.clone()), &Child::NetworkPolicy(agents.clone()))
        && evaluate::unwidened(identity, &[wanted, proxys.clone()], &[agents, proxys], observed).is_ok()
}

async fn halt_all(ctx: &Ctx, identity: &Identity, all: &[Component]) -> Result<(), ApplyError> {
    let halting = all.iter().map(|component| apply::halt(&ctx.writer, identity, *component));
    try_join_all(halting).await.map(|_| ())
}

impl Breaches {
    /// How long the breach may yet last; it begins with the first question.
    fn left(&self, uid: &str) -> Duration {
        let mut all = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.entry(uid.to_owned()).or_insert(now + self.patience).saturating_duration_since(now)
    }

    /// When patience ends, if there is a breach and some of it is left.
    pub(super) fn due_in(&self, uid: &str) -> Option<Duration> {
        let all = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let left = all.get(uid)?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// The sandbox is within its bounds, or gone.
    pub(super) fn end(&self, uid: &str) {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
impl Breaches {
    /// With another patience, for tests that must not depend on how fast the machine is.
    pub(crate) fn bearing(patience: Duration) -> Self {
        Self { patience, ..Self::default() }
    }

    /// As if the breach had been seen when patience ends just now.
    pub(super) fn exhaust(&self, uid: &str) {
        self.ends.lock().unwrap().insert(uid.to_owned(), Instant::now());
    }
}

#[cfg(test)]
mod tests;

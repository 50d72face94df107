//! What is told of a sandbox that is suspended. Nothing of what was proven of it holds any more, and nothing is proven anew.
//!
//! To deployment tools a sandbox that is suspended as its spec says is as it should be, so it is Ready then, as a Deployment of no
//! replicas is; until nothing of it runs any more it is not, and what is left is named.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::PowerState;

use super::{ConditionType, Holds, Outcome, Reason, Stage, Verdict, accepted, evidence, flag, unknown};
use crate::controller::evaluate::Widening;
use crate::controller::life;
use crate::controller::outcome::{Left, Off};

const RESUME: &str = "Write lifecycle.state: Running to go on with a new agent.";

/// All conditions of one whose walls stand, but the one that tells of the suspension alone.
pub(super) fn verdicts(off: Option<&Off>, widening: Option<&Widening>) -> Vec<Verdict> {
    let (holds, reason, message) = power(off);
    let mut all = vec![accepted()];
    all.extend(unknown(reason, &message).into_iter().map(|verdict| match (verdict.type_, widening) {
        (ConditionType::NetworkIsolated, Some(widening)) => evidence::widened(widening),
        _ => verdict,
    }));
    all.push(Verdict::new(ConditionType::Ready, holds, reason, message.as_str()));
    let goes_on = (holds != Holds::True).then_some((reason, message.as_str()));
    all.push(flag(ConditionType::Reconciling, goes_on));
    all.push(flag(ConditionType::Stalled, None));
    all
}

/// Whether the sandbox is suspended; none where its spec does not say whether it shall be.
pub(super) fn told(sandbox: &AgentSandbox, outcome: &Outcome) -> Option<Verdict> {
    const OVER: &str = "The sandbox is over, and nothing of it is started again.";
    const UNKNOWN: &str = "The sandbox is not accepted.";
    const RUNNING: &str = "lifecycle.state does not ask for it.";
    let (holds, reason, message) = match (life::state(sandbox)?, &outcome.stage, &outcome.off) {
        (_, Stage::Finished(..), _) => (Holds::Unknown, Reason::Finished, OVER.to_owned()),
        (PowerState::Running, ..) => (Holds::False, Reason::NotSuspended, RUNNING.to_owned()),
        (PowerState::Suspended, _, None) => (Holds::Unknown, Reason::NotAccepted, UNKNOWN.to_owned()),
        (PowerState::Suspended, _, off) => power(off.as_ref()),
    };
    Some(Verdict::new(ConditionType::Suspended, holds, reason, message))
}

/// Puts it in its place among the others.
pub(super) fn add(verdicts: &mut Vec<Verdict>, suspended: Option<Verdict>) {
    let place = verdicts.iter().position(|verdict| verdict.type_ == ConditionType::Reconciling);
    if let (Some(verdict), Some(place)) = (suspended, place) {
        verdicts.insert(place, verdict);
    }
}

fn power(off: Option<&Off>) -> (Holds, Reason, String) {
    match off.map(|off| &off.left) {
        Some(Left::Nothing) => (
            Holds::True,
            Reason::Suspended,
            format!("The sandbox is suspended: neither agent nor proxy runs, and the walls stay. {RESUME}"),
        ),
        Some(Left::Ending(pods)) => (
            Holds::False,
            Reason::Suspending,
            format!(
                "The sandbox is being suspended; these pods of it are stopped and not gone yet: {}. If one stays, see why: kubectl describe pod. If its node is gone for good, delete the Node.",
                pods.join(", ")
            ),
        ),
        Some(Left::Unstopped(why)) => (
            Holds::False,
            Reason::Suspending,
            format!(
                "The sandbox is to be suspended, and what runs of it could not be stopped ({why}); that is tried again."
            ),
        ),
        None => (Holds::False, Reason::Suspending, "The sandbox is being suspended.".to_owned()),
    }
}

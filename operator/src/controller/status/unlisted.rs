//! What is told of a sandbox whose template nobody knows, for no list of templates has come. What was proven of it counts no more: what it
//! is to be may be another thing by now. Whatever fails of what bounds it is told before that.

use crate::controller::outcome::{Bounds, Unlisted};

use super::{ConditionType, Holds, Reason, Verdict, blocked_by, breached, evidence, summarised, unknown};

/// All conditions; none while a list is waited for in silence, and where what failed says nothing about the sandbox.
pub(super) fn verdicts(unlisted: &Unlisted) -> Option<Vec<Verdict>> {
    if unlisted.silent_for.is_some() {
        return None;
    }
    let why = why(unlisted);
    let mut facts = match &unlisted.bounds {
        Bounds::Breached(breach) => breached(breach)?,
        Bounds::Blocked(blocked) => blocked_by(blocked)?,
        Bounds::Open => with(&why, evidence::proxy_open()),
        Bounds::Kept(Some(widening)) => with(&why, evidence::widened(widening)),
        Bounds::Kept(None) | Bounds::Probed => unknown(Reason::TemplatesUnknown, &why),
    };
    facts.retain(|fact| fact.type_ != ConditionType::Accepted);
    // The first says why the sandbox is not ready, so this one comes last, and is only written in its place.
    facts.push(Verdict::new(ConditionType::Accepted, Holds::Unknown, Reason::TemplatesUnknown, why));
    let mut all = summarised(facts);
    all.sort_by_key(|verdict| verdict.type_ != ConditionType::Accepted);
    Some(all)
}

fn with(why: &str, isolated: Verdict) -> Vec<Verdict> {
    let facts = unknown(Reason::TemplatesUnknown, why).into_iter();
    facts.map(|fact| if fact.type_ == isolated.type_ { isolated.clone() } else { fact }).collect()
}

fn why(unlisted: &Unlisted) -> String {
    let goes_on = match &unlisted.bounds {
        Bounds::Kept(None) | Bounds::Probed => {
            ": what was made of the sandbox goes on behind its walls, and nothing new is made"
        }
        Bounds::Kept(Some(_)) | Bounds::Open | Bounds::Blocked(_) | Bounds::Breached(_) => "",
    };
    format!(
        "The operator has seen no list of AgentSandboxTemplates since it started, so it does not know what AgentSandboxTemplate {} says{goes_on}. Have the cluster's administrator apply the CRDs and the operator's roles of this release; the operator's log says which is missing.",
        unlisted.template
    )
}

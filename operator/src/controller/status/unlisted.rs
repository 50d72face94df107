//! What is told of a sandbox whose template nobody knows, for no list of templates has come. What was proven of it counts no more: what it
//! is to be may be another thing by now. That something bounds it no more is told all the same.

use crate::controller::outcome::{Bounds, Unlisted};

use super::{ConditionType, Holds, Reason, Verdict, blocked_by, breached, evidence, unknown};

/// The facts; none while a list is waited for in silence.
pub(super) fn unlisted(unlisted: &Unlisted) -> Option<Vec<Verdict>> {
    if unlisted.silent_for.is_some() {
        return None;
    }
    let why = why(&unlisted.template);
    let facts = match &unlisted.bounds {
        Bounds::Breached(breach) => breached(breach)?,
        Bounds::Blocked(blocked) => blocked_by(blocked)?,
        Bounds::Open => with(&why, evidence::proxy_open()),
        Bounds::Kept(Some(widening)) => with(&why, evidence::widened(widening)),
        Bounds::Kept(None) | Bounds::Probed => unknown(Reason::TemplatesUnknown, &why),
    };
    let mut all =
        vec![Verdict::new(ConditionType::Accepted, Holds::Unknown, Reason::TemplatesUnknown, &*why)];
    all.extend(facts.into_iter().filter(|fact| fact.type_ != ConditionType::Accepted));
    Some(all)
}

fn with(why: &str, isolated: Verdict) -> Vec<Verdict> {
    let facts = unknown(Reason::TemplatesUnknown, why).into_iter();
    facts.map(|fact| if fact.type_ == isolated.type_ { isolated.clone() } else { fact }).collect()
}

fn why(template: &str) -> String {
    format!(
        "The operator has seen no list of AgentSandboxTemplates since it started, so it does not know what AgentSandboxTemplate {template} says: what runs goes on behind its walls, and nothing is started. Have the cluster's administrator apply the CRDs and the operator's roles of this release; the operator's log says which is missing."
    )
}

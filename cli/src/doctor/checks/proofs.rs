//! What sandboxes have tried: whether the network enforces what is written, and which kernel a RuntimeClass gives. No object tells.

use std::collections::BTreeMap;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::class::Isolation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::{Facts, counting, unseen};
use crate::doctor::Line;
use crate::status::age;

/// What a fence or the operator says that found the cluster not as it has to be. Somebody has to act, and not on the sandbox.
const BROKEN: [&str; 6] =
    ["EgressOpen", "ProxyOpen", "EgressWidened", "IngressWidened", "WrongKernel", "LimitsMissing"];
/// What says nothing of the cluster: nothing was made of the sandbox.
const NOT_ACCEPTED: &str = "NotAccepted";
/// How far clocks may be apart.
const CLOCK_SECONDS_MAX: i64 = 300;
/// A proof that is older is told as old, and is not believed: what was stopped or changed since then, nobody has tried.
const PROOF_MINUTES_MAX: i64 = 60;

/// Whether the network enforces what is written: the fence of some sandbox has tried.
pub(super) fn walls(facts: &Facts) -> Line {
    proven(facts, "walls".to_owned(), "NetworkIsolated", None, |_| true)
}

/// Whether each RuntimeClass that is to be another kernel is one: the fence of some sandbox has looked.
pub(super) fn kernels(facts: &Facts) -> Vec<Line> {
    // What is wrong with classes has lines of its own.
    let Ok(classes) = counting(facts, "") else { return Vec::new() };
    let own_kernel = classes.iter().filter(|class| class.spec.isolation != Isolation::Container);
    let mut users = BTreeMap::<&str, Vec<String>>::new();
    for class in own_kernel {
        if let Some(runtime) = &class.spec.runtime_class_name {
            users.entry(runtime).or_default().push(class.name_any());
        }
    }
    // One that does not exist runs nothing.
    if let Ok(runtimes) = &facts.runtime_classes {
        users.retain(|name, _| runtimes.iter().any(|runtime| runtime.name_any() == **name));
    }
    let line = |(runtime, classes): (&str, Vec<String>)| {
        // Its handler never changes: another handler is another object.
        let made = facts.runtime_classes.iter().flatten().find(|one| one.name_any() == runtime);
        let since = made.and_then(|made| made.metadata.creation_timestamp.as_ref()).map(|made| made.0);
        proven(facts, format!("kernel of RuntimeClass {runtime}"), "RuntimeVerified", since, |sandbox| {
            let class = sandbox.status.as_ref().and_then(|status| status.class_name.as_ref());
            class.is_some_and(|class| classes.contains(class))
        })
    };
    users.into_iter().map(line).collect()
}

/// Whether such a sandbox has just now, and after `since`, proven what its condition of this type says, and none says otherwise.
fn proven(
    facts: &Facts,
    check: String,
    type_: &str,
    since: Option<Timestamp>,
    is_such: impl Fn(&AgentSandbox) -> bool,
) -> Line {
    let sandboxes = match &facts.sandboxes {
        Ok(sandboxes) => sandboxes,
        Err(why) => return unseen(check, why),
    };
    let told = |sandbox: &AgentSandbox| -> Option<(String, Condition)> {
        // What is being deleted tells how it ends, and no more how the cluster is.
        if sandbox.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let status = sandbox.status.as_ref()?;
        let condition = status.conditions.iter().find(|condition| condition.type_ == type_)?;
        let name = format!("{}/{}", sandbox.namespace().unwrap_or_default(), sandbox.name_any());
        Some((name, condition.clone()))
    };
    let told: Vec<_> = sandboxes.iter().filter(|sandbox| is_such(sandbox)).filter_map(told).collect();
    if let Some(line) = denied(&check, type_, &told) {
        return line;
    }
    let at = |condition: &Condition| condition.last_transition_time.0;
    let counts = |condition: &Condition| {
        condition.status == "True" && since.is_none_or(|since| at(condition) >= since)
    };
    let proofs = told.iter().filter(|(_, condition)| counts(condition));
    let is_past =
        |condition: &Condition| facts.now.duration_since(at(condition)).as_secs() >= -CLOCK_SECONDS_MAX;
    // One whose time is to come says something of clocks alone.
    match proofs.max_by_key(|(_, condition)| (is_past(condition), at(condition))) {
        Some((name, condition)) => aged(facts, check, name, condition),
        None => {
            let of = if facts.is_partial {
                format!(" of namespace {}", facts.namespace_name)
            } else {
                String::new()
            };
            let since = since.map_or_else(String::new, |since| format!(" since {since}, when it was made"));
            Line::unknown(
                check,
                format!("not proven yet: no sandbox{of} says {type_}=True{since}"),
                "Start a sandbox, and ask again when it is ready.",
            )
        }
    }
}

/// A proof, by its age.
fn aged(facts: &Facts, check: String, name: &str, condition: &Condition) -> Line {
    let (at, reason) = (condition.last_transition_time.0, &condition.reason);
    let (seconds, age) = (facts.now.duration_since(at).as_secs(), age(facts.now, at));
    let alone = if facts.is_partial { "; no other namespace was seen" } else { "" };
    if seconds < -CLOCK_SECONDS_MAX {
        return Line::unknown(
            check,
            format!(
                "the proof of AgentSandbox {name} is of {at}, which is to come: one of the clocks is wrong"
            ),
            "Set the clock of this machine, or those of the cluster; then start a sandbox, and ask again when it is ready.",
        );
    }
    if seconds > PROOF_MINUTES_MAX * 60 {
        return Line::unknown(
            check,
            format!(
                "an old proof: the last one was {age} ago, by AgentSandbox {name} at {at} ({reason}); what was stopped or changed since then, nobody has tried{alone}"
            ),
            "Start a sandbox, and ask again when it is ready.",
        );
    }
    Line::ok(check, format!("{age} ago, by AgentSandbox {name} at {at} ({reason}), as of then{alone}"))
}

/// What speaks against a proof, whoever else has one.
fn denied(check: &str, type_: &str, told: &[(String, Condition)]) -> Option<Line> {
    let is_denied = |condition: &Condition| condition.status == "False" && condition.reason != NOT_ACCEPTED;
    let is_broken = |condition: &Condition| BROKEN.contains(&condition.reason.as_str());
    let mut denied: Vec<_> = told.iter().filter(|(_, condition)| is_denied(condition)).collect();
    denied.sort_by_key(|(_, condition)| !is_broken(condition));
    let (name, condition) = denied.first()?;
    let found =
        format!("AgentSandbox {name} says {type_}=False, {}: {}", condition.reason, condition.message);
    let remedy = format!("docs/reasons.md says under {} what to do; no agent runs there.", condition.reason);
    Some(match is_broken(condition) {
        true => Line::failed(check, found, remedy),
        false => Line::unknown(check, found, remedy),
    })
}

//! Whether an agent's program has ended by itself, and how. Pure.
//!
//! A pod that somebody else ended is no end of its program: it was evicted, preempted or deleted, or its node went. Of one that
//! is on its way out the end counts that came so long before it was asked to go that no clock of a node is behind by as much;
//! else nobody can say which came first, and it is no end. The kubelet shows a container that has ended some hundred milliseconds before it says so of the pod, and meanwhile it does not
//! say that it evicts the pod, so nothing is judged before the pod's phase. A program that was not to run once, or before which no
//! fence has proven the walls, is none of a Task. What is in doubt is no end.

use agentsandbox_crds::sandbox::ProgramStatus;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::time::SKEW_MAX;
use crate::controller::desired::agent_pod::{AGENT, FENCE, runs_once};
use crate::controller::desired::workspace::WORKSPACE;
use crate::controller::status::evidence::is_disproven;

/// Longest part of the last words that is kept: their end.
const LAST_WORDS_CHARACTERS_MAX: usize = 512;
/// Longest reason of a runtime that is kept.
const REASON_CHARACTERS_MAX: usize = 64;
/// How the end of a container is called that nobody has seen end: by the kubelet, and by containerd after a restart of the node.
const UNSEEN_ENDS: [&str; 2] = ["ContainerStatusUnknown", "Unknown"];

/// How the program of this pod ended; none if it did not end by itself.
#[must_use]
pub fn ended(pod: &Pod) -> Option<ProgramStatus> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    let last = terminated(containers, AGENT)?;
    if !is_done(pod) || !fence_passed(pod) {
        return None;
    }
    let reason = last.reason.as_deref().map(plain).filter(|reason| !reason.is_empty());
    if reason.as_deref().is_some_and(|reason| UNSEEN_ENDS.contains(&reason)) {
        return None;
    }
    let reason = reason.unwrap_or_else(|| if last.exit_code == 0 { "Completed" } else { "Error" }.to_owned());
    Some(ProgramStatus {
        exit_code: Some(last.exit_code),
        reason: reason.chars().take(REASON_CHARACTERS_MAX).collect(),
        started_at: last.started_at.clone(),
        finished_at: last.finished_at.clone(),
        last_words: last.message.as_deref().and_then(last_words),
    })
}

/// Whether the program of this pod, which nobody ends, has run and is not started again, whatever is known of its fence: nothing of the
/// pod runs, and its log is worth keeping.
#[must_use]
pub fn is_done(pod: &Pod) -> bool {
    let containers = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref());
    let Some(last) = terminated(containers.unwrap_or_default(), AGENT) else { return false };
    let came_first = match &pod.metadata.deletion_timestamp {
        None => !is_disrupted(pod, None),
        Some(by) => asked(pod, by.0).is_some_and(|at| precedes(last, at)) && !is_disrupted(pod, Some(last)),
    };
    is_over(pod) && came_first && runs_once(pod)
}

/// When a deletion was asked for: however its grace was shortened since, the time by which the pod is to be gone counts from there.
fn asked(pod: &Pod, by: Timestamp) -> Option<Timestamp> {
    by.checked_sub(SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds?)).ok()
}

/// Whether a program had ended by itself before what happened to its pod then.
fn precedes(last: &ContainerStateTerminated, then: Timestamp) -> bool {
    let by = last.finished_at.as_ref().and_then(|at| at.0.checked_add(SKEW_MAX).ok());
    by.is_some_and(|by| by < then)
}

/// Whether the fence let the program start. Its report may be of a version that this operator does not read any more, or be lost with
/// its container; one that can be read and says otherwise counts.
fn fence_passed(pod: &Pod) -> bool {
    let before = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref());
    let fence = terminated(before.unwrap_or_default(), FENCE);
    fence.is_some_and(|fence| fence.exit_code == 0) && !is_disproven(pod)
}

/// Whether this pod, of which nothing is started again, is over because its fence, or the step behind it, failed: no program was
/// started.
#[must_use]
pub fn never_began(pod: &Pod) -> bool {
    let Some(status) = pod.status.as_ref() else { return false };
    let before = status.init_container_statuses.as_deref().unwrap_or_default();
    let failed = |name| terminated(before, name).is_some_and(|one| one.exit_code != 0);
    let program = terminated(status.container_statuses.as_deref().unwrap_or_default(), AGENT);
    let is_own = runs_once(pod) && is_over(pod) && !is_disrupted(pod, None);
    is_own && (failed(FENCE) || failed(WORKSPACE)) && program.is_none()
}

/// Whether this pod, of which nothing is started again, is over without an end of its program, by whatever cause but its deletion.
#[must_use]
pub fn is_lost(pod: &Pod) -> bool {
    let is_on_its_way_out = pod.metadata.deletion_timestamp.is_some();
    is_over(pod) && runs_once(pod) && !is_on_its_way_out && ended(pod).is_none()
}

/// Whether nothing of this pod runs any more, and its kubelet has said so.
pub(super) fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether something else ended this pod: of one whose containers ended by themselves the kubelet gives no reason. What came to it after
/// such an end, as it does to a pod that is drained, ended nothing.
fn is_disrupted(pod: &Pod, last: Option<&ContainerStateTerminated>) -> bool {
    let Some(status) = pod.status.as_ref() else { return true };
    let ended_before = |one: &PodCondition| {
        let then = one.last_transition_time.as_ref().map(|time| time.0);
        last.zip(then).is_some_and(|(last, then)| precedes(last, then))
    };
    let mut conditions = status.conditions.iter().flatten();
    status.reason.as_deref().is_some_and(|reason| !reason.is_empty())
        || conditions.any(|one| one.type_ == "DisruptionTarget" && one.status == "True" && !ended_before(one))
}

fn terminated<'a>(all: &'a [ContainerStatus], name: &str) -> Option<&'a ContainerStateTerminated> {
    all.iter().find(|one| one.name == name)?.state.as_ref()?.terminated.as_ref()
}

/// The end of what a program said. It is hostile: what steers a terminal, hides, or turns text around is left out.
fn last_words(said: &str) -> Option<String> {
    let plain = plain(said);
    let plain = plain.trim();
    let excess = plain.chars().count().saturating_sub(LAST_WORDS_CHARACTERS_MAX);
    let tail: String = plain.chars().skip(excess).collect();
    (!tail.is_empty()).then_some(tail)
}

fn plain(said: &str) -> String {
    said.chars().map(|one| if is_plain(one) { one } else { ' ' }).collect()
}

fn is_plain(one: char) -> bool {
    !one.is_control()
        && !matches!(one,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

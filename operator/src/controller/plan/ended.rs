//! A pod of which nothing runs any more: whether it is kept for what it shows, and from when on another takes its place. Pure.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{Child, Doomed, Observed, Step, spec_hash};
use crate::controller::desired::agent_pod::runs_once;
use crate::controller::life;

/// A pod that ended (evicted, mostly) is not replaced younger than this: a cause that lasts must not make a hot loop.
const REPLACE_AFTER: SignedDuration = SignedDuration::from_secs(30);

/// A pod of which nothing runs any more is replaced, unless it holds the result of a program that was to run once. One that failed
/// before its program was started stays for its pause, and says what it found; what is wanted otherwise by now waits for nothing.
pub(super) fn step(live: &Child, pod: &Pod, wanted: &Pod, observed: &Observed, now: Timestamp) -> Step {
    let once = runs_once(wanted);
    if once && life::ended(pod).is_some() {
        return Step::Leave(live.clone());
    }
    let doomed = Doomed::pod(pod);
    let failed = observed.failed.as_ref().filter(|failed| failed.pod.metadata.uid == pod.metadata.uid);
    if once && life::never_began(pod) {
        let rests = failed.is_some_and(|failed| now < failed.until);
        let is_as_wanted = spec_hash(pod) == spec_hash(wanted);
        return if rests && is_as_wanted { Step::Leave(live.clone()) } else { Step::Delete(doomed) };
    }
    let why = why_it_ended(pod);
    let since = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let due = since.saturating_add(REPLACE_AFTER).unwrap_or(now);
    let due = failed.filter(|_| once).map_or(due, |failed| due.max(failed.until));
    if now < due { Step::Hold(due, why) } else { Step::Clear(doomed, why) }
}

/// Whether nothing of a pod runs any more.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| phase == "Failed" || phase == "Succeeded")
}

/// Longest part of a kubelet's sentence that is repeated.
const WHY_CHARACTERS_MAX: usize = 300;

/// What the kubelet says of the end: `Evicted: Usage of EmptyDir volume "tmp" exceeds the limit "64Mi".` It is lost with the pod.
fn why_it_ended(pod: &Pod) -> String {
    let status = pod.status.as_ref();
    let said = [status.and_then(|s| s.reason.as_deref()), status.and_then(|s| s.message.as_deref())];
    let said: Vec<&str> = said.into_iter().flatten().map(str::trim).filter(|text| !text.is_empty()).collect();
    let why = if said.is_empty() { "no reason was given".to_owned() } else { said.join(": ") };
    why.chars().take(WHY_CHARACTERS_MAX).collect()
}

//! What the workspace's step reports. It ran before the agent and in our image; all the same a report that cannot be read says nothing.

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::workspace::WorkspaceStatus;
use agentsandbox_report::{REPORT_BYTES_MAX, WORKSPACE_VERSION, WorkspaceReport, WorkspaceVerdict};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use super::pods::{ended_pod, replacing, unscheduled};
use super::{ConditionType, Holds, Outcome, Reason, Stage, Verdict};
use crate::controller::apply::{Applied, Missing};
use crate::controller::desired::claim;
use crate::controller::desired::workspace::WORKSPACE;
use crate::controller::outcome::Workload;

/// What is known of the step.
enum Step {
    /// Its turn has not come.
    Waiting,
    /// It works.
    Working,
    /// It ended, and said this.
    Reported(WorkspaceReport),
    /// It ended well, so that the agent was started, and what it said cannot be read.
    Unread,
    /// It ended, and said nothing that can be read.
    Mute(String),
}

/// None where no source is named.
pub(super) fn workspace_ready(workload: &Workload) -> Option<Verdict> {
    let (holds, reason, message) = workload.fetches.then(|| ready(workload))?;
    Some(Verdict::new(ConditionType::WorkspaceReady, holds, reason, message))
}

/// The same for a sandbox of whose workload nothing is known: as little is known as of its isolation.
pub(super) fn completed(sandbox: &AgentSandbox, mut verdicts: Vec<Verdict>) -> Vec<Verdict> {
    let is_told = verdicts.iter().any(|verdict| verdict.type_ == ConditionType::WorkspaceReady);
    if is_told || !has_source(sandbox) {
        return verdicts;
    }
    let place = verdicts.iter().position(|verdict| verdict.type_ == ConditionType::RuntimeVerified);
    if let Some((place, before)) = place.and_then(|place| Some((place, verdicts.get(place)?.clone()))) {
        let own = Verdict { type_: ConditionType::WorkspaceReady, holds: Holds::Unknown, ..before };
        verdicts.insert(place + 1, own);
    }
    verdicts
}

/// What the workspace began with. What is not known now stays as it was told; without a source it began with nothing, which is written
/// where something was told before: a merge patch leaves what it does not name.
pub(super) fn counts(
    sandbox: &AgentSandbox,
    outcome: &Outcome,
    old: Option<&WorkspaceStatus>,
) -> Option<WorkspaceStatus> {
    // The same is so of the commit alone.
    let no_commit = old.and_then(|old| old.commit.as_ref()).map(|_| String::new());
    let no_claim = old.and_then(|old| old.claim_name.as_ref()).map(|_| String::new());
    // What a template says is not known in each pass.
    let is_whole = sandbox.spec.template_ref.is_none() || matches!(outcome.stage, Stage::Standing(_));
    if !is_whole {
        return old.cloned();
    }
    if !has_source(sandbox) {
        let none = WorkspaceStatus { commit: no_commit, claim_name: no_claim, ..WorkspaceStatus::default() };
        return old.map(|_| none);
    }
    let Stage::Standing(workload) = &outcome.stage else { return old.cloned() };
    let claim = workload.claim.as_ref().map(|(claim, _)| claim.name_any());
    let reported = match step(&workload.agent) {
        Step::Reported(report) if workload.fetches && report.verdict == WorkspaceVerdict::Unpacked => report,
        // Where work will be is known before any is there.
        _ if claim.is_some() => {
            return Some(WorkspaceStatus { claim_name: claim, ..old.cloned().unwrap_or_default() });
        }
        _ => return old.cloned(),
    };
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Some(WorkspaceStatus {
        files: count(reported.files),
        bytes: count(reported.bytes),
        left_out: count(reported.left_out),
        commit: reported.commit.or(no_commit),
        claim_name: claim.or(no_claim),
    })
}

fn has_source(sandbox: &AgentSandbox) -> bool {
    sandbox.spec.workspace.as_ref().is_some_and(|workspace| {
        workspace.archive.is_some()
            || workspace.git.is_some()
            || workspace.config_map.is_some()
            || workspace.persistent_volume_claim.is_some()
            || workspace.image.is_some()
            || workspace.persistent.is_some()
    })
}

fn ready(workload: &Workload) -> (Holds, Reason, String) {
    // What the pod before found is told until this one is as far.
    let before = workload.failed.as_ref().map_or(Step::Waiting, |failed| said_before(&failed.pod));
    let step = match (step(&workload.agent), before) {
        (Step::Waiting, before) => before,
        (Step::Working, Step::Reported(report)) if reported(&report).1.needs_a_person() => {
            Step::Reported(report)
        }
        (own, _) => own,
    };
    match &workload.agent {
        Applied::Ended(why, _) => return (Holds::Unknown, Reason::Ended, ended_pod("agent", why)),
        Applied::Replacing(doomed) if matches!(step, Step::Waiting) => {
            return (Holds::Unknown, Reason::Replacing, replacing("agent", doomed));
        }
        Applied::Replacing(_) | Applied::Present(_) | Applied::Absent => {}
    }
    if let Some(Missing { kind, name }) = workload.missing.as_ref().filter(|_| matches!(step, Step::Waiting))
    {
        let message = format!(
            "There is no {} {name} in this namespace, with which the workspace is to begin. Create it, or correct spec.workspace; the agent's pod waits for it.",
            kind.as_str()
        );
        return (Holds::False, Reason::SourceMissing, message);
    }
    if let Some(trouble) = unbound(workload).filter(|_| matches!(step, Step::Waiting)) {
        return trouble;
    }
    let told = match step {
        Step::Waiting if workload.claim.is_some() => {
            "The volume is prepared once the fence has proven the walls.".to_owned()
        }
        Step::Waiting => "The code is fetched once the fence has proven the walls.".to_owned(),
        Step::Working => "The code is being fetched and unpacked.".to_owned(),
        Step::Reported(report) if report.verdict == WorkspaceVerdict::Unpacked => {
            let (reason, ends) = ending(workload);
            return (Holds::True, reason, format!("{}{ends}", unpacked(&report, workload)));
        }
        Step::Reported(report) => return reported(&report),
        Step::Unread => {
            return (
                Holds::Unknown,
                Reason::ReportInvalid,
                "The workspace's step ended well, and its report cannot be read, as after an upgrade from a version that wrote another. The agent runs; what its workspace holds is told again once its pod is made anew."
                    .to_owned(),
            );
        }
        Step::Mute(how) => {
            return (
                Holds::False,
                Reason::WorkspaceFailed,
                format!(
                    "The workspace's step ended without a report ({how}) and is tried again. If it was killed for its memory, raise spec.resources.limits.memory; else use operator and init images of one version."
                ),
            );
        }
    };
    (Holds::Unknown, Reason::Fetching, told)
}

fn reported(report: &WorkspaceReport) -> (Holds, Reason, String) {
    let said = &report.message;
    let (reason, then) = match report.verdict {
        WorkspaceVerdict::Unpacked => return (Holds::True, Reason::Unpacked, said.clone()),
        WorkspaceVerdict::FetchDenied => (
            Reason::FetchDenied,
            "If the sandbox is to reach that place, change spec.egress so that a rule allows it; it is tried again within five minutes.",
        ),
        WorkspaceVerdict::FetchFailed => (
            Reason::FetchFailed,
            "It is tried again. If it stays like this, correct spec.workspace, or see the proxy's log.",
        ),
        WorkspaceVerdict::DigestMismatch => (
            Reason::DigestMismatch,
            "Find out which of them is right before you correct spec.workspace.archive: an archive that changes under one address may be an attack.",
        ),
        WorkspaceVerdict::ArchiveRefused => (
            Reason::ArchiveRefused,
            "Nothing of it was kept. Name another archive, commit or folder. What spec.workspace.exclude leaves out is refused of an archive or a folder for its name alone, and of a repository for its name, its mode and its size too.",
        ),
        WorkspaceVerdict::Failed => {
            (Reason::WorkspaceFailed, "It is tried again. If it stays like this, see the node of the pod.")
        }
    };
    (Holds::False, reason, format!("The agent is not started: {said} {then}"))
}

/// A claim without a volume: it waits for one, which a scheduler that finds none tells more of, or has lost it.
fn unbound(workload: &Workload) -> Option<(Holds, Reason, String)> {
    let (claim, _) = workload.claim.as_ref()?;
    let name = claim.name_any();
    match claim.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Bound") => None,
        Some("Lost") => Some((
            Holds::False,
            Reason::ClaimLost,
            format!(
                "PersistentVolumeClaim {name} has lost its volume, and what was in it. Bring the PersistentVolume back, or delete the sandbox and the claim and create the sandbox anew."
            ),
        )),
        _ => {
            let class = class_of(claim);
            let why = match &workload.agent {
                Applied::Present(pod) => unscheduled(pod),
                _ => None,
            };
            let Some(why) = why else {
                let told = format!("PersistentVolumeClaim {name} waits for a volume {class}.");
                return Some((Holds::Unknown, Reason::ClaimPending, told));
            };
            Some((
                Holds::False,
                Reason::ClaimPending,
                format!(
                    "PersistentVolumeClaim {name} has no volume yet {class}, and no node takes the agent's pod: {why} Its events say what it waits for: kubectl describe pvc {name}. A storage class of that name has to exist, with a provisioner that makes volumes of the access mode ReadWriteOncePod."
                ),
            ))
        }
    }
}

/// What is to be said of a claim that somebody deleted under an agent that works on.
fn ending(workload: &Workload) -> (Reason, String) {
    let ends = |claim: &PersistentVolumeClaim| claim.metadata.deletion_timestamp.is_some();
    match workload.claim.as_ref().filter(|(claim, _)| ends(claim)) {
        None => (Reason::Unpacked, String::new()),
        Some((claim, _)) => (
            Reason::ClaimEnding,
            format!(
                " PersistentVolumeClaim {} was deleted, and goes with the pod that mounts it: whatever makes another pod, an edit, an upgrade or an eviction, begins with a new volume. Save what is needed while the agent runs.",
                claim.name_any()
            ),
        ),
    }
}

fn class_of(claim: &PersistentVolumeClaim) -> String {
    let name = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    match name.filter(|name| !name.is_empty()) {
        Some(name) => format!("of the storage class {name}"),
        None => "of the cluster's default storage class, which is not there".to_owned(),
    }
}

fn unpacked(report: &WorkspaceReport, workload: &Workload) -> String {
    let WorkspaceReport { files, bytes, left_out, with_tokens, rewritten, commit, .. } = report;
    let mut text = match &workload.claim {
        Some((claim, _)) => format!(
            "{files} files of {bytes} bytes were put into PersistentVolumeClaim {} when it was new, and {left_out} were left out.",
            claim.name_any()
        ),
        None => format!("{files} files of {bytes} bytes are in the workspace, and {left_out} were left out."),
    };
    if let Some(commit) = commit {
        text.push_str(&format!(" They are of commit {commit}."));
    }
    if *rewritten > 0 {
        text.push_str(&format!(" {rewritten} were rewritten without the secrets in them."));
    }
    if *with_tokens > 0 {
        text.push_str(&format!(
            " {with_tokens} of them hold what looks like a credential; the log of container workspace names them."
        ));
    }
    let asked =
        workload.claim.as_ref().and_then(|(claim, wanted)| Some((claim::asked_bytes(claim)?, *wanted)));
    match asked {
        Some((asked, wanted)) if asked < wanted => text.push_str(&format!(
            " It could not be enlarged to {wanted} bytes: its storage class has to allow that (allowVolumeExpansion), and so has the quota of the namespace."
        )),
        Some((asked, wanted)) if asked > wanted => text.push_str(&format!(
            " It asks for {asked} bytes already, and not for {wanted}: a volume never shrinks."
        )),
        _ => {}
    }
    text
}

/// Of a step that works nothing else is known: what an earlier run said is told while it waits for the next.
fn step(agent: &Applied) -> Step {
    let Applied::Present(pod) = agent else { return Step::Waiting };
    let Some(status) = init_status(pod) else { return Step::Waiting };
    let state = status.state.as_ref();
    if state.is_some_and(|state| state.running.is_some()) {
        return Step::Working;
    }
    let ended = state.and_then(|state| state.terminated.as_ref());
    if let Some(ended) = ended {
        return said(ended);
    }
    let earlier = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    match earlier.map(said) {
        // A pod whose sandbox is started again runs the step again.
        Some(Step::Reported(report)) if report.verdict == WorkspaceVerdict::Unpacked => Step::Waiting,
        Some(Step::Unread) | None => Step::Waiting,
        Some(step) => step,
    }
}

/// What the step of a pod that failed has said; of one that has not failed nothing is kept.
fn said_before(pod: &Pod) -> Step {
    let ended = init_status(pod).and_then(|status| status.state.as_ref()?.terminated.as_ref());
    ended.filter(|ended| ended.exit_code != 0).map_or(Step::Waiting, said)
}

fn said(ended: &ContainerStateTerminated) -> Step {
    let text = ended.message.as_deref().filter(|text| text.len() <= REPORT_BYTES_MAX);
    let report = text.and_then(|text| serde_json::from_str::<WorkspaceReport>(text).ok());
    let is_unpacked = |report: &WorkspaceReport| report.verdict == WorkspaceVerdict::Unpacked;
    match report.filter(|report| report.version == WORKSPACE_VERSION) {
        // Whether the agent starts is the exit code's to say, and a report is believed where both say the same.
        Some(report) if is_unpacked(&report) == (ended.exit_code == 0) => Step::Reported(report),
        None if ended.exit_code == 0 => Step::Unread,
        _ => Step::Mute(format!(
            "exit code {}, {}",
            ended.exit_code,
            ended.reason.as_deref().unwrap_or("no reason")
        )),
    }
}

/// Whether the step of this pod has put the tree in its place, and has not begun again.
#[must_use]
pub fn has_unpacked(pod: &Pod) -> bool {
    let ended = init_status(pod).and_then(|status| status.state.as_ref()?.terminated.as_ref());
    ended.is_some_and(|ended| ended.exit_code == 0)
}

fn init_status(pod: &Pod) -> Option<&ContainerStatus> {
    let all = pod.status.as_ref()?.init_container_statuses.as_ref()?;
    all.iter().find(|status| status.name == WORKSPACE)
}

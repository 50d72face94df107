//! What the workspace's step said, and what is told of it.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;

use super::*;
use crate::controller::apply::Missing;
use crate::controller::desired::{self, ChildKind};

const TYPE: &str = "WorkspaceReady";

fn report_of(change: impl FnOnce(&mut Value)) -> String {
    let mut report = json!({
        "version": 1, "verdict": "Unpacked", "message": "src/up: a link out of the tree.",
        "files": 12, "bytes": 345, "leftOut": 6, "withTokens": 0, "durationMillis": 7,
    });
    change(&mut report);
    report.to_string()
}

/// An agent's pod behind a proven fence, whose step is in these states.
fn stepped(state: &Value, last: &Value) -> Applied {
    let mut pod = agent_pod();
    pod.status.as_mut().unwrap().init_container_statuses.as_mut().unwrap().push(from(json!({
        "name": desired::workspace::WORKSPACE, "ready": false, "restartCount": 0, "image": "i", "imageID": "i",
        "state": state, "lastState": last,
    })));
    Applied::Present(Box::new(pod))
}

fn fetching(agent: Applied) -> Stage {
    with(|w| (w.fetches, w.agent) = (true, agent))
}

fn ended(code: i32, message: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": "Error", "message": message}})
}

fn failed(verdict: &str) -> Stage {
    let report = report_of(|r| r["verdict"] = json!(verdict));
    let waits = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s"}});
    fetching(stepped(&waits, &ended(1, &report)))
}

fn sourced() -> AgentSandbox {
    sandbox(|s| {
        let archive = json!({"url": "https://pypi.org/a.tar", "sha256": "0".repeat(64)});
        s.spec.workspace = Some(from(json!({"archive": archive})));
    })
}

#[test]
fn a_workspace_is_ready_on_a_whole_report_and_on_nothing_less() {
    let none = json!(null);
    let cases = [
        (stepped(&ended(0, &report_of(|_| ())), &none), "True", "Unpacked"),
        (stepped(&ended(1, &report_of(|_| ())), &none), "False", "WorkspaceFailed"),
        (
            stepped(&ended(0, &report_of(|r| r["verdict"] = json!("Failed"))), &none),
            "False",
            "WorkspaceFailed",
        ),
        // The kubelet started the agent, and only what was unpacked is not known.
        (stepped(&ended(0, ""), &none), "Unknown", "ReportInvalid"),
        (stepped(&ended(0, &report_of(|r| r["version"] = json!(2))), &none), "Unknown", "ReportInvalid"),
        (stepped(&ended(0, &report_of(|r| r["extra"] = json!(1))), &none), "Unknown", "ReportInvalid"),
        (stepped(&ended(0, &report_of(|r| r["files"] = json!(-1))), &none), "Unknown", "ReportInvalid"),
        (stepped(&ended(1, &report_of(|r| r["version"] = json!(2))), &none), "False", "WorkspaceFailed"),
        (
            stepped(&ended(0, &report_of(|r| r["message"] = json!("x".repeat(5000)))), &none),
            "Unknown",
            "ReportInvalid",
        ),
        (stepped(&ended(137, ""), &none), "False", "WorkspaceFailed"),
        (stepped(&json!({"running": {}}), &ended(1, &report_of(|_| ()))), "Unknown", "Fetching"),
        (stepped(&json!({"waiting": {"reason": "PodInitializing"}}), &none), "Unknown", "Fetching"),
        // The pod's sandbox was started again, and with it the step.
        (stepped(&json!({"waiting": {}}), &ended(0, &report_of(|_| ()))), "Unknown", "Fetching"),
        (stepped(&json!({"waiting": {}}), &ended(0, "")), "Unknown", "Fetching"),
        (Applied::Present(Box::new(agent_pod())), "Unknown", "Fetching"),
        (Applied::Absent, "Unknown", "Fetching"),
        (replacing(agent_pod()), "Unknown", "Replacing"),
    ];
    for (agent, holds, reason) in cases {
        says(&told(fetching(agent)), TYPE, holds, reason);
    }
    assert!(!told(with(|_| ())).contains_key(TYPE), "where no source is named there is nothing to tell");
}

#[test]
fn each_failure_of_the_step_is_the_reason_of_the_sandbox() {
    for (verdict, is_stalled) in
        [("FetchDenied", true), ("FetchFailed", false), ("DigestMismatch", true), ("ArchiveRefused", true)]
    {
        let told = told(failed(verdict));
        says(&told, TYPE, "False", verdict);
        says(&told, "Ready", "False", verdict);
        says(
            &told,
            "Stalled",
            if is_stalled { "True" } else { "False" },
            if is_stalled { verdict } else { "Settled" },
        );
        says(&told, "NetworkIsolated", "True", "Proven");
        assert!(message(failed(verdict), TYPE).contains("src/up: a link out of the tree. "));
    }
    says(&told(failed("Failed")), TYPE, "False", "WorkspaceFailed");
}

#[test]
fn what_was_unpacked_is_counted_and_stays_told() {
    let whole = outcome(fetching(stepped(&ended(0, &report_of(|_| ())), &json!(null))));
    let counted = status(&sourced(), &whole, None, now()).unwrap();
    let workspace = counted.workspace.clone().unwrap();
    assert_eq!((workspace.files, workspace.bytes, workspace.left_out), (12, 345, 6));

    let mut later = sourced();
    later.status = Some(counted);
    let unknown = outcome(fetching(Applied::Absent));
    assert_eq!(status(&later, &unknown, None, now()).unwrap().workspace, Some(workspace));
    // A merge patch leaves what it does not name.
    later.spec.workspace = None;
    let emptied = status(&later, &outcome(with(|_| ())), None, now()).unwrap().workspace;
    assert_eq!(emptied, Some(WorkspaceStatus::default()));
    assert_eq!(status(&sandbox(|_| ()), &outcome(with(|_| ())), None, now()).unwrap().workspace, None);
}

#[test]
fn the_commit_that_was_checked_out_is_told_and_not_of_an_archive_after_it() {
    let id = "0123456789abcdef0123456789abcdef01234567";
    let of = |report: &str| outcome(fetching(stepped(&ended(0, report), &json!(null))));
    let of_git = of(&report_of(|r| r["commit"] = json!(id)));
    let mut told = sourced();
    told.spec.workspace = Some(from(json!({"git": {"url": "https://pypi.org/a.git"}})));
    let status_of_git = status(&told, &of_git, None, now()).unwrap();
    let commit = |status: &AgentSandboxStatus| status.workspace.clone().unwrap().commit;
    assert_eq!(commit(&status_of_git).as_deref(), Some(id));
    assert!(status_of_git.conditions.iter().any(|c| c.type_ == TYPE && c.message.contains(id)));

    told.status = Some(status_of_git);
    let archived = status(&told, &of(&report_of(|_| ())), None, now()).unwrap();
    assert_eq!(commit(&archived).as_deref(), Some(""));
    told.spec.workspace = None;
    let emptied = status(&told, &outcome(with(|_| ())), None, now()).unwrap();
    assert_eq!(commit(&emptied).as_deref(), Some(""));
    assert_eq!(commit(&status(&sourced(), &of(&report_of(|_| ())), None, now()).unwrap()), None);
}

#[test]
fn a_sandbox_of_which_nothing_is_known_says_so_of_its_workspace() {
    let rejection = Rejection {
        reason: RejectionReason::InvalidField,
        field: "spec.x".to_owned(),
        message: "no".to_owned(),
    };
    let outcome = outcome(Stage::Rejected(vec![rejection]));
    let of = |sandbox: &AgentSandbox| {
        let all = status(sandbox, &outcome, None, now()).unwrap().conditions;
        all.into_iter().find(|c| c.type_ == TYPE).map(|c| (c.status, c.reason))
    };
    assert_eq!(of(&sourced()), Some(("Unknown".to_owned(), "NotAccepted".to_owned())));
    assert_eq!(of(&sandbox(|_| ())), None);
    let ending = ending(&sourced(), "It waits.", now()).unwrap().conditions;
    assert!(ending.iter().any(|c| c.type_ == TYPE && c.reason == "Terminating"));
}

/// A workload whose claim is in this phase and asks for a gibibyte of `wanted` bytes.
fn claimed(agent: Applied, phase: &str, wanted: i64) -> Stage {
    let claim: PersistentVolumeClaim = from(json!({
        "metadata": {"name": "fix-login-workspace"},
        "spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": phase},
    }));
    with(|w| (w.fetches, w.agent, w.claim) = (true, agent, Some((Box::new(claim), wanted))))
}

fn unschedulable() -> Applied {
    let mut pod = agent_pod();
    let why = json!([{"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available"}]);
    pod.status = Some(from(json!({"phase": "Pending", "conditions": why})));
    Applied::Present(Box::new(pod))
}

#[test]
fn a_claim_without_a_volume_is_told_by_its_name_and_waits() {
    let waiting = || claimed(unschedulable(), "Pending", 1 << 30);
    let told_of = told(waiting());
    says(&told_of, TYPE, "False", "ClaimPending");
    says(&told_of, "Ready", "False", "ClaimPending");
    says(&told_of, "Stalled", "False", "Settled");
    let message = message(waiting(), TYPE);
    assert!(message.contains("fix-login-workspace") && message.contains("storage class fast"), "{message}");
    assert!(message.contains("0/1 nodes are available."), "{message}");
    says(&told(claimed(Applied::Absent, "Pending", 1 << 30)), TYPE, "Unknown", "ClaimPending");
    says(&told(claimed(unschedulable(), "Bound", 1 << 30)), TYPE, "Unknown", "Fetching");
    says(&told(claimed(unschedulable(), "Lost", 1 << 30)), TYPE, "False", "ClaimLost");
    says(&told(claimed(unschedulable(), "Lost", 1 << 30)), "Stalled", "True", "ClaimLost");
}

#[test]
fn a_claim_is_named_in_the_status_and_one_that_did_not_grow_keeps_nobody_from_working() {
    let whole = || stepped(&ended(0, &report_of(|_| ())), &json!(null));
    let (same, larger) = (claimed(whole(), "Bound", 1 << 30), claimed(whole(), "Bound", 2 << 30));
    says(&told(claimed(whole(), "Bound", 2 << 30)), TYPE, "True", "Unpacked");
    assert!(message(larger, TYPE).contains("could not be enlarged to 2147483648 bytes"));
    assert!(!message(same, TYPE).contains("enlarged"));
    let lasting = sandbox(|s| {
        s.spec.workspace = Some(from(json!({"access": "Persistent", "persistent": {"size": "1Gi"}})));
    });
    let waiting = outcome(claimed(Applied::Absent, "Pending", 1 << 30));
    let early = status(&lasting, &waiting, None, now()).unwrap().workspace.unwrap();
    assert_eq!((early.files, early.claim_name.as_deref()), (0, Some("fix-login-workspace")));
    let told = status(&lasting, &outcome(claimed(whole(), "Bound", 1 << 30)), None, now()).unwrap();
    assert_eq!(told.workspace.clone().unwrap().claim_name.as_deref(), Some("fix-login-workspace"));
    let mut later = sourced();
    later.status = Some(told);
    let short = status(&later, &outcome(fetching(whole())), None, now()).unwrap().workspace.unwrap();
    assert_eq!(short.claim_name.as_deref(), Some(""), "a merge patch leaves what it does not name");
}

#[test]
fn a_claim_that_was_deleted_under_its_agent_is_told_and_the_agent_runs_on() {
    let whole = || stepped(&ended(0, &report_of(|_| ())), &json!(null));
    let Stage::Standing(mut workload) = claimed(whole(), "Bound", 1 << 30) else { unreachable!() };
    let (claim, _) = workload.claim.as_mut().unwrap();
    claim.metadata.deletion_timestamp = Some(from(json!("2026-01-01T00:00:00Z")));
    let all = told(Stage::Standing(workload));
    says(&all, TYPE, "True", "ClaimEnding");
    says(&all, "Stalled", "False", "Settled");
    says(&told(claimed(whole(), "Bound", 1 << 30)), TYPE, "True", "Unpacked");
}

#[test]
fn a_source_that_is_not_there_is_named_as_long_as_the_step_waits_for_it() {
    let lacking = |agent| {
        let missing = Missing { kind: ChildKind::ConfigMap, name: "task".to_owned() };
        with(|w| (w.fetches, w.agent, w.missing) = (true, agent, Some(missing)))
    };
    let waits = || stepped(&json!({"waiting": {"reason": "PodInitializing"}}), &json!(null));
    let told_of = told(lacking(waits()));
    says(&told_of, TYPE, "False", "SourceMissing");
    says(&told_of, "Ready", "False", "SourceMissing");
    says(&told_of, "Stalled", "True", "SourceMissing");
    assert!(message(lacking(waits()), TYPE).starts_with("There is no ConfigMap task in this namespace"));
    says(&told(fetching(waits())), TYPE, "Unknown", "Fetching");
    let done = stepped(&ended(0, &report_of(|_| ())), &json!(null));
    says(&told(lacking(done)), TYPE, "True", "Unpacked");
}

#[test]
fn each_source_is_told_of_before_anything_of_the_workload_is_known() {
    for source in [
        json!({"configMap": {"name": "a"}}),
        json!({"persistentVolumeClaim": {"claimName": "a"}}),
        json!({"image": {"reference": "a:1"}}),
    ] {
        let sandbox = sandbox(|s| s.spec.workspace = Some(from(source.clone())));
        let blocked = outcome(Stage::Blocked(Blocked::Transient("no answer".to_owned())));
        let conditions = status(&sandbox, &blocked, None, now()).unwrap().conditions;
        assert!(conditions.iter().any(|one| one.type_ == TYPE), "{source}");
    }
}

#[test]
fn how_many_files_were_rewritten_is_told() {
    let rewritten = report_of(|r| r["rewritten"] = json!(3));
    let stage = || fetching(stepped(&ended(0, &rewritten), &json!(null)));
    says(&told(stage()), TYPE, "True", "Unpacked");
    assert!(message(stage(), TYPE).contains("3 were rewritten without the secrets in them."));
}

//! What is told of a Task whose pod failed before its program was started, of the pod that follows, and of one whose end is not told yet.

use super::*;
use crate::controller::memory::Memory;
use crate::fixtures::failed_pod;

/// A workload with this agent, after a pod whose fence said this.
fn after(agent: Applied, verdict: &str, change: impl FnOnce(&mut Value)) -> Stage {
    let pod = failed_pod("before", &report(|r| r["verdict"] = json!(verdict)), change);
    with(|w| {
        w.failed = Memory::default().failed("u", Some(&pod), now());
        w.agent = agent;
    })
}

/// A pod that says nothing yet.
fn fresh() -> Applied {
    let mut pod = agent_pod();
    pod.status = Some(from(json!({"phase": "Pending"})));
    Applied::Present(Box::new(pod))
}

fn going() -> Applied {
    Applied::Replacing(Doomed::pod(&agent_pod()))
}

#[test]
fn what_a_fence_found_is_told_until_the_next_one_has_found_something() {
    for (verdict, type_, reason) in
        [("EgressOpen", "NetworkIsolated", "EgressOpen"), ("WrongKernel", "RuntimeVerified", "WrongKernel")]
    {
        for agent in [going(), Applied::Absent, fresh()] {
            let told = told(after(agent, verdict, |_| ()));
            says(&told, type_, "False", reason);
            says(&told, "Ready", "False", reason);
            says(&told, "Stalled", "True", reason);
            says(&told, "Reconciling", "False", "Settled");
        }
        let proven = Applied::Present(Box::new(agent_pod()));
        says(&told(after(proven, verdict, |_| ())), "Ready", "True", "Running");
    }
    let first = told(with(|w| w.agent = fresh()));
    says(&first, "Stalled", "False", "Settled");
    says(&first, "NetworkIsolated", "Unknown", "FencePending");
}

#[test]
fn a_proof_of_a_pod_that_failed_later_proves_nothing_of_the_next() {
    let unpacked = |pod: &mut Value| {
        pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] = json!(0);
        let mut step = pod["status"]["initContainerStatuses"][0].clone();
        step["name"] = json!("workspace");
        step["state"] = json!({"terminated": {"exitCode": 1, "message": "no report"}});
        pod["status"]["initContainerStatuses"].as_array_mut().unwrap().push(step);
    };
    for agent in [fresh(), going()] {
        let told = told(after(agent, "Proven", unpacked));
        assert_eq!(
            (&*told["NetworkIsolated"].0, &*told["RuntimeVerified"].0),
            ("Unknown", "Unknown"),
            "{told:?}"
        );
    }
    let fetches = |stage| match stage {
        Stage::Standing(workload) => Stage::Standing(Box::new(Workload { fetches: true, ..*workload })),
        other => other,
    };
    for agent in [fresh(), going()] {
        let told = told(fetches(after(agent, "Proven", unpacked)));
        says(&told, "WorkspaceReady", "False", "WorkspaceFailed");
    }
    let told = told(fetches(after(going(), "EgressOpen", |_| ())));
    says(&told, "WorkspaceReady", "Unknown", "Replacing");
}

#[test]
fn a_program_that_has_ended_is_not_called_failing_before_its_node_has_said_so_of_the_pod() {
    let ended = |policy: &str| {
        let mut pod = serde_json::to_value(agent_pod()).unwrap();
        pod["spec"]["restartPolicy"] = json!(policy);
        pod["status"]["conditions"] = json!([]);
        pod["status"]["containerStatuses"][0]["ready"] = json!(false);
        pod["status"]["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 3}});
        told(with(|w| w.agent = Applied::Present(Box::new(from(pod)))))
    };
    says(&ended("Never"), "Ready", "False", "Finished");
    says(&ended("Never"), "Stalled", "False", "Settled");
    says(&ended("Always"), "Ready", "False", "AgentStarting");
}

#[test]
fn an_archive_that_is_refused_stays_so_called_while_it_is_fetched_once_more() {
    let step = |state: Value| json!({"name": "workspace", "ready": false, "restartCount": 0, "image": "i", "imageID": "i", "state": state});
    let report = |verdict: &str| {
        json!({"version": agentsandbox_report::WORKSPACE_VERSION, "verdict": verdict, "message": "no.", "files": 0, "bytes": 0, "leftOut": 0, "withTokens": 0, "durationMillis": 1})
            .to_string()
    };
    let fetching = || {
        let mut pod = serde_json::to_value(agent_pod()).unwrap();
        pod["status"]["conditions"] = json!([]);
        pod["status"]["initContainerStatuses"].as_array_mut().unwrap().push(step(json!({"running": {}})));
        pod["status"]["containerStatuses"][0]["state"] = json!({"waiting": {"reason": "PodInitializing"}});
        pod["status"]["containerStatuses"][0]["ready"] = json!(false);
        Applied::Present(Box::new(from(pod)))
    };
    let of = |verdict: &str| {
        let refused = |pod: &mut Value| {
            pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["exitCode"] = json!(0);
            let ended = step(json!({"terminated": {"exitCode": 1, "message": report(verdict)}}));
            pod["status"]["initContainerStatuses"].as_array_mut().unwrap().push(ended);
        };
        match after(fetching(), "Proven", refused) {
            Stage::Standing(workload) => {
                told(Stage::Standing(Box::new(Workload { fetches: true, ..*workload })))
            }
            other => panic!("{other:?}"),
        }
    };
    says(&of("ArchiveRefused"), "Stalled", "True", "ArchiveRefused");
    says(&of("FetchFailed"), "WorkspaceReady", "Unknown", "Fetching");
}

#[test]
fn a_task_that_was_said_to_have_ended_well_is_so_called_though_its_result_was_cut() {
    let cut = |reason: &str| {
        let program = from(json!({"reason": reason}));
        told(Stage::Finished(Box::new(program), Left::Nothing))
    };
    says(&cut("Succeeded"), "Ready", "True", "Succeeded");
    says(&cut("Failed"), "Ready", "False", "Failed");
}

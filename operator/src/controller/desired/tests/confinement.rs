//! The pod of an agent that starts in a process sandbox, beside the one of an agent that does not.

use agentsandbox_crds::class::Isolation;
use agentsandbox_crds::sandbox::{AgentSandbox, ProcessSandbox};
use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::*;
use crate::controller::desired::confinement::PROGRAM_DIR;

fn pod_of(change: impl FnOnce(&mut AgentSandbox)) -> Pod {
    let asking = sandbox(|s| {
        s.spec.agent.command = vec!["agent".to_owned(), "$HOME".to_owned()];
        s.spec.agent.process_sandbox = Some(ProcessSandbox::default());
        change(s);
    });
    let container =
        references(vec![class(|c| c.spec.isolation = Isolation::Container)], vec![credential(|_| ())]);
    agent_pod::pod(&accept(&identity(), &asking, &container, &platform()).unwrap(), &platform(), &sealed())
}

fn named(pod: &Pod, name: &str) -> Container {
    containers(pod).find(|container| container.name == name).unwrap().clone()
}

fn program(container: &Container) -> Option<VolumeMount> {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.into_iter().find(|mount| mount.mount_path == PROGRAM_DIR).cloned()
}

#[test]
fn the_program_starts_by_ours_with_what_it_may_write_and_with_its_own_arguments() {
    let agent = named(&pod_of(|_| ()), agent_pod::AGENT);
    let expected = [
        "/etc/agentsandbox/program/agentsandbox-init",
        "run",
        "--write=/dev",
        "--write=/workspace",
        "--write=/tmp",
        "--write=/home/agent",
        "--",
        "agent",
        "$$HOME",
    ];
    assert_eq!(agent.command.unwrap(), expected);
    assert_eq!(agent.args.unwrap(), ["-p", "fix the $$HOME test"]);
}

#[test]
fn paths_of_the_sandbox_are_flags_of_their_own_before_the_program() {
    let asked: ProcessSandbox = from(json!({
        "readPaths": ["/usr"], "writePaths": ["/workspace/$out"], "noExecutePaths": ["/tmp"],
    }));
    let agent = named(&pod_of(|s| s.spec.agent.process_sandbox = Some(asked)), agent_pod::AGENT);
    let own = [
        "--read=/dev",
        "--read=/etc/agentsandbox",
        "--read=/usr",
        "--write=/dev",
        "--write=/workspace/$$out",
        "--no-execute=/tmp",
        "--",
    ];
    assert_eq!(agent.command.unwrap()[2..9], own);
    // What is empty grants nothing, and is not what is absent.
    let nothing: ProcessSandbox = from(json!({"writePaths": []}));
    let agent = named(&pod_of(|s| s.spec.agent.process_sandbox = Some(nothing)), agent_pod::AGENT);
    assert_eq!(agent.command.unwrap()[2..4], ["--write=/dev", "--"]);
}

#[test]
fn the_agent_cannot_write_what_it_starts_by_and_the_fence_puts_it_there() {
    let pod = pod_of(|_| ());
    assert_eq!(program(&named(&pod, agent_pod::AGENT)).unwrap().read_only, Some(true));
    let fence = named(&pod, agent_pod::FENCE);
    assert_eq!(program(&fence).unwrap().read_only, None);
    let args = fence.args.unwrap();
    let at = args.iter().position(|arg| arg == "--program-dir").unwrap();
    assert_eq!(args[at + 1], PROGRAM_DIR);
    let others =
        containers(&pod).filter(|c| ![agent_pod::AGENT, agent_pod::FENCE].contains(&c.name.as_str()));
    assert!(others.into_iter().all(|other| program(other).is_none()));
}

#[test]
fn without_a_process_sandbox_nothing_of_it_is_in_the_pod() {
    let pod = pod_of(|s| s.spec.agent.process_sandbox = None);
    assert_eq!(named(&pod, agent_pod::AGENT).command.unwrap(), ["agent", "$$HOME"]);
    assert!(!serde_json::to_string(&pod).unwrap().contains("program"), "{pod:?}");
}

#[test]
fn another_process_sandbox_is_another_pod() {
    let hash = |pod: Pod| pod.metadata.annotations.unwrap()[ANNOTATION_SPEC_HASH].clone();
    let narrower: ProcessSandbox = from(json!({"noExecutePaths": ["/tmp"]}));
    let all = [
        hash(pod_of(|s| s.spec.agent.process_sandbox = None)),
        hash(pod_of(|_| ())),
        hash(pod_of(|s| s.spec.agent.process_sandbox = Some(narrower))),
    ];
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2], "{all:?}");
}

#[test]
fn o_g18_under_gvisor_execution_is_withheld_by_mounts_that_the_fence_has_tried() {
    let gvisor = |execution: &str| {
        let accepted = accepted(|s| {
            s.spec.agent.command = vec!["agent".to_owned()];
            s.spec.scratch = Some(from(json!({"execution": execution})));
        });
        agent_pod::pod(&accepted, &platform(), &sealed())
    };
    let pod = gvisor("Deny");
    let command = named(&pod, agent_pod::AGENT).command.unwrap();
    assert_eq!(
        command[1..],
        [
            "run",
            "--by-mounts",
            "--no-execute=/tmp",
            "--no-execute=/home/agent",
            "--no-execute=/dev/shm",
            "--",
            "agent"
        ]
    );
    assert!(named(&pod, agent_pod::FENCE).args.unwrap().contains(&"--program-by-mounts".to_owned()));
    assert_eq!(program(&named(&pod, agent_pod::AGENT)).unwrap().read_only, Some(true));
    let allowed = gvisor("Allow");
    assert_eq!(named(&allowed, agent_pod::AGENT).command.unwrap(), ["agent"]);
    assert!(
        !named(&pod_of(|_| ()), agent_pod::FENCE).args.unwrap().contains(&"--program-by-mounts".to_owned())
    );
}

//! The process sandbox: asked for, required, in vain, and without a program.

use agentsandbox_crds::class::{AgentNetwork, ClassProcessSandbox, Isolation};
use agentsandbox_crds::sandbox::ProcessSandbox;

use super::*;

fn asking(command: &[&str]) -> AgentSandbox {
    sandbox(|s| {
        s.spec.agent.process_sandbox = Some(ProcessSandbox::default());
        s.spec.agent.command = command.iter().map(|&word| word.to_owned()).collect();
    })
}

fn of(isolation: Isolation, required: bool) -> References {
    with_class(|c| {
        c.spec.isolation = isolation;
        c.spec.process_sandbox = required.then_some(ClassProcessSandbox::Required);
    })
}

fn confinement(sandbox: &AgentSandbox, references: &References) -> Option<ProcessSandbox> {
    accept(&identity(), sandbox, references, &platform()).unwrap().confinement.map(|asked| asked.files)
}

#[test]
fn a_process_sandbox_is_there_where_the_sandbox_asks_or_the_class_requires_it_and_nowhere_else() {
    let silent = sandbox(|s| s.spec.agent.command = vec!["agent".to_owned()]);
    for isolation in [Isolation::Container, Isolation::Kata] {
        assert_eq!(confinement(&silent, &of(isolation, false)), None);
        assert_eq!(confinement(&silent, &of(isolation, true)), Some(ProcessSandbox::default()));
        for required in [false, true] {
            let mut own = asking(&["agent"]);
            let paths = Some(vec!["/workspace/out".to_owned()]);
            own.spec.agent.process_sandbox.as_mut().unwrap().write_paths = paths.clone();
            assert_eq!(confinement(&own, &of(isolation, required)).unwrap().write_paths, paths);
        }
    }
}

#[test]
fn under_gvisor_a_process_sandbox_is_refused_and_not_left_out() {
    let field = "spec.agent.processSandbox";
    only(
        rejected(&asking(&["agent"]), &of(Isolation::GVisor, false)),
        RejectionReason::ClassUnsupported,
        field,
    );
    let silent = sandbox(|s| s.spec.agent.command = vec!["agent".to_owned()]);
    let required = rejected(&silent, &of(Isolation::GVisor, true));
    only(required, RejectionReason::ClassUnsupported, "spec.className");
}

#[test]
fn without_a_command_a_process_sandbox_is_refused_by_the_commands_name() {
    for command in [&[][..], &[""], &["", "x"]] {
        let found = rejected(&asking(command), &of(Isolation::Container, false));
        only(found, RejectionReason::InvalidField, "spec.agent.command");
    }
    let found = rejected(&sandbox(|_| ()), &of(Isolation::Container, true));
    only(found, RejectionReason::InvalidField, "spec.agent.command");
}

fn withholding(scratch: serde_json::Value, change: impl FnOnce(&mut AgentSandbox)) -> AgentSandbox {
    sandbox(|s| {
        s.spec.scratch = Some(from(scratch));
        s.spec.agent.command = vec!["agent".to_owned()];
        change(s);
    })
}

#[test]
fn execution_is_withheld_in_each_folder_of_scratch_by_what_the_class_has_for_it() {
    let asked = json!({"execution": "Deny", "additional": [{"path": "/cache", "sizeLimit": "16Mi"}]});
    for (isolation, means) in [
        (Isolation::GVisor, Means::Mounts),
        (Isolation::Kata, Means::Landlock),
        (Isolation::Container, Means::Landlock),
    ] {
        let own = withholding(asked.clone(), |_| ());
        let found =
            accept(&identity(), &own, &of(isolation, false), &platform()).unwrap().confinement.unwrap();
        assert_eq!(
            (found.files.no_execute_paths, found.means),
            (paths(&["/tmp", "/home/agent", "/cache", "/dev/shm"]), means)
        );
        let allowed = withholding(json!({"execution": "Allow"}), |_| ());
        assert_eq!(confinement(&allowed, &of(isolation, false)), None);
    }
    let both = withholding(json!({"execution": "Deny"}), |s| {
        let files = json!({"writePaths": ["/tmp"], "noExecutePaths": ["/workspace", "/tmp"]});
        s.spec.agent.process_sandbox = Some(from(files));
    });
    let files = confinement(&both, &of(Isolation::Container, false)).unwrap();
    let once = paths(&["/workspace", "/tmp", "/home/agent", "/dev/shm"]);
    assert_eq!(files.no_execute_paths, once, "none is named twice");
    assert_eq!(files.write_paths, Some(paths(&["/tmp"])));
}

fn paths(all: &[&str]) -> Vec<String> {
    all.iter().map(|&path| path.to_owned()).collect()
}

#[test]
fn execution_is_not_withheld_from_a_program_that_nobody_names() {
    for isolation in [Isolation::GVisor, Isolation::Container] {
        let nameless = withholding(json!({"execution": "Deny"}), |s| s.spec.agent.command.clear());
        let found = rejected(&nameless, &of(isolation, false));
        only(found, RejectionReason::InvalidField, "spec.agent.command");
    }
    // What gVisor cannot do is refused all the same.
    let whole = withholding(json!({"execution": "Deny"}), |s| {
        s.spec.agent.process_sandbox = Some(ProcessSandbox::default());
    });
    let found = rejected(&whole, &of(Isolation::GVisor, false));
    only(found, RejectionReason::ClassUnsupported, "spec.agent.processSandbox");
}

#[test]
fn execution_is_withheld_in_the_workspace_where_that_is_asked_for_and_in_no_other_volume() {
    for isolation in [Isolation::GVisor, Isolation::Container] {
        let own = sandbox(|s| {
            s.spec.workspace = Some(from(json!({"execution": "Deny"})));
            s.spec.agent.command = vec!["agent".to_owned()];
        });
        let found = confinement(&own, &of(isolation, false)).unwrap();
        assert_eq!(found.no_execute_paths, paths(&["/workspace", "/dev/shm"]));
    }
}

fn without_network(isolation: Isolation) -> References {
    with_class(|c| {
        c.spec.isolation = isolation;
        c.spec.agent_network = Some(AgentNetwork::None);
    })
}

#[test]
fn an_agent_has_no_network_where_its_class_says_so_and_can_have_it_so_and_nowhere_else() {
    let silent = sandbox(|s| s.spec.agent.command = vec!["agent".to_owned()]);
    let found = accept(&identity(), &silent, &without_network(Isolation::GVisor), &platform()).unwrap();
    let found = found.confinement.unwrap();
    assert!(found.without_network && found.means == Means::Mounts && found.files.no_execute_paths.is_empty());
    let both = withholding(json!({"execution": "Deny"}), |_| ());
    let found = accept(&identity(), &both, &without_network(Isolation::GVisor), &platform()).unwrap();
    let found = found.confinement.unwrap();
    assert!(found.without_network && !found.files.no_execute_paths.is_empty());
    for network in [None, Some(AgentNetwork::Pod)] {
        let class = with_class(|c| c.spec.agent_network = network);
        assert_eq!(confinement(&silent, &class), None);
    }
    for isolation in [Isolation::Kata, Isolation::Container] {
        let found = rejected(&silent, &without_network(isolation));
        only(found, RejectionReason::ClassUnsupported, "spec.className");
    }
}

#[test]
fn nobody_leaves_the_network_for_a_program_that_nobody_names() {
    let found = rejected(&sandbox(|_| ()), &without_network(Isolation::GVisor));
    only(found, RejectionReason::InvalidField, "spec.agent.command");
}

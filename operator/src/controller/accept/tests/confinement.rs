//! The process sandbox: asked for, required, in vain, and without a program.

use agentsandbox_crds::class::{ClassProcessSandbox, Isolation};
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
    accept(&identity(), sandbox, references, &platform()).unwrap().confinement
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

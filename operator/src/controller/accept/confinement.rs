//! The process sandbox that an agent's program starts in: where the sandbox asks for it, or its class requires it.
//!
//! It is never left out because it cannot be had. What is known here to be in vain is refused; what only the node knows, the
//! fence finds out, and the agent is not started.

use agentsandbox_crds::class::{AgentSandboxClass, ClassProcessSandbox, Isolation};
use agentsandbox_crds::sandbox::{AgentSandbox, ProcessSandbox};
use kube::ResourceExt;

use super::{Rejection, RejectionReason, reject};

pub(super) fn confinement(
    sandbox: &AgentSandbox,
    class: &AgentSandboxClass,
    faults: &mut Vec<Rejection>,
) -> Option<ProcessSandbox> {
    let agent = &sandbox.spec.agent;
    let required = class.spec.process_sandbox == Some(ClassProcessSandbox::Required);
    if agent.process_sandbox.is_none() && !required {
        return None;
    }
    let class_name = class.name_any();
    if class.spec.isolation == Isolation::GVisor {
        let (field, remedy) = if required {
            ("spec.className", "its administrator must remove processSandbox from it")
        } else {
            (
                "spec.agent.processSandbox",
                "remove processSandbox, or write the className of a class of another isolation",
            )
        };
        let message = format!(
            "class {class_name} runs agents on gVisor's own kernel, which has no Landlock, so no process sandbox can be had there; {remedy}"
        );
        reject(faults, RejectionReason::ClassUnsupported, field, message);
    }
    if agent.command.first().is_none_or(String::is_empty) {
        let who = if required { format!("class {class_name}") } else { "processSandbox".to_owned() };
        let message = format!(
            "{who} has the program started in a process sandbox, and which program an image's entrypoint is cannot be known before; write command, with the program first"
        );
        reject(faults, RejectionReason::InvalidField, "spec.agent.command", message);
    }
    Some(agent.process_sandbox.clone().unwrap_or_default())
}

//! What an agent's program gives up before it starts: where the sandbox asks for a process sandbox, or its class requires one, or where the
//! sandbox has nothing executed in its folders, or its class has agents without a network.
//!
//! It is never left out because it cannot be had. What is known here to be in vain is refused; what only the node knows, the
//! fence finds out, and the agent is not started.

use agentsandbox_crds::class::{AgentNetwork, AgentSandboxClass, ClassProcessSandbox, Isolation};
use agentsandbox_crds::sandbox::{AgentSandbox, ProcessSandbox};
use agentsandbox_crds::scratch::Execution;
use kube::ResourceExt;

use super::{Folder, Rejection, RejectionReason, reject};
use crate::controller::desired::workspace::WORKSPACE_DIR;

/// What a program gives up before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confinement {
    /// Which files it may use, and how.
    pub files: ProcessSandbox,
    /// By what it is held to that.
    pub means: Means,
    /// Whether it has no network but a loopback.
    pub without_network: bool,
}

/// By what a program is held to what it may do with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Landlock, which kernels of Linux have.
    Landlock,
    /// Mounts of its own, by which execution alone can be withheld: gVisor's kernel has nothing else.
    Mounts,
}

pub(super) fn confinement(
    sandbox: &AgentSandbox,
    class: &AgentSandboxClass,
    scratch: &[Folder],
    faults: &mut Vec<Rejection>,
) -> Option<Confinement> {
    let agent = &sandbox.spec.agent;
    let required = class.spec.process_sandbox == Some(ClassProcessSandbox::Required);
    let withheld = withheld(sandbox, scratch);
    let whole = agent.process_sandbox.is_some() || required;
    let without_network = class.spec.agent_network == Some(AgentNetwork::None);
    if !whole && withheld.is_empty() && !without_network {
        return None;
    }
    let class_name = class.name_any();
    let means = if class.spec.isolation == Isolation::GVisor { Means::Mounts } else { Means::Landlock };
    if whole && means == Means::Mounts {
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
    // The CRD has this rule as well; a class that is given by a file has passed no CRD.
    if without_network && means != Means::Mounts {
        let message = format!(
            "class {class_name} has agents without a network (agentNetwork: None), and only gVisor's kernel lets a program without privileges leave the pod's; its administrator must remove agentNetwork from it, or write isolation: GVisor"
        );
        reject(faults, RejectionReason::ClassUnsupported, "spec.className", message);
    }
    if agent.command.first().is_none_or(String::is_empty) {
        let who = match (required, whole) {
            (false, false) if without_network => {
                format!(
                    "class {class_name} has the program started by one that leaves the network (agentNetwork: None)"
                )
            }
            (true, _) => format!("class {class_name} has the program started in a process sandbox"),
            (false, true) => "processSandbox has the program started in a process sandbox".to_owned(),
            (false, false) => {
                "execution: Deny has the program started by one that withholds execution".to_owned()
            }
        };
        let message = format!(
            "{who}, and which program an image's entrypoint is cannot be known before; write command, with the program first"
        );
        reject(faults, RejectionReason::InvalidField, "spec.agent.command", message);
    }
    let mut files = agent.process_sandbox.clone().unwrap_or_default();
    let more: Vec<_> = withheld.into_iter().filter(|path| !files.no_execute_paths.contains(path)).collect();
    files.no_execute_paths.extend(more);
    Some(Confinement { files, means, without_network })
}

/// What each container may write beside its volumes, whatever its image is.
const SHARED_MEMORY: &str = "/dev/shm";

/// The folders in which the sandbox has nothing executed; a copy that may run beside them would do as well.
fn withheld(sandbox: &AgentSandbox, scratch: &[Folder]) -> Vec<String> {
    let is_denied = |execution: Option<Execution>| execution == Some(Execution::Deny);
    let mut all = Vec::new();
    if sandbox.spec.workspace.as_ref().is_some_and(|workspace| is_denied(workspace.execution)) {
        all.push(WORKSPACE_DIR.to_owned());
    }
    if sandbox.spec.scratch.as_ref().is_some_and(|asked| is_denied(asked.execution)) {
        all.extend(scratch.iter().map(|folder| folder.path.clone()));
    }
    if !all.is_empty() {
        all.push(SHARED_MEMORY.to_owned());
    }
    all
}

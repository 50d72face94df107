//! The limits of a sandbox: its own, else its class's, else ours; never above the class's ceiling, never absent.

use agentsandbox_crds::class::{AgentSandboxClass, ResourceCeilings};
use agentsandbox_crds::common::ResourceLimits;
use agentsandbox_crds::sandbox::AgentSandbox;
use agentsandbox_crds::scratch::Medium;
use kube::ResourceExt;

use super::{Rejection, RejectionReason, reject};
use crate::quantity;

/// Limits where neither sandbox nor class names one: enough for an agent's CLI and a build, small beside a node.
const DEFAULT_CPU: &str = "1";
const DEFAULT_MEMORY: &str = "1Gi";
const DEFAULT_EPHEMERAL_STORAGE: &str = "1Gi";
const DEFAULT_WORKSPACE: &str = "1Gi";
/// That of the guide that this project implements: memory is dearer than disk.
const DEFAULT_WORKSPACE_IN_MEMORY: &str = "500Mi";
/// Below these neither gVisor nor the fence starts, and the failure would be hard to read.
pub(super) const MEMORY_BYTES_MIN: i64 = 64 << 20;
const CPU_MILLIS_MIN: i64 = 50;
pub(super) const DISK_BYTES_MIN: i64 = 1 << 20;

/// The limits in force; each is effective.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of disk outside the workspace.
    pub ephemeral_bytes: i64,
    /// Bytes of the workspace.
    pub workspace_bytes: i64,
    /// The highest limit on processes that the fence accepts.
    pub pids_max: Option<i32>,
}

/// One kind of limit: how it is named, read, and bounded.
struct Axis {
    field: &'static str,
    get: fn(&ResourceLimits) -> Option<&String>,
    max: fn(&ResourceCeilings) -> Option<&String>,
    read: fn(&str) -> Option<i64>,
    fallback: &'static str,
    min: i64,
    example: &'static str,
}

const CPU: Axis = Axis {
    field: "spec.resources.limits.cpu",
    get: |limits| limits.cpu.as_ref(),
    max: |ceilings| ceilings.cpu.as_ref(),
    read: quantity::cpu_millis,
    fallback: DEFAULT_CPU,
    min: CPU_MILLIS_MIN,
    example: "50m",
};
const MEMORY: Axis = Axis {
    field: "spec.resources.limits.memory",
    get: |limits| limits.memory.as_ref(),
    max: |ceilings| ceilings.memory.as_ref(),
    read: quantity::bytes,
    fallback: DEFAULT_MEMORY,
    min: MEMORY_BYTES_MIN,
    example: "64Mi",
};
const DISK: Axis = Axis {
    field: "spec.resources.limits.ephemeralStorage",
    get: |limits| limits.ephemeral_storage.as_ref(),
    max: |ceilings| ceilings.ephemeral_storage.as_ref(),
    read: quantity::bytes,
    fallback: DEFAULT_EPHEMERAL_STORAGE,
    min: DISK_BYTES_MIN,
    example: "1Mi",
};
/// Only a sandbox names it, and only a class bounds it.
const WORKSPACE: Axis = Axis {
    field: "spec.workspace.sizeLimit",
    get: |_| None,
    max: |ceilings| ceilings.workspace.as_ref(),
    read: quantity::bytes,
    fallback: DEFAULT_WORKSPACE,
    min: DISK_BYTES_MIN,
    example: "1Mi",
};

pub(super) fn limits(
    sandbox: &AgentSandbox,
    class: &AgentSandboxClass,
    faults: &mut Vec<Rejection>,
) -> Option<Limits> {
    let own = sandbox.spec.resources.as_ref().map(|resources| &resources.limits);
    let cpu_millis = axis(&CPU, own.and_then(CPU.get), class, faults);
    let memory_bytes = axis(&MEMORY, own.and_then(MEMORY.get), class, faults);
    let ephemeral_bytes = axis(&DISK, own.and_then(DISK.get), class, faults);
    let workspace = sandbox.spec.workspace.as_ref();
    let fallback = match workspace.and_then(|workspace| workspace.medium) {
        Some(Medium::Memory) => DEFAULT_WORKSPACE_IN_MEMORY,
        Some(Medium::Disk) | None => DEFAULT_WORKSPACE,
    };
    let size = workspace.and_then(|workspace| workspace.size_limit.as_ref());
    let workspace_bytes = axis(&Axis { fallback, ..WORKSPACE }, size, class, faults);
    Some(Limits {
        cpu_millis: cpu_millis?,
        memory_bytes: memory_bytes?,
        ephemeral_bytes: ephemeral_bytes?,
        workspace_bytes: workspace_bytes?,
        pids_max: class.spec.resources.as_ref().and_then(|resources| resources.pids_max),
    })
}

fn axis(
    axis: &Axis,
    own: Option<&String>,
    class: &AgentSandboxClass,
    faults: &mut Vec<Rejection>,
) -> Option<i64> {
    let resources = class.spec.resources.as_ref();
    let default = resources.and_then(|resources| resources.default.as_ref()).and_then(axis.get);
    let max = resources.and_then(|resources| resources.max.as_ref()).and_then(axis.max);
    let (text, whose) = match (own, default) {
        (Some(own), _) => (own.as_str(), RejectionReason::InvalidField),
        (None, Some(default)) => (default.as_str(), RejectionReason::ClassUnsupported),
        (None, None) => (axis.fallback, RejectionReason::ClassUnsupported),
    };
    let Some(value) = (axis.read)(text) else {
        reject(
            faults,
            whose,
            axis.field,
            format!("{text} is no quantity; write a positive number such as {}", axis.fallback),
        );
        return None;
    };
    if value < axis.min {
        reject(
            faults,
            whose,
            axis.field,
            format!("{text} is too little for an agent to start; write at least {}", axis.example),
        );
        return None;
    }
    let Some(max) = max else { return Some(value) };
    match (axis.read)(max) {
        // A default of ours above the ceiling of the class is no one's mistake: the ceiling holds.
        Some(ceiling) if value > ceiling && own.is_none() => Some(ceiling),
        Some(ceiling) if value > ceiling => {
            reject(
                faults,
                RejectionReason::OutsideClass,
                axis.field,
                format!("{text} is more than class {} allows; write at most {max}", class.name_any()),
            );
            None
        }
        Some(_) => Some(value),
        None => {
            reject(
                faults,
                RejectionReason::ClassUnsupported,
                "spec.className",
                format!(
                    "class {} has the ceiling {max}, which is no quantity; its administrator must correct resources.max",
                    class.name_any()
                ),
            );
            None
        }
    }
}

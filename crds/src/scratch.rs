//! Scratch: the folders beside the workspace that an agent may write. They begin empty, and end with its pod.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{BYTES_MESSAGE, BYTES_RULE};

/// /tmp, the home folder /home/agent, and what else the agent may write.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scratch {
    /// Memory (absent means this): each folder is a tmpfs of its size, which counts towards the memory limit, and a write beyond it fails.
    /// Disk: each is on the node's disk, and a pod that takes more is evicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
    /// Size of /tmp, in bytes. Absent means 100Mi in memory, and all of resources.limits.ephemeralStorage on disk.
    #[x_kube(validation = Rule::new(BYTES_RULE).message(BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub tmp: Option<String>,
    /// Size of the home folder, in bytes. Absent means 500Mi in memory, and all of resources.limits.ephemeralStorage on disk.
    #[x_kube(validation = Rule::new(BYTES_RULE).message(BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub home: Option<String>,
    /// Whether programs that lie in these folders run: Allow (absent means this) or Deny. Deny needs agent.command, and the agent then gives
    /// up for good what no agent needs of system calls: in a process sandbox, or under gVisor by mounts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Execution>,
    /// Further folders that the agent may write. What the image has there is hidden.
    #[x_kube(validation = Rule::new("self.all(a, !self.exists(b, b.path.startsWith(a.path + '/')))").message("folders of additional cannot lie in one another: name the outer one alone"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    pub additional: Vec<ScratchFolder>,
}

/// A further folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScratchFolder {
    /// Where it is: up to three names from the root on, such as /cache or /var/cache/apt.
    // With more names a link of the image could lead it over what the operator mounts, which has three: mounts of few names come first.
    #[x_kube(validation = Rule::new("self.matches('^(/[A-Za-z0-9._-]+){1,3}$') && !self.matches('/[.][.]?(/|$)') && !self.matches('^/(workspace|tmp|home|etc|proc|sys|dev)(/|$)')").message("path must be absolute, of up to three names with letters, digits, ., _ and -, and not in /workspace, /tmp, /home, /etc, /proc, /sys or /dev: write for example /cache"))]
    #[schemars(length(min = 2, max = 128))]
    pub path: String,
    /// Its size, in bytes.
    #[x_kube(validation = Rule::new(BYTES_RULE).message(BYTES_MESSAGE))]
    #[schemars(length(min = 1, max = 20))]
    pub size_limit: String,
    /// Memory or Disk; absent means the medium of the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
}

/// Whether programs that lie in a folder run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Execution {
    /// They do.
    Allow,
    /// They do not.
    Deny,
}

/// What a folder is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Medium {
    /// The pod's memory.
    Memory,
    /// The node's disk.
    Disk,
}

//! Types that more than one kind uses, and the schema of the conditions list.

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A host is a DNS name, or a name under `*.` (exactly one label) or `**.` (one or more labels). Never an address: a
/// last label of digits only, or a single label, is refused.
pub const HOST_RULE: &str =
    r"self.matches('^([*][*]?[.])?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z]([a-z0-9-]{0,61}[a-z0-9])$')";
/// What [`HOST_RULE`] says to someone who broke it.
pub const HOST_MESSAGE: &str = "host must be a lower-case DNS name such as api.example.com, or *.example.com (exactly one label) or **.example.com (one or more); write no scheme, port, path, trailing dot or IP address";

/// Path globs begin with `/` and hold no query, fragment, space or dot segment.
pub const PATHS_RULE: &str = r"self.all(p, p.matches('^/[^?#[:space:]]*$') && !p.matches('/[.][.]?(/|$)'))";
/// What [`PATHS_RULE`] says to someone who broke it.
pub const PATHS_MESSAGE: &str = "each path must begin with / and hold no query, fragment, white space, or . and .. segment; write /v1/** for everything below /v1, or leave paths out to allow every path";

/// Processor time: whole cores, decimals or thousandths.
pub const CPU_RULE: &str = "self.matches('^([1-9][0-9]{0,5}m|[1-9][0-9]{0,3}([.][0-9]{1,3})?|0[.]([0-9]{0,2}[1-9]|[1-9][0-9]{0,2}))$')";
/// What [`CPU_RULE`] says to someone who broke it.
pub const CPU_MESSAGE: &str = "cpu must be a positive number of cores or thousandths: write 2, 0.5 or 500m";

/// Bytes: a whole number with an optional suffix.
pub const BYTES_RULE: &str = "self.matches('^[1-9][0-9]{0,14}(Ki|Mi|Gi|Ti|k|M|G|T)?$')";
/// What [`BYTES_RULE`] says to someone who broke it.
pub const BYTES_MESSAGE: &str =
    "the size must be a positive whole number with an optional suffix: write 512Mi or 4Gi";

/// The name of a StorageClass.
pub const STORAGE_CLASS_RULE: &str = "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')";
/// What [`STORAGE_CLASS_RULE`] says to someone who broke it.
pub const STORAGE_CLASS_MESSAGE: &str = "storageClassName must be the name of a StorageClass, such as standard: lower-case letters, digits, - and .";

/// An HTTP method that a rule may allow. CONNECT and TRACE are never allowed, so they cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Read.
    Get,
    /// Read the headers only.
    Head,
    /// Submit.
    Post,
    /// Replace.
    Put,
    /// Change in part.
    Patch,
    /// Remove.
    Delete,
    /// Ask what is possible.
    Options,
}

impl Method {
    /// The method as it stands in a request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }
}

/// Limits that hold for a whole agent pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceLimits {
    /// Processor time, in cores: `2`, `0.5` or `500m`.
    #[x_kube(validation = (CPU_RULE, CPU_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub cpu: Option<String>,
    /// Memory, in bytes: `512Mi` or `4Gi`.
    #[x_kube(validation = (BYTES_RULE, BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub memory: Option<String>,
    /// Disk space for everything the agent writes outside its workspace, and its logs, in bytes: `2Gi`.
    #[x_kube(validation = (BYTES_RULE, BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub ephemeral_storage: Option<String>,
}

/// How much may be sent to the hosts of a rule: paths, queries, header fields, bodies and WebSocket messages together. Rules
/// with the same host count together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.uploadBytes) || has(self.uploadBytesPerMinute)").message("limits bound nothing: write uploadBytes, uploadBytesPerMinute or both, such as limits: {uploadBytes: 100Mi}")
)]
pub struct EgressLimits {
    /// Bytes in all, for as long as the proxy's pod lasts: `100Mi`. Absent means no such limit, or that of the class.
    #[x_kube(validation = (BYTES_RULE, BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub upload_bytes: Option<String>,
    /// Bytes in any sixty seconds: `1Mi`. A request that is longer is denied. Absent means no such limit, or that of the class.
    #[x_kube(validation = (BYTES_RULE, BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub upload_bytes_per_minute: Option<String>,
}

/// What becomes of an answer or an upload that is on its way when its rule goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnRevoke {
    /// It ends at once.
    Kill,
    /// It has some seconds to end by itself.
    Drain,
}

/// Times from 10 seconds to a year.
pub const LIFETIME_RULE: &str = "self.matches('^([0-9]{1,4}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$') && duration(self) >= duration('10s') && duration(self) <= duration('8760h')";

/// Times from 5 minutes to a year.
pub const IDLE_RULE: &str = "self.matches('^([0-9]{1,4}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$') && duration(self) >= duration('1m') && duration(self) <= duration('8760h')";

/// Times up to a year, none among them.
pub const TTL_RULE: &str =
    "self.matches('^([0-9]{1,4}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$') && duration(self) <= duration('8760h')";

/// Nothing of a sandbox is run again that is over, so nothing of its spec that would be is changed; how long it is kept may be.
pub const OVER_RULE: &str = "!has(oldSelf.status) || !has(oldSelf.status.program) || (has(self.spec.agent) == has(oldSelf.spec.agent) && (!has(self.spec.agent) || self.spec.agent == oldSelf.spec.agent) && (has(self.spec.templateRef) ? self.spec.templateRef.name : '') == (has(oldSelf.spec.templateRef) ? oldSelf.spec.templateRef.name : '') && (has(self.spec.className) ? self.spec.className : '') == (has(oldSelf.spec.className) ? oldSelf.spec.className : '') && has(self.spec.workspace) == has(oldSelf.spec.workspace) && (!has(self.spec.workspace) || self.spec.workspace == oldSelf.spec.workspace) && has(self.spec.scratch) == has(oldSelf.spec.scratch) && (!has(self.spec.scratch) || self.spec.scratch == oldSelf.spec.scratch) && has(self.spec.egress) == has(oldSelf.spec.egress) && (!has(self.spec.egress) || self.spec.egress == oldSelf.spec.egress) && has(self.spec.resources) == has(oldSelf.spec.resources) && (!has(self.spec.resources) || self.spec.resources == oldSelf.spec.resources) && (has(self.spec.lifecycle) && has(self.spec.lifecycle.mode) ? self.spec.lifecycle.mode : 'Service') == (has(oldSelf.spec.lifecycle) && has(oldSelf.spec.lifecycle.mode) ? oldSelf.spec.lifecycle.mode : 'Service') && (has(self.spec.lifecycle) && has(self.spec.lifecycle.maxLifetime) ? self.spec.lifecycle.maxLifetime : '') == (has(oldSelf.spec.lifecycle) && has(oldSelf.spec.lifecycle.maxLifetime) ? oldSelf.spec.lifecycle.maxLifetime : '') && (has(self.spec.lifecycle) && has(self.spec.lifecycle.activeDeadline) ? self.spec.lifecycle.activeDeadline : '') == (has(oldSelf.spec.lifecycle) && has(oldSelf.spec.lifecycle.activeDeadline) ? oldSelf.spec.lifecycle.activeDeadline : '') && (has(self.spec.lifecycle) && has(self.spec.lifecycle.idleTimeout) ? self.spec.lifecycle.idleTimeout : '') == (has(oldSelf.spec.lifecycle) && has(oldSelf.spec.lifecycle.idleTimeout) ? oldSelf.spec.lifecycle.idleTimeout : '') && (has(self.spec.lifecycle) && has(self.spec.lifecycle.state) ? self.spec.lifecycle.state : 'Running') == (has(oldSelf.spec.lifecycle) && has(oldSelf.spec.lifecycle.state) ? oldSelf.spec.lifecycle.state : 'Running'))";

/// Schema of a time. A field's own doc comment describes it.
pub fn time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "format": "date-time"})
}

/// Schema of a conditions list: a list-map by type, every field bounded.
pub fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "What is known of the object, one entry for each type of condition.",
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "description": "One aspect of the object's state.",
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": {
                    "description": "The aspect, in CamelCase.",
                    "type": "string", "maxLength": 64, "pattern": "^[A-Z][A-Za-z]*$"
                },
                "status": {
                    "description": "Whether it holds: True, False, or Unknown.",
                    "type": "string", "enum": ["True", "False", "Unknown"]
                },
                "observedGeneration": {
                    "description": "The metadata.generation that this condition was set for.",
                    "type": "integer", "format": "int64", "minimum": 0
                },
                "lastTransitionTime": {
                    "description": "When the status last changed.",
                    "type": "string", "format": "date-time"
                },
                "reason": {
                    "description": "Why, as one CamelCase word that programs may rely on.",
                    "type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Z][A-Za-z0-9]*$"
                },
                "message": {
                    "description": "Why, as a sentence for people that names the next step.",
                    "type": "string", "maxLength": 32768
                }
            }
        }
    })
}

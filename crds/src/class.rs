//! `AgentSandboxClass`: what an isolation technology means in this cluster. The platform's administrator writes it.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    BYTES_MESSAGE, BYTES_RULE, CPU_MESSAGE, CPU_RULE, EgressLimits, HOST_MESSAGE, OnRevoke, ResourceLimits,
};
use crate::credential::SecretKeyRef;

/// What an isolation technology means in this cluster, and the ceilings for sandboxes that use it.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "agentsandbox.dev",
    version = "v1alpha1",
    kind = "AgentSandboxClass",
    plural = "agentsandboxclasses",
    category = "agents",
    shortname = "asbxclass",
    derive = "PartialEq",
    doc = "An AgentSandboxClass says what an isolation technology means in this cluster: its RuntimeClass, the place of the sidecar, scheduling, and ceilings for resources, images and egress. The class annotated agentsandbox.dev/is-default-class: \"true\" serves sandboxes that name none.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must have at most 63 characters: choose a shorter name"),
    printcolumn(name = "ISOLATION", type_ = "string", json_path = ".spec.isolation", description = "The isolation technology."),
    printcolumn(name = "RUNTIMECLASS", type_ = "string", json_path = ".spec.runtimeClassName", description = "The RuntimeClass of agent pods."),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since the object was created.")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.processSandbox) || self.processSandbox != 'Required' || self.isolation != 'GVisor'").message("gVisor's kernel has no Landlock, so no agent could start: remove processSandbox, or write another isolation").field_path(".processSandbox"),
    validation = Rule::new("!has(self.agentNetwork) || self.agentNetwork != 'None' || self.isolation == 'GVisor'").message("only gVisor's kernel lets a program without privileges leave the pod's network: remove agentNetwork, or write isolation: GVisor").field_path(".agentNetwork"),
    validation = Rule::new("self.isolation == 'Container' || has(self.runtimeClassName)").message("runtimeClassName is required unless isolation is Container: write the RuntimeClass whose handler gives this isolation, such as gvisor").field_path(".runtimeClassName")
)]
pub struct AgentSandboxClassSpec {
    /// The isolation technology that the fence must find: GVisor, Kata (a virtual machine for each pod), or Container
    /// (the node's own kernel, with every hardening flag).
    pub isolation: Isolation,
    /// Name of the RuntimeClass of agent pods. Required unless isolation is Container.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("runtimeClassName must be the name of a RuntimeClass: lower-case letters, digits, - and ."))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub runtime_class_name: Option<String>,
    /// Where the proxy runs: Pod (a pod of its own, the default) or Container (inside the agent's pod; not served yet,
    /// sandboxes of such a class are not accepted).
    #[serde(default)]
    pub sidecar_placement: SidecarPlacement,
    /// In which network an agent's program starts: Pod (absent means this), the pod's, whose only way leads to the sandbox's proxy; or
    /// None, one that has nothing but a loopback, on which the proxy's entrances are found at their ports. None needs isolation GVisor
    /// and sandboxes that name the program (`spec.agent.command`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_network: Option<AgentNetwork>,
    /// Which nodes agent pods may run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
    /// Defaults and ceilings of resource limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ClassResources>,
    /// Which images agents may use; absent means any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<ClassImages>,
    /// Ceiling of what sandboxes may reach; absent means any public host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<ClassEgress>,
    /// Whether agents of this class must start in a process sandbox (`spec.agent.processSandbox`): Required, also where the sandbox
    /// does not ask for it, or Optional (absent means this).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_sandbox: Option<ClassProcessSandbox>,
    /// Bounds of persistent workspaces (`spec.workspace.persistent`); absent allows none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_workspace: Option<ClassPersistentWorkspace>,
    /// Where proxies send traces of what they allowed and denied; absent sends none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracing: Option<ClassTracing>,
}

/// Isolation technologies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Isolation {
    /// System calls are served in user space by gVisor.
    GVisor,
    /// A virtual machine for each pod.
    Kata,
    /// The node's own kernel, with every hardening flag.
    Container,
}

/// Whether agents of this class must start in a process sandbox (`spec.agent.processSandbox`): Required, also where the sandbox does not ask
/// for it, or Optional (absent means this).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ClassProcessSandbox {
    /// A sandbox may ask for it.
    Optional,
    /// Every agent does, or is not started.
    Required,
}

/// Bounds of persistent workspaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassPersistentWorkspace {
    /// The largest size that a sandbox may ask for, in bytes.
    #[x_kube(validation = Rule::new(BYTES_RULE).message(BYTES_MESSAGE))]
    #[schemars(length(min = 1, max = 20))]
    pub max_size: String,
    /// The StorageClasses that a sandbox may name, one of which it must; absent allows each, and the cluster's default one.
    #[x_kube(validation = Rule::new("self.all(n, n.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'))").message("storageClassNames holds names of StorageClasses, such as standard: lower-case letters, digits, - and ."))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub storage_class_names: Vec<String>,
}

/// Places of the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SidecarPlacement {
    /// A pod of its own.
    #[default]
    Pod,
    /// Inside the agent's pod.
    Container,
}

/// In which network an agent's program starts: Pod (absent means this), the pod's, whose only way leads to the sandbox's proxy; or None, one
/// that has nothing but a loopback, on which the proxy's entrances are found at their ports. None needs isolation GVisor and sandboxes
/// that name the program (`spec.agent.command`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AgentNetwork {
    /// The pod's.
    Pod,
    /// One with nothing but a loopback.
    None,
}

/// Which nodes agent pods may run on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Labels that a node must have.
    #[x_kube(validation = Rule::new("self.all(k, k.size() <= 317 && self[k].size() <= 63)").message("nodeSelector holds node labels: keys of at most 317 and values of at most 63 characters"))]
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16), schema_with = "node_selector")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that agent pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<ClassToleration>,
}

fn node_selector(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "description": "Labels that a node must have.",
        "additionalProperties": {"type": "string", "maxLength": 63}
    })
}

/// A taint that agent pods tolerate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassToleration {
    /// Key of the taint.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// Value of the taint; absent tolerates every value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// Effect of the taint; absent tolerates every effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<TaintEffect>,
}

/// Effects of taints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TaintEffect {
    /// New pods are not scheduled.
    NoSchedule,
    /// New pods are scheduled elsewhere if possible.
    PreferNoSchedule,
    /// Running pods are evicted too.
    NoExecute,
}

/// Defaults and ceilings of resource limits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassResources {
    /// Limits of sandboxes that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<ResourceLimits>,
    /// The highest limits that a sandbox may ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<ResourceCeilings>,
    /// The highest limit on processes that the fence accepts. The kubelet sets it for all pods of a node
    /// (podPidsLimit); the fence reads it back where the kernel shows it, and refuses a higher one or none. Absent promises
    /// nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 64, max = 4194304))]
    pub pids_max: Option<i32>,
}

/// The highest limits that a sandbox may ask for; what is absent has no ceiling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceCeilings {
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
    /// Size of the workspace, in bytes: `10Gi`.
    #[x_kube(validation = (BYTES_RULE, BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub workspace: Option<String>,
}

/// Which images agents may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassImages {
    /// Registries, each a host with an optional port and path: `ghcr.io/acme` allows `ghcr.io/acme/agent:1` and not
    /// `ghcr.io/acme2/x:1`, and a host without a port allows no other port.
    #[x_kube(validation = Rule::new("self.all(r, r.matches('^[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)*$'))").message("each registry must be a host with an optional port and path, such as ghcr.io/acme; write no scheme, tag, wildcard or trailing slash"))]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_registries: Vec<String>,
}

/// Ceiling of what sandboxes may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClassEgress {
    /// Host patterns that rules must stay within; absent means any host.
    #[x_kube(validation = Rule::new("self.all(h, h.matches('^([*][*]?[.])?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?[.])+[a-z]([a-z0-9-]{0,61}[a-z0-9])$'))").message(HOST_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), inner(length(min = 1, max = 253)), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_hosts: Option<Vec<String>>,
    /// Private IPv4 ranges that proxies may dial, such as `10.20.0.0/16`. Metadata addresses stay forbidden.
    #[x_kube(validation = Rule::new("self.all(c, c.matches('^(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])([.](25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}/([89]|[12][0-9]|3[0-2])$'))").message("each range must be an IPv4 CIDR with numbers of at most 255 and a prefix of at least 8 bits, such as 10.20.0.0/16"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 9, max = 18)), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_private_ranges: Vec<String>,
    /// Whether rules may hand TLS on unopened (`tls: Passthrough`), where neither requests nor what leaves in them are seen: Allow,
    /// or Deny (absent means this).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_passthrough: Option<TlsPassthrough>,
    /// What becomes of answers and uploads that are on their way when their rule goes: Kill ends them at once, whatever a sandbox says; Drain
    /// (absent means this) lets each sandbox say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_revoke: Option<OnRevoke>,
    /// The most that may be sent to the hosts of a rule. A rule that writes less has that; absent sets no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<EgressLimits>,
    /// PEM certificates of private CAs that proxies trust beside the public roots, at most 64 KiB.
    #[x_kube(validation = Rule::new("self.contains('-----BEGIN CERTIFICATE-----')").message("additionalRoots must be PEM: write the certificates with their -----BEGIN CERTIFICATE----- lines"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 65536))]
    pub additional_roots: Option<String>,
    /// The organisation's own proxy, through which every upstream is then reached; there is no way around it. Absent reaches
    /// them directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_proxy: Option<ClassUpstreamProxy>,
}

/// A proxy of the organisation's own. It is asked for tunnels by name, so it sees names and no request; what addresses those
/// names have is its to judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.login) || !self.url.matches('://[0-9.]+:[0-9]+$')").message("a login goes to a proxy that is named and to no address: write its DNS name, such as http://proxy.example.com:3128").field_path(".url")
)]
pub struct ClassUpstreamProxy {
    /// `http://host:port`, which is asked with CONNECT, or `socks5://host:port`. A private address needs a range in
    /// allowedPrivateRanges.
    #[x_kube(validation = Rule::new("self.matches('^(http|socks5)://[a-z0-9]([-a-z0-9.]*[a-z0-9])?:[1-9][0-9]{0,4}$')").message("url must be http://host:port or socks5://host:port and nothing more, such as http://proxy.example.com:3128"))]
    #[schemars(length(min = 1, max = 270))]
    pub url: String,
    /// What it asks for; absent gives it nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<UpstreamProxyLogin>,
}

/// User name and password for an upstream proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamProxyLogin {
    /// The user.
    #[x_kube(validation = Rule::new("!self.contains(':')").message("username cannot contain a colon: it ends the name"))]
    #[schemars(length(min = 1, max = 128))]
    pub username: String,
    /// The password, in a Secret of each sandbox's own namespace; only its proxy reads it.
    pub secret_ref: SecretKeyRef,
}

/// Whether TLS may pass unopened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsPassthrough {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// A collector of OpenTelemetry's. Proxies reach it directly, also where there is an upstream proxy; no rule leads an agent to its
/// host and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.pods) || !self.endpoint.matches('[.](svc|cluster[.]local):')").message("a Service of the cluster is reached at its pods: write their namespace and labels in pods").field_path(".pods")
)]
pub struct ClassTracing {
    /// `http://host:port` or `https://host:port`, which takes OTLP over HTTP in JSON at `/v1/traces`. The host is a full DNS name, for
    /// search domains play no part, or an IPv4 address. TLS is verified against the public roots and additionalRoots.
    #[x_kube(validation = Rule::new("self.matches('^https?://[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)+:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$')").message("endpoint must be http://host:port or https://host:port with a full DNS name, a port of at most 65535 and nothing more, such as http://otel-collector.observability.svc.cluster.local:4318"))]
    #[schemars(length(min = 1, max = 270))]
    pub endpoint: String,
    /// The collector's pods, where it runs in this cluster: its Service then leads to the same port of theirs. Absent means that it
    /// is elsewhere, at a public address or in allowedPrivateRanges. Beside upstreamProxy it is then written as its IPv4 address, and
    /// one that is named gets no traces of sandboxes without rules.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<CollectorPods>,
}

/// The pods of a collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CollectorPods {
    /// Their namespace.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("namespace must be the name of a namespace: lower-case letters, digits and -"))]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: String,
    /// Labels that they have, at least one.
    // A pattern over keys, whose length no schema bounds, costs more than the API server allows: the operator reads those.
    #[x_kube(validation = Rule::new("self.all(k, k.size() >= 1 && k.size() <= 317 && self[k].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$'))").message("labels holds labels of pods: keys of at most 317 and values of at most 63 characters, with letters, digits, -, _ and . in them"))]
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16), schema_with = "pod_labels")]
    pub labels: BTreeMap<String, String>,
}

fn pod_labels(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "description": "Labels that they have, at least one.",
        "additionalProperties": {"type": "string", "maxLength": 63}
    })
}

//! `AgentSandbox`: one agent, what it runs and what it may reach. A developer writes it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{
    BYTES_MESSAGE, BYTES_RULE, EgressLimits, HOST_MESSAGE, HOST_RULE, IDLE_RULE, LIFETIME_RULE, Method,
    OVER_RULE, OnRevoke, PATHS_MESSAGE, PATHS_RULE, ResourceLimits, TTL_RULE,
};
use crate::scratch::Scratch;
use crate::template::TemplateRef;
use crate::workspace::{Workspace, WorkspaceStatus};

/// What one agent runs, and what it may reach.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "agentsandbox.dev",
    version = "v1alpha1",
    kind = "AgentSandbox",
    namespaced,
    plural = "agentsandboxes",
    category = "agents",
    shortname = "asbx",
    status = "AgentSandboxStatus",
    derive = "PartialEq",
    doc = "An AgentSandbox is one agent behind a proven fence: it runs without keys, without a Kubernetes token, and without any route but its own proxy, which allows, denies and records each request.",
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must have at most 40 characters, lower-case letters, digits and -: names of its pods are made from it"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]')").message("metadata.name must begin with a letter, as the name of its Service does: write for example try-1 in place of 1-try"),
    validation = Rule::new("has(self.spec.templateRef) || (has(self.spec.agent) && has(self.spec.agent.image))").message("agent.image is required: write the image of the agent, such as ghcr.io/acme/agent:1.2.3, or templateRef with the name of an AgentSandboxTemplate that has one").field_path(".spec.agent"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.startedAt) || (has(self.spec.templateRef) ? self.spec.templateRef.name : '') == (has(oldSelf.spec.templateRef) ? oldSelf.spec.templateRef.name : '')").message("templateRef cannot be changed once an agent of the sandbox has started: create another sandbox with the other template").field_path(".spec"),
    validation = Rule::new(OVER_RULE).message("spec: the sandbox is over (status.program says how its program ended) and is not run again, so only lifecycle.ttlAfterFinished can be changed: delete it and create it anew, as kubectl replace --force does"),
    printcolumn(name = "READY", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status", description = "Whether the agent runs behind a proven fence, the program of a Task ended well, or the sandbox is suspended as asked; REASON says which."),
    printcolumn(name = "REASON", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", description = "Why it is ready or not."),
    printcolumn(name = "CLASS", type_ = "string", json_path = ".status.className", description = "The class in force."),
    printcolumn(name = "EGRESS-DENIED", type_ = "integer", json_path = ".status.egress.denied", description = "Requests that the proxy has denied since it last started."),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since the object was created."),
    printcolumn(name = "TEMPLATE", type_ = "string", json_path = ".spec.templateRef.name", description = "The template that it names.", priority = 1),
    printcolumn(name = "MESSAGE", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message", description = "What to do next.", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct AgentSandboxSpec {
    /// The AgentSandboxTemplate of this namespace whose fields hold where this spec says nothing, and which bounds what it says. Absent
    /// means that this spec says all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_ref: Option<TemplateRef>,
    /// Name of the AgentSandboxClass; absent means the default class, which the sandbox keeps when another becomes the
    /// default.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("className must be the name of an AgentSandboxClass, such as gvisor; the cluster's administrator knows their names, and lists them with kubectl get agentsandboxclasses"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub class_name: Option<String>,
    /// The program to run. Required, with its image, unless templateRef names a template that has one.
    #[serde(default, skip_serializing_if = "Agent::is_absent")]
    pub agent: Agent,
    /// The folder /workspace: what it begins with, and what the agent may do there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<Workspace>,
    /// /tmp, the home folder and further folders that the agent may write; `{}` has /tmp and the home folder in memory. Absent means
    /// that these two are on the node's disk, each up to resources.limits.ephemeralStorage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Scratch>,
    /// What the agent may reach; absent means nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Limits of the agent's pod; what is absent comes from the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<SandboxResources>,
    /// How long the sandbox lives; absent means that its agent is kept running until the sandbox is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
}

/// How long a sandbox lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.activeDeadline) || (has(self.mode) && self.mode == 'Task')").message("activeDeadline is the time that one run of a Task may take: write mode: Task, or maxLifetime in place of activeDeadline").field_path(".activeDeadline")
)]
pub struct Lifecycle {
    /// Service (absent means this) starts the program again whenever it ends; Task runs it to its end once, and keeps what came of
    /// it in status.program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// How long it may live, in hours, minutes and seconds (`8h`, `1h30m`), from when its agent first started, whatever became of its
    /// pods since; then it is stopped for good. Absent means as long as it exists.
    #[x_kube(validation = Rule::new(LIFETIME_RULE).message("maxLifetime must be a time from 10s to 8760h in hours, minutes and seconds, such as 30m or 1h30m"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub max_lifetime: Option<String>,
    /// How long one run of a Task's program may take, in hours, minutes and seconds (`30m`), from when it started in its pod; then the Task
    /// has failed for good. A run that was lost, as by an eviction, begins anew and has all of it again. Absent means no bound.
    #[x_kube(validation = Rule::new(LIFETIME_RULE).message("activeDeadline must be a time from 10s to 8760h in hours, minutes and seconds, such as 30m or 1h30m"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub active_deadline: Option<String>,
    /// How long nothing may pass through the sandbox's proxy, in hours, minutes and seconds (`30m`); then it is stopped for good. A program
    /// that asks for nothing is idle however much it computes. It does not run while the sandbox is suspended. Absent means no bound.
    #[x_kube(validation = Rule::new(IDLE_RULE).message("idleTimeout must be a time from 1m to 8760h in hours, minutes and seconds, such as 30m or 1h30m"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub idle_timeout: Option<String>,
    /// How long the sandbox is kept once it is over, in hours, minutes and seconds (`30m`; `0s` deletes it at once): then it is deleted,
    /// with its result and its log. Absent means until somebody deletes it.
    #[x_kube(validation = Rule::new(TTL_RULE).message("ttlAfterFinished must be a time from 0s to 8760h in hours, minutes and seconds, such as 30m or 1h30m"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 16))]
    pub ttl_after_finished: Option<String>,
    /// Running (absent means this), or Suspended: neither agent nor proxy runs, and the walls stay. A sandbox that is resumed has a new
    /// agent, whose fence proves the walls anew, and a workspace that begins anew unless its access is Persistent. maxLifetime goes on meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PowerState>,
}

/// Whether a sandbox is to run for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PowerState {
    /// It is.
    Running,
    /// It is not.
    Suspended,
}

/// What becomes of a program that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// It is started again.
    Service,
    /// It is not; its end is the sandbox's.
    Task,
}

/// The program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// Image of the agent, with a tag other than `latest` or with a digest. Required, unless a template has it.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-zA-Z0-9._/:@-]*$')").message("image must be an image reference such as ghcr.io/acme/agent:1.2.3, without a scheme or white space"))]
    #[x_kube(validation = Rule::new("self.matches('@sha256:[0-9a-f]{64}$') || (self.matches(':[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$') && !self.endsWith(':latest'))").message("image must carry a tag other than latest, or a digest: write ghcr.io/acme/agent:1.2.3 or ghcr.io/acme/agent@sha256:<64 hex digits>"))]
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// When the image is pulled; absent means IfNotPresent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Program to start; absent means the image's entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 4096)), extend("x-kubernetes-list-type" = "atomic"))]
    pub command: Vec<String>,
    /// Arguments of the program; absent means those of the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 16384)), extend("x-kubernetes-list-type" = "atomic"))]
    pub args: Vec<String>,
    /// Folder in which the program starts; absent means /workspace.
    #[x_kube(validation = Rule::new("self.startsWith('/') && !self.matches('/[.][.](/|$)')").message("workingDir must be an absolute path without .. segments, such as /workspace/src"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub working_dir: Option<String>,
    /// Variables of the program. Write no secrets here: name an AgentCredential in egress.allow instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Whether the program is given HTTPS_PROXY and its kin: Set (absent means this) or Unset. Both ways it reaches only what
    /// egress allows; programs that ignore the variables are served transparently.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_environment: Option<ProxyEnvironment>,
    /// What the program gives up for good before it starts, by Landlock and seccomp; `{}` gives up what no agent needs. It needs
    /// command, and a class whose kernel has Landlock (not gVisor). Absent gives up nothing, unless the class requires it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_sandbox: Option<ProcessSandbox>,
}

impl Agent {
    /// Whether nothing is said of it, as where a template says all.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        *self == Self::default()
    }
}

/// What a program may do with files once it has given up the rest, as has everything that it starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessSandbox {
    /// Files and folders that it may read, with all below them, beside writePaths, /dev and /etc/agentsandbox; absent means everything.
    /// What the program itself consists of and asks for is among them, such as /usr, /lib, /lib64, /bin, /etc and /proc. Each must be there
    /// when the program starts.
    #[x_kube(validation = Rule::new(PROCESS_PATHS_RULE).message(PROCESS_PATHS_MESSAGE))]
    #[x_kube(validation = Rule::new(AGENTS_FOLDERS_RULE).message("readPaths cannot hold what lies below /workspace, /tmp or /home/agent, where the agent may leave a link to anywhere for its next start: name the folder itself"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 2, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub read_paths: Option<Vec<String>>,
    /// Files and folders that it may write, with all below them, beside /dev; absent means /workspace, /tmp, /home/agent and what
    /// scratch adds. Each must be there when the program starts, with no symbolic link on the way.
    #[x_kube(validation = Rule::new(PROCESS_PATHS_RULE).message(PROCESS_PATHS_MESSAGE))]
    #[x_kube(validation = Rule::new("self.all(p, !p.matches('^/proc(/|$)'))").message("writePaths cannot hold /proc: it leads into the memory of the agent's other processes"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), inner(length(min = 2, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub write_paths: Option<Vec<String>>,
    /// Folders below which it may not execute files, such as /tmp and /home/agent. Each must be there when the program starts, with no
    /// symbolic link on the way.
    #[x_kube(validation = Rule::new(PROCESS_PATHS_RULE).message(PROCESS_PATHS_MESSAGE))]
    #[x_kube(validation = Rule::new(AGENTS_FOLDERS_RULE).message("noExecutePaths cannot hold what lies below /workspace, /tmp or /home/agent, from where the agent may move a file away for its next start: name the folder itself"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(min = 2, max = 256)), extend("x-kubernetes-list-type" = "set"))]
    pub no_execute_paths: Vec<String>,
}

const PROCESS_PATHS_RULE: &str = "self.all(p, p.matches('^(/[^/]+)+$') && !p.matches('/[.][.]?(/|$)'))";
/// What an agent itself can lay out anew before its program is started again.
const AGENTS_FOLDERS_RULE: &str = "self.all(p, !p.matches('^/(workspace|tmp|home/agent)/'))";
const PROCESS_PATHS_MESSAGE: &str = "each path must be absolute, below the root, and without . and .. segments or a slash at its end, such as /workspace/out";

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// On each start.
    Always,
    /// When the node lacks it.
    IfNotPresent,
    /// Never: the node has it, or the agent does not start.
    Never,
}

/// A variable with a fixed value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name of the variable.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_]*$')").message("name must be a variable name: letters, digits and _, not beginning with a digit"))]
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// Its value, as is: nothing is expanded.
    #[schemars(length(max = 8192))]
    pub value: String,
}

/// Whether the program is given the proxy variables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProxyEnvironment {
    /// The variables point to the proxy.
    #[default]
    Set,
    /// The variables are left out.
    Unset,
}

/// What the agent may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.drainSeconds) || (has(self.onRevoke) && self.onRevoke == 'Drain')").message("drainSeconds is how long Drain may take: write onRevoke: Drain, or remove drainSeconds").field_path(".drainSeconds")
)]
pub struct Egress {
    /// The allowed requests. What no rule allows is denied.
    #[x_kube(validation = Rule::new("self.all(r, !has(r.name) || self.exists_one(o, has(o.name) && o.name == r.name))").message("names of rules must differ: rename one, or leave name out"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), extend("x-kubernetes-list-type" = "atomic"))]
    pub allow: Vec<EgressRule>,
    /// What becomes of answers and uploads that are on their way when no rule allows them any more: Kill (absent means this) ends them at
    /// once; Drain gives them drainSeconds, unless the class says Kill. A credential that is withdrawn, a suspension and a deletion always end them at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_revoke: Option<OnRevoke>,
    /// How many seconds Drain gives; absent means 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 300))]
    pub drain_seconds: Option<i32>,
}

/// One allowed kind of request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.credential) || !has(self.scheme) || self.scheme == 'Https'").message("a credential is never sent in plain text: remove credential, or remove scheme: Http").field_path(".credential"),
    validation = Rule::new("!has(self.tls) || self.tls != 'Passthrough' || !has(self.scheme) || self.scheme == 'Https'").message("plain HTTP holds no TLS that could pass: remove tls, or remove scheme: Http").field_path(".tls"),
    validation = Rule::new("!has(self.tls) || self.tls != 'Passthrough' || !(has(self.methods) || has(self.paths) || has(self.credential) || has(self.clientCertificate) || has(self.websocket) || has(self.answer) || has(self.headers))").message("what passes unopened is not seen: remove methods, paths, credential, clientCertificate, websocket, answer and headers, or remove tls: Passthrough").field_path(".tls"),
    validation = Rule::new("!has(self.clientCertificate) || !has(self.scheme) || self.scheme == 'Https'").message("a client certificate is shown over TLS only: remove clientCertificate, or remove scheme: Http").field_path(".clientCertificate"),
    validation = Rule::new("!has(self.answer) || !has(self.websocket) || self.websocket != 'Allow'").message("answer does not hold for the messages of a WebSocket: remove answer, or remove websocket: Allow").field_path(".answer")
)]
pub struct EgressRule {
    /// Name of the rule in audit lines, and with an exact host the first path segment of the base-URL entrance. Absent
    /// means the credential's name, or else the host.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("name must be lower-case letters, digits and -, such as anthropic"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// Host name, or `*.example.com` (exactly one label) or `**.example.com` (one or more).
    #[x_kube(validation = Rule::new(HOST_RULE).message(HOST_MESSAGE))]
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// TCP ports; absent means 443, or 80 with scheme Http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8), inner(range(min = 1, max = 65535)), extend("x-kubernetes-list-type" = "set"))]
    pub ports: Option<Vec<i32>>,
    /// How the host is reached: Https (absent means this), or Http, in plain text and never with a credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Methods; absent means all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 7), extend("x-kubernetes-list-type" = "set"))]
    pub methods: Option<Vec<Method>>,
    /// Path globs: `*` stays within a segment, `**` crosses segments; absent means every path.
    #[x_kube(validation = Rule::new(PATHS_RULE).message(PATHS_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub paths: Option<Vec<String>>,
    /// Name of the AgentCredential of this namespace that the proxy adds to matching requests.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("credential must be the name of an AgentCredential in this namespace: lower-case letters, digits and -, without a namespace or a slash"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub credential: Option<String>,
    /// Name of the AgentCredential of this namespace, of type ClientCertificate, that the proxy shows to the host on connections for
    /// matching requests. It may stand beside a credential.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("clientCertificate must be the name of an AgentCredential in this namespace: lower-case letters, digits and -, without a namespace or a slash"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub client_certificate: Option<String>,
    /// Whether a WebSocket may be opened: Allow, or Deny (absent means this).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<Websocket>,
    /// What becomes of the agent's TLS: Intercept (absent means this) opens it and judges each request; Passthrough hands it on
    /// unopened, for a client that trusts the host's own certificate alone, where the class allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How much may be sent under this rule. What is absent comes from the class, which may set no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<EgressLimits>,
    /// What of the answers is passed on; absent passes on all. It keeps surprises small and is no security boundary: a host says itself
    /// what its answers are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<EgressAnswer>,
    /// The only header fields that are passed on, such as `accept` and `content-type`; the others are taken out, and trailers as well.
    /// Absent passes on all that are not removed from every request. The key is put in either way.
    #[x_kube(validation = Rule::new("self.all(h, h.matches('^[a-z0-9_-]+$'))").message("headers holds header names in lower case, such as accept and content-type"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(min = 1, max = 64)), extend("x-kubernetes-list-type" = "set"))]
    pub headers: Option<Vec<String>>,
}

/// What of the answers is passed on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.maxBytes) || has(self.contentTypes)").message("answer bounds nothing: write maxBytes, contentTypes or both, such as answer: {maxBytes: 10Mi}")
)]
pub struct EgressAnswer {
    /// Longest body, in bytes: `10Mi`. A longer one is refused, or cut where its length was not known.
    #[x_kube(validation = Rule::new(BYTES_RULE).message(BYTES_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20))]
    pub max_bytes: Option<String>,
    /// Media types, such as `application/json`, or `text/*`. An answer with a body that says another, or none, is refused.
    #[x_kube(validation = Rule::new("self.all(t, t.matches('^[a-z0-9][a-z0-9.+_-]*/([*]|[a-z0-9][a-z0-9.+_-]*)$'))").message("each content type must be a media type in lower case without parameters, such as application/json or text/*"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 3, max = 128)), extend("x-kubernetes-list-type" = "set"))]
    pub content_types: Option<Vec<String>>,
}

/// What becomes of the agent's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Tls {
    /// It is opened, and each request in it is judged.
    Intercept,
    /// It passes unopened to the host that its handshake names; its bytes are counted and not seen.
    Passthrough,
}

/// How a host is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scheme {
    /// Over TLS, verified.
    Https,
    /// In plain text.
    Http,
}

/// Whether a WebSocket may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Websocket {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// Limits of the agent's pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SandboxResources {
    /// The limits. They hold for the whole pod; a fraction of them is reserved on its node.
    pub limits: ResourceLimits,
}

/// What is known of the sandbox.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSandboxStatus {
    /// The metadata.generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub observed_generation: Option<i64>,
    /// The class in force: the one that the spec names, or else the default class when the sandbox was first seen, which
    /// it keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub class_name: Option<String>,
    /// What is known, by type: Accepted, CredentialsReady, ProxyReady, NetworkIsolated, RuntimeVerified,
    /// WorkspaceReady (where a source is named), Ready (the summary), Suspended (where lifecycle.state is written), Reconciling and
    /// Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::common::conditions")]
    pub conditions: Vec<Condition>,
    /// What the proxy has denied since it last started; absent until it denied something. The proxy's log has each request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressStatus>,
    /// What the workspace began with; absent until its source was unpacked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<WorkspaceStatus>,
    /// When an agent of the sandbox first started: by its node's clock, but not before its pod was made, and not later than it was seen.
    /// maxLifetime counts from here. Once written it stays as it is.
    #[serde(default, deserialize_with = "legible", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::time")]
    pub started_at: Option<Time>,
    /// How the program ended; absent as long as it has not, and for a program that is started again. Once written it stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<ProgramStatus>,
    /// When something last passed through the proxy, or the agent started if nothing has: told where lifecycle.idleTimeout is written, once
    /// half of that has passed since. Absent while the sandbox is in use.
    #[serde(default, deserialize_with = "legible", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::time")]
    pub last_activity_time: Option<Time>,
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProgramStatus {
    /// Its exit code; absent where it did not end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -2_147_483_648, max = 2_147_483_647))]
    pub exit_code: Option<i32>,
    /// Why it ended: Completed, Error, OOMKilled, StartError, or what else its node says of the container; LifetimeExceeded,
    /// DeadlineExceeded or IdleTimeoutExceeded where it was stopped for maxLifetime, activeDeadline or idleTimeout.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// When it started, by its node's clock.
    #[serde(default, deserialize_with = "legible", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::time")]
    pub started_at: Option<Time>,
    /// When it ended, by its node's clock.
    #[serde(default, deserialize_with = "legible", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::common::time")]
    pub finished_at: Option<Time>,
    /// The end of what it wrote to /dev/termination-log, or of its log where it failed without a word there: what a hostile program
    /// chose to say, without control characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub last_words: Option<String>,
}

/// A time, or none where what is written is no time: the rest of a status counts all the same.
fn legible<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Time>, D::Error> {
    let written = Option::<serde_json::Value>::deserialize(from)?;
    Ok(written.and_then(|time| serde_json::from_value(time).ok()))
}

/// Requests that were denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressStatus {
    /// How many.
    #[schemars(range(min = 0))]
    pub denied: i64,
    /// The latest kinds of them, the last one first. Written also when empty: a merge patch leaves what it does not name.
    #[serde(default)]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub latest: Vec<DeniedRequests>,
}

/// Denied requests that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeniedRequests {
    /// The host that was asked for; absent where the request could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub host: Option<String>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 65535))]
    pub port: Option<i32>,
    /// Why they were denied, as in the answer to the agent and in the audit log.
    #[schemars(length(max = 64))]
    pub reason: String,
    /// How many.
    #[schemars(range(min = 0))]
    pub count: i64,
}

//! Names that people and programs find our objects by: one constant for each label, annotation, port and suffix.
//!
//! Derived names are short enough by construction: a sandbox's name has at most [`SANDBOX_NAME_BYTES_MAX`] bytes, and
//! the longest suffix is proven below, at compile time, to keep a child within a DNS label.

/// API group of every kind.
pub const GROUP: &str = "agentsandbox.dev";
/// Field manager of every server-side apply.
pub const FIELD_MANAGER: &str = "agentsandbox-operator";
/// Finalizer that holds an AgentSandbox until its teardown is done in order.
pub const FINALIZER: &str = "agentsandbox.dev/teardown";
/// Finalizer that keeps a wall standing, whoever deletes it, until no pod is left behind it.
pub const WALL_FINALIZER: &str = "agentsandbox.dev/wall";
/// Finalizer that keeps the agent's pod of a Task, whoever deletes it, until what came of its program is told, or nothing did.
pub const PROGRAM_FINALIZER: &str = "agentsandbox.dev/program";

/// Label with the managing program, on every child.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`LABEL_MANAGED_BY`].
pub const MANAGED_BY: &str = "agentsandbox";
/// Label with the sandbox's name, for people.
pub const LABEL_SANDBOX: &str = "agentsandbox.dev/sandbox";
/// Label with the sandbox's UID, which selectors use: a name can be taken again, a UID cannot.
pub const LABEL_SANDBOX_UID: &str = "agentsandbox.dev/sandbox-uid";
/// Label with the part a child plays: [`COMPONENT_AGENT`] or [`COMPONENT_PROXY`].
pub const LABEL_COMPONENT: &str = "agentsandbox.dev/component";
/// Component of everything that belongs to the agent.
pub const COMPONENT_AGENT: &str = "agent";
/// Component of the claim with a persistent workspace, which no pod has.
pub const COMPONENT_WORKSPACE: &str = "workspace";
/// Component of everything that belongs to the proxy.
pub const COMPONENT_PROXY: &str = "proxy";
/// Container of the agent's pod that tells what the agent made of its workspace, where the original stays.
pub const CONTAINER_REVIEW: &str = "review";
/// The program by which an agent starts in a process sandbox, with execution withheld or without a network.
pub const AGENT_PROGRAM: &str = "/etc/agentsandbox/program/agentsandbox-init";
/// Its command for that: the first argument of an agent that starts by it.
pub const AGENT_PROGRAM_RUN: &str = "run";
/// Its command for whoever comes into the agent's container later.
pub const AGENT_PROGRAM_ENTER: &str = "enter";
/// The fence's argument before the folder where it puts that program.
pub const FENCE_PROGRAM_DIR: &str = "--program-dir";
/// How an argument of the fence begins that tells whoever enters by which argument the agent starts.
pub const FENCE_PROGRAM_RUN: &str = "--program-run=";
/// Annotation with the hash of a pod's desired spec; pods are immutable, so another hash means another pod.
pub const ANNOTATION_SPEC_HASH: &str = "agentsandbox.dev/spec-hash";
/// Annotation with the hash of the policy document, on the proxy's pod: a pod that changes makes its kubelet bring mounted
/// ConfigMaps up to date at once instead of within a minute.
pub const ANNOTATION_POLICY_HASH: &str = "agentsandbox.dev/policy-hash";
/// Annotation with the RuntimeClass that a pod was given, empty for none: admission compares it with the pod, so that nothing
/// between the operator and the API server takes it away.
pub const ANNOTATION_RUNTIME_CLASS: &str = "agentsandbox.dev/runtime-class";
/// Annotation that marks the class of sandboxes which name none.
pub const ANNOTATION_DEFAULT_CLASS: &str = "agentsandbox.dev/is-default-class";

/// HTTP proxy entrance: absolute-form requests and CONNECT.
pub const PORT_HTTP_PROXY: u16 = 3128;
/// Enrolment of the agent's address by its fence.
pub const PORT_ENROLMENT: u16 = 3129;
/// SOCKS5 entrance.
pub const PORT_SOCKS: u16 = 1080;
/// Base-URL entrance.
pub const PORT_BASE_URL: u16 = 8080;
/// Transparent TLS entrance.
pub const PORT_TLS: u16 = 443;
/// Transparent HTTP entrance.
pub const PORT_HTTP: u16 = 80;
/// Policy DNS, over TCP and UDP.
pub const PORT_DNS: u16 = 53;
/// The proxy's admin port: in no Service and in no policy of the agent.
pub const PORT_ADMIN: u16 = 9090;

/// Variables of the agent that name a bundle of all roots, for the programs that read them.
pub const BUNDLE_VARIABLES: [&str; 12] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "NPM_CONFIG_CAFILE",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CODEX_CA_CERTIFICATE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
];

/// Longest name of an AgentSandbox, in bytes; a CEL rule on the kind enforces it.
pub const SANDBOX_NAME_BYTES_MAX: usize = 40;
/// Suffix of the agent's children.
pub const SUFFIX_AGENT: &str = "-agent";
/// Suffix of the proxy's children.
pub const SUFFIX_PROXY: &str = "-proxy";
/// Suffix of the claim with a persistent workspace.
pub const SUFFIX_WORKSPACE: &str = "-workspace";
/// Suffix of the policy ConfigMap.
pub const SUFFIX_POLICY: &str = "-policy";
/// Key of the policy document in that ConfigMap.
pub const KEY_POLICY: &str = "policy.yaml";
/// What follows the name of a wall in that of the policy that stands in for it while it is put up anew.
pub const SUFFIX_STAND_IN: &str = "-next";
/// Infix of the Secret with the sandbox's own keys; [`KEYS_HASH_HEX`] digits follow.
pub const SUFFIX_KEYS: &str = "-keys-";
/// Hexadecimal digits of the UID's hash in the name of the Secret.
pub const KEYS_HASH_HEX: usize = 10;

const DNS_LABEL_BYTES_MAX: usize = 63;
const _: () = assert!(SANDBOX_NAME_BYTES_MAX + SUFFIX_AGENT.len() <= DNS_LABEL_BYTES_MAX);
const _: () = assert!(SANDBOX_NAME_BYTES_MAX + SUFFIX_PROXY.len() <= DNS_LABEL_BYTES_MAX);
const _: () =
    assert!(SANDBOX_NAME_BYTES_MAX + SUFFIX_AGENT.len() + SUFFIX_STAND_IN.len() <= DNS_LABEL_BYTES_MAX);
const _: () =
    assert!(SANDBOX_NAME_BYTES_MAX + SUFFIX_PROXY.len() + SUFFIX_STAND_IN.len() <= DNS_LABEL_BYTES_MAX);
const _: () = assert!(SANDBOX_NAME_BYTES_MAX + SUFFIX_WORKSPACE.len() <= DNS_LABEL_BYTES_MAX);
const _: () = assert!(SANDBOX_NAME_BYTES_MAX + SUFFIX_POLICY.len() <= DNS_LABEL_BYTES_MAX);
const _: () = assert!(SANDBOX_NAME_BYTES_MAX + SUFFIX_KEYS.len() + KEYS_HASH_HEX <= DNS_LABEL_BYTES_MAX);

//! From a sandbox and what it refers to, to [`Accepted`], or to every [`Rejection`] at once.
//!
//! The only pure step that can fail, and failing is the user's fault, not an error of reconcile: the object waits for a
//! change, it is never retried. `Accepted` is a promise: nothing built from it should be refused by the API server or by
//! the proxy. It can only be made here.

use std::collections::BTreeMap;

use agentsandbox_crds::class::{AgentSandboxClass, ClassTracing, Isolation, Scheduling};
use agentsandbox_crds::credential::SecretKeyRef;
use agentsandbox_crds::names::{GROUP, SANDBOX_NAME_BYTES_MAX};
use agentsandbox_crds::sandbox::{Agent, AgentSandbox, Mode};
use agentsandbox_crds::scratch::Medium;
use agentsandbox_merge::Merged;
use agentsandbox_policy::document::{
    ClientCertificateDocument, CredentialDocument, RuleDocument, UpstreamProxyDocument,
};
use ipnet::Ipv4Net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use self::credential::Variable;
use super::desired::{Child, ChildKind, claim, policy_document};
use super::life;
use super::observe::{Observed, References};
use crate::platform::Platform;

mod certificate;
mod class;
mod confinement;
mod credential;
mod drain;
mod egress;
mod lifecycle;
mod limits;
mod policy;
mod scratch;
mod tracing;
mod upload;
mod workspace;

pub use agentsandbox_merge::hosts;
pub use class::class_to_keep;
pub use confinement::{Confinement, Means};
pub use egress::credential_file;
pub use limits::Limits;
pub use scratch::Folder;
pub use workspace::{Origin, Persistent, Source};

/// Variables that the operator sets itself: what a user writes could not shadow them, so it is refused.
pub const RESERVED_ENV: [&str; 35] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "NODE_USE_ENV_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "UV_NATIVE_TLS",
    "UV_SYSTEM_CERTS",
    "NPM_CONFIG_CAFILE",
    "npm_config_cafile",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "DENO_CERT",
    "JAVA_TOOL_OPTIONS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "CODEX_CA_CERTIFICATE",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
    "HOME",
    "NODE_IP",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
    "KUBECONFIG",
    "FTP_PROXY",
    "ftp_proxy",
    "HOSTNAME",
];

/// A sandbox that may be built, complete: nothing has to be looked up any more.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// Whose it is.
    pub identity: Identity,
    /// The class in force.
    pub class: ClassInForce,
    /// The program to run.
    pub agent: Agent,
    /// What becomes of it when it ends.
    pub mode: Mode,
    /// What it gives up before it starts; none where nobody asks.
    pub confinement: Option<Confinement>,
    /// Its limits.
    pub limits: Limits,
    /// What it may write beside its workspace.
    pub scratch: Vec<Folder>,
    /// What its workspace is made of, where that lasts as long as its pod.
    pub workspace_medium: Medium,
    /// What its workspace begins with; none where it begins empty and is as short-lived as its pod.
    pub source: Option<Source>,
    /// The claim that its workspace is in; none where it lasts as long as its pod.
    pub persistent: Option<Persistent>,
    /// What it may reach.
    pub rules: Vec<RuleDocument>,
    /// The credentials that rules name, with where each value is.
    pub credentials: Vec<(CredentialDocument, SecretKeyRef)>,
    /// The client certificates that rules name, each with the Secret that holds it.
    pub certificates: Vec<(ClientCertificateDocument, String)>,
    /// The login at the class's upstream proxy, which is one of them.
    pub login: Option<UpstreamLogin>,
    /// Variables with placeholders, by name.
    pub placeholders: BTreeMap<String, String>,
    _judged: Judged,
}

/// Only this module can make it, so only [`accept`] makes an [`Accepted`].
#[derive(Clone, Debug)]
struct Judged;

/// Which AgentSandbox it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Namespace.
    pub namespace: String,
    /// Name, at most 40 characters.
    pub name: String,
    /// UID.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The reference that every child carries.
    pub owner: OwnerReference,
}

/// What of a class describes children.
#[derive(Clone, Debug)]
pub struct ClassInForce {
    /// Name of the class.
    pub name: String,
    /// The kernel that the fence must find.
    pub isolation: Isolation,
    /// RuntimeClass of the agent's pod.
    pub runtime_class: Option<String>,
    /// Nodes of the agent's pod.
    pub scheduling: Scheduling,
    /// Host patterns that rules stay within; none if any host will do.
    pub allowed_hosts: Option<Vec<String>>,
    /// Private ranges that the proxy may dial.
    pub private_ranges: Vec<Ipv4Net>,
    /// Private CAs that the proxy trusts.
    pub additional_roots: Option<String>,
    /// The organisation's own proxy, through which the sandbox's proxy reaches everything.
    pub upstream_proxy: Option<UpstreamProxyDocument>,
    /// Where the proxy sends traces.
    pub tracing: Option<ClassTracing>,
    /// How long bodies may take to their end whose rule goes; none ends them at once.
    pub drain_seconds: Option<u16>,
}

/// What a class lets each proxy reach that has a rule or a collector, whatever the rules are.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Private ranges.
    pub private_ranges: Vec<Ipv4Net>,
    /// The collector of traces.
    pub tracing: Option<ClassTracing>,
}

/// What the class of a sandbox lets its proxy reach; nothing where it has none. What is wrong in the class counts for nothing.
#[must_use]
pub fn reach(sandbox: &AgentSandbox, references: &References) -> Reach {
    let Some(class) = class::class(sandbox, references, &mut Vec::new()) else { return Reach::default() };
    let mut faults = Vec::new();
    let tracing = tracing::tracing(class, true, &mut faults).filter(|_| faults.is_empty());
    Reach { private_ranges: class::in_force(class, references, &mut faults).private_ranges, tracing }
}

/// The Secret of a credential, in the sandbox's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretPlace {
    /// Its name.
    pub secret: String,
    /// The key of the value; none where it is a client certificate, which has the two of a TLS pair.
    pub key: Option<String>,
}

/// The login at the upstream proxy of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamLogin {
    /// What the proxy calls it.
    pub credential: String,
    /// The class.
    pub class: String,
    /// The password, in the sandbox's namespace.
    pub secret: SecretKeyRef,
}

/// One reason why a sandbox is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Rejection {
    /// For programs.
    pub reason: RejectionReason,
    /// The field at fault.
    pub field: String,
    /// For people: what is wrong and what to write.
    pub message: String,
}

/// Reasons of rejections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RejectionReason {
    /// The class does not exist, or there is not exactly one default.
    ClassNotFound,
    /// The class itself cannot be served.
    ClassUnsupported,
    /// The class's RuntimeClass does not exist.
    RuntimeUnavailable,
    /// A credential does not exist.
    CredentialNotFound,
    /// A rule asks for more than its credential allows.
    OutsideCredential,
    /// The sandbox asks for more than its class allows.
    OutsideClass,
    /// The template does not exist.
    TemplateNotFound,
    /// The sandbox asks for more than its template allows.
    OutsideTemplate,
    /// A field is wrong by itself.
    InvalidField,
}

impl Accepted {
    /// The Secrets of everything that is mounted for the proxy, by the credential's name.
    #[must_use]
    pub fn secrets(&self) -> BTreeMap<String, SecretPlace> {
        let values = self.credentials.iter().map(|(document, SecretKeyRef { name, key })| {
            let place = SecretPlace { secret: name.clone(), key: Some(key.clone()) };
            (document.name.clone(), place)
        });
        let pairs = self.certificates.iter().map(|(document, secret)| {
            (document.name.clone(), SecretPlace { secret: secret.clone(), key: None })
        });
        values.chain(pairs).collect()
    }
}

impl Identity {
    /// The identity of an object that came from the API server; none if it lacks what the server always sets.
    #[must_use]
    pub fn of(sandbox: &AgentSandbox) -> Option<Self> {
        Some(Self {
            namespace: sandbox.namespace()?,
            name: sandbox.name_any(),
            uid: sandbox.uid()?,
            generation: sandbox.metadata.generation.unwrap_or_default(),
            owner: OwnerReference { block_owner_deletion: Some(true), ..sandbox.controller_owner_ref(&())? },
        })
    }
}

/// Judges a sandbox, with what its template adds.
///
/// # Errors
/// Everything that speaks against it, in the order of the fields.
pub fn accept(
    identity: &Identity,
    merged: &Merged,
    references: &References,
    platform: &Platform,
) -> Result<Accepted, Vec<Rejection>> {
    let (sandbox, mut faults) = (&**merged.sandbox(), Vec::new());
    own_metadata(sandbox, &mut faults);
    let Some(class) = class::class(sandbox, references, &mut faults) else { return Err(faults) };
    let mut in_force = class::in_force(class, references, &mut faults);
    image("spec.agent.image", &sandbox.spec.agent.image, class, &mut faults);
    lifecycle::lifecycle(sandbox, platform, &mut faults);
    let limits = limits::limits(sandbox, class, &mut faults);
    let scratch = scratch::scratch(sandbox, limits.as_ref(), &mut faults);
    let confinement = confinement::confinement(sandbox, class, &scratch, &mut faults);
    let mut egress = egress::egress(identity, sandbox, class, references, &mut faults);
    in_force.drain_seconds = drain::seconds(sandbox, class);
    in_force.tracing = tracing::tracing(class, !egress.rules.is_empty(), &mut faults);
    let login = class::login(class);
    egress.credentials.extend(login.clone());
    let placeholders = placeholders(&egress.variables, &mut faults);
    environment(sandbox, &placeholders, &mut faults);
    let policy = policy_document::document(
        identity,
        &in_force,
        &egress.rules,
        &egress.credentials,
        &egress.certificates,
        platform,
    );
    let policy = policy::judge(sandbox, &in_force.name, policy, &mut faults);
    let source = workspace::source(sandbox, class, policy.as_ref(), &mut faults);
    let persistent = workspace::persistent(sandbox, class, &mut faults);
    match limits {
        Some(limits) if faults.is_empty() => Ok(Accepted {
            identity: identity.clone(),
            class: in_force,
            agent: sandbox.spec.agent.clone(),
            mode: life::mode(sandbox),
            confinement,
            limits,
            scratch,
            workspace_medium: workspace::medium(sandbox),
            source,
            persistent,
            rules: egress.rules,
            credentials: egress.credentials,
            certificates: egress.certificates,
            login: login.map(|(document, secret)| UpstreamLogin {
                credential: document.name,
                class: class.name_any(),
                secret,
            }),
            placeholders,
            _judged: Judged,
        }),
        _ => Err(faults),
    }
}

/// The same sandbox beside the claim that it has already. One under its name that is another's is the plan's to find.
///
/// # Errors
/// What speaks against that claim.
pub fn beside(accepted: Accepted, observed: &Observed) -> Result<Accepted, Vec<Rejection>> {
    let mut faults = Vec::new();
    let live = observed.child(ChildKind::PersistentVolumeClaim, &claim::name(&accepted.identity));
    if let (Some(persistent), Some(Child::PersistentVolumeClaim(live))) = (&accepted.persistent, live)
        && claim::is_of(&live.metadata, &accepted.identity)
    {
        workspace::standing(persistent, &accepted.class.name, live, &mut faults);
    }
    if faults.is_empty() { Ok(accepted) } else { Err(faults) }
}

fn reject(
    faults: &mut Vec<Rejection>,
    reason: RejectionReason,
    field: impl Into<String>,
    message: impl Into<String>,
) {
    faults.push(Rejection { reason, field: field.into(), message: message.into() });
}

/// The schema refuses these too; an object that was stored under an older schema is judged here.
fn own_metadata(sandbox: &AgentSandbox, faults: &mut Vec<Rejection>) {
    let name = sandbox.name_any();
    let begins_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    if name.len() > SANDBOX_NAME_BYTES_MAX || name.contains('.') || !begins_well {
        reject(
            faults,
            RejectionReason::InvalidField,
            "metadata.name",
            "the name must begin with a letter and have at most 40 characters, lower-case letters, digits and -; create the sandbox under another name",
        );
    }
    let prefix = format!("{GROUP}/");
    for (field, keys) in
        [("metadata.labels", sandbox.labels().keys()), ("metadata.annotations", sandbox.annotations().keys())]
    {
        for key in keys.filter(|key| key.starts_with(&prefix)) {
            reject(
                faults,
                RejectionReason::InvalidField,
                format!("{field}[{key}]"),
                format!("keys that begin with {prefix} are the operator's own; remove {key}"),
            );
        }
    }
}

fn image(field: &str, image: &str, class: &AgentSandboxClass, faults: &mut Vec<Rejection>) {
    let last = image.rsplit('/').next().unwrap_or(image);
    if !image.contains("@sha256:") && (!last.contains(':') || last.ends_with(":latest")) {
        reject(
            faults,
            RejectionReason::InvalidField,
            field,
            "the image must carry a tag other than latest, or a digest; write ghcr.io/acme/agent:1.2.3",
        );
    }
    let Some(images) = &class.spec.images else { return };
    if !images.allowed_registries.iter().any(|registry| is_within(image, registry)) {
        reject(
            faults,
            RejectionReason::OutsideClass,
            field,
            format!(
                "class {} allows images of {} only; push the image there, or use another class",
                class.name_any(),
                images.allowed_registries.join(", ")
            ),
        );
    }
}

/// Whether an image is of this registry, a host with an optional port and path: the host and its port are as written, and a
/// path ends at a `/`, or where the image's tag or digest begins. Behind a host alone `:` begins a port, so another registry.
fn is_within(image: &str, registry: &str) -> bool {
    let Some(rest) = image.strip_prefix(registry) else { return false };
    let ends_the_path = registry.contains('/') && rest.starts_with([':', '@']) && !rest.contains('/');
    rest.starts_with('/') || ends_the_path
}

fn placeholders(variables: &[Variable], faults: &mut Vec<Rejection>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::<String, String>::new();
    for Variable { credential, name, value } in variables {
        if RESERVED_ENV.contains(&name.as_str()) {
            reject(
                faults,
                RejectionReason::InvalidField,
                "spec.egress.allow",
                format!(
                    "AgentCredential {credential} sets the variable {name}, which the operator sets itself; remove it from placeholderEnv"
                ),
            );
        }
        if all.insert(name.clone(), value.clone()).is_some_and(|old| old != *value) {
            reject(
                faults,
                RejectionReason::InvalidField,
                "spec.egress.allow",
                format!(
                    "two AgentCredentials set the variable {name} to different values; use only one of them, or leave it out of the placeholderEnv of one"
                ),
            );
        }
    }
    all
}

fn environment(sandbox: &AgentSandbox, placeholders: &BTreeMap<String, String>, faults: &mut Vec<Rejection>) {
    for (index, variable) in sandbox.spec.agent.env.iter().enumerate() {
        let field = format!("spec.agent.env[{index}].name");
        if RESERVED_ENV.contains(&variable.name.as_str()) {
            reject(
                faults,
                RejectionReason::InvalidField,
                field,
                format!(
                    "{} is set by the operator, so that programs find the proxy and trust its certificate; remove it",
                    variable.name
                ),
            );
        } else if placeholders.contains_key(&variable.name) {
            reject(
                faults,
                RejectionReason::InvalidField,
                field,
                format!(
                    "{} is set by an AgentCredential of this sandbox; remove it here, the proxy adds the real value to requests",
                    variable.name
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests;

//! What the invariants need of an object, from the bytes that etcd holds.
//!
//! Kinds of Kubernetes are stored as protobuf behind the four bytes `k8s\0` and an envelope, those of CRDs as JSON. Field
//! numbers: `k8s.io/api/core/v1/generated.proto`, `k8s.io/api/networking/v1/generated.proto`,
//! `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::wire::{Malformed, Message};

/// What stands before an envelope (`k8s.io/apimachinery/pkg/runtime/serializer/protobuf`).
const ENVELOPE: &[u8] = b"k8s\0";
/// What our own kinds are owned by and live under.
const GROUP: &str = "agentsandbox.dev";

/// An object of any kind.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// Its metadata.
    pub meta: Meta,
    /// What is known of its kind.
    pub body: Body,
}

/// Metadata.
#[derive(Clone, Debug, Default)]
pub struct Meta {
    /// Name.
    pub name: String,
    /// Namespace; empty for what has none.
    pub namespace: String,
    /// UID.
    pub uid: String,
    /// Generation: how often its spec was changed.
    pub generation: u64,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// UID of the AgentSandbox that controls it, if one does.
    pub sandbox: Option<String>,
}

/// What is known of a kind.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// A pod.
    Pod(Pod),
    /// A NetworkPolicy.
    Policy(Policy),
    /// A Secret: its values by key.
    Secret(BTreeMap<String, Vec<u8>>),
    /// An AgentSandbox.
    Sandbox(Sandbox),
    /// An AgentSandboxClass: the RuntimeClass that it asks for.
    Class(Option<String>),
    /// An AgentSandboxTemplate: the class that its sandboxes have.
    Template(Option<String>),
    /// An AgentCredential: the Secret, and the key in it.
    Credential(String, String),
    /// Anything else.
    #[default]
    Other,
}

/// A pod.
#[derive(Clone, Debug, Default)]
pub struct Pod {
    /// The part that it plays for its sandbox, by its label.
    pub component: String,
    /// Its RuntimeClass; empty if it has none.
    pub runtime_class: String,
    /// Whether it holds a token of its ServiceAccount, or would be given one.
    pub has_token: bool,
    /// Every Secret that it mounts or reads variables from.
    pub secrets: BTreeSet<String>,
    /// Whether its condition Ready is true.
    pub is_ready: bool,
    /// Whether nothing of it runs any more.
    pub has_ended: bool,
}

/// A NetworkPolicy.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    labels: BTreeMap<String, String>,
    /// A selector with expressions, which none of ours has, selects nothing here.
    has_expressions: bool,
    types: BTreeSet<String>,
}

/// An AgentSandbox.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    /// The class that its own spec names.
    pub class: Option<String>,
    /// The template that it is made from.
    pub template: Option<String>,
    /// The class that the operator says it has.
    pub told_class: Option<String>,
    /// The generation that its condition Ready is about, while that is true of an agent that runs.
    pub ready: Option<u64>,
    /// Whether it is to be suspended, and is said to be so at its generation.
    pub is_off: bool,
}

impl Policy {
    /// Whether a pod with these labels is behind this wall, in both directions.
    #[must_use]
    pub fn walls_in(&self, labels: &BTreeMap<String, String>) -> bool {
        let selects = self.labels.iter().all(|(name, value)| labels.get(name) == Some(value));
        let both = ["Ingress", "Egress"].iter().all(|direction| self.types.contains(*direction));
        selects && both && !self.has_expressions && !self.labels.is_empty()
    }
}

/// Reads an object from its key and value.
///
/// # Errors
/// When the value is neither of the two encodings, or what it says cannot be read.
pub fn read(key: &str, value: &[u8]) -> Result<Object, Malformed> {
    match value.strip_prefix(ENVELOPE) {
        Some(envelope) => {
            let raw = Message::parse(envelope)?.bytes(2).unwrap_or_default();
            native(kind(key), &Message::parse(raw)?)
        }
        None => custom(kind(key), &serde_json::from_slice(value).map_err(|_| Malformed)?),
    }
}

/// `pods` of `/registry/pods/default/x`, and `agentsandboxes` of `/registry/agentsandbox.dev/agentsandboxes/default/x`.
fn kind(key: &str) -> &str {
    let path = key.strip_prefix("/registry/").unwrap_or(key);
    let path = path.strip_prefix(GROUP).and_then(|path| path.strip_prefix('/')).unwrap_or(path);
    path.split('/').next().unwrap_or_default()
}

fn native(kind: &str, object: &Message<'_>) -> Result<Object, Malformed> {
    let meta = native_meta(&object.inner(1)?)?;
    let body = match kind {
        "pods" => Body::Pod(pod(&meta, &object.inner(2)?, &object.inner(3)?)?),
        "networkpolicies" => Body::Policy(policy(&object.inner(2)?)?),
        "secrets" => Body::Secret(object.map(2)?),
        _ => Body::Other,
    };
    Ok(Object { meta, body })
}

fn native_meta(meta: &Message<'_>) -> Result<Meta, Malformed> {
    let owners = meta.all(13)?;
    let controls = |owner: &&Message<'_>| {
        owner.text(1) == "AgentSandbox" && owner.text(5).starts_with(GROUP) && owner.number(6) == Some(1)
    };
    Ok(Meta {
        name: meta.text(1),
        namespace: meta.text(3),
        uid: meta.text(5),
        generation: meta.number(7).unwrap_or_default(),
        labels: meta.text_map(11)?,
        sandbox: owners.iter().find(controls).map(|owner| owner.text(4)),
    })
}

fn pod(meta: &Meta, spec: &Message<'_>, status: &Message<'_>) -> Result<Pod, Malformed> {
    let mut secrets = BTreeSet::new();
    let mut has_token = spec.number(21) != Some(0);
    for volume in spec.all(1)? {
        let source = volume.inner(2)?;
        secrets.extend(source.bytes(6).map(Message::parse).transpose()?.map(|secret| secret.text(1)));
        for projected in source.inner(26)?.all(1)? {
            has_token |= projected.bytes(4).is_some();
            if let Some(secret) = projected.bytes(1) {
                secrets.insert(Message::parse(secret)?.inner(1)?.text(1));
            }
        }
    }
    // Containers, init containers and ephemeral ones; the last embed what the others are.
    let mut containers = [spec.all(2)?, spec.all(20)?].concat();
    for ephemeral in spec.all(34)? {
        containers.push(ephemeral.inner(1)?);
    }
    for container in containers {
        let mounts = container.all(9)?;
        has_token |= mounts.iter().any(|mount| mount.text(3).contains("secrets/kubernetes.io"));
        for variable in container.all(7)? {
            secrets.insert(variable.inner(3)?.inner(4)?.inner(1)?.text(1));
        }
        for from in container.all(19)? {
            secrets.insert(from.inner(3)?.inner(1)?.text(1));
        }
    }
    secrets.remove("");
    let conditions = status.all(2)?;
    Ok(Pod {
        component: meta.labels.get("agentsandbox.dev/component").cloned().unwrap_or_default(),
        runtime_class: spec.text(29),
        has_token,
        secrets,
        is_ready: conditions.iter().any(|one| one.text(1) == "Ready" && one.text(2) == "True"),
        has_ended: matches!(status.text(1).as_str(), "Succeeded" | "Failed"),
    })
}

fn policy(spec: &Message<'_>) -> Result<Policy, Malformed> {
    let selector = spec.inner(1)?;
    Ok(Policy {
        labels: selector.text_map(1)?,
        has_expressions: selector.bytes(2).is_some(),
        types: spec.each(4).map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
    })
}

fn custom(kind: &str, object: &Value) -> Result<Object, Malformed> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = object.get("metadata").ok_or(Malformed)?;
    let labels = metadata["labels"].as_object();
    let meta = Meta {
        name: text(&metadata["name"]),
        namespace: text(&metadata["namespace"]),
        uid: text(&metadata["uid"]),
        generation: metadata["generation"].as_u64().unwrap_or_default(),
        labels: labels.into_iter().flatten().map(|(name, value)| (name.clone(), text(value))).collect(),
        sandbox: None,
    };
    let spec = &object["spec"];
    let body = match kind {
        "agentsandboxes" => Body::Sandbox(sandbox(object)),
        "agentsandboxclasses" => Body::Class(optional(&spec["runtimeClassName"])),
        "agentsandboxtemplates" => Body::Template(optional(&spec["sandbox"]["className"])),
        "agentcredentials" => {
            // A client certificate names no key; what is secret of its pair stands here.
            let key = spec["secretRef"]["key"].as_str().unwrap_or("tls.key");
            Body::Credential(text(&spec["secretRef"]["name"]), key.to_owned())
        }
        _ => Body::Other,
    };
    Ok(Object { meta, body })
}

fn optional(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn sandbox(object: &Value) -> Sandbox {
    // One that is being deleted promises nothing more.
    let conditions = object["status"]["conditions"].as_array();
    let conditions = conditions.filter(|_| object["metadata"]["deletionTimestamp"].is_null());
    // A Task that ended well is Ready for whoever waits for its end.
    let ended_well = object["status"]["program"]["exitCode"] == 0;
    let is_over = |one: &Value| ended_well && one["reason"] == "Succeeded";
    // And one that is suspended, for whoever waits for that; whoever resumes it leaves what was said of the spec before.
    let is_suspended = object["spec"]["lifecycle"]["state"] == "Suspended";
    let is_of_before = |one: &Value| one["observedGeneration"] != object["metadata"]["generation"];
    let is_off = |one: &Value| (is_suspended || is_of_before(one)) && one["reason"] == "Suspended";
    let is_true = |one: &&Value| one["type"] == "Ready" && one["status"] == "True";
    let runs = |one: &&Value| is_true(one) && !is_over(one) && !is_off(one);
    let is_current = |one: &&Value| one["observedGeneration"] == object["metadata"]["generation"];
    let says_so = |one: &Value| one["type"] == "Suspended" && one["status"] == "True";
    let mut told = conditions.into_iter().flatten().filter(is_current);
    let ready = conditions.into_iter().flatten().find(runs);
    Sandbox {
        class: optional(&object["spec"]["className"]),
        template: optional(&object["spec"]["templateRef"]["name"]),
        told_class: optional(&object["status"]["className"]),
        ready: ready.map(|one| one["observedGeneration"].as_u64().unwrap_or_default()),
        is_off: is_suspended && told.any(says_so),
    }
}

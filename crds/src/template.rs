//! `AgentSandboxTemplate`: what sandboxes have in common, and how far each may differ from it. Whoever runs the platform writes it, or a
//! developer for himself.
//!
//! How the two become one spec is for the crate `agentsandbox-merge`, which the operator and the command line share.

use kube::{CustomResource, KubeSchema};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::sandbox::AgentSandboxSpec;

/// What sandboxes that name this template have in common, and how far each may differ.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "agentsandbox.dev",
    version = "v1alpha1",
    kind = "AgentSandboxTemplate",
    namespaced,
    plural = "agentsandboxtemplates",
    category = "agents",
    shortname = "asbxtemplate",
    derive = "PartialEq",
    doc = "An AgentSandboxTemplate is a spec that AgentSandboxes of its namespace refer to by templateRef: it says what they leave out, and bounds what they say. A change of it counts for its sandboxes at once, as a change of their class does.",
    validation = Rule::new("self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("metadata.name must have at most 63 characters, lower-case letters, digits and -: sandboxes refer to it by templateRef.name"),
    printcolumn(name = "CLASS", type_ = "string", json_path = ".spec.sandbox.className", description = "The class of its sandboxes."),
    printcolumn(name = "IMAGE", type_ = "string", json_path = ".spec.sandbox.agent.image", description = "The image of its agents."),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since the object was created.")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentSandboxTemplateSpec {
    /// The spec that its sandboxes begin with: what a sandbox leaves out it has from here.
    #[schemars(schema_with = "sandbox")]
    pub sandbox: AgentSandboxSpec,
    /// Where a sandbox may differ though spec.sandbox says something else; absent means nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bounds: Option<TemplateBounds>,
}

/// Where a sandbox may differ from its template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateBounds {
    /// Images that a sandbox may name in place of the template's: whole references, or such with a `*` at their end, which stands for any
    /// text without `/` and `@`, as in `ghcr.io/acme/agent:2.*`. Absent means the template's own image alone, or any where it has none.
    #[x_kube(validation = Rule::new("self.all(i, i.matches('^[a-z0-9][a-zA-Z0-9._/:@-]*$') || i.matches('^[a-z0-9][a-zA-Z0-9._:-]*/[a-zA-Z0-9._/:@-]*[*]$'))").message("each of images must be an image reference, or the beginning of one behind its registry with a * at its end: write ghcr.io/acme/agent:2.1, ghcr.io/acme/agent:2.* or ghcr.io/acme/*"))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 512)), extend("x-kubernetes-list-type" = "set"))]
    pub images: Vec<String>,
    /// AgentSandboxClasses that a sandbox may name in place of the template's. Absent means the template's own class alone, or any where
    /// it names none.
    #[x_kube(validation = Rule::new("self.all(n, n.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$'))").message("classNames holds names of AgentSandboxClasses, such as gvisor: lower-case letters, digits, - and ."))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)), extend("x-kubernetes-list-type" = "set"))]
    pub class_names: Vec<String>,
}

/// A template, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateRef {
    /// Name of the AgentSandboxTemplate, in the sandbox's own namespace.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')").message("templateRef.name must be the name of an AgentSandboxTemplate in this namespace: lower-case letters, digits and -, without a namespace or a slash"))]
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// The schema of a sandbox's spec, but for the reference to a template, since there is no template of a template, and for
/// lifecycle.state: whether a sandbox runs for now is its own to say.
fn sandbox(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = AgentSandboxSpec::json_schema(generator);
    for (at, name) in [("", "templateRef"), ("/properties/lifecycle", "state")] {
        let properties = schema.pointer_mut(&format!("{at}/properties"));
        if let Some(properties) = properties.and_then(Value::as_object_mut) {
            properties.remove(name);
        }
    }
    schema.as_object_mut().into_iter().flat_map(|all| all.values_mut()).for_each(without_changes);
    schema
}

/// Takes out the rules about changes: what stands behind a sandbox that may not change, as a volume, does not stand behind a template.
fn without_changes(schema: &mut Value) {
    if let Some(rules) = schema.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut) {
        rules.retain(|rule| !rule["rule"].as_str().is_some_and(|rule| rule.contains("oldSelf")));
        if rules.is_empty() {
            schema.as_object_mut().map(|fields| fields.remove("x-kubernetes-validations"));
        }
    }
    match schema {
        Value::Object(fields) => fields.values_mut().for_each(without_changes),
        Value::Array(entries) => entries.iter_mut().for_each(without_changes),
        _ => {}
    }
}

//! The CRDs, rendered from the types.
//!
//! kube-derive writes what Kubernetes accepts; this room makes of it what we promise: no `nullable`, no titles, no
//! unsigned formats. An absent field is absent; `null` is not a third state.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::{AgentCredential, AgentSandbox, AgentSandboxClass, AgentSandboxTemplate};

/// One rendered CRD.
#[derive(Clone, Debug)]
pub struct Rendered {
    /// `agentsandboxes.agentsandbox.dev` and its like; with `.yaml` the name of its file in the chart.
    pub name: String,
    /// The manifest.
    pub manifest: Value,
}

/// Why a CRD could not be rendered; it can only happen when the types themselves are wrong.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The definition is not representable as JSON.
    #[error("the CRD cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    /// The definition is not representable as YAML.
    #[error("the CRD cannot be written as YAML")]
    Yaml(#[from] serde_yaml::ser_error::Error),
}

/// All CRDs of the group, in a fixed order.
///
/// # Errors
/// Only when the types themselves cannot be represented, which a test rules out.
pub fn all() -> Result<Vec<Rendered>, RenderError> {
    let all =
        [AgentCredential::crd(), AgentSandbox::crd(), AgentSandboxClass::crd(), AgentSandboxTemplate::crd()];
    all.into_iter().map(render).collect()
}

impl Rendered {
    /// The manifest as YAML, under a line that says where it comes from.
    ///
    /// # Errors
    /// Only when the types themselves cannot be represented, which a test rules out.
    pub fn yaml(&self) -> Result<String, RenderError> {
        let body = serde_yaml::to_string(&self.manifest)?;
        Ok(format!("# Generated from crds/src by `agentsandbox-operator crds`. Do not edit.\n{body}"))
    }
}

fn render(definition: CustomResourceDefinition) -> Result<Rendered, RenderError> {
    let name = definition.metadata.name.clone().unwrap_or_default();
    let mut manifest = serde_json::to_value(definition)?;
    tidy(&mut manifest);
    unseen(&mut manifest);
    Ok(Rendered { name, manifest })
}

/// The reason of the condition that an object has before the operator has seen it.
pub const PENDING: &str = "Pending";

/// Gives each kind that has conditions one before the operator has seen it, as Gateway API's kinds have: kstatus takes an object
/// without conditions for one that is as wanted.
fn unseen(manifest: &mut Value) {
    for version in manifest["spec"]["versions"].as_array_mut().into_iter().flatten() {
        let status = version.pointer_mut("/schema/openAPIV3Schema/properties/status");
        let Some(status) = status.filter(|status| status["properties"]["conditions"].is_object()) else {
            continue;
        };
        status["default"] = json!({"conditions": [{
            "type": "Ready",
            "status": "Unknown",
            "reason": PENDING,
            "message": "Waiting for the operator. If it stays like this, see whether the operator runs.",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }]});
    }
}

/// Removes `nullable`, titles and unsigned formats, and `default: null`, everywhere.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.contains_key("type") || map.contains_key("properties") {
                map.remove("nullable");
                map.retain(|key, inner| !(key == "title" && inner.is_string()));
                if map.get("default").is_some_and(Value::is_null) {
                    map.remove("default");
                }
            }
            for inner in map.values_mut() {
                tidy(inner);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

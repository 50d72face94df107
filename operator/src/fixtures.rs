//! Objects for tests, as chained verbs: what a test does not say is ordinary and valid.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use agentsandbox_crds::class::{AgentSandboxClass, AgentSandboxClassSpec};
use agentsandbox_crds::credential::{AgentCredential, AgentCredentialSpec};
use agentsandbox_crds::names::ANNOTATION_DEFAULT_CLASS;
use agentsandbox_crds::sandbox::{AgentSandbox, AgentSandboxSpec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::controller::accept::{Accepted, Identity, accept};
use crate::controller::observe::References;
use crate::platform::Platform;

/// UID of the sandbox of every test.
pub const UID: &str = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff";

/// Anything, from JSON.
pub fn from<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// The sandbox `team/fix-login`, changed by `change`.
pub fn sandbox(change: impl FnOnce(&mut AgentSandbox)) -> AgentSandbox {
    let spec: AgentSandboxSpec = from(json!({
        "className": "gvisor",
        "agent": {"image": "ghcr.io/acme/agent:2.1", "args": ["-p", "fix the $HOME test"], "env": [{"name": "MODE", "value": "fast"}]},
        "workspace": {"sizeLimit": "2Gi"},
        "egress": {"allow": [
            {"host": "api.anthropic.com", "credential": "anthropic"},
            {"host": "pypi.org", "methods": ["GET", "HEAD"]},
        ]},
    }));
    let mut sandbox = AgentSandbox::new("fix-login", spec);
    sandbox.metadata.namespace = Some("team".to_owned());
    sandbox.metadata.uid = Some(UID.to_owned());
    sandbox.metadata.generation = Some(3);
    sandbox.metadata.resource_version = Some("100".to_owned());
    change(&mut sandbox);
    sandbox
}

/// The class `gvisor`, the default, changed by `change`.
pub fn class(change: impl FnOnce(&mut AgentSandboxClass)) -> AgentSandboxClass {
    let spec: AgentSandboxClassSpec = from(json!({"isolation": "GVisor", "runtimeClassName": "gvisor"}));
    let mut class = AgentSandboxClass::new("gvisor", spec);
    class.metadata.annotations = Some([(ANNOTATION_DEFAULT_CLASS.to_owned(), "true".to_owned())].into());
    change(&mut class);
    class
}

/// The credential `anthropic`, changed by `change`.
pub fn credential(change: impl FnOnce(&mut AgentCredential)) -> AgentCredential {
    let spec: AgentCredentialSpec = from(json!({
        "secretRef": {"name": "anthropic-key", "key": "api-key"},
        "inject": {"type": "Header", "header": {"name": "x-api-key"}},
        "hosts": [{"host": "api.anthropic.com", "paths": ["/v1/**"]}],
        "placeholderEnv": [{"name": "ANTHROPIC_API_KEY", "value": "placeholder"}],
    }));
    let mut credential = AgentCredential::new("anthropic", spec);
    credential.metadata.namespace = Some("team".to_owned());
    change(&mut credential);
    credential
}

/// References that hold these.
pub fn references(classes: Vec<AgentSandboxClass>, credentials: Vec<AgentCredential>) -> References {
    let named = credentials.into_iter().map(|c| (c.metadata.name.clone().unwrap(), Arc::new(c)));
    References {
        classes: classes.into_iter().map(Arc::new).collect(),
        credentials: BTreeMap::from_iter(named),
        runtime_classes: BTreeSet::from(["gvisor".to_owned()]),
    }
}

/// The ordinary references.
pub fn ordinary() -> References {
    references(vec![class(|_| ())], vec![credential(|_| ())])
}

/// The identity of the sandbox of every test.
pub fn identity() -> Identity {
    Identity::of(&sandbox(|_| ())).unwrap()
}

/// The sandbox of every test, changed by `change`, accepted.
pub fn accepted(change: impl FnOnce(&mut AgentSandbox)) -> Accepted {
    accept(&identity(), &sandbox(change), &ordinary(), &platform()).unwrap()
}

/// The cluster of every test.
pub fn platform() -> Platform {
    Platform {
        proxy_image: "ghcr.io/agentsandbox/proxy:test".to_owned(),
        init_image: "ghcr.io/agentsandbox/init:test".to_owned(),
        cluster_ranges: ["10.0.0.0/24", "10.96.0.0/16", "10.244.0.0/16"]
            .map(|range| range.parse().unwrap())
            .into(),
        cluster_dns: "10.96.0.10".parse().unwrap(),
        api_service: "10.96.0.1:443".parse().unwrap(),
        api_endpoints: vec!["10.0.0.1:6443".parse().unwrap()],
    }
}

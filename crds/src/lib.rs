//! The resource types of the group `agentsandbox.dev`, and the names everything else is found by.
//!
//! This room owns what users type. The types are the only source of the CRDs: [`schema`] renders them, and a test
//! proves the chart's copies current. Nothing here talks to a cluster, and nothing here decides whether a sandbox may
//! run: schema and CEL rules refuse what is wrong by itself, the operator refuses what is wrong in its context.
//!
//! Deliberately absent: an embedded PodSpec, and every field with which a tenant could loosen the fence (hostPath,
//! privileged, runtimeClassName, serviceAccountName, nodeName, annotations, sysctls, capabilities, valueFrom).

pub mod class;
pub mod common;
pub mod credential;
pub mod names;
pub mod preset;
pub mod quantity;
pub mod sandbox;
pub mod schema;
pub mod scratch;
pub mod template;
pub mod workspace;

pub use class::{AgentSandboxClass, AgentSandboxClassSpec};
pub use credential::{AgentCredential, AgentCredentialSpec};
pub use sandbox::{AgentSandbox, AgentSandboxSpec, AgentSandboxStatus};
pub use template::{AgentSandboxTemplate, AgentSandboxTemplateSpec};

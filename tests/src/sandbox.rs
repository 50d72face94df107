//! One AgentSandbox under test, seen as its user sees it: through its status, its pods' logs and its agent's shell.

use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{DeleteParams, LogParams};
use kube::{Api, Client};

use crate::exec::{Output, attempt, exec};
use crate::wait::eventually;

/// How long a sandbox may take to be ready on a busy machine with two cores. It bounds a hang; it is no promise.
pub const READY_WITHIN: Duration = Duration::from_secs(120);

/// A sandbox that was applied in a test's namespace.
#[derive(Clone)]
pub struct Sandbox {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    client: Client,
}

impl Sandbox {
    pub(crate) fn new(client: Client, namespace: &str, name: &str) -> Self {
        Self { name: name.to_owned(), namespace: namespace.to_owned(), client }
    }

    /// Access to sandboxes of the namespace.
    pub fn api(&self) -> Api<AgentSandbox> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Access to pods of the namespace.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Name of the agent's pod.
    pub fn agent_pod(&self) -> String {
        format!("{}-agent", self.name)
    }

    /// Name of the proxy's pod.
    pub fn proxy_pod(&self) -> String {
        format!("{}-proxy", self.name)
    }

    /// The object as it is now.
    ///
    /// # Panics
    /// When it cannot be read.
    pub async fn get(&self) -> AgentSandbox {
        self.api().get(&self.name).await.expect("the sandbox is readable")
    }

    /// The condition of this type, if the status has it.
    ///
    /// # Errors
    /// When the sandbox cannot be read; who waits asks again.
    pub async fn condition(&self, kind: &str) -> Result<Option<Condition>, String> {
        let sandbox = self.api().get(&self.name).await.map_err(|error| error.to_string())?;
        Ok(sandbox.status.and_then(|status| status.conditions.into_iter().find(|c| c.type_ == kind)))
    }

    /// Waits until the condition of this type has this status, and returns it.
    pub async fn await_condition(&self, kind: &str, status: &str, within: Duration) -> Condition {
        eventually(&format!("{} {kind}={status}", self.name), within, || async {
            match self.condition(kind).await? {
                Some(c) if c.status == status => Ok(c),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Waits until the condition of this type is false for this reason, and returns it.
    pub async fn await_reason(&self, kind: &str, reason: &str, within: Duration) -> Condition {
        eventually(&format!("{} {kind} reason {reason}", self.name), within, || async {
            match self.condition(kind).await? {
                Some(c) if c.reason == reason => Ok(c),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Waits until the sandbox is ready.
    pub async fn ready(&self) -> &Self {
        self.await_condition("Ready", "True", READY_WITHIN).await;
        self
    }

    /// Runs a command in the agent's container.
    pub async fn exec(&self, command: &[&str]) -> Output {
        exec(&self.pods(), &self.agent_pod(), "agent", command).await
    }

    /// Runs a line of shell in the agent's container.
    pub async fn sh(&self, line: &str) -> Output {
        self.exec(&["/bin/sh", "-c", line]).await
    }

    /// As [`Self::sh`], where the container may just be ending or starting.
    ///
    /// # Errors
    /// When nothing can be run there now.
    pub async fn try_sh(&self, line: &str) -> Result<Output, String> {
        attempt(&self.pods(), &self.agent_pod(), "agent", &["/bin/sh", "-c", line]).await
    }

    /// Everything the agent's container has printed.
    pub async fn agent_log(&self) -> String {
        self.log(&self.agent_pod(), "agent").await
    }

    /// The proxy's audit lines.
    pub async fn audit(&self) -> Vec<serde_json::Value> {
        let log = self.log(&self.proxy_pod(), "proxy").await;
        log.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// Everything a container has printed.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub async fn log(&self, pod: &str, container: &str) -> String {
        let params = LogParams { container: Some(container.to_owned()), ..LogParams::default() };
        self.pods().logs(pod, &params).await.expect("the log is readable")
    }

    /// Asks for the sandbox's deletion.
    ///
    /// # Panics
    /// When the API server refuses.
    pub async fn delete(&self) {
        self.api().delete(&self.name, &DeleteParams::default()).await.expect("the sandbox can be deleted");
    }

    /// Waits until the sandbox is gone.
    pub async fn gone(&self, within: Duration) {
        eventually(&format!("{} gone", self.name), within, || async {
            match self.api().get_opt(&self.name).await {
                Ok(None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

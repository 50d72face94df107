//! The two operators: how each is started, what it is given, and when it has done its work.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use clap::ValueEnum;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::Failure;

/// Image of every agent. No node ever pulls it.
const IMAGE: &str = "registry.example.com/agent:1";
/// What every agent would run.
const COMMAND: [&str; 2] = ["sleep", "infinity"];
/// Where a contender's counters are.
const METRICS: &str = "127.0.0.1:8080";

/// Whose operator is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Contender {
    /// This project's.
    Ours,
    /// kubernetes-sigs/agent-sandbox.
    AgentSandbox,
}

impl Contender {
    /// Its name in tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::AgentSandbox => "agent-sandbox",
        }
    }

    /// Its user at the API server.
    #[must_use]
    pub const fn user(self) -> &'static str {
        match self {
            Self::Ours => "system:serviceaccount:agentsandbox-system:agentsandbox-operator",
            Self::AgentSandbox => "system:serviceaccount:agent-sandbox-system:agent-sandbox-controller",
        }
    }

    /// The counter of its passes.
    const fn passes(self) -> &'static str {
        match self {
            Self::Ours => "agentsandbox_operator_reconciles_total{",
            Self::AgentSandbox => "controller_runtime_reconcile_total{controller=\"sandbox\"",
        }
    }

    /// The kind that it reconciles.
    #[must_use]
    pub fn kind(self) -> ApiResource {
        let (group, version, kind, plural) = match self {
            Self::Ours => ("agentsandbox.dev", "v1alpha1", "AgentSandbox", "agentsandboxes"),
            Self::AgentSandbox => ("agents.x-k8s.io", "v1beta1", "Sandbox", "sandboxes"),
        };
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
    }

    /// A sandbox: one agent under gVisor with the same image, command and limits.
    #[must_use]
    pub fn sandbox(self, name: &str) -> DynamicObject {
        let spec = match self {
            Self::Ours => json!({
                "className": "gvisor",
                "agent": {"image": IMAGE, "command": COMMAND},
                "egress": {"allow": [{"host": "api.example.com"}]},
            }),
            Self::AgentSandbox => json!({"podTemplate": {"spec": {
                "runtimeClassName": "gvisor",
                "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "agent", "image": IMAGE, "command": COMMAND,
                    "resources": {"limits": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"}},
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
                }],
            }}}),
        };
        DynamicObject::new(name, &self.kind()).data(json!({"spec": spec}))
    }

    /// Whether the status of a sandbox is about what it asks for now.
    #[must_use]
    pub fn is_current(self, object: &DynamicObject) -> bool {
        let Some(wanted) = object.metadata.generation else { return false };
        let status = object.data.get("status").unwrap_or(&Value::Null);
        let observed = match self {
            Self::Ours => status.get("observedGeneration"),
            Self::AgentSandbox => {
                let all = status.get("conditions").and_then(Value::as_array);
                let ready = all.and_then(|all| {
                    all.iter().find(|condition| condition.get("type") == Some(&json!("Ready")))
                });
                ready.and_then(|condition| condition.get("observedGeneration"))
            }
        };
        observed.and_then(Value::as_i64) == Some(wanted)
    }

    /// How many pods it makes for one sandbox.
    #[must_use]
    pub const fn pods(self) -> usize {
        match self {
            Self::Ours => 2,
            Self::AgentSandbox => 1,
        }
    }
}

/// Adds up the samples of a counter in Prometheus' text format; none if there is no such counter yet.
fn sum(metrics: &str, counter: &str) -> Option<u64> {
    let samples = metrics.lines().filter(|line| line.starts_with(counter));
    let values = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    // Counters are whole numbers, and far below 2^53.
    values.map(|value| value as u64).reduce(|a, b| a + b)
}

/// How a contender is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Whose it is.
    pub contender: Contender,
    /// Its program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its own kubeconfig, with its own rights.
    pub kubeconfig: PathBuf,
    /// Where its log goes.
    pub log: PathBuf,
}

/// A contender that runs; it is killed with this.
#[derive(Debug)]
pub struct Running {
    child: Child,
    contender: Contender,
    log: PathBuf,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(start: &Start) -> Result<Self, Failure> {
        let log = std::fs::File::options().create(true).append(true).open(&start.log);
        let log =
            log.map_err(|error| Failure::new(format!("{} cannot be written: {error}", start.log.display())))?;
        let copy =
            log.try_clone().map_err(|error| Failure::new(format!("a log cannot be shared: {error}")))?;
        let child = Command::new(&start.program)
            .args(&start.args)
            .env("KUBECONFIG", &start.kubeconfig)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(copy)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Failure::new(format!("{} cannot be started: {error}", start.program.display()))
            })?;
        Ok(Self { child, contender: start.contender, log: start.log.clone() })
    }

    /// Its process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&mut self) -> Result<u32, Failure> {
        match (self.child.try_wait(), self.child.id()) {
            (Ok(None), Some(pid)) => Ok(pid),
            _ => Err(Failure::new(format!("the contender ended: {}", tail(&self.log)))),
        }
    }

    /// How many passes it has made since it began; none before it counts.
    pub async fn passes(&self) -> u64 {
        let asked = Command::new("curl")
            .args(["-sf", "-m", "5", &format!("http://{METRICS}/metrics")])
            .output()
            .await;
        let metrics =
            asked.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default();
        sum(&metrics, self.contender.passes()).unwrap_or(0)
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn stop(mut self) -> Result<(), Failure> {
        let pid = Pid::from_raw(self.pid()?.cast_signed());
        kill(pid, Signal::SIGTERM)
            .map_err(|error| Failure::new(format!("the contender cannot be stopped: {error}")))?;
        self.child
            .wait()
            .await
            .map(drop)
            .map_err(|error| Failure::new(format!("the contender does not end: {error}")))
    }
}

/// The end of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_are_those_of_every_result_and_of_no_other_counter() {
        let ours = "# TYPE agentsandbox_operator_reconciles_total counter\n\
                    agentsandbox_operator_reconciles_total{reason=\"Running\"} 3\n\
                    agentsandbox_operator_reconciles_total{reason=\"ProxyStarting\"} 40\n\
                    agentsandbox_operator_requests_total{verb=\"get\",kind=\"Pod\",result=\"ok\"} 9\n";
        assert_eq!(sum(ours, Contender::Ours.passes()), Some(43));
        let theirs = "controller_runtime_reconcile_total{controller=\"sandbox\",result=\"success\"} 1.234e+03\n\
                      controller_runtime_reconcile_total{controller=\"sandbox\",result=\"error\"} 6\n\
                      controller_runtime_reconcile_total{controller=\"sandboxclaim\",result=\"success\"} 7\n";
        assert_eq!(sum(theirs, Contender::AgentSandbox.passes()), Some(1240));
        assert_eq!(sum("", Contender::Ours.passes()), None);
    }

    #[test]
    fn a_sandbox_is_current_when_its_status_is_about_its_generation() {
        let with = |contender: Contender, status: Value| {
            let mut object = contender.sandbox("a");
            object.metadata.generation = Some(2);
            object.data["status"] = status;
            contender.is_current(&object)
        };
        assert!(with(Contender::Ours, json!({"observedGeneration": 2})));
        assert!(!with(Contender::Ours, json!({"observedGeneration": 1})));
        assert!(!with(Contender::Ours, json!({})));
        let condition = |kind: &str, generation: i64| json!({"conditions": [{"type": kind, "observedGeneration": generation}]});
        assert!(with(Contender::AgentSandbox, condition("Ready", 2)));
        assert!(!with(Contender::AgentSandbox, condition("Ready", 1)));
        assert!(!with(Contender::AgentSandbox, condition("Suspended", 2)));
        assert!(
            !Contender::Ours.is_current(&Contender::Ours.sandbox("a")),
            "an object without a generation is none of the API server's"
        );
    }
}

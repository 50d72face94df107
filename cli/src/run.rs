//! A sandbox from a command line: made, followed until its agent runs, and its agent's output shown to the end.
//!
//! What is written is an ordinary AgentSandbox; whatever a command line cannot say is for a manifest. Progress goes to stderr, the
//! agent's output to stdout.

use std::io::Write;
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::{COMPONENT_AGENT, SUFFIX_AGENT};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::runtime::watcher::{self, watch_object};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::args::RunArgs;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::find::FindError;
use crate::logs::{self, Shown};
use crate::status::condition;
use crate::text::harmless_line;

/// How long the kubelet may take to say how a container ended that prints nothing any more.
const ENDED_TIMEOUT: Duration = Duration::from_secs(30);
/// Field manager of what this program writes.
const FIELD_MANAGER: &str = "kubectl-agentsandbox";
/// HTTP statuses of a log that is not there yet: its container waits, or its pod is not made.
const NOT_YET: [u16; 2] = [400, 404];

/// Why a run came to no end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It was not written as a rule.
    #[error("\"{0}\" is no rule: write --allow HOST, or --credential NAME=HOST")]
    Rule(String),
    /// The agent does not start.
    #[error("the agent of AgentSandbox {name} does not start, and somebody has to do something: {message}")]
    Stalled {
        /// The sandbox.
        name: String,
        /// What its status says.
        message: String,
    },
    /// It was deleted meanwhile.
    #[error("AgentSandbox {0} was deleted")]
    Gone(String),
    /// It takes too long.
    #[error(
        "the agent of AgentSandbox {name} does not run after {seconds} s; `kubectl agentsandbox status {name}` says how far it is"
    )]
    TooLong {
        /// The sandbox.
        name: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The watch broke off.
    #[error("AgentSandbox {0} cannot be followed")]
    Watch(String, #[source] Box<watcher::Error>),
    /// Nobody says how the agent ended.
    #[error("the output of AgentSandbox {0} ended, and nobody says how its agent did")]
    NoEnd(String),
}

/// The manifest that the command line says.
///
/// # Errors
/// [`RunError::Rule`].
pub fn manifest(args: &RunArgs) -> Result<Value, RunError> {
    let mut rules: Vec<Value> = args.allow.iter().map(|host| json!({"host": host})).collect();
    for text in &args.credential {
        let (name, host) = text.split_once('=').ok_or_else(|| RunError::Rule(text.clone()))?;
        rules.push(json!({"host": host, "credential": name}));
    }
    let mut agent = json!({"image": args.image});
    if !args.args.is_empty() {
        agent[if args.command { "command" } else { "args" }] = json!(args.args);
    }
    let mut spec = json!({"agent": agent});
    if let Some(class) = &args.class {
        spec["className"] = json!(class);
    }
    if !rules.is_empty() {
        spec["egress"] = json!({"allow": rules});
    }
    let metadata = match &args.name {
        Some(name) => json!({"name": name}),
        None => json!({"generateName": "run-"}),
    };
    Ok(
        json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": metadata, "spec": spec}),
    )
}

/// Makes the sandbox, follows it to the end of its agent's output, and tells the agent's exit code.
///
/// # Errors
/// Where it is refused, does not start, or nobody says how it ended.
pub async fn run(
    cluster: &Cluster,
    args: &RunArgs,
    shown: Shown,
    out: &mut impl Write,
    progress: &mut impl Write,
) -> Result<u8, Error> {
    let sandbox: AgentSandbox = serde_json::from_value(manifest(args)?)?;
    let sandboxes = Api::<AgentSandbox>::namespaced(cluster.client.clone(), &cluster.namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let made = sandboxes.create(&params, &sandbox).await;
    let name = made.map_err(FindError::not_given("the sandbox that is asked for"))?.name_any();
    writeln!(progress, "AgentSandbox {}/{name} is made", cluster.namespace)?;
    if args.detach {
        return Ok(0);
    }
    let outcome = followed(cluster, &name, args.timeout, shown, out, progress).await;
    if args.rm {
        let deleted = sandboxes.delete(&name, &DeleteParams::default()).await;
        deleted.map_err(FindError::not_given(format!("the deletion of AgentSandbox {name}")))?;
        writeln!(progress, "AgentSandbox {}/{name} is deleted", cluster.namespace)?;
    }
    outcome
}

async fn followed(
    cluster: &Cluster,
    name: &str,
    seconds: u64,
    shown: Shown,
    out: &mut impl Write,
    progress: &mut impl Write,
) -> Result<u8, Error> {
    let started = started(cluster, name, progress);
    let started = tokio::time::timeout(Duration::from_secs(seconds), started).await;
    let log = started.map_err(|_| RunError::TooLong { name: name.to_owned(), seconds })??;
    logs::copy(log, shown, out).await?;
    Ok(ended(cluster, name).await?)
}

/// Waits until the agent's container has started, and opens its log. Each step is told once.
async fn started(
    cluster: &Cluster,
    name: &str,
    progress: &mut dyn Write,
) -> Result<impl futures::AsyncBufRead + Unpin + use<>, Error> {
    let sandboxes = Api::<AgentSandbox>::namespaced(cluster.client.clone(), &cluster.namespace);
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
    let mut watch = std::pin::pin!(watch_object(sandboxes, name));
    let mut told = Vec::new();
    let unwatched = |error| RunError::Watch(name.to_owned(), Box::new(error));
    while let Some(seen) = watch.try_next().await.map_err(unwatched)? {
        let sandbox = seen.ok_or_else(|| RunError::Gone(name.to_owned()))?;
        for line in news(&sandbox, &mut told) {
            writeln!(progress, "{}", harmless_line(&line))?;
        }
        let is = |type_: &str| condition(&sandbox, type_).is_some_and(|one| one.status == "True");
        if is("NetworkIsolated") && is("RuntimeVerified") {
            let params = LogParams {
                container: Some(COMPONENT_AGENT.to_owned()),
                follow: true,
                ..LogParams::default()
            };
            match pods.log_stream(&format!("{name}{SUFFIX_AGENT}"), &params).await {
                Ok(log) => return Ok(Box::pin(log)),
                // Its next condition tells when it has started.
                Err(kube::Error::Api(status)) if NOT_YET.contains(&status.code) => {}
                Err(error) => {
                    return Err(FindError::not_given(format!("the log of AgentSandbox {name}"))(error).into());
                }
            }
        }
        if is("Stalled") {
            let message = condition(&sandbox, "Ready").map(|ready| ready.message.clone()).unwrap_or_default();
            return Err(RunError::Stalled { name: name.to_owned(), message }.into());
        }
    }
    Err(RunError::Gone(name.to_owned()).into())
}

/// What a sandbox says that was not told yet, in its own order.
fn news(sandbox: &AgentSandbox, told: &mut Vec<(String, String, String)>) -> Vec<String> {
    let mut lines = Vec::new();
    for one in sandbox.status.iter().flat_map(|status| &status.conditions) {
        let now = (one.type_.clone(), one.status.clone(), one.reason.clone());
        let before = told.iter_mut().find(|(type_, ..)| *type_ == one.type_);
        if before.as_deref() == Some(&now) {
            continue;
        }
        lines.push(format!("{}={} {}: {}", one.type_, one.status, one.reason, one.message));
        match before {
            Some(before) => *before = now,
            None => told.push(now),
        }
    }
    lines
}

/// How the agent's first run ended.
async fn ended(cluster: &Cluster, name: &str) -> Result<u8, RunError> {
    let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
    let pod = format!("{name}{SUFFIX_AGENT}");
    let told = async {
        let mut watch = std::pin::pin!(watch_object(pods, &pod));
        while let Ok(Some(Some(pod))) = watch.try_next().await {
            if let Some(code) = exit_code(&pod) {
                return Some(code);
            }
        }
        None
    };
    tokio::time::timeout(ENDED_TIMEOUT, told)
        .await
        .ok()
        .flatten()
        .ok_or_else(|| RunError::NoEnd(name.to_owned()))
}

/// The exit code of the agent's container, now or before it was started again. One that is no exit code is none.
fn exit_code(pod: &Pod) -> Option<u8> {
    let mut containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let agent = containers.find(|container| container.name == COMPONENT_AGENT)?;
    let states = [agent.last_state.as_ref(), agent.state.as_ref()];
    let ended: &ContainerStateTerminated =
        states.into_iter().flatten().find_map(|state| state.terminated.as_ref())?;
    u8::try_from(ended.exit_code).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn args(line: &[&str]) -> RunArgs {
        let line = [&["kubectl-agentsandbox", "run", "--image", "a:1"], line].concat();
        match Cli::try_parse_from(line).unwrap().command {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_line_becomes_the_manifest_that_it_says() {
        let manifest = |line: &[&str]| manifest(&args(line));
        let written = manifest(&[
            "fix",
            "--class",
            "gvisor",
            "--allow",
            "pypi.org",
            "--credential",
            "key=api.test",
            "--",
            "-p",
            "do it",
        ]);
        assert_eq!(
            written.unwrap(),
            json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": {"name": "fix"},
                "spec": {"className": "gvisor", "agent": {"image": "a:1", "args": ["-p", "do it"]},
                    "egress": {"allow": [{"host": "pypi.org"}, {"host": "api.test", "credential": "key"}]}}})
        );
        let bare = manifest(&["--command", "--", "sh"]).unwrap();
        assert_eq!(bare["metadata"], json!({"generateName": "run-"}));
        assert_eq!(
            bare["spec"],
            json!({"agent": {"image": "a:1", "command": ["sh"]}}),
            "nothing is allowed unasked"
        );
        assert!(matches!(manifest(&["--credential", "key"]), Err(RunError::Rule(_))));
    }

    #[test]
    fn each_step_is_told_once_and_again_when_it_changes() {
        let sandbox = |conditions: Value| -> AgentSandbox {
            serde_json::from_value(json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
                "metadata": {"name": "x"}, "spec": {"agent": {"image": "a:1"}}, "status": {"conditions": conditions}}))
            .unwrap()
        };
        let one = |type_: &str, status: &str| json!({"type": type_, "status": status, "reason": "R", "message": "m", "lastTransitionTime": "2026-06-01T00:00:00Z"});
        let mut told = Vec::new();
        let first = sandbox(json!([one("Accepted", "True"), one("Ready", "Unknown")]));
        assert_eq!(news(&first, &mut told), ["Accepted=True R: m", "Ready=Unknown R: m"]);
        assert!(news(&first, &mut told).is_empty());
        let second = sandbox(json!([one("Accepted", "True"), one("Ready", "True")]));
        assert_eq!(news(&second, &mut told), ["Ready=True R: m"]);
    }

    #[test]
    fn the_exit_code_is_the_agents_own() {
        let pod = |name: &str, state: Value, last: Value| -> Pod {
            serde_json::from_value(
                json!({"status": {"containerStatuses": [{"name": name, "image": "a", "imageID": "a",
                "ready": false, "restartCount": 0, "state": state, "lastState": last}]}}),
            )
            .unwrap()
        };
        let ended = |code: i32| json!({"terminated": {"exitCode": code}});
        let running = || json!({"running": {}});
        assert_eq!(exit_code(&pod("agent", ended(3), json!({}))), Some(3));
        assert_eq!(exit_code(&pod("agent", running(), ended(0))), Some(0));
        assert_eq!(
            exit_code(&pod("agent", ended(4), ended(3))),
            Some(3),
            "the first run is the one that was shown"
        );
        assert_eq!(exit_code(&pod("agent", running(), json!({}))), None);
        assert_eq!(exit_code(&pod("other", ended(0), json!({}))), None);
        assert_eq!(exit_code(&pod("agent", ended(-1), json!({}))), None);
    }
}

//! A sandbox that is suspended or resumed from a command line, and waited for.
//!
//! It is one field of the spec, `lifecycle.state`: whoever keeps the manifest elsewhere writes it there, or it is put back.

use std::io::Write;
use std::time::Duration;

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::sandbox::PowerState;
use futures::StreamExt;
use kube::api::{Patch, PatchParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::args::PowerArgs;
use crate::cluster::Cluster;
use crate::command::EXIT_OK;
use crate::error::Error;
use crate::find::{self, FindError};
use crate::run::{FIELD_MANAGER, RunError, is_final_for_watch, news, tell};
use crate::status::{condition, is_ready};

/// Why a sandbox is not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// The CRD is older than this program.
    #[error(
        "the AgentSandbox CRD of this cluster keeps no spec.lifecycle.state: apply the CRDs of this version's chart, and upgrade the operator"
    )]
    NotKept,
    /// It takes too long.
    #[error(
        "AgentSandbox {name} is not {state} after {seconds} s; `kubectl agentsandbox status {name}` says how far it is"
    )]
    TooLong {
        /// The sandbox.
        name: String,
        /// What was asked for.
        state: &'static str,
        /// How long was waited.
        seconds: u64,
    },
}

/// Writes the state, and waits until the status says that it is so. Each step is told once.
///
/// # Errors
/// Where it is refused, cannot come true without somebody's doing, or takes too long; the state that was asked for stays written.
pub async fn turn(
    cluster: &Cluster,
    args: &PowerArgs,
    state: PowerState,
    progress: &mut dyn Write,
) -> Result<u8, Error> {
    let before = find::sandbox(cluster, &args.name).await?;
    let sandboxes = Api::<AgentSandbox>::namespaced(cluster.client.clone(), &cluster.namespace);
    // Of the one that was found, and no other of its name.
    let patch = json!({"metadata": {"uid": before.uid()}, "spec": {"lifecycle": {"state": state}}});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    let patched = sandboxes.patch(&args.name, &params, &Patch::Merge(&patch)).await;
    let patched =
        patched.map_err(FindError::not_given(format!("the change of AgentSandbox {}", args.name)))?;
    if written(&patched) != Some(state) {
        return Err(PowerError::NotKept.into());
    }
    let place = format!("AgentSandbox {}/{}", cluster.namespace, args.name);
    if args.detach {
        tell(progress, &format!("{place} is to be {}", word(state)));
        return Ok(EXIT_OK);
    }
    let reached = reached(cluster, &patched, state, progress);
    let late = || PowerError::TooLong { name: args.name.clone(), state: word(state), seconds: args.timeout };
    tokio::time::timeout(Duration::from_secs(args.timeout), reached).await.map_err(|_| late())??;
    tell(progress, &format!("{place} is {}", word(state)));
    Ok(EXIT_OK)
}

fn written(sandbox: &AgentSandbox) -> Option<PowerState> {
    sandbox.spec.lifecycle.as_ref()?.state
}

const fn word(state: PowerState) -> &'static str {
    match state {
        PowerState::Running => "running",
        PowerState::Suspended => "suspended",
    }
}

/// Follows the sandbox that was patched until it is what was asked for.
async fn reached(
    cluster: &Cluster,
    patched: &AgentSandbox,
    state: PowerState,
    progress: &mut dyn Write,
) -> Result<(), Error> {
    let name = patched.name_any();
    let sandboxes = Api::<AgentSandbox>::namespaced(cluster.streams.clone(), &cluster.namespace);
    // Who asks again too soon is answered worse.
    let mut watch = std::pin::pin!(watch_object(sandboxes, &name).default_backoff());
    let mut told = Vec::new();
    let gone = || RunError::Gone(name.clone());
    loop {
        let sandbox = match watch.next().await.ok_or_else(gone)? {
            Ok(seen) => seen.filter(|seen| seen.uid() == patched.uid()).ok_or_else(gone)?,
            Err(error) if is_final_for_watch(&error) => {
                return Err(RunError::Watch(name.clone(), Box::new(error)).into());
            }
            Err(_) => continue,
        };
        if sandbox.metadata.deletion_timestamp.is_some() {
            return Err(gone().into());
        }
        // What is told of an older generation is not about what was asked for.
        let observed = sandbox.status.as_ref().and_then(|status| status.observed_generation);
        if observed < patched.metadata.generation {
            continue;
        }
        for line in news(&sandbox, &mut told) {
            tell(progress, &line);
        }
        match progress_of(&sandbox, state) {
            Reached::Yes => return Ok(()),
            Reached::Stalled(message) => return Err(RunError::Stalled { name, message }.into()),
            Reached::NotYet => {}
        }
    }
}

/// Whether a sandbox is what was asked for.
#[derive(Debug, PartialEq, Eq)]
enum Reached {
    Yes,
    NotYet,
    Stalled(String),
}

fn progress_of(sandbox: &AgentSandbox, state: PowerState) -> Reached {
    let is = |type_: &str| condition(sandbox, type_).is_some_and(|one| one.status == "True");
    let is_so = match state {
        PowerState::Suspended => is("Suspended"),
        // A sandbox that is suspended as asked is ready, too.
        PowerState::Running => is_ready(sandbox) && !is("Suspended"),
    };
    match is_so {
        true => Reached::Yes,
        false if is("Stalled") => Reached::Stalled(
            condition(sandbox, "Ready").map(|ready| ready.message.clone()).unwrap_or_default(),
        ),
        false => Reached::NotYet,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn told(conditions: &[(&str, &str)]) -> AgentSandbox {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(type_, status)| {
                json!({"type": type_, "status": status, "reason": "R", "message": "why", "lastTransitionTime": "2026-06-01T00:00:00Z"})
            })
            .collect();
        serde_json::from_value(json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
            "metadata": {"name": "x", "generation": 2}, "spec": {"agent": {"image": "a:1"}},
            "status": {"observedGeneration": 2, "conditions": conditions}}))
        .unwrap()
    }

    #[test]
    fn a_sandbox_is_suspended_when_nothing_of_it_runs_and_resumed_when_its_agent_does() {
        use PowerState::{Running, Suspended};
        let stalled = || Reached::Stalled("why".to_owned());
        for (conditions, state, expected) in [
            (&[("Suspended", "False"), ("Ready", "False")][..], Suspended, Reached::NotYet),
            (&[("Ready", "True")], Suspended, Reached::NotYet),
            (&[("Suspended", "True"), ("Ready", "True")], Suspended, Reached::Yes),
            (&[("Suspended", "True"), ("Ready", "True")], Running, Reached::NotYet),
            (&[("Suspended", "False"), ("Ready", "False")], Running, Reached::NotYet),
            (&[("Suspended", "False"), ("Ready", "True")], Running, Reached::Yes),
            (&[("Ready", "True")], Running, Reached::Yes),
            (&[("Ready", "False"), ("Stalled", "True")], Running, stalled()),
            (&[("Suspended", "False"), ("Ready", "False"), ("Stalled", "True")], Suspended, stalled()),
        ] {
            assert_eq!(progress_of(&told(conditions), state), expected, "{conditions:?} {state:?}");
        }
    }

    #[test]
    fn a_state_that_the_crd_does_not_keep_is_found_out() {
        let mut sandbox = told(&[]);
        assert_eq!(written(&sandbox), None);
        sandbox.spec.lifecycle = Some(serde_json::from_value(json!({"state": "Suspended"})).unwrap());
        assert_eq!(written(&sandbox), Some(PowerState::Suspended));
    }
}

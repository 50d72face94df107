//! A command in the agent's container, as `kubectl exec` runs it: with its output, and with its exit code. Where the agent starts by a
//! program that takes something from it, the command starts by the same, which takes as much from it; else nothing is started.

use std::io::Write;

use agentsandbox_crds::names::{
    AGENT_PROGRAM, AGENT_PROGRAM_ENTER, AGENT_PROGRAM_RUN, COMPONENT_AGENT, FENCE_PROGRAM_DIR,
    FENCE_PROGRAM_RUN, SUFFIX_AGENT,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::AttachParams;
use kube::{Api, ResourceExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::args::ExecArgs;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::find;
use crate::logs::Shown;
use crate::text::Filter;

/// How much is read at a time.
const CHUNK_BYTES: usize = 16 * 1024;

/// Why the end of a command is not known.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The API server does not say how it ended.
    #[error("the API server does not say how the command ended: {0}")]
    NoCode(String),
    /// It could not be connected with.
    #[error("the command gives no {0}")]
    NoStream(&'static str),
    /// It would have what was taken from the agent.
    #[error(
        "Pod {0} was made by an older operator, so no command can be brought to where its agent is: suspend and resume the sandbox, which begins its program anew, and its workspace too unless that is Persistent; `kubectl exec` starts a command in the agent's container, with what the agent's program has taken from itself"
    )]
    NoWayIn(String),
}

/// Runs a command in the agent's container and tells its exit code.
///
/// # Errors
/// Where there is no such sandbox, its agent does not run, or the API server does not say how the command ended.
pub async fn exec(cluster: &Cluster, args: &ExecArgs, shown: Shown) -> Result<u8, Error> {
    let sandbox = find::sandbox(cluster, &args.name).await?;
    let pod = find::own_pod(cluster, &sandbox, SUFFIX_AGENT).await?;
    let command: Vec<&str> =
        way_in(&pod)?.iter().copied().chain(args.command.iter().map(String::as_str)).collect();
    let pods = Api::<Pod>::namespaced(cluster.streams.clone(), &cluster.namespace);
    let params =
        AttachParams::default().container(COMPONENT_AGENT).stdin(args.stdin).stdout(true).stderr(true);
    let what = format!(
        "a process in the agent of AgentSandbox {0}; `kubectl agentsandbox status {0}` says whether it runs",
        args.name
    );
    let mut process = find::in_time(what, pods.exec(&pod.name_any(), command, &params)).await?;
    let (stdout, stderr) = (process.stdout(), process.stderr());
    let stdout = stdout.ok_or(ExecError::NoStream("output"))?;
    let stderr = stderr.ok_or(ExecError::NoStream("errors"))?;
    let status = process.take_status().ok_or(ExecError::NoStream("status"))?;
    // Ended with this command: what a person does not write any more is not waited for.
    let _typing = process.stdin().map(|mut to| {
        tokio::spawn(async move {
            let _ended = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
            let _ended = to.shutdown().await;
        })
    });
    let (out, err, status) =
        tokio::join!(copy(stdout, shown, std::io::stdout()), copy(stderr, shown, std::io::stderr()), status);
    out?;
    err?;
    Ok(code(status.as_ref())?)
}

/// By what a command comes to where the agent is, told by the pod's spec: no agent changes that.
fn way_in(pod: &Pod) -> Result<&'static [&'static str], ExecError> {
    let spec = pod.spec.iter();
    let agent = spec.clone().flat_map(|spec| &spec.containers).find(|one| one.name == COMPONENT_AGENT);
    let starts = agent.and_then(|agent| agent.command.as_deref()).unwrap_or_default();
    let fences = spec.flat_map(|spec| spec.init_containers.iter().flatten());
    let told: Vec<&String> = fences.flat_map(|fence| fence.args.iter().flatten()).collect();
    // A webhook may have put a program of its own before it; where the fence puts it, the agent starts by it.
    let starts_by_it = starts.iter().take(2).eq([AGENT_PROGRAM, AGENT_PROGRAM_RUN])
        || told.iter().any(|arg| *arg == FENCE_PROGRAM_DIR);
    match (told.iter().any(|arg| arg.starts_with(FENCE_PROGRAM_RUN)), starts_by_it) {
        (true, _) => Ok(&[AGENT_PROGRAM, AGENT_PROGRAM_ENTER, "--"]),
        (false, true) => Err(ExecError::NoWayIn(pod.name_any())),
        (false, false) => Ok(&[]),
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, shown: Shown, mut to: impl Write) -> std::io::Result<()> {
    let (mut filter, mut chunk) = (Filter::default(), vec![0; CHUNK_BYTES]);
    loop {
        let count = from.read(&mut chunk).await?;
        let bytes = chunk.get(..count).unwrap_or_default();
        match shown {
            Shown::Raw => to.write_all(bytes)?,
            Shown::Harmless if count == 0 => to.write_all(filter.rest().as_bytes())?,
            Shown::Harmless => to.write_all(filter.push(bytes).as_bytes())?,
        }
        to.flush()?;
        if count == 0 {
            return Ok(());
        }
    }
}

/// The exit code in what the API server says of the end. What it does not say is no success.
pub(crate) fn code(status: Option<&Status>) -> Result<u8, ExecError> {
    let Some(status) = status else { return Err(ExecError::NoCode("it says nothing".to_owned())) };
    if status.status.as_deref() == Some("Success") {
        return Ok(0);
    }
    let causes = status.details.iter().flat_map(|details| details.causes.iter().flatten());
    let code = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode")).find_map(|cause| {
        // One that is not 0 must not become it by being cut.
        cause.message.as_ref()?.parse::<u8>().ok().filter(|code| *code != 0)
    });
    code.ok_or_else(|| ExecError::NoCode(status.message.clone().unwrap_or_else(|| "it failed".to_owned())))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_command_starts_by_what_its_agent_starts_by_and_where_that_knows_no_way_in_there_is_none() {
        let pod = |command: Value, fence: Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "fix-agent"}, "spec": {
                "initContainers": [{"name": "fence", "args": fence}, {"name": "workspace"}],
                "containers": [{"name": "other", "command": [AGENT_PROGRAM, "run"]}, {"name": "agent", "command": command}],
            }}))
            .unwrap()
        };
        let told = json!(["fence", "--program-dir", "/p", "--program-run=--no-network"]);
        let untold = [json!(["fence", "--program-dir", "/p"]), Value::Null];
        let bare = json!(["fence", "--deadline-secs", "60"]);
        for open in [Value::Null, json!([]), json!(["sh"]), json!(["sh", "run"]), json!([AGENT_PROGRAM])] {
            assert!(way_in(&pod(open.clone(), bare.clone())).unwrap().is_empty(), "{open}");
        }
        let starts = json!([AGENT_PROGRAM, "run", "--no-network", "--", "claude"]);
        let wrapped = json!(["/somebody/elses", AGENT_PROGRAM, "run", "--no-network", "--", "claude"]);
        let hidden = json!(["/somebody/elses"]);
        for known in [starts.clone(), wrapped.clone(), hidden.clone()] {
            assert_eq!(way_in(&pod(known, told.clone())).unwrap(), [AGENT_PROGRAM, "enter", "--"]);
        }
        let old =
            [(&starts, &untold[0]), (&starts, &untold[1]), (&wrapped, &untold[0]), (&hidden, &untold[0])];
        for (command, fence) in old {
            let error = way_in(&pod(command.clone(), fence.clone())).unwrap_err().to_string();
            assert!(
                error.contains("Pod fix-agent")
                    && error.contains("resume")
                    && error.contains("unless that is Persistent"),
                "{error}"
            );
        }
    }

    fn of(status: Value) -> Result<u8, ExecError> {
        code(Some(&serde_json::from_value(status).unwrap()))
    }

    fn failed(code: &str) -> Value {
        json!({"status": "Failure", "message": "m", "details": {"causes": [{"reason": "ExitCode", "message": code}]}})
    }

    #[test]
    fn the_exit_code_is_the_commands_own_and_never_a_success_that_nobody_told() {
        assert_eq!(of(json!({"status": "Success"})).unwrap(), 0);
        assert_eq!(of(failed("7")).unwrap(), 7);
        assert_eq!(of(failed("137")).unwrap(), 137);
        for status in
            [failed("0"), failed("256"), failed("x"), json!({"status": "Failure", "message": "m"}), json!({})]
        {
            assert!(of(status.clone()).is_err(), "{status}");
        }
        assert!(code(None).is_err());
    }
}

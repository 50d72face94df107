//! A command in the agent's container, as `kubectl exec` runs it: with its output, and with its exit code. Where the agent starts by a
//! program that takes something from it, the command starts by the same, which takes as much from it; else nothing is started.

use std::io::IsTerminal;

use agentsandbox_crds::names::{
    AGENT_PROGRAM, AGENT_PROGRAM_ENTER, AGENT_PROGRAM_RUN, COMPONENT_AGENT, FENCE_PROGRAM_DIR,
    FENCE_PROGRAM_RUN, SUFFIX_AGENT,
};
use futures::FutureExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{AttachParams, AttachedProcess};
use kube::{Api, ResourceExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::args::ExecArgs;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::logs::Shown;
use crate::text::Filter;
use crate::{find, terminal};

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
    /// Nobody sits at one.
    #[error("standard input is no terminal: leave out -t")]
    NoTerminal(#[source] std::io::Error),
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
    if args.tty && !std::io::stdin().is_terminal() {
        // Before anything is started.
        return Err(ExecError::NoTerminal(std::io::ErrorKind::InvalidInput.into()).into());
    }
    // At a terminal there is one stream for all that is shown.
    let params = AttachParams::default().stdin(args.stdin).tty(args.tty).stderr(!args.tty);
    let command: Vec<&str> = args.command.iter().map(String::as_str).collect();
    let followed = follow(process(cluster, &args.name, &command, params).await?, shown);
    match args.tty {
        true => terminal::given(std::io::stdin(), followed).await,
        false => followed.await,
    }
}

/// A process of this command in the agent's container, in the place where the agent is.
///
/// # Errors
/// Where there is no such sandbox, its agent does not run, or no command can be brought to where it is.
pub(crate) async fn process(
    cluster: &Cluster,
    name: &str,
    command: &[&str],
    params: AttachParams,
) -> Result<AttachedProcess, Error> {
    let sandbox = find::sandbox(cluster, name).await?;
    let pod = find::own_pod(cluster, &sandbox, SUFFIX_AGENT).await?;
    let command: Vec<&str> = way_in(&pod)?.iter().chain(command).copied().collect();
    let pods = Api::<Pod>::namespaced(cluster.streams.clone(), &cluster.namespace);
    let what = format!(
        "a process in the agent of AgentSandbox {name}; `kubectl agentsandbox status {name}` says whether it runs"
    );
    let params = params.container(COMPONENT_AGENT);
    Ok(find::in_time(what, pods.exec(&pod.name_any(), command, &params)).await?)
}

/// Gives a process what is typed, shows what it writes, and tells its exit code.
async fn follow(mut process: AttachedProcess, shown: Shown) -> Result<u8, Error> {
    let stdout = process.stdout().ok_or(ExecError::NoStream("output"))?;
    let stderr = process.stderr();
    let status = process.take_status().ok_or(ExecError::NoStream("status"))?;
    // Ended with this command: what a person does not write any more is not waited for.
    let _typing = process.stdin().map(|mut to| {
        tokio::spawn(async move {
            let _ended = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
            let _ended = to.shutdown().await;
        })
    });
    let _sizes = process.terminal_size().map(|to| tokio::spawn(terminal::tell_size(std::io::stdin(), to)));
    let errors = async {
        match stderr {
            Some(stderr) => copy(stderr, shown, tokio::io::stderr()).await,
            None => Ok(()),
        }
    };
    let ((), (), status) = together(copy(stdout, shown, tokio::io::stdout()), errors, status).await?;
    Ok(code(status.as_ref())?)
}

/// What is made of both streams of a process, and how it ended; or the first error. The connection waits until a stream is read: where nobody
/// reads it any more there would be no end to wait for.
pub(crate) async fn together<A, B, E>(
    out: impl Future<Output = Result<A, E>>,
    errors: impl Future<Output = Result<B, E>>,
    status: impl Future<Output = Option<Status>>,
) -> Result<(A, B, Option<Status>), E> {
    tokio::try_join!(out, errors, status.map(Ok))
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

/// Shows what is written, to its end. Who does not read it keeps no signal from being heard.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    shown: Shown,
    mut to: impl AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let (mut filter, mut chunk) = (Filter::default(), vec![0; CHUNK_BYTES]);
    loop {
        let count = from.read(&mut chunk).await?;
        let bytes = chunk.get(..count).unwrap_or_default();
        match shown {
            Shown::Raw => to.write_all(bytes).await?,
            Shown::Harmless if count == 0 => to.write_all(filter.rest().as_bytes()).await?,
            Shown::Harmless => to.write_all(filter.push(bytes).as_bytes()).await?,
        }
        to.flush().await?;
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

    #[tokio::test]
    async fn an_output_that_nobody_takes_any_more_ends_it_and_else_its_end_does() {
        use std::future::{pending, ready};
        let closed = || async { Err::<(), _>("closed") };
        let never = pending::<Result<(), &str>>;
        assert_eq!(together(closed(), never(), pending()).now_or_never(), Some(Err("closed")));
        assert_eq!(together(never(), closed(), pending()).now_or_never(), Some(Err("closed")));
        let ended = together(async { Ok::<_, &str>(1) }, async { Ok(2) }, ready(Some(Status::default())));
        assert_eq!(ended.await, Ok((1, 2, Some(Status::default()))));
    }

    #[tokio::test]
    async fn what_a_command_writes_is_shown_without_what_a_terminal_obeys_unless_it_is_raw() {
        let written = "a\u{1b}[2Jb\n";
        for (shown, wanted) in [(Shown::Harmless, "a\\u{1b}[2Jb\n"), (Shown::Raw, written)] {
            let mut out = Vec::new();
            copy(written.as_bytes(), shown, &mut out).await.unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), wanted);
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

//! The output and the end of one run of the agent's container: of the first, and never of one that was started after it.

use std::pin::Pin;
use std::time::{Duration, Instant};

use agentsandbox_crds::AgentSandbox;
use agentsandbox_crds::names::COMPONENT_AGENT;
use agentsandbox_crds::sandbox::ProgramStatus;
use futures::{AsyncBufRead, AsyncReadExt};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::Api;
use kube::api::LogParams;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Own, RunError, is_final, tell};
use crate::cluster::ANSWER_TIMEOUT;
use crate::error::Error;
use crate::find::{self, FindError};
use crate::logs::{CHUNK_BYTES, Shown};
use crate::text::Filter;

/// How long the kubelet may take to say that a container has ended whose log has; after it, the log broke off.
const ENDED_TIMEOUT: Duration = Duration::from_secs(10);
/// How long is waited between two questions.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// What a kubelet writes that does not know how a container ended.
const UNKNOWN_END: &str = "ContainerStatusUnknown";

/// A log as it comes.
pub(super) type Log = Pin<Box<dyn AsyncBufRead>>;

/// The first run of the agent's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct First {
    /// What the runtime calls it.
    container: String,
    /// Whether another was started after it.
    is_previous: bool,
}

/// How far the first run is.
#[derive(Debug, PartialEq, Eq)]
enum Begun {
    NotYet,
    Is(First),
    Lost,
}

/// How a run of the container stands.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Runs,
    Ended(u8),
    Unknown,
}

fn agent(pod: &Pod) -> Option<&ContainerStatus> {
    let mut containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.find(|container| container.name == COMPONENT_AGENT)
}

fn terminated(state: Option<&ContainerState>) -> Option<&ContainerStateTerminated> {
    state?.terminated.as_ref()
}

/// The first run, as the pod tells of it.
fn begun(pod: &Pod, own: &Own) -> Begun {
    if !find::is_controlled_by(pod, &own.uid) {
        return Begun::NotYet;
    }
    let Some(agent) = agent(pod) else { return Begun::NotYet };
    let (state, last) = (agent.state.as_ref(), agent.last_state.as_ref());
    let is_started = state.is_some_and(|state| state.running.is_some()) || terminated(state).is_some();
    let first = |container: Option<&String>, is_previous| match container {
        Some(container) => Begun::Is(First { container: container.clone(), is_previous }),
        None => Begun::NotYet,
    };
    match (agent.restart_count, terminated(last)) {
        (0, None) if is_started => first(agent.container_id.as_ref(), false),
        // It waits to be started again, or is.
        (0 | 1, Some(ended)) => first(ended.container_id.as_ref(), true),
        (0, None) => Begun::NotYet,
        _ => Begun::Lost,
    }
}

/// How this container stands, as its pod tells. An end that is no exit code, or that the kubelet made up, is unknown.
fn fate(pod: &Pod, own: &Own, container: &str) -> Fate {
    let Some(agent) = agent(pod).filter(|_| find::is_controlled_by(pod, &own.uid)) else {
        return Fate::Unknown;
    };
    let mut ends = [agent.state.as_ref(), agent.last_state.as_ref()].into_iter().filter_map(terminated);
    if let Some(ended) = ends.find(|ended| ended.container_id.as_deref() == Some(container)) {
        let is_told = ended.reason.as_deref() != Some(UNKNOWN_END);
        let code = u8::try_from(ended.exit_code).ok().filter(|_| is_told);
        return code.map_or(Fate::Unknown, Fate::Ended);
    }
    let runs = agent.state.as_ref().is_some_and(|state| state.running.is_some());
    if runs && agent.container_id.as_deref() == Some(container) { Fate::Runs } else { Fate::Unknown }
}

fn params(is_previous: bool, since_seconds: Option<i64>) -> LogParams {
    LogParams {
        container: Some(COMPONENT_AGENT.to_owned()),
        follow: !is_previous,
        previous: is_previous,
        since_seconds,
        ..LogParams::default()
    }
}

/// An answer, or none where asking again may bring one.
fn passing<T>(answer: kube::Result<T>, own: &Own) -> Result<Option<T>, Error> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_final(&error) => {
            Err(FindError::not_given(format!("the agent of AgentSandbox {}", own.name))(error).into())
        }
        Err(_) => Ok(None),
    }
}

/// The log of the first run, once that has begun, unless it is the one that was seen.
pub(super) async fn opened(
    pods: &Api<Pod>,
    own: &Own,
    seen: Option<&First>,
) -> Result<Option<(First, Log)>, Error> {
    let Some(pod) = passing(pods.get(&own.pod()).await, own)? else { return Ok(None) };
    let first = match begun(&pod, own) {
        Begun::NotYet => return Ok(None),
        Begun::Lost => return Err(RunError::NoFirst(own.name.clone()).into()),
        Begun::Is(first) if seen.is_some_and(|seen| seen.container == first.container) => return Ok(None),
        Begun::Is(first) => first,
    };
    let log = pods.log_stream(&own.pod(), &params(first.is_previous, None)).await;
    let Some(log) = passing(log, own)? else { return Ok(None) };
    // A container that was started before the log was opened would be the one that is shown.
    let Some(pod) = passing(pods.get(&own.pod()).await, own)? else { return Ok(None) };
    let is_same = begun(&pod, own) == Begun::Is(first.clone());
    Ok(is_same.then(|| (first, Box::pin(log) as Log)))
}

/// Shows the output of the first run to its end, also where its log breaks off before, and tells its exit code.
pub(super) async fn shown_to_the_end(
    pods: &Api<Pod>,
    own: &Own,
    (first, mut log): (&First, Log),
    (shown, out): (Shown, &mut (impl AsyncWrite + Unpin)),
    progress: &mut dyn std::io::Write,
) -> Result<u8, Error> {
    loop {
        let last = show(log, shown, out).await?;
        if let Some(code) = ended(pods, own, first).await? {
            return Ok(code);
        }
        tell(progress, "the log broke off and is opened again; some lines may come twice");
        log = loop {
            // By the kubelet's clock, which alone knows the time of a line.
            let seconds = i64::try_from(last.elapsed().as_secs()).unwrap_or(i64::MAX).saturating_add(2);
            let (pod, params) = (own.pod(), params(false, Some(seconds)));
            let opening = pods.log_stream(&pod, &params);
            if let Ok(opened) = tokio::time::timeout(ANSWER_TIMEOUT, opening).await
                && let Some(log) = passing(opened, own)?
            {
                break Box::pin(log) as Log;
            }
            tokio::time::sleep(ASK_AGAIN).await;
            if let Some(code) = ended(pods, own, first).await? {
                return Ok(code);
            }
        };
        // The log of one that was started meanwhile is not shown.
        if let Some(code) = now(pods, own, first).await? {
            tell(progress, "the last of the agent's output is lost");
            return Ok(code);
        }
    }
}

/// Shows a log until it ends or breaks off; when the last of it came. Only who reads it makes an error.
async fn show(
    mut log: impl AsyncBufRead + Unpin,
    shown: Shown,
    out: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<Instant> {
    let (mut filter, mut chunk, mut last) = (Filter::default(), vec![0; CHUNK_BYTES], Instant::now());
    loop {
        let count = log.read(&mut chunk).await.unwrap_or_default();
        let bytes = chunk.get(..count).unwrap_or_default();
        match shown {
            Shown::Raw => out.write_all(bytes).await?,
            Shown::Harmless if count == 0 => out.write_all(filter.rest().as_bytes()).await?,
            Shown::Harmless => out.write_all(filter.push(bytes).as_bytes()).await?,
        }
        out.flush().await?;
        if count == 0 {
            return Ok(last);
        }
        last = Instant::now();
    }
}

/// What follows the end of a run.
pub(super) enum Next {
    /// The operator tells how the program ended.
    Over(ProgramStatus),
    /// Another pod runs it from the beginning.
    Again,
    /// The same pod starts it again: the operator knows of no program that runs once.
    Restarted,
}

/// What follows the end of this run of a Task.
pub(super) async fn next(
    sandboxes: &Api<AgentSandbox>,
    pods: &Api<Pod>,
    own: &Own,
    first: &First,
) -> Result<Next, Error> {
    loop {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, sandboxes.get_opt(&own.name)).await;
        let shown = match asked.ok() {
            Some(answer) => passing(answer, own)?,
            None => None,
        };
        if let Some(sandbox) = shown {
            let sandbox = sandbox.filter(|sandbox| super::is_own(sandbox, own));
            let status = sandbox.ok_or_else(|| RunError::Gone(own.name.clone()))?.status;
            if let Some(program) = status.and_then(|status| status.program) {
                return Ok(Next::Over(program));
            }
        }
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, pods.get_opt(&own.pod())).await;
        let pod = match asked.ok() {
            Some(answer) => passing(answer, own)?.flatten(),
            None => None,
        };
        match pod {
            Some(pod) if restarts(&pod, own) => return Ok(Next::Restarted),
            Some(pod) if is_another(&pod, own, first) => return Ok(Next::Again),
            _ => {}
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Whether this pod of the sandbox starts its program again whenever that ends.
fn restarts(pod: &Pod, own: &Own) -> bool {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    find::is_controlled_by(pod, &own.uid) && policy != Some("Never")
}

/// Whether this pod's first run is another one.
fn is_another(pod: &Pod, own: &Own, first: &First) -> bool {
    matches!(begun(pod, own), Begun::Is(other) if other.container != first.container)
}

/// The exit code of the run whose log has ended; none where it goes on.
async fn ended(pods: &Api<Pod>, own: &Own, first: &First) -> Result<Option<u8>, Error> {
    let begun = Instant::now();
    loop {
        if let Some(code) = now(pods, own, first).await? {
            return Ok(Some(code));
        }
        if begun.elapsed() >= ENDED_TIMEOUT {
            return Ok(None);
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// The exit code, if the run has one by now.
async fn now(pods: &Api<Pod>, own: &Own, first: &First) -> Result<Option<u8>, Error> {
    let Ok(asked) = tokio::time::timeout(ANSWER_TIMEOUT, pods.get_opt(&own.pod())).await else {
        return Ok(None);
    };
    let Some(pod) = passing(asked, own)? else { return Ok(None) };
    match pod.map_or(Fate::Unknown, |pod| fate(&pod, own, &first.container)) {
        Fate::Runs => Ok(None),
        Fate::Ended(code) => Ok(Some(code)),
        Fate::Unknown => Err(RunError::NoEnd(own.name.clone()).into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn own() -> Own {
        Own { name: "fix".to_owned(), uid: "u-1".to_owned() }
    }

    fn pod(uid: &str, restarts: u32, id: &str, state: Value, last: Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "fix-agent", "ownerReferences": [{"apiVersion": "agentsandbox.dev/v1alpha1",
                "kind": "AgentSandbox", "name": "fix", "uid": uid, "controller": true}]},
            "status": {"containerStatuses": [
                {"name": "fence", "image": "a", "imageID": "a", "ready": false, "restartCount": 0,
                    "containerID": "other", "state": ended("other", 0), "lastState": {}},
                {"name": COMPONENT_AGENT, "image": "a", "imageID": "a", "ready": false, "restartCount": restarts,
                    "containerID": id, "state": state, "lastState": last}]}}))
        .unwrap()
    }

    fn ended(id: &str, code: i32) -> Value {
        json!({"terminated": {"exitCode": code, "containerID": id}})
    }

    fn running() -> Value {
        json!({"running": {}})
    }

    fn waiting() -> Value {
        json!({"waiting": {"reason": "CrashLoopBackOff"}})
    }

    #[test]
    fn the_run_that_is_shown_is_the_first_and_no_other() {
        let is =
            |container: &str, is_previous| Begun::Is(First { container: container.to_owned(), is_previous });
        for (pod, expected) in [
            (pod("u-1", 0, "", waiting(), json!({})), Begun::NotYet),
            (pod("u-1", 0, "c1", running(), json!({})), is("c1", false)),
            (pod("u-1", 0, "c1", ended("c1", 3), json!({})), is("c1", false)),
            (pod("u-1", 0, "c1", waiting(), ended("c1", 3)), is("c1", true)),
            (pod("u-1", 1, "c2", running(), ended("c1", 3)), is("c1", true)),
            (pod("u-1", 1, "c2", ended("c2", 0), ended("c1", 3)), is("c1", true)),
            (pod("u-1", 2, "c3", running(), ended("c2", 3)), Begun::Lost),
            (pod("u-1", 1, "c2", running(), json!({})), Begun::Lost),
            (pod("u-2", 0, "c1", running(), json!({})), Begun::NotYet),
            (Pod::default(), Begun::NotYet),
        ] {
            assert_eq!(begun(&pod, &own()), expected, "{pod:?}");
        }
    }

    #[test]
    fn the_exit_code_is_that_of_the_run_that_was_shown() {
        let made_up = json!({"terminated": {"exitCode": 137, "containerID": "c1", "reason": UNKNOWN_END}});
        for (pod, expected) in [
            (pod("u-1", 0, "c1", ended("c1", 3), json!({})), Fate::Ended(3)),
            (pod("u-1", 1, "c2", running(), ended("c1", 1)), Fate::Ended(1)),
            (pod("u-1", 1, "c2", ended("c2", 0), ended("c1", 1)), Fate::Ended(1)),
            (pod("u-1", 2, "c3", running(), ended("c2", 0)), Fate::Unknown),
            (pod("u-1", 0, "c1", running(), json!({})), Fate::Runs),
            (pod("u-1", 0, "c2", running(), json!({})), Fate::Unknown),
            (pod("u-1", 0, "c1", ended("c1", -1), json!({})), Fate::Unknown),
            (pod("u-1", 0, "c1", made_up, json!({})), Fate::Unknown),
            (pod("u-2", 0, "c1", ended("c1", 0), json!({})), Fate::Unknown),
            (Pod::default(), Fate::Unknown),
        ] {
            assert_eq!(fate(&pod, &own(), "c1"), expected, "{pod:?}");
        }
    }

    #[test]
    fn an_operator_that_starts_the_program_again_is_known_by_its_pod() {
        for restarts_so_far in [0, 1, 2] {
            let mut pod = pod("u-1", restarts_so_far, "c2", running(), ended("c1", 3));
            assert!(restarts(&pod, &own()), "what is not said is Always");
            pod.spec.get_or_insert_default().restart_policy = Some("Always".to_owned());
            assert!(restarts(&pod, &own()));
            pod.spec.get_or_insert_default().restart_policy = Some("Never".to_owned());
            assert!(!restarts(&pod, &own()));
        }
        assert!(!restarts(&pod("u-2", 1, "c2", running(), json!({})), &own()), "another sandbox's");
    }

    #[test]
    fn a_run_of_another_pod_is_another_and_the_same_one_over_is_not() {
        let first = First { container: "c1".to_owned(), is_previous: false };
        assert!(is_another(&pod("u-1", 0, "c2", running(), json!({})), &own(), &first));
        for same in [
            pod("u-1", 0, "c1", running(), json!({})),
            pod("u-1", 0, "c1", ended("c1", 3), json!({})),
            pod("u-1", 0, "", waiting(), json!({})),
            pod("u-2", 0, "c2", running(), json!({})),
        ] {
            assert!(!is_another(&same, &own(), &first), "{same:?}");
        }
    }

    #[tokio::test]
    async fn output_is_shown_harmless_and_a_log_that_breaks_off_is_no_error() {
        let mut out = Vec::new();
        show(futures::io::Cursor::new(b"a\x1b[2J\xc3"), Shown::Harmless, &mut out).await.unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a\\u{1b}[2J\u{fffd}");
        let broken = futures::stream::iter([Ok(b"a".to_vec()), Err(std::io::Error::other("cut"))]);
        let mut out = Vec::new();
        let log = futures::TryStreamExt::into_async_read(broken);
        show(log, Shown::Raw, &mut out).await.unwrap();
        assert_eq!(out, b"a");
    }

    #[test]
    fn the_log_of_a_run_that_another_followed_is_not_waited_for() {
        assert!(params(true, None).previous && !params(true, None).follow);
        let again = params(false, Some(9));
        assert!(!again.previous && again.follow && again.since_seconds == Some(9));
    }
}

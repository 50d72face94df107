//! What the kubelet says about the two pods.

use crate::controller::accept::UpstreamLogin;
use agentsandbox_crds::credential::SecretKeyRef;
use agentsandbox_policy::SecretError;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;
use serde::Deserialize;

use super::{ConditionType, Holds, Reason, Verdict, secrets};
use crate::controller::apply::Applied;
use crate::controller::desired::{agent_pod, proxy_pod, workspace};
use crate::controller::observe::denials::Held;
use crate::controller::observe::ready_since;
use crate::controller::outcome::Workload;
use crate::controller::plan::Doomed;

/// Most that is told of what a program said last: it is the program's to write.
const LAST_WORDS_CHARACTERS_MAX: usize = 200;

/// What the proxy writes when it cannot start.
#[derive(Debug, Deserialize)]
struct LastWords {
    reason: CredentialFault,
    credential: String,
    message: String,
    /// Name of a [`SecretError`]; text, so that one of another version does not hide the rest.
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum CredentialFault {
    CredentialMissing,
    CredentialMalformed,
}

pub(super) fn credentials_ready(workload: &Workload) -> Verdict {
    let (holds, reason, message) = credentials(workload);
    Verdict::new(ConditionType::CredentialsReady, holds, reason, message)
}

fn credentials(workload: &Workload) -> (Holds, Reason, String) {
    if workload.credentials.is_empty() {
        return (Holds::True, Reason::NoneNeeded, "No rule names a credential.".to_owned());
    }
    let pod = match &workload.proxy {
        Applied::Present(pod) => pod,
        Applied::Replacing(doomed) => {
            return (Holds::Unknown, Reason::Replacing, replacing("proxy", doomed));
        }
        Applied::Ended(..) | Applied::Absent => {
            return (Holds::Unknown, Reason::ProxyStarting, "The proxy has not started yet.".to_owned());
        }
    };
    if ready_since(pod).is_some() {
        return held(workload);
    }
    match last_words(pod) {
        Some(LastWords { reason, credential, message, error }) => {
            let reason = match reason {
                CredentialFault::CredentialMissing => Reason::CredentialMissing,
                CredentialFault::CredentialMalformed => Reason::CredentialMalformed,
            };
            let told = format!(
                "{message} Correct the Secret that its secretRef names; the proxy tries again by itself."
            );
            let message = unusable(
                workload,
                (&credential, error.as_deref()),
                ("The proxy tries again by itself.", &told),
            );
            (Holds::False, reason, message)
        }
        None => (
            Holds::Unknown,
            Reason::ProxyStarting,
            "The proxy is starting and has not loaded the credentials yet.".to_owned(),
        ),
    }
}

/// What a proxy that is ready holds. One that lost a secret stays ready: it serves what does not need it.
fn held(workload: &Workload) -> (Holds, Reason, String) {
    let lacks = match &workload.held {
        Held::NotAsked => {
            return (
                Holds::True,
                Reason::LoadedAtStart,
                "The proxy held every credential that a rule names when it became ready; it is not asked whether it still does."
                    .to_owned(),
            );
        }
        Held::AllBut(lacks) => lacks,
    };
    let Some(first) = lacks.first() else {
        return (
            Holds::True,
            Reason::Loaded,
            "The proxy holds every credential that a rule names.".to_owned(),
        );
    };
    let (reason, why) = match first.reason.as_str() {
        "CredentialMissing" => (
            Reason::CredentialMissing,
            "its Secret or the key is gone. Create it again; until the kubelet has mounted it, requests that need it are denied.",
        ),
        _ => (
            Reason::CredentialMalformed,
            "its value is empty, too long, or not visible ASCII, or it is no certificate with its own private key. Store the bare value, or the pair, in the Secret; until the kubelet has mounted it, requests that need it are denied.",
        ),
    };
    let then = "Until the kubelet has mounted what you store, requests that need it are denied.";
    (Holds::False, reason, unusable(workload, (&first.name, first.error.as_deref()), (then, why)))
}

/// A credential that cannot be used, as sentences: its Secret, what is wrong with it and what comes then, or what was told where
/// that is not known. Nobody wrote the one that is the login at a class's upstream proxy.
fn unusable(
    workload: &Workload,
    (credential, error): (&str, Option<&str>),
    (then, told): (&str, &str),
) -> String {
    if let Some(login) = workload.login.as_ref().filter(|login| login.credential == credential) {
        return without_login(login);
    }
    let place = workload.credentials.get(credential);
    match place.zip(error.and_then(SecretError::named)) {
        Some((place, error)) => {
            format!("AgentCredential {credential} cannot be used: {}. {then}", secrets::fault(place, error))
        }
        None => format!("AgentCredential {credential} cannot be used: {told}"),
    }
}

fn without_login(login: &UpstreamLogin) -> String {
    let UpstreamLogin { class, secret: SecretKeyRef { name, key }, .. } = login;
    format!(
        "The login at the upstream proxy of class {class} cannot be used: create or correct the Secret {name} of this namespace, with the password under the key {key}; the proxy tries again by itself."
    )
}

fn last_words(pod: &Pod) -> Option<LastWords> {
    let status = container(pod, proxy_pod::CONTAINER)?;
    [status.state.as_ref(), status.last_state.as_ref()]
        .into_iter()
        .flatten()
        .find_map(|state| serde_json::from_str(state.terminated.as_ref()?.message.as_deref()?).ok())
}

pub(super) fn proxy_ready(workload: &Workload) -> Verdict {
    let starting = |reason, message| Verdict::new(ConditionType::ProxyReady, Holds::Unknown, reason, message);
    let pod = match &workload.proxy {
        Applied::Present(pod) => pod,
        Applied::Replacing(doomed) => return starting(Reason::Replacing, replacing("proxy", doomed)),
        Applied::Ended(why, _) => return starting(Reason::Ended, ended_pod("proxy", why)),
        Applied::Absent => {
            return starting(Reason::ProxyStarting, "The proxy has not started yet.".to_owned());
        }
    };
    if ready_since(pod).is_some() {
        return Verdict::new(ConditionType::ProxyReady, Holds::True, Reason::Serving, "The proxy serves.");
    }
    match trouble(pod, "proxy", Reason::ProxyFailing) {
        Some((reason, message)) => Verdict::new(ConditionType::ProxyReady, Holds::False, reason, message),
        None if is_running(pod) => starting(
            Reason::ProxyStarting,
            format!(
                "The proxy runs and is not ready. If it stays so, its log says what it waits for: kubectl logs {}.",
                pod.name_any()
            ),
        ),
        None => starting(Reason::ProxyStarting, "The proxy is starting.".to_owned()),
    }
}

/// Whether the proxy's container has started, as far as its kubelet tells.
fn is_running(pod: &Pod) -> bool {
    container(pod, proxy_pod::CONTAINER).is_some_and(|status| status.started == Some(true))
}

/// A fact about the agent's own container, which only Ready tells.
pub(super) fn agent_running(workload: &Workload) -> Verdict {
    let starting =
        |reason, message: &str| Verdict::new(ConditionType::Ready, Holds::Unknown, reason, message);
    let pod = match &workload.agent {
        Applied::Present(pod) => pod,
        Applied::Replacing(doomed) => return starting(Reason::Replacing, &replacing("agent", doomed)),
        Applied::Ended(why, _) => return starting(Reason::Ended, &ended_pod("agent", why)),
        Applied::Absent => {
            return starting(
                Reason::ProxyStarting,
                "The agent starts when its proxy serves and is closed to others.",
            );
        }
    };
    if ready_since(pod).is_some() {
        return Verdict::new(ConditionType::Ready, Holds::True, Reason::Running, "The agent runs.");
    }
    let is_done = container(pod, agent_pod::AGENT)
        .is_some_and(|status| status.state.as_ref().is_some_and(|state| state.terminated.is_some()));
    if is_done && agent_pod::runs_once(pod) {
        return starting(
            Reason::Finished,
            "The program has ended; its node has not said yet what came of the pod.",
        );
    }
    match trouble(pod, "agent", Reason::AgentFailing) {
        Some((reason, message)) => Verdict::new(ConditionType::Ready, Holds::False, reason, message),
        None => starting(Reason::AgentStarting, "The agent's pod is starting."),
    }
}

/// A pod that another one follows, as a sentence. One whose node is dead ends only with its Node.
pub(super) fn replacing(what: &str, Doomed { name, node, .. }: &Doomed) -> String {
    match node {
        Some(node) => format!(
            "The {what}'s pod is replaced once {name} on node {node} has ended. If that node is gone for good, delete the Node."
        ),
        None => format!(
            "The {what}'s pod is replaced once {name} has ended. If it does not end, see why: kubectl describe pod {name}."
        ),
    }
}

/// A pod that is over, as a sentence.
pub(super) fn ended_pod(what: &str, why: &str) -> String {
    format!(
        "The {what}'s pod ended and is replaced ({}). If that comes again, raise the limit that it ran into, or free room on its node.",
        why.trim_end().trim_end_matches('.')
    )
}

/// What a scheduler says of a pod that no node takes.
pub(super) fn unscheduled(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
    Some(sentence(found.message.as_deref().unwrap_or("no node was found")))
}

/// What keeps a pod from running, as far as its status tells.
fn trouble(pod: &Pod, what: &str, failing: Reason) -> Option<(Reason, String)> {
    let status = pod.status.as_ref()?;
    let of = |type_: &str| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.find(|one| one.type_ == type_ && one.status == "False")
    };
    if let Some(condition) = of("PodScheduled") {
        let why = condition.message.as_deref().unwrap_or("no node was found");
        return Some((
            Reason::Unschedulable,
            format!("No node takes the {what}'s pod: {why} Free or add a node that fits."),
        ));
    }
    // The kubelet writes both at once. Where only the pod is said not to be ready, it was not the kubelet that said so, but the
    // control plane, which does not hear of it any more.
    let containers = status.container_statuses.iter().flatten();
    let called_ready = containers.clone().count() > 0 && containers.clone().all(|one| one.ready);
    if called_ready && of("Ready").is_some() {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        return Some((
            Reason::NodeUnreachable,
            format!(
                "Node {node}, which has the {what}'s pod, does not report any more. Bring it back; if it is gone for good, delete the Node."
            ),
        ));
    }
    let init = status.init_container_statuses.iter().flatten();
    init.chain(containers).find_map(|container| stuck(pod, container, what, failing))
}

fn stuck(pod: &Pod, status: &ContainerStatus, what: &str, failing: Reason) -> Option<(Reason, String)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let detail = sentence(waiting.message.as_deref().unwrap_or("no cause is told"));
    match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull"
        | "ImageInspectError" => Some((
            Reason::ImageUnavailable,
            format!(
                "The image of {} cannot be pulled: {detail} Correct the image's name, or make it available to the nodes.",
                status.name
            ),
        )),
        // Their own conditions say why.
        "CrashLoopBackOff" if [agent_pod::FENCE, workspace::WORKSPACE].contains(&status.name.as_str()) => {
            None
        }
        "CrashLoopBackOff" => Some((failing, ends(pod, status, what))),
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "PostStartHookError" => Some((failing, not_started(status, what, &detail))),
        _ => None,
    }
}

/// A container that ends again and again: how it ended last, and what to do.
fn ends(pod: &Pod, status: &ContainerStatus, what: &str) -> String {
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let said = last.and_then(|last| last.message.as_deref()).map(str::trim).filter(|said| !said.is_empty());
    // A container that never ran has no log; what kept it from running is all there is.
    if let (Some("StartError" | "ContainerCannotRun"), Some(said)) =
        (last.and_then(|last| last.reason.as_deref()), said)
    {
        return not_started(status, what, &sentence(said));
    }
    let count = status.restart_count;
    let how = last.map_or_else(|| "no exit code is known".to_owned(), ended);
    let said = said.map_or_else(String::new, |said| format!(" It said last: {}", sentence(said)));
    if status.name == agent_pod::AGENT && last.is_some_and(|last| last.exit_code == 0) {
        return format!(
            "The agent's program is done and was started again {count} times, since it is to run as long as its sandbox ({how}).{said} Delete the sandbox if its work is done, or give it a program that goes on."
        );
    }
    format!(
        "The {what} ends again and again: {how}, started again {count} times.{said} Read its log: kubectl logs {} -c {} --previous.",
        pod.name_any(),
        status.name
    )
}

fn not_started(status: &ContainerStatus, what: &str, why: &str) -> String {
    let remedy = match status.name.as_str() {
        agent_pod::AGENT => "Correct the image, or spec.agent.command and spec.agent.workingDir.",
        _ => "Correct the images of the operator's installation.",
    };
    format!("The {what}'s container cannot be started: {why} {remedy}")
}

fn ended(last: &ContainerStateTerminated) -> String {
    format!("exit code {}, {}", last.exit_code, last.reason.as_deref().unwrap_or("no reason"))
}

/// What somebody else said, as one line that ends.
fn sentence(said: &str) -> String {
    let plain: String = said.trim().chars().map(|one| if one.is_control() { ' ' } else { one }).collect();
    let short: String = plain.chars().take(LAST_WORDS_CHARACTERS_MAX).collect();
    match short.ends_with(['.', '!', '?']) && short.len() == plain.len() {
        true => short,
        false if short.len() < plain.len() => format!("{short}…"),
        false => format!("{short}."),
    }
}

fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == name)
}

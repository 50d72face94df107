//! What the kubelet says about the two pods.

use crate::controller::accept::UpstreamLogin;
use agentsandbox_crds::credential::SecretKeyRef;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use serde::Deserialize;

use super::{ConditionType, Holds, Reason, Verdict};
use crate::controller::apply::Applied;
use crate::controller::desired::{agent_pod, proxy_pod};
use crate::controller::observe::ready_since;
use crate::controller::outcome::Workload;

/// What the proxy writes when it cannot start.
#[derive(Debug, Deserialize)]
struct LastWords {
    reason: CredentialFault,
    credential: String,
    message: String,
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
    if workload.credentials == 0 {
        return (Holds::True, Reason::NoneNeeded, "No rule names a credential.".to_owned());
    }
    let Applied::Present(pod) = &workload.proxy else {
        return (Holds::Unknown, Reason::ProxyStarting, "The proxy has not started yet.".to_owned());
    };
    if ready_since(pod).is_some() {
        return (
            Holds::True,
            Reason::Loaded,
            "The proxy holds every credential that a rule names.".to_owned(),
        );
    }
    match last_words(pod) {
        Some(LastWords { reason, credential, message }) => {
            let reason = match reason {
                CredentialFault::CredentialMissing => Reason::CredentialMissing,
                CredentialFault::CredentialMalformed => Reason::CredentialMalformed,
            };
            let login = workload.login.as_ref().filter(|login| login.credential == credential);
            let message = login.map_or_else(
                || {
                    format!(
                        "AgentCredential {credential} cannot be used: {message} Correct the Secret that its secretRef names; the proxy tries again by itself."
                    )
                },
                without_login,
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
        Applied::Replacing => return starting(Reason::Replacing, "The proxy is being replaced.".to_owned()),
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
        None => starting(Reason::ProxyStarting, "The proxy is starting.".to_owned()),
    }
}

/// A fact about the agent's own container, which only Ready tells.
pub(super) fn agent_running(workload: &Workload) -> Verdict {
    let starting =
        |reason, message: &str| Verdict::new(ConditionType::Ready, Holds::Unknown, reason, message);
    let pod = match &workload.agent {
        Applied::Present(pod) => pod,
        Applied::Replacing => return starting(Reason::Replacing, "The agent's pod is being replaced."),
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
    match trouble(pod, "agent", Reason::AgentFailing) {
        Some((reason, message)) => Verdict::new(ConditionType::Ready, Holds::False, reason, message),
        None => starting(Reason::AgentStarting, "The agent's pod is starting."),
    }
}

/// A pod that is over, as a sentence.
pub(super) fn ended_pod(what: &str, why: &str) -> String {
    format!("The {what}'s pod ended and is replaced ({}).", why.trim_end_matches('.'))
}

/// What keeps a pod from starting, as far as its status tells.
fn trouble(pod: &Pod, what: &str, failing: Reason) -> Option<(Reason, String)> {
    let status = pod.status.as_ref()?;
    let unscheduled =
        status.conditions.iter().flatten().find(|c| c.type_ == "PodScheduled" && c.status == "False");
    if let Some(condition) = unscheduled {
        let why = condition.message.as_deref().unwrap_or("no node was found");
        return Some((
            Reason::Unschedulable,
            format!("No node takes the {what}'s pod: {why} Free or add a node that fits."),
        ));
    }
    let init = status.init_container_statuses.iter().flatten();
    let all = init.chain(status.container_statuses.iter().flatten());
    all.filter_map(|container| stuck(container, what, failing)).next()
}

fn stuck(status: &ContainerStatus, what: &str, failing: Reason) -> Option<(Reason, String)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let detail = waiting.message.as_deref().unwrap_or_default();
    match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull"
        | "ImageInspectError" => Some((
            Reason::ImageUnavailable,
            format!(
                "The image of {} cannot be pulled: {detail} Correct the image's name, or make it available to the nodes.",
                status.name
            ),
        )),
        "CrashLoopBackOff" if status.name == agent_pod::FENCE => None,
        "CrashLoopBackOff" => Some((
            failing,
            format!(
                "The {what} ends again and again ({}). Read its log: kubectl logs <sandbox>-{what} -c {}.",
                ended(status),
                status.name
            ),
        )),
        "CreateContainerConfigError"
        | "CreateContainerError"
        | "RunContainerError"
        | "PostStartHookError" => {
            Some((failing, format!("The {what}'s container cannot be started: {detail}")))
        }
        _ => None,
    }
}

fn ended(status: &ContainerStatus) -> String {
    let last = status.last_state.as_ref().and_then(|state: &ContainerState| state.terminated.as_ref());
    last.map_or_else(
        || "no exit code is known".to_owned(),
        |last| format!("exit code {}, {}", last.exit_code, last.reason.as_deref().unwrap_or("no reason")),
    )
}

fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|status| status.name == name)
}

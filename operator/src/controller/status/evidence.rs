//! What the fence's report proves. A report that is missing, cut short or of another version proves nothing, and a
//! report of another kernel than the class promises proves that it is another kernel.

use agentsandbox_crds::class::Isolation;
use agentsandbox_report::{
    FenceReport, KernelKind, LimitReport, LimitsReport, RootReport, VERSION, Verdict as FenceVerdict,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;

use super::pods::{ended_pod, replacing};
use super::{ConditionType, Holds, Reason, Verdict};
use crate::controller::apply::Applied;
use crate::controller::desired::{Component, agent_pod};
use crate::controller::evaluate::{Direction, Widening};
use crate::controller::observe::Closedness;
use crate::controller::outcome::{UNMADE_PATIENCE, Workload};

/// Which run of the fence a report is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Run {
    Last,
    Earlier,
}

/// What is known of the fence's last run.
pub(super) enum Fence {
    /// Nothing.
    Silent,
    /// It said something that cannot be read.
    Unreadable,
    /// This.
    Reported(Box<FenceReport>),
}

pub(super) fn network_isolated(workload: &Workload, now: Timestamp) -> Verdict {
    let (holds, reason, message) = network(workload, now);
    Verdict::new(ConditionType::NetworkIsolated, holds, reason, message)
}

/// The same of walls that another policy widens, whatever runs behind them.
pub(super) fn widened(widening: &Widening) -> Verdict {
    let (holds, reason, message) = widens(widening);
    Verdict::new(ConditionType::NetworkIsolated, holds, reason, message)
}

/// The same of a proxy that others than its agent can reach.
pub(super) fn proxy_open() -> Verdict {
    let (holds, reason, message) = reachable();
    Verdict::new(ConditionType::NetworkIsolated, holds, reason, message)
}

fn reachable() -> (Holds, Reason, String) {
    let message = "The operator itself can connect to the proxy, so NetworkPolicies are not enforced here. Install a network plugin that enforces them; no agent runs until they are.";
    (Holds::False, Reason::ProxyOpen, message.to_owned())
}

fn widens(widening: &Widening) -> (Holds, Reason, String) {
    let whose = match widening.component {
        Component::Agent => "the agent",
        Component::Proxy => "the proxy",
    };
    let (reason, way) = match widening.direction {
        Direction::Egress => (Reason::EgressWidened, "out of"),
        Direction::Ingress => (Reason::IngressWidened, "into"),
    };
    let message = format!(
        "NetworkPolicy {} allows traffic {way} {whose} beside the sandbox's own walls. Narrow its podSelector so that it does not select pods labelled agentsandbox.dev/component, or delete it; no agent runs until then.",
        widening.policy
    );
    (Holds::False, reason, message)
}

fn network(workload: &Workload, now: Timestamp) -> (Holds, Reason, String) {
    if let Some(widening) = &workload.widening {
        return widens(widening);
    }
    if workload.open_too_long(now) || workload.closed == Closedness::Reopened {
        return reachable();
    }
    let seen = fence(workload);
    match &workload.agent {
        Applied::Ended(why, _) => return (Holds::Unknown, Reason::Ended, ended_pod("agent", why)),
        Applied::Replacing(doomed) if matches!(seen, Fence::Silent) => {
            return (Holds::Unknown, Reason::Replacing, replacing("agent", doomed));
        }
        Applied::Replacing(_) | Applied::Present(_) | Applied::Absent => {}
    }
    let report = match seen {
        Fence::Silent => {
            return unprobed(&workload.closed).or_else(|| unmade(workload, now)).unwrap_or_else(silent);
        }
        Fence::Unreadable => return unreadable(),
        Fence::Reported(report) => report,
    };
    proven(&report, &workload.closed)
}

fn proven(report: &FenceReport, closed: &Closedness) -> (Holds, Reason, String) {
    match report.verdict {
        FenceVerdict::EgressOpen => (Holds::False, Reason::EgressOpen, format!(
            "From inside the sandbox these direct routes are open: {}. Make the cluster's network plugin enforce NetworkPolicies for them; the agent is not started.",
            report.walls.open.join(", ")
        )),
        FenceVerdict::ProxyUnreachable if closed.proof().is_none() => unprobed(closed).unwrap_or_else(early),
        FenceVerdict::ProxyUnreachable => (Holds::Unknown, Reason::ProxyUnreachable,
            format!("The fence could not enrol with the proxy and tries again: {} If it stays like this, read the logs of both.", report.message)),
        FenceVerdict::Failed => (Holds::Unknown, Reason::FenceFailed,
            format!("The fence failed and tries again: {} If it stays like this, read its log: it is the container fence of the agent's pod.", report.message)),
        FenceVerdict::WrongKernel | FenceVerdict::LimitsMissing | FenceVerdict::ProcessSandboxMissing => {
            (Holds::Unknown, Reason::FencePending, "The fence stopped before it had tried the routes.".to_owned())
        }
        FenceVerdict::Proven if !is_whole(report) => unreadable(),
        FenceVerdict::Proven => match closed {
            Closedness::Proven(_) => (Holds::True, Reason::Proven, format!(
                "{} direct routes were tried from inside and are closed, and the proxy is closed to others.",
                report.walls.closed.len()
            )),
            Closedness::Waived(_) => (Holds::True, Reason::ProvenWithoutProbe, format!(
                "{} direct routes were tried from inside and are closed; the operator's own probe of the proxy is switched off by --wall-probe none.",
                report.walls.closed.len()
            )),
            Closedness::Seen(..) => (Holds::Unknown, Reason::ProbePending,
                "The agent's routes are closed; the proxy was found closed to others once, and is tried once more.".to_owned()),
            Closedness::Unclear(_) => unprobed(closed).unwrap_or_else(silent),
            Closedness::Untried | Closedness::Open | Closedness::Reopened => (Holds::Unknown, Reason::ProxyStarting,
                "The agent's routes are closed; the proxy has not been proven closed to others since it was replaced.".to_owned()),
        },
    }
}

/// The fence of an agent's pod that came up before its proxy.
fn early() -> (Holds, Reason, String) {
    let message = "The proxy does not serve yet, or was not found closed to others yet, so nothing leads to it; the fence waits for it.";
    (Holds::Unknown, Reason::ProxyStarting, message.to_owned())
}

fn silent() -> (Holds, Reason, String) {
    let message = "The fence has not reported yet; the agent is not started before it does.";
    (Holds::Unknown, Reason::FencePending, message.to_owned())
}

fn unmade(workload: &Workload, now: Timestamp) -> Option<(Holds, Reason, String)> {
    let since = workload.unmade_since()?;
    let Applied::Present(pod) = &workload.agent else { return None };
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    (now.duration_since(since) >= UNMADE_PATIENCE).then(|| {
        let message = format!(
            "Node {node} has not made the agent's pod yet. Its events say why, for instance that the node lacks the handler of the RuntimeClass: kubectl describe pod {name}."
        );
        (Holds::Unknown, Reason::PodSandboxPending, message)
    })
}

fn unprobed(closed: &Closedness) -> Option<(Holds, Reason, String)> {
    let Closedness::Unclear(why) = closed else { return None };
    let message = format!(
        "The operator could not try whether the proxy is closed to others ({why}); it tries again. If it stays like this, see what keeps the operator from connecting to port 3128 of the proxy."
    );
    Some((Holds::Unknown, Reason::ProbeFailed, message))
}

fn unreadable() -> (Holds, Reason, String) {
    (Holds::Unknown, Reason::ReportInvalid,
        "The fence's report cannot be read, so nothing is proven. Use operator and init images of one version.".to_owned())
}

pub(super) fn runtime_verified(workload: &Workload) -> Verdict {
    let (holds, reason, message) = runtime(workload);
    Verdict::new(ConditionType::RuntimeVerified, holds, reason, message)
}

fn runtime(workload: &Workload) -> (Holds, Reason, String) {
    let report = match fence(workload) {
        Fence::Silent => return silent(),
        Fence::Unreadable => return unreadable(),
        Fence::Reported(report) => report,
    };
    let promised = match workload.isolation {
        Isolation::GVisor => KernelKind::GVisor,
        Isolation::Kata => KernelKind::VirtualMachine,
        Isolation::Container => KernelKind::Linux,
    };
    if report.kernel.kind != promised || report.verdict == FenceVerdict::WrongKernel {
        return (
            Holds::False,
            Reason::WrongKernel,
            format!(
                "The class promises {promised:?}, but the pod runs on {:?} ({}). Correct the handler of the class's RuntimeClass on the nodes; the agent is not started.",
                report.kernel.kind, report.kernel.version
            ),
        );
    }
    if report.verdict == FenceVerdict::LimitsMissing {
        return (
            Holds::False,
            Reason::LimitsMissing,
            format!(
                "A limit does not hold inside the pod: {} Set the limit on the node (podPidsLimit, PodLevelResources); the agent is not started.",
                report.message
            ),
        );
    }
    if report.verdict == FenceVerdict::ProcessSandboxMissing {
        return (
            Holds::False,
            Reason::ProcessSandboxMissing,
            format!(
                "The process sandbox cannot be had on this node: {} Run the sandbox on nodes that have it, or without processSandbox, execution: Deny and a class of agentNetwork: None; the agent is not started.",
                report.message
            ),
        );
    }
    if report.verdict != FenceVerdict::Proven {
        return (
            Holds::Unknown,
            Reason::FencePending,
            format!("The kernel is {}, but the fence has not finished.", report.kernel.version),
        );
    }
    if workload.without_network && !report.loopback_only {
        return unreadable();
    }
    (
        Holds::True,
        Reason::KernelVerified,
        format!(
            "The pod runs on {promised:?} ({}). {}{}{}{}",
            report.kernel.version,
            limits(report.limits.as_ref()),
            root(report.kernel.root),
            process_sandbox(report.landlock_version),
            left_network(report.loopback_only)
        ),
    )
}

/// Whom the node takes the pod's root for, where its kernel shows that. No pod asks for a user namespace, but a runtime may give it one.
const fn root(report: Option<RootReport>) -> &'static str {
    match report {
        Some(RootReport::Node) => " Root inside would be root of the node: no user namespace stands between.",
        Some(RootReport::Mapped) => {
            " Root inside would be nobody on the node: a user namespace stands between."
        }
        None => "",
    }
}

const fn left_network(loopback_only: bool) -> &'static str {
    if loopback_only {
        " A program was seen to leave the pod's network here, but for the process that carries to the proxy; the agent starts by it."
    } else {
        ""
    }
}

fn process_sandbox(landlock_version: Option<u32>) -> String {
    landlock_version.map_or_else(String::new, |version| {
        format!(" A process sandbox was seen to hold here, by Landlock version {version}; the agent starts in one.")
    })
}

/// What was seen of the limits, and no more: a limit that the kernel does not show is not said to hold.
fn limits(report: Option<&LimitsReport>) -> String {
    let Some(report) = report else { return "Its limits were not read.".to_owned() };
    let named = [("memory", report.memory_bytes), ("CPU", report.cpu_millis), ("process", report.pids)];
    let those = |wanted: fn(&LimitReport) -> bool| {
        let names = named.iter().filter(|(_, limit)| wanted(limit)).map(|(name, _)| *name);
        names.collect::<Vec<_>>().join(" and ")
    };
    let unseen = those(|limit| *limit == LimitReport::Unseen);
    let unlimited = those(|limit| *limit == LimitReport::Unlimited);
    let held = those(|limit| matches!(limit, LimitReport::At(_)));
    if unseen.is_empty() && unlimited.is_empty() {
        return "Its limits hold.".to_owned();
    }
    let told = [
        (held, "limits seen to hold inside"),
        (unlimited, "limits that do not exist"),
        (unseen, "limits that the kernel does not show, so that nothing is known of them"),
    ];
    let told =
        told.iter().filter(|(names, _)| !names.is_empty()).map(|(names, what)| format!("{what}: {names}"));
    let text = told.collect::<Vec<_>>().join("; ");
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>() + letters.as_str() + ".")
        .unwrap_or_default()
}

/// Whether a report that says "proven" says all that makes a proof.
fn is_whole(report: &FenceReport) -> bool {
    let walls = &report.walls;
    walls.open.is_empty() && !walls.closed.is_empty() && walls.closed_after_millis.is_some() && walls.enrolled
}

/// The fence's last report: on this pod, or on the one before it where that failed and this one says nothing yet.
pub(super) fn fence(workload: &Workload) -> Fence {
    let own = match &workload.agent {
        Applied::Present(pod) => fence_message(pod)
            .map(|text| (text, Run::Last))
            .or_else(|| Some((earlier_message(pod)?, Run::Earlier))),
        _ => None,
    };
    let before = || Some((fence_message(&workload.failed.as_ref()?.pod)?, Run::Earlier));
    let Some((text, run)) = own.or_else(before) else { return Fence::Silent };
    match serde_json::from_str::<FenceReport>(text) {
        // A fence that runs again proves anew; what an earlier run found open is still worth telling.
        Ok(report) if run == Run::Earlier && report.verdict == FenceVerdict::Proven => Fence::Silent,
        Ok(report) if report.version == VERSION => Fence::Reported(Box::new(report)),
        _ => Fence::Unreadable,
    }
}

/// Whether the fence of this pod proved everything: what a recreated proxy needs to know before it serves this agent.
#[must_use]
pub fn is_proven(pod: &Pod) -> bool {
    let report = fence_message(pod).and_then(|text| serde_json::from_str::<FenceReport>(text).ok());
    report.is_some_and(|report| {
        report.version == VERSION && report.verdict == FenceVerdict::Proven && is_whole(&report)
    })
}

/// Whether the fence of this pod said, in a report that can be read, that something is not proven.
#[must_use]
pub fn is_disproven(pod: &Pod) -> bool {
    let report = fence_message(pod).and_then(|text| serde_json::from_str::<FenceReport>(text).ok());
    report.is_some_and(|report| report.version == VERSION) && !is_proven(pod)
}

/// Whether the kubelet lets this pod's fence, which failed before, wait before it starts it again.
#[must_use]
pub fn is_backing_off(pod: &Pod) -> bool {
    let waiting = init_status(pod).and_then(|status| status.state.as_ref()?.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"))
}

/// What the fence said when it ended, if it has not begun again: a pod whose own sandbox restarted is another network.
fn fence_message(pod: &Pod) -> Option<&str> {
    init_status(pod)?.state.as_ref()?.terminated.as_ref()?.message.as_deref()
}

/// What the fence said in an earlier run, while it waits for the next; of one that runs nothing is known.
fn earlier_message(pod: &Pod) -> Option<&str> {
    let status = init_status(pod)?;
    if status.state.as_ref().is_some_and(|state| state.running.is_some()) {
        return None;
    }
    status.last_state.as_ref()?.terminated.as_ref()?.message.as_deref()
}

fn init_status(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status
        .as_ref()?
        .init_container_statuses
        .as_ref()?
        .iter()
        .find(|status| status.name == agent_pod::FENCE)
}

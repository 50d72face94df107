//! What is observed and what a pass came to, against the conditions that say so.

use std::collections::BTreeMap;

use agentsandbox_crds::class::Isolation;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;
use crate::controller::accept::{RejectionReason, SecretPlace, UpstreamLogin};
use crate::controller::apply::Applied;
use crate::controller::desired::{ChildKind, Component};
use crate::controller::evaluate::{Direction, Widening};
use crate::controller::observe::denials::Held;
use crate::controller::observe::{Closedness, ProxyClosed};
use crate::controller::outcome::{Left, Lost};
use crate::controller::plan::Doomed;
use crate::fixtures::{agent_pod, from, proxy_pod, report, reported, sandbox};

mod failed;
mod kstatus;
mod network;
mod suspended;
mod trouble;
mod unlisted;
mod workspace;

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn value(secret: &str, key: &str) -> SecretPlace {
    SecretPlace { secret: secret.to_owned(), key: Some(key.to_owned()) }
}

fn pair(secret: &str) -> SecretPlace {
    SecretPlace { secret: secret.to_owned(), key: None }
}

/// A whole sandbox: everything proven, the agent running.
fn whole() -> Workload {
    Workload {
        isolation: Isolation::GVisor,
        without_network: false,
        fetches: false,
        claim: None,
        missing: None,
        credentials: BTreeMap::from([("anthropic".to_owned(), value("keys", "api-key"))]),
        login: None,
        held: Held::AllBut(Vec::new()),
        proxy: Applied::Present(Box::new(proxy_pod("10.244.0.8"))),
        closed: Closedness::Proven(ProxyClosed::for_tests()),
        agent: Applied::Present(Box::new(agent_pod())),
        failed: None,
        widening: None,
    }
}

fn with(change: impl FnOnce(&mut Workload)) -> Stage {
    let mut workload = whole();
    change(&mut workload);
    Stage::Standing(Box::new(workload))
}

fn outcome(stage: Stage) -> Outcome {
    Outcome { class_name: Some("gvisor".to_owned()), started: None, idle_since: None, off: None, stage }
}

type Told = BTreeMap<String, (String, String)>;

/// Every condition as (status, reason), by type.
fn told(stage: Stage) -> Told {
    let status = status(&sandbox(|_| ()), &outcome(stage), None, now()).unwrap();
    for condition in &status.conditions {
        assert!(!condition.message.is_empty() && condition.observed_generation == Some(3), "{condition:?}");
    }
    status.conditions.into_iter().map(|c| (c.type_, (c.status, c.reason))).collect()
}

fn message(stage: Stage, type_: &str) -> String {
    let status = status(&sandbox(|_| ()), &outcome(stage), None, now()).unwrap();
    status.conditions.into_iter().find(|c| c.type_ == type_).unwrap().message
}

#[track_caller]
fn says(told: &Told, type_: &str, status: &str, reason: &str) {
    assert_eq!(told[type_], (status.to_owned(), reason.to_owned()), "{type_} of {told:#?}");
}

/// An agent whose fence said this.
fn fenced(change: impl FnOnce(&mut Value)) -> Applied {
    Applied::Present(Box::new(reported(agent_pod(), &report(change))))
}

/// A pod that is not ready, with this state of its container.
fn stuck(mut pod: Pod, state: &Value, last: &Value) -> Applied {
    let status = pod.status.as_mut().unwrap();
    status.conditions = None;
    let container = &mut status.container_statuses.as_mut().unwrap()[0];
    container.state = Some(from(state.clone()));
    container.last_state = Some(from(last.clone()));
    Applied::Present(Box::new(pod))
}

fn replacing(pod: Pod) -> Applied {
    Applied::Replacing(Doomed::pod(&pod))
}

#[test]
fn a_whole_sandbox_is_ready_and_nothing_is_left_to_do() {
    let told = told(with(|_| ()));
    for (type_, reason) in [
        ("Accepted", "Accepted"),
        ("CredentialsReady", "Loaded"),
        ("ProxyReady", "Serving"),
        ("NetworkIsolated", "Proven"),
        ("RuntimeVerified", "KernelVerified"),
        ("Ready", "Running"),
    ] {
        says(&told, type_, "True", reason);
    }
    says(&told, "Reconciling", "False", "Settled");
    says(&told, "Stalled", "False", "Settled");
}

fn widening(component: Component, direction: Direction) -> Option<Widening> {
    Some(Widening { policy: "let-all-out".to_owned(), component, direction })
}

#[test]
fn isolation_is_true_on_every_proof_together_and_on_nothing_less() {
    let proof = ProxyClosed::for_tests;
    let after = std::time::Duration::from_secs(1);
    let cases: Vec<(Stage, &str, &str)> = vec![
        (with(|w| w.closed = Closedness::Waived(proof())), "True", "ProvenWithoutProbe"),
        (with(|w| w.closed = Closedness::Seen(proof(), after)), "Unknown", "ProbePending"),
        (with(|w| w.closed = Closedness::Untried), "Unknown", "ProxyStarting"),
        (with(|w| w.closed = Closedness::Unclear("EMFILE".to_owned())), "Unknown", "ProbeFailed"),
        (with(|w| w.closed = Closedness::Open), "False", "ProxyOpen"),
        (with(|w| w.closed = Closedness::Reopened), "False", "ProxyOpen"),
        (with(|w| w.widening = widening(Component::Agent, Direction::Egress)), "False", "EgressWidened"),
        (with(|w| w.widening = widening(Component::Proxy, Direction::Ingress)), "False", "IngressWidened"),
        (with(|w| w.agent = Applied::Absent), "Unknown", "FencePending"),
        (with(|w| w.agent = replacing(agent_pod())), "Unknown", "Replacing"),
        (with(|w| w.agent = fenced(|r| r["verdict"] = json!("EgressOpen"))), "False", "EgressOpen"),
        (
            with(|w| w.agent = fenced(|r| r["verdict"] = json!("ProxyUnreachable"))),
            "Unknown",
            "ProxyUnreachable",
        ),
        (with(|w| w.agent = fenced(|r| r["verdict"] = json!("Failed"))), "Unknown", "FenceFailed"),
        (with(|w| w.agent = fenced(|r| r["verdict"] = json!("WrongKernel"))), "Unknown", "FencePending"),
    ];
    for (stage, status, reason) in cases {
        let context = format!("{stage:?}");
        let told = told(stage);
        assert_eq!(told["NetworkIsolated"], (status.to_owned(), reason.to_owned()), "{context}");
        assert_eq!(told["Ready"].0 == "True", status == "True", "{context}");
    }
}

#[test]
fn an_open_proxy_is_told_once_it_has_been_open_for_longer_than_policies_take() {
    let mut pod = proxy_pod("10.244.0.8");
    let running = json!({"running": {"startedAt": "2026-05-31T23:59:58Z"}});
    pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].state = Some(from(running));
    let young = told(with(|w| {
        w.closed = Closedness::Open;
        w.proxy = Applied::Present(Box::new(pod));
        w.agent = Applied::Absent;
    }));
    says(&young, "NetworkIsolated", "Unknown", "FencePending");
}

#[test]
fn a_fence_that_came_before_its_proxy_raises_no_alarm() {
    let early = |closed: Closedness| {
        told(with(|w| {
            w.closed = closed;
            w.agent = fenced(|r| r["verdict"] = json!("ProxyUnreachable"));
        }))
    };
    says(&early(Closedness::Untried), "NetworkIsolated", "Unknown", "ProxyStarting");
    says(&early(Closedness::Unclear("EMFILE".to_owned())), "NetworkIsolated", "Unknown", "ProbeFailed");
    let proof = ProxyClosed::for_tests();
    says(&early(Closedness::Proven(proof)), "NetworkIsolated", "Unknown", "ProxyUnreachable");
    let open = told(with(|w| {
        w.closed = Closedness::Untried;
        w.agent = fenced(|r| r["verdict"] = json!("EgressOpen"));
    }));
    says(&open, "NetworkIsolated", "False", "EgressOpen");
}

#[test]
fn a_report_that_does_not_say_all_of_a_proof_proves_nothing() {
    let unread: [fn(&mut Value); 7] = [
        |r| r["version"] = json!(1),
        |r| r["extra"] = json!(1),
        |r| r["walls"]["closed"] = json!([]),
        |r| r["walls"]["open"] = json!(["tcp 10.96.0.1:443"]),
        |r| r["walls"]["enrolled"] = json!(false),
        |r| r["walls"]["closedAfterMillis"] = Value::Null,
        |r| *r = json!("cut sho"),
    ];
    for change in unread {
        let agent = fenced(change);
        let Applied::Present(pod) = &agent else { unreachable!() };
        assert!(!evidence::is_proven(pod));
        says(&told(with(|w| w.agent = agent)), "NetworkIsolated", "Unknown", "ReportInvalid");
    }
    assert!(evidence::is_proven(&agent_pod()));
}

#[test]
fn o_g1_the_runtime_is_verified_by_the_kernel_that_was_found() {
    let kernel = |kind: &'static str| with(|w| w.agent = fenced(|r| r["kernel"]["kind"] = json!(kind)));
    says(&told(kernel("GVisor")), "RuntimeVerified", "True", "KernelVerified");
    for other in ["Linux", "VirtualMachine", "Unknown"] {
        let told = told(kernel(other));
        says(&told, "RuntimeVerified", "False", "WrongKernel");
        says(&told, "Stalled", "True", "WrongKernel");
    }
    let missing = told(with(|w| w.agent = fenced(|r| r["verdict"] = json!("LimitsMissing"))));
    says(&missing, "RuntimeVerified", "False", "LimitsMissing");
}

#[test]
fn a_process_sandbox_that_cannot_be_had_is_told_and_one_that_holds_as_well() {
    let missing = told(with(|w| w.agent = fenced(|r| r["verdict"] = json!("ProcessSandboxMissing"))));
    says(&missing, "RuntimeVerified", "False", "ProcessSandboxMissing");
    says(&missing, "Stalled", "True", "ProcessSandboxMissing");
    let message = |stage| {
        let status = status(&sandbox(|_| ()), &outcome(stage), None, now()).unwrap();
        status.conditions.into_iter().find(|c| c.type_ == "RuntimeVerified").unwrap().message
    };
    let held = message(with(|w| w.agent = fenced(|r| r["landlockVersion"] = json!(7))));
    assert!(held.contains("Landlock version 7"), "{held}");
    assert!(!message(with(|_| ())).contains("Landlock"));
}

#[test]
fn a_fence_that_has_begun_again_proves_anew() {
    let again = |state: Value, change: fn(&mut Value)| {
        let mut pod = agent_pod();
        let fence = &mut pod.status.as_mut().unwrap().init_container_statuses.as_mut().unwrap()[0];
        fence.last_state = Some(from(json!({"terminated": {"exitCode": 0, "message": report(change)}})));
        fence.state = Some(from(state));
        pod
    };
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    let waiting = json!({"waiting": {"reason": "PodInitializing"}});
    for state in [&running, &waiting] {
        let pod = again(state.clone(), |_| ());
        assert!(!evidence::is_proven(&pod));
        let told = told(with(|w| w.agent = Applied::Present(Box::new(pod))));
        says(&told, "NetworkIsolated", "Unknown", "FencePending");
    }
    let open: fn(&mut Value) = |report| report["verdict"] = json!("EgressOpen");
    let told_of = |state| told(with(|w| w.agent = Applied::Present(Box::new(again(state, open)))));
    says(&told_of(waiting), "NetworkIsolated", "False", "EgressOpen");
    says(&told_of(running), "NetworkIsolated", "Unknown", "FencePending");
}

#[test]
fn a_limit_is_said_to_hold_only_where_it_was_seen() {
    let limits =
        |limits: Value| message(with(|w| w.agent = fenced(|r| r["limits"] = limits)), "RuntimeVerified");
    let all = limits(json!({"memoryBytes": 1, "cpuMillis": 1, "pids": 1}));
    assert!(all.ends_with("Its limits hold."), "{all}");
    let unread = limits(Value::Null);
    assert!(unread.ends_with("Its limits were not read."), "{unread}");
    let unseen = limits(json!({"memoryBytes": 1, "cpuMillis": "unseen", "pids": "unlimited"}));
    let wanted = "Limits seen to hold inside: memory; limits that do not exist: process; limits that the kernel does not show, so that nothing is known of them: CPU.";
    assert!(unseen.ends_with(wanted), "{unseen}");
    let none = limits(json!({"memoryBytes": "unseen", "cpuMillis": "unseen", "pids": "unseen"}));
    assert!(!none.contains("hold"), "{none}");
}

#[test]
fn o_g22_whom_the_node_takes_root_for_is_told_where_it_was_seen_and_stops_nothing() {
    let limits = json!({"memoryBytes": 1, "cpuMillis": 1, "pids": 1});
    let of = |root: Value| {
        with(|w| w.agent = fenced(|r| (r["limits"], r["kernel"]["root"]) = (limits.clone(), root)))
    };
    for (root, wanted) in [
        (
            json!("Node"),
            "Its limits hold. Root inside would be root of the node: no user namespace stands between.",
        ),
        (
            json!("Mapped"),
            "Its limits hold. Root inside would be nobody on the node: a user namespace stands between.",
        ),
        (Value::Null, "Its limits hold."),
    ] {
        says(&told(of(root.clone())), "RuntimeVerified", "True", "KernelVerified");
        let message = message(of(root), "RuntimeVerified");
        assert!(message.ends_with(wanted), "{message}");
    }
    says(&told(of(json!("nobody"))), "RuntimeVerified", "Unknown", "ReportInvalid");
}

#[test]
fn what_the_kubelet_says_of_the_pods_is_told_with_its_reason() {
    let waiting = |reason: &str| json!({"waiting": {"reason": reason, "message": "why"}});
    let fault =
        r#"{"reason": "CredentialMissing", "credential": "anthropic", "message": "There is no file."}"#;
    let died = json!({"terminated": {"exitCode": 78, "message": fault}});
    let proxy = |state: Value, last: &Value| stuck(proxy_pod("10.244.0.8"), &state, last);
    let agent = |state: Value| stuck(agent_pod(), &state, &json!({}));

    let pulls = told(with(|w| w.proxy = proxy(waiting("ImagePullBackOff"), &json!({}))));
    says(&pulls, "ProxyReady", "False", "ImageUnavailable");
    let missing = told(with(|w| w.proxy = proxy(waiting("CrashLoopBackOff"), &died)));
    says(&missing, "CredentialsReady", "False", "CredentialMissing");
    says(&missing, "ProxyReady", "False", "ProxyFailing");
    says(&missing, "Ready", "False", "CredentialMissing");
    let starting = told(with(|w| w.proxy = replacing(proxy_pod("10.244.0.8"))));
    says(&starting, "ProxyReady", "Unknown", "Replacing");
    let none = told(with(|w| w.credentials.clear()));
    says(&none, "CredentialsReady", "True", "NoneNeeded");
    let crashing = told(with(|w| w.agent = agent(waiting("CrashLoopBackOff"))));
    says(&crashing, "Ready", "False", "AgentFailing");
    let why = "Evicted: Pod ephemeral local storage usage exceeds the total limit of containers 64Mi. ";
    let held = told(with(|w| w.agent = Applied::Ended(why.to_owned(), Some(now()))));
    says(&held, "Ready", "False", "Ended");
}

#[test]
fn a_missing_login_at_the_classes_proxy_names_the_secret_to_write_and_no_credential_that_nobody_wrote() {
    let fault =
        r#"{"reason": "CredentialMissing", "credential": "upstream.proxy", "message": "There is no file."}"#;
    let died = json!({"terminated": {"exitCode": 78, "message": fault}});
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "why"}});
    let workload = Workload {
        proxy: stuck(proxy_pod("10.244.0.8"), &waiting, &died),
        login: Some(UpstreamLogin {
            credential: "upstream.proxy".to_owned(),
            class: "corporate".to_owned(),
            secret: from(json!({"name": "login", "key": "password"})),
        }),
        ..whole()
    };
    let said = message(Stage::Standing(Box::new(workload)), "CredentialsReady");
    for told in ["class corporate", "Secret login", "key password"] {
        assert!(said.contains(told), "{said}");
    }
    assert!(!said.contains("AgentCredential"), "{said}");
}

fn foreign() -> Blocked {
    Blocked::Foreign(ChildKind::NetworkPolicy, "fix-login-agent".to_owned())
}

#[test]
fn a_blocked_pass_leaves_nothing_known_and_says_why() {
    for (blocked, ready, reason, stalled) in [
        (foreign(), "False", "NameConflict", "True"),
        (Blocked::Forbidden("x".to_owned()), "False", "Forbidden", "True"),
        (Blocked::Refused("x".to_owned()), "False", "Refused", "True"),
        (Blocked::Pending(ChildKind::Pod, "p".to_owned()), "False", "Replacing", "False"),
        (Blocked::NamespaceTerminating, "False", "NamespaceTerminating", "False"),
        (Blocked::Transient("x".to_owned()), "Unknown", "Retrying", "False"),
    ] {
        let told = told(Stage::Blocked(blocked));
        says(&told, "Accepted", "True", "Accepted");
        for type_ in ["CredentialsReady", "ProxyReady", "NetworkIsolated", "RuntimeVerified"] {
            says(&told, type_, "Unknown", reason);
        }
        says(&told, "Ready", ready, reason);
        assert_eq!(told["Stalled"].0, stalled, "{told:?}");
        assert_ne!(told["Reconciling"].0, stalled, "{told:?}");
    }
    for silent in [Blocked::Conflict, Blocked::NotLeader] {
        assert_eq!(status(&sandbox(|_| ()), &outcome(Stage::Blocked(silent)), None, now()), None);
    }
}

#[test]
fn a_refusal_ends_with_what_helps_against_it() {
    for (what, helps, not) in [
        (
            "create of Pod x was refused: pods is forbidden: exceeded quota: small",
            "Raise the quota",
            "policy",
        ),
        ("create of Pod x was refused: admission webhook \"a\" denied request", "Change the policy", "quota"),
        ("create of Pod x was refused: violates PodSecurity", "Change the policy", "quota"),
        ("create of Service x was refused: metadata.name: a DNS-1035 label.", "Change the field", "quota"),
    ] {
        let text = message(Stage::Blocked(Blocked::Refused(what.to_owned())), "Ready");
        let (_, remedy) = text.split_once(what.trim_end_matches('.')).unwrap();
        assert!(remedy.starts_with(&format!(". {helps}")) && !remedy.contains(not), "{text}");
    }
}

#[test]
fn a_breach_is_a_fact_once_the_agent_had_to_be_stopped() {
    let stopped = |why| Stage::Breached(Breach { lost: Lost::Wall, why, agent: Halted::Stopped });
    for (why, reason) in [
        (foreign(), "NameConflict"),
        (Blocked::Refused("x".to_owned()), "Refused"),
        (Blocked::Forbidden("x".to_owned()), "Forbidden"),
        (Blocked::Transient("x".to_owned()), "WallsMissing"),
        (Blocked::Conflict, "WallsMissing"),
    ] {
        let told = told(stopped(why));
        says(&told, "NetworkIsolated", "False", reason);
        says(&told, "RuntimeVerified", "Unknown", reason);
        says(&told, "Ready", "False", reason);
    }
    for why in [Blocked::Transient("x".to_owned()), Blocked::Conflict] {
        let told = told(Stage::Breached(Breach { lost: Lost::Wall, why, agent: Halted::Spared }));
        says(&told, "NetworkIsolated", "Unknown", "Retrying");
        says(&told, "Ready", "Unknown", "Retrying");
    }
    let unstopped = Stage::Breached(Breach {
        lost: Lost::Wall,
        why: foreign(),
        agent: Halted::Unstopped("no answer".to_owned()),
    });
    let text = message(unstopped, "Ready");
    assert!(text.contains("could not be stopped (no answer)"), "{text}");
}

#[test]
fn every_rejection_is_in_one_message() {
    let rejection = |field: &str| Rejection {
        reason: RejectionReason::OutsideClass,
        field: field.to_owned(),
        message: "write something else".to_owned(),
    };
    let stage = || Stage::Rejected(vec![rejection("spec.a"), rejection("spec.b")]);
    let told = told(stage());
    says(&told, "Accepted", "False", "OutsideClass");
    says(&told, "NetworkIsolated", "Unknown", "NotAccepted");
    says(&told, "Ready", "False", "OutsideClass");
    let text = message(stage(), "Accepted");
    assert!(text.contains("spec.a: ") && text.contains("spec.b: "), "{text}");
}

#[test]
fn a_status_that_says_the_same_is_not_written_and_keeps_its_times() {
    let first = status(&sandbox(|_| ()), &outcome(with(|_| ())), None, now()).unwrap();
    let later = now() + k8s_openapi::jiff::SignedDuration::from_secs(60);
    let known = sandbox(|s| s.status = Some(first.clone()));
    assert_eq!(status(&known, &outcome(with(|_| ())), None, later), None);
    let changed = status(&known, &outcome(with(|w| w.agent = Applied::Absent)), None, later).unwrap();
    let since = |status: &AgentSandboxStatus, type_: &str| {
        status.conditions.iter().find(|c| c.type_ == type_).unwrap().last_transition_time.0
    };
    assert_eq!(since(&changed, "ProxyReady"), now());
    assert_eq!(since(&changed, "Ready"), later);
}

#[test]
fn what_was_denied_is_told_once_there_is_something_and_kept_while_nothing_is_known() {
    let mut tally = Tally::default();
    let of =
        |sandbox: &AgentSandbox, tally: Option<&Tally>| status(sandbox, &outcome(with(|_| ())), tally, now());
    let first = of(&sandbox(|_| ()), Some(&tally)).unwrap();
    assert_eq!(first.egress, None, "nothing was denied, which needs no write");
    let known = sandbox(|s| s.status = Some(first.clone()));
    tally.note(Some("a.test"), Some(443), agentsandbox_policy::DenialReason::HostNotAllowed, 2);
    let second = of(&known, Some(&tally)).unwrap();
    let told = second.egress.clone().unwrap();
    assert_eq!(
        (told.denied, told.latest[0].host.as_deref(), told.latest[0].port),
        (2, Some("a.test"), Some(443))
    );
    let known = sandbox(|s| s.status = Some(second.clone()));
    assert_eq!(of(&known, None), None, "an operator that has just started keeps what was told");
    let restarted = of(&known, Some(&Tally::default())).unwrap().egress.unwrap();
    assert_eq!(restarted.denied, 0, "a proxy that started anew counts anew");
    let patch = serde_json::to_value(&restarted).unwrap();
    assert_eq!(patch["latest"], serde_json::json!([]), "a merge patch leaves what it does not name");
}

#[test]
fn o_g4_a_pod_that_its_node_does_not_make_is_told_after_a_while_and_not_before() {
    let unmade = |since: &str| {
        let mut pod = agent_pod();
        pod.spec.as_mut().unwrap().node_name = Some("node-7".to_owned());
        pod.status = Some(from(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": since},
            {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": since},
        ]})));
        with(|w| w.agent = Applied::Present(Box::new(pod)))
    };
    says(&told(unmade("2026-05-31T23:59:46Z")), "NetworkIsolated", "Unknown", "FencePending");
    let late = || unmade("2026-05-31T23:59:45Z");
    says(&told(late()), "Ready", "False", "PodSandboxPending");
    let message = message(late(), "NetworkIsolated");
    assert!(message.contains("node-7") && message.contains("kubectl describe pod"), "{message}");
}

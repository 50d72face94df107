use agentsandbox_crds::class::Isolation;
use kube::core::Status;
use serde_json::json;

use super::*;
use crate::controller::memory::Memory;
use crate::controller::observe::ProxyClosed;
use crate::fixtures::{agent_pod, failed_pod, from, proxy_pod};

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

fn refused(code: u16, message: &str) -> Blocked {
    let status: Status = from(json!({"status": "Failure", "code": code, "message": message, "reason": "x"}));
    let source = Box::new(kube::Error::Api(Box::new(status)));
    Blocked::from(&ApplyError::Api { verb: Verb::Create, what: "Pod p".to_owned(), source })
}

/// The kind of a blockage, without its words.
fn kind(blocked: &Blocked) -> &'static str {
    match blocked {
        Blocked::Foreign(..) => "Foreign",
        Blocked::Pending(..) => "Pending",
        Blocked::Forbidden(_) => "Forbidden",
        Blocked::Refused(_) => "Refused",
        Blocked::Changed(_) => "Changed",
        Blocked::NamespaceTerminating => "NamespaceTerminating",
        Blocked::Conflict => "Conflict",
        Blocked::Transient(_) => "Transient",
        Blocked::KindsUnknown(_) => "KindsUnknown",
        Blocked::NotLeader => "NotLeader",
    }
}

#[test]
fn an_answer_of_the_api_server_is_understood() {
    for (code, message, wanted) in [
        (
            403,
            "forbidden: unable to create new content because it is being terminated",
            "NamespaceTerminating",
        ),
        (403, "pods \"p\" is forbidden: exceeded quota: q", "Refused"),
        (403, "pods \"p\" is forbidden: violates PodSecurity \"restricted:latest\"", "Refused"),
        (403, "admission webhook \"w\" denied request: no", "Refused"),
        (403, "ValidatingAdmissionPolicy 'p' denied", "Refused"),
        (403, "User \"o\" cannot create resource \"pods\"", "Forbidden"),
        (
            403,
            "cannot set blockOwnerDeletion because cannot find RESTMapping for Kind AgentSandbox",
            "KindsUnknown",
        ),
        (403, "something that nobody has heard of", "Refused"),
        (400, "bad", "Refused"),
        (422, "invalid", "Refused"),
        (422, "invalid: metadata.uid: Invalid value: \"1\": field is immutable", "Refused"),
        (400, "metadata.uid: Invalid value", "Refused"),
        (404, "not found", "Transient"),
        (409, "conflict", "Conflict"),
        (429, "slow down", "Transient"),
        (500, "failed calling webhook", "Transient"),
        (503, "away", "Transient"),
    ] {
        assert_eq!(kind(&refused(code, message)), wanted, "{code} {message}");
    }
}

#[test]
fn a_refusal_that_says_what_cannot_be_is_no_permission_that_is_missing() {
    for said in [
        "exceeded quota: q, which cannot be more",
        "violates PodSecurity \"restricted:latest\": it cannot run as root",
        "admission webhook \"a.test\" denied request: it cannot be",
        "ValidatingAdmissionPolicy 'a.test' denied it: it cannot be",
    ] {
        assert_eq!(kind(&refused(403, said)), "Refused", "{said}");
    }
    assert_eq!(kind(&refused(403, "User \"operator\" cannot create it")), "Forbidden", "the control");
}

#[test]
fn a_patch_of_another_object_is_a_conflict_and_nothing_that_only_speaks_of_a_uid_is() {
    let uid = "metadata.uid";
    for (verb, code, fields, wanted) in [
        (Verb::Patch, 422, &[uid][..], "Conflict"),
        (Verb::Create, 422, &[uid], "Refused"),
        (Verb::Patch, 422, &[uid, "spec.podSelector"], "Refused"),
        (Verb::Patch, 422, &["spec.podSelector"], "Refused"),
        (Verb::Patch, 422, &[], "Refused"),
        (Verb::Patch, 400, &[uid], "Refused"),
    ] {
        let causes: Vec<_> =
            fields.iter().map(|field| json!({"reason": "FieldValueInvalid", "field": field})).collect();
        let status: Status = from(json!({
            "status": "Failure", "code": code, "reason": "Invalid", "details": {"causes": causes},
            "message": "invalid: metadata.uid: Invalid value: \"1\": field is immutable",
        }));
        let source = Box::new(kube::Error::Api(Box::new(status)));
        let blocked = Blocked::from(&ApplyError::Api { verb, what: "Pod p".to_owned(), source });
        assert_eq!(kind(&blocked), wanted, "{verb} {code} {fields:?}");
    }
}

#[test]
fn only_what_trying_again_cannot_mend_lasts() {
    let foreign = Blocked::Foreign(ChildKind::NetworkPolicy, "n".to_owned());
    let pending = Blocked::Pending(ChildKind::NetworkPolicy, "n".to_owned());
    let text = String::new;
    for lasting in
        [foreign, Blocked::Refused(text()), Blocked::Changed(text()), Blocked::NamespaceTerminating]
    {
        assert!(lasting.lasts(), "{lasting:?}");
    }
    for passing in [
        pending,
        Blocked::Conflict,
        Blocked::Forbidden(text()),
        Blocked::Transient(text()),
        Blocked::KindsUnknown(text()),
        Blocked::NotLeader,
    ] {
        assert!(!passing.lasts(), "{passing:?}");
    }
}

fn requeue(stage: Stage) -> Requeue {
    Outcome { class_name: None, started: None, idle_since: None, off: None, stage }.requeue(now())
}

fn unlisted(bounds: Bounds, silent_for: Option<Duration>) -> Stage {
    Stage::Unlisted(Box::new(Unlisted { template: "jobs".to_owned(), silent_for, is_unheld: false, bounds }))
}

#[test]
fn a_sandbox_whose_template_nobody_knows_comes_again_with_a_list_and_where_its_proxy_is_to_be_tried() {
    let second = Duration::from_secs(1);
    for (bounds, wanted) in [
        (Bounds::Kept(None), Requeue::AwaitChange),
        (Bounds::Probed, Requeue::After(PROBE_UNCLEAR_RETRY)),
        (Bounds::Open, Requeue::After(PROBE_RETRY_LATER)),
    ] {
        assert_eq!(requeue(unlisted(bounds, None)), wanted);
    }
    assert_eq!(requeue(unlisted(Bounds::Kept(None), Some(second))), Requeue::After(second), "to be told");
    let breach = Breach { lost: Lost::Wall, why: Blocked::Conflict, agent: Halted::Spared };
    assert_eq!(requeue(unlisted(Bounds::Breached(breach), Some(second))), Requeue::Backoff);
}

#[test]
fn a_blocked_pass_comes_again_when_its_cause_may_be_gone() {
    let text = String::new;
    let name = || (ChildKind::Pod, "p".to_owned());
    for (blocked, wanted) in [
        (Blocked::Foreign(name().0, name().1), Requeue::After(FOREIGN_RETRY)),
        (Blocked::Forbidden(text()), Requeue::Backoff),
        (Blocked::Refused(text()), Requeue::After(REFUSED_RETRY)),
        (Blocked::Conflict, Requeue::Backoff),
        (Blocked::Pending(name().0, name().1), Requeue::AwaitChange),
        (Blocked::NamespaceTerminating, Requeue::AwaitChange),
        (Blocked::Transient(text()), Requeue::Backoff),
        (Blocked::KindsUnknown(text()), Requeue::After(KINDS_RETRY)),
        (Blocked::NotLeader, Requeue::Backoff),
    ] {
        assert_eq!(requeue(Stage::Blocked(blocked.clone())), wanted, "{blocked:?}");
        let breach = |agent| Stage::Breached(Breach { lost: Lost::Wall, why: blocked.clone(), agent });
        assert_eq!(requeue(breach(Halted::Stopped)), wanted, "{blocked:?}");
        assert_eq!(requeue(breach(Halted::Spared)), Requeue::Backoff, "{blocked:?}");
        assert_eq!(requeue(breach(Halted::Unstopped(text()))), Requeue::Backoff, "{blocked:?}");
        assert_eq!(requeue(unlisted(Bounds::Blocked(blocked.clone()), None)), wanted, "{blocked:?}");
    }
    assert_eq!(requeue(Stage::Rejected(Vec::new())), Requeue::AwaitChange);
}

fn workload(closed: Closedness) -> Workload {
    Workload {
        isolation: Isolation::GVisor,
        without_network: false,
        fetches: false,
        claim: None,
        missing: None,
        credentials: BTreeMap::new(),
        login: None,
        held: Held::NotAsked,
        proxy: Applied::Present(Box::new(proxy_pod("10.244.0.8"))),
        closed,
        agent: Applied::Present(Box::new(agent_pod())),
        failed: None,
        widening: None,
    }
}

#[test]
fn a_probe_is_repeated_until_it_has_proven_something() {
    let proof = ProxyClosed::for_tests;
    let standing = |closed| requeue(Stage::Standing(Box::new(workload(closed))));
    let soon = Duration::from_millis(700);
    for (closed, wanted) in [
        (Closedness::Untried, Requeue::AwaitChange),
        (Closedness::Proven(proof()), Requeue::AwaitChange),
        (Closedness::Waived(proof()), Requeue::AwaitChange),
        (Closedness::Seen(proof(), soon), Requeue::After(soon)),
        (Closedness::Unclear("x".to_owned()), Requeue::After(PROBE_UNCLEAR_RETRY)),
        (Closedness::Open, Requeue::After(PROBE_RETRY_LATER)),
        (Closedness::Reopened, Requeue::After(PROBE_RETRY_LATER)),
    ] {
        assert_eq!(standing(closed.clone()), wanted, "{closed:?}");
    }
}

#[test]
fn an_open_proxy_is_given_the_time_that_policies_take() {
    let since: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let late = since + PROBE_PATIENCE + SignedDuration::from_millis(1);
    let of = |closed| workload(closed);
    assert!(!of(Closedness::Open).open_too_long(since + PROBE_PATIENCE));
    assert!(of(Closedness::Open).open_too_long(late));
    assert!(!of(Closedness::Untried).open_too_long(late));
    assert_eq!(of(Closedness::Open).requeue(since), Requeue::After(PROBE_RETRY));
}

#[test]
fn a_pod_that_ended_too_soon_is_replaced_when_its_pause_is_over() {
    let until = now() + SignedDuration::from_secs(7);
    let ended = |until| Applied::Ended(String::new(), until);
    let held = Workload { agent: ended(Some(until)), ..workload(Closedness::Untried) };
    assert_eq!(held.requeue(now()), Requeue::After(Duration::from_secs(7) + PROBE_RETRY));
    let both = Workload { agent: ended(Some(until)), ..workload(Closedness::Unclear("x".to_owned())) };
    assert_eq!(both.requeue(now()), Requeue::After(PROBE_UNCLEAR_RETRY), "the earlier of the two");
}

#[test]
fn a_pod_that_failed_before_its_program_was_started_is_looked_at_when_its_pause_is_over() {
    let pod = failed_pod("p", "", |_| ());
    let failed = Memory::default().failed("u", Some(&pod), now()).unwrap();
    let pause = Duration::try_from(failed.until.duration_since(now())).unwrap();
    assert!(pause >= Duration::from_secs(5), "{pause:?}");
    let of = |pod| Workload {
        agent: Applied::Present(Box::new(pod)),
        failed: Some(failed.clone()),
        ..workload(Closedness::Untried)
    };
    assert_eq!(of(pod).requeue(now()), Requeue::After(pause + PROBE_RETRY));
    assert_eq!(of(failed_pod("next", "", |_| ())).requeue(now()), Requeue::AwaitChange);
}

#[test]
fn o_g4_a_pod_that_is_not_made_is_looked_at_again_when_patience_is_over_and_then_awaited() {
    let mut pod = agent_pod();
    let since = "2026-05-31T23:59:50Z";
    pod.status = Some(from(json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": since},
        {"type": "PodReadyToStartContainers", "status": "False", "lastTransitionTime": since},
    ]})));
    let unmade = Workload {
        agent: Applied::Present(Box::new(pod)),
        ..workload(Closedness::Proven(ProxyClosed::for_tests()))
    };
    assert_eq!(unmade.requeue(now()), Requeue::After(Duration::from_secs(5) + PROBE_RETRY));
    assert_eq!(unmade.requeue(now() + SignedDuration::from_secs(5)), Requeue::AwaitChange);
}

#[test]
fn a_pod_that_is_made_is_not_waited_for_whatever_else_of_it_is_not_so() {
    let made = |unmade: &str| {
        let mut pod = agent_pod();
        let since = "2026-05-31T23:59:50Z";
        pod.status = Some(from(json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "False", "lastTransitionTime": since},
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": since},
            {"type": "PodReadyToStartContainers", "status": unmade, "lastTransitionTime": since},
        ]})));
        let agent = Applied::Present(Box::new(pod));
        Workload { agent, ..workload(Closedness::Proven(ProxyClosed::for_tests())) }.unmade_since()
    };
    assert_eq!(made("True"), None);
    assert!(made("False").is_some(), "the control");
}

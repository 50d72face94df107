//! What deployment tools make of a sandbox: kstatus (Flux, Helm, kpt) by its rules for any kind, and Argo CD by the script in
//! docs/install.md, which says the same in Lua.

use super::*;

/// The status that kstatus computes of any kind: sigs.k8s.io/cli-utils, pkg/kstatus/status, `checkGenericProperties` and then
/// `checkReadyCondition`.
fn kstatus(object: &Value) -> &'static str {
    let (metadata, status) = (&object["metadata"], &object["status"]);
    if metadata["deletionTimestamp"].is_string() {
        return "Terminating";
    }
    let seen = &status["observedGeneration"];
    if !seen.is_null() && *seen != metadata["generation"] {
        return "InProgress";
    }
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    for condition in conditions.iter().filter(|condition| condition["status"] == "True") {
        match condition["type"].as_str() {
            Some("Reconciling") => return "InProgress",
            Some("Stalled") => return "Failed",
            _ => {}
        }
    }
    match conditions.iter().find(|condition| condition["type"] == "Ready") {
        Some(ready) if ready["status"] != "True" => "InProgress",
        _ => "Current",
    }
}

/// The health that the script of docs/install.md gives.
fn argo(object: &Value) -> &'static str {
    let (metadata, status) = (&object["metadata"], &object["status"]);
    let holds = |type_: &str| {
        let mut conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.any(|condition| condition["type"] == type_ && condition["status"] == "True")
    };
    let is_past = status["observedGeneration"] != metadata["generation"];
    if metadata["deletionTimestamp"].is_string() || is_past {
        return "Progressing";
    }
    match (holds("Stalled"), holds("Suspended"), holds("Ready")) {
        (true, ..) => "Degraded",
        (false, true, _) => "Suspended",
        (false, false, true) => "Healthy",
        (false, false, false) => "Progressing",
    }
}

/// The sandbox as it is read after the operator wrote what a pass came to.
fn after(stage: Stage) -> Value {
    let told = status(&sandbox(|_| ()), &outcome(stage), None, now()).unwrap();
    serde_json::to_value(sandbox(|s| s.status = Some(told))).unwrap()
}

/// The same of one that is suspended.
fn suspended(left: Left) -> Value {
    use crate::controller::outcome::Off;
    let mut suspended = sandbox(|s| s.spec.lifecycle = Some(from(json!({"state": "Suspended"}))));
    let off = Some(Off { left, again: None });
    suspended.status = status(&suspended, &Outcome { off, ..outcome(Stage::Suspended(None)) }, None, now());
    serde_json::to_value(suspended).unwrap()
}

/// The sandbox as it is read before any operator has seen it: its status is the schema's default.
fn unseen() -> Value {
    let crds = agentsandbox_crds::schema::all().unwrap();
    let crd = crds.into_iter().find(|crd| crd.name.starts_with("agentsandboxes.")).unwrap();
    let default =
        &crd.manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["default"];
    let mut object = serde_json::to_value(sandbox(|_| ())).unwrap();
    object["status"] = default.clone();
    object
}

fn changed(mut object: Value, pointer: &str, to: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[field] = to;
    object
}

#[test]
fn deployment_tools_call_a_sandbox_done_when_it_is_ready_and_failed_when_somebody_has_to_act() {
    let rejection = Rejection {
        reason: RejectionReason::OutsideClass,
        field: "spec.a".to_owned(),
        message: "write something else".to_owned(),
    };
    let waiting = |pod: Pod, reason: &str| stuck(pod, &json!({"waiting": {"reason": reason}}), &json!({}));
    let proxy = || proxy_pod("10.244.0.8");
    let whole = || after(with(|_| ()));
    let deleted = json!("2026-06-01T00:00:00Z");
    let cases = [
        ("nobody has seen it", unseen(), "InProgress", "Progressing"),
        ("ready", whole(), "Current", "Healthy"),
        ("its spec changed", changed(whole(), "/metadata/generation", json!(4)), "InProgress", "Progressing"),
        ("deleted", changed(whole(), "/metadata/deletionTimestamp", deleted), "Terminating", "Progressing"),
        ("not accepted", after(Stage::Rejected(vec![rejection])), "Failed", "Degraded"),
        ("a foreign object", after(Stage::Blocked(foreign())), "Failed", "Degraded"),
        ("no answer", after(Stage::Blocked(Blocked::Transient("x".to_owned()))), "InProgress", "Progressing"),
        ("proxy starts", after(with(|w| w.proxy = Applied::Absent)), "InProgress", "Progressing"),
        ("agent is replaced", after(with(|w| w.agent = replacing(agent_pod()))), "InProgress", "Progressing"),
        (
            "an image that is nowhere",
            after(with(|w| w.proxy = waiting(proxy(), "ImagePullBackOff"))),
            "Failed",
            "Degraded",
        ),
        (
            "another kernel",
            after(with(|w| w.agent = fenced(|r| r["verdict"] = json!("WrongKernel")))),
            "Failed",
            "Degraded",
        ),
        (
            "a policy widens its walls",
            after(with(|w| w.widening = widening(Component::Agent, Direction::Egress))),
            "Failed",
            "Degraded",
        ),
        (
            "agent ends again and again",
            after(with(|w| w.agent = waiting(agent_pod(), "CrashLoopBackOff"))),
            "Failed",
            "Degraded",
        ),
    ];
    let ended = |code: i32, left: Left| {
        let program = from(json!({"exitCode": code, "reason": "Error", "lastWords": "words"}));
        after(Stage::Finished(Box::new(program), left))
    };
    let proxy = || Left::Ending(vec!["fix-login-proxy".to_owned()]);
    let over = [
        ("a task that ended well", ended(0, Left::Nothing), "Current", "Healthy"),
        ("one whose proxy goes", ended(0, proxy()), "InProgress", "Healthy"),
        ("a task that failed", ended(3, Left::Nothing), "Failed", "Degraded"),
        ("one that failed and whose proxy goes", ended(3, proxy()), "Failed", "Degraded"),
        ("a suspended sandbox", suspended(Left::Nothing), "Current", "Suspended"),
        ("one whose pods go", suspended(proxy()), "InProgress", "Progressing"),
        (
            "one that resumes",
            changed(suspended(Left::Nothing), "/metadata/generation", json!(4)),
            "InProgress",
            "Progressing",
        ),
    ];
    for (what, object, of_kstatus, of_argo) in cases.into_iter().chain(over) {
        assert_eq!((kstatus(&object), argo(&object)), (of_kstatus, of_argo), "{what}: {object:#}");
    }
}

#[test]
fn the_first_status_replaces_what_the_schema_said_and_has_times_of_its_own() {
    let unseen: AgentSandbox = from(unseen());
    let silent = Stage::Blocked(Blocked::Transient("x".to_owned()));
    let first = status(&unseen, &outcome(silent), None, now()).unwrap();
    let ready = first.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("Unknown", "Retrying"));
    assert_eq!(ready.last_transition_time.0, now(), "it is not unknown since 1970");
    assert!(first.conditions.iter().all(|condition| condition.reason != "Pending"));
    let told = crate::controller::events::transitions(unseen.status.as_ref(), &first);
    assert_eq!(told, [], "nothing that needs telling happened");
}

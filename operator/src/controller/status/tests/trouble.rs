//! What the status of a pod says of why it does not run.

use super::*;

/// What is told of an agent whose container waits in CrashLoopBackOff after it ended like this.
fn crashing(last: &Value) -> (Told, String) {
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}});
    let stage = || {
        with(|w| {
            w.agent = stuck(agent_pod(), &waiting, last);
            let Applied::Present(pod) = &mut w.agent else { unreachable!() };
            pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].restart_count = 7;
        })
    };
    (told(stage()), message(stage(), "Ready"))
}

#[test]
fn an_agent_that_ends_again_and_again_is_told_with_how_it_ended_and_what_to_do() {
    let (told, text) = crashing(
        &json!({"terminated": {"exitCode": 1, "reason": "Error", "message": "no such\u{1b}[2J test\n"}}),
    );
    says(&told, "Ready", "False", "AgentFailing");
    says(&told, "Stalled", "True", "AgentFailing");
    for part in ["exit code 1", "7 times", "no such [2J test.", "kubectl logs fix-login-agent -c agent"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (_, text) = crashing(&json!({"terminated": {"exitCode": 1, "message": "x".repeat(5000)}}));
    assert!(text.len() < 600, "what a program says is cut: {text}");
    let (_, text) = crashing(&json!({"terminated": {"exitCode": 0, "reason": "Completed"}}));
    assert!(text.contains("is done") && text.contains("Delete the sandbox"), "{text}");
    let why = "exec: \"/bin/agent\": stat /bin/agent: no such file or directory";
    let (told, text) =
        crashing(&json!({"terminated": {"exitCode": 128, "reason": "StartError", "message": why}}));
    says(&told, "Ready", "False", "AgentFailing");
    assert!(text.contains(why) && text.contains("spec.agent.command"), "{text}");
    assert!(!text.contains("kubectl logs"), "there is no log of what never ran: {text}");
}

#[test]
fn o_h26_a_credential_that_a_ready_proxy_lost_is_told_and_one_that_nobody_asks_for_is_not_called_held() {
    let lost = |reason: &str| {
        let one = agentsandbox_policy::UnusableCredential {
            name: "anthropic".to_owned(),
            reason: reason.to_owned(),
        };
        with(|w| w.held = Held::AllBut(vec![one]))
    };
    for reason in ["CredentialMissing", "CredentialMalformed"] {
        let told = told(lost(reason));
        says(&told, "CredentialsReady", "False", reason);
        says(&told, "ProxyReady", "True", "Serving");
        says(&told, "Ready", "False", reason);
        says(&told, "Stalled", "True", reason);
        assert!(message(lost(reason), "Ready").contains("AgentCredential anthropic"));
    }
    says(&told(with(|_| ())), "CredentialsReady", "True", "Loaded");
    let unasked = told(with(|w| w.held = Held::NotAsked));
    says(&unasked, "CredentialsReady", "True", "LoadedAtStart");
    says(&unasked, "Ready", "True", "Running");
}

#[test]
fn an_agent_that_begins_to_end_again_and_again_is_told_by_an_event() {
    let whole = status(&sandbox(|_| ()), &outcome(with(|_| ())), None, now()).unwrap();
    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let failing = with(|w| w.agent = stuck(agent_pod(), &waiting, &json!({"terminated": {"exitCode": 3}})));
    let failing = status(&sandbox(|_| ()), &outcome(failing), None, now()).unwrap();
    let told = crate::controller::events::transitions(Some(&whole), &failing);
    assert_eq!((told.len(), told[0].reason.as_str()), (1, "AgentFailing"), "{told:?}");
    assert!(told[0].note.contains("exit code 3"), "{told:?}");
}

#[test]
fn a_node_that_does_not_report_is_told_and_no_start_that_never_ends() {
    let unheard = |mut pod: Pod| {
        pod.spec.as_mut().unwrap().node_name = Some("node-7".to_owned());
        let lost =
            json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
        pod.status.as_mut().unwrap().conditions = Some(from(lost));
        pod
    };
    let present = |pod: Pod| Applied::Present(Box::new(pod));
    let agent = || with(|w| w.agent = present(unheard(agent_pod())));
    says(&told(agent()), "Ready", "False", "NodeUnreachable");
    assert!(message(agent(), "Ready").contains("node-7"));
    let proxy = told(with(|w| w.proxy = present(unheard(proxy_pod("10.244.0.8")))));
    says(&proxy, "ProxyReady", "False", "NodeUnreachable");
    let starting = with(|w| {
        let mut pod = unheard(proxy_pod("10.244.0.8"));
        pod.status.as_mut().unwrap().container_statuses.as_mut().unwrap()[0].ready = false;
        w.proxy = present(pod);
    });
    let text = message(starting, "ProxyReady");
    assert!(
        text.contains("runs and is not ready") && text.contains("kubectl logs fix-login-proxy"),
        "{text}"
    );
}

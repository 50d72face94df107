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
            error: None,
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
fn a_credential_that_cannot_be_used_is_told_with_its_secret_and_its_keys_at_the_start_and_later() {
    use agentsandbox_policy::SecretError;

    let told = |place: SecretPlace, error: SecretError| {
        let name = serde_json::to_value(error).unwrap();
        let words =
            json!({"reason": error.reason(), "error": name, "credential": "partner", "message": "No file."});
        let died = json!({"terminated": {"exitCode": 1, "message": words.to_string()}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "why"}});
        let lost = agentsandbox_policy::UnusableCredential {
            name: "partner".to_owned(),
            reason: error.reason().to_owned(),
            error: Some(name.as_str().unwrap().to_owned()),
        };
        let credentials = || BTreeMap::from([("partner".to_owned(), place.clone())]);
        let at_start = with(|w| {
            w.credentials = credentials();
            w.proxy = stuck(proxy_pod("10.244.0.8"), &waiting, &died);
        });
        let later = with(|w| {
            w.credentials = credentials();
            w.held = Held::AllBut(vec![lost]);
        });
        [at_start, later].map(|stage| message(stage, "CredentialsReady"))
    };
    let cases = [
        (
            value("keys", "api-key"),
            SecretError::Missing,
            "is missing, or has no api-key; create it with this key",
        ),
        (
            value("keys", "api-key"),
            SecretError::Empty,
            "has nothing under api-key; store the bare value there",
        ),
        (
            pair("partner-tls"),
            SecretError::PairMissing,
            "is missing, or has neither tls.crt nor tls.key; create it with both, as one of type kubernetes.io/tls",
        ),
        (
            pair("partner-tls"),
            SecretError::CertificateMissing,
            "has no tls.crt; store the certificate under this key",
        ),
        (
            pair("partner-tls"),
            SecretError::PrivateKeyMissing,
            "has no tls.key; store the private key under this key",
        ),
        (
            pair("partner-tls"),
            SecretError::PrivateKeyEncrypted,
            "has an encrypted private key under tls.key; store it unencrypted",
        ),
        (
            pair("partner-tls"),
            SecretError::Mismatched,
            "has a private key under tls.key that is not the one of the certificate under tls.crt; store a certificate and its own private key",
        ),
    ];
    for (place, error, wanted) in cases {
        let secret = place.secret.clone();
        let told = told(place, error);
        let begin =
            format!("AgentCredential partner cannot be used: Secret {secret} of this namespace {wanted}. ");
        assert_eq!(told[0], format!("{begin}The proxy tries again by itself."));
        let then = "Until the kubelet has mounted what you store, requests that need it are denied.";
        assert_eq!(told[1], format!("{begin}{then}"));
    }
}

#[test]
fn what_a_proxy_of_another_release_says_of_a_credential_is_told_without_its_secret() {
    for (error, credential) in
        [(json!("OfAnotherRelease"), "anthropic"), (Value::Null, "anthropic"), (json!("Empty"), "unknown")]
    {
        let words = json!({"reason": "CredentialMalformed", "error": error, "credential": credential, "message": "It is bad."});
        let died = json!({"terminated": {"exitCode": 1, "message": words.to_string()}});
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff", "message": "why"}});
        let text =
            message(with(|w| w.proxy = stuck(proxy_pod("10.244.0.8"), &waiting, &died)), "CredentialsReady");
        assert!(
            text.starts_with(&format!("AgentCredential {credential} cannot be used: It is bad.")),
            "{text}"
        );
    }
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

#[test]
fn what_the_end_of_a_pod_waits_for_is_told_with_the_pod_and_its_node() {
    let on = |mut pod: Pod, node: Option<&str>| {
        pod.spec.as_mut().unwrap().node_name = node.map(str::to_owned);
        replacing(pod)
    };
    let agent = |node| with(|w| w.agent = on(agent_pod(), node));
    let proxy = |node| with(|w| w.proxy = on(proxy_pod("10.244.0.8"), node));
    // Of all that is not known meanwhile, this is what a person can act on.
    let node = Some("node-7");
    let agents = (agent(node), agent(node), "fix-login-agent");
    for (stage, same, pod) in [agents, (proxy(node), proxy(node), "fix-login-proxy")] {
        says(&told(stage), "Ready", "False", "Replacing");
        let text = message(same, "Ready");
        assert!(
            text.contains(&format!("{pod} on node node-7 ")) && text.ends_with("delete the Node."),
            "{text}"
        );
    }
    let text = message(agent(None), "Ready");
    assert!(!text.contains("node") && text.ends_with("kubectl describe pod fix-login-agent."), "{text}");
    let earlier = Stage::Blocked(Blocked::Pending(ChildKind::Pod, "fix-login-agent".to_owned()));
    let text = message(earlier, "Ready");
    assert!(text.ends_with("kubectl get Pod fix-login-agent -o yaml."), "{text}");
}

//! The main job: a real coding agent, in a real gVisor pod, does its work with a key that it never holds.

use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};

use crate::fixtures;

/// Time in which Claude Code answers one prompt on a busy machine. It bounds a hang; it is no promise.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

const RULE: &str = "{host: api.anthropic.com, credential: anthropic}";

/// A sandbox with Claude Code and the anthropic credential.
pub(crate) async fn claude(ns: &Namespace, rig: &Rig, proxy_environment: &str) -> Sandbox {
    rig.world.set_keys([("anthropic", fixtures::ANTHROPIC_KEY)]).await.unwrap();
    ns.secret("anthropic", "api-key", fixtures::ANTHROPIC_KEY).await;
    ns.apply(fixtures::ANTHROPIC_CREDENTIAL).await.unwrap();
    let manifest = fixtures::sleeper("coder", fixtures::CLAUDE_IMAGE, proxy_environment, &[RULE]);
    let sandbox = ns.sandbox("coder", &manifest).await;
    sandbox.ready().await;
    sandbox
}

/// Asks Claude Code, after these shell assignments, and checks what it answered and what the API saw.
pub(crate) async fn answers(rig: &Rig, sandbox: &Sandbox, environment: &str) {
    let key = sandbox.sh("echo $ANTHROPIC_API_KEY").await.ok().stdout;
    assert_eq!(key.trim(), "sk-ant-placeholder", "the agent holds something else than the placeholder");
    let said = sandbox.sh(&format!("cd /workspace && {environment} timeout 100 claude -p 'Answer. [[say:the fence holds]]' </dev/null")).await;
    assert!(said.text().contains("the fence holds"), "{said:?}");
    let requests = rig.world.requests_to("api.anthropic.com").await.unwrap();
    let keys: Vec<_> = requests
        .iter()
        .filter(|r| r.path.starts_with("/v1/messages"))
        .map(|r| r.header("x-api-key"))
        .collect();
    assert!(keys.contains(&Some(fixtures::ANTHROPIC_KEY)), "the real key never arrived: {keys:?}");
    assert!(!keys.contains(&Some("sk-ant-placeholder")), "the placeholder left the proxy: {keys:?}");
    let audit = sandbox.audit().await;
    assert!(audit.iter().any(|l| l["decision"] == "allow" && l["host"] == "api.anthropic.com"), "{audit:?}");
}

#[tokio::test]
async fn claude_code_answers_through_https_proxy() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "claude-proxy", async |ns| {
        let sandbox = claude(&ns, &rig, "Set").await;
        answers(&rig, &sandbox, "").await;
    })
    .await;
}

#[tokio::test]
async fn claude_code_answers_through_a_base_url() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "claude-base", async |ns| {
        let sandbox = claude(&ns, &rig, "Unset").await;
        answers(&rig, &sandbox, "ANTHROPIC_BASE_URL=http://proxy:8080/anthropic").await;
    })
    .await;
}

#[tokio::test]
async fn claude_code_answers_with_nothing_set_at_all() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "claude-nothing", async |ns| {
        let sandbox = claude(&ns, &rig, "Unset").await;
        answers(&rig, &sandbox, "").await;
    })
    .await;
}

#[tokio::test]
async fn the_first_event_reaches_the_client_before_the_last_is_sent() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "claude-stream", async |ns| {
        let sandbox = claude(&ns, &rig, "Set").await;
        let gate = ns.name.clone();
        let body = format!(
            r#"{{"model":"m","max_tokens":9,"stream":true,"messages":[{{"role":"user","content":"[[say:one two]] [[gate:{gate}]]"}}]}}"#
        );
        let ask = format!(
            "curl -sN https://api.anthropic.com/v1/messages -H 'content-type: application/json' -H \"x-api-key: $ANTHROPIC_API_KEY\" -d '{body}' > /tmp/events 2>&1 & echo started"
        );
        sandbox.sh(&ask).await.ok();
        eventually("the first event", ANSWER_WITHIN, || async {
            let events = sandbox.sh("cat /tmp/events").await.stdout;
            if events.contains("message_start") { Ok(()) } else { Err(events) }
        })
        .await;
        let before = sandbox.sh("cat /tmp/events").await.stdout;
        assert!(!before.contains("message_stop"), "the answer was over before its gate opened: {before}");
        rig.world.open_gate(&gate).await.unwrap();
        eventually("the last event", ANSWER_WITHIN, || async {
            let events = sandbox.sh("cat /tmp/events").await.stdout;
            if events.contains("message_stop") { Ok(()) } else { Err(events) }
        })
        .await;
    })
    .await;
}

//! A class that names the organisation's own proxy: whatever its sandboxes reach, they reach through it.

use agentsandbox_crds::AgentSandboxClass;
use agentsandbox_tests::sandbox::READY_WITHIN;

use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use agentsandbox_world::names;
use kube::api::{Api, DeleteParams};
use serde_json::json;

use crate::fixtures;

const ECHO_KEY: &str = "echo-real-0f6bd1c2a7e94c30";

/// A class of the test's own, with the roots of the rig's.
async fn class_behind_the_proxy(ns: &Namespace) -> Api<AgentSandboxClass> {
    let classes: Api<AgentSandboxClass> = Api::all(ns.client.clone());
    let world = classes.get("world").await.unwrap().spec;
    let login = json!({"username": names::PROXY_USER, "secretRef": {"name": "corporate", "key": "password"}});
    let own = json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass", "metadata": {"name": ns.name},
        "spec": {"isolation": "GVisor", "runtimeClassName": "gvisor", "egress": {
            "additionalRoots": world.egress.unwrap().additional_roots,
            "upstreamProxy": {"url": format!("http://{}:{}", names::PROXY, names::PROXY_PORT), "login": login},
        }},
    });
    ns.apply(&own.to_string()).await.unwrap();
    classes
}

async fn behind(ns: &Namespace, name: &str) -> Sandbox {
    let rule = ["{host: echo.world.test, credential: echo}"];
    let manifest = fixtures::sleeper(name, fixtures::AGENT_IMAGE, "Set", &rule)
        .replace("className: world", &format!("className: {}", ns.name));
    ns.sandbox(name, &manifest).await
}

#[tokio::test]
async fn behind_the_organisations_proxy_everything_goes_through_it_and_nothing_without_its_login() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "corporate", async |ns| {
        let classes = class_behind_the_proxy(&ns).await;
        ns.secret("echo", "token", ECHO_KEY).await;
        ns.apply(fixtures::ECHO_CREDENTIAL).await.unwrap();

        // Without the Secret nothing starts, and the status says which one is asked for.
        let agent = behind(&ns, "a").await;
        let missing = agent.await_reason("CredentialsReady", "CredentialMissing", READY_WITHIN).await;
        assert!(
            missing.message.contains("Secret corporate") && missing.message.contains("key password"),
            "{missing:?}"
        );

        ns.secret("corporate", "password", "not-the-password").await;
        agent.ready().await;
        let ask = "curl -sS --max-time 20 -o /dev/null -w '%{http_code}' https://echo.world.test/through";
        let refused = agent.sh(ask).await.ok();
        assert_eq!(refused.stdout, "403", "the proxy of the organisation lets anybody in: {refused:?}");

        ns.secret("corporate", "password", names::PROXY_PASSWORD).await;
        eventually("the kubelet brings the right password", READY_WITHIN, || async {
            let answered = agent.sh(ask).await;
            if answered.stdout == "200" { Ok(()) } else { Err(format!("{answered:?}")) }
        })
        .await;
        let seen = agent.sh("curl -sS --max-time 20 https://echo.world.test/seen").await.ok();
        assert!(!seen.text().contains(ECHO_KEY), "the key came back: {seen:?}");
        let requests = rig.world.requests_to(names::ECHO).await.unwrap();
        let key = format!("Bearer {ECHO_KEY}");
        assert!(
            requests.iter().any(|r| r.path == "/seen" && r.header("authorization") == Some(&key)),
            "{requests:?}"
        );
        classes.delete(&ns.name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

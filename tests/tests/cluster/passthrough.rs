//! TLS that is handed on unopened, for a client that trusts one certificate alone, where the class allows it.

use agentsandbox_crds::AgentSandboxClass;
use agentsandbox_tests::{Rig, with_namespace};
use kube::api::{Api, DeleteParams};
use serde_json::json;

use crate::fixtures;

/// The class of the rig, whose roots hold the CA of the world.
const WORLD: &str = "world";

#[tokio::test]
async fn a_client_that_trusts_one_ca_alone_reaches_the_host_of_an_unopened_rule_and_no_other() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "unopened", async |ns| {
        let classes: Api<AgentSandboxClass> = Api::all(ns.client.clone());
        let world = classes.get(WORLD).await.unwrap().spec;
        let ca = world.egress.as_ref().unwrap().additional_roots.clone().unwrap();
        // A class of this test's own, gone with it: those of the rig let no TLS pass.
        let own = json!({
            "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass", "metadata": {"name": ns.name},
            "spec": {"isolation": "GVisor", "runtimeClassName": "gvisor",
                     "egress": {"additionalRoots": ca, "tlsPassthrough": "Allow"}},
        });
        ns.apply(&own.to_string()).await.unwrap();
        let rules = ["{host: echo.world.test, tls: Passthrough}", "{host: api.anthropic.com}"];
        let manifest = fixtures::sleeper("pinned", fixtures::AGENT_IMAGE, "Set", &rules)
            .replace("className: world", &format!("className: {}", ns.name));
        let agent = ns.sandbox("pinned", &manifest).await;
        agent.ready().await;
        agent.sh(&format!("cat > /workspace/only.pem <<'PEM'\n{ca}\nPEM")).await.ok();

        let pinned = "curl -sS --max-time 20 --cacert /workspace/only.pem";
        for way in ["", "env -u HTTPS_PROXY -u https_proxy -u ALL_PROXY -u all_proxy"] {
            let answer = agent.sh(&format!("{way} {pinned} https://echo.world.test/unseen")).await.ok();
            assert!(answer.stdout.contains("\"path\":\"/unseen\""), "{answer:?}");
            // The same client, where TLS is opened: it meets the sandbox's own CA and leaves.
            let opened = agent.sh(&format!("{way} {pinned} https://api.anthropic.com/")).await.failed();
            assert!(opened.text().contains("certificate"), "{opened:?}");
            let denied = agent.sh(&format!("{way} {pinned} https://pypi.world.test/")).await.failed();
            assert!(!denied.text().contains("certificate"), "a leaf was made for a denied name: {denied:?}");
        }
        let audit = agent.audit().await;
        let passed = audit.iter().filter(|line| line["decision"] == "allow" && line["host"] == "echo.world.test");
        assert!(passed.clone().count() >= 2, "{audit:?}");
        assert!(passed.clone().all(|line| line["path"].is_null()), "a path was seen in TLS that is not opened: {audit:?}");
        classes.delete(&ns.name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

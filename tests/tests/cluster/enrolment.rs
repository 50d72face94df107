//! A proxy serves one agent, known by the fence's token and by nothing that another pod can have.

use std::time::Duration;

use agentsandbox_tests::exec::{Output, exec};
use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use kube::api::DeleteParams;
use serde_json::json;

use crate::fixtures;

const ECHO: &str = "http://echo.world.test/enrolled";

/// A sandbox whose agent may ask echo.world.test.
async fn served(ns: &Namespace) -> Sandbox {
    let manifest = fixtures::sleeper(
        "mine",
        fixtures::AGENT_IMAGE,
        "Set",
        &["{host: echo.world.test, scheme: Http, ports: [80]}"],
    );
    let sandbox = ns.sandbox("mine", &manifest).await;
    sandbox.ready().await;
    sandbox
}

async fn is_served(sandbox: &Sandbox) {
    eventually("the agent is served", Duration::from_secs(20), || async {
        let answer = sandbox.sh(&format!("curl -sS -m 20 -o /dev/null -w '%{{http_code}}' {ECHO}")).await;
        if answer.stdout == "200" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

async fn ip(ns: &Namespace, pod: &str) -> String {
    ns.pods().get(pod).await.unwrap().status.and_then(|s| s.pod_ip).expect("the pod has an address")
}

/// A pod with every label of the sandbox's agent, so that the proxy's wall lets it in.
pub(crate) async fn lookalike(ns: &Namespace, sandbox: &Sandbox) {
    let agent = ns.pods().get(&sandbox.agent_pod()).await.unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "lookalike", "labels": agent.metadata.labels},
        "spec": {
            "runtimeClassName": "gvisor",
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "agent", "image": fixtures::AGENT_IMAGE, "command": ["sleep", "infinity"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    });
    ns.apply(&pod.to_string()).await.unwrap();
    ns.pod_ready("lookalike", Duration::from_secs(60)).await;
}

pub(crate) async fn in_lookalike(ns: &Namespace, line: &str) -> Output {
    exec(&ns.pods(), "lookalike", "agent", &["/bin/sh", "-c", line]).await
}

/// Whether this line of the audit trail says that an address was enrolled.
fn is_enrolment(line: &&serde_json::Value) -> bool {
    // A folded line stands for enrolments before it.
    line["entrance"] == "enrolment" && line["event"] == "admit" && line.get("folded").is_none()
}

#[tokio::test]
async fn o_n18_a_pod_with_the_agents_labels_is_not_served_and_cannot_enrol_itself() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "lookalike", async |ns| {
        let sandbox = served(&ns).await;
        lookalike(&ns, &sandbox).await;
        let proxy = ip(&ns, "mine-proxy").await;
        let before = rig.packets_from(proxy.parse().unwrap()).await;
        for line in [
            format!("curl -sS -m 5 -o /dev/null -w '%{{http_code}}' -x http://{proxy}:3128 {ECHO}"),
            format!("curl -sS -m 5 -o /dev/null -w '%{{http_code}}' -x socks5h://{proxy}:1080 {ECHO}"),
            format!("curl -sS -m 5 -o /dev/null -w '%{{http_code}}' --resolve echo.world.test:80:{proxy} {ECHO}"),
            format!("curl -sS -m 5 -o /dev/null -w '%{{http_code}}' http://{proxy}:8080/echo/"),
        ] {
            let answer = in_lookalike(&ns, &line).await;
            assert_eq!(answer.stdout, "000", "{line} was answered: {answer:?}");
        }
        // The wall did let it in: what refused it is the proxy, which this port answers whoever asks.
        let enrol = format!(
            "curl -sS -m 20 -o /dev/null -w '%{{http_code}}' -X POST -H 'authorization: Bearer guess' http://{proxy}:3129/enrol"
        );
        let refused = in_lookalike(&ns, &enrol).await.ok();
        assert!(["401", "403"].contains(&refused.stdout.as_str()), "{refused:?}");
        assert_eq!(rig.packets_from(proxy.parse().unwrap()).await, before, "the proxy sent something for it");
        is_served(&sandbox).await;
    })
    .await;
}

#[tokio::test]
async fn an_agent_recreated_under_a_new_address_is_served_and_the_old_address_is_not() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "reenrolled", async |ns| {
        let sandbox = served(&ns).await;
        is_served(&sandbox).await;
        let old = ns.pods().get(&sandbox.agent_pod()).await.unwrap();
        ns.pods().delete(&sandbox.agent_pod(), &DeleteParams::default()).await.unwrap();
        eventually("another agent", Duration::from_secs(60), || async {
            match ns.pods().get_opt(&sandbox.agent_pod()).await {
                Ok(Some(pod)) if pod.metadata.uid != old.metadata.uid => Ok(()),
                other => Err(format!("{:?}", other.map(|pod| pod.map(|pod| pod.metadata.uid)))),
            }
        })
        .await;
        let new = ns.pod_ready(&sandbox.agent_pod(), READY_WITHIN).await;
        sandbox.ready().await;
        let (old, new) =
            (old.status.and_then(|s| s.pod_ip).unwrap(), new.status.and_then(|s| s.pod_ip).unwrap());
        assert_ne!(old, new, "the same address came back, so this test proves nothing");
        is_served(&sandbox).await;
        // The proxy serves the address that was enrolled last and no other, and writes down whom it enrols before it does.
        eventually("the new address is the last that was enrolled", Duration::from_secs(20), || async {
            let told = sandbox.audit().await;
            let served =
                told.iter().rposition(|line| line["path"] == "/enrolled" && line["event"] == "begin");
            let enrolled = told.iter().take(served.ok_or("the request is not in the audit trail")?);
            let mut enrolled: Vec<_> =
                enrolled.filter(is_enrolment).map(|line| line["host"].clone()).collect();
            enrolled.dedup();
            // An agent whose walls were late has been replaced before, and its address enrolled before these.
            if enrolled.ends_with(&[json!(old), json!(new)]) {
                Ok(())
            } else {
                Err(format!("{enrolled:?}, not {old} and {new}"))
            }
        })
        .await;
    })
    .await;
}

//! A Secret that changes or goes: the next request carries the new key or none, and no pod is restarted.

use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::fixtures;

const OLD: &str = "echo-real-old-51d0f6a2c9";
const NEW: &str = "echo-real-new-8e47b3d105";
const NEXT: &str = "echo-real-next-2b9c60f4e7";

/// The proxy looks once a second at what its kubelet has brought. This bounds a hang.
const KNOWN_WITHIN: Duration = Duration::from_secs(60);

/// Asks under a path of its own, and returns the status and the key that arrived.
async fn asked(rig: &Rig, sandbox: &Sandbox, path: &str) -> Result<(String, Option<String>), String> {
    let line = format!("curl -sS -m 20 -o /dev/null -w '%{{http_code}}' https://echo.world.test{path}");
    let status = sandbox.sh(&line).await.stdout;
    let seen = rig.world.requests_to("echo.world.test").await.map_err(|error| error.to_string())?;
    let last = seen.iter().rev().find(|request| request.path == path);
    let key = last.and_then(|request| request.header("authorization")).map(str::to_owned);
    Ok((status, key))
}

/// A kubelet looks at its Secrets about once a minute, and at once when a pod changes: this is such a change.
async fn look(ns: &Namespace) {
    let poke = json!({"metadata": {"annotations": {"agentsandbox.test/look": agentsandbox_world::journal::now_ns().to_string()}}});
    ns.pods().patch("k-proxy", &PatchParams::default(), &Patch::Merge(&poke)).await.unwrap();
}

async fn arrives(rig: &Rig, ns: &Namespace, sandbox: &Sandbox, path: &str, key: &str) {
    look(ns).await;
    let wanted = format!("Bearer {key}");
    eventually(&format!("{key} arrives"), KNOWN_WITHIN, || async {
        match asked(rig, sandbox, path).await? {
            (status, Some(key)) if status == "200" && key == wanted => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn o_h25_a_changed_key_is_the_only_one_from_then_on(rig: &Rig, ns: &Namespace, sandbox: &Sandbox) {
    arrives(rig, ns, sandbox, "/old", OLD).await;
    ns.secret("echo", "token", NEW).await;
    arrives(rig, ns, sandbox, "/new", NEW).await;
    for turn in 0..20 {
        let (status, key) = asked(rig, sandbox, &format!("/after/{turn}")).await.unwrap();
        assert_eq!((status.as_str(), key), ("200", Some(format!("Bearer {NEW}"))), "request {turn}");
    }
}

async fn o_h26_a_deleted_secret_fails_closed_and_a_new_one_is_used(
    rig: &Rig,
    ns: &Namespace,
    sandbox: &Sandbox,
) {
    let secrets: Api<Secret> = Api::namespaced(ns.client.clone(), &ns.name);
    secrets.delete("echo", &DeleteParams::default()).await.unwrap();
    look(ns).await;
    eventually("no request goes without its key", KNOWN_WITHIN, || async {
        let (status, _) = asked(rig, sandbox, "/gone").await?;
        if status == "200" { Err(status) } else { Ok(()) }
    })
    .await;
    let (status, key) = asked(rig, sandbox, "/bare").await.unwrap();
    assert!(status != "200" && key.is_none(), "{status} {key:?}");
    let seen = rig.world.requests_to("echo.world.test").await.unwrap();
    assert!(!seen.iter().any(|request| request.path == "/bare"), "it was sent without its key");
    sandbox.await_reason("CredentialsReady", "CredentialMissing", KNOWN_WITHIN).await;
    ns.secret("echo", "token", NEW).await;
    arrives(rig, ns, sandbox, "/again", NEW).await;
}

/// A kubelet looks at an immutable Secret once: it is replaced by another of another name.
async fn o_h25_an_immutable_secret_is_changed_by_naming_another(
    rig: &Rig,
    ns: &Namespace,
    sandbox: &Sandbox,
) {
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "echo-2"}, "immutable": true,
        "stringData": {"token": NEXT}});
    ns.apply(&other.to_string()).await.unwrap();
    ns.apply(&fixtures::ECHO_CREDENTIAL.replace("{name: echo, key: token}", "{name: echo-2, key: token}"))
        .await
        .unwrap();
    eventually("the key of the other Secret arrives", KNOWN_WITHIN * 2, || async {
        sandbox.condition("Ready").await?.filter(|c| c.status == "True").ok_or("not ready")?;
        match asked(rig, sandbox, "/next").await? {
            (_, Some(key)) if key == format!("Bearer {NEXT}") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

fn uid(pod: Pod) -> (Option<String>, i32) {
    let restarts = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let restarts = restarts.map(|c| c.restart_count).sum();
    (pod.metadata.uid, restarts)
}

#[tokio::test]
async fn a_key_is_changed_taken_away_and_given_back_while_its_agent_runs() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "rotation", async |ns| {
        ns.secret("echo", "token", OLD).await;
        ns.apply(fixtures::ECHO_CREDENTIAL).await.unwrap();
        let rule = "{host: echo.world.test, credential: echo}";
        let sandbox = ns.sandbox("k", &fixtures::sleeper("k", fixtures::AGENT_IMAGE, "Set", &[rule])).await;
        sandbox.ready().await;
        let agent = uid(ns.pods().get("k-agent").await.unwrap());
        o_h25_a_changed_key_is_the_only_one_from_then_on(&rig, &ns, &sandbox).await;
        o_h26_a_deleted_secret_fails_closed_and_a_new_one_is_used(&rig, &ns, &sandbox).await;
        o_h25_an_immutable_secret_is_changed_by_naming_another(&rig, &ns, &sandbox).await;
        assert_eq!(uid(ns.pods().get("k-agent").await.unwrap()), agent, "the agent was restarted");
    })
    .await;
}

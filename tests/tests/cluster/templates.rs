//! Sandboxes that have their spec from a template: they run as it says, no further than it says, and not without it.

use std::collections::BTreeSet;
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Error, ResourceExt};
use serde_json::{Value, json};

use crate::fixtures;
use crate::people::{bind, user};

/// Bounds a hang.
const WITHIN: Duration = Duration::from_secs(60);
/// The value of the key, in its Secret and nowhere else.
const KEY: &str = "key-of-the-template-6a1c";

fn template() -> Value {
    json!({
        "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxTemplate", "metadata": {"name": "jobs"},
        "spec": {"sandbox": {
            "className": "world",
            "agent": {"image": fixtures::AGENT_IMAGE, "command": ["sleep", "infinity"]},
            "resources": {"limits": {"memory": "300Mi"}},
            "egress": {"allow": [{"host": "echo.world.test", "methods": ["GET"], "credential": "echo"}]},
        }},
    })
}

fn sandbox(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["templateRef"] = json!({"name": "jobs"});
    json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox", "metadata": {"name": name}, "spec": spec})
}

/// Names of the walls in the namespace.
async fn walls(ns: &Namespace) -> BTreeSet<String> {
    let policies: Api<NetworkPolicy> = Api::namespaced(ns.client.clone(), &ns.name);
    let all = policies.list(&ListParams::default()).await.unwrap();
    all.items.iter().map(ResourceExt::name_any).filter(|name| name.starts_with("by-")).collect()
}

async fn asks(ns: &Namespace, method: &str) -> String {
    let line =
        format!("curl -sS -m 20 -o /tmp/answer -w '%{{http_code}}' -X {method} https://echo.world.test/");
    ns.handle("by-template").sh(&line).await.stdout
}

#[tokio::test]
async fn a_sandbox_runs_as_its_template_says_and_no_further_and_not_without_it() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "templates", async |ns| {
        ns.secret("echo", "token", KEY).await;
        ns.apply(fixtures::ECHO_CREDENTIAL).await.unwrap();
        ns.apply(&template().to_string()).await.unwrap();
        // A developer may make sandboxes, and neither read the Secret nor write or read the template.
        let developer = format!("developer-of-{}", ns.name);
        let verbs = ["create", "get", "patch"];
        bind(
            &ns,
            &developer,
            json!([{"apiGroups": ["agentsandbox.dev"], "resources": ["agentsandboxes"], "verbs": verbs}]),
        )
        .await;
        let developer = user(&rig, &ns, &developer).await;
        match developer.apply(&template().to_string()).await {
            Err(Error::Api(status)) if status.code == 403 => {}
            other => panic!("{other:?}"),
        }
        developer.apply(&sandbox("by-template", json!({})).to_string()).await.unwrap();
        let own = ns.handle("by-template");
        own.ready().await;
        assert_eq!((asks(&ns, "GET").await.as_str(), asks(&ns, "POST").await.as_str()), ("200", "403"));
        let seen = own.sh("env; cat /tmp/answer").await.stdout;
        assert!(seen.contains("HTTPS_PROXY") && !seen.contains(KEY), "{seen}");

        let wider = json!({"egress": {"allow": [{"host": "echo.world.test", "methods": ["GET", "POST"]}]}});
        developer.apply(&sandbox("by-wider", wider).to_string()).await.unwrap();
        let told = ns.handle("by-wider").await_reason("Accepted", "OutsideTemplate", WITHIN).await;
        for part in
            ["spec.egress.allow[0].methods", "in spec.sandbox.egress.allow[0].methods; leave methods out"]
        {
            assert!(told.message.contains(part), "{}", told.message);
        }

        let standing = walls(&ns).await;
        let api = ns.api_of(&template());
        api.delete("jobs", &DeleteParams::default()).await.unwrap();
        own.await_reason("Accepted", "TemplateNotFound", WITHIN).await;
        eventually("nothing runs", WITHIN, || async {
            let pods = own.pods().list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            if pods.items.is_empty() { Ok(()) } else { Err(format!("{} pods", pods.items.len())) }
        })
        .await;
        assert_eq!(walls(&ns).await, standing, "walls stay");
        assert!(standing.len() >= 2, "{standing:?}");
        ns.apply(&template().to_string()).await.unwrap();
        own.await_condition("Ready", "True", 3 * WITHIN).await;
    })
    .await;
}

#[tokio::test]
async fn a_claim_goes_as_its_template_says_and_stays_where_that_was_deleted_first() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "when-deleted", async |ns| {
        let says = async |when: &str| {
            let mut said = template();
            said["spec"]["sandbox"].as_object_mut().unwrap().remove("egress");
            let persistent = json!({"size": "64Mi", "whenDeleted": when});
            said["spec"]["sandbox"]["workspace"] = json!({"access": "Persistent", "persistent": persistent});
            ns.apply(&said.to_string()).await.unwrap();
        };
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(ns.client.clone(), &ns.name);
        for (name, last, is_there) in
            [("goes", "Delete", true), ("stays", "Retain", true), ("outlasts", "Delete", false)]
        {
            says(last).await;
            let own = ns.sandbox(name, &sandbox(name, json!({})).to_string()).await;
            own.ready().await;
            if !is_there {
                ns.api_of(&template()).delete("jobs", &DeleteParams::default()).await.unwrap();
                own.await_reason("Accepted", "TemplateNotFound", WITHIN).await;
            }
            own.api().delete(name, &DeleteParams::default()).await.unwrap();
            own.gone(WITHIN).await;
            let left = claims.get_opt(&format!("{name}-workspace")).await.unwrap();
            let left = left.filter(|one| one.metadata.deletion_timestamp.is_none());
            assert_eq!(left.is_some(), name != "goes", "{name}: {left:?}");
        }
    })
    .await;
}

//! A host that speaks to nobody without a client certificate: the proxy shows it, the agent never has it.

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use agentsandbox_world::authority::{Authority, Pem};
use agentsandbox_world::journal::now_ns;
use agentsandbox_world::names;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::json;

use crate::fixtures;

const CREDENTIAL: &str = "
apiVersion: agentsandbox.dev/v1alpha1
kind: AgentCredential
metadata: {name: partner}
spec:
  secretRef: {name: partner-tls}
  inject: {type: ClientCertificate}
  hosts:
  - {host: partner.world.test, paths: ['/v1/**', '/v2/**']}
";

/// The last of the rules names no certificate.
const RULES: [&str; 3] = [
    "{host: partner.world.test, paths: ['/v1/**'], clientCertificate: partner}",
    "{host: partner.world.test, paths: ['/v2/**']}",
    "{host: echo.world.test}",
];

async fn certificate(ns: &Namespace, pair: &Pem) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "partner-tls"}, "type": "kubernetes.io/tls",
        "stringData": {"tls.crt": pair.certificate, "tls.key": pair.key}});
    ns.apply(&secret.to_string()).await.unwrap();
}

/// A kubelet looks at its Secrets about once a minute, and at once when a pod changes: this is such a change.
async fn look(ns: &Namespace) {
    let poke = json!({"metadata": {"annotations": {"agentsandbox.test/look": now_ns().to_string()}}});
    ns.pods().patch("m-proxy", &PatchParams::default(), &Patch::Merge(&poke)).await.unwrap();
}

/// The status that the agent is told for an address.
async fn asked(agent: &Sandbox, address: &str) -> String {
    agent.sh(&format!("curl -sS -m 20 -o /dev/null -w '%{{http_code}}' https://{address}")).await.stdout
}

/// What was shown with each request for this host and path.
async fn shown(rig: &Rig, host: &str, path: &str) -> Vec<Option<String>> {
    let seen = rig.world.requests_to(host).await.unwrap();
    seen.into_iter().filter(|request| request.path == path).map(|request| request.certificate).collect()
}

/// The certificate as the journal of the world writes it.
fn on_one_line(pair: &Pem) -> Option<String> {
    Some(pair.certificate.lines().filter(|line| !line.starts_with("-----")).collect())
}

async fn a_replaced_pair_is_the_only_one_from_then_on(rig: &Rig, ns: &Namespace, agent: &Sandbox, new: &Pem) {
    certificate(ns, new).await;
    look(ns).await;
    eventually("the new certificate is shown", READY_WITHIN, || async {
        let path = format!("/v1/new/{}", now_ns());
        let status = asked(agent, &format!("{}{path}", names::PARTNER)).await;
        let shown = shown(rig, names::PARTNER, &path).await;
        if status == "200" && shown == [on_one_line(new)] {
            Ok(())
        } else {
            Err(format!("{status} {shown:?}"))
        }
    })
    .await;
}

async fn without_the_secret_nothing_is_sent(rig: &Rig, ns: &Namespace, agent: &Sandbox) {
    let secrets: Api<Secret> = Api::namespaced(ns.client.clone(), &ns.name);
    secrets.delete("partner-tls", &DeleteParams::default()).await.unwrap();
    look(ns).await;
    let address = format!("{}/v1/gone", names::PARTNER);
    eventually("no request goes without its certificate", READY_WITHIN, || async {
        let status = asked(agent, &address).await;
        if status == "200" { Err(status) } else { Ok(()) }
    })
    .await;
    assert_eq!(asked(agent, &format!("{}/v1/bare", names::PARTNER)).await, "403");
    assert!(shown(rig, names::PARTNER, "/v1/bare").await.is_empty(), "it was sent without its certificate");
    let told = agent.await_reason("CredentialsReady", "CredentialMissing", READY_WITHIN).await;
    assert!(told.message.contains("Secret partner-tls of this namespace"), "{told:?}");
}

#[tokio::test]
async fn p_f21_the_proxy_shows_the_certificate_to_its_host_alone_and_the_agent_never_has_it() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "certificate", async |ns| {
        let authority = Authority::load_or_create(&rig.cluster.world_state()).unwrap();
        let [first, second] =
            ["m.agents.test", "n.agents.test"].map(|name| authority.client_pem(name).unwrap());
        ns.apply(CREDENTIAL).await.unwrap();
        let agent = ns.sandbox("m", &fixtures::sleeper("m", fixtures::AGENT_IMAGE, "Set", &RULES)).await;
        let missing = agent.await_reason("CredentialsReady", "CredentialMissing", READY_WITHIN).await;
        for part in ["AgentCredential partner", "Secret partner-tls of this namespace", "tls.crt nor tls.key"]
        {
            assert!(missing.message.contains(part), "{missing:?}");
        }
        certificate(&ns, &first).await;
        agent.ready().await;
        let uid = ns.pods().get("m-agent").await.unwrap().metadata.uid;

        assert_eq!(asked(&agent, "partner.world.test/v1/orders").await, "200");
        assert_eq!(shown(&rig, names::PARTNER, "/v1/orders").await, [on_one_line(&first)]);
        // The host ends the handshake of who shows nothing: right beside a connection that did show one.
        assert_eq!(asked(&agent, "partner.world.test/v2/orders").await, "502");
        assert!(
            shown(&rig, names::PARTNER, "/v2/orders").await.is_empty(),
            "it travelled under another rule"
        );
        assert_eq!(asked(&agent, "partner.world.test/v3/orders").await, "403");
        assert_eq!(asked(&agent, "echo.world.test/plain").await, "200");
        assert_eq!(shown(&rig, names::ECHO, "/plain").await, [None]);

        let key: String = first.key.lines().nth(1).unwrap().to_owned();
        let found = agent
            .sh(&format!(
                "env | grep -c '{key}'; grep -rlF '{key}' /etc /workspace /tmp /run /var 2>/dev/null"
            ))
            .await;
        assert_eq!(found.stdout.trim(), "0", "the agent holds the private key: {found:?}");
        let audit = agent.audit().await;
        let named = |line: &&serde_json::Value| line["clientCertificate"] == "partner";
        assert!(audit.iter().filter(named).all(|line| line["host"] == "partner.world.test"), "{audit:?}");
        assert!(audit.iter().any(|line| named(&line) && line["path"] == "/v1/orders"), "{audit:?}");

        a_replaced_pair_is_the_only_one_from_then_on(&rig, &ns, &agent, &second).await;
        without_the_secret_nothing_is_sent(&rig, &ns, &agent).await;
        assert_eq!(ns.pods().get("m-agent").await.unwrap().metadata.uid, uid, "the agent was restarted");
    })
    .await;
}

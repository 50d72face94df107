//! Two tenants of one cluster: neither reaches the other's agent, proxy or key, whatever he writes into his namespace.

use std::time::Duration;

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use agentsandbox_world::journal::PacketFilter;
use agentsandbox_world::names as world;
use k8s_openapi::api::core::v1::{Namespace as CoreNamespace, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::enrolment::{in_lookalike, lookalike};
use crate::fixtures;
use crate::routes::{address, open, service_address, started};

const ECHO_KEY: &str = "echo-real-7a3e5d90c1b24f68";
const SERVED_WITHIN: Duration = Duration::from_secs(30);
/// The same in both namespaces.
const NAME: &str = "same";

/// Every port that a proxy listens on, and those of an agent that listens.
const PORTS: [&str; 8] =
    ["53-53", "80-80", "443-443", "1080-1080", "3128-3129", "8080-8080", "9090-9090", "8000-8000"];

async fn agent(ns: &Namespace) -> Sandbox {
    let rule = "{host: echo.world.test, scheme: Http, ports: [80]}";
    ns.sandbox(NAME, &fixtures::sleeper(NAME, fixtures::AGENT_IMAGE, "Set", &[rule])).await
}

async fn is_served(sandbox: &Sandbox) {
    let ask = "curl -sS -m 20 -o /dev/null -w '%{http_code}' http://echo.world.test/tenant";
    eventually("the agent is served", SERVED_WITHIN, || async {
        let answer = sandbox.sh(ask).await;
        if answer.stdout == "200" { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await;
}

/// The token that the fence of a sandbox shows to its proxy, as who may read the Secret reads it.
async fn token(ns: &Namespace) -> String {
    let secrets: Api<Secret> = Api::namespaced(ns.client.clone(), &ns.name);
    let all = secrets.list(&ListParams::default()).await.unwrap();
    let found = all.into_iter().find_map(|secret| secret.data?.remove("enrolment-token"));
    String::from_utf8(found.expect("the sandbox has a token").0).expect("a token is text")
}

fn uids(pods: Vec<Pod>) -> Vec<Option<String>> {
    pods.into_iter().map(|pod| pod.metadata.uid).collect()
}

async fn o_t14_neither_agent_reaches_anything_of_the_other(one: &Namespace, other: &Namespace) {
    for (from, to) in [(one, other), (other, one)] {
        let listens = "(python3 -m http.server 8000) </dev/null >/dev/null 2>&1 & echo started";
        let there = to.handle(NAME);
        there.sh(listens).await.ok();
        eventually("the other agent listens", SERVED_WITHIN, || async {
            let heard = there.sh("curl -sS --noproxy '*' -o /dev/null http://127.0.0.1:8000/").await;
            if heard.code == 0 { Ok(()) } else { Err(format!("{heard:?}")) }
        })
        .await;
        let foreign = [
            address(to, "same-agent").await.to_string(),
            address(to, "same-proxy").await.to_string(),
            service_address(to, "same-proxy").await,
        ];
        for host in &foreign {
            assert!(open(from, "same-agent", host, &PORTS).await.is_empty(), "{host} of {}", to.name);
        }
        let own = service_address(from, "same-proxy").await;
        eventually("the own proxy answers", SERVED_WITHIN, || async {
            let open = open(from, "same-agent", &own, &PORTS).await;
            if open.len() == 7 { Ok(()) } else { Err(format!("{open:?}")) }
        })
        .await;
    }
}

async fn o_t15_a_token_is_worth_nothing_to_another_sandbox(rig: &Rig, one: &Namespace, other: &Namespace) {
    let (ours, theirs) = (one.handle(NAME), other.handle(NAME));
    let (proxy, own) = (address(one, "same-proxy").await, address(other, "same-proxy").await);
    let show = |token: &str, proxy: &str| {
        format!(
            "curl -sS -m 5 --noproxy '*' -o /dev/null -w '%{{http_code}}' -X POST -H 'authorization: Bearer {token}' http://{proxy}:3129/enrol"
        )
    };
    let (our_token, their_token) = (token(one).await, token(other).await);
    assert_ne!(our_token, their_token);
    // An agent has no token to lend: only its fence had the file.
    ours.sh("ls /var/run/agentsandbox/enrolment").await.failed();

    let refused = |answer: &str| ["401", "403"].contains(&answer);
    let elsewhere = theirs.sh(&show(&our_token, &proxy.to_string())).await;
    assert_eq!(elsewhere.stdout, "000", "the wall let it through: {elsewhere:?}");
    let at_home = theirs.sh(&show(&our_token, &own.to_string())).await;
    assert!(refused(&at_home.stdout), "{at_home:?}");
    let before = rig.packets_from(proxy).await;
    let inside = in_lookalike(one, &show(&their_token, &proxy.to_string())).await;
    assert!(refused(&inside.stdout), "{inside:?}");
    assert_eq!(rig.packets_from(proxy).await, before, "the proxy sent something for it");
    is_served(&ours).await;
    is_served(&theirs).await;
}

async fn o_t16_neither_headers_nor_status_make_another_a_client(rig: &Rig, one: &Namespace) {
    let (proxy, agent) = (address(one, "same-proxy").await, address(one, "same-agent").await);
    let before = rig.packets_from(proxy).await;
    for field in ["X-Forwarded-For: AGENT", "Forwarded: for=AGENT", "X-Real-IP: AGENT", "Via: 1.1 AGENT"] {
        let field = field.replace("AGENT", &agent.to_string());
        let ask = format!(
            "curl -sS -m 5 -o /dev/null -w '%{{http_code}}' -H '{field}' -x http://{proxy}:3128 http://echo.world.test/tenant"
        );
        let answer = in_lookalike(one, &ask).await;
        assert_eq!(answer.stdout, "000", "{field}: {answer:?}");
    }
    assert!(open(one, "plain", &proxy.to_string(), &PORTS).await.is_empty(), "a pod without labels gets in");
    assert_eq!(rig.packets_from(proxy).await, before, "the proxy sent something for another");

    let ours = one.handle(NAME);
    let told = json!({"status": {"className": "none", "egress": {"denied": 0, "latest": [{"host": "files.example.com", "reason": "x", "count": 1}]}}});
    ours.api().patch_status(NAME, &PatchParams::default(), &Patch::Merge(&told)).await.unwrap();
    let denied = ours.sh("curl -sS -m 20 -o /dev/null -w '%{http_code}' http://files.example.com/").await;
    assert_eq!(denied.stdout, "403", "{denied:?}");
    is_served(&ours).await;
}

#[tokio::test]
async fn two_tenants_with_sandboxes_of_one_name_are_strangers() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "tenant-a", async |one| {
        with_namespace(&rig, "tenant-b", async |other| {
            let (ours, theirs) = (agent(&one).await, agent(&other).await);
            ours.ready().await;
            theirs.ready().await;
            o_t14_neither_agent_reaches_anything_of_the_other(&one, &other).await;
            lookalike(&one, &ours).await;
            started(&one, &fixtures::plain("plain", fixtures::WAIT)).await;
            o_t15_a_token_is_worth_nothing_to_another_sandbox(&rig, &one, &other).await;
            o_t16_neither_headers_nor_status_make_another_a_client(&rig, &one).await;

            let before = uids(other.pods().list(&ListParams::default()).await.unwrap().items);
            ours.delete().await;
            ours.gone(READY_WITHIN).await;
            is_served(&theirs).await;
            let after = uids(other.pods().list(&ListParams::default()).await.unwrap().items);
            assert_eq!(after, before, "the end of one changed the other");
        })
        .await;
    })
    .await;
}

/// Its name makes `echo.world.test` one of the names that a resolver with a search list tries first.
const TEST_NAMESPACE: &str = "test";

/// What a tenant writes to have `echo.world.test` mean a host of his own.
async fn hijack(ns: &Namespace) {
    ns.apply(
        &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TEST_NAMESPACE}}).to_string(),
    )
    .await
    .unwrap();
    let test = Namespace { name: TEST_NAMESPACE.to_owned(), client: ns.client.clone() };
    let evil = world::address_of(world::EVIL).expect("evil has an address");
    for object in [
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "world"},
               "spec": {"clusterIP": "None", "ports": [{"name": "http", "port": 80}]}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
               "metadata": {"name": "world-1", "labels": {"kubernetes.io/service-name": "world"}},
               "addressType": "IPv4", "ports": [{"name": "http", "port": 80}],
               "endpoints": [{"addresses": [evil], "hostname": "echo", "conditions": {"ready": true}}]}),
    ] {
        test.apply(&object.to_string()).await.unwrap();
    }
    let outside = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "echo"},
        "spec": {"type": "ExternalName", "externalName": world::EVIL}});
    ns.apply(&outside.to_string()).await.unwrap();
}

#[tokio::test]
async fn o_t4_names_that_a_tenant_makes_do_not_move_a_credential() {
    let rig = Rig::beside().await;
    let namespaces: Api<CoreNamespace> = Api::all(rig.client.clone());
    with_namespace(&rig, "hijack", async |ns| {
        eventually("the namespace of an earlier run is gone", READY_WITHIN, || async {
            match namespaces.get_opt(TEST_NAMESPACE).await {
                Ok(Some(one)) if one.metadata.deletion_timestamp.is_some() => Err("it ends".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
        hijack(&ns).await;
        ns.secret("echo", "token", ECHO_KEY).await;
        ns.apply(fixtures::ECHO_CREDENTIAL).await.unwrap();
        let rule = "{host: echo.world.test, credential: echo}";
        let agent = ns.sandbox("h", &fixtures::sleeper("h", fixtures::AGENT_IMAGE, "Set", &[rule])).await;
        agent.ready().await;
        started(&ns, &fixtures::plain("plain", fixtures::WAIT)).await;
        let evil = world::address_of(world::EVIL).unwrap();
        eventually("a resolver with a search list is deceived", SERVED_WITHIN, || async {
            let pods = ns.pods();
            let asked = ["getent", "hosts", world::ECHO];
            let found = agentsandbox_tests::exec::exec(&pods, "plain", "agent", &asked).await.text();
            if found.contains(&evil.to_string()) { Ok(()) } else { Err(found) }
        })
        .await;

        let path = format!("/{}", ns.name);
        let ask = format!("curl -sS -m 20 -o /dev/null -w '%{{http_code}}' https://echo.world.test{path}");
        assert_eq!(agent.sh(&ask).await.ok().stdout, "200");
        let seen = rig.world.requests_to(world::ECHO).await.unwrap();
        let ours: Vec<_> = seen.iter().filter(|request| request.path == path).collect();
        assert!(!ours.is_empty(), "nothing arrived");
        for request in ours {
            assert_eq!(request.local, world::address_of(world::ECHO).map(Into::into), "{request:?}");
            assert_eq!(request.header("authorization"), Some(&*format!("Bearer {ECHO_KEY}")));
        }
        let proxy = address(&ns, "h-proxy").await;
        let filter =
            PacketFilter { source: Some(proxy), destination: Some(evil.into()), ..PacketFilter::default() };
        let strayed = rig.world.packets(filter).await.unwrap().counters;
        assert!(strayed.is_empty(), "{strayed:?}");
        namespaces.delete(TEST_NAMESPACE, &DeleteParams::background()).await.unwrap();
    })
    .await;
}

async fn o_t11_the_defaults_of_a_limit_range_raise_no_limit(rig: &Rig, ns: &Namespace) {
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "generous"},
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "3", "memory": "3Gi"},
                             "defaultRequest": {"cpu": "10m", "memory": "16Mi"}}]}});
    ns.apply(&range.to_string()).await.unwrap();
    let manifest = fixtures::limited(&fixtures::closed("ranged"), "cpu: 500m, memory: 256Mi");
    let sandbox = ns.sandbox("ranged", &manifest).await;
    // The API server would put the defaults into a container that says nothing, and take none that is over its pod's limit.
    sandbox.ready().await;
    let ranges: Api<k8s_openapi::api::core::v1::LimitRange> = Api::namespaced(ns.client.clone(), &ns.name);
    ranges.delete("generous", &DeleteParams::default()).await.unwrap();
    let group = rig.group(&ns.pods().get("ranged-agent").await.unwrap());
    assert_eq!((group.memory().0, group.cpu_quota()), (256 << 20, (50_000, 100_000)));
}

#[tokio::test]
async fn o_t11_a_quota_that_denies_a_pod_is_told_and_waited_for() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "quota", async |ns| {
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-more-pods"},
            "spec": {"hard": {"pods": "0"}}});
        ns.apply(&quota.to_string()).await.unwrap();
        let quotas: Api<k8s_openapi::api::core::v1::ResourceQuota> =
            Api::namespaced(ns.client.clone(), &ns.name);
        eventually("the quota is counted", SERVED_WITHIN, || async {
            let quota = quotas.get("no-more-pods").await.map_err(|error| error.to_string())?;
            quota.status.and_then(|status| status.used).map(drop).ok_or("not yet".to_owned())
        })
        .await;
        let refused = ns.sandbox("refused", &fixtures::closed("refused")).await;
        let told = refused.await_reason("Ready", "Refused", READY_WITHIN).await;
        assert!(told.message.contains("no-more-pods"), "{told:?}");
        quotas.delete("no-more-pods", &DeleteParams::default()).await.unwrap();
        o_t11_the_defaults_of_a_limit_range_raise_no_limit(&rig, &ns).await;
        refused.ready().await;
    })
    .await;
}

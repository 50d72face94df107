//! The agent starts only behind a fence that was seen to hold, however slowly the policy engine works.

use std::cell::RefCell;
use std::time::Duration;

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::fixtures;

/// How many sandboxes start at once, unless [`AT_ONCE_VARIABLE`] says more: kube-router writes all rules anew for each of them, which
/// is slow on few cores.
const AT_ONCE: usize = 10;
/// The night's number of them.
const AT_ONCE_VARIABLE: &str = "AGENTSANDBOX_TEST_AT_ONCE";
/// Looks in a row that see no new packet: more than a pod without CPU spoils.
const EQUAL_LOOKS: usize = 10;

pub(crate) async fn agent_pod(sandbox: &Sandbox) -> Option<Pod> {
    sandbox.pods().get_opt(&sandbox.agent_pod()).await.expect("pods are readable")
}

pub(crate) fn agent_started(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    statuses.into_iter().any(|c| c.name == "agent" && (c.started == Some(true) || c.restart_count > 0))
}

#[tokio::test]
async fn o_n15_with_the_policy_engine_stopped_no_agent_starts_and_it_starts_when_the_engine_resumes() {
    let rig = Rig::alone().await;
    with_namespace(&rig, "paused", async |ns| {
        let engine = rig.pause("kube-router");
        let sandbox = ns.sandbox("p", &fixtures::closed("p")).await;
        let seen = sandbox.await_condition("NetworkIsolated", "False", READY_WITHIN).await;
        assert!(!seen.message.is_empty());
        if let Some(pod) = agent_pod(&sandbox).await {
            assert!(!agent_started(&pod), "the agent started without walls");
        }
        drop(engine);
        sandbox.ready().await;
    })
    .await;
}

/// When a request that made this object was received, and when it was answered, as the API server's own clock says.
fn made(audit: &str, ns: &Namespace, resource: &str, name: &str) -> (Timestamp, Timestamp) {
    let time = |event: &Value, field: &str| {
        event[field].as_str().and_then(|time| time.parse().ok()).expect("each event has its times")
    };
    let of_namespace = audit.lines().filter(|line| line.contains(&ns.name));
    let events = of_namespace.filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut made = events.filter(|event| {
        let object = &event["objectRef"];
        object["resource"] == resource
            && object["name"] == name
            && object["namespace"] == ns.name
            && object["subresource"].is_null()
            && event["responseStatus"]["code"] == 201
    });
    let event = made.next().unwrap_or_else(|| panic!("no request made {resource} {name}"));
    (time(&event, "requestReceivedTimestamp"), time(&event, "stageTimestamp"))
}

/// Of each pod, agents' and proxies', and of each agent's container.
async fn o_n9_each_pod_is_made_behind_its_wall_and_each_agent_begins_behind_a_proven_fence(
    rig: &Rig,
    ns: &Namespace,
    names: &[String],
) {
    let audit = std::fs::read_to_string(rig.cluster.audit_log()).expect("the API server writes an audit log");
    for name in names {
        for pod in [format!("{name}-agent"), format!("{name}-proxy")] {
            let (_, wall) = made(&audit, ns, "networkpolicies", &pod);
            let (asked, _) = made(&audit, ns, "pods", &pod);
            assert!(wall < asked, "{pod} was asked for at {asked}, and its wall stood at {wall}");
        }
        let pod = agent_pod(&ns.handle(name)).await.expect("the agent's pod exists");
        let status = pod.status.expect("a pod has a status");
        let fence = status.init_container_statuses.into_iter().flatten().find(|c| c.name == "fence");
        let proven = fence.and_then(|c| c.state).and_then(|state| state.terminated).expect("the fence ended");
        let agent = status.container_statuses.into_iter().flatten().find(|c| c.name == "agent");
        let began = agent.and_then(|c| c.state).and_then(|state| state.running).and_then(|r| r.started_at);
        assert_eq!(proven.exit_code, 0, "{name}: {proven:?}");
        assert!(proven.finished_at <= began, "{name}: proven {:?}, began {began:?}", proven.finished_at);
    }
}

#[tokio::test]
async fn o_n7_no_packet_leaves_any_of_many_agents_that_start_at_once() {
    let rig = Rig::alone().await;
    let more = std::env::var(AT_ONCE_VARIABLE).ok().map(|number| number.parse().expect("it is a number"));
    let at_once = more.unwrap_or(AT_ONCE).max(AT_ONCE);
    with_namespace(&rig, "many", async |ns| {
        let names: Vec<String> = (0..at_once).map(|n| format!("a{n}")).collect();
        for name in &names {
            ns.apply(&fixtures::closed(name)).await.unwrap();
        }
        for name in &names {
            ns.handle(name).await_condition("Ready", "True", Duration::from_secs(240)).await;
        }
        o_n9_each_pod_is_made_behind_its_wall_and_each_agent_begins_behind_a_proven_fence(&rig, &ns, &names)
            .await;
        for name in &names {
            let pod = agent_pod(&ns.handle(name)).await.expect("the agent's pod exists");
            let address = pod.status.and_then(|s| s.pod_ip).expect("it has an address").parse().unwrap();
            // The fence itself probes; what counts is that nothing arrives once it has reported.
            let before = rig.packets_from(address).await;
            ns.handle(name).sh("curl -s -m 1 --noproxy '*' http://93.184.215.14/ ; true").await;
            assert_eq!(rig.packets_from(address).await, before, "{name} reached the world");
        }
    })
    .await;
}

/// A pod that sends from its first millisecond on, under a policy that was there before it and allows no egress.
fn eager(name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{walls: closed}}}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: agent
    image: {}
    command: [bash, -c, 'while :; do echo x > /dev/udp/93.184.215.14/9999; sleep 0.001; done']
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
",
        fixtures::AGENT_IMAGE
    )
}

/// How many packets of these pods reach the world before their policy holds.
async fn leaks(rig: &Rig, ns: &Namespace, names: &[&str]) -> u64 {
    let mut addresses = Vec::new();
    for name in names {
        ns.apply(&eager(name)).await.unwrap();
        let pod = ns.pod_ready(name, Duration::from_secs(60)).await;
        addresses.push(pod.status.and_then(|s| s.pod_ip).expect("it has an address").parse().unwrap());
    }
    let mut leaked = 0;
    for address in &addresses {
        // The policy does hold in the end: looks in a row see the same, though the pod sends every millisecond.
        let looks = RefCell::new(Vec::new());
        leaked += eventually("the policy holds", Duration::from_secs(30), || async {
            let sent = rig.packets_from(*address).await;
            let mut looks = looks.borrow_mut();
            looks.push(sent);
            let alike = looks.iter().rev().take_while(|look| **look == sent).count();
            if alike >= EQUAL_LOOKS { Ok(sent) } else { Err(format!("{looks:?}")) }
        })
        .await;
    }
    leaked
}

#[tokio::test]
async fn the_control_plain_pods_under_a_policy_that_was_there_first_reach_the_world_before_it_holds() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "control", async |ns| {
        let closed = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {walls: closed}}, policyTypes: [Ingress, Egress]}
";
        ns.apply(closed).await.unwrap();
        // A pod that gets no CPU while the engine works sends nothing: of six, one leaks.
        let (mut pods, mut leaked) = (0, 0);
        for names in [["one", "two", "three"], ["four", "five", "six"]] {
            if leaked == 0 {
                leaked = leaks(&rig, &ns, &names).await;
                pods += names.len();
            }
        }
        eprintln!("{pods} plain pods sent {leaked} packets before their policy held");
        assert!(leaked > 0, "no plain pod leaked, so the fence's wait was not needed here");
    })
    .await;
}

//! From inside the agent there is one way out, by every protocol and to every place; with the proxy gone there is none.

use std::net::IpAddr;
use std::time::Duration;

use agentsandbox_tests::{Namespace, Rig, Sandbox, with_namespace};

use crate::fixtures;

/// Places that an agent must not reach, as host and TCP port.
const PLACES: [(&str, u16); 11] = [
    ("10.96.0.1", 443),
    ("10.200.0.2", 6443),
    ("10.200.0.2", 10250),
    ("10.200.0.2", 2379),
    ("10.96.0.10", 53),
    ("169.254.169.254", 80),
    ("169.254.170.2", 80),
    ("100.100.100.200", 80),
    ("168.63.129.16", 80),
    ("93.184.215.14", 443),
    ("1.1.1.1", 53),
];

/// Tries TCP, UDP and ICMP (ping socket and raw) to a place, and prints what was open.
const PROBE: &str = r#"
import socket, struct, sys
host, port, wait = sys.argv[1], int(sys.argv[2]), 0.4
def attempt(name, f):
    try:
        if f(): print(name, host, port, flush=True)
    except OSError: pass
def tcp():
    with socket.create_connection((host, port), wait): return True
def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(wait); s.connect((host, port))
    s.send(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04echo\x05world\x04test\x00\x00\x01\x00\x01"); return bool(s.recv(512))
def icmp(kind):
    s = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP); s.settimeout(wait); s.connect((host, 0))
    body = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + b"x" * 8
    t = sum(struct.unpack("!8H", body)); t = (t >> 16) + (t & 0xffff); t += t >> 16
    s.send(struct.pack("!BBHHH", 8, 0, ~t & 0xffff, 1, 1) + b"x" * 8); return bool(s.recv(512))
attempt("tcp", tcp); attempt("udp", udp)
attempt("ping", lambda: icmp(socket.SOCK_DGRAM)); attempt("raw", lambda: icmp(socket.SOCK_RAW))
"#;

/// What answered when each place was probed from the agent.
async fn open_places(sandbox: &Sandbox, more: &[(IpAddr, u16)]) -> String {
    let mut places: Vec<(String, u16)> = PLACES.iter().map(|(h, p)| ((*h).to_owned(), *p)).collect();
    places.extend(more.iter().map(|(h, p)| (h.to_string(), *p)));
    let each: String = places.iter().map(|(h, p)| format!("python3 -c \"$P\" {h} {p} & ")).collect();
    sandbox.sh(&format!("P='{}'; {each} wait", PROBE.replace('\'', "\""))).await.stdout
}

async fn address(ns: &Namespace, pod: &str) -> IpAddr {
    let pod = ns.pods().get(pod).await.expect("the pod exists");
    pod.status.and_then(|s| s.pod_ip).expect("the pod has an address").parse().expect("an address is one")
}

/// A pod without walls, in the same namespace and image.
async fn unfenced(ns: &Namespace) -> IpAddr {
    let manifest = format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: unfenced}}
spec:
  automountServiceAccountToken: false
  securityContext: {{runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
  - name: agent
    image: {}
    command: [sleep, infinity]
    securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
",
        fixtures::AGENT_IMAGE
    );
    ns.apply(&manifest).await.unwrap();
    ns.pod_ready("unfenced", Duration::from_secs(60)).await;
    address(ns, "unfenced").await
}

#[tokio::test]
async fn o_g13_nothing_but_the_own_proxy_is_reachable_before_and_after_the_proxy_is_killed() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "matrix", async |ns| {
        let other = ns.sandbox("other", &fixtures::closed("other")).await;
        let agent = ns.sandbox("fenced", &fixtures::closed("fenced")).await;
        other.ready().await;
        agent.ready().await;
        let unfenced = unfenced(&ns).await;
        let more = [(address(&ns, "other-proxy").await, 3128), (address(&ns, "other-agent").await, 8000)];

        let own = address(&ns, "fenced-agent").await;
        let before = rig.packets_from(own).await;
        assert_eq!(open_places(&agent, &more).await, "", "open while the proxy runs");
        assert_eq!(rig.packets_from(own).await, before, "a packet of the agent arrived in the world");

        agentsandbox_tests::exec::exec(
            &ns.pods(),
            "unfenced",
            "agent",
            &["python3", "-c", PROBE, "93.184.215.14", "443"],
        )
        .await
        .ok();
        assert!(rig.packets_from(unfenced).await > 0, "the sink sees nothing, so this test proves nothing");

        let zero =
            kube::api::DeleteParams { grace_period_seconds: Some(0), ..kube::api::DeleteParams::default() };
        ns.pods().delete("fenced-proxy", &zero).await.unwrap();
        assert_eq!(open_places(&agent, &more).await, "", "open after the proxy was killed");
        assert_eq!(rig.packets_from(own).await, before, "a packet of the agent arrived in the world");
    })
    .await;
}

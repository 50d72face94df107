//! From inside the agent there is one way out, by every protocol and to every place; with the proxy gone there is none.

use std::net::IpAddr;
use std::time::Duration;

use agentsandbox_crds::names;
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use agentsandbox_world::journal::PacketFilter;

use crate::fixtures;
use crate::routes::IcmpOpen;

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

/// Every port that a proxy listens on.
const PROXY_PORTS: [u16; 8] = [
    names::PORT_HTTP_PROXY,
    names::PORT_ENROLMENT,
    names::PORT_SOCKS,
    names::PORT_BASE_URL,
    names::PORT_TLS,
    names::PORT_HTTP,
    names::PORT_DNS,
    names::PORT_ADMIN,
];

/// Places of the other family: a metadata service, a public resolver, every neighbour on the link, and the bridge's own
/// address, which a node with IPv6 has on each link whether the cluster uses it or not.
const PLACES_V6: [(&str, u16); 4] =
    [("fd00:ec2::254", 80), ("2606:4700:4700::1111", 443), ("ff02::1%eth0", 10250), ("fe80::1%eth0", 10250)];

/// How long one who answers may take for it: the name server, the kubelet and the world are no faster than the machine.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Tries TCP, UDP, SCTP and ICMP (ping socket and raw) to each place at once, and prints what was open. Its first argument is how
/// many seconds an answer may take.
const PROBE: &str = r#"
import socket, struct, sys, threading
wait = float(sys.argv[1])
def attempt(name, host, port, f):
    try:
        if f(): print(name, host, port, flush=True)
    except (OSError, ValueError): pass
def probes(host, port):
    family, _, _, _, to = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    v6 = family == socket.AF_INET6
    def opened(kind, protocol=0):
        s = socket.socket(family, kind, protocol); s.settimeout(wait); return s
    def tcp(): opened(socket.SOCK_STREAM).connect(to); return True
    def sctp(): opened(socket.SOCK_STREAM, 132).connect(to); return True
    def udp():
        s = opened(socket.SOCK_DGRAM)
        s.sendto(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04echo\x05world\x04test\x00\x00\x01\x00\x01", to)
        return bool(s.recvfrom(512))
    def icmp(kind):
        s = opened(kind, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
        def packet(check): return struct.pack("!BBHHH", 128 if v6 else 8, 0, check, 1, 1) + b"x" * 8
        t = sum(struct.unpack("!8H", packet(0))); t = (t >> 16) + (t & 0xffff); t += t >> 16
        s.sendto(packet(0 if v6 else ~t & 0xffff), to[:1] + (0,) + to[2:]); return bool(s.recvfrom(512))
    each = [("tcp", tcp), ("udp", udp), ("sctp", sctp),
            ("ping", lambda: icmp(socket.SOCK_DGRAM)), ("raw", lambda: icmp(socket.SOCK_RAW))]
    return [threading.Thread(target=attempt, args=(name, host, port, f)) for name, f in each]
threads = []
for place in sys.argv[2:]:
    host, port = place.rsplit("/", 1)
    try: threads += probes(host, int(port))
    except OSError: pass
for t in threads: t.start()
for t in threads: t.join()
"#;

/// What answered when each place was probed from a pod's container `agent`.
pub(crate) async fn open_places(ns: &Namespace, pod: &str, more: &[(IpAddr, u16)], wait: Duration) -> String {
    let fixed = PLACES.iter().chain(&PLACES_V6).map(|(h, p)| format!("{h}/{p}"));
    let places: Vec<String> = fixed.chain(more.iter().map(|(h, p)| format!("{h}/{p}"))).collect();
    let wait = wait.as_secs_f64().to_string();
    let mut command = vec!["python3", "-c", PROBE, &wait];
    command.extend(places.iter().map(String::as_str));
    agentsandbox_tests::exec::exec(&ns.pods(), pod, "agent", &command).await.ok().stdout
}

/// How many packets the world has seen from one address for another.
async fn packets(rig: &Rig, source: IpAddr, destination: IpAddr) -> u64 {
    let filter =
        PacketFilter { source: Some(source), destination: Some(destination), ..PacketFilter::default() };
    let seen = rig.world.packets(filter).await.expect("the world answers");
    seen.counters.iter().map(|c| c.packets).sum()
}

async fn address(ns: &Namespace, pod: &str) -> IpAddr {
    let pod = ns.pods().get(pod).await.expect("the pod exists");
    pod.status.and_then(|s| s.pod_ip).expect("the pod has an address").parse().expect("an address is one")
}

/// A pod without walls, in the same namespace and image.
pub(crate) async fn unfenced(ns: &Namespace) -> IpAddr {
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

/// The same probes from a pod without walls: without their success, the agent's failure would prove nothing.
pub(crate) async fn control(rig: &Rig, ns: &Namespace, more: &[(IpAddr, u16)]) {
    let unfenced = unfenced(ns).await;
    let _icmp = IcmpOpen::to(rig, unfenced);
    let expected = [
        "tcp 10.96.0.1 443",
        "tcp 10.200.0.2 6443",
        "tcp 10.200.0.2 10250",
        "tcp 10.96.0.10 53",
        "udp 10.96.0.10 53",
        "tcp 93.184.215.14 443",
        "ping 93.184.215.14 443",
        "ping ff02::1%eth0 10250",
    ];
    eventually("each probe succeeds without walls", Duration::from_secs(60), || async {
        let open = open_places(ns, "unfenced", more, ANSWER_WITHIN).await;
        if expected.iter().all(|probe| open.contains(probe)) { Ok(()) } else { Err(open) }
    })
    .await;
    for (place, _) in PLACES.iter().skip_while(|(place, _)| *place != "169.254.169.254") {
        // The sink's thread counts a packet some time after it has arrived.
        eventually(&format!("the sink of {place} sees the pod without walls"), ANSWER_WITHIN, || async {
            match packets(rig, unfenced, place.parse().unwrap()).await {
                0 => Err("no packet".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn o_g13_nothing_but_the_own_proxy_is_reachable_before_and_after_the_proxy_is_killed() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "matrix", async |ns| {
        let other = ns.sandbox("other", &fixtures::closed("other")).await;
        let agent = ns.sandbox("fenced", &fixtures::closed("fenced")).await;
        other.ready().await;
        agent.ready().await;
        let (proxy, neighbour) = (address(&ns, "other-proxy").await, address(&ns, "other-agent").await);
        let mut more: Vec<_> = PROXY_PORTS.iter().map(|port| (proxy, *port)).collect();
        more.extend([(neighbour, 8000), (neighbour, 22)]);
        control(&rig, &ns, &more).await;

        let own = address(&ns, "fenced-agent").await;
        let before = rig.packets_from(own).await;
        assert_eq!(
            open_places(&ns, "fenced-agent", &more, ANSWER_WITHIN).await,
            "",
            "open while the proxy runs"
        );
        assert_eq!(rig.packets_from(own).await, before, "a packet of the agent arrived in the world");

        let zero =
            kube::api::DeleteParams { grace_period_seconds: Some(0), ..kube::api::DeleteParams::default() };
        ns.pods().delete("fenced-proxy", &zero).await.unwrap();
        assert_eq!(
            open_places(&ns, "fenced-agent", &more, ANSWER_WITHIN).await,
            "",
            "open after the proxy was killed"
        );
        assert_eq!(rig.packets_from(own).await, before, "a packet of the agent arrived in the world");
    })
    .await;
}

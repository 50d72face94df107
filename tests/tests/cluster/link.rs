//! The link that IPv6 has even in a cluster of IPv4 only: nobody answers an agent there, and where somebody would, none starts.

use std::net::IpAddr;

use agentsandbox_tests::sandbox::READY_WITHIN;
use agentsandbox_tests::{Namespace, Rig, eventually, with_namespace};
use serde_json::{Value, json};
use xtask::cluster::network::BRIDGE;
use xtask::shell;

use crate::routes;

/// Asks all on the link for an echo, and prints the first who answers and is not the pod itself.
const ASK: &str = "
import socket
own = {line.split()[0] for line in open('/proc/net/if_inet6')}
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6)
s.settimeout(5)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex('eth0'))
s.sendto(bytes([128, 0, 0, 0, 0, 1, 0, 1]) + b'x' * 8, ('ff02::1', 0, 0, socket.if_nametoindex('eth0')))
try:
    while True:
        address = s.recvfrom(512)[1][0].partition('%')[0]
        if socket.inet_pton(socket.AF_INET6, address).hex() not in own: break
    print(address)
except TimeoutError: print('nobody')
";

/// A rule of the host that lets one pod send by IPv6, as a host without any rule against it would; gone when dropped.
struct LinkOpen<'rig> {
    rig: &'rig Rig,
    hardware: String,
}

impl<'rig> LinkOpen<'rig> {
    fn to(rig: &'rig Rig, hardware: &str) -> Self {
        let open = Self { rig, hardware: hardware.to_owned() };
        open.rule("-I").expect("the rule can be made");
        open
    }

    fn rule(&self, verb: &str) -> xtask::Result<String> {
        let from = ["-m", "mac", "--mac-source", &self.hardware, "-j", "ACCEPT"];
        let rule = [&["-t", "raw", verb, "PREROUTING", "-i", BRIDGE][..], &from].concat();
        shell::output(&mut self.rig.cluster.on_node("ip6tables", &rule)?)
    }
}

impl Drop for LinkOpen<'_> {
    fn drop(&mut self) {
        let _gone = self.rule("-D");
    }
}

/// The address of a pod's hardware, as the node learnt it. Its address on the link is not the node's to see: gVisor takes it over.
async fn hardware(rig: &Rig, ns: &Namespace, pod: &str) -> String {
    eventually("the node knows the pod's hardware", READY_WITHIN, || async {
        let pod = ns.pods().get(pod).await.map_err(|error| error.to_string())?;
        let address: IpAddr =
            pod.status.and_then(|s| s.pod_ip).ok_or("no address")?.parse().map_err(|_| "no address")?;
        let mut asked = rig
            .cluster
            .on_node("ip", &["-4", "neighbour", "show", &address.to_string(), "dev", BRIDGE])
            .map_err(|error| error.to_string())?;
        let told = shell::output(&mut asked).map_err(|error| error.to_string())?;
        let hardware = told.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
        hardware.map(str::to_owned).ok_or(told)
    })
    .await
}

async fn no_agent_starts_beside_a_neighbour_that_answers(rig: &Rig, ns: &Namespace, class: Value) {
    let sandbox = routes::waiting(rig, ns, class).await;
    let open = LinkOpen::to(rig, &hardware(rig, ns, "open-agent").await);
    routes::refuses(ns, &sandbox, "icmp-link ff02::1%").await;
    drop(open);
    sandbox.ready().await;

    let answered = async || sandbox.exec(&["python3", "-c", ASK]).await.ok().stdout;
    assert_eq!(answered().await.trim(), "nobody", "a neighbour answers on the link");
    let _open = LinkOpen::to(rig, &hardware(rig, ns, "open-agent").await);
    assert_ne!(answered().await.trim(), "nobody", "nobody answers a pod that is let through either");
    routes::class_gone(ns).await;
}

#[tokio::test]
async fn p_c10_where_a_neighbour_answers_on_the_link_the_fence_says_so_and_no_agent_starts() {
    let rig = Rig::beside().await;
    let classes = [
        ("link-runc", json!({"isolation": "Container"})),
        ("link-gvisor", json!({"isolation": "GVisor", "runtimeClassName": "gvisor"})),
    ];
    for (name, class) in classes {
        with_namespace(&rig, name, async |ns| {
            no_agent_starts_beside_a_neighbour_that_answers(&rig, &ns, class).await;
        })
        .await;
    }
}

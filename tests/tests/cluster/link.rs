//! The link that IPv6 has even in a cluster of IPv4 only: nobody answers an agent there, and where somebody would, none starts.

use agentsandbox_tests::{Namespace, Rig, with_namespace};
use serde_json::{Value, json};
use xtask::cluster::network::BRIDGE;
use xtask::shell;

use crate::lenient;

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

/// A rule of the host that lets its pods send by IPv6, as a host without any rule against it would; gone when dropped.
struct LinkOpen<'rig>(&'rig Rig);

impl<'rig> LinkOpen<'rig> {
    fn on(rig: &'rig Rig) -> Self {
        let open = Self(rig);
        open.rule("-I").expect("the rule can be made");
        open
    }

    fn rule(&self, verb: &str) -> xtask::Result<String> {
        let rule = ["-t", "raw", verb, "PREROUTING", "-i", BRIDGE, "-j", "ACCEPT"];
        shell::output(&mut self.0.cluster.on_node("ip6tables", &rule)?)
    }
}

impl Drop for LinkOpen<'_> {
    fn drop(&mut self) {
        let _gone = self.rule("-D");
    }
}

async fn no_agent_starts_beside_a_neighbour_that_answers(rig: &Rig, ns: &Namespace, class: Value) {
    let open = LinkOpen::on(rig);
    let sandbox = lenient::sandbox(rig, ns, class).await;
    lenient::refuses(ns, &sandbox, "icmp-link ff02::1%").await;
    drop(open);
    sandbox.ready().await;

    let answered = async || sandbox.exec(&["python3", "-c", ASK]).await.ok().stdout;
    assert_eq!(answered().await.trim(), "nobody", "a neighbour answers on the link");
    let _open = LinkOpen::on(rig);
    assert_ne!(answered().await.trim(), "nobody", "nobody answers a pod that is let through either");
    lenient::class_gone(ns).await;
}

#[tokio::test]
async fn p_c10_where_a_neighbour_answers_on_the_link_the_fence_says_so_and_no_agent_starts() {
    // Every pod of the host is let through meanwhile.
    let rig = Rig::alone().await;
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

//! The node's and the world's network namespaces, and the link between them.
//!
//! In `world` every IPv4 address is local (AnyIP), so that a packet to anywhere arrives and is seen. The order of the
//! rules matters: the world's own address first, then the cluster's ranges by the main table, then everything as local.
//! Routes of type local work in the table `local` only: in any other, SYNs arrive and replies cannot be sent.

use std::path::Path;

use super::Cluster;
use crate::failure::Result;
use crate::shell::run;

/// Address of the node.
pub const NODE: &str = "10.200.0.2";
/// Address of the world on the link.
pub const WORLD: &str = "10.200.0.1";
/// Pods of the cluster.
pub const PODS: &str = "10.244.0.0/16";
/// Pods of the ordinary runtime.
pub const PODS_RUNC: &str = "10.244.0.0/17";
/// Pods under gVisor: a range of their own, so that a rule of the host can name them.
pub const PODS_GVISOR: &str = "10.244.128.0/17";
/// Services of the cluster.
pub const SERVICES: &str = "10.96.0.0/16";
/// The API server's Service.
pub const API_SERVICE: &str = "10.96.0.1";
/// The cluster's DNS Service.
pub const CLUSTER_DNS: &str = "10.96.0.10";
/// The world's name server, to which the cluster's DNS forwards.
pub const WORLD_DNS: &str = "45.90.28.1";

/// The bridge that every pod is on.
pub const BRIDGE: &str = "pods0";

/// Makes both namespaces and joins them.
///
/// # Errors
/// When the kernel or a tool refuses.
pub fn create(cluster: &Cluster) -> Result<()> {
    let (node, world) = (&*cluster.node_netns(), &*cluster.world_netns());
    run("ip", &["netns", "add", node])?;
    run("ip", &["netns", "add", world])?;
    run(
        "ip",
        &["link", "add", "uplink0", "netns", node, "type", "veth", "peer", "name", "node0", "netns", world],
    )?;
    ip(node, "link set lo up")?;
    ip(node, &format!("addr add {NODE}/24 dev uplink0"))?;
    ip(node, "link set uplink0 up")?;
    ip(node, &format!("route add default via {WORLD}"))?;
    for setting in
        ["net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0"]
    {
        sysctl(node, setting)?;
    }
    close_icmp(node)?;
    close_link(node)?;

    ip(world, "link set lo up")?;
    ip(world, &format!("addr add {WORLD}/24 dev node0"))?;
    ip(world, "link set node0 up")?;
    ip(world, &format!("route add 10.0.0.0/8 via {NODE}"))?;
    ip(world, &format!("rule add pref 40 to {WORLD} lookup local"))?;
    ip(world, "rule add pref 50 to 10.0.0.0/8 lookup main")?;
    ip(world, "rule add pref 100 lookup local")?;
    ip(world, "rule del pref 0")?;
    ip(world, "route add local 0.0.0.0/0 dev lo table local")?;
    sysctl(world, "net.ipv4.ip_unprivileged_port_start=0")
}

/// ICMP is not in the NetworkPolicy API, and the policy engine admits echo requests before it looks at any policy. These rules
/// of the host close it for every pod that an agent may be, for under gVisor and under containerd's runc anybody may open ping
/// sockets without any capability. Of the ordinary runtime's pods only echo requests are dropped: nothing else leaves by such a
/// socket there, and system pods answer what nobody listens for.
fn close_icmp(node: &str) -> Result<()> {
    let net = format!("--net=/run/netns/{node}");
    for (range, kind) in [(PODS_GVISOR, &[][..]), (PODS_RUNC, &["--icmp-type", "echo-request"])] {
        let mut args =
            vec![net.as_str(), "iptables", "-t", "raw", "-A", "PREROUTING", "-s", range, "-p", "icmp"];
        args.extend(kind);
        args.extend(["-j", "DROP"]);
        run("nsenter", &args)?;
    }
    Ok(())
}

/// The cluster is of IPv4 only, yet kernels with IPv6 give pods and node addresses on the bridge's link, where no policy judges
/// what they send each other. This rule of the host closes it for every pod.
fn close_link(node: &str) -> Result<()> {
    sysctl(node, "net.bridge.bridge-nf-call-ip6tables=1")?;
    let net = format!("--net=/run/netns/{node}");
    let rule = ["ip6tables", "-t", "raw", "-A", "PREROUTING", "-i", BRIDGE, "-j", "DROP"];
    run("nsenter", &[&[net.as_str()][..], &rule].concat()).map(drop)
}

/// Removes both namespaces, and with them their links, routes and rules.
///
/// # Errors
/// When a namespace cannot be removed.
pub fn remove(cluster: &Cluster) -> Result<()> {
    for name in [cluster.node_netns(), cluster.world_netns()] {
        if Path::new("/run/netns").join(&name).exists() {
            run("ip", &["netns", "del", &name])?;
        }
    }
    Ok(())
}

/// Whether both namespaces are there.
#[must_use]
pub fn exists(cluster: &Cluster) -> bool {
    [cluster.node_netns(), cluster.world_netns()].iter().all(|n| Path::new("/run/netns").join(n).exists())
}

fn ip(netns: &str, words: &str) -> Result<()> {
    let mut args = vec!["-n", netns];
    args.extend(words.split(' '));
    run("ip", &args).map(drop)
}

/// `ip netns exec` would mount another /sys; entering the network alone does not.
fn sysctl(netns: &str, setting: &str) -> Result<()> {
    run("nsenter", &[&format!("--net=/run/netns/{netns}"), "sysctl", "-q", "-w", setting]).map(drop)
}

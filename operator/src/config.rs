//! Flags: parsed before anything is bound, every fault reported at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;

use crate::admission::Expected;
use crate::controller::chain;
use crate::one_namespace::{Given, OneNamespace};
use crate::ranges::Configured;

/// Images of a release carry its version.
const PROXY_IMAGE: &str = concat!("ghcr.io/agentsandbox/proxy:", env!("CARGO_PKG_VERSION"));
const INIT_IMAGE: &str = concat!("ghcr.io/agentsandbox/init:", env!("CARGO_PKG_VERSION"));

/// Where a kubelet writes which name servers a pod has (`resolv.conf(5)`).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The operator of AgentSandbox resources.
#[derive(Debug, Parser)]
#[command(name = "agentsandbox-operator", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the controller until it is told to stop.
    Run(Box<Flags>),
    /// Print the CRDs as YAML.
    Crds,
    /// Print the permissions the operator uses as JSON, each with its reason.
    Rbac,
}

/// Flags of `run`, as they are typed.
#[derive(Clone, Debug, Args)]
pub struct Flags {
    /// Image of the proxy.
    #[arg(long, default_value = PROXY_IMAGE)]
    pub proxy_image: String,
    /// Image of the fence that runs before each agent.
    #[arg(long, default_value = INIT_IMAGE)]
    pub init_image: String,
    /// CIDR of the cluster's pods, beside those that Nodes tell; may be repeated. Proxies never dial it.
    #[arg(long)]
    pub pod_cidr: Vec<String>,
    /// CIDR of the cluster's Services, beside those of its ServiceCIDRs; may be repeated. Proxies never dial it.
    #[arg(long)]
    pub service_cidr: Vec<String>,
    /// CIDR of the cluster's nodes, beside the addresses that Nodes tell; may be repeated. Proxies never dial it.
    #[arg(long)]
    pub node_cidr: Vec<String>,
    /// Address of the cluster's DNS Service. Absent takes what the kubelet wrote into this pod's own resolv.conf.
    #[arg(long)]
    pub cluster_dns: Option<String>,
    /// Namespace of the leader's Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "agentsandbox-system")]
    pub namespace: String,
    /// Name of this replica in the Lease and in Events.
    #[arg(long, env = "POD_NAME", default_value = "agentsandbox-operator")]
    pub identity: String,
    /// UID of this replica's pod, whose Events tell what is wrong with admission policies.
    #[arg(long, env = "POD_UID", default_value = "")]
    pub pod_uid: String,
    /// File with the admission policies and bindings that are to be in force, as YAML. Absent compares nothing.
    #[arg(long)]
    pub admission: Option<PathBuf>,
    /// Whether a Lease decides which replica writes.
    #[arg(long, value_enum, default_value_t = LeaderElection::Lease)]
    pub leader_election: LeaderElection,
    /// How the operator proves that a proxy is closed to everybody but its agent. `none` is for an operator outside the
    /// cluster's pod network, where its own connection proves nothing; sandboxes then say so in their status.
    #[arg(long, value_enum, default_value_t = WallProbe::Connect)]
    pub wall_probe: WallProbe,
    /// Whether each proxy is asked how much it denied. Its wall then lets the operator's pods reach its admin port.
    #[arg(long, value_enum, default_value_t = AskDenials::Ask)]
    pub denials: AskDenials,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0:8080")]
    pub admin_address: String,
    /// What is given where one namespace alone is served.
    #[command(flatten)]
    pub given: Given,
}

/// Whether a Lease decides which replica writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LeaderElection {
    /// The holder of the Lease writes.
    Lease,
    /// This process writes; the only replica.
    Off,
}

/// How the operator proves that a proxy is closed to everybody but its agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WallProbe {
    /// By a TCP connection of its own, which must fail.
    Connect,
    /// Not at all.
    None,
}

/// Whether proxies are asked how much they denied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AskDenials {
    /// Over their admin port, which their walls open to the operator's pods.
    Ask,
    /// Not at all; their walls open to their agents alone.
    None,
}

/// Flags that passed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Image of the proxy.
    pub proxy_image: String,
    /// Image of the fence.
    pub init_image: String,
    /// Ranges of pods, Services and nodes beside those that are found.
    pub cluster_ranges: Configured,
    /// Address of the cluster's DNS Service.
    pub cluster_dns: Ipv4Addr,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of this replica.
    pub identity: String,
    /// UID of this replica's pod, if it is known.
    pub pod_uid: Option<String>,
    /// Admission policies that are to be in force, if they are to be compared.
    pub admission: Option<Expected>,
    /// Whether a Lease decides which replica writes.
    pub leader_election: LeaderElection,
    /// How a proxy's walls are probed.
    pub wall_probe: WallProbe,
    /// Whether proxies are asked how much they denied.
    pub denials: AskDenials,
    /// Where the admin server listens.
    pub admin_address: SocketAddr,
    /// The one namespace that is served; absent means every one.
    pub only: Option<Arc<OneNamespace>>,
}

/// Every fault of the flags.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(pub Vec<String>);

impl TryFrom<Flags> for Config {
    type Error = Faults;

    fn try_from(flags: Flags) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut written = |flag, values: &[String]| -> Vec<Ipv4Net> {
            values.iter().filter_map(|value| range(flag, value, &mut faults)).collect()
        };
        let cluster_ranges = Configured {
            pods: written("pod-cidr", &flags.pod_cidr),
            services: written("service-cidr", &flags.service_cidr),
            nodes: written("node-cidr", &flags.node_cidr),
        };
        let cluster_dns = match &flags.cluster_dns {
            Some(written) => address(written, &mut faults),
            None => name_server(Path::new(RESOLV_CONF), &mut faults),
        };
        let admin_address = socket(&flags.admin_address, &mut faults);
        for (flag, image) in [("proxy-image", &flags.proxy_image), ("init-image", &flags.init_image)] {
            if image.is_empty() || image.contains(char::is_whitespace) {
                faults.push(format!("--{flag}: write an image reference, not {image:?}"));
            }
        }
        let only = flags.given.read(&mut faults);
        if flags.given.watch_namespace.is_some() && flags.admission.is_some() {
            faults.push("--admission: admission policies are the cluster's, so with --watch-namespace nobody can say whether they are in force; leave it out".to_owned());
        }
        let admission = flags.admission.as_deref().and_then(|file| admission(file, &mut faults));
        match (cluster_dns, admin_address) {
            (Some(cluster_dns), Some(admin_address)) if faults.is_empty() => Ok(Self {
                proxy_image: flags.proxy_image,
                init_image: flags.init_image,
                cluster_ranges,
                cluster_dns,
                namespace: flags.namespace,
                identity: flags.identity,
                pod_uid: Some(flags.pod_uid).filter(|uid| !uid.is_empty()),
                admission,
                leader_election: flags.leader_election,
                wall_probe: flags.wall_probe,
                denials: flags.denials,
                admin_address,
                only,
            }),
            _ => Err(Faults(faults)),
        }
    }
}

fn range(flag: &str, value: &str, faults: &mut Vec<String>) -> Option<Ipv4Net> {
    match value.parse::<Ipv4Net>() {
        // 0.0.0.0/0 as a "cluster range" would forbid everything and hide a mistyped value.
        Ok(net) if net.prefix_len() > 0 => Some(net.trunc()),
        _ => {
            faults.push(format!("--{flag}: write an IPv4 CIDR such as 10.244.0.0/16, not {value:?}"));
            None
        }
    }
}

fn admission(file: &Path, faults: &mut Vec<String>) -> Option<Expected> {
    let read = std::fs::read_to_string(file).map_err(|error| chain(&error));
    let expected = read.and_then(|text| Expected::parse(&text).map_err(|error| chain(&error)));
    expected.map_err(|error| faults.push(format!("--admission: {}: {error}", file.display()))).ok()
}

fn address(value: &str, faults: &mut Vec<String>) -> Option<Ipv4Addr> {
    match value.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Some(address),
        _ => {
            faults.push(format!("--cluster-dns: write an IPv4 address such as 10.96.0.10, not {value:?}"));
            None
        }
    }
}

/// The first name server that a pod was given: cluster DNS, or the node's cache of it.
fn name_server(file: &Path, faults: &mut Vec<String>) -> Option<Ipv4Addr> {
    let told = std::fs::read(file).map_err(|error| chain(&error));
    let parsed = told.and_then(|text| resolv_conf::Config::parse(text).map_err(|error| chain(&error)));
    let servers = parsed.map(|config| config.nameservers);
    let first = servers.as_ref().ok().and_then(|servers| servers.first());
    match first.map(IpAddr::from) {
        // What stands on the node's own loopback is out of a pod's reach.
        Some(IpAddr::V4(address)) if !address.is_loopback() => Some(address),
        _ => {
            let found = servers.map_or_else(|error| error, |all| format!("{all:?}"));
            let file = file.display();
            faults.push(format!(
                "--cluster-dns: write the address of the cluster's DNS Service, such as 10.96.0.10 (clusterRanges.clusterDNS); {file} names none: {found}"
            ));
            None
        }
    }
}

fn socket(value: &str, faults: &mut Vec<String>) -> Option<SocketAddr> {
    value.parse().map_or_else(
        |_| {
            faults.push(format!(
                "--admin-address: write an address and port such as 0.0.0.0:8080, not {value:?}"
            ));
            None
        },
        Some,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(arguments: &[&str]) -> Flags {
        let base = ["operator", "run", "--pod-cidr", "10.244.0.0/16"];
        let all = base.iter().chain(arguments).copied();
        match Cli::try_parse_from(all).expect("the flags parse").command {
            Command::Run(flags) => *flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn good_flags_become_a_config() {
        let config =
            Config::try_from(flags(&["--node-cidr", "10.0.0.1/24", "--cluster-dns", "10.96.0.10"])).unwrap();
        let wanted = Configured {
            pods: vec!["10.244.0.0/16".parse().unwrap()],
            services: Vec::new(),
            nodes: vec!["10.0.0.0/24".parse().unwrap()],
        };
        assert_eq!(config.cluster_ranges, wanted);
    }

    #[test]
    fn cluster_dns_is_what_the_kubelet_wrote_for_the_operators_own_pod() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut faults = Vec::new();
        let mut told = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            name_server(file.path(), &mut faults)
        };
        let written =
            "search a.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n";
        assert_eq!(told(written), Some(Ipv4Addr::new(10, 96, 0, 10)));
        assert_eq!(told("search a.svc.cluster.local\n"), None);
        assert_eq!(told("nameserver 127.0.0.53\n"), None);
        assert_eq!(told("nameserver fd00::10\n"), None);
        assert!(name_server(Path::new("/nowhere/resolv.conf"), &mut faults).is_none());
        assert_eq!(faults.len(), 4, "{faults:?}");
        assert!(faults.iter().all(|fault| fault.contains("clusterRanges.clusterDNS")), "{faults:?}");
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let Faults(faults) = Config::try_from(flags(&[
            "--node-cidr",
            "nodes",
            "--node-cidr",
            "0.0.0.0/0",
            "--cluster-dns",
            "::1",
            "--admin-address",
            "8080",
            "--init-image",
            "",
            "--admission",
            "/nowhere/admission.yaml",
        ]))
        .unwrap_err();
        assert_eq!(faults.len(), 6, "{faults:?}");
    }
}

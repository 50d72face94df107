//! Flags: parsed before anything is bound, every fault reported at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;

use crate::admission::Expected;
use crate::controller::chain;

/// Images of a release carry its version.
const PROXY_IMAGE: &str = concat!("ghcr.io/agentsandbox/proxy:", env!("CARGO_PKG_VERSION"));
const INIT_IMAGE: &str = concat!("ghcr.io/agentsandbox/init:", env!("CARGO_PKG_VERSION"));

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
    /// CIDR of the cluster's pods; may be repeated. Proxies never dial it.
    #[arg(long, required = true)]
    pub pod_cidr: Vec<String>,
    /// CIDR of the cluster's Services; may be repeated. Proxies never dial it.
    #[arg(long, required = true)]
    pub service_cidr: Vec<String>,
    /// CIDR of the cluster's nodes; may be repeated. Proxies never dial it.
    #[arg(long, required = true)]
    pub node_cidr: Vec<String>,
    /// Address of the cluster's DNS Service.
    #[arg(long)]
    pub cluster_dns: String,
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
    /// Ranges of pods, Services and nodes.
    pub cluster_ranges: Vec<Ipv4Net>,
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
}

/// Every fault of the flags.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(pub Vec<String>);

impl TryFrom<Flags> for Config {
    type Error = Faults;

    fn try_from(flags: Flags) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut cluster_ranges = Vec::new();
        for (flag, values) in [
            ("pod-cidr", &flags.pod_cidr),
            ("service-cidr", &flags.service_cidr),
            ("node-cidr", &flags.node_cidr),
        ] {
            cluster_ranges.extend(values.iter().filter_map(|value| range(flag, value, &mut faults)));
        }
        cluster_ranges.sort_unstable();
        cluster_ranges.dedup();
        let cluster_dns = address(&flags.cluster_dns, &mut faults);
        let admin_address = socket(&flags.admin_address, &mut faults);
        for (flag, image) in [("proxy-image", &flags.proxy_image), ("init-image", &flags.init_image)] {
            if image.is_empty() || image.contains(char::is_whitespace) {
                faults.push(format!("--{flag}: write an image reference, not {image:?}"));
            }
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
        let base = ["operator", "run", "--pod-cidr", "10.244.0.0/16", "--service-cidr", "10.96.0.0/16"];
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
        assert_eq!(
            config.cluster_ranges.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["10.0.0.0/24", "10.96.0.0/16", "10.244.0.0/16"]
        );
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

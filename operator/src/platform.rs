//! What the steps know of the cluster: values of one moment, never looked up by a step itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::Ipv4Net;

/// The cluster, as far as describing a sandbox's children needs it.
#[derive(Clone, Debug)]
pub struct Platform {
    /// The operator's own namespace, if its pods may ask proxies how much they denied.
    pub asks_from: Option<String>,
    /// Image of the proxy.
    pub proxy_image: String,
    /// Image of the fence.
    pub init_image: String,
    /// Ranges of pods, Services and nodes: no proxy dials them.
    pub cluster_ranges: Arc<[Ipv4Net]>,
    /// Address of the cluster's DNS Service.
    pub cluster_dns: Ipv4Addr,
    /// Address of the Service `default/kubernetes`.
    pub api_service: SocketAddr,
    /// Its endpoints.
    pub api_endpoints: Vec<SocketAddr>,
}

/// Private and special IPv4 ranges that no proxy dials unless a class allows it (RFC 6890 and its kin).
pub const PRIVATE_RANGES: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
];

/// Addresses at which clouds give credentials away. No class can allow them.
pub const METADATA_ADDRESSES: [Ipv4Addr; 6] = [
    // AWS, GCP, Azure, OpenStack, DigitalOcean.
    Ipv4Addr::new(169, 254, 169, 254),
    // AWS: ECS task credentials, EKS Pod Identity.
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    // Azure's wire server, a public address.
    Ipv4Addr::new(168, 63, 129, 16),
    // Alibaba Cloud, inside 100.64.0.0/10.
    Ipv4Addr::new(100, 100, 100, 200),
    // Oracle Cloud.
    Ipv4Addr::new(192, 0, 0, 192),
];

/// [`PRIVATE_RANGES`], parsed.
#[must_use]
pub fn private_ranges() -> Vec<Ipv4Net> {
    PRIVATE_RANGES.iter().filter_map(|range| range.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_private_range_parses() {
        assert_eq!(private_ranges().len(), PRIVATE_RANGES.len());
    }
}

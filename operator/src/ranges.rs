//! What the cluster says of its own ranges: those of pods and nodes on each Node, those of Services on ServiceCIDRs.
//!
//! A proxy never dials them, whatever a rule says, so a node that joins has to be in every policy, also when its address is
//! a public one. What an administrator writes holds beside what is found: some networks give pods addresses that no
//! Node tells. [`follow`] keeps them current; everything else is pure. [`crate::watches`] brings the objects.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use futures::stream::{BoxStream, StreamExt, select};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher::Event;
use tokio::sync::watch;

use crate::controller::chain;

/// Types of node addresses that are addresses; the others are names (`k8s.io/api/core/v1`, NodeAddressType).
const ADDRESS_TYPES: [&str; 2] = ["InternalIP", "ExternalIP"];

/// Ranges that an administrator wrote, by what they are of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configured {
    /// Of pods.
    pub pods: Vec<Ipv4Net>,
    /// Of Services.
    pub services: Vec<Ipv4Net>,
    /// Of nodes.
    pub nodes: Vec<Ipv4Net>,
}

/// The kinds of ranges that neither the cluster nor an administrator names. Without them a proxy could be led into the
/// cluster, so no sandbox is served before they are known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing says which addresses {} have: write {}", .0.join(" and "), .0.iter().map(|kind| flag(kind)).collect::<Vec<_>>().join(" and "))]
pub struct Unknown(pub Vec<&'static str>);

/// The ranges now; a change wakes who waits for one.
pub type Ranges = watch::Receiver<Arc<[Ipv4Net]>>;

fn flag(kind: &str) -> &'static str {
    match kind {
        "pods" => "clusterRanges.podCIDRs (--pod-cidr)",
        "Services" => "clusterRanges.serviceCIDRs (--service-cidr)",
        _ => "clusterRanges.nodeCIDRs (--node-cidr)",
    }
}

/// What a watch brings of one kind, by the names of its objects.
pub type Brought<V> = BoxStream<'static, Event<(String, V)>>;

/// The addresses that one Node tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfNode {
    pods: Vec<Ipv4Net>,
    own: Vec<Ipv4Net>,
}

/// What a watch has brought of one kind, by name. A list replaces it only once it is whole.
#[derive(Debug)]
struct Kept<V> {
    now: BTreeMap<String, V>,
    coming: BTreeMap<String, V>,
    filled: bool,
}

impl<V> Default for Kept<V> {
    fn default() -> Self {
        Self { now: BTreeMap::new(), coming: BTreeMap::new(), filled: false }
    }
}

impl<V> Kept<V> {
    fn hear(&mut self, event: Event<(String, V)>) {
        match event {
            Event::Init => self.coming.clear(),
            Event::InitApply((name, value)) => {
                self.coming.insert(name, value);
            }
            Event::InitDone => {
                self.now = std::mem::take(&mut self.coming);
                self.filled = true;
            }
            Event::Apply((name, value)) => {
                self.now.insert(name, value);
            }
            Event::Delete((name, _)) => {
                self.now.remove(&name);
            }
        }
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
struct Found {
    nodes: Kept<OfNode>,
    services: Kept<Vec<Ipv4Net>>,
}

/// News of either kind.
enum News {
    Node(Event<(String, OfNode)>),
    Service(Event<(String, Vec<Ipv4Net>)>),
}

impl Found {
    fn hear(&mut self, news: News) {
        match news {
            News::Node(event) => self.nodes.hear(event),
            News::Service(event) => self.services.hear(event),
        }
    }

    /// Whether both kinds have been listed: an empty watch must not be taken for an empty cluster.
    const fn is_filled(&self) -> bool {
        self.nodes.filled && self.services.filled
    }

    fn ranges(&self, configured: &Configured) -> Result<Arc<[Ipv4Net]>, Unknown> {
        let nodes = || self.nodes.now.values();
        let kinds = [
            ("pods", &configured.pods, nodes().flat_map(|node| &node.pods).copied().collect()),
            ("Services", &configured.services, self.services.now.values().flatten().copied().collect()),
            ("nodes", &configured.nodes, nodes().flat_map(|node| &node.own).copied().collect::<Vec<_>>()),
        ];
        let unknown: Vec<_> = kinds
            .iter()
            .filter(|(_, written, found)| written.is_empty() && found.is_empty())
            .map(|(kind, ..)| *kind)
            .collect();
        if !unknown.is_empty() {
            return Err(Unknown(unknown));
        }
        let all = kinds.into_iter().flat_map(|(_, written, found)| written.iter().copied().chain(found));
        Ok(Ipv4Net::aggregate(&all.collect::<Vec<_>>()).into())
    }
}

/// Finds the ranges, and then follows them: the future that comes back keeps the ranges beside it current, and does not
/// end. What the cluster ceases to say altogether stays as it was last known.
///
/// # Errors
/// When nothing says where pods, Services or nodes are.
pub async fn follow(
    nodes: Brought<OfNode>,
    services: Brought<Vec<Ipv4Net>>,
    configured: Configured,
) -> Result<(Ranges, impl Future<Output = ()> + Send + 'static), Unknown> {
    let mut news = select(nodes.map(News::Node), services.map(News::Service));
    let mut found = Found::default();
    while !found.is_filled() {
        match news.next().await {
            Some(one) => found.hear(one),
            // A watch does not end; if one did, nothing would be known.
            None => break,
        }
    }
    let (current, ranges) = watch::channel(found.ranges(&configured)?);
    let following = async move {
        while let Some(one) = news.next().await {
            found.hear(one);
            match found.ranges(&configured) {
                Ok(now) => {
                    current.send_if_modified(|known| {
                        let changed = *known != now;
                        if changed {
                            tracing::info!(ranges = now.len(), "the cluster's ranges have changed");
                            *known = now;
                        }
                        changed
                    });
                }
                Err(error) => tracing::warn!(error = chain(&error), "the last known ranges stay"),
            }
        }
    };
    Ok((ranges, following))
}

/// The addresses that this Node tells; those of IPv6 are left out, for no proxy dials IPv6 inside a cluster.
#[must_use]
pub fn of_node(node: &Node) -> OfNode {
    // `podCIDRs` holds `podCIDR` too, on every API server that sets either.
    let spec = node.spec.iter();
    let pods = spec.flat_map(|spec| spec.pod_cidrs.iter().flatten()).filter_map(|cidr| range(cidr));
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let told = all.filter(|one| ADDRESS_TYPES.contains(&one.type_.as_str()));
    let own = told.filter_map(|one| match one.address.parse() {
        Ok(IpAddr::V4(address)) => Some(Ipv4Net::from(address)),
        _ => None,
    });
    OfNode { pods: pods.collect(), own: own.filter(|net| net.addr() != Ipv4Addr::UNSPECIFIED).collect() }
}

/// The ranges that this ServiceCIDR tells.
#[must_use]
pub fn of_services(services: &ServiceCIDR) -> Vec<Ipv4Net> {
    let cidrs = services.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten());
    cidrs.filter_map(|cidr| range(cidr)).collect()
}

/// An IPv4 range; those of IPv6 are left out, for no proxy dials IPv6 inside a cluster. One of everything says nothing.
fn range(cidr: &str) -> Option<Ipv4Net> {
    cidr.parse::<Ipv4Net>().ok().filter(|net| net.prefix_len() > 0).map(|net| net.trunc())
}

#[cfg(test)]
mod tests;

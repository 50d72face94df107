//! Names to addresses, once for each connection, by the pod's own resolver. `/etc/hosts` and search domains play no
//! part: only DNS can say where a permitted name lives, and each answer is judged before it is dialled.

use std::collections::HashMap;
use std::net::IpAddr;

use agentsandbox_policy::{Collector, DenialReason, Host, Policy};
use hickory_resolver::config::{ResolveHosts, ResolverOpts};
use hickory_resolver::lookup_ip::LookupIp;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::time::timeout;

use crate::audit::{Recorded, RecordedPass};
use crate::limits::{RESOLVE_TIMEOUT, RESOLVED_NAMES_MAX, RESOLVED_TTL_MAX, RESOLVED_TTL_MIN};

/// The resolver, and the names that were given addresses by hand.
pub struct Resolver {
    fixed: HashMap<Host, Vec<IpAddr>>,
    system: Option<TokioResolver>,
}

impl Resolver {
    /// The system's resolver, overridden by `fixed`.
    #[must_use]
    pub fn new(fixed: &[(Host, IpAddr)]) -> Self {
        let mut by_host: HashMap<Host, Vec<IpAddr>> = HashMap::new();
        for (host, address) in fixed {
            by_host.entry(host.clone()).or_default().push(*address);
        }
        Self { fixed: by_host, system: system() }
    }

    /// Whether names can be asked for at all.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.system.is_some()
    }

    /// One that has nobody to ask.
    #[cfg(test)]
    pub(crate) fn unusable() -> Self {
        Self { fixed: HashMap::new(), system: None }
    }

    /// The addresses of the next hop of an allowed request. They are not judged yet.
    ///
    /// No other name can be asked for: a query is a packet that leaves, and the agent chooses the name.
    ///
    /// ```compile_fail,E0308
    /// fn any_name(resolver: &agentsandbox_proxy::resolve::Resolver, host: &agentsandbox_policy::Host, policy: &agentsandbox_policy::Policy) {
    ///     drop(resolver.resolve(host, policy));
    /// }
    /// ```
    ///
    /// ```
    /// fn a_recorded_one(resolver: &agentsandbox_proxy::resolve::Resolver, recorded: &agentsandbox_proxy::audit::Recorded, policy: &agentsandbox_policy::Policy) {
    ///     drop(resolver.resolve(recorded, policy));
    /// }
    /// ```
    pub async fn resolve(&self, recorded: &Recorded, policy: &Policy) -> Result<Vec<IpAddr>, DenialReason> {
        self.lookup(recorded.permit().next_hop(policy)).await
    }

    /// The addresses of the next hop of TLS that may be handed on. They are not judged yet.
    pub async fn resolve_pass(
        &self,
        recorded: &RecordedPass,
        policy: &Policy,
    ) -> Result<Vec<IpAddr>, DenialReason> {
        self.lookup(recorded.permit().next_hop(policy)).await
    }

    /// The addresses of the collector that the policy document names. They are not judged yet.
    pub(crate) async fn resolve_collector(&self, collector: &Collector) -> Result<Vec<IpAddr>, DenialReason> {
        self.lookup(collector.host()).await
    }

    async fn lookup(&self, host: &Host) -> Result<Vec<IpAddr>, DenialReason> {
        if let Some(address) = host.address() {
            return Ok(vec![address]);
        }
        if let Some(addresses) = self.fixed.get(host) {
            return Ok(addresses.clone());
        }
        let system = self.system.as_ref().ok_or(DenialReason::UpstreamUnreachable)?;
        match timeout(RESOLVE_TIMEOUT, addresses(system, host)).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) if error.is_no_records_found() => Err(DenialReason::NameNotFound),
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "the resolver failed");
                Err(DenialReason::UpstreamUnreachable)
            }
            Err(_) => Err(DenialReason::UpstreamUnreachable),
        }
    }
}

/// Of IPv4, or else of IPv6. Where the first question fails and the second finds nothing, nobody knows that there is no address:
/// the failure is what is told.
async fn addresses(system: &TokioResolver, host: &Host) -> Result<Vec<IpAddr>, NetError> {
    // The trailing dot keeps search domains out.
    let name = format!("{}.", host.as_str());
    let of = |lookup| LookupIp::from(lookup).iter().collect::<Vec<IpAddr>>();
    let failed = match system.ipv4_lookup(name.as_str()).await.map(of) {
        Ok(found) if !found.is_empty() => return Ok(found),
        Ok(_) => None,
        Err(error) => Some(error).filter(|error| !error.is_no_records_found()),
    };
    match (system.ipv6_lookup(name.as_str()).await.map(of), failed) {
        (Ok(found), Some(failed)) if found.is_empty() => Err(failed),
        (Err(error), Some(failed)) if error.is_no_records_found() => Err(failed),
        (found, _) => found,
    }
}

fn system() -> Option<TokioResolver> {
    let built = TokioResolver::builder_tokio().and_then(build);
    built.inspect_err(|error| tracing::error!(error = %error, "there is no usable resolver")).ok()
}

fn build(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, NetError> {
    narrow(builder.options_mut());
    builder.build()
}

fn narrow(options: &mut ResolverOpts) {
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = RESOLVED_NAMES_MAX;
    options.positive_min_ttl = Some(RESOLVED_TTL_MIN);
    options.positive_max_ttl = Some(RESOLVED_TTL_MAX);
    options.negative_min_ttl = Some(RESOLVED_TTL_MIN);
    options.negative_max_ttl = Some(RESOLVED_TTL_MIN);
}

#[cfg(test)]
mod tests;

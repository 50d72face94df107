//! Names to addresses, once for each connection, by the pod's own resolver. `/etc/hosts` and search domains play no
//! part: only DNS can say where a permitted name lives, and each answer is judged before it is dialled.

use std::collections::HashMap;
use std::net::IpAddr;

use agentsandbox_policy::{DenialReason, Host};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolveHosts, ResolverOpts};
use tokio::time::timeout;

use crate::limits::{RESOLVE_TIMEOUT, RESOLVED_TTL_MAX};

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

    /// The addresses of a host. They are not judged yet.
    pub async fn resolve(&self, host: &Host) -> Result<Vec<IpAddr>, DenialReason> {
        if let Some(address) = host.address() {
            return Ok(vec![address]);
        }
        if let Some(addresses) = self.fixed.get(host) {
            return Ok(addresses.clone());
        }
        let system = self.system.as_ref().ok_or(DenialReason::UpstreamUnreachable)?;
        // The trailing dot keeps search domains out.
        match timeout(RESOLVE_TIMEOUT, system.lookup_ip(format!("{}.", host.as_str()))).await {
            Ok(Ok(found)) => Ok(found.iter().collect()),
            Ok(Err(error)) if error.is_no_records_found() => Err(DenialReason::NameNotFound),
            Ok(Err(error)) => {
                tracing::warn!(error = %error, "the resolver failed");
                Err(DenialReason::UpstreamUnreachable)
            }
            Err(_) => Err(DenialReason::UpstreamUnreachable),
        }
    }
}

fn system() -> Option<TokioResolver> {
    let built = TokioResolver::builder_tokio().and_then(|mut builder| {
        narrow(builder.options_mut());
        builder.build()
    });
    built.inspect_err(|error| tracing::error!(error = %error, "there is no usable resolver")).ok()
}

fn narrow(options: &mut ResolverOpts) {
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
    options.positive_max_ttl = Some(RESOLVED_TTL_MAX);
    options.negative_max_ttl = Some(std::time::Duration::from_secs(5));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_b8_the_hosts_file_is_never_asked() {
        let mut options = ResolverOpts::default();
        assert!(options.use_hosts_file != ResolveHosts::Never, "it would be, if nothing were said");
        narrow(&mut options);
        assert!(options.use_hosts_file == ResolveHosts::Never);
    }
}

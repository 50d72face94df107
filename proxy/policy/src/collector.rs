//! Where traces go. Whoever writes the document names it, and nothing that an agent sends has a part in it: it is reached by no
//! [`Permit`](crate::Permit), and gives none.
//!
//! A collector commonly stands inside the cluster, whose networks no request of an agent may reach. So the document's ranges do not
//! count for it: the name alone says where it is, and a metadata service is the one place where it cannot be.

use std::net::{IpAddr, SocketAddr};

use crate::address::is_metadata;
use crate::{Host, Scheme, parse_authority};

/// A collector of traces, as the policy document names it. Only a document that was understood as a whole has one:
///
/// ```compile_fail,E0451
/// fn forge(host: agentsandbox_policy::Host) -> agentsandbox_policy::Collector {
///     agentsandbox_policy::Collector { scheme: agentsandbox_policy::Scheme::Http, host, port: 4318 }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    scheme: Scheme,
    host: Host,
    port: u16,
}

impl Collector {
    pub(crate) fn parse(url: &str) -> Option<Self> {
        let (scheme, authority) = url.split_once("://")?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        let (host, port) = parse_authority(authority, None).ok()?;
        let is_metadata = host.is_metadata_name() || host.address().is_some_and(is_metadata);
        (!is_metadata).then_some(Self { scheme, host, port })
    }

    /// Whether it is reached over TLS.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its name, which it has to prove over TLS.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Where to dial it, at an address that its name resolved to; none at a metadata service.
    #[must_use]
    pub fn at(&self, address: IpAddr) -> Option<SocketAddr> {
        let address = address.to_canonical();
        (!is_metadata(address)).then(|| SocketAddr::new(address, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_c7_a_collector_is_wherever_its_name_leads_and_never_a_metadata_service() {
        let collector = Collector::parse("http://collector.test:4318").unwrap();
        for inside in ["10.96.0.5", "192.168.7.1", "127.0.0.1", "203.0.113.9", "2001:db8::1"] {
            let address: IpAddr = inside.parse().unwrap();
            assert_eq!(collector.at(address), Some(SocketAddr::new(address, 4318)));
        }
        for metadata in ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254"] {
            assert_eq!(collector.at(metadata.parse().unwrap()), None, "{metadata}");
            let host = if metadata.contains(':') { format!("[{metadata}]") } else { metadata.to_owned() };
            assert_eq!(Collector::parse(&format!("http://{host}:4318")), None, "{metadata}");
        }
        assert_eq!(Collector::parse("http://metadata.google.internal:80"), None);
    }
}

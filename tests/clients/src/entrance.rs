//! The ways in, as a client is told of them: by variables, by another base URL, or not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use agentsandbox_crds::names::BUNDLE_VARIABLES;
use serde::Deserialize;

use crate::catalogue::Target;
use crate::netns::PROXY;

/// A way into the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entrance {
    /// `HTTPS_PROXY`, and CONNECT.
    Connect,
    /// `HTTP_PROXY`, and the request in absolute form. The URL is one of plain HTTP, which never carries a key.
    AbsoluteForm,
    /// `HTTPS_PROXY`, and an https URL in absolute form: what axios sends. The key is added.
    AbsoluteFormTls,
    /// `ALL_PROXY=socks5h://…`.
    Socks5,
    /// The base URL is the proxy's.
    BaseUrl,
    /// Nothing is set: the policy DNS leads TLS here.
    TransparentTls,
    /// Nothing is set: the policy DNS leads plain HTTP here.
    TransparentHttp,
}

impl Entrance {
    /// Whether a key is added on this way: never to a request that is plain on the wire.
    #[must_use]
    pub fn carries_a_key(self) -> bool {
        !matches!(self, Self::AbsoluteForm | Self::TransparentHttp)
    }

    /// Whether the client tells a proxy the name that it wants, so that a refused host is refused by the proxy and not
    /// by the resolver.
    #[must_use]
    pub fn names_a_host_to_a_proxy(self) -> bool {
        matches!(self, Self::Connect | Self::AbsoluteForm | Self::AbsoluteFormTls | Self::Socks5)
    }

    /// Where a client finds the target on this way, without a path.
    #[must_use]
    pub fn origin(self, target: &Target) -> String {
        match self {
            Self::BaseUrl => format!("http://{PROXY}:8080/{}", target.rule),
            Self::AbsoluteForm | Self::TransparentHttp => format!("http://{}", target.host),
            Self::Connect | Self::AbsoluteFormTls | Self::Socks5 | Self::TransparentTls => {
                let port = target.port.map(|port| format!(":{port}")).unwrap_or_default();
                format!("https://{}{port}", target.host)
            }
        }
    }

    /// What the client's environment says of trust and of the proxy, as in an agent.
    #[must_use]
    pub fn variables(self, trust: &Path) -> BTreeMap<String, String> {
        let bundle = trust.join("ca-bundle.crt").display().to_string();
        let mut all: BTreeMap<_, _> =
            BUNDLE_VARIABLES.iter().map(|name| ((*name).to_owned(), bundle.clone())).collect();
        let mut set = |name: &str, value: String| all.insert(name.to_owned(), value);
        set("NODE_EXTRA_CA_CERTS", trust.join("ca.crt").display().to_string());
        set("UV_NATIVE_TLS", "true".to_owned());
        set("UV_SYSTEM_CERTS", "true".to_owned());
        set(
            "JAVA_TOOL_OPTIONS",
            format!(
                "-Djavax.net.ssl.trustStore={}/truststore.p12 -Djavax.net.ssl.trustStoreType=PKCS12 \
                 -Djavax.net.ssl.trustStorePassword=changeit",
                trust.display()
            ),
        );
        let url = match self {
            Self::Connect | Self::AbsoluteForm | Self::AbsoluteFormTls => format!("http://{PROXY}:3128"),
            Self::Socks5 => format!("socks5h://{PROXY}:1080"),
            Self::BaseUrl | Self::TransparentTls | Self::TransparentHttp => return all,
        };
        for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"] {
            set(name, url.clone());
        }
        for name in ["NO_PROXY", "no_proxy"] {
            set(name, "localhost,127.0.0.1,proxy".to_owned());
        }
        // Node does not start where it is to use a proxy that it does not speak to.
        if self != Self::Socks5 {
            set("NODE_USE_ENV_PROXY", "1".to_owned());
        }
        all
    }
}

impl fmt::Display for Entrance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Connect => "CONNECT",
            Self::AbsoluteForm => "absolute form, http",
            Self::AbsoluteFormTls => "absolute form, https",
            Self::Socks5 => "SOCKS5",
            Self::BaseUrl => "base URL",
            Self::TransparentTls => "transparent TLS",
            Self::TransparentHttp => "transparent HTTP",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::repository;

    #[test]
    fn a_client_is_told_of_trust_by_the_variables_that_the_operator_sets() {
        let file = repository().join("operator/src/controller/desired/environment.rs");
        let text = std::fs::read_to_string(file).unwrap();
        let others = Entrance::Connect.variables(Path::new("/trust"));
        for name in others.keys().filter(|name| !BUNDLE_VARIABLES.contains(&name.as_str())) {
            assert!(text.contains(&format!("\"{name}\"")), "the operator does not set {name}");
        }
    }
}

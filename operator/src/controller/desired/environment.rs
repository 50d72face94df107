//! Variables of the agent: where the proxy is, where each toolchain looks for trust, placeholders, and the user's own.

use std::net::Ipv4Addr;

use agentsandbox_crds::names::{BUNDLE_VARIABLES, PORT_HTTP_PROXY};
use agentsandbox_crds::sandbox::ProxyEnvironment;
use k8s_openapi::api::core::v1::EnvVar;

use crate::controller::accept::Accepted;
use crate::controller::apply::Sealed;

/// Folder with the trust files in the agent.
pub const TRUST_DIR: &str = "/etc/agentsandbox/trust";
/// Home of the agent.
pub const HOME_DIR: &str = "/home/agent";

/// All variables, in a fixed order; none is written twice, which accept has seen to.
#[must_use]
pub fn variables(accepted: &Accepted, sealed: &Sealed) -> Vec<EnvVar> {
    let mut all = trust();
    if accepted.agent.proxy_environment.unwrap_or_default() == ProxyEnvironment::Set {
        all.extend(proxy(super::confinement::proxy_address(accepted, sealed)));
    }
    all.extend(accepted.placeholders.iter().map(|(name, value)| variable(name, value)));
    all.extend(accepted.agent.env.iter().map(|own| variable(&own.name, &own.value)));
    all
}

fn trust() -> Vec<EnvVar> {
    let bundle = format!("{TRUST_DIR}/ca-bundle.crt");
    let mut all = vec![variable("HOME", HOME_DIR)];
    all.extend(BUNDLE_VARIABLES.iter().map(|name| variable(name, &bundle)));
    // Node adds these to its own roots, so it gets the sandbox's CA only.
    all.push(variable("NODE_EXTRA_CA_CERTS", &format!("{TRUST_DIR}/ca.crt")));
    // The second is the name of the first in newer versions.
    all.push(variable("UV_NATIVE_TLS", "true"));
    all.push(variable("UV_SYSTEM_CERTS", "true"));
    all.push(variable(
        "JAVA_TOOL_OPTIONS",
        &format!(
            "-Djavax.net.ssl.trustStore={TRUST_DIR}/truststore.p12 -Djavax.net.ssl.trustStoreType=PKCS12 \
             -Djavax.net.ssl.trustStorePassword=changeit"
        ),
    ));
    all
}

fn proxy(address: Ipv4Addr) -> Vec<EnvVar> {
    let url = format!("http://{address}:{PORT_HTTP_PROXY}");
    let mut all: Vec<EnvVar> =
        ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"]
            .iter()
            .map(|name| variable(name, &url))
            .collect();
    // `proxy` is the base-URL entrance: a request to it is no request to be proxied.
    all.extend(["NO_PROXY", "no_proxy"].iter().map(|name| variable(name, "localhost,127.0.0.1,proxy")));
    // Node 24 reads the proxy variables in fetch only when told to.
    all.push(variable("NODE_USE_ENV_PROXY", "1"));
    all
}

/// A variable with a fixed value. Kubernetes expands `$(NAME)` in values; `$$` stands for a plain `$`, so doubling keeps
/// each value as it was written.
pub(super) fn variable(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.replace('$', "$$")), value_from: None }
}

//! Fields that a credential pins: at many providers a field of the request says for which account or tenant it is meant. An
//! agent that could write or leave it out would choose. Names and fixed values only, never a secret.

use crate::document::{PINNED_MAX, PinnedHeaderDocument};
use crate::parameter::is_folded;
use crate::{Host, Injection};

const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 256;

/// Fields that authenticate at one provider or another. An agent that could use them would bring a key of its own, and
/// with it an account of its own at an allowed host. `docs/proxy.md` lists them.
pub const AUTH_FIELDS: [&str; 38] = [
    "api-key",
    "api-token",
    "apikey",
    "authorization",
    "circle-token",
    "dd-api-key",
    "dd-application-key",
    "deploy-token",
    "job-token",
    "ocp-apim-subscription-key",
    "private-token",
    "proxy-authorization",
    "token",
    "x-access-key",
    "x-access-token",
    "x-algolia-api-key",
    "x-amz-security-token",
    "x-api-key",
    "x-api-token",
    "x-apikey",
    "x-auth-key",
    "x-auth-token",
    "x-auth-user-service-key",
    "x-authorization",
    "x-figma-token",
    "x-functions-key",
    "x-goog-api-key",
    "x-goog-iam-authorization-token",
    "x-jfrog-art-api",
    // LiteLLM takes it before Authorization.
    "x-litellm-api-key",
    "x-nuget-apikey",
    "x-postmark-account-token",
    "x-postmark-server-token",
    "x-redmine-api-key",
    "x-shopify-access-token",
    "x-subscription-token",
    "x-vault-token",
    "xi-api-key",
];
/// How fields begin in which a gateway tells the application behind it who the client proved to be. Where it does not overwrite them,
/// whoever writes one is whom it names. `docs/proxy.md` says whose each is, by their own
/// documentation. They are in order, and none begins another.
const CLIENT_IDENTITY_PREFIXES: [&str; 73] = [
    "-ws",
    "cert-chain",
    "cf-access-authenticated-user-",
    "cf-access-jwt-assertion",
    "cf-client-cert",
    "client-cert",
    "iv-creds",
    "iv-group",
    "iv-user",
    "l5d-client-id",
    "oam-remote-user",
    "oidc-access-token",
    "oidc-claim-",
    "oidc-id-token",
    "remote-email",
    "remote-group",
    "remote-name",
    "remote-user",
    "shib-",
    "sm-universalid",
    "sm-user",
    "smuser",
    "ssl-client-",
    "tailscale-",
    "teleport-jwt-assertion",
    "wl-proxy-",
    "x-amzn-ava-user-context",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-anonymous-consumer",
    "x-apigateway-api-userinfo",
    "x-arr-clientcert",
    "x-auth-audience",
    "x-auth-expiresin",
    "x-auth-groups",
    "x-auth-request-",
    "x-auth-roles",
    "x-auth-subject",
    "x-auth-userid",
    "x-auth-username",
    "x-authenticated-groups",
    "x-authenticated-scope",
    "x-authenticated-userid",
    "x-authentik-",
    "x-client-cert",
    "x-client-cn",
    "x-client-dn",
    "x-client-i-dn",
    "x-client-s-dn",
    "x-client-subject",
    "x-client-verify",
    "x-consumer-custom-id",
    "x-consumer-groups",
    "x-consumer-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-endpoint-api-userinfo",
    "x-goog-authenticated-user-",
    "x-goog-iap-jwt-assertion",
    "x-ms-client-principal",
    "x-ms-token-",
    "x-mtls-",
    "x-pomerium-claim-",
    "x-pomerium-jwt-assertion",
    "x-remote-extra-",
    "x-remote-group",
    "x-remote-uid",
    "x-remote-user",
    "x-ssl-",
    "x-tls-client-",
    "x-vouch-idp-",
    "x-vouch-user",
    "x-webauth-",
];

/// Whether a field says in a gateway's name who the client is: its name in lower case, with `-` for all that is neither a letter nor
/// a digit.
#[must_use]
pub fn is_client_identity(name: &str) -> bool {
    // Each field of each request is looked up. Of those that are not after a name only the last can begin it.
    let behind = CLIENT_IDENTITY_PREFIXES.partition_point(|prefix| *prefix <= name);
    let last = behind.checked_sub(1).and_then(|at| CLIENT_IDENTITY_PREFIXES.get(at));
    last.is_some_and(|prefix| name.starts_with(prefix))
}

/// Query parameters that authenticate at one provider or another, and mean nothing else at any.
const AUTH_PARAMETERS: [&str; 16] = [
    "access_token",
    "api_key",
    "auth_token",
    "awsaccesskeyid",
    "bearer_token",
    "feed_token",
    "googleaccessid",
    "job_token",
    "oauth_token",
    "private_token",
    "rss_token",
    "x-amz-security-token",
    "x-amz-signature",
    "x-api-key",
    "x-goog-api-key",
    "x-goog-signature",
];
/// Those that have a plain name, each at the domain of its provider. At Google two stand for fields and for the method of the request
/// (Closure's `goog.net.rpc.HttpCors`), and so for a key.
const AUTH_PARAMETERS_AT: [(&str, &str); 6] = [
    ("core.windows.net", "sig"),
    ("googleapis.com", "$httpHeaders"),
    ("googleapis.com", "$httpMethod"),
    ("googleapis.com", "key"),
    ("openai.azure.com", "subscription-key"),
    ("slack.com", "token"),
];

/// Fields that a provider also reads in the query under another name (Google's system parameters).
const IN_QUERY_AS: [(&str, &str); 1] = [("x-goog-user-project", "userProject")];

/// What a field may be called in the query: its own name, and the one that its provider has for it there.
pub(crate) fn names_in_query(field: &str) -> impl Iterator<Item = &str> {
    let other = IN_QUERY_AS.into_iter().find(|(name, _)| *name == field);
    std::iter::once(field).chain(other.map(|(_, other)| other))
}

/// What the names of WebSocket subprotocols hold in which keys are sent, by clients that can set no field (OpenAI's
/// `openai-insecure-api-key.…`, Kubernetes' `base64url.bearer.authorization.k8s.io.…`, `bearer` and `token` before the key itself at others).
const AUTH_PROTOCOLS: [&str; 5] = ["access_token", "api-key", "api_key", "authorization", "bearer"];

/// Whether a subprotocol that a client offers (RFC 6455, 1.9) is a key, or says that the next one is.
#[must_use]
pub fn is_auth_protocol(offered: &[u8]) -> bool {
    let offered = offered.trim_ascii().to_ascii_lowercase();
    let holds = |word: &&str| offered.windows(word.len()).any(|part| part == word.as_bytes());
    offered == b"token" || AUTH_PROTOCOLS.iter().any(holds)
}

/// Query parameters that authenticate at this host.
pub(crate) fn auth_parameters(host: &Host) -> impl Iterator<Item = &'static str> {
    let is_in = |domain: &str| {
        let before = host.as_str().strip_suffix(domain);
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    };
    let here = AUTH_PARAMETERS_AT.into_iter().filter(move |(domain, _)| is_in(domain));
    AUTH_PARAMETERS.into_iter().chain(here.map(|(_, name)| name))
}

/// Whether a query parameter authenticates at this host whose name is read so, in letters and digits.
pub(crate) fn is_auth_parameter(host: &Host, read: &[u8]) -> bool {
    auth_parameters(host).any(|name| is_folded(name, read))
}

/// Fields that frame a message, name its destination, method or sender, or ask for an answer that could not be searched, and the session.
const UNPINNABLE: [&str; 44] = [
    "accept-encoding",
    "connect-accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "grpc-accept-encoding",
    "host",
    "http2-settings",
    "if-range",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "range",
    "request-range",
    "sec-websocket-accept",
    "sec-websocket-extensions",
    "sec-websocket-key",
    "sec-websocket-protocol",
    "sec-websocket-version",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "cf-connecting-ip",
    "client-ip",
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-url-scheme",
];
/// What names another client, host or loop than the proxy judged.
const UNPINNABLE_PREFIXES: [&str; 3] = ["x-forwarded-", "x-agentsandbox-", "x-envoy-"];

/// A field that requests with a credential have, or never have, whatever the agent writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedHeader {
    name: String,
    value: Option<String>,
}

impl PinnedHeader {
    /// Lower-case name of the field.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says; none where it is only taken out.
    #[must_use]
    pub fn value(&self) -> Option<&str> {
        self.value.as_deref()
    }
}

/// Reads the pinned fields of a credential; each fault is told with the field it is in.
pub(crate) fn pinned(
    list: Vec<PinnedHeaderDocument>,
    injection: &Injection,
    mut fault: impl FnMut(String, String),
) -> Vec<PinnedHeader> {
    if list.len() > PINNED_MAX {
        fault(String::new(), format!("write at most {PINNED_MAX} entries"));
    }
    let mut all: Vec<PinnedHeader> = Vec::new();
    for (index, PinnedHeaderDocument { name, value }) in list.into_iter().enumerate() {
        let told = if all.iter().any(|known| known.name == name) {
            Some("the field is pinned twice; remove one")
        } else {
            unfit(&name, injection)
        };
        if let Some(message) = told {
            fault(format!("[{index}].name"), message.to_owned());
        }
        if value.as_deref().is_some_and(|value| !is_value(value)) {
            let message = format!(
                "write 1 to {VALUE_BYTES_MAX} characters of printable ASCII without spaces at either end, or leave value out, and the field is taken out"
            );
            fault(format!("[{index}].value"), message);
        }
        all.push(PinnedHeader { name, value });
    }
    all
}

/// Why a field of this name cannot be pinned, if it cannot.
fn unfit(name: &str, injection: &Injection) -> Option<&'static str> {
    let token = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let bounded = !name.is_empty() && name.len() <= NAME_BYTES_MAX;
    if !bounded || !name.bytes().all(token) || name.starts_with('-') {
        return Some(
            "write a header name of at most 64 lower-case letters, digits and -, such as openai-organization",
        );
    }
    let own = matches!(injection, Injection::Header { name: own, .. } if own.replace('_', "-") == name);
    if own || AUTH_FIELDS.contains(&name) {
        return Some(
            "this header authenticates: the secret is put there by inject, and others are always removed; remove it",
        );
    }
    let steers =
        UNPINNABLE.contains(&name) || UNPINNABLE_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    steers.then_some(
        "this header frames, routes or encodes the message, or is a session; write one that names an account",
    )
}

fn is_value(value: &str) -> bool {
    (1..=VALUE_BYTES_MAX).contains(&value.len())
        && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
        && value.trim_matches(' ') == value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_who_the_client_is_is_found_by_how_it_begins() {
        for pair in CLIENT_IDENTITY_PREFIXES.windows(2) {
            assert!(pair[0] < pair[1] && !pair[1].starts_with(pair[0]), "{pair:?}");
        }
        for prefix in CLIENT_IDENTITY_PREFIXES {
            assert!(is_client_identity(prefix) && is_client_identity(&format!("{prefix}z")), "{prefix}");
            assert!(!is_client_identity(&prefix[..prefix.len() - 1]), "{prefix}");
        }
        for other in ["", "-", "a", "x-", "zz", "x-client-version"] {
            assert!(!is_client_identity(other), "{other}");
        }
    }

    #[test]
    fn p_f1_a_subprotocol_that_is_a_key_is_known_by_its_name() {
        for (offered, is_key) in [
            ("openai-insecure-api-key.sk-own", true),
            (" OpenAI-Insecure-API-Key.sk-own", true),
            ("base64url.bearer.authorization.k8s.io.b3du", true),
            ("bearer", true),
            ("Token", true),
            ("access_token", true),
            ("realtime", false),
            ("openai-beta.realtime-v1", false),
            ("v5.channel.k8s.io", false),
            ("graphql-transport-ws", false),
            ("tokens", false),
            ("", false),
        ] {
            assert_eq!(is_auth_protocol(offered.as_bytes()), is_key, "{offered}");
        }
    }

    #[test]
    fn a_query_parameter_authenticates_by_its_name_and_one_of_a_plain_name_at_its_providers_domain_only() {
        let is = |host: &str, name: &str| {
            crate::parameter::is_read_as(name, |read| is_auth_parameter(&Host::parse(host).unwrap(), read))
        };
        for name in AUTH_PARAMETERS {
            assert!(is("any.test", name) && is("any.test", &name.to_ascii_uppercase()), "{name}");
            assert!(!is("any.test", &format!("{name}z")), "{name}");
        }
        for (domain, name) in AUTH_PARAMETERS_AT {
            assert!(is(domain, name) && is(&format!("a.{domain}"), &name.to_ascii_uppercase()), "{name}");
            assert!(!is("any.test", name) && !is(&format!("not{domain}"), name), "{name}");
            assert!(!is(&format!("{domain}.any.test"), name) && !is(domain, "page"), "{name}");
        }
    }
}

//! Refusals: what was wrong, where, and what to write to allow it.
//!
//! A denial has no power, so anyone may construct one. Its fields are safe to log and to show the agent: no query, no
//! header, no body and no secret is ever put in it.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use crate::Permit;

/// What an agent sent cannot be read in exactly one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {part} is malformed: {why}")]
pub struct Malformed {
    part: &'static str,
    why: &'static str,
}

impl Malformed {
    pub(crate) const fn host(why: &'static str) -> Self {
        Self { part: "host", why }
    }

    pub(crate) const fn port(why: &'static str) -> Self {
        Self { part: "port", why }
    }

    pub(crate) const fn method(why: &'static str) -> Self {
        Self { part: "method", why }
    }

    pub(crate) const fn target(why: &'static str) -> Self {
        Self { part: "request target", why }
    }

    /// What is wrong, as a clause. It never repeats what the agent sent.
    #[must_use]
    pub const fn why(&self) -> &'static str {
        self.why
    }
}

/// Declares the reasons once, so that the list, the name and the sentence cannot drift apart.
macro_rules! denial_reasons {
    ($($(#[$doc:meta])* $name:ident => $advice:literal,)+) => {
        /// Why something was refused. The names are stable: metrics, events and clients rely on them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
        pub enum DenialReason {
            $($(#[$doc])* $name,)+
        }

        impl DenialReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The stable name, in CamelCase.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What to do about it when nothing more is known.
            const fn advice(self) -> &'static str {
                match self {
                    $(Self::$name => $advice,)+
                }
            }
        }
    };
}

denial_reasons! {
    /// The connection does not come from the enrolled agent.
    UnknownPeer => "Only the agent that this proxy belongs to is served.",
    /// There is no policy yet.
    NoPolicy => "Wait until the proxy has read its policy.",
    /// The policy is older than it may become.
    StalePolicy => "Correct the policy document; the last valid one is too old to be used.",
    /// No rule names the host.
    HostNotAllowed => "Add a rule with this host to spec.egress.allow.",
    /// A rule names the host, none with this port.
    PortNotAllowed => "Add the port to the ports of the rule.",
    /// A rule names host and port, none with this method.
    MethodNotAllowed => "Add the method to the methods of the rule.",
    /// A rule names host, port and method, none with this path.
    PathNotAllowed => "Add the path to the paths of the rule.",
    /// A rule names the host, none with this scheme.
    SchemeNotAllowed => "Use the scheme of the rule.",
    /// A rule allows the request, but not as a WebSocket.
    WebsocketNotAllowed => "Write websocket: Allow in the rule.",
    /// The name is, or leads to, an address that may not be dialled.
    ForbiddenAddress => "The address is private, reserved or a metadata service; a platform admin may allow a private range in the AgentSandboxClass.",
    /// The secret of a credential is missing or unreadable.
    CredentialUnavailable => "Create the Secret, with the key, that the AgentCredential names.",
    /// The rule names a credential that may not go there.
    CredentialScope => "Ask the owner of the AgentCredential to add the destination to its hosts.",
    /// The agent sent a credential of its own.
    ForeignCredential => "Send no credential of your own: the proxy adds the one that the rule names.",
    /// The agent sent a placeholder to a place it does not belong to.
    PlaceholderMisuse => "Send the placeholder only to the host and in the place its credential is meant for.",
    /// CONNECT, SNI, Host and :authority do not name the same destination.
    AuthorityMismatch => "Name the same host and port in CONNECT, in TLS and in the request.",
    /// The request can be read in more than one way, or not at all.
    MalformedRequest => "Send a request that can be read in exactly one way.",
    /// The protocol is not one that the proxy can judge.
    UnsupportedProtocol => "Use HTTP/1.1 or HTTP/2, over TLS where the rule says https.",
    /// The real name is encrypted in the TLS handshake, so it cannot be judged.
    EncryptedClientHello => "Turn off Encrypted Client Hello (ECH) in the client: a name that cannot be read cannot be allowed.",
    /// The request came back to this proxy.
    LoopDetected => "Name a destination other than this proxy.",
    /// The upstream cannot be reached.
    UpstreamUnreachable => "The destination is allowed but does not answer; try again later.",
    /// The policy, or a key over and over, was replaced while the request waited to be sent.
    Overtaken => "What the request was decided by was replaced while it waited, and nothing of it was sent; send it again, and it is decided by what is in force then.",
    /// The upstream refuses TLS with the proxy.
    UpstreamRefused => "The destination is allowed but refuses TLS with the proxy; ask who runs it what it asks for, such as a client certificate.",
    /// The organisation's own proxy, which stands before the upstream, opens no way to it.
    UpstreamProxyRefused => "The destination is allowed here, but the organisation's own proxy, through which it is reached, refuses it; ask who runs that proxy.",
    /// The upstream's certificate does not verify.
    UpstreamUntrusted => "The server's certificate is not valid for this host; a platform admin may add a private CA to the AgentSandboxClass.",
    /// The upstream broke off in the middle of its answer.
    AnswerBroken => "The destination is allowed but broke off its answer; try again later.",
    /// The answer is compressed in a way that cannot be searched for secrets.
    UnreadableAnswer => "The server compressed its answer although it was asked not to, in a way that the proxy cannot decode; configure it to send this answer uncompressed.",
    /// The agent fell silent in the middle of a body.
    RequestStalled => "Send the body of a request without long pauses.",
    /// The answer was not taken to its end: the client went away, or the proxy was told to end.
    Interrupted => "Nothing was refused; the exchange ended before its answer did.",
    /// The name does not exist.
    NameNotFound => "The host is allowed but has no address; check its spelling.",
    /// The answer is of a kind that the rule does not take.
    AnswerNotAllowed => "The answer is not of the contentTypes that answer of the rule names; its owner may add the type.",
    /// The answer is longer than the rule takes.
    AnswerTooLarge => "The answer is longer than maxBytes in answer of the rule; ask for less, or have its owner write more.",
    /// What the rule lets go up is used up, or would be by this request.
    UploadLimitExceeded => "Send less: what may go to this host is written in limits of the rule, up to what the AgentSandboxClass allows.",
    /// A limit on size, number or time is exceeded.
    LimitExceeded => "Send less, or fewer at the same time.",
    /// The decision could not be written down.
    AuditUnavailable => "The proxy cannot write its audit trail, so it allows nothing; a platform admin must make room for its output.",
    /// A bug of the proxy.
    InternalError => "This is a fault of the proxy; report it with the request id.",
}

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One refusal. Fields that are not known, or were not reached, are absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{reason}: {how_to_allow}")]
#[serde(rename_all = "camelCase")]
pub struct Denial {
    /// Why.
    pub reason: DenialReason,
    /// The rule that came closest to allowing it.
    pub rule: Option<String>,
    /// Canonical host.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Method.
    pub method: Option<String>,
    /// Canonical path, without the query.
    pub path: Option<String>,
    /// Name of the credential concerned.
    pub credential: Option<String>,
    /// Name of the client certificate concerned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// One sentence that says what to write or do.
    pub how_to_allow: String,
}

impl Denial {
    /// A denial with the general advice for its reason.
    #[must_use]
    pub fn new(reason: DenialReason) -> Self {
        Self {
            reason,
            rule: None,
            host: None,
            port: None,
            method: None,
            path: None,
            credential: None,
            client_certificate: None,
            how_to_allow: reason.advice().to_owned(),
        }
    }

    /// The denial of a request that a rule allows, for what came up later.
    #[must_use]
    pub fn of(permit: &Permit, reason: DenialReason) -> Self {
        Self::new(reason)
            .with_rule(permit.rule())
            .with_host(permit.host())
            .with_port(permit.port())
            .with_method(permit.method())
            .with_path(permit.target().path())
    }

    /// Names the rule.
    #[must_use]
    pub fn with_rule(self, rule: impl fmt::Display) -> Self {
        Self { rule: Some(rule.to_string()), ..self }
    }

    /// Names the host.
    #[must_use]
    pub fn with_host(self, host: impl fmt::Display) -> Self {
        Self { host: Some(host.to_string()), ..self }
    }

    /// Names the port.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    /// Names the method.
    #[must_use]
    pub fn with_method(self, method: impl fmt::Display) -> Self {
        Self { method: Some(method.to_string()), ..self }
    }

    /// Names the path; never pass a query.
    #[must_use]
    pub fn with_path(self, path: impl fmt::Display) -> Self {
        Self { path: Some(path.to_string()), ..self }
    }

    /// Names the credential.
    #[must_use]
    pub fn with_credential(self, name: impl fmt::Display) -> Self {
        Self { credential: Some(name.to_string()), ..self }
    }

    /// Names the client certificate.
    #[must_use]
    pub fn with_client_certificate(self, name: impl fmt::Display) -> Self {
        Self { client_certificate: Some(name.to_string()), ..self }
    }

    /// Replaces the advice.
    #[must_use]
    pub fn with_how_to_allow(self, sentence: impl Into<String>) -> Self {
        Self { how_to_allow: sentence.into(), ..self }
    }
}

impl From<Malformed> for Denial {
    fn from(malformed: Malformed) -> Self {
        Self::new(DenialReason::MalformedRequest)
            .with_how_to_allow(format!("Send a request that can be read in exactly one way: {malformed}."))
    }
}

impl From<Malformed> for Box<Denial> {
    fn from(malformed: Malformed) -> Self {
        Self::new(malformed.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_stable_camel_case_name_and_a_sentence() {
        for reason in DenialReason::ALL {
            let name = reason.as_str();
            assert!(
                name.starts_with(|c: char| c.is_ascii_uppercase())
                    && name.chars().all(|c| c.is_ascii_alphabetic())
            );
            assert!(Denial::new(*reason).how_to_allow.ends_with('.'), "{name}");
        }
        assert_eq!(DenialReason::ALL.len(), 35);
    }

    #[test]
    fn a_denial_says_all_that_it_was_given_and_nothing_more() {
        let bare = Denial::new(DenialReason::PathNotAllowed);
        let full = bare
            .clone()
            .with_rule("api")
            .with_host("a.test")
            .with_port(443)
            .with_method("GET")
            .with_path("/x")
            .with_credential("key")
            .with_client_certificate("pair")
            .with_how_to_allow("Ask.");
        let fields = |denial: &Denial| serde_json::to_value(denial).unwrap();
        let reason = "PathNotAllowed";
        assert_eq!(
            fields(&full),
            serde_json::json!({"reason": reason, "rule": "api", "host": "a.test", "port": 443, "method": "GET",
                "path": "/x", "credential": "key", "clientCertificate": "pair", "howToAllow": "Ask."})
        );
        assert_eq!(
            fields(&bare),
            serde_json::json!({"reason": reason, "rule": null, "host": null, "port": null, "method": null,
                "path": null, "credential": null, "howToAllow": bare.how_to_allow})
        );
        assert_eq!(full.to_string(), "PathNotAllowed: Ask.");
    }

    #[test]
    fn a_malformed_request_is_told_what_is_wrong_and_nothing_it_sent() {
        let denial = Denial::from(Malformed::host("it has an empty label"));
        assert_eq!(denial.reason, DenialReason::MalformedRequest);
        assert_eq!(
            denial.how_to_allow,
            "Send a request that can be read in exactly one way: the host is malformed: it has an empty label."
        );
    }
}

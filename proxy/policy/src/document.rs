//! The policy document as it is written: the wire types between whoever writes a policy and the proxy that obeys it.
//!
//! This room owns shape only. Nothing here decides: a [`PolicyDocument`] becomes a `Policy` through `TryFrom`, which
//! rejects whatever it does not understand. Every type refuses unknown fields, so that a misspelt key is an error and
//! never an absent restriction. A key that is written must have a value: `methods: null` is an error too, since it could
//! be meant either way.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// The only accepted value of [`PolicyDocument::api_version`].
pub const API_VERSION: &str = "policy.agentsandbox.dev/v1";
/// A request looks at the rules over its host alone, so more of them cost memory and the time to read the document.
pub(crate) const RULES_MAX: usize = 10_000;
/// Each credential is a file in the proxy's pod.
pub(crate) const CREDENTIALS_MAX: usize = 64;
pub(crate) const SCOPES_MAX: usize = 64;
pub(crate) const PORTS_MAX: usize = 64;
pub(crate) const METHODS_MAX: usize = 32;
pub(crate) const PATHS_MAX: usize = 64;
/// A preset leaves out more than anyone lists.
pub(crate) const EXCEPT_PATHS_MAX: usize = 128;
/// Each is a variable of the agent.
pub(crate) const PLACEHOLDERS_MAX: usize = 16;
/// A shorter text is found where nobody meant a placeholder.
pub(crate) const PLACEHOLDER_BYTES_MIN: usize = 8;
pub(crate) const PLACEHOLDER_BYTES_MAX: usize = 1024;
pub(crate) const RANGES_MAX: usize = 4096;
pub(crate) const HEADERS_MAX: usize = 32;
/// As many as a class can have.
pub(crate) const ALLOWED_HOSTS_MAX: usize = 128;
pub(crate) const CONTENT_TYPES_MAX: usize = 16;
/// Providers have two or three such fields.
pub(crate) const PINNED_MAX: usize = 32;
/// In seconds: a long answer of a model, and no more.
pub(crate) const DRAIN_SECONDS_MAX: u16 = 300;
/// More than anyone counts, and small enough that sums of many stay exact in JSON.
pub(crate) const BYTES_MAX: u64 = 1 << 50;

/// Everything one agent may do on the network. What no rule allows is denied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyDocument {
    /// Always [`API_VERSION`].
    #[schemars(extend("const" = API_VERSION))]
    pub api_version: String,
    /// The sandbox this policy belongs to; it appears in every audit line.
    pub sandbox: SandboxIdentity,
    /// `metadata.generation` of the AgentSandbox the document was written from; 0 outside Kubernetes.
    #[schemars(range(min = 0))]
    pub generation: i64,
    /// The allow-list, at most 10,000 rules. Empty denies everything.
    #[schemars(length(max = RULES_MAX))]
    pub rules: Vec<RuleDocument>,
    /// Host patterns within which the rules of an AgentSandbox have to stay, as its class has them, at most 128. Denials say to write
    /// no rule outside of them; rules of this document are not judged by them. Absent means any host.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(max = ALLOWED_HOSTS_MAX))]
    pub allowed_hosts: Option<Vec<String>>,
    /// The credentials that rules may name, at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = CREDENTIALS_MAX))]
    pub credentials: Vec<CredentialDocument>,
    /// The client certificates that rules may name, at most 64. None has the name of a credential.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = CREDENTIALS_MAX))]
    pub client_certificates: Vec<ClientCertificateDocument>,
    /// Which upstream addresses are forbidden or re-allowed beside the built-in ranges.
    #[serde(default, skip_serializing_if = "AddressesDocument::is_empty")]
    pub addresses: AddressesDocument,
    /// How upstream servers are verified.
    #[serde(default, skip_serializing_if = "UpstreamDocument::is_empty")]
    pub upstream: UpstreamDocument,
    /// Where traces of what was decided are sent. Absent sends none.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TracingDocument")]
    pub tracing: Option<TracingDocument>,
    /// How many seconds a body that is on its way may take to its end once this document is in force and has no rule for its request, 1
    /// to 300. Absent ends it at once, as does a credential or client certificate that is not what it was when the request was sent.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u16", range(min = 1, max = DRAIN_SECONDS_MAX))]
    pub drain_seconds: Option<u16>,
}

/// Who the agent is, for the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SandboxIdentity {
    /// Namespace of the AgentSandbox, or any label outside Kubernetes.
    pub namespace: String,
    /// Name of the AgentSandbox.
    pub name: String,
    /// Its UID; empty outside Kubernetes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// One allowed kind of request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleDocument {
    /// Unique name; with an exact host it is also the first path segment of the base-URL entrance.
    pub name: String,
    /// `api.example.com`, `*.example.com` (exactly one label) or `**.example.com` (one or more labels).
    pub host: String,
    /// TCP ports, 1-65535, at least one.
    #[schemars(length(min = 1, max = PORTS_MAX), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
    /// Whether the upstream is reached over TLS. A plaintext rule may not name a credential.
    pub scheme: SchemeDocument,
    /// Allowed methods in upper case. Absent allows each ordinary method; CONNECT and TRACE are never allowed.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1, max = METHODS_MAX))]
    pub methods: Option<Vec<String>>,
    /// Allowed path globs: `*` stays within a segment, `**` crosses segments. Absent allows any path.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1, max = PATHS_MAX))]
    pub paths: Option<Vec<String>>,
    /// Name of the credential to inject.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub credential: Option<String>,
    /// Name of the client certificate that is shown to the upstream when it asks for one. Absent shows none. It may stand beside
    /// a credential.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub client_certificate: Option<String>,
    /// Whether a WebSocket upgrade may pass. Absent denies it.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WebsocketDocument")]
    pub websocket: Option<WebsocketDocument>,
    /// Whether TLS is opened. Absent opens it.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TlsDocument")]
    pub tls: Option<TlsDocument>,
    /// How much may be sent under the rule. Absent sets no bound.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "LimitsDocument")]
    pub limits: Option<LimitsDocument>,
    /// What may come back under the rule. Absent passes every answer on.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AnswerDocument")]
    pub answer: Option<AnswerDocument>,
    /// Names of the header fields that are passed on, lower case, at most 32. The others are taken out, and trailers as well.
    /// What frames the message and what is put in stays. Absent passes on all that are not removed from every request.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1, max = HEADERS_MAX), inner(length(min = 1, max = 64)))]
    pub headers: Option<Vec<String>>,
}

/// What of an answer is passed on. It keeps mistakes and surprises small; it is no boundary, for a host says itself what its
/// answers are. At least one is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AnswerDocument {
    /// Longest body, in bytes as the agent gets them: 1 to 2^50. A longer one is refused, or cut where its length was not known.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64", range(min = 1, max = BYTES_MAX))]
    pub max_bytes: Option<u64>,
    /// Media types, lower case and without parameters, such as `application/json`, or `text/*`: at most 16. An answer with a body
    /// that says another, or none, is refused.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1, max = CONTENT_TYPES_MAX))]
    pub content_types: Option<Vec<String>>,
}

/// How many bytes may be sent under a rule: paths, queries, header fields, bodies, messages of WebSockets, and TLS that passes
/// unopened. All rules with the same host pattern count together, each up to its own limits. At least one is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LimitsDocument {
    /// Bytes in all, for as long as the state folder of the proxy lasts: 1 to 2^50.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64", range(min = 1, max = BYTES_MAX))]
    pub upload_bytes: Option<u64>,
    /// Bytes in any sixty seconds: 1 to 2^50.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64", range(min = 1, max = BYTES_MAX))]
    pub upload_bytes_per_minute: Option<u64>,
}

/// Scheme of the upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchemeDocument {
    /// TLS, verified against the public roots and the document's additional roots.
    Https,
    /// Plain HTTP; never with a credential.
    Http,
}

/// Whether a rule lets a WebSocket upgrade pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WebsocketDocument {
    /// The upgrade may pass.
    Allow,
    /// The upgrade is denied.
    Deny,
}

/// What becomes of the agent's TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsDocument {
    /// It is opened, and each request in it is judged.
    Intercept,
    /// It passes unopened to the server that its handshake names, for clients that trust that server's certificate alone.
    /// Such a rule can have no methods, paths, credential, client certificate or WebSocket: none of them could be seen.
    Passthrough,
}

/// How one secret may be used. The value itself is never in the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CredentialDocument {
    /// Unique name, by which rules and audit lines call it.
    pub name: String,
    /// Name of the file in the proxy's secrets folder that holds the value: a bare file name, at most 253 bytes. Absent
    /// means the credential's own name. Whoever points a credential at another secret gives it another file, so that a
    /// proxy that still has the old folder finds nothing, and never sends an old secret to a new host.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub file: Option<String>,
    /// What the agent is given in the secret's place: at most 16 texts, each of 8 to 1024 bytes, that nobody else has. None is
    /// a secret. One that the agent sends anywhere but in the place of this credential, on a rule that names it, denies the
    /// request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = PLACEHOLDERS_MAX), inner(length(max = PLACEHOLDER_BYTES_MAX)))]
    pub placeholders: Vec<String>,
    /// The like, but texts that others may know and write, within the same bounds. One of at least 16 bytes is looked for in
    /// heads; none is in bodies, where whoever writes what the agent reads could stop its requests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = PLACEHOLDERS_MAX), inner(length(max = PLACEHOLDER_BYTES_MAX)))]
    pub constants: Vec<String>,
    /// Where in the request the secret is put.
    pub inject: InjectDocument,
    /// Where the secret may go. A rule can only narrow these.
    #[schemars(length(min = 1, max = SCOPES_MAX))]
    pub scopes: Vec<ScopeDocument>,
    /// Header fields that requests with this credential have as written here, whatever the agent writes: at most 32.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = PINNED_MAX))]
    pub pinned_headers: Vec<PinnedHeaderDocument>,
}

/// A certificate and its private key, with which the proxy speaks as a TLS client (RFC 8446, 4.4.2). Neither is in the document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificateDocument {
    /// Unique name, by which rules and audit lines call it.
    pub name: String,
    /// Name of the file in the proxy's secrets folder that holds the certificate and then those that vouch for it, as PEM: a
    /// bare file name, at most 253 bytes. Another Secret has another file, as with a credential.
    pub certificate_file: String,
    /// The same for the one private key that fits the certificate: PKCS #8, SEC 1 or PKCS #1, not encrypted.
    pub key_file: String,
    /// Where it may be shown. A rule can only narrow these.
    #[schemars(length(min = 1, max = SCOPES_MAX))]
    pub scopes: Vec<ScopeDocument>,
}

/// A header field that is not the agent's to choose, such as the one that names an account. It is no secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PinnedHeaderDocument {
    /// Name of the field, lower case, at most 64 bytes. Fields that authenticate, frame or route a message cannot be pinned.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// What it says, at most 256 bytes of printable ASCII. Absent takes the field out.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = 256))]
    pub value: Option<String>,
}

/// The place of a secret in a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", from = "InjectWire")]
#[schemars(!from, deny_unknown_fields)]
pub enum InjectDocument {
    /// A header holds the secret, after an optional fixed prefix.
    Header {
        /// Header name, lower case.
        name: String,
        /// Text before the secret, such as `token `.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "String", default)]
        prefix: Option<String>,
    },
    /// `Authorization: Bearer <secret>` (RFC 6750).
    Bearer,
    /// `Authorization: Basic base64(username:secret)` (RFC 7617).
    Basic {
        /// The user name; it may not contain a colon.
        username: String,
    },
    /// A query parameter holds the secret, percent-encoded.
    Query {
        /// Parameter name.
        name: String,
    },
    /// A cookie holds the secret (RFC 6265, 4.2).
    Cookie {
        /// Cookie name.
        name: String,
    },
    /// The secret stands in one segment of the path, percent-encoded, where the agent wrote a placeholder of the credential,
    /// as in `/bot<placeholder>/sendMessage`. Rules and scopes are matched with the placeholder in its place.
    PathSegment {
        /// What the path is before the placeholder, from its beginning, such as `/bot`: canonical, at most 256 bytes. Anywhere
        /// else the placeholder denies the request, whatever the globs of paths admit.
        after: String,
    },
}

/// [`InjectDocument`] as it is read. In a tagged enum serde lets a variant without braces have any fields, so that
/// `type: Bearer` would swallow a `prefix`; one with empty braces refuses them.
#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum InjectWire {
    Header {
        name: String,
        #[serde(default, deserialize_with = "written")]
        prefix: Option<String>,
    },
    Bearer {},
    Basic {
        username: String,
    },
    Query {
        name: String,
    },
    Cookie {
        name: String,
    },
    PathSegment {
        after: String,
    },
}

/// One destination a credential may be sent to, or a client certificate be shown to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScopeDocument {
    /// Host pattern, as in a rule.
    pub host: String,
    /// TCP ports, at least one.
    #[schemars(length(min = 1, max = PORTS_MAX), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<u16>,
    /// Allowed methods; absent allows each ordinary method.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1, max = METHODS_MAX))]
    pub methods: Option<Vec<String>>,
    /// Allowed path globs; absent allows any path.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1, max = PATHS_MAX))]
    pub paths: Option<Vec<String>>,
    /// Path globs that this scope leaves out of what `paths` allows, in any letter case, at most 128. A path is left out as
    /// soon as one way to read it matches.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>", length(min = 1, max = EXCEPT_PATHS_MAX))]
    pub except_paths: Option<Vec<String>>,
}

/// Upstream address ranges, beside the built-in forbidden ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AddressesDocument {
    /// CIDRs of private networks that may be dialled. Metadata addresses stay forbidden.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = RANGES_MAX))]
    pub allow: Vec<String>,
    /// CIDRs that may not be dialled: the cluster's pods, services and nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = RANGES_MAX))]
    pub deny: Vec<String>,
}

/// Verification of upstream servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamDocument {
    /// PEM certificates of private CAs, trusted beside the public roots.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub additional_roots: Option<String>,
    /// The proxy through which every upstream is reached. Absent reaches them directly.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UpstreamProxyDocument")]
    pub proxy: Option<UpstreamProxyDocument>,
}

/// A proxy of the organisation's own. It resolves the names of destinations, so their addresses are its to judge; its own
/// address is judged like any other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpstreamProxyDocument {
    /// `http://host:port` (CONNECT) or `socks5://host:port`.
    pub url: String,
    /// Name of the credential it asks for: one of type Basic whose scopes hold its host and port.
    #[serde(default, deserialize_with = "written", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub credential: Option<String>,
}

/// A collector of OpenTelemetry's. It is reached directly, also where there is an upstream proxy, and at its host and port it is no
/// destination of the agent's, whatever a rule says. Its address is judged by `addresses` like an upstream's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TracingDocument {
    /// `http://host:port` or `https://host:port`; spans go to `/v1/traces` there, as OTLP over HTTP in JSON. Names are asked for as
    /// they are written, without search domains. TLS is verified against the public roots and the document's additional roots.
    pub endpoint: String,
    /// Whether it runs inside the cluster, so that it may be in `addresses.deny`. It is then never at a loopback, link-local,
    /// multicast or unspecified address, whatever `addresses.allow` says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inside: bool,
}

impl AddressesDocument {
    fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl UpstreamDocument {
    fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl From<InjectWire> for InjectDocument {
    fn from(wire: InjectWire) -> Self {
        match wire {
            InjectWire::Header { name, prefix } => Self::Header { name, prefix },
            InjectWire::Bearer {} => Self::Bearer,
            InjectWire::Basic { username } => Self::Basic { username },
            InjectWire::Query { name } => Self::Query { name },
            InjectWire::Cookie { name } => Self::Cookie { name },
            InjectWire::PathSegment { after } => Self::PathSegment { after },
        }
    }
}

/// An optional field that is written must have a value.
fn written<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

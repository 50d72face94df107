//! `AgentCredential`: how one secret may be used. Whoever owns the secret writes it; a sandbox refers to it by name and
//! can never widen it. The secret's value is not in it.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{HOST_MESSAGE, HOST_RULE, Method, PATHS_MESSAGE, PATHS_RULE};
use crate::preset::Preset;

/// Key of a certificate, with those that vouch for it, in a Secret of type `kubernetes.io/tls`.
pub const TLS_CERTIFICATE: &str = "tls.crt";
/// Key of its private key.
pub const TLS_PRIVATE_KEY: &str = "tls.key";

/// How one secret may be used: which key of which Secret, put where in a request, to which destinations.
#[derive(CustomResource, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "agentsandbox.dev",
    version = "v1alpha1",
    kind = "AgentCredential",
    namespaced,
    category = "agents",
    shortname = "acred",
    derive = "PartialEq",
    doc = "An AgentCredential says how one secret may be used by the proxies of this namespace: which key of which Secret, put where in a request, to which hosts, methods and paths. A sandbox refers to it by name and can only narrow it.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("metadata.name must have at most 63 characters: choose a shorter name"),
    printcolumn(name = "SECRET", type_ = "string", json_path = ".spec.secretRef.name", description = "The Secret that holds the value."),
    printcolumn(name = "PRESET", type_ = "string", json_path = ".spec.preset", description = "The provider whose facts are used."),
    printcolumn(name = "INJECT", type_ = "string", json_path = ".spec.inject.type", description = "Where in a request the secret is put."),
    printcolumn(name = "HOSTS", type_ = "string", json_path = ".spec.hosts[*].host", description = "Where the secret may go."),
    printcolumn(name = "AGE", type_ = "date", json_path = ".metadata.creationTimestamp", description = "Time since the object was created.")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.preset) || has(self.inject)").message("inject is required unless preset is written: write inject: {type: Bearer}, or the name of a provider such as preset: OpenAI").field_path(".inject"),
    validation = Rule::new("has(self.preset) || has(self.hosts)").message("hosts is required unless preset is written: write hosts: [{host: api.example.com}], or the name of a provider such as preset: OpenAI").field_path(".hosts"),
    validation = Rule::new("!has(self.inject) || self.inject.type != 'PathSegment' || (has(self.placeholderEnv) ? self.placeholderEnv.size() > 0 : has(self.preset))").message("type PathSegment needs placeholderEnv, for its placeholder marks the place: write placeholderEnv: [{name: BOT_TOKEN, prefix: '123456:'}]").field_path(".placeholderEnv"),
    validation = Rule::new("has(self.secretRef.key) || (has(self.inject) && self.inject.type == 'ClientCertificate')").message("secretRef.key is required: write the key of the Secret that holds the value, such as secretRef: {name: github, key: token}").field_path(".secretRef"),
    validation = Rule::new("!(has(self.secretRef.key) && has(self.inject) && self.inject.type == 'ClientCertificate')").message("type ClientCertificate takes the pair tls.crt and tls.key of a Secret of type kubernetes.io/tls: remove secretRef.key").field_path(".secretRef"),
    validation = Rule::new("!(has(self.inject) && self.inject.type == 'ClientCertificate') || !(has(self.preset) || has(self.placeholderEnv) || has(self.pinnedHeaders))").message("type ClientCertificate puts nothing into a request: remove preset, placeholderEnv and pinnedHeaders, and write hosts").field_path(".inject")
)]
pub struct AgentCredentialSpec {
    /// Where the value is. The Secret is in the same namespace; only the kubelet and the proxy ever read it.
    pub secret_ref: CredentialSecretRef,
    /// A provider that is known. Its inject, hosts and placeholderEnv hold where this object does not write its own, and its
    /// addresses that hand out keys, keep files or change accounts are left out unless paths of hosts name them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<Preset>,
    /// Where in a request the proxy puts the value. Required without a preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inject: Option<Injection>,
    /// The only destinations that may receive the value. A rule of a sandbox can narrow them, never widen them. Required
    /// without a preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub hosts: Option<Vec<CredentialHost>>,
    /// Variables that the agent is given in the secret's place, so that its program starts. Never write the secret here: the
    /// agent can read these values, and the proxy replaces them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub placeholder_env: Option<Vec<PlaceholderEnv>>,
    /// Header fields that requests with this credential have as written here, whatever the agent writes: those that name an account,
    /// a project or a tenant. Those that the preset knows are taken out unless they are written here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub pinned_headers: Vec<PinnedHeader>,
}

/// A header field that is not the agent's to choose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PinnedHeader {
    /// Name of the field, in lower case, such as `openai-organization`. Fields that authenticate, frame or route a message cannot be
    /// pinned.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9-]*$') && !(self in ['host', 'connection', 'content-length', 'content-type', 'transfer-encoding', 'te', 'trailer', 'upgrade', 'keep-alive', 'expect', 'cookie', 'authorization', 'proxy-authorization', 'x-api-key'])").message("name must be a lower-case header name such as openai-organization, and none that authenticates, frames or routes a message (authorization, cookie, host, content-length, ...)"))]
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// What it says; no secret, for anyone who reads this object reads it. Absent takes the field out of each request.
    #[x_kube(validation = Rule::new("self.matches('^[!-~]([ -~]*[!-~])?$')").message("value must be printable ASCII without spaces at either end, such as org-123"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub value: Option<String>,
}

/// Where the value of a credential is: one key of one Secret of the same namespace, or for a client certificate the Secret alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialSecretRef {
    /// Name of the Secret, in the namespace of the AgentCredential.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("name must be the name of a Secret in this namespace: lower-case letters, digits, - and ., without a namespace or a slash"))]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within the Secret. Type ClientCertificate has none: its certificate is at tls.crt and its private key at tls.key, as in each
    /// Secret of type kubernetes.io/tls.
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')").message("key must be a key of the Secret: letters, digits, -, _ and . only"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub key: Option<String>,
}

/// One key of one Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// Name of the Secret, in the namespace of the sandbox.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')").message("name must be the name of a Secret in this namespace: lower-case letters, digits, - and ., without a namespace or a slash"))]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key within the Secret.
    #[x_kube(validation = Rule::new("self.matches('^[-._a-zA-Z0-9]+$') && self != '.' && !self.startsWith('..')").message("key must be a key of the Secret: letters, digits, -, _ and . only"))]
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// The place of the secret in a request: exactly the member that `type` names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.type == 'Header') == has(self.header)").message("header belongs to type Header and only to it: write inject: {type: Header, header: {name: x-api-key}}").field_path(".header"),
    validation = Rule::new("(self.type == 'Basic') == has(self.basic)").message("basic belongs to type Basic and only to it: write inject: {type: Basic, basic: {username: x-access-token}}").field_path(".basic"),
    validation = Rule::new("(self.type == 'Query') == has(self.query)").message("query belongs to type Query and only to it: write inject: {type: Query, query: {name: key}}").field_path(".query"),
    validation = Rule::new("(self.type == 'Cookie') == has(self.cookie)").message("cookie belongs to type Cookie and only to it: write inject: {type: Cookie, cookie: {name: session}}").field_path(".cookie"),
    validation = Rule::new("(self.type == 'PathSegment') == has(self.pathSegment)").message("pathSegment belongs to type PathSegment and only to it: write inject: {type: PathSegment, pathSegment: {after: /bot}}").field_path(".pathSegment")
)]
pub struct Injection {
    /// How the secret travels: in a header of its own, as a Bearer token, as a Basic password, as a query parameter, as a cookie,
    /// in the segment of the path where the agent writes a placeholder, as in /bot<placeholder>/sendMessage; or not at all, as the client
    /// certificate of the connection, which a rule names in clientCertificate.
    #[serde(rename = "type")]
    pub kind: InjectionType,
    /// For type Header: which header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<HeaderInjection>,
    /// For type Basic: which user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basic: Option<BasicInjection>,
    /// For type Query: which parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<QueryInjection>,
    /// For type Cookie: which cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<CookieInjection>,
    /// For type PathSegment: where in the path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_segment: Option<PathSegmentInjection>,
}

/// Ways to put a secret into a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InjectionType {
    /// A header holds the secret.
    Header,
    /// `Authorization: Bearer <secret>`.
    Bearer,
    /// `Authorization: Basic base64(username:secret)`.
    Basic,
    /// A query parameter holds the secret.
    Query,
    /// A cookie holds the secret.
    Cookie,
    /// One segment of the path holds the secret, in the place of a placeholder.
    PathSegment,
    /// The proxy proves with it who it is when the host's TLS asks (mutual TLS). The private key never leaves the proxy.
    ClientCertificate,
}

/// A header that holds the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderInjection {
    /// Name of the header, in lower case, such as `x-api-key`.
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9][a-z0-9-]*$') && !(self in ['host', 'connection', 'content-length', 'transfer-encoding', 'te', 'trailer', 'upgrade', 'keep-alive', 'proxy-authorization', 'proxy-authenticate', 'proxy-connection', 'expect'])").message("name must be a lower-case header name such as x-api-key, and none of the headers that frame or route a message (host, content-length, connection, ...)"))]
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// Text before the secret, such as `token `.
    #[x_kube(validation = Rule::new("self.matches('^[ -~]*$')").message("prefix must be printable ASCII such as 'token '"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32))]
    pub prefix: Option<String>,
}

/// The user of a Basic credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BasicInjection {
    /// The user name; the secret is the password.
    #[x_kube(validation = Rule::new("self.matches('^[!-9;-~]+$')").message("username must be printable ASCII without spaces or a colon, such as x-access-token"))]
    #[schemars(length(min = 1, max = 128))]
    pub username: String,
}

/// A query parameter that holds the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueryInjection {
    /// Name of the parameter, such as `key`.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._~-]+$')").message("name must be a query parameter of letters, digits, -, ., _ and ~, such as key"))]
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
}

/// A cookie that holds the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CookieInjection {
    /// Name of the cookie, such as `session`.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._~-]+$')").message("name must be a cookie of letters, digits, -, ., _ and ~, such as session"))]
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
}

/// The place in the path that holds the secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PathSegmentInjection {
    /// What the path is before the placeholder, from its beginning, such as `/bot`. Anywhere else the placeholder denies the
    /// request.
    #[x_kube(validation = Rule::new("self.matches('^/[A-Za-z0-9._~:/-]*$') && !self.contains('//') && !self.matches('/[.][.]?(/|$)')").message("after must be what the path is before the placeholder: / and then letters, digits, -, ., _, ~, : and /, such as /bot"))]
    #[schemars(length(min = 1, max = 64))]
    pub after: String,
}

/// One destination of a secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CredentialHost {
    /// Host name, or `*.example.com` (exactly one label) or `**.example.com` (one or more).
    #[x_kube(validation = Rule::new(HOST_RULE).message(HOST_MESSAGE))]
    #[schemars(length(min = 1, max = 253))]
    pub host: String,
    /// TCP ports; absent means 443.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8), inner(range(min = 1, max = 65535)), extend("x-kubernetes-list-type" = "set"))]
    pub ports: Option<Vec<i32>>,
    /// Methods; absent means all of them, or, where the preset knows the host and no paths are written, those of the preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 7), extend("x-kubernetes-list-type" = "set"))]
    pub methods: Option<Vec<Method>>,
    /// Path globs: `*` stays within a segment, `**` crosses segments; absent means every path, or, where the preset knows the
    /// host, those of the preset.
    #[x_kube(validation = Rule::new(PATHS_RULE).message(PATHS_MESSAGE))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 256)), extend("x-kubernetes-list-type" = "atomic"))]
    pub paths: Option<Vec<String>>,
}

/// A variable whose value only has to be present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.value) != has(self.prefix)").message("write either prefix, behind which each sandbox gets a value of its own, or value, a constant: {name: OPENAI_API_KEY, prefix: sk-}")
)]
pub struct PlaceholderEnv {
    /// Name of the variable, such as `ANTHROPIC_API_KEY`.
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z_][A-Za-z0-9_]*$')").message("name must be a variable name: letters, digits and _, not beginning with a digit"))]
    #[schemars(length(min = 1, max = 128))]
    pub name: String,
    /// A constant that is not secret, in the form that the program checks for, such as `sk-ant-placeholder`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub value: Option<String>,
    /// In place of a constant: what stands before 32 hexadecimal digits, which differ from one sandbox and credential to the
    /// next, such as `sk-ant-`. It can be empty.
    #[x_kube(validation = Rule::new("self.matches('^[!-~]*$')").message("prefix must be printable ASCII without spaces, such as sk-ant-, or empty"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub prefix: Option<String>,
}

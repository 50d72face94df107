//! A policy that can decide: the document's rules in domain types.
//!
//! There is no default and no empty constructor. A [`Policy`] comes out of a document that was understood as a whole
//! (see `validate`); whoever has none has nothing that could allow.

mod index;
mod validate;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use self::index::HostIndex;
pub(crate) use self::validate::INJECTION_TEXT_BYTES_MAX;

use crate::address::Addresses;
use crate::bounds::{Bounds, UploadLimits};
use crate::document::{PolicyDocument, SandboxIdentity};
use crate::path::{PathGlob, any_matches, any_reading_matches};
use crate::{CertificateUse, Collector, CredentialUse, Host, HostPattern, Method, Request, Target};

/// How an upstream is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    /// Over TLS.
    Https,
    /// In plain text; never with a credential.
    Http,
}

impl Scheme {
    /// The scheme as it stands in a URL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    /// The port that a URL without one means.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The place of a secret in a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Injection {
    /// A header holds the secret, after a fixed prefix.
    Header {
        /// Lower-case header name.
        name: String,
        /// Text before the secret; may be empty.
        prefix: String,
    },
    /// `Authorization: Bearer <secret>`.
    Bearer,
    /// `Authorization: Basic base64(username:secret)`.
    Basic {
        /// The user name, without a colon.
        username: String,
    },
    /// A query parameter holds the secret.
    Query {
        /// Parameter name.
        name: String,
    },
    /// A cookie holds the secret.
    Cookie {
        /// Cookie name.
        name: String,
    },
    /// One segment of the path holds the secret in the place of a placeholder.
    PathSegment {
        /// What stands before the placeholder, from the beginning of the path.
        after: String,
        /// The placeholders of the credential, one of which stands in the path once.
        placeholders: Vec<String>,
    },
}

impl Injection {
    /// The place as people name it.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Header { name, .. } => format!("header {name}"),
            Self::Bearer | Self::Basic { .. } => "header authorization".to_owned(),
            Self::Query { name } => format!("query parameter {name}"),
            Self::Cookie { name } => format!("cookie {name}"),
            Self::PathSegment { after, .. } => format!("path segment after {after}"),
        }
    }
}

/// Everything one agent may do on the network.
#[derive(Clone, Debug)]
pub struct Policy {
    sandbox: Arc<SandboxIdentity>,
    generation: i64,
    rules: Rules,
    ceiling: Option<Vec<HostPattern>>,
    credentials: BTreeMap<String, Credential>,
    client_certificates: BTreeMap<String, ClientCertificate>,
    addresses: Addresses,
    additional_roots: Option<String>,
    upstream_proxy: Option<UpstreamProxy>,
    collector: Option<Collector>,
    /// For what is on its way and has no rule any more.
    pub(crate) drain: Duration,
}

/// The proxy through which every upstream is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamProxy {
    /// What it speaks.
    pub protocol: ProxyProtocol,
    /// Where it is.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// What it asks for.
    pub login: Option<Login>,
}

/// How a proxy is asked for a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// CONNECT (RFC 9110, 9.3.6).
    Http,
    /// SOCKS5 (RFC 1928).
    Socks5,
}

/// A user name, and which file holds its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Name of the credential.
    pub credential: String,
    /// The file.
    pub file: String,
    /// The user name, without a colon.
    pub username: String,
}

/// The rules in the order of the document, and where each is found.
#[derive(Clone, Debug, Default)]
struct Rules {
    list: Vec<Rule>,
    by_host: HostIndex,
    by_name: HashMap<Arc<str>, usize, RandomState>,
}

impl Rules {
    fn new(mut list: Vec<Rule>) -> Self {
        count_together(&mut list);
        let by_host = HostIndex::new(list.iter().map(|rule| &rule.scope.host));
        let by_name =
            list.iter().enumerate().map(|(position, rule)| (Arc::clone(&rule.name), position)).collect();
        Self { list, by_host, by_name }
    }
}

/// What a rule without limits sends counts towards those of another over the same hosts.
fn count_together(list: &mut [Rule]) {
    let limited: HashSet<HostPattern> =
        list.iter().filter(|rule| rule.bounds.upload.is_some()).map(|rule| rule.scope.host.clone()).collect();
    for rule in list.iter_mut().filter(|rule| rule.bounds.upload.is_none()) {
        if limited.contains(&rule.scope.host) {
            let upload = Some(UploadLimits::new(&rule.scope.host.to_string(), None, None));
            rule.bounds = Arc::new(Bounds { upload, ..Bounds::clone(&rule.bounds) });
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) name: Arc<str>,
    pub(crate) scheme: Scheme,
    pub(crate) scope: Scope,
    pub(crate) credential: Option<String>,
    pub(crate) client_certificate: Option<String>,
    pub(crate) websocket: bool,
    pub(crate) passthrough: bool,
    pub(crate) bounds: Arc<Bounds>,
}

#[derive(Clone, Debug)]
pub(crate) struct Credential {
    pub(crate) used: CredentialUse,
    placeholders: Vec<String>,
    constants: Vec<String>,
    pub(crate) scopes: Vec<Scope>,
}

#[derive(Clone, Debug)]
pub(crate) struct ClientCertificate {
    pub(crate) used: CertificateUse,
    pub(crate) scopes: Vec<Scope>,
}

/// The files of a certificate and of its private key, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// The certificate, with those that vouch for it.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// Whether a credential may go somewhere, the widest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    Within,
    /// The path is one that the scopes leave out of what they allow.
    Excepted,
    Outside,
}

/// A set of destinations, of a rule or of a credential.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) host: HostPattern,
    pub(crate) ports: Vec<u16>,
    methods: Option<Vec<Method>>,
    paths: Option<Vec<PathGlob>>,
    except: Vec<PathGlob>,
}

impl Policy {
    /// Reads and checks a document.
    ///
    /// # Errors
    /// [`InvalidPolicy`] with every fault, or with the first one when the text is not a document at all.
    pub fn from_yaml(text: &str) -> Result<Self, InvalidPolicy> {
        let document: PolicyDocument =
            serde_yaml::from_str(text).map_err(|error| InvalidPolicy::unreadable(&error))?;
        Self::try_from(document)
    }

    /// Whose policy this is.
    #[must_use]
    pub fn sandbox(&self) -> &SandboxIdentity {
        &self.sandbox
    }

    /// The same, to be kept without a copy.
    #[must_use]
    pub fn shared_sandbox(&self) -> Arc<SandboxIdentity> {
        Arc::clone(&self.sandbox)
    }

    /// `metadata.generation` of the AgentSandbox that it was written from.
    #[must_use]
    pub const fn generation(&self) -> i64 {
        self.generation
    }

    /// Names of the credentials, each with the place of its secret, in alphabetical order.
    pub fn credentials(&self) -> impl Iterator<Item = (&str, &Injection)> {
        self.credentials.iter().map(|(name, credential)| (name.as_str(), credential.used.injection()))
    }

    /// Names of the credentials, each with the name of the file that holds its secret, in alphabetical order.
    pub fn secret_files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.credentials.iter().map(|(name, credential)| (name.as_str(), credential.used.file()))
    }

    /// Names of the client certificates, each with its files, in alphabetical order.
    pub fn certificate_files(&self) -> impl Iterator<Item = (&str, &CertificateFiles)> {
        self.client_certificates.iter().map(|(name, certificate)| (name.as_str(), certificate.used.files()))
    }

    /// Names of the credentials, each with the constants that the agent was given in its secret's place, in alphabetical order.
    pub fn constants(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.credentials.iter().map(|(name, credential)| (name.as_str(), credential.constants.as_slice()))
    }

    /// Names of the credentials, each with what only this agent was given in its secret's place, in alphabetical order.
    pub fn placeholders(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.credentials.iter().map(|(name, credential)| (name.as_str(), credential.placeholders.as_slice()))
    }

    /// Places of the secrets that may go to this host, whatever the port, the method and the path.
    pub fn injections_at(&self, host: &Host) -> impl Iterator<Item = &Injection> {
        let may_go =
            |credential: &&Credential| credential.scopes.iter().any(|scope| scope.host.matches(host));
        self.credentials.values().filter(may_go).map(|credential| credential.used.injection())
    }

    /// Whether a secret may go to this host, or a client certificate be shown to it, whatever the port, the method and the path.
    #[must_use]
    pub fn has_credential_at(&self, host: &Host) -> bool {
        self.injections_at(host).next().is_some() || self.has_certificate_at(host)
    }

    /// Whether a client certificate may be shown to this host, whatever the port, the method and the path.
    #[must_use]
    pub fn has_certificate_at(&self, host: &Host) -> bool {
        let mut scopes = self.client_certificates.values().flat_map(|certificate| &certificate.scopes);
        scopes.any(|scope| scope.host.matches(host))
    }

    /// The credentials that may go to this host, on whichever port, method and path: what the host was sent it may write into
    /// any of its answers. Each with its number, the name of its secret's file, and the place of its secret.
    pub fn credentials_of_host(&self, host: &Host) -> impl Iterator<Item = (usize, &str, &Injection)> {
        let all = self.credentials.values().enumerate();
        all.filter(|(_, credential)| credential.scopes.iter().any(|scope| scope.host.matches(host)))
            .map(|(number, credential)| (number, credential.used.file(), credential.used.injection()))
    }

    /// PEM certificates of private CAs to trust beside the public roots.
    #[must_use]
    pub fn additional_roots(&self) -> Option<&str> {
        self.additional_roots.as_deref()
    }

    /// The proxy through which every upstream is reached; none if they are reached directly.
    #[must_use]
    pub const fn upstream_proxy(&self) -> Option<&UpstreamProxy> {
        self.upstream_proxy.as_ref()
    }

    /// Where traces are sent; none if they are not.
    #[must_use]
    pub const fn collector(&self) -> Option<&Collector> {
        self.collector.as_ref()
    }

    /// Number of rules.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.rules.list.len()
    }

    /// Where the base-URL entrance of a rule leads: the scheme's own port if the rule lists it, or else its first one.
    /// Rules with wildcards have none.
    #[must_use]
    pub fn base_url(&self, rule_name: &str) -> Option<(Scheme, Host, u16)> {
        let rule = self.rules.list.get(*self.rules.by_name.get(rule_name)?)?;
        let host = rule.scope.host.exact()?;
        let own = rule.scheme.default_port();
        let port = if rule.scope.ports.contains(&own) { own } else { *rule.scope.ports.first()? };
        Some((rule.scheme, host.clone(), port))
    }

    /// Whether a new rule may name this host.
    pub(crate) fn is_within_ceiling(&self, host: &Host) -> bool {
        self.ceiling.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(host)))
    }

    /// Whether a rule has this name.
    pub(crate) fn has_rule(&self, name: &str) -> bool {
        self.rules.by_name.contains_key(name)
    }

    /// The rules that speak of this host, in the order of the document.
    pub(crate) fn rules_for(&self, host: &Host) -> impl Iterator<Item = &Rule> {
        let near = self.near(host);
        let rules = (0..near.len()).filter_map(move |at| self.rules.list.get(*near.get(at)?));
        rules.filter(|rule| rule.scope.host.matches(host))
    }

    /// Where the rules stand that may speak of this host; all others do not.
    pub(crate) fn near(&self, host: &Host) -> Cow<'_, [usize]> {
        self.rules.by_host.at(host)
    }

    pub(crate) fn credential(&self, name: &str) -> Option<&Credential> {
        self.credentials.get(name)
    }

    pub(crate) fn client_certificate(&self, name: &str) -> Option<&ClientCertificate> {
        self.client_certificates.get(name)
    }

    pub(crate) const fn addresses(&self) -> &Addresses {
        &self.addresses
    }
}

/// Whether some request to this host and port is within these scopes.
pub(crate) fn reaches(scopes: &[Scope], host: &Host, port: u16) -> bool {
    scopes.iter().any(|scope| scope.host.matches(host) && scope.ports.contains(&port))
}

/// Whether a request is within these scopes.
pub(crate) fn reach(scopes: &[Scope], request: &Request) -> Reach {
    let Request { host, port, method, target, .. } = request;
    let reaches = |scope: &Scope| match scope {
        _ if !scope.host.matches(host) || !scope.ports.contains(port) => Reach::Outside,
        _ if !scope.allows_method(method) || !scope.allows_path(target) => Reach::Outside,
        _ if any_reading_matches(&scope.except, target.canonical_path()) => Reach::Excepted,
        _ => Reach::Within,
    };
    // The widest of them counts.
    scopes.iter().map(reaches).min().unwrap_or(Reach::Outside)
}

impl Scope {
    pub(crate) fn allows_method(&self, method: &Method) -> bool {
        let listed = self.methods.as_ref().map_or_else(|| method.is_ordinary(), |list| list.contains(method));
        listed && !method.is_never_allowed()
    }

    /// The methods that are listed, if any are.
    pub(crate) fn listed_methods(&self) -> Option<&[Method]> {
        self.methods.as_deref()
    }

    /// How many path globs are listed.
    pub(crate) fn paths_listed(&self) -> usize {
        self.paths.as_ref().map_or(0, Vec::len)
    }

    /// Whether a glob that matches the path names its last segment, in the place of a `*` that takes it in.
    pub(crate) fn names(&self, target: &Target) -> bool {
        let path = target.canonical_path();
        self.paths
            .iter()
            .flatten()
            .any(|glob| glob.names_its_end() && any_matches(std::slice::from_ref(glob), path))
    }

    pub(crate) fn allows_path(&self, target: &Target) -> bool {
        self.paths.as_ref().is_none_or(|globs| any_matches(globs, target.canonical_path()))
    }
}

/// One fault in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field, such as `rules[3].host`; empty when the text is not a document.
    pub field: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// Why a document is no policy: every fault in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the policy document is not valid: {}", join(.faults))]
pub struct InvalidPolicy {
    faults: Vec<Fault>,
}

impl InvalidPolicy {
    /// The faults, at least one, in the order of the document.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    fn unreadable(error: &serde_yaml::Error) -> Self {
        let text = error.without_snippet().to_string();
        Self { faults: vec![Fault { field: String::new(), message: text }] }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

fn join(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

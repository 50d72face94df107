//! From the wire to the domain. Every fault is found in one pass; each names its field and says what to write instead.

mod carried;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use self::carried::Carried;
use super::{
    Credential, Fault, Injection, InvalidPolicy, Login, Policy, ProxyProtocol, Rule, Rules, Scheme, Scope,
    UpstreamProxy, reaches,
};
use crate::address::{Addresses, is_too_wide};
use crate::bounds::{self, Bounds};
use crate::document::{
    ALLOWED_HOSTS_MAX, API_VERSION, CREDENTIALS_MAX, CredentialDocument, EXCEPT_PATHS_MAX, InjectDocument,
    METHODS_MAX, PATHS_MAX, PLACEHOLDER_BYTES_MAX, PLACEHOLDER_BYTES_MIN, PLACEHOLDERS_MAX, PORTS_MAX,
    PolicyDocument, RANGES_MAX, RULES_MAX, RuleDocument, SCOPES_MAX, SchemeDocument, ScopeDocument,
    TlsDocument, TracingDocument, UpstreamProxyDocument, WebsocketDocument,
};
use crate::path::{CanonicalPath, PathGlob};
use crate::pinned::pinned;
use crate::{Collector, CredentialUse, HostPattern, Method, parse_authority};

const PATH_GLOB_BYTES_MAX: usize = 1024;
/// Longest name of a Secret's key, and of a file on every file system that matters.
const FILE_NAME_BYTES_MAX: usize = 253;
/// A rule's name may be a host with a word before it and a number behind it.
const NAME_BYTES_MAX: usize = 300;
const HEADER_NAME_BYTES_MAX: usize = 64;
/// Longest name of a parameter or a cookie, and longest text before a secret.
pub(crate) const INJECTION_TEXT_BYTES_MAX: usize = 256;
/// Headers that frame a message or name its destination: a secret there would change what is sent or where.
const RESERVED_HEADERS: [&str; 14] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

impl TryFrom<PolicyDocument> for Policy {
    type Error = InvalidPolicy;

    fn try_from(document: PolicyDocument) -> Result<Self, InvalidPolicy> {
        let mut faults = Faults(Vec::new());
        if document.api_version != API_VERSION {
            faults.add("apiVersion", format!("write {API_VERSION}"));
        }
        if document.generation < 0 {
            faults.add("generation", "write the generation of the AgentSandbox, or 0 outside Kubernetes");
        }
        faults.bound("rules", document.rules.len(), 0, RULES_MAX);
        faults.bound("credentials", document.credentials.len(), 0, CREDENTIALS_MAX);
        faults.unique("credentials", document.credentials.iter().map(|credential| credential.name.as_str()));
        faults.unique("rules", document.rules.iter().map(|rule| rule.name.as_str()));
        let known = Carried::of(&document);
        let mut credentials = BTreeMap::new();
        for (index, document) in document.credentials.into_iter().enumerate() {
            let (name, credential) = credential(&format!("credentials[{index}]"), document, &mut faults);
            credentials.insert(name, credential);
        }
        let client_certificates = carried::certificates(document.client_certificates, &known, &mut faults);
        let mut rules = Vec::new();
        for (index, document) in document.rules.into_iter().enumerate() {
            rules.extend(rule(&format!("rules[{index}]"), document, &known, &mut faults));
        }
        let allowed_hosts = document.allowed_hosts;
        faults.bound("allowedHosts", allowed_hosts.as_ref().map_or(0, Vec::len), 0, ALLOWED_HOSTS_MAX);
        let allow = ranges("addresses.allow", &document.addresses.allow, &mut faults);
        for (index, net) in allow.iter().enumerate().filter(|(_, net)| is_too_wide(net)) {
            let message =
                format!("{net} spans more than one private network; write each range, such as 10.20.0.0/16");
            faults.add(format!("addresses.allow[{index}]"), message);
        }
        let deny = ranges("addresses.deny", &document.addresses.deny, &mut faults);
        let additional_roots = document.upstream.additional_roots;
        if additional_roots.as_ref().is_some_and(|pem| !pem.contains("-----BEGIN CERTIFICATE-----")) {
            faults.add(
                "upstream.additionalRoots",
                "write PEM certificates, each with its BEGIN CERTIFICATE line",
            );
        }
        let proxy = document.upstream.proxy;
        let upstream_proxy = proxy.and_then(|proxy| upstream_proxy(&proxy, &credentials, &mut faults));
        let addresses = Addresses::new(allow, deny);
        let collector = document.tracing.and_then(|tracing| collector(&tracing, &addresses, &mut faults));
        let drain = bounds::drain(document.drain_seconds).map_err(|why| faults.add("drainSeconds", why));
        faults.none().map(|()| Self {
            sandbox: Arc::new(document.sandbox),
            generation: document.generation,
            rules: Rules::new(rules),
            ceiling: allowed_hosts.map(|all| HostPattern::ceiling(&all)),
            credentials,
            client_certificates,
            addresses,
            additional_roots,
            upstream_proxy,
            collector,
            drain: drain.unwrap_or_default(),
        })
    }
}

struct Faults(Vec<Fault>);

impl Faults {
    fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Fault { field: field.into(), message: message.into() });
    }

    fn bound(&mut self, field: &str, length: usize, min: usize, max: usize) {
        if length < min {
            self.add(
                field,
                "an empty list allows nothing; write at least one entry, or leave an optional field out",
            );
        } else if length > max {
            self.add(field, format!("write at most {max} entries"));
        }
    }

    fn unique<'a>(&mut self, list: &str, names: impl Iterator<Item = &'a str>) {
        let mut seen = BTreeSet::new();
        for (index, name) in names.enumerate() {
            if !seen.insert(name) {
                self.add(format!("{list}[{index}].name"), "the name is used twice; write another one");
            }
        }
    }

    fn none(self) -> Result<(), InvalidPolicy> {
        if self.0.is_empty() { Ok(()) } else { Err(InvalidPolicy { faults: self.0 }) }
    }
}

fn rule(at: &str, document: RuleDocument, known: &Carried, faults: &mut Faults) -> Option<Rule> {
    name(&format!("{at}.name"), &document.name, faults);
    let scheme = match document.scheme {
        SchemeDocument::Https => Scheme::Https,
        SchemeDocument::Http => Scheme::Http,
    };
    known.judge(at, &document, faults);
    let passthrough = document.tls == Some(TlsDocument::Passthrough);
    if passthrough {
        unopened(at, &document, faults);
    }
    let scope = ScopeDocument {
        host: document.host,
        ports: document.ports,
        methods: document.methods,
        paths: document.paths,
        except_paths: None,
    };
    let scope = self::scope(at, scope, faults);
    let pattern = scope.as_ref().map(|scope| scope.host.to_string()).unwrap_or_default();
    let upload = document.limits.map(|limits| {
        bounds::upload(&pattern, &limits, |field, message| {
            let field = format!("{at}.limits.{field}");
            faults.add(field.trim_end_matches('.'), message);
        })
    });
    if document.answer.is_some() && document.websocket == Some(WebsocketDocument::Allow) {
        faults.add(
            format!("{at}.answer"),
            "it does not hold for the messages of a WebSocket; remove it, or remove websocket: Allow",
        );
    }
    let answer = document.answer.map(|answer| {
        bounds::answer(answer, |field, message| {
            let field = format!("{at}.answer.{field}");
            faults.add(field.trim_end_matches('.'), message);
        })
    });
    let headers = document
        .headers
        .map(|list| bounds::headers(list, |message| faults.add(format!("{at}.headers"), message)));
    Some(Rule {
        scope: scope?,
        bounds: Arc::new(Bounds { upload, answer, headers }),
        name: document.name.into(),
        scheme,
        credential: document.credential,
        client_certificate: document.client_certificate,
        websocket: document.websocket == Some(WebsocketDocument::Allow),
        passthrough,
    })
}

/// What is never seen can be neither judged nor changed.
fn unopened(at: &str, document: &RuleDocument, faults: &mut Faults) {
    if document.scheme != SchemeDocument::Https {
        faults.add(format!("{at}.tls"), "write scheme: https, for only TLS can pass unopened");
    }
    let written = [
        ("methods", document.methods.is_some()),
        ("paths", document.paths.is_some()),
        ("credential", document.credential.is_some()),
        ("clientCertificate", document.client_certificate.is_some()),
        ("websocket", document.websocket.is_some()),
        ("answer", document.answer.is_some()),
        ("headers", document.headers.is_some()),
    ];
    for (field, _) in written.iter().filter(|(_, is_written)| *is_written) {
        let message = "it cannot hold for TLS that is not opened; remove it, or remove tls: Passthrough";
        faults.add(format!("{at}.{field}"), message);
    }
}

fn credential(at: &str, document: CredentialDocument, faults: &mut Faults) -> (String, Credential) {
    name(&format!("{at}.name"), &document.name, faults);
    let file = document.file.unwrap_or_else(|| document.name.clone());
    file_name(&format!("{at}.file"), &file, faults);
    let placeholders = self::placeholders(&format!("{at}.placeholders"), document.placeholders, faults);
    let constants = self::placeholders(&format!("{at}.constants"), document.constants, faults);
    let both = [placeholders.as_slice(), &constants].concat();
    let injection = injection(&format!("{at}.inject"), document.inject, &both, faults);
    let pinned = pinned(document.pinned_headers, &injection, |field, message| {
        faults.add(format!("{at}.pinnedHeaders{field}"), message);
    });
    faults.bound(&format!("{at}.scopes"), document.scopes.len(), 1, SCOPES_MAX);
    let mut scopes = Vec::new();
    for (index, scope) in document.scopes.into_iter().enumerate() {
        scopes.extend(self::scope(&format!("{at}.scopes[{index}]"), scope, faults));
    }
    let used = CredentialUse::new(&document.name, file, injection, pinned);
    (document.name, Credential { used, placeholders, constants, scopes })
}

fn upstream_proxy(
    document: &UpstreamProxyDocument,
    credentials: &BTreeMap<String, Credential>,
    faults: &mut Faults,
) -> Option<UpstreamProxy> {
    let read = || {
        let (scheme, authority) = document.url.split_once("://")?;
        let protocol = match scheme {
            "http" => ProxyProtocol::Http,
            "socks5" => ProxyProtocol::Socks5,
            _ => return None,
        };
        let (host, port) = parse_authority(authority, None).ok()?;
        Some((protocol, host, port))
    };
    let Some((protocol, host, port)) = read() else {
        let forms = "write http://proxy.example.com:3128 or socks5://proxy.example.com:1080, with its port and nothing more";
        faults.add("upstream.proxy.url", forms);
        return None;
    };
    let login = document.credential.as_ref().map(|name| {
        let credential = credentials.get(name).filter(|credential| reaches(&credential.scopes, &host, port));
        let login = credential.and_then(|credential| match credential.used.injection() {
            Injection::Basic { username } => Some(Login {
                credential: name.clone(),
                file: credential.used.file().to_owned(),
                username: username.clone(),
            }),
            _ => None,
        });
        if login.is_none() {
            let message =
                "write the name of a credential of type Basic whose scopes hold the proxy's host and port";
            faults.add("upstream.proxy.credential", message);
        }
        login
    });
    Some(UpstreamProxy { protocol, host, port, login: login.flatten() })
}

fn collector(tracing: &TracingDocument, addresses: &Addresses, faults: &mut Faults) -> Option<Collector> {
    let collector = Collector::parse(&tracing.endpoint, tracing.inside);
    let Some(known) = &collector else {
        let form = "write http://collector.example.com:4318 or https:// with a name or address that is no metadata service, its port and nothing more";
        faults.add("tracing.endpoint", form);
        return None;
    };
    if let Some(address) = known.host().address()
        && let Err(instead) = addresses.judge_collector(address.to_canonical(), tracing.inside)
    {
        faults.add("tracing.endpoint", format!("{address} {instead}"));
    }
    collector
}

fn scope(at: &str, document: ScopeDocument, faults: &mut Faults) -> Option<Scope> {
    let field = format!("{at}.host");
    let host = HostPattern::parse(&document.host)
        .map_err(|error| {
            let forms =
                "write api.example.com, *.example.com (exactly one label) or **.example.com (one or more)";
            faults.add(field, format!("{}; {forms}", error.why()));
        })
        .ok();
    faults.bound(&format!("{at}.ports"), document.ports.len(), 1, PORTS_MAX);
    if document.ports.contains(&0) {
        faults.add(format!("{at}.ports"), "write ports from 1 to 65535");
    }
    let methods = document.methods.map(|list| methods(&format!("{at}.methods"), &list, faults));
    let paths = document.paths.map(|list| self::paths(&format!("{at}.paths"), &list, PATHS_MAX, faults));
    let except = document.except_paths.map_or_else(Vec::new, |list| {
        self::paths(&format!("{at}.exceptPaths"), &list, EXCEPT_PATHS_MAX, faults)
    });
    let except = except.into_iter().map(PathGlob::in_lower_case).collect();
    Some(Scope { host: host?, ports: document.ports, methods, paths, except })
}

fn placeholders(field: &str, list: Vec<String>, faults: &mut Faults) -> Vec<String> {
    faults.bound(field, list.len(), 0, PLACEHOLDERS_MAX);
    for (index, text) in list.iter().enumerate() {
        if !(PLACEHOLDER_BYTES_MIN..=PLACEHOLDER_BYTES_MAX).contains(&text.len()) {
            faults.add(
                format!("{field}[{index}]"),
                format!("write {PLACEHOLDER_BYTES_MIN} to {PLACEHOLDER_BYTES_MAX} bytes"),
            );
        }
    }
    list
}

fn methods(field: &str, list: &[String], faults: &mut Faults) -> Vec<Method> {
    faults.bound(field, list.len(), 1, METHODS_MAX);
    let mut all = Vec::new();
    for (index, text) in list.iter().enumerate() {
        match Method::parse(text) {
            Ok(method) if method.is_never_allowed() => {
                faults.add(format!("{field}[{index}]"), format!("{method} is never allowed; remove it"));
            }
            Ok(method) => all.push(method),
            Err(error) => {
                faults.add(format!("{field}[{index}]"), format!("{}; write GET, for example", error.why()))
            }
        }
    }
    all
}

fn paths(field: &str, list: &[String], most: usize, faults: &mut Faults) -> Vec<PathGlob> {
    faults.bound(field, list.len(), 1, most);
    let mut all = Vec::new();
    for (index, text) in list.iter().enumerate() {
        match PathGlob::parse(text) {
            Ok(_) if text.len() > PATH_GLOB_BYTES_MAX => {
                faults.add(
                    format!("{field}[{index}]"),
                    format!("write at most {PATH_GLOB_BYTES_MAX} characters"),
                );
            }
            Ok(glob) => all.push(glob),
            Err(error) => faults.add(
                format!("{field}[{index}]"),
                format!("{}; write /v1/models, /v1/* (one segment) or /v1/** (one or more)", error.why()),
            ),
        }
    }
    all
}

fn injection(at: &str, document: InjectDocument, placeholders: &[String], faults: &mut Faults) -> Injection {
    let printable = |text: &str| {
        text.len() <= INJECTION_TEXT_BYTES_MAX
            && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
    };
    match document {
        InjectDocument::Header { name, prefix } => {
            let prefix = prefix.unwrap_or_default();
            let token =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
            let named = !name.is_empty() && name.len() <= HEADER_NAME_BYTES_MAX && name.bytes().all(token);
            if !named {
                faults.add(format!("{at}.name"), "write a header name in lower case, such as x-api-key");
            } else if RESERVED_HEADERS.contains(&name.as_str()) {
                faults.add(
                    format!("{at}.name"),
                    "this header steers the request itself; write another one, such as x-api-key",
                );
            }
            if !printable(&prefix) || prefix.starts_with(' ') {
                faults.add(
                    format!("{at}.prefix"),
                    "write printable ASCII that does not begin with a space, such as token",
                );
            }
            Injection::Header { name, prefix }
        }
        InjectDocument::Bearer => Injection::Bearer,
        InjectDocument::Basic { username } => {
            if username.contains(':') || !printable(&username) {
                faults.add(format!("{at}.username"), "write printable ASCII without a colon");
            }
            Injection::Basic { username }
        }
        InjectDocument::Query { name } => {
            if !plain_name(&name) {
                faults.add(
                    format!("{at}.name"),
                    "write a parameter name of letters, digits, -, ., _ and ~, such as key",
                );
            }
            Injection::Query { name }
        }
        InjectDocument::Cookie { name } => {
            if !plain_name(&name) {
                faults.add(
                    format!("{at}.name"),
                    "write a cookie name of letters, digits, -, ., _ and ~, such as session",
                );
            }
            Injection::Cookie { name }
        }
        InjectDocument::PathSegment { after } => path_segment(at, after, placeholders, faults),
    }
}

fn path_segment(at: &str, after: String, placeholders: &[String], faults: &mut Faults) -> Injection {
    // Others have more than one spelling in a path, or end the segment.
    let stands = |text: &str| text.bytes().all(|byte| is_unreserved(byte) || byte == b':');
    if placeholders.is_empty() || !placeholders.iter().all(|text| stands(text)) {
        faults.add(
            format!("{at}.type"),
            "PathSegment needs a placeholder of at least 8 letters, digits, -, ., _, ~ and : to find the place by",
        );
    }
    let canonical = CanonicalPath::parse(&after).is_ok_and(|path| path.as_str() == after);
    if !canonical || !after.split('/').all(stands) || after.len() > INJECTION_TEXT_BYTES_MAX {
        faults.add(
            format!("{at}.after"),
            "write what the path is before the placeholder, from its first /, in letters, digits, -, ., _, ~, : and /, such as /bot",
        );
    }
    Injection::PathSegment { after, placeholders: placeholders.to_vec() }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn plain_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= INJECTION_TEXT_BYTES_MAX && name.bytes().all(is_unreserved)
}

/// Names become file names and path segments.
fn name(field: &str, text: &str, faults: &mut Faults) {
    let plain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_');
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    let bytes = text.as_bytes();
    if bytes.len() > NAME_BYTES_MAX
        || !text.bytes().all(plain)
        || !edge(bytes.first().copied())
        || !edge(bytes.last().copied())
    {
        faults.add(
            field,
            "write lower-case letters, digits, - and ., beginning and ending with a letter or digit",
        );
    }
}

/// A bare file name: it can neither leave the secrets folder nor name what kubelet keeps beside the files, which begins
/// with a dot.
fn file_name(field: &str, text: &str, faults: &mut Faults) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if text.is_empty()
        || text.len() > FILE_NAME_BYTES_MAX
        || text.starts_with('.')
        || !text.bytes().all(plain)
    {
        faults.add(
            field,
            format!("write a bare file name of at most {FILE_NAME_BYTES_MAX} letters, digits, -, . and _ that does not begin with a dot"),
        );
    }
}

fn ranges(field: &str, list: &[String], faults: &mut Faults) -> Vec<IpNet> {
    faults.bound(field, list.len(), 0, RANGES_MAX);
    let mut all = Vec::new();
    for (index, text) in list.iter().enumerate() {
        match text.parse::<IpNet>() {
            Ok(net) => all.push(net.trunc()),
            Err(_) => {
                faults.add(format!("{field}[{index}]"), "write a range in CIDR form, such as 10.20.0.0/16")
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;

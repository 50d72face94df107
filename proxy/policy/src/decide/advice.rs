//! What to write so that a denied request would be allowed.
//!
//! A snippet is what stands between backticks, and is YAML: where it says to add or to write it, doing so allows the very
//! request that was denied, with all that it lacks and not only with what was asked first. Where writing cannot help, or
//! must not, there is no snippet. A list is written whole where leaving it out has a meaning of its own, for then adding
//! to it would take something away. A new rule allows the request and no other; where none is known yet, it says so.

use std::fmt::Display;

use super::{Gap, Place};
use crate::document::{PATHS_MAX, PORTS_MAX, RULES_MAX};
use crate::method::ORDINARY;
use crate::path::globs_for;
use crate::policy::{Reach, Rule, Scope, reach, reaches};
use crate::{Denial, DenialReason, Host, HostPattern, Injection, Policy, Request, Scheme};

/// Longest path glob of an AgentSandbox, in characters; the CRD takes no longer one.
const GLOB_BYTES_MAX: usize = 256;
/// Rules of an AgentSandbox, and ports and paths of one of them: the CRD's bounds.
const SANDBOX_RULES_MAX: usize = 128;
const SANDBOX_PORTS_MAX: usize = 8;
const SANDBOX_PATHS_MAX: usize = 16;

impl Policy {
    /// The denial that the nearest rule explains, with what to write.
    pub(super) fn advise(&self, place: &Place<'_>, nearest: Option<(Gap, &Rule)>) -> Denial {
        let denial = |reason| match place.request {
            Some(request) => super::described(reason, request),
            None => Denial::new(reason).with_host(place.host).with_port(place.port),
        };
        match nearest {
            None => denial(DenialReason::HostNotAllowed).with_how_to_allow(self.new_rule(place, None)),
            Some((gap, rule)) => {
                denial(gap.reason()).with_rule(&rule.name).with_how_to_allow(self.way(place, gap, rule))
            }
        }
    }

    fn way(&self, place: &Place<'_>, gap: Gap, rule: &Rule) -> String {
        if let Some(never) = self.never(place) {
            return never;
        }
        if gap == Gap::Scheme {
            return format!("Use {}, the scheme of rule {}.", rule.scheme, rule.name);
        }
        if let Some(first) = self.owners(place, rule) {
            return first;
        }
        match self.changes(place, rule) {
            Some(changes) => format!("In rule {} of {}: {changes}.", rule.name, self.allow_list()),
            None if place.request.is_some_and(|request| globs_of(request).is_none()) => format!(
                "Add the path that you mean to paths of rule {}: the one that was asked for is too long for a rule, or would allow more than itself.",
                rule.name
            ),
            None => self.new_rule(place, Some(rule)),
        }
    }

    /// What the owners of what the rule carries have to allow before a change of the rule could help.
    fn owners(&self, place: &Place<'_>, rule: &Rule) -> Option<String> {
        let (key, certificate) = (rule.credential.as_deref(), rule.client_certificate.as_deref());
        if let Some(request) = place.request {
            let of_key = key.and_then(|name| self.credential_use(name, rule, request).err());
            let next = of_key.or_else(|| self.certificate_use(rule, request).err())?;
            return Some(format!("{} Rule {} must allow it, too.", next.how_to_allow, rule.name));
        }
        let Place { host, port, .. } = place;
        let is_outside = |scopes: Option<&Vec<Scope>>| !scopes.is_some_and(|all| reaches(all, host, *port));
        let key = key.filter(|name| is_outside(self.credential(name).map(|known| &known.scopes)));
        let certificate = || {
            certificate.filter(|name| is_outside(self.client_certificate(name).map(|known| &known.scopes)))
        };
        let name = key.or_else(certificate)?;
        Some(format!(
            "Ask the owner of AgentCredential {name} to allow {host}:{port} in its hosts. Rule {} must allow it, too.",
            rule.name
        ))
    }

    /// What no rule can allow.
    fn never(&self, place: &Place<'_>) -> Option<String> {
        let method = &place.request?.method;
        if method.is_never_allowed() {
            return Some(format!("{method} is never allowed; use another method."));
        }
        let unwritable = self.is_of_sandbox() && !method.is_ordinary();
        unwritable.then(|| format!("No AgentSandbox can allow {method}; use one of {}.", ORDINARY.join(", ")))
    }

    /// Everything that the rule lacks for this place; none if it has no room for it.
    fn changes(&self, place: &Place<'_>, rule: &Rule) -> Option<String> {
        let (ports_max, paths_max) = if self.is_of_sandbox() {
            (SANDBOX_PORTS_MAX, SANDBOX_PATHS_MAX)
        } else {
            (PORTS_MAX, PATHS_MAX)
        };
        let mut changes = Vec::new();
        if !rule.scope.ports.contains(&place.port) {
            if rule.scope.ports.len() >= ports_max {
                return None;
            }
            let all = rule.scope.ports.iter().chain([&place.port]);
            changes.push(format!("write `ports: [{}]`", list(all)));
        }
        if let Some(request) = place.request {
            // A push that the request begins is judged with it.
            let push = request.push();
            let steps = || std::iter::once(request).chain(&push);
            let mut methods: Vec<_> =
                steps().map(|step| &step.method).filter(|method| !rule.scope.allows_method(method)).collect();
            methods.dedup();
            if !methods.is_empty() {
                let all = rule.scope.listed_methods();
                let known = all.map_or_else(|| ORDINARY.join(", "), |all| list(all.iter()));
                changes.push(format!("write `methods: [{known}, {}]`", list(methods.iter())));
            }
            let mut more = Vec::new();
            for step in steps().filter(|step| !rule.scope.allows_path(&step.target)) {
                more.extend(globs_of(step)?);
            }
            if !more.is_empty() {
                if rule.scope.paths_listed() + more.len() > paths_max {
                    return None;
                }
                changes.push(format!("add to paths `[{}]`", list(more.iter().map(|glob| quoted(glob)))));
            }
            if request.websocket && !rule.websocket {
                if rule.bounds.answer().is_some() {
                    // Nobody looks at the answers that a socket brings, so that no rule has both.
                    return None;
                }
                changes.push("write `websocket: Allow`".to_owned());
            }
        }
        Some(changes.join(", "))
    }

    /// A rule for this place, with what the rule that has no room for it carries, or else what may go there.
    fn new_rule(&self, place: &Place<'_>, full: Option<&Rule>) -> String {
        if let Some(never) = self.never(place) {
            return never;
        }
        if place.host.address().is_some() {
            return "No rule can name an address; ask for the destination by its DNS name.".to_owned();
        }
        if !self.can_name(place.host) {
            return "No rule can name this host; ask for it by a full DNS name, such as api.example.com."
                .to_owned();
        }
        if !self.is_within_ceiling(place.host) {
            return "The AgentSandboxClass lets no sandbox have a rule for this host; a platform admin may add it to egress.allowedHosts there, or use another class."
                .to_owned();
        }
        let most = if self.is_of_sandbox() { SANDBOX_RULES_MAX } else { RULES_MAX };
        if self.rule_count() >= most {
            return format!("There are {most} rules already, and there can be no more; widen or remove one.");
        }
        if place.request.is_some_and(|request| globs_of(request).is_none()) {
            return format!(
                "Add a rule for this host to {}, with the path that you mean: the one that was asked for is too long for a rule, or would allow more than itself.",
                self.allow_list()
            );
        }
        let carried = full.map_or_else(|| self.carried(place), Carried::of);
        let fields = self.fields(place, &carried).join(", ");
        format!("Add to {}: `- {{{fields}}}`.{}", self.allow_list(), carried.remarks(place))
    }

    /// What the owners of AgentCredentials let go to this place. The login at the upstream proxy is no rule's to name.
    fn carried(&self, place: &Place<'_>) -> Carried<'_> {
        if place.scheme != Scheme::Https {
            return Carried::default();
        }
        let login = self.upstream_proxy().and_then(|proxy| proxy.login.as_ref());
        let is_login = |name: &str| login.is_some_and(|login| login.credential == name);
        let mut carried = Carried::default();
        for (name, injection) in self.credentials().filter(|(name, _)| !is_login(name)) {
            let scopes = self.credential(name).map(|known| known.scopes.as_slice()).unwrap_or_default();
            match () {
                () if may_go(scopes, place) && is_placed(injection, place) => carried.keys.push(name),
                () if reaches(scopes, place.host, place.port) => carried.withheld = Some(name),
                () => {}
            }
        }
        let shown =
            |name: &&str| self.client_certificate(name).is_some_and(|known| may_go(&known.scopes, place));
        carried.certificate = self.certificate_files().map(|(name, _)| name).find(shown);
        carried
    }

    /// The fields of a new rule, as the AgentSandbox or the standalone document spells them.
    fn fields(&self, place: &Place<'_>, carried: &Carried<'_>) -> Vec<String> {
        let Place { scheme, host, port, request } = place;
        let host_field = format!("host: {}", scalar(host.as_str()));
        let mut fields = if self.is_of_sandbox() {
            let mut fields = vec![host_field];
            if *port != scheme.default_port() {
                fields.push(format!("ports: [{port}]"));
            }
            if *scheme == Scheme::Http {
                fields.push("scheme: Http".to_owned());
            }
            fields
        } else {
            let name = scalar(&self.free_name(host));
            vec![format!("name: {name}"), host_field, format!("ports: [{port}]"), format!("scheme: {scheme}")]
        };
        if let Some(request) = request {
            let push = request.push();
            let steps = || std::iter::once(*request).chain(&push);
            let mut methods: Vec<_> = steps().map(|step| &step.method).collect();
            methods.dedup();
            fields.push(format!("methods: [{}]", list(methods.iter())));
            let globs: Vec<_> = steps().filter_map(globs_of).flatten().collect();
            fields.push(format!("paths: [{}]", list(globs.iter().map(|glob| quoted(glob)))));
            if request.websocket {
                fields.push("websocket: Allow".to_owned());
            }
        }
        let (key, certificate) = (carried.keys.first(), carried.certificate);
        let named = [("credential", key.copied()), ("clientCertificate", certificate)];
        fields
            .extend(named.iter().filter_map(|(field, name)| Some(format!("{field}: {}", scalar((*name)?)))));
        fields
    }

    /// The host as a rule's name, with a number behind it if another has that name.
    fn free_name(&self, host: &Host) -> String {
        let plain = host.as_str().trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let base = if plain.is_empty() { "rule" } else { plain };
        let is_free = |name: &String| !self.has_rule(name);
        let numbered = (2..=RULES_MAX).map(|number| format!("{base}-{number}"));
        std::iter::once(base.to_owned()).chain(numbered).find(is_free).unwrap_or_else(|| base.to_owned())
    }

    /// Whether a rule can be written for exactly this host.
    fn can_name(&self, host: &Host) -> bool {
        let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
        let label = |label: &str| {
            let bytes = label.as_bytes();
            edge(bytes.first())
                && edge(bytes.last())
                && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        };
        let is_domain = || {
            let last = host.as_str().rsplit('.').next().unwrap_or_default();
            let top = last.len() > 1 && last.starts_with(|c: char| c.is_ascii_alphabetic());
            top && host.as_str().contains('.') && host.as_str().split('.').all(label)
        };
        HostPattern::parse(host.as_str()).is_ok() && (!self.is_of_sandbox() || is_domain())
    }

    /// Whether the rules are written in an AgentSandbox, and not in this document.
    fn is_of_sandbox(&self) -> bool {
        !self.sandbox().uid.is_empty()
    }

    fn allow_list(&self) -> String {
        if !self.is_of_sandbox() {
            return "rules of the policy document".to_owned();
        }
        let identity = self.sandbox();
        format!("spec.egress.allow of AgentSandbox {}/{}", identity.namespace, identity.name)
    }
}

/// What a new rule carries.
#[derive(Default)]
struct Carried<'a> {
    /// The credentials that may go there; the rule carries the first.
    keys: Vec<&'a str>,
    certificate: Option<&'a str>,
    /// One that may go to the host and port, but not with the request.
    withheld: Option<&'a str>,
}

impl<'a> Carried<'a> {
    /// What another rule carries.
    fn of(rule: &'a Rule) -> Self {
        Self {
            keys: rule.credential.as_deref().into_iter().collect(),
            certificate: rule.client_certificate.as_deref(),
            withheld: None,
        }
    }

    /// What the snippet alone does not say.
    fn remarks(&self, place: &Place<'_>) -> String {
        let Place { host, port, request, .. } = place;
        let mut said = String::new();
        if request.is_none() {
            said.push_str(" No request is known yet, so that it allows every path, and all ordinary methods: narrow it with methods and paths.");
        }
        if let [_, others @ ..] = self.keys.as_slice()
            && !others.is_empty()
        {
            let others = list(others.iter());
            said.push_str(&format!(" AgentCredentials that may go there as well: {others}."));
        }
        if let (Some(request), [], Some(name)) = (request, self.keys.as_slice(), self.withheld) {
            let method = &request.method;
            said.push_str(&format!(
                " It goes without a key: for its own, the owner of AgentCredential {name} has to allow {method} on this path of {host}:{port} in its hosts."
            ));
        }
        said
    }
}

/// Whether something with these scopes may go to a place; where no request is known, with some request.
fn may_go(scopes: &[Scope], place: &Place<'_>) -> bool {
    match place.request {
        Some(request) => reach(scopes, request) == Reach::Within,
        None => reaches(scopes, place.host, place.port),
    }
}

/// Whether the secret has its place in the request.
fn is_placed(injection: &Injection, place: &Place<'_>) -> bool {
    match (injection, place.request) {
        (Injection::PathSegment { after, placeholders }, Some(request)) => {
            request.target.with_path_segment(after, placeholders, "").is_some()
        }
        _ => true,
    }
}

fn list<T: Display>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// A path in YAML's double quotes: it holds neither of them nor a backslash, for those are escaped in a canonical path.
fn quoted(path: &str) -> String {
    format!("\"{path}\"")
}

/// A name as a YAML scalar: `null`, `on` and numbers would be read as something else.
fn scalar(name: &str) -> String {
    let plain = name.contains('.') && name.starts_with(|c: char| c.is_ascii_alphabetic());
    if plain { name.to_owned() } else { quoted(name) }
}

/// Globs that allow the path of the request and no other; none where there are none.
fn globs_of(request: &Request) -> Option<Vec<String>> {
    globs_for(request.target.canonical_path(), GLOB_BYTES_MAX)
}

/// The denial of a request for a path that the owner of a credential leaves out.
pub(super) fn excepted(name: &str, rule: &Rule, request: &Request) -> Box<Denial> {
    let how = format!(
        "AgentCredential {name} leaves this path out, because it stores files, hands out keys or changes accounts; ask its owner to name the path in hosts, not only a pattern around it."
    );
    concerning(DenialReason::CredentialScope, name, rule, request, &how)
}

/// The denial of a request to where a credential may not go.
pub(super) fn outside(name: &str, rule: &Rule, request: &Request) -> Box<Denial> {
    let Request { host, port, method, .. } = request;
    let how = format!(
        "Ask the owner of AgentCredential {name} to allow {method} on this path of {host}:{port} in its hosts, or narrow the rule to what they allow."
    );
    concerning(DenialReason::CredentialScope, name, rule, request, &how)
}

/// A denial that an AgentCredential is the reason of.
pub(super) fn concerning(
    reason: DenialReason,
    name: &str,
    rule: &Rule,
    request: &Request,
    how: &str,
) -> Box<Denial> {
    let denial = super::described(reason, request).with_rule(&rule.name).with_credential(name);
    Box::new(denial.with_how_to_allow(how))
}

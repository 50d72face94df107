//! The decision, and the evidence it leaves. This is the only room that makes a [`Permit`] or a [`NamePermit`].
//!
//! A request is allowed when some rule allows all of it; whatever falls through is a [`Denial`]. Of several rules that
//! allow it the one with the most specific host speaks, and of equals the first in the document: it names the permit and
//! the credential. A credential that may not go where the request goes denies the request, which is never sent bare.

mod advice;
mod barred;
mod grace;
mod operations;
mod push;

use std::cmp::Reverse;
use std::sync::Arc;

use self::advice::{concerning, outside};
use self::push::within;
use crate::policy::{CertificateFiles, Rule};
use crate::{Bounds, Denial, DenialReason, Host, Injection, Method, PinnedHeader, Policy, Scheme, Target};

/// A request in canonical parts. It has no power.
#[derive(Clone, Debug)]
pub struct Request {
    /// How the upstream is to be reached.
    pub scheme: Scheme,
    /// Destination.
    pub host: Host,
    /// Port of the destination.
    pub port: u16,
    /// Method.
    pub method: Method,
    /// Path and query.
    pub target: Target,
    /// Whether the client asks for a WebSocket.
    pub websocket: bool,
}

/// The right to send one request: this one, with nothing in it that was not judged.
///
/// Only [`Policy::decide`] makes one:
///
/// ```compile_fail,E0451
/// fn forge(request: agentsandbox_policy::Request, bounds: agentsandbox_policy::Bounds) -> agentsandbox_policy::Permit {
///     agentsandbox_policy::Permit { request, rule: "".into(), credential: None, certificate: None, bounds: bounds.into() }
/// }
/// ```
///
/// ```compile_fail,E0277
/// fn has_default<T: Default>() {}
/// has_default::<agentsandbox_policy::Permit>();
/// ```
///
/// ```compile_fail,E0277
/// fn has_clone<T: Clone>() {}
/// has_clone::<agentsandbox_policy::Permit>();
/// ```
///
/// The same does compile for what has no power:
///
/// ```
/// fn has_clone<T: Clone>() {}
/// has_clone::<agentsandbox_policy::Request>();
/// ```
#[derive(Debug)]
pub struct Permit {
    request: Request,
    rule: Arc<str>,
    credential: Option<CredentialUse>,
    certificate: Option<CertificateUse>,
    bounds: Arc<Bounds>,
}

/// Which secret to put where. The names and the place, never the value. All uses of one credential share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialUse(Arc<Use>);

#[derive(Debug, PartialEq, Eq)]
struct Use {
    name: Arc<str>,
    file: String,
    injection: Injection,
    pinned: Vec<PinnedHeader>,
}

/// Which client certificate to show. The names of it and of its files, never what is in them. All uses of one share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateUse {
    name: Arc<str>,
    files: Arc<CertificateFiles>,
}

/// The right to go on with a connection to a name before its first request is known: to resolve the name, to mint a leaf
/// certificate, to answer CONNECT. It is no right to send anything.
///
/// ```compile_fail,E0451
/// fn forge(host: agentsandbox_policy::Host) -> agentsandbox_policy::NamePermit {
///     agentsandbox_policy::NamePermit { scheme: agentsandbox_policy::Scheme::Https, host, port: 443 }
/// }
/// ```
#[derive(Debug)]
pub struct NamePermit {
    scheme: Scheme,
    host: Host,
    port: u16,
}

/// The right to hand one TLS connection on unopened, to the server that its handshake names.
///
/// ```compile_fail,E0451
/// fn forge(host: agentsandbox_policy::Host, bounds: agentsandbox_policy::Bounds) -> agentsandbox_policy::PassPermit {
///     agentsandbox_policy::PassPermit { rule: "".into(), host, port: 443, bounds: bounds.into() }
/// }
/// ```
#[derive(Debug)]
pub struct PassPermit {
    rule: Arc<str>,
    host: Host,
    port: u16,
    bounds: Arc<Bounds>,
}

impl PassPermit {
    /// Name of the rule that allows it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// What the rule bounds.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// The host to dial.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port to dial.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Permit {
    /// How to reach the upstream.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.request.scheme
    }

    /// The host to dial, to verify and to name in the request.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.request.host
    }

    /// The port to dial.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.request.port
    }

    /// The method to send.
    #[must_use]
    pub const fn method(&self) -> &Method {
        &self.request.method
    }

    /// The target to send.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.request.target
    }

    /// Whether this is a WebSocket.
    #[must_use]
    pub const fn websocket(&self) -> bool {
        self.request.websocket
    }

    /// Name of the rule that allows it.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }

    /// The same, to be kept without a copy.
    #[must_use]
    pub fn shared_rule(&self) -> Arc<str> {
        Arc::clone(&self.rule)
    }

    /// The credential that must be injected.
    #[must_use]
    pub const fn credential(&self) -> Option<&CredentialUse> {
        self.credential.as_ref()
    }

    /// The client certificate that the connection is opened with, and no other may be.
    #[must_use]
    pub const fn certificate(&self) -> Option<&CertificateUse> {
        self.certificate.as_ref()
    }

    /// What the rule bounds.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }
}

impl CertificateUse {
    pub(crate) fn new(name: &str, files: CertificateFiles) -> Self {
        Self { name: name.into(), files: Arc::new(files) }
    }

    /// Name of the certificate.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same, to be kept without a copy.
    #[must_use]
    pub fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Where it and its key are, by the document of the decision.
    #[must_use]
    pub fn files(&self) -> &CertificateFiles {
        &self.files
    }
}

impl CredentialUse {
    pub(crate) fn new(name: &str, file: String, injection: Injection, pinned: Vec<PinnedHeader>) -> Self {
        Self(Arc::new(Use { name: name.into(), file, injection, pinned }))
    }

    /// Name of the credential.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The same, to be kept without a copy.
    #[must_use]
    pub fn shared_name(&self) -> Arc<str> {
        Arc::clone(&self.0.name)
    }

    /// Name of the file that holds its secret. It comes from the same document as the decision, so a secret is read
    /// under the policy that says where it may go.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.0.file
    }

    /// Place of its secret.
    #[must_use]
    pub fn injection(&self) -> &Injection {
        &self.0.injection
    }

    /// Fields of its requests that are not the agent's to choose.
    #[must_use]
    pub fn pinned(&self) -> &[PinnedHeader] {
        &self.0.pinned
    }
}

impl NamePermit {
    /// The scheme that was asked for.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The canonical host.
    #[must_use]
    pub const fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Policy {
    /// Decides one request.
    ///
    /// # Errors
    /// A [`Denial`] unless a rule allows all of it, and its credential may go there.
    pub fn decide(&self, request: Request) -> Result<Permit, Box<Denial>> {
        let asked = &request;
        let (rule, credential, certificate) =
            self.judge(asked).map_err(|denial| push::told(denial, asked))?;
        let (rule, bounds) = (Arc::clone(&rule.name), Arc::clone(&rule.bounds));
        Ok(Permit { request, rule, credential, certificate, bounds })
    }

    /// The rule that speaks for a request, and what goes out with it.
    fn judge(&self, request: &Request) -> Result<Judged<'_>, Box<Denial>> {
        let rule = self.speaker(request).ok_or_else(|| Box::new(self.denial(request)))?;
        let name = rule.credential.as_ref();
        let credential = name.map(|name| self.credential_use(name, rule, request)).transpose()?;
        Ok((rule, credential, self.certificate_use(rule, request)?))
    }

    /// Decides whether some request to this host and port, over this scheme, could be allowed.
    ///
    /// # Errors
    /// A [`Denial`] when no rule could allow any.
    pub fn admit(&self, scheme: Scheme, host: &Host, port: u16) -> Result<NamePermit, Box<Denial>> {
        if let Some(denial) = self.barred(host, port) {
            return Err(Box::new(denial));
        }
        let mut nearest: Option<(Gap, &Rule)> = None;
        for rule in self.opened(host) {
            match name_gap(rule, scheme, port) {
                None => return Ok(NamePermit { scheme, host: host.clone(), port }),
                Some(gap) => nearest = further(nearest, (gap, rule)),
            }
        }
        let place = Place { scheme, host, port, request: None };
        Err(Box::new(self.advise(&place, nearest)))
    }

    /// Leave to hand TLS to this host and port on unopened. Of the rules for them the most specific speaks, and of equals
    /// one that opens it.
    #[must_use]
    pub fn pass(&self, host: &Host, port: u16) -> Option<PassPermit> {
        if self.barred(host, port).is_some() {
            return None;
        }
        let rules = self.rules_for(host).filter(|rule| name_gap(rule, Scheme::Https, port).is_none());
        let speaker = rules.min_by_key(|rule| (rule.scope.host.specificity(), rule.passthrough))?;
        let permit = || PassPermit {
            rule: Arc::clone(&speaker.name),
            host: host.clone(),
            port,
            bounds: Arc::clone(&speaker.bounds),
        };
        speaker.passthrough.then(permit)
    }

    /// The rules under which requests to this host are judged.
    fn opened(&self, host: &Host) -> impl Iterator<Item = &Rule> {
        self.rules_for(host).filter(|rule| !rule.passthrough)
    }

    /// Whether the policy DNS answers for this host.
    #[must_use]
    pub fn answers(&self, host: &Host) -> bool {
        !host.is_metadata_name() && self.rules_for(host).next().is_some()
    }

    /// Of the rules that allow the request, the one that speaks.
    fn speaker(&self, request: &Request) -> Option<&Rule> {
        if self.barred(&request.host, request.port).is_some() {
            return None;
        }
        self.opened(&request.host)
            .filter(|rule| request_gap(rule, request).is_none())
            // min_by_key keeps the first of equals.
            .min_by_key(|rule| rule.scope.host.specificity())
    }

    fn credential_use(
        &self,
        name: &str,
        rule: &Rule,
        request: &Request,
    ) -> Result<CredentialUse, Box<Denial>> {
        let known = self.credential(name);
        within(name, known.map(|known| known.scopes.as_slice()), rule, request)?;
        let Some(credential) = known else { return Err(outside(name, rule, request)) };
        operations::named(name, rule, &credential.scopes, request)?;
        if let Injection::PathSegment { after, placeholders } = credential.used.injection()
            && request.target.with_path_segment(after, placeholders, "").is_none()
        {
            let how = format!(
                "Write the placeholder of AgentCredential {name} in the path once, right behind {after}."
            );
            return Err(concerning(DenialReason::PlaceholderMisuse, name, rule, request, &how));
        }
        Ok(credential.used.clone())
    }

    fn certificate_use(&self, rule: &Rule, request: &Request) -> Result<Option<CertificateUse>, Box<Denial>> {
        let Some(name) = &rule.client_certificate else { return Ok(None) };
        let known = self.client_certificate(name);
        let of_certificate = |denial: Box<Denial>| {
            Box::new(Denial { credential: None, ..*denial }.with_client_certificate(name))
        };
        within(name, known.map(|known| known.scopes.as_slice()), rule, request).map_err(of_certificate)?;
        let Some(certificate) = known else { return Err(of_certificate(outside(name, rule, request))) };
        Ok(Some(certificate.used.clone()))
    }

    fn denial(&self, request: &Request) -> Denial {
        if let Some(denial) = self.barred(&request.host, request.port) {
            return denial;
        }
        let nearest = self
            .opened(&request.host)
            .filter_map(|rule| request_gap(rule, request).map(|gap| (gap, rule)))
            .fold(None, further);
        let place =
            Place { scheme: request.scheme, host: &request.host, port: request.port, request: Some(request) };
        self.advise(&place, nearest)
    }
}

type Judged<'a> = (&'a Rule, Option<CredentialUse>, Option<CertificateUse>);

/// What a denial is about.
struct Place<'a> {
    scheme: Scheme,
    host: &'a Host,
    port: u16,
    request: Option<&'a Request>,
}

/// The first thing that a rule with the right host does not allow, in the order in which they are asked. A rule whose gap
/// comes later is nearer to allowing the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    Scheme,
    Port,
    Method,
    Path,
    Websocket,
}

impl Gap {
    const fn reason(self) -> DenialReason {
        match self {
            Self::Scheme => DenialReason::SchemeNotAllowed,
            Self::Port => DenialReason::PortNotAllowed,
            Self::Method => DenialReason::MethodNotAllowed,
            Self::Path => DenialReason::PathNotAllowed,
            Self::Websocket => DenialReason::WebsocketNotAllowed,
        }
    }
}

fn name_gap(rule: &Rule, scheme: Scheme, port: u16) -> Option<Gap> {
    if rule.scheme != scheme {
        Some(Gap::Scheme)
    } else if !rule.scope.ports.contains(&port) {
        Some(Gap::Port)
    } else {
        None
    }
}

fn request_gap(rule: &Rule, request: &Request) -> Option<Gap> {
    gap(rule, request).or_else(|| gap(rule, &request.push()?))
}

fn gap(rule: &Rule, request: &Request) -> Option<Gap> {
    name_gap(rule, request.scheme, request.port).or_else(|| {
        if !rule.scope.allows_method(&request.method) {
            Some(Gap::Method)
        } else if !rule.scope.allows_path(&request.target) {
            Some(Gap::Path)
        } else if request.websocket && !rule.websocket {
            Some(Gap::Websocket)
        } else {
            None
        }
    })
}

/// The nearer of two rules; of equally near ones the more specific, and then the first.
fn further<'a>(best: Option<(Gap, &'a Rule)>, next: (Gap, &'a Rule)) -> Option<(Gap, &'a Rule)> {
    let rank = |(gap, rule): (Gap, &'a Rule)| (Reverse(gap), rule.scope.host.specificity());
    match best {
        Some(best) if rank(best) <= rank(next) => Some(best),
        _ => Some(next),
    }
}

fn described(reason: DenialReason, request: &Request) -> Denial {
    Denial::new(reason)
        .with_host(&request.host)
        .with_port(request.port)
        .with_method(&request.method)
        .with_path(request.target.path())
}

#[cfg(test)]
mod tests;

//! The rules of a sandbox and the credentials they name, as the proxy's policy document holds them.

use std::collections::{BTreeMap, BTreeSet};

use agentsandbox_crds::class::{AgentSandboxClass, TlsPassthrough};
use agentsandbox_crds::common::Method;
use agentsandbox_crds::credential::{AgentCredential, CredentialHost, SecretKeyRef};
use agentsandbox_crds::sandbox::{AgentSandbox, EgressRule, Scheme, Tls, Websocket};
use agentsandbox_policy::document::{
    ClientCertificateDocument, CredentialDocument, RuleDocument, SchemeDocument, TlsDocument,
    WebsocketDocument,
};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::certificate::{self, is_certificate};
use super::credential::{Credential, Variable};
use super::hosts::covers;
use super::upload;
use super::{Identity, References, Rejection, RejectionReason, reject};

pub(super) const HTTPS_PORT: u16 = 443;
const HTTP_PORT: u16 = 80;
/// Bytes of the hash in a credential's file name; 64 bits, which nobody finds a second Secret for by chance.
const FILE_HASH_BYTES: usize = 8;

/// What a sandbox may reach.
pub(super) struct Egress {
    pub(super) rules: Vec<RuleDocument>,
    pub(super) credentials: Vec<(CredentialDocument, SecretKeyRef)>,
    /// What connections show, each with its Secret.
    pub(super) certificates: Vec<(ClientCertificateDocument, String)>,
    /// What the agent is given in their places.
    pub(super) variables: Vec<Variable>,
}

pub(super) fn egress(
    identity: &Identity,
    sandbox: &AgentSandbox,
    class: &AgentSandboxClass,
    references: &References,
    faults: &mut Vec<Rejection>,
) -> Egress {
    let allow = sandbox.spec.egress.as_ref().map(|egress| egress.allow.as_slice()).unwrap_or_default();
    let mut taken: BTreeSet<String> = allow.iter().filter_map(|rule| rule.name.clone()).collect();
    let named = |of: fn(&EgressRule) -> Option<&String>| -> BTreeSet<&String> {
        allow.iter().filter_map(of).collect()
    };
    let known: BTreeMap<&str, Credential> = named(|rule| rule.credential.as_ref())
        .into_iter()
        .filter_map(|name| references.credentials.get(name))
        .filter(|credential| !is_certificate(credential))
        .filter_map(|credential| Credential::of(credential, faults))
        .collect();
    let certificates = named(|rule| rule.client_certificate.as_ref())
        .into_iter()
        .filter_map(|name| references.credentials.get(name))
        .filter(|credential| is_certificate(credential))
        .filter_map(|credential| certificate::document(credential, faults))
        .collect();
    let mut rules = Vec::new();
    for (index, rule) in allow.iter().enumerate() {
        ceiling(index, rule, class, faults);
        passthrough(index, rule, class, faults);
        let limits = upload::limits(index, rule, class, faults);
        let answer = upload::answer(index, rule, faults);
        let document = RuleDocument { limits, answer, ..document(rule, &mut taken) };
        let key = known.get(rule.credential.as_deref().unwrap_or_default());
        let hosts = key.map(|known| known.hosts.as_slice());
        carried(
            index,
            &Carried { rule, document: &document, slot: Slot::Credential },
            references,
            hosts,
            faults,
        );
        let certificate = rule.client_certificate.as_ref().and_then(|name| references.credentials.get(name));
        let hosts = certificate.and_then(|certificate| certificate.spec.hosts.as_deref());
        carried(
            index,
            &Carried { rule, document: &document, slot: Slot::Certificate },
            references,
            hosts,
            faults,
        );
        rules.push(document);
    }
    let variables: Vec<Variable> =
        known.values().flat_map(|credential| credential.variables(&identity.uid)).collect();
    let credentials =
        known.values().filter_map(|credential| credential.document(&identity.uid, faults)).collect();
    Egress { rules, credentials, certificates, variables }
}

/// Where a rule names an AgentCredential.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Credential,
    Certificate,
}

impl Slot {
    const fn field(self) -> &'static str {
        match self {
            Self::Credential => "credential",
            Self::Certificate => "clientCertificate",
        }
    }

    fn name(self, rule: &EgressRule) -> Option<&String> {
        match self {
            Self::Credential => rule.credential.as_ref(),
            Self::Certificate => rule.client_certificate.as_ref(),
        }
    }

    /// What to write where an AgentCredential stands in the wrong one of both.
    fn fits(self, credential: &AgentCredential) -> Result<(), &'static str> {
        match (self, is_certificate(credential)) {
            (Self::Credential, true) => {
                Err("is a client certificate; write its name in clientCertificate, not in credential")
            }
            (Self::Certificate, false) => Err(
                "is no client certificate; write its name in credential, or one of type ClientCertificate",
            ),
            (Self::Credential, false) | (Self::Certificate, true) => Ok(()),
        }
    }
}

/// What a rule names in one of both.
struct Carried<'a> {
    rule: &'a EgressRule,
    document: &'a RuleDocument,
    slot: Slot,
}

fn ceiling(index: usize, rule: &EgressRule, class: &AgentSandboxClass, faults: &mut Vec<Rejection>) {
    let Some(allowed) = class.spec.egress.as_ref().and_then(|egress| egress.allowed_hosts.as_ref()) else {
        return;
    };
    if !allowed.iter().any(|pattern| covers(pattern, &rule.host)) {
        reject(
            faults,
            RejectionReason::OutsideClass,
            format!("spec.egress.allow[{index}].host"),
            format!(
                "class {} does not allow {}; write a host within {}, or use another class",
                class.name_any(),
                rule.host,
                allowed.join(", ")
            ),
        );
    }
}

/// TLS passes unopened only where the class says so: nobody sees what leaves in it.
fn passthrough(index: usize, rule: &EgressRule, class: &AgentSandboxClass, faults: &mut Vec<Rejection>) {
    let of_class = class.spec.egress.as_ref().and_then(|egress| egress.tls_passthrough);
    if rule.tls == Some(Tls::Passthrough) && of_class != Some(TlsPassthrough::Allow) {
        reject(
            faults,
            RejectionReason::OutsideClass,
            format!("spec.egress.allow[{index}].tls"),
            format!(
                "class {} does not let TLS pass unopened; remove tls, or use a class with egress.tlsPassthrough: Allow",
                class.name_any()
            ),
        );
    }
}

fn document(rule: &EgressRule, taken: &mut BTreeSet<String>) -> RuleDocument {
    let scheme = match rule.scheme {
        Some(Scheme::Http) => SchemeDocument::Http,
        Some(Scheme::Https) | None => SchemeDocument::Https,
    };
    let default_port = if scheme == SchemeDocument::Http { HTTP_PORT } else { HTTPS_PORT };
    RuleDocument {
        name: rule.name.clone().unwrap_or_else(|| free_name(rule, taken)),
        host: rule.host.clone(),
        ports: ports(rule.ports.as_ref(), default_port),
        scheme,
        methods: methods(rule.methods.as_ref()),
        paths: rule.paths.clone(),
        credential: rule.credential.clone(),
        client_certificate: rule.client_certificate.clone(),
        tls: match rule.tls {
            Some(Tls::Passthrough) => Some(TlsDocument::Passthrough),
            Some(Tls::Intercept) | None => None,
        },
        websocket: match rule.websocket {
            Some(Websocket::Allow) => Some(WebsocketDocument::Allow),
            Some(Websocket::Deny) | None => None,
        },
        limits: None,
        answer: None,
        headers: rule.headers.clone(),
    }
}

/// The credential's name, or else the host; a number makes it unique. Wildcards become a word: the name is a label of
/// metrics and audit lines, and a wildcard host has no base-URL entrance anyway.
fn free_name(rule: &EgressRule, taken: &mut BTreeSet<String>) -> String {
    let base =
        rule.credential.clone().unwrap_or_else(|| rule.host.replace("**.", "any.").replace("*.", "any."));
    let name = std::iter::once(base.clone())
        .chain((2_u32..).map(|number| format!("{base}-{number}")))
        .find(|candidate| !taken.contains(candidate))
        .unwrap_or(base);
    taken.insert(name.clone());
    name
}

pub(super) fn ports(ports: Option<&Vec<i32>>, default: u16) -> Vec<u16> {
    let mut ports: Vec<u16> = match ports {
        // The schema keeps them within 1-65535; what does not fit matches no port and allows nothing.
        Some(ports) => ports.iter().filter_map(|port| u16::try_from(*port).ok()).collect(),
        None => vec![default],
    };
    ports.sort_unstable();
    ports.dedup();
    ports
}

pub(super) fn methods(methods: Option<&Vec<Method>>) -> Option<Vec<String>> {
    methods.map(|methods| methods.iter().map(|method| method.as_str().to_owned()).collect())
}

fn carried(
    index: usize,
    carried: &Carried<'_>,
    references: &References,
    hosts: Option<&[CredentialHost]>,
    faults: &mut Vec<Rejection>,
) {
    let Carried { rule, document, slot } = carried;
    let Some(name) = slot.name(rule) else { return };
    let field = format!("spec.egress.allow[{index}].{}", slot.field());
    if document.scheme == SchemeDocument::Http {
        let message = match slot {
            Slot::Credential => {
                "a credential is never sent in plain text; remove credential, or remove scheme: Http"
            }
            Slot::Certificate => {
                "a client certificate is shown over TLS only; remove clientCertificate, or remove scheme: Http"
            }
        };
        reject(faults, RejectionReason::InvalidField, field.clone(), message);
    }
    let Some(known) = references.credentials.get(name) else {
        reject(
            faults,
            RejectionReason::CredentialNotFound,
            field,
            format!(
                "there is no AgentCredential {name} in this namespace; create it, or write the name of one that exists"
            ),
        );
        return;
    };
    if let Err(what) = slot.fits(known) {
        reject(faults, RejectionReason::InvalidField, field, format!("AgentCredential {name} {what}"));
        return;
    }
    // Of one that cannot be read, that is told already.
    let Some(hosts) = hosts else { return };
    let covered = |host: &CredentialHost| {
        let allowed = ports(host.ports.as_ref(), HTTPS_PORT);
        covers(&host.host, &rule.host) && document.ports.iter().all(|port| allowed.contains(port))
    };
    if !hosts.iter().any(covered) {
        let hosts: Vec<_> = hosts.iter().map(|host| host.host.as_str()).collect();
        reject(
            faults,
            RejectionReason::OutsideCredential,
            format!("spec.egress.allow[{index}].host"),
            format!(
                "AgentCredential {name} may go to {} only, each on its own ports (443 unless written); narrow host and ports to one of them, or ask the credential's owner",
                hosts.join(", ")
            ),
        );
    }
}

/// The file that holds a credential's value in the proxy's pod. It stands for one key of one Secret: a policy that points
/// the credential at another Secret asks for another file, which a proxy of before does not have, so that the old value
/// never goes to a new host. At most 80 bytes, within the 253 that the proxy takes, for a credential's name has at most 63.
#[must_use]
pub fn credential_file(credential: &str, key: &SecretKeyRef) -> String {
    let mut hash = Sha256::new();
    hash.update(&key.name);
    // Neither name can hold a NUL, so no two pairs are hashed alike.
    hash.update([0]);
    hash.update(&key.key);
    let hex: String =
        hash.finalize().iter().take(FILE_HASH_BYTES).map(|byte| format!("{byte:02x}")).collect();
    format!("{credential}-{hex}")
}

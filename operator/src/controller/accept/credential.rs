//! One AgentCredential as it holds: what it writes itself, and what its preset says where it writes nothing. From it come the
//! credential of the policy document, and the variables that the agent is given in the secret's place.

use agentsandbox_crds::credential::{
    AgentCredential, CredentialHost, Injection, InjectionType, PinnedHeader, PlaceholderEnv, SecretKeyRef,
};
use agentsandbox_policy::PathGlob;
use agentsandbox_policy::document::{
    CredentialDocument, InjectDocument, PinnedHeaderDocument, ScopeDocument,
};
use kube::ResourceExt;
use sha2::{Digest, Sha256};

use super::egress::{HTTPS_PORT, credential_file, methods, ports};
use super::hosts::covers;
use super::{Rejection, RejectionReason, reject};

/// Bytes of an issued placeholder before they are written in hexadecimal: 128 bits, so that no two are alike by chance.
const ISSUED_BYTES: usize = 16;
/// What the policy document takes; a shorter or longer constant is only given to the agent.
const PLACEHOLDER_BYTES: std::ops::RangeInclusive<usize> = 8..=1024;

/// An AgentCredential with its preset, complete.
pub(super) struct Credential {
    name: String,
    secret: SecretKeyRef,
    inject: Injection,
    pub(super) hosts: Vec<CredentialHost>,
    placeholders: Vec<PlaceholderEnv>,
    /// Path globs that are left out unless paths of hosts name them.
    except: Vec<String>,
    pinned: Vec<PinnedHeader>,
}

/// A variable of the agent.
pub(super) struct Variable {
    pub(super) credential: String,
    pub(super) name: String,
    pub(super) value: String,
}

impl Credential {
    /// Reads an AgentCredential; none, and a fault, when neither it nor its preset says what is needed.
    pub(super) fn of<'a>(
        credential: &'a AgentCredential,
        faults: &mut Vec<Rejection>,
    ) -> Option<(&'a str, Self)> {
        let spec = &credential.spec;
        let preset = match spec.preset.map(|preset| preset.definition()).transpose() {
            Ok(preset) => preset,
            Err(_) => {
                return refused(
                    credential,
                    "names a preset that this operator cannot read; write inject and hosts",
                    faults,
                );
            }
        };
        let of_preset = preset.as_ref();
        let inject = spec.inject.clone().or_else(|| Some(of_preset?.inject.clone()));
        let known = of_preset.map_or(&[][..], |preset| &preset.hosts);
        let own = spec.hosts.as_ref().map(|own| own.iter().flat_map(|host| inherited(host, known)).collect());
        let hosts = own.or_else(|| Some(of_preset?.hosts.clone()));
        let Some(key) = &spec.secret_ref.key else {
            return refused(credential, "names no key of its Secret; write secretRef.key", faults);
        };
        let placeholders = spec.placeholder_env.clone().or_else(|| Some(of_preset?.placeholder_env.clone()));
        let (Some(inject), Some(hosts)) = (inject, hosts) else {
            return refused(
                credential,
                "says neither preset nor both inject and hosts; write one of them",
                faults,
            );
        };
        let known = of_preset.map_or(&[][..], |preset| &preset.pinned_headers);
        let pinned = pinned(&spec.pinned_headers, known);
        let read = Self {
            pinned,
            name: credential.name_any(),
            secret: SecretKeyRef { name: spec.secret_ref.name.clone(), key: key.clone() },
            inject,
            hosts,
            placeholders: placeholders.unwrap_or_default(),
            except: preset.map(|preset| preset.except_paths).unwrap_or_default(),
        };
        Some((credential.metadata.name.as_deref().unwrap_or_default(), read))
    }

    /// The credential as the proxy knows it.
    pub(super) fn document(
        &self,
        uid: &str,
        faults: &mut Vec<Rejection>,
    ) -> Option<(CredentialDocument, SecretKeyRef)> {
        let Some(inject) = inject(&self.inject) else {
            reject(
                faults,
                RejectionReason::InvalidField,
                "spec.egress.allow",
                format!(
                    "AgentCredential {} lacks the member of inject that its type names; correct it",
                    self.name
                ),
            );
            return None;
        };
        let constant = |value: &String| self.placeholders.iter().any(|own| own.value.as_ref() == Some(value));
        let mut given: Vec<String> = self.variables(uid).map(|variable| variable.value).collect();
        given.retain(|value| PLACEHOLDER_BYTES.contains(&value.len()));
        given.sort_unstable();
        given.dedup();
        let (constants, placeholders) = given.into_iter().partition(constant);
        let document = CredentialDocument {
            name: self.name.clone(),
            file: Some(credential_file(&self.name, &self.secret)),
            placeholders,
            constants,
            inject,
            scopes: self.hosts.iter().flat_map(|host| self.scopes(host)).collect(),
            pinned_headers: self.pinned.iter().map(as_document).collect(),
        };
        Some((document, self.secret.clone()))
    }

    /// What the agent is given in the secret's place.
    pub(super) fn variables(&self, uid: &str) -> impl Iterator<Item = Variable> {
        self.placeholders.iter().map(move |variable| Variable {
            credential: self.name.clone(),
            name: variable.name.clone(),
            value: match (&variable.value, &variable.prefix) {
                (Some(constant), _) => constant.clone(),
                (None, prefix) => prefix.clone().unwrap_or_default() + &issued(uid, &self.name),
            },
        })
    }

    /// One destination: the paths that stand within what the preset leaves out are named on purpose, and have a scope of their
    /// own; from all others it stays left out.
    fn scopes(&self, host: &CredentialHost) -> Vec<ScopeDocument> {
        let scope = |paths: Option<Vec<String>>, except: &[String]| ScopeDocument {
            host: host.host.clone(),
            ports: ports(host.ports.as_ref(), HTTPS_PORT),
            methods: methods(host.methods.as_ref()),
            paths,
            except_paths: (!except.is_empty()).then(|| except.to_vec()),
        };
        let Some(paths) = host.paths.clone() else { return vec![scope(None, &self.except)] };
        let (named, others): (Vec<_>, Vec<_>) =
            paths.into_iter().partition(|path| self.except.iter().any(|except| within(except, path)));
        let named = (!named.is_empty()).then(|| scope(Some(named), &[]));
        // Where nothing is named, an empty list stays one, and is refused with the document.
        let others = (named.is_none() || !others.is_empty()).then(|| scope(Some(others), &self.except));
        others.into_iter().chain(named).collect()
    }
}

/// A host that an AgentCredential writes, with what its preset says of it where no paths are written: what is left out is a list
/// of what was known, so each path that a provider adds would be open.
fn inherited(own: &CredentialHost, preset: &[CredentialHost]) -> Vec<CredentialHost> {
    let takes_in = |known: &&CredentialHost| covers(&own.host, &known.host);
    let known: Vec<&CredentialHost> = preset.iter().filter(takes_in).collect();
    if own.paths.is_some() || known.is_empty() {
        return vec![own.clone()];
    }
    let with = |known: &CredentialHost| CredentialHost {
        methods: own.methods.clone().or_else(|| known.methods.clone()),
        paths: known.paths.clone(),
        ..own.clone()
    };
    known.into_iter().map(with).collect()
}

/// What is pinned: what an AgentCredential writes, and what its preset knows beside that.
fn pinned(own: &[PinnedHeader], preset: &[PinnedHeader]) -> Vec<PinnedHeader> {
    let is_written = |known: &&PinnedHeader| own.iter().any(|own| own.name == known.name);
    own.iter().chain(preset.iter().filter(|known| !is_written(known))).cloned().collect()
}

fn as_document(header: &PinnedHeader) -> PinnedHeaderDocument {
    PinnedHeaderDocument { name: header.name.clone(), value: header.value.clone() }
}

fn refused<T>(credential: &AgentCredential, what: &str, faults: &mut Vec<Rejection>) -> Option<T> {
    let message = format!("AgentCredential {} {what}", credential.name_any());
    reject(faults, RejectionReason::InvalidField, "spec.egress.allow", message);
    None
}

/// Whether a path that an AgentCredential writes names only what a glob leaves out.
fn within(except: &str, path: &str) -> bool {
    match (PathGlob::parse(except), PathGlob::parse(path)) {
        (Ok(except), Ok(path)) => except.covers(&path),
        _ => false,
    }
}

/// The placeholder of one credential in one sandbox. It is no secret, and need not be hard to guess: whoever has it has what
/// the agent has. It only has to be nobody else's, also after the sandbox was made anew under its old name, so it comes from
/// the UID; and it has to stay as it is, or each pass would change the pod.
fn issued(uid: &str, credential: &str) -> String {
    let mut hash = Sha256::new();
    hash.update("agentsandbox placeholder\0");
    hash.update(uid);
    // Neither can hold a NUL, so no two pairs are hashed alike.
    hash.update([0]);
    hash.update(credential);
    hash.finalize().iter().take(ISSUED_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

fn inject(injection: &Injection) -> Option<InjectDocument> {
    Some(match injection.kind {
        InjectionType::Bearer => InjectDocument::Bearer,
        InjectionType::Header => {
            let header = injection.header.as_ref()?;
            InjectDocument::Header { name: header.name.clone(), prefix: header.prefix.clone() }
        }
        InjectionType::Basic => {
            InjectDocument::Basic { username: injection.basic.as_ref()?.username.clone() }
        }
        InjectionType::Query => InjectDocument::Query { name: injection.query.as_ref()?.name.clone() },
        InjectionType::Cookie => InjectDocument::Cookie { name: injection.cookie.as_ref()?.name.clone() },
        InjectionType::PathSegment => {
            InjectDocument::PathSegment { after: injection.path_segment.as_ref()?.after.clone() }
        }
        // It is no credential of the document; see `certificate`.
        InjectionType::ClientCertificate => return None,
    })
}

#[cfg(test)]
mod tests;

//! What the requests of a rule carry: a credential in them, and a client certificate under them, on their connection.

use std::collections::{BTreeMap, BTreeSet};

use super::{Faults, file_name, name, scope};
use crate::CertificateUse;
use crate::document::{
    CREDENTIALS_MAX, ClientCertificateDocument, PolicyDocument, RuleDocument, SCOPES_MAX, SchemeDocument,
};
use crate::policy::{CertificateFiles, ClientCertificate};

/// The names that a rule may write.
pub(super) struct Carried {
    credentials: BTreeSet<String>,
    certificates: BTreeSet<String>,
}

impl Carried {
    pub(super) fn of(document: &PolicyDocument) -> Self {
        Self {
            credentials: document.credentials.iter().map(|each| each.name.clone()).collect(),
            certificates: document.client_certificates.iter().map(|each| each.name.clone()).collect(),
        }
    }

    /// Whether what a rule names is there, and may go out on it.
    pub(super) fn judge(&self, at: &str, document: &RuleDocument, faults: &mut Faults) {
        let is_plain = document.scheme == SchemeDocument::Http;
        if let Some(credential) = &document.credential {
            let field = format!("{at}.credential");
            if is_plain {
                faults.add(
                    field.clone(),
                    "a credential is never sent in plain text; write scheme: https, or remove credential",
                );
            }
            if !self.credentials.contains(credential) {
                let message = match self.certificates.contains(credential) {
                    true => "this is a client certificate; write its name in clientCertificate",
                    false => "there is no such credential; write the name of one in credentials",
                };
                faults.add(field, message);
            }
        }
        if let Some(certificate) = &document.client_certificate {
            let field = format!("{at}.clientCertificate");
            if is_plain {
                faults.add(
                    field.clone(),
                    "a client certificate is shown over TLS only; write scheme: https, or remove clientCertificate",
                );
            }
            if !self.certificates.contains(certificate) {
                let message = match self.credentials.contains(certificate) {
                    true => "this is no client certificate; write its name in credential",
                    false => {
                        "there is no such client certificate; write the name of one in clientCertificates"
                    }
                };
                faults.add(field, message);
            }
        }
    }
}

/// The client certificates of a document, by name.
pub(super) fn certificates(
    list: Vec<ClientCertificateDocument>,
    known: &Carried,
    faults: &mut Faults,
) -> BTreeMap<String, ClientCertificate> {
    faults.bound("clientCertificates", list.len(), 0, CREDENTIALS_MAX);
    faults.unique("clientCertificates", list.iter().map(|each| each.name.as_str()));
    let mut all = BTreeMap::new();
    for (index, document) in list.into_iter().enumerate() {
        let at = format!("clientCertificates[{index}]");
        name(&format!("{at}.name"), &document.name, faults);
        if known.credentials.contains(&document.name) {
            faults.add(format!("{at}.name"), "a credential has this name; write another one");
        }
        file_name(&format!("{at}.certificateFile"), &document.certificate_file, faults);
        file_name(&format!("{at}.keyFile"), &document.key_file, faults);
        faults.bound(&format!("{at}.scopes"), document.scopes.len(), 1, SCOPES_MAX);
        let scopes = document.scopes.into_iter().enumerate();
        let scopes =
            scopes.filter_map(|(n, each)| scope(&format!("{at}.scopes[{n}]"), each, faults)).collect();
        let files = CertificateFiles { certificate: document.certificate_file, key: document.key_file };
        let used = CertificateUse::new(&document.name, files);
        all.insert(document.name, ClientCertificate { used, scopes });
    }
    all
}

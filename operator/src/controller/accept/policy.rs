//! The policy document as the proxy will judge it. A document is taken whole or not at all, so one rule that the proxy does
//! not understand would silence all of them: it is found here, and told as a fault of the field that a user wrote.

use agentsandbox_crds::sandbox::AgentSandbox;
use agentsandbox_policy::Policy;
use agentsandbox_policy::document::PolicyDocument;

use super::class::LOGIN;
use super::{Rejection, RejectionReason, reject};

/// The policy, if the proxy takes the document.
pub(super) fn judge(
    sandbox: &AgentSandbox,
    class: &str,
    document: PolicyDocument,
    faults: &mut Vec<Rejection>,
) -> Option<Policy> {
    let named = Named {
        credentials: document.credentials.iter().map(|each| each.name.clone()).collect(),
        certificates: document.client_certificates.iter().map(|each| each.name.clone()).collect(),
    };
    let invalid = match Policy::try_from(document) {
        Ok(policy) => return Some(policy),
        Err(invalid) => invalid,
    };
    for fault in invalid.faults() {
        let (reason, field, message) = written(sandbox, class, &named, &fault.field, &fault.message);
        // Where a field has a fault of its own already, that one knows more of what the user meant.
        if !faults.iter().any(|known| known.field == field) {
            reject(faults, reason, field, message);
        }
    }
    None
}

/// The AgentCredentials of a document, as they stand in its lists.
struct Named {
    credentials: Vec<String>,
    certificates: Vec<String>,
}

/// Where the user wrote what stands in a field of the document.
fn written(
    sandbox: &AgentSandbox,
    class: &str,
    named: &Named,
    field: &str,
    message: &str,
) -> (RejectionReason, String, String) {
    if let Some(rest) = field.strip_prefix("rules") {
        return (RejectionReason::InvalidField, format!("spec.egress.allow{rest}"), message.to_owned());
    }
    if let Some((_, rest)) = named.find(field).filter(|(name, _)| *name == LOGIN) {
        let message = format!("class {class} has a wrong egress.upstreamProxy: {rest}: {message}");
        return (RejectionReason::ClassUnsupported, "spec.className".to_owned(), message);
    }
    if let Some((name, rest)) = named.find(field) {
        let own = rest.replace("scopes", "hosts");
        let rules = sandbox.spec.egress.iter().flat_map(|egress| &egress.allow);
        let fields = rules.into_iter().enumerate().find_map(|(index, rule)| {
            let slots = [("credential", &rule.credential), ("clientCertificate", &rule.client_certificate)];
            let (slot, _) = slots.into_iter().find(|(_, own)| own.as_deref() == Some(name))?;
            Some(format!("spec.egress.allow[{index}].{slot}"))
        });
        let field = fields.unwrap_or_else(|| "spec.egress.allow".to_owned());
        let message = format!("AgentCredential {name} cannot be used, its spec{own} is wrong: {message}");
        return (RejectionReason::InvalidField, field, message);
    }
    if matches!(field, "credentials" | "clientCertificates") {
        let message = format!("the rules name too many AgentCredentials: {message}");
        return (RejectionReason::InvalidField, "spec.egress.allow".to_owned(), message);
    }
    if field == "drainSeconds" {
        return (RejectionReason::InvalidField, "spec.egress.drainSeconds".to_owned(), message.to_owned());
    }
    let own = [
        ("addresses.allow", "egress.allowedPrivateRanges"),
        ("tracing", "tracing"),
        ("upstream.proxy", "egress.upstreamProxy"),
        ("upstream", "egress"),
    ];
    let of_class = own.iter().find_map(|(prefix, own)| Some(format!("{own}{}", field.strip_prefix(prefix)?)));
    let (reason, what) = match of_class {
        Some(what) => (RejectionReason::ClassUnsupported, format!("class {class} has a wrong {what}")),
        None => (RejectionReason::InvalidField, format!("the policy document has a wrong {field}")),
    };
    (reason, "spec.className".to_owned(), format!("{what}: {message}"))
}

impl Named {
    /// The AgentCredential that a field belongs to, and the rest of the field, which begins with a point.
    fn find<'b>(&self, field: &'b str) -> Option<(&str, &'b str)> {
        let lists = [("credentials[", &self.credentials), ("clientCertificates[", &self.certificates)];
        let (list, rest) =
            lists.into_iter().find_map(|(begin, list)| Some((list, field.strip_prefix(begin)?)))?;
        let (index, rest) = rest.split_once(']')?;
        Some((list.get(index.parse::<usize>().ok()?)?.as_str(), rest))
    }
}

//! The policy document as the proxy will judge it. A document is taken whole or not at all, so one rule that the proxy does
//! not understand would silence all of them: it is found here, and told as a fault of the field that a user wrote.

use agentsandbox_crds::sandbox::AgentSandbox;
use agentsandbox_policy::Policy;
use agentsandbox_policy::document::PolicyDocument;

use super::class::LOGIN;
use super::{Rejection, RejectionReason, reject};

pub(super) fn judge(
    sandbox: &AgentSandbox,
    class: &str,
    document: PolicyDocument,
    faults: &mut Vec<Rejection>,
) {
    let credentials: Vec<String> = document.credentials.iter().map(|each| each.name.clone()).collect();
    let Err(invalid) = Policy::try_from(document) else { return };
    for fault in invalid.faults() {
        let (reason, field, message) = written(sandbox, class, &credentials, &fault.field, &fault.message);
        // Where a field has a fault of its own already, that one knows more of what the user meant.
        if !faults.iter().any(|known| known.field == field) {
            reject(faults, reason, field, message);
        }
    }
}

/// Where the user wrote what stands in a field of the document.
fn written(
    sandbox: &AgentSandbox,
    class: &str,
    credentials: &[String],
    field: &str,
    message: &str,
) -> (RejectionReason, String, String) {
    if let Some(rest) = field.strip_prefix("rules") {
        return (RejectionReason::InvalidField, format!("spec.egress.allow{rest}"), message.to_owned());
    }
    if let Some((_, rest)) = credential(credentials, field).filter(|(name, _)| *name == LOGIN) {
        let message = format!("class {class} has a wrong egress.upstreamProxy: {rest}: {message}");
        return (RejectionReason::ClassUnsupported, "spec.className".to_owned(), message);
    }
    if let Some((name, rest)) = credential(credentials, field) {
        let own = rest.replace("scopes", "hosts");
        let rules = sandbox.spec.egress.iter().flat_map(|egress| &egress.allow);
        let rule = rules.into_iter().position(|rule| rule.credential.as_deref() == Some(name));
        let field = rule
            .map_or("spec.egress.allow".to_owned(), |index| format!("spec.egress.allow[{index}].credential"));
        let message = format!("AgentCredential {name} cannot be used, its spec{own} is wrong: {message}");
        return (RejectionReason::InvalidField, field, message);
    }
    if field == "credentials" {
        let message = format!("the rules name too many AgentCredentials: {message}");
        return (RejectionReason::InvalidField, "spec.egress.allow".to_owned(), message);
    }
    let own = [
        ("addresses.allow", "egress.allowedPrivateRanges"),
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

/// The credential that a field belongs to, and the rest of the field, which begins with a point.
fn credential<'a, 'b>(credentials: &'a [String], field: &'b str) -> Option<(&'a str, &'b str)> {
    let (index, rest) = field.strip_prefix("credentials[")?.split_once(']')?;
    Some((credentials.get(index.parse::<usize>().ok()?)?.as_str(), rest))
}

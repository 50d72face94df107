//! What a sandbox names, and is woken by: its template, and the AgentCredentials of its rules.

use agentsandbox_crds::AgentSandbox;
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};

use super::select;

/// Whom an object wakes that sandboxes of its namespace name.
pub(super) fn naming<K: ResourceExt>(
    sandboxes: &Store<AgentSandbox>,
    names: fn(&AgentSandbox, &str) -> bool,
) -> impl Fn(K) -> Vec<ObjectRef<AgentSandbox>> + use<K> {
    let sandboxes = sandboxes.clone();
    move |named| {
        let (namespace, name) = (named.namespace(), named.name_any());
        select(&sandboxes, |sandbox| sandbox.namespace() == namespace && names(sandbox, &name))
    }
}

/// Whether a sandbox has this template.
pub(super) fn names_template(sandbox: &AgentSandbox, name: &str) -> bool {
    sandbox.spec.template_ref.as_ref().is_some_and(|reference| reference.name == name)
}

/// Whether a sandbox names a credential, or has a template, which may.
pub(super) fn names_credential(sandbox: &AgentSandbox, name: &str) -> bool {
    if sandbox.spec.template_ref.is_some() {
        return true;
    }
    let rules = sandbox.spec.egress.iter().flat_map(|egress| &egress.allow);
    rules
        .into_iter()
        .flat_map(|rule| [&rule.credential, &rule.client_certificate])
        .any(|named| named.as_deref() == Some(name))
}

#[cfg(test)]
mod tests {
    use agentsandbox_crds::template::TemplateRef;
    use serde_json::{Value, json};

    use super::*;
    use crate::fixtures::sandbox;

    #[test]
    fn a_sandbox_is_woken_by_each_credential_that_a_rule_of_it_names_in_either_field() {
        let named = |rule: Value| {
            sandbox(|s| s.spec.egress = Some(serde_json::from_value(json!({"allow": [rule]})).unwrap()))
        };
        let both = named(json!({"host": "a.example.com", "credential": "key", "clientCertificate": "mtls"}));
        assert!(names_credential(&both, "key") && names_credential(&both, "mtls"));
        assert!(!names_credential(&both, "other"));
        assert!(!names_credential(&named(json!({"host": "a.example.com"})), "mtls"));
    }

    #[test]
    fn a_sandbox_is_woken_by_its_template_and_by_each_credential_that_this_may_name() {
        let of_template = sandbox(|s| s.spec.template_ref = Some(TemplateRef { name: "jobs".to_owned() }));
        assert!(names_template(&of_template, "jobs") && names_credential(&of_template, "other"));
        assert!(!names_template(&of_template, "other") && !names_template(&sandbox(|_| ()), "jobs"));
    }
}

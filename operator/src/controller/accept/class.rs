//! The class of a sandbox. A sandbox keeps the class it has: another default, or none, never moves a running agent to
//! another isolation.

use std::collections::BTreeSet;

use agentsandbox_crds::class::{AgentSandboxClass, ClassUpstreamProxy, Isolation, SidecarPlacement};
use agentsandbox_crds::credential::SecretKeyRef;
use agentsandbox_crds::names::ANNOTATION_DEFAULT_CLASS;
use agentsandbox_crds::sandbox::AgentSandbox;
use agentsandbox_policy::document::{
    CredentialDocument, InjectDocument, ScopeDocument, UpstreamProxyDocument,
};
use agentsandbox_policy::parse_authority;
use ipnet::Ipv4Net;
use kube::ResourceExt;

use super::egress::credential_file;
use super::{ClassInForce, References, Rejection, RejectionReason, reject};
use crate::platform::METADATA_ADDRESSES;

/// The class that the spec names; else the one that the sandbox has had so far; else the default.
pub(super) fn class<'a>(
    sandbox: &AgentSandbox,
    references: &'a References,
    faults: &mut Vec<Rejection>,
) -> Option<&'a AgentSandboxClass> {
    let known = references.classes.iter().map(|c| c.name_any()).collect::<BTreeSet<_>>();
    let known = if known.is_empty() { "none".to_owned() } else { Vec::from_iter(known).join(", ") };
    let mut not_found = |message| reject(faults, RejectionReason::ClassNotFound, "spec.className", message);
    if let Some(name) = &sandbox.spec.class_name {
        let found = find(references, name);
        if found.is_none() {
            not_found(format!(
                "there is no AgentSandboxClass {name}; write one that exists ({known}), or ask the platform's administrator for it"
            ));
        }
        return found;
    }
    if let Some(name) = so_far(sandbox) {
        let found = find(references, name);
        if found.is_none() {
            not_found(format!(
                "the sandbox has run under AgentSandboxClass {name}, which does not exist any more, and is not moved to another isolation unasked; write className with one that exists ({known})"
            ));
        }
        return found;
    }
    let defaults: Vec<_> = references.classes.iter().filter(|class| is_default(class)).collect();
    if let [only] = defaults.as_slice() {
        return Some(only);
    }
    not_found(format!(
        "{} AgentSandboxClasses are annotated {ANNOTATION_DEFAULT_CLASS}: \"true\", so there is no default; write className ({known})",
        defaults.len()
    ));
    None
}

/// What status says of the class while the sandbox is not accepted: the class that it would have, or else the one that it
/// has had, which must not be forgotten.
#[must_use]
pub fn class_to_keep(sandbox: &AgentSandbox, references: &References) -> Option<String> {
    let found = class(sandbox, references, &mut Vec::new()).map(ResourceExt::name_any);
    found.or_else(|| so_far(sandbox).map(str::to_owned))
}

fn so_far(sandbox: &AgentSandbox) -> Option<&str> {
    sandbox.status.as_ref()?.class_name.as_deref()
}

fn find<'a>(references: &'a References, name: &str) -> Option<&'a AgentSandboxClass> {
    references.classes.iter().find(|class| class.name_any() == name).map(AsRef::as_ref)
}

/// Whether a class serves sandboxes that name none.
fn is_default(class: &AgentSandboxClass) -> bool {
    class.annotations().get(ANNOTATION_DEFAULT_CLASS).is_some_and(|value| value == "true")
}

pub(super) fn in_force(
    class: &AgentSandboxClass,
    references: &References,
    faults: &mut Vec<Rejection>,
) -> ClassInForce {
    let name = class.name_any();
    if class.spec.sidecar_placement == SidecarPlacement::Container {
        reject(
            faults,
            RejectionReason::ClassUnsupported,
            "spec.className",
            format!(
                "class {name} places the sidecar in the agent's pod (sidecarPlacement: Container), which is not served yet; use a class with sidecarPlacement: Pod, where agentNetwork: None leaves the agent no network and the keys a pod of their own"
            ),
        );
    }
    match (&class.spec.runtime_class_name, class.spec.isolation) {
        (None, Isolation::GVisor | Isolation::Kata) => reject(
            faults,
            RejectionReason::ClassUnsupported,
            "spec.className",
            format!("class {name} names no RuntimeClass; its administrator must write runtimeClassName"),
        ),
        (Some(runtime), _) if !references.runtime_classes.contains(runtime) => {
            reject(
                faults,
                RejectionReason::RuntimeUnavailable,
                "spec.className",
                format!(
                    "class {name} needs the RuntimeClass {runtime}, which does not exist; install that runtime on the nodes and create its RuntimeClass, or use another class"
                ),
            );
        }
        _ => {}
    }
    let egress = class.spec.egress.clone().unwrap_or_default();
    let mut private_ranges = Vec::new();
    for range in &egress.allowed_private_ranges {
        match range.parse::<Ipv4Net>() {
            Ok(net) if !METADATA_ADDRESSES.iter().any(|address| net == Ipv4Net::from(*address)) => {
                private_ranges.push(net.trunc());
            }
            _ => reject(
                faults,
                RejectionReason::ClassUnsupported,
                "spec.className",
                format!(
                    "class {name} allows the private range {range}, which is no IPv4 CIDR or a metadata address; its administrator must correct egress.allowedPrivateRanges"
                ),
            ),
        }
    }
    login_by_name(&name, egress.upstream_proxy.as_ref(), faults);
    ClassInForce {
        name,
        isolation: class.spec.isolation,
        runtime_class: class.spec.runtime_class_name.clone(),
        scheduling: class.spec.scheduling.clone().unwrap_or_default(),
        allowed_hosts: egress.allowed_hosts,
        private_ranges,
        additional_roots: egress.additional_roots,
        upstream_proxy: egress.upstream_proxy.map(|proxy| UpstreamProxyDocument {
            url: proxy.url,
            credential: proxy.login.is_some().then(|| LOGIN.to_owned()),
        }),
        // Judged with the rules.
        tracing: None,
        drain_seconds: None,
    }
}

/// A login goes to a proxy that is named. The CRD has this rule as well; a class that is given by a file has passed no CRD.
fn login_by_name(name: &str, proxy: Option<&ClassUpstreamProxy>, faults: &mut Vec<Rejection>) {
    if let Some(proxy) = proxy.filter(|proxy| proxy.login.is_some() && is_addressed(&proxy.url)) {
        reject(
            faults,
            RejectionReason::ClassUnsupported,
            "spec.className",
            format!(
                "class {name} gives a login to a proxy by its address ({}); its administrator must write a DNS name in egress.upstreamProxy.url",
                proxy.url
            ),
        );
    }
}

/// Stands in for a port that is missing, which is told of by itself.
const PORT_ANY: u16 = 1;

/// Whether the host of a URL is an address, in any notation. What is no URL of a proxy at all is refused with the policy.
fn is_addressed(url: &str) -> bool {
    let host = url.split_once("://").map(|(_, authority)| parse_authority(authority, Some(PORT_ANY)));
    host.is_some_and(|host| host.is_ok_and(|(host, _)| host.address().is_some()))
}

/// Name of the login at the class's upstream proxy, among a sandbox's credentials. No AgentCredential that a rule names has a
/// point in its name, so none is mistaken for it.
pub(super) const LOGIN: &str = "upstream.proxy";

/// The login at the class's upstream proxy, for that proxy alone.
pub(super) fn login(class: &AgentSandboxClass) -> Option<(CredentialDocument, SecretKeyRef)> {
    let proxy = class.spec.egress.as_ref()?.upstream_proxy.as_ref()?;
    let login = proxy.login.as_ref()?;
    let (_, authority) = proxy.url.split_once("://")?;
    let (host, port) = authority.rsplit_once(':')?;
    let document = CredentialDocument {
        name: LOGIN.to_owned(),
        file: Some(credential_file(LOGIN, &login.secret_ref)),
        placeholders: Vec::new(),
        constants: Vec::new(),
        inject: InjectDocument::Basic { username: login.username.clone() },
        scopes: vec![ScopeDocument {
            host: host.to_owned(),
            ports: vec![port.parse().ok()?],
            methods: None,
            paths: None,
            except_paths: None,
        }],
        pinned_headers: Vec::new(),
    };
    Some((document, login.secret_ref.clone()))
}

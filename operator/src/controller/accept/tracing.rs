//! The collector that a class names. What is wrong with it is told before anything of it is written: a wall that the API server
//! refuses is no wall.

use agentsandbox_crds::class::{AgentSandboxClass, ClassTracing, CollectorPods};
use agentsandbox_policy::Host;
use kube::ResourceExt;

use super::{Rejection, RejectionReason, reject};

/// Names that Services have where the cluster's domain is the usual one.
const CLUSTER_SUFFIXES: [&str; 2] = [".svc", ".cluster.local"];
const LABEL_WORD_BYTES_MAX: usize = 63;
const LABEL_PREFIX_BYTES_MAX: usize = 253;

/// The collector of a sandbox. One that is named and outside the cluster can be wherever upstreams can, so a sandbox that has none
/// sends it nothing, and its wall stays closed.
pub(super) fn tracing(
    class: &AgentSandboxClass,
    has_rules: bool,
    faults: &mut Vec<Rejection>,
) -> Option<ClassTracing> {
    let tracing = class.spec.tracing.as_ref()?;
    let mut wrong = |field: &str, message: &str| {
        let message = format!("class {} has a wrong tracing.{field}: {message}", class.name_any());
        reject(faults, RejectionReason::ClassUnsupported, "spec.className", message);
    };
    if let Some(pods) = &tracing.pods {
        if let Err((field, message)) = selects(pods) {
            wrong(field, message);
        }
        return Some(tracing.clone());
    }
    let Some(host) = name(&tracing.endpoint) else { return Some(tracing.clone()) };
    if CLUSTER_SUFFIXES.iter().any(|suffix| host.as_str().ends_with(suffix)) {
        wrong("endpoint", "it names a Service of the cluster; write its pods in tracing.pods");
    } else if class.spec.egress.as_ref().is_some_and(|egress| egress.upstream_proxy.is_some()) {
        let message = "with egress.upstreamProxy there is no way around that proxy, and what is named can be anywhere; write the collector's IPv4 address, or tracing.pods";
        wrong("endpoint", message);
    } else if !has_rules {
        return None;
    }
    Some(tracing.clone())
}

/// The host of an endpoint, if it is a name.
fn name(endpoint: &str) -> Option<Host> {
    let (_, authority) = endpoint.split_once("://")?;
    let (host, _) = authority.rsplit_once(':')?;
    Host::parse(host).ok().filter(|host| host.address().is_none())
}

/// Whether these pods can be selected, and not all of their namespace.
fn selects(pods: &CollectorPods) -> Result<(), (&'static str, &'static str)> {
    if pods.namespace.len() > LABEL_WORD_BYTES_MAX || !is_subdomain(&pods.namespace) {
        return Err(("pods.namespace", "write the name of a namespace"));
    }
    if pods.labels.is_empty() {
        return Err((
            "pods.labels",
            "without a label it would open every pod of the namespace; write at least one",
        ));
    }
    if !pods.labels.iter().all(|(key, value)| is_key(key) && (value.is_empty() || is_word(value))) {
        return Err((
            "pods.labels",
            "write labels as Kubernetes takes them: letters, digits, -, _ and ., at most 63, with a letter or digit first and last; a key may begin with a DNS name and a /",
        ));
    }
    Ok(())
}

fn is_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, word)) => {
            prefix.len() <= LABEL_PREFIX_BYTES_MAX && is_subdomain(prefix) && is_word(word)
        }
        None => is_word(key),
    }
}

fn is_word(word: &str) -> bool {
    let is_edge = |edge: char| edge.is_ascii_alphanumeric();
    word.len() <= LABEL_WORD_BYTES_MAX
        && word.starts_with(is_edge)
        && word.ends_with(is_edge)
        && word.chars().all(|each| is_edge(each) || matches!(each, '-' | '_' | '.'))
}

fn is_subdomain(name: &str) -> bool {
    let is_edge = |edge: char| edge.is_ascii_lowercase() || edge.is_ascii_digit();
    name.split('.').all(|part| {
        part.starts_with(is_edge)
            && part.ends_with(is_edge)
            && part.chars().all(|each| is_edge(each) || each == '-')
    })
}

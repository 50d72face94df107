//! What was seen, judged. Pure: it asks nobody, and takes the time as a fact.

use std::collections::BTreeMap;

use agentsandbox_crds::class::Isolation;
use agentsandbox_crds::names::ANNOTATION_DEFAULT_CLASS;
use agentsandbox_crds::{AgentSandbox, AgentSandboxClass, schema};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::{Line, admission};
use proofs::{kernels, walls};

mod proofs;

/// What was asked for, or why it is not known.
pub type Seen<T> = Result<T, String>;

/// The oldest Kubernetes that docs/install.md promises anything on.
const MINOR_MIN: u32 = 34;
/// What the chart puts on the operator's Deployment.
pub const OPERATOR_LABELS: &str = "app.kubernetes.io/name=agentsandbox,app.kubernetes.io/component=operator";
/// The ConfigMap with the text of the admission policies, and its key.
pub const ADMISSION: &str = "agentsandbox-admission";
const ADMISSION_KEY: &str = "admission.yaml";
const LABEL_VERSION: &str = "app.kubernetes.io/version";
const LABEL_ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const LABEL_ENFORCE_VERSION: &str = "pod-security.kubernetes.io/enforce-version";
/// An operator with this argument serves one namespace.
const WATCH_NAMESPACE: &str = "--watch-namespace";
/// This program's own version, which is that of the chart it knows.
const OWN_VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the API server showed.
pub struct Facts {
    /// The time.
    pub now: Timestamp,
    /// The namespace that is asked about.
    pub namespace_name: String,
    /// Major and minor version of the API server, as it writes them.
    pub version: Seen<(String, String)>,
    /// All CRDs.
    pub crds: Seen<Vec<CustomResourceDefinition>>,
    /// Deployments with the labels of the operator's.
    pub deployments: Seen<Vec<Deployment>>,
    /// What the admission policies are to be.
    pub admission: Seen<Option<ConfigMap>>,
    /// The operator's namespace.
    pub operator_namespace: Seen<Option<Namespace>>,
    /// The namespace that is asked about.
    pub namespace: Seen<Option<Namespace>>,
    /// All classes.
    pub classes: Seen<Vec<AgentSandboxClass>>,
    /// All RuntimeClasses.
    pub runtime_classes: Seen<Vec<RuntimeClass>>,
    /// All admission policies.
    pub policies: Seen<Vec<ValidatingAdmissionPolicy>>,
    /// All bindings of them.
    pub bindings: Seen<Vec<ValidatingAdmissionPolicyBinding>>,
    /// Sandboxes, of the cluster or of the namespace.
    pub sandboxes: Seen<Vec<AgentSandbox>>,
    /// Whether those of other namespaces are not shown.
    pub is_partial: bool,
}

/// Every line, from the ground up.
#[must_use]
pub fn all(facts: &Facts) -> Vec<Line> {
    let mut lines = vec![version(facts)];
    lines.extend(crds(facts));
    lines.push(operator(facts));
    lines.push(operator_version(facts));
    lines.push(pod_security("pod security of the operator's namespace", &facts.operator_namespace));
    let own = format!("pod security of namespace {}", facts.namespace_name);
    lines.push(pod_security(&own, &facts.namespace));
    lines.push(admission(facts));
    lines.extend(classes(facts));
    lines.push(default_class(facts));
    lines.push(walls(facts));
    lines.extend(kernels(facts));
    lines
}

/// Why something is unknown, and what to do about that.
fn unseen(check: impl Into<String>, why: &str) -> Line {
    Line::unknown(check, why, "Ask as somebody who may see it: `kubectl auth whoami` says who you are.")
}

fn version(facts: &Facts) -> Line {
    const CHECK: &str = "API server";
    let (major, minor) = match &facts.version {
        Ok(version) => version,
        Err(why) => return unseen(CHECK, why),
    };
    // Providers write such as "34+".
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    let found = format!("Kubernetes {major}.{minor}");
    match (major.parse::<u32>(), digits.parse::<u32>()) {
        (Ok(1), Ok(minor)) if minor < MINOR_MIN => Line::failed(
            CHECK,
            found,
            format!(
                "Upgrade the cluster to Kubernetes 1.{MINOR_MIN} or newer; docs/install.md says what is needed."
            ),
        ),
        (Ok(1), Ok(_)) => Line::ok(CHECK, found),
        _ => Line::unknown(CHECK, found, "Ask the provider which version of Kubernetes this is."),
    }
}

fn crds(facts: &Facts) -> Vec<Line> {
    const REMEDY: &str =
        "Run `helm show crds charts/agentsandbox | kubectl apply --server-side --force-conflicts -f -`.";
    let live = match &facts.crds {
        Ok(live) => live,
        Err(why) => return vec![unseen("CRDs", why)],
    };
    let rendered = match schema::all() {
        Ok(rendered) => rendered,
        Err(error) => {
            return vec![Line::unknown(
                "CRDs",
                error.to_string(),
                "Report this: it is a fault of this program.",
            )];
        }
    };
    let line = |wanted: &schema::Rendered| {
        let check = format!("CRD {}", wanted.name);
        let Some(found) = live.iter().find(|crd| crd.name_any() == wanted.name) else {
            return Line::failed(check, "it is missing", REMEDY);
        };
        if found.metadata.deletion_timestamp.is_some() {
            return Line::failed(check, "it is being deleted, and all its objects with it", REMEDY);
        }
        let conditions = found.status.iter().flat_map(|status| status.conditions.iter().flatten());
        if !conditions.into_iter().any(|one| one.type_ == "Established" && one.status == "True") {
            return Line::failed(check, "it is not served", "See why with `kubectl describe crd`.");
        }
        // Read as what it is, so that both are written alike.
        let ours = serde_json::from_value::<CustomResourceDefinition>(wanted.manifest.clone());
        match ours {
            Ok(ours) if content(&ours) == content(found) => Line::ok(check, format!("that of {OWN_VERSION}")),
            Ok(_) => Line::failed(
                check,
                format!("it is of another version than this program, which is {OWN_VERSION}"),
                format!("{REMEDY} If the operator is newer, take the program of its version."),
            ),
            Err(error) => {
                Line::unknown(check, error.to_string(), "Report this: it is a fault of this program.")
            }
        }
    };
    rendered.iter().map(line).collect()
}

/// What a CRD says of its objects, as far as promises rest on it. Without the subresource, whoever may write a sandbox would write
/// its status.
fn content(crd: &CustomResourceDefinition) -> Value {
    let conversion = crd.spec.conversion.as_ref().map_or("None", |conversion| conversion.strategy.as_str());
    let versions = crd.spec.versions.iter().filter(|version| version.served || version.storage);
    let versions: BTreeMap<&str, Value> = versions
        .map(|version| {
            let said = json!({"schema": version.schema, "subresources": version.subresources,
                "served": version.served, "storage": version.storage});
            (version.name.as_str(), said)
        })
        .collect();
    let names = &crd.spec.names;
    json!({"group": crd.spec.group, "scope": crd.spec.scope, "kind": names.kind, "plural": names.plural,
        "conversion": conversion, "versions": versions})
}

/// The namespace that an operator serves alone.
fn watched(deployment: &Deployment) -> Option<&str> {
    let pod = deployment.spec.as_ref()?.template.spec.as_ref()?;
    let mut arguments = pod.containers.iter().flat_map(|container| container.args.iter().flatten());
    let after = arguments.find_map(|argument| argument.strip_prefix(WATCH_NAMESPACE))?;
    // In one argument or in two.
    after.strip_prefix('=').or_else(|| arguments.next().map(String::as_str))
}

/// The operator that serves a namespace: one of its own, or else the cluster's.
///
/// # Errors
/// A clause where there is none, or more than one.
pub fn operator_of<'a>(deployments: &'a [Deployment], namespace: &str) -> Result<&'a Deployment, String> {
    let serving = |of: Option<&str>| -> Vec<&Deployment> {
        deployments.iter().filter(|deployment| watched(deployment) == of).collect()
    };
    let (own, general) = (serving(Some(namespace)), serving(None));
    match (own.as_slice(), general.as_slice()) {
        ([only], []) | ([], [only]) => Ok(only),
        ([], []) => Err(format!("no operator serves namespace {namespace}")),
        _ => Err(format!("{} operators serve namespace {namespace}", own.len() + general.len())),
    }
}

fn operator(facts: &Facts) -> Line {
    const CHECK: &str = "operator";
    let all = match &facts.deployments {
        Ok(all) => all,
        Err(why) => return unseen(CHECK, why),
    };
    let found = match operator_of(all, &facts.namespace_name) {
        Ok(found) => found,
        Err(why) => {
            return Line::failed(CHECK, why, "Install the chart once; docs/install.md says how.");
        }
    };
    let place = format!("Deployment {}/{}", found.namespace().unwrap_or_default(), found.name_any());
    let conditions = found.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let available = conditions.into_iter().find(|condition| condition.type_ == "Available");
    let replicas = found.status.as_ref().and_then(|status| status.available_replicas);
    if found.metadata.deletion_timestamp.is_some() {
        return Line::failed(CHECK, format!("{place} is being deleted"), "Install the chart again.");
    }
    let observed = found.status.as_ref().and_then(|status| status.observed_generation);
    if observed != found.metadata.generation {
        let found = format!("{place} was changed, and what it tells is of before");
        return Line::unknown(CHECK, found, "Ask again in a minute.");
    }
    let wanted = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    match available.map(|condition| condition.status.as_str()) {
        // One that is to have no pod has all that it is to have.
        Some("True") if wanted < 1 || replicas.is_none_or(|replicas| replicas < 1) => Line::failed(
            CHECK,
            format!("{place} has no replica, so nobody makes sandboxes and nobody watches their walls"),
            "Run helm upgrade with the values of this release, which say how many there are to be.",
        ),
        Some("True") => Line::ok(CHECK, format!("{place} is available")),
        Some("False") => Line::failed(
            CHECK,
            format!("{place} is not available"),
            format!(
                "See why with `kubectl --namespace {} describe deployment {}` and the logs of its pods.",
                found.namespace().unwrap_or_default(),
                found.name_any()
            ),
        ),
        _ => Line::unknown(
            CHECK,
            format!("{place} does not say whether it is available"),
            "Ask again in a minute.",
        ),
    }
}

fn operator_version(facts: &Facts) -> Line {
    const CHECK: &str = "operator's version";
    let all = match &facts.deployments {
        Ok(all) => all,
        Err(why) => return unseen(CHECK, why),
    };
    let found = match operator_of(all, &facts.namespace_name) {
        Ok(found) => found,
        Err(why) => return Line::unknown(CHECK, why, "Install the operator first."),
    };
    match found.labels().get(LABEL_VERSION).map(String::as_str) {
        Some(OWN_VERSION) => Line::ok(CHECK, OWN_VERSION),
        Some(other) => Line::unknown(
            CHECK,
            format!("it is of {other}, and this program of {OWN_VERSION}"),
            "Take the program of the operator's version: this one does not know what that one promises.",
        ),
        None => Line::unknown(
            CHECK,
            format!("the Deployment has no label {LABEL_VERSION}"),
            "Install the operator by the chart.",
        ),
    }
}

fn pod_security(check: &str, namespace: &Seen<Option<Namespace>>) -> Line {
    let namespace = match namespace {
        Ok(Some(namespace)) => namespace,
        Ok(None) => {
            return Line::failed(
                check,
                "there is no such namespace",
                "Create it, or choose with --namespace.",
            );
        }
        Err(why) => return unseen(check, why),
    };
    let name = namespace.name_any();
    if namespace.metadata.deletion_timestamp.is_some() {
        return Line::failed(check, format!("{name} is being deleted"), "Choose another with --namespace.");
    }
    let version = namespace.labels().get(LABEL_ENFORCE_VERSION).map_or("latest", String::as_str);
    if !is_recent_enough(version) {
        return Line::failed(
            check,
            format!("{name} enforces what Kubernetes {version} understood by it"),
            format!("Run `kubectl label namespace {name} {LABEL_ENFORCE_VERSION}-`."),
        );
    }
    match namespace.labels().get(LABEL_ENFORCE).map(String::as_str) {
        Some("restricted") => Line::ok(check, format!("{name} enforces restricted")),
        level => Line::failed(
            check,
            level.map_or_else(
                || format!("{name} enforces nothing"),
                |level| format!("{name} enforces {level}"),
            ),
            format!("Run `kubectl label namespace {name} {LABEL_ENFORCE}=restricted --overwrite`."),
        ),
    }
}

/// Whether a level of pod security of this version asks for all that sandboxes rest on.
fn is_recent_enough(version: &str) -> bool {
    let minor = version.strip_prefix("v1.").and_then(|minor| minor.parse::<u32>().ok());
    version == "latest" || minor.is_some_and(|minor| minor >= MINOR_MIN)
}

fn admission(facts: &Facts) -> Line {
    const CHECK: &str = "admission policies";
    let (config_map, policies, bindings) = match (&facts.admission, &facts.policies, &facts.bindings) {
        (Ok(config_map), Ok(policies), Ok(bindings)) => (config_map, policies, bindings),
        (Err(why), ..) | (_, Err(why), _) | (.., Err(why)) => return unseen(CHECK, why),
    };
    let text = config_map.as_ref().and_then(|map| map.data.as_ref()).and_then(|data| data.get(ADMISSION_KEY));
    let Some(text) = text else {
        return Line::unknown(
            CHECK,
            format!("there is no ConfigMap {ADMISSION} beside the operator that says what is to be in force"),
            "An operator of one namespace has none: whoever may write ConfigMaps in that namespace can change what proxies obey, so let nobody. Otherwise run helm upgrade.",
        );
    };
    let expected = match admission::expected(text) {
        Ok(expected) => expected,
        Err(why) => {
            return Line::failed(
                CHECK,
                format!("ConfigMap {ADMISSION}: {why}"),
                "Run helm upgrade with the values of this release.",
            );
        }
    };
    let faults = admission::faults(&expected, &admission::live(policies, bindings));
    if faults.is_empty() {
        return Line::ok(CHECK, format!("all {} objects are as the chart installed them", expected.len()));
    }
    Line::failed(
        CHECK,
        faults.join(", "),
        "Run helm upgrade with the values of this release, and find in the audit log who changed it.",
    )
}

/// The classes that count in the namespace, or why they are not known.
fn counting<'a>(facts: &'a Facts, check: &str) -> Result<&'a [AgentSandboxClass], Line> {
    let operator =
        facts.deployments.as_ref().ok().and_then(|all| operator_of(all, &facts.namespace_name).ok());
    if operator.is_some_and(|operator| watched(operator).is_some()) {
        return Err(Line::unknown(
            check,
            "an operator of one namespace reads its classes from ConfigMap agentsandbox-classes, which is not looked at here",
            "See there whether each class names a RuntimeClass that exists, and start a sandbox of each.",
        ));
    }
    facts.classes.as_deref().map_err(|why| unseen(check, why))
}

fn is_default(class: &AgentSandboxClass) -> bool {
    class.annotations().get(ANNOTATION_DEFAULT_CLASS).is_some_and(|value| value == "true")
}

/// Whether the class could be left out: nobody is given it unasked, and no sandbox that is seen asks for it.
fn is_idle(class: &AgentSandboxClass, sandboxes: &[AgentSandbox]) -> bool {
    let name = Some(class.name_any());
    let uses = |sandbox: &AgentSandbox| {
        sandbox.spec.class_name == name
            || sandbox.status.as_ref().is_some_and(|status| status.class_name == name)
    };
    !is_default(class) && !sandboxes.iter().any(uses)
}

fn classes(facts: &Facts) -> Vec<Line> {
    let classes = match counting(facts, "classes") {
        Ok(classes) => classes,
        Err(line) => return vec![line],
    };
    if classes.is_empty() {
        return vec![Line::failed(
            "classes",
            "there is none, so no sandbox is accepted",
            "Set classes.gvisor.install in the chart's values, or write an AgentSandboxClass.",
        )];
    }
    let runtimes = match &facts.runtime_classes {
        Ok(runtimes) => runtimes,
        Err(why) => return vec![unseen("RuntimeClasses of the classes", why)],
    };
    classes.iter().map(|class| class_line(class, runtimes, facts)).collect()
}

fn class_line(class: &AgentSandboxClass, runtimes: &[RuntimeClass], facts: &Facts) -> Line {
    let check = format!("class {}", class.name_any());
    let isolation = class.spec.isolation;
    let Some(name) = &class.spec.runtime_class_name else {
        return match isolation {
            Isolation::Container => Line::ok(check, "Container, by the nodes' own runtime"),
            Isolation::GVisor | Isolation::Kata => {
                Line::failed(check, "it names no RuntimeClass", "Write runtimeClassName in the class.")
            }
        };
    };
    let Some(runtime) = runtimes.iter().find(|runtime| runtime.name_any() == *name) else {
        return without_runtime(class, name, facts);
    };
    let handler = runtime.handler.as_str();
    let found = format!("{isolation:?}, by RuntimeClass {name} with handler {handler}");
    let is_plain = matches!(handler, "runc" | "crun" | "youki");
    // GKE calls the handler of its own gVisor so.
    let is_expected = match isolation {
        Isolation::GVisor => handler.starts_with("runsc") || handler == "gvisor",
        Isolation::Kata => handler.starts_with("kata"),
        Isolation::Container => is_plain,
    };
    if is_expected {
        Line::ok(check, found)
    } else if is_plain {
        Line::failed(
            check,
            found,
            format!(
                "That handler gives no {isolation:?}: correct the handler of RuntimeClass {name}, such as runsc for gVisor."
            ),
        )
    } else {
        Line::unknown(
            check,
            found,
            "This program does not know that handler. Start a sandbox of the class: it says RuntimeVerified=True only if the kernel is the promised one.",
        )
    }
}

/// A class whose RuntimeClass is missing. The chart installs more classes than most clusters have runtimes for.
fn without_runtime(class: &AgentSandboxClass, runtime: &str, facts: &Facts) -> Line {
    let check = format!("class {}", class.name_any());
    let remedy = format!(
        "Install that runtime on the nodes and create the RuntimeClass {runtime}, as docs/install.md says, or leave the class out: the chart's value classes.{}.install.",
        class.name_any()
    );
    let missing = format!("its RuntimeClass {runtime} does not exist");
    match &facts.sandboxes {
        Ok(sandboxes) if is_idle(class, sandboxes) && facts.is_partial => Line::unknown(
            check,
            format!("not available: {missing}; whether a sandbox of another namespace uses it is not seen"),
            remedy,
        ),
        Ok(sandboxes) if is_idle(class, sandboxes) => Line::ok(
            check,
            format!("not available: {missing}; it is not the default, and no sandbox uses it"),
        ),
        _ => Line::failed(check, missing, remedy),
    }
}

fn default_class(facts: &Facts) -> Line {
    const CHECK: &str = "default class";
    let classes = match counting(facts, CHECK) {
        Ok(classes) => classes,
        Err(line) => return line,
    };
    let defaults: Vec<String> =
        classes.iter().filter(|class| is_default(class)).map(ResourceExt::name_any).collect();
    match defaults.as_slice() {
        [] => Line::ok(CHECK, "there is none: each sandbox names its className"),
        [only] => Line::ok(CHECK, only),
        several => Line::failed(
            CHECK,
            format!("there are {}, so none counts: {}", several.len(), several.join(", ")),
            format!("Take the annotation {ANNOTATION_DEFAULT_CLASS} from all but one."),
        ),
    }
}

#[cfg(test)]
mod tests;

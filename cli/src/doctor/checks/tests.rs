use serde::de::DeserializeOwned;
use serde_json::json;

use super::*;
use crate::doctor::{Verdict, verdict};

mod proving;

const ADMISSION_TEXT: &str = "---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: agentsandbox-children}
spec:
  failurePolicy: Fail
  matchConstraints: {matchPolicy: Equivalent, namespaceSelector: {}, objectSelector: {}}
  validations: [{expression: 'false', message: no}]
---
# The binding.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: agentsandbox-children}
spec: {policyName: agentsandbox-children, validationActions: [Deny]}
";

const NOW: &str = "2026-06-01T12:00:00Z";

fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// The CRDs as a cluster shows them.
fn live_crds() -> Vec<CustomResourceDefinition> {
    let established = json!({"conditions": [{"type": "Established", "status": "True", "reason": "InitialNamesAccepted",
        "message": "", "lastTransitionTime": NOW}], "acceptedNames": {"plural": "x", "kind": "X"}, "storedVersions": ["v1alpha1"]});
    let shown = |rendered: schema::Rendered| {
        let mut manifest = rendered.manifest;
        manifest["status"] = established.clone();
        object(manifest)
    };
    schema::all().unwrap().into_iter().map(shown).collect()
}

fn deployment(arguments: &[&str], available: &str) -> Deployment {
    object(json!({"metadata": {"name": "agentsandbox-operator", "namespace": "agentsandbox-system",
            "labels": {LABEL_VERSION: OWN_VERSION}},
        "spec": {"selector": {}, "template": {"spec": {"containers": [{"name": "operator", "args": arguments}]}}},
        "status": {"availableReplicas": 1, "conditions": [{"type": "Available", "status": available}]}}))
}

fn class(name: &str, isolation: &str, runtime: Option<&str>) -> AgentSandboxClass {
    object(
        json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandboxClass", "metadata": {"name": name},
        "spec": {"isolation": isolation, "runtimeClassName": runtime}}),
    )
}

fn default(mut class: AgentSandboxClass) -> AgentSandboxClass {
    class.annotations_mut().insert(ANNOTATION_DEFAULT_CLASS.to_owned(), "true".to_owned());
    class
}

fn runtime(name: &str, handler: &str) -> RuntimeClass {
    object(json!({"metadata": {"name": name}, "handler": handler}))
}

fn namespace(name: &str, level: Option<&str>) -> Namespace {
    let labels = level.map(|level| json!({LABEL_ENFORCE: level}));
    object(json!({"metadata": {"name": name, "labels": labels}}))
}

fn sandbox(conditions: &[(&str, &str, &str, &str)]) -> AgentSandbox {
    let conditions: Vec<Value> = conditions
        .iter()
        .map(|(type_, status, reason, since)| {
            json!({"type": type_, "status": status, "reason": reason, "message": "m", "lastTransitionTime": since})
        })
        .collect();
    object(json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
        "metadata": {"name": "fix", "namespace": "team"}, "spec": {"agent": {"image": "a:1"}},
        "status": {"className": "gvisor", "conditions": conditions}}))
}

/// A cluster that keeps every promise.
fn well() -> Facts {
    let proven = "2026-06-01T11:00:00Z";
    let text = BTreeMap::from([(ADMISSION_KEY.to_owned(), ADMISSION_TEXT.to_owned())]);
    let mut documents = ADMISSION_TEXT.split("---\n").filter(|document| !document.is_empty());
    let policy = serde_yaml::from_str(documents.next().unwrap()).unwrap();
    let binding = serde_yaml::from_str(documents.next().unwrap()).unwrap();
    Facts {
        now: NOW.parse().unwrap(),
        namespace_name: "team".to_owned(),
        version: Ok(("1".to_owned(), "36".to_owned())),
        crds: Ok(live_crds()),
        deployments: Ok(vec![deployment(&["run"], "True")]),
        admission: Ok(Some(ConfigMap { data: Some(text), ..ConfigMap::default() })),
        operator_namespace: Ok(Some(namespace("agentsandbox-system", Some("restricted")))),
        namespace: Ok(Some(namespace("team", Some("restricted")))),
        classes: Ok(vec![
            default(class("gvisor", "GVisor", Some("gvisor"))),
            class("container", "Container", None),
        ]),
        runtime_classes: Ok(vec![runtime("gvisor", "runsc")]),
        policies: Ok(vec![policy]),
        bindings: Ok(vec![binding]),
        sandboxes: Ok(vec![sandbox(&[
            ("NetworkIsolated", "True", "Proven", proven),
            ("RuntimeVerified", "True", "KernelVerified", proven),
        ])]),
        is_partial: false,
    }
}

/// The only line that is not well once `change` is made, with its verdict and its remedy.
fn only(change: impl FnOnce(&mut Facts)) -> (String, Verdict, String) {
    let mut facts = well();
    change(&mut facts);
    let mut wrong = all(&facts).into_iter().filter(|line| line.verdict != Verdict::Ok);
    let line = wrong.next().expect("a line is not well");
    assert_eq!(wrong.next(), None, "beside {line:?}");
    (line.check, line.verdict, format!("{}; {}", line.found, line.remedy.expect("there is a remedy")))
}

/// A change of the facts, the line that tells of it, and words of what it tells.
type Case = (fn(&mut Facts), &'static str, &'static str);

#[track_caller]
fn each_is(expected: Verdict, cases: &[Case]) {
    for (change, check, words) in cases {
        let (found, verdict, said) = only(change);
        assert_eq!((found.as_str(), verdict), (*check, expected), "{said}");
        assert!(said.contains(words), "{check}: {said}");
    }
}

#[test]
fn a_cluster_that_keeps_every_promise_is_well_on_every_line() {
    let lines = all(&well());
    assert_eq!(verdict(&lines), Verdict::Ok, "{lines:?}");
    assert_eq!(lines.len(), 15, "{lines:?}");
}

#[test]
fn a_version_or_a_crd_that_is_not_as_it_has_to_be_fails_its_own_line() {
    each_is(
        Verdict::Failed,
        &[
            (|f| f.version = Ok(("1".into(), "33+".into())), "API server", "1.34 or newer"),
            (
                |f| drop(f.crds.as_mut().unwrap().remove(1)),
                "CRD agentsandboxes.agentsandbox.dev",
                "helm show crds",
            ),
            (
                |f| f.crds.as_mut().unwrap()[0].status = None,
                "CRD agentcredentials.agentsandbox.dev",
                "not served",
            ),
            (
                |f| f.crds.as_mut().unwrap()[2].spec.versions[0].schema = None,
                "CRD agentsandboxclasses.agentsandbox.dev",
                "another version",
            ),
            (
                |f| f.crds.as_mut().unwrap()[1].spec.versions[0].subresources = None,
                "CRD agentsandboxes.agentsandbox.dev",
                "another version",
            ),
            (
                |f| f.crds.as_mut().unwrap()[1].spec.scope = "Cluster".into(),
                "CRD agentsandboxes.agentsandbox.dev",
                "another version",
            ),
            (
                |f| f.crds.as_mut().unwrap()[1].metadata.deletion_timestamp = Some(object(json!(NOW))),
                "CRD agentsandboxes.agentsandbox.dev",
                "being deleted",
            ),
        ],
    );
}

#[test]
fn an_operator_or_a_namespace_that_is_not_as_it_has_to_be_fails_its_own_line() {
    each_is(
        Verdict::Failed,
        &[
            (
                |f| f.deployments.as_mut().unwrap()[0].spec.as_mut().unwrap().replicas = Some(0),
                "operator",
                "no replica",
            ),
            (
                |f| f.deployments.as_mut().unwrap()[0].metadata.deletion_timestamp = Some(object(json!(NOW))),
                "operator",
                "being deleted",
            ),
            (
                |f| {
                    let namespace = f.namespace.as_mut().unwrap().as_mut().unwrap();
                    namespace.labels_mut().insert(LABEL_ENFORCE_VERSION.into(), "v1.18".into());
                },
                "pod security of namespace team",
                "enforce-version-",
            ),
            (
                |f| {
                    let namespace = f.namespace.as_mut().unwrap().as_mut().unwrap();
                    namespace.metadata.deletion_timestamp = Some(object(json!(NOW)));
                },
                "pod security of namespace team",
                "being deleted",
            ),
            (|f| f.deployments = Ok(vec![deployment(&["run"], "False")]), "operator", "describe deployment"),
            (
                |f| {
                    f.deployments.as_mut().unwrap()[0].status.as_mut().unwrap().available_replicas = None;
                },
                "operator",
                "no replica",
            ),
            (
                |f| f.operator_namespace = Ok(Some(namespace("agentsandbox-system", None))),
                "pod security of the operator's namespace",
                "kubectl label namespace agentsandbox-system",
            ),
            (
                |f| f.namespace = Ok(Some(namespace("team", Some("baseline")))),
                "pod security of namespace team",
                "enforces baseline",
            ),
            (|f| f.namespace = Ok(None), "pod security of namespace team", "no such namespace"),
        ],
    );
}

#[test]
fn what_admission_classes_and_fences_say_fails_its_own_line() {
    each_is(
        Verdict::Failed,
        &[
            (
                |f| f.bindings = Ok(Vec::new()),
                "admission policies",
                "Binding agentsandbox-children is missing",
            ),
            (|f| f.policies = Ok(Vec::new()), "admission policies", "helm upgrade"),
            (
                |f| f.policies.as_mut().unwrap()[0].metadata.deletion_timestamp = Some(object(json!(NOW))),
                "admission policies",
                "is missing",
            ),
            (
                |f| f.bindings.as_mut().unwrap()[0].spec.validation_actions = vec!["Warn".into()],
                "admission policies",
                "is changed",
            ),
            (
                |f| f.admission = Ok(Some(object(json!({"data": {ADMISSION_KEY: "kind: Secret"}})))),
                "admission policies",
                "kind Secret",
            ),
            (
                |f| f.admission = Ok(Some(object(json!({"data": {ADMISSION_KEY: "# nothing"}})))),
                "admission policies",
                "no policy",
            ),
            (|f| f.runtime_classes = Ok(Vec::new()), "class gvisor", "does not exist"),
            (|f| f.runtime_classes = Ok(vec![runtime("gvisor", "runc")]), "class gvisor", "gives no GVisor"),
            (
                |f| f.classes.as_mut().unwrap()[0].spec.runtime_class_name = None,
                "class gvisor",
                "names no RuntimeClass",
            ),
            (
                |f| f.classes.as_mut().unwrap().push(default(class("other", "Container", None))),
                "default class",
                "there are 2",
            ),
            (
                |f| {
                    f.sandboxes.as_mut().unwrap().push(sandbox(&[(
                        "NetworkIsolated",
                        "False",
                        "EgressOpen",
                        NOW,
                    )]))
                },
                "walls",
                "EgressOpen",
            ),
            (
                |f| {
                    f.sandboxes.as_mut().unwrap().push(sandbox(&[(
                        "RuntimeVerified",
                        "False",
                        "WrongKernel",
                        NOW,
                    )]))
                },
                "kernel of RuntimeClass gvisor",
                "WrongKernel",
            ),
        ],
    );
}

#[test]
fn what_nobody_can_say_is_unknown_and_never_well() {
    each_is(
        Verdict::Unknown,
        &[
            (|f| f.version = Err("no answer".into()), "API server", "no answer"),
            (|f| f.version = Ok(("2".into(), "0".into())), "API server", "2.0"),
            (|f| f.crds = Err("forbidden".into()), "CRDs", "kubectl auth whoami"),
            (|f| f.deployments.as_mut().unwrap()[0].status = None, "operator", "does not say"),
            (|f| f.deployments.as_mut().unwrap()[0].metadata.generation = Some(2), "operator", "was changed"),
            (
                |f| f.operator_namespace = Err("forbidden".into()),
                "pod security of the operator's namespace",
                "forbidden",
            ),
            (
                |f| {
                    drop(
                        f.deployments.as_mut().unwrap()[0]
                            .labels_mut()
                            .insert(LABEL_VERSION.into(), "9.9.9".into()),
                    )
                },
                "operator's version",
                "9.9.9",
            ),
            (|f| f.admission = Ok(None), "admission policies", "there is no ConfigMap"),
            (|f| f.bindings = Err("forbidden".into()), "admission policies", "forbidden"),
            (|f| f.policies = Err("forbidden".into()), "admission policies", "forbidden"),
            (|f| f.namespace = Err("forbidden".into()), "pod security of namespace team", "forbidden"),
            (|f| f.runtime_classes = Err("forbidden".into()), "RuntimeClasses of the classes", "forbidden"),
            (
                |f| f.runtime_classes = Ok(vec![runtime("gvisor", "my-own")]),
                "class gvisor",
                "does not know that handler",
            ),
        ],
    );
}

#[test]
fn walls_that_were_proven_by_nobody_or_in_times_to_come_are_not_proven_yet() {
    let told = |conditions: &[(&str, &str, &str, &str)]| {
        let mut facts = well();
        facts.sandboxes = Ok(vec![sandbox(conditions)]);
        let line = walls(&facts);
        (line.verdict, line.remedy.unwrap_or_default())
    };
    for conditions in [
        vec![],
        vec![("NetworkIsolated", "Unknown", "FencePending", NOW)],
        vec![("NetworkIsolated", "False", "NotAccepted", NOW)],
        vec![("NetworkIsolated", "True", "Proven", "2026-06-01T12:05:01Z")],
        vec![("Ready", "True", "Running", NOW)],
    ] {
        let (verdict, remedy) = told(&conditions);
        assert_eq!(verdict, Verdict::Unknown, "{conditions:?}");
        assert!(remedy.to_lowercase().contains("start a sandbox"), "{remedy}");
    }
    let mut ending = well();
    ending.sandboxes.as_mut().unwrap()[0].metadata.deletion_timestamp = Some(object(json!(NOW)));
    assert_eq!(walls(&ending).verdict, Verdict::Unknown);
}

#[test]
fn a_kernel_is_proven_by_sandboxes_of_its_own_classes_alone() {
    let of = |class: &str| {
        let mut facts = well();
        facts.sandboxes.as_mut().unwrap()[0].status.as_mut().unwrap().class_name = Some(class.to_owned());
        let lines = kernels(&facts);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines[0].verdict
    };
    assert_eq!(of("gvisor"), Verdict::Ok);
    assert_eq!(of("container"), Verdict::Unknown);
}

#[test]
fn the_operator_is_the_one_that_serves_the_namespace() {
    let (general, own, others) = (
        deployment(&["run"], "True"),
        deployment(&["run", "--watch-namespace=team"], "True"),
        deployment(&["run", "--watch-namespace=other"], "True"),
    );
    let serves = |all: &[&Deployment]| {
        let all: Vec<Deployment> = all.iter().map(|one| (*one).clone()).collect();
        operator_of(&all, "team").cloned()
    };
    assert_eq!(serves(&[&general, &others]).unwrap(), general);
    assert_eq!(serves(&[&others, &own]).unwrap(), own);
    assert!(serves(&[]).unwrap_err().contains("no operator"));
    assert!(serves(&[&others]).unwrap_err().contains("no operator"));
    assert!(serves(&[&general, &own]).unwrap_err().contains("2 operators"));
    assert!(serves(&[&general, &general]).unwrap_err().contains("2 operators"));
}

#[test]
fn a_cluster_without_the_chart_fails() {
    let mut facts = well();
    facts.deployments = Ok(Vec::new());
    facts.classes = Ok(Vec::new());
    facts.crds = Ok(Vec::new());
    facts.admission = Err("the operator was not found".to_owned());
    let lines = all(&facts);
    assert_eq!(verdict(&lines), Verdict::Failed);
    let of = |check: &str| lines.iter().find(|line| line.check == check).unwrap().verdict;
    assert_eq!((of("operator"), of("classes")), (Verdict::Failed, Verdict::Failed));
}

#[test]
fn a_class_without_its_runtime_is_told_and_fails_only_if_it_is_default_or_used() {
    let of = |change: fn(&mut Facts)| {
        let mut facts = well();
        facts.classes.as_mut().unwrap().push(class("kata-fc", "Kata", Some("kata-fc")));
        change(&mut facts);
        let lines = all(&facts);
        let line = lines.iter().find(|line| line.check == "class kata-fc").unwrap();
        assert!(line.found.contains("RuntimeClass kata-fc does not exist"), "{line:?}");
        assert!(line.verdict == Verdict::Failed || line.found.contains("not available"), "{line:?}");
        line.verdict
    };
    assert_eq!(of(|_| ()), Verdict::Ok);
    assert_eq!(of(|f| f.is_partial = true), Verdict::Unknown);
    assert_eq!(of(|f| f.sandboxes = Err("forbidden".into())), Verdict::Failed);
    assert_eq!(
        of(|f| f.sandboxes.as_mut().unwrap()[0].spec.class_name = Some("kata-fc".into())),
        Verdict::Failed
    );
    let status = |f: &mut Facts| {
        f.sandboxes.as_mut().unwrap()[0].status.as_mut().unwrap().class_name = Some("kata-fc".into());
    };
    assert_eq!(of(status), Verdict::Failed);
    let is_default = |f: &mut Facts| {
        let classes = f.classes.as_mut().unwrap();
        classes[2] = default(classes[2].clone());
    };
    assert_eq!(of(is_default), Verdict::Failed);
}

#[test]
fn what_an_operator_of_one_namespace_goes_by_is_not_the_clusters_classes() {
    for arguments in [&["--watch-namespace=team"][..], &["--watch-namespace", "team"]] {
        let mut facts = well();
        facts.deployments = Ok(vec![deployment(arguments, "True")]);
        let of = |check: &str| all(&facts).into_iter().find(|line| line.check == check).unwrap().verdict;
        assert_eq!((of("classes"), of("default class")), (Verdict::Unknown, Verdict::Unknown));
        assert!(kernels(&facts).is_empty());
    }
}

#[test]
fn what_cannot_be_seen_at_all_makes_nothing_well() {
    for change in [
        (|f: &mut Facts| f.deployments = Err("x".into())) as fn(&mut Facts),
        |f| f.classes = Err("x".into()),
        |f| f.sandboxes = Err("x".into()),
    ] {
        let mut facts = well();
        change(&mut facts);
        assert_eq!(verdict(&all(&facts)), Verdict::Unknown);
    }
}

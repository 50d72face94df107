//! What is missing or edited is named, and what the API server fills in is no news.

use kube::runtime::reflector::store;
use serde_json::json;

use super::*;
use crate::fixtures::api::{Api as FakeApi, Asked, Says, refusal};

const TEXT: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: one}
spec:
  failurePolicy: Fail
  matchConstraints:
    matchPolicy: Equivalent
    namespaceSelector: {}
    objectSelector: {}
    resourceRules:
    - {apiGroups: [''], apiVersions: ['*'], operations: [CREATE], resources: [pods], scope: Namespaced}
  validations:
  - {expression: 'false', message: no}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: one}
spec: {policyName: one, validationActions: [Deny]}
";

type Objects = (Vec<Arc<ValidatingAdmissionPolicy>>, Vec<Arc<ValidatingAdmissionPolicyBinding>>);

/// What is expected, after an edit of its policy and one of its binding.
fn live(policy: impl FnOnce(&mut Value), binding: impl FnOnce(&mut Value)) -> Objects {
    let expected = Expected::parse(TEXT).unwrap();
    let mut first = serde_json::to_value(&expected.policies[0]).unwrap();
    let mut second = serde_json::to_value(&expected.bindings[0]).unwrap();
    policy(&mut first);
    binding(&mut second);
    let policy = serde_json::from_value(first).unwrap();
    (vec![Arc::new(policy)], vec![Arc::new(serde_json::from_value(second).unwrap())])
}

fn verdict((policies, bindings): &Objects) -> Verdict {
    Expected::parse(TEXT).unwrap().verdict(Some(policies), Some(bindings))
}

fn faults(objects: &Objects) -> Vec<String> {
    verdict(objects).faults.iter().map(ToString::to_string).collect()
}

#[test]
fn o_t13_what_is_missing_or_edited_is_named_and_what_the_api_server_adds_is_not() {
    let untouched = live(
        |policy| {
            policy["metadata"]["resourceVersion"] = json!("7");
            policy["status"] = json!({"observedGeneration": 1});
        },
        |_| (),
    );
    assert_eq!(verdict(&untouched), Verdict { in_force: 2, faults: Vec::new() });
    let (policies, _) = live(|_| (), |_| ());
    assert_eq!(faults(&(policies, Vec::new())), ["ValidatingAdmissionPolicyBinding one is missing"]);
    assert_eq!(
        faults(&(Vec::new(), Vec::new())),
        ["ValidatingAdmissionPolicy one is missing", "ValidatingAdmissionPolicyBinding one is missing"]
    );
}

#[test]
fn o_t13_each_edit_that_takes_force_away_is_seen() {
    let policy_edits: [fn(&mut Value); 6] = [
        |policy| policy["spec"]["failurePolicy"] = json!("Ignore"),
        |policy| policy["spec"]["validations"][0]["expression"] = json!("true"),
        |policy| policy["spec"]["matchConditions"] = json!([{"name": "never", "expression": "false"}]),
        |policy| {
            policy["spec"]["matchConstraints"]["namespaceSelector"] = json!({"matchLabels": {"no": "where"}})
        },
        |policy| policy["spec"]["matchConstraints"]["resourceRules"][0]["resources"] = json!(["nodes"]),
        |policy| policy["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
    ];
    for edit in policy_edits {
        let found = faults(&live(edit, |_| ()));
        assert!(found.len() == 1 && found[0].starts_with("ValidatingAdmissionPolicy one is "), "{found:?}");
    }
    let binding_edits: [fn(&mut Value); 3] = [
        |binding| binding["spec"]["validationActions"] = json!(["Audit"]),
        |binding| binding["spec"]["policyName"] = json!("another"),
        |binding| {
            binding["spec"]["matchResources"] = json!({"objectSelector": {"matchLabels": {"no": "where"}}})
        },
    ];
    for edit in binding_edits {
        assert_eq!(faults(&live(|_| (), edit)), ["ValidatingAdmissionPolicyBinding one is changed"]);
    }
}

#[test]
fn o_t13_what_nobody_can_say_is_told_as_unknown() {
    let verdict = Expected::parse(TEXT).unwrap().verdict(None, Some(&[]));
    assert_eq!(
        (verdict.in_force, verdict.faults_of(Wrong::Unknown), verdict.faults_of(Wrong::Missing)),
        (0, 1, 1)
    );
    assert!(
        verdict.sentence().contains("ValidatingAdmissionPolicy one is unknown"),
        "{}",
        verdict.sentence()
    );
}

#[test]
fn a_text_that_names_no_policy_is_refused() {
    for text in ["", "kind: ConfigMap\n", "kind: ValidatingAdmissionPolicyBinding\nspec: {}\n", "- 1\n", "{"]
    {
        assert!(Expected::parse(text).is_err(), "{text:?}");
    }
    assert!(Expected::parse(TEXT).is_ok());
}

#[tokio::test]
async fn o_t13_a_deleted_binding_is_told_once_by_an_event_and_a_gauge() {
    let (objects, metrics) = (live(|_| (), |_| ()), Arc::new(Metrics::default()));
    let (policies, mut policy_writer) = store();
    let (bindings, mut binding_writer) = store();
    for event in
        [watcher::Event::Init, watcher::Event::InitApply((*objects.0[0]).clone()), watcher::Event::InitDone]
    {
        policy_writer.apply_watcher_event(&event);
    }
    for event in [watcher::Event::Init, watcher::Event::InitDone] {
        binding_writer.apply_watcher_event(&event);
    }
    let says: Says =
        Box::new(|asked: &Asked| asked.line.contains("events").then(|| refusal(403, "Forbidden", "no")));
    let api = FakeApi::start(Vec::new(), says).await;
    let teller = Teller {
        metrics: Arc::clone(&metrics),
        recorder: Recorder::new(api.client.clone(), "operator".to_owned().into()),
        pod: ObjectReference { namespace: Some("here".to_owned()), ..ObjectReference::default() },
        tenure: Arc::new(Tenure::unlimited()),
    };
    let watched = Watched { policies, bindings, touched: futures::stream::pending().boxed() };
    let following = tokio::spawn(follow(Expected::parse(TEXT).unwrap(), watched, teller, Duration::ZERO));
    while !api.asked().iter().any(|asked| asked.line.contains("events")) {
        tokio::task::yield_now().await;
    }
    let told = api.asked().pop().unwrap();
    assert_eq!(told.body["reason"], "AdmissionPoliciesNotInForce", "{told:?}");
    assert!(told.body["note"].as_str().unwrap().contains("Binding one is missing"), "{told:?}");
    let text = metrics.render();
    assert!(text.contains("admission_objects{state=\"missing\"} 1\n"), "{text}");
    assert!(text.contains("admission_objects{state=\"in_force\"} 1\n"), "{text}");
    following.abort();
}

#[tokio::test]
async fn o_r14_a_replica_that_may_not_write_any_more_tells_nothing_of_admission() {
    let api = FakeApi::start(Vec::new(), Box::new(|_: &Asked| None)).await;
    let verdict = Expected::parse(TEXT).unwrap().verdict(Some(&[]), Some(&[]));
    for (tenure, events) in [(Tenure::default(), 0), (Tenure::unlimited(), 1)] {
        let teller = Teller {
            metrics: Arc::new(Metrics::default()),
            recorder: Recorder::new(api.client.clone(), "operator".to_owned().into()),
            pod: ObjectReference { namespace: Some("here".to_owned()), ..ObjectReference::default() },
            tenure: Arc::new(tenure),
        };
        teller.tell(&verdict).await;
        assert_eq!(api.asked().iter().filter(|asked| asked.line.contains("events")).count(), events);
    }
}

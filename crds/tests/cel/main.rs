//! Each CEL rule of the CRDs has a case that passes it and one that fails it, evaluated here by kube-cel. The cluster's
//! tests send the same cases to a real API server.

#![allow(clippy::expect_used, reason = "helpers of tests state their claims by expect")]

use agentsandbox_crds::schema::all;
use kube_cel::Validator;
use serde_json::Value;

mod cases;

/// The rules of a schema: where each stands, and its message.
fn rules(schema: &Value, at: &str, found: &mut Vec<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        found.push((at.to_owned(), rule["message"].as_str().expect("each rule has a message").to_owned()));
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        rules(inner, &at, found);
    }
    if schema["items"].is_object() {
        rules(&schema["items"], &format!("{at}[]"), found);
    }
}

/// The schema of each kind.
fn schema(kind: &str) -> Value {
    let crds = all().expect("the types can be rendered");
    let crd = crds.into_iter().find(|crd| crd.manifest["spec"]["names"]["kind"] == kind);
    crd.expect("the kind exists").manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

fn messages(schema: &Value, object: &Value, before: Option<&Value>) -> Vec<String> {
    let refusals = Validator::new().validate(schema, object, before).err();
    refusals.into_iter().flat_map(|all| all.into_vec()).map(|error| error.message).collect()
}

#[test]
fn every_rule_has_a_case() {
    for kind in cases::all() {
        let mut found = Vec::new();
        rules(&schema(&kind.kind), "", &mut found);
        assert!(found.len() >= kind.cases.len(), "{} has cases for rules that do not exist", kind.kind);
        for (at, message) in found {
            let cases = kind.cases.iter().filter(|case| case.at == at && message.starts_with(&case.message));
            assert_eq!(cases.count(), 1, "cases of {} {at}: {message}", kind.kind);
        }
    }
}

#[test]
fn every_rule_lets_its_accepted_case_pass() {
    for kind in cases::all() {
        let schema = schema(&kind.kind);
        assert_eq!(messages(&schema, &kind.base, None), Vec::<String>::new(), "base of {}", kind.kind);
        for case in &kind.cases {
            let object = case.accepted(&kind.base);
            let before = case.before(&kind.base);
            let messages = messages(&schema, &object, before.as_ref());
            assert_eq!(messages, Vec::<String>::new(), "{} {}", kind.kind, case.at);
        }
    }
}

#[test]
fn of_a_sandbox_that_is_over_each_field_is_kept_that_its_program_would_be_run_by() {
    let kind = cases::all().into_iter().find(|kind| kind.kind == "AgentSandbox").expect("it has cases");
    let (schema, over) = (schema(&kind.kind), "spec: the sandbox is over");
    let case = kind.cases.iter().find(|case| case.message == over).expect("it has a case");
    let (before, running) = (case.before(&kind.base), kind.base.clone());
    for (field, value) in [
        ("className", serde_json::json!("another")),
        ("templateRef", serde_json::json!({"name": "another"})),
        ("agent", serde_json::json!({"image": "ghcr.io/acme/agent:2"})),
        ("workspace", serde_json::json!({"sizeLimit": "77Mi"})),
        ("scratch", serde_json::json!({"tmp": "77Mi"})),
        ("egress", serde_json::json!({"allow": [{"host": "another.example.com"}]})),
        ("resources", serde_json::json!({"limits": {"cpu": "77m"}})),
        ("lifecycle", serde_json::json!({"mode": "Task"})),
        ("lifecycle", serde_json::json!({"state": "Suspended"})),
        ("lifecycle", serde_json::json!({"maxLifetime": "7h"})),
        ("lifecycle", serde_json::json!({"idleTimeout": "7h"})),
    ] {
        let mut changed = kind.base.clone();
        changed["spec"][field] = value;
        let told = messages(&schema, &changed, before.as_ref());
        assert!(told.len() == 1 && told[0].starts_with(over), "{field}: {told:?}");
        assert_eq!(messages(&schema, &changed, Some(&running)), Vec::<String>::new(), "{field}");
    }
    let task = |lifecycle: serde_json::Value, object: &serde_json::Value| {
        let mut task = object.clone();
        task["spec"]["lifecycle"] = lifecycle;
        task
    };
    let ran = task(serde_json::json!({"mode": "Task"}), &before.expect("it is over"));
    let changed = task(serde_json::json!({"mode": "Task", "activeDeadline": "7h"}), &kind.base);
    let told = messages(&schema, &changed, Some(&ran));
    assert!(told.len() == 1 && told[0].starts_with(over), "{told:?}");
    let count = |of: &str| schema.pointer(of).and_then(|of| of.as_object()).expect("it has fields").len();
    let (spec, lifecycle) =
        ("/properties/spec/properties", "/properties/spec/properties/lifecycle/properties");
    assert_eq!((count(spec), count(lifecycle)), (8, 6), "a new field is compared too");
}

#[test]
fn every_rule_refuses_its_rejected_case_and_no_other_rule_does() {
    for kind in cases::all() {
        let schema = schema(&kind.kind);
        for case in &kind.cases {
            let before = case.before(&kind.base);
            let messages = messages(&schema, &case.rejected(&kind.base), before.as_ref());
            let [message] = messages.as_slice() else {
                panic!("{} {} {}: {messages:?}", kind.kind, case.at, case.message);
            };
            assert!(message.starts_with(&case.message), "{} {}: {message}", kind.kind, case.at);
        }
    }
}

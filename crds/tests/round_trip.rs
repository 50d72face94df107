//! What is written is what is read: whatever the schema lets through keeps its meaning through the types.

#![allow(clippy::expect_used, reason = "helpers of tests state their claims by expect")]

use std::fmt::Debug;

use agentsandbox_crds::schema::all;
use agentsandbox_crds::{
    AgentCredentialSpec, AgentSandboxClassSpec, AgentSandboxSpec, AgentSandboxTemplateSpec,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any};
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Objects tried of each kind.
const CASES: u32 = 500;
/// The longest list that is made; more entries would say nothing else.
const ENTRIES_MAX: usize = 3;

/// The schema of a kind's `spec`, as the API server has it.
fn spec_of(crd: &str) -> Value {
    let rendered = all().expect("the types can be rendered");
    let found = rendered.into_iter().find(|rendered| rendered.name.starts_with(crd));
    let manifest = found.expect("the kind is there").manifest;
    manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Values of a schema's types, with any text as a string: only CEL says which text is right, and it says so before.
fn values(schema: &Value) -> BoxedStrategy<Value> {
    if let Some(named) = schema["enum"].as_array() {
        return select(named.clone()).boxed();
    }
    match schema["type"].as_str() {
        Some("object") if schema["additionalProperties"].is_object() => {
            let entries =
                btree_map(any::<String>(), values(&schema["additionalProperties"]), 0..=ENTRIES_MAX);
            entries.prop_map(|entries| entries.into_iter().collect::<Map<_, _>>().into()).boxed()
        }
        Some("object") => object(schema),
        Some("array") => vec(values(&schema["items"]), 0..=ENTRIES_MAX).prop_map(Value::from).boxed(),
        // What may not be empty is not: no text and an absent one are the same then.
        Some("string") if schema["minLength"].is_u64() => {
            any::<String>().prop_filter("not empty", |text| !text.is_empty()).prop_map(Value::from).boxed()
        }
        Some("string") => any::<String>().prop_map(Value::from).boxed(),
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("integer") if schema["format"] == "int32" => any::<i32>().prop_map(Value::from).boxed(),
        Some("integer") => any::<i64>().prop_map(Value::from).boxed(),
        other => unreachable!("no value can be made of type {other:?}"),
    }
}

/// An object with each required property, and each other one or not.
fn object(schema: &Value) -> BoxedStrategy<Value> {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let properties = schema["properties"].as_object().expect("an object has properties");
    let fields = properties.iter().map(|(name, inner)| {
        let value = values(inner);
        let value = match required.contains(&name.as_str()) {
            true => value.prop_map(Some).boxed(),
            false => option::of(value).boxed(),
        };
        (Just(name.clone()), value).boxed()
    });
    let fields: Vec<_> = fields.collect();
    let present = |(name, value): (String, Option<Value>)| value.map(|value| (name, value));
    fields.prop_map(move |all| all.into_iter().filter_map(present).collect::<Map<_, _>>().into()).boxed()
}

/// A value without what is written the same as its absence: empty lists, and what the schema puts in by itself.
fn plain(value: &Value, schema: &Value) -> Value {
    match value {
        Value::Object(fields) if schema["additionalProperties"].is_null() => {
            let kept = fields.iter().filter_map(|(name, value)| {
                let schema = &schema["properties"][name];
                let value = plain(value, schema);
                let is_map = schema["additionalProperties"].is_object();
                let is_empty = value.as_array().is_some_and(Vec::is_empty) || (is_map && value == json!({}));
                // An agent of which nothing is said is none.
                let is_silent = name == "agent" && value == json!({});
                let is_absence = value == schema["default"] || is_empty || is_silent;
                (!is_absence).then(|| (name.clone(), value))
            });
            kept.collect::<Map<_, _>>().into()
        }
        Value::Array(entries) => entries.iter().map(|entry| plain(entry, &schema["items"])).collect(),
        other => other.clone(),
    }
}

fn keeps_everything<T: Serialize + DeserializeOwned + PartialEq + Debug>(crd: &str) {
    let schema = spec_of(crd);
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&values(&schema), |written| {
        let read: T = serde_json::from_value(written.clone()).expect("what the schema allows can be read");
        let again = serde_json::to_value(&read).expect("what was read can be written");
        assert_eq!(plain(&again, &schema), plain(&written, &schema), "a field was lost or made up");
        let reread: T = serde_json::from_value(again).expect("what was written can be read");
        assert_eq!(reread, read);
        Ok(())
    });
    assert!(outcome.is_ok(), "{crd}: {outcome:?}");
}

#[test]
fn o_r27_each_spec_that_the_schema_allows_is_read_and_written_without_loss() {
    keeps_everything::<AgentSandboxSpec>("agentsandboxes");
    keeps_everything::<AgentCredentialSpec>("agentcredentials");
    keeps_everything::<AgentSandboxClassSpec>("agentsandboxclasses");
    keeps_everything::<AgentSandboxTemplateSpec>("agentsandboxtemplates");
}

/// Each object of a schema, and where it is.
fn objects<'a>(schema: &'a Value, path: &str, found: &mut Vec<(String, &'a Value)>) {
    if schema["type"] == "object" {
        found.push((path.to_owned(), schema));
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        objects(inner, &format!("{path}.{name}"), found);
    }
    if schema["items"].is_object() {
        objects(&schema["items"], &format!("{path}[]"), found);
    }
}

/// The API server refuses what a schema does not name, and drops it where a client asks for that, unless the schema says otherwise.
#[test]
fn o_r27_no_object_of_a_spec_takes_a_field_that_it_does_not_name() {
    for crd in ["agentsandboxes", "agentcredentials", "agentsandboxclasses", "agentsandboxtemplates"] {
        let schema = spec_of(crd);
        let mut found = Vec::new();
        objects(&schema, crd, &mut found);
        assert!(found.len() > 3, "{crd} has {} objects", found.len());
        for (path, object) in found {
            assert!(object.get("x-kubernetes-preserve-unknown-fields").is_none(), "{path} keeps any field");
            // A map, such as a node selector, names none of its keys: its values are texts.
            let is_map = object["additionalProperties"]["type"] == "string";
            assert!(object["properties"].is_object() != is_map, "{path} names no field");
            assert!(is_map || object.get("additionalProperties").is_none(), "{path} takes any field");
        }
    }
}

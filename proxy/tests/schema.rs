//! The published schemas are those of the types, and say what the parser says.
//!
//! `UPDATE=1 cargo test -p agentsandbox-proxy --test schema` refreshes the copies.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test states its claims by them, and so do its helpers"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use agentsandbox_policy::Policy;
use agentsandbox_proxy::schema::Described;
use jsonschema::Validator;
use serde_json::{Value, json};

const DESCRIBED: [(Described, &str); 2] = [(Described::Policy, "policy"), (Described::Audit, "audit")];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn validator() -> Validator {
    jsonschema::validator_for(&serde_json::from_str(&Described::Policy.schema()).unwrap()).unwrap()
}

#[test]
fn the_published_schemas_are_current_and_the_program_prints_them() {
    for (described, name) in DESCRIBED {
        let (file, wanted) = (root().join(format!("docs/schemas/{name}-v1.json")), described.schema());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(found, wanted, "run UPDATE=1 cargo test -p agentsandbox-proxy --test schema");
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentsandbox-proxy"));
        let printed = command.args(["schema", name]).output().unwrap();
        assert_eq!(String::from_utf8(printed.stdout).unwrap(), wanted);
        let schema: Value = serde_json::from_str(&wanted).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(jsonschema::meta::is_valid(&schema), "{name}");
    }
}

/// A document with every field that there is, and each way to inject.
fn everything() -> Value {
    let scope = json!({"host": "api.good.test", "ports": [443], "methods": ["GET"], "paths": ["/v1/**"],
        "exceptPaths": ["/v1/keys"]});
    let ways = [
        json!({"type": "Header", "name": "x-api-key", "prefix": "token "}),
        json!({"type": "Bearer"}),
        json!({"type": "Query", "name": "key"}),
        json!({"type": "Cookie", "name": "session"}),
        json!({"type": "PathSegment", "after": "/bot"}),
        json!({"type": "Basic", "username": "agent"}),
    ];
    let credentials = ways.iter().enumerate().map(|(number, inject)| {
        json!({"name": format!("key{number}"), "file": "key", "placeholders": ["placeholder-0123456789"],
            "constants": ["constant-0123456789"], "inject": inject, "scopes": [scope]})
    });
    json!({
        "apiVersion": "policy.agentsandbox.dev/v1",
        "sandbox": {"namespace": "team", "name": "agent", "uid": "u1"},
        "generation": 1,
        "rules": [
            {"name": "good", "host": "api.good.test", "ports": [443], "scheme": "https", "methods": ["GET"],
                "paths": ["/v1/**"], "credential": "key0", "clientCertificate": "mtls", "websocket": "Allow", "tls": "Intercept"},
            {"name": "pinned", "host": "*.pinned.test", "ports": [443], "scheme": "https", "tls": "Passthrough"},
        ],
        "credentials": credentials.collect::<Vec<_>>(),
        "clientCertificates": [{"name": "mtls", "certificateFile": "mtls.crt", "keyFile": "mtls.key", "scopes": [scope]}],
        "addresses": {"allow": ["10.0.0.0/8"], "deny": ["10.96.0.0/12"]},
        "upstream": {"additionalRoots": "-----BEGIN CERTIFICATE-----", "proxy":
            {"url": "http://api.good.test:443", "credential": "key5"}},
    })
}

/// Calls `visit` with a copy of the document for each object in it, changed there by `change`.
fn each_object(document: &Value, change: fn(&mut Value) -> bool, visit: &mut dyn FnMut(&str, &Value)) {
    fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.push(at.to_owned());
                fields.iter().for_each(|(name, inner)| pointers(inner, &format!("{at}/{name}"), found));
            }
            Value::Array(list) => {
                let each = list.iter().enumerate();
                each.for_each(|(index, inner)| pointers(inner, &format!("{at}/{index}"), found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    pointers(document, "", &mut found);
    for at in found {
        let mut changed = document.clone();
        if change(changed.pointer_mut(&at).unwrap()) {
            visit(&at, &changed);
        }
    }
}

#[test]
fn unknown_fields_are_refused_by_schema_and_parser_alike() {
    let (validator, document) = (validator(), everything());
    assert!(validator.is_valid(&document), "{:?}", validator.iter_errors(&document).next());
    Policy::from_yaml(&document.to_string()).unwrap();
    let mut refused = 0;
    let add = |object: &mut Value| {
        object["unheardOf"] = json!("x");
        true
    };
    each_object(&document, add, &mut |at, changed| {
        assert!(!validator.is_valid(changed), "the schema takes an unknown field in {at}");
        assert!(
            Policy::from_yaml(&changed.to_string()).is_err(),
            "the parser takes an unknown field in {at}"
        );
        refused += 1;
    });
    assert_eq!(refused, 27, "the document, and each object in it");
}

#[test]
fn what_is_null_missing_or_of_another_type_is_refused_by_schema_and_parser_alike() {
    let (validator, document) = (validator(), everything());
    let names = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let mut compared = 0;
    let keep = |_: &mut Value| true;
    let mut objects = Vec::new();
    each_object(&document, keep, &mut |at, _| objects.push(at.to_owned()));
    for at in objects {
        for name in names(document.pointer(&at).unwrap()) {
            // Not by another scalar: a text may be written in YAML without its quotes.
            for replacement in [None, Some(Value::Null), Some(json!({"a": 1})), Some(json!([]))] {
                let mut changed = document.clone();
                let object = changed.pointer_mut(&at).unwrap().as_object_mut().unwrap();
                match &replacement {
                    None => object.remove(&name),
                    Some(value) => object.insert(name.clone(), value.clone()),
                };
                let parsed = Policy::from_yaml(&changed.to_string());
                // A document that the parser refuses for what it means is none of the schema's business.
                let taken = match &parsed {
                    Ok(_) => true,
                    Err(error) => error.faults().iter().all(|fault| !fault.field.is_empty()),
                };
                let what = format!("{name} in {at} replaced by {replacement:?}: {parsed:?}");
                if parsed.is_ok() {
                    assert!(validator.is_valid(&changed), "{what}");
                } else if !taken {
                    assert!(!validator.is_valid(&changed), "{what}");
                }
                compared += 1;
            }
        }
    }
    assert!(compared > 200, "{compared}");
}

#[test]
fn the_documents_of_examples_and_tests_fit_the_schema() {
    let validator = validator();
    for file in
        ["examples/standalone/policy.yaml", "tests/clients/policy.yaml", "tests/conformance/peers/ours.yaml"]
    {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let document: Value = serde_yaml::from_str(&text).unwrap();
        assert!(validator.is_valid(&document), "{file}: {:?}", validator.iter_errors(&document).next());
    }
    // What the operator writes, as its own tests keep it.
    let kept = root().join("operator/src/controller/desired/snapshots/policy_config_map.snap");
    let kept = std::fs::read_to_string(kept).unwrap();
    let map: Value = serde_yaml::from_str(kept.splitn(3, "---\n").nth(2).unwrap()).unwrap();
    let document: Value = serde_json::from_str(map["data"]["policy.yaml"].as_str().unwrap()).unwrap();
    assert!(validator.is_valid(&document), "{:?}", validator.iter_errors(&document).next());
}

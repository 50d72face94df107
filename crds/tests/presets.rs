//! The presets are credentials that the API server would take, and docs/credentials.md says what they are.
//!
//! `UPDATE=1 cargo test -p agentsandbox-crds --test presets` writes the table.

#![allow(clippy::expect_used, reason = "helpers of tests state their claims by expect")]

use std::collections::BTreeSet;
use std::path::PathBuf;

use agentsandbox_crds::credential::{CredentialHost, Injection, InjectionType};
use agentsandbox_crds::preset::{Definition, Preset};
use agentsandbox_crds::schema::all;
use kube_cel::Validator;
use serde_json::{Value, json};

const BEGIN: &str = "<!-- The presets, written by a test. -->\n";
const END: &str = "<!-- The end of the presets. -->\n";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn definition(preset: Preset) -> Definition {
    preset.definition().expect("the preset can be read")
}

fn schema() -> Value {
    let crds = all().expect("the types can be rendered");
    let crd = crds.into_iter().find(|crd| crd.manifest["spec"]["names"]["kind"] == "AgentCredential");
    crd.expect("the kind exists").manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn each_preset_has_its_file_and_each_file_its_preset() {
    let files = std::fs::read_dir(root().join("crds/presets")).expect("there are presets");
    let files: BTreeSet<String> = files
        .map(|file| file.expect("it can be listed").file_name().to_string_lossy().into_owned())
        .collect();
    let named: BTreeSet<String> =
        Preset::ALL.iter().map(|preset| format!("{}.yaml", preset.as_str().to_lowercase())).collect();
    assert_eq!(files, named);
    for preset in Preset::ALL {
        assert_eq!(json!(preset), json!(preset.as_str()));
    }
}

#[test]
fn each_preset_is_a_credential_that_the_schema_takes() {
    let schema = schema();
    for preset in Preset::ALL {
        let Definition { inject, hosts, placeholder_env, except_paths, pinned_headers } = definition(*preset);
        assert!(
            pinned_headers.iter().all(|each| each.value.is_none()),
            "{preset:?}: whose account it is, nobody knows here"
        );
        assert!(
            !placeholder_env.is_empty() && placeholder_env.iter().all(|each| each.prefix.is_some()),
            "{preset:?}"
        );
        // What is left out is written as paths are, so the rule of paths judges it, too.
        let left_out: Vec<Value> =
            except_paths.chunks(16).map(|paths| json!({"host": "x.example.com", "paths": paths})).collect();
        let hosts: Vec<Value> = hosts.iter().map(|host| json!(host)).chain(left_out).collect();
        let object = json!({
            "apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentCredential", "metadata": {"name": "x"},
            "spec": {"secretRef": {"name": "k", "key": "v"}, "preset": preset, "inject": inject, "hosts": hosts, "placeholderEnv": placeholder_env, "pinnedHeaders": pinned_headers},
        });
        let faults = Validator::new().validate(&schema, &object, None);
        assert!(faults.is_ok(), "{preset:?}: {faults:?}");
    }
}

#[test]
fn each_preset_leaves_out_what_it_does_not_name_itself() {
    for preset in Preset::ALL {
        let Definition { hosts, except_paths, .. } = definition(*preset);
        assert!(except_paths.len() >= 5 && except_paths.len() <= 128, "{preset:?}");
        let unique: BTreeSet<&String> = except_paths.iter().collect();
        assert_eq!(unique.len(), except_paths.len(), "{preset:?}");
        for path in hosts.iter().flat_map(|host| host.paths.iter().flatten()) {
            assert!(!except_paths.contains(path), "{preset:?} {path}");
        }
    }
}

fn place(inject: &Injection) -> String {
    match inject.kind {
        InjectionType::Header => format!("`{}`", inject.header.as_ref().expect("it is a header").name),
        InjectionType::Basic => {
            format!("Basic, user `{}`", inject.basic.as_ref().expect("it is Basic").username)
        }
        other => format!("{other:?}"),
    }
}

fn destination(host: &CredentialHost) -> String {
    let methods = host.methods.as_deref().unwrap_or_default();
    let methods: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
    let paths = host.paths.as_deref().unwrap_or_default();
    let paths: Vec<String> = paths.iter().map(|path| format!("`{path}`")).collect();
    let paths = if paths.is_empty() { "every path".to_owned() } else { paths.join(" ") };
    format!("{} of {}: {paths}", methods.join(", "), host.host)
}

fn table() -> String {
    let mut text =
        "| `preset` | the key's place | where it may go | variables | left out |\n|---|---|---|---|---|\n"
            .to_owned();
    for preset in Preset::ALL {
        let Definition { inject, hosts, placeholder_env, except_paths, .. } = definition(*preset);
        let name = preset.as_str();
        let variables: Vec<String> = placeholder_env
            .iter()
            .map(|each| format!("`{}={}…`", each.name, each.prefix.as_deref().unwrap_or_default()))
            .collect();
        let hosts: Vec<String> = hosts.iter().map(destination).collect();
        text += &format!(
            "| [`{name}`](../crds/presets/{}.yaml) | {} | {} | {} | {} patterns |\n",
            name.to_lowercase(),
            place(&inject),
            hosts.join("; "),
            variables.join(" "),
            except_paths.len()
        );
    }
    text
}

#[test]
fn the_table_of_presets_is_current() {
    let file = root().join("docs/credentials.md");
    let text = std::fs::read_to_string(&file).expect("the document is there");
    let (before, rest) = text.split_once(BEGIN).expect("the table has a beginning");
    let (found, after) = rest.split_once(END).expect("the table has an end");
    let wanted = table();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, format!("{before}{BEGIN}{wanted}{END}{after}"))
            .expect("the document can be written");
        return;
    }
    assert_eq!(found, wanted, "run UPDATE=1 cargo test -p agentsandbox-crds --test presets");
}

/// Each value under one of these keys, wherever it stands.
fn under<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            if name == key {
                found.push(value);
            }
            under(value, key, found);
        }),
        Value::Array(items) => items.iter().for_each(|item| under(item, key, found)),
        _ => {}
    }
}

#[test]
fn p_f2_the_examples_give_the_key_to_the_paths_of_its_preset_only() {
    let known = definition(Preset::Anthropic).hosts;
    let known: BTreeSet<&str> =
        known.iter().flat_map(|host| host.paths.iter().flatten()).map(String::as_str).collect();
    let readme = std::fs::read_to_string(root().join("README.md")).expect("there is a README");
    let manifest =
        readme.split("## The first manifest").nth(1).and_then(|rest| rest.split("```yaml\n").nth(1));
    let credential = manifest.and_then(|text| text.split("---").next()).expect("it begins with a credential");
    let file = |name: &str| std::fs::read_to_string(root().join(name)).expect("the example is there");
    let (standalone, quickstart) =
        (file("examples/standalone/policy.yaml"), file("examples/quickstart/credential.yaml"));
    for (name, text, lists) in
        [("README.md", credential, 1), ("standalone", &standalone, 2), ("quickstart", &quickstart, 1)]
    {
        let document: Value = serde_yaml::from_str(text).expect("it is YAML");
        let mut paths = Vec::new();
        under(&document, "paths", &mut paths);
        assert_eq!(paths.len(), lists, "{name}");
        let paths = paths.into_iter().flat_map(|list| list.as_array().expect("it is a list"));
        for path in paths.map(|path| path.as_str().expect("it is text")) {
            assert!(known.contains(path), "{name}: {path}");
        }
    }
}

#[test]
fn every_way_to_inject_is_described() {
    let text = std::fs::read_to_string(root().join("docs/credentials.md")).expect("the document is there");
    let schema = schema();
    let types = schema["properties"]["spec"]["properties"]["inject"]["properties"]["type"]["enum"].clone();
    let types = types.as_array().expect("the types are an enum");
    assert_eq!(types.len(), 7);
    for kind in types {
        let kind = kind.as_str().expect("a type is a word");
        assert!(text.lines().any(|line| line.starts_with(&format!("| `{kind}`"))), "{kind}");
    }
}

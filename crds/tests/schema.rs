//! The rendered CRDs keep the promises of the kinds, and the chart's copies are current.
//!
//! `UPDATE=1 cargo test -p agentsandbox-crds --test schema` refreshes the copies.

#![allow(clippy::expect_used, reason = "helpers of tests state their claims by expect")]

use std::path::PathBuf;

use agentsandbox_crds::schema::{Rendered, all};
use serde_json::Value;

const CRD_BYTES_MAX: usize = 60_000;

fn rendered() -> Vec<Rendered> {
    all().expect("the types can be rendered")
}

/// Calls `visit` with each schema below a CRD's openAPIV3Schema and its path.
fn walk(schema: &Value, path: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        walk(inner, &format!("{path}.{name}"), visit);
    }
    if schema["items"].is_object() {
        walk(&schema["items"], &format!("{path}[]"), visit);
    }
    if schema["additionalProperties"].is_object() {
        walk(&schema["additionalProperties"], &format!("{path}{{}}"), visit);
    }
}

fn faults(check: impl Fn(&str, &Value) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for crd in rendered() {
        let schema = crd.manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        walk(&schema, &crd.name, &mut |path, inner| {
            if !check(path, inner) {
                found.push(path.to_owned());
            }
        });
    }
    found
}

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn the_charts_copies_are_current() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../charts/agentsandbox/crds");
    for crd in rendered() {
        let file = folder.join(format!("{}.yaml", crd.name));
        let wanted = crd.yaml().expect("a CRD is YAML");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(&folder).expect("the chart's folder can be made");
            std::fs::write(&file, &wanted).expect("the chart's folder can be written");
        }
        let found = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(
            found == wanted,
            "{} is stale: run UPDATE=1 cargo test -p agentsandbox-crds --test schema",
            crd.name
        );
    }
}

#[test]
fn each_crd_is_small_enough_for_client_side_apply() {
    for crd in rendered() {
        let bytes = serde_json::to_string(&crd.manifest).expect("a CRD is JSON").len();
        assert!(bytes < CRD_BYTES_MAX, "{} has {bytes} bytes", crd.name);
    }
}

#[test]
fn every_property_is_described() {
    let undescribed = faults(|path, schema| {
        path.ends_with("[]")
            || path.ends_with("{}")
            || schema["description"].as_str().is_some_and(|d| !d.is_empty())
    });
    assert_eq!(undescribed, none());
}

#[test]
fn every_string_list_and_map_is_bounded() {
    let unbounded = faults(|_, schema| match schema["type"].as_str() {
        Some("string") => {
            schema["maxLength"].is_u64() || schema["enum"].is_array() || schema["format"] == "date-time"
        }
        Some("array") => schema["maxItems"].is_u64() && schema["x-kubernetes-list-type"].is_string(),
        Some("integer") => schema["minimum"].is_number(),
        Some("object") => schema["additionalProperties"].is_null() || schema["maxProperties"].is_u64(),
        _ => false,
    });
    assert_eq!(unbounded, none());
}

#[test]
fn nothing_is_nullable_boolean_unsigned_or_a_float() {
    let loose = faults(|_, schema| {
        schema["nullable"].is_null()
            && schema["type"] != "boolean"
            && schema["type"] != "number"
            && !schema["format"].as_str().is_some_and(|f| f.starts_with("uint"))
    });
    assert_eq!(loose, none());
}

#[test]
fn o_h11_nothing_that_could_loosen_the_fence_is_in_the_sandboxs_schema() {
    const ABSENT: [&str; 24] = [
        "priorityClassName",
        "schedulerName",
        "nodeName",
        "nodeSelector",
        "affinity",
        "tolerations",
        "topologySpreadConstraints",
        "runtimeClassName",
        "serviceAccountName",
        "hostAliases",
        "dnsConfig",
        "shareProcessNamespace",
        "setHostnameAsFQDN",
        "sysctls",
        "hostPath",
        "nfs",
        "iscsi",
        "csi",
        "flexVolume",
        "gitRepo",
        "resourceClaims",
        "imagePullSecrets",
        "preemptionPolicy",
        "valueFrom",
    ];
    let found = faults(|path, _| {
        !(path.starts_with("agentsandboxes.") || path.starts_with("agentsandboxtemplates."))
            || !ABSENT.iter().any(|name| path.ends_with(&format!(".{name}")))
    });
    assert_eq!(found, none());
}

#[test]
fn o_g18_no_field_but_those_that_are_proven_offers_a_place_that_nothing_can_be_run_from() {
    // Whoever offers one owes the proof that a program copied there does not start, in each runtime. The process sandbox tries it before
    // each start, and no class of a runtime without it takes the field; so does what withholds it by mounts.
    // A template's fields are those of its sandboxes.
    const PROVEN: [&str; 3] =
        ["agent.processSandbox.noExecutePaths", "scratch.execution", "workspace.execution"];
    const SPECS: [&str; 2] =
        ["agentsandboxes.agentsandbox.dev.spec.", "agentsandboxtemplates.agentsandbox.dev.spec.sandbox."];
    const OFFERS: [&str; 3] = ["exec", "mount", "readonly"];
    let (mut offers, mut workspaces) = (Vec::new(), 0);
    for crd in rendered() {
        let schema = crd.manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        walk(&schema, &crd.name, &mut |path, _| {
            let name = path.rsplit('.').next().unwrap_or_default().to_lowercase();
            workspaces += usize::from(name == "workspace");
            if OFFERS.iter().any(|offer| name.contains(offer)) {
                offers.push(path.to_owned());
            }
        });
    }
    let below = |path: &str| SPECS.iter().find_map(|spec| path.strip_prefix(spec)).map(str::to_owned);
    offers.retain(|path| !below(path).is_some_and(|path| PROVEN.contains(&path.trim_end_matches("[]"))));
    assert_eq!(offers, none());
    assert!(workspaces >= 2, "the control: a sandbox and a class say how large a workspace is");
}

#[test]
fn a_kind_that_has_conditions_has_one_before_the_operator_has_seen_it() {
    let mut with_conditions = Vec::new();
    for crd in rendered() {
        let schema = &crd.manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let status = &schema["properties"]["status"];
        let conditions = &status["properties"]["conditions"];
        if !conditions.is_object() {
            assert!(status.is_null(), "{} has a status that says nothing", crd.name);
            continue;
        }
        with_conditions.push(crd.name);
        let [first] = status["default"]["conditions"].as_array().expect("there are some").as_slice() else {
            panic!("{status}");
        };
        let told = ["type", "status", "reason"].map(|field| first[field].as_str().unwrap_or_default());
        assert_eq!(told, ["Ready", "Unknown", "Pending"]);
        for field in conditions["items"]["required"].as_array().expect("some are required") {
            let field = field.as_str().expect("a name");
            assert!(first[field].is_string(), "the API server refuses a default without {field}");
        }
    }
    assert_eq!(with_conditions, ["agentsandboxes.agentsandbox.dev"]);
}

#[test]
fn a_template_has_each_field_of_a_sandbox_but_a_template_and_whether_it_runs_for_now() {
    let fields = |crd: &str, spec: &str| {
        let all = rendered();
        let crd = all.iter().find(|one| one.name.starts_with(crd)).expect("the kind is there");
        let schema = crd.manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone();
        let mut found = Vec::new();
        let spec = schema.pointer(spec).expect("it has a spec");
        walk(spec, "", &mut |path, inner| found.push((path.to_owned(), inner["type"].clone())));
        found
    };
    let mut of_sandbox = fields("agentsandboxes.", "/properties/spec");
    of_sandbox.retain(|(path, _)| !path.starts_with(".templateRef") && path != ".lifecycle.state");
    assert_eq!(fields("agentsandboxtemplates.", "/properties/spec/properties/sandbox"), of_sandbox);
    assert!(of_sandbox.iter().any(|(path, _)| path == ".agent.image"), "the control");
    let changes = |crd: &str| {
        let all = rendered();
        let crd = all.iter().find(|one| one.name.starts_with(crd)).expect("the kind is there");
        crd.manifest.to_string().matches("oldSelf").count()
    };
    assert!(changes("agentsandboxes.") > 0, "the control");
    assert_eq!(changes("agentsandboxtemplates."), 0, "no volume stands behind a template");
}

#[test]
fn each_validation_rule_has_a_message_that_helps() {
    let silent = faults(|_, schema| {
        schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
            .all(|rule| rule["message"].as_str().is_some_and(|m| m.len() > 40 && m.len() < 400))
    });
    assert_eq!(silent, none());
}

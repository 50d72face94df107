//! The chart's schema takes its own values and refuses what would only fail in the cluster; what a user writes as text stays text.

#![allow(clippy::unwrap_used, reason = "helpers of tests state their claims by it")]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/agentsandbox")
}

fn read(file: &str) -> String {
    std::fs::read_to_string(chart().join(file)).unwrap()
}

/// Whether the schema takes the chart's own values with one of them replaced.
fn takes(pointer: &str, value: Value) -> bool {
    let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
    let mut values: Value = serde_yaml::from_str(&read("values.yaml")).unwrap();
    *values.pointer_mut(pointer).unwrap() = value;
    jsonschema::is_valid(&schema, &values)
}

#[test]
fn an_address_that_no_address_is_is_a_misspelt_value_and_no_operator_that_does_not_start() {
    for pointer in
        ["/clusterRanges/podCIDRs", "/clusterRanges/serviceCIDRs", "/sandboxes/allowedPrivateRanges"]
    {
        for (range, fits) in [
            ("10.20.0.0/16", true),
            ("192.168.199.255/32", true),
            ("10.256.0.0/16", false),
            ("300.0.0.0/8", false),
            ("10.0.0/8", false),
            ("10.0.0.0/33", false),
        ] {
            assert_eq!(takes(pointer, json!([range])), fits, "{pointer}: {range}");
        }
    }
    for (address, fits) in [("10.96.0.10", true), ("", true), ("10.96.0.256", false), ("10.96.0", false)] {
        assert_eq!(takes("/clusterRanges/clusterDNS", json!(address)), fits, "{address}");
    }
}

#[test]
fn a_ceiling_of_the_workspace_is_among_the_values() {
    assert!(takes("/sandboxes/maxLimits", json!({"workspace": "10Gi"})));
    assert!(!takes("/sandboxes/maxLimits", json!({"workspaces": "10Gi"})));
}

#[test]
fn a_collector_of_traces_is_a_url_and_perhaps_pods() {
    let pods = json!({"namespace": "observability", "labels": {"app": "otel-collector"}});
    let labelled = |key: &str, value: &str| json!({"endpoint": "http://10.96.0.50:4318", "pods": {"namespace": "observability", "labels": {key: value}}});
    for (tracing, fits) in [
        (json!({}), true),
        (json!({"endpoint": "https://otel.example.com:4318"}), true),
        (json!({"endpoint": "http://10.96.0.50:4318", "pods": pods}), true),
        (json!({"endpoint": "otel.example.com:4318"}), false),
        (json!({"endpoint": "http://otel-collector:4318"}), false),
        (json!({"pods": pods}), false),
        (
            json!({"endpoint": "http://10.96.0.50:4318", "pods": {"namespace": "observability", "labels": {}}}),
            false,
        ),
        (json!({"endpoint": "https://otel.example.com:65535"}), true),
        (json!({"endpoint": "https://otel.example.com:65536"}), false),
        (labelled("app.kubernetes.io/name", "otel-collector"), true),
        (labelled("app", ""), true),
        (labelled("app kubernetes", "otel-collector"), false),
        (labelled("", "otel-collector"), false),
        (labelled("app", "otel collector"), false),
    ] {
        assert_eq!(takes("/sandboxes/tracing", tracing.clone()), fits, "{tracing}");
    }
}

/// A namespace or a RuntimeClass may be called 2024, which YAML takes for a number where it is not quoted.
#[test]
fn text_of_a_user_is_quoted_where_it_becomes_a_whole_value() {
    for file in ["templates/networkpolicy.yaml", "templates/_classes.tpl"] {
        let text = read(file);
        let bare = text.lines().filter(|line| line.contains(": {{ . }}") && !line.contains("port: {{ . }}"));
        assert_eq!(bare.collect::<Vec<_>>(), Vec::<&str>::new(), "{file}");
    }
}

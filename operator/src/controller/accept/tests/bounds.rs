//! What a class bounds, at its very edges.

use super::*;

#[test]
fn a_registry_is_its_host_and_port_and_a_path_ends_at_a_slash() {
    let digest = format!("@sha256:{}", "0".repeat(64));
    let (host, port) = ("registry.corp.example", "registry.corp.example:5000");
    for (registry, image, allowed) in [
        (host, format!("{host}/acme/agent:1"), true),
        (host, format!("{port}/acme/agent:1"), false),
        (host, format!("{host}:5000"), false),
        (host, format!("{host}.evil.example/agent:1"), false),
        (host, format!("{host}@evil.example/agent:1"), false),
        (port, format!("{port}/agent:1"), true),
        (port, format!("{host}/agent:1"), false),
        (port, format!("{port}1/agent:1"), false),
        ("ghcr.io/acme", "ghcr.io/acme/tools/agent:1".to_owned(), true),
        ("ghcr.io/acme", "ghcr.io/acme2/agent:1".to_owned(), false),
        ("ghcr.io/acme/agent", "ghcr.io/acme/agent:1".to_owned(), true),
        ("ghcr.io/acme/agent", format!("ghcr.io/acme/agent{digest}"), true),
        ("ghcr.io/acme/agent", format!("ghcr.io/acme/agent:1{digest}"), true),
        ("ghcr.io/acme/agent", "ghcr.io/acme/agent:1/other:1".to_owned(), false),
        ("ghcr.io/acme/agent", "ghcr.io/acme/agent-2:1".to_owned(), false),
    ] {
        let class = with_class(|c| c.spec.images = Some(from(json!({"allowedRegistries": [registry]}))));
        let asks = sandbox(|s| s.spec.agent.image.clone_from(&image));
        let result = accept(&identity(), &asks, &class, &platform());
        assert_eq!(result.is_ok(), allowed, "{image} of {registry}");
    }
}

#[test]
fn the_workspace_stays_within_the_class() {
    let asks = |size: Option<&str>| {
        sandbox(|s| s.spec.workspace = size.map(|size| from(json!({"sizeLimit": size}))))
    };
    let max = |max| with_class(|c| c.spec.resources = Some(from(json!({"max": max}))));
    let (ceiling, without) = (max(json!({"workspace": "10Gi"})), max(json!({"ephemeralStorage": "1Gi"})));
    let field = "spec.workspace.sizeLimit";
    only(rejected(&asks(Some("500Gi")), &ceiling), RejectionReason::OutsideClass, field);
    only(rejected(&asks(Some("1k")), &ceiling), RejectionReason::InvalidField, field);
    let bytes = |size, references: &References| {
        accept(&identity(), &asks(size), references, &platform()).unwrap().limits.workspace_bytes
    };
    assert_eq!(bytes(Some("10Gi"), &ceiling), 10 << 30);
    assert_eq!(bytes(Some("500Gi"), &without), 500 << 30);
    assert_eq!(
        bytes(None, &max(json!({"workspace": "512Mi"}))),
        512 << 20,
        "the ceiling holds for our default"
    );
    let wrong = max(json!({"workspace": "much"}));
    only(rejected(&asks(None), &wrong), RejectionReason::ClassUnsupported, "spec.className");
}

#[test]
fn too_many_credentials_are_told_of_the_rules_that_name_them() {
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("c{number}")).collect();
        let of = |name: &String| credential(|c| c.metadata.name = Some(name.clone()));
        let known = references(vec![class(|_| ())], names.iter().map(of).collect());
        let rules = names.iter().map(|name| json!({"name": name, "host": "api.anthropic.com", "paths": [format!("/{name}")], "credential": name}));
        let rules: Vec<_> = rules.collect();
        (sandbox(|s| s.spec.egress = Some(from(json!({"allow": rules})))), known)
    };
    let (fits, known) = many(64);
    assert!(accept(&identity(), &fits, &known, &platform()).is_ok());
    let (asks, known) = many(65);
    only(rejected(&asks, &known), RejectionReason::InvalidField, "spec.egress.allow");
}

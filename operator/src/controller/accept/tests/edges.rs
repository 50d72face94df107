//! The last value that is taken, and the first that is not; what is told where two guards would refuse the same.

use serde_json::Value;

use super::*;

/// What is told first.
fn told(sandbox: &AgentSandbox, references: &References) -> String {
    accept(&identity(), sandbox, references, &platform()).unwrap_err()[0].message.clone()
}

fn is_accepted(sandbox: &AgentSandbox, references: &References) -> bool {
    accept(&identity(), sandbox, references, &platform()).is_ok()
}

#[test]
fn a_name_of_forty_characters_is_the_longest() {
    let named = |length: usize| sandbox(|s| s.metadata.name = Some("a".repeat(length)));
    assert!(is_accepted(&named(40), &ordinary()));
    only(rejected(&named(41), &ordinary()), RejectionReason::InvalidField, "metadata.name");
}

#[test]
fn o_r35_annotations_with_our_prefix_are_refused_and_others_are_not() {
    let annotated =
        |key: &str| sandbox(|s| s.metadata.annotations = Some([(key.to_owned(), String::new())].into()));
    let field = "metadata.annotations[agentsandbox.dev/spec-hash]";
    only(
        rejected(&annotated("agentsandbox.dev/spec-hash"), &ordinary()),
        RejectionReason::InvalidField,
        field,
    );
    assert!(is_accepted(&annotated("acme.test/spec-hash"), &ordinary()));
}

#[test]
fn each_limit_may_be_the_least_and_no_less() {
    let asks = |limits: Value| sandbox(|s| s.spec.resources = Some(from(json!({"limits": limits}))));
    for (field, least, less) in
        [("cpu", "50m", "49m"), ("memory", "64Mi", "65535Ki"), ("ephemeralStorage", "1Mi", "1023Ki")]
    {
        assert!(is_accepted(&asks(json!({field: least})), &ordinary()), "{field}");
        let found = rejected(&asks(json!({field: less})), &ordinary());
        only(found, RejectionReason::InvalidField, &format!("spec.resources.limits.{field}"));
    }
}

#[test]
fn each_limit_may_be_the_ceiling_and_what_is_below_it_stays_as_it_is() {
    let ceiling = with_class(|c| {
        let max = json!({"cpu": "4", "memory": "4Gi", "ephemeralStorage": "4Gi", "workspace": "4Gi"});
        c.spec.resources = Some(from(json!({"max": max})));
    });
    let limits = |sandbox: &AgentSandbox| {
        let all = accept(&identity(), sandbox, &ceiling, &platform()).unwrap().limits;
        (all.cpu_millis, all.memory_bytes, all.ephemeral_bytes, all.workspace_bytes)
    };
    let asks = |limits: Value, workspace: Option<&str>| {
        sandbox(|s| {
            s.spec.resources = Some(from(json!({"limits": limits})));
            s.spec.workspace = workspace.map(|size| from(json!({"sizeLimit": size})));
        })
    };
    let most = asks(json!({"cpu": "4", "memory": "4Gi", "ephemeralStorage": "4Gi"}), Some("4Gi"));
    assert_eq!(limits(&most), (4000, 4 << 30, 4 << 30, 4 << 30));
    let less = asks(json!({"cpu": "2", "memory": "2Gi", "ephemeralStorage": "2Gi"}), Some("2Gi"));
    assert_eq!(limits(&less), (2000, 2 << 30, 2 << 30, 2 << 30));
    assert_eq!(limits(&asks(json!({}), None)), (1000, 1 << 30, 1 << 30, 1 << 30), "our own defaults");
}

#[test]
fn p_g3_a_rule_may_send_as_much_as_its_class_allows_and_limits_that_say_nothing_are_told() {
    let asks = |limits: Value| rule(|r| r.limits = Some(from(limits)));
    let limits = json!({"uploadBytes": "100Mi", "uploadBytesPerMinute": "1Mi"});
    let ceiling = with_class(|c| c.spec.egress = Some(from(json!({"limits": limits.clone()}))));
    assert!(is_accepted(&asks(limits.clone()), &ceiling));
    let found = rejected(&asks(json!({})), &ordinary());
    assert!(
        matches!(found.as_slice(), [(RejectionReason::InvalidField, field)] if field.starts_with("spec.egress.allow[0].limits")),
        "{found:?}"
    );
    for one in [json!({"uploadBytes": "1Mi"}), json!({"uploadBytesPerMinute": "1Mi"})] {
        let of_class = with_class(|c| c.spec.egress = Some(from(json!({"limits": one}))));
        let accepted = accept(&identity(), &sandbox(|_| ()), &of_class, &platform()).unwrap();
        assert!(
            accepted.rules.iter().all(|rule| rule.limits.is_some()),
            "what only the class says holds: {one}"
        );
    }
}

#[test]
fn o_h22_a_metadata_address_is_told_as_what_it_is_and_any_other_range_is_taken_whole() {
    let allows =
        |range: &str| with_class(|c| c.spec.egress = Some(from(json!({"allowedPrivateRanges": [range]}))));
    for range in ["169.254.169.254/32", "100.100.100.200/32", "private"] {
        let told = told(&sandbox(|_| ()), &allows(range));
        assert!(told.contains(&format!("allows the private range {range}, which is no IPv4 CIDR")), "{told}");
    }
    let accepted = accept(&identity(), &sandbox(|_| ()), &allows("192.168.7.9/24"), &platform()).unwrap();
    assert_eq!(accepted.class.private_ranges, ["192.168.7.0/24".parse().unwrap()]);
}

#[test]
fn o_t3_two_credentials_may_set_one_variable_to_the_same_value_alone() {
    let other = |value: &str| {
        credential(|c| {
            c.metadata.name = Some("other".to_owned());
            c.spec.hosts = Some(from(json!([{"host": "api.other.test"}])));
            c.spec.placeholder_env = Some(from(json!([{"name": "ANTHROPIC_API_KEY", "value": value}])));
        })
    };
    let asks = sandbox(|s| {
        let rule = json!({"host": "api.other.test", "credential": "other"});
        s.spec.egress.as_mut().unwrap().allow.push(from(rule));
    });
    let known = |value: &str| references(vec![class(|_| ())], vec![credential(|_| ()), other(value)]);
    assert!(is_accepted(&asks, &known("placeholder")));
    only(rejected(&asks, &known("elsewhere")), RejectionReason::InvalidField, "spec.egress.allow");
    assert!(told(&asks, &known("elsewhere")).contains("to different values"));
}

#[test]
fn the_longest_name_of_a_namespace_and_of_a_keys_prefix_select_a_collectors_pods() {
    let with = |namespace: &str, key: &str| {
        let pods = json!({"namespace": namespace, "labels": {key: "otel"}});
        with_class(|c| {
            c.spec.tracing = Some(from(json!({"endpoint": "http://10.96.0.50:4318", "pods": pods})))
        })
    };
    let (long, longer) = ("a".repeat(63), "a".repeat(64));
    let (prefix, more) = (format!("{}/app", "a".repeat(253)), format!("{}/app", "a".repeat(254)));
    for (namespace, key) in [(long.as_str(), "app"), ("a-1.b2", "app"), ("observability", prefix.as_str())] {
        assert!(is_accepted(&sandbox(|_| ()), &with(namespace, key)), "{namespace} {key}");
    }
    for (namespace, key) in [
        (longer.as_str(), "app"),
        ("-a", "app"),
        ("a-", "app"),
        ("a..b", "app"),
        ("a_b", "app"),
        ("observability", more.as_str()),
        ("observability", "-a.io/app"),
        ("observability", "a.io-/app"),
    ] {
        let found = rejected(&sandbox(|_| ()), &with(namespace, key));
        only(found, RejectionReason::ClassUnsupported, "spec.className");
    }
}

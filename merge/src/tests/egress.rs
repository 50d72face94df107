//! Rules within rules.

use agentsandbox_crds::sandbox::{EgressRule, Websocket};
use proptest::sample::{select, subsequence};

use super::*;

fn rules(own: &Value, of: &Value) -> Result<Value, Vec<Fault>> {
    let of = json!({"agent": {"image": "a:1"}, "egress": {"allow": of}});
    merged(json!({"egress": {"allow": own}}), &of).map(|found| found["egress"]["allow"].clone())
}

#[test]
fn a_rule_takes_what_it_does_not_say_from_the_rule_that_it_lies_in() {
    let of = json!([
        {"host": "pypi.org", "methods": ["GET", "HEAD"]},
        {"name": "api", "host": "**.acme.test", "ports": [443, 8443], "methods": ["GET", "POST"], "paths": ["/v1/**"], "credential": "key",
            "websocket": "Allow", "limits": {"uploadBytes": "1Mi"}, "headers": ["accept", "content-type"]},
    ]);
    let own = json!([
        {"host": "a.acme.test", "paths": ["/v1/a/*"], "limits": {"uploadBytesPerMinute": "1Ki"}},
        {"host": "pypi.org", "answer": {"maxBytes": "1Mi"}},
    ]);
    let wanted = json!([
        {"name": "api", "host": "a.acme.test", "ports": [443, 8443], "methods": ["GET", "POST"], "paths": ["/v1/a/*"], "credential": "key",
            "websocket": "Allow", "limits": {"uploadBytes": "1Mi", "uploadBytesPerMinute": "1Ki"}, "headers": ["accept", "content-type"]},
        {"host": "pypi.org", "methods": ["GET", "HEAD"], "answer": {"maxBytes": "1Mi"}},
    ]);
    assert_eq!(rules(&own, &of), Ok(wanted));
}

#[test]
fn a_sandbox_that_writes_egress_without_rules_reaches_nothing() {
    let of = json!({"agent": {"image": "a:1"}, "egress": {"allow": [{"host": "pypi.org"}]}});
    assert_eq!(merged(json!({"egress": {}}), &of).unwrap()["egress"], json!({}));
    assert_eq!(merged(json!({}), &of).unwrap()["egress"], of["egress"]);
}

#[test]
fn a_rule_that_lies_in_none_of_the_template_is_refused_with_both_fields() {
    let of = json!([
        {"host": "*.acme.test", "methods": ["GET"], "paths": ["/v1/*"], "headers": ["accept"], "answer": {"maxBytes": "1Mi", "contentTypes": ["text/*"]},
            "limits": {"uploadBytes": "1Mi"}},
        {"host": "key.test", "credential": "key"},
        {"host": "plain.test", "scheme": "Http"},
    ]);
    for (own, field, at) in [
        (json!({"host": "evil.test"}), "host", ""),
        (json!({"host": "**.acme.test"}), "host", ""),
        (json!({"host": "a.acme.test", "ports": [22]}), "ports", "[0].ports"),
        (json!({"host": "a.acme.test", "scheme": "Http"}), "scheme", "[0].scheme"),
        (json!({"host": "a.acme.test", "methods": ["GET", "POST"]}), "methods", "[0].methods"),
        (json!({"host": "a.acme.test", "paths": ["/v1/**"]}), "paths", "[0].paths"),
        (json!({"host": "a.acme.test", "paths": ["/V1/a"]}), "paths", "[0].paths"),
        (json!({"host": "a.acme.test", "websocket": "Allow"}), "websocket", "[0].websocket"),
        (json!({"host": "a.acme.test", "tls": "Passthrough"}), "tls", "[0].tls"),
        (json!({"host": "a.acme.test", "headers": ["cookie"]}), "headers", "[0].headers"),
        (json!({"host": "a.acme.test", "credential": "key"}), "credential", "[0].credential"),
        (
            json!({"host": "a.acme.test", "clientCertificate": "key"}),
            "clientCertificate",
            "[0].clientCertificate",
        ),
        (json!({"host": "key.test", "credential": "other"}), "credential", "[1].credential"),
        (
            json!({"host": "a.acme.test", "limits": {"uploadBytes": "2Mi"}}),
            "limits.uploadBytes",
            "[0].limits.uploadBytes",
        ),
        (
            json!({"host": "a.acme.test", "answer": {"maxBytes": "2Mi"}}),
            "answer.maxBytes",
            "[0].answer.maxBytes",
        ),
        (
            json!({"host": "a.acme.test", "answer": {"contentTypes": ["image/png"]}}),
            "answer.contentTypes",
            "[0].answer.contentTypes",
        ),
    ] {
        let found = rules(&json!([own]), &of);
        refused(found, &format!("egress.allow[0].{field}"), &format!("sandbox.egress.allow{at}"));
    }
    let within = json!([
        {"host": "a.acme.test", "ports": [443], "scheme": "Https", "methods": ["GET"], "paths": ["/v1/a"], "websocket": "Deny", "tls": "Intercept",
            "headers": ["accept"], "limits": {"uploadBytes": "1Ki"}, "answer": {"maxBytes": "1Ki", "contentTypes": ["text/plain"]}},
        {"host": "key.test", "credential": "key"},
        {"host": "plain.test", "ports": [80]},
    ]);
    assert!(rules(&within, &of).is_ok(), "{:?}", rules(&within, &of));
    let nothing = rules(&json!([{"host": "a.test"}]), &json!([]));
    refused(nothing, "egress.allow[0].host", "sandbox.egress.allow");
}

#[test]
fn limits_that_count_for_many_hosts_are_not_had_once_for_each() {
    let of = json!([{"host": "*.acme.test", "limits": {"uploadBytes": "1Mi"}}]);
    let twice = json!([{"host": "a.acme.test"}, {"host": "b.acme.test"}]);
    refused(rules(&twice, &of), "egress.allow[1].host", "sandbox.egress.allow[0].limits");
    let together =
        json!([{"host": "a.acme.test", "paths": ["/a"]}, {"host": "a.acme.test", "paths": ["/b"]}]);
    assert!(rules(&together, &of).is_ok());
    assert!(rules(&twice, &json!([{"host": "*.acme.test"}])).is_ok(), "the control: without limits");
}

#[test]
fn what_the_template_has_passed_unopened_is_opened_where_the_sandbox_judges_it() {
    let of = json!([{"host": "a.test", "tls": "Passthrough"}]);
    assert_eq!(rules(&json!([{"host": "a.test"}]), &of).unwrap()[0]["tls"], "Passthrough");
    assert_eq!(rules(&json!([{"host": "a.test", "methods": ["GET"]}]), &of).unwrap()[0]["tls"], json!(null));
}

#[test]
fn keys_are_the_sandboxs_to_name_where_the_template_names_none() {
    let own = json!([{"host": "a.test", "credential": "mine"}]);
    assert_eq!(rules(&own, &json!([{"host": "a.test"}])), Ok(own.clone()));
    let of = json!([{"host": "a.test"}, {"host": "b.test", "clientCertificate": "key"}]);
    refused(rules(&own, &of), "egress.allow[0].credential", "sandbox.egress.allow[0].credential");
}

#[test]
fn no_rule_allows_what_a_more_specific_rule_of_the_template_says_more_of() {
    let of = json!([
        {"host": "**.acme.test"},
        {"host": "api.acme.test", "credential": "key", "limits": {"uploadBytes": "1Mi"}, "headers": ["accept"]},
    ]);
    let around = json!([{"host": "**.acme.test"}]);
    refused(rules(&around, &of), "egress.allow[0].host", "sandbox.egress.allow[1]");
    let guarded = rules(&json!([{"host": "api.acme.test"}]), &of).unwrap();
    assert_eq!(guarded[0]["credential"], "key", "the rule that would speak is the one that it lies in");
    assert_eq!(rules(&of, &of), Ok(of.clone()));
    let starred =
        json!([{"host": "**.acme.test"}, {"host": "*.acme.test", "methods": ["GET"], "credential": "key"}]);
    let under = json!([{"host": "*.acme.test"}, {"host": "a.acme.test", "methods": ["GET", "POST"]}]);
    refused(rules(&under, &starred), "egress.allow[1].host", "sandbox.egress.allow[1]");
    let beside = json!([{"host": "x.test", "methods": ["GET"], "credential": "key"}, {"host": "x.test"}]);
    assert_eq!(rules(&beside, &beside), Ok(beside.clone()), "a rule of the template's own is that one");
    let turned =
        json!([{"host": "x.test", "methods": ["GET", "POST"]}, {"host": "x.test", "methods": ["GET"]}]);
    refused(rules(&turned, &beside), "egress.allow[0].host", "sandbox.egress.allow[0]");
    let narrower = json!([{"host": "**.acme.test"}, {"host": "api.acme.test", "methods": ["GET"]}]);
    refused(rules(&narrower, &of), "egress.allow[0].host", "sandbox.egress.allow[1]");
    assert!(
        rules(&json!([{"host": "*.eu.acme.test"}]), &of).is_ok(),
        "the control: another part of the pattern"
    );
    let apart = json!([
        {"host": "a.test", "paths": ["/a/**"], "credential": "one"},
        {"host": "a.test", "paths": ["/b/**"], "credential": "two"},
        {"host": "a.test", "methods": ["GET"]},
    ]);
    assert!(rules(&json!([{"host": "a.test", "paths": ["/b/x"]}]), &apart).is_ok());
    let beside = json!([{"host": "a.test", "methods": ["GET"], "paths": ["/**"]}]);
    refused(rules(&beside, &apart), "egress.allow[0].host", "sandbox.egress.allow[0]");
}

#[test]
fn what_the_template_opens_is_not_passed_unopened_by_a_wider_rule() {
    let of = json!([
        {"host": "**.acme.test", "tls": "Passthrough"},
        {"host": "secret.acme.test", "methods": ["GET"]},
    ]);
    let around = json!([{"host": "**.acme.test"}]);
    refused(rules(&around, &of), "egress.allow[0].host", "sandbox.egress.allow[1]");
    let opened = rules(&json!([{"host": "secret.acme.test"}]), &of).unwrap();
    assert_eq!((opened[0].get("tls"), &opened[0]["methods"]), (None, &json!(["GET"])));
    let unopened = json!([{"host": "secret.acme.test", "tls": "Passthrough"}]);
    refused(rules(&unopened, &of), "egress.allow[0].host", "sandbox.egress.allow[1]");
    let starred =
        json!([{"host": "**.acme.test", "tls": "Passthrough"}, {"host": "*.acme.test", "methods": ["GET"]}]);
    let under = json!([{"host": "*.acme.test"}, {"host": "a.acme.test", "tls": "Passthrough"}]);
    refused(rules(&under, &starred), "egress.allow[1].host", "sandbox.egress.allow[1]");
    let same = json!([{"host": "x.test", "tls": "Passthrough"}, {"host": "x.test"}]);
    assert_eq!(rules(&json!([{"host": "x.test"}]), &same).unwrap()[0].get("tls"), None);
}

#[test]
fn a_key_goes_to_no_place_of_operations_that_the_template_does_not_name() {
    let asks = |paths: Value, of: Value| {
        let of = json!([{"host": "a.test", "paths": of, "credential": "key"}]);
        rules(&json!([{"host": "a.test", "paths": paths}]), &of)
    };
    for path in ["/api/graphql", "/api/GraphQL", "/api/%2567raphql"] {
        refused(
            asks(json!([path]), json!(["/api/**"])),
            "egress.allow[0].paths",
            "sandbox.egress.allow[0].paths",
        );
    }
    assert!(
        asks(json!(["/api/graphql"]), json!(["/api/**", "/api/graphql"])).is_ok(),
        "the control: it is named"
    );
    assert!(asks(json!(["/api/users"]), json!(["/api/**"])).is_ok());
    let everywhere = json!([{"host": "a.test", "credential": "key"}]);
    let named = json!([{"host": "a.test", "paths": ["/graphql"]}]);
    refused(rules(&named, &everywhere), "egress.allow[0].paths", "sandbox.egress.allow[0].paths");
    assert!(rules(&named, &json!([{"host": "a.test"}])).is_ok(), "the control: without a key");
}

#[test]
fn limits_of_one_pattern_are_one_whatever_rules_write_it() {
    let of = json!([
        {"host": "*.acme.test", "paths": ["/x/**"], "limits": {"uploadBytes": "1Mi"}},
        {"host": "*.acme.test", "paths": ["/y/**"], "limits": {"uploadBytes": "1Mi"}},
    ]);
    let own = |other: &str| json!([{"host": "a.acme.test", "paths": ["/x/**"]}, {"host": other, "paths": ["/y/**"]}]);
    refused(rules(&own("b.acme.test"), &of), "egress.allow[1].host", "sandbox.egress.allow[0].limits");
    assert!(rules(&own("a.acme.test"), &of).is_ok(), "the control: one host");
}

#[test]
fn as_many_rules_and_paths_as_can_be_written_are_not_all_compared() {
    let deep = |at: usize, end: &str| format!("{}/{at}/{end}", "/a".repeat(100));
    let of_rules = |end: &str| {
        let paths: Vec<String> = (0..16).map(|at| deep(at, end)).collect();
        let rules: Vec<Value> = (0..128).map(|_| json!({"host": "*.acme.test", "paths": paths})).collect();
        json!(rules)
    };
    let faults = rules(&of_rules("x"), &of_rules("y*")).unwrap_err();
    assert!(faults.iter().any(|fault| fault.message.contains("too many to compare")), "{:?}", faults.last());
    let few = json!([{"host": "a.acme.test", "paths": ["/a"]}]);
    assert!(rules(&few, &json!([{"host": "a.acme.test", "paths": ["/**"]}])).is_ok(), "the control");
}

/// A request, as far as rules judge it.
#[derive(Clone, Copy, Debug)]
struct Asked<'a> {
    host: &'a str,
    port: i32,
    method: &'a str,
    path: &'a str,
    is_websocket: bool,
}

/// Whether a pattern of hosts or paths matches, by its segments: as a reader of the documentation would, and not as the code does.
fn matches(pattern: &[&str], text: &[&str]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), Some((_, others))) => matches(rest, others) || matches(pattern, others),
        (Some((&"*", rest)), Some((_, others))) => matches(rest, others),
        (Some((one, rest)), Some((other, others))) => one == other && matches(rest, others),
        _ => false,
    }
}

fn allows(rule: &EgressRule, asked: Asked<'_>) -> bool {
    let same = |pattern: &str, text: &str, by: char| {
        matches(&pattern.split(by).collect::<Vec<_>>(), &text.split(by).collect::<Vec<_>>())
    };
    let methods = rule.methods.as_ref();
    same(&rule.host, asked.host, '.')
        && rule.ports.as_ref().map_or(asked.port == 443, |ports| ports.contains(&asked.port))
        && methods.is_none_or(|all| all.iter().any(|one| one.as_str() == asked.method))
        && rule.paths.as_ref().is_none_or(|all| all.iter().any(|glob| same(glob, asked.path, '/')))
        && (!asked.is_websocket || rule.websocket == Some(Websocket::Allow))
}

/// The rule that speaks for a request: of the most specific host, and the first of those.
fn speaker<'a>(rules: &'a [EgressRule], asked: Asked<'_>) -> Option<&'a EgressRule> {
    let rank = |rule: &&EgressRule| {
        let stars = rule.host.chars().filter(|one| *one == '*').count();
        (stars, std::cmp::Reverse(rule.host.len()))
    };
    rules.iter().filter(|rule| allows(rule, asked)).min_by_key(rank)
}

fn any_rule() -> impl Strategy<Value = Value> {
    let hosts = select(vec!["a.x.test", "b.x.test", "c.a.x.test", "*.x.test", "**.x.test", "*.a.x.test"]);
    let some = |of: Vec<&'static str>| option::of(subsequence(of.clone(), 1..=of.len()));
    let ports = option::of(subsequence(vec![443, 8443], 1..=2));
    let paths = some(vec!["/v1/**", "/v1/*", "/v1/a", "/**", "/V1/a", "/*/a"]);
    let websocket = option::of(select(vec!["Allow", "Deny"]));
    let credential = option::of(select(vec!["k", "l"]));
    let limits = option::of(select(vec!["1Mi", "2Mi"]).prop_map(|most| json!({"uploadBytes": most})));
    let all = (hosts, ports, some(vec!["GET", "POST"]), paths, websocket, credential, limits);
    all.prop_map(|(host, ports, methods, paths, websocket, credential, limits)| {
        let rule = json!({"host": host, "ports": ports, "methods": methods, "paths": paths, "websocket": websocket,
            "credential": credential, "limits": limits});
        rule.as_object().unwrap().clone().into_iter().filter(|(_, value)| !value.is_null()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_request_is_allowed_that_the_template_does_not_allow_with_the_same_key_and_no_lower_limit(
        own in prop::collection::vec(any_rule(), 1..3),
        of in prop::collection::vec(any_rule(), 1..4),
    ) {
        let read = |rules: &Value| serde_json::from_value::<Vec<EgressRule>>(rules.clone()).unwrap();
        let Ok(merged) = rules(&json!(own), &json!(of)) else { return Ok(()) };
        let (merged, of) = (read(&merged), read(&json!(of)));
        let names_keys = of.iter().any(|rule| rule.credential.is_some());
        for host in ["a.x.test", "b.x.test", "c.a.x.test", "d.c.a.x.test", "x.test"] {
            for (port, is_websocket) in [(443, false), (8443, false), (443, true)] {
                for (method, path) in [("GET", "/v1/a"), ("POST", "/v1/a/b"), ("GET", "/V1/a"), ("POST", "/v1/b"), ("GET", "/")] {
                    let asked = Asked { host, port, method, path, is_websocket };
                    let Some(speaks) = speaker(&merged, asked) else { continue };
                    let Some(outer) = speaker(&of, asked) else {
                        return Err(TestCaseError::fail(format!("{asked:?} by {speaks:?}")));
                    };
                    prop_assert!(!names_keys || outer.credential == speaks.credential, "{asked:?}: {speaks:?} {outer:?}");
                    let bytes = |rule: &EgressRule| rule.limits.as_ref().and_then(|all| all.upload_bytes.clone());
                    if let Some(most) = bytes(outer) {
                        prop_assert!(bytes(speaks).is_some_and(|own| own <= most), "{asked:?}: {speaks:?} {outer:?}");
                    }
                }
            }
        }
    }
}

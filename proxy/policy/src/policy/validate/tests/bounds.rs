//! What a document may hold at most, and that nothing it says is lost.

use super::*;

#[test]
fn what_a_document_does_not_say_is_not_written_and_all_that_it_says_is() {
    let roots = "-----BEGIN CERTIFICATE-----\n";
    let bare = VALID.replacen("addresses: {allow: [10.20.3.4/16], deny: [10.244.0.0/16]}\n", "", 1);
    let full = VALID.replacen("generation: 0", "generation: 7", 1)
        + &format!("upstream: {{additionalRoots: {roots:?}}}\n");
    for (text, generation, additional_roots) in [(bare, 0, None), (full, 7, Some(roots))] {
        let document: PolicyDocument = serde_yaml::from_str(&text).unwrap();
        let written = serde_json::to_value(&document).unwrap();
        for field in ["addresses", "upstream"] {
            assert_eq!(written.get(field).is_some(), additional_roots.is_some(), "{field}");
        }
        assert_eq!(serde_json::from_value::<PolicyDocument>(written).unwrap(), document);
        let policy = Policy::try_from(document).unwrap();
        assert_eq!((policy.generation(), policy.additional_roots()), (generation, additional_roots));
    }
    let told = faults("generation: 0", "generation: 0\nupstream: {additionalRoots: roots.pem}");
    assert!(told.len() == 1 && told[0].starts_with("upstream.additionalRoots: write PEM"), "{told:?}");
}

#[test]
fn a_policy_tells_which_credential_goes_where_and_what_stands_in_for_it() {
    let stands_in = "{name: key, placeholders: [placeholder-1], constants: [constant-1], ";
    let policy = Policy::from_yaml(&VALID.replacen("{name: key, ", stands_in, 1)).unwrap();
    let injection = Injection::Header { name: "x-api-key".to_owned(), prefix: "token ".to_owned() };
    assert_eq!(policy.placeholders().collect::<Vec<_>>(), [("key", &["placeholder-1".to_owned()][..])]);
    assert_eq!(policy.constants().collect::<Vec<_>>(), [("key", &["constant-1".to_owned()][..])]);
    let [own, other] = ["api.good.test", "x.good.test"].map(|host| Host::parse(host).unwrap());
    assert_eq!(policy.injections_at(&own).collect::<Vec<_>>(), [&injection]);
    assert_eq!(policy.credentials_of_host(&own).collect::<Vec<_>>(), [(0, "key", &injection)]);
    assert!(
        policy.injections_at(&other).next().is_none() && policy.credentials_of_host(&other).next().is_none()
    );
}

#[test]
fn numbers_of_everything_are_bounded() {
    let rule = "- {name: wild, host: \"*.good.test\", ports: [8080], scheme: http}\n";
    let rules: String = (0..RULES_MAX).map(|index| rule.replace("wild", &format!("wild-{index}"))).collect();
    assert_eq!(faults(rule, &rules), ["rules: write at most 10000 entries"]);
    let ports = (1..=65).map(|port| port.to_string()).collect::<Vec<_>>().join(", ");
    assert_eq!(faults("8443, 443", &ports), ["rules[0].ports: write at most 64 entries"]);
}

#[test]
fn each_bound_may_be_reached_and_not_passed() {
    fn many(count: usize, entry: impl Fn(usize) -> String) -> String {
        format!("[{}]", (0..count).map(entry).collect::<Vec<_>>().join(", "))
    }
    fn long(count: usize) -> String {
        "a".repeat(count)
    }
    type Written = fn(usize) -> String;
    let (get, key, inject) =
        ("methods: [GET]", "{name: key, ", "{type: Header, name: x-api-key, prefix: \"token \"}");
    let scopes = "[{host: api.good.test, ports: [443]}]";
    let bounds: [(&str, usize, Written); 28] = [
        ("[8443, 443]", 64, |count| many(count, |number| format!("{}", number + 1))),
        (get, 32, |count| format!("methods: {}", many(count, |number| format!("M{number}")))),
        ("[\"/v1/*\"]", 64, |count| many(count, |number| format!("/{number}"))),
        ("[\"/v1/*\"]", 1024, |count| format!("[/{}]", long(count - 1))),
        ("name: api,", 300, |count| format!("name: {},", long(count))),
        (get, 1 << 50, |bytes| format!("limits: {{uploadBytes: {bytes}}}")),
        (get, 1 << 50, |bytes| format!("limits: {{uploadBytesPerMinute: {bytes}}}")),
        (get, 1 << 50, |bytes| format!("answer: {{maxBytes: {bytes}}}")),
        (get, 16, |count| {
            format!("answer: {{contentTypes: {}}}", many(count, |number| format!("a/{number}")))
        }),
        (get, 64, |count| format!("answer: {{contentTypes: [{}/b]}}", long(count))),
        (get, 64, |count| format!("answer: {{contentTypes: [b/{}]}}", long(count))),
        (get, 32, |count| format!("headers: {}", many(count, |number| format!("x-{number}")))),
        (get, 64, |count| format!("headers: [{}]", long(count))),
        (key, 16, |count| format!("{{name: key, placeholders: {}, ", many(count, |_| long(8)))),
        (key, 1024, |count| format!("{{name: key, placeholders: [{}], ", long(count))),
        (key, 1024, |count| format!("{{name: key, constants: [{}], ", long(count))),
        (key, 32, |count| {
            format!("{{name: key, pinnedHeaders: {}, ", many(count, |number| format!("{{name: x-{number}}}")))
        }),
        (key, 64, |count| format!("{{name: key, pinnedHeaders: [{{name: {}}}], ", long(count))),
        (key, 256, |count| format!("{{name: key, pinnedHeaders: [{{name: x, value: {}}}], ", long(count))),
        (scopes, 64, |count| many(count, |_| "{host: api.good.test, ports: [443]}".to_owned())),
        (scopes, 128, |count| {
            let paths = many(count, |number| format!("/{number}"));
            format!("[{{host: api.good.test, ports: [443], exceptPaths: {paths}}}]")
        }),
        (inject, 64, |count| format!("{{type: Header, name: {}}}", long(count))),
        (inject, 256, |count| format!("{{type: Header, name: x, prefix: {}}}", long(count))),
        (inject, 256, |count| format!("{{type: Basic, username: {}}}", long(count))),
        (inject, 256, |count| format!("{{type: Query, name: {}}}", long(count))),
        (inject, 256, |count| format!("{{type: Cookie, name: {}}}", long(count))),
        (inject, 256, |count| {
            format!("{{type: PathSegment, after: /{}}}, placeholders: [long-enough]", long(count - 1))
        }),
        ("[10.244.0.0/16]", 4096, |count| {
            many(count, |number| format!("10.{}.{}.0/24", number >> 8, number & 255))
        }),
    ];
    for (from, most, written) in bounds {
        let text = |count| VALID.replacen(from, &written(count), 1);
        let (fits, passes) = (Policy::from_yaml(&text(most)), Policy::from_yaml(&text(most + 1)));
        assert!(fits.is_ok(), "{from}, {most}: {}", fits.unwrap_err());
        assert_eq!(passes.map_err(|error| error.faults().len()).err(), Some(1), "{from}, {most}");
    }
}

#[test]
fn the_largest_document_survives_the_way_it_is_written_in() {
    /// Entries of `spec.egress.allow`.
    const WRITTEN_RULES_MAX: usize = 256;
    let mut document: PolicyDocument = serde_yaml::from_str(VALID).unwrap();
    let rule = document.rules[0].clone();
    document.rules = (0..WRITTEN_RULES_MAX)
        .map(|index| RuleDocument {
            name: format!("api-{index}"),
            paths: Some((0..16).map(|path| format!("/{path}/{}", "x".repeat(250))).collect()),
            ..rule.clone()
        })
        .collect();
    document.addresses.deny =
        (0..RANGES_MAX).map(|index| format!("100.{}.{}.0/24", 64 + index / 256, index % 256)).collect();
    document.upstream.additional_roots =
        Some(format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", "TUlJ\n".repeat(13_000)));
    // The operator writes JSON, which is YAML.
    let text = serde_json::to_string_pretty(&document).unwrap();
    assert_eq!(serde_yaml::from_str::<PolicyDocument>(&text).unwrap(), document);
    let policy = Policy::from_yaml(&text).unwrap();
    assert_eq!(
        (policy.rule_count(), policy.additional_roots()),
        (WRITTEN_RULES_MAX, document.upstream.additional_roots.as_deref())
    );
}

#[test]
fn p_c5_a_document_says_for_how_many_seconds_bodies_may_drain_and_nothing_else_is_taken() {
    let saying = |text: &str| VALID.replacen("generation: 0", &format!("generation: 0\n{text}"), 1);
    for (text, seconds) in [("", 0), ("drainSeconds: 1", 1), ("drainSeconds: 300", 300)] {
        assert_eq!(Policy::from_yaml(&saying(text)).unwrap().drain.as_secs(), seconds, "{text}");
    }
    for text in ["0", "301", "-1", "1.5", "null", "Drain", "30s", "65537"] {
        let told = faults("generation: 0", &format!("generation: 0\ndrainSeconds: {text}"));
        assert_eq!(told.len(), 1, "{text}: {told:?}");
    }
    assert_eq!(faults("generation: 0", "generation: 0\nonRevoke: Drain").len(), 1);
    assert_eq!(
        faults("generation: 0", "generation: 0\ndrainSeconds: 0"),
        ["drainSeconds: write 1 to 300 seconds, or nothing to end at once"]
    );
}

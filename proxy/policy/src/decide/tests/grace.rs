//! What a request that is on its way is given when its rule goes.

use std::time::Duration;

use super::request;
use crate::Policy;

const POLICY: &str = r#"
apiVersion: policy.agentsandbox.dev/v1
sandbox: {namespace: team, name: demo, uid: 1b2c}
generation: 3
rules:
- {name: keyed, host: api.good.test, ports: [443], scheme: https, paths: ["/v1/**"], credential: key}
- {name: shown, host: mtls.good.test, ports: [443], scheme: https, paths: ["/v1/**"], clientCertificate: pair}
- {name: open, host: open.test, ports: [443], scheme: https, paths: ["/v1/**"]}
credentials:
- {name: key, inject: {type: Bearer}, scopes: [{host: api.good.test, ports: [443], paths: ["/v1/**"]}]}
clientCertificates:
- {name: pair, certificateFile: pair.crt, keyFile: pair.key, scopes: [{host: mtls.good.test, ports: [443], paths: ["/v1/**"]}]}
drainSeconds: 30
"#;

/// What this request is given that [`POLICY`] permits, under the document that it becomes.
fn given(line: &str, edits: &[(&str, &str)]) -> u64 {
    let permit = Policy::from_yaml(POLICY).unwrap().decide(request(line)).unwrap();
    let edited = edits.iter().fold(POLICY.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    });
    let policy = Policy::from_yaml(&edited).unwrap();
    assert!(policy.decide(request(line)).is_err(), "{line} is allowed");
    policy.grace(&request(line), permit.credential(), permit.certificate()).as_secs()
}

const KEYED: &str = "GET https://api.good.test/v1/x";
const SHOWN: &str = "GET https://mtls.good.test/v1/x";
const OPEN: &str = "GET https://open.test/v1/x";
const ELSEWHERE: (&str, &str) =
    (r#"scheme: https, paths: ["/v1/**"]"#, r#"scheme: https, paths: ["/v2/**"]"#);

#[test]
fn p_c5_what_lost_its_rule_alone_may_drain_and_for_as_long_as_the_document_says() {
    for (line, rule) in [
        (
            KEYED,
            r#"- {name: keyed, host: api.good.test, ports: [443], scheme: https, paths: ["/v1/**"], credential: key}"#,
        ),
        (OPEN, r#"- {name: open, host: open.test, ports: [443], scheme: https, paths: ["/v1/**"]}"#),
    ] {
        assert_eq!(given(line, &[ELSEWHERE]), 30, "{line}");
        assert_eq!(given(line, &[ELSEWHERE, ("drainSeconds: 30", "drainSeconds: 7")]), 7, "{line}");
        assert_eq!(given(line, &[ELSEWHERE, ("drainSeconds: 30\n", "")]), 0, "{line}");
        assert_eq!(given(line, &[(rule, "")]), 30, "{line}");
    }
    assert_eq!(given(SHOWN, &[ELSEWHERE]), 30);
    let denied_by_its_rule = [
        (
            r#"host: open.test, ports: [443], scheme: https, paths: ["/v1/**"]}"#,
            r#"host: open.test, ports: [443], scheme: https, paths: ["/v1/**"], credential: other}"#,
        ),
        (
            "credentials:\n",
            "credentials:\n- {name: other, inject: {type: Bearer}, scopes: [{host: open.test, ports: [443], paths: [/v1/y]}]}\n",
        ),
    ];
    assert_eq!(given(OPEN, &denied_by_its_rule), 0, "a rule speaks for it");
    let of_traces = ("drainSeconds: 30", "drainSeconds: 30\ntracing: {endpoint: 'https://open.test:443'}");
    assert_eq!(given(OPEN, &[ELSEWHERE, of_traces]), 0, "no rule could allow it");
    assert_eq!(Policy::from_yaml(POLICY).unwrap().drain, Duration::from_secs(30));
}

#[test]
fn p_c5_what_lost_its_credential_or_its_certificate_never_drains() {
    let scope = |host: &str| format!(r#"scopes: [{{host: {host}, ports: [443], paths: ["/v1/**"]}}]"#);
    let narrower = |host: &str| format!(r#"scopes: [{{host: {host}, ports: [443], paths: ["/v1/y"]}}]"#);
    for (line, host, credential, other) in [
        (
            KEYED,
            "api.good.test",
            "- {name: key, inject: {type: Bearer}",
            "- {name: key, inject: {type: Header, name: x-key}",
        ),
        (KEYED, "api.good.test", "- {name: key, inject", "- {name: key, file: key-2, inject"),
        (SHOWN, "mtls.good.test", "certificateFile: pair.crt", "certificateFile: pair-2.crt"),
    ] {
        assert_eq!(given(line, &[ELSEWHERE, (credential, other)]), 0, "{other}");
        assert_eq!(given(line, &[ELSEWHERE, (&scope(host), &narrower(host))]), 0, "{host}");
        // It was withdrawn, and its rule is there.
        assert_eq!(given(line, &[(&scope(host), &narrower(host))]), 0, "{host}");
    }
    let gone = r#"- {name: key, inject: {type: Bearer}, scopes: [{host: api.good.test, ports: [443], paths: ["/v1/**"]}]}"#;
    let rule = ("paths: [\"/v1/**\"], credential: key}", "paths: [\"/v2/**\"]}");
    assert_eq!(given(KEYED, &[rule, (gone, ""), ("credentials:\n", "")]), 0, "the document has it no more");
    assert_eq!(given(KEYED, &[rule]), 30, "and here it has");
}

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

mod absent;
mod advice;
mod certificates;
mod credentials;
mod examples;
mod grace;
mod index;

const POLICY: &str = r#"
apiVersion: policy.agentsandbox.dev/v1
sandbox: {namespace: team, name: demo, uid: 1b2c}
generation: 3
rules:
- {name: api, host: api.good.test, ports: [443], scheme: https, methods: [GET, POST], paths: ["/v1/**"], credential: key}
- {name: wide, host: "**.good.test", ports: [443, 8443], scheme: https}
- {name: label, host: "*.good.test", ports: [443], scheme: https, methods: [PUT]}
- {name: plain, host: plain.test, ports: [80], scheme: http}
- {name: socket, host: socket.test, ports: [443], scheme: https, websocket: Allow}
- {name: listed, host: dav.test, ports: [443], scheme: https, methods: [PROPFIND, GET]}
- {name: internal, host: "**.azure.internal", ports: [80, 443], scheme: http}
- {name: narrow, host: narrow.test, ports: [443, 8443], scheme: https, credential: key}
- {name: books, host: bücher.test, ports: [443], scheme: https, credential: key}
credentials:
- name: key
  inject: {type: Header, name: x-api-key}
  scopes:
  - {host: api.good.test, ports: [443], paths: ["/v1/messages", "/v1/models/*"]}
  - {host: narrow.test, ports: [443], methods: [GET]}
  - {host: bücher.test, ports: [443]}
addresses: {allow: ["10.20.0.0/16"], deny: ["10.20.7.0/24"]}
"#;

fn policy() -> &'static Policy {
    static PARSED: LazyLock<Policy> = LazyLock::new(|| Policy::from_yaml(POLICY).unwrap());
    &PARSED
}

fn request(line: &str) -> Request {
    let (method, url) = line.split_once(' ').unwrap();
    let (scheme, rest) = url.split_once("://").unwrap();
    let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
    let (authority, target) = rest.split_at(rest.find('/').unwrap());
    let (host, port) = crate::parse_authority(authority, Some(scheme.default_port())).unwrap();
    Request {
        scheme,
        host,
        port,
        method: Method::parse(method).unwrap(),
        target: Target::parse(target).unwrap(),
        websocket: false,
    }
}

fn decide(line: &str) -> Result<Permit, Box<Denial>> {
    policy().decide(request(line))
}

/// The rule and the credential, or the reason.
fn verdict(line: &str) -> String {
    verdict_of(policy(), line)
}

fn verdict_of(policy: &Policy, line: &str) -> String {
    match policy.decide(request(line)) {
        Ok(permit) => format!("{} {}", permit.rule(), permit.credential().map_or("-", CredentialUse::name)),
        Err(denial) => denial.reason.to_string(),
    }
}

#[test]
fn a_request_is_allowed_by_all_of_a_rule_or_denied_by_what_is_nearest() {
    for (line, expected) in [
        ("GET https://api.good.test/v1/messages", "api key"),
        ("POST https://api.good.test/v1/models/x?limit=1", "api key"),
        ("GET https://x.good.test/", "wide -"),
        ("PUT https://x.good.test/", "label -"),
        ("GET https://a.b.good.test:8443/", "wide -"),
        ("GET http://plain.test/", "plain -"),
        ("GET https://evil.test/", "HostNotAllowed"),
        ("GET https://good.test/", "HostNotAllowed"),
        ("GET https://plain.test:80/", "SchemeNotAllowed"),
        ("GET http://socket.test:443/", "SchemeNotAllowed"),
        ("GET https://socket.test:8443/", "PortNotAllowed"),
        ("DELETE https://dav.test/", "MethodNotAllowed"),
        ("GET https://127.0.0.1/", "HostNotAllowed"),
        ("GET https://[::1]/", "HostNotAllowed"),
    ] {
        assert_eq!(verdict(line), expected, "{line}");
    }
}

#[test]
fn p_a13_a_port_that_no_rule_lists_is_denied() {
    for port in [22, 25, 9200] {
        assert_eq!(verdict(&format!("GET https://socket.test:{port}/")), "PortNotAllowed");
        let host = Host::parse("socket.test").unwrap();
        assert_eq!(
            policy().admit(Scheme::Https, &host, port).unwrap_err().reason,
            DenialReason::PortNotAllowed
        );
    }
    assert_eq!(verdict("GET https://socket.test/"), "socket -");
}

#[test]
fn p_a19_trace_track_connect_and_debug_are_denied_whatever_is_listed() {
    for method in ["TRACE", "TRACK", "CONNECT", "DEBUG"] {
        assert_eq!(verdict(&format!("{method} https://x.good.test/")), "MethodNotAllowed", "{method}");
    }
    let denial = decide("TRACE https://socket.test/").unwrap_err();
    assert_eq!(denial.how_to_allow, "TRACE is never allowed; use another method.");
}

#[test]
fn p_a20_a_websocket_passes_only_where_the_rule_allows_it() {
    let upgrade = |line: &str| policy().decide(Request { websocket: true, ..request(line) });
    assert!(upgrade("GET https://socket.test/ws").unwrap().websocket());
    let denial = upgrade("GET https://x.good.test/ws").unwrap_err();
    assert_eq!(denial.reason, DenialReason::WebsocketNotAllowed);
}

#[test]
fn p_b1_every_spelling_gets_the_same_rule_and_credential() {
    for host in
        ["API.GOOD.TEST", "api.good.test.", "api。good。test", "ａｐｉ.good.test", "a\u{ad}pi.good.test"]
    {
        assert_eq!(verdict(&format!("GET https://{host}/v1/messages")), "api key", "{host}");
    }
    assert_eq!(verdict("GET https://аpi.good.test/v1/messages"), "wide -", "a confusable is another name");
    assert_eq!(verdict("GET https://xn--bcher-kva.test/"), "books key");
}

#[test]
fn p_b3_hosts_beside_a_wildcard_are_denied() {
    for host in ["evilgood.test", "good.test", "good.test.evil.test"] {
        assert_eq!(verdict(&format!("GET https://{host}/")), "HostNotAllowed", "{host}");
    }
}

#[test]
fn p_b6_a_policy_without_rules_denies_everything() {
    let text = "apiVersion: policy.agentsandbox.dev/v1\nsandbox: {namespace: a, name: b}\ngeneration: 0\nrules: []\n";
    let policy = Policy::from_yaml(text).unwrap();
    let host = Host::parse("good.test").unwrap();
    assert_eq!(
        policy.decide(request("GET https://good.test/")).unwrap_err().reason,
        DenialReason::HostNotAllowed
    );
    assert!(!policy.answers(&host) && policy.admit(Scheme::Https, &host, 443).is_err());
}

#[test]
fn p_b7_a_broader_rule_never_widens_where_a_credential_goes() {
    // Rule wide allows these, without the credential that api would have brought.
    assert_eq!(verdict("DELETE https://api.good.test/v1/messages"), "wide -");
    assert_eq!(verdict("GET https://api.good.test/v2"), "wide -");
    assert_eq!(verdict("GET https://api.good.test:8443/v1/messages"), "wide -");
}

#[test]
fn p_b7_of_equally_specific_rules_the_first_speaks() {
    let rules = |first: &str, second: &str| {
        let text = format!(
            "apiVersion: policy.agentsandbox.dev/v1\nsandbox: {{namespace: a, name: b}}\ngeneration: 0\nrules:\n{first}\n{second}\n"
        );
        let permit = Policy::from_yaml(&text).unwrap().decide(request("GET https://x.good.test/a")).unwrap();
        permit.rule().to_owned()
    };
    let any = "- {name: any, host: x.good.test, ports: [443], scheme: https}";
    let path = "- {name: path, host: x.good.test, ports: [443], scheme: https, paths: [/a]}";
    let wild = "- {name: wild, host: \"*.good.test\", ports: [443], scheme: https}";
    assert_eq!(rules(any, path), "any");
    assert_eq!(rules(path, any), "path");
    assert_eq!(rules(wild, path), "path");
}

#[test]
fn p_c1_addresses_in_any_notation_are_never_permitted() {
    for host in
        ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "127.0.0.1.", "[::ffff:127.0.0.1]", "①②⑦.0.0.1"]
    {
        assert_eq!(verdict(&format!("GET https://{host}/")), "HostNotAllowed", "{host}");
        assert!(!policy().answers(&Host::parse(host).unwrap()));
    }
}

#[test]
fn p_c2_the_resolved_address_is_judged_and_carried() {
    let policy = policy();
    let permit = policy.decide(request("GET https://x.good.test:8443/")).unwrap();
    let dial = permit.dial(policy, "1.2.3.4".parse().unwrap()).unwrap();
    assert_eq!(dial.address(), "1.2.3.4:8443".parse().unwrap());
    assert_eq!((dial.host().as_str(), dial.scheme()), ("x.good.test", Scheme::Https));
    assert!(permit.dial(policy, "10.20.1.1".parse().unwrap()).is_ok());
    assert_eq!(
        permit.dial(policy, "::ffff:10.20.1.1".parse().unwrap()).unwrap().address(),
        "10.20.1.1:8443".parse().unwrap()
    );
    for address in ["10.20.7.1", "10.0.0.1", "127.0.0.1", "169.254.169.254", "::1", "fd00:ec2::254"] {
        let denial = permit.dial(policy, address.parse().unwrap()).unwrap_err();
        assert_eq!(denial.reason, DenialReason::ForbiddenAddress, "{address}");
        assert_eq!(denial.rule.as_deref(), Some("wide"));
    }
}

#[test]
fn p_c3_metadata_names_are_denied_whatever_a_rule_says() {
    let host = Host::parse("metadata.azure.internal").unwrap();
    assert_eq!(verdict("GET http://metadata.azure.internal/"), "ForbiddenAddress");
    assert_eq!(policy().admit(Scheme::Http, &host, 80).unwrap_err().reason, DenialReason::ForbiddenAddress);
    assert!(!policy().answers(&host));
    assert_eq!(verdict("GET http://other.azure.internal/"), "internal -");
}

#[test]
fn p_e1_a_hidden_climb_is_judged_where_it_ends() {
    assert_eq!(verdict("GET https://api.good.test/v1/x/%2e%2e/messages"), "api key");
    let permit = decide("GET https://api.good.test/v1/x/../../admin").unwrap();
    assert_eq!((permit.rule(), permit.target().as_str(), permit.credential()), ("wide", "/admin", None));
}

#[test]
fn p_e5_head_is_not_get_and_propfind_must_be_listed() {
    assert_eq!(verdict("HEAD https://dav.test/"), "MethodNotAllowed");
    assert_eq!(verdict("PROPFIND https://dav.test/"), "listed -");
    assert_eq!(verdict("PROPFIND https://socket.test/"), "MethodNotAllowed");
    assert_eq!(verdict("HEAD https://socket.test/"), "socket -");
}

#[test]
fn p_f2_a_credential_goes_nowhere_outside_its_own_scopes() {
    for line in [
        "GET https://api.good.test/v1/files",
        "GET https://api.good.test/v1/models/x/keys",
        "POST https://narrow.test/",
        "GET https://narrow.test:8443/",
    ] {
        assert_eq!(verdict(line), "CredentialScope", "{line}");
    }
    assert_eq!(verdict("GET https://narrow.test/"), "narrow key");
    let denial = decide("POST https://narrow.test/x").unwrap_err();
    assert_eq!((denial.rule.as_deref(), denial.credential.as_deref()), (Some("narrow"), Some("key")));
}

#[test]
fn p_f9_a_plaintext_request_never_carries_a_credential() {
    assert_eq!(verdict("GET http://api.good.test:443/v1/messages"), "SchemeNotAllowed");
    assert!(decide("GET http://plain.test/").unwrap().credential().is_none());
}

#[test]
fn a_permit_carries_the_file_that_its_document_names() {
    let file = |policy: &Policy| {
        let permit = policy.decide(request("GET https://narrow.test/")).unwrap();
        permit.credential().unwrap().file().to_owned()
    };
    assert_eq!(file(policy()), "key");
    let pointed = POLICY.replacen("- name: key\n", "- name: key\n  file: key-2\n", 1);
    assert_eq!(file(&Policy::from_yaml(&pointed).unwrap()), "key-2");
}

#[test]
fn a_permit_carries_what_its_credential_pins() {
    let pinned = |policy: &Policy| {
        let permit = policy.decide(request("GET https://narrow.test/")).unwrap();
        let pinned = permit.credential().unwrap().pinned().iter();
        pinned.map(|field| (field.name().to_owned(), field.value().map(str::to_owned))).collect::<Vec<_>>()
    };
    assert_eq!(pinned(policy()), []);
    let text = "- name: key\n  pinnedHeaders: [{name: x-team, value: red}]\n";
    let policy = Policy::from_yaml(&POLICY.replacen("- name: key\n", text, 1)).unwrap();
    assert_eq!(pinned(&policy), [("x-team".to_owned(), Some("red".to_owned()))]);
}

#[test]
fn a_permit_holds_what_was_judged() {
    let permit = decide("POST https://API.good.test/v1/%6dessages?q=1").unwrap();
    assert!(!permit.websocket());
    assert_eq!(permit.target().as_str(), "/v1/messages?q=1");
    assert_eq!(
        (permit.host().as_str(), permit.port(), permit.method().as_str()),
        ("api.good.test", 443, "POST")
    );
    assert_eq!(
        permit.credential().unwrap().injection(),
        &Injection::Header { name: "x-api-key".to_owned(), prefix: String::new() }
    );
}

#[test]
fn a_name_is_admitted_when_some_request_to_it_could_be() {
    let policy = policy();
    let host = |text: &str| Host::parse(text).unwrap();
    let named = policy.admit(Scheme::Https, &host("api.good.test"), 8443).unwrap();
    assert_eq!((named.host().as_str(), named.port(), named.scheme()), ("api.good.test", 8443, Scheme::Https));
    for (scheme, name, port, reason) in [
        (Scheme::Https, "evil.test", 443, DenialReason::HostNotAllowed),
        (Scheme::Http, "api.good.test", 443, DenialReason::SchemeNotAllowed),
        (Scheme::Https, "api.good.test", 80, DenialReason::PortNotAllowed),
    ] {
        assert_eq!(policy.admit(scheme, &host(name), port).unwrap_err().reason, reason);
    }
    assert!(policy.answers(&host("a.b.good.test")) && !policy.answers(&host("good.test")));
}

#[test]
fn a_denial_says_what_to_write() {
    for (line, rule, sentence) in [
        (
            "GET https://evil.test/",
            None,
            "Add to spec.egress.allow of AgentSandbox team/demo: `- {host: evil.test, methods: [GET], paths: [\"/\"]}`.",
        ),
        (
            "GET http://evil.test:8080/",
            None,
            "Add to spec.egress.allow of AgentSandbox team/demo: `- {host: evil.test, ports: [8080], scheme: Http, methods: [GET], paths: [\"/\"]}`.",
        ),
        (
            "GET https://socket.test:22/",
            Some("socket"),
            "In rule socket of spec.egress.allow of AgentSandbox team/demo: write `ports: [443, 22]`.",
        ),
        (
            "DELETE https://dav.test/",
            Some("listed"),
            "In rule listed of spec.egress.allow of AgentSandbox team/demo: write `methods: [PROPFIND, GET, DELETE]`.",
        ),
        ("GET https://plain.test:80/", Some("plain"), "Use http, the scheme of rule plain."),
    ] {
        let denial = decide(line).unwrap_err();
        assert_eq!((denial.rule.as_deref(), denial.how_to_allow.as_str()), (rule, sentence), "{line}");
    }
    let standalone = Policy::from_yaml(&POLICY.replace(", uid: 1b2c", "")).unwrap();
    let denial = standalone.decide(request("GET https://evil.test/")).unwrap_err();
    assert_eq!(
        denial.how_to_allow,
        "Add to rules of the policy document: `- {name: evil.test, host: evil.test, ports: [443], scheme: https, methods: [GET], paths: [\"/\"]}`."
    );
}

/// Whether a type has a trait: the constant of the type itself hides the one that all types have.
macro_rules! has {
    ($type:ty: $bound:path) => {{
        #[allow(dead_code, reason = "hidden where the bound holds")]
        trait Fallback {
            const HAS: bool = false;
        }
        struct Probe<T>(std::marker::PhantomData<T>);
        impl<T> Fallback for Probe<T> {}
        #[allow(dead_code, reason = "used only where the bound holds")]
        impl<T: $bound> Probe<T> {
            const HAS: bool = true;
        }
        Probe::<$type>::HAS
    }};
}

#[test]
fn p_i16_a_permit_can_be_neither_copied_nor_made_up() {
    assert!(has!(Request: Clone) && has!(String: Default), "the question can be answered with yes");
    assert!(!has!(Permit: Clone) && !has!(Permit: Default) && !has!(Permit: serde::de::DeserializeOwned));
    assert!(!has!(Permit: From<bool>) && !has!(Permit: From<Request>));
    assert!(!has!(NamePermit: Clone) && !has!(NamePermit: Default) && !has!(NamePermit: From<Host>));
    assert!(!has!(crate::DialPermit: Clone) && !has!(crate::DialPermit: Default));
}

proptest! {
    #[test]
    fn no_host_outside_the_list_is_ever_permitted(host in "[a-z.*]{0,8}(good|evil|plain)[.。](test|evil)[.]?|\\PC{1,20}|[0-9a-fx.]{1,15}") {
        if let Ok(host) = Host::parse(&host) {
            let name = host.as_str();
            let listed = (name.ends_with(".good.test") && name != ".good.test")
                || name.ends_with(".azure.internal")
                || ["plain.test", "socket.test", "dav.test", "narrow.test", "xn--bcher-kva.test"].contains(&name);
            for (scheme, port) in [(Scheme::Https, 443), (Scheme::Http, 80), (Scheme::Https, 8443)] {
                let request = Request { scheme, host: host.clone(), port, ..request("GET https://x/") };
                prop_assert!(listed || policy().decide(request).is_err());
                prop_assert!(listed || policy().admit(scheme, &host, port).is_err());
            }
            prop_assert!(listed || !policy().answers(&host));
        }
    }

    #[test]
    fn p_f2_no_request_outside_the_scopes_gets_the_credential(
        host in "(api|x)\\.good\\.test|narrow\\.test", port in prop::sample::select(vec![443_u16, 8443]),
        method in prop::sample::select(vec!["GET", "POST", "PUT"]), path in "/v1/(messages|files|models/[a-z/]{0,3})|/[a-z/]{0,5}",
    ) {
        if let Ok(target) = Target::parse(&path) {
            let request = Request {
                host: Host::parse(&host).unwrap(), port, method: Method::parse(method).unwrap(), target, ..request("GET https://x/")
            };
            if let Ok(permit) = policy().decide(request) && permit.credential().is_some() {
                let path = permit.target().path();
                let model = path.strip_prefix("/v1/models/").is_some_and(|rest| !rest.is_empty() && !rest.contains('/'));
                prop_assert_eq!(port, 443);
                prop_assert!((host == "api.good.test" && (path == "/v1/messages" || model)) || (host == "narrow.test" && method == "GET"));
            }
        }
    }

    #[test]
    fn whatever_is_admitted_to_a_request_is_admitted_to_a_name(host in "(api|x|a\\.b)\\.good\\.test|plain\\.test", port in prop::sample::select(vec![80_u16, 443, 8443])) {
        for scheme in [Scheme::Https, Scheme::Http] {
            let host = Host::parse(&host).unwrap();
            let request = Request { scheme, host: host.clone(), port, ..request("GET https://x/") };
            if policy().decide(request).is_ok() {
                prop_assert!(policy().admit(scheme, &host, port).is_ok() && policy().answers(&host));
            }
        }
    }
}

#[test]
fn p_i11_nothing_that_needs_to_be_seen_goes_with_tls_that_is_not_opened() {
    let document = |more: &str| {
        format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 1,
              rules: [{{name: a, host: a.test, ports: [443], tls: Passthrough, {more}}}],
              credentials: [{{name: c, inject: {{type: Bearer}}, scopes: [{{host: a.test, ports: [443]}}]}}]}}"
        )
    };
    assert!(Policy::from_yaml(&document("scheme: https")).is_ok());
    for (more, field) in [
        ("scheme: https, credential: c", "credential"),
        ("scheme: https, methods: [GET]", "methods"),
        ("scheme: https, paths: ['/x']", "paths"),
        ("scheme: https, websocket: Allow", "websocket"),
        ("scheme: http", "tls"),
    ] {
        let faults = Policy::from_yaml(&document(more)).unwrap_err();
        assert_eq!(faults.faults().len(), 1, "{more}");
        assert_eq!(faults.faults()[0].field, format!("rules[0].{field}"));
    }
}

#[test]
fn p_f20_of_equally_specific_rules_the_one_that_opens_tls_speaks() {
    let policy = |rules: &str| {
        Policy::from_yaml(&format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 1, rules: [{rules}]}}"
        ))
        .unwrap()
    };
    let passes = "{name: p, host: a.b.test, ports: [443], scheme: https, tls: Passthrough}";
    let opens = "{name: o, host: a.b.test, ports: [443], scheme: https, tls: Intercept}";
    let opens_all = "{name: w, host: '*.b.test', ports: [443], scheme: https}";
    let passes_all = "{name: v, host: '*.b.test', ports: [443], scheme: https, tls: Passthrough}";
    let host = Host::parse("a.b.test").unwrap();
    for (rules, expected) in [
        (vec![passes], Some("p")),
        (vec![opens], None),
        (vec![passes, opens], None),
        (vec![opens_all, passes], Some("p")),
        (vec![passes_all, opens], None),
        (vec![passes_all], Some("v")),
    ] {
        let policy = policy(&rules.join(", "));
        assert_eq!(policy.pass(&host, 443).as_ref().map(PassPermit::rule), expected, "{rules:?}");
        assert!(
            policy.pass(&host, 8443).is_none() && policy.pass(&Host::parse("c.test").unwrap(), 443).is_none()
        );
    }
    // No leaf is minted and no request allowed by a rule that opens nothing.
    assert!(policy(passes).admit(Scheme::Https, &host, 443).is_err());
}

use super::*;
use crate::{Host, UploadLimits};

mod bounds;

const VALID: &str = r#"
apiVersion: policy.agentsandbox.dev/v1
sandbox: {namespace: team, name: demo}
generation: 0
rules:
- {name: api, host: api.good.test, ports: [8443, 443], scheme: https, methods: [GET], paths: ["/v1/*"], credential: key}
- {name: wild, host: "*.good.test", ports: [8080], scheme: http}
credentials:
- {name: key, inject: {type: Header, name: x-api-key, prefix: "token "}, scopes: [{host: api.good.test, ports: [443]}]}
addresses: {allow: [10.20.3.4/16], deny: [10.244.0.0/16]}
"#;

/// The faults after one replacement in the valid document.
fn faults(from: &str, to: &str) -> Vec<String> {
    assert!(VALID.contains(from), "{from}");
    let error = Policy::from_yaml(&VALID.replacen(from, to, 1)).expect_err(to);
    error.faults().iter().map(ToString::to_string).collect()
}

#[test]
fn a_valid_document_becomes_a_policy() {
    let policy = Policy::from_yaml(VALID).unwrap();
    assert_eq!((policy.rule_count(), policy.generation(), policy.sandbox().name.as_str()), (2, 0, "demo"));
    let injection = Injection::Header { name: "x-api-key".to_owned(), prefix: "token ".to_owned() };
    assert_eq!(policy.credentials().collect::<Vec<_>>(), [("key", &injection)]);
    assert_eq!(policy.base_url("api"), Some((Scheme::Https, Host::parse("api.good.test").unwrap(), 443)));
    assert_eq!((policy.base_url("wild"), policy.base_url("none")), (None, None));
    assert_eq!(policy.additional_roots(), None);
}

#[test]
fn p_g2_fields_that_authenticate_frame_or_route_cannot_be_pinned() {
    let pin = |pinned: &str| {
        VALID.replacen("scopes: [{host", &format!("pinnedHeaders: {pinned}, scopes: [{{host"), 1)
    };
    let policy = Policy::from_yaml(&pin("[{name: openai-project, value: proj_1}, {name: sudo}]")).unwrap();
    let pinned: Vec<_> =
        policy.credentials["key"].used.pinned().iter().map(|each| (each.name(), each.value())).collect();
    assert_eq!(pinned, [("openai-project", Some("proj_1")), ("sudo", None)]);
    for name in [
        "authorization",
        "x-goog-api-key",
        "x-api-key",
        "cookie",
        "host",
        "connection",
        "te",
        "content-length",
        "transfer-encoding",
        "accept-encoding",
        "range",
        "x-forwarded-for",
        "x-envoy-original-dst-host",
        "via",
        "x-agentsandbox-loop",
        "X-Team",
        "x_team",
        "x team",
        "-x",
        "''",
        ":path",
    ] {
        let told =
            Policy::from_yaml(&pin(&format!("[{{name: \"{name}\", value: x}}]").replace("\"''\"", "''")))
                .unwrap_err();
        let told: Vec<String> = told.faults().iter().map(ToString::to_string).collect();
        assert!(
            told.len() == 1 && told[0].starts_with("credentials[0].pinnedHeaders[0].name: "),
            "{name}: {told:?}"
        );
    }
    for value in ["''", "' x'", "'x '", "\"a\\r\\nb\"", "\"\\u00e9\"", "null"] {
        assert!(Policy::from_yaml(&pin(&format!("[{{name: x-team, value: {value}}}]"))).is_err(), "{value}");
    }
    assert!(Policy::from_yaml(&pin("[{name: x-team}, {name: x-team, value: a}]")).is_err(), "twice");
    assert!(Policy::from_yaml(&pin("[{name: x-team, value: a, secret: b}]")).is_err(), "unknown");
}

#[test]
fn p_g5_a_rule_says_how_long_answers_may_be_and_of_which_types() {
    let with =
        |answer: &str| VALID.replacen("methods: [GET]", &format!("answer: {answer}, methods: [GET]"), 1);
    let read = |answer: &str| {
        Policy::from_yaml(&with(answer)).unwrap().rules.list[0].bounds.answer().cloned().unwrap()
    };
    let both = read("{maxBytes: 10, contentTypes: [application/json, text/*]}");
    assert_eq!(both.max_bytes(), Some(10));
    for (text, taken) in [
        ("application/json", true),
        ("Application/JSON; charset=utf-8", true),
        (" text/plain ", true),
        ("text/", false),
        ("text", false),
        ("application/jsonp", false),
        ("application/json, text/html", false),
        ("image/png", false),
        ("", false),
    ] {
        assert_eq!(both.takes(Some(text)), taken, "{text}");
    }
    assert!(!both.takes(None), "what says nothing is not taken");
    assert!(read("{maxBytes: 1}").takes(None) && read("{maxBytes: 1}").takes(Some("image/png")));
    for (answer, field) in [
        ("{}", "rules[0].answer: write maxBytes,"),
        ("{maxBytes: 0}", "rules[0].answer.maxBytes: "),
        ("{contentTypes: []}", "rules[0].answer.contentTypes: write 1 to 16"),
        ("{contentTypes: [json]}", "rules[0].answer.contentTypes: write media types"),
        ("{contentTypes: [Text/Plain]}", "rules[0].answer.contentTypes: write media types"),
        ("{contentTypes: ['*/*']}", "rules[0].answer.contentTypes: write media types"),
        ("{contentTypes: ['text/plain; charset=utf-8']}", "rules[0].answer.contentTypes: write media types"),
    ] {
        let told = faults("methods: [GET]", &format!("answer: {answer}, methods: [GET]"));
        assert!(told.len() == 1 && told[0].starts_with(field), "{answer}: {told:?}");
    }
    let socket = "answer: {maxBytes: 1}, websocket: Allow, methods: [GET]";
    assert!(faults("methods: [GET]", socket)[0].starts_with("rules[0].answer: it does not hold"));
    let unopened = faults("scheme: http}", "scheme: https, tls: Passthrough, answer: {maxBytes: 1}}");
    assert!(unopened[0].starts_with("rules[1].answer: it cannot hold"), "{unopened:?}");
}

#[test]
fn p_g3_a_rule_lists_the_fields_that_are_passed_on() {
    let with =
        |headers: &str| VALID.replacen("methods: [GET]", &format!("headers: {headers}, methods: [GET]"), 1);
    let policy = Policy::from_yaml(&with("[accept, x_a]")).unwrap();
    assert_eq!(policy.rules.list[0].bounds.headers().unwrap(), ["accept", "x_a"]);
    assert_eq!(policy.rules.list[1].bounds.headers(), None);
    let many: Vec<String> = (0..33).map(|number| format!("x-{number}")).collect();
    let many = format!("[{}]", many.join(", "));
    for headers in ["[]", "[Accept]", "['']", "['a b']", "['a:']", many.as_str()] {
        let told = faults("methods: [GET]", &format!("headers: {headers}, methods: [GET]"));
        assert!(
            told.len() == 1 && told[0].starts_with("rules[0].headers: write 1 to 32"),
            "{headers}: {told:?}"
        );
    }
    let unopened = faults("scheme: http}", "scheme: https, tls: Passthrough, headers: [accept]}");
    assert!(unopened[0].starts_with("rules[1].headers: it cannot hold"), "{unopened:?}");
}

#[test]
fn p_g3_rules_over_the_same_hosts_count_together_each_up_to_its_own_limits() {
    let limits = "limits: {uploadBytes: 100, uploadBytesPerMinute: 10}, methods: [GET]";
    let text = VALID.replacen("methods: [GET]", limits, 1).replacen(
        "- {name: wild",
        "- {name: other, host: API.good.test., ports: [443], scheme: https}\n- {name: wild",
        1,
    );
    let policy = Policy::from_yaml(&text).unwrap();
    let upload = |position: usize| policy.rules.list[position].bounds.upload().cloned();
    assert_eq!(upload(0), Some(UploadLimits::new("api.good.test", Some(100), Some(10))));
    assert_eq!(upload(1), Some(UploadLimits::new("api.good.test", None, None)), "counted and not bounded");
    assert_eq!(upload(2), None, "other hosts are their own");
    for (limits, fault) in [
        ("{}", "rules[0].limits: write uploadBytes,"),
        ("{uploadBytes: 0}", "rules[0].limits.uploadBytes: write a number"),
        ("{uploadBytesPerMinute: 1125899906842625}", "rules[0].limits.uploadBytesPerMinute: write a number"),
    ] {
        let told = faults("methods: [GET]", &format!("limits: {limits}, methods: [GET]"));
        assert!(told.len() == 1 && told[0].starts_with(fault), "{limits}: {told:?}");
    }
    for limits in ["null", "{uploadBytes: null}", "{uploadBytes: -1}", "{uploads: 1}", "{uploadBytes: 1Mi}"] {
        assert_eq!(
            faults("methods: [GET]", &format!("limits: {limits}, methods: [GET]")).len(),
            1,
            "{limits}"
        );
    }
}

#[test]
fn each_fault_names_its_field_and_says_what_to_write() {
    for (from, to, field) in [
        (
            "policy.agentsandbox.dev/v1",
            "policy.agentsandbox.dev/v2",
            "apiVersion: write policy.agentsandbox.dev/v1",
        ),
        ("generation: 0", "generation: -1", "generation: "),
        ("name: wild", "name: api", "rules[1].name: the name is used twice"),
        ("name: wild", "name: ../x", "rules[1].name: write lower-case"),
        ("name: wild", "name: ''", "rules[1].name: write lower-case"),
        ("name: wild", "name: -x", "rules[1].name: write lower-case"),
        ("name: wild", "name: x-", "rules[1].name: write lower-case"),
        (
            "host: api.good.test, ports: [8443, 443]",
            "host: 127.1, ports: [443]",
            "rules[0].host: a rule names a DNS name",
        ),
        ("[8443, 443]", "[]", "rules[0].ports: an empty list"),
        ("[8443, 443]", "[0]", "rules[0].ports: write ports from 1"),
        ("methods: [GET]", "methods: []", "rules[0].methods: an empty list"),
        (
            "methods: [GET]",
            "methods: [get]",
            "rules[0].methods[0]: it must be written in upper case; write GET",
        ),
        ("methods: [GET]", "methods: [GET, TRACE]", "rules[0].methods[1]: TRACE is never allowed"),
        ("[\"/v1/*\"]", "[]", "rules[0].paths: an empty list"),
        ("[\"/v1/*\"]", "[\"v1\"]", "rules[0].paths[0]: it must begin with /"),
        ("[\"/v1/*\"]", "[\"/v1/../x\"]", "rules[0].paths[0]: "),
        ("[\"/v1/*\"]", "[\"/v1/%7ex\"]", "rules[0].paths[0]: "),
        ("[\"/v1/*\"]", "[\"/v1/x**\"]", "rules[0].paths[0]: "),
        ("scheme: https", "scheme: http", "rules[0].credential: a credential is never sent in plain text"),
        ("credential: key", "credential: other", "rules[0].credential: there is no such credential"),
        ("- {name: key", "- {name: a/b", "credentials[0].name: "),
        ("name: x-api-key", "name: X-Api-Key", "credentials[0].inject.name: write a header name"),
        ("name: x-api-key", "name: host", "credentials[0].inject.name: this header steers"),
        ("\"token \"", "\"token\\n\"", "credentials[0].inject.prefix: "),
        (
            "{type: Header, name: x-api-key, prefix: \"token \"}",
            "{type: Basic, username: \"a:b\"}",
            "credentials[0].inject.username: ",
        ),
        (
            "{type: Header, name: x-api-key, prefix: \"token \"}",
            "{type: Query, name: \"a&b\"}",
            "credentials[0].inject.name: ",
        ),
        (
            "{type: Header, name: x-api-key, prefix: \"token \"}",
            "{type: Cookie, name: \"a;b\"}",
            "credentials[0].inject.name: write a cookie name",
        ),
        (
            "inject: {type: Header, name: x-api-key, prefix: \"token \"}",
            "inject: {type: PathSegment, after: /bot}",
            "credentials[0].inject.type: PathSegment needs a placeholder",
        ),
        (
            "inject: {type: Header, name: x-api-key, prefix: \"token \"}",
            "placeholders: [long-enough, 'not/in/a/segment'], inject: {type: PathSegment, after: /bot}",
            "credentials[0].inject.type: PathSegment needs a placeholder",
        ),
        (
            "inject: {type: Header, name: x-api-key, prefix: \"token \"}",
            "placeholders: [long-enough], inject: {type: PathSegment, after: bot}",
            "credentials[0].inject.after: write what the path is",
        ),
        (
            "inject: {type: Header, name: x-api-key, prefix: \"token \"}",
            "placeholders: [long-enough], inject: {type: PathSegment, after: /a/../bot}",
            "credentials[0].inject.after: write what the path is",
        ),
        (
            "inject: {type: Header, name: x-api-key, prefix: \"token \"}",
            "placeholders: [long-enough], inject: {type: PathSegment, after: /bot*}",
            "credentials[0].inject.after: write what the path is",
        ),
        (
            "{name: key, ",
            "{name: key, placeholders: [long-enough, 7-bytes], ",
            "credentials[0].placeholders[1]: write 8",
        ),
        ("{name: key, ", "{name: key, constants: [7-bytes], ", "credentials[0].constants[0]: write 8"),
        (
            "{name: key, ",
            "{name: key, placeholders: [a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q], ",
            "credentials[0].placeholders: write at most 16",
        ),
        (
            "api.good.test, ports: [443]}]",
            "api.good.test, ports: [443], exceptPaths: []}]",
            "credentials[0].scopes[0].exceptPaths: an empty list",
        ),
        (
            "api.good.test, ports: [443]}]",
            "api.good.test, ports: [443], exceptPaths: [/a, files]}]",
            "credentials[0].scopes[0].exceptPaths[1]: it must begin with /",
        ),
        ("[{host: api.good.test, ports: [443]}]", "[]", "credentials[0].scopes: an empty list"),
        (
            "[{host: api.good.test, ports: [443]}]",
            "[{host: \"*\", ports: [443]}]",
            "credentials[0].scopes[0].host: ",
        ),
        ("10.20.3.4/16", "10.20.3.4/33", "addresses.allow[0]: write a range"),
        ("10.20.3.4/16", "0.0.0.0/0", "addresses.allow[0]: 0.0.0.0/0 spans more than one"),
        ("10.244.0.0/16", "cluster", "addresses.deny[0]: write a range"),
    ] {
        let faults = faults(from, to);
        assert!(faults.iter().any(|fault| fault.starts_with(field)), "{to}: {faults:?}");
    }
}

#[test]
fn a_credentials_file_is_a_bare_name_and_by_default_the_credentials_own() {
    let policy = Policy::from_yaml(VALID).unwrap();
    assert_eq!(policy.secret_files().collect::<Vec<_>>(), [("key", "key")]);
    let longest = "f".repeat(253);
    for file in ["key-1f3a", "Key_2.v1", "data", &longest] {
        let text = VALID.replacen("{name: key,", &format!("{{name: key, file: {file},"), 1);
        let policy = Policy::from_yaml(&text).unwrap();
        assert_eq!(policy.secret_files().collect::<Vec<_>>(), [("key", file)]);
    }
    for file in [
        "''",
        "'..'",
        ".",
        "..data",
        ".hidden",
        "a/b",
        "/etc/passwd",
        "../key",
        "'a b'",
        "schlüssel",
        &format!("{longest}f"),
    ] {
        let faults = faults("{name: key,", &format!("{{name: key, file: {file},"));
        assert!(faults[0].starts_with("credentials[0].file: write a bare file name"), "{file}: {faults:?}");
    }
    assert_eq!(faults("{name: key,", "{name: key, file: null,").len(), 1, "written, so it must have a value");
}

#[test]
fn all_faults_are_reported_together() {
    let text = VALID
        .replace("[8443, 443]", "[]")
        .replace("\"*.good.test\"", "\"*good.test\"")
        .replace("10.244.0.0/16", "x");
    let error = Policy::from_yaml(&text).unwrap_err();
    let fields: Vec<_> = error.faults().iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(fields, ["rules[0].ports", "rules[1].host", "addresses.deny[0]"]);
    assert!(error.to_string().starts_with("the policy document is not valid: rules[0].ports: "));
}

#[test]
fn p_b4_wildcards_over_strangers_are_refused_in_rules_and_scopes() {
    for host in ["*good.test", "api*", "*.com", "*.github.io", "*.s3.amazonaws.com", "*.workers.dev"] {
        let text = format!("\"{host}\"");
        assert!(faults("\"*.good.test\"", &text)[0].starts_with("rules[1].host: "), "{host}");
        let scope = format!("scopes: [{{host: {text}");
        assert!(
            faults("scopes: [{host: api.good.test", &scope)[0].starts_with("credentials[0].scopes[0].host: ")
        );
    }
}

#[test]
fn p_b6_what_is_missing_null_unknown_or_written_twice_rejects_the_document() {
    for (from, to) in [
        ("generation: 0\n", "generation: 0\nrulez: []\n"),
        ("methods: [GET]", "method: [GET]"),
        ("ports: [8443, 443], scheme", "scheme"),
        ("scheme: https, ", ""),
        ("ports: [8443, 443]", "ports: null"),
        ("ports: [8443, 443]", "ports: 443"),
        ("ports: [8443, 443]", "ports: [65536]"),
        ("scheme: https", "scheme: ftp"),
        ("host: api.good.test", "host: null"),
        ("name: api,", "name: api, name: b,"),
        ("type: Header", "type: header"),
        ("type: Header", "type: Bearer"),
        ("methods: [GET]", "websocket: true, methods: [GET]"),
        ("addresses: {", "addresses: {allowed: [], "),
    ] {
        assert_eq!(faults(from, to).len(), 1, "{to}");
    }
    let rules = &VALID[VALID.find("rules:").unwrap()..VALID.find("credentials:").unwrap()];
    for text in ["rules: null\n", "rules:\n", "", "rules: {}\n"] {
        assert!(Policy::from_yaml(&VALID.replace(rules, text)).is_err(), "{text:?}");
    }
    for text in ["", "null", "[]", "{}", "---\n---\n", "rules: []"] {
        assert!(Policy::from_yaml(text).is_err(), "{text:?}");
    }
    assert!(Policy::from_yaml(&format!("{VALID}---\n{VALID}")).is_err(), "two documents");
}

#[test]
fn p_b6_a_null_list_of_methods_or_paths_never_widens_a_rule() {
    for (from, to) in [
        ("methods: [GET]", "methods: null"),
        ("paths: [\"/v1/*\"]", "paths: null"),
        ("methods: [GET]", "methods:"),
    ] {
        assert!(Policy::from_yaml(&VALID.replacen(from, to, 1)).is_err(), "{to}");
    }
}

#[test]
fn each_kind_of_injection_is_read_as_it_is_written() {
    for inject in [
        InjectDocument::Header { name: "x-api-key".to_owned(), prefix: None },
        InjectDocument::Header { name: "authorization".to_owned(), prefix: Some("token ".to_owned()) },
        InjectDocument::Bearer,
        InjectDocument::Basic { username: "x-access-token".to_owned() },
        InjectDocument::Query { name: "key".to_owned() },
    ] {
        let text = serde_json::to_string(&inject).unwrap();
        assert_eq!(serde_yaml::from_str::<InjectDocument>(&text).unwrap(), inject, "{text}");
    }
}

#[test]
fn p_b5_a_host_is_no_regular_expression() {
    for host in
        ["^api.*$", "/api.good.test/", "api.(good|evil).test", "api[0-9].good.test", ".*", "api.good.test$"]
    {
        assert!(faults("\"*.good.test\"", &format!("'{host}'"))[0].starts_with("rules[1].host: "), "{host}");
    }
}

#[test]
fn p_i11_a_credential_is_never_on_a_route_that_is_not_intercepted() {
    let plain = faults("scheme: https", "scheme: http");
    assert!(
        plain[0].starts_with("rules[0].credential: a credential is never sent in plain text"),
        "{plain:?}"
    );
    // There is no way to write one that passes through: neither a scheme nor a field for it.
    for scheme in ["scheme: tcp", "scheme: https, passthrough: true", "scheme: https, intercept: false"] {
        assert_eq!(faults("scheme: https", scheme).len(), 1, "{scheme}");
    }
}

#[test]
fn p_i7_there_is_no_mode_that_only_watches() {
    for field in ["mode: audit", "learning: true", "enforce: false", "default: allow"] {
        assert_eq!(faults("generation: 0\n", &format!("generation: 0\n{field}\n")).len(), 1, "{field}");
    }
}

#[test]
fn an_upstream_proxy_is_a_plain_url_and_a_login_that_may_go_there() {
    let document = |proxy: &str| {
        VALID.replacen("credentials:\n", "credentials:\n- {name: login, inject: {type: Basic, username: a}, scopes: [{host: proxy.test, ports: [3128]}]}\n", 1)
            + &format!("upstream: {{proxy: {proxy}}}\n")
    };
    for (url, protocol) in [("http", ProxyProtocol::Http), ("socks5", ProxyProtocol::Socks5)] {
        let policy =
            Policy::from_yaml(&document(&format!("{{url: '{url}://proxy.test:3128', credential: login}}")))
                .unwrap();
        let proxy = policy.upstream_proxy().unwrap();
        assert_eq!((proxy.protocol, proxy.host.as_str(), proxy.port), (protocol, "proxy.test", 3128));
        assert_eq!(proxy.login.as_ref().map(|login| login.file.as_str()), Some("login"));
    }
    for (proxy, field) in [
        ("{url: 'https://proxy.test:3128'}", "url"),
        ("{url: 'http://proxy.test'}", "url"),
        ("{url: 'http://a:b@proxy.test:3128'}", "url"),
        ("{url: 'http://proxy.test:3128/'}", "url"),
        ("{url: 'proxy.test:3128'}", "url"),
        ("{url: 'http://proxy.test:3128', credential: none}", "credential"),
        ("{url: 'http://proxy.test:3128', credential: key}", "credential"),
        ("{url: 'http://proxy.test:3129', credential: login}", "credential"),
        ("{url: 'http://other.test:3128', credential: login}", "credential"),
    ] {
        let error = Policy::from_yaml(&document(proxy)).expect_err(proxy);
        assert_eq!(
            error.faults().iter().map(|fault| fault.field.as_str()).collect::<Vec<_>>(),
            [format!("upstream.proxy.{field}")],
            "{proxy}"
        );
    }
    assert!(Policy::from_yaml(&document("{url: 'http://proxy.test:3128', credential: null}")).is_err());
    assert!(Policy::from_yaml(VALID).unwrap().upstream_proxy().is_none());
}

#[test]
fn a_collector_is_a_plain_url_with_a_port() {
    let document = |tracing: &str| format!("{VALID}tracing: {tracing}\n");
    for (url, scheme) in [("http", Scheme::Http), ("https", Scheme::Https)] {
        let policy =
            Policy::from_yaml(&document(&format!("{{endpoint: '{url}://otel.observability.svc:4318'}}")))
                .unwrap();
        let collector = policy.collector().unwrap();
        assert_eq!((collector.scheme(), collector.port()), (scheme, 4318));
        assert_eq!(collector.host().as_str(), "otel.observability.svc");
    }
    for endpoint in [
        "",
        "collector.test:4318",
        "grpc://collector.test:4317",
        "http://collector.test",
        "http://collector.test:0",
        "http://collector.test:4318/",
        "http://collector.test:4318/v1/traces",
        "http://collector.test:4318?x=y",
        "http://key:word@collector.test:4318",
        "http://169.254.169.254:80",
        "http://metadata.google.internal:80",
    ] {
        let error = Policy::from_yaml(&document(&format!("{{endpoint: '{endpoint}'}}"))).expect_err(endpoint);
        let fields: Vec<_> = error.faults().iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["tracing.endpoint"], "{endpoint}");
    }
    for wrong in ["null", "{}", "{endpoint: 'http://collector.test:4318', headers: {a: b}}"] {
        assert!(Policy::from_yaml(&document(wrong)).is_err(), "{wrong}");
    }
    assert!(Policy::from_yaml(VALID).unwrap().collector().is_none());
}

use super::*;

const POLICY: &str = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: team, name: fix, uid: u-1}, generation: 3, rules: [
    {name: api, host: api.test, ports: [443], scheme: https, methods: [GET], paths: [/v1/**], credential: key, websocket: Allow},
    {name: query, host: query.test, ports: [443], scheme: https, credential: query},
    {name: plain, host: '*.plain.test', ports: [80, 8080], scheme: http},
    {name: pinned, host: pinned.test, ports: [443], scheme: https, tls: Passthrough}],
    credentials: [
    {name: key, inject: {type: Header, name: x-api-key}, placeholders: [placeholder-of-key-1], scopes: [{host: api.test, ports: [443]}]},
    {name: query, inject: {type: Query, name: k}, scopes: [{host: query.test, ports: [443]}]}]}";

fn policy() -> Policy {
    Policy::from_yaml(POLICY).unwrap()
}

fn asked(method: &str, url: &str) -> Result<Explained, Unanswerable> {
    explain(&policy(), Question { method, url, websocket: false })
}

#[test]
fn every_answer_is_the_one_that_the_proxy_itself_gives() {
    let (mut allowed, mut denied) = (0, 0);
    for request in [
        "GET https://api.test/v1/models",
        "GET https://API.test:443/v1/a%2fb?x=1",
        "GET https://api.test/v1/../v2",
        "GET https://api.test/v1/%2e%2e/v2",
        "GET https://api.test//v1/x",
        "POST https://api.test/v1/models",
        "get https://api.test/v1/models",
        "GET https://api.test/v2",
        "GET https://api.test:8443/v1/models",
        "GET http://api.test/v1/models",
        "GET https://api.test/v1/x?api_key=mine",
        "GET https://query.test/?k=mine",
        "GET https://query.test/?api_key=mine",
        "GET https://query.test?a=b",
        "GET http://a.plain.test:8080/x#fragment",
        "GET http://a.b.plain.test/",
        "PUT http://a.plain.test/",
        "CONNECT http://a.plain.test/",
        "TRACE http://a.plain.test/",
        "GET https://pinned.test/any",
        "GET https://user:pass@api.test/v1/x",
        "GET https://xn--pple-43d.test/",
        "GET https://169.254.169.254/latest",
        "GET https://[::1]/",
        "GET https://evil.test/",
        "GET https://api.test./v1/models",
        "GET https://api.test:0/v1/models",
    ] {
        let (method, url) = request.split_once(' ').unwrap();
        let question = agentsandbox_proxy::explain::Question { request, fields: &[], body: &[] };
        let theirs = agentsandbox_proxy::explain::explain(&policy(), question);
        match (asked(method, url), theirs) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!((ours.allowed, &ours.text), (theirs.allowed, &theirs.text), "{request}");
                if ours.allowed { allowed += 1 } else { denied += 1 }
            }
            (ours, theirs) => assert!(ours.is_err() && theirs.is_err(), "{request}: {ours:?} {theirs:?}"),
        }
    }
    assert!(allowed >= 7 && denied >= 12, "{allowed} were allowed and {denied} denied");
}

#[test]
fn what_only_the_proxy_judges_has_no_answer() {
    for (method, url) in [
        ("GET", "https://api.test/v1/x?p=placeholder-of-key-1"),
        ("GET", "https://api.test/v1/placeholder-of-key-1"),
        ("GET", "/v1/models"),
        ("GET", "api.test"),
        ("GET", "ftp://api.test/"),
        ("G T", "https://api.test/v1/x"),
        ("GET", &format!("https://api.test/v1/{}", "x".repeat(TARGET_BYTES_MAX))),
    ] {
        assert!(asked(method, url).is_err(), "{method} {url}");
    }
    assert!(asked("GET", "https://api.test/v1/x?p=placeholder").unwrap().allowed);
}

#[test]
fn a_websocket_is_judged_as_one() {
    let socket = |url, method| explain(&policy(), Question { method, url, websocket: true });
    assert!(socket("https://api.test/v1/x", "GET").unwrap().allowed);
    assert!(!socket("https://query.test/", "GET").unwrap().allowed);
    assert!(socket("https://api.test/v1/x", "POST").is_err());
}

#[test]
fn an_answer_names_the_rule_the_credential_and_what_to_write() {
    let table = asked("GET", "https://api.test/v1/x").unwrap().table(None);
    for words in ["decision    allowed", "rule        api", "credential  key", "place       header x-api-key"]
    {
        assert!(table.contains(words), "{table}");
    }
    let table = asked("POST", "https://api.test/v1/x").unwrap().table(Some("old"));
    for words in ["decision      denied", "MethodNotAllowed", "how to allow  ", "note          old"] {
        assert!(table.contains(words), "{table}");
    }
}

fn sandbox(uid: &str, generation: i64) -> AgentSandbox {
    serde_json::from_value(json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
        "metadata": {"name": "fix", "namespace": "team", "uid": uid, "generation": generation},
        "spec": {"agent": {"image": "a:1"}}}))
    .unwrap()
}

fn config_map(text: Option<&str>) -> ConfigMap {
    let data = text.map(|text| json!({KEY_POLICY: text}));
    serde_json::from_value(json!({"metadata": {"name": "fix-policy"}, "data": data})).unwrap()
}

#[test]
fn a_document_is_decided_by_only_if_it_is_the_sandboxs_own() {
    let own = Document::of(&sandbox("u-1", 3), &config_map(Some(POLICY))).unwrap();
    assert_eq!(own.note, None);
    let old = Document::of(&sandbox("u-1", 4), &config_map(Some(POLICY))).unwrap();
    assert!(old.note.unwrap().contains("generation 3 and the AgentSandbox of generation 4"));
    let of = |uid, text| Document::of(&sandbox(uid, 3), &config_map(text)).unwrap_err();
    assert!(matches!(of("u-2", Some(POLICY)), DocumentError::Foreign { .. }));
    assert!(matches!(of("u-1", None), DocumentError::None { .. }));
    assert!(matches!(of("u-1", Some("rules: everything")), DocumentError::Invalid(..)));
}

use serde_json::json;

use super::*;

const POLICY: &str = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: team, name: fix, uid: u-1}, generation: 3, rules: [
    {name: api, host: api.test, ports: [443], scheme: https, methods: [GET], paths: [/v1/**], credential: key, websocket: Allow},
    {name: query, host: query.test, ports: [443], scheme: https, credential: query},
    {name: plain, host: '*.plain.test', ports: [80, 8080], scheme: http},
    {name: bot, host: bot.test, ports: [443], scheme: https, credential: bot},
    {name: pinned, host: pinned.test, ports: [443], scheme: https, tls: Passthrough}],
    credentials: [
    {name: key, inject: {type: Header, name: x-api-key}, placeholders: [placeholder-of-key-1], constants: [eight-by, constant-of-key-1], scopes: [{host: api.test, ports: [443]}]},
    {name: bot, inject: {type: PathSegment, after: /bot}, placeholders: [placeholder-of-bot-1], scopes: [{host: bot.test, ports: [443]}]},
    {name: query, inject: {type: Query, name: k}, placeholders: [placeholder-of-query-1], scopes: [{host: query.test, ports: [443]}]}]}";

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

/// What the proxy's own `explain` says.
fn of_the_proxy(request: &str) -> agentsandbox_proxy::explain::Explained {
    let question = agentsandbox_proxy::explain::Question { request, fields: &[], body: &[] };
    agentsandbox_proxy::explain::explain(&policy(), question).unwrap()
}

#[test]
fn a_placeholder_is_judged_as_the_proxy_judges_it_in_each_spelling_and_in_its_own_place() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let percent = |text: &str| text.bytes().map(|byte| format!("%{byte:02x}")).collect::<String>();
    let base64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let word = "placeholder-of-key-1";
    let misused = [
        word.to_owned(),
        percent(word),
        percent(&percent(&percent(word))),
        base64(word),
        base64(&format!("a{word}")),
        base64(&format!("ab{word}b")),
        percent(&base64(&format!("a{word}"))),
        "constant-of-key-1".to_owned(),
        "placeholder-of-bot-1".to_owned(),
    ]
    .map(|spelled| (format!("https://api.test/v1/x?p={spelled}"), Some("PlaceholderMisuse")));
    let others = [
        ("https://api.test/v1/placeholder-of-key-1", Some("PlaceholderMisuse")),
        ("https://api.test/v1/x?p=eight-by", None),
        ("https://api.test/v1/x?p=placeholder", None),
        ("https://bot.test/botplaceholder-of-bot-1/me", None),
        ("https://bot.test/botplaceholder-of-bot-1/me?p=placeholder-of-bot-1", Some("PlaceholderMisuse")),
        ("https://bot.test/botplaceholder-of-bot-1/me?p=placeholder-of-key-1", Some("PlaceholderMisuse")),
        ("https://bot.test/me", Some("PlaceholderMisuse")),
        ("https://query.test/?k=placeholder-of-query-1", None),
        ("https://query.test/?p=placeholder-of-query-1", Some("PlaceholderMisuse")),
        ("https://query.test/?k=placeholder-of-key-1", Some("PlaceholderMisuse")),
    ]
    .map(|(url, reason)| (url.to_owned(), reason));
    for (url, reason) in misused.into_iter().chain(others) {
        let ours = asked("GET", &url).unwrap();
        let theirs = of_the_proxy(&format!("GET {url}"));
        assert_eq!((ours.allowed, &ours.text), (theirs.allowed, &theirs.text), "{url}");
        assert_eq!(ours.text["denial"]["reason"].as_str(), reason, "{url}");
    }
}

#[test]
fn what_is_no_request_has_no_answer() {
    for (method, url) in [
        ("GET", "/v1/models"),
        ("GET", "api.test"),
        ("GET", "ftp://api.test/"),
        ("G T", "https://api.test/v1/x"),
        ("GET", &format!("https://api.test/v1/{}", "x".repeat(TARGET_BYTES_MAX))),
    ] {
        assert!(asked(method, url).is_err(), "{method} {url}");
    }
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
    let is_true = |type_: &str| json!({"type": type_, "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-06-01T00:00:00Z"});
    let conditions = ["Accepted", "ProxyReady"].map(is_true);
    serde_json::from_value(json!({"apiVersion": "agentsandbox.dev/v1alpha1", "kind": "AgentSandbox",
        "metadata": {"name": "fix", "namespace": "team", "uid": uid, "generation": generation},
        "spec": {"agent": {"image": "a:1"}}, "status": {"conditions": conditions}}))
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
    let of = |uid, text| Document::of(&sandbox(uid, 3), &config_map(text)).unwrap_err();
    assert!(matches!(of("u-2", Some(POLICY)), DocumentError::Foreign { .. }));
    assert!(matches!(of("u-1", None), DocumentError::None { .. }));
    assert!(matches!(of("u-1", Some("rules: everything")), DocumentError::Invalid(..)));
}

#[test]
fn a_document_that_the_proxy_may_not_obey_is_said_to_be_one() {
    let noted = |change: fn(&mut AgentSandbox)| {
        let mut sandbox = sandbox("u-1", 3);
        change(&mut sandbox);
        Document::of(&sandbox, &config_map(Some(POLICY))).unwrap().note
    };
    assert_eq!(noted(|_| ()), None);
    let says = |change, words: &[&str]| {
        let note = noted(change).expect("there is a note");
        assert!(words.iter().all(|one| note.contains(one)), "{note}");
    };
    says(|s| s.metadata.generation = Some(4), &["generation 3 and the AgentSandbox of generation 4"]);
    says(|s| s.status.as_mut().unwrap().conditions[0].status = "False".into(), &["Accepted=True"]);
    says(|s| s.status.as_mut().unwrap().conditions[1].status = "Unknown".into(), &["ProxyReady=True"]);
    says(|s| s.status = None, &["Accepted=True", "ProxyReady=True"]);
    let ending = |s: &mut AgentSandbox| {
        s.metadata.deletion_timestamp = Some(serde_json::from_value(json!("2026-06-01T00:00:00Z")).unwrap());
    };
    says(ending, &["being deleted"]);
}

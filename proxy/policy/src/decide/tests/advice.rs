//! What a denial says to write is written, and the request is asked for again.

use serde_json::{Value, json};

use super::*;

fn document() -> Value {
    json!({
        "apiVersion": "policy.agentsandbox.dev/v1",
        "sandbox": {"namespace": "a", "name": "b"},
        "generation": 0,
        "rules": [
            {"name": "api", "host": "api.good.test", "ports": [443], "scheme": "https", "methods": ["GET"],
                "paths": ["/v1/*"], "credential": "key"},
            {"name": "open", "host": "open.test", "ports": [443], "scheme": "https"},
            {"name": "wide", "host": "**.wide.test", "ports": [443], "scheme": "https", "methods": ["GET"]},
            {"name": "plain", "host": "plain.test", "ports": [80], "scheme": "http", "paths": ["/x"]},
            {"name": "pinned", "host": "pinned.test", "ports": [443], "scheme": "https", "tls": "Passthrough"},
            {"name": "taken.test", "host": "other.test", "ports": [443], "scheme": "https"},
        ],
        "credentials": [{"name": "key", "inject": {"type": "Bearer"},
            "scopes": [{"host": "api.good.test", "ports": [443, 8443], "methods": ["GET", "POST"]}]}],
    })
}

fn policy_of(document: &Value) -> Policy {
    Policy::from_yaml(&document.to_string()).unwrap_or_else(|error| panic!("{error}\n{document:#}"))
}

fn yaml(snippet: &str) -> Value {
    serde_yaml::from_str(snippet).unwrap_or_else(|error| panic!("{snippet}: {error}"))
}

/// The document with the advice followed; none if there is nothing to write.
fn followed(document: &Value, advice: &str) -> Option<Value> {
    let mut changed = document.clone();
    let rules = changed["rules"].as_array_mut().unwrap();
    let parts: Vec<&str> = advice.split('`').collect();
    if let Some(rest) = advice.strip_prefix("In rule ") {
        let (name, _) = rest.split_once(" of rules of the policy document: ").unwrap();
        let rule = rules.iter_mut().find(|rule| rule["name"] == name).unwrap();
        for clause in parts.chunks(2).filter(|clause| clause.len() == 2) {
            let value = yaml(clause[1]);
            if clause[0].ends_with("write ") {
                value.as_object().unwrap().iter().for_each(|(field, value)| rule[field] = value.clone());
            } else {
                assert!(clause[0].ends_with("add to paths "), "{advice}");
                rule["paths"].as_array_mut().unwrap().extend(value.as_array().unwrap().iter().cloned());
            }
        }
    } else if advice.starts_with("Add to rules of the policy document: `") {
        rules.extend(yaml(parts[1]).as_array().unwrap().iter().cloned());
    } else {
        assert_eq!(parts.len(), 1, "a snippet that nobody knows where to write: {advice}");
        return None;
    }
    Some(changed)
}

fn asked(line: &str) -> Request {
    let websocket = line.strip_prefix("socket ");
    Request { websocket: websocket.is_some(), ..request(websocket.unwrap_or(line)) }
}

#[test]
fn whatever_a_denial_says_to_write_allows_the_request_that_was_denied() {
    let document = document();
    for (line, reason) in [
        ("GET https://new.test/a", "HostNotAllowed"),
        ("POST http://new.test:8080/a?q=1", "HostNotAllowed"),
        ("socket GET https://new.test/a", "HostNotAllowed"),
        ("PROPFIND https://new.test/a", "HostNotAllowed"),
        ("GET https://taken.test/", "HostNotAllowed"),
        ("GET https://null/", "HostNotAllowed"),
        ("GET https://xn--bcher-kva.test/", "HostNotAllowed"),
        ("GET https://pinned.test/", "HostNotAllowed"),
        ("GET https://open.test:8443/", "PortNotAllowed"),
        ("PROPFIND https://open.test:8443/", "PortNotAllowed"),
        ("socket GET https://open.test:8443/", "PortNotAllowed"),
        ("POST https://api.good.test:8443/v2/x", "PortNotAllowed"),
        ("POST https://api.good.test/v1/x", "MethodNotAllowed"),
        ("POST https://api.good.test/v2", "MethodNotAllowed"),
        ("DELETE https://a.wide.test/x", "MethodNotAllowed"),
        ("PROPFIND https://open.test/x", "MethodNotAllowed"),
        ("GET https://api.good.test/v2?q=1", "PathNotAllowed"),
        ("GET https://api.good.test/v2/a%2Fb", "PathNotAllowed"),
        ("GET https://api.good.test/v2/a;p=1/b", "PathNotAllowed"),
        ("GET https://api.good.test/v2/a,b'c&d", "PathNotAllowed"),
        ("socket GET https://api.good.test/v2", "PathNotAllowed"),
        ("GET http://plain.test/y", "PathNotAllowed"),
        ("socket GET https://open.test/ws", "WebsocketNotAllowed"),
        ("socket GET http://plain.test/x", "WebsocketNotAllowed"),
    ] {
        let denial = policy_of(&document).decide(asked(line)).unwrap_err();
        assert_eq!(denial.reason.as_str(), reason, "{line}");
        let changed = followed(&document, &denial.how_to_allow).unwrap_or_else(|| panic!("{line}: {denial}"));
        let allowed = policy_of(&changed).decide(asked(line));
        assert!(allowed.is_ok(), "{line}: {denial}\n{:?}", allowed.unwrap_err());
    }
}

#[test]
fn a_name_that_is_denied_is_admitted_and_answered_once_the_advice_is_followed() {
    let document = document();
    for (scheme, name, port) in
        [(Scheme::Https, "new.test", 443), (Scheme::Http, "new.test", 80), (Scheme::Https, "open.test", 22)]
    {
        let host = Host::parse(name).unwrap();
        let denial = policy_of(&document).admit(scheme, &host, port).unwrap_err();
        let changed = policy_of(&followed(&document, &denial.how_to_allow).unwrap());
        assert!(changed.admit(scheme, &host, port).is_ok() && changed.answers(&host), "{denial}");
    }
}

#[test]
fn a_new_rule_allows_what_was_asked_for_and_no_other_method_or_path() {
    let document = document();
    for line in ["GET https://new.test/a", "POST http://new.test/a", "PROPFIND https://new.test:8443/a"] {
        let denial = policy_of(&document).decide(asked(line)).unwrap_err();
        let changed = policy_of(&followed(&document, &denial.how_to_allow).unwrap());
        assert!(changed.decide(asked(line)).is_ok(), "{denial}");
        let (method, url) = line.split_once(' ').unwrap();
        for other in [format!("DELETE {url}"), format!("{method} {url}/b"), format!("{method} {url}%2fb")] {
            assert!(changed.decide(asked(&other)).is_err(), "{other}: {denial}");
        }
    }
}

#[test]
fn where_no_request_is_known_a_new_rule_is_wide_and_that_is_said() {
    let host = Host::parse("new.test").unwrap();
    let denial = policy_of(&document()).admit(Scheme::Https, &host, 443).unwrap_err();
    assert_eq!(
        denial.how_to_allow,
        "Add to rules of the policy document: `- {name: new.test, host: new.test, ports: [443], scheme: https}`. No request is known yet, so that it allows every path, and all ordinary methods: narrow it with methods and paths."
    );
}

#[test]
fn a_path_that_no_rule_can_name_has_no_new_rule_that_allows_every_other() {
    for path in ["/*", &format!("/{}", "x".repeat(300))] {
        let denial =
            policy_of(&document()).decide(asked(&format!("GET https://new.test{path}"))).unwrap_err();
        assert!(followed(&document(), &denial.how_to_allow).is_none(), "{denial}");
        assert!(denial.how_to_allow.contains("with the path that you mean"), "{denial}");
    }
}

/// A document whose credentials may go to more hosts than its rules name.
fn with_second_hosts() -> Value {
    let mut document = document();
    document["credentials"] = json!([
        {"name": "bot", "inject": {"type": "PathSegment", "after": "/bot"}, "placeholders": ["issued-for-bot-0001"],
            "scopes": [{"host": "bot.test", "ports": [443]}]},
        {"name": "corporate", "inject": {"type": "Basic", "username": "u"}, "scopes": [{"host": "way.test", "ports": [3128]}]},
        {"name": "key", "inject": {"type": "Bearer"}, "scopes": [
            {"host": "api.good.test", "ports": [443, 8443], "methods": ["GET", "POST"]},
            {"host": "up.good.test", "ports": [443, 8443], "methods": ["POST"], "paths": ["/r/**"]},
            {"host": "both.test", "ports": [443]}]},
        {"name": "other", "inject": {"type": "Header", "name": "x-other"}, "scopes": [{"host": "both.test", "ports": [443]}]},
    ]);
    document["clientCertificates"] = json!([{"name": "pair", "certificateFile": "c", "keyFile": "k",
        "scopes": [{"host": "up.good.test", "ports": [8443]}]}]);
    document["upstream"] = json!({"proxy": {"url": "http://way.test:3128", "credential": "corporate"}});
    document
}

#[test]
fn a_new_rule_names_the_credential_that_may_go_there_and_only_then() {
    let document = with_second_hosts();
    for (line, key, pair, says) in [
        ("POST https://up.good.test/r/x", Some("key"), None, ""),
        ("POST https://up.good.test:8443/r/x", Some("key"), Some("pair"), ""),
        (
            "POST https://up.good.test/files",
            None,
            None,
            "AgentCredential key has to allow POST on this path of up.good.test:443",
        ),
        ("GET https://up.good.test/r/x", None, None, "AgentCredential key has to allow GET"),
        ("POST https://up.good.test:9443/r/x", None, None, ""),
        ("POST http://up.good.test/r/x", None, None, ""),
        ("GET https://both.test/", Some("key"), None, "AgentCredentials that may go there as well: other."),
        ("POST https://bot.test/botissued-for-bot-0001/sendMessage", Some("bot"), None, ""),
        ("POST https://bot.test/sendMessage", None, None, "AgentCredential bot"),
        ("GET https://way.test:3128/", None, None, ""),
        ("GET https://new.test/", None, None, ""),
    ] {
        let denial = policy_of(&document).decide(asked(line)).unwrap_err();
        let changed = followed(&document, &denial.how_to_allow).unwrap_or_else(|| panic!("{line}: {denial}"));
        let permit =
            policy_of(&changed).decide(asked(line)).unwrap_or_else(|next| panic!("{denial}: {next}"));
        let carried = permit.credential().map(CredentialUse::name);
        assert_eq!(
            (carried, permit.certificate().map(CertificateUse::name)),
            (key, pair),
            "{line}: {denial}"
        );
        assert!(denial.how_to_allow.contains(says), "{line}: {denial}");
        assert_eq!(denial.how_to_allow.contains("AgentCredential"), !says.is_empty(), "{line}: {denial}");
    }
    let admitted = |port| {
        let host = Host::parse("up.good.test").unwrap();
        policy_of(&document).admit(Scheme::Https, &host, port).unwrap_err().how_to_allow
    };
    assert!(admitted(443).contains("credential: \"key\"}`") && !admitted(9443).contains("credential"));
}

#[test]
fn no_rule_is_proposed_for_a_host_beyond_the_ceiling_of_the_class() {
    let mut document = document();
    let advice = |document: &Value, host: &str| {
        policy_of(document).decide(asked(&format!("GET https://{host}/x"))).unwrap_err().how_to_allow
    };
    assert!(advice(&document, "new.test").contains('`'));
    document["allowedHosts"] = json!(["*.acme.test", "**.com", "api.good.test", "-"]);
    for (host, proposed) in [
        ("new.test", false),
        ("acme.test", false),
        ("a.acme.test", true),
        ("a.b.acme.test", false),
        ("a.b.com", true),
    ] {
        let told = advice(&document, host);
        assert_eq!(followed(&document, &told).is_some(), proposed, "{host}: {told}");
        assert_eq!(told.contains("AgentSandboxClass"), !proposed, "{host}: {told}");
    }
    // What a rule names already is within it: nothing else is judged by the ceiling.
    assert!(policy_of(&document).decide(asked("GET https://open.test/")).is_ok());
    document["allowedHosts"] = json!([]);
    assert!(!advice(&document, "a.b.com").contains('`'), "a ceiling of nothing");
    document["allowedHosts"] = Value::from(vec!["a.test"; crate::document::ALLOWED_HOSTS_MAX + 1]);
    assert!(Policy::from_yaml(&document.to_string()).is_err());
}

#[test]
fn what_must_not_be_allowed_or_cannot_be_has_nothing_to_write() {
    let document = document();
    for line in [
        "GET https://metadata.google.internal/",
        "GET http://169.254.169.254/latest/meta-data/",
        "GET https://10.0.0.1/",
        "GET https://[fd00:ec2::254]/",
        "TRACE https://new.test/",
        "TRACE https://open.test/",
        "GET http://open.test/",
        // The credential may not go there, and it is not its user who says where it may.
        "DELETE https://api.good.test/v1/x",
        "GET https://api.good.test:9443/v1/x",
    ] {
        let denial = policy_of(&document).decide(asked(line)).unwrap_err();
        assert!(followed(&document, &denial.how_to_allow).is_none(), "{line}: {denial}");
    }
    let credential = |line| policy_of(&document).decide(asked(line)).unwrap_err().how_to_allow;
    assert_eq!(
        credential("DELETE https://api.good.test/v1/x"),
        "Ask the owner of AgentCredential key to allow DELETE on this path of api.good.test:443 in its hosts, or narrow the rule to what they allow. Rule api must allow it, too."
    );
    assert!(credential("GET https://10.0.0.1/").starts_with("No rule can name an address;"));
    let host = Host::parse("api.good.test").unwrap();
    let denial = policy_of(&document).admit(Scheme::Https, &host, 9443).unwrap_err();
    assert!(followed(&document, &denial.how_to_allow).is_none(), "{denial}");
    for reason in DenialReason::ALL {
        if *reason != DenialReason::WebsocketNotAllowed {
            assert!(!Denial::new(*reason).how_to_allow.contains('`'), "{reason}");
        }
    }
    let mut inside = document.clone();
    inside["rules"] = json!([{"name": "in", "host": "in.test", "ports": [443], "scheme": "https"}]);
    inside["addresses"] = json!({"deny": ["10.96.0.0/12"]});
    let policy = policy_of(&inside);
    for address in ["169.254.169.254", "10.96.0.1", "10.1.2.3"] {
        let permit = policy.decide(request("GET https://in.test/")).unwrap();
        let denial = permit.dial(&policy, address.parse().unwrap()).unwrap_err();
        assert!(followed(&inside, &denial.how_to_allow).is_none(), "{denial}");
    }
}

#[test]
fn an_agent_sandbox_is_told_to_name_a_host_only_where_it_can() {
    let mut document = document();
    document["sandbox"]["uid"] = json!("1b2c");
    for (host, nameable) in [
        ("a.test", true),
        ("a-b.test", true),
        ("9.test", true),
        ("xn--bcher-kva.test", true),
        ("localhost", false),
        ("a_b.test", false),
        ("-a.test", false),
        ("a-.test", false),
        ("a.-test", false),
        ("a.t", false),
        ("a.9t", false),
    ] {
        let advice =
            policy_of(&document).decide(asked(&format!("GET https://{host}/"))).unwrap_err().how_to_allow;
        let expected = if nameable {
            "Add to spec.egress.allow of AgentSandbox a/b: `- {host: "
        } else {
            "No rule can name this host;"
        };
        assert!(advice.starts_with(expected), "{host}: {advice}");
    }
}

#[test]
fn no_path_that_an_agent_makes_up_widens_what_is_proposed() {
    let mut full = document();
    full["rules"][0]["paths"] = (0..64).map(|number| json!(format!("/{number}"))).collect();
    let long = format!("GET https://api.good.test/{}", "x".repeat(300));
    let odd = "GET https://api.good.test/v2/;p/b";
    for line in ["GET https://api.good.test/v2/*", "GET https://api.good.test/**/x", odd, &long] {
        for document in [document(), full.clone()] {
            let denial = policy_of(&document).decide(asked(line)).unwrap_err();
            assert_eq!(denial.reason, DenialReason::PathNotAllowed, "{denial}");
            assert!(!denial.how_to_allow.contains('`') && denial.how_to_allow.contains("paths"), "{denial}");
        }
    }
}

#[test]
fn where_a_list_is_full_another_rule_is_proposed_with_the_same_credential() {
    let mut full = document();
    full["rules"][0]["paths"] = (0..64).map(|number| json!(format!("/{number}"))).collect();
    let line = "GET https://api.good.test/v2";
    let advice = |document: &Value| policy_of(document).decide(asked(line)).unwrap_err().how_to_allow;
    let mut with_room = full.clone();
    with_room["rules"][0]["paths"].as_array_mut().unwrap().pop();
    assert!(advice(&with_room).starts_with("In rule api of ") && advice(&full).starts_with("Add to rules "));
    let denial = policy_of(&full).decide(asked(line)).unwrap_err();
    let changed = policy_of(&followed(&full, &denial.how_to_allow).unwrap());
    let permit = changed.decide(asked(line)).unwrap();
    assert_eq!((permit.rule(), permit.credential().unwrap().name()), ("api.good.test", "key"), "{denial}");
    assert!(changed.decide(asked("GET https://api.good.test/v3")).is_err(), "the path, and no other");
    full["rules"] = (0..crate::document::RULES_MAX)
        .map(|n| json!({"name": format!("r{n}"), "host": "r.test", "ports": [443], "scheme": "https"}))
        .collect();
    let denial = policy_of(&full).decide(asked("GET https://new.test/")).unwrap_err();
    assert!(followed(&full, &denial.how_to_allow).is_none(), "{denial}");
}

#[test]
fn a_socket_is_allowed_by_a_rule_of_its_own_where_the_rule_has_limits_for_answers() {
    let mut document = document();
    document["rules"][0]["answer"] = json!({"maxBytes": 1000});
    let line = "socket GET https://api.good.test/v1/x";
    let denial = policy_of(&document).decide(asked(line)).unwrap_err();
    let changed = policy_of(&followed(&document, &denial.how_to_allow).unwrap());
    let permit = changed.decide(asked(line)).unwrap();
    assert_eq!((permit.rule(), permit.credential().unwrap().name()), ("api.good.test", "key"), "{denial}");
}

#[test]
fn no_socket_is_proposed_where_the_credential_may_not_go_with_its_handshake() {
    let mut document = document();
    document["credentials"][0]["scopes"][0]["methods"] = json!(["POST"]);
    let line = "socket GET https://api.good.test/v1/x";
    for methods in [json!(["POST"]), json!(["GET", "POST"]), json!(["GET"])] {
        document["rules"][0]["methods"] = methods;
        let denial = policy_of(&document).decide(asked(line)).unwrap_err();
        assert!(followed(&document, &denial.how_to_allow).is_none(), "{denial}");
        assert!(denial.how_to_allow.starts_with("Ask the owner of AgentCredential key"), "{denial}");
    }
    // Where it may, the advice is to be followed.
    document["credentials"][0]["scopes"][0]["methods"] = json!(["GET", "POST"]);
    let denial = policy_of(&document).decide(asked(line)).unwrap_err();
    let changed = policy_of(&followed(&document, &denial.how_to_allow).unwrap());
    assert!(changed.decide(asked(line)).is_ok(), "{denial}");
}

#[test]
fn a_change_takes_nothing_away() {
    let document = document();
    let before = ["GET https://open.test/x", "HEAD https://open.test/x", "DELETE https://open.test/"];
    for line in ["PROPFIND https://open.test/x", "GET https://open.test:22/x"] {
        let denial = policy_of(&document).decide(asked(line)).unwrap_err();
        let changed = policy_of(&followed(&document, &denial.how_to_allow).unwrap());
        for line in before.iter().chain([&line]) {
            assert!(changed.decide(asked(line)).is_ok(), "{line}: {denial}");
        }
    }
}

proptest! {
    #[test]
    fn no_denied_request_has_advice_that_does_not_help(
        host in prop_oneof![
            Just("api.good.test"), Just("open.test"), Just("x.wide.test"), Just("plain.test"), Just("pinned.test"),
            Just("new.test"), Just("on"), Just("a_b.test"), Just("127.0.0.1"), Just("metadata"), Just("9.test"),
        ],
        scheme in prop_oneof![Just("https"), Just("http")],
        port in prop_oneof![Just(80_u16), Just(443), Just(8443), 1_u16..],
        method in prop_oneof![Just("GET"), Just("POST"), Just("DELETE"), Just("PROPFIND"), Just("TRACE")],
        path in "(/[a-z*;,%2F'!:@&=]{1,6}){0,4}/?",
        socket in any::<bool>(),
    ) {
        let line = format!("{method} {scheme}://{host}:{port}{path}");
        prop_assume!(path.starts_with('/') && Target::parse(&path).is_ok());
        let ask = || Request { websocket: socket, ..request(&line) };
        let document = document();
        if let Err(denial) = policy_of(&document).decide(ask())
            && let Some(changed) = followed(&document, &denial.how_to_allow)
        {
            let allowed = policy_of(&changed).decide(ask());
            prop_assert!(allowed.is_ok(), "{line}: {denial}\n{:?}", allowed.unwrap_err());
        }
    }
}

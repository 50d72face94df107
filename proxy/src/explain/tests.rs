//! What a denial says to write is written, and the request asked for again with all that the agent presents with it.

use super::*;

const POLICY: &str = "apiVersion: policy.agentsandbox.dev/v1
sandbox: {namespace: a, name: b}
generation: 0
rules:
- {name: api, host: api.test, ports: [443], scheme: https, methods: [GET], paths: ['/v1/**'], credential: key}
credentials:
- name: key
  placeholders: [issued-for-key-0001]
  inject: {type: Bearer}
  scopes: [{host: api.test, ports: [443]}, {host: up.test, ports: [443, 8443], methods: [POST], paths: ['/r/**']}]
- {name: bot, placeholders: [issued-for-bot-0001], inject: {type: PathSegment, after: /bot}, scopes: [{host: bot.test, ports: [443]}]}
";
const OWN: &str = "authorization: Bearer issued-for-key-0001";

fn asked(policy: &str, request: &str, field: &str) -> Explained {
    let fields: Vec<String> =
        [field].iter().filter(|field| !field.is_empty()).map(ToString::to_string).collect();
    let policy = Policy::from_yaml(policy).unwrap_or_else(|error| panic!("{error}\n{policy}"));
    explain(&policy, Question { request, fields: &fields, body: b"" }).unwrap()
}

#[test]
fn what_a_denial_says_to_write_allows_the_request_with_the_placeholder_that_it_came_with() {
    for (request, field, credential) in [
        ("POST https://up.test/r/x", OWN, Some("key")),
        ("POST https://up.test:8443/r/x?q=1", OWN, Some("key")),
        ("POST https://up.test/r/x", "", Some("key")),
        ("POST https://bot.test/botissued-for-bot-0001/send", "", Some("bot")),
        ("POST https://up.test/files", "", None),
        ("GET https://up.test/r/x", "", None),
        ("GET https://new.test/a%2Fb?q=1", "", None),
        ("POST http://new.test:8080/a", "authorization: Bearer of-its-own", None),
    ] {
        let denied = asked(POLICY, request, field);
        let advice = denied.text["denial"]["howToAllow"].as_str().unwrap_or_default();
        let parts: Vec<&str> = advice.split('`').collect();
        let ["Add to rules of the policy document: ", snippet, _] = parts[..] else {
            panic!("{request}: {advice}")
        };
        let changed = POLICY.replace("rules:\n", &format!("rules:\n{snippet}\n"));
        let answer = asked(&changed, request, field);
        assert!(answer.allowed, "{request}: {advice}\n{}", answer.text);
        assert_eq!(answer.text["credential"].as_str(), credential, "{request}: {advice}");
    }
}

#[test]
fn a_placeholder_where_its_credential_may_not_go_is_refused_though_the_rest_is_allowed_and_its_owner_is_named()
 {
    let request = "POST https://up.test/files";
    let denied = asked(POLICY, request, OWN);
    let advice = denied.text["denial"]["howToAllow"].as_str().unwrap_or_default();
    assert!(
        advice.contains("It goes without a key: for its own, the owner of AgentCredential key"),
        "{advice}"
    );
    let snippet = advice.split('`').nth(1).unwrap();
    let changed = POLICY.replace("rules:\n", &format!("rules:\n{snippet}\n"));
    assert_eq!(asked(&changed, request, OWN).text["denial"]["reason"], "PlaceholderMisuse");
    assert!(asked(&changed, request, "").allowed);
}

#[test]
fn a_key_of_the_agents_own_in_a_form_is_told_as_it_would_be_refused() {
    let policy = Policy::from_yaml(&POLICY.replace("methods: [GET]", "methods: [POST]")).unwrap();
    let asked = |fields: &[&str], body: &[u8]| {
        let fields: Vec<String> = fields.iter().map(ToString::to_string).collect();
        explain(&policy, Question { request: "POST https://api.test/v1/x", fields: &fields, body }).unwrap()
    };
    let form = "content-type: application/x-www-form-urlencoded";
    let denied = asked(&[form], b"a=1&api_key=own");
    assert!(
        denied.text["denial"]["howToAllow"].as_str().unwrap().contains("field api_key"),
        "{}",
        denied.text
    );
    assert!(!asked(&[form, "content-encoding: gzip"], b"a=1").allowed);
    assert!(asked(&[form], b"a=1&note=api_key").allowed);
    assert!(asked(&["content-type: application/json"], b"a=1&api_key=own").allowed);
}

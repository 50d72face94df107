//! Which credential goes where, and what its scopes leave out.

use std::sync::LazyLock;

use super::{request, verdict_of};
use crate::{DenialReason, Injection, Policy};

const POLICY: &str = r#"
apiVersion: policy.agentsandbox.dev/v1
sandbox: {namespace: team, name: demo, uid: 1b2c}
generation: 3
rules:
- {name: read, host: api.good.test, ports: [443], scheme: https, methods: [GET, HEAD], paths: ["/v1/**"], credential: reader}
- {name: write, host: api.good.test, ports: [443], scheme: https, methods: [POST], paths: ["/v1/**"], credential: writer}
- {name: admin, host: api.good.test, ports: [443], scheme: https, paths: ["/admin/**"], credential: admin}
- {name: late, host: api.good.test, ports: [443], scheme: https, paths: ["/v1/**"], credential: admin}
- {name: open, host: api.good.test, ports: [443], scheme: https, methods: [GET], paths: ["/public"]}
- {name: any, host: "*.good.test", ports: [443], scheme: https, paths: ["/v1/x", "/else"], credential: admin}
- {name: bot, host: bot.test, ports: [443], scheme: https, paths: ["/bot*/sendMessage", "/*/bot*/sendMessage"], credential: bot}
- {name: files, host: files.test, ports: [443], scheme: https, credential: files}
credentials:
- {name: reader, inject: {type: Bearer}, scopes: [{host: api.good.test, ports: [443]}]}
- {name: writer, inject: {type: Header, name: x-api-key}, scopes: [{host: api.good.test, ports: [443], methods: [POST]}]}
- {name: admin, inject: {type: Cookie, name: session}, scopes: [{host: "*.good.test", ports: [443]}]}
- name: bot
  placeholders: [placeholder, "123456:placeholder-of-the-bot"]
  inject: {type: PathSegment, after: /bot}
  scopes: [{host: bot.test, ports: [443], paths: ["/bot*/sendMessage", "/*/bot*/sendMessage"]}]
- name: files
  inject: {type: Bearer}
  scopes:
  - host: files.test
    ports: [443]
    exceptPaths: [/v1/files, "/v1/files/**", "/*/*/Keys", "/user/tokens", "/v1/models/*:tune", "/@scope/secret", "/@scope%2Fsealed"]
  - {host: files.test, ports: [443], methods: [GET], paths: ["/v1/files/public/**"]}
"#;

fn verdict(line: &str) -> String {
    static PARSED: LazyLock<Policy> = LazyLock::new(|| Policy::from_yaml(POLICY).unwrap());
    verdict_of(&PARSED, line)
}

#[test]
fn p_f2_each_of_several_credentials_of_a_host_goes_where_its_own_rule_says() {
    for (line, expected) in [
        ("GET https://api.good.test/v1/x", "read reader"),
        ("POST https://api.good.test/v1/x", "write writer"),
        ("DELETE https://api.good.test/v1/x", "late admin"),
        ("GET https://api.good.test/admin/x", "admin admin"),
        ("POST https://api.good.test/admin/x", "admin admin"),
        ("GET https://api.good.test/public", "open -"),
        ("POST https://api.good.test/public", "PathNotAllowed"),
        ("GET https://other.good.test/v1/x", "any admin"),
        ("GET https://api.good.test/else", "any admin"),
    ] {
        assert_eq!(verdict(line), expected, "{line}");
    }
}

#[test]
fn p_f22_a_path_that_is_left_out_is_denied_however_it_is_read_unless_a_scope_names_it() {
    for (line, expected) in [
        ("POST https://files.test/v1/messages", "files files"),
        ("POST https://files.test/v1/files", "CredentialScope"),
        ("POST https://files.test/v1/files/", "CredentialScope"),
        ("GET https://files.test/v1/files/a/b", "CredentialScope"),
        ("POST https://files.test/V1/Files", "CredentialScope"),
        ("POST https://files.test/v1/%66iles", "CredentialScope"),
        ("POST https://files.test/v1/x/../files", "CredentialScope"),
        ("POST https://files.test/v1/files;v=1", "CredentialScope"),
        ("POST https://files.test/v1/files%2Fa", "CredentialScope"),
        ("GET https://files.test/user/1/KEYS", "CredentialScope"),
        ("POST https://files.test/user/tokens", "CredentialScope"),
        ("POST https://files.test/user/tokens/", "CredentialScope"),
        ("POST https://files.test/user/tokens;v=1", "CredentialScope"),
        ("POST https://files.test/user/tokens%3Bv=1", "CredentialScope"),
        ("POST https://files.test/user/tokens/;v=1", "CredentialScope"),
        ("POST https://files.test/user/%3B/tokens%3b", "CredentialScope"),
        ("POST https://files.test/user;a/;b/tokens/", "CredentialScope"),
        ("POST https://files.test/@scope/sealed%3Bv/", "files files"),
        ("POST https://files.test/@scope%2Fsealed%3Bv", "CredentialScope"),
        ("POST https://files.test/user/tokensmith/", "files files"),
        ("POST https://files.test/v1/models/m%3Atune", "CredentialScope"),
        ("POST https://files.test/v1/models/m:run", "files files"),
        ("GET https://files.test/@scope%2fsecret", "CredentialScope"),
        ("GET https://files.test/@scope%2fopen", "files files"),
        ("GET https://files.test/@Scope%2fsealed", "CredentialScope"),
        ("GET https://files.test/v1/files/public/x", "files files"),
        ("POST https://files.test/v1/files/public/x", "CredentialScope"),
        ("GET https://files.test/v1/filesystem", "files files"),
    ] {
        assert_eq!(verdict(line), expected, "{line}");
    }
}

#[test]
fn what_is_left_out_is_told_apart_from_what_was_never_in() {
    let policy = Policy::from_yaml(POLICY).unwrap();
    let told = |line| policy.decide(request(line)).unwrap_err();
    let denial = told("POST https://files.test/v1/files");
    assert!(denial.how_to_allow.starts_with("AgentCredential files leaves this path out"), "{denial}");
    assert_eq!(denial.credential.as_deref(), Some("files"));
    let denial = told("GET https://bot.test/botplaceholderandplaceholder/sendMessage");
    assert_eq!(denial.reason, DenialReason::PlaceholderMisuse);
    assert_eq!(
        denial.how_to_allow,
        "Write the placeholder of AgentCredential bot in the path once, right behind /bot."
    );
}

#[test]
fn p_f16_a_path_without_its_placeholder_is_never_sent_bare() {
    for (path, expected) in [
        ("/botplaceholder/sendMessage", "bot bot"),
        ("/bot123456:placeholder-of-the-bot/sendMessage", "bot bot"),
        ("/botpl%61ceholder/sendMessage", "bot bot"),
        ("/bot/sendMessage", "PlaceholderMisuse"),
        ("/bot123456:own-token/sendMessage", "PlaceholderMisuse"),
        ("/botplaceholderplaceholder/sendMessage", "PlaceholderMisuse"),
        ("/bots-placeholder/sendMessage", "PlaceholderMisuse"),
        ("/placeholder/bot1/sendMessage", "PlaceholderMisuse"),
        ("/v1/botplaceholder/sendMessage", "PlaceholderMisuse"),
        ("/botplaceholder/getUpdates", "PathNotAllowed"),
    ] {
        assert_eq!(verdict(&format!("GET https://bot.test{path}")), expected, "{path}");
    }
}

#[test]
fn a_host_is_covered_by_each_credential_whose_scopes_name_it() {
    let policy = Policy::from_yaml(POLICY).unwrap();
    let at =
        |host: &str| policy.injections_at(&crate::Host::parse(host).unwrap()).cloned().collect::<Vec<_>>();
    assert_eq!(at("other.good.test"), [Injection::Cookie { name: "session".to_owned() }]);
    assert_eq!((at("api.good.test").len(), at("good.test").len()), (3, 0));
    let has = |host: &str| policy.has_credential_at(&crate::Host::parse(host).unwrap());
    assert!(has("other.good.test") && has("api.good.test") && !has("good.test"));
}

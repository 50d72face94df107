//! Guards that do not exist: whoever asks for one has no policy, which would otherwise allow what the guard was to keep out;
//! and what the guard was to let through in part is denied as a whole.

use super::*;

const RULE: &str = "name: a, host: api.good.test, ports: [443], scheme: https";
const INJECT: &str = "inject: {type: Bearer}";

/// Whether a document is taken with this rule and this credential.
fn is_taken(rule: &str, inject: &str) -> bool {
    let text = format!(
        "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 0, rules: [{{{rule}}}],
          credentials: [{{name: key, {inject}, scopes: [{{host: api.good.test, ports: [443]}}]}}]}}"
    );
    Policy::from_yaml(&text).is_ok()
}

#[track_caller]
fn no_rule_can_ask_for(guards: &[&str]) {
    assert!(is_taken(RULE, INJECT), "without a guard it is");
    for guard in guards {
        assert!(!is_taken(&format!("{RULE}, {guard}"), INJECT), "{guard}");
    }
}

/// The verdicts of a policy with these rules.
fn verdicts(rules: &str, lines: &[&str]) -> Vec<String> {
    let text = format!(
        "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 0, rules: [{rules}],
          credentials: [{{name: key, {INJECT}, scopes: [{{host: api.good.test, ports: [443], exceptPaths: [/graphql]}}]}}]}}"
    );
    let policy = Policy::from_yaml(&text).unwrap();
    lines.iter().map(|line| verdict_of(&policy, line)).collect()
}

#[test]
fn p_e6_no_rule_can_ask_for_an_operation_and_a_key_goes_to_graphql_only_where_a_path_names_it() {
    no_rule_can_ask_for(&["graphql: {operations: [viewer]}", "operations: [query]", "body: {query: '*'}"]);
    let asked = [
        "POST https://api.good.test/graphql",
        "POST https://api.good.test/GraphQL/",
        "POST https://api.good.test/v1",
        "POST https://api.good.test/x/gr%61phql;a",
    ];
    let verdicts = |paths: &str, scope: &str| {
        let text = format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 0, rules: [{{{RULE}{paths}, credential: key}}],
              credentials: [{{name: key, {INJECT}, scopes: [{{host: api.good.test, ports: [443]{scope}}}]}}]}}"
        );
        let policy = Policy::from_yaml(&text).unwrap();
        asked.map(|line| verdict_of(&policy, line))
    };
    for (paths, scope) in [
        ("", ""),
        (r#", paths: ["/**"]"#, ""),
        (r#", paths: ["/*", "/GraphQL*"]"#, r#", paths: ["/**", "/graph*"]"#),
        // What names another place names none of these.
        (r#", paths: ["/**", "/v1/graphql"]"#, r#", paths: ["/**"], exceptPaths: [/x]"#),
    ] {
        let [small, mixed, other, deep] = verdicts(paths, scope);
        assert_eq!([&*small, &*other], ["CredentialScope", "a key"], "{paths} {scope}");
        assert!(deep == "CredentialScope" || deep == "PathNotAllowed", "{paths} {scope}: {deep}");
        assert!(mixed == "CredentialScope" || mixed == "PathNotAllowed", "{paths} {scope}: {mixed}");
    }
    let except = ", exceptPaths: [/graphql]";
    assert_eq!(
        verdicts(r#", paths: ["/**", "/graphql"]"#, except),
        ["CredentialScope", "CredentialScope", "a key", "CredentialScope"]
    );
    assert_eq!(
        verdicts(r#", paths: ["/**", "/graphql"]"#, ""),
        ["a key", "CredentialScope", "a key", "CredentialScope"]
    );
    assert_eq!(
        verdicts("", r#", paths: ["/**", "/GraphQL/"]"#),
        ["CredentialScope", "a key", "a key", "CredentialScope"]
    );
    assert_eq!(
        verdicts(r#", paths: ["/v1"]"#, ""),
        ["PathNotAllowed", "PathNotAllowed", "a key", "PathNotAllowed"]
    );
}

#[test]
fn a_path_that_has_the_word_elsewhere_than_as_its_last_segment_is_no_place_of_operations() {
    let rules = format!("{{{RULE}, credential: key}}");
    for path in ["/graphql-docs", "/graphql/schema", "/docs/graphql.html", "/a%20graphql", "/x%20y"] {
        assert_eq!(verdicts(&rules, &[&format!("GET https://api.good.test{path}")]), ["a key"], "{path}");
    }
    assert_eq!(verdicts(&rules, &["GET https://api.good.test/v1/graphql"]), ["CredentialScope"]);
}

#[test]
fn p_e7_a_rule_that_would_have_to_read_a_body_is_rejected() {
    no_rule_can_ask_for(&[
        "body: {maxBytes: 1}",
        "body: {contains: x}",
        "contentTypes: [application/json]",
        "requestContentTypes: [application/json]",
        "contentEncoding: gzip",
        "form: {fields: [q]}",
        "json: {path: $.model}",
        "multipart: Deny",
        "schema: {type: object}",
    ]);
}

#[test]
fn p_e8_no_rule_can_ask_for_a_tool_and_a_server_of_tools_is_denied_as_a_whole() {
    no_rule_can_ask_for(&["mcp: {tools: [search]}", "tools: [search]", "protocol: MCP"]);
    let rules = format!("{{{RULE}, methods: [GET], paths: [\"/v1/**\"]}}");
    let asked =
        ["POST https://api.good.test/mcp", "GET https://api.good.test/sse", "GET https://api.good.test/v1/x"];
    assert_eq!(verdicts(&rules, &asked), ["MethodNotAllowed", "PathNotAllowed", "a -"]);
}

#[test]
fn p_e10_no_rule_can_ask_for_a_ref_and_a_push_is_denied_as_a_whole() {
    no_rule_can_ask_for(&[
        "git: {push: [refs/heads/agent]}",
        "refs: [refs/heads/agent]",
        "protectedRefs: [main]",
    ]);
    let rules = format!("{{{RULE}, paths: [/r.git/info/refs, /r.git/git-upload-pack]}}");
    let asked = [
        "POST https://api.good.test/r.git/git-receive-pack",
        "POST https://api.good.test/r.git/git-receive-pack?atomic=1",
        "POST https://api.good.test/r.git/git-upload-pack",
    ];
    assert_eq!(verdicts(&rules, &asked), ["PathNotAllowed", "PathNotAllowed", "a -"]);
}

#[test]
fn p_i13_nothing_that_an_agent_can_write_decides_a_push_and_no_spelling_of_its_path_makes_it_a_fetch() {
    no_rule_can_ask_for(&[
        "defaultBranch: main",
        "git: {protected: [main], objectFormat: sha256}",
        "refs: {case: Fold}",
        "maxRefs: 100",
    ]);
    let rules = format!("{{{RULE}, paths: [/r.git/info/refs, /r.git/git-upload-pack]}}");
    let denied = [
        "POST https://api.good.test/r.git/git-receive-pack",
        "POST https://api.good.test/r.git/git-%72eceive-pack",
        "POST https://api.good.test/r.git/./git-receive-pack",
        "POST https://api.good.test/r.git/git-upload-pack/../git-receive-pack",
        "POST https://api.good.test/r.git/git-upload-pack%2f..%2fgit-receive-pack",
        "POST https://api.good.test/r.git//git-receive-pack",
        "POST https://api.good.test/R.git/git-receive-pack",
        "POST https://api.good.test/r/git-receive-pack",
        "PUT https://api.good.test/r.git/objects/pack/x",
    ];
    // One that cannot be read in one way is no request at all.
    let judged = |line: &&&str| Target::parse(line.split_once(".test").unwrap().1).is_ok();
    let denied: Vec<&str> = denied.iter().filter(judged).copied().collect();
    assert!(denied.len() > 5, "{denied:?}");
    assert!(verdicts(&rules, &denied).iter().all(|verdict| verdict == "PathNotAllowed"), "{denied:?}");
    let named = format!("{{{RULE}, paths: [/r.git/**]}}");
    let push = ["POST https://api.good.test/r.git/git-receive-pack"];
    assert_eq!(verdicts(&named, &push), ["a -"], "a rule whose paths take it in allows it, whole");
}

#[test]
fn p_f13_no_credential_can_sign_requests() {
    assert!(is_taken(RULE, INJECT));
    for inject in [
        "inject: {type: SigV4}",
        "inject: {type: SigV4, region: eu-west-1, service: s3}",
        "inject: {type: AwsSigV4}",
        "inject: {type: Bearer, region: eu-west-1}",
        "inject: {type: Bearer}, region: eu-west-1",
    ] {
        assert!(!is_taken(RULE, inject), "{inject}");
    }
}

#[test]
fn p_i6_no_rule_can_ask_for_an_approval_and_what_none_allows_is_denied_at_once() {
    no_rule_can_ask_for(&["approval: Required", "ask: true", "approve: {methods: [POST]}", "decision: Ask"]);
    let rules = format!("{{{RULE}, methods: [GET]}}");
    let asked = ["POST https://api.good.test/x", "GET https://api.good.test/x"];
    assert_eq!(verdicts(&rules, &asked), ["MethodNotAllowed", "a -"]);
}

#[test]
fn a_limit_that_does_not_exist_cannot_be_asked_for() {
    no_rule_can_ask_for(&[
        "budget: {requests: 1}",
        "rateLimit: 1",
        "maxBytes: 1",
        "maxResponseBytes: 1",
        "allowHeaders: [accept]",
        "headers: {x-expected-bucket-owner: '1'}",
    ]);
}

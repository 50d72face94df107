//! Rules as people write them, and what they keep out.

use super::*;

/// The verdicts of a policy with these rules, as [`verdict`] spells them.
fn verdicts(rules: &str, lines: &[&str]) -> Vec<String> {
    let text = format!(
        "apiVersion: policy.agentsandbox.dev/v1\nsandbox: {{namespace: a, name: b}}\ngeneration: 0\nrules:\n{rules}"
    );
    let policy = Policy::from_yaml(&text).unwrap();
    lines
        .iter()
        .map(|line| match policy.decide(request(line)) {
            Ok(permit) => permit.rule().to_owned(),
            Err(denial) => denial.reason.to_string(),
        })
        .collect()
}

#[test]
fn p_e9_a_rule_for_fetching_lets_nobody_push() {
    let rules = "- {name: git, host: git.good.test, ports: [443], scheme: https, paths: [/org/repo.git/info/refs, /org/repo.git/git-upload-pack]}\n";
    let base = "https://git.good.test/org/repo";
    let pushes: Vec<String> = [
        "POST {}.git/git-receive-pack",
        "POST {}/git-receive-pack",
        "POST {}.git/info/lfs/objects/batch",
        "PUT {}.git/info/lfs/objects/1",
        "PUT {}.git/objects/aa/bb",
        "POST {}.git/git-receive-pack/",
        "POST {}.git/git-upload-pack/../git-receive-pack",
        "POST {}.git/git-upload-pack/%2e%2e/git-receive-pack",
    ]
    .map(|line| line.replace("{}", base))
    .to_vec();
    let lines: Vec<&str> = pushes.iter().map(String::as_str).collect();
    assert!(
        verdicts(rules, &lines).iter().all(|verdict| verdict == "PathNotAllowed"),
        "{:?}",
        verdicts(rules, &lines)
    );
    let fetch = [
        format!("GET {base}.git/info/refs?service=git-upload-pack"),
        format!("POST {base}.git/git-upload-pack"),
    ];
    assert_eq!(verdicts(rules, &[&fetch[0], &fetch[1]]), ["git", "git"]);
}

/// The same request, in each spelling that some server takes for the beginning of a push.
const PUSH_BEGUN: [&str; 18] = [
    "/info/refs?service=git-receive-pack",
    "/info/refs?service=git%2Dreceive-pack",
    "/info/refs?%73ervice=git-receive-pac%6B",
    "/info/refs?SERVICE=Git-Receive-Pack",
    "/info/refs?service=git-upload-pack&service=git-receive-pack",
    "/info/refs?service=git-receive-pack&service=git-upload-pack",
    "/info/refs?a=1;service=git-receive-pack",
    "/info/refs?service[]=git-receive-pack",
    "/info/refs?[service]=git-receive-pack",
    "/info/refs?+service=git-receive-pack",
    "/info/refs?%u0073ervice%00x=git-receive-pack",
    "/info/refs?service=git-receive-pack%00",
    "/info/refs?service=%u0067it-receive-pack",
    "/info/refs?%u0073ervice=%uFF47it-receive-pac%6b",
    "/INFO/refs?service=git-receive-pack",
    "/info/./refs?service=git-receive-pack",
    "/x/../info/re%66s?service=git-receive-pack",
    "/info/refs/?service=git-receive-pack",
];

#[test]
fn p_e9_the_first_request_of_a_push_is_denied_where_the_push_is_and_a_fetch_is_not() {
    let base = "https://git.good.test/org/repo.git";
    for (narrowed, reason) in [
        (
            "methods: [GET, POST], paths: [/org/repo.git/*/refs, /org/repo.git/*/refs/, /org/repo.git/git-upload-pack]",
            "PathNotAllowed",
        ),
        ("methods: [GET, HEAD], paths: [/org/repo.git/**]", "MethodNotAllowed"),
    ] {
        let rules =
            format!("- {{name: git, host: git.good.test, ports: [443], scheme: https, {narrowed}}}\n");
        for begun in PUSH_BEGUN {
            assert_eq!(verdicts(&rules, &[&format!("GET {base}{begun}")]), [reason], "{begun} {narrowed}");
        }
        for fetch in
            ["?service=git-upload-pack", "", "?", "?service=git-upload-archive", "?q=git-receive-pack"]
        {
            assert_eq!(verdicts(&rules, &[&format!("GET {base}/info/refs{fetch}")]), ["git"], "{fetch}");
        }
    }
    let rules =
        "- {name: git, host: git.good.test, ports: [443], scheme: https, paths: [/org/repo.git/**]}\n";
    for begun in PUSH_BEGUN {
        assert_eq!(verdicts(rules, &[&format!("GET {base}{begun}")]), ["git"], "{begun}");
    }
}

#[test]
fn p_e9_a_push_begins_only_under_a_rule_and_with_a_credential_that_go_with_the_push() {
    let policy = Policy::from_yaml(
        "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, rules: [
        {name: read, host: git.forge.test, ports: [443], scheme: https, methods: [GET], credential: reads},
        {name: push, host: '*.forge.test', ports: [443], scheme: https, paths: [/r.git/**], credential: key}], credentials: [
        {name: reads, inject: {type: Bearer}, scopes: [{host: git.forge.test, ports: [443]}]},
        {name: key, inject: {type: Bearer}, scopes: [
            {host: git.forge.test, ports: [443]}, {host: other.forge.test, ports: [443], exceptPaths: ['/**/git-receive-pack']},
            {host: third.forge.test, ports: [443], methods: [GET]}]}]}",
    )
    .unwrap();
    let decided = |host: &str, service: &str| {
        policy.decide(request(&format!("GET https://{host}/r.git/info/refs?service={service}")))
    };
    // The more specific rule would speak for it with a key that only reads.
    let permit = decided("git.forge.test", "git-receive-pack").unwrap();
    assert_eq!((permit.rule(), permit.credential().unwrap().name()), ("push", "key"));
    assert_eq!(decided("git.forge.test", "git-upload-pack").unwrap().rule(), "read");
    for host in ["other.forge.test", "third.forge.test"] {
        let denial = decided(host, "git-receive-pack").unwrap_err();
        assert_eq!(denial.reason, DenialReason::CredentialScope, "{host}");
        assert!(denial.how_to_allow.starts_with("A git push begins with this request"), "{denial}");
        assert!(decided(host, "git-upload-pack").is_ok(), "{host}");
    }
}

#[test]
fn p_e9_what_is_told_of_the_first_request_of_a_push_allows_the_push() {
    let document = |rule: &str| {
        format!(
            "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 0, rules: [{{name: git, host: git.test, ports: [443], scheme: https, {rule}}}]}}"
        )
    };
    let asked = || request("GET https://git.test/r.git/info/refs?service=git-receive-pack");
    let told = |rule: &str| Policy::from_yaml(&document(rule)).unwrap().decide(asked());
    let denial = told("methods: [GET], paths: [/r.git/info/refs]").unwrap_err();
    assert_eq!(
        (denial.reason, denial.method.as_deref(), denial.path.as_deref()),
        (DenialReason::MethodNotAllowed, Some("GET"), Some("/r.git/info/refs"))
    );
    assert_eq!(
        denial.how_to_allow,
        "A git push begins with this request, so it is allowed only where POST /r.git/git-receive-pack is; a fetch asks for service=git-upload-pack. In rule git of rules of the policy document: write `methods: [GET, POST]`, add to paths `[\"/r.git/git-receive-pack\"]`."
    );
    assert!(told("methods: [GET, POST], paths: [/r.git/info/refs, \"/r.git/git-receive-pack\"]").is_ok());
}

#[test]
fn p_e11_other_ways_to_write_are_denied_with_the_push() {
    let rules = "- {name: git, host: git.good.test, ports: [443], scheme: https, paths: [/org/repo.git/**]}
- {name: read, host: api.good.test, ports: [443], scheme: https, methods: [GET], paths: [/repos/org/repo/**]}\n";
    let writes = [
        "PUT https://api.good.test/repos/org/repo/contents/x",
        "POST https://api.good.test/repos/org/repo/git/refs",
        "POST https://api.good.test/repos/org/repo/merges",
        "POST https://api.good.test/repos/org/repo/actions/workflows/1/dispatches",
    ];
    assert!(verdicts(rules, &writes).iter().all(|verdict| verdict == "MethodNotAllowed"));
    let elsewhere = ["POST https://api.good.test/graphql", "POST https://api.good.test/gists"];
    assert!(verdicts(rules, &elsewhere).iter().all(|verdict| verdict.ends_with("NotAllowed")));
    assert_eq!(verdicts(rules, &["GET https://api.good.test/repos/org/repo/contents/x"]), ["read"]);
}

#[test]
fn p_e12_an_index_that_may_be_read_cannot_be_published_to() {
    let rules = "- {name: npm, host: registry.npm.test, ports: [443], scheme: https, methods: [GET, HEAD]}
- {name: pypi, host: pypi.test, ports: [443], scheme: https, methods: [GET, HEAD]}
- {name: crates, host: crates.test, ports: [443], scheme: https, methods: [GET, HEAD]}\n";
    for (line, verdict) in [
        ("PUT https://registry.npm.test/left-pad", "MethodNotAllowed"),
        ("POST https://upload.pypi.test/legacy/", "HostNotAllowed"),
        ("POST https://pypi.test/legacy/", "MethodNotAllowed"),
        ("PUT https://crates.test/api/v1/crates/new", "MethodNotAllowed"),
        ("GET https://registry.npm.test/left-pad", "npm"),
        ("HEAD https://pypi.test/simple/requests/", "pypi"),
    ] {
        assert_eq!(verdicts(rules, &[line]), [verdict], "{line}");
    }
}

#[test]
fn p_f22_calls_that_mint_credentials_get_no_key_unless_they_are_named() {
    for line in [
        "POST https://api.good.test/v1/organizations/api_keys",
        "POST https://api.good.test/v1/user/keys",
        "POST https://api.good.test/v1/token",
    ] {
        assert_eq!(verdict(line), "CredentialScope", "{line}");
    }
    assert_eq!(verdict("POST https://api.good.test/v1/messages"), "api key");
}

#[test]
fn p_g1_a_path_on_an_allowed_host_that_no_rule_names_is_no_place_to_drop_data() {
    let rules = "- {name: own, host: forge.test, ports: [443], scheme: https, paths: [/acme/shop.git/**]}\n";
    for path in [
        "/gists",
        "/attacker/shop.git/git-receive-pack",
        "/acme/shop",
        "/acme/shop.git/../other.git/x",
        "/ACME/shop.git/x",
    ] {
        assert_eq!(
            verdicts(rules, &[&format!("POST https://forge.test{path}")]),
            ["PathNotAllowed"],
            "{path}"
        );
    }
    assert_eq!(verdicts(rules, &["POST https://forge.test/acme/shop.git/git-upload-pack"]), ["own"]);
}

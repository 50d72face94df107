use agentsandbox_crds::preset::Preset;
use agentsandbox_crds::sandbox::AgentSandbox;
use agentsandbox_policy::{Host, Method, Policy, Request, Scheme, Target};
use serde_json::{Value, json};

use super::*;
use crate::controller::accept::{Accepted, Identity};
use crate::controller::desired::policy_document;
use crate::fixtures::{accept, class, credential, from, identity, platform, references, sandbox};

/// A sandbox with rules for all of these hosts, and the credential that they name.
fn accepted(identity: &Identity, spec: &Value, hosts: &[&str]) -> Result<Accepted, Vec<Rejection>> {
    let mut whole = json!({"secretRef": {"name": "k", "key": "v"}});
    whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    let own = credential(|c| c.spec = from(whole));
    let rules: Vec<Value> =
        hosts.iter().map(|host| json!({"host": host, "credential": "anthropic"})).collect();
    let sandbox: AgentSandbox = sandbox(|s| {
        s.spec.egress = Some(from(json!({"allow": rules})));
        s.spec.agent.env.clear();
    });
    accept(identity, &sandbox, &references(vec![class(|_| ())], vec![own]), &platform())
}

fn policy(spec: &Value, hosts: &[&str]) -> Policy {
    let accepted = accepted(&identity(), spec, hosts).unwrap();
    let document = policy_document::document(
        &accepted.identity,
        &accepted.class,
        &accepted.rules,
        &accepted.credentials,
        &accepted.certificates,
        &platform(),
    );
    Policy::try_from(document).unwrap()
}

/// Whether the credential is put into this request.
fn goes(policy: &Policy, line: &str) -> bool {
    let (method, rest) = line.split_once(' ').unwrap();
    let (host, path) = rest.split_at(rest.find('/').unwrap());
    let request = Request {
        scheme: Scheme::Https,
        host: Host::parse(host).unwrap(),
        port: 443,
        method: Method::parse(method).unwrap(),
        target: Target::parse(path).unwrap(),
        websocket: false,
    };
    policy.decide(request).is_ok_and(|permit| permit.credential().is_some())
}

fn hosts_of(preset: Preset) -> Vec<String> {
    preset.definition().unwrap().hosts.into_iter().map(|host| host.host).collect()
}

#[test]
fn p_f4_a_placeholder_is_of_one_sandbox_and_one_credential_and_stays_as_it_is() {
    let (one, other) = ("6f9619ff-8b86-4d01-b42d-00cf4fc964ff", "6f9619ff-8b86-4d01-b42d-00cf4fc964fe");
    let all = [issued(one, "github"), issued(one, "github-2"), issued(other, "github"), issued(one, "gith")];
    for (index, value) in all.iter().enumerate() {
        assert!(value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit()), "{value}");
        assert!(!all[index + 1..].contains(value), "{value}");
    }
    assert_eq!(issued(one, "github"), all[0]);
}

#[test]
fn an_issued_placeholder_is_the_agents_and_the_proxys_alike() {
    let spec = json!({
        "inject": {"type": "Bearer"}, "hosts": [{"host": "api.example.com"}],
        "placeholderEnv": [
            {"name": "A", "prefix": "sk-"}, {"name": "B", "prefix": "sk-"}, {"name": "C", "value": "constant"},
            {"name": "D", "value": "short"}, {"name": "E", "prefix": ""},
        ],
    });
    let accepted = accepted(&identity(), &spec, &["api.example.com"]).unwrap();
    let hash = issued(&identity().uid, "anthropic");
    let given = |name: &str| accepted.placeholders[name].clone();
    assert_eq!((given("A"), given("B")), (format!("sk-{hash}"), format!("sk-{hash}")));
    assert_eq!(
        (given("C"), given("D"), given("E")),
        ("constant".to_owned(), "short".to_owned(), hash.clone())
    );
    let mut known = vec![format!("sk-{hash}"), hash];
    known.sort_unstable();
    let document = &accepted.credentials[0].0;
    assert_eq!(document.placeholders, known);
    assert_eq!(document.constants, ["constant"], "what is too short to be found is left out");
}

#[test]
fn p_f2_with_each_preset_what_it_names_gets_the_key_and_what_it_leaves_out_does_not() {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        preset: Preset,
        allowed: Vec<String>,
        denied: Vec<String>,
    }
    let cases: Vec<Case> = serde_yaml::from_str(include_str!("presets.yaml")).unwrap();
    assert_eq!(cases.iter().map(|case| case.preset).collect::<Vec<_>>(), Preset::ALL);
    for Case { preset, allowed, denied } in cases {
        assert!(!allowed.is_empty() && denied.len() >= 2, "{preset:?}");
        let hosts = hosts_of(preset);
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let policy = policy(&json!({"preset": preset.as_str()}), &hosts);
        for line in &allowed {
            assert!(goes(&policy, line), "{preset:?} {line}");
        }
        for line in &denied {
            assert!(!goes(&policy, line), "{preset:?} {line}");
        }
    }
}

#[test]
fn p_g1_an_owner_who_writes_a_wide_path_does_not_let_in_what_the_preset_leaves_out_and_one_who_names_it_does()
{
    let with = |hosts: Value| policy(&json!({"preset": "Anthropic", "hosts": hosts}), &["api.anthropic.com"]);
    let wide = [
        with(json!([{"host": "api.anthropic.com", "paths": ["/**"]}])),
        with(json!([{"host": "**.anthropic.com", "paths": ["/v1/**"]}])),
    ];
    for policy in &wide {
        assert!(goes(policy, "POST api.anthropic.com/v1/messages"));
        assert!(goes(policy, "POST api.anthropic.com/v1/complete"));
        for path in
            ["/v1/files", "/v1/files/abc", "/V1/FILES", "/v1/organizations/api_keys", "/v1/messages/batches"]
        {
            assert!(!goes(policy, &format!("POST api.anthropic.com{path}")), "{path}");
        }
    }
    let named = with(json!([{"host": "api.anthropic.com", "paths": ["/v1/**", "/v1/files/**"]}]));
    for (path, allowed) in [
        ("/v1/messages", true),
        ("/v1/files/abc", true),
        ("/v1/files", false),
        ("/v1/organizations/users", false),
    ] {
        assert_eq!(goes(&named, &format!("POST api.anthropic.com{path}")), allowed, "{path}");
    }
    let only = with(json!([{"host": "api.anthropic.com", "paths": ["/v1/files"]}]));
    assert!(
        goes(&only, "POST api.anthropic.com/v1/files") && !goes(&only, "POST api.anthropic.com/v1/messages")
    );
}

#[test]
fn p_g1_a_host_that_is_written_without_paths_has_the_paths_and_methods_that_its_preset_knows() {
    let with =
        |preset: &str, host: &str, hosts: Value| policy(&json!({"preset": preset, "hosts": hosts}), &[host]);
    let anthropic = |hosts: Value| with("Anthropic", "api.anthropic.com", hosts);
    for policy in [
        anthropic(json!([{"host": "api.anthropic.com"}])),
        anthropic(json!([{"host": "*.anthropic.com"}])),
        anthropic(json!([{"host": "api.anthropic.com", "ports": [443]}, {"host": "**.anthropic.com"}])),
    ] {
        assert!(goes(&policy, "POST api.anthropic.com/v1/messages"));
        for line in ["POST api.anthropic.com/v1/not-yet-known", "DELETE api.anthropic.com/v1/messages"] {
            assert!(!goes(&policy, line), "{line}");
        }
    }
    let written = anthropic(json!([{"host": "api.anthropic.com", "paths": ["/**"]}]));
    assert!(goes(&written, "DELETE api.anthropic.com/v1/not-yet-known"));
    let openai = with("OpenAI", "api.openai.com", json!([{"host": "api.openai.com"}]));
    for (line, allowed) in [
        ("POST api.openai.com/v1/responses", true),
        ("GET api.openai.com/v1/models", true),
        ("POST api.openai.com/v1/models/x", false),
    ] {
        assert_eq!(goes(&openai, line), allowed, "{line}");
    }
    let publishes =
        with("Npm", "registry.npmjs.org", json!([{"host": "registry.npmjs.org", "methods": ["PUT"]}]));
    assert!(
        goes(&publishes, "PUT registry.npmjs.org/left-pad")
            && !goes(&publishes, "GET registry.npmjs.org/left-pad")
    );
    let unknown = with("OpenAI", "api.example.com", json!([{"host": "api.example.com"}]));
    assert!(goes(&unknown, "GET api.example.com/any"), "the preset says nothing of this host");
}

/// Presets with a host of theirs, a path of it that is open, and those that are left out.
const LEFT_OUT: &[(&str, &str, &str, &[&str])] = &[
    (
        "Anthropic",
        "api.anthropic.com",
        "/v1/messages",
        &[
            "/v1/environments",
            "/v1/sessions/",
            "/v1/vaults/v/credentials",
            "/v1/memory_stores",
            "/v1/agents/a",
        ],
    ),
    (
        "Gemini",
        "generativelanguage.googleapis.com",
        "/v1beta/models/gemini:generateContent",
        &[
            "/google.ai.generativelanguage.v1beta.FileService/CreateFile",
            "/$rpc/google.ai.generativelanguage.v1beta.FileService/ListFiles",
            "/resumable/upload/v1beta/files",
            "/batch",
            "/batch/v1beta",
            "/v1beta/openai/files",
            "/v1beta/interactions",
            "/v1beta/interactions/1",
        ],
    ),
    (
        "GitHub",
        "api.github.com",
        "/user",
        &[
            "/user/codespaces",
            "/user/codespaces/secrets",
            "/user/repository_invitations/1",
            "/copilot_internal/v2/token",
            "/repos/acme/shop/actions/permissions",
            "/repos/acme/shop/actions/permissions/workflow",
            "/repos/acme/shop/generate",
            "/repos/acme/shop/pages",
            "/repos/acme/shop/actions/runs/1/rerun",
            "/repos/acme/shop/actions/runs/1/rerun-failed-jobs",
            "/repos/acme/shop/actions/jobs/1/rerun",
        ],
    ),
    (
        "OpenAI",
        "api.openai.com",
        "/v1/responses",
        &[
            "/v1/skills",
            "/v1/skills/s/content",
            "/v1/videos",
            "/v1/videos/v/content",
            "/v1/audio/voices",
            "/v1/audio/voices/v",
            "/v1/realtime/calls",
            "/v1/realtime/calls/c/refer",
        ],
    ),
    (
        "GitLab",
        "gitlab.com",
        "/api/v4/user",
        &[
            "/api/v4/user/emails",
            "/api/v4/runners/1",
            "/api/v4/groups/1/service_accounts/1/personal_access_tokens",
            "/api/v4/user/personal_access_tokens/",
            "/api/v4/admin/ci/variables",
        ],
    ),
    (
        "HuggingFace",
        "huggingface.co",
        "/acme/model/git-upload-pack",
        &["/acme/model/git-receive-pack", "/datasets/acme/data/git-receive-pack"],
    ),
];

#[test]
fn p_g1_what_each_preset_leaves_out_stays_left_out_where_every_path_is_written() {
    for (preset, host, open, closed) in LEFT_OUT {
        let policy = policy(&json!({"preset": preset, "hosts": [{"host": host, "paths": ["/**"]}]}), &[host]);
        assert!(goes(&policy, &format!("POST {host}{open}")), "{host}{open}");
        for path in *closed {
            assert!(!goes(&policy, &format!("POST {host}{path}")), "{host}{path}");
        }
    }
}

#[test]
fn p_f14_no_preset_hands_out_a_key_that_its_provider_derives_from_the_owners() {
    for (preset, host, open, closed) in [
        (
            "HuggingFace",
            "huggingface.co",
            "/api/models/acme/model/revision/main",
            &[
                "/api/models/acme/model/xet-read-token/main",
                "/api/models/gpt2/xet-read-token/main",
                "/api/datasets/acme/data/xet-read-token/refs%2Fpr%2F1",
                "/api/models/acme/model/XET-read-token/main",
            ][..],
        ),
        (
            "GitHub",
            "api.github.com",
            "/repos/acme/shop/contents/a",
            &["/repos/acme/shop/tarball", "/repos/acme/shop/tarball/main", "/repos/acme/shop/zipball/main"],
        ),
    ] {
        let wide = json!({"preset": preset, "hosts": [{"host": host, "paths": ["/**"]}]});
        for spec in [json!({"preset": preset}), wide] {
            let policy = policy(&spec, &[host]);
            assert!(goes(&policy, &format!("GET {host}{open}")), "{host}{open}");
            for path in closed {
                assert!(!goes(&policy, &format!("GET {host}{path}")), "{host}{path}");
            }
        }
    }
}

#[test]
fn what_a_credential_writes_itself_replaces_what_its_preset_says() {
    let spec = json!({
        "preset": "GitHub",
        "inject": {"type": "Basic", "basic": {"username": "x-access-token"}},
        "hosts": [{"host": "github.com", "paths": ["/acme/shop.git/**"]}],
        "placeholderEnv": [],
    });
    let accepted = accepted(&identity(), &spec, &["github.com"]).unwrap();
    let (document, _) = &accepted.credentials[0];
    assert_eq!(document.inject, InjectDocument::Basic { username: "x-access-token".to_owned() });
    assert!(accepted.placeholders.is_empty() && document.placeholders.is_empty());
    let policy = policy(&spec, &["github.com"]);
    assert!(goes(&policy, "POST github.com/acme/shop.git/git-receive-pack"));
    assert!(!goes(&policy, "GET github.com/acme/other.git/info/refs"));
}

#[test]
fn a_key_in_a_cookie_or_the_path_is_told_to_the_proxy_as_it_is_written() {
    let with = |inject: Value, env: Value| {
        let spec = json!({"inject": inject, "hosts": [{"host": "api.example.com"}], "placeholderEnv": env});
        accepted(&identity(), &spec, &["api.example.com"])
            .map(|accepted| accepted.credentials[0].0.inject.clone())
    };
    let cookie = with(json!({"type": "Cookie", "cookie": {"name": "session"}}), json!([])).unwrap();
    assert_eq!(cookie, InjectDocument::Cookie { name: "session".to_owned() });
    let path = json!({"type": "PathSegment", "pathSegment": {"after": "/bot"}});
    let found = with(path.clone(), json!([{"name": "BOT", "prefix": "123456:"}])).unwrap();
    assert_eq!(found, InjectDocument::PathSegment { after: "/bot".to_owned() });
    for env in [
        json!([]),
        json!([{"name": "BOT", "value": "short"}]),
        json!([{"name": "BOT", "value": "not/one/segment"}]),
    ] {
        let faults = with(path.clone(), env).unwrap_err();
        assert_eq!(faults[0].field, "spec.egress.allow[0].credential");
        assert!(faults[0].message.contains("PathSegment needs a placeholder"), "{}", faults[0]);
    }
}

#[test]
fn a_credential_that_says_neither_preset_nor_place_is_refused() {
    let bare =
        accepted(&identity(), &json!({"inject": {"type": "Bearer"}}), &["api.example.com"]).unwrap_err();
    assert!(bare[0].message.contains("says neither preset nor both inject and hosts"), "{}", bare[0]);
    let typeless = json!({"inject": {"type": "Cookie"}, "hosts": [{"host": "api.example.com"}]});
    let faults = accepted(&identity(), &typeless, &["api.example.com"]).unwrap_err();
    assert!(faults[0].message.contains("lacks the member of inject"), "{}", faults[0]);
}

#[test]
fn p_g2_what_names_an_account_is_the_owners_to_write_and_never_the_agents() {
    let pinned = |spec: Value| {
        let accepted = accepted(&identity(), &spec, &["api.openai.com"]).unwrap();
        let pinned = accepted.credentials[0].0.pinned_headers.iter();
        pinned.map(|each| (each.name.clone(), each.value.clone())).collect::<Vec<_>>()
    };
    let (organization, project) = ("openai-organization".to_owned(), "openai-project".to_owned());
    assert_eq!(pinned(json!({"preset": "OpenAI"})), [(organization.clone(), None), (project.clone(), None)]);
    let written =
        json!({"preset": "OpenAI", "pinnedHeaders": [{"name": "openai-project", "value": "proj_1"}]});
    assert_eq!(pinned(written), [(project, Some("proj_1".to_owned())), (organization, None)]);
    let own = |name: &str| {
        let spec = json!({"inject": {"type": "Bearer"}, "hosts": [{"host": "api.openai.com"}],
            "pinnedHeaders": [{"name": name, "value": "x"}]});
        accepted(&identity(), &spec, &["api.openai.com"])
    };
    assert!(own("x-team").is_ok());
    let faults = own("x-vault-token").expect_err("it authenticates");
    assert_eq!(faults[0].field, "spec.egress.allow[0].credential");
    assert!(faults[0].message.contains("pinnedHeaders[0].name"), "{}", faults[0].message);
}

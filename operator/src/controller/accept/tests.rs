//! One mutation for each rejection; the rest is accepted.

use agentsandbox_crds::class::SidecarPlacement;
use agentsandbox_crds::credential::AgentCredential;
use agentsandbox_crds::sandbox::{EgressRule, Tls};
use agentsandbox_policy::document::{AnswerDocument, InjectDocument, LimitsDocument, TlsDocument};
use serde_json::json;

use super::*;
use crate::fixtures::{accept, class, credential, from, identity, ordinary, platform, references, sandbox};

mod advice;
mod bounds;
mod certificates;
mod confinement;
mod drain;
mod edges;
mod lifecycle;
mod scratch;
mod tracing;
mod workspace;

/// What was rejected, as (reason, field).
fn rejected(sandbox: &AgentSandbox, references: &References) -> Vec<(RejectionReason, String)> {
    let faults = accept(&identity(), sandbox, references, &platform()).expect_err("the sandbox is rejected");
    for fault in &faults {
        assert!(fault.message.len() > 30, "no help: {fault}");
    }
    faults.into_iter().map(|fault| (fault.reason, fault.field)).collect()
}

#[track_caller]
fn only(found: Vec<(RejectionReason, String)>, reason: RejectionReason, field: &str) {
    assert_eq!(found, [(reason, field.to_owned())]);
}

fn rule(change: impl FnOnce(&mut EgressRule)) -> AgentSandbox {
    sandbox(|s| change(&mut s.spec.egress.as_mut().unwrap().allow[0]))
}

fn with_class(change: impl FnOnce(&mut AgentSandboxClass)) -> References {
    references(vec![class(change)], vec![credential(|_| ())])
}

fn with_credential(change: impl FnOnce(&mut AgentCredential)) -> References {
    references(vec![class(|_| ())], vec![credential(change)])
}

#[test]
fn the_ordinary_sandbox_is_accepted_whole() {
    let accepted = accept(&identity(), &sandbox(|_| ()), &ordinary(), &platform()).unwrap();
    assert_eq!(accepted.rules.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["anthropic", "pypi.org"]);
    assert_eq!(accepted.rules[0].ports, [443]);
    assert_eq!(accepted.limits.workspace_bytes, 2 << 30);
    assert_eq!(accepted.limits.memory_bytes, 1 << 30);
    assert_eq!(accepted.placeholders["ANTHROPIC_API_KEY"], "placeholder");
}

#[test]
fn a_sandbox_without_a_class_gets_the_default_one() {
    let nameless = sandbox(|s| s.spec.class_name = None);
    assert_eq!(accept(&identity(), &nameless, &ordinary(), &platform()).unwrap().class.name, "gvisor");
    let none = with_class(|c| c.metadata.annotations = None);
    only(rejected(&nameless, &none), RejectionReason::ClassNotFound, "spec.className");
    let two = references(
        vec![class(|_| ()), class(|c| c.metadata.name = Some("other".to_owned()))],
        vec![credential(|_| ())],
    );
    only(rejected(&nameless, &two), RejectionReason::ClassNotFound, "spec.className");
}

#[test]
fn o_g2_a_missing_class_or_runtime_is_refused_and_never_replaced() {
    let unknown = sandbox(|s| s.spec.class_name = Some("kata".to_owned()));
    only(rejected(&unknown, &ordinary()), RejectionReason::ClassNotFound, "spec.className");
    let mut without = ordinary();
    without.runtime_classes.clear();
    only(rejected(&sandbox(|_| ()), &without), RejectionReason::RuntimeUnavailable, "spec.className");
    let unnamed = with_class(|c| c.spec.runtime_class_name = None);
    only(rejected(&sandbox(|_| ()), &unnamed), RejectionReason::ClassUnsupported, "spec.className");
}

#[test]
fn p_c12_a_sidecar_in_the_agents_pod_is_refused_until_it_is_served() {
    let inside = with_class(|c| c.spec.sidecar_placement = SidecarPlacement::Container);
    only(rejected(&sandbox(|_| ()), &inside), RejectionReason::ClassUnsupported, "spec.className");
}

#[test]
fn o_r37_a_reserved_variable_cannot_be_shadowed() {
    for name in RESERVED_ENV {
        let shadow = sandbox(|s| s.spec.agent.env[0].name = name.to_owned());
        only(rejected(&shadow, &ordinary()), RejectionReason::InvalidField, "spec.agent.env[0].name");
    }
    let placeholder = sandbox(|s| s.spec.agent.env[0].name = "ANTHROPIC_API_KEY".to_owned());
    only(rejected(&placeholder, &ordinary()), RejectionReason::InvalidField, "spec.agent.env[0].name");
    let through =
        with_credential(|c| c.spec.placeholder_env.as_mut().unwrap()[0].name = "HTTPS_PROXY".to_owned());
    only(rejected(&sandbox(|_| ()), &through), RejectionReason::InvalidField, "spec.egress.allow");
}

#[test]
fn every_variable_that_the_operator_sets_is_reserved() {
    let accepted = crate::fixtures::accepted(|s| s.spec.agent.env.clear());
    let sealed = crate::controller::apply::Sealed::for_tests();
    for variable in crate::controller::desired::environment::variables(&accepted, &sealed) {
        let reserved = RESERVED_ENV.contains(&variable.name.as_str());
        assert!(reserved || accepted.placeholders.contains_key(&variable.name), "{}", variable.name);
    }
}

#[test]
fn o_r35_labels_with_our_prefix_are_refused() {
    let labelled = sandbox(|s| {
        s.metadata.labels = Some([("agentsandbox.dev/component".to_owned(), "proxy".to_owned())].into())
    });
    only(
        rejected(&labelled, &ordinary()),
        RejectionReason::InvalidField,
        "metadata.labels[agentsandbox.dev/component]",
    );
}

#[test]
fn a_name_that_no_service_can_bear_is_refused_where_an_older_schema_let_it_in() {
    for name in ["1-try", "-try", "fix.login", &"a".repeat(41)] {
        let named = sandbox(|s| s.metadata.name = Some(name.to_owned()));
        only(rejected(&named, &ordinary()), RejectionReason::InvalidField, "metadata.name");
    }
    let named = sandbox(|s| s.metadata.name = Some("try-1".to_owned()));
    assert!(accept(&identity(), &named, &ordinary(), &platform()).is_ok());
}

#[test]
fn o_h12_an_image_needs_a_tag_or_a_digest() {
    for image in ["ghcr.io/acme/agent", "ghcr.io/acme/agent:latest", "reg.test:5000/agent"] {
        let untagged = sandbox(|s| s.spec.agent.image = image.to_owned());
        only(rejected(&untagged, &ordinary()), RejectionReason::InvalidField, "spec.agent.image");
    }
}

#[test]
fn images_come_from_the_classes_registries_only() {
    let ceiling =
        |registry: &str| with_class(|c| c.spec.images = Some(from(json!({"allowedRegistries": [registry]}))));
    for (registry, allowed) in
        [("ghcr.io/acme", true), ("ghcr.io/acme/agent", true), ("ghcr.io/ac", false), ("quay.io", false)]
    {
        let result = accept(&identity(), &sandbox(|_| ()), &ceiling(registry), &platform());
        assert_eq!(result.is_ok(), allowed, "{registry}");
    }
    only(rejected(&sandbox(|_| ()), &ceiling("quay.io")), RejectionReason::OutsideClass, "spec.agent.image");
}

#[test]
fn p_g3_a_rule_sends_no_more_than_its_class_allows() {
    let asks = |limits| rule(|r| r.limits = Some(from(limits)));
    let ceiling = with_class(|c| {
        c.spec.egress =
            Some(from(json!({"limits": {"uploadBytes": "100Mi", "uploadBytesPerMinute": "1Mi"}})));
    });
    let limits = |sandbox: &AgentSandbox, references: &References| {
        let accepted = accept(&identity(), sandbox, references, &platform()).unwrap();
        accepted.rules.iter().map(|rule| rule.limits.clone()).collect::<Vec<_>>()
    };
    let of = |all: Option<u64>, minute: Option<u64>| {
        Some(LimitsDocument { upload_bytes: all, upload_bytes_per_minute: minute })
    };
    let (all, minute) = (Some(100 << 20), Some(1 << 20));
    assert_eq!(limits(&sandbox(|_| ()), &ordinary()), [None, None], "no class, no rule, no limit");
    assert_eq!(limits(&sandbox(|_| ()), &ceiling), [of(all, minute), of(all, minute)]);
    let less = asks(json!({"uploadBytes": "1k"}));
    assert_eq!(limits(&less, &ceiling), [of(Some(1000), minute), of(all, minute)], "a rule narrows");
    assert_eq!(limits(&less, &ordinary()), [of(Some(1000), None), None]);
    let field = |name: &str| format!("spec.egress.allow[0].limits.{name}");
    let more = asks(json!({"uploadBytes": "101Mi"}));
    only(rejected(&more, &ceiling), RejectionReason::OutsideClass, &field("uploadBytes"));
    let more = asks(json!({"uploadBytesPerMinute": "1025Ki"}));
    only(rejected(&more, &ceiling), RejectionReason::OutsideClass, &field("uploadBytesPerMinute"));
    for text in ["none", "2000Ti"] {
        let wrong = asks(json!({"uploadBytes": text}));
        only(rejected(&wrong, &ordinary()), RejectionReason::InvalidField, &field("uploadBytes"));
    }
    let broken = with_class(|c| c.spec.egress = Some(from(json!({"limits": {"uploadBytes": "much"}}))));
    let told = rejected(&sandbox(|_| ()), &broken);
    assert!(
        told.iter().all(|fault| *fault == (RejectionReason::ClassUnsupported, "spec.className".to_owned()))
    );
}

#[test]
fn p_g3_the_fields_that_a_rule_lists_reach_the_proxy() {
    let lists =
        |headers: &[&str]| rule(|r| r.headers = Some(headers.iter().map(ToString::to_string).collect()));
    let accepted = accept(&identity(), &lists(&["accept"]), &ordinary(), &platform()).unwrap();
    assert_eq!(accepted.rules[0].headers.as_deref(), Some(&["accept".to_owned()][..]));
    assert_eq!(accepted.rules[1].headers, None);
    let field = "spec.egress.allow[0].headers";
    only(rejected(&lists(&["a b"]), &ordinary()), RejectionReason::InvalidField, field);
}

#[test]
fn p_g5_what_a_rule_says_of_answers_reaches_the_proxy() {
    let says = |answer| rule(|r| r.answer = Some(from(answer)));
    let answer = json!({"maxBytes": "10Mi", "contentTypes": ["application/json"]});
    let accepted = accept(&identity(), &says(answer), &ordinary(), &platform()).unwrap();
    let types = Some(vec!["application/json".to_owned()]);
    let wanted = AnswerDocument { max_bytes: Some(10 << 20), content_types: types };
    assert_eq!((&accepted.rules[0].answer, &accepted.rules[1].answer), (&Some(wanted), &None));
    let field = "spec.egress.allow[0].answer.maxBytes";
    let found = rejected(&says(json!({"maxBytes": "much", "contentTypes": ["text/*"]})), &ordinary());
    only(found, RejectionReason::InvalidField, field);
    only(rejected(&says(json!({"maxBytes": "2000Ti"})), &ordinary()), RejectionReason::InvalidField, field);
}

#[test]
fn limits_stay_within_the_class() {
    let asks = |limits| sandbox(|s| s.spec.resources = Some(from(json!({"limits": limits}))));
    let ceiling = with_class(|c| {
        c.spec.resources = Some(from(
            json!({"default": {"cpu": "2"}, "max": {"cpu": "2", "memory": "512Mi"}, "pidsMax": 1024}),
        ));
    });
    only(
        rejected(&asks(json!({"cpu": "3"})), &ceiling),
        RejectionReason::OutsideClass,
        "spec.resources.limits.cpu",
    );
    only(
        rejected(&asks(json!({"memory": "1Gi"})), &ceiling),
        RejectionReason::OutsideClass,
        "spec.resources.limits.memory",
    );
    only(
        rejected(&asks(json!({"cpu": "1m"})), &ceiling),
        RejectionReason::InvalidField,
        "spec.resources.limits.cpu",
    );
    let limits = accept(&identity(), &sandbox(|_| ()), &ceiling, &platform()).unwrap().limits;
    assert_eq!((limits.cpu_millis, limits.memory_bytes, limits.pids_max), (2000, 512 << 20, Some(1024)));
}

#[test]
fn hosts_stay_within_the_class() {
    let ceiling = with_class(|c| c.spec.egress = Some(from(json!({"allowedHosts": ["**.anthropic.com"]}))));
    only(rejected(&sandbox(|_| ()), &ceiling), RejectionReason::OutsideClass, "spec.egress.allow[1].host");
}

#[test]
fn tls_passes_unopened_only_where_the_class_allows_it() {
    let unopened = rule(|r| {
        r.tls = Some(Tls::Passthrough);
        r.credential = None;
        r.methods = None;
        r.paths = None;
    });
    only(rejected(&unopened, &ordinary()), RejectionReason::OutsideClass, "spec.egress.allow[0].tls");
    let of_class = |word: &str| {
        let egress = json!({"tlsPassthrough": word});
        with_class(|c| c.spec.egress = Some(from(egress)))
    };
    only(rejected(&unopened, &of_class("Deny")), RejectionReason::OutsideClass, "spec.egress.allow[0].tls");
    let accepted = accept(&identity(), &unopened, &of_class("Allow"), &platform()).unwrap();
    assert_eq!(accepted.rules.first().unwrap().tls, Some(TlsDocument::Passthrough));
    let opened =
        accept(&identity(), &rule(|r| r.tls = Some(Tls::Intercept)), &ordinary(), &platform()).unwrap();
    assert_eq!(opened.rules.first().unwrap().tls, None);
}

#[test]
fn what_passes_unopened_is_never_judged_by_what_nobody_sees() {
    let allowing = with_class(|c| c.spec.egress = Some(from(json!({"tlsPassthrough": "Allow"}))));
    let with_credential = rule(|r| r.tls = Some(Tls::Passthrough));
    only(
        rejected(&with_credential, &allowing),
        RejectionReason::InvalidField,
        "spec.egress.allow[0].credential",
    );
}

#[test]
fn o_h22_no_class_can_allow_a_metadata_address() {
    let metadata =
        with_class(|c| c.spec.egress = Some(from(json!({"allowedPrivateRanges": ["169.254.169.254/32"]}))));
    only(rejected(&sandbox(|_| ()), &metadata), RejectionReason::ClassUnsupported, "spec.className");
}

#[test]
fn o_t3_a_rule_can_narrow_a_credential_and_never_widen_it() {
    for host in ["api.anthropic.com.evil.test", "*.anthropic.com", "anthropic.com"] {
        only(
            rejected(&rule(|r| r.host = host.to_owned()), &ordinary()),
            RejectionReason::OutsideCredential,
            "spec.egress.allow[0].host",
        );
    }
    only(
        rejected(&rule(|r| r.ports = Some(vec![443, 8443])), &ordinary()),
        RejectionReason::OutsideCredential,
        "spec.egress.allow[0].host",
    );
    let wide = with_credential(|c| c.spec.hosts.as_mut().unwrap()[0].host = "**.anthropic.com".to_owned());
    assert!(accept(&identity(), &sandbox(|_| ()), &wide, &platform()).is_ok());
}

#[test]
fn a_credential_needs_to_exist_and_to_travel_encrypted() {
    let unknown = rule(|r| r.credential = Some("openai".to_owned()));
    only(
        rejected(&unknown, &ordinary()),
        RejectionReason::CredentialNotFound,
        "spec.egress.allow[0].credential",
    );
    let plain = rule(|r| {
        r.scheme = Some(agentsandbox_crds::sandbox::Scheme::Http);
        r.ports = Some(vec![443]);
    });
    only(rejected(&plain, &ordinary()), RejectionReason::InvalidField, "spec.egress.allow[0].credential");
}

#[test]
fn every_fault_is_reported_at_once() {
    let wrong = sandbox(|s| {
        s.spec.agent.image = "agent".to_owned();
        s.spec.agent.env[0].name = "HOME".to_owned();
        s.spec.egress.as_mut().unwrap().allow[0].credential = Some("openai".to_owned());
    });
    assert_eq!(rejected(&wrong, &ordinary()).len(), 3);
}

#[test]
fn unnamed_rules_get_names_of_their_own() {
    let same = sandbox(|s| {
        s.spec.egress = Some(from(json!({"allow": [
            {"host": "api.anthropic.com", "credential": "anthropic", "paths": ["/v1/a"]},
            {"host": "api.anthropic.com", "credential": "anthropic", "paths": ["/v1/b"]},
            {"host": "**.example.com"},
            {"name": "anthropic-2", "host": "x.example.com"},
        ]})));
    });
    let accepted = accept(&identity(), &same, &ordinary(), &platform()).unwrap();
    let names: Vec<_> = accepted.rules.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, ["anthropic", "anthropic-3", "any.example.com", "anthropic-2"]);
}

fn had_class(name: &str) -> AgentSandbox {
    sandbox(|s| {
        s.spec.class_name = None;
        s.status = Some(from(json!({"className": name})));
    })
}

fn runc(change: impl FnOnce(&mut AgentSandboxClass)) -> AgentSandboxClass {
    class(|c| {
        c.metadata.name = Some("runc".to_owned());
        c.spec = from(json!({"isolation": "Container"}));
        change(c);
    })
}

#[test]
fn a_sandbox_keeps_its_class_when_another_becomes_the_default() {
    let moved =
        references(vec![class(|c| c.metadata.annotations = None), runc(|_| ())], vec![credential(|_| ())]);
    let fresh = sandbox(|s| s.spec.class_name = None);
    assert_eq!(accept(&identity(), &fresh, &moved, &platform()).unwrap().class.name, "runc");
    let running = had_class("gvisor");
    assert_eq!(accept(&identity(), &running, &moved, &platform()).unwrap().class.name, "gvisor");
    let two = references(vec![class(|_| ()), runc(|_| ())], vec![credential(|_| ())]);
    assert_eq!(accept(&identity(), &running, &two, &platform()).unwrap().class.name, "gvisor");
    let asks = sandbox(|s| s.status = Some(from(json!({"className": "runc"}))));
    assert_eq!(accept(&identity(), &asks, &two, &platform()).unwrap().class.name, "gvisor", "the spec wins");
}

#[test]
fn a_sandbox_whose_class_is_gone_is_refused_and_never_moved_to_the_default() {
    let running = had_class("gvisor");
    let gone = references(vec![runc(|_| ())], vec![credential(|_| ())]);
    for _ in 0..2 {
        let faults = accept(&identity(), &running, &gone, &platform()).unwrap_err();
        assert_eq!(
            (faults[0].reason, faults[0].field.as_str()),
            (RejectionReason::ClassNotFound, "spec.className")
        );
        assert!(faults[0].message.contains("has run under AgentSandboxClass gvisor"), "{}", faults[0]);
    }
    assert_eq!(class_to_keep(&running, &gone).as_deref(), Some("gvisor"), "the next pass must know it too");
}

#[test]
fn a_class_is_kept_only_once_it_is_the_sandboxs() {
    let nameless = sandbox(|s| s.spec.class_name = None);
    assert_eq!(class_to_keep(&nameless, &ordinary()).as_deref(), Some("gvisor"));
    let two = references(vec![class(|_| ()), runc(|_| ())], vec![credential(|_| ())]);
    assert_eq!(class_to_keep(&nameless, &two), None, "there is no default, so none is made up");
    let unknown = sandbox(|s| s.spec.class_name = Some("misspelt".to_owned()));
    assert_eq!(class_to_keep(&unknown, &ordinary()), None, "it would stick once className is removed");
}

#[test]
fn p_b4_a_wildcard_over_a_shared_suffix_is_refused_at_the_rule_that_holds_it() {
    let wildcard = |host: &str| sandbox(|s| s.spec.egress.as_mut().unwrap().allow[1].host = host.to_owned());
    for host in ["*.github.io", "**.workers.dev", "*.s3.amazonaws.com"] {
        only(
            rejected(&wildcard(host), &ordinary()),
            RejectionReason::InvalidField,
            "spec.egress.allow[1].host",
        );
    }
    assert!(accept(&identity(), &wildcard("*.acme.github.io"), &ordinary(), &platform()).is_ok());
}

#[test]
fn what_the_proxy_would_refuse_of_a_credential_names_the_credential_and_its_field() {
    let wide = with_credential(|c| {
        c.spec.hosts.as_mut().unwrap().push(from(json!({"host": "**.vercel.app"})));
    });
    let faults = accept(&identity(), &sandbox(|_| ()), &wide, &platform()).unwrap_err();
    let [fault] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!(fault.field, "spec.egress.allow[0].credential");
    assert!(
        fault.message.contains("AgentCredential anthropic") && fault.message.contains("spec.hosts[1].host")
    );
    let routing =
        with_credential(|c| c.spec.inject.as_mut().unwrap().header.as_mut().unwrap().name = "via".to_owned());
    only(
        rejected(&sandbox(|_| ()), &routing),
        RejectionReason::InvalidField,
        "spec.egress.allow[0].credential",
    );
}

fn upstream_proxy(url: &str) -> serde_json::Value {
    json!({"url": url, "login": {"username": "agents", "secretRef": {"name": "corporate", "key": "password"}}})
}

#[test]
fn the_login_at_the_classes_proxy_is_for_that_proxy_alone_and_comes_from_the_sandboxes_namespace() {
    let egress = json!({"upstreamProxy": upstream_proxy("http://proxy.example.com:3128")});
    let class = with_class(|c| c.spec.egress = Some(from(egress)));
    let accepted = accept(&identity(), &sandbox(|_| ()), &class, &platform()).unwrap();
    let (login, secret) = accepted.credentials.last().unwrap();
    assert_eq!((secret.name.as_str(), secret.key.as_str()), ("corporate", "password"));
    assert_eq!(login.inject, InjectDocument::Basic { username: "agents".to_owned() });
    let scope: Vec<_> = login.scopes.iter().map(|s| (s.host.as_str(), s.ports.as_slice())).collect();
    assert_eq!(scope, [("proxy.example.com", [3128].as_slice())]);
    let proxy = accepted.class.upstream_proxy.unwrap();
    assert_eq!(proxy.credential.as_ref(), Some(&login.name));
    // No rule has it sent anywhere else.
    assert!(accepted.rules.iter().all(|rule| rule.credential.as_ref() != Some(&login.name)));
    let taken = rule(|r| r.credential = Some(login.name.clone()));
    only(rejected(&taken, &class), RejectionReason::CredentialNotFound, "spec.egress.allow[0].credential");
}

#[test]
fn what_the_proxy_would_refuse_of_a_class_is_the_classes_fault() {
    for egress in [
        json!({"allowedPrivateRanges": ["0.0.0.0/0"]}),
        json!({"additionalRoots": "no certificate"}),
        json!({"upstreamProxy": {"url": "https://proxy.example.com"}}),
        json!({"upstreamProxy": upstream_proxy("http://proxy.example.com:0")}),
    ] {
        let wrong = with_class(|c| c.spec.egress = Some(from(egress)));
        only(rejected(&sandbox(|_| ()), &wrong), RejectionReason::ClassUnsupported, "spec.className");
    }
}

#[test]
fn a_login_to_an_address_is_the_classes_fault_and_its_administrator_is_told_to_write_a_name() {
    // The proxy refuses such a login as well, and says nothing that an administrator could act on.
    for url in ["http://1.2.3.4:3128", "socks5://16909060:3128"] {
        let egress = json!({"upstreamProxy": upstream_proxy(url)});
        let wrong = with_class(|c| c.spec.egress = Some(from(egress)));
        only(rejected(&sandbox(|_| ()), &wrong), RejectionReason::ClassUnsupported, "spec.className");
        let told = accept(&identity(), &sandbox(|_| ()), &wrong, &platform()).unwrap_err();
        assert!(told.iter().all(|one| one.to_string().contains("must write a DNS name")), "{told:?}");
    }
    let portless = json!({"upstreamProxy": upstream_proxy("http://proxy.example.com")});
    let wrong = with_class(|c| c.spec.egress = Some(from(portless)));
    let told = accept(&identity(), &sandbox(|_| ()), &wrong, &platform()).unwrap_err();
    assert!(told.iter().all(|one| !one.to_string().contains("DNS name")), "it has a name: {told:?}");
    let egress = json!({"upstreamProxy": {"url": "http://1.2.3.4:3128"}});
    let class = with_class(|c| c.spec.egress = Some(from(egress)));
    let accepted = accept(&identity(), &sandbox(|_| ()), &class, &platform());
    assert!(accepted.is_ok(), "the control: without a login an address will do");
}

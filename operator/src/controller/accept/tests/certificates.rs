//! Client certificates: an AgentCredential that a rule names in `clientCertificate`.

use agentsandbox_crds::preset::Preset;
use agentsandbox_crds::sandbox::Scheme;
use agentsandbox_policy::Policy;
use agentsandbox_policy::document::ClientCertificateDocument;
use serde_json::Value;

use super::*;
use crate::controller::desired::policy_document;

const FIELD: &str = "spec.egress.allow[0].clientCertificate";

/// The credential `anthropic`, and the client certificate `mtls` after `change`.
fn known(change: impl FnOnce(&mut AgentCredential)) -> References {
    let mut mtls = credential(|c| {
        c.metadata.name = Some("mtls".to_owned());
        c.spec = from(json!({
            "secretRef": {"name": "partner-tls"}, "inject": {"type": "ClientCertificate"},
            "hosts": [{"host": "api.anthropic.com", "methods": ["POST"], "paths": ["/v1/**"]}],
        }));
    });
    change(&mut mtls);
    references(vec![class(|_| ())], vec![credential(|_| ()), mtls])
}

/// A sandbox whose first rule names the certificate beside its credential.
fn with(change: impl FnOnce(&mut EgressRule)) -> AgentSandbox {
    rule(|r| {
        r.client_certificate = Some("mtls".to_owned());
        change(r);
    })
}

#[test]
fn p_f21_a_client_certificate_is_a_pair_of_files_of_one_secret_beside_a_credential() {
    let accepted = accept(&identity(), &with(|_| ()), &known(|_| ()), &platform()).unwrap();
    let [(document, secret)] = accepted.certificates.as_slice() else {
        panic!("{:?}", accepted.certificates)
    };
    let ClientCertificateDocument { name, certificate_file, key_file, scopes } = document;
    assert_eq!((name.as_str(), secret.as_str()), ("mtls", "partner-tls"));
    assert_eq!(accepted.rules[0].client_certificate.as_deref(), Some("mtls"));
    assert_eq!(accepted.rules[0].credential.as_deref(), Some("anthropic"));
    assert_eq!(accepted.credentials.len(), 1, "it is put into no request");
    assert_eq!(scopes[0].methods.as_deref(), Some(&["POST".to_owned()][..]));
    assert_eq!(scopes[0].paths.as_deref(), Some(&["/v1/**".to_owned()][..]));
    let Accepted { identity, class, rules, credentials, certificates, .. } = &accepted;
    let document = policy_document::document(identity, class, rules, credentials, certificates, &platform());
    let policy = Policy::try_from(document).unwrap();
    assert_eq!(policy.certificate_files().map(|(name, _)| name).collect::<Vec<_>>(), ["mtls"]);
    let other = known(|c| c.spec.secret_ref.name = "another-tls".to_owned());
    let pointed = accept(identity, &with(|_| ()), &other, &platform()).unwrap();
    let pointed = &pointed.certificates[0].0;
    assert!(&pointed.certificate_file != certificate_file && &pointed.key_file != key_file, "another Secret");
}

#[test]
fn p_f21_a_client_certificate_goes_where_its_owner_says_over_tls_and_stands_in_its_own_field() {
    use RejectionReason::{CredentialNotFound, InvalidField, OutsideCredential};
    let missing = rule(|r| r.client_certificate = Some("other".to_owned()));
    only(rejected(&missing, &known(|_| ())), CredentialNotFound, FIELD);
    let elsewhere = known(|c| c.spec.hosts.as_mut().unwrap()[0].host = "api.partner.test".to_owned());
    only(rejected(&with(|_| ()), &elsewhere), OutsideCredential, "spec.egress.allow[0].host");
    let port = known(|c| c.spec.hosts.as_mut().unwrap()[0].ports = Some(vec![8443]));
    only(rejected(&with(|_| ()), &port), OutsideCredential, "spec.egress.allow[0].host");
    let plain = with(|r| {
        r.credential = None;
        r.scheme = Some(Scheme::Http);
        r.ports = Some(vec![443]);
    });
    only(rejected(&plain, &known(|_| ())), InvalidField, FIELD);
    let key = rule(|r| r.client_certificate = Some("anthropic".to_owned()));
    only(rejected(&key, &known(|_| ())), InvalidField, FIELD);
    let certificate = rule(|r| r.credential = Some("mtls".to_owned()));
    only(rejected(&certificate, &known(|_| ())), InvalidField, "spec.egress.allow[0].credential");
    let mut allowing = known(|_| ());
    allowing.classes = with_class(|c| c.spec.egress = Some(from(json!({"tlsPassthrough": "Allow"})))).classes;
    let unopened = with(|r| {
        (r.credential, r.methods, r.paths) = (None, None, None);
        r.tls = Some(Tls::Passthrough);
    });
    only(rejected(&unopened, &allowing), InvalidField, FIELD);
}

/// What the schema of today refuses, as an older one may have let it in.
#[test]
fn a_client_certificate_with_what_belongs_to_a_request_is_refused_whole() {
    let wrong: [fn(&mut AgentCredential); 5] = [
        |c| c.spec.secret_ref.key = Some("tls.crt".to_owned()),
        |c| c.spec.preset = Some(Preset::OpenAI),
        |c| c.spec.hosts = None,
        |c| c.spec.placeholder_env = Some(Vec::new()),
        |c| c.spec.pinned_headers = from(json!([{"name": "x-team"}])),
    ];
    for change in wrong {
        let found = rejected(&with(|_| ()), &known(change));
        assert_eq!(found[0], (RejectionReason::InvalidField, "spec.egress.allow".to_owned()), "{found:?}");
    }
    let keyless = with_credential(|c| c.spec.secret_ref.key = None);
    let found = rejected(&sandbox(|_| ()), &keyless);
    assert_eq!(found[0], (RejectionReason::InvalidField, "spec.egress.allow".to_owned()), "{found:?}");
    let wide = known(|c| c.spec.hosts.as_mut().unwrap()[0].paths = Some(vec!["v1".to_owned()]));
    let faults = accept(&identity(), &with(|_| ()), &wide, &platform()).unwrap_err();
    assert_eq!(faults[0].field, FIELD);
    assert!(
        faults[0].message.starts_with("AgentCredential mtls cannot be used, its spec.hosts[0].paths"),
        "{faults:?}"
    );
}

#[test]
fn what_is_shown_of_client_certificates_is_accepted_as_it_stands() {
    let read =
        |file: &str| std::fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let page = read("docs/credentials.md");
    let (_, chapter) = page.split_once("\n## Client certificates\n").unwrap();
    let block = chapter.split("```").nth(1).unwrap().strip_prefix("yaml\n").unwrap();
    let examples =
        ["credential", "sandbox"].map(|kind| read(&format!("examples/client-certificate/{kind}.yaml")));
    for (text, credentials_wanted) in [(block.to_owned(), 0), (examples.join("\n---\n"), 1)] {
        let (mut credentials, mut sandboxes) = (Vec::new(), Vec::<AgentSandbox>::new());
        for document in text.split("\n---\n") {
            let object: Value = serde_yaml::from_str(document).unwrap();
            match object["kind"].as_str().unwrap() {
                "AgentCredential" => credentials.push(from::<AgentCredential>(object)),
                "AgentSandbox" => sandboxes.push(from(object)),
                kind => assert_eq!((kind, &object["type"]), ("Secret", &json!("kubernetes.io/tls"))),
            }
        }
        let known = references(vec![class(|_| ())], credentials);
        let accepted = accept(&identity(), &sandboxes[0], &known, &platform()).unwrap();
        assert_eq!((accepted.certificates.len(), accepted.credentials.len()), (1, credentials_wanted));
    }
}

#[test]
fn the_secrets_of_what_is_mounted_are_known_by_name_and_a_pair_has_no_key_of_its_own() {
    let accepted = accept(&identity(), &with(|_| ()), &known(|_| ()), &platform()).unwrap();
    let place = |secret: &str, key: Option<&str>| SecretPlace {
        secret: secret.to_owned(),
        key: key.map(str::to_owned),
    };
    let expected = [
        ("anthropic".to_owned(), place("anthropic-key", Some("api-key"))),
        ("mtls".to_owned(), place("partner-tls", None)),
    ];
    assert_eq!(accepted.secrets(), expected.into());
}

#[test]
fn what_stands_in_the_field_of_the_other_kind_is_told_where_it_belongs() {
    let told = |asking: &AgentSandbox| {
        let faults = accept(&identity(), asking, &known(|_| ()), &platform()).unwrap_err();
        faults[0].message.clone()
    };
    let key = told(&rule(|r| r.client_certificate = Some("anthropic".to_owned())));
    assert!(key.contains("write its name in credential"), "{key}");
    let certificate = told(&rule(|r| r.credential = Some("mtls".to_owned())));
    assert!(certificate.contains("write its name in clientCertificate"), "{certificate}");
}

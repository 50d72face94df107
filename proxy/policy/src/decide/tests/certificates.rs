//! Client certificates: who declares one, and where it may be shown.

use super::*;

const WITH: &str = r#"
apiVersion: policy.agentsandbox.dev/v1
sandbox: {namespace: team, name: demo}
generation: 0
rules:
- {name: partner, host: partner.test, ports: [443], scheme: https, paths: ["/v1/**", "/v2/**"], clientCertificate: mtls}
- {name: both, host: both.test, ports: [443], scheme: https, credential: key, clientCertificate: mtls}
- {name: bare, host: partner.test, ports: [443], scheme: https, paths: ["/public/**"]}
- {name: elsewhere, host: elsewhere.test, ports: [443], scheme: https, clientCertificate: mtls}
- {name: port, host: port.test, ports: [443, 8443], scheme: https, methods: [GET], clientCertificate: mtls}
credentials:
- {name: key, inject: {type: Bearer}, scopes: [{host: both.test, ports: [443], methods: [GET]}]}
clientCertificates:
- name: mtls
  certificateFile: mtls-crt
  keyFile: mtls-key
  scopes:
  - {host: partner.test, ports: [443], methods: [GET], paths: ["/v1/**", "/public/**"], exceptPaths: ["/v1/keys"]}
  - {host: both.test, ports: [443], methods: [GET, POST]}
  - {host: port.test, ports: [443]}
"#;

#[test]
fn a_host_that_a_client_certificate_may_be_shown_to_is_one_of_a_credential() {
    let has = |host: &str| policy().has_credential_at(&crate::Host::parse(host).unwrap());
    assert!(has("partner.test") && has("both.test") && !has("elsewhere.test"));
}

fn policy() -> Policy {
    Policy::from_yaml(WITH).unwrap()
}

/// The rule, the key and the certificate, or the reason with the one of both that it is about.
fn shown(line: &str) -> String {
    match policy().decide(request(line)) {
        Ok(permit) => {
            let key = permit.credential().map_or("-", CredentialUse::name);
            format!("{} {key} {}", permit.rule(), permit.certificate().map_or("-", CertificateUse::name))
        }
        Err(denial) => {
            let [key, certificate] =
                [denial.credential, denial.client_certificate].map(|name| name.unwrap_or("-".to_owned()));
            format!("{} {key} {certificate}", denial.reason)
        }
    }
}

#[test]
fn p_f21_a_client_certificate_is_shown_where_its_rule_and_its_owner_say_so_and_nowhere_else() {
    let cases = [
        ("GET https://partner.test/v1/x", "partner - mtls"),
        ("GET https://both.test/x", "both key mtls"),
        ("GET https://partner.test/public/x", "bare - -"),
        ("POST https://partner.test/v1/x", "CredentialScope - mtls"),
        ("GET https://partner.test/v2/x", "CredentialScope - mtls"),
        ("GET https://partner.test/v1/keys", "CredentialScope - mtls"),
        ("GET https://partner.test/V1/KEYS", "PathNotAllowed - -"),
        ("GET https://elsewhere.test/", "CredentialScope - mtls"),
        ("GET https://port.test/", "port - mtls"),
        ("GET https://port.test:8443/", "CredentialScope - mtls"),
        // The key's owner is asked as well.
        ("POST https://both.test/x", "CredentialScope key -"),
        ("GET http://partner.test:443/v1/x", "SchemeNotAllowed - -"),
    ];
    for (line, wanted) in cases {
        assert_eq!(shown(line), wanted, "{line}");
    }
    let permit = policy().decide(request("GET https://partner.test/v1/x")).unwrap();
    let files = CertificateFiles { certificate: "mtls-crt".to_owned(), key: "mtls-key".to_owned() };
    assert_eq!(permit.certificate().unwrap().files(), &files);
    assert_eq!(policy().certificate_files().collect::<Vec<_>>(), [("mtls", &files)]);
}

#[test]
fn advice_sends_to_the_owner_of_the_certificate_and_names_it_in_a_new_rule() {
    let how = |line: &str| policy().decide(request(line)).unwrap_err().how_to_allow;
    assert!(how("GET https://partner.test/v2/x").contains("the owner of AgentCredential mtls to allow GET"));
    // Both the rule and the owner stand in the way.
    let told = how("POST https://port.test:8443/");
    assert!(
        told.contains("owner of AgentCredential mtls") && told.contains("Rule port must allow it, too"),
        "{told}"
    );
    let name = policy().admit(Scheme::Https, &Host::parse("elsewhere.test").unwrap(), 8443).unwrap_err();
    assert!(name.how_to_allow.contains("AgentCredential mtls to allow elsewhere.test:8443"), "{name:?}");
    let ports: Vec<String> = (1..=64).map(|port| port.to_string()).collect();
    let full = WITH.replacen("ports: [443, 8443]", &format!("ports: [{}]", ports.join(", ")), 1).replacen(
        "{host: port.test, ports: [443]}",
        "{host: port.test, ports: [443, 8443]}",
        1,
    );
    let full = Policy::from_yaml(&full).unwrap();
    let told = full.decide(request("GET https://port.test/")).unwrap_err().how_to_allow;
    assert!(told.contains("clientCertificate: \"mtls\"}`"), "{told}");
}

/// The faults after one replacement.
fn faults(from: &str, to: &str) -> Vec<String> {
    assert!(WITH.contains(from), "{from}");
    let error = Policy::from_yaml(&WITH.replacen(from, to, 1)).expect_err(to);
    error.faults().iter().map(ToString::to_string).collect()
}

#[test]
fn p_f21_a_client_certificate_is_declared_whole_by_its_own_name_and_only_where_tls_is_opened() {
    let rule = "scheme: https, paths: [\"/v1/**\", \"/v2/**\"], clientCertificate: mtls";
    let cases = [
        (
            rule,
            "scheme: http, clientCertificate: mtls",
            "rules[0].clientCertificate: a client certificate is shown over TLS only",
        ),
        (
            rule,
            "scheme: https, tls: Passthrough, clientCertificate: mtls",
            "rules[0].clientCertificate: it cannot hold for TLS that is not opened",
        ),
        (
            "clientCertificate: mtls",
            "clientCertificate: other",
            "rules[0].clientCertificate: there is no such client certificate",
        ),
        (
            "clientCertificate: mtls",
            "clientCertificate: key",
            "rules[0].clientCertificate: this is no client certificate; write its name in credential",
        ),
        (
            "clientCertificate: mtls",
            "credential: mtls",
            "rules[0].credential: this is a client certificate; write its name in clientCertificate",
        ),
        ("- name: mtls", "- name: key", "clientCertificates[0].name: a credential has this name"),
        ("- name: mtls", "- name: Mtls", "clientCertificates[0].name: write lower-case"),
        (
            "certificateFile: mtls-crt",
            "certificateFile: ../mtls",
            "clientCertificates[0].certificateFile: write a bare file name",
        ),
        ("keyFile: mtls-key", "keyFile: ..data", "clientCertificates[0].keyFile: write a bare file name"),
        ("  keyFile: mtls-key\n", "", ": "),
        ("  certificateFile: mtls-crt\n", "", ": "),
        ("keyFile: mtls-key", "keyFile: mtls-key\n  passphrase: x", ": "),
        (
            "host: partner.test, ports: [443], methods: [GET], paths",
            "host: '*', ports: [443], methods: [GET], paths",
            "clientCertificates[0].scopes[0].host: ",
        ),
    ];
    for (from, to, wanted) in cases {
        let told = faults(from, to);
        let found = told.iter().any(|fault| fault.starts_with(wanted.trim_start_matches(": ")));
        assert!(found, "{to}: {told:?}");
    }
    let twice = "clientCertificates:\n- {name: mtls, certificateFile: a, keyFile: b, scopes: [{host: partner.test, ports: [443]}]}";
    assert!(
        faults("clientCertificates:", twice)[0]
            .starts_with("clientCertificates[1].name: the name is used twice")
    );
    let (head, _) = WITH.split_once("  scopes:\n  - {host: partner").unwrap();
    let nowhere = Policy::from_yaml(&format!("{head}  scopes: []\n")).unwrap_err();
    assert!(nowhere.to_string().contains("clientCertificates[0].scopes: an empty list"), "{nowhere}");
}

//! What the proxy tells an agent's owner to write is written into the AgentSandbox; the API server's own rules take it, it
//! is accepted, and the request that was denied is allowed.

use agentsandbox_policy::{Denial, Host, Method, Policy, Request, Scheme, Target};
use kube_cel::Validator;
use serde_json::Value;

use super::*;

fn policy(sandbox: &AgentSandbox) -> Policy {
    policy_in(sandbox, &ordinary())
}

fn policy_in(sandbox: &AgentSandbox, references: &References) -> Policy {
    let accepted =
        accept(&identity(), sandbox, references, &platform()).unwrap_or_else(|all| panic!("{all:?}"));
    let Accepted { identity, class, rules, credentials, certificates, .. } = &accepted;
    let document = policy_document::document(identity, class, rules, credentials, certificates, &platform());
    Policy::try_from(document).unwrap()
}

/// A request, such as `socket GET https://api.example.com:8443/x`.
fn asked(line: &str) -> Request {
    let (websocket, line) = line.strip_prefix("socket ").map_or((false, line), |rest| (true, rest));
    let (method, url) = line.split_once(' ').unwrap();
    let (scheme, rest) = url.split_once("://").unwrap();
    let scheme = if scheme == "http" { Scheme::Http } else { Scheme::Https };
    let (authority, target) = rest.split_at(rest.find('/').unwrap());
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    Request {
        scheme,
        host: Host::parse(host).unwrap(),
        port: port.parse().unwrap_or(scheme.default_port()),
        method: Method::parse(method).unwrap(),
        target: Target::parse(target).unwrap(),
        websocket,
    }
}

fn yaml(snippet: &str) -> Value {
    serde_yaml::from_str(snippet).unwrap_or_else(|error| panic!("{snippet}: {error}"))
}

/// The sandbox with the advice of a denial followed; none if there is nothing to write.
fn followed(sandbox: &AgentSandbox, denial: &Denial) -> Option<AgentSandbox> {
    let names: Vec<String> = {
        let accepted = accept(&identity(), sandbox, &ordinary(), &platform()).unwrap();
        accepted.rules.iter().map(|rule| rule.name.clone()).collect()
    };
    let mut written = serde_json::to_value(sandbox).unwrap();
    let allow = written["spec"]["egress"]["allow"].as_array_mut().unwrap();
    let parts: Vec<&str> = denial.how_to_allow.split('`').collect();
    let list = "spec.egress.allow of AgentSandbox team/fix-login: ";
    if parts[0] == format!("Add to {list}") {
        allow.extend(yaml(parts[1]).as_array().unwrap().iter().cloned());
    } else if let Some(rest) = parts[0].strip_prefix("In rule ") {
        let (name, _) = rest.split_once(&format!(" of {list}")).unwrap();
        let rule = &mut allow[names.iter().position(|known| known == name).unwrap()];
        for clause in parts.chunks(2).filter(|clause| clause.len() == 2) {
            let value = yaml(clause[1]);
            if clause[0].ends_with("write ") {
                value.as_object().unwrap().iter().for_each(|(field, value)| rule[field] = value.clone());
            } else {
                rule["paths"].as_array_mut().unwrap().extend(value.as_array().unwrap().iter().cloned());
            }
        }
    } else {
        assert_eq!(parts.len(), 1, "{denial}");
        return None;
    }
    let crds = agentsandbox_crds::schema::all().unwrap();
    let crd = crds.iter().find(|crd| crd.manifest["spec"]["names"]["kind"] == "AgentSandbox").unwrap();
    let schema = &crd.manifest["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let refused = Validator::new().validate(schema, &written, None);
    assert!(refused.is_ok(), "{denial}: {:?}", refused.err());
    Some(from(written))
}

/// The ordinary sandbox, with a rule for each list that can lack something.
fn narrow() -> AgentSandbox {
    sandbox(|s| {
        let allow = &mut s.spec.egress.as_mut().unwrap().allow;
        allow[0].methods = Some(vec![from(json!("GET"))]);
        allow[0].paths = Some(vec!["/v1/models".to_owned()]);
        allow.push(from(json!({"host": "*.wide.test", "name": "wide"})));
        allow.push(from(json!({"host": "plain.test", "scheme": "Http", "paths": ["/x"]})));
        allow.push(from(json!({"host": "full.test", "ports": [1, 2, 3, 4, 5, 6, 7, 8]})));
    })
}

#[test]
fn what_a_denial_says_to_write_is_accepted_in_the_sandbox_and_allows_the_request() {
    let sandbox = narrow();
    for (line, reason) in [
        ("GET https://new.test/a", "HostNotAllowed"),
        ("POST http://new.test:8080/a", "HostNotAllowed"),
        ("socket GET https://xn--bcher-kva.test/a", "HostNotAllowed"),
        ("GET https://pypi.org:8443/simple/", "PortNotAllowed"),
        ("POST https://pypi.org:8443/simple/", "PortNotAllowed"),
        ("GET https://full.test/", "PortNotAllowed"),
        ("socket POST https://pypi.org/legacy/", "MethodNotAllowed"),
        ("POST https://api.anthropic.com/v1/messages", "MethodNotAllowed"),
        ("GET https://api.anthropic.com/v1/models/a,b%2Fc", "PathNotAllowed"),
        ("GET https://api.anthropic.com/v1/models/a;b='c", "PathNotAllowed"),
        ("GET http://plain.test/y", "PathNotAllowed"),
        ("socket GET https://a.wide.test/ws", "WebsocketNotAllowed"),
    ] {
        let denial = policy(&sandbox).decide(asked(line)).unwrap_err();
        assert_eq!(denial.reason.as_str(), reason, "{line}");
        let changed = followed(&sandbox, &denial).unwrap_or_else(|| panic!("{line}: {denial}"));
        let allowed = policy(&changed).decide(asked(line));
        assert!(allowed.is_ok(), "{line}: {denial}\n{:?}", allowed.unwrap_err());
    }
}

#[test]
fn what_no_sandbox_may_or_can_allow_has_nothing_to_write() {
    let sandbox = narrow();
    for line in [
        "GET http://metadata.google.internal/",
        "GET http://169.254.169.254/latest/",
        "GET https://registry/",
        "GET https://a_b.test/",
        "PROPFIND https://a.wide.test/",
        "PROPFIND https://new.test/",
        "TRACE https://new.test/",
        // Outside what the AgentCredential's owner allows.
        "GET https://api.anthropic.com/admin",
        "GET https://api.anthropic.com:8443/v1/models",
    ] {
        let denial = policy(&sandbox).decide(asked(line)).unwrap_err();
        assert!(followed(&sandbox, &denial).is_none(), "{line}: {denial}");
    }
}

#[test]
fn what_is_beyond_the_ceiling_of_the_class_has_nothing_to_write_and_what_is_within_it_is_accepted() {
    let sandbox = narrow();
    let hosts = json!({"allowedHosts": ["**.anthropic.com", "pypi.org", "*.wide.test", "*.test"]});
    let ceiling = with_class(|class| class.spec.egress = Some(from(hosts)));
    let told = |line| policy_in(&sandbox, &ceiling).decide(asked(line)).unwrap_err();
    let beyond = told("GET https://files.pypi.org/simple/");
    assert!(
        followed(&sandbox, &beyond).is_none() && beyond.how_to_allow.contains("egress.allowedHosts"),
        "{beyond}"
    );
    for line in ["GET https://new.test/a", "GET https://full.test/"] {
        let changed = followed(&sandbox, &told(line)).unwrap();
        assert!(policy_in(&changed, &ceiling).decide(asked(line)).is_ok(), "{line}");
    }
    // Without a ceiling the first is proposed, too, and would not be accepted where there is one.
    let proposed = policy(&sandbox).decide(asked("GET https://files.pypi.org/simple/")).unwrap_err();
    let changed = followed(&sandbox, &proposed).unwrap();
    assert!(accept(&identity(), &changed, &ceiling, &platform()).is_err());
}

#[test]
fn a_second_host_of_a_credential_is_proposed_with_it_and_accepted() {
    let hosts = json!([{"host": "api.anthropic.com"}, {"host": "files.anthropic.com", "ports": [443, 8443]}]);
    let references = with_credential(|credential| credential.spec.hosts = Some(from(hosts)));
    let sandbox = narrow();
    for line in ["POST https://files.anthropic.com/x", "POST https://files.anthropic.com:8443/x"] {
        let denial = policy_in(&sandbox, &references).decide(asked(line)).unwrap_err();
        let changed = followed(&sandbox, &denial).unwrap();
        let policy = policy_in(&changed, &references);
        let permit = policy.decide(asked(line)).unwrap();
        assert_eq!(permit.credential().map(|key| key.name()), Some("anthropic"), "{denial}");
    }
}

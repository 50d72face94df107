//! The index of rules changes no verdict: everything is compared with a walk over all rules in the order of the document.

use super::*;

const NAMES: [&str; 6] =
    ["good.test", "a.good.test", "b.a.good.test", "xgood.test", "plain.test", "c.plain.test"];

/// A rule as the document spells it, and as the walk reads it.
#[derive(Clone, Debug)]
struct Written {
    form: &'static str,
    name: &'static str,
    scheme: &'static str,
    port: u16,
    method: Option<&'static str>,
    path: Option<&'static str>,
    passthrough: bool,
}

impl Written {
    fn text(&self, number: usize) -> String {
        let Self { form, name, scheme, port, method, path, passthrough } = self;
        let mut text = format!("{{name: r{number}, host: '{form}{name}', ports: [{port}], scheme: {scheme}");
        if *passthrough {
            return text + ", tls: Passthrough}";
        }
        if let Some(method) = method {
            text += &format!(", methods: [{method}]");
        }
        if let Some(path) = path {
            text += &format!(", paths: ['{path}']");
        }
        text + "}"
    }

    fn is_of(&self, host: &str) -> bool {
        let more = host.strip_suffix(self.name).and_then(|more| more.strip_suffix('.'));
        match self.form {
            "" => host == self.name,
            "*." => more.is_some_and(|more| !more.is_empty() && !more.contains('.')),
            _ => more.is_some_and(|more| !more.is_empty()),
        }
    }

    fn is_for(&self, scheme: Scheme, port: u16) -> bool {
        self.scheme == scheme.as_str() && self.port == port
    }

    fn allows(&self, method: &str, path: &str) -> bool {
        self.method.is_none_or(|own| own == method) && self.path.is_none_or(|own| own == path)
    }

    /// The smallest is the most specific.
    fn specificity(&self) -> (usize, Reverse<usize>) {
        (self.form.len(), Reverse(self.name.len()))
    }
}

fn written() -> impl Strategy<Value = Written> {
    (
        prop::sample::select(vec!["", "", "*.", "**."]),
        prop::sample::select(NAMES.to_vec()),
        prop::sample::select(vec![("https", 443), ("https", 8443), ("http", 443)]),
        prop::option::of(prop::sample::select(vec!["GET", "PUT"])),
        prop::option::of(prop::sample::select(vec!["/a", "/b"])),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(form, name, (scheme, port), method, path, passes)| {
            let passthrough = passes && scheme == "https";
            Written { form, name, scheme, port, method, path, passthrough }
        })
}

fn policy_of(rules: &[Written]) -> Policy {
    let rules: Vec<String> = rules.iter().enumerate().map(|(number, rule)| rule.text(number)).collect();
    Policy::from_yaml(&format!(
        "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 1, rules: [{}]}}",
        rules.join(", ")
    ))
    .unwrap()
}

/// The name of the first of the most specific rules.
fn first<'a>(rules: impl Iterator<Item = (usize, &'a Written)>) -> Option<String> {
    rules.min_by_key(|(_, rule)| rule.specificity()).map(|(number, _)| format!("r{number}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_index_of_rules_changes_no_verdict(
        rules in prop::collection::vec(written(), 0..24),
        under in prop::sample::select(vec!["", "d.", "d.e."]),
        name in prop::sample::select([NAMES.as_slice(), &["test", "127.0.0.1", "metadata.google.internal"]].concat()),
        (scheme, port) in prop::sample::select(vec![(Scheme::Https, 443), (Scheme::Https, 8443), (Scheme::Http, 443)]),
        method in prop::sample::select(vec!["GET", "PUT"]),
        path in prop::sample::select(vec!["/a", "/b"]),
    ) {
        let Ok(host) = Host::parse(&format!("{under}{name}")) else { return Ok(()) };
        let policy = policy_of(&rules);
        let own = || rules.iter().enumerate().filter(|(_, rule)| rule.is_of(host.as_str()));
        let opened = || own().filter(|(_, rule)| !rule.passthrough && rule.is_for(scheme, port));
        let found: Vec<String> = policy.rules_for(&host).map(|rule| rule.name.to_string()).collect();
        prop_assert_eq!(found, own().map(|(number, _)| format!("r{number}")).collect::<Vec<_>>());
        let asked = Request {
            scheme, host: host.clone(), port, method: Method::parse(method).unwrap(),
            target: Target::parse(path).unwrap(), websocket: false,
        };
        let allowed = policy.decide(asked).ok().map(|permit| permit.rule().to_owned());
        prop_assert_eq!(allowed, first(opened().filter(|(_, rule)| rule.allows(method, path))));
        prop_assert_eq!(policy.admit(scheme, &host, port).is_ok(), opened().next().is_some());
        prop_assert_eq!(policy.answers(&host), own().next().is_some());
        let passing = own().filter(|(_, rule)| rule.is_for(Scheme::Https, port));
        let speaker = passing.min_by_key(|(_, rule)| (rule.specificity(), rule.passthrough));
        let passed = speaker.filter(|(_, rule)| rule.passthrough).map(|(number, _)| format!("r{number}"));
        prop_assert_eq!(policy.pass(&host, port).map(|permit| permit.rule().to_owned()), passed);
    }
}

#[test]
fn of_a_large_policy_only_the_rules_over_a_host_are_looked_at() {
    let mut rules: Vec<String> = (0..250)
        .map(|number| format!("{{name: o{number}, host: h{number}.other.test, ports: [443], scheme: https}}"))
        .collect();
    for (name, host) in [("own", "h7.good.test"), ("label", "*.good.test"), ("any", "**.good.test")] {
        rules.push(format!("{{name: {name}, host: '{host}', ports: [443], scheme: https}}"));
    }
    let policy = Policy::from_yaml(&format!(
        "{{apiVersion: policy.agentsandbox.dev/v1, sandbox: {{namespace: a, name: b}}, generation: 1, rules: [{}]}}",
        rules.join(", ")
    ))
    .unwrap();
    for (host, looked_at, found) in [
        ("h7.good.test", 3, vec!["own", "label", "any"]),
        ("h8.good.test", 2, vec!["label", "any"]),
        ("h7.other.test", 1, vec!["o7"]),
        ("good.test", 2, vec![]),
        ("evil.test", 0, vec![]),
    ] {
        let host = Host::parse(host).unwrap();
        assert_eq!(policy.near(&host).len(), looked_at, "{host}");
        assert_eq!(policy.rules_for(&host).map(|rule| &*rule.name).collect::<Vec<_>>(), found, "{host}");
    }
}

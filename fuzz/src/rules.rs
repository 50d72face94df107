//! The policy that the other targets judge by, and the target that reads policies.

use std::sync::LazyLock;

use agentsandbox_policy::document::{PolicyDocument, RuleDocument, SchemeDocument};
use agentsandbox_policy::{Host, HostPattern, Method, Permit, Placeholders, Policy, Request, Scheme, Target};

/// Rules of each kind that a head is judged by.
const TEXT: &str = r#"
apiVersion: policy.agentsandbox.dev/v1
sandbox: {namespace: team, name: demo}
generation: 0
rules:
- {name: key, host: api.good.test, ports: [443], scheme: https, paths: ["/v1/**"], credential: key}
- {name: bare, host: api.good.test, ports: [443], scheme: https, paths: ["/open/**"]}
- {name: bearer, host: bearer.good.test, ports: [443], scheme: https, methods: [GET, POST], credential: bearer}
- {name: query, host: query.good.test, ports: [443], scheme: https, credential: query}
- {name: cookie, host: cookie.good.test, ports: [443], scheme: https, credential: cookie}
- {name: bot, host: bot.good.test, ports: [443], scheme: https, credential: bot}
- {name: wild, host: "*.wild.test", ports: [80, 8080], scheme: http, websocket: Allow}
credentials:
- {name: key, placeholders: [issued-for-key-0001], inject: {type: Header, name: x-own-key}, scopes: [{host: api.good.test, ports: [443]}]}
- {name: bearer, placeholders: [issued-for-bearer-1], inject: {type: Bearer}, scopes: [{host: bearer.good.test, ports: [443]}]}
- {name: query, placeholders: [issued-for-query-01], inject: {type: Query, name: key}, scopes: [{host: query.good.test, ports: [443]}]}
- {name: cookie, placeholders: [issued-for-cookie-1], inject: {type: Cookie, name: session}, scopes: [{host: cookie.good.test, ports: [443]}]}
- {name: bot, placeholders: [issued-for-bot-0001], inject: {type: PathSegment, after: /bot}, scopes: [{host: bot.good.test, ports: [443]}]}
"#;

/// The placeholders of the policy.
pub const PLACEHOLDERS: [&str; 5] = [
    "issued-for-key-0001",
    "issued-for-bearer-1",
    "issued-for-query-01",
    "issued-for-cookie-1",
    "issued-for-bot-0001",
];

/// The policy.
pub fn known() -> &'static Policy {
    static KNOWN: LazyLock<Policy> = LazyLock::new(|| Policy::from_yaml(TEXT).expect("it is valid"));
    &KNOWN
}

/// Its placeholders.
pub fn placeholders() -> &'static std::sync::Arc<Placeholders> {
    static KNOWN: LazyLock<std::sync::Arc<Placeholders>> =
        LazyLock::new(|| Placeholders::of(known()).expect("they are few").into());
    &KNOWN
}

/// A request to this path.
pub fn request(scheme: Scheme, host: &str, port: u16, method: &str, target: &str) -> Request {
    let (host, method) = (Host::parse(host).expect("a host"), Method::parse(method).expect("a method"));
    Request { scheme, host, port, method, target: Target::parse(target).expect("a target"), websocket: false }
}

/// What a permit must hold, whatever was asked: only what the policy above allows, in its one spelling.
pub fn check(permit: &Permit) {
    let (host, target) = (permit.host(), permit.target());
    assert_eq!(Host::parse(host.as_str()).as_ref(), Ok(host), "the host is not in its one spelling");
    assert_eq!(Target::parse(target.as_str()).as_ref(), Ok(target), "the target is not in its one spelling");
    let good =
        host.as_str().ends_with(".good.test") && (permit.scheme(), permit.port()) == (Scheme::Https, 443);
    let wild = host.as_str().strip_suffix(".wild.test").is_some_and(|label| !label.contains('.'))
        && permit.scheme() == Scheme::Http
        && [80, 8080].contains(&permit.port());
    assert!(good || wild, "{permit:?}");
    let sent = http::Uri::try_from(format!("{}://{host}{}", permit.scheme(), target.as_str()));
    let sent = sent.expect("what is judged can be sent");
    let path = sent.path_and_query().expect("it has a path").as_str();
    assert_eq!(path, target.as_str(), "something else is sent than was judged");
}

/// A document is refused or understood: it means the same when it is written again, and allows what its own rules name.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(policy) = Policy::from_yaml(text) else { return };
    let document: PolicyDocument = serde_yaml::from_str(text).expect("it was read once");
    let again = serde_json::to_string(&document).expect("a document can be written");
    assert_eq!(serde_json::from_str::<PolicyDocument>(&again).ok().as_ref(), Some(&document));
    let other = Policy::from_yaml(&again).expect("a valid document stays valid");
    for asked in asked(&document) {
        let permit = policy.decide(asked.clone());
        let same = other.decide(asked.clone());
        assert_eq!(permit.as_ref().ok().map(Permit::rule), same.as_ref().ok().map(Permit::rule));
        let Ok(permit) = permit else { continue };
        let rule = document.rules.iter().find(|rule| rule.name == permit.rule()).expect("a rule speaks");
        assert!(names(rule, &asked), "{asked:?} by {rule:?}");
        assert_eq!(permit.credential().map(|known| known.name()), rule.credential.as_deref());
    }
}

/// Requests around the rules of a document, and some to hosts that none is likely to name.
fn asked(document: &PolicyDocument) -> Vec<Request> {
    const HOSTS: usize = 8;
    let named = document.rules.iter().take(HOSTS).filter_map(|rule| {
        Host::parse(rule.host.trim_start_matches("*.").trim_start_matches('*').trim_start_matches('.')).ok()
    });
    let mut hosts: Vec<Host> = named.collect();
    hosts.extend(hosts.clone().iter().filter_map(|host| Host::parse(&format!("x.{host}")).ok()));
    hosts.extend(["metadata", "127.1", "evil.test"].iter().filter_map(|host| Host::parse(host).ok()));
    let targets = ["/", "/v1/x", "/v1/x%2Fy;z?q=1"].map(|target| Target::parse(target).expect("a target"));
    let methods = ["GET", "POST", "TRACE"].map(|method| Method::parse(method).expect("a method"));
    let mut all = Vec::new();
    for host in hosts {
        for (scheme, port) in [(Scheme::Https, 443), (Scheme::Http, 80)] {
            for target in &targets {
                for method in &methods {
                    let (host, method, target) = (host.clone(), method.clone(), target.clone());
                    all.push(Request { scheme, host, port, method, target, websocket: false });
                }
            }
        }
    }
    all
}

/// Whether a rule, read from its text alone, names the host, port, scheme and method of a request.
fn names(rule: &RuleDocument, asked: &Request) -> bool {
    let scheme = match rule.scheme {
        SchemeDocument::Https => Scheme::Https,
        SchemeDocument::Http => Scheme::Http,
    };
    let methods = rule.methods.as_ref();
    HostPattern::parse(&rule.host).is_ok_and(|pattern| pattern.matches(&asked.host))
        && asked.host.address().is_none()
        && asked.host.as_str() != "metadata"
        && rule.ports.contains(&asked.port)
        && scheme == asked.scheme
        && asked.method.as_str() != "TRACE"
        && methods.is_none_or(|methods| methods.iter().any(|method| method == asked.method.as_str()))
}

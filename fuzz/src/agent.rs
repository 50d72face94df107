//! What an agent presents: its fields, and placeholders wherever they stand.

use agentsandbox_policy::{Injection, Scheme};
use agentsandbox_proxy::secrets::Secret;
use agentsandbox_proxy::{headers as fields, presented};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::pieces::cut;
use crate::rules::{self, PLACEHOLDERS};

/// Fields that speak for their sender at one server or another, or make one judge another request than was judged.
const NEVER_SENT: [&str; 20] = [
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "private-token",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "expect",
    "trailer",
    "proxy-connection",
    "forwarded",
    "x-forwarded-host",
    "x-forwarded-for",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "via",
];

/// A head that is let through carries no placeholder and no right but the one that is put in, which is there once.
pub fn headers(data: &[u8]) {
    const RULES: [(&str, &str); 6] = [
        ("api.good.test", "/v1/x"),
        ("api.good.test", "/open/x"),
        ("bearer.good.test", "/"),
        ("query.good.test", "/x?a=1"),
        ("cookie.good.test", "/"),
        ("bot.good.test", "/botissued-for-bot-0001/send"),
    ];
    let Some((choice, lines)) = data.split_first() else { return };
    let (host, target) = RULES[usize::from(*choice) % RULES.len()];
    let asked = rules::request(Scheme::Https, host, 443, "GET", target);
    let permit = rules::known().decide(asked).expect("a rule allows it");
    let mut head = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(64) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..at]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(line[at + 1..].trim_ascii())) {
            head.append(name, value);
        }
    }
    if presented::judge(rules::known(), rules::placeholders(), &permit, &head).is_err() {
        return;
    }
    let place = permit.credential().map(|known| known.injection());
    fields::strip_request(&mut head, place);
    let mut twice = head.clone();
    fields::strip_request(&mut twice, place);
    assert_eq!(twice, head, "stripped again it is something else");
    for (name, value) in &head {
        let plain = name.as_str().replace('_', "-");
        let is_own = matches!(place, Some(Injection::Header { name, .. }) if *name == plain);
        assert!(!is_own && !NEVER_SENT.contains(&plain.as_str()), "{name}");
        assert!(plain != "te" || value == "trailers");
        let text = String::from_utf8_lossy(value.as_bytes());
        assert!(!PLACEHOLDERS.iter().any(|known| text.contains(known)), "{name}: {text}");
    }
    let Some(place) = place else { return };
    assert!(!head.contains_key("cookie"), "a session beside a secret");
    let before = head.len();
    let secret = Secret::parse(b"sk-live-0123456789".to_vec().into()).expect("it is one");
    let sent = fields::inject(&mut head, permit.target(), place, &secret).expect("it fits");
    let sent = sent.map_or_else(|| permit.target().as_str().to_owned(), |sent| sent.to_string());
    let marked = head.values().filter(|value| value.is_sensitive()).count();
    let in_target = sent.matches("sk-live-0123456789").count();
    assert_eq!((marked + in_target, head.len()), (1, before + marked), "the secret stands in one place");
}

/// A placeholder in a part of a head is found as it is and percent-encoded, wherever it stands.
pub fn placeholder_head(data: &[u8]) {
    let all = rules::placeholders();
    let found = all.misused(data, None);
    if PLACEHOLDERS.iter().any(|known| holds(data, known.as_bytes())) {
        assert!(found.is_some(), "one stands there as it is");
    }
    let encoded: Vec<u8> = data.iter().flat_map(|byte| format!("%{byte:02x}").into_bytes()).collect();
    let direct = PLACEHOLDERS.iter().any(|known| holds(data, known.as_bytes()));
    assert!(!direct || all.misused(&encoded, None).is_some(), "percent-encoded it is not found");
    // With one put into its middle, it is found whatever stands around it.
    let (before, after) = data.split_at(data.len() / 2);
    let with = [before, PLACEHOLDERS[0].as_bytes(), after].concat();
    assert!(all.misused(&with, None).is_some(), "it is hidden by what stands around it");
}

/// A placeholder in a body is found, as it is or escaped once, however the body is cut.
pub fn placeholder_body(data: &[u8]) {
    let found = |pieces: &[&[u8]]| {
        let mut search = rules::placeholders().in_body().expect("there is something to look for");
        // The first find denies the request; nothing is looked at after it.
        pieces.iter().any(|piece| search.finds(piece).is_some())
    };
    let whole = found(&[data]);
    assert_eq!(found(&cut(data)), whole, "cut, something else is found");
    assert!(whole || !PLACEHOLDERS.iter().any(|known| holds(data, known.as_bytes())), "it is not found");
}

fn holds(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}

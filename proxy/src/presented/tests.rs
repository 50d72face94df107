use std::sync::LazyLock;

use agentsandbox_policy::{Host, Method, Request, Scheme, Target};
use http::{HeaderName, HeaderValue};

use super::*;

const POLICY: &str = r#"
apiVersion: policy.agentsandbox.dev/v1
sandbox: {namespace: team, name: demo}
generation: 0
rules:
- {name: key, host: api.test, ports: [443], scheme: https, paths: ["/v1/**"], credential: key}
- {name: bare, host: api.test, ports: [443], scheme: https, paths: ["/open/**"]}
- {name: query, host: query.test, ports: [443], scheme: https, paths: ["/v1/**"], credential: query}
- {name: bare-query, host: query.test, ports: [443], scheme: https, paths: ["/open/**"]}
- {name: cookie, host: cookie.test, ports: [443], scheme: https, paths: ["/v1/**"], credential: cookie}
- {name: bare-cookie, host: cookie.test, ports: [443], scheme: https, paths: ["/open/**"]}
- {name: model, host: model.googleapis.com, ports: [443], scheme: https, paths: ["/v1/**"], credential: model}
- {name: bare-model, host: model.googleapis.com, ports: [443], scheme: https, paths: ["/open/**"]}
- {name: bot, host: bot.test, ports: [443], scheme: https, credential: bot}
- {name: both-header, host: both.test, ports: [443], scheme: https, paths: ["/h/**"], credential: both-header}
- {name: both-query, host: both.test, ports: [443], scheme: https, paths: ["/q/**"], credential: both-query}
- {name: both-cookie, host: both.test, ports: [443], scheme: https, paths: ["/c/**"], credential: both-cookie}
- {name: elsewhere, host: elsewhere.test, ports: [443], scheme: https}
- {name: plain, host: plain.test, ports: [80], scheme: http}
- {name: shown, host: mtls.test, ports: [443], scheme: https, paths: ["/v1/**"], clientCertificate: mtls}
- {name: bare-shown, host: mtls.test, ports: [443], scheme: https, paths: ["/open/**"]}
clientCertificates:
- {name: mtls, certificateFile: tls.crt, keyFile: tls.key, scopes: [{host: mtls.test, ports: [443]}]}
credentials:
- {name: key, pinnedHeaders: [{name: sudo}], placeholders: [issued-for-key-0001], inject: {type: Header, name: x-own-key}, scopes: [{host: api.test, ports: [443]}]}
- {name: model, inject: {type: Header, name: x-goog-api-key}, scopes: [{host: model.googleapis.com, ports: [443]}]}
- {name: query, placeholders: [issued-for-query-01], inject: {type: Query, name: key}, scopes: [{host: query.test, ports: [443]}]}
- {name: cookie, placeholders: [issued-for-cookie-1], inject: {type: Cookie, name: session}, scopes: [{host: cookie.test, ports: [443]}]}
- {name: both-header, inject: {type: Header, name: x-both-key}, scopes: [{host: both.test, ports: [443]}]}
- {name: both-query, inject: {type: Query, name: token}, scopes: [{host: both.test, ports: [443]}]}
- {name: both-cookie, inject: {type: Cookie, name: sid}, scopes: [{host: both.test, ports: [443]}]}
- {name: bot, placeholders: [issued-for-bot-0001], inject: {type: PathSegment, after: /bot}, scopes: [{host: bot.test, ports: [443]}]}
"#;

/// What becomes of a request with one field, written `name: value`.
fn judged(url: &str, field: &str) -> String {
    let Some(denial) = denied(url, field) else { return "sent".to_owned() };
    format!("{} {}", denial.reason, denial.credential.unwrap_or_default()).trim_end().to_owned()
}

fn denied(url: &str, field: &str) -> Option<Denial> {
    static POLICY_READ: LazyLock<Policy> = LazyLock::new(|| Policy::from_yaml(POLICY).unwrap());
    let policy = &*POLICY_READ;
    let (scheme, rest) = match url.strip_prefix("http://") {
        Some(rest) => (Scheme::Http, rest),
        None => (Scheme::Https, url),
    };
    let (host, target) = rest.split_at(rest.find('/').unwrap());
    let request = Request {
        scheme,
        host: Host::parse(host).unwrap(),
        port: scheme.default_port(),
        method: Method::parse("POST").unwrap(),
        target: Target::parse(target).unwrap(),
        websocket: false,
    };
    let permit = policy.decide(request).unwrap();
    let mut fields = HeaderMap::new();
    if let Some((name, value)) = field.split_once(": ") {
        fields
            .insert(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    judge(policy, &Placeholders::of(policy).unwrap(), &permit, &fields).err().map(|denial| *denial)
}

#[test]
fn p_f1_a_form_that_its_type_says_cannot_be_read_is_refused_at_the_host_of_a_key_and_nowhere_else() {
    for (url, kind, expected) in [
        ("api.test/open/x", "application/x-www-form-urlencoded", "sent"),
        ("api.test/open/x", "application/x-www-form-urlencoded; charset=utf-7", "ForeignCredential"),
        ("elsewhere.test/x", "application/x-www-form-urlencoded; charset=utf-7", "sent"),
    ] {
        assert_eq!(judged(url, &format!("content-type: {kind}")), expected, "{url} {kind}");
    }
}

#[test]
fn p_f3_a_placeholder_passes_in_its_own_place_and_nowhere_else() {
    let misuse = |credential: &str| format!("PlaceholderMisuse {credential}");
    for (url, field, expected) in [
        // In its own place, on a rule that injects it.
        ("api.test/v1/x", "x-own-key: issued-for-key-0001", "sent".to_owned()),
        ("api.test/v1/x", "x_own_key: issued-for-key-0001", "sent".to_owned()),
        ("query.test/v1/x?a=1&key=issued-for-query-01", "", "sent".to_owned()),
        ("query.test/v1/x?k%65y=issued%2dfor-query-01", "", "sent".to_owned()),
        ("cookie.test/v1/x", "cookie: a=1; session=issued-for-cookie-1", "sent".to_owned()),
        ("bot.test/botissued-for-bot-0001/send", "", "sent".to_owned()),
        // In another place that is removed on that rule.
        ("api.test/v1/x", "authorization: Bearer issued-for-key-0001", "sent".to_owned()),
        ("api.test/v1/x", "authorization: Basic eDppc3N1ZWQtZm9yLWtleS0wMDAx", "sent".to_owned()),
        // Elsewhere in the same request.
        ("api.test/v1/x", "x-note: issued-for-key-0001", misuse("key")),
        ("api.test/v1/x", "x-note: issued%2Dfor-key-0001", misuse("key")),
        ("api.test/v1/x", "x-note: eDppc3N1ZWQtZm9yLWtleS0wMDAx", misuse("key")),
        ("api.test/v1/x", "x-note: {\"k\": \"issued\\u002dfor-key-0001\"}", misuse("key")),
        ("api.test/v1/x?q=issued-for-key-0001", "", misuse("key")),
        ("api.test/v1/issued-for-key-0001", "", misuse("key")),
        ("api.test/v1/issued%2Dfor%2Dkey%2D0001", "", misuse("key")),
        ("query.test/v1/x?other=issued-for-query-01", "", misuse("query")),
        ("query.test/v1/issued-for-query-01?key=x", "", misuse("query")),
        ("query.test/v1/x?key=issued-for-query-01", "x-note: issued-for-query-01", misuse("query")),
        ("bot.test/botissued-for-bot-0001/send?t=issued-for-bot-0001", "", misuse("bot")),
        // Under another credential's rule, under none, and in plain text.
        ("api.test/v1/x", "x-own-key: issued-for-query-01", misuse("query")),
        ("query.test/v1/x?key=issued-for-key-0001", "", misuse("key")),
        ("bot.test/botissued-for-bot-0001/issued-for-key-0001", "", misuse("key")),
        ("api.test/open/x", "x-own-key: issued-for-key-0001", misuse("key")),
        ("elsewhere.test/", "authorization: Bearer issued-for-key-0001", misuse("key")),
        ("elsewhere.test/?key=issued-for-query-01", "", misuse("query")),
        ("http://plain.test/", "x-own-key: issued-for-key-0001", misuse("key")),
    ] {
        assert_eq!(judged(url, field), expected, "{url} {field}");
    }
}

#[test]
fn p_f1_an_agents_own_key_for_a_host_of_a_credential_is_refused_where_none_is_put_in() {
    for (url, field, expected) in [
        ("api.test/open/x", "authorization: Bearer own", "ForeignCredential"),
        ("api.test/open/x", "x-api-key: own", "ForeignCredential"),
        ("api.test/open/x", "X_Api_Key: own", "ForeignCredential"),
        ("api.test/open/x", "x-own-key: own", "ForeignCredential"),
        ("query.test/open/x?KEY=own", "", "ForeignCredential"),
        ("cookie.test/open/x", "cookie: a=1; session=own", "ForeignCredential"),
        // Not a key, not for the upstream, or replaced.
        ("api.test/open/x", "", "sent"),
        ("api.test/open/x", "authorization: ", "sent"),
        ("api.test/open/x", "proxy-authorization: Basic b3duOm93bg==", "sent"),
        ("api.test/open/x", "cookie: a=1", "sent"),
        ("query.test/open/x?monkey=own", "", "sent"),
        ("cookie.test/open/x", "cookie: a=session", "sent"),
        ("api.test/v1/x", "authorization: Bearer own", "sent"),
        ("query.test/v1/x?key=own", "", "sent"),
        // No credential is for this host, so the field is removed and nothing more.
        ("elsewhere.test/", "authorization: Bearer own", "sent"),
    ] {
        assert_eq!(judged(url, field), expected, "{url} {field}");
    }
}

#[test]
fn p_f1_an_agents_own_key_in_the_place_of_another_credential_of_the_host_is_refused_where_one_is_put_in() {
    for (url, field, expected) in [
        ("both.test/q/x", "x-both-key: own", "ForeignCredential"),
        ("both.test/q/x", "X_Both_Key: own", "ForeignCredential"),
        ("both.test/c/x", "x-both-key: own", "ForeignCredential"),
        ("both.test/h/x?token=own", "", "ForeignCredential"),
        ("both.test/c/x?a=1;T%6fken=own", "", "ForeignCredential"),
        // In the credential's own place it is replaced; other fields that authenticate, and cookies, are removed.
        ("both.test/h/x", "x-both-key: own", "sent"),
        ("both.test/q/x?TOKEN=own", "", "sent"),
        ("both.test/c/x", "cookie: sid=own", "sent"),
        ("both.test/h/x", "cookie: sid=own", "sent"),
        ("both.test/h/x", "authorization: Bearer own", "sent"),
        ("both.test/q/x", "x-both-key: ", "sent"),
        ("both.test/h/x?tokens=own", "x-other: own", "sent"),
    ] {
        assert_eq!(judged(url, field), expected, "{url} {field}");
    }
}

#[test]
fn p_f1_an_agents_own_key_in_a_query_parameter_that_a_provider_takes_is_refused_at_a_host_of_a_credential() {
    for (url, expected) in [
        ("api.test/v1/x?access_token=own", "ForeignCredential"),
        ("api.test/open/x?a=1&Private_T%6fken=own", "ForeignCredential"),
        ("api.test/v1/x?a=1;X-Amz-Signature=own", "ForeignCredential"),
        ("api.test/v1/x?AWSAccessKeyId=own&Signature=1", "ForeignCredential"),
        ("api.test/open/x?GoogleAccessId=own", "ForeignCredential"),
        ("api.test/v1/x.atom?feed_token=own", "ForeignCredential"),
        ("query.test/v1/x?key=own&api_key=own", "ForeignCredential"),
        ("mtls.test/v1/x?access_token=own", "ForeignCredential"),
        ("mtls.test/open/x?access_token=own", "ForeignCredential"),
        ("mtls.test/v1/x?page=2", "sent"),
        ("model.googleapis.com/v1/m?key=own", "ForeignCredential"),
        ("model.googleapis.com/open/m?%6bey=own", "ForeignCredential"),
        // A plain name is a key only where its provider lives; and no credential is for the other host.
        ("api.test/v1/x?key=1&token=2&sig=3", "sent"),
        ("model.googleapis.com/v1/m?keys=1&alt=sse", "sent"),
        ("query.test/v1/x?key=own", "sent"),
        ("elsewhere.test/?access_token=own", "sent"),
    ] {
        assert_eq!(judged(url, ""), expected, "{url}");
    }
}

#[test]
fn p_f1_a_key_among_the_subprotocols_of_a_websocket_is_refused_at_a_host_of_a_credential() {
    for (url, field, expected) in [
        (
            "api.test/v1/x",
            "sec-websocket-protocol: realtime, openai-insecure-api-key.sk-own",
            "ForeignCredential",
        ),
        (
            "api.test/open/x",
            "Sec_WebSocket_Protocol: base64url.bearer.authorization.k8s.io.b3du",
            "ForeignCredential",
        ),
        ("query.test/v1/x", "sec-websocket-protocol: token,own", "ForeignCredential"),
        ("mtls.test/v1/x", "sec-websocket-protocol: Bearer, own", "ForeignCredential"),
        ("api.test/v1/x", "sec-websocket-protocol: realtime, openai-beta.realtime-v1", "sent"),
        ("api.test/v1/x", "sec-websocket-protocol: v5.channel.k8s.io", "sent"),
        ("elsewhere.test/", "sec-websocket-protocol: openai-insecure-api-key.sk-own", "sent"),
    ] {
        assert_eq!(judged(url, field), expected, "{url} {field}");
    }
}

#[test]
fn p_g2_an_account_that_the_credential_pins_is_not_chosen_in_the_query() {
    for (url, expected) in [
        ("api.test/v1/x?sudo=root", "ForeignCredential"),
        ("api.test/v1/x?page=2&s%75do=root", "ForeignCredential"),
        ("api.test/v1/x?page=2", "sent"),
        ("api.test/open/x?sudo=root", "sent"),
        ("query.test/v1/x?sudo=root", "sent"),
    ] {
        assert_eq!(judged(url, ""), expected, "{url}");
    }
}

#[test]
fn p_f4_the_placeholder_of_another_sandbox_is_a_foreign_value_like_any_other() {
    assert_eq!(judged("api.test/open/x", "x-own-key: issued-for-key-0002"), "ForeignCredential");
    assert_eq!(judged("elsewhere.test/?q=issued-for-key-0002", ""), "sent");
    assert_eq!(judged("elsewhere.test/?q=issued-for-key-0001", ""), "PlaceholderMisuse key");
}

#[test]
fn p_f1_at_a_host_of_a_client_certificate_alone_an_agents_own_key_is_refused_in_a_field_as_in_a_query() {
    for (url, field, expected) in [
        ("mtls.test/v1/x", "authorization: Bearer own", "ForeignCredential"),
        ("mtls.test/open/x", "X_Api_Key: own", "ForeignCredential"),
        ("mtls.test/open/x?api_key=own", "", "ForeignCredential"),
        ("mtls.test/v1/x", "authorization: ", "sent"),
        ("mtls.test/v1/x", "proxy-authorization: Basic own", "sent"),
        ("mtls.test/v1/x", "cookie: session=own", "sent"),
        ("mtls.test/v1/x?page=2", "accept: text/plain", "sent"),
        ("elsewhere.test/", "authorization: Bearer own", "sent"),
    ] {
        assert_eq!(judged(url, field), expected, "{url} {field}");
    }
    let advice = |url: &str, field: &str| denied(url, field).unwrap().how_to_allow;
    let beside = "belongs into an AgentCredential";
    assert!(advice("mtls.test/open/x", "x-api-key: own").contains(beside));
    assert!(!advice("api.test/open/x", "x-api-key: own").contains(beside), "there is one");
}

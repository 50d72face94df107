//! What is taken out of a request and of an answer, and where the secret is put in. What an answer echoes of it is found
//! in [`crate::scrub`].
//!
//! The order matters and is fixed by the one caller: first everything the agent sent in a place that can authenticate
//! is removed, in each spelling an upstream might read, then the secret is added once, marked sensitive, so that
//! neither HPACK's table nor a debug print ever holds it. Nothing here logs.

use std::borrow::Cow;

use agentsandbox_policy::{AUTH_FIELDS, Injection, PinnedHeader, Target, is_client_identity};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, COOKIE, ETAG, HeaderMap,
    HeaderName, HeaderValue, SET_COOKIE, TE, TRANSFER_ENCODING,
};
use zeroize::Zeroizing;

use crate::scrub::decode::Coding;
use crate::secrets::Secret;

/// RFC 9110, 7.6.1, and what older clients send in its place.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "trailer",
    "upgrade",
];
/// Fields that `Connection` takes out of no message, whoever names them there (RFC 9110, 7.6.1, forbids it): where it goes, and what its body
/// is. They are judged, and what was judged goes on.
const FOR_ALL: [&str; 4] = ["content-encoding", "content-length", "content-type", "host"];
/// Fields by which a client asks for a compressed answer. What is compressed cannot be searched for the secret while it
/// passes by.
const COMPRESSION: [&str; 3] = ["accept-encoding", "connect-accept-encoding", "grpc-accept-encoding"];
/// Fields by which a client asks for a part of an answer, or for an extension that hides what frames say. Of a secret in
/// the answer each part would show so little that it is not known again.
const PARTS: [&str; 4] = ["if-range", "range", "request-range", "sec-websocket-extensions"];
/// Fields that speak for the very bytes of an answer, and would be wrong once a secret in it is masked. `ETag` stays: it names
/// what the upstream has, and is compared by the upstream alone.
const DIGESTS: [&str; 6] =
    ["accept-ranges", "content-digest", "content-md5", "digest", "repr-digest", "x-goog-hash"];
/// Fields by which a client could make an upstream judge another host, path, method or client than we judged.
const FORWARDING: [&str; 18] = [
    "cf-connecting-ip",
    "client-ip",
    "forwarded",
    "front-end-https",
    "true-client-ip",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-url-scheme",
];
/// By `x-envoy-` Envoy's own parts speak to each other (another destination, another path, the caller's name, retries); an edge takes them off
/// whoever is outside (Envoy, "HTTP header sanitizing"), and an agent always is.
const FORWARDING_PREFIXES: [&str; 2] = ["x-envoy-", "x-forwarded-"];
/// Answers that would move the agent off this proxy, or are about this hop only.
const ANSWER_ONLY: [&str; 2] = ["alt-svc", "proxy-authentication-info"];

/// Removes from a request what is not for the upstream, and every place that could authenticate.
pub fn strip_request(headers: &mut HeaderMap, injection: Option<&Injection>) {
    let own = injection.and_then(own_slot);
    let named = named_by_connection(headers);
    let accepts_trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let plain = spelling(name.as_str());
            let plain = plain.as_ref();
            AUTH_FIELDS.contains(&plain)
                || is_client_identity(plain)
                // A session of the agent's own could speak in place of the key. Without a key there is none to replace.
                || (injection.is_some() && plain == "cookie")
                || (injection.is_some() && COMPRESSION.contains(&plain))
                || own.as_deref() == Some(plain)
                || HOP_BY_HOP.contains(&plain)
                || FORWARDING.contains(&plain)
                || FORWARDING_PREFIXES.iter().any(|prefix| plain.starts_with(prefix))
                || named.iter().any(|name| name == plain)
        })
        .cloned()
        .collect();
    remove_all(headers, unwanted);
    if accepts_trailers {
        // gRPC servers insist on it; it says nothing but that trailers are read, and we do read them.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    join_cookies(headers);
}

/// Removes the agent's cookies from a request that a client certificate speaks for: a session of its own could speak in that place.
pub fn strip_cookies(headers: &mut HeaderMap) {
    let unwanted = headers.keys().filter(|name| spelling(name.as_str()) == "cookie").cloned().collect();
    remove_all(headers, unwanted);
}

/// Removes from trailers what says of a body what it is: that was judged by its head alone, and an upstream may merge them.
pub fn strip_judged(trailers: &mut HeaderMap) {
    let is_judged = |name: &&HeaderName| FOR_ALL.contains(&spelling(name.as_str()).as_ref());
    let unwanted = trailers.keys().filter(is_judged).cloned().collect();
    remove_all(trailers, unwanted);
}

/// Takes out what is pinned, in each spelling an upstream might read.
pub fn unpin(headers: &mut HeaderMap, pinned: &[PinnedHeader]) {
    let is_pinned =
        |name: &&HeaderName| pinned.iter().any(|pinned| pinned.name() == spelling(name.as_str()).as_ref());
    let unwanted = headers.keys().filter(is_pinned).cloned().collect();
    remove_all(headers, unwanted);
}

/// Puts what is pinned in the place of whatever the agent wrote.
pub fn pin(headers: &mut HeaderMap, pinned: &[PinnedHeader]) -> Result<(), Unfit> {
    unpin(headers, pinned);
    for (name, value) in pinned.iter().filter_map(|pinned| Some((pinned.name(), pinned.value()?))) {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unfit)?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|_| Unfit)?);
    }
    Ok(())
}

/// What these fields say, in bytes, each with what divides name, value and field in HTTP/1.1.
#[must_use]
pub fn bytes_of(headers: &HeaderMap) -> u64 {
    const BETWEEN: usize = ": \r\n".len();
    let all = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + BETWEEN);
    u64::try_from(all.sum::<usize>()).unwrap_or(u64::MAX)
}

/// Each field's name and what it says.
pub fn texts(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()))
}

/// The subprotocols that a request offers for a WebSocket, one by one.
pub fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    values_of(headers, "sec-websocket-protocol", |_| true).flat_map(|value| value.split(|byte| *byte == b','))
}

/// What each of these fields says that an upstream might take for this one.
pub fn values_of<'h>(
    headers: &'h HeaderMap,
    plain: &'static str,
    is_sent: impl Fn(&HeaderName) -> bool,
) -> impl Iterator<Item = &'h [u8]> {
    let all = headers.iter().filter(move |(name, _)| spelling(name.as_str()) == plain && is_sent(name));
    all.map(|(_, value)| value.as_bytes())
}

/// Whether keys are expected in this field, whatever the host.
#[must_use]
pub fn authenticates(field: &str) -> bool {
    AUTH_FIELDS.contains(&spelling(field).as_ref())
}

/// Whether what the agent sends in this field is removed where a secret is put in this place.
#[must_use]
pub fn replaces(injection: &Injection, field: &str) -> bool {
    let plain = spelling(field);
    AUTH_FIELDS.contains(&plain.as_ref()) || plain == "cookie" || own_slot(injection) == Some(plain)
}

/// The field of its own that a secret is put into.
fn own_slot(injection: &Injection) -> Option<Cow<'_, str>> {
    match injection {
        Injection::Header { name, .. } => Some(spelling(name)),
        _ => None,
    }
}

/// Has the answer come whole and readable, so that it can be searched: for requests to hosts that know a secret.
pub fn ask_readable(headers: &mut HeaderMap) {
    let unwanted = |name: &&HeaderName| {
        let plain = spelling(name.as_str());
        COMPRESSION.contains(&plain.as_ref()) || PARTS.contains(&plain.as_ref())
    };
    let unwanted = headers.keys().filter(unwanted).cloned().collect();
    remove_all(headers, unwanted);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
}

/// Removes from an answer what masking makes untrue; and, where its body is decoded on the way, what decoding does.
pub fn strip_digests(headers: &mut HeaderMap, decoding: Option<Coding>) {
    let unwanted = headers.keys().filter(|name| DIGESTS.contains(&name.as_str())).cloned().collect();
    remove_all(headers, unwanted);
    if decoding.is_none() {
        return;
    }
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
    // The same answer in another coding is the same in its meaning only (RFC 9110, 8.8.1).
    if let Some(tag) = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")) {
        match HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat()) {
            Ok(weak) => headers.insert(ETAG, weak),
            Err(_) => headers.remove(ETAG),
        };
    }
}

/// Removes from the answer to a secret a session that was opened with it: the agent could show that to the same host where
/// the credential does not go.
pub fn strip_session(headers: &mut HeaderMap) {
    headers.remove(SET_COOKIE);
}

/// Removes from an answer what is only for this hop.
pub fn strip_response(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // The coding overrides the length (RFC 9112, 6.3), and alone the length would be wrong.
        headers.remove(CONTENT_LENGTH);
    }
    let named = named_by_connection(headers);
    let unwanted: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            // Which trailers follow is for the agent to know.
            (HOP_BY_HOP.contains(&name) && name != "trailer")
                || ANSWER_ONLY.contains(&name)
                || named.iter().any(|n| n == name)
        })
        .cloned()
        .collect();
    remove_all(headers, unwanted);
}

/// Removes the agent's own session from a request to a host that some credential is for: there it could speak in place of the
/// key on any rule.
pub fn strip_own_session(headers: &mut HeaderMap) {
    headers.remove(COOKIE);
}

/// Puts the secret where the credential says. The path and query to send are given back if it stands in them; they are then
/// for the upstream alone.
pub fn inject(
    headers: &mut HeaderMap,
    target: &Target,
    injection: &Injection,
    secret: &Secret,
) -> Result<Option<Zeroizing<String>>, Unfit> {
    let text = || std::str::from_utf8(secret.expose()).map_err(|_| Unfit);
    let (name, value) = match injection {
        Injection::Header { name, prefix } => {
            (HeaderName::from_bytes(name.as_bytes()).map_err(|_| Unfit)?, value(prefix, secret.expose()))
        }
        Injection::Bearer => (AUTHORIZATION, value("Bearer ", secret.expose())),
        Injection::Basic { username } => (AUTHORIZATION, value("Basic ", basic(username, secret).as_bytes())),
        Injection::Query { name } => {
            let target = target.with_query_parameter(name, text()?);
            return Ok(Some(Zeroizing::new(target.as_str().to_owned())));
        }
        Injection::PathSegment { after, placeholders } => {
            return target
                .with_path_segment(after, placeholders, text()?)
                .map(|sent| Some(Zeroizing::new(sent)))
                .ok_or(Unfit);
        }
        // What a cookie cannot hold (RFC 6265, 4.1.1) would end it, and begin another.
        Injection::Cookie { .. } if secret.expose().iter().any(|byte| b"\",;\\".contains(byte)) => {
            return Err(Unfit);
        }
        Injection::Cookie { name } => (COOKIE, value(name, &joined("=", secret.expose()))),
    };
    let mut value = value?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(None)
}

/// The secret cannot stand where the credential puts it.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the secret does not fit where its credential puts it")]
pub struct Unfit;

fn basic(username: &str, secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(&*pair(username, secret)))
}

/// User name and secret as Basic authentication joins them (RFC 7617, 2).
pub fn pair(username: &str, secret: &Secret) -> Zeroizing<Vec<u8>> {
    joined(username, &joined(":", secret.expose()))
}

/// A field's value, made where it stays: with no copy that would have to be wiped.
fn value(prefix: &str, secret: &[u8]) -> Result<HeaderValue, Unfit> {
    let mut bytes = Vec::with_capacity(prefix.len() + secret.len());
    bytes.extend_from_slice(prefix.as_bytes());
    bytes.extend_from_slice(secret);
    HeaderValue::from_maybe_shared(Bytes::from(bytes)).map_err(|_| Unfit)
}

fn joined(prefix: &str, secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(prefix.len() + secret.len()));
    bytes.extend_from_slice(prefix.as_bytes());
    bytes.extend_from_slice(secret);
    bytes
}

/// What an upstream may take a name for. CGI makes `HTTP_X_API_KEY` of `X-Api-Key` and of `X_Api_Key`, lighttpd also of `x.api.key`, for to
/// it all is one that is neither a letter nor a digit (and to PHP a `.`).
fn spelling(name: &str) -> Cow<'_, str> {
    // Names are in lower case already, and few have anything but hyphens in them: most are read as they stand.
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.bytes().all(is_plain) {
        return Cow::Borrowed(name);
    }
    let folded = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    Cow::Owned(name.chars().map(folded).collect())
}

fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|name| spelling(name.trim()).into_owned())
        .filter(|name| !FOR_ALL.contains(&name.as_str()))
        .collect()
}

fn remove_all(headers: &mut HeaderMap, names: Vec<HeaderName>) {
    for name in names {
        headers.remove(name);
    }
}

/// HTTP/2 may split a cookie into several fields; HTTP/1.1 may not (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(written: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut all = HeaderMap::new();
        for &(name, value) in written {
            all.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        all
    }

    /// Names of what is left, in order.
    fn left(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_request_keeps_nothing_that_authenticates_routes_or_is_for_this_hop() {
        let own = Injection::Header { name: "x-own_key".to_owned(), prefix: String::new() };
        for name in AUTH_FIELDS.iter().chain(&HOP_BY_HOP).chain(&FORWARDING).copied().chain([
            "x_api_key",
            "x.api.key",
            "x-api~key",
            "x_forwarded_proto",
            "x.forwarded!host",
            "x-forwarded-for",
            "x-envoy-original-dst-host",
            "x_envoy_original_path",
            "keep_alive",
            "x-named",
            "x_named",
            "x.named",
            "x-too",
            "x-more",
        ]) {
            let mut headers =
                fields(&[(name, "1"), ("x-plain", "1"), ("connection", "X-Named, x_too, x.more")]);
            strip_request(&mut headers, None);
            assert_eq!(left(&headers), ["x-plain"], "{name}");
        }
        for (name, with_key, without) in [
            ("x-own-key", false, true),
            ("x_own_key", false, true),
            ("x.own.key", false, true),
            ("cookie", false, true),
            ("accept-encoding", false, true),
            ("host", true, true),
            ("content-type", true, true),
            ("content-encoding", true, true),
            ("content-length", true, true),
            ("range", true, true),
            ("x-forward", true, true),
            ("x-envoys", true, true),
        ] {
            for (injection, stays) in [
                (Some(&own), with_key),
                (Some(&Injection::Bearer), name.contains("own") || with_key),
                (None, without),
            ] {
                let named = "host, Content_Type, content-encoding, content-length";
                let mut headers = fields(&[(name, "1"), ("connection", named)]);
                strip_request(&mut headers, injection);
                assert_eq!(left(&headers).len(), usize::from(stays), "{name} {injection:?}");
            }
        }
    }

    #[test]
    fn p_d14_trailers_say_nothing_of_where_they_go_and_of_what_the_body_is() {
        let judged = [
            ("content_encoding", "gzip"),
            ("content-type", "a/b"),
            ("content-length", "1"),
            ("host", "b.test"),
        ];
        let mut trailers = fields(&judged);
        trailers.insert("x-checksum", HeaderValue::from_static("1"));
        strip_judged(&mut trailers);
        assert_eq!(left(&trailers), ["x-checksum"]);
    }

    #[test]
    fn p_f1_a_key_of_the_agents_own_for_litellm_which_is_taken_before_the_one_that_is_added_is_removed() {
        for name in ["x-litellm-api-key", "x_litellm_api_key"] {
            let mut headers = fields(&[(name, "Bearer sk-own"), ("x-plain", "1")]);
            strip_request(&mut headers, Some(&Injection::Bearer));
            assert_eq!(left(&headers), ["x-plain"], "{name}");
            assert!(authenticates(name), "{name}");
        }
    }

    #[test]
    fn p_f21_no_field_that_stands_for_a_client_certificate_is_sent_on_any_rule_or_in_a_trailer() {
        let own = Injection::Header { name: "x-own-key".to_owned(), prefix: String::new() };
        for name in [
            "client-cert",
            "client_cert",
            "client-cert-chain",
            "x-client-cert",
            "x-client-cert-chain-verified",
            "x-client-certificate",
            "x-client-dn",
            "x-client-verify",
            "x-ssl-client-s-dn",
            "x_ssl_client_verify",
            "x-ssl-cert",
            "ssl-client-verify",
            "ssl_client_cert",
            "ssl.client.verify",
            "x!ssl#client$s%dn",
            "x-arr-clientcert",
            "wl-proxy-client-cert",
            "x-amzn-mtls-clientcert",
            "x-amzn-mtls-clientcert-subject",
            "cf-client-cert-der-base64",
            "cert-chain-0",
            "$wscc",
            "_wscc",
            "x-forwarded-client-cert",
            "x.forwarded.client.cert",
            "x-forwarded-tls-client-cert-info",
            "l5d-client-id",
        ] {
            for injection in [None, Some(&own), Some(&Injection::Bearer)] {
                let mut headers = fields(&[(name, "CN=admin"), ("x-plain", "1")]);
                strip_request(&mut headers, injection);
                assert_eq!(left(&headers), ["x-plain"], "{name} {injection:?}");
            }
        }
        for name in ["x-client-version", "x-client-name", "client-version", "x-sslmode", "certificate"] {
            let mut headers = fields(&[(name, "1")]);
            strip_request(&mut headers, Some(&own));
            assert_eq!(left(&headers), [name]);
        }
    }

    #[test]
    fn p_a17_no_field_in_which_a_gateway_names_a_user_is_sent_on_any_rule() {
        for name in [
            "x-remote-user",
            "x_remote_group",
            "x-remote-extra-scopes",
            "remote-user",
            "remote_user",
            "remote-groups",
            "x-webauth-user",
            "x-auth-request-email",
            "x-goog-authenticated-user-email",
            "x-goog-iap-jwt-assertion",
            "x-ms-client-principal",
            "x-ms-client-principal-name",
            "x-amzn-oidc-identity",
            "cf-access-authenticated-user-email",
            "tailscale-user-login",
            "x-authentik-username",
            "iv-user",
            "iv-groups",
            "sm_user",
            "x-consumer-username",
            "x-authenticated-groups",
            "x-auth-audience",
            "x-auth-expiresin",
            "x-auth-groups",
            "x-auth-roles",
            "x-auth-subject",
            "oidc_claim_sub",
        ] {
            for injection in [None, Some(&Injection::Bearer)] {
                let mut headers = fields(&[(name, "admin"), ("x-plain", "1")]);
                strip_request(&mut headers, injection);
                assert_eq!(left(&headers), ["x-plain"], "{name} {injection:?}");
            }
        }
        // What clients write themselves.
        for name in [
            "cf-access-client-id",
            "impersonate-user",
            "x-auth-email",
            "x-auth-user",
            "x-goog-user-project",
            "x-ms-client-request-id",
            "x-pomerium-authorization",
            "x-amz-date",
        ] {
            let mut headers = fields(&[(name, "1")]);
            strip_request(&mut headers, Some(&Injection::Bearer));
            assert_eq!(left(&headers), [name]);
        }
    }

    #[test]
    fn that_trailers_are_read_is_told_the_upstream_and_nothing_else_of_te() {
        for (te, told) in [("trailers", true), ("Trailers", true), ("gzip", false), ("trailers, gzip", false)]
        {
            let mut headers = fields(&[("te", te), ("connection", "te")]);
            strip_request(&mut headers, None);
            assert_eq!(headers.get(TE).map(HeaderValue::as_bytes), told.then_some(&b"trailers"[..]), "{te}");
        }
    }

    #[test]
    fn an_answer_keeps_nothing_that_is_for_this_hop_but_which_trailers_follow() {
        let passed = ["content-length", "set-cookie", "trailer", "x-plain"];
        let mut headers = fields(&passed.map(|name| (name, "1")));
        for name in HOP_BY_HOP.iter().chain(&ANSWER_ONLY).filter(|name| !passed.contains(*name)) {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static("x-named"));
        }
        headers.append("x-named", HeaderValue::from_static("1"));
        let mut chunked = headers.clone();
        headers.remove(TRANSFER_ENCODING);
        strip_response(&mut headers);
        assert_eq!(left(&headers), passed);
        strip_response(&mut chunked);
        assert_eq!(left(&chunked), &passed[1..], "the coding overrides the length");
    }

    #[test]
    fn a_pinned_field_says_what_its_credential_says_or_nothing() {
        let text = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, \
            rules: [{name: a, host: a.test, ports: [443], scheme: https, credential: key}], credentials: [{name: key, \
            inject: {type: Bearer}, scopes: [{host: a.test, ports: [443]}], pinnedHeaders: [{name: x-team, value: red}, {name: sudo}]}]}";
        let policy = agentsandbox_policy::Policy::from_yaml(text).unwrap();
        let host = agentsandbox_policy::Host::parse("a.test").unwrap();
        let request = agentsandbox_policy::Request {
            scheme: agentsandbox_policy::Scheme::Https,
            host,
            port: 443,
            method: agentsandbox_policy::Method::parse("GET").unwrap(),
            target: Target::parse("/").unwrap(),
            websocket: false,
        };
        let permit = policy.decide(request).unwrap();
        let pinned = permit.credential().unwrap().pinned();
        let sent = fields(&[
            ("x-team", "blue"),
            ("x_team", "green"),
            ("x.team", "grey"),
            ("sudo", "root"),
            ("x-plain", "1"),
        ]);
        let (mut with, mut without) = (sent.clone(), sent);
        pin(&mut with, pinned).unwrap();
        assert_eq!(
            (left(&with), &with["x-team"]),
            (vec!["x-plain", "x-team"], &HeaderValue::from_static("red"))
        );
        unpin(&mut without, pinned);
        assert_eq!(left(&without), ["x-plain"]);
    }

    #[test]
    fn fields_count_as_they_are_written_in_a_head() {
        assert_eq!(bytes_of(&HeaderMap::new()), 0);
        assert_eq!(bytes_of(&fields(&[("a", "xyz"), ("bc", "")])), "a: xyz\r\nbc: \r\n".len() as u64);
    }

    #[test]
    fn what_is_removed_where_a_secret_is_put_in_is_told_in_each_spelling() {
        let own = Injection::Header { name: "x-own_key".to_owned(), prefix: String::new() };
        for (field, by_own, by_bearer) in [
            ("x-own-key", true, false),
            ("X_Own_Key", true, false),
            ("x.own+key", true, false),
            ("Authorization", true, true),
            ("x_api_key", true, true),
            ("X.Api.Key", true, true),
            ("cookie", true, true),
            ("x-plain", false, false),
        ] {
            assert_eq!(
                (replaces(&own, field), replaces(&Injection::Bearer, field)),
                (by_own, by_bearer),
                "{field}"
            );
        }
    }

    #[test]
    fn a_secret_stands_where_its_credential_says_as_its_credential_says() {
        let placeholders = vec!["placeholder".to_owned()];
        for (injection, field, value, path) in [
            (
                Injection::Header { name: "x-key".to_owned(), prefix: "token ".to_owned() },
                "x-key",
                "token s/1",
                "/botplaceholder?a=1",
            ),
            (Injection::Bearer, "authorization", "Bearer s/1", "/botplaceholder?a=1"),
            (
                Injection::Basic { username: "u".to_owned() },
                "authorization",
                "Basic dTpzLzE=",
                "/botplaceholder?a=1",
            ),
            (Injection::Cookie { name: "sid".to_owned() }, "cookie", "sid=s/1", "/botplaceholder?a=1"),
            (Injection::Query { name: "key".to_owned() }, "", "", "/botplaceholder?a=1&key=s%2F1"),
            (Injection::PathSegment { after: "/bot".to_owned(), placeholders }, "", "", "/bots%2F1?a=1"),
        ] {
            let (mut headers, target) = (HeaderMap::new(), Target::parse("/botplaceholder?a=1").unwrap());
            let sent = inject(&mut headers, &target, &injection, &Secret::of("s/1")).unwrap();
            let written: Vec<_> =
                headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
            let expected = if field.is_empty() { vec![] } else { vec![(field, value)] };
            let sent = sent.map_or_else(|| target.as_str().to_owned(), |sent| sent.to_string());
            assert_eq!((sent.as_str(), written), (path, expected), "{injection:?}");
        }
    }

    #[test]
    fn a_secret_that_does_not_fit_its_place_is_put_nowhere() {
        let cookie = Injection::Cookie { name: "sid".to_owned() };
        let path =
            Injection::PathSegment { after: "/bot".to_owned(), placeholders: vec!["placeholder".to_owned()] };
        for (injection, secret) in [
            (&cookie, "a;b"),
            (&cookie, "a,b"),
            (&cookie, "a\"b"),
            (&cookie, "a\\b"),
            (&Injection::Bearer, "a\nb"),
            (&path, "no place for it"),
        ] {
            let (mut headers, target) = (HeaderMap::new(), Target::parse("/bot").unwrap());
            assert!(
                inject(&mut headers, &target, injection, &Secret::of(secret)).is_err(),
                "{injection:?} {secret:?}"
            );
            assert!(headers.is_empty());
        }
    }

    #[test]
    fn p_f8_the_injected_value_is_marked_so_that_no_table_or_log_holds_it() {
        for injection in [
            Injection::Header { name: "x-api-key".to_owned(), prefix: "token ".to_owned() },
            Injection::Bearer,
            Injection::Basic { username: "u".to_owned() },
            Injection::Cookie { name: "session".to_owned() },
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-plain", HeaderValue::from_static("plain"));
            let target = Target::parse("/v1").unwrap();
            inject(&mut headers, &target, &injection, &Secret::of("sk-0123456789")).unwrap();
            let marked: Vec<_> = headers.iter().filter(|(_, value)| value.is_sensitive()).collect();
            assert_eq!((marked.len(), headers.len()), (1, 2), "{injection:?}");
            assert!(
                !format!("{headers:?}").contains("0123456789") && !format!("{headers:?}").contains("dTpzay")
            );
        }
    }

    #[test]
    fn where_a_key_is_injected_nobody_asks_for_compression_in_any_spelling() {
        for name in ["accept-encoding", "accept_encoding", "grpc-accept-encoding", "connect-accept-encoding"]
        {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("gzip"));
            let mut bare = headers.clone();
            strip_request(&mut headers, Some(&Injection::Bearer));
            strip_request(&mut bare, None);
            assert_eq!((headers.len(), bare.len()), (0, 1), "{name}");
        }
    }

    #[test]
    fn p_f6_no_part_and_no_compression_is_asked_for_of_a_host_that_knows_a_secret() {
        let mut headers = HeaderMap::new();
        for name in
            ["range", "if-range", "request_range", "accept.encoding", "sec-websocket-extensions", "x-plain"]
        {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("bytes=0-9"));
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        ask_readable(&mut headers);
        assert_eq!(
            (headers.len(), &headers["x-plain"], &headers[ACCEPT_ENCODING]),
            (2, &"bytes=0-9".parse().unwrap(), &"identity".parse().unwrap())
        );
    }

    #[test]
    fn p_f7_a_digest_goes_a_tag_stays_and_a_decoded_answer_has_a_weak_one() {
        let mut headers = HeaderMap::new();
        for name in DIGESTS.into_iter().chain(["content-encoding", "content-length"]) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("7"));
        }
        headers.insert(ETAG, HeaderValue::from_static("\"a\""));
        let mut decoded = headers.clone();
        strip_digests(&mut headers, None);
        assert_eq!(
            (headers.len(), &headers[ETAG], headers.contains_key(CONTENT_LENGTH)),
            (3, &"\"a\"".parse().unwrap(), true)
        );
        strip_digests(&mut decoded, Some(Coding::Gzip));
        assert_eq!((decoded.len(), &decoded[ETAG]), (1, &"W/\"a\"".parse().unwrap()));
        strip_digests(&mut decoded, Some(Coding::Gzip));
        assert_eq!(decoded[ETAG], "W/\"a\"");
    }

    #[test]
    fn p_f14_a_session_that_was_opened_with_the_key_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        headers.append(SET_COOKIE, HeaderValue::from_static("session=1"));
        headers.append(SET_COOKIE, HeaderValue::from_static("other=2"));
        headers.insert("x-plain", HeaderValue::from_static("stays"));
        strip_session(&mut headers);
        assert_eq!(headers.len(), 1);
    }

    #[test]
    fn p_f14_no_session_of_the_agents_own_speaks_beside_a_client_certificate_or_at_the_host_of_a_key() {
        for strip in [strip_cookies, strip_own_session] {
            let mut headers = fields(&[("cookie", "session=1"), ("cookie", "other=2"), ("x-plain", "1")]);
            strip(&mut headers);
            assert_eq!(left(&headers), ["x-plain"]);
        }
    }

    #[test]
    fn several_cookie_fields_are_joined_and_a_credential_has_none() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1"));
        headers.append(COOKIE, HeaderValue::from_static("b=2"));
        let mut with_credential = headers.clone();
        strip_request(&mut headers, None);
        assert_eq!(headers[COOKIE], "a=1; b=2");
        strip_request(&mut with_credential, Some(&Injection::Bearer));
        assert!(!with_credential.contains_key(COOKIE));
    }
}

//! Where a request wants to go, in one canonical reading: every place that names a destination is read, and all must
//! agree. What cannot be read in exactly one way is malformed.

use agentsandbox_policy::{
    Denial, DenialReason, Host, Malformed, Method, Policy, Scheme, Target, parse_authority,
};
use http::header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Uri};

use crate::entrance::Binding;
use crate::entrance::unread::long_target;
use crate::limits::TARGET_BYTES_MAX;

/// The canonical destination of one request.
#[derive(Debug)]
pub struct Destination {
    pub scheme: Scheme,
    pub host: Host,
    pub port: u16,
    pub method: Method,
    pub target: Target,
    pub websocket: bool,
}

/// Reads the destination of a request that came in under `binding`.
pub fn read(head: &Parts, binding: &Binding, policy: &Policy) -> Result<Destination, Box<Denial>> {
    let method = Method::parse(head.method.as_str())?;
    let websocket = asks_for_websocket(head)?;
    no_transfer_coding(&head.headers)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    if path.len() > TARGET_BYTES_MAX {
        return Err(Box::new(long_target()));
    }
    let (scheme, host, port, target) = match binding {
        Binding::AbsoluteForm => absolute(head, path)?,
        Binding::Bound { scheme, host, port } => {
            agrees(head, *scheme, host, *port)?;
            (*scheme, host.clone(), *port, Target::parse(path)?)
        }
        Binding::BaseUrl => base_url(head, path, policy)?,
        Binding::HostHeader => {
            let default_port = Scheme::Http.default_port();
            let (host, port) = named(head, default_port)?.ok_or_else(|| malformed("Send one Host field."))?;
            let is_plain = scheme(&head.uri)?.is_none_or(|asked| asked == Scheme::Http);
            if port != default_port || !is_plain {
                return Err(Box::new(mismatch(&host, port)));
            }
            (Scheme::Http, host, port, Target::parse(path)?)
        }
    };
    Ok(Destination { scheme, host, port, method, target, websocket })
}

/// A denial of what could not be read that says where it was, as far as that is known.
pub fn located(denial: Denial, head: &Parts, binding: &Binding) -> Box<Denial> {
    let (method, path) = (Some(head.method.to_string()), Some(head.uri.path().to_owned()));
    let (host, port) = match binding {
        Binding::Bound { host, port, .. } => (Some(host.to_string()), Some(*port)),
        Binding::AbsoluteForm | Binding::BaseUrl | Binding::HostHeader => (None, None),
    };
    Box::new(Denial {
        host: denial.host.or(host),
        port: denial.port.or(port),
        method: denial.method.or(method),
        path: denial.path.or(path),
        ..denial
    })
}

/// The one Host field, if there is one.
pub fn host_field(headers: &HeaderMap) -> Result<Option<&str>, Box<Denial>> {
    let mut fields = headers.get_all(HOST).into_iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        return Err(malformed("Send one Host field, not several."));
    }
    field.to_str().map(Some).map_err(|_| malformed("Send a Host field of visible ASCII."))
}

type Place = (Scheme, Host, u16, Target);

fn absolute(head: &Parts, path: &str) -> Result<Place, Box<Denial>> {
    let scheme = scheme(&head.uri)?
        .ok_or_else(|| malformed("This is an HTTP proxy: send the URL in absolute form, or CONNECT."))?;
    let (host, port) =
        named(head, scheme.default_port())?.ok_or_else(|| malformed("Send the URL in absolute form."))?;
    Ok((scheme, host, port, Target::parse(path)?))
}

fn agrees(head: &Parts, scheme: Scheme, host: &Host, port: u16) -> Result<(), Box<Denial>> {
    if self::scheme(&head.uri)?.is_some_and(|asked| asked != scheme) {
        return Err(Box::new(mismatch(host, port)));
    }
    if names_exactly(head, host, port)? {
        return Ok(());
    }
    // A client that leaves the port out means the one it is connected to.
    let (asked_host, asked_port) = named(head, port)?.ok_or_else(|| malformed("Send one Host field."))?;
    if asked_host != *host || asked_port != port {
        return Err(Box::new(mismatch(host, port)));
    }
    Ok(())
}

/// Whether the host is named, and wherever it is in the very spelling that is sent, as most clients do. Then there is nothing to read.
fn names_exactly(head: &Parts, host: &Host, port: u16) -> Result<bool, Box<Denial>> {
    let is_exact = |text: &str| match text.strip_prefix(host.as_str()) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(':').is_some_and(|digits| is_decimal(digits, port)),
        None => false,
    };
    let target = head.uri.authority().map(|authority| is_exact(authority.as_str()));
    let field = host_field(&head.headers)?.map(is_exact);
    Ok([target, field].into_iter().flatten().min().unwrap_or(false))
}

/// Whether these are the digits of the number, and nothing else.
fn is_decimal(digits: &str, number: u16) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0')
        && digits.parse() == Ok(number)
}

fn base_url(head: &Parts, path: &str, policy: &Policy) -> Result<Place, Box<Denial>> {
    // This entrance is a server with a name of its own; its Host says nothing, but must still be one.
    host_field(&head.headers)?
        .map(|text| parse_authority(text, Some(Scheme::Http.default_port())))
        .transpose()?;
    if head.uri.authority().is_some() {
        return Err(malformed("This is the base-URL entrance: send /<rule>/… in origin form."));
    }
    let path = path.strip_prefix('/').unwrap_or(path);
    let end = path.find(['/', '?']).unwrap_or(path.len());
    let (rule, rest) = path.split_at(end);
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let Some((scheme, host, port)) = policy.base_url(rule) else {
        let advice = "Send /<rule>/…, where <rule> is the name of a rule with an exact host.";
        return Err(Box::new(Denial::new(DenialReason::HostNotAllowed).with_how_to_allow(advice)));
    };
    Ok((scheme, host, port, Target::parse(&rest)?))
}

/// What the request line or `:authority` and the Host field name, if they name the same.
fn named(head: &Parts, default_port: u16) -> Result<Option<(Host, u16)>, Box<Denial>> {
    let read = |text| -> Result<(Host, u16), Malformed> { parse_authority(text, Some(default_port)) };
    let target = head.uri.authority().map(|authority| read(authority.as_str())).transpose()?;
    let field = host_field(&head.headers)?.map(read).transpose()?;
    match (target, field) {
        (Some(target), Some(field)) if target != field => {
            Err(malformed("Name the same host in the request line, or :authority, and in the Host field."))
        }
        (target, field) => Ok(target.or(field)),
    }
}

fn scheme(uri: &Uri) -> Result<Option<Scheme>, Box<Denial>> {
    match uri.scheme_str() {
        None => Ok(None),
        Some("https") => Ok(Some(Scheme::Https)),
        Some("http") => Ok(Some(Scheme::Http)),
        Some(_) => Err(malformed("Only http and https URLs can be requested.")),
    }
}

/// A body that is coded for its way says so in a field that is for this hop alone: passed on without it, it would be taken for another
/// (RFC 9112, 6.1).
fn no_transfer_coding(headers: &HeaderMap) -> Result<(), Box<Denial>> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).into_iter();
    let is_chunked = |coding: &http::HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if is_chunked(coding) => Ok(()),
        _ => Err(malformed(
            "Send Transfer-Encoding: chunked and no other coding; a coded body has Content-Encoding.",
        )),
    }
}

/// Any other upgrade would turn the connection into something that is not judged.
fn asks_for_websocket(head: &Parts) -> Result<bool, Box<Denial>> {
    let Some(upgrade) = head.headers.get(UPGRADE) else { return Ok(false) };
    let connects = head.headers.get_all(CONNECTION).into_iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.split(',').any(|token| token.trim().eq_ignore_ascii_case("upgrade")))
    });
    let is_websocket = upgrade.as_bytes().eq_ignore_ascii_case(b"websocket");
    if is_websocket && connects && head.method == http::Method::GET {
        return Ok(true);
    }
    Err(Box::new(Denial::new(DenialReason::UnsupportedProtocol)))
}

fn malformed(how_to: &str) -> Box<Denial> {
    Box::new(Denial::new(DenialReason::MalformedRequest).with_how_to_allow(how_to))
}

fn mismatch(host: &Host, port: u16) -> Denial {
    Denial::new(DenialReason::AuthorityMismatch).with_host(host).with_port(port)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    const POLICY: &str = "{apiVersion: policy.agentsandbox.dev/v1, sandbox: {namespace: a, name: b}, generation: 0, \
        rules: [{name: api, host: api.test, ports: [8443], scheme: https}]}";

    fn bound() -> Binding {
        Binding::Bound { scheme: Scheme::Https, host: Host::parse("api.test").unwrap(), port: 8443 }
    }

    /// Where a request goes, or why nowhere; `fields` are written `name: value`, one a line.
    fn asked(binding: &Binding, line: &str, fields: &str) -> String {
        let (method, uri) = line.split_once(' ').unwrap();
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in fields.lines().filter_map(|field| field.split_once(": ")) {
            request = request.header(name, value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        match read(&head, binding, &Policy::from_yaml(POLICY).unwrap()) {
            Ok(Destination { scheme, host, port, method, target, websocket }) => {
                let socket = if websocket { " socket" } else { "" };
                format!("{method} {scheme}://{host}:{port}{}{socket}", target.as_str())
            }
            Err(denial) => denial.reason.to_string(),
        }
    }

    #[test]
    fn all_that_names_a_destination_names_one_or_the_request_is_refused() {
        let (malformed, mismatch) = ("MalformedRequest", "AuthorityMismatch");
        for (binding, line, fields, expected) in [
            (
                Binding::AbsoluteForm,
                "GET http://API.test/x?q=1",
                "host: api.test",
                "GET http://api.test:80/x?q=1",
            ),
            (
                Binding::AbsoluteForm,
                "PUT https://api.test:1/x",
                "host: api.test:1",
                "PUT https://api.test:1/x",
            ),
            (Binding::AbsoluteForm, "GET http://api.test/x", "", "GET http://api.test:80/x"),
            (Binding::AbsoluteForm, "GET http://api.test/x", "host: evil.test", malformed),
            (Binding::AbsoluteForm, "GET http://api.test/x", "host: api.test:81", malformed),
            (Binding::AbsoluteForm, "GET http://api.test/x", "host: api.test\nhost: api.test", malformed),
            (Binding::AbsoluteForm, "GET ftp://api.test/x", "host: api.test", malformed),
            (Binding::AbsoluteForm, "GET /x", "host: api.test", malformed),
            (bound(), "GET /x", "host: api.test", "GET https://api.test:8443/x"),
            (bound(), "GET /x", "host: api.test:8443", "GET https://api.test:8443/x"),
            (bound(), "GET https://api.test:8443/x", "", "GET https://api.test:8443/x"),
            (bound(), "GET /x", "host: evil.test", mismatch),
            (bound(), "GET /x", "host: api.test:443", mismatch),
            (bound(), "GET http://api.test:8443/x", "", mismatch),
            (bound(), "GET /x", "", malformed),
            (Binding::HostHeader, "GET /x", "host: api.test", "GET http://api.test:80/x"),
            (Binding::HostHeader, "GET /x", "host: api.test:80", "GET http://api.test:80/x"),
            (Binding::HostHeader, "GET /x", "host: api.test:8080", mismatch),
            (Binding::HostHeader, "GET /x", "", malformed),
            (Binding::HostHeader, "GET http://api.test/x", "host: api.test", "GET http://api.test:80/x"),
            (Binding::HostHeader, "GET https://api.test:80/x", "host: api.test", mismatch),
            (Binding::BaseUrl, "GET /api/x?q=1", "host: 127.0.0.1:8080", "GET https://api.test:8443/x?q=1"),
            (Binding::BaseUrl, "GET /api", "host: any", "GET https://api.test:8443/"),
            (Binding::BaseUrl, "GET /api?q=1", "", "GET https://api.test:8443/?q=1"),
            (Binding::BaseUrl, "GET /other/x", "", "HostNotAllowed"),
            (Binding::BaseUrl, "GET /api/x", "host: any\nhost: any", malformed),
            (Binding::BaseUrl, "GET /api/x", "host: a b", malformed),
            (Binding::BaseUrl, "GET http://any/api/x", "host: any", malformed),
            (bound(), "get /x", "host: api.test", malformed),
            (bound(), "PUT /x", "host: api.test\ntransfer-encoding: Chunked", "PUT https://api.test:8443/x"),
            (bound(), "PUT /x", "host: api.test\ntransfer-encoding: gzip, chunked", malformed),
            (
                bound(),
                "PUT /x",
                "host: api.test\ntransfer-encoding: gzip\ntransfer-encoding: chunked",
                malformed,
            ),
            (bound(), "PUT /x", "host: api.test\ntransfer-encoding: gzip", malformed),
            (bound(), "GET //x", "host: api.test", malformed),
        ] {
            assert_eq!(asked(&binding, line, fields), expected, "{binding:?} {line} {fields}");
        }
    }

    #[test]
    fn a_denial_says_where_it_was_as_far_as_the_connection_tells_and_keeps_what_it_says_itself() {
        let (head, ()) = Request::builder().method("PUT").uri("/x?q=1").body(()).unwrap().into_parts();
        let place = |denial: Denial| (denial.host, denial.port, denial.method, denial.path);
        let text = |text: &str| Some(text.to_owned());
        let bare = || Denial::new(DenialReason::MalformedRequest);
        assert_eq!(
            place(*located(bare(), &head, &bound())),
            (text("api.test"), Some(8443), text("PUT"), text("/x"))
        );
        assert_eq!(
            place(*located(bare(), &head, &Binding::HostHeader)),
            (None, None, text("PUT"), text("/x"))
        );
        let own = bare().with_host(Host::parse("own.test").unwrap()).with_port(1);
        let own = Denial { method: text("GET"), path: text("/own"), ..own };
        assert_eq!(
            place(*located(own, &head, &bound())),
            (text("own.test"), Some(1), text("GET"), text("/own"))
        );
    }

    #[test]
    fn only_a_websocket_may_change_what_a_connection_speaks() {
        let socket = "GET https://api.test:8443/x socket";
        for (method, fields, expected) in [
            ("GET", "upgrade: WebSocket\nconnection: keep-alive, Upgrade", socket),
            ("GET", "upgrade: websocket\nconnection: keep-alive\nconnection: upgrade", socket),
            ("GET", "connection: upgrade", "GET https://api.test:8443/x"),
            ("GET", "upgrade: websocket", "UnsupportedProtocol"),
            ("GET", "upgrade: websocket\nconnection: close", "UnsupportedProtocol"),
            ("POST", "upgrade: websocket\nconnection: upgrade", "UnsupportedProtocol"),
            ("GET", "upgrade: h2c\nconnection: upgrade", "UnsupportedProtocol"),
        ] {
            let fields = format!("host: api.test\n{fields}");
            assert_eq!(asked(&bound(), &format!("{method} /x"), &fields), expected, "{method} {fields}");
        }
    }

    #[test]
    fn a_path_may_be_as_long_as_its_bound() {
        let path = format!("/{}", "a".repeat(TARGET_BYTES_MAX - "/?q=1".len()));
        let longest = asked(&bound(), &format!("GET {path}?q=1"), "host: api.test");
        assert_eq!(longest, format!("GET https://api.test:8443{path}?q=1"));
        assert_eq!(asked(&bound(), &format!("GET {path}a?q=1"), "host: api.test"), "LimitExceeded");
    }

    fn head(uri: &str, fields: &[&str]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for field in fields {
            request = request.header(HOST, *field);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_name_that_is_spelled_as_it_is_sent_is_read_as_any_other() {
        let hosts = ["good.test", "xn--bcher-kva.test", "192.0.2.1", "[2001:db8::1]"];
        let ports = ["", ":443", ":0443", ":+443", ":", ":80", ":4430", ":443x", ".", "x", ".:443", " "];
        for host in hosts.map(|text| Host::parse(text).unwrap()) {
            for port in ports {
                let text = format!("{host}{port}");
                let head = head("/", &[&text]);
                let read = named(&head, 443).ok().flatten().is_some_and(|read| read == (host.clone(), 443));
                assert_eq!(agrees(&head, Scheme::Https, &host, 443).is_ok(), read, "{text}");
                let is_exact = names_exactly(&head, &host, 443).unwrap();
                assert!(read || !is_exact, "{text}");
            }
            assert!(names_exactly(&head("/", &[&format!("{host}:443")]), &host, 443).unwrap(), "{host}");
        }
        let host = Host::parse("good.test").unwrap();
        for (uri, fields) in [
            ("/", vec![]),
            ("/", vec!["evil.test"]),
            ("/", vec!["good.test", "good.test"]),
            ("https://evil.test/", vec!["good.test"]),
            ("https://good.test/", vec!["evil.test"]),
            ("https://good.test:80/", vec!["good.test"]),
            ("http://good.test/", vec!["good.test"]),
        ] {
            assert!(agrees(&head(uri, &fields), Scheme::Https, &host, 443).is_err(), "{uri} {fields:?}");
        }
        assert!(agrees(&head("https://good.test/", &["good.test:443"]), Scheme::Https, &host, 443).is_ok());
        assert!(agrees(&head("/", &["GOOD.test"]), Scheme::Https, &host, 443).is_ok());
    }
}

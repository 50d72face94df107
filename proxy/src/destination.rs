//! Where a request wants to go, in one canonical reading: every place that names a destination is read, and all must
//! agree. What cannot be read in exactly one way is malformed.

use agentsandbox_policy::{
    Denial, DenialReason, Host, Malformed, Method, Policy, Scheme, Target, parse_authority,
};
use http::header::{CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Uri};

use crate::entrance::Binding;
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
    if head.uri.path().len() > TARGET_BYTES_MAX {
        return Err(Box::new(Denial::new(DenialReason::LimitExceeded)));
    }
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
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
            if port != default_port {
                return Err(Box::new(mismatch(&host, port)));
            }
            (Scheme::Http, host, port, Target::parse(path)?)
        }
    };
    Ok(Destination { scheme, host, port, method, target, websocket })
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
    // A client that leaves the port out means the one it is connected to.
    let (asked_host, asked_port) = named(head, port)?.ok_or_else(|| malformed("Send one Host field."))?;
    if asked_host != *host || asked_port != port {
        return Err(Box::new(mismatch(host, port)));
    }
    Ok(())
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

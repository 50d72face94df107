//! TLS interception. The ClientHello names the destination; if CONNECT or SOCKS5 already named one, the two agree or
//! nothing goes on. A leaf is minted only for a name that the policy admits; a refused client gets an alert and no
//! certificate. A handshake that fails is never followed by a blind tunnel.

use std::sync::Arc;
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason, Host, NamePermit, Scheme};
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

use super::{Binding, Entrance, EntranceContext, Origin, refuse_connection, serve_http1, serve_http2};
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::pipeline::Proxy;

/// Takes over a TLS connection as the name it asks for.
pub(crate) async fn intercept<S>(
    proxy: Arc<Proxy>,
    io: S,
    origin: Origin,
    expected: Option<(Host, u16)>,
    port: u16,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let entrance = origin.entrance;
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), io);
    let Ok(Ok(start)) = timeout(HANDSHAKE_TIMEOUT, acceptor).await else {
        let denial = unsupported(expected.as_ref().map(|(host, _)| host), port);
        return refuse_connection(&proxy, entrance, &denial);
    };
    proxy.audit.turn().await;
    let admitted = admit(&proxy, entrance, start.client_hello().server_name(), expected.as_ref(), port);
    let (name, config) = match admitted {
        Ok(admitted) => admitted,
        Err(Refused) => {
            // Sends the alert; by construction there is nothing else it could do.
            let _ = timeout(HANDSHAKE_TIMEOUT, start.into_stream(proxy.authority.refuse())).await;
            return;
        }
    };
    let Ok(Ok(stream)) = timeout(HANDSHAKE_TIMEOUT, start.into_stream(config)).await else {
        // Most often a client that does not trust the sandbox's CA, or wants a protocol other than HTTP.
        return refuse_connection(&proxy, entrance, &unsupported(Some(name.host()), port));
    };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let binding = Binding::Bound { scheme: Scheme::Https, host: name.host().clone(), port };
    let context = EntranceContext { origin, binding };
    if is_http2 {
        serve_http2(proxy, stream, context).await;
    } else {
        serve_http1(proxy, stream, context).await;
    }
}

/// The name to answer as, and TLS as that name; or a denial that is written down already.
fn admit(
    proxy: &Proxy,
    entrance: Entrance,
    sni: Option<&str>,
    expected: Option<&(Host, u16)>,
    port: u16,
) -> Result<(NamePermit, Arc<rustls::ServerConfig>), Refused> {
    let loaded = proxy.policy.current(Instant::now());
    let mut entry = proxy.audit.open(entrance, loaded.as_ref().ok().map(|loaded| &loaded.policy));
    let admitted = loaded.map_err(|reason| Box::new(Denial::new(reason))).and_then(|loaded| {
        let host = name(sni, expected, port)?;
        entry.asks(host.as_str(), port);
        let name = loaded.policy.admit(Scheme::Https, &host, port)?;
        let config = proxy.authority.impersonate(&name, Instant::now()).map_err(|error| {
            tracing::error!(error = %error, "no leaf could be minted");
            Box::new(Denial::new(DenialReason::InternalError).with_host(&host).with_port(port))
        })?;
        entry.admits().map_err(Denial::from)?;
        Ok((name, config))
    });
    admitted.map_err(|denial| {
        entry.refuses(&denial, None);
        Refused
    })
}

struct Refused;

/// The name that ClientHello and, if there was one, CONNECT agree on.
fn name(sni: Option<&str>, expected: Option<&(Host, u16)>, port: u16) -> Result<Host, Box<Denial>> {
    match (sni, expected) {
        (Some(sni), None) => Ok(Host::parse(sni)?),
        (Some(sni), Some((host, _))) if Host::parse(sni)? == *host => Ok(host.clone()),
        // Addresses have no SNI (RFC 6066, 3).
        (None, Some((host, _))) if host.address().is_some() => Ok(host.clone()),
        (_, expected) => {
            let denial = Denial::new(DenialReason::AuthorityMismatch).with_port(port);
            Err(Box::new(match expected {
                Some((host, _)) => denial.with_host(host),
                None => denial.with_how_to_allow("Send the name of the server in the TLS handshake (SNI)."),
            }))
        }
    }
}

fn unsupported(host: Option<&Host>, port: u16) -> Denial {
    let denial = Denial::new(DenialReason::UnsupportedProtocol).with_port(port).with_how_to_allow(
        "The TLS handshake did not finish: trust the sandbox's CA, and offer http/1.1 or h2.",
    );
    match host {
        Some(host) => denial.with_host(host),
        None => denial,
    }
}

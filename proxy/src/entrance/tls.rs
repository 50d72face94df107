//! TLS interception. The ClientHello names the destination; if CONNECT or SOCKS5 already named one, the two agree or
//! nothing goes on. A leaf is minted only for a name that the policy admits; a refused client gets an alert and no
//! certificate. A handshake that fails is never followed by a blind tunnel.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason, Host, NamePermit, Scheme};
use rustls::AlertDescription;
use rustls::server::{Acceptor, ClientHello};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::hello::{Overheard, is_encrypted};
use super::passthrough::{self, Passing};
use super::{
    Binding, Entrance, EntranceContext, Origin, refuse_connection, serve_http1, serve_http2, unread,
};
use crate::audit::pace::Turn;
use crate::authority::Authority;
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::pipeline::Proxy;

/// Takes over a TLS connection as the name it asks for.
pub(crate) async fn intercept<S>(
    proxy: Arc<Proxy>,
    stream: S,
    origin: Origin,
    expected: Option<(Host, u16)>,
    port: u16,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let entrance = origin.entrance;
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), Overheard::new(stream));
    let Ok(Ok(mut start)) = timeout(HANDSHAKE_TIMEOUT, acceptor).await else {
        let denial = unsupported(expected.as_ref().map(|(host, _)| host), port);
        return refuse_connection(&proxy, entrance, &denial);
    };
    let turn = proxy.audit.turn().await;
    let first = start.io.take();
    let encrypted = is_encrypted(&first);
    let sni = start.client_hello().server_name().map(str::to_owned);
    let mut hello = Hello { sni, encrypted, turn: Some(turn) };
    if let Some(passed) = pass(&proxy, entrance, &mut hello, expected.as_ref(), port) {
        match passed {
            Ok(passing) => passthrough::hand_on(&proxy, (start.io, first), origin, passing).await,
            Err(Refused) => {
                let _ = timeout(HANDSHAKE_TIMEOUT, start.into_stream(proxy.authority.refuse())).await;
            }
        }
        return;
    }
    let admitted = admit(&proxy, entrance, &mut hello, expected.as_ref(), port);
    let (name, config) = match admitted {
        Ok(admitted) => admitted,
        Err(Refused) => {
            // Sends the alert; by construction there is nothing else it could do.
            let _ = timeout(HANDSHAKE_TIMEOUT, start.into_stream(proxy.authority.refuse())).await;
            return;
        }
    };
    let offered = Offered::by(&start.client_hello());
    let place = if offered.http2 { proxy.room.place() } else { None };
    let is_full = offered.http2 && place.is_none();
    let config = if is_full { Authority::in_http1(&config) } else { config };
    let mut shaken = timeout(HANDSHAKE_TIMEOUT, start.into_stream(config)).await;
    if encrypted && means_another_name(&mut shaken).await {
        let denial = Denial::new(DenialReason::EncryptedClientHello).with_host(name.host()).with_port(port);
        return refuse_connection(&proxy, entrance, &denial);
    }
    let Ok(Ok(stream)) = shaken else {
        if is_full && !offered.http1 {
            return refuse_connection(&proxy, entrance, &unread::one_more_connection(name.host(), port));
        }
        // Most often a client that does not trust the sandbox's CA, or wants a protocol other than HTTP.
        return refuse_connection(&proxy, entrance, &unsupported(Some(name.host()), port));
    };
    let place = place.filter(|_| stream.get_ref().1.alpn_protocol() == Some(b"h2"));
    let binding = Binding::Bound { scheme: Scheme::Https, host: name.host().clone(), port };
    let context = EntranceContext { origin, binding };
    match place {
        Some(place) => serve_http2(proxy, stream, context, place).await,
        None => serve_http1(proxy, stream, context).await,
    }
}

/// If the policy lets TLS to this name pass unopened: leave to do so, written down; or a denial that is.
fn pass(
    proxy: &Proxy,
    entrance: Entrance,
    hello: &mut Hello,
    expected: Option<&(Host, u16)>,
    port: u16,
) -> Option<Result<Passing, Refused>> {
    let loaded = proxy.policy.current(Instant::now()).ok()?;
    let host = name(hello.sni.as_deref(), expected, port).ok()?;
    let permit = loaded.policy.pass(&host, port)?;
    let mut entry = proxy.audit.open(entrance, Some(&loaded.policy));
    hello.turn.take().into_iter().for_each(|turn| entry.takes(turn));
    entry.asks(host.as_str(), port);
    if hello.encrypted {
        // Nobody here could see what is meant, whether it only pretends or not.
        let denial = Denial::new(DenialReason::EncryptedClientHello).with_rule(permit.rule());
        entry.refuses(&denial, None);
        return Some(Err(Refused));
    }
    Some(match entry.begins_to_pass(permit) {
        Ok(recorded) => Ok(Passing { loaded, entry, recorded }),
        Err(unrecorded) => {
            entry.refuses(&unrecorded.into(), None);
            Err(Refused)
        }
    })
}

/// The name to answer as, and TLS as that name; or a denial that is written down already.
fn admit(
    proxy: &Proxy,
    entrance: Entrance,
    hello: &mut Hello,
    expected: Option<&(Host, u16)>,
    port: u16,
) -> Result<(NamePermit, Arc<rustls::ServerConfig>), Refused> {
    let loaded = proxy.policy.current(Instant::now());
    let mut entry = proxy.audit.open(entrance, loaded.as_ref().ok().map(|loaded| &*loaded.policy));
    hello.turn.take().into_iter().for_each(|turn| entry.takes(turn));
    let admitted = loaded.map_err(|reason| Box::new(Denial::new(reason))).and_then(|loaded| {
        let host = name(hello.sni.as_deref(), expected, port)?;
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
        entry.refuses(&hello.explains(*denial), None);
        Refused
    })
}

/// What a client hello says.
struct Hello {
    sni: Option<String>,
    /// Whether the name may only be the wrapping of another one.
    encrypted: bool,
    /// For the one line that comes of it.
    turn: Option<Turn>,
}

impl Hello {
    /// A name that is not allowed is most likely the wrapping: nobody who was told by the policy DNS comes here with it.
    fn explains(&self, denial: Denial) -> Denial {
        match denial.reason {
            DenialReason::HostNotAllowed | DenialReason::AuthorityMismatch if self.encrypted => {
                let advice = Denial::new(DenialReason::EncryptedClientHello).how_to_allow;
                Denial { reason: DenialReason::EncryptedClientHello, ..denial }.with_how_to_allow(advice)
            }
            _ => denial,
        }
    }
}

/// Whether a client whose hello was encrypted gives up once it sees that nobody could decrypt it (RFC 9849, 6.1.6), in its
/// last flight of the handshake or right after it. One that only pretended goes on, and its first byte may be waited for:
/// a client of HTTP speaks first.
async fn means_another_name<S>(shaken: &mut Result<io::Result<TlsStream<S>>, Elapsed>) -> bool
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let after = match shaken {
        Ok(Ok(stream)) => timeout(HANDSHAKE_TIMEOUT, stream.fill_buf()).await.ok().and_then(Result::err),
        _ => None,
    };
    let Some(error) = (match shaken {
        Ok(Err(error)) => Some(&*error),
        _ => after.as_ref(),
    }) else {
        return false;
    };
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::AlertReceived(AlertDescription::EncryptedClientHelloRequired)))
}

/// What a client wants to speak (RFC 7301). Whoever offers no HTTP/2 takes no place for it.
#[derive(Clone, Copy)]
struct Offered {
    http2: bool,
    http1: bool,
}

impl Offered {
    fn by(hello: &ClientHello<'_>) -> Self {
        let offers = |wanted: &[u8]| hello.alpn().is_some_and(|mut offered| offered.any(|one| one == wanted));
        Self { http2: offers(b"h2"), http1: offers(b"http/1.1") }
    }
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

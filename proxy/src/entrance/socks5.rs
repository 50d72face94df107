//! The SOCKS5 entrance (RFC 1928): no authentication, CONNECT only. Whoever is connected is known already, so user
//! names say nothing. The tunnel is opened only to a name that some rule allows, and then read like any other.
//!
//! A client that resolves names itself got this proxy's own address from the policy DNS; it is served as if it had
//! come to the transparent entrance.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Instant;

use agentsandbox_policy::{Denial, DenialReason, Host, Malformed, Scheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::line::Line;
use super::{Entrance, Origin, refuse_connection, tls, transparent, tunnel};
use crate::audit::Admitted;
use crate::audit::pace::Turn;
use crate::limits::HANDSHAKE_TIMEOUT;
use crate::pipeline::Proxy;

const VERSION: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NO_ACCEPTABLE_METHOD: u8 = 0xff;
const COMMAND_CONNECT: u8 = 1;

/// The reply codes we use (RFC 1928, 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The tunnel is open.
    Succeeded = 0,
    /// It cannot be written down.
    Failed = 1,
    /// No rule allows it.
    NotAllowed = 2,
    /// Another command than CONNECT.
    CommandNotSupported = 7,
    /// No host, or no port.
    AddressNotSupported = 8,
}

/// Why a client named no destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client went away.
    Gone,
    /// It asked for something that is not answered, or only with a code.
    Malformed(Option<Reply>),
}

impl From<std::io::Error> for Fault {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl From<Malformed> for Fault {
    fn from(_: Malformed) -> Self {
        Self::Malformed(Some(Reply::AddressNotSupported))
    }
}

/// Serves one connection.
pub(crate) async fn serve(proxy: Arc<Proxy>, mut io: Line, origin: Origin) {
    let (host, port) = match timeout(HANDSHAKE_TIMEOUT, greet(&mut io)).await {
        Ok(Ok(to)) => to,
        Ok(Err(Fault::Malformed(code))) => {
            refuse_connection(&proxy, origin.entrance, &Denial::new(DenialReason::MalformedRequest));
            if let Some(code) = code {
                reply(&mut io, code).await;
            }
            return;
        }
        Ok(Err(Fault::Gone)) => return,
        Err(_) => {
            return refuse_connection(&proxy, origin.entrance, &Denial::new(DenialReason::LimitExceeded));
        }
    };
    if proxy.advertise.is_some() && host.address() == proxy.advertise {
        reply(&mut io, Reply::Succeeded).await;
        if port == Scheme::Http.default_port() {
            return transparent::serve_http(proxy, io, origin).await;
        }
        return tls::intercept(proxy, io, origin, None, port).await;
    }
    let turn = proxy.audit.turn().await;
    match admit(&proxy, origin.entrance, &host, port, turn) {
        Ok(recorded) => {
            reply(&mut io, Reply::Succeeded).await;
            tunnel(proxy, io, origin, (host, port), recorded).await;
        }
        Err(DenialReason::AuditUnavailable) => reply(&mut io, Reply::Failed).await,
        Err(_) => reply(&mut io, Reply::NotAllowed).await,
    }
}

/// Leave to open the tunnel, written down; or the reason why not, written down as well.
fn admit(
    proxy: &Proxy,
    entrance: Entrance,
    host: &Host,
    port: u16,
    turn: Turn,
) -> Result<Admitted, DenialReason> {
    let loaded = proxy.policy.current(Instant::now());
    let mut entry = proxy.audit.open(entrance, loaded.as_ref().ok().map(|loaded| &*loaded.policy));
    entry.takes(turn);
    entry.asks_to_connect(host.as_str(), port);
    let admitted = loaded
        .map_err(|reason| Box::new(Denial::new(reason)))
        .and_then(|loaded| super::http_proxy::admit(&loaded.policy, host, port))
        .and_then(|()| entry.admits().map_err(|error| Box::new(error.into())));
    admitted.map_err(|denial| {
        entry.refuses(&denial, None);
        denial.reason
    })
}

/// Reads what a client begins with, up to the destination that it names; answers the first half of it.
///
/// # Errors
/// [`Fault`] when there is no destination in it.
pub async fn greet(io: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(Host, u16), Fault> {
    if io.read_u8().await? != VERSION {
        return Err(Fault::Malformed(None));
    }
    let mut methods = vec![0; usize::from(io.read_u8().await?)];
    io.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        io.write_all(&[VERSION, NO_ACCEPTABLE_METHOD]).await?;
        return Err(Fault::Malformed(None));
    }
    io.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let mut head = [0; 4];
    io.read_exact(&mut head).await?;
    let [version, command, _, kind] = head;
    if version != VERSION {
        return Err(Fault::Malformed(None));
    }
    let host = match kind {
        1 => Host::from(IpAddr::V4(Ipv4Addr::from_bits(io.read_u32().await?))),
        3 => named(io).await?,
        4 => Host::from(IpAddr::V6(Ipv6Addr::from_bits(io.read_u128().await?))),
        _ => return Err(Fault::Malformed(Some(Reply::AddressNotSupported))),
    };
    let port = io.read_u16().await?;
    if command != COMMAND_CONNECT {
        return Err(Fault::Malformed(Some(Reply::CommandNotSupported)));
    }
    if port == 0 {
        return Err(Fault::Malformed(Some(Reply::AddressNotSupported)));
    }
    Ok((host, port))
}

async fn named(io: &mut (impl AsyncRead + Unpin)) -> Result<Host, Fault> {
    let mut name = vec![0; usize::from(io.read_u8().await?)];
    io.read_exact(&mut name).await?;
    let name = String::from_utf8(name).map_err(|_| Fault::Malformed(Some(Reply::AddressNotSupported)))?;
    // Brackets are for authorities; here an address has a type of its own.
    Ok(Host::parse(&name)?)
}

/// The bound address is of no use to a client and would tell where the proxy is.
async fn reply(io: &mut Line, code: Reply) {
    let _ = io.write_all(&[VERSION, code as u8, 0, 1, 0, 0, 0, 0, 0, 0]).await;
}

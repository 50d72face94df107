//! Tunnels through a proxy of the organisation's own. The proxy is told a name and a port, and once it has agreed it only
//! hands bytes on: TLS is spoken with the destination, so the proxy sees no request and no key but its own. It resolves the
//! name, so it has to judge the address. What it refuses for good is told apart from a destination that does not answer.

use std::fmt;
use std::io;
use std::net::IpAddr;

use agentsandbox_policy::{DialPermit, Host, Injection, ProxyProtocol, Target, UpstreamProxy};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::either::Either;
use zeroize::Zeroizing;

use crate::dial::Stream;
use crate::secrets::Secret;
use crate::upstream::Placed;
use crate::{headers, loops};

/// What a proxy makes of a connection after CONNECT.
pub type Tunnel = TokioIo<Upgraded>;

/// RFC 1928 and, for the password, RFC 1929.
mod socks {
    pub const VERSION: u8 = 5;
    pub const NO_AUTHENTICATION: u8 = 0;
    pub const PASSWORD: u8 = 2;
    pub const PASSWORD_VERSION: u8 = 1;
    pub const SUCCEEDED: u8 = 0;
    pub const NOT_ALLOWED: u8 = 2;
    pub const COMMAND_UNKNOWN: u8 = 7;
    pub const ADDRESS_UNKNOWN: u8 = 8;
    pub const CONNECT: u8 = 1;
    pub const IPV4: u8 = 1;
    pub const NAME: u8 = 3;
    pub const IPV6: u8 = 4;
}

/// Why a proxy opens no tunnel, now or later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The status of its answer to CONNECT.
    Status(u16),
    /// The code of its reply, by SOCKS5.
    Code(u8),
    /// It does not take the password, or asks for a login in another way, or at all.
    Login,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "it answers with status {status}"),
            Self::Code(code) => write!(f, "it answers with code {code}"),
            Self::Login => f.write_str("it does not take this login"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// What is in an error of [`open`]; none where the same may succeed at another time.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    /// Of the answer to CONNECT. What asks for patience (RFC 9110, RFC 6585, RFC 8470), and what says that the proxy or the
    /// destination fails, is none.
    const fn of_status(status: StatusCode) -> Option<Self> {
        match status.as_u16() {
            408 | 425 | 429 => None,
            code @ 300..=499 => Some(Self::Status(code)),
            _ => None,
        }
    }

    /// Of a reply of SOCKS5.
    const fn of_code(code: u8) -> Option<Self> {
        match code {
            socks::NOT_ALLOWED | socks::COMMAND_UNKNOWN | socks::ADDRESS_UNKNOWN => Some(Self::Code(code)),
            _ => None,
        }
    }

    const fn is_of_login(self) -> bool {
        matches!(self, Self::Login | Self::Status(407))
    }

    /// What is told of it: which proxy, what it answered, and who can change that.
    pub fn told(self, proxy: &UpstreamProxy, host: &Host, port: u16) -> String {
        let whom = format!("{}:{}", proxy.host, proxy.port);
        match (self.is_of_login(), &proxy.login) {
            (true, Some(login)) => format!(
                "The upstream proxy {whom} does not take the login of credential {} ({self}); a platform admin has to correct its Secret.",
                login.credential
            ),
            (true, None) => format!(
                "The upstream proxy {whom} asks for a login, and none is written ({self}); a platform admin has to name one with the proxy."
            ),
            (false, _) => format!(
                "The upstream proxy {whom} opens no way to {host}:{port} ({self}); ask who runs it to allow this destination."
            ),
        }
    }
}

/// Asks the proxy at the other end of `stream` for the destination.
pub async fn open(
    mut stream: Placed<TcpStream>,
    permit: &DialPermit,
    proxy: &UpstreamProxy,
    password: Option<&Secret>,
) -> io::Result<Stream> {
    let login = match (&proxy.login, password) {
        (None, _) => None,
        (Some(login), Some(password)) => Some((login.username.as_str(), password)),
        (Some(_), None) => return Err(refused("its password is not there")),
    };
    match proxy.protocol {
        ProxyProtocol::Http => connect(stream, permit, login).await.map(Either::Right),
        ProxyProtocol::Socks5 => {
            ask(&mut stream, permit, login).await?;
            Ok(Either::Left(stream))
        }
    }
}

async fn connect(
    stream: Placed<TcpStream>,
    permit: &DialPermit,
    login: Option<(&str, &Secret)>,
) -> io::Result<Tunnel> {
    let authority = format!("{}:{}", permit.host(), permit.port());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::try_from(&authority).map_err(io::Error::other)?;
    let fields = request.headers_mut();
    fields.insert(HOST, HeaderValue::try_from(authority).map_err(io::Error::other)?);
    if let Some((username, password)) = login {
        let injection = Injection::Basic { username: username.to_owned() };
        let nowhere = Target::parse("/").map_err(io::Error::other)?;
        headers::inject(fields, &nowhere, &injection, password).map_err(io::Error::other)?;
        if let Some(value) = fields.remove(AUTHORIZATION) {
            fields.insert(PROXY_AUTHORIZATION, value);
        }
    }
    loops::mark(fields, !permit.is_public());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    if !response.status().is_success() {
        let status = response.status();
        let passing = || refused(&format!("it answers {}", status.as_u16()));
        return Err(Refusal::of_status(status).map_or_else(passing, final_one));
    }
    hyper::upgrade::on(response).await.map(TokioIo::new).map_err(io::Error::other)
}

async fn ask(
    stream: &mut Placed<TcpStream>,
    permit: &DialPermit,
    login: Option<(&str, &Secret)>,
) -> io::Result<()> {
    let method = if login.is_some() { socks::PASSWORD } else { socks::NO_AUTHENTICATION };
    stream.write_all(&[socks::VERSION, 1, method]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    if chosen != [socks::VERSION, method] {
        return Err(final_one(Refusal::Login));
    }
    if let Some((username, password)) = login {
        let mut said = Zeroizing::new(vec![socks::PASSWORD_VERSION]);
        for text in [username.as_bytes(), password.expose()] {
            said.push(
                u8::try_from(text.len()).map_err(|_| refused("its user name or password is too long"))?,
            );
            said.extend_from_slice(text);
        }
        stream.write_all(&said).await?;
        stream.read_exact(&mut chosen).await?;
        if chosen != [socks::PASSWORD_VERSION, socks::SUCCEEDED] {
            return Err(final_one(Refusal::Login));
        }
    }
    let head = [socks::VERSION, socks::CONNECT, 0];
    let request = [&head[..], &place(permit.host())?, &permit.port().to_be_bytes()].concat();
    stream.write_all(&request).await?;
    let mut reply = [0; 4];
    stream.read_exact(&mut reply).await?;
    let [version, code, _, kind] = reply;
    if version != socks::VERSION || code != socks::SUCCEEDED {
        let passing = || refused(&format!("it answers with code {code}"));
        return Err(Refusal::of_code(code).map_or_else(passing, final_one));
    }
    let address = match kind {
        socks::IPV4 => 4,
        socks::IPV6 => 16,
        socks::NAME => usize::from(stream.read_u8().await?),
        _ => return Err(refused("its reply cannot be read")),
    };
    // Where it is connected from, which is of no use here, and a port.
    stream.read_exact(&mut vec![0; address + 2]).await.map(drop)
}

fn place(host: &Host) -> io::Result<Vec<u8>> {
    Ok(match host.address() {
        Some(IpAddr::V4(address)) => [&[socks::IPV4][..], &address.octets()].concat(),
        Some(IpAddr::V6(address)) => [&[socks::IPV6][..], &address.octets()].concat(),
        None => {
            let name = host.as_str();
            let length = u8::try_from(name.len()).map_err(|_| refused("the name is too long for it"))?;
            [&[socks::NAME, length], name.as_bytes()].concat()
        }
    })
}

fn final_one(refusal: Refusal) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, refusal)
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, format!("the upstream proxy does not connect: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p_i14_what_may_pass_when_asked_again_is_no_refusal_and_all_else_is() {
        let is_final = |status| Refusal::of_status(StatusCode::from_u16(status).unwrap()).is_some();
        for status in [302, 400, 401, 403, 404, 405, 407, 451] {
            assert!(is_final(status), "{status}");
        }
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert!(!is_final(status), "{status}");
        }
        let of_socks: Vec<u8> = (1..=9).filter(|code| Refusal::of_code(*code).is_some()).collect();
        assert_eq!(of_socks, [2, 7, 8], "RFC 1928, 6");
    }
}

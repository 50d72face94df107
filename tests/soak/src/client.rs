//! The agent's side: connections through each entrance, and requests on them whose answers are looked at whole.

use std::net::SocketAddr;
use std::time::Duration;

use agentsandbox_conformance::client::socks5;
use agentsandbox_conformance::tls::{self, Hello};
use agentsandbox_conformance::vector::Entrance;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{AUTHORIZATION, CONTENT_ENCODING, HOST, HeaderValue, TE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::answers::{beginning, is_whole};
use crate::ledger::{Ledger, Told};
use crate::plan::{Ask, Place};

/// The agent's own key, which no upstream may see.
pub const OWN_KEY: &str = "Bearer sk-own-9876543210";
/// It bounds a hang, which is wrong.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages of one WebSocket.
const MESSAGES: u32 = 3;

/// A connection, whatever is below.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}
type BoxIo = Box<dyn Io>;

/// Where an entrance is.
#[must_use]
pub fn door(entrance: Entrance) -> SocketAddr {
    let port = match entrance {
        Entrance::Absolute | Entrance::Connect | Entrance::ConnectH2 => 3128,
        Entrance::Socks5 => 1080,
        Entrance::BaseUrl => 8080,
        Entrance::TransparentTls => 10443,
        Entrance::TransparentHttp => 10080,
        Entrance::Dns => 10053,
    };
    ([127, 0, 0, 1], port).into()
}

/// A connection that requests can be sent on.
pub enum Sender {
    /// One at a time.
    Http1(http1::SendRequest<Full<Bytes>>),
    /// Many at a time.
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Why a connection was not opened.
#[derive(Debug)]
pub enum Unopened {
    /// The proxy refused it.
    Refused(String),
    /// Something else came between.
    Broken(String),
}

impl<E: std::error::Error> From<E> for Unopened {
    fn from(error: E) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Opens a way to a place; `shown` is the name in the TLS handshake.
///
/// # Errors
/// When the proxy refuses it, or does not answer.
pub async fn open(roots_pem: &str, entrance: Entrance, place: Place, shown: &str) -> Result<BoxIo, Unopened> {
    let opening = async {
        let mut tcp = TcpStream::connect(door(entrance)).await?;
        tcp.set_nodelay(true)?;
        match entrance {
            Entrance::Connect | Entrance::ConnectH2 => tcp = tunnel(tcp, place).await?,
            Entrance::Socks5 => match socks5(&mut tcp, place.host(), place.port()).await? {
                0 => {}
                code => return Err(Unopened::Refused(format!("SOCKS5 reply {code}"))),
            },
            Entrance::TransparentTls => {}
            _ => return Ok(Box::new(tcp) as BoxIo),
        }
        let protocol = if entrance == Entrance::ConnectH2 { "h2" } else { "http/1.1" };
        let hello = Hello { name: shown.to_owned(), says_name: true, protocols: vec![protocol.to_owned()] };
        match tls::connect(tcp, roots_pem, &hello).await {
            Ok(io) => Ok(Box::new(io) as BoxIo),
            Err(error) if error.to_string().contains("received fatal alert") => {
                Err(Unopened::Refused(error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    };
    timeout(PATIENCE, opening).await.unwrap_or_else(|_| Err(Unopened::Broken("it hangs".to_owned())))
}

/// A tunnel, as the socket it is.
async fn tunnel(tcp: TcpStream, place: Place) -> Result<TcpStream, Unopened> {
    let authority = format!("{}:{}", place.host(), place.port());
    let (mut sender, connection) = http1::handshake::<_, Full<Bytes>>(TokioIo::new(tcp)).await?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::connect(&authority).header(HOST, &authority).body(Full::default())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::OK {
        let status = response.status();
        let told = response.into_body().collect().await?.to_bytes();
        let reason = reason(&told).ok_or_else(|| Unopened::Broken(format!("{status} without a reason")))?;
        return Err(Unopened::Refused(reason));
    }
    let upgraded = hyper::upgrade::on(response).await?;
    let parts = upgraded.downcast::<TokioIo<TcpStream>>();
    let parts = parts.map_err(|_| Unopened::Broken("the tunnel is no socket".to_owned()))?;
    Ok(parts.io.into_inner())
}

/// The reason in the proxy's own answer.
fn reason(body: &[u8]) -> Option<String> {
    let refusal: serde_json::Value = serde_json::from_slice(body).ok()?;
    refusal.get("requestId")?;
    Some(refusal.get("reason")?.as_str()?.to_owned())
}

/// Speaks HTTP on a connection.
///
/// # Errors
/// When HTTP/2 does not begin.
pub async fn speak(io: BoxIo, entrance: Entrance) -> Result<Sender, hyper::Error> {
    if entrance == Entrance::ConnectH2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await?;
        tokio::spawn(connection);
        return Ok(Sender::Http2(sender));
    }
    let (sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection);
    Ok(Sender::Http1(sender))
}

/// The target of a request, as its entrance wants it.
fn target(entrance: Entrance, place: Place, number: u64) -> String {
    let path = format!("{}{number}", place.path());
    let scheme = if place.port() == 80 { "http" } else { "https" };
    let named = authority(place);
    match entrance {
        Entrance::Absolute | Entrance::ConnectH2 => format!("{scheme}://{named}{path}"),
        Entrance::BaseUrl => format!("/{}{path}", place.base()),
        _ => path,
    }
}

fn authority(place: Place) -> String {
    match place.port() {
        80 | 443 => place.host().to_owned(),
        port => format!("{}:{port}", place.host()),
    }
}

/// One request, sent and looked at.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its number.
    pub number: u64,
    /// What it asks.
    pub ask: Ask,
    /// Its body.
    pub body: Bytes,
    /// Whether it asks for events.
    pub events: bool,
}

impl Sent {
    fn request(&self, entrance: Entrance) -> Result<Request<Full<Bytes>>, http::Error> {
        let query = if self.events { "?events" } else { "" };
        let uri = format!("{}{query}", target(entrance, self.ask.place, self.number));
        let mut built = Request::builder().method(self.ask.method).uri(uri).header(TE, "trailers");
        if entrance != Entrance::ConnectH2 {
            let host =
                if entrance == Entrance::BaseUrl { "proxy".to_owned() } else { authority(self.ask.place) };
            built = built.header(HOST, host);
        }
        if self.ask.own_key {
            built = built.header(AUTHORIZATION, HeaderValue::from_static(OWN_KEY));
        }
        built.body(Full::new(self.body.clone()))
    }

    /// Sends it and waits for the whole answer.
    pub async fn send(&self, ledger: &Ledger, sender: &mut Sender, entrance: Entrance) -> Told {
        let sending = async {
            let request = self.request(entrance)?;
            let is_ready = match sender {
                Sender::Http1(sender) => sender.ready().await,
                Sender::Http2(sender) => sender.ready().await,
            };
            // The proxy may close behind an answer, and says so in it.
            if is_ready.is_err() {
                return Ok(Told::Nothing);
            }
            let response = match sender {
                Sender::Http1(sender) => sender.send_request(request).await?,
                Sender::Http2(sender) => sender.send_request(request).await?,
            };
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(self.look(ledger, response).await)
        };
        match timeout(PATIENCE, sending).await {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => Told::Broken(format!("{error:?}")),
            Err(_) => {
                ledger.accuse(format_args!("request {} hangs: {:?}", self.number, self.ask));
                Told::Broken("it hangs".to_owned())
            }
        }
    }

    /// Reads an answer to its end, and searches all of it.
    async fn look(&self, ledger: &Ledger, response: Response<Incoming>) -> Told {
        let number = self.number;
        let (head, mut body) = response.into_parts();
        let fields = |fields: &http::HeaderMap| {
            for (name, value) in fields {
                ledger.search(name.as_str().as_bytes(), format_args!("the name of a field told to {number}"));
                ledger.search(value.as_bytes(), format_args!("the field {name} told to {number}"));
            }
        };
        fields(&head.headers);
        let (mut told, mut broken) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            match frame.map(hyper::body::Frame::into_data) {
                Ok(Ok(data)) => told.extend_from_slice(&data),
                Ok(Err(frame)) => frame.trailers_ref().into_iter().for_each(fields),
                Err(error) => {
                    broken = Some(format!("{error:?}"));
                    break;
                }
            }
        }
        ledger.search(&told, format_args!("the body told to {number}"));
        if let Some(error) = broken {
            return Told::Broken(error);
        }
        if let Some(reason) = reason(&told).filter(|_| !head.status.is_success()) {
            return Told::Denied(reason);
        }
        let text = String::from_utf8_lossy(&told).into_owned();
        let before = if self.events { "data: " } else { "" };
        let begins = format!("{before}{}", beginning(number, &self.body));
        let is_whole = is_whole(&text, &begins, number);
        if head.status.is_success() && is_whole && !head.headers.contains_key(CONTENT_ENCODING) {
            return Told::Served;
        }
        let some: String = text.chars().take(200).collect();
        Told::Broken(format!("{}: {some}", head.status))
    }

    /// Opens a WebSocket on a connection of its own, and talks on it.
    pub async fn talk(&self, ledger: &Ledger, io: BoxIo, entrance: Entrance) -> Told {
        let host = if entrance == Entrance::BaseUrl { "proxy" } else { self.ask.place.host() };
        let uri = format!("ws://{host}{}", target(entrance, self.ask.place, self.number));
        let talking = async {
            let (mut socket, _) = tokio_tungstenite::client_async(uri, io).await?;
            for turn in 0..MESSAGES {
                let said = format!("id={} turn={turn}", self.number);
                socket.send(Message::text(said.clone())).await?;
                let Some(heard) = socket.next().await else {
                    return Ok(Told::Broken("no message".to_owned()));
                };
                let heard = heard?.into_data();
                ledger.search(&heard, format_args!("a frame told to {}", self.number));
                if !heard.starts_with(said.as_bytes()) || !heard.ends_with(b" .") {
                    let some = String::from_utf8_lossy(&heard).into_owned();
                    return Ok(Told::Broken(format!("a frame said {some}")));
                }
            }
            // The far side's answer to this is its own affair.
            let _ = socket.close(None).await;
            Ok::<_, tungstenite::Error>(Told::Served)
        };
        match timeout(PATIENCE, talking).await {
            Ok(Ok(told)) => told,
            Ok(Err(tungstenite::Error::Http(response))) => {
                let body = response.body().clone().unwrap_or_default();
                ledger.search(&body, format_args!("the body told to {}", self.number));
                reason(&body).map_or_else(|| Told::Broken(response.status().to_string()), Told::Denied)
            }
            Ok(Err(error)) => Told::Broken(format!("{error:?}")),
            Err(_) => {
                ledger.accuse(format_args!("socket {} hangs: {:?}", self.number, self.ask));
                Told::Broken("it hangs".to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_entrance_has_its_own_target_for_the_same_request() {
        for (entrance, place, expected) in [
            (Entrance::Absolute, Place::V1, "https://api.good.test/v1/7"),
            (Entrance::Absolute, Place::Plain, "http://plain.good.test/v1/7"),
            (Entrance::Absolute, Place::Port, "https://api.good.test:8443/v1/7"),
            (Entrance::BaseUrl, Place::Flip, "/v1/flip/7"),
            (Entrance::Socks5, Place::Repo, "/repo/7"),
        ] {
            assert_eq!(target(entrance, place, 7), expected);
        }
    }

    #[test]
    fn only_the_proxys_own_answer_has_a_reason() {
        let refusal = br#"{"reason":"PathNotAllowed","requestId":"r1"}"#;
        assert_eq!(reason(refusal).as_deref(), Some("PathNotAllowed"));
        assert_eq!(reason(br#"{"reason":"PathNotAllowed"}"#), None);
        assert_eq!(reason(b"id=7 up=0:0 end=7"), None);
    }
}

//! The client: writes bytes as a vector says, through an entrance, and keeps all that it is told.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use crate::http2;
use crate::tls::{self, Hello};
use crate::upstream::chunks_end;
use crate::vector::{Entrance, Send};

/// How long an answer may take where a vector says nothing.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long more is waited for behind a whole answer.
const AFTERWARDS: Duration = Duration::from_millis(100);
/// The most that is read of what a client is told.
const TOLD_BYTES_MAX: usize = 4 << 20;

/// Where a client goes in.
#[derive(Clone, Debug)]
pub struct Door {
    /// The entrance's address.
    pub address: SocketAddr,
    /// The certificates that the client was told to trust.
    pub roots_pem: String,
}

/// How a conversation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an answer.
    Answered,
    /// The proxy closed, or reset, without an answer.
    Closed,
    /// Nothing came in time.
    Hung,
    /// The proxy refused the TLS handshake.
    Tls(String),
    /// The proxy refused the tunnel.
    Tunnel,
}

/// All that a client was told.
#[derive(Clone, Debug)]
pub struct Told {
    /// Every byte; inside TLS where there is TLS.
    pub bytes: Vec<u8>,
    /// The status of the answer to the vector's request, or of the refused tunnel.
    pub status: Option<u16>,
    /// How it ended.
    pub ended: Ended,
}

impl Told {
    fn new(bytes: Vec<u8>, status: Option<u16>, ended: Ended) -> Self {
        Self { bytes, status, ended }
    }

    /// Whether the client got nothing of what it asked for.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self.ended {
            Ended::Hung => false,
            Ended::Closed | Ended::Tls(_) | Ended::Tunnel => true,
            Ended::Answered => self.status.is_none_or(|status| status >= 400),
        }
    }

    /// As a text, for comparing; a chunked body is put together.
    #[must_use]
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        match text.split_once("\r\n\r\n") {
            Some((head, body)) if head.to_lowercase().contains("transfer-encoding: chunked") => {
                format!("{head}\r\n\r\n{}", together(body))
            }
            _ => text,
        }
    }
}

/// A request, as an entrance makes it of what a vector says.
pub struct Request {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) authority: String,
    pub(crate) method: String,
    pub(crate) path: String,
    target: String,
    patience: Duration,
}

impl Request {
    fn new(entrance: Entrance, send: &Send) -> Self {
        let usual =
            if entrance == Entrance::TransparentHttp { "plain.good.test:80" } else { "api.good.test:443" };
        let to = send.to.as_deref().unwrap_or(usual);
        let (host, port) = to.rsplit_once(':').unwrap_or((to, "443"));
        let port = port.parse().unwrap_or(443);
        let scheme =
            send.scheme.clone().unwrap_or_else(|| if port == 80 { "http" } else { "https" }.to_owned());
        let is_default = matches!((scheme.as_str(), port), ("http", 80) | ("https", 443));
        let named = if is_default { host.to_owned() } else { format!("{host}:{port}") };
        let path = send.path.clone().unwrap_or_else(|| "/v1/x".to_owned());
        let (target, authority) = match entrance {
            Entrance::Absolute => (format!("{scheme}://{named}{path}"), named),
            Entrance::BaseUrl => (format!("/{}{path}", rule_of(host)), "proxy:8080".to_owned()),
            _ => (path.clone(), named),
        };
        Self {
            host: host.to_owned(),
            port,
            authority,
            method: send.method.clone().unwrap_or_else(|| "GET".to_owned()),
            path,
            target,
            patience: send.patience.map_or(PATIENCE, Duration::from_secs),
        }
    }

    /// A text of a vector with what the entrance makes of it.
    fn fill(&self, text: &str, send: &Send) -> String {
        let text = text
            .replace("{target}", &self.target)
            .replace("{authority}", &self.authority)
            .replace("{host}", &self.host)
            .replace("{path}", &self.path)
            .replace("{method}", &self.method);
        let pad = send.pad.map_or_else(String::new, |length| "x".repeat(length));
        crate::secret::filled_in(&text.replace("{pad}", &pad))
    }

    /// The lines of the head behind Host.
    pub(crate) fn lines(&self, send: &Send) -> String {
        let lines = send.lines.as_deref().unwrap_or_default();
        let times = send.repeat.unwrap_or(1);
        let all: String = (0..times).map(|n| lines.replace("{n}", &n.to_string())).collect();
        self.fill(&all, send)
    }

    fn bytes(&self, send: &Send, goes_on: bool) -> Vec<u8> {
        let line = self.fill(send.line.as_deref().unwrap_or("{method} {target} HTTP/1.1"), send);
        let host = self.fill(send.host.as_deref().unwrap_or("host: {authority}\r\n"), send);
        let lines = self.lines(send);
        let says = lines.to_lowercase().contains("connection:");
        let close = if goes_on || says { "" } else { "connection: close\r\n" };
        let body = self.fill(send.body.as_deref().unwrap_or_default(), send);
        format!("{line}\r\n{host}{close}{lines}\r\n{body}").into_bytes()
    }
}

/// The rule whose name is the first segment of a base URL.
fn rule_of(host: &str) -> &str {
    match host {
        "api.good.test" => "good",
        "git.good.test" => "git",
        "pypi.good.test" => "pypi",
        "plain.good.test" => "plain",
        _ => "nobody",
    }
}

/// Sends what a vector says through an entrance.
///
/// # Errors
/// When the proxy does not even accept the connection.
pub async fn speak(door: &Door, entrance: Entrance, send: &Send) -> std::io::Result<Told> {
    let mut request = Request::new(entrance, send);
    // A path may be as long as a vector wants it.
    request.target = request.fill(&request.target, send);
    request.path = request.fill(&request.path, send);
    if let Some((name, kind)) = &send.query {
        return question(door, &request.fill(name, send), kind).await;
    }
    let mut io = TcpStream::connect(door.address).await?;
    io.set_nodelay(true)?;
    if let Some(preamble) = &send.preamble {
        io.write_all(request.fill(preamble, send).as_bytes()).await?;
    }
    let opened = match entrance {
        Entrance::Connect | Entrance::ConnectH2 => connect(&mut io, &request, send).await,
        Entrance::Socks5 => socks(&mut io, &request).await,
        _ => Ok(()),
    };
    if let Err(refused) = opened {
        return Ok(refused);
    }
    if let Some(inside) = &send.inside {
        let bytes = request.fill(inside, send).into_bytes();
        return Ok(converse(&mut io, &bytes, &request).await);
    }
    // A destination on port 80 is plaintext inside a tunnel too.
    if !entrance.is_tls() || request.port == 80 {
        return Ok(exchange(&mut io, &request, send, entrance).await);
    }
    let usual: &[&str] = if entrance == Entrance::ConnectH2 { &["h2", "http/1.1"] } else { &["http/1.1"] };
    let hello = Hello {
        name: send.sni.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| request.host.clone()),
        says_name: send.sni.as_deref() != Some(""),
        protocols: send.alpn.clone().unwrap_or_else(|| usual.iter().map(|name| (*name).to_owned()).collect()),
    };
    let mut io = match timeout(request.patience, tls::connect(io, &door.roots_pem, &hello)).await {
        Ok(Ok(io)) => io,
        Ok(Err(error)) => return Ok(Told::new(Vec::new(), None, Ended::Tls(error.to_string()))),
        Err(_) => return Ok(Told::new(Vec::new(), None, Ended::Hung)),
    };
    if entrance == Entrance::ConnectH2 {
        let asked = timeout(request.patience, http2::ask(io, &request, send)).await;
        return Ok(asked.unwrap_or_else(|_| Told::new(Vec::new(), None, Ended::Hung)));
    }
    Ok(exchange(&mut io, &request, send, entrance).await)
}

/// An allowed request first, if the vector wants one, and then its own.
async fn exchange<S>(io: &mut S, request: &Request, send: &Send, entrance: Entrance) -> Told
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut before = Vec::new();
    if send.after {
        let usual = Send::default();
        let first = Request::new(entrance, &usual);
        let told = converse(io, &first.bytes(&usual, true), &first).await;
        if told.is_refusal() {
            return told;
        }
        before = told.bytes;
    }
    let told = converse(io, &request.bytes(send, false), request).await;
    Told { bytes: [before, told.bytes].concat(), ..told }
}

/// Writes, and reads until the answer is whole or the proxy closes.
async fn converse<S>(io: &mut S, bytes: &[u8], request: &Request) -> Told
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A proxy that closes early has told what it had to tell: the reading below finds out.
    let writing = timeout(request.patience, io.write_all(bytes)).await;
    if let Ok(Ok(())) = writing {
        let _ = io.flush().await;
    }
    let (mut told, mut whole) = (Vec::new(), false);
    let end = Instant::now() + request.patience;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let wait = if whole { AFTERWARDS } else { end.saturating_duration_since(Instant::now()) };
        match timeout(wait, io.read(&mut buffer)).await {
            Ok(Ok(length @ 1..)) if told.len() < TOLD_BYTES_MAX => {
                told.extend_from_slice(buffer.get(..length).unwrap_or_default());
                whole = is_whole(&told, &request.method);
            }
            Ok(_) => break,
            Err(_) if whole => break,
            Err(_) => return Told { ended: Ended::Hung, status: status_of(&told), bytes: told },
        }
    }
    let status = status_of(&told);
    let ended = if told.is_empty() { Ended::Closed } else { Ended::Answered };
    Told::new(told, status, ended)
}

/// The status of the first answer that is not provisional.
fn status_of(told: &[u8]) -> Option<u16> {
    let text = String::from_utf8_lossy(told);
    let statuses = text.split("HTTP/1.").skip(1).filter_map(|rest| rest.get(2..5)?.parse::<u16>().ok());
    let mut seen = statuses.peekable();
    let first = seen.peek().copied();
    seen.find(|status| *status == 101 || *status >= 200).or(first)
}

/// The content of a chunked body, with its trailers, as far as it came.
fn together(body: &str) -> String {
    let (mut out, mut rest) = (String::new(), body);
    while let Some((line, more)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
        match size {
            Ok(size @ 1..) if more.is_char_boundary(size) => {
                let (content, more) = more.split_at(size);
                out.push_str(content);
                rest = more.strip_prefix("\r\n").unwrap_or(more);
            }
            _ => return out + more,
        }
    }
    out + rest
}

/// Whether there is a whole answer, as far as its own framing says.
fn is_whole(told: &[u8], method: &str) -> bool {
    let text = String::from_utf8_lossy(told);
    let mut rest: &str = &text;
    loop {
        let Some((head, body)) = rest.split_once("\r\n\r\n") else { return false };
        let status = status_of(head.as_bytes()).unwrap_or(0);
        if (100..200).contains(&status) && status != 101 {
            rest = body;
            continue;
        }
        if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            return true;
        }
        let field = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(':'));
            lines
                .filter(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value.trim().to_lowercase())
                .next()
        };
        if field("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
            return chunks_end(body.as_bytes()).is_some();
        }
        let length = field("content-length").and_then(|length| length.parse::<usize>().ok());
        return length.is_some_and(|length| body.len() >= length);
    }
}

async fn connect(io: &mut TcpStream, request: &Request, send: &Send) -> Result<(), Told> {
    let authority = format!("{}:{}", request.host, request.port);
    let authority = send.connect.as_ref().map_or(authority, |text| request.fill(text, send));
    let head = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    let refused = |told: Vec<u8>, ended| Err(Told::new(told.clone(), status_of(&told), ended));
    if io.write_all(head.as_bytes()).await.is_err() {
        return refused(Vec::new(), Ended::Closed);
    }
    let mut told = Vec::new();
    while !told.ends_with(b"\r\n\r\n") {
        match timeout(request.patience, io.read_u8()).await {
            Ok(Ok(byte)) => told.push(byte),
            Ok(Err(_)) => return refused(told, Ended::Closed),
            Err(_) => return refused(told, Ended::Hung),
        }
    }
    if status_of(&told) == Some(200) {
        return Ok(());
    }
    // The body of the refusal belongs to what the client is told.
    while !is_whole(&told, "CONNECT") {
        match timeout(AFTERWARDS, io.read_u8()).await {
            Ok(Ok(byte)) => told.push(byte),
            _ => break,
        }
    }
    refused(told, Ended::Tunnel)
}

/// SOCKS5 by name (RFC 1928), without authentication: the code of the reply, of which 0 is success.
///
/// # Errors
/// When the proxy closes.
pub async fn socks5(io: &mut TcpStream, host: &str, port: u16) -> std::io::Result<u8> {
    let length = u8::try_from(host.len()).unwrap_or(u8::MAX);
    let name = host.as_bytes().get(..usize::from(length)).unwrap_or_default();
    io.write_all(&[5, 1, 0]).await?;
    let mut chosen = [0; 2];
    io.read_exact(&mut chosen).await?;
    io.write_all(&[&[5, 1, 0, 3, length], name, &port.to_be_bytes()].concat()).await?;
    let mut reply = [0; 10];
    io.read_exact(&mut reply).await?;
    Ok(reply[1])
}

async fn socks(io: &mut TcpStream, request: &Request) -> Result<(), Told> {
    match timeout(request.patience, socks5(io, &request.host, request.port)).await {
        Ok(Ok(0)) => Ok(()),
        Ok(Ok(code)) => Err(Told::new(format!("SOCKS5 reply {code}").into_bytes(), None, Ended::Tunnel)),
        Ok(Err(_)) => Err(Told::new(Vec::new(), None, Ended::Closed)),
        Err(_) => Err(Told::new(Vec::new(), None, Ended::Hung)),
    }
}

/// One question over UDP. What is told is the code, and the data of each answer.
async fn question(door: &Door, name: &str, kind: &str) -> std::io::Result<Told> {
    let mut message = Message::query();
    let kind: RecordType = kind.parse().map_err(std::io::Error::other)?;
    let name = Name::from_ascii(format!("{name}.")).map_err(std::io::Error::other)?;
    message.add_query(Query::query(name, kind));
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    socket.send_to(&message.to_vec().map_err(std::io::Error::other)?, door.address).await?;
    let mut answer = vec![0; 4096];
    let Ok(length) = timeout(PATIENCE, socket.recv(&mut answer)).await else {
        return Ok(Told::new(Vec::new(), None, Ended::Hung));
    };
    answer.truncate(length?);
    let answer = Message::from_vec(&answer).map_err(std::io::Error::other)?;
    let data: Vec<String> = answer.answers.iter().map(|record| format!(" {}", record.data)).collect();
    let code = answer.metadata.response_code;
    let told = format!("{code:?}{}", data.concat()).into_bytes();
    let empty = code != ResponseCode::NoError || data.is_empty();
    Ok(Told::new(told, None, if empty { Ended::Closed } else { Ended::Answered }).with_answer(!empty))
}

impl Told {
    /// An answer of the name server has no status; one that holds data counts as success.
    fn with_answer(mut self, answered: bool) -> Self {
        self.status = answered.then_some(200);
        self
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests state their claims by it")]
mod tests {
    use super::*;

    #[test]
    fn an_entrance_makes_its_own_request_of_the_same_vector() {
        let send = Send { path: Some("/v1/y?z".into()), ..Send::default() };
        let head = |entrance| String::from_utf8(Request::new(entrance, &send).bytes(&send, false)).unwrap();
        for (entrance, first) in [
            (Entrance::Absolute, "GET https://api.good.test/v1/y?z HTTP/1.1\r\nhost: api.good.test\r\n"),
            (Entrance::Connect, "GET /v1/y?z HTTP/1.1\r\nhost: api.good.test\r\n"),
            (Entrance::BaseUrl, "GET /good/v1/y?z HTTP/1.1\r\nhost: proxy:8080\r\n"),
            (Entrance::TransparentHttp, "GET /v1/y?z HTTP/1.1\r\nhost: plain.good.test\r\n"),
        ] {
            assert!(head(entrance).starts_with(first), "{}", head(entrance));
        }
    }

    #[test]
    fn an_answer_is_whole_when_its_framing_says_so() {
        for (told, whole) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
            ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok", false),
            ("HTTP/1.1 100 Continue\r\n\r\n", false),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\n\r\nuntil the end", false),
        ] {
            assert_eq!(is_whole(told.as_bytes(), "GET"), whole, "{told}");
        }
    }

    #[test]
    fn a_provisional_answer_is_not_the_status() {
        assert_eq!(status_of(b"HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 403 No\r\n\r\n"), Some(403));
        assert_eq!(status_of(b"HTTP/1.1 101 Switching\r\n\r\n"), Some(101));
        assert_eq!(status_of(b""), None);
    }

    #[test]
    fn a_chunked_answer_is_put_together_with_its_trailers() {
        let bytes =
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n1\r\n!\r\n0\r\nx: y\r\n\r\n"
                .to_vec();
        let text = Told::new(bytes, Some(200), Ended::Answered).text();
        assert!(text.ends_with("\r\n\r\none!x: y\r\n\r\n"), "{text}");
    }

    #[test]
    fn silence_is_no_refusal() {
        assert!(!Told::new(Vec::new(), None, Ended::Hung).is_refusal());
        assert!(Told::new(Vec::new(), None, Ended::Closed).is_refusal());
        assert!(!Told::new(Vec::new(), Some(302), Ended::Answered).is_refusal());
    }
}

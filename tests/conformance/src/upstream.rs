//! Servers at every address: they keep each byte and each request that arrives, and answer "ok" or what a vector says.

use std::net::{Ipv6Addr, SocketAddr};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::failure::{During, Result};
use crate::world::{PORTS, State};

/// The answer where a vector says nothing.
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";
/// What a server appends to a WebSocket's key (RFC 6455, 1.3).
const ACCEPT_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The most of one request that is read.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Listens at every address of both families.
///
/// # Errors
/// When a port cannot be bound.
pub async fn serve(acceptor: &TlsAcceptor, state: &State) -> Result<()> {
    for port in PORTS {
        // A socket of IPv6 serves both families in a new namespace.
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await;
        let listener = listener.during(format!("port {port} cannot be bound"))?;
        tokio::spawn(accept(listener, acceptor.clone(), state.clone()));
    }
    Ok(())
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, state: State) {
    while let Ok((stream, _)) = listener.accept().await {
        let Ok(to) = stream.local_addr() else { continue };
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        state.seen().connections.push((to.ip(), to.port()));
        let (acceptor, state) = (acceptor.clone(), state.clone());
        tokio::spawn(async move {
            // How a connection ends is the proxy's affair; what it carried is written down.
            let _ = connection(stream, to, &acceptor, &state).await;
        });
    }
}

async fn connection(
    stream: TcpStream,
    to: SocketAddr,
    acceptor: &TlsAcceptor,
    state: &State,
) -> std::io::Result<()> {
    if to.port() == 443 {
        return requests(acceptor.accept(stream).await?, to, state).await;
    }
    requests(stream, to, state).await
}

async fn requests<S: AsyncRead + AsyncWrite + Unpin>(
    io: S,
    to: SocketAddr,
    state: &State,
) -> std::io::Result<()> {
    let mut io = Recorded { io, to, state: state.clone(), pending: Vec::new() };
    while let Some(request) = io.request().await? {
        state.seen().requests.push((to, request.clone()));
        match state.script() {
            None => {
                let answer = if request.starts_with("HEAD ") { OK.trim_end_matches("ok") } else { OK };
                io.io.write_all(answer.as_bytes()).await?;
            }
            Some(script) => {
                let answer = script.replace("{accept}", &accept_of(&request));
                state.seen().scripted += 1;
                let ended = io.follow(&answer).await;
                state.seen().scripted -= 1;
                return ended;
            }
        }
    }
    Ok(())
}

/// The answer to a WebSocket's key (RFC 6455, 4.2.2).
fn accept_of(request: &str) -> String {
    let key = field(request, "sec-websocket-key").unwrap_or_default();
    let answered = digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{ACCEPT_SUFFIX}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(answered)
}

fn field(head: &str, name: &str) -> Option<String> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim().to_owned())
}

struct Recorded<S> {
    io: S,
    to: SocketAddr,
    state: State,
    pending: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Recorded<S> {
    /// Reads what there is; false at the end.
    async fn more(&mut self) -> std::io::Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        let length = self.io.read(&mut buffer).await?;
        buffer.truncate(length);
        if length == 0 || self.pending.len() > REQUEST_BYTES_MAX {
            return Ok(false);
        }
        self.pending.extend_from_slice(&buffer);
        self.state.seen().bytes.push((self.to, buffer));
        Ok(true)
    }

    /// The next request, head and body, read as RFC 9112 says: where both are given, the coding overrides the length.
    async fn request(&mut self) -> std::io::Result<Option<String>> {
        let head_end = loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                break at + 4;
            }
            if !self.more().await? {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(self.pending.get(..head_end).unwrap_or_default()).into_owned();
        let chunked = field(&head, "transfer-encoding").is_some_and(|value| value.contains("chunked"));
        let length =
            field(&head, "content-length").and_then(|value| value.parse::<usize>().ok()).unwrap_or(0);
        let end = loop {
            let body = self.pending.get(head_end..).unwrap_or_default();
            let whole = if chunked { chunks_end(body) } else { (body.len() >= length).then_some(length) };
            if let Some(body_end) = whole {
                break head_end + body_end;
            }
            if !self.more().await? {
                break self.pending.len();
            }
        };
        let rest = self.pending.split_off(end.min(self.pending.len()));
        let request = std::mem::replace(&mut self.pending, rest);
        Ok(Some(String::from_utf8_lossy(&request).into_owned()))
    }

    /// Answers as a vector says, and ends.
    async fn follow(&mut self, answer: &str) -> std::io::Result<()> {
        self.io.write_all(answer.as_bytes()).await?;
        if answer.starts_with("HTTP/1.1 101") && answer.contains("sec-websocket-accept") {
            return self.echo().await;
        }
        self.io.shutdown().await?;
        while self.more().await? {}
        Ok(())
    }

    /// Sends back whatever arrives.
    async fn echo(&mut self) -> std::io::Result<()> {
        loop {
            let bytes = std::mem::take(&mut self.pending);
            self.io.write_all(&bytes).await?;
            if !self.more().await? {
                return self.io.shutdown().await;
            }
        }
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Where a chunked body ends, trailers and all; none while it goes on.
#[must_use]
pub fn chunks_end(body: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let rest = body.get(at..)?;
        let line_end = find(rest, b"\r\n")?;
        let line = String::from_utf8_lossy(rest.get(..line_end)?).into_owned();
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16).ok()?;
        at += line_end + 2;
        if size == 0 {
            let trailers = body.get(at..)?;
            return if trailers.starts_with(b"\r\n") {
                Some(at + 2)
            } else {
                find(trailers, b"\r\n\r\n").map(|end| at + end + 4)
            };
        }
        at += size + 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_ends_where_its_last_chunk_and_its_trailers_end() {
        assert_eq!(chunks_end(b"2\r\nok\r\n0\r\n\r\nGET"), Some(12));
        assert_eq!(chunks_end(b"2;a=b\r\nok\r\n0\r\nx: y\r\n\r\n"), Some(22));
        assert_eq!(chunks_end(b"2\r\nok\r\n0\r\n"), None);
        assert_eq!(chunks_end(b""), None);
    }

    #[test]
    fn a_websockets_key_is_answered_as_its_rfc_says() {
        let request = "GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        assert_eq!(accept_of(request), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}

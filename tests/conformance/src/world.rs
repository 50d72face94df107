//! The world around a proxy: a name server and servers at every address, which keep whatever arrives.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::failure::{During, Result};
use crate::pki::Authority;
use crate::{dns, secret, tls, upstream};

/// Where every allowed name lives.
pub const GOOD: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 1));
/// Where `evil.test` and all below it lives.
pub const EVIL: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 66));
/// A machine inside the cluster's network.
pub const INTERNAL: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5));
/// Names that the servers at [`GOOD`] prove.
pub const GOOD_NAMES: [&str; 9] = [
    "api.good.test",
    "git.good.test",
    "pypi.good.test",
    "plain.good.test",
    "hosts.good.test",
    "*.wild.test",
    "*.rebind.test",
    "xn--bcher-kva.test",
    "*.alias.test",
];
/// Ports with a listener at every address. Connections to others are refused by the kernel, unseen.
pub const PORTS: [u16; 8] = [80, 443, 22, 25, 6443, 8443, 9200, 10250];

/// Shorter than a secret in any spelling.
const CHUNK_CHARS: usize = 7;

/// What arrived, in order.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections, by the address that was dialled.
    pub connections: Vec<(IpAddr, u16)>,
    /// Connections that are being answered as a vector says and have not ended.
    pub scripted: usize,
    /// Requests, by the address that they arrived at: head and body as they were sent.
    pub requests: Vec<(SocketAddr, String)>,
    /// Bytes, by the address that they arrived at; inside TLS where there is TLS.
    pub bytes: Vec<(SocketAddr, Vec<u8>)>,
    /// Names that were asked of the name server.
    pub questions: Vec<String>,
}

/// A place in what was seen; what comes after it is new.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    connections: usize,
    requests: usize,
    bytes: usize,
    questions: usize,
}

/// What is new since a mark.
#[derive(Debug)]
pub struct New {
    /// See [`Seen::connections`].
    pub connections: Vec<(IpAddr, u16)>,
    /// See [`Seen::requests`].
    pub requests: Vec<(SocketAddr, String)>,
    /// See [`Seen::bytes`].
    pub bytes: Vec<(SocketAddr, Vec<u8>)>,
    /// See [`Seen::questions`].
    pub questions: Vec<String>,
}

/// Shared by the servers and the engine.
#[derive(Clone, Debug, Default)]
pub struct State {
    seen: Arc<Mutex<Seen>>,
    /// What the servers answer in place of "ok".
    script: Arc<Mutex<Option<String>>>,
}

impl State {
    /// What was seen.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to answer, if not "ok".
    #[must_use]
    pub fn script(&self) -> Option<String> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets what to answer.
    pub fn follow(&self, script: Option<&str>) {
        let answer = script.map(|script| framed(&secret::filled_in(script)));
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Where we are.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let seen = self.seen();
        Mark {
            connections: seen.connections.len(),
            requests: seen.requests.len(),
            bytes: seen.bytes.len(),
            questions: seen.questions.len(),
        }
    }

    /// What came after a mark.
    #[must_use]
    pub fn since(&self, mark: Mark) -> New {
        fn after<T: Clone>(all: &[T], from: usize) -> Vec<T> {
            all.get(from..).unwrap_or_default().to_vec()
        }
        let seen = self.seen();
        New {
            connections: after(&seen.connections, mark.connections),
            requests: after(&seen.requests, mark.requests),
            bytes: after(&seen.bytes, mark.bytes),
            questions: after(&seen.questions, mark.questions),
        }
    }

    /// Waits, for a quarter of a second at most, until every connection that was answered as a vector says has ended.
    pub async fn quiet(&self) {
        for _ in 0..25 {
            if self.seen().scripted == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// An answer with `{length}` in place, or, behind `{chunks}`, cut into chunks so small that a secret lies across several.
fn framed(answer: &str) -> String {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return answer.to_owned() };
    let Some(whole) = body.strip_prefix("{chunks}") else {
        return format!("{}\r\n\r\n{body}", head.replace("{length}", &body.len().to_string()));
    };
    let characters: Vec<char> = whole.chars().collect();
    let chunks = characters.chunks(CHUNK_CHARS).map(|chunk| chunk.iter().collect::<String>());
    let chunked: String = chunks.map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
    format!("{head}\r\n\r\n{chunked}0\r\n\r\n")
}

/// The world, running.
pub struct World {
    /// What it shares with its servers.
    pub state: State,
    /// Who vouches for its servers.
    pub authority: Authority,
}

impl World {
    /// Starts the servers; they end with the process.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub async fn start() -> Result<Self> {
        let state = State::default();
        let authority = Authority::new("the harness's CA")?;
        // One protocol, so that what arrives can be read as it is.
        upstream::serve(&tls::acceptor(&authority, &["http/1.1"])?, &state).await?;
        dns::serve(&state).await?;
        // "No connection was seen" says something only where one would have been.
        for address in ["198.51.100.77", "169.254.169.254", "fd00:ec2::254"] {
            let address: IpAddr = address.parse().during("an address is none")?;
            TcpStream::connect((address, 80)).await.during(format!("{address} does not lead here"))?;
            let seen = async {
                while !state.seen().connections.contains(&(address, 80)) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(5), seen).await;
            waited.during(format!("a connection to {address} was not seen"))?;
        }
        Ok(Self { state, authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_framed_as_its_vector_says() {
        assert_eq!(
            framed("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\nfour"),
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfour"
        );
        assert_eq!(
            framed("HTTP/1.1 200 OK\r\n\r\n{chunks}12345678"),
            "HTTP/1.1 200 OK\r\n\r\n7\r\n1234567\r\n1\r\n8\r\n0\r\n\r\n"
        );
    }
}

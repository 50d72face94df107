//! Every revision of an etcd, in order, by its gRPC gateway (<https://etcd.io/docs/latest/dev-guide/api_grpc_gateway/>).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::invariants::Event;

/// The range from `\0` to `\0` is every key.
const ALL_KEYS: &str = "AA==";
/// No answer of etcd on the same node takes longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why etcd could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection could not be made, or ended.
    #[error("etcd cannot be reached: {0}")]
    Connection(#[from] std::io::Error),
    /// HTTP went wrong.
    #[error("etcd does not answer: {0}")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("etcd does not answer within {} s", ANSWER_TIMEOUT.as_secs())]
    Timeout,
    /// The answer is not what the gateway's documentation says.
    #[error("etcd answers what cannot be read: {0}")]
    Unreadable(String),
    /// Revisions were compacted before they were read: what is between is not known.
    #[error("etcd has forgotten the revisions from {0} on")]
    Compacted(u64),
}

/// An etcd, and since when it is watched.
#[derive(Clone, Copy, Debug)]
pub struct Etcd {
    address: SocketAddr,
    begin: Instant,
}

/// A watch that goes on.
#[derive(Debug)]
pub struct Watch {
    body: Incoming,
    unread: BytesMut,
    begin: Instant,
}

impl Etcd {
    /// The etcd that listens there.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, begin: Instant::now() }
    }

    /// The time since the watch began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Everything that is there, and the revision of which that is true.
    ///
    /// # Errors
    /// When etcd does not answer, or not as documented.
    pub async fn all(&self) -> Result<(u64, Vec<Event>), Error> {
        let body = self.ask("/v3/kv/range", &json!({"key": ALL_KEYS, "range_end": ALL_KEYS})).await?;
        let bytes = within(body.collect()).await??.to_bytes();
        let answer: Value = parse(&bytes)?;
        let revision = number(&answer["header"]["revision"])?;
        let pairs = answer["kvs"].as_array().cloned().unwrap_or_default();
        let events = pairs.iter().map(|pair| event(pair, true, self.now()));
        Ok((revision, events.collect::<Result<_, _>>()?))
    }

    /// The revision of now.
    ///
    /// # Errors
    /// When etcd does not answer, or not as documented.
    pub async fn revision(&self) -> Result<u64, Error> {
        let body = self.ask("/v3/kv/range", &json!({"key": ALL_KEYS})).await?;
        let bytes = within(body.collect()).await??.to_bytes();
        number(&parse(&bytes)?["header"]["revision"])
    }

    /// Watches every key from this revision on.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub async fn watch(&self, from: u64) -> Result<Watch, Error> {
        let request = json!({"create_request": {"key": ALL_KEYS, "range_end": ALL_KEYS, "start_revision": from.to_string()}});
        let body = self.ask("/v3/watch", &request).await?;
        Ok(Watch { body, unread: BytesMut::new(), begin: self.begin })
    }

    async fn ask(&self, path: &str, body: &Value) -> Result<Incoming, Error> {
        let stream = within(TcpStream::connect(self.address)).await??;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // It ends with the answer, or when etcd does.
        tokio::spawn(connection);
        let request = Request::post(path)
            .header(http::header::HOST, "etcd")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| Error::Unreadable(error.to_string()))?;
        Ok(within(sender.send_request(request)).await??.into_body())
    }
}

impl Watch {
    /// The changes of the next message; it waits for one as long as it takes.
    ///
    /// # Errors
    /// When the watch ends, for whatever reason.
    pub async fn next(&mut self) -> Result<Vec<Event>, Error> {
        let line = loop {
            if let Some(end) = memchr::memchr(b'\n', &self.unread) {
                break self.unread.split_to(end + 1);
            }
            let frame =
                self.body.frame().await.ok_or_else(|| Error::Unreadable("the watch ended".to_owned()))??;
            self.unread.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()));
        };
        let result = &parse(&line)?["result"];
        if let Ok(compacted) = number(&result["compact_revision"]) {
            return Err(Error::Compacted(compacted));
        }
        if result["canceled"] == true {
            return Err(Error::Unreadable(result.to_string()));
        }
        let events = result["events"].as_array().cloned().unwrap_or_default();
        let read = events.iter().map(|one| event(&one["kv"], one["type"] != "DELETE", self.begin.elapsed()));
        read.collect()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER_TIMEOUT, future).await.map_err(|_| Error::Timeout)
}

fn parse(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Unreadable(error.to_string()))
}

/// The gateway writes 64-bit integers as text.
fn number(value: &Value) -> Result<u64, Error> {
    let number = value.as_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::Unreadable(format!("{value} where a number should be")))
}

fn event(pair: &Value, is_there: bool, at: Duration) -> Result<Event, Error> {
    let bytes = |value: &Value| {
        STANDARD
            .decode(value.as_str().unwrap_or_default())
            .map_err(|error| Error::Unreadable(error.to_string()))
    };
    Ok(Event {
        revision: number(&pair["mod_revision"])?,
        key: String::from_utf8_lossy(&bytes(&pair["key"])?).into_owned(),
        value: if is_there { Some(bytes(&pair["value"])?.into()) } else { None },
        at,
    })
}

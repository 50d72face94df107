//! What the upstreams answer: a text by which its client knows the answer to its own request, with a secret in the middle.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{SinkExt as _, StreamExt as _, stream};
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, TRAILER, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::keys::{Slot, spelled_in_body, spelled_in_field};

/// A body on its way.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Versions of a secret that an upstream goes on writing. The proxy remembers eight that were replaced.
const REMEMBERED: usize = 3;
/// Shorter than a secret in any spelling.
const PIECE_BYTES: usize = 7;
/// More than a window of HTTP/2.
const LARGE_BYTES: usize = 96 * 1024;
/// Events of one stream.
const EVENTS: u32 = 4;
/// Between two of them.
const EVENT_PAUSE: Duration = Duration::from_millis(15);

/// The secrets that came.
#[derive(Debug, Default)]
pub struct Memory {
    known: Mutex<VecDeque<String>>,
    planted: Arc<AtomicU64>,
}

impl Memory {
    /// This version was in a request.
    pub fn learns(&self, slot: Slot, version: Option<u32>) {
        let Some(secret) = version.and_then(|version| slot.value(version)) else { return };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.contains(&secret) {
            known.push_back(secret);
            if known.len() > REMEMBERED * Slot::ALL.len() {
                known.pop_front();
            }
        }
    }

    /// Writes secrets into one answer; none where the host knows none.
    #[must_use]
    pub fn planter(&self, knows_secrets: bool, mut random: fastrand::Rng) -> Planter {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let any = if known.is_empty() { None } else { known.get(random.usize(..known.len())).cloned() };
        Planter { secret: any.filter(|_| knows_secrets), random, planted: Arc::clone(&self.planted) }
    }

    /// How often a secret was written.
    #[must_use]
    pub fn planted(&self) -> u64 {
        self.planted.load(Ordering::Relaxed)
    }
}

/// Writes a secret into one answer.
#[derive(Debug)]
pub struct Planter {
    secret: Option<String>,
    random: fastrand::Rng,
    planted: Arc<AtomicU64>,
}

impl Planter {
    fn plant(&mut self, spell: fn(&str, &mut fastrand::Rng) -> String) -> String {
        let Some(secret) = &self.secret else { return "none".to_owned() };
        self.planted.fetch_add(1, Ordering::Relaxed);
        spell(secret, &mut self.random)
    }

    fn in_body(&mut self) -> String {
        self.plant(spelled_in_body)
    }

    fn in_field(&mut self) -> HeaderValue {
        let text = self.plant(spelled_in_field);
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unspeakable"))
    }
}

/// What an answer to a request with this body begins with.
#[must_use]
pub fn beginning(number: u64, body: &[u8]) -> String {
    // FNV-1a: what arrives changed is not what was sent.
    let hash = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("id={number} up={}:{hash:016x} ", body.len())
}

/// What every whole answer ends with, behind so many bytes: a mask is as long as what it hides.
#[must_use]
pub fn end(number: u64, before: usize) -> String {
    format!(" end={number} bytes={before}\n\n")
}

/// Whether this is a whole answer, which begins so.
#[must_use]
pub fn is_whole(text: &str, begins: &str, number: u64) -> bool {
    let before = text.rfind(" end=").unwrap_or_default();
    text.starts_with(begins) && text.get(before..) == Some(&end(number, before))
}

/// A body of known bytes.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn pieces(text: &[u8]) -> Body {
    let pieces: Vec<Bytes> = text.chunks(PIECE_BYTES).map(Bytes::copy_from_slice).collect();
    StreamBody::new(stream::iter(pieces.into_iter().map(|piece| Ok(Frame::data(piece))))).boxed_unsync()
}

/// A whole answer, in one of the ways in which answers come.
#[must_use]
pub fn whole(number: u64, body: &Bytes, mut planter: Planter) -> Response<Body> {
    let mut text = beginning(number, body) + &planter.in_body();
    let way = planter.random.u8(..6);
    if way == 0 {
        text.extend(std::iter::repeat_n("filler ", LARGE_BYTES / PIECE_BYTES));
        text.push_str(&planter.in_body());
    }
    text.push_str(&end(number, text.len()));
    let mut response = Response::new(full(text.clone()));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    match way {
        1 => *response.body_mut() = pieces(text.as_bytes()),
        2 if planter.secret.is_some() => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            if let Ok(packed) = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()) {
                fields.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                *response.body_mut() = full(packed);
            }
        }
        3 => {
            fields.insert(TRAILER, HeaderValue::from_static("x-key"));
            let trailers =
                HeaderMap::from_iter([(http::HeaderName::from_static("x-key"), planter.in_field())]);
            let body = pieces(text.as_bytes()).with_trailers(async move { Some(Ok(trailers)) });
            *response.body_mut() = body.boxed_unsync();
        }
        4 => {
            fields.insert("x-key", planter.in_field());
            *response.status_mut() = StatusCode::ACCEPTED;
        }
        _ => {}
    }
    response
}

/// An answer that breaks off.
#[must_use]
pub fn half(number: u64) -> Response<Body> {
    let first = Ok(Frame::data(Bytes::from(beginning(number, b""))));
    let broken = Err(std::io::ErrorKind::ConnectionReset.into());
    Response::new(StreamBody::new(stream::iter([first, broken])).boxed_unsync())
}

/// Server-sent events.
#[must_use]
pub fn events(number: u64, mut planter: Planter) -> Response<Body> {
    let mut texts = vec![format!("data: {}\n\n", beginning(number, b""))];
    texts.extend((0..EVENTS).map(|_| format!("data: key {} key\n\n", planter.in_body())));
    texts.push(end(number, texts.iter().map(String::len).sum()));
    let paced = stream::iter(texts).then(|text| async move {
        tokio::time::sleep(EVENT_PAUSE).await;
        Ok(Frame::data(Bytes::from(text)))
    });
    let mut response = Response::new(StreamBody::new(paced).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// A WebSocket that says again what it is told, and a secret.
pub fn socket(request: &mut Request<Incoming>, mut planter: Planter) -> Response<Body> {
    let key = request.headers().get("sec-websocket-key").map(HeaderValue::as_bytes).unwrap_or_default();
    let accept = HeaderValue::from_str(&derive_accept_key(key));
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(io) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let Message::Text(text) = message else { continue };
            if socket.send(Message::text(format!("{text} {} .", planter.in_body()))).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = accept {
        fields.insert("sec-websocket-accept", accept);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_only_with_every_byte_of_it() {
        let begins = beginning(7, b"up");
        let text = format!("{begins}******** filler");
        let whole = text.clone() + &end(7, text.len());
        assert!(is_whole(&whole, &begins, 7));
        assert!(!is_whole(&whole, &begins, 8) && !is_whole(&whole, &beginning(7, b"down"), 7));
        assert!(!is_whole(&text, &begins, 7));
        assert!(!is_whole(&whole.replace("filler", "fille"), &begins, 7));
    }
}

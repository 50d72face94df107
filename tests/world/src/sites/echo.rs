//! The echo host: says what it received, streams, sends much, or speaks WebSocket.
//!
//! `/sse?events=N&interval_ms=M` streams; `/large?bytes=N` sends that many bytes; `/status/NNN` answers with that status;
//! `/redirect?to=URL` redirects; `/ws` echoes WebSocket messages; everything else returns method, path, headers and body as JSON.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Body, json_response, read_body, streaming};

/// The most events `/sse` sends.
const EVENTS_MAX: u64 = 10_000;
/// The most bytes `/large` sends.
const LARGE_BYTES_MAX: u64 = 4 << 30;
/// The size of one chunk of `/large`.
const CHUNK_BYTES: u64 = 64 << 10;

pub(super) async fn answer(request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/sse" => sse(number(&query, "events").unwrap_or(3), number(&query, "interval_ms").unwrap_or(50)),
        "/large" => large(number(&query, "bytes").unwrap_or(1 << 20)),
        "/redirect" => redirect(&query),
        "/ws" => websocket(request),
        _ => match path.strip_prefix("/status/").and_then(|code| code.parse().ok()) {
            Some(status) => json_response(status, &json!({"status": status.as_u16()})),
            None => reflect(request).await,
        },
    }
}

async fn reflect(request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let Some(body) = read_body(body).await else {
        return json_response(StatusCode::PAYLOAD_TOO_LARGE, &json!({"error": "the body cannot be read"}));
    };
    let headers: Vec<_> =
        head.headers.iter().map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()))).collect();
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    json_response(
        StatusCode::OK,
        &json!({
            "method": head.method.as_str(), "path": path, "version": format!("{:?}", head.version), "headers": headers,
            "bodyBytes": body.len(), "body": String::from_utf8_lossy(&body),
        }),
    )
}

fn sse(events: u64, interval_ms: u64) -> Response<Body> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        for event in 0..events.min(EVENTS_MAX) {
            if event > 0 {
                tokio::time::sleep(Duration::from_millis(interval_ms)).await;
            }
            if sender
                .send(Bytes::from(format!("id: {event}\ndata: {{\"event\":{event}}}\n\n")))
                .await
                .is_err()
            {
                return;
            }
        }
    });
    let mut response = Response::new(streaming(receiver));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/event-stream"));
    response
}

fn large(bytes: u64) -> Response<Body> {
    let bytes = bytes.min(LARGE_BYTES_MAX);
    let (sender, receiver) = mpsc::channel(4);
    tokio::spawn(async move {
        let chunk = Bytes::from(vec![b'x'; usize::try_from(CHUNK_BYTES).unwrap_or(0)]);
        let mut left = bytes;
        while left > 0 {
            let now = left.min(CHUNK_BYTES);
            if sender.send(chunk.slice(..usize::try_from(now).unwrap_or(0))).await.is_err() {
                return;
            }
            left -= now;
        }
    });
    let mut response = Response::new(streaming(receiver));
    response.headers_mut().insert(header::CONTENT_LENGTH, bytes.into());
    response
}

fn redirect(query: &str) -> Response<Body> {
    let to = value(query, "to").and_then(|to| header::HeaderValue::from_str(to).ok());
    let Some(to) = to else {
        return json_response(StatusCode::BAD_REQUEST, &json!({"error": "say where: /redirect?to=URL"}));
    };
    let mut response = json_response(StatusCode::TEMPORARY_REDIRECT, &json!({"redirect": true}));
    response.headers_mut().insert(header::LOCATION, to);
    response
}

fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let Some(key) =
        request.headers().get(header::SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()))
    else {
        return json_response(StatusCode::UPGRADE_REQUIRED, &json!({"error": "this is a WebSocket"}));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            let echoed = message.is_text() || message.is_binary();
            if echoed && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(super::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    if let Ok(key) = header::HeaderValue::from_str(&key) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    }
    response
}

fn number(query: &str, name: &str) -> Option<u64> {
    value(query, name)?.parse().ok()
}

fn value<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_value_is_found_by_its_name() {
        assert_eq!(number("a=1&bytes=20", "bytes"), Some(20));
        assert_eq!(number("bytes=x", "bytes"), None);
        assert_eq!(value("to=https://a/?b=c", "to"), Some("https://a/?b=c"));
    }
}

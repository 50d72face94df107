//! Clients of HTTP/2 that send before they have read the proxy's settings, as they may (RFC 9113, 3.4).

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf};

use crate::abuse::{Io, frame, head, open};
use crate::peers::in_turns;
use crate::upstream::Behaviour;
use crate::world::{Setup, World, build};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What a client may send on a stream before it has read anything (RFC 9113, 6.9.2).
const DEFAULT_WINDOW: i64 = 65_535;
const FRAME_BYTES_MAX: usize = 16 * 1024;
const TURNS: u32 = 500;

/// A world whose upstream counts what arrives of each body.
async fn counting(arrived: &Arc<AtomicUsize>) -> World {
    let arrived = Arc::clone(arrived);
    let behaviour = Behaviour::new(move |io| {
        let arrived = Arc::clone(&arrived);
        async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let arrived = Arc::clone(&arrived);
                async move {
                    let mut body = request.into_body();
                    while let Some(frame) = body.frame().await {
                        arrived.fetch_add(frame.unwrap().into_data().unwrap().len(), Ordering::SeqCst);
                    }
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok")))
                }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            let _ = builder.serve_connection(TokioIo::new(io), service).await;
        }
    });
    build(Setup { protocols: vec!["http/1.1"], behaviour: Some(behaviour), ..Setup::default() }).await
}

pub async fn next(io: &mut ReadHalf<Io>) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    io.read_exact(&mut payload).await.unwrap();
    (head[3], head[4], u32::from_be_bytes(head[5..].try_into().unwrap()), payload)
}

fn number(bytes: &[u8]) -> i64 {
    i64::from(u32::from_be_bytes(bytes.try_into().unwrap()))
}

/// What a client may still send that has sent so much of a body before it read the proxy's settings, once all of that has been passed on; it ends its
/// body within that, and is answered.
async fn left_after(first: usize) -> i64 {
    let arrived = Arc::default();
    let world = counting(&arrived).await;
    let (mut read, mut write) = open(&world, &[]).await;
    write.write_all(&frame(HEADERS, END_HEADERS, 1, &head(&world, "POST"))).await.unwrap();
    for piece in vec![b'x'; first].chunks(FRAME_BYTES_MAX) {
        write.write_all(&frame(DATA, 0, 1, piece)).await.unwrap();
    }
    let all = async {
        while arrived.load(Ordering::SeqCst) < first {
            tokio::task::yield_now().await;
        }
    };
    in_turns(TURNS, all).await.unwrap();
    // Now it reads the settings, and what else has come up to an answer to its own.
    write.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap();
    write.write_all(&frame(PING, 0, 0, b"whatcame")).await.unwrap();
    let mut left = DEFAULT_WINDOW - i64::try_from(first).unwrap();
    loop {
        match next(&mut read).await {
            (SETTINGS, 0, 0, settings) => {
                let ours = settings.chunks(6).find(|one| one[..2] == [0, 4]).unwrap();
                left += number(&ours[2..]) - DEFAULT_WINDOW;
            }
            (WINDOW_UPDATE, _, 1, more) => left += number(&more),
            (PING, ACK, ..) => break,
            _ => {}
        }
    }
    if left > 0 {
        write.write_all(&frame(DATA, END_STREAM, 1, b"x")).await.unwrap();
        while next(&mut read).await.0 != HEADERS {}
    }
    left
}

#[tokio::test]
async fn p_d12_whoever_sends_before_it_has_read_the_settings_can_go_on_once_it_has() {
    for first in [1, 16_384, 20_414, 21_844, 21_845, 24_576, 32_768, 65_535] {
        let left = left_after(first).await;
        assert!(left > 0, "{left} after {first} bytes");
    }
}

//! How much an upstream may send before it is passed on.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{once, pending};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::limits::{
    BROTLI_WINDOW_BYTES_MAX, CONNECTIONS_IN_POD_MAX, DECODED_WINDOW_BYTES_MAX, EVENTS_BYTES_HELD_MAX,
    H2_CONNECTION_WINDOW_BYTES, H2_CONNECTIONS_MAX, H2_FRAME_BYTES_MAX, H2_FRAME_COST_BYTES, H2_LEAST_BYTES,
    H2_SEND_BUFFER_BYTES, H2_UNSENT_BYTES_MAX, HEAD_FREE_BYTES, HEADS_BYTES_MAX, NARROW_DECODERS_MAX,
    RESOLVED_NAMES_MAX, STREAMS_PER_CONNECTION_MAX, UPSTREAM_CONNECTIONS_IN_POD_MAX, WIDE_DECODERS_MAX,
};
use crate::limits::{
    H2_UPSTREAM_CONNECTION_WINDOW_BYTES, H2_UPSTREAM_LEAST_WINDOW_BYTES, H2_UPSTREAM_NARROW_CONNECTIONS_MAX,
    H2_UPSTREAM_NARROW_WINDOW_BYTES, H2_UPSTREAM_WIDE_CONNECTIONS_MAX,
};
use crate::respond::{self, BoxError};
use crate::upstream::places::Places;
use crate::upstream::spoken::over_http2;
use crate::upstream::{Answer, Counted};

/// The window that a connection tells its peer of: an update of stream 0 adds to the 65,535 bytes that each begins with (RFC
/// 9113, 6.9.2).
async fn told_window(far: &mut DuplexStream) -> u32 {
    let mut preface = [0; 24];
    far.read_exact(&mut preface).await.unwrap();
    loop {
        let mut head = [0; 9];
        far.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        far.read_exact(&mut payload).await.unwrap();
        if head[3] == 8 && head[5..] == [0; 4] {
            return u32::from_be_bytes(payload.try_into().unwrap()) + 65_535;
        }
    }
}

#[tokio::test]
async fn p_i4_only_so_many_upstream_connections_have_a_wide_window() {
    let (places, mut held) = (Places::default(), Vec::new());
    let wide = (H2_UPSTREAM_WIDE_CONNECTIONS_MAX, H2_UPSTREAM_CONNECTION_WINDOW_BYTES);
    let narrow = (H2_UPSTREAM_NARROW_CONNECTIONS_MAX, H2_UPSTREAM_NARROW_WINDOW_BYTES);
    for (count, bytes) in [wide, narrow, (3, H2_UPSTREAM_LEAST_WINDOW_BYTES)] {
        for number in 0..count {
            let (near, mut far) = tokio::io::duplex(1024);
            let sender = over_http2(near, places.window()).await.unwrap();
            assert_eq!(told_window(&mut far).await, bytes, "{number}");
            held.push((sender, far));
        }
    }
    // The place is given back with the connection.
    held.remove(0);
    while places.window().bytes != H2_UPSTREAM_CONNECTION_WINDOW_BYTES {
        tokio::task::yield_now().await;
    }
}

/// An upstream whose answers begin with a piece and do not end, and that wants to end the connection when told.
async fn sending(io: DuplexStream, end: oneshot::Receiver<()>) {
    let service = hyper::service::service_fn(async |_| {
        let piece = once(async { Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"unread"))) });
        Ok::<_, Infallible>(http::Response::new(StreamBody::new(Box::pin(piece.chain(pending())))))
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let mut served = std::pin::pin!(server.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        _ = served.as_mut() => return,
        Ok(()) = end => served.as_mut().graceful_shutdown(),
    }
    let _ = served.await;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Nobody sends on the connection any more.
    Unused,
    /// The upstream wants to end it.
    GoAway,
    /// The upstream has closed it.
    Closed,
}

#[tokio::test]
async fn p_i4_a_wide_window_is_held_until_all_that_came_through_it_is_read_or_given_up() {
    for end in [End::Unused, End::GoAway, End::Closed] {
        let places = Places::default();
        let _others: Vec<_> = (1..H2_UPSTREAM_WIDE_CONNECTIONS_MAX).map(|_| places.window()).collect();
        let is_free = || places.window().bytes == H2_UPSTREAM_CONNECTION_WINDOW_BYTES;
        let (near, far) = tokio::io::duplex(1024);
        let (tell, told) = oneshot::channel();
        let upstream = tokio::spawn(sending(far, told));
        let Ok(Sender::Http2(mut sender, streams)) = over_http2(near, places.window()).await else {
            panic!("it speaks HTTP/2");
        };
        let stream = Some(Arc::new(streams.begin()));
        let body = places.unsent().paces(respond::empty());
        let counted = Counted { body, _stream: stream.clone() };
        let request = http::Request::get("https://good.test/").body(counted).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let mut answer = answer.map(|body| Answer { body, _stream: stream, _unread: None });
        let mut tell = Some(tell);
        match end {
            End::Unused => {}
            End::GoAway => tell.take().unwrap().send(()).unwrap(),
            End::Closed => upstream.abort(),
        }
        // That the connection is over is seen by whoever would send one more.
        let more = || {
            let body = places.unsent().paces(respond::empty());
            let counted = Counted { body, _stream: None };
            http::Request::get("https://good.test/").body(counted).unwrap()
        };
        while end != End::Unused && sender.send_request(more()).await.is_ok() {}
        // As it is where the connection was not kept, or is not any more.
        drop((sender, streams));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(!is_free(), "{end:?}");
        let piece = answer.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(piece.into_data().unwrap(), "unread", "it lay here: {end:?}");
        drop(answer);
        while !is_free() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn p_i4_an_upstream_that_takes_no_uploads_has_little_of_each_held() {
    /// Of one stream: what waits, a frame more, and one that hyper has in hand. Short ones are also in what is written next.
    const HELD: usize = H2_SEND_BUFFER_BYTES + 2 * H2_FRAME_BYTES_MAX;
    const UPLOADS: usize = 16;
    for (piece, most) in [(H2_FRAME_BYTES_MAX, HELD), (1, 4 * HELD / H2_FRAME_COST_BYTES)] {
        let places = Places::default();
        let (near, mut far) = tokio::io::duplex(1024);
        let Ok(Sender::Http2(mut sender, _streams)) = over_http2(near, places.window()).await else {
            panic!("it speaks HTTP/2");
        };
        // It lets each stream, and the connection, send what they like (RFC 9113, 6.5.2 and 6.9), and reads nothing.
        let window = 0x7fff_0000_u32.to_be_bytes();
        far.write_all(&[&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4][..], &window].concat()).await.unwrap();
        far.write_all(&[&[0, 0, 4, 8, 0, 0, 0, 0, 0][..], &window].concat()).await.unwrap();
        let taken = Arc::new(AtomicUsize::new(0));
        let mut sent = Vec::new();
        for _ in 0..UPLOADS {
            let counted = Arc::clone(&taken);
            let frames = futures::stream::repeat_with(move || {
                counted.fetch_add(piece, Ordering::Relaxed);
                Ok::<_, BoxError>(Frame::data(Bytes::from(vec![b'x'; piece])))
            });
            let body = places.unsent().paces(StreamBody::new(frames).boxed_unsync());
            let request =
                http::Request::post("https://good.test/").body(Counted { body, _stream: None }).unwrap();
            sent.push(tokio::spawn(sender.send_request(request)));
        }
        let (mut last, mut same) = (0, 0);
        while same < 1000 || last == 0 {
            tokio::task::yield_now().await;
            let now = taken.load(Ordering::Relaxed);
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        println!("{} bytes of each, in pieces of {piece}", last / UPLOADS);
        assert!(last >= UPLOADS * piece && last <= UPLOADS * most, "{last} in pieces of {piece}");
    }
}

#[test]
fn p_i4_all_that_an_agent_can_have_held_of_what_has_a_bound_of_its_own_comes_to_what_is_told() {
    const KIB: usize = 1024;
    const MIB: usize = KIB * KIB;
    /// As docs/proxy.md has it.
    const TOLD_MIB: usize = 632;
    const IDLE_BYTES: usize = 12 * MIB;
    /// What a download over HTTP/1.1 holds that nobody reads, on both sides, and what a connection of the agent's holds that has begun
    /// (docs/proxy.md has how both were measured).
    const UNREAD_BYTES: usize = 359 * MIB / 1000;
    const BEGUN_BYTES: usize = 87 * MIB / 1000;
    /// h2 has a place in a queue for each frame, and counts those below 256 bytes as if they had as many: so a window may cost twice what it
    /// lets through.
    const WINDOW_COST: usize = 2;
    /// A request by itself, with a short head, and without its body.
    const REQUEST_BYTES: usize = 10 * KIB + HEAD_FREE_BYTES;
    /// The addresses of one name, in an answer of DNS as long as one can be.
    const NAME_BYTES: usize = MIB;
    /// What comes out of a decoder at a time, and what one with a window of 32 KiB takes.
    const STEP_BYTES: usize = 80 * KIB;
    const NARROW_DECODER_BYTES: usize = 100 * KIB;
    /// Upstream connections with more than the least window.
    const OTHERS: usize = H2_UPSTREAM_WIDE_CONNECTIONS_MAX + H2_UPSTREAM_NARROW_CONNECTIONS_MAX;
    let bytes = |window: u32| usize::try_from(window).unwrap();
    let windows = H2_UPSTREAM_WIDE_CONNECTIONS_MAX * bytes(H2_UPSTREAM_CONNECTION_WINDOW_BYTES)
        + H2_UPSTREAM_NARROW_CONNECTIONS_MAX * bytes(H2_UPSTREAM_NARROW_WINDOW_BYTES);
    // The windows of all others are among what is held over HTTP/1.1.
    assert!(WINDOW_COST * bytes(H2_UPSTREAM_LEAST_WINDOW_BYTES) < UNREAD_BYTES);
    let pairs = UPSTREAM_CONNECTIONS_IN_POD_MAX - OTHERS;
    let begun = CONNECTIONS_IN_POD_MAX - pairs - H2_CONNECTIONS_MAX;
    let connections = pairs * UNREAD_BYTES + begun * BEGUN_BYTES;
    let streams = bytes(STREAMS_PER_CONNECTION_MAX) * H2_CONNECTIONS_MAX;
    let frames = H2_LEAST_BYTES + H2_FRAME_BYTES_MAX + H2_FRAME_COST_BYTES;
    let unsent = streams * frames + H2_UNSENT_BYTES_MAX;
    let unread = WINDOW_COST * (windows + H2_CONNECTIONS_MAX * bytes(H2_CONNECTION_WINDOW_BYTES));
    // A window of brotli grows by twice its length, and is there twice meanwhile; it counts as two.
    const { assert!(BROTLI_WINDOW_BYTES_MAX <= 2 * DECODED_WINDOW_BYTES_MAX) };
    let decoders = WIDE_DECODERS_MAX * usize::try_from(DECODED_WINDOW_BYTES_MAX).unwrap()
        + usize::try_from(BROTLI_WINDOW_BYTES_MAX).unwrap() / 2
        + NARROW_DECODERS_MAX * NARROW_DECODER_BYTES
        + (WIDE_DECODERS_MAX + NARROW_DECODERS_MAX) * STEP_BYTES;
    let requests = streams * REQUEST_BYTES;
    let names = usize::try_from(RESOLVED_NAMES_MAX).unwrap() * NAME_BYTES;
    let short = [requests, HEADS_BYTES_MAX, names, EVENTS_BYTES_HELD_MAX];
    let parts = [&[IDLE_BYTES, connections, unread, 2 * unsent, decoders][..], &short].concat();
    let parts: Vec<usize> = parts.into_iter().map(|bytes| bytes / MIB).collect();
    println!("{parts:?} MiB");
    assert_eq!(parts.iter().sum::<usize>(), TOLD_MIB, "{parts:?}");
}

//! How much an upstream may send before it is passed on.

use std::convert::Infallible;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{once, pending};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use super::*;
use crate::limits::{
    DECODED_WINDOW_BYTES_MAX, H2_CONNECTIONS_MAX, H2_FRAME_COST_BYTES, H2_UNREAD_BYTES_MAX,
    H2_WIDE_CONNECTIONS_MAX, STREAMS_PER_CONNECTION_MAX, STREAMS_PER_NARROW_CONNECTION_MAX,
    UPSTREAM_CONNECTIONS_IN_POD_MAX, WIDE_DECODERS_MAX,
};
use crate::limits::{
    H2_UPSTREAM_CONNECTION_WINDOW_BYTES, H2_UPSTREAM_LEAST_WINDOW_BYTES, H2_UPSTREAM_NARROW_CONNECTIONS_MAX,
    H2_UPSTREAM_NARROW_WINDOW_BYTES, H2_UPSTREAM_WIDE_CONNECTIONS_MAX,
};
use crate::respond;
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
        let counted = Counted { body: respond::empty(), _stream: stream.clone() };
        let request = http::Request::get("https://good.test/").body(counted).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let mut answer = answer.map(|body| Answer { body, _stream: stream });
        let mut tell = Some(tell);
        match end {
            End::Unused => {}
            End::GoAway => tell.take().unwrap().send(()).unwrap(),
            End::Closed => upstream.abort(),
        }
        // That the connection is over is seen by whoever would send one more.
        let more = || {
            let counted = Counted { body: respond::empty(), _stream: None };
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

#[test]
fn p_i4_what_an_agent_can_have_held_stays_below_the_memory_of_a_pod() {
    const KIB: usize = 1024;
    const MIB: usize = KIB * KIB;
    /// What a download over HTTP/1.1 holds that nobody reads, on both sides (docs/proxy.md has how it was measured).
    const UNREAD_BYTES: usize = 359 * MIB / 1000;
    /// What a frame of an upstream's has at most.
    const FRAME_BYTES: usize = 16 * KIB;
    /// What one connection of the agent's holds of uploads that nobody takes, in windows or in small frames.
    const UPLOAD_BYTES: usize = 2 * MIB;
    /// The proxy itself.
    const IDLE_BYTES: usize = 12 * MIB;
    const POD_BYTES: usize = 256 * MIB;
    let bytes = |window| usize::try_from(window).unwrap();
    let windows = H2_UPSTREAM_WIDE_CONNECTIONS_MAX * bytes(H2_UPSTREAM_CONNECTION_WINDOW_BYTES)
        + H2_UPSTREAM_NARROW_CONNECTIONS_MAX * bytes(H2_UPSTREAM_NARROW_WINDOW_BYTES);
    // The windows of all others are among what is held over HTTP/1.1.
    assert!(bytes(H2_UPSTREAM_LEAST_WINDOW_BYTES) < UNREAD_BYTES);
    let others = H2_UPSTREAM_WIDE_CONNECTIONS_MAX + H2_UPSTREAM_NARROW_CONNECTIONS_MAX;
    let upstreams = (UPSTREAM_CONNECTIONS_IN_POD_MAX - others) * UNREAD_BYTES + windows;
    let narrow = bytes(STREAMS_PER_NARROW_CONNECTION_MAX) * (H2_CONNECTIONS_MAX - H2_WIDE_CONNECTIONS_MAX);
    let streams = bytes(STREAMS_PER_CONNECTION_MAX) * H2_WIDE_CONNECTIONS_MAX + narrow;
    let answers = streams * (FRAME_BYTES + H2_FRAME_COST_BYTES) + H2_UNREAD_BYTES_MAX;
    let decoders = WIDE_DECODERS_MAX * usize::try_from(DECODED_WINDOW_BYTES_MAX).unwrap();
    let all = IDLE_BYTES + upstreams + H2_CONNECTIONS_MAX * UPLOAD_BYTES + answers + decoders;
    assert!(all < POD_BYTES, "{} MiB", all / MIB);
}

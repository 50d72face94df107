//! How much an upstream may send before it is passed on.

use tokio::io::AsyncReadExt;

use super::*;
use crate::limits::UPSTREAM_CONNECTIONS_IN_POD_MAX;
use crate::limits::{
    H2_UPSTREAM_CONNECTION_WINDOW_BYTES, H2_UPSTREAM_LEAST_WINDOW_BYTES, H2_UPSTREAM_NARROW_CONNECTIONS_MAX,
    H2_UPSTREAM_NARROW_WINDOW_BYTES, H2_UPSTREAM_WIDE_CONNECTIONS_MAX,
};
use crate::upstream::places::Places;
use crate::upstream::spoken::over_http2;

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

#[test]
fn p_i4_what_upstreams_send_and_no_agent_reads_stays_below_the_memory_of_a_pod() {
    const MIB: usize = 1 << 20;
    /// What a download over HTTP/1.1 holds that nobody reads, on both sides (docs/proxy.md has how it was measured).
    const UNREAD_BYTES: usize = 359 * MIB / 1000;
    const POD_BYTES: usize = 256 * MIB;
    let bytes = |window| usize::try_from(window).unwrap();
    let windows = H2_UPSTREAM_WIDE_CONNECTIONS_MAX * bytes(H2_UPSTREAM_CONNECTION_WINDOW_BYTES)
        + H2_UPSTREAM_NARROW_CONNECTIONS_MAX * bytes(H2_UPSTREAM_NARROW_WINDOW_BYTES);
    // The windows of all others are among what is held over HTTP/1.1.
    assert!(bytes(H2_UPSTREAM_LEAST_WINDOW_BYTES) < UNREAD_BYTES);
    assert!(UPSTREAM_CONNECTIONS_IN_POD_MAX * UNREAD_BYTES + windows < POD_BYTES * 3 / 4);
}

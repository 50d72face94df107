//! How much an upstream may send before it is passed on.

use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;

use super::*;
use crate::limits::{H2_UPSTREAM_CONNECTION_WINDOW_BYTES, H2_UPSTREAM_NARROW_WINDOW_BYTES};

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
    let wide = Arc::new(Semaphore::new(1));
    let mut held = Vec::new();
    for expected in [H2_UPSTREAM_CONNECTION_WINDOW_BYTES, H2_UPSTREAM_NARROW_WINDOW_BYTES] {
        let (near, mut far) = tokio::io::duplex(1024);
        let place = Arc::clone(&wide).try_acquire_owned().ok();
        let sender = crate::upstream::spoken::over_http2(near, place).await.unwrap();
        assert_eq!(told_window(&mut far).await, expected);
        held.push((sender, far));
    }
}

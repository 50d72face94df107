//! WebSockets. The handshake is a request like any other; only after a 101 that answers the agent's own key do bytes
//! pass both ways, and until either side ends. Frames are not read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Response;
use http::header::{CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::audit::Entry;
use crate::entrance::{EntranceContext, Origin};
use crate::headers;
use crate::pipeline::Proxy;
use crate::respond::{self, Body};

/// RFC 6455, 1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const CHUNK_BYTES: usize = 16 * 1024;

/// The `Sec-WebSocket-Accept` that answers this request.
#[must_use]
pub fn accept_for(asked: &HeaderMap) -> String {
    let key = asked.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPT_SUFFIX].concat()))
}

/// Whether a 101 is the answer to our handshake.
#[must_use]
pub fn is_accepted(answer: &HeaderMap, accept: &str) -> bool {
    let is_websocket =
        answer.get(UPGRADE).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    is_websocket
        && answer.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|value| value.as_bytes() == accept.as_bytes())
}

/// Adds the fields of the handshake, which are per hop and so were stripped.
pub fn ask(fields: &mut HeaderMap) {
    fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Passes the 101 on and joins the two sides.
pub(crate) fn join(
    proxy: &Arc<Proxy>,
    context: &EntranceContext,
    agent: OnUpgrade,
    mut response: Response<Incoming>,
    entry: Entry,
) -> Response<Body> {
    let upstream = hyper::upgrade::on(&mut response);
    let origin = context.origin.clone();
    let owner = Arc::clone(proxy);
    proxy.connections.spawn(async move {
        // Named here, or the block would capture the peer alone and let the slot go.
        let Origin { peer, slot: _slot, .. } = origin;
        let work = async {
            if let Ok((agent, upstream)) = tokio::try_join!(agent, upstream) {
                relay(TokioIo::new(agent), TokioIo::new(upstream), &entry).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = owner.shutdown.cancelled() => {}
            () = owner.enrolment.replaced(peer) => {}
        }
    });
    headers::strip_response(response.headers_mut());
    ask(response.headers_mut());
    response.map(|_| respond::empty())
}

/// Passes bytes both ways until both sides have ended, and counts them. That one side has no more to say is passed on as well.
pub(crate) async fn relay(
    agent: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    entry: &Entry,
) {
    let traffic = entry.traffic();
    let (agent_read, agent_write) = tokio::io::split(agent);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let up = copy(agent_read, upstream_write, &traffic.up);
    let down = copy(upstream_read, agent_write, &traffic.down);
    let _ = tokio::join!(up, down);
}

/// Copies and counts while it goes, so that a tunnel that is cut off is counted as well.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counter: &AtomicU64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = match from.read(&mut buffer).await {
            // A side that breaks off has ended too: many servers close without TLS's goodbye, and the other side would
            // wait for the end.
            Ok(0) | Err(_) => return to.shutdown().await,
            Ok(read) => read,
        };
        to.write_all(buffer.get(..read).unwrap_or_default()).await?;
        to.flush().await?;
        counter.fetch_add(u64::try_from(read).unwrap_or(0), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    struct BreaksOff;

    impl AsyncRead for BreaksOff {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()))
        }
    }

    #[tokio::test]
    async fn p_h1_a_side_that_breaks_off_ends_the_other_at_once() {
        let (mut agent, ours) = tokio::io::duplex(64);
        // The reading half lives on, as it does in a relay.
        let (_up, down) = tokio::io::split(ours);
        copy(BreaksOff, down, &AtomicU64::new(0)).await.unwrap();
        assert_eq!(agent.read(&mut [0]).await.unwrap(), 0);
    }
}

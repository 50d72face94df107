//! WebSockets. The handshake is a request like any other; only after a 101 that answers the agent's own key do bytes
//! pass both ways, and until either side ends. What a host that knows a secret sends down is masked, frame by frame; for
//! that no extension is agreed on. Nothing else of the frames is read.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use agentsandbox_policy::DenialReason;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Response;
use http::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    UPGRADE,
};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::audit::Entry;
use crate::entrance::{EntranceContext, Origin};
use crate::headers;
use crate::limits::HELD_BYTES_PATIENCE;
use crate::pipeline::Proxy;
use crate::respond::{self, Body};
use crate::scrub::Scrubber;
use crate::scrub::frames::FrameMask;
use crate::upstream::Answer;

/// RFC 6455, 1.3.
const ACCEPT_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const CHUNK_BYTES: usize = 16 * 1024;

/// The `Sec-WebSocket-Accept` that answers this request.
#[must_use]
pub fn accept_for(asked: &HeaderMap) -> String {
    let key = asked.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, ACCEPT_SUFFIX].concat()))
}

/// Whether a 101 is the answer to our handshake, in which no extension was asked for where frames are read.
#[must_use]
pub fn is_accepted(answer: &HeaderMap, accept: &str, scrubber: Option<&Arc<Scrubber>>) -> bool {
    if scrubber.is_some() && answer.contains_key(SEC_WEBSOCKET_EXTENSIONS) {
        return false;
    }
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
    mut response: Response<Answer>,
    (scrubber, mut entry): (Option<Arc<Scrubber>>, Entry),
) -> Response<Body> {
    let upstream = hyper::upgrade::on(&mut response);
    let origin = context.origin.clone();
    let owner = Arc::clone(proxy);
    proxy.connections.spawn(async move {
        // Named here, or the block would capture the peer alone and let the slot go.
        let Origin { peer, slot: _slot, .. } = origin;
        let work = async {
            if let Ok((agent, upstream)) = tokio::try_join!(agent, upstream) {
                relay(TokioIo::new(agent), TokioIo::new(upstream), scrubber.as_ref(), &mut entry).await;
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
    scrubber: Option<&Arc<Scrubber>>,
    entry: &mut Entry,
) {
    let traffic = entry.traffic();
    let (agent_read, agent_write) = tokio::io::split(agent);
    let (upstream_read, upstream_write) = tokio::io::split(upstream);
    let up = copy(agent_read, upstream_write, &traffic.up);
    let down = async {
        match scrubber {
            Some(scrubber) => {
                copy_masked(upstream_read, agent_write, &traffic.down, FrameMask::new(scrubber)).await
            }
            None => copy(upstream_read, agent_write, &traffic.down).await,
        }
    };
    let mut up = std::pin::pin!(up);
    let mut down = std::pin::pin!(down);
    let down = tokio::select! {
        // The agent may have said all it has to say, and still listen.
        _ = &mut up => down.as_mut().await,
        result = &mut down => {
            if !matches!(&result, Err(error) if error.kind() == ErrorKind::InvalidData) {
                let _ = up.as_mut().await;
            }
            result
        }
    };
    if down.is_err_and(|error| error.kind() == ErrorKind::InvalidData) {
        entry.breaks(DenialReason::UnreadableAnswer);
    }
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
        write(&mut to, buffer.get(..read).unwrap_or_default(), counter).await?;
    }
}

/// The same, with secrets masked. What may be the beginning of one waits for what follows, but not for long.
async fn copy_masked(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    counter: &AtomicU64,
    mut mask: FrameMask,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = if mask.holds() {
            let Ok(read) = timeout(HELD_BYTES_PATIENCE, from.read(&mut buffer)).await else {
                write(&mut to, &mask.release(), counter).await?;
                continue;
            };
            read
        } else {
            from.read(&mut buffer).await
        };
        let read = match read {
            Ok(0) | Err(_) => {
                write(&mut to, &mask.release(), counter).await?;
                return to.shutdown().await;
            }
            Ok(read) => read,
        };
        let bytes = Bytes::copy_from_slice(buffer.get(..read).unwrap_or_default());
        let clean = mask.pass(bytes).map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))?;
        write(&mut to, &clean, counter).await?;
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], counter: &AtomicU64) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    to.write_all(bytes).await?;
    to.flush().await?;
    counter.fetch_add(u64::try_from(bytes.len()).unwrap_or(0), Ordering::Relaxed);
    Ok(())
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
